"""May this envelope be stored? Pure: the envelope, who sends it, what is known and the time come in.

Two steps, so that the costly one needs no database: ``examine`` checks signature, owner and form; ``decide``
holds the version against what is stored. SPEC.md section 9.4.
"""

from dataclasses import dataclass
from enum import IntEnum

from hanse import limits, trust, wire
from hanse.errors import HanseError
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.record import ObjectRecord, Status
from hanse.trust import VerifiedOrganization
from registry.index import Document, document


class Code(IntEnum):
    """The numbers of ``PublishOutcome.Code``."""

    ACCEPTED = 1
    REFUSED = 2
    CONFLICT = 3
    TRY_AGAIN = 4


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one envelope; ``message`` says what to do when it was not accepted.

    ``wait`` is seconds after which to try again, ``pause`` that nothing else of the sender's is taken before.
    """

    digest: bytes
    code: Code
    message: str = ""
    wait: int = 0
    pause: bool = False


@dataclass(frozen=True, slots=True)
class Candidate:
    """A record that its owner signed with the current key. ``document`` is None for a tombstone."""

    record: ObjectRecord
    digest: bytes
    envelope: Envelope
    document: Document | None


@dataclass(frozen=True, slots=True)
class OrganizationCandidate:
    """An organization record of the sender's, to be held against the chain when its turn comes."""

    version: int
    digest: bytes
    envelope: Envelope


@dataclass(frozen=True, slots=True)
class Stored:
    """The newest version of an object that the registry has."""

    version: int
    digest: bytes
    withdrawn: bool


def examine(
    envelope: Envelope, sender: Prefix, owner: VerifiedOrganization, now: int
) -> Candidate | OrganizationCandidate | Outcome:
    """What can be said without looking at what is stored."""
    digest = envelope.digest
    if envelope.payload_type == PayloadType.ORGANIZATION:
        try:
            organization = wire.decode_organization(envelope.payload)
        except HanseError as error:
            return Outcome(digest, Code.REFUSED, f"an organization record does not parse: {error}")
        if organization.prefix != sender:
            return Outcome(digest, Code.REFUSED, f"{sender} cannot publish the record of {organization.prefix}")
        return OrganizationCandidate(organization.version, digest, envelope)
    if envelope.payload_type != PayloadType.RECORD:
        return Outcome(digest, Code.REFUSED, "only object records and organization records are published")
    try:
        verified = trust.record(envelope, owner.record, now=now)
    except HanseError as error:
        return Outcome(digest, _refusal(envelope, now), str(error))
    record = verified.record
    if verified.signed_by != owner.record.current_key.key_id:
        return Outcome(
            digest, Code.REFUSED, f"{record.id} is signed with a previous key of {sender}: sign it with the current one"
        )
    if len(envelope.payload) > limits.ENVELOPE_BYTES:
        return Outcome(digest, Code.REFUSED, f"a record has at most {limits.ENVELOPE_BYTES} bytes")
    indexed = document(record) if record.status is Status.ACTIVE else None
    return Candidate(record, digest, envelope, indexed)


def decide(candidate: Candidate, stored: Stored | None, known_digest: bytes | None) -> Outcome:
    """Whether it continues what is stored. ``known_digest``: of the stored record of the same version, if any."""
    record, digest = candidate.record, candidate.digest
    if known_digest is not None:
        if known_digest == digest:
            return Outcome(digest, Code.ACCEPTED)
        return Outcome(
            digest,
            Code.CONFLICT,
            f"another version {record.version} of {record.id} is here already: `hanse check` compares both",
        )
    if stored is not None and stored.withdrawn:
        return Outcome(digest, Code.REFUSED, f"{record.id} was withdrawn: an identifier is never used again")
    newest = stored.version if stored else 0
    if record.version != newest + 1:
        return Outcome(
            digest,
            Code.CONFLICT,
            f"version {record.version} of {record.id} does not follow version {newest}, the newest here: "
            "send those between first",
        )
    if stored is not None and record.previous != stored.digest:
        return Outcome(
            digest,
            Code.CONFLICT,
            f"version {record.version} of {record.id} does not continue the version {newest} here",
        )
    return Outcome(digest, Code.ACCEPTED)


def decide_organization(
    candidate: OrganizationCandidate,
    sender: Prefix,
    pinned: VerifiedOrganization,
    known_digest: bytes | None,
    now: int,
) -> VerifiedOrganization | Outcome:
    """The newest record of the sender's organization, or why it is not stored. Known versions are accepted again."""
    digest, version = candidate.digest, candidate.version
    if known_digest == digest:
        return Outcome(digest, Code.ACCEPTED)
    if known_digest is not None:
        return Outcome(digest, Code.CONFLICT, f"another version {version} of the record of {sender} is here already")
    if version > pinned.record.version + 1:
        return Outcome(
            digest,
            Code.CONFLICT,
            f"version {version} of the record of {sender} does not follow {pinned.record.version}",
        )
    try:
        return trust.organization(candidate.envelope, pinned=pinned, now=now)
    except HanseError as error:
        return Outcome(digest, _refusal(candidate.envelope, now), str(error))


def _refusal(envelope: Envelope, now: int) -> Code:
    """What is dated in the future will be right one day: a clock that was wrong costs nobody an object."""
    try:
        decode = wire.decode_record if envelope.payload_type == PayloadType.RECORD else wire.decode_organization
        issued_at = decode(envelope.payload).issued_at
    except HanseError:
        return Code.REFUSED
    return Code.TRY_AGAIN if issued_at > now + limits.CLOCK_SKEW else Code.REFUSED
