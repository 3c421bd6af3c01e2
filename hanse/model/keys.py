"""Public identity keys and how they are named. SPEC.md section 4.1."""

import re
from dataclasses import dataclass
from functools import cached_property
from hashlib import sha256

from hanse.errors import InvalidInput

# SubjectPublicKeyInfo of an Ed25519 key is these bytes and the key (RFC 8410 section 4).
_ED25519_SPKI = bytes.fromhex("302a300506032b6570032100")

# The points of small order, without the sign bit: under such a key one signature fits many messages.
_SMALL_ORDER = frozenset(
    bytes.fromhex(each)
    for each in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
)


@dataclass(frozen=True, slots=True, order=True)
class KeyId:
    """First 16 bytes of SHA-256 of the SubjectPublicKeyInfo, 32 hexadecimal digits."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "KeyId":
        """Raises InvalidInput. Colons and spaces, with which people group digits, are accepted."""
        bare = re.sub(r"[\s:-]", "", text).lower()
        if not re.fullmatch(r"[0-9a-f]{32}", bare):
            raise InvalidInput(f"{text!r} is not a key id: it has 32 hexadecimal digits")
        return cls(bare)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class PublicKey:
    """An Ed25519 public key: 32 bytes."""

    raw: bytes

    @classmethod
    def parse(cls, raw: bytes) -> "PublicKey":
        """Raises InvalidInput."""
        if len(raw) != 32:
            raise InvalidInput(f"an Ed25519 public key has 32 bytes, not {len(raw)}")
        if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
            raise InvalidInput("this Ed25519 public key proves nothing: it is a point of small order")
        return cls(raw)

    @cached_property
    def key_id(self) -> KeyId:
        return KeyId(sha256(_ED25519_SPKI + self.raw).hexdigest()[:32])
