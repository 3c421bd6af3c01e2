"""witness.json: witnesses' keys, cosigned checkpoints of registry_log.json, requests to cosign. SPEC.md section 24."""

import base64
from collections.abc import Sequence
from typing import Any

from hanse import cosigning
from hanse.cosigning import Policy, Request, WitnessKey
from hanse.errors import HanseError
from hanse.evidence import checkpoint as notes
from tests.vectors.fixed import ACME, ACME_KEY, LAB, LAB_KEY, NORTH

ACMES, LABS = (cosigning.name_of(each) for each in (ACME, LAB))
KEYS = (WitnessKey(ACMES, ACME_KEY.public), WitnessKey(LABS, LAB_KEY.public))


def witness(older: str, newer: str, proof: Sequence[bytes], at: int) -> dict[str, Any]:
    """``older`` and ``newer``: signed notes; ``proof``: that the one continues the other; ``at``: Unix seconds."""
    checkpoint, _ = notes.parse(newer)
    by_acme = cosigning.sign(checkpoint, ACMES, ACME_KEY, at)
    by_lab = cosigning.sign(checkpoint, LABS, LAB_KEY, at + 1)
    earlier = cosigning.sign(checkpoint, ACMES, ACME_KEY, at - 50)
    of_another = cosigning.sign(notes.parse(older)[0], ACMES, ACME_KEY, at)
    cases = {
        "nobody": newer,
        "one of two": newer + by_acme,
        "both": newer + by_acme + by_lab,
        "one of them twice: its newest counts": newer + earlier + by_acme,
        "a name and a key that are nobody's": newer + cosigning.sign(checkpoint, "witness.example/w", LAB_KEY, at),
        "acme's name and lab's key": newer + cosigning.sign(checkpoint, ACMES, LAB_KEY, at),
        "north's name and acme's key": newer + cosigning.sign(checkpoint, cosigning.name_of(NORTH), ACME_KEY, at),
        "signed for another checkpoint": newer + of_another,
        "dated otherwise than it is signed": newer + _dated(by_acme, at + 1),
        "a good and a wrong one": newer + by_acme + of_another,
        "long ago": newer + cosigning.sign(checkpoint, ACMES, ACME_KEY, at - 100_000),
        "in an hour": newer + cosigning.sign(checkpoint, ACMES, ACME_KEY, at + 3_600),
    }
    request = Request(notes.parse(older)[0].size, tuple(proof), newer).encode().decode()
    requests = {
        "as it is asked": request,
        "of nothing": Request(0, (), newer).encode().decode(),
        "no size": request.replace("old 3\n", "old\n", 1),
        "a leading zero": request.replace("old 3\n", "old 03\n", 1),
        "a sign": request.replace("old 3\n", "old +3\n", 1),
        "a short hash": request.replace(base64.b64encode(proof[0]).decode(), base64.b64encode(proof[0][1:]).decode()),
        "no empty line": request.replace("\n\n", "\n", 1).partition("\n\n")[0],
    }
    texts = {
        "as `hanse status` shows it": str(KEYS[0]),
        "another letter in the key": str(KEYS[0])[:-3] + ("A" if str(KEYS[0])[-3] != "A" else "B") + str(KEYS[0])[-2:],
        "another name": str(KEYS[0]).replace("acme", "acne"),
        "the kind of a note's key": _of_kind(b"\x01"),
        "no hash": f"{ACMES}+{base64.b64encode(bytes([4]) + ACME_KEY.public.raw).decode()}",
        "no name": str(KEYS[0])[len(ACMES) :],
    }
    return {
        "keys": [str(each) for each in KEYS],
        "now": at,
        "signed_by_acme": cosigning.message(checkpoint, at).hex(),
        "line_of_acme": by_acme,
        "cases": [{"case": case, "note": note} | _verdict(note, at) for case, note in cases.items()],
        "requests": [{"case": case, "body": body} | _parsed(body) for case, body in requests.items()],
        "witness_keys": [{"case": case, "text": text} | _key(text) for case, text in texts.items()],
    }


def _verdict(note: str, now: int) -> dict[str, Any]:
    """Who cosigned it, and for what number of these two witnesses that would do."""
    try:
        dates = cosigning.dates(note, KEYS)
    except HanseError as error:
        return {"rejected": str(error)}
    enough = [number for number in (1, 2) if not cosigning.missing(note, Policy(number, KEYS), now)]
    return {"dates": {key.name: at for key, at in dates.items()}, "enough_for": enough}


def _parsed(body: str) -> dict[str, Any]:
    try:
        found = Request.parse(body.encode())
    except HanseError as error:
        return {"rejected": str(error)}
    return {"old": found.old, "proof": [each.hex() for each in found.proof]}


def _key(text: str) -> dict[str, Any]:
    try:
        found = WitnessKey.parse(text)
    except HanseError as error:
        return {"rejected": str(error)}
    return {"name": found.name, "key": found.key.raw.hex(), "key_hash": found.key_hash.hex()}


def _dated(line: str, at: int) -> str:
    head, _, blob = line.rstrip("\n").rpartition(" ")
    data = base64.b64decode(blob)
    return f"{head} {base64.b64encode(data[:4] + at.to_bytes(8, 'big') + data[12:]).decode()}\n"


def _of_kind(kind: bytes) -> str:
    return f"{ACMES}+{KEYS[0].key_hash.hex()}+{base64.b64encode(kind + ACME_KEY.public.raw).decode()}"
