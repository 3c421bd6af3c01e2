"""Files to measure with, and a disk in the same state before every run.

Sources lie in the page cache. What was written before is written back, and as much memory as a run will fill has just
been used and freed: on a virtual machine the first write to a page of memory costs several times the second.
"""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

MIB = 1 << 20
_BLOCK = os.urandom(16 * MIB)


def big_file(path: Path, size: int) -> Path:
    """Random bytes (one block of them over and over: nobody here compresses or deduplicates)."""
    with path.open("wb") as file:
        for first in range(0, size, len(_BLOCK)):
            file.write(_BLOCK[: size - first])
    return path


def sparse_file(path: Path, size: int) -> Path:
    with path.open("wb") as file:
        file.truncate(size)
    return path


def folder(path: Path, files: int, size: int) -> Path:
    """``files`` files of different random bytes, a hundred in each sub-folder."""
    for number in range(files):
        below = path / f"{number // 100:04}"
        if number % 100 == 0:
            below.mkdir(parents=True)
        content = bytearray(_BLOCK[number : number + size])
        content[:8] = number.to_bytes(8, "big")
        (below / f"{number:06}.bin").write_bytes(content)
    return path


def settle(folder: Path, memory: int = 1300 * MIB) -> None:
    """The same state before each run."""
    os.sync()
    scratch = folder / "scratch"
    with scratch.open("wb") as file:
        for _ in range(memory // len(_BLOCK)):
            file.write(_BLOCK)
    scratch.unlink()


def warm(path: Path) -> None:
    """Into the page cache."""
    for each in _files(path):
        with each.open("rb", buffering=0) as file:
            while file.read(16 * MIB):
                pass


def _files(path: Path) -> Iterator[Path]:
    if path.is_file():
        yield path
    else:
        yield from (each for each in path.rglob("*") if each.is_file())


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
