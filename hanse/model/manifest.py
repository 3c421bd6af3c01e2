"""Manifests: what an authorized peer is promised, byte for byte. SPEC.md section 8."""

import re
import unicodedata
from dataclasses import dataclass

from hanse import limits
from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier

_DRIVE = re.compile(r"[A-Za-z]:")


@dataclass(frozen=True, slots=True, order=True)
class ElementName:
    """A relative POSIX path that can be written on any common file system without surprise."""

    text: str

    @classmethod
    def parse(cls, text: str) -> "ElementName":
        """Raises InvalidInput. SPEC.md section 8.2."""
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidInput("an element's name is not valid UTF-8") from None
        if not text or size > limits.ELEMENT_NAME_BYTES:
            raise InvalidInput(f"an element's name has 1 to {limits.ELEMENT_NAME_BYTES} bytes")
        if text.startswith("/") or "\\" in text or _DRIVE.match(text):
            raise InvalidInput("an element's name is a relative path with forward slashes")
        for part in text.split("/"):
            if part in ("", ".", ".."):
                raise InvalidInput("an element's name has an empty part, '.' or '..'")
            if len(part.encode()) > limits.ELEMENT_PART_BYTES:
                raise InvalidInput(f"a part of an element's name has more than {limits.ELEMENT_PART_BYTES} bytes")
        if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") for c in text):
            raise InvalidInput("an element's name has a control character")
        return cls(text)

    @property
    def fold(self) -> str:
        """Equal for names that some file system takes for the same."""
        if self.text.isascii():
            return self.text.lower()
        # Folding can leave what NFC composes: upper-case GREEK IOTA WITH DIALYTIKA AND TONOS is two characters.
        return unicodedata.normalize("NFC", unicodedata.normalize("NFC", self.text).casefold())

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True, slots=True)
class Element:
    """One named sequence of bytes. ``length`` and ``chunk_size`` in bytes, ``modified_ns`` Unix nanoseconds."""

    name: ElementName
    media_type: str
    length: int
    chunk_size: int
    merkle_root: bytes
    sha256: bytes
    modified_ns: int
    executable: bool = False

    @property
    def chunk_count(self) -> int:
        return -(-self.length // self.chunk_size)

    def chunk_length(self, index: int) -> int:
        return min(self.chunk_size, self.length - index * self.chunk_size)


@dataclass(frozen=True, slots=True)
class ManifestPage:
    """Consecutive elements; ``first_element`` is the position of the first in the object."""

    first_element: int
    elements: tuple[Element, ...]


@dataclass(frozen=True, slots=True)
class Manifest:
    """What the owner signs about a version's content. The elements are in pages under ``pages_root``."""

    id: Identifier
    version: int
    element_count: int
    total_bytes: int
    page_count: int
    pages_root: bytes
    issued_at: int
    single_file: bool
