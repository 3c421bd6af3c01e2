"""Two homes that keep each other's newest checkpoint: whoever rewrites, forks or rolls back a log is noticed."""

import contextlib
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import limits
from hanse.errors import BadSignature, BrokenChain, WrongContent
from hanse.evidence import peers
from hanse.evidence.checkpoint import Checkpoint, origin, parse, read, sign
from hanse.evidence.evidence import Evidence
from hanse.evidence.peers import Lost, Shown
from hanse.merkle import EMPTY_ROOT, leaf_hash
from hanse.signing import SigningKey
from tests.evidence import Member, append


@dataclass
class Side:
    """One organization, its evidence and its clock."""

    member: Member
    evidence: Evidence
    now: float = 1000.0

    @classmethod
    def of(cls, member: Member) -> "Side":
        side = cls(member, None)  # type: ignore[arg-type]
        side.evidence = member.evidence(lambda: side.now)
        return side

    def append(self, *payloads: bytes) -> None:
        append(self.evidence, *payloads)

    def request(self, other: "Side") -> Shown:
        return peers.offer(self.evidence, other.member.prefix)

    def answer(self, other: "Side", request: Shown) -> Shown:
        """What the other gets out of the wire: where the proof starts is what it asked for."""
        return replace(peers.offer(self.evidence, other.member.prefix, since=request.seen), since=request.seen)

    def accept(self, other: "Side", shown: Shown, asked: int | None = None) -> None:
        peers.accept(self.evidence, other.member.prefix, other.member.record, shown, asked)

    def held(self, other: "Side") -> int:
        """Leaves of the other's log, as far as it was seen."""
        return peers.offer(self.evidence, other.member.prefix).seen

    def restore(self, backup: Path) -> None:
        """The home as it was, with the same key."""
        self.evidence.close()
        shutil.copyfile(backup, self.member.file)
        self.evidence = self.member.evidence(lambda: self.now)

    def backup(self, to: Path) -> Path:
        self.evidence.close()
        shutil.copyfile(self.member.file, to)
        self.evidence = self.member.evidence(lambda: self.now)
        return to


def settle(consumer: Side, owner: Side) -> None:
    """One exchange, as Settle makes it."""
    request = consumer.request(owner)
    owner.accept(consumer, request)
    answer = owner.answer(consumer, request)
    consumer.accept(owner, answer, asked=request.seen)


@pytest.fixture
def north(tmp_path: Path) -> Iterator[Side]:
    side = Side.of(Member.of(tmp_path, "86.north"))
    yield side
    side.evidence.close()


@pytest.fixture
def acme(tmp_path: Path) -> Iterator[Side]:
    side = Side.of(Member.of(tmp_path, "86.acme"))
    yield side
    side.evidence.close()


def test_two_logs_that_grow_are_seen_to_continue(north: Side, acme: Side) -> None:
    for number in range(12):
        settle(acme, north)
        assert acme.held(north) == north.evidence.size()
        assert north.held(acme) == acme.evidence.size()
        north.append(*[b"n%d" % number] * (number % 4))
        acme.append(*[b"a%d" % number] * (number % 3 + 1))
    for side in (north, acme):
        assert peers.forks(side.evidence) == ()
        assert peers.losses(side.evidence) == ()


def test_our_checkpoint_is_signed_also_of_an_empty_log_and_after_a_change_of_keys(north: Side) -> None:
    name = origin(north.member.prefix)

    def signed_by(key: SigningKey) -> Checkpoint:
        return read(peers.ours(north.evidence), name, [key.public])

    assert signed_by(north.member.signing_key) == Checkpoint(name, 0, EMPTY_ROOT)
    north.append(b"one")
    before = signed_by(north.member.signing_key)
    assert before.size == 1
    north.member.signing_key = SigningKey.generate()
    assert signed_by(north.member.signing_key) == before


def test_after_a_change_of_keys_the_exchange_goes_on(north: Side, acme: Side) -> None:
    north.append(b"one")
    settle(acme, north)
    north.member.previous_key, north.member.signing_key = north.member.signing_key, SigningKey.generate()
    settle(acme, north)
    north.append(b"two")
    settle(acme, north)
    assert acme.held(north) == 2


def notes(side: Side) -> list[tuple[int, int]]:
    """Sizes of both checkpoints of each contradiction."""
    return [(parse(each.first)[0].size, parse(each.second)[0].size) for each in peers.forks(side.evidence)]


def test_an_owner_that_rewrote_its_log_is_noticed_and_both_notes_are_kept(
    north: Side, acme: Side, tmp_path: Path
) -> None:
    north.append(b"one")
    backup = north.backup(tmp_path / "backup")
    north.append(b"a receipt that north would rather not have")
    settle(acme, north)
    north.restore(backup)
    north.append(b"something else")
    north.append(b"more")

    with pytest.raises(BrokenChain, match=r"the log of 86\.north with 3 entries does not continue that with 2: it was"):
        settle(acme, north)

    assert notes(acme) == [(2, 3)]
    (fork,) = peers.forks(acme.evidence)
    for note in (fork.first, fork.second):
        read(note, origin(north.member.prefix), [north.member.signing_key.public])
    assert acme.held(north) == 2, "what was seen first stays what others are measured by"
    with pytest.raises(BrokenChain):
        settle(acme, north)
    assert notes(acme) == [(2, 3)]


def test_an_owner_that_shows_two_histories_of_one_size_is_noticed(north: Side, acme: Side, tmp_path: Path) -> None:
    north.append(b"one")
    backup = north.backup(tmp_path / "backup")
    north.append(b"for acme")
    settle(acme, north)
    north.restore(backup)
    north.append(b"for others")

    with pytest.raises(BrokenChain, match=r"the log of 86\.north has two different histories of 2 entries"):
        settle(acme, north)
    assert notes(acme) == [(2, 2)]


def test_an_owner_that_was_rolled_back_is_noticed_at_once(north: Side, acme: Side, tmp_path: Path) -> None:
    north.append(b"one")
    backup = north.backup(tmp_path / "backup")
    north.append(b"two")
    settle(acme, north)
    north.restore(backup)

    with pytest.raises(BrokenChain, match=r"the log of 86\.north has 1 entries, and had 2 before: it was rolled back"):
        settle(acme, north)
    assert notes(acme) == [(2, 1)]


def test_a_consumer_that_was_rolled_back_is_noticed_when_it_cannot_be_a_matter_of_order(
    north: Side, acme: Side, tmp_path: Path
) -> None:
    acme.append(b"one")
    backup = acme.backup(tmp_path / "backup")
    acme.append(b"two")
    settle(acme, north)
    acme.restore(backup)

    north.now += limits.OVERTAKEN
    north.accept(acme, acme.request(north))
    assert notes(north) == []

    north.now += 1
    with pytest.raises(BrokenChain, match=r"the log of 86\.acme has 1 entries, and had 2 before: it was rolled back"):
        north.accept(acme, acme.request(north))
    assert notes(north) == [(2, 1)]


def test_a_consumer_that_rewrote_its_log_is_noticed(north: Side, acme: Side, tmp_path: Path) -> None:
    acme.append(b"one")
    settle(acme, north)
    backup = acme.backup(tmp_path / "backup")
    acme.append(b"two")
    settle(acme, north)
    acme.restore(backup)
    acme.append(b"another two")
    acme.append(b"three")

    # It remembers that north has seen 1 and proves that; north says that it has seen 2.
    request = acme.request(north)
    assert request.since == 1
    north.accept(acme, request)
    acme.accept(north, north.answer(acme, request), asked=request.seen)
    with pytest.raises(BrokenChain, match=r"86\.acme with 3 entries does not continue that with 2: it was rewritten"):
        north.accept(acme, acme.request(north))
    assert notes(north) == [(2, 3)]


def test_our_own_log_that_lost_its_end_is_noticed_and_stays_noticed(north: Side, acme: Side, tmp_path: Path) -> None:
    acme.append(b"one")
    settle(acme, north)
    backup = acme.backup(tmp_path / "backup")
    acme.append(b"two")
    acme.append(b"three")
    settle(acme, north)
    assert peers.losses(acme.evidence) == ()
    acme.restore(backup)
    assert peers.losses(acme.evidence) == ()

    settle(acme, north)
    assert peers.losses(acme.evidence) == (Lost("86.north", 3),)

    for number in range(5):  # it outgrows what it lost: that does not bring it back
        acme.append(b"%d" % number)
    assert peers.losses(acme.evidence) == (Lost("86.north", 3),)


def test_our_own_log_that_lost_its_end_and_grew_again_before_anybody_asked_is_noticed(
    north: Side, acme: Side, tmp_path: Path
) -> None:
    acme.append(b"one")
    settle(acme, north)
    backup = acme.backup(tmp_path / "backup")
    acme.append(b"two")
    settle(acme, north)
    acme.restore(backup)
    acme.append(b"another two")
    acme.append(b"three")

    request = acme.request(north)
    north.accept(acme, request)
    acme.accept(north, north.answer(acme, request), asked=request.seen)
    assert peers.losses(acme.evidence) == (Lost("86.north", 2),)


def test_what_a_peer_made_up_of_our_log_is_no_loss(north: Side, acme: Side) -> None:
    acme.append(b"one")
    settle(acme, north)
    name = origin(acme.member.prefix)
    made_up = sign(Checkpoint(name, 1, leaf_hash(b"x")), north.member.signing_key)
    others = sign(Checkpoint(origin(north.member.prefix), 1, leaf_hash(b"x")), acme.member.signing_key)
    for note in (made_up, others, "", "hello"):
        acme.accept(north, replace(north.answer(acme, acme.request(north)), seen_note=note), asked=0)
    assert peers.losses(acme.evidence) == ()
    ours = sign(Checkpoint(name, 1, leaf_hash(b"x")), acme.member.signing_key)
    acme.accept(north, replace(north.answer(acme, acme.request(north)), seen_note=ours), asked=0)
    assert peers.losses(acme.evidence) == (Lost("86.north", 1),)


def test_requests_that_overtake_each_other_are_no_contradiction(north: Side, acme: Side) -> None:
    settle(acme, north)
    acme.append(b"one")
    slow = acme.request(north)
    acme.append(b"two")
    settle(acme, north)
    acme.append(b"three")
    stale = acme.request(north)
    settle(acme, north)

    north.accept(acme, slow)
    north.accept(acme, stale)
    assert north.held(acme) == 3
    assert notes(north) == []


def test_answers_that_overtake_each_other_are_no_contradiction(north: Side, acme: Side) -> None:
    north.append(b"one")
    settle(acme, north)
    first = acme.request(north)
    north.append(b"two")
    slow = north.answer(acme, first)
    north.append(b"three")
    settle(acme, north)

    acme.accept(north, slow, asked=first.seen)
    assert acme.held(north) == 3
    assert notes(acme) == []


def test_a_lost_answer_costs_one_exchange(north: Side, acme: Side) -> None:
    acme.append(b"one")
    settle(acme, north)
    acme.append(b"two")
    north.accept(acme, acme.request(north))  # the answer is lost: acme does not know that 2 were seen
    acme.append(b"three")

    settle(acme, north)
    assert north.held(acme) == 2
    settle(acme, north)
    assert north.held(acme) == 3
    assert notes(north) == notes(acme) == []


def test_a_home_that_lost_what_it_had_seen_begins_anew(north: Side, acme: Side) -> None:
    for number in range(3):
        acme.append(b"%d" % number)
        settle(acme, north)
    north.evidence.close()
    north.member.file.unlink()
    north.evidence = north.member.evidence(lambda: north.now)
    settle(acme, north)
    assert north.held(acme) == 3
    acme.append(b"more")
    settle(acme, north)
    assert north.held(acme) == 4
    assert notes(north) == notes(acme) == []


def shown(side: Side, other: Side) -> Shown:
    side.append(b"more")
    return side.request(other)


def test_what_somebody_else_signed_is_refused_and_accuses_nobody(north: Side, acme: Side, tmp_path: Path) -> None:
    north.append(b"one")
    settle(acme, north)
    thief = SigningKey.generate()
    forged = sign(Checkpoint(origin(north.member.prefix), 9, leaf_hash(b"x")), thief)
    for note, error in (
        (forged, BadSignature),
        (peers.ours(acme.evidence), WrongContent),
        ("", WrongContent),
        ("hello", WrongContent),
    ):
        with pytest.raises(error):
            acme.accept(north, Shown(note, (), 0, 0), asked=1)
    assert notes(acme) == []
    assert acme.held(north) == 1


def test_a_retired_key_counts_for_an_hour(north: Side, acme: Side) -> None:
    north.append(b"one")
    note = peers.ours(north.evidence)
    north.member.previous_key, north.member.signing_key = north.member.signing_key, SigningKey.generate()
    retired = north.member.record.keys[1].valid_until
    assert retired is not None
    acme.now = retired + limits.KEY_OVERLAP
    acme.accept(north, Shown(note, (), 0, 0))
    acme.now += 1
    with pytest.raises(BadSignature):
        acme.accept(north, Shown(note, (), 0, 0))


@pytest.mark.parametrize("proof", [(), (b"",), (bytes(32),), (bytes(32),) * 3, (bytes(31),)])
def test_a_proof_that_proves_nothing_is_a_rewritten_log(north: Side, acme: Side, proof: tuple[bytes, ...]) -> None:
    north.append(b"one")
    settle(acme, north)
    north.append(b"two")
    answer = replace(north.answer(acme, acme.request(north)), proof=proof)
    with pytest.raises(BrokenChain, match="it was rewritten"):
        acme.accept(north, answer, asked=1)


def test_a_proof_longer_than_any_is_refused(north: Side, acme: Side) -> None:
    with pytest.raises(WrongContent, match="longer than any log needs"):
        acme.accept(north, replace(shown(north, acme), proof=(bytes(32),) * 65))


def test_numbers_from_the_wire_may_be_anything(north: Side, acme: Side) -> None:
    north.append(b"one")
    huge = (1 << 64) - 1
    assert peers.offer(north.evidence, acme.member.prefix, since=huge).proof == ()
    acme.accept(north, replace(shown(north, acme), seen=huge, since=huge))
    assert peers.losses(acme.evidence) == (Lost("86.north", (1 << 63) - 1),)


def test_only_so_many_contradictions_of_one_peer_are_kept(north: Side, acme: Side) -> None:
    north.append(b"one")
    settle(acme, north)
    name, key = origin(north.member.prefix), north.member.signing_key
    for number in range(limits.FORKS_PER_PEER + 5):
        note = sign(Checkpoint(name, 5, leaf_hash(b"%d" % number)), key)
        with pytest.raises(BrokenChain):
            acme.accept(north, Shown(note, (), 1, 0), asked=1)
    assert len(peers.forks(acme.evidence)) == limits.FORKS_PER_PEER


@settings(max_examples=25, deadline=None)
@given(data=st.data())
def test_honest_peers_are_never_accused_however_their_messages_are_lost_and_overtake_each_other(
    data: st.DataObject,
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        north, acme = (Side.of(Member.of(Path(folder), prefix)) for prefix in ("86.north", "86.acme"))
        for side in (north, acme):
            opened.callback(side.evidence.close)
        requests: list[Shown] = []
        answers: list[tuple[Shown, int]] = []
        moves = ["north", "acme", "ask", "arrive", "arrive", "answer", "answer", "lose", "settle"]
        for _ in range(data.draw(st.integers(5, 25))):
            match data.draw(st.sampled_from(moves)):
                case "north":
                    north.append(b"n")
                case "acme":
                    acme.append(b"a", b"b")
                case "ask":
                    requests.append(acme.request(north))
                case "arrive" if requests:
                    request = requests.pop(data.draw(st.integers(0, len(requests) - 1)))
                    north.accept(acme, request)
                    answers.append((north.answer(acme, request), request.seen))
                case "answer" if answers:
                    answer, asked = answers.pop(data.draw(st.integers(0, len(answers) - 1)))
                    acme.accept(north, answer, asked=asked)
                case "lose":
                    requests, answers = requests[1:], answers[1:]
                case "settle":
                    settle(acme, north)
        for _ in range(2):  # whatever was lost, two exchanges later both know where they are
            settle(acme, north)
        assert (acme.held(north), north.held(acme)) == (north.evidence.size(), acme.evidence.size())
        for side in (north, acme):
            assert peers.forks(side.evidence) == ()
            assert peers.losses(side.evidence) == ()


@settings(max_examples=15, deadline=None)
@given(kept=st.integers(0, 6), lost=st.integers(1, 4), added=st.integers(0, 8), between=st.booleans())
def test_whoever_lost_what_a_peer_had_seen_is_noticed_by_both_at_the_next_exchange(
    kept: int, lost: int, added: int, between: bool
) -> None:
    with tempfile.TemporaryDirectory() as folder, contextlib.ExitStack() as opened:
        north, acme = (Side.of(Member.of(Path(folder), prefix)) for prefix in ("86.north", "86.acme"))
        opened.callback(lambda: [side.evidence.close() for side in (north, acme)])
        for _ in range(kept):
            north.append(b"kept")
        if between:
            settle(acme, north)
        backup = north.backup(Path(folder) / "backup")
        for _ in range(lost):
            north.append(b"lost")
        settle(acme, north)
        north.restore(backup)
        for _ in range(added):
            north.append(b"added")
        with pytest.raises(BrokenChain):
            settle(acme, north)
        assert notes(acme) == [(kept + lost, kept + added)]
        assert peers.losses(north.evidence) == (Lost("86.acme", kept + lost),)
