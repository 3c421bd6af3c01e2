"""Settling while others settle: calls to one owner that overlap, and what each of those who wait is told."""

import threading
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any

import pytest

from hanse import wire, wire_papers
from hanse.client.client import Client
from hanse.client.receipts import Receipts
from hanse.client.settler import Settler
from hanse.client.settling import Outcome
from hanse.errors import NoSpace
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.model.identifier import Prefix
from hanse.model.terms import Terms
from hanse.v1 import node_pb2
from tests.league import Registry, eventually
from tests.nodes import Node

NORTH, SETTLE = Prefix("86.north"), "/hanse.v1.Node/Settle"
PATIENCE = 120.0


@dataclass
class Owner:
    """North, which answers a call to settle only when ``go_on`` is set, and notes what was in it."""

    node: Node
    go_on: threading.Event = field(default_factory=threading.Event)
    calls: list[list[bytes]] = field(default_factory=list)

    def settle(self, data: bytes, caller: Any) -> bytes:
        request = node_pb2.SettleRequest.FromString(data)
        held = not self.calls  # the first is; those after it are not
        self.calls.append(
            [wire_papers.decode_receipt(wire.envelope_from_message(p).payload).delivery for p in request.papers]
        )
        if held:
            assert self.go_on.wait(PATIENCE)
        return bytes(self.honest(data, caller))

    def __enter__(self) -> "Owner":
        assert self.node.daemon is not None
        small = self.node.daemon.service._small
        self.honest = small[SETTLE]
        small[SETTLE] = self.settle
        return self

    def __exit__(self, *_: object) -> None:
        self.go_on.set()
        assert self.node.daemon is not None
        self.node.daemon.service._small[SETTLE] = self.honest


@dataclass
class Scene:
    owner: Owner
    client: Client
    pool: ThreadPoolExecutor

    def fetch(self) -> None:
        with self.client.open("86.north/note") as file:
            assert file.read() == b"hello"

    def rows(self) -> list[Row]:
        with self.client.evidence.reading() as connection:
            return list(table.query(connection))

    def settler(self) -> Settler:
        assert self.client._receipts is not None
        return self.client._receipts._settler


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Node, Iterator[Node]]]:
    """North, and one member for each test, which north knows from its start."""
    tmp = tmp_path_factory.mktemp("league")
    (tmp / "note").write_bytes(b"hello")
    with (
        Registry.start(tmp / "registry") as registry,
        ExitStack() as stack,
    ):
        consumers = [Node.join(registry, f"86.acme-{each}", tmp / f"acme-{each}") for each in range(8)]
        north = stack.enter_context(Node.start(registry, "86.north", tmp / "north"))
        north.add(tmp / "note", "note", Terms.opened())
        north.published()
        yield north, iter(consumers)


@pytest.fixture
def scene(league: tuple[Node, Iterator[Node]], monkeypatch: pytest.MonkeyPatch) -> Iterator[Scene]:
    made = Receipts.__init__
    monkeypatch.setattr(
        Receipts, "__init__", lambda self, resolver, evidence, wait=PATIENCE: made(self, resolver, evidence, wait)
    )
    north, consumers = league
    with ExitStack() as stack:
        client = stack.enter_context(Client(next(consumers).folder))
        pool = stack.enter_context(ThreadPoolExecutor(8))
        yield Scene(stack.enter_context(Owner(north)), client, pool)


def test_while_one_call_is_with_the_owner_another_takes_what_came_meanwhile(scene: Scene) -> None:
    first = scene.pool.submit(scene.fetch)
    eventually(lambda: len(scene.owner.calls) == 1)
    for _ in range(3):
        scene.fetch()
    assert not first.done()
    states = [row.state for row in scene.rows()]
    assert (states.count(State.HALF), states.count(State.SETTLED)) == (1, 3)
    scene.owner.go_on.set()
    first.result(PATIENCE)
    assert [row.state for row in scene.rows()] == [State.SETTLED] * 4


def test_nothing_is_sent_twice_by_calls_that_overlap(scene: Scene) -> None:
    fetches = [scene.pool.submit(scene.fetch)]
    eventually(lambda: len(scene.owner.calls) == 1)
    fetches += [scene.pool.submit(scene.fetch) for _ in range(6)]
    everything = scene.settler().submit(NORTH, b"")
    for each in fetches[1:]:
        each.result(PATIENCE)
    assert not everything.done()
    scene.owner.go_on.set()
    fetches[0].result(PATIENCE)
    everything.result(PATIENCE)
    sent = [delivery for call in scene.owner.calls for delivery in call]
    assert sorted(sent) == sorted(row.id for row in scene.rows())


def test_who_asks_for_everything_waits_for_what_another_call_has_with_the_owner(scene: Scene) -> None:
    first = scene.pool.submit(scene.fetch)
    eventually(lambda: len(scene.owner.calls) == 1)
    everything = scene.settler().submit(NORTH, b"")
    scene.fetch()
    assert not everything.done()
    scene.owner.go_on.set()
    assert everything.result(PATIENCE) == Outcome(True)
    first.result(PATIENCE)


def test_a_half_that_could_not_be_stored_is_not_sent_and_the_fetch_says_so(scene: Scene) -> None:
    stored: Future[None] = Future()
    outcome = scene.settler().follow(stored, NORTH, b"d" * 16)
    stored.set_exception(NoSpace("no space left"))
    with pytest.raises(NoSpace):
        outcome.result(PATIENCE)
    assert scene.owner.calls == []


def test_what_the_owner_refused_is_told_to_each_who_asks(scene: Scene) -> None:
    """It is not sent again and again: only to whoever asks for that very delivery."""
    honest = scene.owner.honest

    def refusing(data: bytes, caller: Any) -> bytes:
        response = node_pb2.SettleResponse.FromString(honest(data, caller))
        for each in response.settled:
            each.ClearField("paper")
            each.refusal = "not today"
        return response.SerializeToString()

    scene.owner.honest = refusing
    scene.owner.go_on.set()
    try:
        scene.fetch()
        (row,) = scene.rows()
        assert row.state is State.HALF
        asked = scene.settler().submit(NORTH, row.id).result(PATIENCE)
        assert asked == Outcome(False, "86.north does not sign: not today")
        assert scene.settler().submit(NORTH, b"").result(PATIENCE) == Outcome(True)  # nothing else waits
        assert [len(call) for call in scene.owner.calls] == [1, 1]
    finally:
        scene.owner.honest = honest
