"""How far a long work has come, and how patient it is."""

import random
import time
from collections.abc import Callable
from dataclasses import dataclass

from hanse.errors import HanseError
from hanse.turns import waiting


@dataclass(frozen=True, slots=True)
class Progress:
    """Bytes and elements that are verified and written. ``resumed_bytes`` of them were there before this run."""

    done_bytes: int
    total_bytes: int
    done_elements: int
    total_elements: int
    resumed_bytes: int = 0


Report = Callable[[Progress], None]


class Patience:
    """Waits between attempts, longer each time, with jitter; gives up ``seconds`` after the last progress."""

    def __init__(self, seconds: float, sleep: Callable[[float], object] = time.sleep) -> None:
        self._seconds = seconds
        self._sleep = sleep
        self.progressed()

    def progressed(self) -> None:
        self._attempts = 0
        self._since = time.monotonic()

    def wait(self, failure: HanseError) -> None:
        """Returns when it is time for the next attempt. Raises ``failure`` when there has been enough."""
        delay = min(0.1 * 2**self._attempts, 5.0) * random.uniform(0.5, 1.0)  # noqa: S311 - spreads callers
        if time.monotonic() + delay - self._since > self._seconds:
            raise failure
        self._attempts += 1
        with waiting():
            self._sleep(delay)
