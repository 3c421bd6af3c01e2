"""Elements are opened for peers only while they are what was promised, and no error says where they are."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from hanse.errors import HanseError, SourceChanged
from node.sources.fingerprint import Fingerprint
from node.sources.opening import FOLDERS, Opener
from node.sources.source import Source
from tests.wrapping import next_tick


def write(path: Path, content: bytes) -> Fingerprint:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return Fingerprint.of(path.stat())


def held(folder: Path) -> int:
    """How many descriptors this process has in a folder. Others come and go: old sockets are collected late."""

    def target(descriptor: str) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}")
        except FileNotFoundError:  # the one that lists
            return ""

    return sum(Path(target(each)).is_relative_to(folder) for each in os.listdir("/proc/self/fd"))


def read(opener: Opener, name: str, expected: Fingerprint) -> bytes:
    buffer = memoryview(bytearray(expected.size))
    opener.read(name, expected, buffer)
    return bytes(buffer)


def test_an_element_is_read_in_part_and_whole(tmp_path: Path) -> None:
    expected = write(tmp_path / "folder/数据/a", bytes(range(100)))
    with Opener(Source.of(tmp_path / "folder")) as opener:
        assert read(opener, "数据/a", expected) == bytes(range(100))
        with opener.open("数据/a", expected) as element:
            part = memoryview(bytearray(10))
            element.read_into(part, 50)
            assert bytes(part) == bytes(range(50, 60))
            assert element.unchanged()
            element.check()


def test_a_single_file_and_an_empty_one_are_read(tmp_path: Path) -> None:
    expected = write(tmp_path / "a.csv", b"1,2")
    with Opener(Source.of(tmp_path / "a.csv")) as opener:
        assert read(opener, "a.csv", expected) == b"1,2"
    nothing = write(tmp_path / "empty", b"")
    with Opener(Source.of(tmp_path / "empty")) as opener:
        assert read(opener, "empty", nothing) == b""


def test_a_link_inside_the_folder_is_read(tmp_path: Path) -> None:
    expected = write(tmp_path / "deep/target", b"bytes")
    (tmp_path / "link").symlink_to("deep/target")
    with Opener(Source.of(tmp_path)) as opener:
        assert read(opener, "link", expected) == b"bytes"


def rewrite(path: Path) -> None:
    path.write_bytes(b"other")  # as long as before


def replace(path: Path) -> None:
    path.with_name("new").write_bytes(b"bytes")
    path.with_name("new").replace(path)


def replace_with_same_times(path: Path) -> None:
    before = path.stat()
    replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def rewrite_with_same_times(path: Path) -> None:
    before = path.stat()
    rewrite(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def link_out(path: Path) -> None:
    path.rename(path.parent.parent.parent / "outside")
    path.symlink_to("../../outside")


def link_folder_out(path: Path) -> None:
    path.parent.rename(path.parent.parent.parent / "outside")
    path.parent.symlink_to("../outside")


def pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


CHANGES: list[Callable[[Path], object]] = [
    rewrite,
    rewrite_with_same_times,
    replace,
    replace_with_same_times,
    link_out,
    link_folder_out,
    pipe,
    Path.unlink,
    lambda path: os.truncate(path, 2),
    lambda path: path.open("ab").write(b"more"),
    lambda path: path.chmod(0o700),
]


@pytest.mark.parametrize("change", CHANGES)
def test_what_is_not_as_promised_is_refused_when_it_is_opened(tmp_path: Path, change: Callable[[Path], object]) -> None:
    path = tmp_path / "folder/inner/canary"
    expected = write(path, b"bytes")
    source = Source.of(tmp_path / "folder")
    next_tick(tmp_path)

    change(path)

    with Opener(source) as opener:
        for attempt in (opener.open, lambda name, print_: read(opener, name, print_)):
            with pytest.raises(SourceChanged) as caught:
                attempt("inner/canary", expected)
            assert "canary" not in str(caught.value)
            assert str(tmp_path) not in str(caught.value)


def test_a_change_while_it_is_read_is_seen(tmp_path: Path) -> None:
    path = tmp_path / "a"
    expected = write(path, b"x" * 100)
    with Opener(Source.of(tmp_path)) as opener, opener.open("a", expected) as element:
        next_tick(tmp_path)
        os.truncate(path, 50)
        with pytest.raises(SourceChanged):
            element.read_into(memoryview(bytearray(10)), 60)
        assert not element.unchanged()
        with pytest.raises(SourceChanged):
            element.check()


def test_only_so_many_folders_stay_open_and_none_after_the_end(tmp_path: Path) -> None:
    prints = {f"{number:03}/a": write(tmp_path / f"{number:03}/a", b"x") for number in range(3 * FOLDERS)}
    with Opener(Source.of(tmp_path)) as opener:
        for name, expected in prints.items():
            read(opener, name, expected)
        assert held(tmp_path) == FOLDERS
    assert held(tmp_path) == 0


def test_a_refused_element_leaves_no_descriptor(tmp_path: Path) -> None:
    expected = write(tmp_path / "a", b"x")
    with Opener(Source.of(tmp_path)) as opener:
        read(opener, "a", expected)
        before = held(tmp_path)
        for _ in range(5):
            with pytest.raises(HanseError):
                opener.open("a", expected._replace(size=7))
        assert held(tmp_path) == before
