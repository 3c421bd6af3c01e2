"""Receipts between two members: what both hold after a fetch, what is counted, and who is refused and why."""

import os
import re
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hanse import limits, wire, wire_papers
from hanse.client.client import Client
from hanse.client.peer import Span
from hanse.client.receipts import Receipts
from hanse.client.settling import Outcome, settle_all
from hanse.errors import DeliveryClosed, InvalidInput, ReceiptsOwed, SourceChanged
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import Delivered, Receipt
from hanse.model.purposes import Purpose
from hanse.model.terms import Terms
from hanse.signing import SigningKey, is_signed_by, sign
from hanse.v1 import node_pb2
from node.weights import Weights
from tests.league import Registry, eventually
from tests.nodes import Caller, Node, fetch_request

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
        north.add(data / "sub" / "b.txt", "note", Terms.opened())
        (tmp / "moving").write_bytes(b"first")
        north.add(tmp / "moving", "moving", Terms.opened())
        north.published()
        yield Scene(registry, north, Node.join(registry, "86.acme", tmp / "acme"), data)


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A fetch waits three seconds for its owner's signature, which on a machine with much else to do may come later."""
    made = Receipts.__init__
    monkeypatch.setattr(
        Receipts, "__init__", lambda self, resolver, evidence, wait=60.0: made(self, resolver, evidence, wait)
    )


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
    assert fetched.receipt == Outcome(True)
    owners, ours = settled(scene)
    assert owners.receipt == ours.receipt
    assert ours.receipt is not None
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


def test_what_came_with_its_description_is_signed_for_read_or_not(scene: Scene) -> None:
    with Client(scene.acme.folder) as client:
        client.open("86.north/note").close()
        owners, ours = settled(scene, "note")
        assert owners.receipt == ours.receipt
        assert (receipt(ours).delivered, receipt(ours).unique_bytes) == ((Delivered(0, 1),), 5)
        assert (owners.state, owners.owed, owners.reserved) == (State.SETTLED, 0, 0)
        with client.open("86.north/note") as file:
            assert (file.read(), file.seek(1), file.read()) == (b"hello", 1, b"ello")


def test_a_small_content_that_could_not_be_read_is_not_counted_as_served(scene: Scene) -> None:
    (scene.data.parent / "moving").write_bytes(b"other")
    before = len(scene.north.audit())
    with Client(scene.acme.folder) as client, pytest.raises(SourceChanged, match="refresh"):
        client.open("86.north/moving")
    eventually(lambda: not rows(scene.north, object_key="86.north/moving"))  # an empty delivery is none
    eventually(lambda: [each.served for each in scene.north.audit()[before:]] == [0])


def test_a_folder_fetched_in_several_streams_is_one_delivery(scene: Scene, tmp_path: Path) -> None:
    before = len(rows(scene.north))
    with Client(scene.acme.folder) as client:
        fetched = client.fetch("86.north/trial", tmp_path / "trial", streams=4)
        assert fetched.receipt == Outcome(True)
    assert len(rows(scene.north)) == before + 1
    assert receipt(settled(scene)[1]).delivered == (Delivered(0, 4),)


def test_nothing_is_signed_when_nothing_is_fetched(scene: Scene, tmp_path: Path) -> None:
    with Client(scene.acme.folder) as client:
        client.fetch("86.north/large", tmp_path / "large")
        before = len(rows(scene.north))
        again = client.fetch("86.north/large", tmp_path / "large")
    assert again.already_there
    assert again.receipt is None
    assert len(rows(scene.north)) == before


def test_without_receipts_nothing_is_kept_and_the_owner_signs_alone_after_a_while(scene: Scene, tmp_path: Path) -> None:
    before = len(rows(scene.acme))
    with Client(scene.acme.folder, receipts=False) as client:
        assert client.fetch("86.north/large", tmp_path / "large").receipt is None
    assert len(rows(scene.acme)) == before
    alone = next(row for row in rows(scene.north, object_key="86.north/large") if row.state is not State.SETTLED)
    assert scene.north.daemon is not None
    eventually(lambda: by_id(scene.north, alone.id).state is State.ENDED)
    assert by_id(scene.north, alone.id).owed == 6 * limits.CHUNK_BYTES
    settling = scene.north.daemon.settling
    settling._half_after = 0
    settling.look()
    settling._half_after = limits.HALF_AFTER
    half = by_id(scene.north, alone.id)
    assert half.state is State.HALF
    assert receipt(half).unique_bytes == 6 * limits.CHUNK_BYTES
    assert half.receipt is not None
    signatures = wire.decode_envelope(half.receipt).signatures
    assert [each.keyid for each in signatures] == [str(scene.north.identity.signing_key.public.key_id)]


def by_id(node: Node, id: bytes) -> Row:
    return next(row for row in rows(node) if row.id == id)


# A consumer that lies.


@dataclass
class Served:
    """A delivery of three chunks of "large", and what an honest consumer would say of it."""

    scene: Scene
    caller: Caller
    honest: Receipt

    def say(self, key: SigningKey | None = None, **changes: Any) -> tuple[Envelope | None, str]:
        return self.send(self.half(key, **changes))

    def half(self, key: SigningKey | None = None, **changes: Any) -> Envelope:
        payload = wire_papers.encode_receipt(replace(self.honest, **changes))
        return sign(PayloadType.RECEIPT, payload, key or self.scene.acme.identity.signing_key)

    def send(self, *papers: Envelope) -> tuple[Envelope | None, str]:
        request = node_pb2.SettleRequest(papers=[wire.envelope_to_message(each) for each in papers])
        response = node_pb2.SettleResponse.FromString(self.caller.messages("Settle", request.SerializeToString())[0])
        answer = response.settled[0]
        return (wire.envelope_from_message(answer.paper) if answer.HasField("paper") else None), answer.refusal

    @property
    def row(self) -> Row:
        return by_id(self.scene.north, self.honest.delivery)


@pytest.fixture
def served(scene: Scene) -> Iterator[Served]:
    with Caller(scene.acme.identity, scene.north) as caller:
        record = wire.envelope_from_message(caller.describe("86.north/large")[0].record)
        delivery, now = os.urandom(16), int(time.time())
        request = fetch_request("86.north/large", 1, [Span(0, 0, 1, 3)], delivery=delivery)
        assert len(b"".join(caller.messages("Fetch", request))) > 3 * limits.CHUNK_BYTES
        honest = Receipt(
            delivery, Prefix("86.north"), Prefix("86.acme"), Identifier.parse("86.north/large"), 1, record.digest, b"",
            (), (Delivered(0, 0, 1, 3),), 3 * limits.CHUNK_BYTES, now, now,
        )  # fmt: skip
        made = Served(scene, caller, honest)
        eventually(lambda: made.row.state is State.ENDED)  # what went out is written with the next commit
        yield made


def test_an_honest_half_is_signed_and_sent_again_it_is_the_same_receipt(served: Served) -> None:
    half = served.half()
    whole, refusal = served.send(half)
    assert whole is not None
    assert refusal == ""
    assert (whole.payload, whole.signatures[0]) == (half.payload, half.signatures[0])
    assert is_signed_by(whole, served.scene.north.identity.signing_key.public)
    assert served.send(half) == (whole, "")
    assert served.row.receipt == wire.encode_envelope(whole)


def test_who_claims_less_gets_what_it_claims_signed(served: Served) -> None:
    whole, _ = served.say(delivered=(Delivered(0, 0, 2, 1),), unique_bytes=limits.CHUNK_BYTES)
    assert whole is not None
    assert (served.row.claimed, served.row.owed) == (limits.CHUNK_BYTES, 0)


OTHER = SigningKey.generate()
LATER = int(time.time()) + 100_000


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"key": OTHER}, "not signed|signed by neither"),
        ({"delivered": (Delivered(0, 0, 1, 4),), "unique_bytes": 4 << 20}, "more than was served"),
        ({"delivered": (Delivered(0, 1),), "unique_bytes": 6 << 20}, "more than was served"),
        ({"delivered": (Delivered(0, 0, 1, 3), Delivered(7, 1)), "unique_bytes": 3 << 20}, "more than was served"),
        ({"unique_bytes": (3 << 20) - 1}, "counts other bytes"),
        ({"delivered": (), "unique_bytes": 0}, "more than was served"),
        ({"version": 2}, "another object, version or record"),
        ({"id": Identifier.parse("86.north/trial")}, "another object, version or record"),
        ({"record": bytes(32)}, "another object, version or record"),
        ({"grant": bytes(32)}, "another grant"),
        ({"purposes": (Purpose("research"),)}, "purposes"),
        ({"owner": Prefix("86.east")}, "other organizations"),
        ({"consumer": Prefix("86.east")}, "86.east was offered as one of 86.acme"),
        ({"delivery": bytes(16)}, "no such delivery"),
        ({"started_at": 1}, "times"),
        ({"started_at": LATER, "ended_at": LATER}, "future"),
    ],
)
def test_a_false_half_is_refused_with_the_reason(served: Served, changes: dict[str, Any], why: str) -> None:
    whole, refusal = served.say(**changes)
    assert whole is None
    assert re.search(why, refusal), refusal
    assert served.row.state is State.ENDED
    assert served.say()[0] is not None  # the true one still counts


def test_a_receipt_of_more_parts_than_a_delivery_has_is_not_looked_at(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    many = tuple(Delivered(2 * number, 1) for number in range(limits.DELIVERY_PARTS + 1))
    assert "separate parts" in served.say(delivered=many)[1]
    weighed: list[object] = []
    monkeypatch.setattr(Weights, "of", lambda *args: weighed.append(args))
    assert "no such delivery" in served.say(delivery=bytes(16))[1]
    assert "other organizations" in served.say(owner=Prefix("86.east"))[1]
    assert weighed == []


def test_a_second_receipt_of_a_settled_delivery_is_refused(served: Served) -> None:
    assert served.say()[0] is not None
    whole, refusal = served.say(delivered=(Delivered(0, 0, 1, 1),), unique_bytes=limits.CHUNK_BYTES)
    assert whole is None
    assert "another receipt of this delivery" in refusal
    request = fetch_request("86.north/large", 1, [Span(0, 0, 0, 1)], delivery=served.honest.delivery)
    with pytest.raises(DeliveryClosed):
        served.caller.messages("Fetch", request)


def test_half_of_another_kind_or_with_two_signatures_is_refused(served: Served) -> None:
    half = served.half()
    assert "was offered as" in served.send(replace(half, payload_type=PayloadType.GRANT))[1]
    assert "one signature" in served.send(replace(half, signatures=half.signatures * 2))[1]
    assert served.row.state is State.ENDED


def test_a_delivery_is_of_one_version_of_one_object(served: Served) -> None:
    request = fetch_request("86.north/trial", 1, [Span(0, 1)], delivery=served.honest.delivery)
    with pytest.raises(InvalidInput, match="one version of one object"):
        served.caller.messages("Fetch", request)


def test_a_delivery_is_not_sent_for_ever(served: Served) -> None:
    again = fetch_request("86.north/large", 1, [Span(0, 1)] * 8, delivery=served.honest.delivery)
    served.caller.messages("Fetch", again)  # 48 MiB more of 2 x 6 MiB + 64 MiB
    with pytest.raises(DeliveryClosed, match="twice over"):
        served.caller.messages("Fetch", again)


def test_who_owes_receipts_is_refused_until_it_has_signed(scene: Scene, served: Served) -> None:
    assert scene.north.daemon is not None
    deliveries = scene.north.daemon.deliveries
    with Evidence.open(scene.north.identity) as evidence, evidence.reading() as connection:
        deliveries.owed_bytes = table.owed(connection, "86.acme") - limits.CHUNK_BYTES
    try:
        fresh = fetch_request("86.north/large", 1, [Span(0, 0, 0, 1)], delivery=os.urandom(16))
        with pytest.raises(ReceiptsOwed, match="has not signed for"):
            served.caller.messages("Fetch", fresh)
        assert served.say()[0] is not None
        assert served.caller.messages("Fetch", fresh)
    finally:
        deliveries.owed_bytes = None


# An owner that lies.


@pytest.mark.parametrize(
    ("lie", "why"),
    [
        (lambda whole, key: replace(whole, payload=whole.payload[:-1] + bytes([whole.payload[-1] ^ 1])), "altered"),
        (lambda whole, key: replace(whole, signatures=whole.signatures[:1]), "not our signature and one more"),
        (lambda whole, key: replace(whole, signatures=whole.signatures[1:] * 2), "not our signature and one more"),
        (
            lambda whole, key: replace(
                whole, signatures=(whole.signatures[0], *sign(PayloadType.RECEIPT, whole.payload, key).signatures)
            ),
            "not signed|signed by neither",
        ),
    ],
)
def test_an_owner_that_lies_gets_no_receipt_from_us(
    scene: Scene, tmp_path: Path, lie: Callable[[Envelope, SigningKey], Envelope], why: str
) -> None:
    assert scene.north.daemon is not None
    small, name = scene.north.daemon.service._small, "/hanse.v1.Node/Settle"
    honest = small[name]

    def lying(data: bytes, caller: Any) -> bytes:
        response = node_pb2.SettleResponse.FromString(honest(data, caller))
        for each in response.settled:
            if each.HasField("paper"):
                told = wire.envelope_to_message(lie(wire.envelope_from_message(each.paper), OTHER))
                each.paper.CopyFrom(told)
        return response.SerializeToString()

    small[name] = lying
    try:
        with Client(scene.acme.folder) as client:
            fetched = client.fetch("86.north/large", tmp_path / "large")
        assert fetched.receipt is not None
        assert not fetched.receipt.by_both
        assert re.search(why, fetched.receipt.reason), fetched.receipt.reason
        mine = rows(scene.acme, object_key="86.north/large")[0]
        half = next(row for row in rows(scene.acme, object_key="86.north/large") if row.state is State.HALF)
        assert half.receipt is not None
        assert len(wire.decode_envelope(half.receipt).signatures) == 1
        assert mine.started_at >= half.started_at
    finally:
        small[name] = honest
    with Client(scene.acme.folder) as client:
        report = settle_all(client.resolver, client.evidence)[Prefix("86.north")]
    assert (report.settled, report.refused, report.problem) == (1, [], "")
    assert by_id(scene.acme, half.id).receipt == by_id(scene.north, half.id).receipt
