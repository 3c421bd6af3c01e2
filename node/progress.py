"""How far a long piece of local work is: told to a command, at most some ten times a second."""

import time
from collections.abc import Callable
from typing import NamedTuple

INTERVAL = 0.1  # seconds; a person sees no more


class Progress(NamedTuple):
    """Bytes and files, done and in all."""

    done_bytes: int
    total_bytes: int
    done_files: int
    total_files: int


Report = Callable[[Progress], None]


class Meter:
    """Counts, and calls ``report`` on the thread that counts, no more often than every INTERVAL."""

    def __init__(self, report: Report | None, total_bytes: int = 0, total_files: int = 0) -> None:
        self._report = report
        self._total = (total_bytes, total_files)
        self._done_bytes = self._done_files = 0
        self._next = 0.0

    def done(self, size: int, files: int) -> None:
        self._done_bytes += size
        self._done_files += files

    def show(self, extra_bytes: int = 0, *, at_once: bool = False) -> None:
        """``extra_bytes`` are those of a file that is not done yet. The totals grow with what is found late."""
        if self._report is None:
            return
        now = time.monotonic()
        if now < self._next and not at_once:
            return
        self._next = now + INTERVAL
        done = self._done_bytes + extra_bytes
        self._report(Progress(done, max(done, self._total[0]), self._done_files, max(self._done_files, self._total[1])))
