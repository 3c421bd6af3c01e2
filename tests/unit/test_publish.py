"""The publisher: what is acknowledged leaves the outbox, what is not stays, in order, for as long as it takes."""

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse.errors import Unreachable, VerificationFailed
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.publishing import OutcomeCode, PublishOutcome
from hanse.signing import SigningKey, is_signed_by, sign
from node import publish
from node.publish import Publisher
from node.storage.catalog import CatalogStorage
from node.storage.outbox import ORGANIZATION, enqueue
from tests.league import eventually

KEY = SigningKey.generate()


@dataclass
class Identity:
    signing_key: SigningKey = KEY


class League:
    """Remembers what it got, and answers as it is told."""

    def __init__(self) -> None:
        self.got: list[bytes] = []
        self.batches = 0
        self.answer: Callable[[Envelope], OutcomeCode] = lambda _: OutcomeCode.ACCEPTED
        self.error: Exception | None = None
        self.fails_after: int | None = None
        self.wait: tuple[int, bool] = (0, False)
        self.returns = 0

    def publish(self, envelopes: Iterable[Envelope]) -> Iterator[PublishOutcome]:
        error = self.error
        self.batches += 1
        if error is not None:
            raise error
        for number, envelope in enumerate(envelopes):
            if number == self.fails_after:
                raise Unreachable("cut off")
            assert is_signed_by(envelope, KEY.public)
            self.got.append(envelope.payload)
            code = self.answer(envelope)
            said = "" if code is OutcomeCode.ACCEPTED else f"so it is {code}"
            yield PublishOutcome(envelope.digest, code, said, *(self.wait if said else ()))


@dataclass
class Scene:
    storage: CatalogStorage
    league: League
    publisher: Publisher
    organizations: list[None]

    def put(self, key: str, payload: bytes, signer: SigningKey = KEY) -> None:
        kind = PayloadType.ORGANIZATION if key == ORGANIZATION else PayloadType.RECORD
        with self.storage.database.writing() as connection:
            enqueue(connection, key, sign(kind, payload, signer), int(time.time()))

    def left(self) -> list[bytes]:
        return [row.envelope.payload for row in self.storage.outbox.all()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    storage, league, organizations = CatalogStorage.open(tmp_path / "catalog.db"), League(), []
    publisher = Publisher(
        storage,
        lambda: league,  # type: ignore[arg-type,return-value]
        Identity,  # type: ignore[arg-type]
        organization_acknowledged=lambda: organizations.append(None),
    )
    yield Scene(storage, league, publisher, organizations)
    storage.close()


def test_what_is_acknowledged_leaves_the_outbox(scene: Scene) -> None:
    for number in range(5):
        scene.put(f"86.a/{number}", b"%d" % number)
    assert scene.publisher.drain() == 5
    assert scene.left() == []
    assert scene.league.batches == 1


def test_the_versions_of_an_object_go_one_after_another_and_the_organization_first(scene: Scene) -> None:
    for payload in (b"x1", b"x2", b"x3"):
        scene.put("86.a/x", payload)
    scene.put("86.a/y", b"y1")
    scene.put(ORGANIZATION, b"organization")
    scene.publisher.drain()
    assert scene.league.got[0] == b"organization"
    assert [each for each in scene.league.got if each.startswith(b"x")] == [b"x1", b"x2", b"x3"]
    assert scene.league.batches == 4
    assert len(scene.organizations) == 1


def test_what_is_refused_is_kept_with_its_reason_and_holds_back_what_follows_it_only(scene: Scene) -> None:
    for payload in (b"x1", b"x2"):
        scene.put("86.a/x", payload)
    scene.put("86.a/y", b"y1")
    scene.league.answer = lambda e: OutcomeCode.REFUSED if e.payload == b"x1" else OutcomeCode.ACCEPTED
    scene.publisher.drain()
    assert scene.left() == [b"x1", b"x2"]
    refused = scene.storage.outbox.all()[0]
    assert (refused.refused, refused.last_error) == (True, "so it is refused")
    scene.publisher.drain()
    assert scene.league.got == [b"x1", b"y1"]


def test_what_is_to_be_tried_again_waits_its_time(scene: Scene) -> None:
    scene.put("86.a/x", b"x1")
    scene.league.answer = lambda _: OutcomeCode.TRY_AGAIN
    before = time.time()
    assert scene.publisher.drain() == 0
    row = scene.storage.outbox.all()[0]
    assert (row.refused, row.attempts, row.last_error) == (False, 1, "so it is try-again")
    assert row.next_try_at >= int(before + 1)  # whole seconds: the next may have begun since


def test_what_was_acknowledged_before_the_line_was_cut_is_not_sent_again(scene: Scene) -> None:
    for number in range(5):
        scene.put(f"86.a/{number}", b"%d" % number)
    scene.league.fails_after = 3
    with pytest.raises(Unreachable):
        scene.publisher.drain()
    assert scene.left() == [b"3", b"4"]
    assert scene.storage.outbox.all()[0].last_error == "cut off"
    scene.league.fails_after = None
    scene.publisher.drain()
    assert scene.league.got == [b"0", b"1", b"2", b"3", b"4"]


def test_an_acknowledgement_of_something_else_is_not_believed(scene: Scene) -> None:
    scene.put("86.a/x", b"x1")

    def lie(envelopes: Iterable[Envelope]) -> Iterator[PublishOutcome]:
        for _ in envelopes:
            yield PublishOutcome(bytes(32), OutcomeCode.ACCEPTED)

    scene.league.publish = lie  # type: ignore[method-assign]
    with pytest.raises(VerificationFailed, match="something else"):
        scene.publisher.drain()
    assert scene.left() == [b"x1"]


def test_what_was_signed_with_an_earlier_key_is_signed_again(scene: Scene) -> None:
    scene.put("86.a/x", b"x1", SigningKey.generate())
    assert scene.publisher.drain() == 1
    assert scene.league.got == [b"x1"]


def test_the_thread_goes_on_until_the_registry_is_back_and_wakes_for_new_work(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "POLL_SECONDS", 0.01)
    stop = threading.Event()
    scene.league.error = Unreachable("away")
    scene.put("86.a/x", b"x1")
    thread = threading.Thread(target=scene.publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: scene.league.batches >= 1)
        assert scene.left() == [b"x1"]
        tried = scene.league.batches
        scene.put("86.a/y", b"y1")
        eventually(lambda: scene.league.batches > tried)
        scene.league.error = None
        eventually(lambda: scene.left() == [])
    finally:
        stop.set()
        thread.join(60)
    assert sorted(scene.league.got) == [b"x1", b"y1"]


def test_given_a_registry_that_takes_nothing_for_a_while_then_it_is_not_asked_before(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish.limits, "BATCH", 10)
    monkeypatch.setattr(publish, "POLL_SECONDS", 0.01)
    accepted = iter([True] * 4)
    scene.league.answer = lambda _: OutcomeCode.ACCEPTED if next(accepted, False) else OutcomeCode.TRY_AGAIN
    scene.league.wait = (4, True)
    for number in range(30):
        scene.put(f"86.a/{number}", b"%d" % number)
    began, stop = time.monotonic(), threading.Event()
    thread = threading.Thread(target=scene.publisher.run, args=(stop,))
    thread.start()
    try:
        # It is paused from the first such answer on; the others of that batch are answered and kept after it.
        eventually(lambda: sum(row.attempts for row in scene.storage.outbox.all()) == 6)
        assert scene.publisher.paused
        scene.put("86.a/new", b"new")
        scene.publisher.hurry()
        scene.league.answer = lambda _: OutcomeCode.ACCEPTED
        assert len(scene.storage.outbox.all()) == 27  # four of the first ten went; the other twenty were not sent
        rows = [row for row in scene.storage.outbox.all() if row.attempts]
        assert [row.last_error for row in rows] == ["so it is try-again"] * 6
        eventually(lambda: scene.left() == [])
    finally:
        stop.set()
        thread.join()
    assert time.monotonic() - began >= 4
    assert scene.league.batches >= 4


def test_given_a_registry_that_answers_somebody_again_then_it_is_asked_at_once(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publish, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(publish.random, "uniform", lambda *_: 600.0)
    scene.league.error = Unreachable("it does not answer")
    scene.put("86.a/1", b"1")
    stop = threading.Event()
    thread = threading.Thread(target=scene.publisher.run, args=(stop,))
    thread.start()
    try:
        eventually(lambda: [row.attempts for row in scene.storage.outbox.all()] == [1])
        scene.league.error = None
        time.sleep(0.1)
        assert scene.left() == [b"1"]
        scene.league.returns += 1
        eventually(lambda: scene.left() == [])
    finally:
        stop.set()
        thread.join()


def test_given_one_thing_that_has_to_wait_then_the_others_go_on(scene: Scene) -> None:
    scene.league.answer = lambda each: OutcomeCode.TRY_AGAIN if each.payload == b"1" else OutcomeCode.ACCEPTED
    scene.league.wait = (300, False)
    for number in range(3):
        scene.put(f"86.a/{number}", b"%d" % number)
    assert scene.publisher.drain() == 2
    (row,) = scene.storage.outbox.all()
    assert 200 < row.next_try_at - time.time() <= publish.LONGEST_TOLD  # more would pass for a clock that was wrong
    assert scene.publisher.drain() == 0
    assert len(scene.league.got) == 3
