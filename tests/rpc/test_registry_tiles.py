"""The log over HTTP: what a cache, a mirror or a stranger gets, and what nobody gets."""

import http.client
import socket
import time

import pytest

from hanse import merkle, tiles, transparency
from hanse.errors import Conflict
from registry import app
from tests.league import Registry
from tests.processes import free_port

PUBLISHED = 600


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """A registry with some entries, its tiles' port, and the leaves as its storage has them."""
    port = free_port()
    settings = f'tiles = "127.0.0.1:{port}"\npublic_entries = true\n'
    with Registry.start(tmp_path_factory.mktemp("league") / "registry", settings=settings) as registry:
        north = registry.join("86.north")
        north.publish(*(north.record(str(number)) for number in range(PUBLISHED)))
        with app.opened(registry.folder) as opened:
            yield registry, port, opened.storage.leaves(0, PUBLISHED + 3), opened.authority


def get(port, path, method="GET", **headers):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request(method, path, headers=headers)
    answer = connection.getresponse()
    body = answer.read()
    connection.close()
    return answer, body


def test_the_checkpoint_is_that_of_all_entries_and_is_kept_for_a_second(served):
    _, port, leaves, authority = served
    answer, body = get(port, "/checkpoint")
    assert answer.status == 200
    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Cache-Control"] == "public, max-age=1"
    signed = transparency.read(body.decode(), authority, now=int(time.time()))
    assert signed.checkpoint.size == len(leaves)
    assert signed.checkpoint.root == merkle.root(map(merkle.leaf_hash, leaves))


def test_an_acknowledged_publish_is_in_the_published_checkpoint_at_once(served, tmp_path):
    port = free_port()
    with Registry.start(tmp_path / "registry", settings=f'tiles = "127.0.0.1:{port}"\n') as registry:
        north = registry.join("86.north")
        for number in range(5):
            assert north.publish(north.record(str(number)))[0].code == 1
            assert get(port, "/checkpoint")[1].splitlines()[1] == str(4 + number).encode()


def test_tiles_are_hashes_and_are_kept_for_ever(served):
    _, port, leaves, _ = served
    hashes = [merkle.leaf_hash(leaf) for leaf in leaves]
    for number in range(2):
        answer, body = get(port, f"/tile/0/{number:03}")
        assert answer.status == 200
        assert answer.headers["Content-Type"] == "application/octet-stream"
        assert answer.headers["Cache-Control"] == "public, max-age=31536000, immutable"
        assert body == b"".join(hashes[256 * number : 256 * (number + 1)])
    partial = len(leaves) - 512
    assert get(port, f"/tile/0/002.p/{partial}")[1] == b"".join(hashes[512:])
    assert get(port, "/tile/0/002.p/5")[1] == b"".join(hashes[512:517])
    assert get(port, "/tile/0/001.p/7")[1] == b"".join(hashes[256:263])
    assert get(port, "/tile/1/000.p/2")[1] == b"".join(merkle.root(hashes[at : at + 256]) for at in (0, 256))


def test_entries_are_the_leaves_data(served):
    _, port, leaves, _ = served
    answer, body = get(port, "/tile/entries/001")
    assert answer.headers["Cache-Control"].endswith("immutable")
    assert body == b"".join(len(each).to_bytes(2, "big") + each for each in leaves[256:512])


@pytest.mark.parametrize(
    "path",
    ["/", "/tile/0/003", "/tile/0/002", "/tile/0/002.p/255", "/tile/1/000", "/tile/2/000.p/1", "/tile/0/0",
     "//tile/0/000", "/checkpoint/", "/checkpoint?x", "/tile/entries/003", "/tile/0/%30", "/registry.db",
     "/../registry.toml", "tile/0/000"],
)  # fmt: skip
def test_what_is_not_there_may_be_there_next(served, path):
    _, port, _, _ = served
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        raw.sendall(f"GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: raw.recv(4096), b""))
    assert answer.startswith(b"HTTP/1.1 404 Not Found\r\n")
    assert b"Cache-Control: no-store\r\n" in answer


def test_head_is_get_without_a_body_and_nothing_else_is_allowed(served):
    _, port, _, _ = served
    answer, body = get(port, "/tile/0/000", "HEAD")
    assert (answer.status, answer.headers["Content-Length"], body) == (200, "8192", b"")
    for method in ("POST", "PUT", "DELETE", "OPTIONS"):
        answer, _ = get(port, "/checkpoint", method)
        assert answer.status == 405
        assert answer.headers["Allow"] == "GET, HEAD"


def test_a_connection_is_used_again(served):
    _, port, _, _ = served
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    for _ in range(3):
        connection.request("GET", "/checkpoint")
        first = connection.sock
        assert connection.getresponse().read()
        assert connection.sock is first
    connection.close()


@pytest.mark.parametrize(
    "sent",
    [
        b"\r\n\r\n", b"GET\r\n\r\n", b"GET /checkpoint\r\n\r\n", b"GET /checkpoint HTTP/2.0\r\n\r\n",
        b"\x16\x03\x01" * 100,
        b"GET /checkpoint HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello",
        b"POST /checkpoint HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"GET / HTTP/1.1\r\n" + b"x: y\r\n" * 5000,
        b"\xff\xfe\r\n\r\n",
    ],
)  # fmt: skip
def test_nonsense_is_refused_and_others_are_served(served, sent):
    _, port, _, _ = served
    with socket.create_connection(("127.0.0.1", port), timeout=60) as raw:
        try:
            raw.sendall(sent)
            raw.shutdown(socket.SHUT_WR)
            answer = b"".join(iter(lambda: raw.recv(4096), b""))
        except ConnectionError:
            answer = b""
    assert answer == b"" or answer.startswith(b"HTTP/1.1 400 Bad Request\r\n"), answer
    assert get(port, "/checkpoint")[0].status == 200


def test_without_the_operators_word_nobody_gets_entries(tmp_path):
    port = free_port()
    with Registry.start(tmp_path / "registry", settings=f'tiles = "127.0.0.1:{port}"\n') as registry:
        registry.join("86.north")
        assert get(port, "/tile/entries/000.p/3")[0].status == 404
        assert get(port, "/tile/0/000.p/3")[0].status == 200


def test_a_port_that_is_taken_is_named(tmp_path):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        settings = f'tiles = "127.0.0.1:{taken.getsockname()[1]}"\n'
        with (
            pytest.raises(Conflict, match="tiles cannot be served at "),
            Registry.start(tmp_path / "registry", settings=settings),
        ):
            pass


def test_the_words_of_the_records_are_nowhere(served):
    _, port, leaves, _ = served
    told = b"".join(
        get(port, path)[1] for path in ("/checkpoint", *(f"/{tiles.path(level, 0)}" for level in (0, tiles.ENTRIES)))
    )
    assert all(len(leaf) == 33 for leaf in leaves)
    assert b"86.north" not in told
    assert b"Organization" not in told
