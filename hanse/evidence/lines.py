"""The lines of an evidence file, as they are written. SPEC.md section 20.

What it is not: a choice of what goes into one (node.exporting), nor a reader (hanse.verifier, which stands alone).
Every line carries its own checksum and its number; the last one is signed over all of them.

    lines = Lines(file.write)
    lines.add("header", {...})
    lines.end(key, prefix)
"""

import base64
import json
from collections.abc import Callable, Mapping
from hashlib import sha256
from typing import Final

from hanse import wire
from hanse.merkle import RootBuilder, leaf_hash
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey, sign

FORMAT: Final = "hanse-evidence"
VERSION: Final = 1
BLOCK: Final = 1024  # leaf hashes in one line

Member = str | int | bool | Mapping[str, str | int]


class Lines:
    """``write`` is given each line whole, line end included."""

    def __init__(self, write: Callable[[bytes], object]) -> None:
        self._write = write
        self._tree = RootBuilder()
        self.count = 0

    def add(self, kind: str, members: Mapping[str, Member]) -> None:
        line = self._line(kind, members)
        self._tree.add(leaf_hash(line))
        self._write(line + b"\n")

    def end(self, exporter: Prefix, key: SigningKey) -> None:
        """The trailer: how many lines there are, their root, and the exporter's signature over both."""
        payload = compact({"exporter": str(exporter), "lines": self.count, "root": self._tree.root().hex()})
        trailer = sign(PayloadType.EVIDENCE, payload, key)
        self._write(self._line("trailer", {"envelope": envelope_text(trailer)}) + b"\n")

    def _line(self, kind: str, members: Mapping[str, Member]) -> bytes:
        self.count += 1
        text = compact({"line": self.count, "kind": kind, **members})
        return sha256(text).hexdigest().encode() + b" " + text


def compact(members: Mapping[str, Member]) -> bytes:
    """JSON without white space, in ASCII: the one form in which a line has it."""
    return json.dumps(members, separators=(",", ":")).encode()


def envelope_text(envelope: Envelope) -> str:
    """As lines have it."""
    return base64_text(wire.encode_envelope(envelope))


def base64_text(data: bytes) -> str:
    """RFC 4648 section 4, with padding."""
    return base64.b64encode(data).decode()
