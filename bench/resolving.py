"""The registry's hot path: calls a second, identifiers a second, and latency as the registry grows."""

import random
import statistics
import time
from collections import deque
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import grpc

from bench import ours, peers
from bench.scale import Scale
from bench.table import Row, Run, Target, in_turns, say
from hanse import trust, wire
from hanse.model.identifier import Identifier, Prefix
from hanse.rpc import tls
from hanse.rpc.channel import dial
from hanse.v1 import registry_pb2

PREFIX = Prefix.parse("86.north")
METHOD = "/hanse.v1.Registry/Resolve"
BATCH = 100
IN_FLIGHT = 16


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    with ours.league(folder / "league") as league:
        node = league.join(str(PREFIX), serve=False)
        ids = ours.identifiers(PREFIX, 0, 10_000)
        ours.fill(league.registry.home / "registry.db", ids[1:], ours.identity(node).signing_key)
        league.registry.restart()
        yield from unary(scale, folder, node, ids)
        yield from batches(scale, node, ids)
    yield from latency(scale, folder)


class Raw:
    """Resolve with bytes in and out, so that what is measured is the registry and not its caller's parser."""

    def __init__(self, node: ours.Node) -> None:
        who = ours.identity(node)
        self.channel = dial(
            who.registries[0],
            roots=tls.to_pem(who.authority.ca_certificate),
            server_name=tls.registry_name(who.authority.root),
            max_message=64 << 20,
        )
        self.call = self.channel.unary_unary(METHOD, _registered_method=False)
        self.metadata = (("hanse-pass-bin", ours.pass_bytes(node)),)

    def resolve(self, request: bytes) -> bytes:
        return bytes(self.call(request, metadata=self.metadata, timeout=20))


def request(*ids: Identifier) -> bytes:
    return registry_pb2.ResolveRequest(ids=[str(each) for each in ids]).SerializeToString()


def unary(scale: Scale, folder: Path, node: ours.Node, ids: list[Identifier]) -> Iterator[Row]:
    what = "resolve, gRPC unary, one registry process"
    against, target = "the faster of a sync and an asyncio grpcio echo server, by h2load", Target(0.8)
    raw = Raw(node)
    answer = registry_pb2.ResolveResponse.FromString(raw.resolve(request(ids[1])))
    raw.channel.close()
    assert answer.resolutions[0].state == registry_pb2.Resolution.STATE_ACTIVE, answer
    body = folder / "request"
    message = request(ids[1])
    body.write_bytes(b"\0" + len(message).to_bytes(4, "big") + message)
    port, header = ours.registry_address(node).port, ours.pass_header(node)
    try:
        peers.need("h2load")
        with peers.grpc_echo(folder, "sync") as sync, peers.grpc_echo(folder, "asyncio") as asyncio:
            variants: dict[str, Run] = {
                "resolve": lambda: peers.h2load(port, METHOD, body, scale.unary_calls, [header]),
                "echo sync": lambda: peers.h2load(sync, METHOD, body, scale.unary_calls, [header]),
                "echo asyncio": lambda: peers.h2load(asyncio, METHOD, body, scale.unary_calls, [header]),
            }
            runs = in_turns(scale.runs, variants)
    except peers.Missing as missing:
        yield Row(what, against, target, unit="/s", missing=str(missing))
        return
    faster = max(("echo sync", "echo asyncio"), key=lambda name: statistics.median(runs[name]))
    yield Row(
        what,
        f"{against}: {faster}",
        target,
        tuple(runs["resolve"]),
        tuple(runs[faster]),
        unit="calls/s",
        how="4 connections, 16 calls in flight on each, the same request and headers to all; TLS 1.3; 10,000 records",
    )


def batches(scale: Scale, node: ours.Node, ids: list[Identifier]) -> Iterator[Row]:
    random.seed(1)
    requests = [request(*random.sample(ids[1:], BATCH)) for _ in range(scale.batches)]
    raw = Raw(node)
    first = registry_pb2.ResolveResponse.FromString(raw.resolve(requests[0]))
    assert all(each.state == registry_pb2.Resolution.STATE_ACTIVE for each in first.resolutions)

    def served() -> float:
        began = time.perf_counter()
        flying: deque[grpc.Future] = deque()
        for each in requests:
            if len(flying) == IN_FLIGHT:
                assert len(flying.popleft().result()) > 100 * BATCH
            flying.append(raw.call.future(each, metadata=raw.metadata, timeout=60))
        for call in flying:
            call.result()
        return BATCH * len(requests) / (time.perf_counter() - began)

    runs = in_turns(scale.runs, {"ids/s": served})["ids/s"]
    raw.channel.close()
    yield Row(
        f"resolve in batches of {BATCH}, served",
        "–",
        Target(100_000, unit="ids/s"),
        tuple(runs),
        unit="ids/s",
        how=f"{IN_FLIGHT} calls in flight from one process that does not parse the answers; random ids of 10,000",
    )
    yield verification(scale, node)


def verification(scale: Scale, node: ours.Node) -> Row:
    """What the client does with an answer: parse it, check every signature."""
    now, who = int(time.time()), ours.identity(node)
    ids = ours.identifiers(PREFIX, 0, BATCH)
    resolutions = [
        registry_pb2.Resolution(state=registry_pb2.Resolution.STATE_ACTIVE, record=wire.envelope_to_message(each))
        for each in ours.signed(ids, who.signing_key, now)
    ]
    answer = registry_pb2.ResolveResponse(resolutions=resolutions).SerializeToString()
    owner = ours.organization(node)

    def verify() -> float:
        rounds = 10
        began = time.perf_counter()
        for _ in range(rounds):
            found = wire.resolutions_from_message(registry_pb2.ResolveResponse.FromString(answer))
            for expected, each in zip(ids, found, strict=True):
                assert each.record is not None
                trust.record(each.record, owner, now=now, expected=expected)
        return rounds * BATCH / (time.perf_counter() - began)

    runs = in_turns(scale.runs, {"verified": verify})["verified"]
    return Row(
        "the same, verified by the client",
        "–",
        None,
        tuple(runs),
        unit="records/s",
        how="parsing and Ed25519, one thread",
    )


def latency(scale: Scale, folder: Path) -> Iterator[Row]:
    """Registries of each size side by side; single calls, one after the other, of random identifiers."""
    with ExitStack() as stack:
        variants: dict[int, Run] = {}
        for size in scale.records:
            league = stack.enter_context(ours.league(folder / f"league-{size}"))
            node = league.join(str(PREFIX), serve=False)
            ids = ours.identifiers(PREFIX, 1, size)
            say(f"    putting {size:,} records into a registry")
            ours.fill(league.registry.home / "registry.db", ids, ours.identity(node).signing_key)
            league.registry.restart()
            raw = Raw(node)
            stack.callback(raw.channel.close)
            variants[size] = _latency(raw, ids, scale.latency_calls)
        for run in variants.values():
            run()
        runs = in_turns(max(scale.runs, 7), {f"{size:,} records": run for size, run in variants.items()})
    smallest, *larger = scale.records
    for size in larger:
        yield Row(
            f"resolve latency with {size:,} records",
            f"itself with {smallest:,}",
            Target(1.3, at_least=False),
            tuple(runs[f"{size:,} records"]),
            tuple(runs[f"{smallest:,} records"]),
            unit="ms",
            how=f"median of {scale.latency_calls} single calls of random ids a run, one at a time",
        )


def _latency(raw: Raw, ids: list[Identifier], calls: int) -> Run:
    def run() -> float:
        took = []
        for each in random.choices(ids, k=calls):
            message = request(each)
            began = time.perf_counter()
            answer = raw.resolve(message)
            took.append(time.perf_counter() - began)
            assert len(answer) > 100
        return 1000 * statistics.median(took)

    return run
