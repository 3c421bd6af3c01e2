"""What may be believed: bytes, the keys that are known and the time come in; a verified fact or an error comes out.

Pure: no clock, file or socket. Every rule of SPEC.md sections 4 to 8 that protects against a lying registry
or peer stands here and nowhere else. Errors are VerificationFailed: their text names what is wrong.

    north = organization(envelope, pinned=None, now=now)
    trial = record(envelope, north.record, now=now)
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from hashlib import sha256

from hanse import limits, wire
from hanse.errors import (
    BadSignature,
    BrokenChain,
    InvalidInput,
    NotAuthenticated,
    RolledBack,
    VerificationFailed,
    WrongContent,
)
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId, PublicKey
from hanse.model.manifest import Manifest
from hanse.model.organization import Authority, Membership, OrganizationRecord, Pass, Renewal
from hanse.model.record import ObjectRecord
from hanse.signing import is_signed_by


@dataclass(frozen=True, slots=True)
class VerifiedOrganization:
    """An organization record whose signatures and continuity were checked."""

    record: OrganizationRecord
    envelope: Envelope
    digest: bytes


@dataclass(frozen=True, slots=True)
class VerifiedRecord:
    """An object record that its owner signed; ``signed_by`` says with which of its keys."""

    record: ObjectRecord
    envelope: Envelope
    digest: bytes
    signed_by: KeyId


@dataclass(frozen=True, slots=True)
class Seen:
    """The newest version of an object that was seen before: nothing older is accepted, and nothing after a tombstone.

    ``issued_at`` (Unix seconds) is what it said of itself: a later version is not dated before it.
    """

    version: int
    digest: bytes
    issued_at: int = 0
    withdrawn: bool = False


def _expect_type(envelope: Envelope, kind: PayloadType) -> None:
    if envelope.payload_type != kind:
        raise BadSignature(f"a signature for {envelope.payload_type!r} was offered as one for {kind.value!r}")


def organization(
    envelope: Envelope, *, pinned: VerifiedOrganization | None, now: int, told_key: KeyId | None = None
) -> VerifiedOrganization:
    """One organization record: signed by its current key, and continuing the pinned one if there is one.

    ``told_key`` is a key id that was confirmed outside the network: it must be current, or have been. That it has
    been is a claim of the record's until the chain from version 1 proves it: see ``chain``.
    Raises BadSignature, BrokenChain, RolledBack, WrongContent.
    """
    _expect_type(envelope, PayloadType.ORGANIZATION)
    try:
        record = wire.decode_organization(envelope.payload)
    except InvalidInput as error:
        raise WrongContent(f"an organization record does not parse: {error}") from None
    name, digest = record.prefix, envelope.digest
    if not is_signed_by(envelope, record.current_key):
        raise BadSignature(f"the record of {name} is not signed by the key that it names, {record.current_key.key_id}")
    if told_key is not None and record.key(told_key) is None:
        raise BrokenChain(
            f"{name} has key {record.current_key.key_id}, but you pinned {told_key}. Somebody may be impersonating "
            f"{name}: ask them on another channel, then `hanse trust {name} KEYID` if their key is really another"
        )
    if record.issued_at > now + limits.CLOCK_SKEW:
        raise WrongContent(f"the record of {name} is dated in the future: is this machine's clock right?")
    if record.version == 1 and len(record.keys) > 1:
        # Otherwise an impostor's first record could list the true key as one of its own from before.
        raise BrokenChain(f"the first record of {name} names keys from before it")
    if pinned is None:
        return VerifiedOrganization(record, envelope, digest)
    before = pinned.record
    if name != before.prefix:
        raise WrongContent(f"a record of {name} was offered for {before.prefix}")
    if record.version < before.version:
        raise RolledBack(
            f"version {record.version} of the record of {name} was offered, but {before.version} was seen before"
        )
    if record.version == before.version:
        if digest != pinned.digest:
            raise BrokenChain(f"{name} has two different records of version {record.version}: somebody lies")
        return pinned
    if record.version != before.version + 1 or record.previous != pinned.digest:
        raise BrokenChain(
            f"version {record.version} of the record of {name} does not continue version {before.version}"
        )
    if record.current_key != before.current_key:
        if not is_signed_by(envelope, before.current_key):
            raise BrokenChain(
                f"{name} is offered with the new key {record.current_key.key_id}, which its known key "
                f"{before.current_key.key_id} did not sign. Somebody may be impersonating {name}: ask them on "
                f"another channel, then `hanse trust {name} KEYID` if they really lost their key"
            )
        if len(record.keys) < 2 or record.keys[1].public_key != before.current_key:
            raise BrokenChain(f"the new record of {name} leaves out its previous key")
        history = record.keys[2:]
    else:
        history = record.keys[1:]
    if history != before.keys[1:]:
        raise BrokenChain(f"the new record of {name} alters the history of its keys")
    return VerifiedOrganization(record, envelope, digest)


def chain(
    envelopes: Iterable[Envelope], *, pinned: VerifiedOrganization | None, now: int, told_key: KeyId | None = None
) -> VerifiedOrganization | None:
    """Follows consecutive organization records, oldest first, from the pinned one. None if there are none.

    Without a pin the chain begins at version 1. Raises what ``organization`` raises.
    """
    known = pinned
    for envelope in envelopes:
        before, known = known, organization(envelope, pinned=known, now=now)
        if before is None and known.record.version != 1:
            raise BrokenChain(f"the history of {known.record.prefix} begins with version {known.record.version}, not 1")
    if known is not None and told_key is not None and known.record.key(told_key) is None:
        organization(known.envelope, pinned=None, now=now, told_key=told_key)
    return known


def record(
    envelope: Envelope,
    owner: OrganizationRecord,
    *,
    now: int,
    expected: Identifier | None = None,
    seen: Seen | None = None,
) -> VerifiedRecord:
    """An object record: signed by a key that its owner's record names, and no older than what was seen.

    A previous key counts for records that were issued while it was current.
    Raises BadSignature, BrokenChain, RolledBack, WrongContent.
    """
    _expect_type(envelope, PayloadType.RECORD)
    try:
        found = _decoded_record(envelope.payload)
    except InvalidInput as error:
        raise WrongContent(f"an object record does not parse: {error}") from None
    if expected is not None and found.id != expected:
        raise WrongContent(f"a record of {found.id} was offered for {expected}")
    if found.id.prefix != owner.prefix:
        raise WrongContent(f"{owner.prefix} cannot sign for {found.id}")
    signed_by = signing_key(envelope, owner, found.issued_at)
    if signed_by is None:
        raise BadSignature(
            f"the record of {found.id} is not signed by {owner.prefix}: no valid signature by a key of its own"
        )
    if found.issued_at > now + limits.CLOCK_SKEW:
        raise WrongContent(f"the record of {found.id} is dated in the future: is this machine's clock right?")
    digest = envelope.digest
    if seen is not None:
        if found.version < seen.version:
            raise RolledBack(
                f"version {found.version} of {found.id} was offered, but version {seen.version} was seen before: "
                "the registry or the peer holds newer versions back"
            )
        if found.version == seen.version and digest != seen.digest:
            raise BrokenChain(f"{found.id} has two different records of version {found.version}: its owner signed both")
        if found.version == seen.version + 1 and found.previous != seen.digest:
            raise BrokenChain(f"version {found.version} of {found.id} does not continue version {seen.version}")
        if found.version > seen.version and seen.withdrawn:
            raise BrokenChain(
                f"version {found.version} of {found.id} was offered, but version {seen.version} withdrew it: "
                "nothing follows that"
            )
        if found.issued_at < seen.issued_at:
            # Otherwise a key that was rotated away could go on, by a date at which it was current.
            raise BrokenChain(
                f"version {found.version} of {found.id} is dated before version {seen.version}, which was seen: "
                "somebody may be using an old key of its owner"
            )
    return VerifiedRecord(found, envelope, digest, signed_by)


def signing_key(envelope: Envelope, owner: OrganizationRecord, issued_at: int) -> KeyId | None:
    """Which key of the organization signed it; a previous one counts for what was dated while it was current."""
    for key in owner.keys:
        in_time = key.valid_until is None or issued_at <= key.valid_until
        if in_time and is_signed_by(envelope, key.public_key):
            return key.public_key.key_id
    return None


def manifest(envelope: Envelope, salt: bytes, promised: ObjectRecord, owner: OrganizationRecord) -> Manifest:
    """The manifest that a record is committed to. Raises BadSignature, WrongContent."""
    _expect_type(envelope, PayloadType.MANIFEST)
    try:
        found = _decoded_manifest(envelope.payload)
    except InvalidInput as error:
        raise WrongContent(f"a manifest does not parse: {error}") from None
    if found.id != promised.id or found.version != promised.version:
        raise WrongContent(
            f"a manifest of {found.id} version {found.version} was offered for {promised.id} version {promised.version}"
        )
    if commitment(salt, envelope) != promised.commitment:
        raise WrongContent(f"the manifest of {promised.id} is not the one that its record is committed to")
    if signing_key(envelope, owner, found.issued_at) is None:
        raise BadSignature(f"the manifest of {promised.id} is not signed by {owner.prefix}")
    return found


def commitment(salt: bytes, manifest_envelope: Envelope) -> bytes:
    """What a public record says of a manifest: SHA-256(salt || digest). Nobody can test a guess without the salt."""
    return sha256(salt + manifest_envelope.digest).digest()


def authority(data: bytes, fingerprint: bytes) -> Authority:
    """A league's authority, if it is the one of the invitation. Raises VerificationFailed."""
    if sha256(data).digest() != fingerprint:
        raise VerificationFailed(
            "the registry at this address is not the one that invited you: its fingerprint is another. "
            "Do not go on; ask whoever sent the invitation"
        )
    try:
        return wire.decode_authority(data)
    except InvalidInput as error:
        raise WrongContent(f"the league's authority does not parse: {error}") from None


def membership(
    head: Envelope, members: bytes, league: Authority, *, now: int, seen: Membership | None = None
) -> Membership:
    """Who belongs to the league. Raises BadSignature, RolledBack, WrongContent."""
    _expect_type(head, PayloadType.MEMBERSHIP)
    if not is_signed_by(head, league.registry_key):
        raise BadSignature("the membership is not signed by the league's registry")
    try:
        found, meant_for = wire.decode_membership(head.payload, members)
    except InvalidInput as error:
        raise WrongContent(f"the membership does not parse: {error}") from None
    if meant_for != league.fingerprint:
        raise WrongContent("the membership is that of another league")
    if found.issued_at > now + limits.CLOCK_SKEW:
        raise WrongContent("the membership is dated in the future: is this machine's clock right?")
    # Of several processes of one registry each has signed the same version at its own time.
    oldest = (seen.version, seen.issued_at - limits.CLOCK_SKEW) if seen is not None else (0, 0)
    if (found.version, found.issued_at) < oldest:
        raise RolledBack("the registry offers an older membership than it did before")
    return found


def caller(envelope: Envelope, current_key: PublicKey, league: bytes, *, now: int) -> Pass:
    """A member's pass to the registry. Raises NotAuthenticated."""
    _expect_pass(envelope, PayloadType.PASS, current_key)
    statement = wire.decode_pass(envelope.payload)
    _expect_now(statement.league, league, statement.issued_at, statement.expires_at, now)
    return statement


def successor(
    envelope: Envelope,
    organizations: Sequence[Envelope],
    pinned: VerifiedOrganization,
    league: bytes,
    *,
    now: int,
) -> Pass:
    """The pass of a member whose newest key is not known: its records, consecutive, lead there from the pinned one.

    Those up to the pinned one may be among them. SPEC.md section 9.9. Raises NotAuthenticated.
    """
    try:
        # Before the chain is followed: whoever has not the last key costs one signature check, however long it is.
        claimed = wire.decode_organization(organizations[-1].payload) if organizations else pinned.record
        statement = caller(envelope, claimed.current_key, league, now=now)
        digests = [each.digest for each in organizations]
        following = organizations[digests.index(pinned.digest) + 1 :] if pinned.digest in digests else organizations
        chain(following, pinned=pinned, now=now)
    except (InvalidInput, VerificationFailed):
        # Which version and which key are known here is told to members only.
        raise NotAuthenticated(
            "the organization records that came with the call do not lead from the newest that the registry has to the "
            "key that signed it: they lack one between, or the registry has others. Ask its operator"
        ) from None
    return statement


def renewal(envelope: Envelope, current_key: PublicKey, league: bytes, *, now: int) -> Renewal:
    """A member's request for a fresh certificate. Raises NotAuthenticated."""
    _expect_pass(envelope, PayloadType.RENEWAL, current_key)
    request = wire.decode_renewal(envelope.payload)
    _expect_now(request.league, league, request.issued_at, request.issued_at + limits.PASS_LIFE, now)
    return request


def _expect_pass(envelope: Envelope, kind: PayloadType, current_key: PublicKey) -> None:
    if envelope.payload_type != kind or not is_signed_by(envelope, current_key):
        raise NotAuthenticated(
            "the call is not signed by the member's current key, as far as the registry knows. If its operator says "
            "that it was restored from a backup: `hanse accept-registry`. Else the key was changed just now (try "
            "again), or in another copy of this home"
        )


def _expect_now(meant_for: bytes, league: bytes, issued_at: int, expires_at: int, now: int) -> None:
    if meant_for != league:
        raise NotAuthenticated("the pass is meant for another league")
    if not issued_at - limits.CLOCK_SKEW <= now <= min(expires_at, issued_at + limits.PASS_LIFE) + limits.CLOCK_SKEW:
        raise NotAuthenticated(
            f"the caller's clock and the registry's are {abs(now - issued_at)} s apart, and at most "
            f"{limits.CLOCK_SKEW} s are allowed: set the clock"
        )


def key_holder(prefix: Prefix, spki_names: Iterable[bytes], peer: bytes) -> None:
    """That a peer's TLS key is one that the organization's own record names. Raises NotAuthenticated."""
    if peer not in spki_names:
        raise NotAuthenticated(
            f"the certificate says {prefix}, but the record that {prefix} signed names another key: "
            "the certificate's issuer alone is not believed"
        )


# Whoever fetches often meets the same few.
_decoded_record = lru_cache(64)(wire.decode_record)
_decoded_manifest = lru_cache(64)(wire.decode_manifest)
