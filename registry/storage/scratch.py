"""What was seen of each object so far while a log is read again: on the disk, because there may be many millions.

A temporary database of SQLite, without a name: gone when it is closed, however the process ends.
"""

from collections.abc import Iterable, Sequence

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from registry.accept import Stored
from registry.storage.sqlite import database_errors

_AT_ONCE = 500


class Scratch:
    """Versions by keys."""

    def __init__(self) -> None:
        with database_errors():
            self._connection = sqlite3.connect("", isolation_level=None)
            self._connection.execute("PRAGMA synchronous = OFF")
            self._connection.execute("PRAGMA journal_mode = OFF")
            self._connection.execute("PRAGMA cache_size = -65536")
            self._connection.execute(
                "CREATE TABLE seen"
                " (key TEXT PRIMARY KEY, version INTEGER, digest BLOB, withdrawn INTEGER) WITHOUT ROWID"
            )

    def known(self, keys: Sequence[str]) -> dict[str, Stored]:
        """The newest version of each."""
        found = {}
        with database_errors():
            for first in range(0, len(keys), _AT_ONCE):
                part = keys[first : first + _AT_ONCE]
                sql = f"SELECT key, version, digest, withdrawn FROM seen WHERE key IN ({','.join('?' * len(part))})"
                for key, version, digest, withdrawn in self._connection.execute(sql, part):
                    found[key] = Stored(version, digest, bool(withdrawn))
        return found

    def put(self, seen: Iterable[tuple[str, Stored]]) -> None:
        """Newer versions of some."""
        with database_errors():
            self._connection.execute("BEGIN")
            self._connection.executemany(
                "INSERT OR REPLACE INTO seen VALUES (?, ?, ?, ?)",
                ((key, each.version, each.digest, each.withdrawn) for key, each in seen),
            )
            self._connection.execute("COMMIT")

    def counts(self) -> tuple[int, int]:
        """How many objects there are, and how many of them are withdrawn."""
        with database_errors():
            row = self._connection.execute("SELECT count(*), coalesce(sum(withdrawn), 0) FROM seen").fetchone()
        return int(row[0]), int(row[1])

    def close(self) -> None:
        self._connection.close()
