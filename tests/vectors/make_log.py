"""log.json: leaves, roots, proofs and a checkpoint of a log of nine leaves. SPEC.md section 18."""

import base64
from hashlib import sha256
from typing import Any

from hanse import merkle
from hanse.errors import HanseError
from hanse.evidence import checkpoint
from hanse.evidence.checkpoint import Checkpoint
from hanse.evidence.storage.log import Kind, leaf_data
from tests.vectors.fixed import ACME, ACME_KEY, NEW, NORTH, OLD

KINDS = [*Kind, Kind.RECEIPT]  # each once, and the most frequent again: nine leaves
NAME = checkpoint.origin(NORTH)


def the_log() -> dict[str, Any]:
    kept = [_leaf(number, kind) for number, kind in enumerate(KINDS)]
    hashes = [bytes.fromhex(each["hash"]) for each in kept]
    node = merkle.nodes(hashes)
    sizes = range(len(hashes) + 1)
    return {
        "leaves": kept,
        "roots": [merkle.root_at(node, size).hex() for size in sizes],
        "inclusion": [
            {"index": index, "size": size, "proof": _hex(merkle.inclusion_proof(node, index, size))}
            for size in sizes
            for index in range(size)
        ],
        "consistency": [
            {"old": old, "new": new, "proof": _hex(merkle.consistency_proof(node, old, new))}
            for new in sizes
            for old in range(new + 1)
        ],
        "checkpoint": _checkpoints(merkle.root_at(node, len(hashes))),
    }


def _leaf(number: int, kind: Kind) -> dict[str, Any]:
    salt, payload = sha256(b"hanse test leaf %d" % number).digest()[:16], b"payload %d" % number
    data = leaf_data(kind, salt, payload)
    return {
        "kind": kind.value,
        "salt": salt.hex(),
        "payload": payload.hex(),
        "data": data.hex(),
        "hash": merkle.leaf_hash(data).hex(),
    }


def _hex(proof: tuple[bytes, ...]) -> list[str]:
    return [each.hex() for each in proof]


def _checkpoints(root: bytes) -> dict[str, Any]:
    nine = Checkpoint(NAME, len(KINDS), root)
    note = checkpoint.sign(nine, NEW)
    text, _, lines = note.rpartition("\n\n")
    stranger = checkpoint.sign(nine, ACME_KEY).rpartition("\n\n")[2]
    unknown = f"\u2014 witness.example/w {base64.b64encode(bytes(4) + b'?').decode()}\n"
    accepted = {
        "as it is made": note,
        "a witness's line is ignored": note + unknown,
        "a line of the owner's name by another key is ignored": note + stranger,
        "further lines are signed and mean nothing": checkpoint.sign(Checkpoint(NAME, nine.size, root, ("x y",)), NEW),
        "an empty log": checkpoint.sign(Checkpoint(NAME, 0, merkle.EMPTY_ROOT), NEW),
        "a previous key of the owner's": checkpoint.sign(nine, OLD),
    }
    forged = base64.b64encode(checkpoint.key_hash(NAME, NEW.public) + bytes(64)).decode()
    rejected = {
        "nothing": "",
        "unsigned": text + "\n\n",
        "signed by a stranger only": f"{text}\n\n{stranger}",
        "a wrong signature of a known key": f"{text}\n\n\u2014 {NAME} {forged}\n",
        "a good and a wrong signature of one key": f"{note}\u2014 {NAME} {forged}\n",
        "another log": checkpoint.sign(Checkpoint(checkpoint.origin(ACME), nine.size, root), NEW),
        "another size under the signature": note.replace("\n9\n", "\n8\n"),
        "another root under the signature": note.replace(base64.b64encode(root).decode(), "A" * 43 + "="),
        "a size with a leading zero": checkpoint.sign(_Spelt(NAME, nine.size, root), NEW),
        "a root of 31 bytes": checkpoint.sign(Checkpoint(NAME, nine.size, root[:31]), NEW),
        "an empty log with a root": checkpoint.sign(Checkpoint(NAME, 0, root), NEW),
        "a hyphen in place of the dash": f"{text}\n\n-{lines[1:]}",
        "no line end": note[:-1],
        "line ends of another system": note.replace("\n", "\r\n"),
        "base64 without padding": note.rstrip("\n").rstrip("=") + "\n",
    }
    return {
        "origin": NAME,
        "keys": [key.public.raw.hex() for key in (NEW, OLD)],
        "key_hash": checkpoint.key_hash(NAME, NEW.public).hex(),
        "size": nine.size,
        "root": root.hex(),
        "note": note,
        "accepted": [_accepted(case, each) for case, each in accepted.items()],
        "rejected": [_rejected(case, each) for case, each in rejected.items()],
    }


class _Spelt(Checkpoint):
    """A size written in another way."""

    @property
    def text(self) -> str:
        return super().text.replace(f"\n{self.size}\n", f"\n0{self.size}\n")


def _accepted(case: str, note: str) -> dict[str, Any]:
    found = checkpoint.read(note, NAME, [NEW.public, OLD.public])
    return {"case": case, "note": note, "size": found.size, "root": found.root.hex()}


def _rejected(case: str, note: str) -> dict[str, Any]:
    try:
        checkpoint.read(note, NAME, [NEW.public, OLD.public])
    except HanseError as error:
        return {"case": case, "note": note, "error": type(error).__name__, "message": str(error)}
    raise AssertionError(f"{case}: was accepted")
