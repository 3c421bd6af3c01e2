"""What tests break things with: chance that can be repeated, small disks, wrong clocks, and eyes on what is written.

instants = chance("kills")             # prints its seed; HANSE_SEED repeats a run
with small_disk(folder, 64 * MIB) as disk:
    disk.fill(); ...; disk.free()
"""

import contextlib
import json
import os
import random
import re
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from hanse.client.partial import partial_path
from tests.processes import ROOT, Node, Process

MIB = 1024 * 1024
CHUNK = MIB
_PIECE = 4 * MIB


def chance(name: str) -> random.Random:
    """Random instants; pytest shows the seed of a test that fails."""
    seed = os.environ.get("HANSE_SEED") or str(random.SystemRandom().randrange(1 << 32))
    print(f"HANSE_SEED={seed} repeats {name}")
    return random.Random(f"{seed} {name}")


def write_content(path: Path, size: int) -> Path:
    """No two chunks of it are equal; and it costs little to make."""
    path.parent.mkdir(parents=True, exist_ok=True)
    piece = bytearray(os.urandom(min(size, _PIECE)))
    with path.open("wb") as file:
        for start in range(0, size, _PIECE):
            for chunk in range(0, len(piece), CHUNK):
                piece[chunk : chunk + 8] = (start + chunk).to_bytes(8, "big")
            file.write(piece[: size - start])
    return path


def write_folder(path: Path, files: int, size: int) -> Path:
    """Many small files in a few folders, each with its own content."""
    random_bytes = os.urandom(size)
    for number in range(files):
        if number % 500 == 0:
            folder = path / f"part-{number // 500}"
            folder.mkdir(parents=True)
        (folder / f"{number}.bin").write_bytes(number.to_bytes(8, "big") + random_bytes[8:])
    return path


def equal_files(one: Path, other: Path) -> bool:
    """Byte by byte."""
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as first, other.open("rb") as second:
        while True:
            piece = first.read(_PIECE)
            if piece != second.read(_PIECE):
                return False
            if not piece:
                return True


def equal_folders(one: Path, other: Path) -> bool:
    """The same files, with the same bytes."""
    names = {path.relative_to(one) for path in one.rglob("*") if path.is_file()}
    if names != {path.relative_to(other) for path in other.rglob("*") if path.is_file()}:
        return False
    return all((one / name).read_bytes() == (other / name).read_bytes() for name in names)


def journaled(target: Path) -> tuple[int, int]:
    """(chunks, elements) that the journal of an interrupted fetch to ``target`` says are there."""
    try:
        lines = (partial_path(target) / "journal").read_bytes()[32:]
    except FileNotFoundError:
        return 0, 0
    chunks = elements = 0
    for at in range(0, len(lines) - 31, 32):
        element, count, _, length = (int.from_bytes(lines[at + 8 * n : at + 8 * n + 8], "little") for n in range(4))
        if element == (1 << 64) - 1:
            continue  # it names a delivery
        elements += count
        chunks += 0 if count else length
    return chunks, elements


def served(node: Node, suffix: str, peer: str) -> int:
    """Bytes of Fetch streams that the node says went out: those that ended are counted whole."""
    rows = node.lines("audit", "--object", suffix, "--peer", peer, "--limit", 100_000)
    return sum(row["bytes"] for row in rows if row["operation"] == "fetch")


class Eye:
    """Looks at a path without a pause: what is there must be whole from the first moment on."""

    def __init__(self, path: Path, is_whole: Callable[[Path], bool]) -> None:
        self.path, self._is_whole = path, is_whole
        self.partly = False
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(0.001):
            with contextlib.suppress(FileNotFoundError):  # the test took it away just then
                if os.path.lexists(self.path) and not self._is_whole(self.path) and os.path.lexists(self.path):
                    self.partly = True
                    return

    def __enter__(self) -> "Eye":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Slowed:
    """A process that comes no faster than ``rate`` steps a second: a slow machine, or a slow line behind it."""

    def __init__(self, process: Process, done: Callable[[], int], rate: float) -> None:
        self._process, self._steps, self._rate = process, done, rate
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def _watch(self) -> None:
        began, stopped = time.monotonic(), False
        while not self._done.wait(0.01) and self._process.running:
            ahead = self._steps() > self._rate * (time.monotonic() - began)
            if ahead != stopped:
                self._process.send(signal.SIGSTOP if ahead else signal.SIGCONT)
                stopped = ahead
        self._process.send(signal.SIGCONT)

    def __enter__(self) -> "Slowed":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


class Disk:
    """A file system of its own, which can be filled to the last byte."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / ".ballast"

    @property
    def room(self) -> int:
        found = os.statvfs(self.folder)
        return found.f_bavail * found.f_frsize

    def fill(self, leave: int = 0) -> None:
        """Leaves at most so many bytes."""
        with self._ballast.open("ab") as file:
            part = 1
            while (room := self.room) > leave:
                try:
                    os.posix_fallocate(file.fileno(), os.fstat(file.fileno()).st_size, max(1, (room - leave) // part))
                except OSError:  # somebody else took some of it at the same time
                    part *= 2
                    if part > 2 * room:
                        break

    def free(self) -> None:
        self._ballast.unlink()


@contextlib.contextmanager
def small_disk(folder: Path, size: int, *more: str) -> Iterator[Disk]:
    """Needs the right to mount. In CI its absence fails; elsewhere the test is skipped, and says why."""
    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", ",".join((f"size={size}", "mode=0700", *more)), "hanse-test", folder],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if mounted.returncode:
        missing(f"a small disk cannot be mounted here: {mounted.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", folder], check=False, capture_output=True)


def missing(what: str) -> None:
    """What a test needs is not here: that is a failure in CI, where all of it must be."""
    if os.environ.get("CI", "").lower() in ("1", "true"):
        pytest.fail(what)
    pytest.skip(what)


_FAKETIME = ("/usr/lib/x86_64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/usr/lib", "/usr/local/lib")


def wrong_clock(days: float, told_in: Path | None = None) -> dict[str, str]:
    """The environment of a process whose wall clock is so many days off; what measures durations is right.

    With ``told_in`` it follows what the file says, as ``set_clock`` writes it, after a second at most.
    """
    said = {"FAKETIME": f"{days:+g}d"}
    if told_in is not None:
        set_clock(told_in, days)
        said = {"FAKETIME_TIMESTAMP_FILE": str(told_in), "FAKETIME_CACHE_DURATION": "1"}
    for folder in _FAKETIME:
        library = Path(folder, "faketime", "libfaketimeMT.so.1")
        if library.exists():
            return said | {
                "LD_PRELOAD": str(library),
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
                "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "tests/clock"))),
            }
    missing("clocks cannot be set wrong here: install Debian's package libfaketime")
    raise AssertionError


def set_clock(told_in: Path, days: float) -> None:
    # In one step: it is read at any moment.
    beside = told_in.with_suffix(".new")
    beside.write_text(f"{days:+g}d\n")
    beside.replace(told_in)


def memory_mb(pid: int) -> float:
    """Resident, in MB."""
    return float(psutil.Process(pid).memory_info().rss) / 1e6


def set_schema(database: Path, version: int) -> int:
    """Returns what it was."""
    connection = sqlite3.connect(database)
    try:
        before = int(connection.execute("PRAGMA user_version").fetchone()[0])
        connection.execute(f"PRAGMA user_version = {version}")
        connection.commit()
    finally:
        connection.close()
    return before


class Program(Process):
    """A Python program of the test's own, as a process like the others: started in the repository, logged, killed."""

    def __init__(self, name: str, logs: Path, source: str, *arguments: object, **env: str) -> None:
        super().__init__(name, logs, "unused", **env)
        self._argv = (sys.executable, "-c", source, *map(str, arguments))


def told(process: Process) -> list[Any]:
    """The JSON lines that a program has written whole so far."""
    return [json.loads(line) for line in re.findall(r"^(\{.*\})\n", process.stdout, re.MULTILINE)]
