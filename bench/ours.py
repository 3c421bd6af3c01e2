"""The system under measurement: a registry and nodes as real processes, and records to fill a registry with."""

import base64
import contextlib
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from bench.peers import ROOT, timed
from hanse import trust, wire
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as ClientLeague
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import OrganizationRecord
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.signing import SigningKey, sign
from tests.processes import League, Node, environment

if TYPE_CHECKING:
    from registry.storage.base import Storage

UNLIMITED = "\ncalls_per_second = 1e9\ncalls_burst = 1000000000\n"


@contextlib.contextmanager
def league(folder: Path, *serving: str) -> Iterator[League]:
    """A league whose named members serve. Rate limits are off: they are what would be measured."""
    made = League(folder)
    settings = made.registry.home / "registry.toml"
    settings.write_text(settings.read_text() + UNLIMITED)
    with made:
        for prefix in serving:
            made.join(prefix)
        yield made


def identity(node: Node) -> Identity:
    return Identity.load(Home.open(node.home, MARKER, ""))


def registry_address(node: Node) -> Address:
    return identity(node).registries[0]


def pass_header(node: Node) -> str:
    """For h2load: what says who calls."""
    return f"hanse-pass-bin: {base64.b64encode(pass_bytes(node)).decode()}"


def pass_bytes(node: Node) -> bytes:
    return wire.encode_envelope(identity(node).sign_pass(int(time.time())))


def hanse(node: Node, *arguments: str | Path) -> list[str | Path]:
    return [sys.executable, "-m", "node.cli", *arguments, "--home", node.home]


def run(node: Node, *arguments: str | Path) -> float:
    """Seconds of a whole `hanse` command, the start of the interpreter included."""
    return timed(hanse(node, *arguments), env=environment(), cwd=ROOT)


def module_seconds(module: str, *arguments: object) -> float:
    """What ``python -m MODULE`` says it took, in a fresh process."""
    done = subprocess.run(
        [sys.executable, "-m", module, *map(str, arguments)],
        capture_output=True, text=True, env=environment(), cwd=ROOT, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise RuntimeError(f"{module} {arguments[0]}: {done.stderr[-600:]}")
    return float(done.stdout)


def inside(*arguments: object) -> float:
    """The SDK in a fresh process; see bench/sdk.py."""
    return module_seconds("bench.sdk", *arguments)


def organization(node: Node) -> OrganizationRecord:
    """Of one that joined just now: as a client sees it."""
    who = identity(node)
    with ClientLeague(who) as registry:
        found = trust.chain(registry.get_organization(who.prefix), pinned=None, now=int(time.time()))
    assert found is not None
    return found.record


def identifiers(prefix: Prefix, first: int, count: int) -> list[Identifier]:
    return [Identifier.of(prefix, f"trial-{number:07}") for number in range(first, first + count)]


def record(id: Identifier, now: int) -> ObjectRecord:
    """As an owner of a real dataset would fill it in, about 600 bytes."""
    metadata = Metadata(
        title=f"Blood pressure of the cohort {id.suffix}, 2019 to 2025",
        description="Systolic and diastolic pressure at every visit of the consenting patients of one clinic, with "
        "the dose that was given, pseudonymized, one row a visit; see the data dictionary for the columns.",
        creators=("Department of Cardiology", "A. Karlsdottir"),
        publisher="North Hospital",
        publication_year=2026,
        resource_type="Dataset",
        subjects=("cardiology", "blood pressure", "clinical trial"),
        language="en",
        license="CC-BY-4.0",
    )
    summary, access = Summary(12, 3_400_000, ("text/csv",)), Access(AccessMode.ON_REQUEST)
    return ObjectRecord(
        id, 1, b"", "Dataset", Status.ACTIVE, metadata, summary, access, ("describe", "fetch"), bytes(32), now, 300
    )


def signed(ids: Sequence[Identifier], key: SigningKey, now: int) -> Iterator[Envelope]:
    for each in ids:
        yield sign(PayloadType.RECORD, wire.encode_record(record(each, now)), key)


def fill(
    database: Path,
    ids: Sequence[Identifier],
    key: SigningKey,
    make: Callable[[Identifier, int], ObjectRecord] = record,
) -> None:
    """Puts records straight into a registry's database, through its own storage: publishing a million takes minutes."""
    from registry.storage.sqlite import SqliteStorage

    storage = SqliteStorage(database)
    try:
        put(storage, ids, key, make)
    finally:
        storage.close()


def put(
    storage: "Storage",
    ids: Sequence[Identifier],
    key: SigningKey,
    make: Callable[[Identifier, int], ObjectRecord] = record,
) -> None:
    """The same, into any storage."""
    from registry.index import document
    from registry.storage.base import NewRecord

    now = int(time.time())
    # All carry one signature: the registry does not look at it again, and no figure that uses this verifies them.
    signature = next(signed(ids[:1], key, now)).signatures
    for first in range(0, len(ids), 20_000):
        rows = []
        for each in ids[first : first + 20_000]:
            made = make(each, now)
            envelope = Envelope(PayloadType.RECORD, wire.encode_record(made), signature)
            rows.append(NewRecord(each.key, 1, envelope.digest, now, wire.encode_envelope(envelope), document(made)))
        with storage.writing() as writing:
            writing.put_records(rows)
