"""The registry over real sockets: what each call answers, and to whom."""

import socket
import sqlite3
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from hanse import trust, wire
from hanse.errors import InvalidInput, LimitExceeded, NotAuthenticated, NotFound, Overloaded, Suspended
from hanse.model.identifier import Prefix
from hanse.model.record import AccessMode
from hanse.rpc import status as rpc_status
from hanse.signing import SigningKey
from hanse.v1 import envelope_pb2, registry_pb2
from registry import app
from registry.calls import POLICIES, SERVICE, Calls, Policy
from registry.service import Service
from registry.storage.sqlite import SqliteStorage
from registry.writer import Writer
from tests.league import Registry, eventually, raised

ACCEPTED, REFUSED, CONFLICT = 1, 2, 3
ACTIVE, WITHDRAWN, UNKNOWN, ELSEWHERE, INVALID = 1, 2, 3, 4, 5


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    settings = '[referrals]\n"10.5" = ["other.example.org:7400"]\n'
    with Registry.start(tmp_path_factory.mktemp("league") / "registry", settings=settings) as running:
        yield running


@pytest.fixture(scope="module")
def north(registry):
    return registry.join("86.north")


@pytest.fixture(scope="module")
def south(registry):
    return registry.join("86.south")


def codes(outcomes):
    return [outcome.code for outcome in outcomes]


WITHOUT_PASS = {"GetAuthority", "Join", "Renew", "Continue"}


def test_every_call_has_a_policy_and_only_four_need_no_pass():
    assert set(POLICIES) == {method.name for method in SERVICE.methods}
    assert {name for name, policy in POLICIES.items() if policy is Policy.ANYBODY} == WITHOUT_PASS


def test_given_a_call_without_a_policy_then_nobody_may_call_it():
    class Context:
        def set_trailing_metadata(self, _):
            pass

        async def abort(self, code, text):
            raise RuntimeError(f"{code.name}: {text}")

    class Anything:
        def __getattr__(self, _):
            return lambda *_: b""

    import asyncio

    handler = Calls(Anything(), Anything(), {}).handler()
    for method in SERVICE.methods:
        details = type("Details", (), {"method": f"/{SERVICE.full_name}/{method.name}", "invocation_metadata": ()})
        found = handler.service(details)
        call = found.unary_unary or found.stream_stream or found.unary_stream

        async def run(call=call):
            answer = call(b"", Context())
            if hasattr(answer, "__anext__"):
                await answer.__anext__()
            else:
                await answer

        with pytest.raises(RuntimeError, match=f"PERMISSION_DENIED: {method.name} has no declared policy"):
            asyncio.run(run())


@pytest.mark.parametrize("name", sorted(set(POLICIES) - WITHOUT_PASS))
def test_given_no_pass_then_every_other_call_is_refused(registry, name):
    with registry.dial() as channel:
        method = f"/{SERVICE.full_name}/{name}"
        with pytest.raises(NotAuthenticated, match="without a pass"), raised():  # noqa: PT012
            if name == "Publish":
                list(channel.stream_stream(method)(iter(()), timeout=60))
            elif name == "Watch":
                list(channel.unary_stream(method)(b"", timeout=60))
            else:
                channel.unary_unary(method)(b"", timeout=60)


@pytest.mark.parametrize("name", [method.name for method in SERVICE.methods])
def test_given_garbage_then_every_call_says_so(registry, north, name):
    method = f"/{SERVICE.full_name}/{name}"
    with pytest.raises((InvalidInput, NotAuthenticated)), raised():  # noqa: PT012
        garbage = b"\xff\xff\xff\x07garbage"
        if name == "Publish":
            list(north.channel.stream_stream(method)(iter([garbage]), metadata=north.metadata, timeout=60))
        elif name == "Watch":
            list(north.channel.unary_stream(method)(garbage, metadata=north.metadata, timeout=60))
        else:
            north.channel.unary_unary(method)(garbage, metadata=north.metadata, timeout=60)


def test_given_garbage_at_the_port_then_the_registry_goes_on(registry, north):
    for garbage in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01" + b"\xff" * 500,
        bytes(5000),
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ):
        with socket.create_connection((registry.address.host, registry.address.port)) as connection:
            connection.sendall(garbage)
    assert north.membership().members


def test_the_health_service_needs_no_pass(registry):
    with registry.dial() as channel:
        stub = health_pb2_grpc.HealthStub(channel)
        for name in ("", "hanse.v1.Registry"):
            answer = stub.Check(health_pb2.HealthCheckRequest(service=name), timeout=60)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING


def test_reflection_is_off_by_default(registry):
    with registry.dial() as channel, pytest.raises(grpc.RpcError) as told:
        list(channel.stream_stream("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo")(iter([b""])))
    assert told.value.code() == grpc.StatusCode.UNIMPLEMENTED


def test_the_authority_is_the_one_of_the_invitation(registry, north):
    told = wire.invitation_from_text(registry.invite("86.told"))
    authority = trust.authority(north.stub.GetAuthority(registry_pb2.GetAuthorityRequest()).authority, told.league)
    assert str(authority.root) == "86"
    assert told.registries == (registry.address,)


def test_given_a_published_record_then_it_resolves_byte_for_byte(north, south):
    record = north.record("Resolve Me", title="x")
    assert codes(north.publish(record)) == [ACCEPTED]
    answer = south.resolve("hdl:86.NORTH/resolve me", with_organization=True)
    assert answer.resolutions[0].state == ACTIVE
    assert answer.resolutions[0].record == wire.envelope_to_message(record)
    assert [wire.envelope_from_message(each) for each in answer.organizations] == [north.organization_envelope]


def test_resolve_answers_each_identifier_in_its_place(north, south):
    first = north.record("placed", title="x")
    gone = north.record("placed-gone", title="x")
    north.publish(first, gone, north.record("placed-gone", 2, gone, withdrawn=True))
    south.publish(south.record("placed", title="y"))
    ids = ["86.north/nothing", "86.south/placed", "no identifier", "86.north/placed", "10.5.6/x", "11/x",
           "86.north/placed-gone", "86.south/placed"]  # fmt: skip
    answer = north.resolve(*ids, with_organization=True)
    assert [each.state for each in answer.resolutions] == [
        UNKNOWN, ACTIVE, INVALID, ACTIVE, ELSEWHERE, ELSEWHERE, WITHDRAWN, ACTIVE,
    ]  # fmt: skip
    assert list(answer.resolutions[4].referral) == ["other.example.org:7400"]
    assert list(answer.resolutions[5].referral) == []
    assert len(answer.organizations) == 2
    for each, expected in zip(ids, answer.resolutions, strict=True):
        assert north.resolve(each).resolutions[0] == expected
    assert north.resolve() == registry_pb2.ResolveResponse()


def test_given_too_many_identifiers_then_it_says_so(north):
    assert len(north.resolve(*["86.north/a"] * 1000).resolutions) == 1000
    with pytest.raises(LimitExceeded, match="at most 1000 identifiers"):
        north.resolve(*["86.north/a"] * 1001)


def test_given_good_and_bad_records_in_one_message_then_each_has_its_outcome(north, south):
    good, other = north.record("mixed", title="x"), north.record("mixed-2", title="x")
    outcomes = north.publish(
        good,
        south.record("stolen"),
        north.record("forged", key=SigningKey.generate()),
        other,
        north.record("mixed", 3, good),
        good,
        north.record("mixed", title="another"),
        north.record("mixed", 2, good),
    )
    assert codes(outcomes) == [ACCEPTED, REFUSED, REFUSED, ACCEPTED, CONFLICT, ACCEPTED, CONFLICT, ACCEPTED]
    assert outcomes[0].digest == good.digest
    assert "86.north cannot sign for 86.south/stolen" in outcomes[1].message


def test_given_a_stream_of_messages_then_versions_follow_each_other_over_them(north):
    chain = [north.record("chained", title="version 1")]
    for version in range(2, 31):
        chain.append(north.record("chained", version, chain[-1], title=f"version {version}"))
    outcomes = north.publish_messages([each] for each in chain)
    assert codes(outcomes) == [ACCEPTED] * 30
    assert [each.digest for each in outcomes] == [each.digest for each in chain]
    assert codes(north.publish(*chain)) == [ACCEPTED] * 30
    assert north.resolve("86.north/chained").resolutions[0].record == wire.envelope_to_message(chain[-1])


def test_given_a_withdrawn_object_then_its_identifier_is_never_used_again(north):
    first = north.record("ended", title="x")
    tombstone = north.record("ended", 2, first, withdrawn=True)
    assert codes(north.publish(first, tombstone)) == [ACCEPTED, ACCEPTED]
    (outcome,) = north.publish(north.record("Ended", 3, tombstone, title="again"))
    assert (outcome.code, outcome.message) == (
        REFUSED,
        "86.north/Ended was withdrawn: an identifier is never used again",
    )


def test_given_too_many_envelopes_then_the_stream_ends_with_the_reason(north):
    message = registry_pb2.PublishRequest(envelopes=[envelope_pb2.Envelope()] * 1001)
    with pytest.raises(LimitExceeded, match="at most 1000 envelopes"), raised():
        list(north.stub.Publish(iter([message]), metadata=north.metadata))


def test_given_a_rotated_key_then_the_new_one_signs_and_the_old_one_no_more(registry):
    east = registry.join("86.east")
    before, old = east.record("before"), east.key
    new = SigningKey.generate()
    rotation = east.next_organization(key=new)
    late = east.record("late", key=old)
    after = east.record("after", key=new)
    assert codes(east.publish(before, rotation, late, after)) == [ACCEPTED, ACCEPTED, REFUSED, ACCEPTED]
    with pytest.raises(NotAuthenticated, match="current key"):
        east.resolve("86.east/after")
    east.key = new
    assert codes(east.publish(rotation)) == [ACCEPTED]
    assert [each.state for each in east.resolve("86.east/before", "86.east/after").resolutions] == [ACTIVE, ACTIVE]
    chain = east.stub.GetOrganization(registry_pb2.GetOrganizationRequest(prefix="86.east"), metadata=east.metadata)
    envelopes = [wire.envelope_from_message(each) for each in chain.organizations]
    followed = trust.chain(envelopes, pinned=None, now=int(registry.clock()))
    assert followed is not None
    assert followed.record.current_key == new.public
    rest = east.stub.GetOrganization(
        registry_pb2.GetOrganizationRequest(prefix="86.east", after_version=1), metadata=east.metadata
    )
    assert len(rest.organizations) == 1


def test_given_an_unknown_organization_then_not_found(north):
    with pytest.raises(NotFound, match=r"86\.nobody is not a member"), raised():
        north.stub.GetOrganization(registry_pb2.GetOrganizationRequest(prefix="86.nobody"), metadata=north.metadata)


def test_search_filters_and_ranks(north, south):
    north.publish(
        north.record(
            "s1", title="Zebra census", subjects=["Animals", "africa"], media_types=["text/csv; charset=utf-8"]
        ),
        north.record("s2", title="Rain", description="a zebra was seen", type="Text", access=AccessMode.ON_REQUEST),
        north.record("s3", title="斑马数据集", creators=["Wei Zebra"]),
    )
    south.publish(south.record("s4", title="Zebra", description="south", issued_at=1_600_000_000))

    def found(text="", **filters):
        return {wire.decode_record(each.payload).id.suffix for each in north.search(text, **filters).records}

    assert found("zebra") == {"s1", "s2", "s3", "s4"}
    assert found("zebra", owner="86.north") == {"s1", "s2", "s3"}
    assert found("zebra", type="text") == {"s2"}
    assert found("zebra", subject="animals") == {"s1"}
    assert found("zebra", media_type="text/csv") == {"s1"}
    assert found("zebra", access="on-request") == {"s2"}
    assert found("zebra", issued_until=1_650_000_000) == {"s4"}
    assert found("斑马") == found("数据") == found("马") == {"s3"}
    assert found("据数") == set()
    assert found(owner="86.south", issued_until=1_650_000_000) == {"s4"}
    first = wire.decode_record(north.search("zebra").records[0].payload)
    assert first.metadata.title.startswith("Zebra")
    for filters in ({"access": "everybody"}, {"page_size": 101}, {"owner": "no prefix"}, {"page_token": "x"}):
        with pytest.raises(InvalidInput):
            north.search("zebra", **filters)


def test_given_pages_then_none_is_lost_or_told_twice_while_records_come_and_go(north, monkeypatch):
    asked, ask = [], SqliteStorage.records_at
    monkeypatch.setattr(SqliteStorage, "records_at", lambda self, some: asked.append(len(some)) or ask(self, some))
    records = [
        north.record(f"paged-{i}", title=f"Quagga number {i}", description="quagga " * (i % 5)) for i in range(25)
    ]
    north.publish(*records)
    page = north.search("quagga", page_size=10)
    assert page.total == 25
    assert asked == [10], "one question to the database for a page"
    seen = [wire.decode_record(each.payload).id.suffix for each in page.records]
    north.publish(*(north.record(f"paged-late-{i}", title="Quagga quagga quagga") for i in range(10)))
    north.publish(north.record("paged-3", 2, records[3], title="Quagga, renamed"))
    north.publish(north.record("paged-4", 2, records[4], withdrawn=True))
    while page.next_page_token:
        page = north.search("quagga", page_size=10, page_token=page.next_page_token)
        seen += [wire.decode_record(each.payload).id.suffix for each in page.records]
    assert len(seen) == len(set(seen))
    assert set(seen) - {"paged-4"} == {f"paged-{i}" for i in range(25)} - {"paged-4"}
    with pytest.raises(InvalidInput, match="not one of this search"):
        north.search("other", page_token=north.search("quagga", page_size=1).next_page_token)


def test_given_no_text_then_the_newest_come_first(north):
    for i in range(3):
        north.publish(north.record(f"newest-{i}", title="x", type="Newest"))
    found = [wire.decode_record(each.payload).id.suffix for each in north.search(type="Newest").records]
    assert found == ["newest-2", "newest-1", "newest-0"]


def watched(member, after, count, **more):
    call = member.stub.Watch(registry_pb2.WatchRequest(after=after, **more), metadata=member.metadata, timeout=60)
    found = []
    for answer in call:
        found.extend(answer.changes)
        if len(found) >= count:
            call.cancel()
            return found[:count]
    raise AssertionError("the stream ended")


def test_watch_tells_every_change_in_order_and_from_any_position(registry, north):
    with app.opened(registry.folder) as opened:
        last = opened.storage.last_position()
        certificates = last - len(opened.storage.changes(0, last, 1 << 30))
    assert certificates >= 2
    everything = watched(north, 0, last, with_certificates=True)
    assert [each.position for each in everything] == list(range(1, last + 1))
    assert watched(north, last - 2, 2) == everything[-2:]
    told = watched(north, 0, last - certificates)
    assert told == [each for each in everything if not each.certificate]
    types = {each.envelope.payload_type.rpartition("hanse.")[2] for each in told}
    assert types == {"record.v1", "organization.v1", "membership.v1"}


def test_watch_tells_what_happens_from_now_on(registry, north, south):
    with app.opened(registry.folder) as opened:
        last = opened.storage.last_position()
    record, found = north.record("watched", title="x"), []
    watcher = threading.Thread(target=lambda: found.extend(watched(south, last, 1)))
    watcher.start()
    north.publish(record)
    watcher.join(60)
    assert [each.envelope for each in found] == [wire.envelope_to_message(record)]


def test_given_too_many_calls_then_overloaded(tmp_path):
    now = time.time()  # it stands still: however slow the calls are, none is earned meanwhile
    settings = "calls_per_second = 1\ncalls_burst = 3\n"
    with Registry.start(tmp_path / "registry", settings=settings, clock=lambda: now) as registry:
        member = registry.join("86.north")
        with pytest.raises(Overloaded, match="slow down"):  # noqa: PT012
            for _ in range(5):
                member.resolve("86.north/x")


def test_given_a_failure_inside_then_the_caller_gets_a_reference_and_nothing_else(north, monkeypatch):
    from registry.storage.sqlite import SqliteStorage

    def broken(*_):
        raise ValueError("private words")

    monkeypatch.setattr(SqliteStorage, "resolve", broken)
    with pytest.raises(grpc.RpcError) as told:
        north.stub.Resolve(registry_pb2.ResolveRequest(ids=["86.north/x"]), metadata=north.metadata, timeout=60)
    assert told.value.code() == grpc.StatusCode.INTERNAL
    assert "private" not in (told.value.details() or "")
    assert "finds it in the log as" in (told.value.details() or "")


def test_given_a_publisher_that_is_gone_before_its_record_is_stored_then_others_are_answered(
    registry, north, south, monkeypatch
):
    submitted, submit = threading.Event(), Writer.submit

    def noticed(*of):
        answer = submit(*of)
        submitted.set()
        return answer

    monkeypatch.setattr(Writer, "submit", noticed)
    record = north.record("orphan", title="x")
    message = registry_pb2.PublishRequest(envelopes=[wire.envelope_to_message(record)])
    lock = sqlite3.connect(registry.folder / "registry.db", isolation_level=None)
    lock.execute("BEGIN IMMEDIATE")  # what was sent cannot be stored for now
    try:
        call = north.stub.Publish(iter([message]), metadata=north.metadata, timeout=60)
        assert submitted.wait(90)
        call.cancel()
        time.sleep(0.2)
    finally:
        lock.execute("ROLLBACK")
        lock.close()
    assert codes(south.publish(south.record("after-an-orphan", title="y"))) == [ACCEPTED]
    assert codes(north.publish(record)) == [ACCEPTED]


def test_given_a_full_disk_then_publish_says_try_again_and_resolve_goes_on(north, monkeypatch):
    from registry.storage import sqlite

    record = north.record("no-space", title="x")
    north.publish(north.record("space", title="x"))

    def full(*_):
        error = sqlite.sqlite3.OperationalError("database or disk is full")
        error.sqlite_errorname = "SQLITE_FULL"
        raise error

    monkeypatch.setattr(sqlite.SqliteWriting, "put_records", full)
    (outcome,) = north.publish(record)
    assert outcome.code == 4
    assert "no space left" in outcome.message
    assert [each.state for each in north.resolve("86.north/space", "86.north/no-space").resolutions] == [
        ACTIVE,
        UNKNOWN,
    ]
    monkeypatch.undo()
    assert codes(north.publish(record)) == [ACCEPTED]


def test_given_a_suspension_that_was_not_noticed_yet_then_what_is_published_is_to_be_sent_again(registry, monkeypatch):
    late, blind = registry.join("86.late"), threading.Event()

    def sees_nothing(_):
        blind.set()
        return False

    monkeypatch.setattr(Service, "_changed_elsewhere", sees_nothing)
    assert blind.wait(90)  # the look before has come to its end
    assert app.suspend(registry.folder, Prefix("86.late"), "unpaid")
    record = late.record("x")
    (outcome,) = late.publish(record)
    assert (outcome.code, "86.late is suspended: unpaid" in outcome.message) == (4, True)
    assert app.restore(registry.folder, Prefix("86.late"))
    assert codes(late.publish(record)) == [ACCEPTED]


def test_given_a_suspension_by_command_then_calls_and_streams_end_within_seconds(registry, south):
    west = registry.join("86.west")
    call = west.stub.Watch(registry_pb2.WatchRequest(), metadata=west.metadata, timeout=60)
    next(call)
    assert app.suspend(registry.folder, Prefix("86.west"), "unpaid")

    def refused():
        try:
            west.resolve("86.west/x")
        except Suspended as error:
            return "86.west is suspended: unpaid" in str(error)
        return False

    eventually(refused)
    with pytest.raises(Suspended), raised():
        list(call)
    with app.opened(registry.folder) as opened:
        answer = south.membership()
        found = trust.membership(
            wire.envelope_from_message(answer.head), answer.members, opened.authority, now=int(registry.clock())
        )
    assert found.members[Prefix("86.west")].suspended_at is not None
    assert not south.membership(found.members_sha256).members
    assert app.restore(registry.folder, Prefix("86.west"))
    eventually(lambda: not refused())


def test_given_a_restart_then_everything_is_there(tmp_path):
    with Registry.start(tmp_path / "registry") as registry:
        north = registry.join("86.north")
        record = north.record("x", title="Kept")
        north.publish(record)
        token = north.search("kept", page_size=1)
        before = registry.address
        registry.stop()
        registry.serve()
        assert registry.address == before
        assert north.resolve("86.north/x").resolutions[0].record == wire.envelope_to_message(record)
        assert north.search("kept") == token


def test_statuses_are_ours(north):
    with pytest.raises(grpc.RpcError) as told:
        north.stub.Resolve(registry_pb2.ResolveRequest(), timeout=60)
    assert isinstance(rpc_status.from_rpc(told.value, "it"), NotAuthenticated)
