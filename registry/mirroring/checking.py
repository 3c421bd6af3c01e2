"""Whether a registry may show these entries: each against the keys of its owner at that place. SPEC.md section 23.2.

What it is not: word that they continue what is stored, or that they are under a checkpoint: see following.
The rule it keeps: what ``check`` gives was verified, in order and without a gap, whatever the bytes were. It needs
no database and no connection, so that several can work in processes of their own (registry.mirroring.pool).

    checker = Checker(authority, envelopes)
    for entry in checker.check(message, now): ...
"""

from collections.abc import Iterable
from typing import NamedTuple

from hanse import trust, wire
from hanse.errors import BrokenChain, HanseError, InvalidInput, VerificationFailed, WrongContent
from hanse.limits import CERTIFICATE_BACKDATE
from hanse.model.envelope import Envelope, PayloadType
from hanse.rpc import tls
from hanse.signing import is_signed_by
from hanse.transparency import membership_leaf
from hanse.trust import VerifiedOrganization
from hanse.v1 import record_pb2, registry_pb2
from registry.accept import Candidate, OrganizationCandidate, examine


class Record(NamedTuple):
    """A version that its owner signed. ``document``: the fields of one, None for a tombstone."""

    position: int
    key: str
    version: int
    digest: bytes
    previous: bytes
    issued_at: int
    envelope: bytes
    document: tuple[str, str, str, str, str] | None


class Organization(NamedTuple):
    """The next version of an organization's record."""

    position: int
    prefix: str
    version: int
    digest: bytes
    envelope: bytes


class Head(NamedTuple):
    """A membership that the registry stated."""

    position: int
    version: int
    envelope: bytes
    leaf: bytes


class Certificate(NamedTuple):
    """One that the league's authority issued."""

    position: int
    prefix: str
    issued_at: int
    der: bytes


Entry = Record | Organization | Head | Certificate


class Checker:
    """Knows the organizations as they are at one place of the log, and goes on from there."""

    def __init__(self, authority: bytes, organizations: Iterable[bytes]) -> None:
        """``organizations``: the newest record of each, which were verified before."""
        self._authority = wire.decode_authority(authority)
        self._owners: dict[str, VerifiedOrganization] = {}
        self.follow(organizations)

    def follow(self, organizations: Iterable[bytes]) -> None:
        """Takes over envelopes of organization records that others check; older ones do nothing."""
        for each in organizations:
            envelope = wire.decode_envelope(each)
            record = wire.decode_organization(envelope.payload)
            known = self._owners.get(str(record.prefix))
            if known is None or known.record.version < record.version:
                self._owners[str(record.prefix)] = VerifiedOrganization(record, envelope, envelope.digest)

    def check(self, message: bytes, after: int, now: int) -> list[Entry]:
        """The entries of a serialized WatchResponse that come after a position. Raises VerificationFailed."""
        found: list[Entry] = []
        position = after
        try:
            changes = wire.parse(registry_pb2.WatchResponse, message).changes
            for change in changes:
                if change.position <= after:
                    continue
                position += 1
                if change.position != position:
                    raise WrongContent("it is left out of what is shown")
                found.append(self._entry(change, now))
        except VerificationFailed as error:
            raise type(error)(f"entry {position:,} of the registry's log does not hold: {error}") from None
        except HanseError as error:
            raise WrongContent(f"entry {position:,} of the registry's log does not hold: {error}") from None
        return found

    def _entry(self, change: registry_pb2.Change, now: int) -> Entry:
        if change.certificate:
            return self._certificate(change.position, change.certificate)
        envelope = wire.envelope_from_message(change.envelope)
        match envelope.payload_type:
            case PayloadType.RECORD:
                return self._record(change.position, envelope, now)
            case PayloadType.ORGANIZATION:
                return self._organization(change.position, envelope, now)
            case PayloadType.MEMBERSHIP:
                return self._head(change.position, envelope)
        raise WrongContent("it is of a kind that is in no registry's log")

    def _record(self, position: int, envelope: Envelope, now: int) -> Record:
        prefix = wire.parse(record_pb2.ObjectRecord, envelope.payload).id.partition("/")[0].lower()
        owner = self._owners.get(prefix)
        if owner is None:
            raise WrongContent("it is of an organization that the log does not have")
        examined = examine(envelope, owner.record.prefix, owner, now)
        if not isinstance(examined, Candidate):
            raise WrongContent(getattr(examined, "message", "it is no record"))
        record, document = examined.record, examined.document
        texts = None
        if document is not None:
            texts = (document.title, document.description, document.subjects, document.creators, document.facets)
        encoded = wire.encode_envelope(envelope)
        return Record(
            position, record.id.key, record.version, examined.digest, record.previous, record.issued_at, encoded, texts
        )

    def _organization(self, position: int, envelope: Envelope, now: int) -> Organization:
        claimed = wire.decode_organization(envelope.payload)
        prefix = str(claimed.prefix)
        known = self._owners.get(prefix)
        if not claimed.prefix.is_under(self._authority.root):
            raise WrongContent(f"{prefix} is not under {self._authority.root}")
        if known is None:
            verified = trust.chain([envelope], pinned=None, now=now)
        else:
            examined = examine(envelope, claimed.prefix, known, now)
            if isinstance(examined, OrganizationCandidate) and examined.version != known.record.version + 1:
                raise BrokenChain(f"version {claimed.version} of {prefix} does not follow {known.record.version}")
            verified = trust.organization(envelope, pinned=known, now=now)
        assert verified is not None  # noqa: S101 - there was one
        self._owners[prefix] = verified
        return Organization(position, prefix, claimed.version, verified.digest, wire.encode_envelope(envelope))

    def _head(self, position: int, envelope: Envelope) -> Head:
        if not is_signed_by(envelope, self._authority.registry_key):
            raise WrongContent("it states a membership that the registry did not sign")
        version, members_sha256 = wire.decode_membership_head(envelope.payload)
        return Head(position, version, wire.encode_envelope(envelope), membership_leaf(version, members_sha256))

    def _certificate(self, position: int, der: bytes) -> Certificate:
        if not tls.is_issued_by(self._authority.ca_certificate, der):
            raise WrongContent("it is a certificate that the league's authority did not sign")
        certificate = tls.read_certificate(der)
        prefix = certificate.organization or certificate.mirror
        if prefix is None or str(prefix) not in self._owners:
            raise WrongContent("it is a certificate for nobody of this league")
        return Certificate(position, str(prefix), certificate.not_before + CERTIFICATE_BACKDATE, der)


def organizations_in(message: bytes) -> list[bytes]:
    """The envelopes of organization records in a serialized WatchResponse, unverified. Raises InvalidInput."""
    if PayloadType.ORGANIZATION.encode() not in message:  # of nearly all messages of a long log
        return []
    return [
        change.envelope.SerializeToString()
        for change in wire.parse(registry_pb2.WatchResponse, message).changes
        if change.envelope.payload_type == PayloadType.ORGANIZATION
    ]


def last_position(message: bytes) -> int:
    """Of a serialized WatchResponse. Raises InvalidInput."""
    changes = wire.parse(registry_pb2.WatchResponse, message).changes
    if not changes:
        raise InvalidInput("the registry shows a change that is none")
    return changes[-1].position
