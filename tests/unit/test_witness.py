"""A node as witness: what it answers to each request, and that it never signs two histories, whatever happens to it."""

import multiprocessing
import os
import random
import shutil
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hanse import cosigning, merkle, transparency
from hanse.client.identity import MARKER, Identity
from hanse.cosigning import Request
from hanse.errors import HomeUnusable, StorageFailed
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.home import Home
from hanse.model.address import Address
from hanse.signing import SigningKey
from node import witness as module
from node.witness import Witness, witnessed
from tests.simulator import SimulatedLeague

NOW = 1_800_000_000


class Log:
    """Two histories of one log, which part after a size, and the registry's key."""

    def __init__(self, key, origin, parts_at=5, size=60):
        common = [b"%d" % number for number in range(parts_at)]
        self.key, self.origin, self.parts_at = key, origin, parts_at
        self.histories = {
            name: [merkle.leaf_hash(each) for each in (*common, *(b"%s%d" % (name, n) for n in range(size - parts_at)))]
            for name in (b"a", b"b")
        }

    def checkpoint(self, size, history=b"a"):
        return Checkpoint(self.origin, size, merkle.root_at(merkle.nodes(self.histories[history][:size]), size))

    def proof(self, old, new, history=b"a"):
        if old in (0, new) or old > new:
            return ()
        return merkle.consistency_proof(merkle.nodes(self.histories[history][:new]), old, new)

    def ask(self, old, new, history=b"a", **changes):
        note = changes.pop("note", None) or notes.sign(self.checkpoint(new, history), changes.pop("key", self.key))
        proof = changes["proof"] if "proof" in changes else self.proof(old, new, history)
        return Request(old, proof, note).encode()


@pytest.fixture(scope="module")
def joined(tmp_path_factory):
    with SimulatedLeague() as league:
        folder = tmp_path_factory.mktemp("homes") / "north"
        league.join("86.north").home(folder)
    return folder, league.key


@pytest.fixture
def home(joined, tmp_path):
    shutil.copytree(joined[0], tmp_path / "north")
    return Home(tmp_path / "north")


@pytest.fixture
def identity(home):
    return Identity.load(Home.open(home.folder, MARKER, ""))


@pytest.fixture
def log(joined, identity):
    return Log(joined[1], transparency.origin(identity.authority))


@pytest.fixture
def witness(home, identity):
    return Witness.open(home, identity, lambda: NOW)


def told(answer):
    return int(answer.status)


def test_what_continues_is_cosigned_and_kept(witness, log, home, identity):
    assert (witness.told().size, witness.told().at) == (0, None)
    for old, new in ((0, 3), (3, 3), (3, 8), (8, 40)):
        answer = witness.add(log.ask(old, new))
        assert told(answer) == 200
        _, at = cosigning.read_answer(answer.body, log.checkpoint(new), witness.key)
        assert at == NOW
        kept = witnessed(home, identity)
        assert (kept.key, kept.size, kept.at) == (witness.key, new, NOW)
    assert witness.key.name == "86.north.witness.hanse.internal"
    assert (home / module.KEY).stat().st_mode & 0o777 == 0o600


def test_another_old_size_is_a_conflict_that_tells_the_size(witness, log):
    witness.add(log.ask(0, 8))
    for old, new in ((0, 20), (3, 20), (9, 20), (3, 8), (0, 3)):
        answer = witness.add(log.ask(old, new))
        assert (told(answer), answer.body, answer.media_type) == (409, b"8\n", "text/x.tlog.size")


def test_another_history_is_refused(witness, log):
    witness.add(log.ask(0, 8))
    assert told(witness.add(log.ask(8, 8, b"b"))) == 409
    assert told(witness.add(log.ask(8, 20, b"b"))) == 422
    for proof in ((), log.proof(8, 20)[:-1], (*log.proof(8, 20), bytes(32)), log.proof(7, 20), tuple([bytes(32)] * 5)):
        assert told(witness.add(log.ask(8, 20, proof=proof))) == 422
    assert told(witness.add(log.ask(8, 8, proof=(bytes(32),)))) == 422
    assert witness.told().size == 8
    assert told(witness.add(log.ask(8, 20))) == 200


def test_a_proof_from_nothing_is_empty(witness, log):
    assert told(witness.add(log.ask(0, 8, proof=(bytes(32),)))) == 422
    assert witness.told().at is None


def test_another_log_and_another_key_are_told_apart(witness, log):
    stranger = SigningKey.generate()
    elsewhere = notes.sign(Checkpoint("example.org/log", 8, bytes(32)), log.key)
    assert told(witness.add(log.ask(0, 8, note=elsewhere))) == 404
    assert told(witness.add(log.ask(0, 8, key=stranger))) == 403
    good = notes.sign(log.checkpoint(8), log.key)
    assert told(witness.add(log.ask(0, 8, note=good.replace("\n8\n", "\n9\n")))) == 403
    with_a_stranger = good + notes.sign(log.checkpoint(8), stranger).rpartition("\n\n")[2]
    assert told(witness.add(log.ask(0, 8, note=with_a_stranger))) == 200


@pytest.mark.parametrize("body", [b"", b"old 0\n\n", b"old 0\n\nx\n", b"\xff", b"old 9\n\nexample", b"old 0\r\n\r\n"])
def test_what_does_not_parse_is_a_bad_request(witness, body):
    assert told(witness.add(body)) == 400


def test_an_old_size_above_the_checkpoints_is_a_bad_request(witness, log):
    witness.add(log.ask(0, 8))
    assert told(witness.add(log.ask(8, 3, proof=()))) == 400


def test_many_at_once_are_decided_one_after_the_other(witness, log):
    signed = []

    def one(history):
        for size in range(6, 40, 3):
            old = witness.told().size
            if old <= size and told(witness.add(log.ask(old, size, history))) == 200:
                signed.append((size, history))

    witness.add(log.ask(0, log.parts_at))
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(one, [b"a", b"b"] * 4))
    assert signed
    assert len({history for _, history in signed}) == 1


def test_a_disk_that_fails_gives_no_cosignature(witness, log, monkeypatch):
    witness.add(log.ask(0, 3))

    def fail(*_: object) -> None:
        raise StorageFailed("the disk")

    monkeypatch.setattr(module, "write_durably", fail)
    assert told(witness.add(log.ask(3, 8))) == 500
    monkeypatch.undo()
    assert witness.told().size == 3
    assert told(witness.add(log.ask(3, 8))) == 200


def _work(folder, key, origin, history, pipe):
    """A witness that is asked as fast as it can be, and says what it signed."""
    identity = Identity.load(Home.open(Path(folder), MARKER, ""))
    witness, log = Witness.open(Home(Path(folder)), identity), Log(key, origin)
    while (size := witness.told().size) < 59:
        new = max(size + random.randint(0, 2), log.parts_at + 1)
        answer = witness.add(log.ask(size, new, history) if size else log.ask(0, new, history))
        if int(answer.status) == 200:
            pipe.send((new, cosigning.read_answer(answer.body, log.checkpoint(new, history), witness.key)[0]))
        elif int(answer.status) == 422:
            pipe.send(None)
            return
    pipe.send(None)


def test_killed_at_any_moment_it_never_signs_two_histories(home, identity, log):
    """Two registries' worth of history are offered in turn, and what was signed in any life is compared."""
    fork = multiprocessing.get_context("fork")
    signed: dict[bytes, set[int]] = {b"a": set(), b"b": set()}
    lived = 0
    for life in range(24):
        history = random.choice([b"a", b"b"])
        ours, theirs = fork.Pipe(duplex=False)
        process = fork.Process(target=_work, args=(home.folder, log.key, log.origin, history, theirs))
        process.start()
        theirs.close()
        if life % 4 == 2:
            ours.poll(10)  # until it has said something, however slow the machine is
        time.sleep(random.uniform(0, 0.08))
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        try:
            while (told := ours.recv()) is not None:
                signed[history].add(told[0])
        except EOFError:
            pass
        if life % 4 == 3:  # its memory grew to the end: another witness
            assert not (signed[b"a"] and signed[b"b"]), signed
            if signed[b"a"] or signed[b"b"]:
                kept = witnessed(home, identity)
                assert kept is not None
                assert kept.size >= max(signed[b"a"] | signed[b"b"])
            lived += len(signed[b"a"]) + len(signed[b"b"])
            (home / module.KEY).unlink(missing_ok=True)
            signed = {b"a": set(), b"b": set()}
    assert lived > 5


def test_a_witness_that_lost_its_memory_does_not_start(witness, log, home, identity):
    witness.add(log.ask(0, 8))
    kept = (home / module.STATE).read_bytes()
    for spoilt in (kept[:40], kept.replace(b"\n8\n", b"\n9\n"), b"\xff", kept.replace(b"A", b"B")):
        (home / module.STATE).write_bytes(spoilt)
        with pytest.raises(HomeUnusable, match="second history"):
            Witness.open(home, identity)
    (home / module.STATE).unlink()
    with pytest.raises(HomeUnusable, match="second history"):
        Witness.open(home, identity)
    (home / module.KEY).unlink()
    assert Witness.open(home, identity).key != witness.key


def test_another_witnesss_memory_is_not_its_own(witness, log, home, identity):
    witness.add(log.ask(0, 8))
    home.write_secret(module.KEY, SigningKey.generate().to_pem())
    with pytest.raises(HomeUnusable):
        Witness.open(home, identity)


def test_over_http_only_small_posts_to_its_path_are_answered(witness, log):
    import http.client
    import socket

    bound, end = module.serve(witness, Address("127.0.0.1", 0))
    try:
        connection = http.client.HTTPConnection(bound.host, bound.port, timeout=60)
        for method, path, body, status in (
            ("POST", "/add-checkpoint", log.ask(0, 3), 200),
            ("POST", "/add-checkpoint", log.ask(3, 8), 200),  # on the same connection
            ("GET", "/add-checkpoint", None, 405),
            ("POST", "/", b"x", 404),
        ):
            connection.request(method, path, body)
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        connection.close()
        for head, status in (
            (b"Content-Length: 10000000", b"413"), (b"Content-Length: -1", b"400"), (b"Content-Length: x", b"400"),
            (b"Transfer-Encoding: chunked", b"400"),
        ):  # fmt: skip
            with socket.create_connection((bound.host, bound.port), timeout=60) as raw:
                raw.sendall(b"POST /add-checkpoint HTTP/1.1\r\n" + head + b"\r\n\r\n")
                assert raw.recv(100).startswith(b"HTTP/1.1 " + status)
        slow = [socket.create_connection((bound.host, bound.port), timeout=60) for _ in range(50)]
        for each in slow:
            each.sendall(b"POST /add-checkpoint HTTP/1.1\r\nContent-Length: 500\r\n\r\nold 8")
        connection.request("POST", "/add-checkpoint", log.ask(8, 20))
        assert connection.getresponse().status == 200
        for each in slow:
            each.close()
    finally:
        end()
    assert "witness" not in {each.name for each in threading.enumerate()}
