"""Connections to PostgreSQL: few, bounded in number and in how long anything waits, made anew when they broke.

What they are not: transactions (registry.storage.postgres_writing). The rule they keep: whatever the network, the
server or its failover does, a call ends within seconds, and with one of our errors. A password is in none of them,
and nothing of what the server says is: it may quote a record.

    connections = Connections("postgresql://registry@db1,db2/hanse")
    with connections.one() as connection:
        rows = connection.rows("SELECT size FROM tree")
"""

import contextlib
import threading
import time
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg
from psycopg import conninfo
from psycopg.pq import TransactionStatus

from hanse.errors import HanseError, HomeUnusable, InvalidInput, NoSpace, Overloaded, StorageFailed
from registry.progress import waiting

_MOST = 12  # connections of one process; so few that several processes fit the 100 that a server has by default
_STATEMENT_SECONDS = 5  # that the server works on one statement, or waits for one lock
_PATIENCE = 8.0  # seconds that we wait for an answer: a little longer, so that a server that lives says what is wrong
_LONG_SECONDS = 6 * 3600  # for what goes over everything: checking, migrating
_IDLE_IN_TRANSACTION_SECONDS = 10  # then a process that hangs, or is cut off, loses the lock that all others wait for
_FRESH_SECONDS = 600.0  # a connection is not used for longer: after a change of servers none is left behind

# Unless the address says otherwise.
_PARAMETERS: dict[str, str | int] = {
    "application_name": "hanse-registry",
    "connect_timeout": 4,  # seconds, for each host
    "target_session_attrs": "read-write",  # of several hosts the one that is the primary now
    "keepalives": 1,
    "keepalives_idle": 3,
    "keepalives_interval": 1,
    "keepalives_count": 3,
    "tcp_user_timeout": 6000,  # milliseconds
}
_SESSION = {
    "default_transaction_isolation": "read committed",
    "statement_timeout": str(_STATEMENT_SECONDS * 1000),
    "lock_timeout": str(_STATEMENT_SECONDS * 1000),
    "idle_in_transaction_session_timeout": str(_IDLE_IN_TRANSACTION_SECONDS * 1000),
    "client_min_messages": "warning",
    # So that the server too notices when we are cut off.
    "tcp_keepalives_idle": "3",
    "tcp_keepalives_interval": "1",
    "tcp_keepalives_count": "3",
    "tcp_user_timeout": "6000",
}
# Through the catalogue, because the databases that speak PostgreSQL's language have not all of these settings.
_SET_UP = (
    "SELECT set_config(s.name, w.wanted, false) FROM unnest(%s::text[], %s::text[]) AS w(name, wanted)"
    " JOIN pg_settings s ON s.name = w.name WHERE s.name <> 'synchronous_commit' OR s.setting IN ('off', 'local')"
)

_BUSY = (
    "40",  # a transaction that lost a race
    "23505",  # the same: two added the same line
    "55P03", "57014",  # it waited too long
    "08", "53", "57P", "25006", "25P", "26000",  # the server is full, goes down, is the standby now; a session is gone
)  # fmt: skip
_UNUSABLE = {
    "28": "does not let this user in: check the user's name, its password (PGPASSWORD, ~/.pgpass) and pg_hba.conf",
    "3D": "has no such database: make it with `createdb`",
    "3F": "has no such schema",
    "42501": "does not allow this user what is needed: it must own the database",
}
_CUT_OFF_SECONDS = 0.5  # after an attempt to connect that failed, in which none is made
_CUT_OFF = "the registry's database does not answer: try again"
UNKNOWN = "the registry's database broke off while it stored this: whether it is there will show; do it again"


def failure(error: psycopg.Error) -> HanseError:
    """What an error of PostgreSQL means for whoever waits."""
    state = error.sqlstate or ""
    if isinstance(error, psycopg.DataError) and not state:
        return InvalidInput("a text has a character that the registry's database cannot store")
    if state == "53100":
        return NoSpace("no space left on the disk of the registry's database: free some; what was acknowledged is safe")
    if not state and isinstance(error, psycopg.OperationalError | psycopg.InterfaceError):
        return Overloaded(_CUT_OFF)
    if state.startswith(_BUSY):
        return Overloaded("the registry's database is busy: try again")
    for beginning, text in _UNUSABLE.items():
        if state.startswith(beginning):
            return HomeUnusable(f"the registry's database {text}")
    return StorageFailed(
        f"the registry's database failed ({state or type(error).__name__}): see its own log, and `hanse-registry check`"
    )


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turns what psycopg raises into one of our errors."""
    try:
        yield
    except psycopg.Error as error:
        raise failure(error) from error
    except UnicodeEncodeError as error:
        raise InvalidInput("a text has a character that the registry's database cannot store") from error


class Connection(psycopg.Connection[tuple[Any, ...]]):
    """One session. Every answer is waited for, but not for ever."""

    patience = _PATIENCE
    made_at = 0.0
    warned = False

    def wait(self, gen: Any, interval: float = 0.1, timeout: float | None = None) -> Any:
        """Raises an OperationalError when nothing came for ``patience`` seconds; the connection is then of no use."""
        with waiting():
            return super().wait(gen, interval, self.patience if timeout is None else timeout)

    def run(self, sql: str, values: Sequence[object] = ()) -> "psycopg.Cursor[tuple[Any, ...]]":
        """One statement; its rows are in PostgreSQL's binary form until they are fetched."""
        return self.cursor(binary=True).execute(sql.encode(), values)

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self.run(sql, values).fetchall()

    def make_patient(self) -> None:
        """For what takes long; it is then not given to anybody else."""
        self.patience, self.made_at = _LONG_SECONDS, 0.0
        for name in ("statement_timeout", "idle_in_transaction_session_timeout"):
            self.execute(f"SET {name} = {_LONG_SECONDS * 1000}".encode())

    @property
    def usable(self) -> bool:
        """Whether the next may have it."""
        return (
            not self.closed
            and self.pgconn.transaction_status == TransactionStatus.IDLE
            and self.made_at > 0
            and time.monotonic() - self.made_at < _FRESH_SECONDS
        )


class Connections:
    """Those of one process to one database. Any thread may call any method."""

    def __init__(self, dsn: str) -> None:
        """Does not connect yet. Raises HomeUnusable when ``dsn`` is no address."""
        self._dsn = dsn
        try:
            told = conninfo.conninfo_to_dict(dsn)
        except psycopg.ProgrammingError:
            # libpq quotes what it did not understand, which may be half a password.
            raise HomeUnusable(
                "the store is no address: write postgresql://USER@HOST[:PORT][,HOST…]/DATABASE"
            ) from None
        self._parameters: dict[str, Any] = _PARAMETERS | told
        self._has_password = told.get("password") is not None
        self._idle: list[Connection] = []
        self._guard = threading.Lock()
        self._free = threading.BoundedSemaphore(_MOST)
        self._closed = False
        self._cut_off_until = 0.0

    @contextlib.contextmanager
    def one(self, *, fresh: bool = False) -> Iterator[Connection]:
        """A connection outside a transaction, in autocommit. Raises Overloaded when none is to be had.

        What raised in it is closed unless it is plainly in order.
        """
        with waiting():
            free = self._free.acquire(timeout=_PATIENCE)
        if not free:
            raise Overloaded("the registry's database is busy: try again")
        try:
            connection = self._take(fresh)
            try:
                yield connection
            except psycopg.OperationalError:
                if connection.closed or connection.pgconn.transaction_status != TransactionStatus.IDLE:
                    self._forget()
                raise
            finally:
                self._give_back(connection)
        finally:
            self._free.release()

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Of one statement that only reads: on a new connection when an old one turns out to be broken."""
        try:
            with self.one() as connection:
                return connection.rows(sql, values)
        except psycopg.OperationalError as error:
            if error.sqlstate and not error.sqlstate.startswith(("57P", "08")):
                raise failure(error) from error
        except psycopg.Error as error:
            raise failure(error) from error
        with database_errors(), self.one(fresh=True) as connection:
            return connection.rows(sql, values)

    def _take(self, fresh: bool) -> Connection:
        with self._guard:
            while self._idle and not fresh:
                found = self._idle.pop()
                if found.usable:
                    return found
                found.close()
        return self._connect()

    def _give_back(self, connection: Connection) -> None:
        with self._guard:
            if connection.usable and not self._closed:
                self._idle.append(connection)
                return
        connection.close()

    def _forget(self) -> None:
        """One broke: so did the others, or they lead to a server that is none now."""
        with self._guard:
            idle, self._idle = self._idle, []
        for each in idle:
            each.close()

    def _connect(self) -> Connection:
        # When nobody answers, those who wait in a row must not each find that out anew.
        if time.monotonic() < self._cut_off_until:
            raise Overloaded(_CUT_OFF)
        try:
            with waiting():
                connection = Connection.connect(**self._parameters, autocommit=True, prepare_threshold=2)
        except psycopg.Error as error:
            self._cut_off_until = time.monotonic() + _CUT_OFF_SECONDS
            raise self._unreachable(error) from (None if self._has_password else error)
        try:
            wanted = _SESSION | {"synchronous_commit": "on"}
            connection.execute(_SET_UP, (list(wanted), list(wanted.values())))
        except psycopg.Error:
            connection.close()
            raise
        connection.add_notice_handler(lambda said: _note(connection, said))
        connection.made_at = time.monotonic()
        return connection

    def _unreachable(self, error: psycopg.Error) -> HanseError:
        """A connection that was refused has no code, only words: they are compared, never repeated."""
        if error.sqlstate:
            return failure(error)
        words = str(error)
        for told, state in (("password", "28"), ("pg_hba", "28"), ("role ", "28"), ("does not exist", "3D")):
            if told in words:
                return HomeUnusable(f"the registry's database {_UNUSABLE[state]}")
        return Overloaded(_CUT_OFF)

    def close(self) -> None:
        """Once, when nobody is inside."""
        self._closed = True
        self._forget()


def _note(connection: Connection, said: psycopg.errors.Diagnostic) -> None:
    connection.warned |= said.severity_nonlocalized == "WARNING"
