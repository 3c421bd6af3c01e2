"""What all vectors are made from: keys of fixed seeds, names, times, and two certificates that are constants."""

import base64
from hashlib import sha256
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from hanse import wire
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey

# 2026-01-01T00:00:00Z; everything happens after it.
T0 = 1_767_225_600

ROOT = Prefix.parse("86")
NORTH = Prefix.parse("86.north-hospital")
ACME = Prefix.parse("86.acme")
LAB = Prefix.parse("86.lab")

CA = """
MIIBYzCCAQigAwIBAgIUXQktvgqtU2MjuQUOHqcORMIaM5kwCgYIKoZIzj0EAwIwHTEbMBkGA1UEAwwSSGFuc2UgODYgYXV0aG9yaXR5MB4XDTI1MTIz
MTIzMDAwMFoXDTM1MTIzMDAwMDAwMFowHTEbMBkGA1UEAwwSSGFuc2UgODYgYXV0aG9yaXR5MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAEpDcr+qJD
Vd36s5ORjMU3v+0HJtJDuJIs9EModYs1CiEtUje+838jQAmm1bm9OTmAWcFgkOrJkg++aRx8clI5jKMmMCQwEgYDVR0TAQH/BAgwBgEB/wIBADAOBgNV
HQ8BAf8EBAMCAQYwCgYIKoZIzj0EAwIDSQAwRgIhAJpYtsLo7Owe49in64XCKIU800ao+LDVyJc4zg18Eg7mAiEA+k+LwXCadjyPzRJndDyQtyFzWZXJ
zS3wdEVVAaxD2AY=
"""
NODE = """
MIIBxjCCAWygAwIBAgIUX7Z4FmBbaKprIy6VIZDmCow5zSUwCgYIKoZIzj0EAwIwHDEaMBgGA1UEAwwRODYubm9ydGgtaG9zcGl0YWwwHhcNMjUxMjMx
MjMwMDAwWhcNMzUxMjMwMDAwMDAwWjAcMRowGAYDVQQDDBE4Ni5ub3J0aC1ob3NwaXRhbDBZMBMGByqGSM49AgEGCCqGSM49AwEHA0IABOtCYpDTdQ5n
8/2ckx4py36h68/uW7/3TX+IJ8CX3r3X91BbWUtoXAjk0Z7WKIZFTuHhkvwjU4heKmPJgJOYwhmjgYswgYgwDAYDVR0TAQH/BAIwADAOBgNVHQ8BAf8E
BAMCB4AwUwYDVR0RBEwwSoYhc3BpZmZlOi8vODYvb3JnLzg2Lm5vcnRoLWhvc3BpdGFsgiU4Ni5ub3J0aC1ob3NwaXRhbC5ub2RlLmhhbnNlLmludGVy
bmFsMBMGA1UdJQQMMAoGCCsGAQUFBwMBMAoGCCqGSM49BAMCA0gAMEUCIDK37VF+wSPBlKH400sCszyvfxfd6W9RZe5cL8T/rHkbAiEAqlbYC811Q/wx
kC36XbwhKD0bGqTCSL3C1WRcME+uAPQ=
"""


def seeded(name: str) -> SigningKey:
    """The key whose 32-byte seed is SHA-256 of ``hanse test key NAME``."""
    return SigningKey(Ed25519PrivateKey.from_private_bytes(seed(name)))


def seed(name: str) -> bytes:
    return sha256(f"hanse test key {name}".encode()).digest()


def certificate(constant: str) -> bytes:
    return base64.b64decode("".join(constant.split()))


REGISTRY, OLD, NEW = seeded("registry"), seeded("north 1"), seeded("north 2")
ACME_KEY, LAB_KEY = seeded("acme"), seeded("lab")


def envelope_parts(envelope: Envelope) -> dict[str, Any]:
    return {
        "payload_type": envelope.payload_type,
        "payload": envelope.payload.hex(),
        "signatures": [{"keyid": each.keyid, "sig": each.sig.hex()} for each in envelope.signatures],
        "digest": envelope.digest.hex(),
        "serialized": wire.encode_envelope(envelope).hex(),
    }
