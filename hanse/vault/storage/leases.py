"""The tables of leases and of their clock. All functions work inside the caller's transaction.

What it is not: a judge of when a lease ends (hanse.vault.vault), nor the keys (hanse.vault.keys).
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from hanse import wire
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.storage.database import Connection
from hanse.vault.clock import Reading, Seen


@dataclass(frozen=True, slots=True)
class Row:
    """``expires_at`` is by the clock of leases; the other times are Unix seconds. ``grant``: digest."""

    key_name: str
    grant: bytes
    id: Identifier
    version: int
    made_at: int
    finished_at: int | None
    expires_at: float
    reason: str
    destroyed_at: int | None
    deletion: Envelope | None
    delivered_at: int | None

    @property
    def owner(self) -> Prefix:
        return self.id.prefix


_COLUMNS = (
    "key_name, grant_, id, version, made_at, finished_at, expires_at, reason, destroyed_at, deletion, delivered_at"
)


def _row(row: tuple[Any, ...]) -> Row:
    name, grant, id, version, made, finished, expires, reason, destroyed, deletion, delivered = row
    return Row(
        name,
        grant,
        Identifier.parse(id),
        version,
        made,
        finished,
        expires,
        reason or "",
        destroyed,
        wire.decode_envelope(deletion) if deletion is not None else None,
        delivered,
    )


def _rows(connection: Connection, condition: str, *values: object) -> list[Row]:
    found = connection.execute(f"SELECT {_COLUMNS} FROM lease WHERE {condition} ORDER BY made_at DESC, rowid", values)
    return [_row(row) for row in found]


def put(
    connection: Connection, key_name: str, grant: bytes, identifier: Identifier, version: int, now: int, expires: float
) -> None:
    """A lease that begins; its key is durable."""
    connection.execute(
        "INSERT INTO lease (key_name, grant_, owner, object, id, version, made_at, expires_at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (key_name, grant, str(identifier.prefix), identifier.key, str(identifier), version, now, expires),
    )


def prolong(connection: Connection, key_name: str, expires: float, finished_at: int | None = None) -> bool:
    """One that is being fetched: until when, and that it is complete. False if it was ended meanwhile."""
    return bool(
        connection.execute(
            "UPDATE lease SET expires_at = ?, finished_at = ? "
            "WHERE key_name = ? AND reason IS NULL AND finished_at IS NULL",
            (expires, finished_at, key_name),
        ).rowcount
    )


def end(connection: Connection, key_names: Iterable[str], reason: str) -> None:
    """That their keys are to be destroyed: the first reason stays."""
    connection.executemany(
        "UPDATE lease SET reason = ? WHERE key_name = ? AND reason IS NULL", [(reason, each) for each in key_names]
    )


def destroyed(connection: Connection, key_name: str, now: int, deletion: Envelope) -> bool:
    """That the key is gone. False if that was noted before."""
    return bool(
        connection.execute(
            "UPDATE lease SET destroyed_at = ?, deletion = ? WHERE key_name = ? AND destroyed_at IS NULL",
            (now, wire.encode_envelope(deletion), key_name),
        ).rowcount
    )


def is_signed(connection: Connection, deletion: Envelope) -> bool:
    """Whether that very paper was signed for another copy: it has no finer time than a second."""
    found = connection.execute("SELECT 1 FROM lease WHERE deletion = ?", (wire.encode_envelope(deletion),))
    return found.fetchone() is not None


def delivered(connection: Connection, digest: bytes, now: int) -> None:
    """That the owner has the deletion whose envelope has that digest."""
    for row in undelivered(connection):
        if row.deletion is not None and row.deletion.digest == digest:
            connection.execute("UPDATE lease SET delivered_at = ? WHERE key_name = ?", (now, row.key_name))


def one(connection: Connection, key_name: str) -> Row | None:
    """By its name."""
    return next(iter(_rows(connection, "key_name = ?", key_name)), None)


def live(connection: Connection, identifier: Identifier | None = None) -> list[Row]:
    """Whose keys are there, newest first: also those whose end is decided."""
    if identifier is None:
        return _rows(connection, "destroyed_at IS NULL")
    return _rows(connection, "destroyed_at IS NULL AND object = ?", identifier.key)


def ended(connection: Connection, identifier: Identifier) -> Row | None:
    """The last one of an object whose key was destroyed."""
    found = _rows(connection, "destroyed_at IS NOT NULL AND finished_at IS NOT NULL AND object = ?", identifier.key)
    return max(found, key=lambda row: row.destroyed_at or 0, default=None)


def undelivered(connection: Connection, owner: Prefix | None = None) -> list[Row]:
    """Deletions that their owner does not have yet."""
    if owner is None:
        return _rows(connection, "deletion IS NOT NULL AND delivered_at IS NULL")
    return _rows(connection, "deletion IS NOT NULL AND delivered_at IS NULL AND owner = ?", str(owner))


def reported(connection: Connection) -> list[tuple[Envelope, int]]:
    """Deletions that others told this home of, as an owner, and when; newest first."""
    found = connection.execute("SELECT envelope, at FROM deletion ORDER BY at DESC, digest")
    return [(wire.decode_envelope(envelope), at) for envelope, at in found]


# The clock.


def seen(connection: Connection) -> Seen | None:
    """What the clock of leases showed when it was last noted."""
    row = connection.execute("SELECT lease, wall, boot, since_boot FROM lease_clock").fetchone()
    return Seen(row[0], Reading(*row[1:])) if row else None


def keep_seen(connection: Connection, now: Seen) -> None:
    """Never an earlier time."""
    connection.execute(
        "INSERT INTO lease_clock (one, lease, wall, boot, since_boot) VALUES (1, ?, ?, ?, ?) "
        "ON CONFLICT (one) DO UPDATE SET lease = excluded.lease, wall = excluded.wall, boot = excluded.boot, "
        "since_boot = excluded.since_boot WHERE excluded.lease >= lease_clock.lease",
        (now.lease, now.reading.wall, now.reading.boot, now.reading.since_boot),
    )


def forget_seen(connection: Connection) -> None:
    """When there is no lease: the next one begins with the machine's clock."""
    connection.execute("DELETE FROM lease_clock WHERE NOT EXISTS (SELECT 1 FROM lease WHERE destroyed_at IS NULL)")
