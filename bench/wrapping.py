"""Adding: hashing a large file against openssl, a folder of small ones against restic."""

from collections.abc import Iterator
from pathlib import Path

from bench import disk, ours, peers
from bench.scale import GIB, Scale
from bench.table import Row, Target, in_turns

PREFIX = "86.north"


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    with ours.league(folder / "league") as league:
        node = league.join(PREFIX, serve=False)
        league.registry.kill()
        yield large(scale, folder, node)
        yield small(scale, folder, node)


def large(scale: Scale, folder: Path, node: ours.Node) -> Row:
    what = f"add (hash) a file of {scale.add_bytes / GIB:g} GiB"
    against, target = "`openssl dgst -sha256`", Target(0.8)
    source = disk.big_file(folder / "large.bin", scale.add_bytes)
    number = 0

    def add() -> float:
        nonlocal number
        number += 1
        return ours.run(node, "add", source, "--id", f"large-{number}")

    try:
        variants = {"hanse add": add, "openssl dgst": lambda: peers.sha256(source)}
        runs = in_turns(scale.large_runs, variants, lambda: disk.warm(source))
    except peers.Missing as missing:
        return Row(what, against, target, missing=str(missing))
    finally:
        disk.remove(source)
    return Row(
        what,
        against,
        target,
        tuple(runs["hanse add"]),
        tuple(runs["openssl dgst"]),
        how="whole commands from outside, file in the page cache; ours hashes twice (chunks and whole) and commits a "
        "manifest and a record",
    )


def small(scale: Scale, folder: Path, node: ours.Node) -> Row:
    what = f"add a folder of {scale.add_files:,} files of {scale.add_file_bytes >> 10} KiB"
    against, target = "`restic backup` of it to a new local repository", Target(1.0)
    source = disk.folder(folder / "folder", scale.add_files, scale.add_file_bytes)
    number = 0

    def add() -> float:
        nonlocal number
        number += 1
        return ours.run(node, "add", source, "--id", f"folder-{number}")

    def before() -> None:
        disk.settle(folder)
        disk.warm(source)

    try:
        restic = peers.Restic(folder)
        runs = in_turns(min(scale.runs, 5), {"hanse add": add, "restic": lambda: restic.backup(source)}, before)
    except peers.Missing as missing:
        return Row(what, against, target, missing=str(missing))
    return Row(
        what,
        against,
        target,
        tuple(runs["hanse add"]),
        tuple(runs["restic"]),
        how="whole commands from outside, files in the page cache; restic also stores the bytes, we only hash them",
    )
