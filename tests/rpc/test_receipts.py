"""Receipts between two members: what both hold after a fetch, what is counted, and who is refused and why."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse import limits, wire, wire_papers
from hanse.client.client import Client
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.model.papers import Delivered, Receipt
from hanse.model.terms import Terms
from tests.league import Registry, eventually
from tests.nodes import Node

SIZE = 3 * limits.CHUNK_BYTES + 17


@dataclass
class Scene:
    registry: Registry
    north: Node
    acme: Node
    data: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """North serves; everything is open to acme."""
    tmp = tmp_path_factory.mktemp("scene")
    data = tmp / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.bin").write_bytes(os.urandom(SIZE))
    (data / "empty").touch()
    (data / "sub" / "b.txt").write_bytes(b"hello")
    (data / "large.bin").write_bytes(os.urandom(6 * limits.CHUNK_BYTES))
    with (
        Registry.start(tmp / "registry") as registry,
        Node.start(registry, "86.north", tmp / "north") as north,
    ):
        north.add(data, "trial", Terms.opened())
        north.add(data / "large.bin", "large", Terms.opened())
        north.published()
        yield Scene(registry, north, Node.join(registry, "86.acme", tmp / "acme"), data)


def rows(node: Node, **filters: str) -> list[Row]:
    with Evidence.open(node.identity) as evidence, evidence.reading() as connection:
        return list(table.query(connection, **filters))  # type: ignore[arg-type]


def receipt(row: Row) -> Receipt:
    assert row.receipt is not None
    return wire_papers.decode_receipt(wire.decode_envelope(row.receipt).payload)


def settled(scene: Scene, name: str = "trial") -> tuple[Row, Row]:
    """The newest delivery of that object, as its owner and as its consumer has it."""
    mine = rows(scene.acme, object_key=f"86.north/{name}")[0]
    theirs = next(row for row in rows(scene.north) if row.id == mine.id)
    return theirs, mine


def test_both_sides_hold_the_same_receipt_with_two_signatures(scene: Scene, tmp_path: Path) -> None:
    with Client(scene.acme.folder) as client:
        fetched = client.fetch("86.north/trial", tmp_path / "trial")
    assert fetched.receipt is not None and fetched.receipt.by_both, fetched.receipt
    owners, ours = settled(scene)
    assert owners.receipt == ours.receipt and ours.receipt is not None
    assert (owners.state, ours.state) == (State.SETTLED, State.SETTLED)
    whole = wire.decode_envelope(ours.receipt)
    assert {each.keyid for each in whole.signatures} == {
        str(node.identity.signing_key.public.key_id) for node in (scene.north, scene.acme)
    }
    said = receipt(ours)
    assert said.delivered == (Delivered(0, 4),)
    assert said.unique_bytes == fetched.total_bytes
    assert (str(said.owner), str(said.consumer)) == ("86.north", "86.acme")
    eventually(lambda: settled(scene)[0].reserved == 0)
    assert settled(scene)[0].owed == 0


def test_what_is_read_is_one_delivery_and_a_range_read_twice_is_counted_once(scene: Scene) -> None:
    before = len(rows(scene.north))
    with Client(scene.acme.folder) as client, client.open("86.north/large") as file:
        file.seek(limits.CHUNK_BYTES + 5)
        file.read(10)
        file.seek(4 * limits.CHUNK_BYTES)
        file.read(limits.CHUNK_BYTES)
        file.raw._cache.clear()  # type: ignore[attr-defined]
        file.seek(limits.CHUNK_BYTES)
        file.read(limits.CHUNK_BYTES)
    owners, ours = settled(scene, "large")
    assert len(rows(scene.north)) == before + 1
    assert receipt(ours).delivered == (Delivered(0, 0, 1, 1), Delivered(0, 0, 4, 1))
    assert receipt(ours).unique_bytes == 2 * limits.CHUNK_BYTES
    assert owners.receipt == ours.receipt
