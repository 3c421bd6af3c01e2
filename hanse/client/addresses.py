"""Which of a registry's addresses is asked: its own before those of its mirrors, and one that is away after the others.

The rule it keeps: whoever came back is preferred again within LONGEST seconds, without anybody's doing.

    for address in addresses.in_order():
        ...                              # addresses.away(address), or addresses.back(address)
"""

import threading
import time
from collections.abc import Callable, Collection, Iterable

from hanse.model.address import Address

SHORTEST, LONGEST = 2.0, 30.0  # seconds for which an address that did not answer is asked last; doubled each time


class Addresses:
    """Of one registry. Safe to share between threads."""

    def __init__(self, told: Iterable[Address], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._known = list(dict.fromkeys(told))
        self._away: dict[Address, tuple[float, float]] = {}  # until when, and for how long that was
        self.returns = 0  # how often one that was away has answered again

    def learn(self, registries: Iterable[Address]) -> None:
        """What the membership names: in its order, before what else is known."""
        with self._lock:
            self._known = list(dict.fromkeys((*registries, *self._known)))

    def in_order(self, without: Collection[Address] = ()) -> list[Address]:
        """All that there are, the one to ask first at the beginning."""
        with self._lock:
            now = self._monotonic()
            away = {address for address, (until, _) in self._away.items() if now < until}
            return sorted((each for each in self._known if each not in without), key=lambda each: each in away)

    def away(self, address: Address) -> None:
        """It did not answer."""
        with self._lock:
            now = self._monotonic()
            until, before = self._away.get(address, (now, 0.0))
            if until <= now:  # else it failed by the way, when the others had
                wait = min(LONGEST, max(SHORTEST, 2 * before))
                self._away[address] = (now + wait, wait)

    def back(self, address: Address) -> None:
        """It answered."""
        if address in self._away:
            with self._lock:
                self.returns += self._away.pop(address, None) is not None
