"""A folder of many small files, fetched: against rsync and tar through ssh."""

import itertools
from collections.abc import Iterator
from pathlib import Path

from bench import disk, ours, peers
from bench.scale import Scale
from bench.table import Row, Target, in_turns

PREFIX, READER = "86.north", "86.south"


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    source = disk.folder(folder / "source", scale.small_files, scale.small_file_bytes)
    what = f"fetch a folder of {scale.small_files:,} files of {scale.small_file_bytes >> 10} KiB"
    numbers = itertools.count()
    how = "whole commands from outside, into a new folder; ours is verified and synced, theirs neither"
    with ours.league(folder / "league", PREFIX) as league:
        reader = league.join(READER, serve=False)
        league.nodes[PREFIX].command("add", source, "--id", "folder", "--open", timeout=300)
        league.nodes[PREFIX].published()

        def to() -> Path:
            # Each time another: where ext4 has just deleted files, it is slow to make new ones for some minutes.
            return folder / f"fetched-{next(numbers)}"

        def before() -> None:
            disk.settle(folder, 2 * scale.small_files * scale.small_file_bytes)
            disk.warm(source)

        try:
            with peers.sshd(folder) as ssh:
                variants = {
                    "hanse fetch": lambda: ours.run(reader, "fetch", f"{PREFIX}/folder", "-o", to()),
                    "rsync": lambda: peers.rsync(ssh, source, to()),
                    "tar": lambda: peers.tar(ssh, source, to()),
                }
                runs = in_turns(min(scale.runs, 5), variants, before)
        except peers.Missing as missing:
            yield Row(what, "`rsync -a` over ssh", Target(1.0), missing=str(missing))
            yield Row("the same", "tar through ssh", Target(0.7), missing=str(missing))
            return
    fetched = tuple(runs["hanse fetch"])
    yield Row(what, "`rsync -a` over ssh", Target(1.0), fetched, tuple(runs["rsync"]), how=how)
    yield Row("the same", "tar through ssh", Target(0.7), fetched, tuple(runs["tar"]), how=how)
