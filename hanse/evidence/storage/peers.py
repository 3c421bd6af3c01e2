"""The tables about other organizations' logs: the newest checkpoint of each, and contradictions.

What it is not: a judge; hanse.evidence.peers is. All functions work inside the caller's transaction, if there is one.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from hanse.storage.database import Connection


@dataclass(frozen=True, slots=True)
class Held:
    """The newest checkpoint of a peer's log. ``at`` is Unix seconds, by our clock.

    ``told_size``: of our log, that the peer said last it has seen. ``lost_size``: the largest such of which our log had
    fewer or other leaves, else 0.
    """

    size: int
    note: str
    at: int
    told_size: int
    lost_size: int


@dataclass(frozen=True, slots=True)
class Fork:
    """Two signed notes of one log of which at most one is true. ``at`` is when that was noticed, Unix seconds."""

    prefix: str
    first: str
    second: str
    at: int


def held(connection: Connection, prefix: str) -> Held | None:
    """None while nothing was seen of it."""
    row = connection.execute(
        "SELECT size, note, at, told_size, lost_size FROM peer_checkpoint WHERE prefix = ?", (prefix,)
    ).fetchone()
    return None if row is None else Held(*row)


def hold(connection: Connection, prefix: str, held: Held) -> None:
    """In place of what was held."""
    connection.execute(
        "INSERT INTO peer_checkpoint (prefix, size, note, at, told_size, lost_size) VALUES (?, ?, ?, ?, ?, ?)"
        " ON CONFLICT (prefix) DO UPDATE SET size = excluded.size, note = excluded.note, at = excluded.at,"
        " told_size = excluded.told_size, lost_size = excluded.lost_size",
        (prefix, held.size, held.note, held.at, held.told_size, held.lost_size),
    )


def all_held(connection: Connection) -> Iterator[tuple[str, Held]]:
    """By prefix."""
    for prefix, *held in connection.execute(
        "SELECT prefix, size, note, at, told_size, lost_size FROM peer_checkpoint ORDER BY prefix"
    ):
        yield prefix, Held(*held)


def put_fork(connection: Connection, fork: Fork, most: int) -> None:
    """Kept for good, ``most`` of a peer; the same again does no harm."""
    connection.execute(
        "INSERT OR IGNORE INTO fork (prefix, first, second, at)"
        " SELECT ?, ?, ?, ? WHERE (SELECT count(*) FROM fork WHERE prefix = ?) < ?",
        (fork.prefix, fork.first, fork.second, fork.at, fork.prefix, most),
    )


def forks(connection: Connection) -> Iterator[Fork]:
    """By prefix, the first that was noticed first."""
    for row in connection.execute("SELECT prefix, first, second, at FROM fork ORDER BY prefix, at"):
        yield Fork(*row)
