"""Prefixes and identifiers of digital objects. SPEC.md section 2; RFC 3650 to 3652.

Identifier.parse("hdl:86.North-Hospital/Trial 7").prefix   # 86.north-hospital
"""

import re
import unicodedata
from dataclasses import dataclass
from functools import lru_cache

from hanse import limits
from hanse.errors import InvalidInput

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_SCHEMES = ("hanse://", "hanse:", "info:hdl/", "hdl:")
_ASCII_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}


@dataclass(frozen=True, slots=True, order=True)
class Prefix:
    """The name of an organization, lower case: ``86.north-hospital``."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "Prefix":
        """Raises InvalidInput."""
        folded = text.translate(_ASCII_FOLD)
        if len(folded.encode(errors="replace")) > limits.PREFIX_BYTES:
            raise InvalidInput(f"a prefix has at most {limits.PREFIX_BYTES} bytes")
        for label in folded.split("."):
            if not _LABEL.fullmatch(label) or len(label) > limits.LABEL_BYTES:
                raise InvalidInput(
                    f"{text!r} is not a prefix: labels of a-z, 0-9 and inner hyphens, separated by dots, "
                    "for example 86.north-hospital"
                )
        return cls(folded)

    def is_under(self, root: "Prefix") -> bool:
        """Whether the prefix belongs to a registry's root."""
        return self.text.startswith(root.text + ".")

    @property
    def server_name(self) -> str:
        """The DNS name that the organization's nodes prove in the TLS handshake, whatever their address."""
        return f"{self.text}.node.hanse.internal"

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Identifier:
    """``prefix/suffix``. The suffix is kept as given; ``key`` is what tells two identifiers apart."""

    prefix: Prefix
    suffix: str

    @classmethod
    def parse(cls, text: str) -> "Identifier":
        """Raises InvalidInput."""
        return _parse_identifier(text)

    @classmethod
    def of(cls, prefix: Prefix, suffix: str) -> "Identifier":
        """Raises InvalidInput when the suffix is not one."""
        return _parse_identifier(f"{prefix}/{suffix}")

    @property
    def key(self) -> str:
        """Equal for identifiers that mean the same object: ASCII letters are folded."""
        return f"{self.prefix}/{self.suffix.translate(_ASCII_FOLD)}"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Identifier) and self.key == other.key

    def __hash__(self) -> int:
        return hash(self.key)

    def __str__(self) -> str:
        return f"{self.prefix}/{self.suffix}"


@lru_cache(maxsize=65_536)
def _parse_identifier(text: str) -> Identifier:
    bare = text
    for scheme in _SCHEMES:
        if bare[: len(scheme)].lower() == scheme:
            bare = bare[len(scheme) :]
            break
    prefix, slash, suffix = bare.partition("/")
    if not slash:
        raise InvalidInput(f"{text!r} is not an identifier: it has the form PREFIX/SUFFIX")
    if not suffix or suffix != suffix.strip():
        raise InvalidInput(f"{text!r} is not an identifier: the suffix is empty or has spaces around it")
    if not suffix.isascii():
        if any(0xD800 <= ord(c) <= 0xDFFF for c in suffix):
            raise InvalidInput("an identifier is valid UTF-8")
        if not unicodedata.is_normalized("NFC", suffix):
            raise InvalidInput(f"{text!r} is not an identifier: the suffix is not in Unicode's form NFC")
    if not suffix.isprintable():
        raise InvalidInput(f"{text!r} is not an identifier: the suffix has a character that cannot be printed")
    identifier = Identifier(Prefix.parse(prefix), suffix)
    if len(str(identifier).encode()) > limits.IDENTIFIER_BYTES:
        raise InvalidInput(f"an identifier has at most {limits.IDENTIFIER_BYTES} bytes")
    return identifier
