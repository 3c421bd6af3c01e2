"""Answers that were given before: what Resolve sends for an object, as bytes.

The rule it keeps: an entry goes before the new version is acknowledged here, and soon after it was by another
process: a client that was told a newer one there asks for a proof, which never comes from here. All methods are for
one thread, the event loop's; the writer's thread only asks the loop to forget. Bounded in entries and bytes; the
oldest goes first.

Why: SQLite answers in 7 microseconds, but gives the interpreter away at every step, and getting it back from
gRPC's own threads costs ten times as much.
"""

from collections.abc import Iterable

from hanse import limits

_ENTRIES = 100_000
_BYTES = 64 * limits.MIB


class Answers:
    """By identifier key."""

    def __init__(self, entries: int = _ENTRIES, size: int = _BYTES) -> None:
        self._most, self._most_bytes = entries, size
        self._kept: dict[str, bytes] = {}
        self._bytes = 0
        self.get = self._kept.get  # no call of ours in between: this is the hot path

    def keep(self, key: str, answer: bytes) -> None:
        """Replaces nothing: what is kept is current."""
        if key in self._kept:
            return
        self._kept[key] = answer
        self._bytes += len(answer)
        while self._bytes > self._most_bytes or len(self._kept) > self._most:
            self._bytes -= len(self._kept.pop(next(iter(self._kept))))

    def forget(self, keys: Iterable[str]) -> None:
        """They have a newer version."""
        for key in keys:
            self._bytes -= len(self._kept.pop(key, b""))

    def forget_all(self) -> None:
        """Somebody else stored something."""
        self._kept.clear()
        self._bytes = 0

    def __len__(self) -> int:
        return len(self._kept)
