"""The log's tables: leaves, the subtrees over them, checkpoints. SPEC.md section 18; RFC 6962 section 2.

What it is not: a judge of what is appended; nor does it know keys or the time. All functions work inside the
caller's transaction, if there is one.

    edge = append(connection, Edge.read(connection, size(connection)), [Entry.of(Kind.GRANT, payload)], now)
    edge.root()
"""

import secrets
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache, partial
from hashlib import sha256

from hanse.errors import StorageFailed
from hanse.merkle import Nodes, leaf_hash, node_hash, perfect, root_at
from hanse.storage.database import Connection

SALT_BYTES = 16
MOST = (1 << 63) - 1  # leaves, as SQLite counts


class Kind(StrEnum):
    """What a payload is: an envelope of that kind, or a row of the audit."""

    REQUEST = "request"
    GRANT = "grant"
    DENIAL = "denial"
    REVOCATION = "revocation"
    HALF_RECEIPT = "half-receipt"
    RECEIPT = "receipt"
    DELETION = "deletion"
    DECISION = "decision"


@dataclass(frozen=True, slots=True)
class Entry:
    """One leaf."""

    kind: Kind
    payload: bytes
    salt: bytes
    hash: bytes

    @classmethod
    def of(cls, kind: Kind, payload: bytes) -> "Entry":
        salt = secrets.token_bytes(SALT_BYTES)
        return cls(kind, payload, salt, leaf_hash(leaf_data(kind, salt, payload)))


def leaf_data(kind: str, salt: bytes, payload: bytes) -> bytes:
    """What is hashed as a leaf. Nobody can test a guess of an erased payload without its salt."""
    return kind.encode() + b"\0" + sha256(salt + payload).digest()


@dataclass(frozen=True, slots=True)
class Leaf:
    """A leaf as it is kept. ``payload`` and ``salt`` are None once it was erased; ``at`` is Unix seconds."""

    position: int
    kind: str
    hash: bytes
    salt: bytes | None
    payload: bytes | None
    at: int


def size(connection: Connection) -> int:
    """Number of leaves."""
    return int(connection.execute("SELECT coalesce(max(position) + 1, 0) FROM leaf").fetchone()[0])


@dataclass(frozen=True, slots=True)
class Edge:
    """The perfect subtrees that a log of ``size`` leaves consists of: what it takes to go on with it."""

    size: int
    nodes: Mapping[tuple[int, int], bytes]

    @classmethod
    def read(cls, connection: Connection, size: int) -> "Edge":
        """Of a log that has as many. Raises StorageFailed when one is missing."""
        return cls(size, {at: node(connection, *at) for at in perfect(size)})

    def root(self) -> bytes:
        """Of the whole tree."""
        return root_at(lambda level, position: self.nodes[level, position], self.size)


def append(connection: Connection, edge: Edge, entries: Sequence[Entry], now: int) -> Edge:
    """Adds leaves to a log with that edge. Returns the new one."""
    first = edge.size
    connection.executemany(
        "INSERT INTO leaf (position, kind, hash, salt, payload, at) VALUES (?, ?, ?, ?, ?, ?)",
        [(first + n, each.kind.value, each.hash, each.salt, each.payload, now) for n, each in enumerate(entries)],
    )
    known = dict(edge.nodes)  # the new leaves, and the subtrees that they complete, come to them
    complete: list[tuple[int, int, bytes]] = []
    for position, entry in enumerate(entries, first):
        level, digest = 0, entry.hash
        while position >> level & 1:
            digest = node_hash(known[level, (position >> level) - 1], digest)
            level += 1
            complete.append((level, position >> level, digest))
        known[level, position >> level] = digest
    connection.executemany("INSERT INTO subtree (level, position, hash) VALUES (?, ?, ?)", complete)
    size = first + len(entries)
    return Edge(size, {at: known[at] for at in perfect(size)})


def find_node(connection: Connection, level: int, position: int) -> bytes | None:
    """The hash of a perfect subtree; of a leaf at level 0."""
    if level == 0:
        row = connection.execute("SELECT hash FROM leaf WHERE position = ?", (position,)).fetchone()
    else:
        row = connection.execute(
            "SELECT hash FROM subtree WHERE level = ? AND position = ?", (level, position)
        ).fetchone()
    return None if row is None else bytes(row[0])


def node(connection: Connection, level: int, position: int) -> bytes:
    """The same. Raises StorageFailed when it is missing."""
    found = find_node(connection, level, position)
    if found is None:
        raise StorageFailed(
            f"the log lacks a part (level {level}, number {position}): restore evidence.db from your backup"
        )
    return found


def nodes(connection: Connection) -> Nodes:
    """The same, as proofs are made from. What is there once never changes: it is read once."""
    return lru_cache(4096)(partial(node, connection))


def leaves(connection: Connection, first: int = 0, end: int | None = None) -> Iterator[Leaf]:
    """In order, from position ``first`` to before ``end``."""
    rows = connection.execute(
        "SELECT position, kind, hash, salt, payload, at FROM leaf WHERE position >= ? AND position < ?"
        " ORDER BY position",
        (first, MOST if end is None else end),
    )
    return (Leaf(*row) for row in rows)


def bare_leaves(connection: Connection) -> Iterator[Leaf]:
    """All, in order, without reading payloads: those look erased."""
    rows = connection.execute("SELECT position, kind, hash, NULL, NULL, at FROM leaf ORDER BY position")
    return (Leaf(*row) for row in rows)


def count_subtrees(connection: Connection) -> int:
    """Of two leaves and more, as many as are kept."""
    return int(connection.execute("SELECT count(*) FROM subtree").fetchone()[0])


def erase(connection: Connection, position: int) -> bool:
    """Whether there is such a leaf; its payload and salt are gone then, also from the free space of their page."""
    connection.execute("PRAGMA secure_delete = ON")
    return bool(
        connection.execute("UPDATE leaf SET payload = NULL, salt = NULL WHERE position = ?", (position,)).rowcount
    )


def forget(connection: Connection) -> bool:
    """Empties the write-ahead log, in which what was erased stands too. False while somebody reads from it."""
    return bool(connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()[0] == 0)


def put_checkpoint(connection: Connection, size: int, note: str, now: int) -> None:
    """The signed note of the tree of that size."""
    connection.execute("INSERT INTO checkpoint (size, note, at) VALUES (?, ?, ?)", (size, note, now))


def newest_checkpoint(connection: Connection) -> str | None:
    """The signed note of the largest tree; None while the log is empty."""
    row = connection.execute("SELECT note FROM checkpoint ORDER BY size DESC LIMIT 1").fetchone()
    return None if row is None else str(row[0])


def checkpoints(connection: Connection) -> Iterator[tuple[int, str]]:
    """(size, signed note) of every checkpoint, the smallest first."""
    yield from connection.execute("SELECT size, note FROM checkpoint ORDER BY size")
