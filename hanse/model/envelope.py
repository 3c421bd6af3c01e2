"""Signed envelopes: the exact bytes that were signed, and who signed them. SPEC.md section 3; DSSE v1.

An envelope proves nothing by itself: hanse.trust verifies it.
"""

from dataclasses import dataclass
from enum import StrEnum
from hashlib import sha256


class PayloadType(StrEnum):
    """What a signature was made for: no signature is valid for two kinds of thing."""

    ORGANIZATION = "application/vnd.hanse.organization.v1"
    RECORD = "application/vnd.hanse.record.v1"
    MANIFEST = "application/vnd.hanse.manifest.v1"
    MEMBERSHIP = "application/vnd.hanse.membership.v1"
    PASS = "application/vnd.hanse.pass.v1"  # noqa: S105
    RENEWAL = "application/vnd.hanse.renewal.v1"
    REQUEST = "application/vnd.hanse.request.v1"
    GRANT = "application/vnd.hanse.grant.v1"
    DENIAL = "application/vnd.hanse.denial.v1"
    REVOCATION = "application/vnd.hanse.revocation.v1"
    RECEIPT = "application/vnd.hanse.receipt.v1"
    DELETION = "application/vnd.hanse.deletion.v1"
    EVIDENCE = "application/vnd.hanse.evidence.v1"


@dataclass(frozen=True, slots=True)
class Signature:
    """``keyid`` is a claim; ``sig`` has 64 bytes."""

    keyid: str
    sig: bytes


@dataclass(frozen=True, slots=True)
class Envelope:
    """``payload`` is what was signed; equal payloads have equal digests, whoever signed them."""

    payload_type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def pre_authentication_encoding(self) -> bytes:
        """What is signed: DSSE v1, ``"DSSEv1" SP len(type) SP type SP len(payload) SP payload``."""
        kind = self.payload_type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)

    @property
    def digest(self) -> bytes:
        """SHA-256 of the pre-authentication encoding: the name of this version, whoever signed it."""
        return sha256(self.pre_authentication_encoding).digest()
