"""What the registry asks of a database. Every implementation runs the same contract tests.

Reading. Every method may be called from any thread at any time; it sees what was committed before it began,
and never waits for a writer. Envelopes are bytes here, as they came; they are not verified again.

Writing. ``writing()`` opens one transaction: all of it or nothing, and durable (on the disk, not in a cache)
when the block has ended without an error. One at a time: it waits for another process's, up to a few seconds,
then raises Overloaded, which is worth trying again. What is read inside sees what was written inside. Only
the thread that opened it may use it, and only until the block ends.

Usage. What is put in a member's name, records and organization records, is counted for it in the same transaction:
the identifiers that it ever used, and the bytes of its envelopes (registry.usage).

The log. Whatever is put among the changes, and every certificate, takes the next position and is a leaf of the
log, in that order: position p is leaf p - 1. Leaves, tree and change are one transaction.

Errors. NoSpace, Overloaded and StorageFailed, and Unreachable for a store that is being moved (registry.copying);
nothing was stored then. After NoSpace reading goes on. No other error escapes.

Losing. Where several processes write, two of them can be in each other's way, or the database breaks off; then
``writing()`` raises Overloaded, also when nobody knows whether the transaction was stored. So whoever writes does it
in a function that may run again, in a transaction of its own each time: ``transact``.

Closing. Whoever opened it closes it, once; after that nothing may be called.
"""

import random
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Protocol, TypeVar

from hanse.errors import Overloaded
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import Subtrees
from registry.accept import Stored
from registry.index import Document, Question
from registry.usage import Limits, Usage

_Result = TypeVar("_Result")
_ATTEMPTS = 8
_PATIENCE = 4.0  # seconds after which no attempt begins: who waits would give up before
OWN_TEXTS = ("index_version", "membership_position", "moving")  # names of what is another store's own
_PAUSE = 0.01  # seconds; doubles with each attempt, at random between nothing and twice that


@dataclass(frozen=True, slots=True)
class NewRecord:
    """A version of an object. ``document`` is None for a tombstone: nothing of it is found by searching."""

    key: str
    version: int
    digest: bytes
    issued_at: int
    envelope: bytes
    document: Document | None


@dataclass(frozen=True, slots=True)
class StoredOrganization:
    """One version of an organization's record."""

    version: int
    digest: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class StoredInvitation:
    """``spent_by`` is the digest of the organization record that it let in, None while it is unspent.

    ``mirror``: whoever joins by it mirrors the registry.
    """

    prefix: Prefix
    display_name: str
    expires_at: int
    spent_by: bytes | None
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class Certificate:
    """One that was issued to a member; ``der`` is X.509."""

    prefix: Prefix
    issued_at: int
    der: bytes


@dataclass(frozen=True, slots=True)
class Change:
    """What stands at a position: an envelope, or the DER of a certificate."""

    position: int
    content: bytes
    is_certificate: bool = False


@dataclass(frozen=True, slots=True)
class Line:
    """What is stored beside the content of an entry, and must be what the content says.

    ``owner``: the key of an object, or the prefix that a certificate is for; None for everything else, as is what it
    has none of.
    """

    position: int
    owner: str | None = None
    version: int | None = None
    issued_at: int | None = None
    digest: bytes | None = None


@dataclass(frozen=True, slots=True)
class Head:
    """The log as it is now: how many leaves, and their RFC 6962 root."""

    size: int
    root: bytes


@dataclass(frozen=True, slots=True)
class Figures:
    """How much there is."""

    objects: int
    withdrawn: int
    last_position: int
    bytes_on_disk: int


class Writing(Protocol):
    """An open transaction."""

    def stored(self, keys: Sequence[str]) -> dict[str, Stored]:
        """The newest version of each; keys without one are left out."""

    def digest_of(self, key: str, version: int) -> bytes | None:
        """Of any version that was ever stored."""

    def put_records(self, records: Sequence[NewRecord]) -> None:
        """Each follows the newest version of its key, stored or before it in the sequence; the caller has checked."""

    def put_organization(self, prefix: Prefix, organization: StoredOrganization) -> None:
        """Appends to the chain and to the changes. The version is new."""

    def organization_digest(self, prefix: Prefix, version: int) -> bytes | None: ...

    def newest_organization(self, prefix: Prefix) -> StoredOrganization | None: ...

    def member(self, prefix: Prefix) -> Member | None: ...

    def members(self) -> list[Member]:
        """In the order of their prefixes."""

    def put_member(self, member: Member, now: int) -> None:
        """Adds or replaces the line of a member."""

    def next_membership_version(self) -> int:
        """Counts up and returns the new version."""

    def put_membership(self, envelope: bytes, leaf: bytes) -> None:
        """Appends a membership head to the changes; ``leaf`` is the data of its leaf."""

    def put_certificate(self, certificate: Certificate) -> None:
        """Appends to the log what was issued."""

    def newest_certificate(self, prefix: Prefix) -> Certificate | None: ...

    def put_invitation(self, secret_hash: bytes, invitation: StoredInvitation, now: int) -> None: ...

    def invitation(self, secret_hash: bytes) -> StoredInvitation | None: ...

    def spend_invitation(self, secret_hash: bytes, organization_digest: bytes, now: int) -> None: ...

    def head(self) -> Head:
        """Of the log, with all that was put so far."""

    def usage(self, prefix: Prefix, *, exact: bool = True) -> Usage:
        """Nothing, of one that published nothing. Unless ``exact``, other processes may add to it before the end."""

    def put_pace(self, prefix: Prefix, paid_until: float) -> None:
        """Keeps how far its publishing has got."""

    def put_limits(self, prefix: Prefix, limits: Limits) -> None:
        """Keeps what the operator's command said, replacing what was there."""

    def reindex(self, documents: Iterable[tuple[int, Document]]) -> None:
        """What searching finds becomes exactly these, by the positions of their records."""

    def remember(self, name: str, value: str) -> None:
        """Keeps a small text under a name, replacing what was there."""


class Storage(Protocol):
    """Everything that one registry keeps.

    ``distant``: reading goes over a network, and may wait for seconds until it fails; an event loop must not.
    """

    distant: bool

    def writing(self) -> AbstractContextManager[Writing]: ...

    def reading(self) -> AbstractContextManager["Storage"]:
        """For going over everything while others write. Of a distant one, all of it as of one moment."""

    def resolve(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes]]:
        """Per key whether it is withdrawn, and the newest envelope; unknown keys are left out. The hot path."""

    def organizations(self, prefix: Prefix, after_version: int) -> list[StoredOrganization]:
        """The chain after a version, oldest first; empty for an unknown prefix."""

    def newest_organizations(self) -> list[bytes]:
        """The newest envelope of every organization, also of those that are no members yet."""

    def membership(self) -> tuple[int, list[Member]]:
        """The version, 0 before the first member, and all lines in the order of their prefixes."""

    def membership_version(self) -> int: ...

    def changes(self, after: int, limit: int, limit_bytes: int, *, certificates: bool = False) -> list[Change]:
        """In order, without the certificates unless they are wanted.

        At most ``limit``; stops after the one that passes ``limit_bytes``.
        """

    def last_position(self) -> int:
        """0 when nothing has changed yet."""

    def head(self) -> Head:
        """Of the log; its size is the last position."""

    def tile(self, level: int, number: int, count: int) -> Subtrees | None:
        """The first ``count`` hashes of a tile of the log, and what is inside it; None when it has fewer."""

    def leaves(self, first: int, count: int) -> list[bytes]:
        """The data of leaves, from number ``first`` (from 0) on."""

    def located(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes, int]]:
        """What ``resolve`` gives, and the position of it."""

    def located_membership(self) -> int | None:
        """The position of the newest membership head; None before the first, and of those from before the log."""

    def located_organization(self, prefix: Prefix) -> tuple[bytes, int] | None:
        """The newest envelope of an organization, and its position."""

    def usages(self) -> dict[Prefix, Usage]:
        """Of every organization that published anything, or was given limits."""

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        """Positions, ``as_of`` at most, of active newest records that match; of more than ``limit``, the newest.

        The best first, of equals the newest; without a text the newest first.
        """

    def records_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        """The newest envelopes of the objects that were published at these positions; withdrawn ones are left out."""

    def lines(self, first: int, count: int) -> list[Line]:
        """Of the entries from position ``first`` on, in order."""

    def invitations(self) -> list[tuple[bytes, StoredInvitation]]:
        """All of them, spent ones too, by the hashes of their secrets."""

    def texts(self) -> dict[str, str]:
        """What was remembered, but for what each store has of its own."""

    def recall(self, name: str) -> str | None:
        """What was remembered."""

    def stamp(self) -> int:
        """Differs from before when another connection or process has committed since."""

    def figures(self) -> Figures: ...

    def misindexed(self, documents: Mapping[int, Document]) -> list[int]:
        """The positions under which searching finds anything else than these documents."""

    def problems(self) -> list[str]:
        """What does not hold together in the database itself; may take long.

        What can be told by the other methods is not looked at: registry.checking does that for every implementation.
        """

    def close(self) -> None: ...


def batched(items: Iterable[_Result], count: int) -> Iterator[list[_Result]]:
    """In lists of ``count`` at most."""
    rest = iter(items)
    while some := list(islice(rest, count)):
        yield some


def transact(storage: Storage, action: Callable[[Writing], _Result]) -> _Result:
    """What ``action`` returned, once that is stored. It may be called several times.

    Raises what it raises, and Overloaded when the last attempt lost too: then it may be stored or not, and whoever
    calls again must get the same answer as the first time.
    """
    began = time.monotonic()
    for attempt in range(_ATTEMPTS):
        try:
            with storage.writing() as writing:
                result = action(writing)
        except Overloaded:
            if attempt + 1 == _ATTEMPTS or time.monotonic() - began > _PATIENCE:
                raise
            time.sleep(random.uniform(0, _PAUSE * 2 ** (attempt + 1)))  # noqa: S311
        else:
            return result
    raise AssertionError  # the last attempt returns or raises
