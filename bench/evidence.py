"""Evidence: what signed papers cost, and the log they stand in. Each figure is a function; ``FIGURES`` lists them."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench import deciding as bench_deciding
from bench import ours
from bench.delivering import delivering
from bench.scale import Scale
from bench.table import Row, Target, say
from bench.verifying import verifying
from hanse import wire, wire_papers
from hanse.evidence.storage.log import Kind
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import Delivered, Receipt
from hanse.model.purposes import Purpose
from hanse.signing import SigningKey, sign
from tests.evidence import Member

APPENDING_THREADS = 64
ASKED_OBJECTS = 20
OWN = bench_deciding.FOR_ALL + bench_deciding.FOR_SOME


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    for figure in FIGURES:
        yield from figure(scale, folder)


def appending(scale: Scale, folder: Path) -> Iterator[Row]:
    runs = []
    for number in range(scale.runs):
        home = folder / f"append-{number}"
        home.mkdir()
        runs.append(scale.appended / ours.module_seconds("bench.evidence", home, scale.appended))
        say(f"    {number + 1}/{scale.runs} append: {runs[-1]:.0f}")
    yield Row(
        "log append, durable, batched",
        "–",
        Target(3_000, unit="receipts/s"),
        tuple(runs),
        unit="receipts/s",
        how=f"`Evidence.change` of {scale.appended:,} receipts of {len(receipts(1)[0])} bytes, each signed by both, "
        f"from {APPENDING_THREADS} threads of a fresh process: each waits until its receipt is synced, then brings the "
        "next; every commit has a signed checkpoint",
    )


def deciding(scale: Scale, _folder: Path) -> Iterator[Row]:
    how = (
        f"`Policies.decide`, {scale.decided:,} questions, one after the other, in a fresh process: "
        f"{bench_deciding.OBJECTS:,} objects under terms of their own, a grant for each, and {OWN:,} policies of the "
        f"owner, {bench_deciding.FOR_ALL} of which concern everybody; parsing what is met for the first time is in it"
    )
    for what, name, target in (
        ("decisions with 1,000 policies", "rate", Target(5_000, unit="decisions/s")),
        ("decisions with 1,000 policies, p99", "p99", Target(2, at_least=False, unit="ms")),
    ):
        runs = []
        for number in range(scale.runs):
            runs.append(ours.module_seconds("bench.deciding", name, scale.decided))
            say(f"    {number + 1}/{scale.runs} {what}: {runs[-1]:.2f}")
        yield Row(what, "–", target, tuple(runs), unit=target.unit, how=how)


def asking(scale: Scale, folder: Path) -> Iterator[Row]:
    runs = []
    with ours.league(folder / "asking", "86.north") as league:
        north = league.nodes["86.north"]
        path = folder / "visits.csv"
        path.write_bytes(os.urandom(10_240))
        ids = [north.json("add", path, "--id", f"asked-{number}")["id"] for number in range(ASKED_OBJECTS)]
        for id in ids:
            north.command("terms", id, "--on-request", "--duty", "attribute=North Hospital")
        north.published()
        for number in range(scale.runs):
            consumer = league.join(f"86.acme-{number}", serve=False)
            runs.append(ours.module_seconds("bench.asking", consumer.home, scale.asked, *ids))
            say(f"    {number + 1}/{scale.runs} asking: {runs[-1]:.1f} ms")
    yield Row(
        "request to first byte, granted by the terms",
        "–",
        Target(50, at_least=False, unit="ms"),
        tuple(runs),
        unit="ms",
        how=f"`Client.open(id, purpose=...)` and a first byte, median of {scale.asked} requests for {ASKED_OBJECTS} "
        "objects of 10 KiB by a fresh process on a kept connection; request and grant are signed, verified and durable "
        "on both sides; receipts on",
    )


FIGURES: tuple[Callable[[Scale, Path], Iterator[Row]], ...] = (deciding, appending, asking, delivering, verifying)


def receipts(count: int) -> list[bytes]:
    """Serialized envelopes of receipts, each signed by both sides."""
    owner, consumer = SigningKey.generate(), SigningKey.generate()
    north, acme = Prefix.parse("86.north-hospital"), Prefix.parse("86.acme")
    now = int(time.time())
    found = []
    for number in range(count):
        receipt = Receipt(
            delivery=os.urandom(16),
            owner=north,
            consumer=acme,
            id=Identifier.of(north, f"trial-{number}"),
            version=1,
            record=os.urandom(32),
            grant=os.urandom(32),
            purposes=(Purpose.parse("clinical-research"),),
            delivered=tuple(Delivered(element, 1) for element in range(0, 90, 2)),
            unique_bytes=10_240,
            started_at=now,
            ended_at=now,
        )
        envelope = sign(PayloadType.RECEIPT, wire_papers.encode_receipt(receipt), owner, consumer)
        found.append(wire.encode_envelope(envelope))
    return found


def append(folder: Path, count: int) -> float:
    """Seconds until the last is durable."""
    payloads = receipts(count)
    with Member.of(folder).evidence() as evidence, ThreadPoolExecutor(APPENDING_THREADS) as pool:

        def one_after_another(thread: int) -> list[int]:
            return [
                evidence.change(lambda change, payload=payload: change.append(Kind.RECEIPT, payload))
                for payload in payloads[thread::APPENDING_THREADS]
            ]

        began = time.perf_counter()
        positions = [each for found in pool.map(one_after_another, range(APPENDING_THREADS)) for each in found]
        seconds = time.perf_counter() - began
        assert sorted(positions) == list(range(count))
        assert evidence.verify(deep=True) is None
    return seconds


if __name__ == "__main__":
    print(append(Path(sys.argv[1]), int(sys.argv[2])))
