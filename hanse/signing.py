"""Identity keys and the signatures of envelopes: the only place, with hanse.rpc.tls, that touches cryptography.

What it is not: a judge. Whether a key counts is decided in hanse.trust.
Sources: RFC 8032 (Ed25519), DSSE v1, SPEC.md sections 3 and 4.1.

    key = SigningKey.generate()
    envelope = sign(PayloadType.RECORD, payload, key)
    is_signed_by(envelope, key.public)
"""

from functools import lru_cache

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from hanse.errors import HomeUnusable
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.keys import PublicKey


class SigningKey:
    """An organization's identity key. It never leaves its node; repr() does not show it."""

    def __init__(self, private: Ed25519PrivateKey) -> None:
        self._private = private
        self.public = PublicKey(private.public_key().public_bytes_raw())

    @classmethod
    def generate(cls) -> "SigningKey":
        return cls(Ed25519PrivateKey.generate())

    @classmethod
    def from_pem(cls, pem: bytes, passphrase: str | None = None) -> "SigningKey":
        """PKCS #8. Raises HomeUnusable when it is no such key or the passphrase does not open it."""
        try:
            private = serialization.load_pem_private_key(pem, passphrase.encode() if passphrase else None)
        except TypeError:
            raise HomeUnusable(
                "the identity key is protected by a passphrase: set HANSE_PASSPHRASE"
                if not passphrase
                else "the identity key has no passphrase: unset HANSE_PASSPHRASE"
            ) from None
        except (ValueError, UnsupportedAlgorithm):
            raise HomeUnusable("the identity key does not open: wrong passphrase, or a damaged file") from None
        if not isinstance(private, Ed25519PrivateKey):
            raise HomeUnusable("the identity key is not an Ed25519 key")
        return cls(private)

    def to_pem(self, passphrase: str | None = None) -> bytes:
        protection: serialization.KeySerializationEncryption = (
            serialization.BestAvailableEncryption(passphrase.encode()) if passphrase else serialization.NoEncryption()
        )
        return self._private.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, protection)

    def sign(self, data: bytes) -> bytes:
        """64 bytes."""
        return self._private.sign(data)

    def __repr__(self) -> str:
        return f"<SigningKey {self.public.key_id}>"


def sign(payload_type: PayloadType, payload: bytes, *keys: SigningKey) -> Envelope:
    """An envelope signed by each of the keys."""
    unsigned = Envelope(payload_type, payload, ())
    encoded = unsigned.pre_authentication_encoding
    return Envelope(payload_type, payload, tuple(Signature(str(key.public.key_id), key.sign(encoded)) for key in keys))


def is_signed_by(envelope: Envelope, key: PublicKey) -> bool:
    """Whether the envelope has a valid signature by the key. The keyid only says which one to try."""
    keyid = str(key.key_id)
    for signature in envelope.signatures:
        if signature.keyid == keyid and verifies(key, signature.sig, envelope.pre_authentication_encoding):
            return True
    return False


def verifies(key: PublicKey, signature: bytes, data: bytes) -> bool:
    """Whether it is a valid signature of ``data``. What is signed says itself what kind of thing it is."""
    try:
        _verified(key.raw, signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


@lru_cache(512)
def _verified(raw: bytes, signature: bytes, data: bytes) -> None:
    """The same record or grant is met at every fetch. Raises, and nothing is kept, when it does not verify."""
    _verifier(raw).verify(signature, data)


@lru_cache(1024)
def _verifier(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)
