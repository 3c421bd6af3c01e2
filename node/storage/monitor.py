"""How far the registry's log was followed, and what was found in it. N/monitor.db.

What it is not: a copy of the log. Of its tree only the right edge is kept, some 20 hashes; without this file the log is
read again from its beginning, and what was dismissed is reported again.
The rule it keeps: the edge moves on in the same transaction in which the findings before it are kept, so that a monitor
that was killed has missed nothing and reports nothing twice.

    state = storage.state()
    storage.advance(state, size, edge, note, findings, now)
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from hanse import limits
from hanse.errors import NotFound
from hanse.storage.database import Connection, Database
from node.own_name import Finding, Kind

FILE = "monitor.db"

MIGRATIONS = (
    """
    CREATE TABLE state (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        epoch INTEGER NOT NULL,       -- counts how often it was begun anew
        size INTEGER NOT NULL,        -- entries followed
        edge BLOB NOT NULL,           -- of the tree over them
        note TEXT NOT NULL,           -- the checkpoint of exactly that size, if one was compared; else empty
        held_at INTEGER               -- Unix seconds: somebody is exchanging what was seen of the log
    ) STRICT;
    INSERT INTO state VALUES (1, 0, 0, x'', '', NULL);

    CREATE TABLE finding (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        name BLOB NOT NULL UNIQUE,    -- of what was found, wherever it stands: each is reported once
        kind TEXT NOT NULL,
        position INTEGER NOT NULL,
        what TEXT NOT NULL,
        remedy TEXT NOT NULL,
        content BLOB NOT NULL,        -- envelope or certificate, as the registry showed it
        size INTEGER NOT NULL,        -- of the tree that ``path`` leads to the root of
        path BLOB NOT NULL,           -- inclusion proof
        note TEXT NOT NULL,           -- signed checkpoint
        consistency BLOB NOT NULL,    -- that its tree begins with that of ``size``
        noticed_at INTEGER NOT NULL,  -- Unix seconds
        dismissed_at INTEGER
    ) STRICT;
    """,
)
_FINDING = "kind, name, position, what, remedy, content, size, path, note, consistency"


@dataclass(frozen=True, slots=True)
class State:
    """The first ``size`` entries were followed; ``note`` is the checkpoint of exactly that size, or empty.

    ``held_at``: somebody is exchanging what was seen of the log, since then (Unix seconds).
    """

    epoch: int
    size: int
    edge: bytes
    note: str
    held_at: int | None


@dataclass(frozen=True, slots=True)
class Reported:
    """A finding as it is kept. Unix seconds; ``dismissed_at`` None: nobody has looked into it yet."""

    number: int
    finding: Finding
    noticed_at: int
    dismissed_at: int | None


class MonitorStorage:
    """Safe to share between threads and processes. Raises StorageFailed, NoSpace, HomeUnusable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> "MonitorStorage":
        """Creates it if need be."""
        return cls(Database.open(path, MIGRATIONS))

    def close(self) -> None:
        self._database.close()

    def state(self) -> State:
        with self._database.reading() as connection:
            return _state(connection)

    def advance(
        self, before: State, size: int, edge: bytes, note: str, findings: Sequence[Finding], now: int
    ) -> list[Finding] | None:
        """Those that are new. None, and nothing is kept, when another process has moved on, or begun anew."""
        with self._database.writing() as connection:
            if _state(connection) != before:
                return None
            connection.execute("UPDATE state SET size = ?, edge = ?, note = ?", (size, edge, note))
            return [each for each in findings if _put(connection, each, now)]

    def report(self, before: State, finding: Finding, now: int) -> bool:
        """Whether it is new, and nobody has begun anew meanwhile."""
        with self._database.writing() as connection:
            return _state(connection).epoch == before.epoch and _put(connection, finding, now)

    def hold(self, now: int) -> None:
        """A person exchanges what was seen of the log: until ``begin_anew`` nothing is followed or reported.

        What was found wrong with the log itself is explained by it.
        """
        with self._database.writing() as connection:
            connection.execute("UPDATE state SET epoch = epoch + 1, held_at = ?", (now,))
            connection.execute(
                "UPDATE finding SET dismissed_at = coalesce(dismissed_at, ?) WHERE kind = ?", (now, Kind.LOG.value)
            )

    def begin_anew(self) -> None:
        """The log is read again from its beginning: it is another one. Findings stay, and are not reported again."""
        with self._database.writing() as connection:
            connection.execute("UPDATE state SET epoch = epoch + 1, size = 0, edge = x'', note = '', held_at = NULL")

    def findings(self, *, dismissed: bool = False) -> list[Reported]:
        """Oldest first; with ``dismissed`` those too."""
        with self._database.reading() as connection:
            rows = connection.execute(
                f"SELECT number, noticed_at, dismissed_at, {_FINDING} FROM finding "
                "WHERE dismissed_at IS NULL OR ? ORDER BY number",
                (dismissed,),
            ).fetchall()
        return [
            Reported(number, Finding(Kind(kind), *rest), noticed_at, dismissed_at)
            for number, noticed_at, dismissed_at, kind, *rest in rows
        ]

    def dismiss(self, number: int, now: int) -> None:
        """Twice does no harm. Raises NotFound."""
        with self._database.writing() as connection:
            found = connection.execute(
                "UPDATE finding SET dismissed_at = coalesce(dismissed_at, ?) WHERE number = ?", (now, number)
            ).rowcount
        if not found:
            raise NotFound(f"there is no finding {number}: `hanse monitor --all` lists them")


def _state(connection: Connection) -> State:
    return State(*connection.execute("SELECT epoch, size, edge, note, held_at FROM state").fetchone())


def _put(connection: Connection, finding: Finding, now: int) -> bool:
    if connection.execute("SELECT count(*) FROM finding").fetchone()[0] >= limits.FINDINGS:
        return False
    return bool(
        connection.execute(
            f"INSERT OR IGNORE INTO finding ({_FINDING}, noticed_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                finding.kind.value, finding.name, finding.position, finding.what, finding.remedy, finding.content,
                finding.size, finding.path, finding.note, finding.consistency, now,
            ),
        ).rowcount
    )  # fmt: skip
