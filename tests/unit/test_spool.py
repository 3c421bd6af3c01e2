"""What is spooled to a temporary file is not to be read in it."""

import io
import os
import tempfile
from pathlib import Path

import pytest

from hanse.client import spool as spooling
from hanse.client.spool import Spool

CANARY = b"kenari-in-the-name-of-an-element"


@pytest.mark.parametrize("memory", [0, 100, 10_000, 1 << 22])
def test_what_was_written_is_read_from_anywhere(memory: int) -> None:
    spool, whole = Spool(memory), io.BytesIO()
    for number in range(300):
        part = CANARY * (number % 7) + bytes([number % 256])
        spool.write(part)
        whole.write(part)
    for at, length in ((0, 10), (5, 1000), (10_001, 37), (0, -1)):
        spool.seek(at)
        whole.seek(at)
        assert spool.read(length) == whole.read(length)
        assert spool.tell() == whole.tell()
    spool.close()


def test_the_temporary_file_has_nothing_in_the_open(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[int] = []
    original = spooling.sealed_file

    def noted(descriptor: int, *more: object) -> io.BufferedRandom:
        made.append(os.dup(descriptor))
        return original(descriptor, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(spooling, "sealed_file", noted)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    spool = Spool(memory=100)
    for _ in range(20_000):
        spool.write(CANARY)
    spool.seek(0)
    assert spool.read(len(CANARY)) == CANARY
    assert len(made) == 1
    on_disk = os.pread(made[0], 1 << 20, 0)
    assert len(on_disk) > 500_000
    assert CANARY not in on_disk
    assert b"element" not in on_disk
    assert not list(tmp_path.iterdir())
    os.close(made[0])
    spool.close()
