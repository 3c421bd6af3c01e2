"""The table of deliveries, both ways, and of the deletions that consumers reported.

What it is not: a judge of what is counted (node.deliveries) or claimed (node.settling). Every function works inside
the caller's transaction. ``ours``: we fetched; otherwise we served.
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from hanse.storage.database import Connection


class State(StrEnum):
    """HALF: one signature. EMPTY: it ended before anything was served."""

    RUNNING = "running"
    ENDED = "ended"
    HALF = "half"
    SETTLED = "settled"
    EMPTY = "empty"


@dataclass(slots=True)
class Row:
    """``delivered`` is a serialized Receipt: what was served, or what the receipt says. ``receipt`` an Envelope.

    ``size``: all bytes that went out, or each verified chunk once. ``claimed``: what both sides signed for. ``owed``:
    what the peer has not signed for yet. Times in Unix seconds.
    """

    id: bytes
    ours: bool
    peer: str
    object: str
    version: int
    grant: bytes
    delivered: bytes
    size: int
    reserved: int
    started_at: int
    moved_at: int
    state: State
    receipt: bytes | None = None
    receipt_digest: bytes | None = None
    claimed: int = 0
    owed: int = 0


_COLUMNS = (
    "id, ours, peer, object, version, grant_, delivered, bytes, reserved, started_at, moved_at, state, receipt, "
    "receipt_digest, claimed, owed"
)


def get(connection: Connection, id: bytes, *, ours: bool, peer: str) -> Row | None:
    """Within a peer the consumer's 16 bytes name it."""
    found = connection.execute(
        f"SELECT {_COLUMNS} FROM delivery WHERE id = ? AND ours = ? AND peer = ?", (id, int(ours), peer)
    ).fetchone()
    return _row(found) if found else None


def put(connection: Connection, row: Row) -> None:
    """Adds it, or replaces it."""
    _insert(connection, "REPLACE", row)


def add(connection: Connection, row: Row) -> bool:
    """False if it is there already: then nothing is changed."""
    return _insert(connection, "IGNORE", row)


def state(connection: Connection, id: bytes, *, ours: bool, peer: str) -> State | None:
    """None if there is no such delivery."""
    found = connection.execute(
        "SELECT state FROM delivery WHERE id = ? AND ours = ? AND peer = ?", (id, int(ours), peer)
    ).fetchone()
    return State(found[0]) if found else None


def moved(
    connection: Connection, id: bytes, peer: str, delivered: bytes, size: int, reserved: int, now: int, state: State
) -> None:
    """What we served of it changed; what is settled stays settled."""
    connection.execute(
        "UPDATE delivery SET delivered = ?1, bytes = ?2, reserved = ?3, moved_at = ?4, "
        "owed = CASE state WHEN 'settled' THEN owed ELSE ?2 + ?3 END, "
        "state = CASE state WHEN 'settled' THEN state ELSE ?5 END WHERE id = ?6 AND ours = 0 AND peer = ?7",
        (delivered, size, reserved, now, state.value, id, peer),
    )


def signed(connection: Connection, row: Row) -> bool:
    """Keeps the state, the receipt, and what was claimed and is owed. False if there is none that is to be settled."""
    done = connection.execute(
        "UPDATE delivery SET state = ?, receipt = ?, receipt_digest = ?, claimed = ?, owed = ? "
        "WHERE id = ? AND ours = ? AND peer = ? AND state <> 'settled'",
        (
            row.state.value, row.receipt, row.receipt_digest, row.claimed, row.owed, row.id, int(row.ours), row.peer,
        ),
    )  # fmt: skip
    return bool(done.rowcount)


def used(connection: Connection, digest: bytes) -> tuple[int, int]:
    """(fetches, bytes) counted on a grant that is there."""
    found = connection.execute("SELECT fetches, bytes FROM grant_ WHERE digest = ?", (digest,)).fetchone()
    return int(found[0]), int(found[1])


def waiting(connection: Connection, peer: str | None = None, limit: int = 10_000) -> list[Row]:
    """Our halves that the other side has not signed yet, the oldest first."""
    return [
        _row(found)
        for found in connection.execute(
            f"SELECT {_COLUMNS} FROM delivery WHERE state = 'half' AND ours = 1 AND (?1 IS NULL OR peer = ?1) "
            "ORDER BY started_at LIMIT ?2",
            (peer, limit),
        )
    ]


def waiting_of(connection: Connection, peer: str, ids: Collection[bytes]) -> list[Row]:
    """Those of them that wait, the oldest first. ``ids``: not more than SQLite binds (some 30,000)."""
    marks = ", ".join("?" * len(ids))
    return [
        _row(found)
        for found in connection.execute(
            f"SELECT {_COLUMNS} FROM delivery WHERE state = 'half' AND ours = 1 AND peer = ? AND id IN ({marks}) "
            "ORDER BY started_at",
            (peer, *ids),
        )
    ]


def unsettled(connection: Connection, before: int, limit: int) -> list[Row]:
    """What we served and nobody signed, if nothing moved since ``before``."""
    return [
        _row(found)
        for found in connection.execute(
            f"SELECT {_COLUMNS} FROM delivery WHERE state IN ('running', 'ended') AND ours = 0 AND moved_at <= ? "
            "ORDER BY moved_at LIMIT ?",
            (before, limit),
        )
    ]


def owed(connection: Connection, peer: str) -> int:
    """Bytes that we served to it and it has not signed for."""
    return int(
        connection.execute(
            "SELECT coalesce(sum(owed), 0) FROM delivery WHERE owed > 0 AND ours = 0 AND peer = ?", (peer,)
        ).fetchone()[0]
    )


def debts(connection: Connection) -> list[tuple[str, int, int]]:
    """(peer, deliveries, bytes) that were served and not signed for, most first."""
    return [
        (str(peer), int(count), int(amount))
        for peer, count, amount in connection.execute(
            "SELECT peer, count(*), sum(owed) FROM delivery WHERE owed > 0 AND ours = 0 GROUP BY peer "
            "ORDER BY sum(owed) DESC"
        )
    ]


def count_waiting(connection: Connection) -> int:
    """How many of our halves wait for the other side's signature."""
    return int(connection.execute("SELECT count(*) FROM delivery WHERE state = 'half' AND ours = 1").fetchone()[0])


def query(
    connection: Connection,
    *,
    object_key: str | None = None,
    peer: str | None = None,
    since: int | None = None,
    until: int | None = None,
    limit: int = -1,
) -> Iterator[Row]:
    """Both ways, newest first; ``since`` inclusive, ``until`` exclusive, of the beginning."""
    for found in connection.execute(
        f"SELECT {_COLUMNS} FROM delivery WHERE (?1 IS NULL OR object = ?1) AND (?2 IS NULL OR peer = ?2) "
        "AND (?3 IS NULL OR started_at >= ?3) AND (?4 IS NULL OR started_at < ?4) AND state <> 'empty' "
        "ORDER BY started_at DESC, id LIMIT ?5",
        (object_key, peer, since, until, limit),
    ):
        yield _row(found)


def put_deletion(
    connection: Connection, digest: bytes, peer: str, object_key: str, version: int, grant: bytes, envelope: bytes,
    now: int,
) -> bool:  # fmt: skip
    """False if it is there already."""
    return bool(
        connection.execute(
            "INSERT OR IGNORE INTO deletion (digest, peer, object, version, grant_, envelope, at) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            (digest, peer, object_key, version, grant, envelope, now),
        ).rowcount
    )


def has_deletion(connection: Connection, digest: bytes) -> bool:
    """By the digest of its envelope."""
    return bool(connection.execute("SELECT 1 FROM deletion WHERE digest = ?", (digest,)).fetchone())


def count_deletions(connection: Connection, peer: str, grant: bytes) -> int:
    """What a peer signed of copies that it had under a grant."""
    found = connection.execute("SELECT count(*) FROM deletion WHERE grant_ = ? AND peer = ?", (grant, peer)).fetchone()
    return int(found[0])


def _insert(connection: Connection, otherwise: str, row: Row) -> bool:
    done = connection.execute(
        f"INSERT OR {otherwise} INTO delivery ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            row.id, int(row.ours), row.peer, row.object, row.version, row.grant, row.delivered, row.size,
            row.reserved, row.started_at, row.moved_at, row.state.value, row.receipt, row.receipt_digest,
            row.claimed, row.owed,
        ),
    )  # fmt: skip
    return bool(done.rowcount)


def _row(found: tuple[Any, ...]) -> Row:
    id, ours, peer, object_key, version, grant, delivered, size, reserved, started_at, moved_at, state, *more = found
    return Row(
        id, bool(ours), peer, object_key, version, grant, delivered, size, reserved, started_at, moved_at,
        State(state), *more,
    )  # fmt: skip
