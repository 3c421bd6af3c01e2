"""Evidence files taken apart and put together again, by somebody who may hold a key or none."""

import contextlib
import io
import json
from pathlib import Path
from typing import Any

from hanse import verifier, wire
from hanse.evidence.lines import Lines, envelope_text
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey
from node.catalog import CATALOG
from node.storage.catalog import CatalogStorage
from tests.simulator import Organization

Line = dict[str, Any]


def taken_apart(data: bytes) -> list[Line]:
    """The lines' members, without the trailer."""
    return [json.loads(line[65:]) for line in data.splitlines()][:-1]


def put_together(lines: list[Line], exporter: Prefix, key: SigningKey) -> bytes:
    """Numbered, hashed and signed anew."""
    out = io.BytesIO()
    writer = Lines(out.write)
    for each in lines:
        writer.add(each["kind"], {name: value for name, value in each.items() if name not in ("line", "kind")})
    writer.end(exporter, key)
    return out.getvalue()


def envelope_of(line: Line) -> Envelope:
    return wire.decode_envelope(verifier._base64(line["envelope"]))


def with_envelope(line: Line, envelope: Envelope) -> Line:
    return line | {"envelope": envelope_text(envelope)}


def find(lines: list[Line], kind: str, nth: int = 0) -> int:
    """The index of the nth line of a kind."""
    return [index for index, each in enumerate(lines) if each["kind"] == kind][nth]


def verified(
    data: bytes | Path, told: dict[str, str] | None = None, jobs: int = 1
) -> tuple[verifier.Report, dict[str, verifier.Finding]]:
    """What the verifier finds: of the file, and of each receipt by its digest in hexadecimal."""
    found: dict[str, verifier.Finding] = {}
    content = data.read_bytes() if isinstance(data, Path) else data
    report = verifier.verify(io.BytesIO(content), told or {}, lambda each: found.update({each.digest: each}), jobs)
    return report, found


def as_its_own(home: Path, organization: Organization) -> Path:
    """A simulated home, with the record of its own that an export rests on."""
    with contextlib.closing(CatalogStorage.open(home / CATALOG)) as catalog:
        for each in organization.history:
            catalog.put_organization(each, organization.league.now, enqueued=False)
    return home


def whats(report: verifier.Report) -> list[str]:
    return [each.what for each in report.problems]
