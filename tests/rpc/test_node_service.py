"""The node's methods, called as a stranger's program would call them: who gets in, what comes out, what is recorded."""

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import pytest

from hanse import limits, wire
from hanse.client.peer import Span
from hanse.errors import (
    Conflict,
    HanseError,
    InvalidInput,
    LimitExceeded,
    NoSpace,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Overloaded,
    SourceChanged,
    StorageFailed,
    Suspended,
    Unreachable,
    Withdrawn,
)
from hanse.model.identifier import Prefix
from hanse.model.terms import Party, Permission, Terms
from hanse.rpc import tls
from hanse.v1 import node_pb2
from node import service
from node.rates import Rates
from registry import app as registry_app
from tests.league import Registry, eventually
from tests.nodes import Caller, Node, fetch_request

TRIAL = "86.north/trial"
FOR_ACME = Terms(permissions=(Permission((Party(Prefix("86.acme")),)),))


@dataclass
class Scene:
    registry: Registry
    north: Node
    acme: Node
    east: Node
    data: Path


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    """North serves; acme is allowed, east is not."""
    tmp = tmp_path_factory.mktemp("scene")
    data = tmp / "data"
    (data / "sub").mkdir(parents=True)
    (data / "a.bin").write_bytes(os.urandom(3 * limits.CHUNK_BYTES + 17))
    (data / "empty").touch()
    (data / "sub" / "b.txt").write_bytes(b"hello")
    with (
        Registry.start(tmp / "registry") as registry,
        Node.start(registry, "86.north", tmp / "north", contact="data@north.example") as north,
    ):
        north.add(data, "trial", FOR_ACME)
        north.add(data, "secret", FOR_ACME, unlisted=True)
        north.add(data / "a.bin", "open", Terms.opened())
        north.add(data / "sub" / "b.txt", "note", FOR_ACME)
        north.published()
        acme, east = (Node.join(registry, f"86.{name}", tmp / name) for name in ("acme", "east"))
        yield Scene(registry, north, acme, east, data)


@pytest.fixture
def acme(scene: Scene) -> Iterator[Caller]:
    with Caller(scene.acme.identity, scene.north) as caller:
        yield caller


@pytest.fixture
def east(scene: Scene) -> Iterator[Caller]:
    with Caller(scene.east.identity, scene.north) as caller:
        yield caller


def expected(scene: Scene) -> bytes:
    """The bytes of the whole object, in the manifest's order."""
    return b"".join((scene.data / name).read_bytes() for name in names(scene))


def names(scene: Scene) -> list[str]:
    with Caller(scene.acme.identity, scene.north) as caller:
        page = wire.decode_page(caller.describe(TRIAL)[1].page)
    return [element.name.text for element in page.elements]


# What comes out.


def test_describe_gives_record_manifest_and_salt_and_then_the_pages(scene: Scene, acme: Caller) -> None:
    head, *pages = acme.describe(TRIAL)
    assert wire.decode_record(head.record.payload).version == 1
    assert wire.decode_manifest(head.manifest.payload).element_count == 3
    assert len(head.salt) == 32
    assert len(pages) == 1
    assert sorted(names(scene)) == ["a.bin", "empty", "sub/b.txt"]


def test_describe_without_pages_is_one_message(acme: Caller) -> None:
    assert len(acme.describe(TRIAL, no_pages=True)) == 1


def test_a_small_content_that_is_wanted_comes_with_its_description_and_counts_as_fetched(
    scene: Scene, acme: Caller
) -> None:
    before = len(scene.north.audit())
    (message,) = acme.describe("86.north/note", content_bytes=5)
    assert wire.decode_record(message.record.payload).version == 1
    assert [element.length for element in wire.decode_page(message.page).elements] == [5]
    assert message.content == b"hello"
    (row,) = scene.north.audit()[before:]
    assert (row.decided.operation, row.decided.allowed, row.served) == ("fetch", True, 5)


@pytest.mark.parametrize(
    ("id", "wanted"),
    [("86.north/note", {"content_bytes": 4}), ("86.north/note", {"content_bytes": 5, "no_pages": True}),
     ("86.north/open", {"content_bytes": 1 << 31}), (TRIAL, {"content_bytes": 1 << 31})],
    ids=["larger", "no pages", "several chunks", "several elements"],
)  # fmt: skip
def test_what_is_larger_or_more_than_one_chunk_is_only_described(
    scene: Scene, acme: Caller, id: str, wanted: dict[str, Any]
) -> None:
    before = len(scene.north.audit())
    assert [each.content for each in acme.describe(id, **wanted) if each.content] == []
    assert [row.decided.operation for row in scene.north.audit()[before:]] == ["describe"]


def test_the_bytes_of_a_small_content_are_recorded_where_there_is_no_delivery_too(scene: Scene) -> None:
    before = len(scene.north.audit())
    with Caller(scene.north.identity, scene.north) as itself:
        assert itself.describe("86.north/note", content_bytes=5)[0].content == b"hello"
    eventually(lambda: [row.served for row in scene.north.audit()[before:]] == [5])


def test_a_small_content_is_not_for_who_may_not_fetch(scene: Scene, east: Caller) -> None:
    with pytest.raises(NotPermitted):
        east.describe("86.north/note", content_bytes=5)


def test_fetch_of_all_elements_is_their_plain_concatenation(scene: Scene, acme: Caller) -> None:
    assert acme.fetch(TRIAL, 1, [Span(0, 3)]) == expected(scene)


def test_fetch_of_chunks_comes_in_the_order_of_the_spans(scene: Scene, acme: Caller) -> None:
    element = names(scene).index("a.bin")
    content = (scene.data / "a.bin").read_bytes()
    got = acme.fetch(TRIAL, 1, [Span(element, 0, 3, 1), Span(element, 0, 0, 2)])
    assert got == content[3 * limits.CHUNK_BYTES :] + content[: 2 * limits.CHUNK_BYTES]


def test_messages_are_no_larger_than_agreed(acme: Caller) -> None:
    sizes = [len(each) for each in acme.messages("Fetch", fetch_request(TRIAL, 1, [Span(0, 3)]))]
    assert max(sizes) <= limits.STREAM_MESSAGE_BYTES + 16


def test_hashes_are_those_of_the_chunks(scene: Scene, acme: Caller) -> None:
    element = names(scene).index("a.bin")
    assert len(acme.hashes(TRIAL, 1, element)) == 4 * 32
    assert acme.hashes(TRIAL, 1, names(scene).index("empty")) == b""


@pytest.mark.parametrize(
    "spans",
    [
        [Span(3, 1)],
        [Span(0, 4)],
        [Span(1 << 62, 1)],
        [Span(0, 0, 0, 0)],
        [Span(0, 1, 1, 1)],
        [Span(0, 0, 4, 1)],
        [Span(0, 0, 0, 5)],
        [Span(0, 0, 1 << 60, 1 << 60)],
    ],
)
def test_spans_beyond_the_object_are_refused(acme: Caller, spans: list[Span]) -> None:
    with pytest.raises(InvalidInput):
        acme.fetch(TRIAL, 1, spans)


def test_too_many_spans_are_refused(acme: Caller) -> None:
    with pytest.raises(LimitExceeded, match="4096 spans"):
        acme.fetch(TRIAL, 1, [Span(0, 1)] * (limits.SPANS + 1))


@pytest.mark.parametrize("method", ["Describe", "Hashes", "Fetch"])
@pytest.mark.parametrize("request_", [b"\xff\xff\xff", b"\x0a\x05ab", b"", b"\x0a\x01/", b"\x0a\x03a/\x00"])
def test_requests_that_do_not_parse_are_refused_as_such(acme: Caller, method: str, request_: bytes) -> None:
    with pytest.raises(InvalidInput):
        acme.messages(method, request_)


@pytest.mark.parametrize("number", [1 << 63, (1 << 64) - 1])
def test_numbers_that_no_database_holds_are_refused_as_such(acme: Caller, east: Caller, number: int) -> None:
    for caller, id in ((acme, TRIAL), (east, "86.north/secret"), (east, "86.north/none")):
        with pytest.raises(InvalidInput, match="a version is less than"):
            caller.describe(id, number)
        with pytest.raises(InvalidInput, match="a version is less than"):
            caller.fetch(id, number, [Span(0, 1)])
    with pytest.raises(InvalidInput, match="the object has 3 elements"):
        acme.hashes(TRIAL, 1, number)
    with pytest.raises(InvalidInput, match="beyond the object"):
        acme.fetch(TRIAL, 1, [Span(number, 0, number, number)])
    assert len(acme.describe(TRIAL, first_page=number)) == 1


# Who gets in.


def test_a_member_that_is_not_allowed_is_told_so_and_whom_to_ask(east: Caller) -> None:
    for call in (lambda: east.describe(TRIAL), lambda: east.fetch(TRIAL, 1, [Span(0, 1)])):
        with pytest.raises(NotPermitted, match=r"86\.east may not read 86\.north/trial: ask data@north\.example"):
            call()


def test_an_open_object_is_for_every_member(scene: Scene, east: Caller) -> None:
    assert east.fetch("86.north/open", 1, [Span(0, 1)]) == (scene.data / "a.bin").read_bytes()


def test_an_unlisted_object_and_no_object_are_the_same_to_whoever_is_not_allowed(acme: Caller, east: Caller) -> None:
    def told(text: str) -> tuple[type, str]:
        with pytest.raises(HanseError) as caught:
            east.describe(text)
        return type(caught.value), str(caught.value).replace(text, "ID")

    assert told("86.north/secret") == told("86.north/no-such") == told("86.other/x")
    assert told("86.north/secret")[0] is NotFound
    assert len(acme.describe("86.north/secret")) == 2


def test_a_version_that_does_not_exist_is_not_found(acme: Caller) -> None:
    with pytest.raises(NotFound, match="no version 7"):
        acme.describe(TRIAL, 7)


def test_whoever_has_no_certificate_does_not_get_in(scene: Scene) -> None:
    with Caller(scene.acme.identity, scene.north, bare=True) as caller, pytest.raises(Unreachable):
        caller.describe(TRIAL)


def test_a_certificate_of_another_league_does_not_get_in(scene: Scene) -> None:
    root, key, authority_key = Prefix("86"), tls.TlsKey.generate(), tls.TlsKey.generate()
    now = int(scene.registry.clock())
    authority = tls.make_authority(authority_key, root, now)
    issued = tls.issue_member(
        authority_key, authority, tls.make_request(key, Prefix("86.acme")), root, Prefix("86.acme"), now
    )
    with (
        Caller(scene.acme.identity, scene.north, key=key.to_pem(), chain=tls.to_pem(issued)) as caller,
        pytest.raises(Unreachable),
    ):
        caller.describe(TRIAL)


def forged(scene: Scene, now: int, key: tls.TlsKey, prefix: str) -> bytes:
    """A certificate that the league's own authority issues to whom it likes."""
    authority_key = tls.TlsKey.from_pem((scene.registry.folder / "keys" / "ca.pem").read_bytes())
    authority = scene.acme.identity.authority.ca_certificate
    name = Prefix.parse(prefix)
    return tls.to_pem(tls.issue_member(authority_key, authority, tls.make_request(key, name), Prefix("86"), name, now))


def test_a_certificate_that_the_authority_forged_in_a_members_name_is_refused(scene: Scene) -> None:
    key = tls.TlsKey.generate()
    chain = forged(scene, int(scene.registry.clock()), key, "86.acme")
    with (
        Caller(scene.acme.identity, scene.north, key=key.to_pem(), chain=chain) as caller,
        pytest.raises(NotAuthenticated, match="names another key"),
    ):
        caller.describe(TRIAL)
    last = scene.north.audit()[-1]
    assert (last.decided.peer, last.decided.allowed, last.decided.why) == ("86.acme", False, "NotAuthenticated")


def test_a_certificate_for_nobody_that_joined_is_refused(scene: Scene) -> None:
    key = tls.TlsKey.generate()
    chain = forged(scene, int(scene.registry.clock()), key, "86.ghost")
    with (
        Caller(scene.acme.identity, scene.north, key=key.to_pem(), chain=chain) as caller,
        pytest.raises(NotAuthenticated, match="not a member"),
    ):
        caller.describe(TRIAL)


def test_an_expired_certificate_does_not_get_in(scene: Scene) -> None:
    identity = scene.acme.identity
    key = tls.TlsKey.from_pem(identity.tls_key)
    chain = forged(scene, int(scene.registry.clock()) - 8 * limits.DAY, key, "86.acme")
    with Caller(identity, scene.north, chain=chain) as caller, pytest.raises(Unreachable):
        caller.describe(TRIAL)


# What is recorded.


def test_every_decision_is_a_row_with_the_bytes_that_went_out(scene: Scene, acme: Caller, east: Caller) -> None:
    before = len(scene.north.audit())
    got = acme.fetch(TRIAL, 1, [Span(0, 3)])
    with pytest.raises(NotPermitted):
        east.fetch(TRIAL, 1, [Span(0, 3)])
    eventually(lambda: sum(row.served for row in scene.north.audit()[before:]) == len(got))
    allowed, refused = scene.north.audit()[before:]
    assert (allowed.decided.peer, allowed.decided.operation, allowed.decided.allowed) == ("86.acme", "fetch", True)
    assert allowed.decided.object == TRIAL
    assert allowed.decided.version == 1
    assert allowed.decided.key_id == str(scene.acme.identity.signing_key.public.key_id)
    assert (refused.decided.peer, refused.decided.allowed, refused.served) == ("86.east", False, 0)


# What goes wrong on the node's own machine is its owner's to know.


@pytest.mark.parametrize(
    "error", [NoSpace("disk of /private/home is full"), StorageFailed("/private/home"), Conflict("/private/home")]
)
def test_trouble_of_the_nodes_own_is_told_without_what_is_private(
    scene: Scene, acme: Caller, monkeypatch: pytest.MonkeyPatch, error: HanseError
) -> None:
    monkeypatch.setattr(scene.north.daemon.audit, "decided", _raising(error))
    with pytest.raises(Unreachable, match=r"86\.north cannot answer now.*try again later") as caught:
        acme.describe(TRIAL)
    assert "private" not in str(caught.value)


def test_an_exception_that_is_not_ours_is_an_internal_error_with_a_reference(
    scene: Scene, acme: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scene.north.daemon.audit, "decided", _raising(ValueError("/private/home")))
    with pytest.raises(grpc.RpcError) as caught:
        list(acme.call("Describe", node_pb2.DescribeRequest(id=TRIAL).SerializeToString()))
    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "which its log has as" in caught.value.details()
    assert "private" not in caught.value.details()
    assert len(scene.north.daemon.streams) == 0


def _raising(error: Exception) -> Callable[..., None]:
    def fail(*_: object) -> None:
        raise error

    return fail


# What has no policy is not served.


@pytest.mark.parametrize(
    "method",
    ["/hanse.v1.Node/Drop", "/grpc.health.v1.Health/Watch", "/grpc.reflection.v1alpha.ServerReflection/x", "/x/y"],
)
def test_a_method_without_a_declared_policy_is_unimplemented(acme: Caller, method: str) -> None:
    with pytest.raises(grpc.RpcError) as caught:
        acme.channel.unary_unary(method)(b"", timeout=60)
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


def test_a_method_without_a_declared_policy_stops_the_node_from_starting(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(service.POLICY, "/hanse.v1.Node/Fetch")
    with pytest.raises(HanseError, match=r"/hanse\.v1\.Node/Fetch"):
        service.NodeService(Prefix("86.north"), None, None, None, None)  # type: ignore[arg-type]


def test_health_says_serving(acme: Caller) -> None:
    assert acme.channel.unary_unary("/grpc.health.v1.Health/Check")(b"", timeout=60) == b"\x08\x01"


# What changes while the node runs. Each on a node of its own.


@pytest.fixture
def fresh(tmp_path: Path) -> Iterator[Scene]:
    data = tmp_path / "data"
    data.mkdir()
    with (data / "large.bin").open("wb") as file:
        file.truncate(256 * limits.MIB)
    (data / "small").write_bytes(b"small")
    with (
        Registry.start(tmp_path / "registry") as registry,
        Node.start(registry, "86.north", tmp_path / "north") as north,
    ):
        north.add(data, "trial", FOR_ACME)
        north.published()
        acme, east = (Node.join(registry, f"86.{name}", tmp_path / name) for name in ("acme", "east"))
        yield Scene(registry, north, acme, east, data)


def test_a_source_that_changed_is_refused_and_never_served_as_if_it_were_the_same(fresh: Scene) -> None:
    (fresh.data / "small").write_bytes(b"SMALL")
    with Caller(fresh.acme.identity, fresh.north) as acme:
        with pytest.raises(
            SourceChanged, match=r"since version 1 of 86\.north/trial; ask the owner to run hanse refresh"
        ):
            acme.fetch(TRIAL, 1, [Span(1, 1)])
        (fresh.data / "small").unlink()
        with pytest.raises(SourceChanged):
            acme.fetch(TRIAL, 1, [Span(1, 1)])


def test_a_source_that_changes_under_a_running_stream_ends_it(fresh: Scene) -> None:
    with Caller(fresh.acme.identity, fresh.north) as acme:
        stream = acme.call("Fetch", fetch_request(TRIAL, 1, [Span(0, 1)]), 60)
        next(stream)
        os.utime(fresh.data / "large.bin", (1, 1))
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
    assert caught.value.code() is grpc.StatusCode.FAILED_PRECONDITION


def test_a_withdrawn_object_is_said_to_be_withdrawn(fresh: Scene) -> None:
    with fresh.north.catalog() as catalog:
        catalog.withdraw("trial", "consent ended")
    with Caller(fresh.acme.identity, fresh.north) as acme, pytest.raises(Withdrawn):
        acme.describe(TRIAL)


def test_a_suspended_member_is_refused_at_the_next_call_and_in_a_running_stream(
    fresh: Scene,
) -> None:
    with Caller(fresh.acme.identity, fresh.north) as acme:
        stream = acme.call("Fetch", fetch_request(TRIAL, 1, [Span(0, 1)]), 60)
        next(stream)
        registry_app.suspend(fresh.registry.folder, Prefix("86.acme"), "")

        def refused() -> bool:
            try:
                acme.describe(TRIAL, no_pages=True)
            except Suspended:
                return True
            return False

        eventually(refused)
        assert fresh.north.daemon is not None
        eventually(lambda: len(fresh.north.daemon.streams) == 0)
        with pytest.raises(grpc.RpcError) as caught:
            list(stream)
        assert caught.value.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.CANCELLED)
    registry_app.restore(fresh.registry.folder, Prefix("86.acme"))


def test_a_reader_that_takes_nothing_holds_nobody_up_and_ends_when_it_may_not_go_on(fresh: Scene) -> None:
    assert fresh.north.daemon is not None
    with Caller(fresh.acme.identity, fresh.north) as slow, Caller(fresh.acme.identity, fresh.north) as quick:
        streams = [slow.call("Fetch", fetch_request(TRIAL, 1, [Span(0, 1)]), 100) for _ in range(20)]
        for stream in streams:
            next(stream)
        assert quick.fetch(TRIAL, 1, [Span(1, 1)]) == b"small"
        assert len(fresh.north.daemon.streams) == 20
        with fresh.north.catalog() as catalog:
            catalog.withdraw("trial")
        eventually(lambda: len(fresh.north.daemon.streams) == 0)
        del streams


def test_streams_beyond_the_limit_of_a_peer_are_refused_with_a_word(tmp_path: Path) -> None:
    (tmp_path / "data").write_bytes(bytes(64 * limits.MIB))
    with Registry.start(tmp_path / "registry") as registry:
        north = Node.join(registry, "86.north", tmp_path / "north")
        north.settings("streams_per_peer = 2\nstreams = 4\n")
        north.add(tmp_path / "data", "trial", Terms.opened())
        north.serve()
        acme, east = (Node.join(registry, f"86.{name}", tmp_path / name) for name in ("acme", "east"))
        with Caller(acme.identity, north) as one, Caller(east.identity, north) as other:
            streams = [one.call("Fetch", fetch_request(TRIAL, 1, [Span(0, 1)]), 60) for _ in range(2)]
            for stream in streams:
                next(stream)
            with pytest.raises(Overloaded, match=r"86\.acme has 2 streams open here"):
                one.describe(TRIAL)
            assert other.describe(TRIAL)
            for stream in streams:
                stream.cancel()
            eventually(lambda: _describes(one))
        north.stop()


def _describes(caller: Caller) -> bool:
    try:
        return bool(caller.describe(TRIAL))
    except Overloaded:
        return False


def test_a_peer_that_calls_too_often_is_slowed_down() -> None:
    now = 0.0
    rates = Rates(10, 3, lambda: now)
    for _ in range(3):
        rates.spend("a")
    with pytest.raises(Overloaded, match="more than 10 times a second"):
        rates.spend("a")
    rates.spend("b")
    now += 0.1
    rates.spend("a")
