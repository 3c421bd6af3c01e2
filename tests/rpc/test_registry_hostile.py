"""A registry and members that mean it harm, or do not know better: sizes, numbers, one bad envelope among good ones."""

import contextlib
import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import pytest

from hanse import limits, wire
from hanse.client.client import Client
from hanse.errors import LimitExceeded, Overloaded
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.identifier import Identifier
from hanse.model.publishing import OutcomeCode
from hanse.signing import sign
from hanse.v1 import envelope_pb2, registry_pb2
from registry import service
from tests.league import Member, Registry, eventually

ACCEPTED, REFUSED = 1, 2


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    with Registry.start(tmp_path_factory.mktemp("league") / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def north(registry: Registry) -> Member:
    return registry.join("86.north")


@pytest.fixture(scope="module")
def south(registry: Registry) -> Member:
    return registry.join("86.south")


def client_of(registry: Registry, prefix: str, folder: Path) -> Client:
    invitation = registry.invite(prefix)
    member = Member.make(registry, prefix)
    member.join(invitation)
    member.home(folder, invitation)
    return Client(folder)


def test_what_is_no_identifier_is_not_remembered_however_long_it_is(north: Member) -> None:
    service._short_key.cache_clear()
    north.resolve(*(f"86.north/{number}{'x' * 1_000_000}" for number in range(3)))
    assert service._short_key.cache_info().currsize == 0
    answers = north.resolve("info:hdl/86.north/" + "x" * 503, "nothing at all", "86.north/" + "x" * 504).resolutions
    assert [each.state for each in answers] == [3, 5, 5]  # the longest that there is, and what is none
    assert service._short_key.cache_info().currsize == 3


@pytest.mark.parametrize(
    "broken",
    [
        envelope_pb2.Envelope(payload_type="x" * 129, payload=b"x"),
        envelope_pb2.Envelope(payload_type="x", payload=bytes(limits.ENVELOPE_BYTES + 1)),
        envelope_pb2.Envelope(payload_type="x", payload=b"x", signatures=[envelope_pb2.Signature()] * 5),
        envelope_pb2.Envelope(payload=b"x", signatures=[envelope_pb2.Signature(keyid="k" * 65, sig=bytes(64))]),
        envelope_pb2.Envelope(),
    ],
    ids=["type", "payload", "signatures", "key id", "empty"],
)
def test_one_envelope_that_is_none_does_not_sink_its_batch(north: Member, broken: envelope_pb2.Envelope) -> None:
    suffix = f"batch-{id(broken)}"
    first = north.record(f"{suffix}-1")
    second = north.record(f"{suffix}-2")
    sent = [wire.envelope_to_message(first), broken, wire.envelope_to_message(second)]
    requests = iter([registry_pb2.PublishRequest(envelopes=sent), registry_pb2.PublishRequest(envelopes=sent[:1])])
    answers = list(north.stub.Publish(requests, metadata=north.metadata, timeout=60))
    outcomes = [each for answer in answers for each in answer.outcomes]
    assert [each.code for each in outcomes] == [ACCEPTED, REFUSED, ACCEPTED, ACCEPTED]
    assert outcomes[1].digest == Envelope(broken.payload_type, broken.payload, ()).digest
    assert outcomes[1].message


def test_a_member_has_a_few_streams_and_does_not_use_up_the_others(north: Member, south: Member) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(4):
            sent = registry_pb2.PublishRequest(envelopes=[wire.envelope_to_message(north.record(f"stream-{number}"))])
            calls: Any = north.stub.Publish(itertools.chain([sent], _until_cancelled(stack)), metadata=north.metadata)
            stack.callback(calls.cancel)
            assert next(calls).outcomes[0].code == ACCEPTED
        with pytest.raises(Overloaded, match="publishes in 4 streams at once already"):
            north.publish(north.record("one-more"))
        assert [each.code for each in south.publish(south.record("meanwhile"))] == [ACCEPTED]

    def again() -> bool:
        with contextlib.suppress(Overloaded):
            return [each.code for each in north.publish(north.record("afterwards"))] == [ACCEPTED]
        return False

    eventually(again)


def _until_cancelled(stack: contextlib.ExitStack) -> Iterator[Any]:
    import threading

    ended = threading.Event()
    stack.callback(ended.set)
    ended.wait(90)
    yield from ()


@pytest.mark.parametrize("method", ["GetAuthority", "Join", "Renew", "Continue", "Resolve", "Search"])
def test_a_stranger_cannot_make_the_registry_take_large_messages(registry: Registry, method: str) -> None:
    with registry.dial() as channel:
        call = channel.unary_unary(f"/hanse.v1.Registry/{method}")
        with pytest.raises(grpc.RpcError) as refused:
            call(bytes([0x9A, 0x06]) + bytes(limits.MESSAGE_BYTES), timeout=60)
        assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED  # type: ignore[attr-defined]


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1])
def test_numbers_that_no_database_holds_are_beyond_all_there_is(north: Member, number: int) -> None:
    answer = north.stub.GetOrganization(
        registry_pb2.GetOrganizationRequest(prefix="86.north", after_version=number), metadata=north.metadata
    )
    assert len(answer.organizations) == 0
    watching: Any = north.stub.Watch(registry_pb2.WatchRequest(after=number), metadata=north.metadata, timeout=0.3)
    with pytest.raises(grpc.RpcError) as ended:
        next(watching)
    assert ended.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED  # type: ignore[attr-defined]


def test_large_records_are_published_and_resolved_in_as_many_messages_as_it_takes(
    registry: Registry, tmp_path: Path
) -> None:
    with client_of(registry, "86.large", tmp_path / "home") as client:
        key, league = client.identity.signing_key, client.resolver._league
        member = Member.make(registry, "86.large")
        member.key = key
        records = [member.record(f"x{number}", description="d" * 60_000) for number in range(150)]
        assert sum(len(each.payload) for each in records) > 2 * limits.MESSAGE_BYTES
        assert [each.code for each in league.publish(records)] == [OutcomeCode.ACCEPTED] * 150
        ids = [Identifier.parse(f"86.large/x{number}") for number in range(150)]
        for with_organization in (True, False):
            found = league.resolve(ids, with_organization=with_organization)
            assert [each.record for each in found] == records
            assert all((each.organization is not None) == with_organization for each in found)


def test_the_largest_record_of_the_largest_owner_fits_a_message(registry: Registry, tmp_path: Path) -> None:
    """Both blown up with all the signatures that are allowed."""
    with client_of(registry, "86.heavy", tmp_path / "home") as client:
        member = Member.make(registry, "86.heavy")
        member.key = client.identity.signing_key
        more = (Signature("k" * 64, bytes(64)),) * 3
        record = member.record("x", description="d" * (limits.ENVELOPE_BYTES - 400))
        assert len(record.payload) > limits.ENVELOPE_BYTES - 400
        blown_up = Envelope(record.payload_type, record.payload, (*record.signatures, *more))
        (outcome,) = client.resolver._league.publish([blown_up])
        assert outcome.code is OutcomeCode.ACCEPTED, outcome
        found = client.resolve("86.heavy/x")
        assert found.record.digest == record.digest


def test_too_many_identifiers_are_refused_and_none_are_answered_with_none(north: Member) -> None:
    with pytest.raises(LimitExceeded, match="1000 identifiers"):
        north.resolve(*["86.north/x"] * (limits.BATCH + 1))
    assert len(north.resolve().resolutions) == 0


def test_a_record_that_no_client_could_accept_is_not_stored(north: Member) -> None:
    """Signed by its owner, but not well formed."""
    outcomes = north.publish(
        sign(PayloadType.RECORD, b"", north.key),
        sign(PayloadType.RECORD, b"\xff\xff", north.key),
        sign(PayloadType.MANIFEST, north.record("kind").payload, north.key),
        sign(PayloadType.ORGANIZATION, b"", north.key),
    )
    assert [each.code for each in outcomes] == [REFUSED] * 4
    assert all(each.message for each in outcomes)


@pytest.mark.parametrize(
    "spoil",
    [
        lambda der: der.replace(bytes.fromhex("2a8648ce3d030107"), bytes.fromhex("008648ce3d030107")),
        lambda der: der.replace(bytes.fromhex("a003020102"), bytes.fromhex("a003020107"), 1),
        lambda der: b"",
        lambda der: der[:-1],
    ],
    ids=["a curve that nobody knows", "a version that nobody knows", "empty", "cut"],
)
def test_a_certificate_that_cannot_be_read_sinks_nobody_elses_records(
    registry: Registry, south: Member, spoil: Any
) -> None:
    from dataclasses import replace

    name = f"86.spoiler{abs(hash(spoil))}"
    spoiler = registry.join(name)
    nodes = (replace(spoiler.organization.nodes[0], tls_certificate=spoil(spoiler.node_certificate)),)
    record = replace(spoiler.organization, version=2, previous=spoiler.organization_envelope.digest, nodes=nodes)
    poison = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), spoiler.key)
    outcomes = spoiler.publish(spoiler.record("before"), poison, spoiler.record("after"))
    assert [each.code for each in outcomes] == [ACCEPTED, REFUSED, ACCEPTED]
    assert "certificate" in outcomes[1].message
    assert [each.code for each in south.publish(south.record(f"beside-{name}"))] == [ACCEPTED]
