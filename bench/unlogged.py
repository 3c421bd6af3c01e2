"""`hanse-registry` without its log, to measure what that costs: positions are counted, and nothing is hashed or stored.

python -m bench.unlogged serve --home DIR
"""

from registry.cli import main
from registry.storage.sqlite import SqliteWriting


def _count(self: SqliteWriting, leaf: bytes) -> int:
    self._leaves.append(leaf)
    return self._size + len(self._leaves)


def _grow(self: SqliteWriting) -> None:
    if self._leaves:
        self._connection.execute("UPDATE tree SET size = ?", (self._size + len(self._leaves),))


SqliteWriting._append = _count  # type: ignore[method-assign]
SqliteWriting.grow = _grow  # type: ignore[method-assign]

if __name__ == "__main__":
    main()
