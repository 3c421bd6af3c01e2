"""Many at once, and the very slow: nobody is starved, and the node's memory stays bounded."""

import contextlib
import socket
import ssl
import struct
import threading
import time
import urllib.request
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import grpc
import pytest

from hanse.client.identity import MARKER, Identity
from hanse.client.peer import Span
from hanse.home import Home
from hanse.model.address import Address
from hanse.rpc import status
from hanse.rpc.channel import dial
from tests.breaking import MIB, Program, equal_files, memory_mb, told, write_content
from tests.nodes import fetch_request
from tests.processes import League, Node, free_port, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("crowds"), pytest.mark.timeout(600)]

NORTH, SOUTH = "86.north", "86.south"
STREAM = 16 * MIB  # more than what waits unread in all windows and buffers between two programs
CLIENTS, STREAMS_EACH = 4, 50
MEMORY_MB = 400

CLIENT = """
import json, os, sys, threading, time
from hashlib import sha256
from hanse import Client
from hanse.client.peer import Span
from hanse.model.identifier import Identifier

home, count, chunks = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
id = Identifier.parse("86.north/crowded")
opened, go = threading.Barrier(count + 1), threading.Event()
results, lock = [], threading.Lock()

def one(client):
    try:
        with client.resolver.peer(id.prefix) as peer:
            stream = peer.fetch(id, 1, [Span(0, 0, 0, chunks)])
            opened.wait(90)
            go.wait(90)
            state = sha256()
            for part in stream:
                state.update(part)
            result = state.hexdigest()
    except Exception as error:
        opened.abort()
        result = f"{type(error).__name__}: {error}"
    with lock:
        results.append(result)

with Client(home) as client:
    client.resolve(str(id))
    print(json.dumps({"ready": True}), flush=True)
    while not os.path.exists(sys.argv[5]):
        time.sleep(0.05)
    threads = [threading.Thread(target=one, args=(client,)) for _ in range(count)]
    for thread in threads:
        thread.start()
    try:
        opened.wait(90)
        print(json.dumps({"open": count}), flush=True)
        while not os.path.exists(sys.argv[4]):
            time.sleep(0.05)
    except threading.BrokenBarrierError:
        pass
    go.set()
    for thread in threads:
        thread.join()
print(json.dumps({"results": results}), flush=True)
"""
"""When the second file is there, opens streams, each on a connection of its own; waits until all have begun and the
first file is there, then reads them. A stream that nobody reads is ended after limits.STREAM_STALL seconds.
"""


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        north = made.join(NORTH, serve=False)
        with (north.home / "node.toml").open("a") as settings:
            settings.write(f'metrics = "127.0.0.1:{free_port()}"\n')
        north.start()
        made.join(SOUTH, serve=False)
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture(scope="module")
def south(league: League) -> Node:
    return league.nodes[SOUTH]


@pytest.fixture(scope="module")
def file(north: Node, league: League) -> Path:
    """Wrapped as 'crowded'."""
    path = write_content(league.folder / "data/file", 64 * MIB)
    north.command("add", path, "--id", "crowded", "--open")
    north.published()
    return path


class Memory:
    """The most that a process held while it was looked at."""

    def __init__(self, pid: int) -> None:
        self.most = self.first = memory_mb(pid)
        self._pid, self._done = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def _look(self) -> None:
        while not self._done.wait(0.05):
            self.most = max(self.most, memory_mb(self._pid))

    def __enter__(self) -> "Memory":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()


def open_streams(north: Node) -> int:
    address = next(
        line.split('"')[1] for line in (north.home / "node.toml").read_text().splitlines() if "metrics" in line
    )
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
        text = answer.read().decode()
    return int(next(float(line.split()[1]) for line in text.splitlines() if line.startswith("hanse_open_streams ")))


def test_two_hundred_streams_at_once_all_arrive(north: Node, south: Node, file: Path, tmp_path: Path) -> None:
    with file.open("rb") as content:
        expected = sha256(content.read(STREAM)).hexdigest()
    clients = [
        Program(
            f"client-{number}",
            tmp_path,
            CLIENT,
            south.home,
            STREAMS_EACH,
            STREAM // MIB,
            tmp_path / "go",
            tmp_path / "open",
        )
        for number in range(CLIENTS)
    ]
    try:
        with Memory(north.process.pid) as memory:
            for client in clients:
                client.start(wait=False)
            until(lambda: all(told(client) for client in clients), "the clients to have begun")
            (tmp_path / "open").touch()
            until(
                lambda: all(len(told(client)) > 1 or not client.running for client in clients),
                "all streams to be open",
            )
            began, at_once = time.monotonic(), open_streams(north)
            (tmp_path / "go").touch()
            for client in clients:
                assert client.wait(400) == 0, client.everything
            took = time.monotonic() - began
    finally:
        for client in clients:
            client.kill()
    results = [result for client in clients for each in told(client) for result in each.get("results", ())]
    print(
        f"{at_once} streams at once, {len(results)} done in {took:.1f} s; memory {memory.first:.0f} MB before, "
        f"{memory.most:.0f} MB at most, {memory_mb(north.process.pid):.0f} MB after"
    )
    assert results == [expected] * (CLIENTS * STREAMS_EACH)
    assert at_once >= CLIENTS * STREAMS_EACH // 4, "on the node too; what was sent ahead into buffers is done for it"
    assert memory.most < MEMORY_MB
    until(lambda: open_streams(north) == 0, "the streams to be closed")


def test_readers_of_one_byte_a_second_starve_nobody(north: Node, south: Node, file: Path, tmp_path: Path) -> None:
    alone = _fetched(south, file, tmp_path / "alone")
    with Memory(north.process.pid) as memory, contextlib.ExitStack() as slow:
        readers = [slow.enter_context(SlowReader(north, south)) for _ in range(20)]
        until(lambda: all(reader.received for reader in readers), "the slow readers to get their first byte")
        until(lambda: open_streams(north) == len(readers), "the others to be closed")
        # What else the machine does in one moment is not what it does in the next.
        beside = min(_fetched(south, file, tmp_path / f"beside-{number}") for number in range(2))
        until(lambda: all(reader.received > 2 for reader in readers), "the slow to be served too")
        counts = [(reader.received, reader.granted) for reader in readers]
        until(lambda: open_streams(north) == len(readers), "only the slow to be served")
    alone = max(alone, _fetched(south, file, tmp_path / "alone-again"))
    print(
        f"fetched in {alone:.1f} s alone, in {beside:.1f} s beside {len(readers)} readers, who had {min(counts)[0]} to "
        f"{max(counts)[0]} bytes by then; memory {memory.first:.0f} to {memory.most:.0f} MB"
    )
    assert all(received <= granted for received, granted in counts)
    assert beside < 3 * alone + 3
    assert memory.most < MEMORY_MB
    until(lambda: open_streams(north) == 0, "the streams to be closed")


def test_a_crowd_beyond_what_a_member_may_open_is_told_to_wait(north: Node, south: Node, file: Path) -> None:
    owner, caller = (Identity.load(Home.open(each.home, MARKER, "")) for each in (north, south))
    with dial(
        Address.parse(north.process.address), roots=owner.node_certificate, server_name=owner.prefix.server_name,
        key=caller.tls_key, chain=caller.member_certificate,
    ) as channel:  # fmt: skip
        fetch = channel.unary_stream("/hanse.v1.Node/Fetch")
        request = fetch_request(f"{NORTH}/crowded", 1, [Span(0, 0, 0, 64)])
        calls = [fetch(request, timeout=400) for _ in range(256)]
        until(lambda: open_streams(north) == 256, "as many as a member may have")
        with pytest.raises(grpc.RpcError) as refused:
            next(fetch(request, timeout=60))
        error = status.from_rpc(refused.value, "north")
        assert error.reason == "Overloaded"
        assert error.exit_code == 5
        assert "256 streams open here" in str(error)
        assert memory_mb(north.process.pid) < MEMORY_MB
        for call in calls:
            call.cancel()
        until(lambda: open_streams(north) == 0, "the streams to be closed")
        assert next(fetch(request, timeout=60))


def _fetched(south: Node, file: Path, target: Path) -> float:
    """Seconds that a fetch took."""
    began = time.monotonic()
    south.command("fetch", f"{NORTH}/crowded", "-o", target)
    took = time.monotonic() - began
    assert equal_files(target, file)
    return took


class SlowReader:
    """An HTTP/2 client that grants its node one byte, and each second another. RFC 9113, as little of it as does.

    gRPC itself has no such client: it reads ahead. ``received`` counts the bytes of the stream, ``granted`` those
    that it may send.
    """

    def __init__(self, north: Node, south: Node) -> None:
        address = Address.parse(north.process.address)
        owner = Identity.load(Home.open(north.home, MARKER, ""))
        context = ssl.create_default_context(cadata=owner.node_certificate.decode())
        context.minimum_version = ssl.TLSVersion.TLSv1_3
        context.load_cert_chain(south.home / "member.pem", south.home / "keys/tls.pem")
        context.set_alpn_protocols(["h2"])
        plain = socket.create_connection((address.host, address.port), timeout=60)
        self._name = owner.prefix.server_name
        self._socket = context.wrap_socket(plain, server_hostname=self._name)
        self._socket.settimeout(0.1)
        self.received, self.granted = 0, 1
        self.ended = ""
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _frame(self, kind: int, flags: int, stream: int, payload: bytes) -> None:
        self._socket.sendall(struct.pack(">I", len(payload))[1:] + struct.pack(">BBI", kind, flags, stream) + payload)

    def _run(self) -> None:
        self._socket.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n")
        self._frame(4, 0, 0, struct.pack(">HI", 4, 1))  # SETTINGS: a stream's window is one byte
        headers = (
            (":method", "POST"), (":scheme", "https"), (":path", "/hanse.v1.Node/Fetch"), (":authority", self._name),
            ("te", "trailers"), ("content-type", "application/grpc"),
        )  # fmt: skip
        block = b"".join(
            b"\x00" + bytes([len(name)]) + name.encode() + bytes([len(value)]) + value.encode()
            for name, value in headers
        )
        self._frame(1, 0x4, 1, block)
        request = fetch_request(f"{NORTH}/crowded", 1, [Span(0, 0, 0, 64)])
        self._frame(0, 0x1, 1, struct.pack(">BI", 0, len(request)) + request)
        pending, granted_at = b"", time.monotonic()
        while not self._done.is_set():
            with contextlib.suppress(TimeoutError):
                part = self._socket.recv(65_536)
                if not part:
                    self.ended = "closed"
                    return
                pending += part
            while len(pending) >= 9 and len(pending) >= 9 + int.from_bytes(pending[:3], "big"):
                length = int.from_bytes(pending[:3], "big")
                self._take(pending[3], pending[4], pending[9 : 9 + length])
                pending = pending[9 + length :]
            if time.monotonic() - granted_at >= 1:
                granted_at = time.monotonic()
                self.granted += 1
                self._frame(8, 0, 1, struct.pack(">I", 1))

    def _take(self, kind: int, flags: int, payload: bytes) -> None:
        if kind == 0:
            self.received += len(payload)
        elif kind == 4 and not flags & 1:
            self._frame(4, 1, 0, b"")
        elif kind == 6 and not flags & 1:
            self._frame(6, 1, 0, payload)
        elif kind in (3, 7):
            self.ended = f"frame {kind}: {payload!r}"

    def __enter__(self) -> "SlowReader":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self._socket.close()
