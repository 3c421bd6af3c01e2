"""What receipts cost: fetches with them, durable on both sides, against the same fetches of nodes that make none.

The programs in fresh processes: ``small HOME ID COUNT THREADS on|off`` prints fetches a second, ``fetch HOME ID TO
on|off`` (to disk) and ``drain HOME ID on|off`` (read and thrown away) print seconds.
"""

import itertools
import os
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench import disk, ours
from bench.scale import Scale
from bench.table import Row, Target, in_turns
from hanse import Client
from tests.processes import League, Node

SMALL_BYTES = 10_240
IN_FLIGHT = 24
PURPOSE = "academic-research"


def delivering(scale: Scale, folder: Path) -> Iterator[Row]:
    """Rows of small fetches a second, and of large ones."""
    with ours.league(folder / "delivering") as league:
        on, off = owner(league, "86.signed", ""), owner(league, "86.unsigned", "receipts = false\n")
        consumer = league.join("86.consumer", serve=False)
        path = folder / "small.bin"
        path.write_bytes(os.urandom(SMALL_BYTES))
        ids = {how: granted(node, consumer, path, "small") for how, node in (("on", on), ("off", off))}
        runs = in_turns(
            scale.runs,
            {
                how: lambda how=how: ours.module_seconds(  # type: ignore[misc]
                    "bench.delivering", "small", consumer.home, ids[how], scale.delivered, IN_FLIGHT, how
                )
                for how in ("on", "off")
            },
        )
        what = f"fetches of {SMALL_BYTES >> 10} KiB with receipts"
        how = (
            f"`Client.open(id)`, read, closed: {scale.delivered:,} times by {IN_FLIGHT} threads of a fresh process on "
            "kept connections, under a grant; each waits until the receipt with both signatures is synced on both sides"
        )
        yield Row(what, "–", Target(300, unit="fetches/s"), tuple(runs["on"]), unit="fetches/s", how=how)
        yield Row(
            "the same", "receipts off on both sides", Target(0.7), tuple(runs["on"]), tuple(runs["off"]),
            unit="fetches/s", how=how,
        )  # fmt: skip
        large = disk.big_file(folder / "large.bin", scale.bulk_bytes)
        ids = {how: granted(node, consumer, large, "large") for how, node in (("on", on), ("off", off))}
        numbers = itertools.count()

        def before() -> None:
            disk.settle(folder)
            disk.warm(large)

        for kind, what in (("drain", "read and thrown away"), ("fetch", "fetched to disk")):

            def run(how: str, kind: str = kind) -> float:
                to = (folder / f"out-{next(numbers)}",) if kind == "fetch" else ()
                took = ours.module_seconds("bench.delivering", kind, consumer.home, ids[how], *to, how)
                for each in to:
                    each.unlink()
                return took

            runs = in_turns(scale.runs, {"on": lambda: run("on"), "off": lambda: run("off")}, before)
            yield Row(
                f"{scale.bulk_bytes >> 20:,} MiB {what}, with a receipt",
                "receipts off on both sides",
                Target(0.97),
                tuple(runs["on"]),
                tuple(runs["off"]),
                how="the SDK in a fresh process, measured from inside, under a grant",
            )


def owner(league: League, prefix: str, settings: str) -> Node:
    """Serving, without a limit on calls: that is what would be measured."""
    node = league.join(prefix, serve=False)
    with (node.home / "node.toml").open("a") as file:
        file.write(f'calls_per_peer = 1000000\nlog_level = "error"\n{settings}')
    return node.start()


def granted(node: Node, consumer: Node, path: Path, suffix: str) -> str:
    """An object of that node's under a grant that the consumer holds."""
    id = str(node.json("add", path, "--id", suffix)["id"])
    node.command("terms", id, "--allow", consumer.prefix, "--purpose", PURPOSE)
    node.published()
    consumer.command("request", id, "--purpose", PURPOSE)
    return id


def small(client: Client, identifier: str, count: int, threads: int) -> float:
    """Fetches a second."""

    def fetch() -> None:
        with client.open(identifier) as file:
            assert len(file.read()) == SMALL_BYTES

    def work(numbers: Iterator[int], most: int) -> None:
        while next(numbers) < most:
            fetch()

    def all_of(most: int) -> None:
        numbers = itertools.count()
        workers = [threading.Thread(target=work, args=(numbers, most)) for _ in range(threads)]
        for each in workers:
            each.start()
        for each in workers:
            each.join()

    all_of(2 * threads)  # connections, caches
    began = time.perf_counter()
    all_of(count)
    return count / (time.perf_counter() - began)


def fetch(client: Client, identifier: str, to: str) -> float:
    """Seconds."""
    began = time.perf_counter()
    client.fetch(identifier, to)
    return time.perf_counter() - began


def drain(client: Client, identifier: str) -> float:
    """Seconds."""
    began = time.perf_counter()
    with client.open(identifier) as element:
        while element.read(8 << 20):
            pass
    return time.perf_counter() - began


if __name__ == "__main__":
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    command, home, *arguments, how = sys.argv[1:]
    with Client(home, receipts=how == "on") as opened:
        if command == "small":
            print(small(opened, arguments[0], int(arguments[1]), int(arguments[2])))
        else:
            print({"fetch": fetch, "drain": drain}[command](opened, *arguments))
