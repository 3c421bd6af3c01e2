"""The registry's log as its readers check it: leaves, checkpoints, what was seen before. Pure. SPEC.md section 21.

What it is not: word that a record is the newest, or that nothing is missing from what was asked for. It makes what
the registry says the same for everybody and for ever.
Sources: https://c2sp.org/tlog-checkpoint, https://c2sp.org/tlog-cosignature

    note = sign(Checkpoint(origin(authority), size, root), key, now)
    newer = follow(older, read(note, authority, now=now), proof)
    included(record_leaf(envelope), inclusion, newer.checkpoint)
"""

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum
from hashlib import sha256

from hanse import cosigning, limits, merkle, wire
from hanse.cosigning import WitnessKey
from hanse.errors import BadSignature, BrokenChain, InvalidInput, RolledBack, WrongContent
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import leaf_hash
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.organization import Authority
from hanse.model.resolution import Change
from hanse.signing import SigningKey

_ED25519 = b"\x01"
_ORIGIN_DIGITS = 16


class Kind(IntEnum):
    """The first byte of a leaf."""

    RECORD = 1
    ORGANIZATION = 2
    MEMBERSHIP = 3
    CERTIFICATE = 4


def leaf_of(envelope: Envelope) -> bytes:
    """The leaf of a record, a tombstone, an organization record or a membership head. Raises InvalidInput."""
    match envelope.payload_type:
        case PayloadType.RECORD:
            return digest_leaf(Kind.RECORD, envelope.digest)
        case PayloadType.ORGANIZATION:
            return digest_leaf(Kind.ORGANIZATION, envelope.digest)
        case PayloadType.MEMBERSHIP:
            return membership_leaf(*wire.decode_membership_head(envelope.payload))
    raise InvalidInput("only records, organization records and the membership are in a registry's log")


def leaf_of_change(change: Change) -> bytes:
    """The leaf of what Watch shows. Raises InvalidInput."""
    return certificate_leaf(change.certificate) if change.envelope is None else leaf_of(change.envelope)


def digest_leaf(kind: Kind, digest: bytes) -> bytes:
    """33 bytes. Neither what was signed nor by whom: that is for members, who ask the registry."""
    return bytes((kind,)) + digest


def membership_leaf(version: int, members_sha256: bytes) -> bytes:
    """Without the time of the head, which is signed anew with each answer: all heads of one version have one leaf."""
    return digest_leaf(Kind.MEMBERSHIP, sha256(version.to_bytes(8, "big") + members_sha256).digest())


def certificate_leaf(certificate: bytes) -> bytes:
    """The leaf of a member certificate (DER)."""
    return digest_leaf(Kind.CERTIFICATE, sha256(certificate).digest())


def origin(authority: Authority) -> str:
    """The name of a league's log. Two leagues may have one root, hence the fingerprint."""
    return f"{authority.root}.registry.hanse.internal/log/{authority.fingerprint.hex()[:_ORIGIN_DIGITS]}"


def verifier_key(authority: Authority) -> str:
    """What other software takes to verify the log's notes: <https://c2sp.org/signed-note>, "verifier keys"."""
    name, key = origin(authority), authority.registry_key
    encoded = base64.b64encode(_ED25519 + key.raw).decode()
    return f"{name}+{notes.key_hash(name, key).hex()}+{encoded}"


@dataclass(frozen=True, slots=True)
class Signed:
    """A checkpoint that the registry signed at ``at`` (Unix seconds), and the note that says so."""

    checkpoint: Checkpoint
    at: int
    note: str


@dataclass(frozen=True, slots=True)
class Inclusion:
    """That leaf ``index`` (from 0) is in the log: the path from it to the root."""

    index: int
    path: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Shown:
    """What a registry shows of its log: a signed note, and that it continues the tree of ``since`` leaves.

    With ``until``, that the tree of so many does.
    """

    note: str
    since: int
    consistency: tuple[bytes, ...]
    until: int = 0


def sign(checkpoint: Checkpoint, key: SigningKey, now: int) -> str:
    """A signed note with two signatures: the log's own, and a dated one, so that nobody is shown an old one as new."""
    return notes.sign(checkpoint, key) + cosigning.sign(checkpoint, checkpoint.origin, key, now)


def verify(note: str, authority: Authority) -> Signed:
    """A checkpoint of the league's log, of any age. Raises BadSignature, WrongContent."""
    try:
        found = notes.read(note, origin(authority), [authority.registry_key])
    except (BadSignature, WrongContent) as error:
        raise type(error)(f"the registry's log: {error}") from None
    own = WitnessKey(found.origin, authority.registry_key)
    try:
        times = cosigning.dates(note, (own,))
    except BadSignature:
        raise BadSignature("the registry's log: a checkpoint has a date that the registry did not sign") from None
    if not times:
        raise WrongContent("the registry's log: a checkpoint has no date")
    return Signed(found, times[own], note)


def read(note: str, authority: Authority, *, now: int) -> Signed:
    """One that was made just now. Raises BadSignature, WrongContent; RolledBack for an old one."""
    found = verify(note, authority)
    if found.at > now + limits.CLOCK_SKEW:
        raise WrongContent("the registry's log: a checkpoint is dated in the future: is this machine's clock right?")
    if found.at < now - limits.CLOCK_SKEW - limits.CHECKPOINT_AGE:
        raise RolledBack(
            f"the registry shows a stale checkpoint of its log, {now - found.at:,} s old: it hides what came after, "
            "or this machine's clock is wrong"
        )
    return found


def follow(older: Signed | None, newer: Signed, shown: Shown) -> Signed:
    """``newer``, if it continues what was seen. Raises RolledBack, BrokenChain: the two contradict each other.

    WrongContent when no proof came that could tell: that is no contradiction yet, only a refusal to show.
    """
    if older is None:
        return newer
    before, after = older.checkpoint, newer.checkpoint
    if after.size < before.size:
        raise RolledBack(
            f"the registry's log has {after.size:,} entries, and had {before.size:,} when it was last seen: "
            "it was rolled back"
        )
    if after.size == before.size:
        if after.root != before.root:
            raise BrokenChain(
                f"the registry's log has two different histories of {after.size:,} entries: it was forked"
            )
        return newer
    if before.size == 0:
        return newer
    if shown.since != before.size:
        raise WrongContent(
            f"the registry does not prove that its log of {after.size:,} entries continues the one of "
            f"{before.size:,} that was seen"
        )
    try:
        merkle.verify_consistency(before.size, before.root, after.size, after.root, shown.consistency)
    except BrokenChain:
        raise BrokenChain(
            f"the registry's log of {after.size:,} entries does not continue the one of {before.size:,} that was "
            "seen: entries were altered, removed or re-ordered, or it was forked"
        ) from None
    return newer


def forked(one: Checkpoint, other: Checkpoint, proof: Sequence[bytes] = ()) -> bool:
    """Whether no log can have both, whoever signed them: the first leaves of the larger are not the smaller's.

    Of two sizes ``proof`` shows it, of the larger: see merkle.first_root. Without one that does, they may be one log.
    """
    small, large = sorted((one, other), key=lambda each: each.size)
    if small.origin != large.origin or small.size == large.size:
        return small.origin == large.origin and small.root != large.root
    found = merkle.first_root(small.size, large.size, large.root, proof)
    return found is not None and found != small.root


def included(leaf: bytes, inclusion: Inclusion, checkpoint: Checkpoint, what: str) -> None:
    """That the log has the leaf. ``what`` names it in the error. Raises WrongContent."""
    try:
        merkle.verify_inclusion(leaf_hash(leaf), inclusion.index, checkpoint.size, inclusion.path, checkpoint.root)
    except WrongContent as error:
        raise WrongContent(
            f"the registry does not prove that {what} is in its log: {error}. It gives you what it does not show others"
        ) from None
