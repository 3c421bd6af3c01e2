"""The tables of requests and grants, both ways: asked of us and by us, given by us and held.

What it is not: a judge. What is put here was verified (hanse.papers) or made by this home. Every function works
inside the caller's transaction; digests are of envelopes, and name papers.

    put_grant(change.connection, grant, envelope, change.now)
    use(change.connection, digests, fetches=1, bytes=0)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from typing import Any

from hanse import wire
from hanse import wire_papers as papers
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import AccessRequest, Grant, Revocation
from hanse.storage.database import Connection


class RequestState(StrEnum):
    """How a request stands."""

    WAITING = "waiting"
    GRANTED = "granted"
    DENIED = "denied"
    REFUSED = "refused"  # ours: the owner's node would not take it


@dataclass(frozen=True, slots=True)
class RequestRow:
    """``number`` is what the owner types; ``peer`` the other side. Times in Unix seconds."""

    number: int
    digest: bytes
    ours: bool
    peer: Prefix
    envelope: Envelope
    state: RequestState
    answer: Envelope | None
    at: int
    answered_at: int | None

    @property
    def request(self) -> AccessRequest:
        return papers.decode_request(self.envelope.payload)

    @property
    def grant(self) -> bytes:
        """Digest of the grant that answers it; empty if none does."""
        return self.answer.digest if self.state is RequestState.GRANTED and self.answer is not None else b""

    @property
    def reason(self) -> str:
        """Why it was denied."""
        denied = self.state is RequestState.DENIED and self.answer is not None
        return papers.decode_denial(self.answer.payload).reason if denied and self.answer else ""


@dataclass(frozen=True, slots=True)
class GrantRow:
    """``fetches`` and ``bytes`` were used, of it and of all that were narrowed from it."""

    digest: bytes
    owner: Prefix
    maker: Prefix
    holder: Prefix
    parent: bytes
    root: bytes
    envelope: Envelope
    fetches: int
    bytes: int
    revocation: Envelope | None
    revoked_at: int | None
    at: int

    @property
    def grant(self) -> Grant:
        return _decoded_grant(self.envelope.payload)

    @property
    def ended(self) -> Revocation | None:
        return papers.decode_revocation(self.revocation.payload) if self.revocation is not None else None

    @property
    def name(self) -> str:
        """As people type it."""
        return self.digest.hex()[:16]


_REQUEST = "number, digest, ours, peer, envelope, state, answer, at, answered_at"
_GRANT = "digest, owner, maker, holder, parent, root, envelope, fetches, bytes, revocation, revoked_at, at"


# Requests.


def put_request(
    connection: Connection, envelope: Envelope, *, ours: bool, peer: Prefix, about: Identifier, now: int
) -> int:
    """Its number. The caller has looked that it is not there."""
    cursor = connection.execute(
        "INSERT INTO request (digest, ours, peer, object, envelope, state, at) VALUES (?, ?, ?, ?, ?, ?, ?)",
        (envelope.digest, int(ours), str(peer), about.key, wire.encode_envelope(envelope), "waiting", now),
    )
    assert cursor.lastrowid is not None  # noqa: S101 - a row was inserted
    return cursor.lastrowid


def answer_request(connection: Connection, digest: bytes, state: RequestState, answer: Envelope, now: int) -> None:
    """Keeps the grant or the denial."""
    connection.execute(
        "UPDATE request SET state = ?, answer = ?, answered_at = ? WHERE digest = ?",
        (state.value, wire.encode_envelope(answer), now, digest),
    )


def refuse_request(connection: Connection, digest: bytes, now: int) -> None:
    """That the owner's node did not take ours."""
    connection.execute(
        "UPDATE request SET state = 'refused', answered_at = ? WHERE digest = ? AND state = 'waiting'", (now, digest)
    )


def request(connection: Connection, digest: bytes) -> RequestRow | None:
    """By the digest of its envelope."""
    row = connection.execute(f"SELECT {_REQUEST} FROM request WHERE digest = ?", (digest,)).fetchone()
    return _request(row) if row else None


def numbered(connection: Connection, number: int, *, ours: bool) -> RequestRow | None:
    """By what the owner types."""
    row = connection.execute(
        f"SELECT {_REQUEST} FROM request WHERE number = ? AND ours = ?", (number, int(ours))
    ).fetchone()
    return _request(row) if row else None


def requests(
    connection: Connection, *, ours: bool, waiting: bool = False, about: Identifier | None = None
) -> list[RequestRow]:
    """Newest first. ``about``: of ours, those for that object."""
    where, values = ["ours = ?"], [str(int(ours))]
    if waiting:
        where.append("state = 'waiting'")
    if about is not None:
        where.append("peer = ? AND object = ?")
        values += [str(about.prefix), about.key]
    rows = connection.execute(
        f"SELECT {_REQUEST} FROM request WHERE {' AND '.join(where)} ORDER BY number DESC", values
    )
    return [_request(row) for row in rows]


def waiting_of(connection: Connection, peer: Prefix) -> int:
    """How many requests of that organization wait for us."""
    found = connection.execute(
        "SELECT count(*) FROM request WHERE peer = ? AND state = 'waiting' AND ours = 0", (str(peer),)
    ).fetchone()
    return int(found[0])


# Grants.


def put_grant(connection: Connection, grant: Grant, envelope: Envelope, now: int) -> bool:
    """False if it is there already. The grants above it in its chain must be there."""
    digest = envelope.digest
    if connection.execute("SELECT 1 FROM grant_ WHERE digest = ?", (digest,)).fetchone():
        return False
    root = digest
    if grant.parent:
        root = connection.execute("SELECT root FROM grant_ WHERE digest = ?", (grant.parent,)).fetchone()[0]
    connection.execute(
        "INSERT INTO grant_ (digest, owner, maker, holder, parent, root, envelope, valid_until, at) "
        "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        (
            digest, str(grant.owner), str(grant.issuer), str(grant.to), grant.parent or None, root,
            wire.encode_envelope(envelope), grant.conditions.valid_until, now,
        ),
    )  # fmt: skip
    connection.executemany(
        "INSERT INTO grant_object (object, digest) VALUES (?, ?)", [(each.key, digest) for each in set(grant.ids)]
    )
    return True


def grant(connection: Connection, digest: bytes) -> GrantRow | None:
    """By the digest of its envelope."""
    row = connection.execute(f"SELECT {_GRANT} FROM grant_ WHERE digest = ?", (digest,)).fetchone()
    return _grant(row) if row else None


def chain(connection: Connection, digest: bytes) -> list[GrantRow]:
    """From the owner's grant to that one; empty if it is not known."""
    found: list[GrantRow] = []
    at: bytes | None = digest
    while at:
        row = grant(connection, at)
        if row is None:
            return []
        found.append(row)
        at = row.parent or None
    return found[::-1]


def use(
    connection: Connection,
    digests: Iterable[bytes],
    fetches: int,
    bytes: int,  # noqa: A002
    *,
    unrevoked: bool = False,
) -> int:
    """Counts on each grant of a chain, or only on those not ``unrevoked``: on how many. Negative numbers give back."""
    done = connection.executemany(
        "UPDATE grant_ SET fetches = max(0, fetches + ?), bytes = max(0, bytes + ?) WHERE digest = ?"
        + (" AND revoked_at IS NULL" if unrevoked else ""),
        [(fetches, bytes, digest) for digest in digests],
    )
    return int(done.rowcount)


def revoke(connection: Connection, digest: bytes, revocation: Envelope, now: int) -> bool:
    """False if it was revoked before: the first revocation stays."""
    return bool(
        connection.execute(
            "UPDATE grant_ SET revocation = ?, revoked_at = ? WHERE digest = ? AND revoked_at IS NULL",
            (wire.encode_envelope(revocation), now, digest),
        ).rowcount
    )


def exhaust(connection: Connection, digest: bytes, fetches: int, bytes: int) -> None:  # noqa: A002
    """What its owner says was used of a grant that we hold: at least so much."""
    connection.execute(
        "UPDATE grant_ SET fetches = max(fetches, ?), bytes = max(bytes, ?) WHERE digest = ?", (fetches, bytes, digest)
    )


def beginning(connection: Connection, digits: str) -> list[GrantRow]:
    """Those whose digest begins so, in hexadecimal."""
    low = bytes.fromhex(digits.ljust(64, "0"))
    high = bytes.fromhex(digits.ljust(64, "f"))
    rows = connection.execute(f"SELECT {_GRANT} FROM grant_ WHERE digest BETWEEN ? AND ?", (low, high))
    return [_grant(row) for row in rows]


def grants(
    connection: Connection, *, maker: Prefix | None = None, holder: Prefix | None = None, owner: Prefix | None = None
) -> list[GrantRow]:
    """Newest first."""
    where, values = _filters(maker=maker, holder=holder, owner=owner)
    rows = connection.execute(f"SELECT {_GRANT} FROM grant_ WHERE {where} ORDER BY at DESC, digest", values)
    return [_grant(row) for row in rows]


def grants_for(
    connection: Connection, about: Identifier, *, holder: Prefix, maker: Prefix | None = None, now: int | None = None
) -> list[GrantRow]:
    """Those that name the object, newest first; with ``now``, without those that are over or revoked themselves."""
    where, values = _filters(maker=maker, holder=holder)
    if now is not None:
        where += f" AND revoked_at IS NULL AND (valid_until IS NULL OR valid_until > {int(now)})"
    rows = connection.execute(
        f"SELECT {', '.join(f'grant_.{each}' for each in _GRANT.split(', '))} FROM grant_object "
        f"JOIN grant_ ON grant_.digest = grant_object.digest WHERE object = ? AND {where} "
        "ORDER BY grant_.at DESC, grant_.digest",
        (about.key, *values),
    )
    return [_grant(row) for row in rows]


def given(
    connection: Connection, about: Identifier, *, holder: Prefix, maker: Prefix | None = None, since: int = 0
) -> tuple[int, int, int]:
    """How many name the object: all of them, those that came after ``since``, and those that were revoked."""
    where, values = _filters(maker=maker, holder=holder)
    found = connection.execute(
        "SELECT count(*), coalesce(sum(grant_.at > ?), 0), count(grant_.revoked_at) FROM grant_object "
        f"JOIN grant_ ON grant_.digest = grant_object.digest WHERE object = ? AND {where}",
        (since, about.key, *values),
    ).fetchone()
    return int(found[0]), int(found[1]), int(found[2])


def below(connection: Connection, root: bytes) -> int:
    """How many grants were narrowed from that one, at any depth, as far as is known."""
    found = connection.execute("SELECT count(*) FROM grant_ WHERE root = ? AND digest <> root", (root,)).fetchone()
    return int(found[0])


def _filters(**columns: Prefix | None) -> tuple[str, Sequence[str]]:
    given = {name: str(value) for name, value in columns.items() if value is not None}
    return " AND ".join([*(f"grant_.{name} = ?" for name in given), "1"]), tuple(given.values())


def _envelope(data: bytes | None) -> Envelope | None:
    return wire.decode_envelope(data) if data is not None else None


def _request(row: Sequence[Any]) -> RequestRow:
    number, digest, ours, peer, envelope, state, answer, at, answered_at = row
    return RequestRow(
        number, digest, bool(ours), Prefix(peer), wire.decode_envelope(envelope), RequestState(state),
        _envelope(answer), at, answered_at,
    )  # fmt: skip


def _grant(row: Sequence[Any]) -> GrantRow:
    digest, owner, maker, holder, parent, root, envelope, fetches, used, revocation, revoked_at, at = row
    return GrantRow(
        digest, Prefix(owner), Prefix(maker), Prefix(holder), parent or b"", root, _decoded_envelope(envelope),
        fetches, used, _envelope(revocation), revoked_at, at,
    )  # fmt: skip


# The same few are met at every fetch.
_decoded_grant = lru_cache(64)(papers.decode_grant)
_decoded_envelope = lru_cache(64)(wire.decode_envelope)
