"""The log's tables: leaves, the subtrees over them, checkpoints. SPEC.md section 18; RFC 6962 section 2.

What it is not: a judge of what is appended. All functions work inside the caller's transaction.
"""

import secrets
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256

from hanse.merkle import EMPTY_ROOT, leaf_hash, node_hash
from hanse.storage.database import Connection

SALT_BYTES = 16


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


def size(connection: Connection) -> int:
    """Number of leaves."""
    return int(connection.execute("SELECT coalesce(max(position) + 1, 0) FROM leaf").fetchone()[0])


def append(connection: Connection, first: int, entries: Sequence[Entry], now: int) -> bytes:
    """Adds leaves from position ``first`` on, which is the size of the log. Returns the new root."""
    connection.executemany(
        "INSERT INTO leaf (position, kind, hash, salt, payload, at) VALUES (?, ?, ?, ?, ?, ?)",
        [(first + n, each.kind.value, each.hash, each.salt, each.payload, now) for n, each in enumerate(entries)],
    )
    # The perfect subtrees that the tree consists of before the first new leaf, from the highest to the lowest.
    stack = [(level, _subtree(connection, level, at)) for level, at in perfect(first)]
    complete: list[tuple[int, int, bytes]] = []
    for position, entry in enumerate(entries, first):
        level, at, digest = 0, position, entry.hash
        while stack and stack[-1][0] == level:
            digest = node_hash(stack.pop()[1], digest)
            level, at = level + 1, at >> 1
            complete.append((level, at, digest))
        stack.append((level, digest))
    connection.executemany("INSERT INTO subtree (level, position, hash) VALUES (?, ?, ?)", complete)
    if not stack:
        return EMPTY_ROOT
    root = stack[-1][1]
    for _, left in reversed(stack[:-1]):
        root = node_hash(left, root)
    return root


def perfect(size: int) -> Iterator[tuple[int, int]]:
    """(level, position) of the perfect subtrees that a tree of ``size`` leaves consists of, the highest first."""
    start = 0
    for level in reversed(range(size.bit_length())):
        if size >> level & 1:
            yield level, start >> level
            start += 1 << level


def _subtree(connection: Connection, level: int, position: int) -> bytes:
    if level == 0:
        row = connection.execute("SELECT hash FROM leaf WHERE position = ?", (position,)).fetchone()
    else:
        row = connection.execute(
            "SELECT hash FROM subtree WHERE level = ? AND position = ?", (level, position)
        ).fetchone()
    return bytes(row[0])


def put_checkpoint(connection: Connection, size: int, note: str, now: int) -> None:
    """The signed note of the tree of that size."""
    connection.execute("INSERT INTO checkpoint (size, note, at) VALUES (?, ?, ?)", (size, note, now))
