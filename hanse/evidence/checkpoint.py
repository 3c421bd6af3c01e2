"""Checkpoints of a log: C2SP signed notes. Pure. SPEC.md section 18.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint

    note = sign(Checkpoint(origin(prefix), size, root), key)
    read(note, origin(prefix), [key.public]).root
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from hanse.errors import BadSignature, WrongContent
from hanse.model.identifier import Prefix
from hanse.model.keys import PublicKey
from hanse.signing import SigningKey, verifies

_ED25519 = b"\x01"
_DASH = "\u2014"
_NOTE_BYTES = 16_384
_SIZE_DIGITS = 19


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log's owner says of it: ``size`` leaves, and their RFC 6962 ``root``."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        return f"{self.origin}\n{self.size}\n{base64.b64encode(self.root).decode()}\n"


def origin(prefix: Prefix) -> str:
    """The name of an organization's log, and of the key that signs its checkpoints."""
    return f"{prefix.server_name}/log"


def key_hash(name: str, key: PublicKey) -> bytes:
    """4 bytes by which a signature line says which key it is of."""
    return sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:4]


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """A signed note."""
    text = checkpoint.text
    signature = base64.b64encode(key_hash(checkpoint.origin, key.public) + key.sign(text.encode())).decode()
    return f"{text}\n{_DASH} {checkpoint.origin} {signature}\n"


def read(note: str, expected: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """A checkpoint of the log ``expected``, signed by one of its owner's keys. Raises BadSignature, WrongContent."""
    found, signatures = parse(note)
    if found.origin != expected:
        raise WrongContent(f"a checkpoint of another log was offered for {expected}")
    for key in keys:
        for name, blob in signatures:
            if (
                name == expected
                and blob[:4] == key_hash(name, key)
                and len(blob) == 68
                and verifies(key, blob[4:], found.text.encode())
            ):
                return found
    raise BadSignature(f"a checkpoint of {expected} is not signed by its owner")


def parse(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The text, and (name, key hash and signature) of each signature line: claims. Raises WrongContent."""
    if len(note.encode(errors="replace")) > _NOTE_BYTES:
        raise WrongContent("a checkpoint is too long")
    text, blank, lines = note.rpartition("\n\n")
    told = text.split("\n")
    if not blank or len(told) != 3 or not lines.endswith("\n"):
        raise WrongContent("a checkpoint is not a signed note of three lines")
    name, digits, encoded = told
    root = _decode(encoded)
    if not digits.isascii() or not digits.isdecimal() or len(digits) > _SIZE_DIGITS or str(int(digits)) != digits:
        raise WrongContent("a checkpoint's size is not a number")
    if len(root) != 32 or base64.b64encode(root).decode() != encoded or not name:
        raise WrongContent("a checkpoint's root is not 32 bytes")
    signatures = []
    for line in lines[:-1].split("\n"):
        dash, signer, blob = ([*line.split(" "), "", ""])[:3]
        if dash != _DASH or not signer or line.count(" ") != 2:
            raise WrongContent("a checkpoint has a line that is no signature")
        signatures.append((signer, _decode(blob)))
    return Checkpoint(name, int(digits), root), signatures


def _decode(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise WrongContent("a checkpoint has what is not base64") from None
