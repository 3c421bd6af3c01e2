"""evidence.json: a small evidence file, and the same with one thing done to it. SPEC.md section 20.

The exporter is the hospital, whose log has a request, grants, decisions, a receipt, a half of another, an entry that
was erased and a revocation. What is done by who has no key is found by checksums, root and signature; what the
exporter does itself, and signs, by the signatures of the others and by its own log.
"""

import io
import json
from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from hanse import merkle, verifier, wire
from hanse.evidence.checkpoint import Checkpoint, origin, sign
from hanse.evidence.lines import FORMAT, VERSION, Lines, base64_text, envelope_text
from hanse.evidence.storage.log import Kind, leaf_data
from hanse.model.envelope import Envelope
from hanse.signing import SigningKey
from tests.vectors import make_papers as papers
from tests.vectors.fixed import ACME_KEY, NEW, NORTH, T0
from tests.vectors.make_papers import signed

MADE_AT = T0 + 90_000
ERASED = 5
Leaf = tuple[Kind, bytes]
Done = Callable[[list[list[Any]]], None]
"""Something done to the lines of the file: kind and members of each."""


def evidence(record: Envelope, organizations: Sequence[Envelope]) -> dict[str, Any]:
    """``record``: of version 1 of the object; ``organizations``: every version of all records, in order."""
    told = _lines(record, organizations)
    good = _file(told)
    foreign = good.replace(b'"made_at":', b'"made-at":', 1)
    lines = good.splitlines(keepends=True)
    cases: list[tuple[str, bytes]] = [
        ("as it was exported", good),
        ("a bit", good[:900] + bytes([good[900] ^ 1]) + good[901:]),
        ("a line is missing", b"".join(lines[:7] + lines[8:])),
        ("a line twice", b"".join([*lines[:7], lines[7], *lines[7:]])),
        ("two lines changed places", b"".join([*lines[:7], lines[8], lines[7], *lines[9:]])),
        ("the end is missing", b"".join(lines[:-1])),
        ("something after the end", good + lines[0]),
        ("another member's name", foreign),
        ("the exporter is somebody else", _file(told, ACME_KEY)),
        ("the exporter altered a receipt", _file(_after(told, _altered_receipt))),
        ("the exporter dropped the consumer's signature", _file(_after(told, _unsigned_receipt))),
        ("the exporter altered a leaf", _file(_after(told, _altered_leaf))),
        ("the exporter altered a salt", _file(_after(told, _altered_salt))),
        ("the exporter left out the grant", _file(_after(told, _without("grant")))),
        ("the exporter left out the record", _file(_after(told, _without("record")))),
        ("the exporter left out its half", _file(_after(told, _without("half-receipt")))),
    ]
    return {"exporter": str(NORTH), "cases": [_case(*each) for each in cases]}


def _lines(record: Envelope, organizations: Sequence[Envelope]) -> list[list[Any]]:
    receipt = replace(papers.RECEIPT, record=record.digest)
    whole = signed(receipt, ACME_KEY, NEW)
    half = signed(replace(receipt, delivery=papers.nonce("another delivery"), ended_at=T0 + 4_020), NEW)
    decision = json.dumps({"peer": "86.acme", "operation": "fetch", "allowed": True}).encode()
    log: list[Leaf] = [
        (Kind.REQUEST, wire.encode_envelope(papers.ASKED)),
        (Kind.GRANT, wire.encode_envelope(papers.GIVEN)),
        (Kind.DECISION, decision),
        (Kind.GRANT, wire.encode_envelope(papers.HANDED)),
        (Kind.RECEIPT, wire.encode_envelope(whole)),
        (Kind.DECISION, decision),
        (Kind.HALF_RECEIPT, wire.encode_envelope(half)),
        (Kind.REVOCATION, wire.encode_envelope(signed(papers.REVOCATION, NEW))),
    ]
    salts = [sha256(b"hanse test salt %d" % position).digest()[:16] for position in range(len(log))]
    hashes = [
        merkle.leaf_hash(leaf_data(kind, salt, payload)) for (kind, payload), salt in zip(log, salts, strict=True)
    ]
    note = sign(Checkpoint(origin(NORTH), len(log), merkle.root(hashes)), NEW)
    header = {
        "format": FORMAT, "version": VERSION, "exporter": str(NORTH), "made_at": MADE_AT, "selection": {},
        "log_size": len(log), "checkpoint": note, "everything": True,
    }  # fmt: skip
    told: list[list[Any]] = [["header", header]]
    told += [["organization", {"envelope": envelope_text(each)}] for each in organizations]
    told.append(["leaves", {"first": 0, "hashes": base64_text(b"".join(hashes))}])
    told.append(["record", {"envelope": envelope_text(record)}])
    for wanted in (Kind.REQUEST, Kind.GRANT, Kind.REVOCATION, Kind.RECEIPT, Kind.HALF_RECEIPT):
        for position, (kind, payload) in enumerate(log):
            if kind is wanted:
                members = {"envelope": base64_text(payload), "position": position, "salt": salts[position].hex()}
                told.append([kind.value, members])
    told.append(["erased", {"position": ERASED, "leaf": "decision"}])
    return told


def _file(told: Sequence[Sequence[Any]], key: SigningKey = NEW) -> bytes:
    written: list[bytes] = []
    lines = Lines(written.append)
    for kind, members in told:
        lines.add(kind, members)
    lines.end(NORTH, key)
    return b"".join(written)


def _after(told: list[list[Any]], done: Done) -> list[list[Any]]:
    copy = [[kind, dict(members)] for kind, members in told]
    done(copy)
    return copy


def _find(told: list[list[Any]], kind: str) -> dict[str, Any]:
    return next(members for name, members in told if name == kind)


def _envelope(members: dict[str, Any]) -> Envelope:
    return wire.decode_envelope(verifier._base64(members["envelope"]))


def _altered_receipt(told: list[list[Any]]) -> None:
    members = _find(told, "receipt")
    true = _envelope(members)
    altered = replace(true, payload=true.payload[:-1] + bytes([true.payload[-1] ^ 1]))
    members["envelope"] = envelope_text(altered)


def _unsigned_receipt(told: list[list[Any]]) -> None:
    members = _find(told, "receipt")
    true = _envelope(members)
    members["envelope"] = envelope_text(replace(true, signatures=true.signatures[1:]))


def _altered_leaf(told: list[list[Any]]) -> None:
    members = _find(told, "leaves")
    hashes = verifier._base64(members["hashes"])
    members["hashes"] = base64_text(hashes[:-1] + bytes([hashes[-1] ^ 1]))


def _altered_salt(told: list[list[Any]]) -> None:
    _find(told, "grant")["salt"] = "00" * 16


def _without(kind: str) -> Done:
    def done(told: list[list[Any]]) -> None:
        told.remove(next(each for each in told if each[0] == kind))

    return done


def _case(case: str, data: bytes) -> dict[str, Any]:
    findings: list[verifier.Finding] = []
    report = verifier.verify(io.BytesIO(data), {}, findings.append, jobs=1)
    return {
        "case": case,
        "file": data.decode("latin-1"),
        "exit_code": report.exit_code,
        "verdicts": [each.verdict for each in findings],
        "problems": [{"line": each.line, "message": each.what} for each in report.problems],
    }
