"""What of a folder becomes an element, in which order, and what is refused."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from hanse import limits
from hanse.errors import InvalidInput, LimitExceeded, NotFound
from node.sources.source import Source, SourceKind
from node.sources.walking import Walk
from tests.wrapping import public_folder


def names(path: Path) -> list[str]:
    return [found.name.text for found in Walk(Source.of(path))]


def write(path: Path, content: bytes = b"x") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


def test_names_come_in_the_order_of_their_bytes_across_folders(tmp_path: Path) -> None:
    wanted = ["a-b", "a.txt", "a/b", "a/c/d", "a0", "b", "数据/表.csv", "é"]
    for name in wanted:
        write(tmp_path / name)

    assert names(tmp_path) == sorted(wanted, key=str.encode)


def test_hidden_files_are_elements_and_empty_folders_are_counted(tmp_path: Path) -> None:
    write(tmp_path / ".hidden/.file")
    (tmp_path / "empty/inner").mkdir(parents=True)
    (tmp_path / "other").mkdir()

    walk = Walk(Source.of(tmp_path))

    assert [found.name.text for found in walk] == [".hidden/.file"]
    assert walk.empty_folders == 2  # the folder around an empty folder is not empty


def test_a_file_is_one_element_of_its_own_name(tmp_path: Path) -> None:
    path = write(tmp_path / "表.csv")

    assert names(path) == ["表.csv"]
    assert Source.of(path).kind is SourceKind.FILE


def test_an_added_link_stands_for_what_it_points_to(tmp_path: Path) -> None:
    write(tmp_path / "data-2026.csv")
    (tmp_path / "current.csv").symlink_to("data-2026.csv")

    assert Source.of(tmp_path / "current.csv").path == (tmp_path / "data-2026.csv").resolve()


def test_a_link_to_a_file_inside_the_folder_has_that_files_bytes(tmp_path: Path) -> None:
    target = write(tmp_path / "deep/er/target", b"bytes")
    (tmp_path / "link").symlink_to("deep/er/target")
    (tmp_path / "deep/second").symlink_to("../link")
    (tmp_path / "absolute").symlink_to(target)

    found = {each.name.text: each for each in Walk(Source.of(tmp_path))}

    assert list(found) == ["absolute", "deep/er/target", "deep/second", "link"]
    assert {each.status().st_ino for each in found.values()} == {target.stat().st_ino}


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("../outside", "leaves the folder or leads nowhere"),
        ("/etc/passwd", "leaves the folder or leads nowhere"),
        ("missing", "leaves the folder or leads nowhere"),
        ("link", "leaves the folder or leads nowhere"),  # itself
        (".", "leaves the folder or leads nowhere"),
        ("inner", "is a symbolic link to something that is not a file"),
        ("through/outside", "leaves the folder or leads nowhere"),
    ],
)
def test_other_links_are_refused_by_name_with_the_way_out(tmp_path: Path, target: str, message: str) -> None:
    write(tmp_path / "outside")
    write(tmp_path / "folder/inner/file")
    if target.startswith("through"):
        write(tmp_path / "folder/through/file")
        (tmp_path / "folder/through/outside").symlink_to("../../outside")
        target = "through/outside"
    (tmp_path / "folder/link").symlink_to(target)

    with pytest.raises(InvalidInput, match=message) as caught:
        names(tmp_path / "folder")

    assert "folder/link" in str(caught.value)
    assert "replace it" in str(caught.value)


def test_a_folder_link_that_takes_a_folders_place_is_not_followed(tmp_path: Path) -> None:
    # Given a walk that has listed a folder, when the inner folder becomes a link to elsewhere, then it is refused.
    write(tmp_path / "folder/a")
    write(tmp_path / "folder/b/file")
    write(tmp_path / "elsewhere/file")
    walk = iter(Walk(Source.of(tmp_path / "folder")))
    assert next(walk).name.text == "a"
    (tmp_path / "folder/b").rename(tmp_path / "moved")
    (tmp_path / "folder/b").symlink_to(tmp_path / "elsewhere")

    with pytest.raises(Exception, match="changed while it was read"):
        next(walk)


def test_sockets_and_pipes_are_refused_by_name(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InvalidInput, match="pipe is a socket, a pipe or a device"):
        names(tmp_path)
    (tmp_path / "pipe").unlink()
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "sock"))
        with pytest.raises(InvalidInput, match="sock is a socket, a pipe or a device"):
            names(tmp_path)


@pytest.mark.parametrize("path", ["/dev/null", "pipe"])
def test_a_device_or_pipe_is_no_source(tmp_path: Path, path: str) -> None:
    os.mkfifo(tmp_path / "pipe")

    with pytest.raises(InvalidInput, match="neither a file nor a folder"):
        Source.of(tmp_path / path)


def test_what_does_not_exist_is_not_found(tmp_path: Path) -> None:
    with pytest.raises(NotFound, match="does not exist"):
        Source.of(tmp_path / "missing")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(InvalidInput, match="leads back to itself"):
        Source.of(tmp_path / "loop")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (b"a\\b", "forward slashes"),
        (b"C:x", "forward slashes"),
        (b"line\nend", "control character"),
        (b"\xff\xfe", "not valid UTF-8"),
    ],
)
def test_names_that_other_systems_cannot_write_are_refused(tmp_path: Path, name: bytes, message: str) -> None:
    with open(os.fsencode(tmp_path) + b"/" + name, "wb"):
        pass

    with pytest.raises(InvalidInput, match=message) as caught:
        names(tmp_path)

    assert "Rename it" in str(caught.value)
    assert str(tmp_path) in str(caught.value)
    str(caught.value).encode()  # can be printed


@pytest.mark.parametrize(("one", "other"), [("Readme", "README"), ("straße", "STRASSE"), ("é", "e\u0301")])
@pytest.mark.parametrize("suffix", ["", "/file"])
def test_names_that_some_file_system_takes_for_one_are_refused(
    tmp_path: Path, one: str, other: str, suffix: str
) -> None:
    write(tmp_path / (one + suffix))
    write(tmp_path / (other + suffix))

    with pytest.raises(InvalidInput, match="take for one"):
        names(tmp_path)


def test_folders_are_nested_only_so_deep(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("d" * (limits.FOLDER_DEPTH + 1))
    write(deep / "file")

    with pytest.raises(LimitExceeded, match="nested deeper"):
        names(tmp_path)
    assert names(tmp_path / "d") != []


def test_unreadable_files_and_folders_are_named() -> None:
    # As nobody, in a process of its own: root reads everything.
    script = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from node.progress import Meter
from node.sources.hashing import Hasher
from node.sources.source import Source
from node.sources.walking import Walk
os.setuid(65534) if os.getuid() == 0 else None
walk = Walk(Source.of(Path(sys.argv[1])))
try:
    with Hasher(walk, Meter(None)) as hasher:
        list(hasher.hash(walk))
except Exception as error:
    print(type(error).__name__, error)
"""

    def told(folder: Path) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(folder)], capture_output=True, text=True, check=True
        ).stdout

    with public_folder() as folder:
        secret = write(folder / "secret")
        secret.chmod(0)
        assert told(folder).startswith(f"InvalidInput {secret} cannot be read: Permission denied")
        secret.unlink()
        inner = folder / "inner"
        inner.mkdir(mode=0)
        assert told(folder).startswith(f"InvalidInput {inner}/ cannot be read: Permission denied")
        inner.chmod(0o700)
