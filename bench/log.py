"""The registry's log: what it costs those who publish, and those who ask for proofs."""

import random
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

from bench import ours, resolving
from bench.scale import Scale
from bench.table import Row, Run, Target, in_turns, say
from hanse import transparency, wire, wire_log
from hanse.model.identifier import Identifier, Prefix
from hanse.v1 import registry_pb2
from tests.processes import Process

PREFIX = Prefix.parse("86.north")
_CALLS = 50  # a run: short ones, many times in turns, for these are fractions of a millisecond


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    yield publishing(scale, folder)
    yield from proving(scale, folder)


def publishing(scale: Scale, folder: Path) -> Row:
    """Two registries side by side, one of which keeps no log."""
    with ExitStack() as stack:
        variants: dict[str, Run] = {}
        for name in ("with", "without"):
            league = stack.enter_context(ours.league(folder / name))
            node = league.join(str(PREFIX), serve=False)
            if name == "without":
                league.registry.kill()
                league.registry.process = Process(
                    "unlogged", league.logs, "bench.unlogged", "serve", "--home", league.registry.home
                )
                league.registry.start()
            variants[name] = _publish(scale.published, node)
        for run in variants.values():
            run()
        runs = in_turns(max(scale.runs, 7), variants)
    return Row(
        "publish, durable and in the log, SQLite",
        "the same registry without its log",
        Target(0.85),
        tuple(runs["with"]),
        tuple(runs["without"]),
        unit="records/s",
        how=f"`League.publish` of {scale.published:,} new records of about 600 bytes in a fresh process: signing, one "
        "stream, until the last is acknowledged",
    )


def _publish(count: int, node: ours.Node) -> Run:
    first = 0

    def run() -> float:
        nonlocal first
        seconds = ours.module_seconds("bench.publishing", node.home, first, count)
        first += count
        return count / seconds

    return run


def proving(scale: Scale, folder: Path) -> Iterator[Row]:
    """Of one registry with as many records as the largest: single calls, one after the other, of random identifiers."""
    size = scale.records[-1]
    with ours.league(folder / "proving") as league:
        node = league.join(str(PREFIX), serve=False)
        ids = ours.identifiers(PREFIX, 1, size)
        say(f"    putting {size:,} records into a registry")
        ours.fill(league.registry.home / "registry.db", ids, ours.identity(node).signing_key)
        league.registry.restart()
        raw, authority = resolving.Raw(node), ours.identity(node).authority

        def latency(*, prove: bool, verify: bool = False) -> Run:
            def run() -> float:
                took = []
                for each in random.choices(ids, k=_CALLS):
                    began = time.perf_counter()
                    answer = raw.resolve(request(each, prove=prove))
                    if verify:
                        check(answer)
                    took.append(time.perf_counter() - began)
                    assert len(answer) > 100
                return 1000 * statistics.median(took)

            return run

        def check(answer: bytes) -> None:
            """What `hanse resolve --prove` does beyond what it does without."""
            message = registry_pb2.ResolveResponse.FromString(answer)
            found = message.resolutions[0]
            shown = wire_log.shown_from_message(message.log)
            signed = transparency.read(shown.note, authority, now=int(time.time()))
            leaf = transparency.leaf_of(wire.envelope_from_message(found.record))
            inclusion = wire_log.inclusion_from_message(found.inclusion)
            transparency.included(leaf, inclusion, signed.checkpoint, "the record")
            assert inclusion.path

        variants = {
            "proved": latency(prove=True),
            "proved and verified": latency(prove=True, verify=True),
            "plain": latency(prove=False),
        }
        for run in variants.values():
            run()
        runs = in_turns(scale.latency_calls // 10, variants)
        raw.channel.close()
    how = f"medians of {_CALLS} single calls of random ids, one at a time, to one registry"
    for name, target in (("proved", Target(1.5, at_least=False)), ("proved and verified", None)):
        yield Row(
            f"resolve with proof at {size:,} entries" if name == "proved" else "the same, verified by the client",
            "without proof" if target else "–",
            target,
            tuple(runs[name]),
            tuple(runs["plain"]) if target else (),
            unit="ms",
            how=how,
        )


def request(id: Identifier, *, prove: bool) -> bytes:
    return registry_pb2.ResolveRequest(ids=[str(id)], prove=prove).SerializeToString()
