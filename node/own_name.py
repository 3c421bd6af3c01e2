"""Was this entry of the registry's log made in our name, and did we sign it off? Pure. SPEC.md section 25.

What it is not: a judge of others' entries, nor of whether the log is one (node.monitor). It holds an entry against what
this home has: its catalog, which has each version before it is published, and the chain of its own record.

    if concerns(change, own):
        judge(change, own, ledger)      # a Finding, or None
"""

from dataclasses import dataclass, replace
from enum import StrEnum
from hashlib import sha256
from typing import Protocol

from hanse import wire
from hanse.errors import InvalidInput
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import PublicKey
from hanse.model.organization import OrganizationRecord
from hanse.model.record import Status
from hanse.model.resolution import Change
from hanse.rpc import tls
from hanse.signing import is_signed_by

_STOLEN = (
    "unless another machine of yours made it, or this home was restored from a backup, somebody has your key: "
    "`hanse rotate-key`, and ask the registry's operator what else there is"
)
_INVENTED = (
    "nobody who checks believes it; ask the registry's operator, who put it there, and show it to other members: "
    "`hanse evidence export` has it"
)
_CERTIFIED = (
    "members' nodes refuse it, because your own record does not name the key; ask the registry's operator who got it, "
    "and show it to other members: `hanse evidence export` has it"
)


class Kind(StrEnum):
    """What was found: three in our name, and LOG where the log itself is not what was signed."""

    RECORD = "record"
    ORGANIZATION = "organization"
    CERTIFICATE = "certificate"
    LOG = "log"


@dataclass(frozen=True, slots=True)
class Finding:
    """What the owner did not sign off, at a position of Watch. ``name`` is the same wherever it stands.

    ``content``: the serialized Envelope, or the certificate (DER), as the registry showed it. ``path`` proves that it
    is an entry of the tree of ``size`` entries, with which that of ``note`` begins, as ``consistency`` proves; hashes
    one after the other. Of a LOG finding there is no path.
    """

    kind: Kind
    name: bytes
    position: int
    what: str
    remedy: str
    content: bytes = b""
    size: int = 0
    path: bytes = b""
    note: str = ""
    consistency: bytes = b""

    def proved(self, size: int, path: tuple[bytes, ...], note: str, consistency: tuple[bytes, ...]) -> "Finding":
        """With the proof that it stands in the log."""
        return replace(self, size=size, path=b"".join(path), note=note, consistency=b"".join(consistency))


class Ledger(Protocol):
    """What this home has signed off. Read anew each time: commands add to it while a monitor runs."""

    def digest_of(self, id: Identifier, version: int) -> bytes | None:
        """Of that version's record in the catalog."""

    def organizations(self) -> list[Envelope]:
        """All versions of our own record, oldest first."""


def concerns(change: Change, own: Prefix) -> bool:
    """Quickly whether it may be in our name: true of all that is, and of little else. For a million others' entries."""
    content = change.certificate if change.envelope is None else change.envelope.payload
    return own.text.encode() in content.lower()


def judge(change: Change, own: Prefix, ledger: Ledger) -> Finding | None:
    """None for what is not in our name, or is what we signed off."""
    envelope = change.envelope
    if envelope is None:
        return _certificate(change, own, ledger)
    try:
        match envelope.payload_type:
            case PayloadType.RECORD:
                return _record(change.position, envelope, own, ledger)
            case PayloadType.ORGANIZATION:
                return _organization(change.position, envelope, own, ledger)
    except InvalidInput:
        pass  # nobody can read it, so nobody can be misled by it
    return None


def _record(position: int, envelope: Envelope, own: Prefix, ledger: Ledger) -> Finding | None:
    record = wire.decode_record(envelope.payload)
    if record.id.prefix != own:
        return None
    ours = ledger.digest_of(record.id, record.version)
    if ours == envelope.digest:
        return None
    what = "a tombstone, " if record.status is Status.WITHDRAWN else ""
    lacks = "lacks" if ours is None else "has otherwise"
    signed = _signed_with(envelope, ledger)
    return Finding(
        Kind.RECORD,
        _name(Kind.RECORD, envelope.digest),
        position,
        f"version {record.version} of {record.id} ({what}{signed or 'not signed by you'}), which this home's catalog "
        f"{lacks}",
        _STOLEN if signed else _INVENTED,
        wire.encode_envelope(envelope),
    )


def _organization(position: int, envelope: Envelope, own: Prefix, ledger: Ledger) -> Finding | None:
    record = wire.decode_organization(envelope.payload)
    if record.prefix != own or any(each.digest == envelope.digest for each in ledger.organizations()):
        return None
    signed = _signed_with(envelope, ledger)
    return Finding(
        Kind.ORGANIZATION,
        _name(Kind.ORGANIZATION, envelope.digest),
        position,
        f"version {record.version} of the record of {own} ({signed or 'not signed by you'}), which is not this home's: "
        f"it names {_says(record, ledger)}",
        _STOLEN if signed else _INVENTED,
        wire.encode_envelope(envelope),
    )


def _says(record: OrganizationRecord, ledger: Ledger) -> str:
    """What somebody else would believe by it, of that which we never said."""
    known = [wire.decode_organization(each.payload) for each in ledger.organizations()]
    keys = {each.public_key for one in known for each in one.keys}
    nodes = {each for one in known for each in one.nodes}
    told = [f"the key {each.public_key.key_id}" for each in record.keys if each.public_key not in keys]
    for node in record.nodes:
        if node not in nodes:
            digest = sha256(node.tls_certificate).hexdigest()[:16]
            told.append(f"a node at {node.address or 'no address'} with the certificate {digest}…")
    return ", ".join(told) or "nothing that this home's does not"


def _certificate(change: Change, own: Prefix, ledger: Ledger) -> Finding | None:
    digest = sha256(change.certificate).digest()
    try:
        found = tls.read_certificate(change.certificate)
    except InvalidInput:
        found = None
    whose = found and (found.organization or found.mirror)
    if found is None or whose is None:
        if f"/org/{own}".encode() not in change.certificate:
            return None
        what = f"a certificate that names {own} and is none that a member gets"
    elif whose != own or found.key_digest in _tls_keys(ledger):
        return None
    else:
        what = f"a certificate for {own} with the TLS key {found.key_digest.hex()[:16]}…, which your record never named"
    return Finding(
        Kind.CERTIFICATE, _name(Kind.CERTIFICATE, digest), change.position, what, _CERTIFIED, change.certificate
    )


def _tls_keys(ledger: Ledger) -> set[bytes]:
    """SHA-256 of each TLS key that our own record names, or has named."""
    digests = set()
    for envelope in ledger.organizations():
        for node in wire.decode_organization(envelope.payload).nodes:
            try:
                digests.add(tls.read_certificate(node.tls_certificate).key_digest)
            except InvalidInput:
                continue
    return digests


def _signed_with(envelope: Envelope, ledger: Ledger) -> str:
    """With which key of ours, current or not, in words; empty: with none."""
    keys: dict[PublicKey, None] = {}
    for own in ledger.organizations():
        keys |= dict.fromkeys(each.public_key for each in wire.decode_organization(own.payload).keys)
    key = next((each for each in keys if is_signed_by(envelope, each)), None)
    return f"signed with your key {key.key_id}" if key else ""


def _name(kind: Kind, digest: bytes) -> bytes:
    return kind.value.encode() + b" " + digest
