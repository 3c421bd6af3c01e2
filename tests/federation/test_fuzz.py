"""Garbage at the ports of real daemons: bytes that are no TLS, no HTTP/2, no protobuf, and messages without sense.

Whatever comes, it is refused as what it is; the daemons go on, and their logs have no traceback.
"""

import contextlib
import os
import random
import socket
import ssl
import struct
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse import wire
from hanse.client.identity import MARKER, Identity
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.rpc import tls
from hanse.rpc.channel import dial
from hanse.signing import sign
from hanse.v1 import node_pb2, organization_pb2, papers_pb2, record_pb2, registry_pb2
from tests.garbage import messages
from tests.processes import League, Node, Process

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("fuzz")]

NORTH, ACME = "86.north", "86.acme"
TRIAL = "86.north/trial"
BUG = (grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN, grpc.StatusCode.DATA_LOSS)
few = settings(
    max_examples=80,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.data_too_large],
)


@dataclass
class Scene:
    """Two daemons under fire, and a member's channel to each."""

    league: League
    north: Node
    acme: Node
    identity: Identity
    to_node: grpc.Channel
    to_registry: grpc.Channel

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        return (("hanse-pass-bin", wire.encode_envelope(self.identity.sign_pass(int(time.time())))),)

    def daemon(self, which: str) -> Process:
        return self.north.process if which == "node" else self.league.registry.process

    def address(self, which: str) -> tuple[str, int]:
        host, _, port = self.daemon(which).address.rpartition(":")
        return host, int(port)

    def all_is_well(self) -> None:
        """Both daemons serve, and neither has anything to say of a bug of its own."""
        for process in (self.north.process, self.league.registry.process):
            assert process.running, process.everything
            assert "Traceback" not in process.everything, process.everything
            assert "call.broken" not in process.everything, process.everything
            assert "call.failed" not in process.everything, process.everything
            assert "thread.failed" not in process.everything, process.everything
        target = self.league.folder / f"well-{time.monotonic_ns()}"
        self.acme.command("fetch", TRIAL, "-o", target)
        assert target.read_bytes() == b"trial" * 1000
        assert self.acme.lines("search", "Trial")


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("league")
    with League(folder) as league:
        acme = league.join(ACME, serve=False)
        north = league.join(NORTH, serve=False)
        with (north.home / "node.toml").open("a") as file:
            file.write("calls_per_peer = 100000\n")  # so that it is the calls that are judged
        north.start()
        (folder / "trial").write_bytes(b"trial" * 1000)
        north.command("add", folder / "trial", "--id", "trial", "--title", "Trial", "--open")
        north.published()
        own = Identity.load(Home.open(acme.home, MARKER, ""))
        owner = Identity.load(Home.open(north.home, MARKER, ""))
        node_address, node_name = Address.parse(north.process.address), owner.prefix.server_name
        registry_roots, name = tls.to_pem(own.authority.ca_certificate), tls.registry_name(own.authority.root)
        with (
            closing(
                dial(
                    node_address,
                    roots=owner.node_certificate,
                    server_name=node_name,
                    key=own.tls_key,
                    chain=own.member_certificate,
                )
            ) as to_node,
            closing(dial(own.registries[0], roots=registry_roots, server_name=name)) as to_registry,
        ):
            yield Scene(league, north, acme, own, to_node, to_registry)


# Bytes.

HELLO = bytes.fromhex("16030100c4010000c00303") + bytes(185)
PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
BYTES = {
    "nothing": b"",
    "zeros": bytes(10_000),
    "random": random.Random(7).randbytes(100_000),
    "HTTP/1": b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
    "h2c": PREFACE + bytes.fromhex("000000040000000000"),
    "half a ClientHello": HELLO[:40],
    "a broken ClientHello": HELLO,
    "a huge TLS record": b"\x16\x03\x01\xff\xff" + bytes(65_535),
    "SSL 2": b"\x80\x2e\x01\x00\x02" + bytes(100),
    "many alerts": bytes.fromhex("15030300020100") * 2000,
}


@pytest.mark.parametrize("which", ["node", "registry"])
@pytest.mark.parametrize("data", BYTES.values(), ids=BYTES)
def test_bytes_that_are_no_tls(scene: Scene, which: str, data: bytes) -> None:
    for _ in range(5):
        with socket.create_connection(scene.address(which), timeout=5) as connection, contextlib.suppress(OSError):
            connection.sendall(data)
            connection.shutdown(socket.SHUT_WR)
            while connection.recv(65_536):
                pass
    assert scene.daemon(which).running


@pytest.mark.parametrize("which", ["node", "registry"])
def test_200_connections_that_say_nothing_keep_nobody_out(scene: Scene, which: str) -> None:
    process = psutil.Process(scene.daemon(which).pid)
    before = process.memory_info().rss
    with contextlib.ExitStack() as stack:
        for number in range(200):
            connection = stack.enter_context(socket.create_connection(scene.address(which), timeout=5))
            if number % 2:
                connection.sendall(HELLO[: 1 + number % 60])
        scene.all_is_well()
        assert process.memory_info().rss - before < 100 * 1024 * 1024
    scene.all_is_well()


SETTINGS = PREFACE + bytes.fromhex("000000040000000000")


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """RFC 9113 section 4.1."""
    return struct.pack(">I", len(payload))[1:] + bytes([kind, flags]) + struct.pack(">I", stream) + payload


FRAMES = {
    "no preface": BYTES["HTTP/1"],
    "random": random.Random(8).randbytes(50_000),
    "a huge frame": PREFACE + b"\xff\xff\xff\x00\x00" + bytes(4) + bytes(100_000),
    "settings without end": PREFACE + frame(4, 0, 0, b"") * 20_000,
    "pings without end": SETTINGS + frame(6, 0, 0, bytes(8)) * 5000,
    "resets of what is not there": SETTINGS + b"".join(frame(3, 0, stream, bytes(4)) for stream in range(1, 4001, 2)),
    "headers that are none": SETTINGS + frame(1, 4, 1, b"\xff" * 255),
    "continuations without end": SETTINGS + frame(1, 0, 1, b"\x82") + frame(9, 0, 1, b"\x82") * 20_000,
    "a window of nothing": PREFACE + frame(4, 0, 0, b"\x00\x04" + bytes(4)) + frame(8, 0, 0, bytes(4)),
}


@pytest.mark.parametrize("which", ["node", "registry"])
@pytest.mark.parametrize("data", FRAMES.values(), ids=FRAMES)
def test_true_tls_with_frames_that_are_none(scene: Scene, which: str, data: bytes, tmp_path: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    (tmp_path / "chain").write_bytes(scene.identity.member_certificate)
    (tmp_path / "key").write_bytes(scene.identity.tls_key)
    context.load_cert_chain(tmp_path / "chain", tmp_path / "key")
    with (
        socket.create_connection(scene.address(which), timeout=60) as bare,
        context.wrap_socket(bare) as connection,
        contextlib.suppress(OSError),
    ):
        connection.settimeout(2)
        connection.sendall(data)
        while connection.recv(65_536):
            pass
    assert scene.daemon(which).running


def test_after_all_these_bytes_all_is_well(scene: Scene) -> None:
    scene.all_is_well()


# Messages.


ENDS: Counter[grpc.StatusCode] = Counter()


def ended(call: Any, limit: int = 50) -> grpc.StatusCode:
    """How a stream ends; one that goes on is left after some messages."""
    code = _ended(call, limit)
    ENDS[code] += 1
    return code


def _ended(call: Any, limit: int) -> grpc.StatusCode:
    try:
        for count, _ in enumerate(call):
            if count >= limit:
                call.cancel()
                return grpc.StatusCode.OK
    except grpc.RpcError as error:
        failed: Any = error
        assert "Traceback" not in (failed.details() or "")
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK


NODE: dict[str, type[Message]] = {
    method.name: method.input_type._concrete_class for method in node_pb2.DESCRIPTOR.services_by_name["Node"].methods
}


@pytest.mark.parametrize("method", NODE)
@given(data=st.data())
@few
def test_any_message_to_the_node(scene: Scene, method: str, data: st.DataObject) -> None:
    request: Any = data.draw(messages(NODE[method]))
    if hasattr(request, "id") and data.draw(st.booleans()):
        request.id = TRIAL
    if hasattr(request, "version") and data.draw(st.booleans()):
        request.version = 1
    call = scene.to_node.unary_stream(f"/hanse.v1.Node/{method}")(request.SerializeToString(), timeout=60)
    assert ended(call) not in BUG, request


@pytest.mark.parametrize("method", NODE)
@given(data=st.binary(max_size=200))
@few
def test_any_bytes_to_the_node(scene: Scene, method: str, data: bytes) -> None:
    assert ended(scene.to_node.unary_stream(f"/hanse.v1.Node/{method}")(data, timeout=60)) not in BUG


PAPERS: dict[str, tuple[PayloadType, type[Message], str]] = {
    "request": (PayloadType.REQUEST, papers_pb2.AccessRequest, "Ask"),
    "grant": (PayloadType.GRANT, papers_pb2.Grant, "Present"),
    "revocation": (PayloadType.REVOCATION, papers_pb2.Revocation, "Present"),
    "receipt": (PayloadType.RECEIPT, papers_pb2.Receipt, "Settle"),
    "deletion": (PayloadType.DELETION, papers_pb2.Deletion, "Settle"),
}
NAMES = ("consumer", "issuer")  # who signs it, by the paper's own word
TIMES = ("issued_at", "deleted_at", "started_at", "ended_at")


@pytest.mark.parametrize("kind", PAPERS)
@given(data=st.data())
@few
def test_any_paper_that_a_member_signs(scene: Scene, kind: str, data: st.DataObject) -> None:
    """It gets past the signature, into everything that reads a paper; numbers are of any size."""
    payload_type, of, method = PAPERS[kind]
    message: Any = data.draw(messages(of))
    names, now = {field.name for field in of.DESCRIPTOR.fields}, int(time.time())
    for name in names & {*NAMES}:
        setattr(message, name, ACME)
    for name in names & {*TIMES}:
        setattr(message, name, data.draw(st.sampled_from([now, now, now, (1 << 63) - 1])))
    for name, value in {"nonce": bytes(16), "delivery": bytes(16), "owner": NORTH, "id": TRIAL, "to": ACME}.items():
        if name in names and data.draw(st.integers(0, 3)):
            setattr(message, name, value)
    for name in names & {"operations", "purposes"}:
        if data.draw(st.integers(0, 3)):
            del getattr(message, name)[:]
            getattr(message, name).append("fetch")
    if kind == "grant" and data.draw(st.integers(0, 3)):
        del message.ids[:]
        message.ids.append(TRIAL)
    envelope = sign(payload_type, message.SerializeToString(), scene.identity.signing_key)
    if len(envelope.payload) > 65_536:
        return
    paper = wire.envelope_to_message(envelope)
    asked: Message = {
        "request": node_pb2.AskRequest(request=paper),
        "grant": node_pb2.PresentRequest(grants=[paper]),
        "revocation": node_pb2.PresentRequest(revocations=[paper]),
    }.get(kind) or node_pb2.SettleRequest(papers=[paper])
    call = scene.to_node.unary_stream(f"/hanse.v1.Node/{method}")(asked.SerializeToString(), timeout=60)
    assert ended(call) not in BUG, message


REGISTRY: dict[str, type[Message]] = {
    method.name: method.input_type._concrete_class
    for method in registry_pb2.DESCRIPTOR.services_by_name["Registry"].methods
}


def call_registry(scene: Scene, method: str, *requests: bytes) -> grpc.StatusCode:
    path = f"/hanse.v1.Registry/{method}"
    if method == "Publish":
        stream = scene.to_registry.stream_stream(path)(iter(requests), metadata=scene.metadata, timeout=60)
        return ended(stream)
    if method == "Watch":
        watching = scene.to_registry.unary_stream(path)(requests[0], metadata=scene.metadata, timeout=0.1)
        return ended(watching, 1)
    return ended(_unary(scene.to_registry.unary_unary(path), requests[0], scene.metadata))


def _unary(call: Any, request: bytes, metadata: Any) -> Iterator[Any]:
    yield call(request, metadata=metadata, timeout=60)


@pytest.mark.parametrize("method", REGISTRY)
@given(data=st.data())
@few
def test_any_message_to_the_registry(scene: Scene, method: str, data: st.DataObject) -> None:
    requests = data.draw(st.lists(messages(REGISTRY[method]), min_size=1, max_size=2 if method == "Publish" else 1))
    assert call_registry(scene, method, *(each.SerializeToString() for each in requests)) not in BUG, requests


@pytest.mark.parametrize("method", REGISTRY)
@given(data=st.binary(max_size=200))
@few
def test_any_bytes_to_the_registry(scene: Scene, method: str, data: bytes) -> None:
    assert call_registry(scene, method, data) not in BUG


SIGNED = {"record": PayloadType.RECORD, "organization": PayloadType.ORGANIZATION}


@pytest.mark.parametrize("kind", SIGNED)
@given(data=st.data())
@few
def test_anything_that_a_member_signs_and_publishes(scene: Scene, kind: str, data: st.DataObject) -> None:
    """It gets past the signature, into everything that reads a record."""
    sense = {"record": record_pb2.ObjectRecord, "organization": organization_pb2.OrganizationRecord}[kind]
    message: Any = data.draw(messages(sense))
    own = scene.identity
    if kind == "record":
        message.id = f"{ACME}/x{data.draw(st.integers(0, 9))}"
        message.version, message.previous, message.issued_at = 1, b"", int(time.time())
        message.status, message.access.mode, message.commitment = 1, data.draw(st.sampled_from([1, 2, 3])), bytes(32)
        del message.summary.media_types[:]
        del message.summary.elements[:]
        del message.metadata.relations[:]
        message.metadata.attributes_json = ""
    else:
        message.prefix, message.version, message.issued_at = ACME, 2, int(time.time())
        message.previous = data.draw(st.sampled_from([b"", bytes(32), b"x"]))
        del message.keys[:]
        message.keys.add(public_key=own.signing_key.public.raw, valid_from=1)
    envelope = sign(SIGNED[kind], message.SerializeToString(), own.signing_key)
    if len(envelope.payload) > 65_536:
        return
    sent = registry_pb2.PublishRequest(envelopes=[wire.envelope_to_message(envelope)]).SerializeToString()
    assert call_registry(scene, "Publish", sent) is grpc.StatusCode.OK


def test_methods_and_services_that_are_not_there(scene: Scene) -> None:
    for channel in (scene.to_node, scene.to_registry):
        for path in ("/hanse.v1.Node/Nope", "/hanse.v1.Registry/Nope", "/x/y", "/", "//", "/hanse.v1.Node/"):
            call = channel.unary_unary(path)
            with pytest.raises(grpc.RpcError) as refused:
                call(os.urandom(10), timeout=60, metadata=scene.metadata)
            failed: Any = refused.value
            assert failed.code() is grpc.StatusCode.UNIMPLEMENTED, path


def test_after_all_these_messages_all_is_well(scene: Scene) -> None:
    scene.all_is_well()
    if ENDS.total() > 1000:  # all of it ran in this process: they were judged, and not turned away at the door
        assert ENDS[grpc.StatusCode.INVALID_ARGUMENT] > 200, ENDS
        assert ENDS[grpc.StatusCode.OK] > 100, ENDS
        assert ENDS[grpc.StatusCode.RESOURCE_EXHAUSTED] + ENDS[grpc.StatusCode.UNAUTHENTICATED] < 50, ENDS
    assert scene.league.registry.command("check").code == 0
    assert scene.north.command("check").code == 0
