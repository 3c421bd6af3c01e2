"""What a registry shows while witnesses cosign, are slow, answer nonsense or are away: never later than promised."""

import contextlib
import http.client
import socket
import threading
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from hanse import cosigning, merkle, transparency, wire_log
from hanse.cosigning import Request, WitnessKey
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey
from hanse.transparency import Shown
from hanse.v1 import registry_pb2
from node import witness as module
from node.witness import Witness
from registry import app
from tests.league import Registry, eventually
from tests.processes import free_port

PATIENT = 5.0
"""Seconds: half of what a witness is given to answer, and more than a machine with much else to do needs."""
HUNG, RUDE = (WitnessKey(f"witness.example/{name}", SigningKey.generate().public) for name in ("hung", "rude"))


@contextlib.contextmanager
def listening(answer: bytes) -> Iterator[int]:
    """Takes every request and answers so; nothing, for good, if that is empty."""
    open_ones: list[socket.socket] = []
    with socket.create_server(("127.0.0.1", 0)) as server:

        def run() -> None:
            while True:
                try:
                    taken, _ = server.accept()
                except OSError:
                    return
                open_ones.append(taken)
                with contextlib.suppress(OSError):
                    taken.recv(65536)
                    if answer:
                        taken.sendall(answer)
                        taken.close()

        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        yield server.getsockname()[1]
        server.shutdown(socket.SHUT_RDWR)
        for each in open_ones:
            each.close()
    thread.join(60)


@pytest.fixture(scope="module")
def scene(tmp_path_factory):
    """A registry with one witness that works, once it is started, and two that do not."""
    folder = tmp_path_factory.mktemp("league")
    home = Home.create(folder / "witness", "x")
    key = SigningKey.generate()
    home.write_secret(module.KEY, key.to_pem())
    (home / module.STATE).write_bytes(b"")
    good, tiles = WitnessKey(cosigning.name_of(Prefix("86.witness")), key.public), free_port()
    port = free_port()
    rude = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nx\n\n\r\n0\r\n\r\n"
    with listening(b"") as hung_at, listening(rude) as rude_at:
        lines = [
            f"{each} http://127.0.0.1:{at}" for each, at in ((good, port), (HUNG, hung_at), (RUDE, rude_at))
        ]  # fmt: skip
        settings = f'tiles = "127.0.0.1:{tiles}"\nwitnesses = {lines}\n'
        with Registry.start(folder / "registry", settings=settings) as registry:
            with app.opened(registry.folder) as opened:
                authority = opened.authority
            identity = SimpleNamespace(authority=authority, prefix=Prefix("86.witness"))
            witness = Witness.open(home, identity)
            _, end = module.serve(witness, Address("127.0.0.1", port))
            yield SimpleNamespace(
                registry=registry, authority=authority, witness=witness, good=good, tiles=tiles,
                north=registry.join("86.north"),
            )  # fmt: skip
            end()


def checkpoint(scene):
    connection = http.client.HTTPConnection("127.0.0.1", scene.tiles, timeout=60)
    connection.request("GET", "/checkpoint")
    note = connection.getresponse().read().decode()
    connection.close()
    signed = transparency.read(note, scene.authority, now=int(time.time()))
    return signed, cosigning.dates(note, [scene.good, HUNG, RUDE])


def test_a_quiet_log_is_shown_cosigned_by_who_can(scene):
    with app.opened(scene.registry.folder) as opened:
        last = opened.storage.last_position()

    def is_of_all() -> bool:
        signed, dates = checkpoint(scene)
        return bool(dates) and signed.checkpoint.size == last

    eventually(is_of_all)  # for a moment, what was cosigned before the last entry is shown
    signed, dates = checkpoint(scene)
    assert set(dates) == {scene.good}
    assert signed.checkpoint.size == scene.witness.told().size


def test_what_is_acknowledged_is_published_within_a_second_and_most_of_what_is_shown_is_cosigned(scene):
    shown, late, cosigned, was = 0, 0.0, 0, 0
    until = time.monotonic() + 3
    acknowledged: list[tuple[int, float]] = []
    while time.monotonic() < until or shown <= 5:
        begun = time.monotonic()
        assert scene.north.publish(scene.north.record(f"s{shown}"))[0].code == 1
        with app.opened(scene.registry.folder) as opened:
            acknowledged.append((opened.storage.last_position(), time.monotonic()))
        assert time.monotonic() - begun < PATIENT, "a witness that hangs delays a publish"
        asked = time.monotonic()
        signed, dates = checkpoint(scene)
        assert signed.checkpoint.size >= was
        was, shown, cosigned = signed.checkpoint.size, shown + 1, cosigned + bool(dates)
        late = max([late, *(asked - at for size, at in acknowledged if size > was)])
    assert late < PATIENT
    assert shown > 5
    assert cosigned > shown // 3


def test_one_who_needs_the_newest_is_not_given_less(scene):
    for number in range(5):
        scene.north.publish(scene.north.record(f"n{number}"))
        request = registry_pb2.ResolveRequest(ids=[f"86.north/n{number}"], prove=True)
        answer = scene.north.stub.Resolve(request, metadata=scene.north.metadata, timeout=60)
        signed = transparency.verify(answer.log.checkpoint, scene.authority)
        inclusion = wire_log.inclusion_from_message(answer.resolutions[0].inclusion)
        assert inclusion.index < signed.checkpoint.size
        seen = signed.checkpoint.size
        request = registry_pb2.GetCheckpointRequest(seen_size=seen)
        again = scene.north.stub.GetCheckpoint(request, metadata=scene.north.metadata, timeout=60)
        shown: Shown = wire_log.shown_from_message(again.log)
        newer = transparency.verify(shown.note, scene.authority)
        transparency.follow(signed, newer, shown)


def test_status_says_what_is_wrong_with_each(scene, monkeypatch):
    monkeypatch.setattr("registry.witnesses._LOOK_TIMEOUT", 0.5)
    problems: dict[str, str] = {}

    def good_one_answers() -> bool:
        problems.update({each.name: each.problem for each in app.status(scene.registry.folder).witnesses})
        return problems[scene.good.name] == ""

    eventually(good_one_answers)  # half a second is little on a machine with much else to do
    assert "does not answer in" in problems[HUNG.name]
    assert problems[RUDE.name]


def test_a_witness_that_knows_more_than_there_is_or_another_history_refuses(tmp_path):
    port = free_port()
    key = SigningKey.generate()
    home = Home.create(tmp_path / "witness", "x")
    home.write_secret(module.KEY, key.to_pem())
    (home / module.STATE).write_bytes(b"")
    name = WitnessKey(cosigning.name_of(Prefix("86.witness")), key.public)
    settings = f'witnesses = ["{name} http://127.0.0.1:{port}"]\n'
    with Registry.start(tmp_path / "registry", settings=settings) as registry:
        registry.join("86.north")
        with app.opened(registry.folder) as opened:
            authority, registry_key = opened.authority, opened.statements.key
        witness = Witness.open(home, SimpleNamespace(authority=authority, prefix=Prefix("86.witness")))
        hashes = [merkle.leaf_hash(b"another %d" % number) for number in range(50)]
        for size, wanted in ((2, "another"), (50, "restored from an old backup")):
            other = Checkpoint(transparency.origin(authority), size, merkle.root(hashes[:size]))
            old = witness.told().size
            proof = merkle.consistency_proof(merkle.nodes(hashes[:size]), old, size) if old else ()
            assert witness.add(Request(old, proof, notes.sign(other, registry_key)).encode()).status == 200
            _, end = module.serve(witness, Address("127.0.0.1", port))
            try:
                (told,) = app.status(registry.folder).witnesses
            finally:
                end()
            assert wanted in told.problem
            assert witness.told().size == size
