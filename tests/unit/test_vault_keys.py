"""The vault's keys: one file each, durable, and gone when they are destroyed."""

import os
from pathlib import Path

import pytest

from hanse.errors import StorageFailed
from hanse.vault import keys


def test_a_key_is_read_as_it_was_made(tmp_path: Path) -> None:
    name = keys.new_name()
    key = keys.make(tmp_path, name)
    assert (len(key), keys.read(tmp_path, name), keys.exists(tmp_path, name)) == (32, key, True)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).stat().st_mode & 0o777 == 0o600


def test_no_two_are_equal(tmp_path: Path) -> None:
    names = [keys.new_name() for _ in range(50)]
    assert len({keys.make(tmp_path, name) for name in names}) == len(set(names)) == 50
    with pytest.raises(StorageFailed):
        keys.make(tmp_path, names[0])


def test_a_destroyed_key_was_overwritten_and_is_gone(tmp_path: Path) -> None:
    name = keys.new_name()
    key = keys.make(tmp_path, name)
    os.link(tmp_path / name, tmp_path / "the-same-blocks")
    keys.destroy(tmp_path, name)
    assert keys.read(tmp_path, name) is None
    assert not keys.exists(tmp_path, name)
    assert (tmp_path / "the-same-blocks").read_bytes() == bytes(32) != key
    keys.destroy(tmp_path, name)


def test_what_was_cut_off_is_no_key(tmp_path: Path) -> None:
    name = keys.new_name()
    keys.make(tmp_path, name)
    os.truncate(tmp_path / name, 31)
    assert keys.read(tmp_path, name) is None


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "keys").mkdir()
    (tmp_path / "precious").write_bytes(b"p" * 40)
    (tmp_path / "keys" / "k").symlink_to(tmp_path / "precious")
    keys.destroy(tmp_path / "keys", "k")
    assert not list((tmp_path / "keys").iterdir())
    assert (tmp_path / "precious").read_bytes() == b"p" * 40
