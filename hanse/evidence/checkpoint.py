"""Checkpoints of a log: C2SP signed notes. Pure. SPEC.md section 18.

Sources: https://c2sp.org/signed-note, https://c2sp.org/tlog-checkpoint
Of the kinds of signature only Ed25519 (0x01) is made and verified; lines of other kinds, names or keys are ignored.

    note = sign(Checkpoint(origin(prefix), size, root), key)
    read(note, origin(prefix), [key.public]).root
"""

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256

from hanse import limits
from hanse.errors import BadSignature, WrongContent
from hanse.merkle import EMPTY_ROOT, HASH_BYTES
from hanse.model.identifier import Prefix
from hanse.model.keys import PublicKey
from hanse.signing import SigningKey, verifies

_ED25519 = b"\x01"
_DASH = "\u2014"
_KEY_HASH_BYTES = 4
MOST_LEAVES = (1 << 63) - 1  # as databases count


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a log's owner says of it: ``size`` leaves, and their RFC 6962 ``root``.

    ``extensions`` are further lines, signed too, that mean nothing here; we write none.
    """

    origin: str
    size: int
    root: bytes
    extensions: tuple[str, ...] = ()

    @property
    def text(self) -> str:
        """What is signed."""
        lines = (self.origin, str(self.size), base64.b64encode(self.root).decode(), *self.extensions)
        return "".join(f"{line}\n" for line in lines)


def origin(prefix: Prefix) -> str:
    """The name of an organization's log, and of the key that signs its checkpoints."""
    return f"{prefix.server_name}/log"


def key_hash(name: str, key: PublicKey) -> bytes:
    """4 bytes by which a signature line says which key it is of."""
    return sha256(name.encode() + b"\n" + _ED25519 + key.raw).digest()[:_KEY_HASH_BYTES]


def sign(checkpoint: Checkpoint, key: SigningKey) -> str:
    """A signed note."""
    return f"{checkpoint.text}\n{_line(checkpoint, key)}"


def _line(checkpoint: Checkpoint, key: SigningKey) -> str:
    blob = key_hash(checkpoint.origin, key.public) + key.sign(checkpoint.text.encode())
    return f"{_DASH} {checkpoint.origin} {base64.b64encode(blob).decode()}\n"


def read(note: str, expected: str, keys: Iterable[PublicKey]) -> Checkpoint:
    """A checkpoint of the log ``expected``, signed by one of its owner's keys. Raises BadSignature, WrongContent."""
    found, signatures = parse(note)
    if found.origin != expected:
        raise WrongContent(f"a checkpoint of another log was offered for {expected}")
    known = [(key_hash(expected, key), key) for key in keys]
    signed = False
    for name, blob in signatures:
        named = [key for of, key in known if name == expected and blob[:_KEY_HASH_BYTES] == of]
        if not named:
            continue
        # The specification: one wrong signature of a known key is reason enough to distrust the whole note.
        if not any(verifies(key, blob[_KEY_HASH_BYTES:], found.text.encode()) for key in named):
            raise BadSignature(f"a checkpoint of {expected} has a signature that is not its owner's")
        signed = True
    if not signed:
        raise BadSignature(f"a checkpoint of {expected} is not signed by its owner")
    return found


def is_by(note: str, key: PublicKey) -> bool:
    """Whether a note that was verified before says that this key signed it."""
    found, signatures = parse(note)
    return any(name == found.origin and blob[:_KEY_HASH_BYTES] == key_hash(name, key) for name, blob in signatures)


def parse(note: str) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The text, and (name, key hash and signature) of each signature line: claims. Raises WrongContent."""
    try:
        length = len(note.encode())
    except UnicodeEncodeError:
        raise WrongContent("a checkpoint is not valid UTF-8") from None
    if length > limits.NOTE_BYTES:
        raise WrongContent(f"a checkpoint is longer than {limits.NOTE_BYTES:,} bytes")
    if any(character < " " and character != "\n" for character in note):
        raise WrongContent("a checkpoint has a control character")
    text, blank, lines = note.rpartition("\n\n")
    told = text.split("\n")
    if not blank or len(told) < 3 or not all(told) or not lines.endswith("\n"):
        raise WrongContent("a checkpoint is not a signed note of at least three lines")
    name, digits, encoded, *extensions = told
    if not digits.isascii() or not digits.isdecimal() or (digits[0] == "0" and digits != "0"):
        raise WrongContent("a checkpoint's size is not a number")
    if len(digits) > len(str(MOST_LEAVES)) or int(digits) > MOST_LEAVES:
        raise WrongContent("a checkpoint's size is larger than any log's")
    size, root = int(digits), _decode(encoded)
    if len(root) != HASH_BYTES:
        raise WrongContent(f"a checkpoint's root is not {HASH_BYTES} bytes")
    if size == 0 and root != EMPTY_ROOT:
        raise WrongContent("a checkpoint of an empty log has another root than an empty log")
    return Checkpoint(name, size, root, tuple(extensions)), [_signature(line) for line in lines[:-1].split("\n")]


def _signature(line: str) -> tuple[str, bytes]:
    dash, *rest = line.split(" ")
    if dash != _DASH or len(rest) != 2 or not rest[0] or "+" in rest[0] or any(map(str.isspace, rest[0])):
        raise WrongContent("a checkpoint has a line that is no signature")
    blob = _decode(rest[1])
    if len(blob) <= _KEY_HASH_BYTES:
        raise WrongContent("a checkpoint has a line that is no signature")
    return rest[0], blob


def _decode(text: str) -> bytes:
    """Standard base64 with its padding, in the one form that it has."""
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        data = b""
    if base64.b64encode(data).decode() != text:
        raise WrongContent("a checkpoint has what is not base64")
    return data
