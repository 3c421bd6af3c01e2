"""A large registry as its operator sees it: how long it takes to start, what memory, and a backup while it serves."""

import random
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from bench import ours, resolving
from bench.memory import resident
from bench.peers import ROOT
from bench.scale import Scale
from bench.table import Row, Target, say
from hanse import wire
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, Member, NodeEndpoint, OrganizationRecord
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from registry import app
from registry.storage.base import StoredOrganization
from tests.processes import environment

PREFIX = Prefix.parse("86.north")
_ORGANIZATIONS = 1_000
_CALLS = 50  # between two looks at the clock


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    size = scale.records[-1]
    with ours.league(folder / "league") as league:
        node = league.join(str(PREFIX), serve=False)
        home = league.registry.home
        league.registry.kill()
        say(f"    putting {_ORGANIZATIONS:,} organizations and {size:,} records into a registry")
        found(home, _ORGANIZATIONS - 1)
        ids = ours.identifiers(PREFIX, 1, size)
        ours.fill(home / "registry.db", ids, ours.identity(node).signing_key)
        what = f"{size:,} records, {_ORGANIZATIONS:,} organizations"
        starts, most = [], []
        for _ in range(scale.large_runs):
            process, seconds = started(home)
            starts.append(seconds)
            process.terminate()
            process.wait(30)
        process, _ = started(home)
        try:
            raw = resolving.Raw(node)
            latency(raw, ids, 20)
            before = [latency(raw, ids, 1) for _ in range(100)]
            most.append(resident(process.pid, "VmHWM"))
            began = time.perf_counter()
            backup = subprocess.Popen(
                [sys.executable, "-m", "registry.cli", "backup", folder / "backups", "--home", home],
                env=environment(), cwd=ROOT, stdout=subprocess.DEVNULL,
            )  # fmt: skip
            during = []
            while backup.poll() is None:
                during.append(latency(raw, ids, 1))
            seconds = time.perf_counter() - began
            if backup.returncode:
                raise RuntimeError(f"the backup ended with {backup.returncode}")
            raw.channel.close()
        finally:
            process.terminate()
            process.wait(30)
    yield Row(
        f"start of a registry: {what}", "–", Target(2, at_least=False, unit="s"), tuple(starts),
        how="a whole `hanse-registry serve`, from the start of the interpreter until it says where it listens",
    )  # fmt: skip
    yield Row(
        f"memory of a registry that serves: {what}", "–", None, tuple(most), unit="MB",
        how=f"VmHWM after its start and {120 * _CALLS:,} resolves of random ids",
    )  # fmt: skip
    yield Row(
        f"backup while serving: {what}", "–", None, (seconds,),
        how="`hanse-registry backup`: the copy, its restoring into a folder beside it, and the checks there",
    )  # fmt: skip
    yield Row(
        "resolve during that backup", "the same before it", None, tuple(during), tuple(before), unit="ms",
        how=f"medians of {_CALLS} single calls of random ids, one at a time; both share two cores",
    )  # fmt: skip


def latency(raw: resolving.Raw, ids: list[ours.Identifier], times: int) -> float:
    """The median of so many times _CALLS calls, in milliseconds."""
    took = []
    for each in random.choices(ids, k=times * _CALLS):
        began = time.perf_counter()
        raw.resolve(resolving.request(each))
        took.append(time.perf_counter() - began)
    return 1000 * statistics.median(took)


def started(home: Path) -> tuple[subprocess.Popen[str], float]:
    """A daemon in a fresh interpreter, and how many seconds it took until it listened."""
    began = time.perf_counter()
    process = subprocess.Popen(
        [sys.executable, "-m", "registry.cli", "serve", "--home", home],
        env=environment(), cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    if "listening on" not in process.stdout.readline():
        raise RuntimeError("the registry did not start")
    return process, time.perf_counter() - began


def found(home: Path, count: int) -> None:
    """So many organizations join at once, through the registry's own storage."""
    now = int(time.time())
    key, tls_key = SigningKey.generate(), tls.TlsKey.generate()
    with app.opened(home) as registry, registry.storage.writing() as writing:
        for number in range(count):
            prefix = Prefix.parse(f"86.organization-{number}")
            certificate = tls.make_node_certificate(tls_key, Prefix.parse("86"), prefix, now)
            record = OrganizationRecord(
                prefix, 1, b"", f"Organization {number}", "", (IdentityKey(key.public, now),),
                (NodeEndpoint(Address("127.0.0.1", 1), certificate),), now,
            )  # fmt: skip
            envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), key)
            stored = StoredOrganization(1, envelope.digest, wire.encode_envelope(envelope))
            writing.put_organization(prefix, stored)
            writing.put_member(Member(prefix, record.display_name, 1), now)
        registry.statements.record_change(writing)
