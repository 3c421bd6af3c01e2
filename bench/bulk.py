"""One large file: to disk against nginx and curl, to memory against Arrow Flight."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from bench import disk, ours, peers
from bench.scale import GIB, Scale
from bench.table import Row, Target, in_turns

PREFIX, READER = "86.north", "86.south"


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    served = folder / "served"
    served.mkdir()
    source = disk.big_file(served / "big.bin", scale.bulk_bytes)
    with ours.league(folder / "league", PREFIX) as league:
        reader = league.join(READER, serve=False)
        league.nodes[PREFIX].command("add", source, "--id", "big", "--open", timeout=300)
        league.nodes[PREFIX].published()
        yield from to_disk(scale, folder, reader, source)
        yield from to_memory(scale, folder, reader)


def to_disk(scale: Scale, folder: Path, reader: ours.Node, source: Path) -> Iterator[Row]:
    size = f"{scale.bulk_bytes / GIB:g} GiB"
    what = f"fetch {size} verified to disk, one stream, mutual TLS"
    target, both = Target(1.0), Target(1.3)
    to = folder / "fetched"
    try:
        with peers.nginx(folder, source.parent) as url:

            def before() -> None:
                disk.remove(to)
                disk.settle(folder)
                disk.warm(source)

            digests: list[float] = []

            def curl() -> float:
                seconds = peers.timed(peers.curl(folder, f"{url}/{source.name}", to))
                digests.append(seconds + peers.sha256(to))
                return seconds

            variants = {
                "hanse fetch": lambda: ours.run(reader, "fetch", f"{PREFIX}/big", "-o", to),
                "nginx + curl": curl,
                "Client.fetch": lambda: ours.inside("fetch", reader.home, f"{PREFIX}/big", to),
            }
            runs = in_turns(scale.runs, variants, before)
    except peers.Missing as missing:
        yield Row(what, "nginx + curl over mutual TLS to disk, not verified", target, missing=str(missing))
        yield Row(what, "the same + openssl dgst -sha256", both, missing=str(missing))
        return
    finally:
        disk.remove(to)
    command, inside = tuple(runs["hanse fetch"]), tuple(runs["Client.fetch"])
    whole = "`hanse fetch` and `curl` as whole processes; ours is also synced to the disk, curl's is not"
    yield Row(
        what,
        "nginx + curl over mutual TLS to disk, not verified",
        target,
        command,
        tuple(runs["nginx + curl"]),
        how=whole,
    )
    yield Row("the same", "the same + `openssl dgst -sha256` afterwards", both, command, tuple(digests), how=whole)
    yield Row(
        "the same, by the SDK",
        "nginx + curl",
        None,
        inside,
        tuple(runs["nginx + curl"]),
        how="`Client.fetch` in a fresh process, without the interpreter's start; `curl` whole",
    )


def to_memory(scale: Scale, folder: Path, reader: ours.Node) -> Iterator[Row]:
    what, against, target = "the same, warm, to memory", "Arrow Flight over mutual TLS, not verified", Target(1.2)
    try:
        with peers.flight(folder, scale.bulk_bytes) as url:
            pki = peers.Pki(folder)

            def flight() -> float:
                argv = [sys.executable, "-m", "bench.flight", "fetch", url, str(pki.key), str(pki.certificate)]
                return float(subprocess.run(argv, capture_output=True, text=True, check=True, cwd=peers.ROOT).stdout)

            variants = {
                "Client.open().read()": lambda: ours.inside("read", reader.home, f"{PREFIX}/big"),
                "flight": flight,
            }
            runs = in_turns(scale.runs, variants, lambda: disk.settle(folder))
    except peers.Missing as missing:
        yield Row(what, against, target, missing=str(missing))
        return
    yield Row(
        what,
        against,
        target,
        tuple(runs["Client.open().read()"]),
        tuple(runs["flight"]),
        how="`Client.open(id).read()` and `do_get().read_all()` in fresh processes, dialling included, imports not",
    )
