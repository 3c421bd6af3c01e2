"""An element as a file: reads like one, verifies like a fetch."""

import io
import os
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pyarrow
import pytest
from pyarrow import csv, parquet

from hanse import limits
from hanse.client.client import Client
from hanse.errors import InvalidInput, NotFound, Unreachable, WrongContent
from hanse.v1 import node_pb2
from tests.simulator import Organization, SimulatedLeague

CHUNK = limits.MIN_CHUNK_BYTES
DATA = os.urandom(20 * CHUNK + 777)


@pytest.fixture
def north() -> Iterator[Organization]:
    with SimulatedLeague() as league:
        north = league.join("86.north")
        north.wrap("x", DATA)
        north.wrap("trial", {"a.csv": b"n,m\n1,2\n3,4\n", "empty": b"", "b": DATA})
        yield north


@pytest.fixture
def client(north: Organization, tmp_path: Path) -> Iterator[Client]:
    with Client(north.league.join("86.acme").home(tmp_path / "home")) as client:
        yield client


def test_read_all(client: Client) -> None:
    with client.open("86.north/x") as file:
        assert file.read() == DATA
        assert file.read() == b""


def test_reads_and_seeks_are_those_of_a_local_file(client: Client) -> None:
    local, chance = io.BytesIO(DATA), random.Random(7)
    with client.open("86.north/x") as remote:
        assert (remote.readable(), remote.seekable(), remote.writable()) == (True, True, False)
        for _ in range(200):
            offset, whence = chance.choice(
                [
                    (chance.randrange(len(DATA) + 100), 0),
                    (chance.randrange(-50, 50), 1),
                    (-chance.randrange(len(DATA)), 2),
                ]
            )
            if whence == 1 and local.tell() + offset < 0:
                continue
            assert remote.seek(offset, whence) == local.seek(offset, whence)
            length = chance.choice([0, 1, 100, CHUNK, 3 * CHUNK])
            assert remote.read(length) == local.read(length)
            assert remote.tell() == local.tell()


def test_reading_on_costs_few_calls(north: Organization, client: Client) -> None:
    node = north.serve()
    node.calls.clear()
    with client.open("86.north/x") as file:
        while file.read(1000):
            pass
    assert node.calls.count("fetch") <= 6
    assert node.calls.count("hashes") == 1


def test_a_small_read_transfers_little(north: Organization, client: Client) -> None:
    node = north.serve()
    with client.open("86.north/x") as file:
        file.seek(5 * CHUNK + 3)
        assert file.read(10) == DATA[5 * CHUNK + 3 :][:10]
        file.seek(5 * CHUNK + 100)
        file.read(10)
    assert node.sent_bytes <= 20 * CHUNK
    assert node.calls.count("fetch") == 1


def test_an_element_by_name(client: Client) -> None:
    with client.open("86.north/trial", "b") as file:
        assert file.read() == DATA
    with client.open("86.north/trial", "empty") as file:
        assert file.read() == b""
    with pytest.raises(NotFound):
        client.open("86.north/trial", "none")
    with pytest.raises(InvalidInput, match="has 3 elements: say which"):
        client.open("86.north/trial")


def test_pyarrow_reads_a_table(north: Organization, client: Client) -> None:
    with client.open("86.north/trial", "a.csv") as file:
        assert csv.read_csv(file).to_pydict() == {"n": [1, 3], "m": [2, 4]}
    table = pyarrow.table({"n": list(range(100_000))})
    written = io.BytesIO()
    parquet.write_table(table, written)
    north.wrap("t.parquet", written.getvalue())
    with client.open("86.north/t.parquet") as file:
        assert parquet.read_table(file).equals(table)


def test_zipfile_reads_an_archive(north: Organization, client: Client) -> None:
    written = io.BytesIO()
    with zipfile.ZipFile(written, "w") as archive:
        archive.writestr("first", os.urandom(200_000))
        archive.writestr("second", b"here")
    north.wrap("a.zip", written.getvalue())
    with client.open("86.north/a.zip") as file, zipfile.ZipFile(file) as archive:
        assert archive.read("second") == b"here"


def test_text(client: Client) -> None:
    with client.open("86.north/trial", "a.csv") as file:
        assert list(io.TextIOWrapper(file)) == ["n,m\n", "1,2\n", "3,4\n"]


def test_a_closed_file_says_so(client: Client) -> None:
    file = client.open("86.north/x")
    file.close()
    with pytest.raises(ValueError, match="closed"):
        file.read()


def test_an_interruption_is_not_noticed(north: Organization, client: Client) -> None:
    node = north.serve()
    with client.open("86.north/x") as file:
        assert file.read(100) == DATA[:100]
        node.stop()
        node.start()
        assert file.read() == DATA[100:]


def test_an_owner_that_is_away_for_good(north: Organization, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hanse.client.remote_file.PATIENCE", 0.2)
    with client.open("86.north/x") as file:
        north.serve().stop()
        with pytest.raises(Unreachable):
            file.read()


def test_altered_bytes_are_never_given(north: Organization, client: Client) -> None:
    north.serve().lies["fetch"] = lambda parts: (bytes([part[0] ^ 1]) + part[1:] for part in parts)
    with client.open("86.north/x") as file, pytest.raises(WrongContent):
        file.read(1)


def test_altered_hashes_are_refused(north: Organization, client: Client) -> None:
    north.serve().lies["hashes"] = lambda messages: [node_pb2.HashesResponse(hashes=bytes(32 * 21))]
    with pytest.raises(WrongContent, match="chunk hashes"):
        client.open("86.north/x")


def test_a_short_stream_is_refused(north: Organization, client: Client) -> None:
    north.serve().lies["fetch"] = lambda parts: iter(())
    with client.open("86.north/x") as file, pytest.raises(WrongContent, match="fewer bytes"):
        file.read()
