"""A copy of a SQLite database that is in use: of one moment, whole, and durable when it is said to be done.

SQLite's own backup reads in one transaction: who writes meanwhile does not wait, and is not in the copy.
Source: https://www.sqlite.org/backup.html
"""

import os
from contextlib import closing
from pathlib import Path

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from registry.storage import tree
from registry.storage.base import Head
from registry.storage.sqlite import database_errors

_BUSY_SECONDS = 30.0


def copy(source: Path, target: Path) -> None:
    """Makes the file ``target``. Raises NoSpace, Overloaded, StorageFailed."""
    with database_errors():
        descriptor = os.open(target, os.O_CREAT | os.O_EXCL | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            with (
                closing(sqlite3.connect(f"{source.resolve().as_uri()}?mode=ro", uri=True, timeout=_BUSY_SECONDS)) as of,
                closing(sqlite3.connect(target)) as to,
            ):
                of.backup(to)  # all pages in one step: one transaction
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def take_writes(path: Path) -> None:
    """A copy of a registry that was being moved stands for itself: nobody moves it."""
    with database_errors(), closing(sqlite3.connect(path, isolation_level=None)) as of:
        of.execute("UPDATE meta SET value = '' WHERE name = 'moving' AND value <> ''")


def describe(path: Path) -> tuple[int, Head]:
    """The schema and the log of a registry's database that nobody uses. Raises StorageFailed."""
    with database_errors(), closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro&immutable=1", uri=True)) as of:
        return int(of.execute("PRAGMA user_version").fetchone()[0]), tree.head(of)
