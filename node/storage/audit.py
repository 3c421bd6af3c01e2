"""The audit's table, in evidence.db. node.audit says what a row is and when it is written."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from hanse.evidence.evidence import Evidence
from hanse.storage.database import Connection, Database

_COLUMNS = "peer, key_id, object, version, operation, allowed, reason, at, bytes"
_MOVED = 5000  # rows in one transaction


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision. ``object`` and ``version`` are what the caller asked for (0: the newest); ``at`` Unix seconds."""

    peer: str
    key_id: str
    object: str
    version: int
    operation: str
    allowed: bool
    why: str
    at: int

    @property
    def payload(self) -> bytes:
        """Canonical JSON: what stands in the log."""
        told = {
            "allowed": self.allowed,
            "at": self.at,
            "key_id": self.key_id,
            "object": self.object,
            "operation": self.operation,
            "peer": self.peer,
            "version": self.version,
            "why": self.why,
        }
        return json.dumps(told, ensure_ascii=False, separators=(",", ":")).encode(errors="replace")


@dataclass(frozen=True, slots=True)
class Row:
    """A decision as it is kept; ``number`` grows, ``served`` is bytes."""

    number: int
    decided: Decided
    served: int


class AuditStorage:
    """For whoever reads it; any number of processes may."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def query(self, peer: str | None, object_id: str | None, since: int | None, limit: int) -> Iterator[Row]:
        """Newest first. ``object_id`` and ``peer`` must be equal, ``since`` is Unix seconds, inclusive."""
        with self._database.reading() as connection:
            found = connection.execute(
                f"SELECT id, {_COLUMNS} FROM audit WHERE (?1 IS NULL OR peer = ?1) "
                "AND (?2 IS NULL OR object = ?2 COLLATE NOCASE) AND (?3 IS NULL OR at >= ?3) ORDER BY id DESC LIMIT ?4",
                (peer, object_id, since, limit),
            ).fetchall()
        for number, who, key_id, asked, version, operation, allowed, why, at, amount in found:
            yield Row(number, Decided(who, key_id, asked, version, operation, bool(allowed), why, at), amount)


def insert(connection: Connection, decided: Decided, position: int, served: int = 0) -> int:
    """Its number. ``position``: of its leaf; ``served``: bytes."""
    cursor = connection.execute(
        f"INSERT INTO audit ({_COLUMNS}, position) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            decided.peer, decided.key_id, decided.object, decided.version, decided.operation, int(decided.allowed),
            decided.why, decided.at, served, position,
        ),
    )  # fmt: skip
    assert cursor.lastrowid is not None  # noqa: S101 - a row was inserted
    return cursor.lastrowid


def set_served(connection: Connection, served: Sequence[tuple[int, int]]) -> None:
    """(number, bytes) of rows that are there."""
    connection.executemany("UPDATE audit SET bytes = ? WHERE id = ?", [(amount, number) for number, amount in served])


def move(catalog: Database, evidence: Evidence) -> int:
    """Takes over the rows that earlier versions kept in catalog.db, without leaves: nobody signed for them then.

    Returns how many there were. A row is deleted there when it is durable here; may be repeated after any crash.
    """
    moved = 0
    while True:
        with catalog.reading() as connection:
            rows = connection.execute(f"SELECT id, {_COLUMNS} FROM audit ORDER BY id LIMIT {_MOVED}").fetchall()
        if not rows:
            return moved
        evidence.change(
            lambda change, rows=rows: change.connection.executemany(  # type: ignore[misc]
                f"INSERT OR IGNORE INTO audit (id, {_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows
            )
        )
        with catalog.writing() as connection:
            connection.execute("DELETE FROM audit WHERE id <= ?", (rows[-1][0],))
        moved += len(rows)
