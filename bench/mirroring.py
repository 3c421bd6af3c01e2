"""A mirror that catches up: every record verified, stored, indexed and under a checkpoint, beside the registry."""

import contextlib
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

from bench import ours
from bench.scale import Scale
from bench.table import Row, Target
from hanse import wire
from hanse.model.identifier import Prefix
from registry.index import document
from registry.storage.base import NewRecord
from registry.storage.sqlite import SqliteStorage
from tests.processes import Process, until

PREFIX = Prefix.parse("86.north")
_AT_ONCE = 20_000
_PATIENCE = 3600.0  # seconds


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    runs = []
    with ours.league(folder / "league") as league:
        node = league.join(str(PREFIX), serve=False)
        fill(league.registry.home / "registry.db", ours.identity(node).signing_key, scale.mirrored)
        for number in range(scale.large_runs if scale.mirrored <= 100_000 else 1):
            prefix = f"86.mirror-{number}"
            invitation, home = league.registry.invite(prefix, "--mirror"), folder / prefix
            arguments = ("mirror", invitation, "--home", home, "--listen", "127.0.0.1:0")
            process = Process(prefix, folder / "logs", "registry.cli", *arguments)
            began = time.perf_counter()
            process.start(wait=False)
            try:
                until(lambda process=process: "listening on " in process.stdout, "the mirror to serve", _PATIENCE)
                runs.append(scale.mirrored / (time.perf_counter() - began))
            finally:
                process.kill()
            shutil.rmtree(home)
    yield Row(
        f"a mirror catching up on {scale.mirrored:,} records",
        "–",
        Target(5_000, unit="records/s"),
        tuple(runs),
        unit="records/s",
        how="`hanse-registry mirror` from its start (an interpreter, joining) to when it serves: every signature, "
        "chain and root verified, stored and indexed; the registry that shows them is on the same two cores",
    )


def fill(database: Path, key: object, count: int) -> None:
    """Puts signed records straight into a registry's database."""
    now = int(time.time())
    with contextlib.closing(SqliteStorage(database)) as storage:
        for first in range(0, count, _AT_ONCE):
            rows = []
            for envelope in ours.signed(ours.identifiers(PREFIX, first, min(_AT_ONCE, count - first)), key, now):  # type: ignore[arg-type]
                record = wire.decode_record(envelope.payload)
                encoded = wire.encode_envelope(envelope)
                rows.append(NewRecord(record.id.key, 1, envelope.digest, now, encoded, document(record)))
            with storage.writing() as writing:
                writing.put_records(rows)
