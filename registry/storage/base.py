"""What the registry asks of a database. Every implementation runs the same contract tests.

Reading. Every method may be called from any thread at any time; it sees what was committed before it began,
and never waits for a writer. Envelopes are bytes here, as they came; they are not verified again.

Writing. ``writing()`` opens one transaction: all of it or nothing, and durable (on the disk, not in a cache)
when the block has ended without an error. One at a time: it waits for another process's, up to a few seconds,
then raises Overloaded, which is worth trying again. What is read inside sees what was written inside. Only
the thread that opened it may use it, and only until the block ends.

The log. Whatever is put among the changes, and every certificate, takes the next position and is a leaf of the
log, in that order: position p is leaf p - 1. Leaves, tree and change are one transaction.

Errors. NoSpace, Overloaded and StorageFailed; nothing was stored then. After NoSpace reading goes on. No other
error escapes.

Closing. Whoever opened it closes it, once; after that nothing may be called.
"""

from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import Subtrees
from registry.accept import Stored
from registry.index import Document, Question


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
    """``spent_by`` is the digest of the organization record that it let in, None while it is unspent."""

    prefix: Prefix
    display_name: str
    expires_at: int
    spent_by: bytes | None


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

    def remember(self, name: str, value: str) -> None:
        """Keeps a small text under a name, replacing what was there."""


class Storage(Protocol):
    """Everything that one registry keeps."""

    def writing(self) -> AbstractContextManager[Writing]: ...

    def resolve(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes]]:
        """Per key whether it is withdrawn, and the newest envelope; unknown keys are left out. The hot path."""

    def organizations(self, prefix: Prefix, after_version: int) -> list[StoredOrganization]:
        """The chain after a version, oldest first; empty for an unknown prefix."""

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

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        """Positions, ``as_of`` at most, of active newest records that match.

        The best first, of equals the newest; without a text the newest first.
        """

    def records_at(self, positions: Sequence[int]) -> list[bytes]:
        """The newest envelopes of the objects that were published at these positions; withdrawn ones are left out."""

    def recall(self, name: str) -> str | None:
        """What was remembered."""

    def stamp(self) -> int:
        """Differs from before when another connection or process has committed since."""

    def figures(self) -> Figures: ...

    def problems(self) -> list[str]:
        """What does not hold together in the database itself; may take long."""

    def close(self) -> None: ...
