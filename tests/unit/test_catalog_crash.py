"""Killed at any instant, or out of space: what was said to be added is there, and the rest is cleanly absent."""

import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.errors import NoSpace
from hanse.model.identifier import Identifier
from node.storage.outbox import Outbox
from tests.breaking import missing
from tests.wrapping import NORTH, Shelf

ROOT = Path(__file__).parents[2]

# Adds, refreshes and withdraws for ever, saying each time what was done.
WORKER = """
import sys
from pathlib import Path
from tests.wrapping import Shelf
folder, round = Path(sys.argv[1]), sys.argv[2]
with Shelf.open(folder) as shelf:
    print("ready", flush=True)
    number = 0
    while True:
        number += 1
        suffix = f"{round}-{number}"
        added = shelf.catalog.add(folder / "data", suffix=suffix)
        print("added", suffix, flush=True)
        shelf.write(f"data/changing", b"%d" % number)
        refreshed, = shelf.catalog.refresh(suffix)
        print("version", suffix, refreshed.version, flush=True)
        if number % 3 == 0:
            shelf.catalog.withdraw(suffix)
            print("version", suffix, refreshed.version + 1, flush=True)
"""


def expect_whole(shelf: Shelf, promised: dict[str, int]) -> None:
    """Everything that was said is there, and everything that is there is whole."""
    entries = {entry.id.suffix: entry for entry in shelf.catalog.list()}
    for suffix, version in promised.items():
        assert entries[suffix].version >= version
    waiting = [row.key for row in shelf.catalog.outbox.all()]
    for entry in entries.values():
        assert waiting.count(entry.id.key) == entry.version, "a version and its outbox row are one"
        if not entry.withdrawn:
            stored = shelf.stored(entry.id, entry.version)
            assert len(shelf.elements(stored)) == len(shelf.manifest(entry.id)) == entry.element_count
    damage = [drift for drift in shelf.catalog.check() if "damaged" in drift.what or "committed" in drift.what]
    assert damage == []
    with shelf.storage.database.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []


def test_killed_at_random_instants_nothing_is_half_done(tmp_path: Path) -> None:
    chance = random.Random(20261123)
    with Shelf.open(tmp_path) as shelf:
        for number in range(300):
            shelf.write(f"data/{number % 7}/{number}", b"%d" % number * 50)
        shelf.write("data/long", b"x" * 3_000_000)
    promised: dict[str, int] = {}
    for round_ in range(12):
        process = subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), f"r{round_}"], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        # Every third time something was added before, however slow the machine is.
        first = process.stdout.readline() if round_ % 3 == 2 else ""
        time.sleep(chance.uniform(0, 0.3))  # the instant
        process.send_signal(signal.SIGKILL)
        said, _ = process.communicate()
        for line in (first + said).splitlines():
            if line.endswith(tuple("0123456789")):  # a last line may be cut
                word, suffix, *version = line.split()
                if word == "added" or version:
                    promised[suffix] = int(version[0]) if version else 1
        with Shelf.open(tmp_path) as shelf:
            expect_whole(shelf, promised)
    assert promised


def test_an_interrupted_add_leaves_nothing(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        for number in range(3000):
            shelf.write(f"data/{number}", b"%d" % number)
        told = 0

        def interrupt(_: object) -> None:
            nonlocal told
            told += 1
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            shelf.catalog.add(tmp_path / "data", suffix="x1", progress=interrupt)

        assert told == 1
        assert shelf.catalog.list() == []
        assert shelf.catalog.outbox.all() == []
        with shelf.storage.database.reading() as connection:
            for table in ("object", "version", "page", "element", "leaves"):
                assert connection.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)
        assert shelf.catalog.add(tmp_path / "data", suffix="x1").element_count == 3000


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[None]:
    folder.mkdir()
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        missing(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


def test_on_a_full_disk_add_says_so_and_leaves_nothing_and_goes_on_when_there_is_space(tmp_path: Path) -> None:
    for number in range(20_000):
        path = tmp_path / f"data/{number % 20}/{number}"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    with small_disk(tmp_path / "disk", "3m"), Shelf.open(tmp_path / "disk") as shelf:
        shelf.catalog.add(tmp_path / "data/1", suffix="before")

        with pytest.raises(NoSpace, match=r"no space left on the disk of .*: free some, then run it again"):
            shelf.catalog.add(tmp_path / "data", suffix="x1")

        assert [entry.id.suffix for entry in shelf.catalog.list()] == ["before"]
        assert shelf.catalog.add(tmp_path / "data/2", suffix="after").element_count == 1000
        expect_whole(shelf, {"before": 1, "after": 1})


def test_on_a_disk_that_is_full_to_the_last_byte_every_command_says_so(tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", "2m"), Shelf.open(tmp_path / "disk") as shelf:
        source = tmp_path / "a"
        source.write_bytes(b"x")
        shelf.catalog.add(source, suffix="before")
        filler = os.open(tmp_path / "disk/filler", os.O_WRONLY | os.O_CREAT)
        with contextlib.suppress(OSError):
            while os.write(filler, b"\0" * 4096):
                pass
        os.close(filler)

        said: list[str] = []
        for number in range(40):
            try:
                shelf.catalog.add(source, suffix=f"x{number}")
                said.append(f"x{number}")
            except NoSpace:
                break
        else:
            pytest.fail("the disk was never full")
        (tmp_path / "disk/filler").unlink()

        shelf.catalog.add(source, suffix="after")
        expect_whole(shelf, dict.fromkeys(["before", "after", *said], 1))


def test_an_outbox_row_is_acknowledged_for_good(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a"), suffix="x1")
        shelf.catalog.outbox.acknowledged(shelf.catalog.outbox.pending()[0].seq)
    with Shelf.open(tmp_path) as shelf:
        assert Outbox(shelf.storage.database).all() == []
        assert shelf.storage.object(Identifier.of(NORTH, "x1")) is not None
