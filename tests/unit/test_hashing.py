"""The hashes of files are those of the reference, whatever their size and however many threads work."""

import os
import threading
import time
from hashlib import sha256
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import limits, merkle
from hanse.errors import SourceChanged
from node.progress import INTERVAL, Meter, Progress
from node.sources import hashing
from node.sources.hashing import Hashed, Hasher
from node.sources.source import Source
from node.sources.walking import Walk
from tests.wrapping import next_tick

MIB = limits.CHUNK_BYTES


def hash_all(path: Path, workers: int | None = None, meter: Meter | None = None) -> list[Hashed]:
    walk = Walk(Source.of(path))
    with Hasher(walk, meter or Meter(None), workers) as hasher:
        return list(hasher.hash(walk))


def expect(hashed: Hashed, content: bytes) -> None:
    leaves = [merkle.leaf_hash(content[at : at + MIB]) for at in range(0, len(content), MIB)]
    assert hashed.sha256 == sha256(content).digest()
    assert hashed.merkle_root == merkle.root(leaves)
    assert hashed.leaves == (b"".join(leaves) if len(leaves) > 1 else b"")
    assert hashed.fingerprint.size == len(content)


@pytest.mark.parametrize(
    "size",
    [0, 1, 31, MIB - 1, MIB, MIB + 1, 2 * MIB, 3 * MIB + 17, 16 * MIB - 1, 16 * MIB, 16 * MIB + 1, 41 * MIB + 5],
)
def test_a_files_hashes_are_those_of_the_reference_at_every_edge(tmp_path: Path, size: int) -> None:
    content = os.urandom(min(size, 64 * 1024)) * (size // (64 * 1024) + 1)
    content = content[:size]
    (tmp_path / "file").write_bytes(content)

    (hashed,) = hash_all(tmp_path / "file")

    expect(hashed, content)


@settings(max_examples=25, deadline=None)
@given(size=st.integers(0, 300_000), chunk=st.sampled_from([1, 7, 1000, 4096]), workers=st.integers(1, 4))
def test_no_size_and_chunk_gives_another_root(
    tmp_path_factory: pytest.TempPathFactory, size: int, chunk: int, workers: int
) -> None:
    size = min(size, 64 * chunk)
    path = tmp_path_factory.mktemp("hash") / "file"
    path.write_bytes(content := os.urandom(size))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(hashing, "CHUNK", chunk)
        patch.setattr(hashing, "LONG", 16 * chunk)
        (hashed,) = hash_all(path, workers)

    leaves = [merkle.leaf_hash(content[at : at + chunk]) for at in range(0, size, chunk)]
    assert (hashed.merkle_root, hashed.sha256) == (merkle.root(leaves), sha256(content).digest())


def test_many_files_come_back_in_order_with_their_own_hashes(tmp_path: Path) -> None:
    for number in range(1000):
        folder = tmp_path / f"{number % 40:02}"
        folder.mkdir(exist_ok=True)
        (folder / f"{number:04}").write_bytes(b"%d" % number * (number % 50))

    hashed = hash_all(tmp_path, workers=3)

    assert [each.name.text for each in hashed] == sorted(each.name.text for each in hashed)
    for each in hashed:
        expect(each, (tmp_path / each.name.text).read_bytes())


def test_the_executable_bit_is_seen(tmp_path: Path) -> None:
    (tmp_path / "run").write_bytes(b"#!")
    (tmp_path / "run").chmod(0o755)
    (tmp_path / "read").write_bytes(b"")

    assert [each.executable for each in hash_all(tmp_path)] == [False, True]


def test_what_was_changed_just_now_is_not_settled(tmp_path: Path) -> None:
    old, new = tmp_path / "a-old", tmp_path / "b-new"
    old.write_bytes(b"1")
    new.write_bytes(b"2")
    walk = Walk(Source.of(tmp_path))
    with Hasher(walk, Meter(None)) as hasher:
        assert [each.settled for each in hasher.hash(walk)] == [False, False]
    ahead = old.stat().st_ctime + 10
    with Hasher(walk, Meter(None), clock=lambda: ahead) as hasher:
        assert [each.settled for each in hasher.hash(walk)] == [True, True]


@pytest.mark.parametrize("size", [100, 3 * MIB, 40 * MIB])
def test_a_file_that_is_written_to_while_it_is_read_is_refused(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * size)
    next_tick(tmp_path)
    read = hashing._read_exactly

    def read_and_write(fd: int, view: memoryview, offset: int) -> bool:
        done = read(fd, view, offset)
        with open(path, "r+b") as file:
            file.write(b"b")
        return done

    monkeypatch.setattr(hashing, "_read_exactly", read_and_write)

    with pytest.raises(SourceChanged, match=f"{path} changed while it was read: run it again"):
        hash_all(path)


@pytest.mark.parametrize("size", [100, 3 * MIB, 40 * MIB])
def test_a_file_that_shrinks_while_it_is_read_is_refused(
    tmp_path: Path, size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a" * size)
    read = hashing._read_exactly

    def cut_and_read(fd: int, view: memoryview, offset: int) -> bool:
        os.truncate(path, size // 2)
        return read(fd, view, offset)

    monkeypatch.setattr(hashing, "_read_exactly", cut_and_read)

    with pytest.raises(SourceChanged, match="changed while it was read"):
        hash_all(path)


def test_no_thread_is_left_when_the_work_is_given_up(tmp_path: Path) -> None:
    for number in range(3):
        (tmp_path / f"{number}").write_bytes(b"x" * 40 * MIB)
    before = set(threading.enumerate())  # those of other tests may end meanwhile
    walk = Walk(Source.of(tmp_path))

    def interrupted() -> None:
        with Hasher(walk, Meter(None), 2) as hasher:
            next(hasher.hash(walk))
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()

    assert set(threading.enumerate()) - before == set()


def test_progress_is_told_seldom_grows_and_ends_with_everything(tmp_path: Path) -> None:
    for number in range(2000):
        (tmp_path / f"{number:04}").write_bytes(b"x" * 10)
    (tmp_path / "long").write_bytes(b"x" * 40 * MIB)
    told: list[Progress] = []
    meter = Meter(told.append, *Walk(Source.of(tmp_path)).measure())

    hash_all(tmp_path, meter=meter)

    total = 2000 * 10 + 40 * MIB
    assert told[-1] == Progress(total, total, 2001, 2001)
    assert [each.done_files for each in told] == sorted(each.done_files for each in told)
    assert all(each.total_bytes == total for each in told)


def test_progress_is_told_at_most_ten_times_a_second() -> None:
    told: list[Progress] = []
    began = time.monotonic()
    meter = Meter(told.append, 100, 100)
    for _ in range(100):
        meter.done(1, 1)
        meter.show()
    assert 1 <= len(told) <= 1 + (time.monotonic() - began) / INTERVAL
    meter.show(at_once=True)
    assert told[-1] == Progress(100, 100, 100, 100)
    assert INTERVAL >= 0.1
