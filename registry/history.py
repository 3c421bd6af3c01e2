"""A registry's log, read again from its first entry: what each is, and whether a registry could have let it in there.

Every organization's chain is followed link by link; every record continues the version before it and is signed by a key
that its owner had when it was stored; every change of the membership is the registry's, every certificate the
authority's. What is kept in memory is a line an organization and the right edge of the tree; what is known of objects
comes from whoever asks, who has it on a disk.

    history = History(authority, now)
    for entry in history.follow(changes, known=writing.stored):
        ...
    history.tree.root()                # the RFC 6962 root of all that was followed

What it is not: word that nothing is missing after the last entry. A signed checkpoint says that.
"""

import os
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from hanse import limits, transparency, trust, wire
from hanse.errors import BadSignature, BrokenChain, HanseError, InvalidInput, VerificationFailed, WrongContent
from hanse.merkle import RootBuilder, leaf_hash
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority, OrganizationRecord
from hanse.model.record import ObjectRecord, Status
from hanse.rpc import tls
from hanse.signing import is_signed_by
from hanse.transparency import Kind
from hanse.trust import VerifiedOrganization
from registry import index
from registry.accept import Stored
from registry.storage.base import Certificate, Change, NewRecord, StoredOrganization

_NOTHING = index.Document("", "", "", "", "")

Known = Callable[[Sequence[str]], Mapping[str, Stored]]
"""The newest version of objects, by their keys, before the entries that are followed now."""

Problem = Callable[[int, HanseError], None]
"""Told the position of an entry, and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Organization:
    """A version of an organization's record."""

    prefix: Prefix
    stored: StoredOrganization
    issued_at: int


@dataclass(frozen=True, slots=True)
class Membership:
    """A change of the membership. ``members_sha256`` is of the serialized list that it names."""

    version: int
    issued_at: int
    members_sha256: bytes
    envelope: bytes


@dataclass(frozen=True, slots=True)
class Entry:
    """What stands at a position, and the data of its leaf."""

    position: int
    leaf: bytes
    content: NewRecord | Organization | Membership | Certificate


@dataclass(frozen=True, slots=True)
class _Signed:
    """A record whose signature is still to be verified."""

    position: int
    envelope: Envelope
    record: ObjectRecord
    owner: OrganizationRecord


def _refuse(position: int, error: HanseError) -> None:
    kind = type(error) if isinstance(error, VerificationFailed) else WrongContent
    raise kind(f"the entry at position {position:,}: {error}")


class History:
    """What was followed so far. Not for two threads at once. ``close`` ends the threads that verify."""

    def __init__(
        self, authority: Authority, now: int, *, signatures: bool = True, documents: bool = True,
        problem: Problem = _refuse,
    ) -> None:  # fmt: skip
        """Without ``signatures`` records' and certificates' are believed; without ``documents`` they are empty.

        ``problem`` may return: then what is wrong is followed as if it were right.
        """
        self._authority = authority
        self._now = now
        self._signatures, self._documents = signatures, documents
        self._problem = problem
        self._pool = ThreadPoolExecutor(os.cpu_count() or 1, "verify") if signatures else None
        self.tree = RootBuilder()
        self.size = 0
        self.owners: dict[Prefix, VerifiedOrganization] = {}
        self.joined: dict[Prefix, int] = {}
        self.membership: Membership | None = None
        self.counts: Counter[Kind] = Counter()

    def close(self) -> None:
        if self._pool is not None:
            self._pool.shutdown()

    def follow(self, changes: Sequence[Change], known: Known) -> list[Entry]:
        """The next entries. Raises WrongContent when one is missing or does not parse; else what ``problem`` raises."""
        found: list[Entry] = []
        unverified: list[_Signed] = []
        envelopes = [self._decoded(change, self.size + number) for number, change in enumerate(changes, 1)]
        records = [self._record(change.position, each) for change, each in zip(changes, envelopes, strict=True)]
        ahead = dict(known(list({record.id.key for record in records if record is not None})))
        for change, envelope, record in zip(changes, envelopes, records, strict=True):
            if envelope is None:
                entry = self._certificate(change)
            elif record is not None:
                entry = self._object(change, envelope, record, ahead, unverified)
            elif envelope.payload_type == PayloadType.ORGANIZATION:
                entry = self._organization(change, envelope)
            else:
                entry = self._membership(change, envelope)
            self.counts[Kind(entry.leaf[0])] += 1
            self.tree.add(leaf_hash(entry.leaf))
            found.append(entry)
        self.size += len(changes)
        self._verify(unverified)
        return found

    def _decoded(self, change: Change, expected: int) -> Envelope | None:
        if change.position != expected:
            raise WrongContent(f"position {change.position:,} comes where position {expected:,} should be")
        if change.is_certificate:
            return None
        try:
            envelope = wire.decode_envelope(change.content)
        except HanseError as error:
            raise WrongContent(f"the entry at position {change.position:,} does not parse: {error}") from None
        if envelope.payload_type not in (PayloadType.RECORD, PayloadType.ORGANIZATION, PayloadType.MEMBERSHIP):
            raise WrongContent(f"what is at position {change.position:,} belongs into no registry's log")
        return envelope

    def _record(self, position: int, envelope: Envelope | None) -> ObjectRecord | None:
        if envelope is None or envelope.payload_type != PayloadType.RECORD:
            return None
        try:
            return wire.decode_record(envelope.payload)
        except HanseError as error:
            raise WrongContent(f"the record at position {position:,} does not parse: {error}") from None

    def _object(
        self,
        change: Change,
        envelope: Envelope,
        record: ObjectRecord,
        ahead: dict[str, Stored],
        unverified: list[_Signed],
    ) -> Entry:
        key, digest, withdrawn = record.id.key, envelope.digest, record.status is Status.WITHDRAWN
        before = ahead.get(key)
        if before is not None and before.withdrawn:
            self._problem(change.position, BrokenChain(f"{record.id} goes on although it was withdrawn"))
        elif record.version != (newest := before.version if before else 0) + 1 or (
            before is not None and record.previous != before.digest
        ):
            self._problem(
                change.position,
                BrokenChain(f"version {record.version} of {record.id} does not continue version {newest}"),
            )
        if record.issued_at > self._now + limits.CLOCK_SKEW:
            self._problem(change.position, WrongContent(f"the record of {record.id} is dated in the future"))
        owner = self.owners.get(record.id.prefix)
        if owner is None:
            self._problem(change.position, BadSignature(f"a record of {record.id}, whose owner had not joined"))
        elif self._signatures:
            unverified.append(_Signed(change.position, envelope, record, owner.record))
        ahead[key] = Stored(record.version, digest, withdrawn)
        document = None if withdrawn else index.document(record) if self._documents else _NOTHING
        stored = NewRecord(key, record.version, digest, record.issued_at, change.content, document)
        return Entry(change.position, transparency.digest_leaf(Kind.RECORD, digest), stored)

    def _organization(self, change: Change, envelope: Envelope) -> Entry:
        try:
            told = wire.decode_organization(envelope.payload)
        except HanseError as error:
            raise WrongContent(f"the organization at position {change.position:,} does not parse: {error}") from None
        pinned = self.owners.get(told.prefix)
        verified = VerifiedOrganization(told, envelope, envelope.digest)
        try:
            if pinned is None and told.version != 1:
                raise BrokenChain(f"the history of {told.prefix} begins with version {told.version}, not 1")
            if pinned is not None and told.version <= pinned.record.version:
                raise BrokenChain(f"version {told.version} of the record of {told.prefix} comes again")
            verified = trust.organization(envelope, pinned=pinned, now=self._now)
        except HanseError as error:
            self._problem(change.position, error)
        self.owners[told.prefix] = verified
        self.joined.setdefault(told.prefix, told.issued_at)
        stored = StoredOrganization(told.version, verified.digest, change.content)
        leaf = transparency.digest_leaf(Kind.ORGANIZATION, verified.digest)
        return Entry(change.position, leaf, Organization(told.prefix, stored, told.issued_at))

    def _membership(self, change: Change, envelope: Envelope) -> Entry:
        try:
            version, issued_at, members, league = wire.decode_membership_statement(envelope.payload)
        except HanseError as error:
            raise WrongContent(f"the membership at position {change.position:,} does not parse: {error}") from None
        if not is_signed_by(envelope, self._authority.registry_key):
            self._problem(change.position, BadSignature("a membership that the league's registry did not sign"))
        elif league != self._authority.fingerprint:
            self._problem(change.position, WrongContent("a membership of another league"))
        if self.membership is not None and version <= self.membership.version:
            self._problem(change.position, BrokenChain(f"version {version} of the membership comes again, or too late"))
        self.membership = Membership(version, issued_at, members, change.content)
        return Entry(change.position, transparency.membership_leaf(version, members), self.membership)

    def _certificate(self, change: Change) -> Entry:
        try:
            read = tls.read_certificate(change.content)
            # A member's own, or that of its mirror: either ends with its prefix.
            prefix = read.organization or Prefix.parse(read.spiffe_id.rpartition("/")[2])
        except InvalidInput as error:
            raise WrongContent(f"the certificate at position {change.position:,} does not parse: {error}") from None
        if prefix not in self.owners:
            self._problem(change.position, WrongContent(f"a certificate for {prefix}, which had not joined"))
        if self._signatures and not tls.is_issued_by(self._authority.ca_certificate, change.content):
            self._problem(change.position, BadSignature(f"the league's authority did not issue this one of {prefix}"))
        issued = Certificate(prefix, read.not_before + limits.CERTIFICATE_BACKDATE, change.content)
        return Entry(change.position, transparency.certificate_leaf(change.content), issued)

    def _verify(self, unverified: Sequence[_Signed]) -> None:
        if self._pool is None:
            return
        share = -(-len(unverified) // (os.cpu_count() or 1)) or 1
        parts = [unverified[first : first + share] for first in range(0, len(unverified), share)]
        for wrong in self._pool.map(_wrongly_signed, parts):
            for each in wrong:
                self._problem(
                    each.position,
                    BadSignature(f"the record of {each.record.id} is not signed by a key that its owner had then"),
                )


def _wrongly_signed(some: Sequence[_Signed]) -> list[_Signed]:
    return [each for each in some if trust.signing_key(each.envelope, each.owner, each.record.issued_at) is None]
