"""A SQLite file used by several threads and processes at once: connections, transactions, errors, migrations.

Write-ahead log; what was committed is on the disk (synchronous=FULL). A writer takes the write lock first, so that
what it reads cannot change before it writes.

    database = Database.open(path, MIGRATIONS)
    with database.writing() as connection: ...
"""

import contextlib
import errno
import os
import shutil
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse import limits
from hanse.errors import Conflict, HanseError, HomeUnusable, NoSpace, StorageFailed
from hanse.files import storage_errors
from hanse.turns import waiting

Connection = sqlite3.Connection

BUSY_TIMEOUT = 60  # seconds; the longest transaction is the end of an `add` of a million files
LOG_BYTES = 16 * limits.MIB  # to which the write-ahead log is cut after a large transaction
IDLE = 64  # connections kept for the next who needs one: as many as threads that serve at once


class Database:
    """One file. Any thread may call any method; ``close`` once, when nobody is inside."""

    def __init__(self, path: Path, idle: int = IDLE) -> None:
        self.path = path
        self._most_idle = idle
        self._idle: list[Connection] = []
        self._lock = threading.Lock()
        self._closed = False

    @classmethod
    def open(cls, path: Path, migrations: Sequence[str], idle: int = IDLE) -> "Database":
        """Creates what is missing. Raises HomeUnusable, with the way out, NoSpace, StorageFailed.

        ``idle``: how many connections are kept while nobody uses them; each has two of the process's descriptors.
        """
        with storage_errors(str(path)):
            os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        database = cls(path, idle)
        try:
            with database.reading() as connection:
                current = connection.execute("PRAGMA user_version").fetchone()[0] == len(migrations)
            if not current:
                with database.writing() as connection:
                    database._migrate(connection, migrations)
        except BaseException:
            database.close()
            raise
        return database

    def _migrate(self, connection: Connection, migrations: Sequence[str]) -> None:
        done = connection.execute("PRAGMA user_version").fetchone()[0]
        if done > len(migrations):
            raise HomeUnusable(
                f"{self.path} was written by a newer hanse (schema {done}; this one knows {len(migrations)}): "
                "upgrade hanse, or restore the backup from before the upgrade"
            )
        for step in migrations[done:]:
            # executescript() would commit first.
            statement = ""
            for line in step.splitlines(keepends=True):
                statement += line
                if sqlite3.complete_statement(statement):
                    connection.execute(statement)
                    statement = ""
        if done < len(migrations):  # another process may have been quicker
            connection.execute(f"PRAGMA user_version = {len(migrations)}")

    def reading(self) -> "_Reading":
        """A connection outside a transaction: every statement sees the newest committed state."""
        return _Reading(self)

    @contextlib.contextmanager
    def writing(self) -> Iterator[Connection]:
        """A connection with the write lock, committed at the end, rolled back on any exception."""
        with self.reading() as connection, transaction(connection):
            yield connection

    def _borrow(self) -> Connection:
        with self._lock:
            if self._closed:
                raise StorageFailed(f"{self.path} is closed already")
            if self._idle:
                return self._idle.pop()
        connection = sqlite3.connect(self.path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False)
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            connection.execute(f"PRAGMA journal_size_limit = {LOG_BYTES}")
        except BaseException:
            connection.close()
            raise
        return connection

    def _give_back(self, connection: Connection) -> None:
        with self._lock:
            if not self._closed and len(self._idle) < self._most_idle:
                self._idle.append(connection)
                return
        connection.close()

    @contextlib.contextmanager
    def errors(self) -> Iterator[None]:
        """Turns what SQLite raises into the error that says what happened and what to do."""
        try:
            yield
        except sqlite3.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: sqlite3.Error) -> HanseError:
        code = getattr(error, "sqlite_errorcode", 0) & 0xFF
        no_space = NoSpace(
            f"no space left on the disk of {self.path}, or in the temporary folder: free some, then run it again"
        )
        match code:
            case sqlite3.SQLITE_FULL:
                return no_space
            case sqlite3.SQLITE_IOERR if self._disk_is_full():
                return no_space
            case sqlite3.SQLITE_BUSY:
                return Conflict(f"{self.path} is busy with another hanse command: run it again when that is done")
            case sqlite3.SQLITE_READONLY | sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM:
                return HomeUnusable(f"{self.path} cannot be opened or written: check its owner and mode")
            case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
                return StorageFailed(f"{self.path} is damaged: restore it from your backup")
        return StorageFailed(f"{self.path} failed: {error}")

    def _disk_is_full(self) -> bool:
        try:
            return shutil.disk_usage(self.path.parent).free < 1 << 20
        except OSError as error:
            return error.errno == errno.ENOSPC

    def close(self) -> None:
        """Twice does no harm."""
        with self._lock:
            self._closed = True
            idle, self._idle = self._idle, []
        for connection in idle:
            connection.close()


class _Reading(contextlib.AbstractContextManager[Connection, None]):
    """What ``reading`` gives: a class, because it is entered a dozen times a fetch."""

    __slots__ = ("_connection", "_database")

    def __init__(self, database: Database) -> None:
        self._database = database

    def __enter__(self) -> Connection:
        try:
            self._connection = self._database._borrow()
        except sqlite3.Error as error:
            raise self._database._explained(error) from error
        return self._connection

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if error is None:
            self._database._give_back(self._connection)
            return
        # Whatever it had begun, temporary tables included, ends with it.
        self._connection.close()
        if isinstance(error, sqlite3.Error):
            raise self._database._explained(error) from error


@contextlib.contextmanager
def transaction(connection: Connection, begin: str = "BEGIN IMMEDIATE") -> Iterator[None]:
    """All or nothing: what raises is not there, now or later."""
    with waiting():
        connection.execute(begin)
    try:
        yield
    except BaseException:
        _roll_back(connection)
        raise
    try:
        with waiting():
            connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            _roll_back(connection)
            _bury(connection)
        raise


def _roll_back(connection: Connection) -> None:
    if connection.in_transaction:
        connection.execute("ROLLBACK")


def _bury(connection: Connection) -> None:
    """After a commit that failed when it was synced: it stands whole at the end of the write-ahead log.

    Whoever opens the file next, if nobody has it open, would take it for committed. Another one is written over it.
    """
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    connection.execute("BEGIN IMMEDIATE")
    try:
        connection.execute(f"PRAGMA user_version = {version}")
        connection.execute("COMMIT")
    finally:
        _roll_back(connection)
