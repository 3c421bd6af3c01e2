"""Witnesses of the registry's log: their keys, their cosignatures, and what they are asked. Pure. SPEC.md section 24.

A witness signs a checkpoint only if it continues all that it signed before. So whoever demands the cosignatures of
witnesses that he chose is not shown another log than they are.
What it is not: word that a record is the newest, or true. Witnesses look at sizes and hashes alone.
Sources: https://c2sp.org/tlog-cosignature, https://c2sp.org/tlog-witness, https://c2sp.org/signed-note

    line = sign(checkpoint, "86.north.witness.hanse.internal", key, now)
    missing(note + line, Policy(1, (WitnessKey.parse(text),)), now)      # ()
"""

import base64
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256

from hanse import limits
from hanse.errors import BadSignature, InvalidInput, WrongContent
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import HASH_BYTES
from hanse.model.identifier import Prefix
from hanse.model.keys import PublicKey
from hanse.signing import SigningKey, verifies

_KIND = b"\x04"  # an Ed25519 signature that has a time in it
_HASH_BYTES, _TIME_BYTES = 4, 8
_NAME_BYTES = 255
_PROOF_LINES = 63  # c2sp.org/tlog-witness
_OLD = re.compile(r"old (0|[1-9][0-9]{0,18})")
REQUEST_BYTES = limits.NOTE_BYTES + 4096  # a note, and a proof of at most 63 lines of 45 bytes


@dataclass(frozen=True, slots=True)
class WitnessKey:
    """Whom to believe as a witness. ``str`` gives the C2SP verifier key: ``<name>+<key hash>+<key>``."""

    name: str
    key: PublicKey

    @classmethod
    def parse(cls, text: str) -> "WitnessKey":
        """Raises InvalidInput."""
        name, _, rest = text.strip().partition("+")
        digits, _, encoded = rest.partition("+")
        try:
            material = base64.b64decode(encoded, validate=True)
            if material[:1] != _KIND or base64.b64encode(material).decode() != encoded or not _is_name(name):
                raise ValueError
            found = cls(name, PublicKey.parse(material[1:]))
        except ValueError:
            raise InvalidInput(_NO_KEY) from None
        except InvalidInput as error:
            raise InvalidInput(f"{_NO_KEY} ({error})") from None
        if found.key_hash.hex() != digits:
            raise InvalidInput(f"the witness key of {name} has a letter too many or too few: copy it whole")
        return found

    @property
    def key_hash(self) -> bytes:
        """4 bytes by which a signature line says which key it is of."""
        return key_hash(self.name, self.key)

    def __str__(self) -> str:
        return f"{self.name}+{self.key_hash.hex()}+{base64.b64encode(_KIND + self.key.raw).decode()}"


_NO_KEY = "this is no witness's key: it has the form NAME+HASH+KEY, as `hanse status` of a witness shows it"


def _is_name(name: str) -> bool:
    return bool(name) and name.isprintable() and not any(map(str.isspace, name)) and len(name.encode()) <= _NAME_BYTES


@dataclass(frozen=True, slots=True)
class Policy:
    """``require`` of these witnesses must have cosigned a checkpoint before it is believed."""

    require: int = 0
    keys: tuple[WitnessKey, ...] = ()

    def check(self) -> "Policy":
        """Raises InvalidInput: one witness under two names would count twice."""
        if not 0 <= self.require <= len(self.keys):
            raise InvalidInput(f"{self.require} witnesses are required, of {len(self.keys)} that are named")
        if len({each.name for each in self.keys}) < len(self.keys) or len({each.key for each in self.keys}) < len(
            self.keys
        ):
            raise InvalidInput("a witness is named twice")
        return self


def name_of(prefix: Prefix) -> str:
    """What an organization's witness is called."""
    return f"{prefix}.witness.hanse.internal"


def key_hash(name: str, key: PublicKey) -> bytes:
    """Of the kind of signature that has a time in it."""
    return sha256(name.encode() + b"\n" + _KIND + key.raw).digest()[:_HASH_BYTES]


def message(checkpoint: Checkpoint, at: int) -> bytes:
    """What is signed."""
    return f"cosignature/v1\ntime {at}\n{checkpoint.text}".encode()


def sign(checkpoint: Checkpoint, name: str, key: SigningKey, now: int) -> str:
    """A signature line, to be put under a note of that checkpoint."""
    signature = now.to_bytes(_TIME_BYTES, "big") + key.sign(message(checkpoint, now))
    return f"\u2014 {name} {base64.b64encode(key_hash(name, key.public) + signature).decode()}\n"


def dates(note: str, keys: Iterable[WitnessKey]) -> dict[WitnessKey, int]:
    """When each of these last cosigned it; those that did not are left out. Raises BadSignature, WrongContent.

    As the specification has it, one wrong signature of a known key is reason enough to distrust the whole note.
    """
    checkpoint, signatures = notes.parse(note)
    found: dict[WitnessKey, int] = {}
    for key in keys:
        for blob in _lines_of(key, signatures):
            at = _date(checkpoint, key, blob)
            if at is None:
                raise BadSignature(f"a checkpoint of {checkpoint.origin} has a signature that is not of {key.name}")
            found[key] = max(at, found.get(key, 0))
    return found


def missing(note: str, policy: Policy, now: int) -> tuple[WitnessKey, ...]:
    """Who has not cosigned it just now, when too few have; () when enough have. Raises BadSignature, WrongContent."""
    oldest = now - limits.CLOCK_SKEW - limits.CHECKPOINT_AGE
    fresh = {key for key, at in dates(note, policy.keys).items() if oldest <= at <= now + limits.CLOCK_SKEW}
    return () if len(fresh) >= policy.require else tuple(key for key in policy.keys if key not in fresh)


def signed_both(first: str, second: str, keys: Iterable[WitnessKey], *, inconsistent: bool = False) -> tuple[str, ...]:
    """The witnesses that have signed two histories: who cosigned both of two notes that cannot both be true.

    Of one size and two roots they cannot. Of two sizes only one who has the leaves can tell: ``inconsistent`` says
    that he has, and that they cannot. Raises WrongContent for what is no note.
    """
    (one, of_one), (other, of_other) = notes.parse(first), notes.parse(second)
    if one.origin != other.origin or not (inconsistent or (one.size == other.size and one.root != other.root)):
        return ()
    return tuple(key.name for key in keys if _signed(one, of_one, key) and _signed(other, of_other, key))


def both(first: str, second: str, keys: Iterable[WitnessKey]) -> tuple[str, ...]:
    """Who cosigned both, whether they contradict each other or not."""
    return signed_both(first, second, keys, inconsistent=True)


def _signed(checkpoint: Checkpoint, signatures: Sequence[tuple[str, bytes]], key: WitnessKey) -> bool:
    return any(_date(checkpoint, key, blob) is not None for blob in _lines_of(key, signatures))


def _lines_of(key: WitnessKey, signatures: Sequence[tuple[str, bytes]]) -> Iterator[bytes]:
    for name, blob in signatures:
        if name == key.name and blob[:_HASH_BYTES] == key.key_hash:
            yield blob[_HASH_BYTES:]


def _date(checkpoint: Checkpoint, key: WitnessKey, signature: bytes) -> int | None:
    """None if it is not this witness's."""
    at = int.from_bytes(signature[:_TIME_BYTES], "big")
    good = at < 1 << 63 and verifies(key.key, signature[_TIME_BYTES:], message(checkpoint, at))
    return at if good else None


@dataclass(frozen=True, slots=True)
class Request:
    """What a witness is asked to cosign: ``proof`` that it continues the ``old`` leaves that the witness knows."""

    old: int
    proof: tuple[bytes, ...]
    note: str

    def encode(self) -> bytes:
        """The body of POST add-checkpoint."""
        hashes = "".join(f"{base64.b64encode(each).decode()}\n" for each in self.proof)
        return f"old {self.old}\n{hashes}\n{self.note}".encode()

    @classmethod
    def parse(cls, body: bytes) -> "Request":
        """What is before the note; the note is not looked at. Raises InvalidInput."""
        try:
            head, blank, note = body.decode().partition("\n\n")
        except UnicodeDecodeError:
            raise InvalidInput("the request is not UTF-8") from None
        first, *lines = head.split("\n")
        old = _OLD.fullmatch(first)
        if not blank or old is None or int(old[1]) > notes.MOST_LEAVES:
            raise InvalidInput("the request does not begin with a line 'old SIZE', hashes and an empty line")
        if len(lines) > _PROOF_LINES:
            raise InvalidInput(f"a proof has at most {_PROOF_LINES} hashes")
        return cls(int(old[1]), tuple(map(_hash, lines)), note)


def _hash(line: str) -> bytes:
    try:
        data = base64.b64decode(line, validate=True)
    except ValueError:
        data = b""
    if len(data) != HASH_BYTES or base64.b64encode(data).decode() != line:
        raise InvalidInput(f"a line of the proof is not the base64 of {HASH_BYTES} bytes")
    return data


def read_answer(answer: bytes, checkpoint: Checkpoint, key: WitnessKey) -> tuple[str, int]:
    """The witness's line among those that it answered, and its date. Raises WrongContent, BadSignature."""
    try:
        lines = answer.decode()
    except UnicodeDecodeError:
        raise WrongContent(f"what {key.name} answered is no cosignature") from None
    _, signatures = notes.parse(f"{checkpoint.text}\n{lines}")
    found = [
        (at, blob)
        for blob in _lines_of(key, signatures)
        if (at := _date(checkpoint, key, blob)) is not None
    ]  # fmt: skip
    if not found:
        raise BadSignature(f"what {key.name} answered is not signed with its key: has it another one now?")
    at, blob = max(found)
    return f"\u2014 {key.name} {base64.b64encode(key.key_hash + blob).decode()}\n", at
