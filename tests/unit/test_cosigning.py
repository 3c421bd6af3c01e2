"""Cosignatures as they are written and read: whatever they are of, they come back, and nothing else passes for one."""

import base64
import contextlib
import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import cosigning, limits, merkle
from hanse.client import witnesses
from hanse.cosigning import Policy, Request, WitnessKey
from hanse.errors import BadSignature, HomeUnusable, InvalidInput, WrongContent
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey

NOW = 1_800_000_000
LOG, ONE, TWO, OTHER = (SigningKey.generate() for _ in range(4))
FIRST = WitnessKey(cosigning.name_of(Prefix("86.first")), ONE.public)
SECOND = WitnessKey("witness.example/w2", TWO.public)
BOTH = Policy(2, (FIRST, SECOND))
TEN = Checkpoint("example.org/log", 10, bytes(32))
FORKED = Checkpoint("example.org/log", 10, bytes(31) + b"x")

names = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z"), exclude_characters="+"), min_size=1,
                max_size=40)  # fmt: skip
checkpoints = st.builds(Checkpoint, names, st.integers(1, notes.MOST_LEAVES), st.binary(min_size=32, max_size=32))


def note(checkpoint=TEN, *lines):
    return notes.sign(checkpoint, LOG) + "".join(lines)


def line(checkpoint=TEN, key=ONE, name=FIRST.name, at=NOW):
    return cosigning.sign(checkpoint, name, key, at)


@settings(max_examples=40)
@given(checkpoints, names, st.integers(0, 2**62))
def test_a_cosignature_is_that_of_its_text_name_key_and_time(checkpoint, name, at):
    key = WitnessKey(name, ONE.public)
    made = cosigning.sign(checkpoint, name, ONE, at)
    assert cosigning.dates(note(checkpoint, made), [key]) == {key: at}
    assert cosigning.dates(note(checkpoint, made), [SECOND]) == {}
    assert cosigning.dates(note(checkpoint, made), [WitnessKey(name, TWO.public)]) == {}
    assert cosigning.read_answer(made.encode(), checkpoint, key) == (made, at)


@given(names)
def test_a_key_is_read_as_it_is_written(name):
    key = WitnessKey(name, ONE.public)
    assert WitnessKey.parse(str(key)) == key
    assert WitnessKey.parse(f" {key}\n") == key


def _keys_that_are_none():
    good = str(FIRST)
    name, digits, encoded = good.split("+", 2)
    plain = base64.b64encode(b"\x01" + ONE.public.raw).decode()
    return ["", "x", name, f"{name}+{digits}", good[:-2], good[1:], good.replace(digits, "0" * 8), f"{good}A",
            f"{name}+{notes.key_hash(name, ONE.public).hex()}+{plain}", f"+{digits}+{encoded}",
            f"a b+{cosigning.key_hash('a b', ONE.public).hex()}+{encoded}"]  # fmt: skip


@pytest.mark.parametrize("text", keys := _keys_that_are_none(), ids=range(len(keys)))
def test_what_is_no_witness_key_is_refused(text):
    with pytest.raises(InvalidInput):
        WitnessKey.parse(text)


class TestRequire:
    """missing: who has to sign yet."""

    def test_enough_of_those_named_is_enough(self):
        assert cosigning.missing(note(TEN), Policy(0, (FIRST,)), NOW) == ()
        assert cosigning.missing(note(TEN), BOTH, NOW) == (FIRST, SECOND)
        assert cosigning.missing(note(TEN, line()), BOTH, NOW) == (SECOND,)
        assert cosigning.missing(note(TEN, line()), Policy(1, BOTH.keys), NOW) == ()
        assert cosigning.missing(note(TEN, line(), line(key=TWO, name=SECOND.name)), BOTH, NOW) == ()

    def test_one_counts_once_however_often_it_signs(self):
        assert cosigning.missing(note(TEN, line(), line(at=NOW - 1)), BOTH, NOW) == (SECOND,)

    def test_a_witness_of_another_name_or_key_does_not_count(self):
        strangers = line(key=OTHER), line(name="witness.example/w2"), line(key=TWO)
        assert cosigning.missing(note(TEN, *strangers), BOTH, NOW) == (FIRST, SECOND)

    @pytest.mark.parametrize(
        ("ago", "counts"),
        [(-limits.CLOCK_SKEW, True), (-limits.CLOCK_SKEW - 1, False),
         (limits.CLOCK_SKEW + limits.CHECKPOINT_AGE, True), (limits.CLOCK_SKEW + limits.CHECKPOINT_AGE + 1, False)],
    )  # fmt: skip
    def test_it_counts_while_it_is_young(self, ago, counts):
        assert (cosigning.missing(note(TEN, line(at=NOW - ago)), Policy(1, (FIRST,)), NOW) == ()) is counts

    def test_the_newest_date_counts(self):
        old = line(at=NOW - 10_000)
        assert cosigning.missing(note(TEN, line(), old), Policy(1, (FIRST,)), NOW) == ()

    def test_a_wrong_signature_of_a_known_key_spoils_the_note(self):
        forged = base64.b64encode(FIRST.key_hash + bytes(72)).decode()
        for wrong in (line(FORKED), f"\u2014 {FIRST.name} {forged}\n"):
            with pytest.raises(BadSignature, match=re.escape(FIRST.name)):
                cosigning.missing(note(TEN, line(), wrong), Policy(1, (FIRST,)), NOW)
            assert cosigning.missing(note(TEN, wrong), Policy(0, (SECOND,)), NOW) == ()

    @pytest.mark.parametrize(
        "policy",
        [Policy(3, BOTH.keys), Policy(-1, BOTH.keys), Policy(0, (FIRST, FIRST)),
         Policy(0, (FIRST, WitnessKey("other", FIRST.key))), Policy(0, (FIRST, WitnessKey(FIRST.name, SECOND.key)))],
    )  # fmt: skip
    def test_a_witness_is_not_named_twice_and_no_more_are_required_than_named(self, policy):
        with pytest.raises(InvalidInput):
            policy.check()


class TestSignedBoth:
    """Who signed two histories."""

    def test_of_one_size_and_two_roots_who_signed_both_is_named(self):
        first = note(TEN, line(), line(key=TWO, name=SECOND.name))
        second = note(FORKED, line(FORKED, at=NOW + 5))
        assert cosigning.signed_both(first, second, BOTH.keys) == (FIRST.name,)
        assert cosigning.signed_both(second, first, BOTH.keys) == (FIRST.name,)

    def test_nobody_is_named_for_what_may_both_be_true(self):
        grown = Checkpoint(TEN.origin, 11, bytes(32))
        assert cosigning.signed_both(note(TEN, line()), note(TEN, line(at=NOW + 1)), [FIRST]) == ()
        assert cosigning.signed_both(note(TEN, line()), note(grown, line(grown)), [FIRST]) == ()
        elsewhere = Checkpoint("example.com/log", 10, FORKED.root)
        assert cosigning.signed_both(note(TEN, line()), note(elsewhere, line(elsewhere)), [FIRST]) == ()

    def test_who_has_the_leaves_may_say_that_two_sizes_contradict_each_other(self):
        grown = Checkpoint(TEN.origin, 11, bytes(32))
        pair = note(TEN, line()), note(grown, line(grown))
        assert cosigning.signed_both(*pair, [FIRST, SECOND], inconsistent=True) == (FIRST.name,)

    def test_nobody_is_named_for_a_line_that_is_not_his(self):
        forged = line(FORKED)
        assert cosigning.signed_both(note(TEN, forged), note(FORKED, forged), [FIRST]) == ()
        assert cosigning.signed_both(note(TEN, line(key=OTHER)), note(FORKED, line(FORKED, key=OTHER)), [FIRST]) == ()


class TestRequest:
    """The body of add-checkpoint."""

    @given(st.integers(0, notes.MOST_LEAVES), st.lists(st.binary(min_size=32, max_size=32), max_size=63))
    def test_it_is_read_as_it_is_written(self, old, proof):
        request = Request(old, tuple(proof), note(TEN, line()))
        assert Request.parse(request.encode()) == request
        assert len(request.encode()) <= cosigning.REQUEST_BYTES

    @given(st.binary(max_size=200))
    def test_nonsense_is_invalid_input_and_nothing_else(self, body):
        for each in (body, b"old 5\n" + body, b"old 0\n\n" + body):
            with contextlib.suppress(InvalidInput):
                Request.parse(each)

    @pytest.mark.parametrize("head", ["old", "old ", "old -1", "old 01", "old 1 ", "new 1", "old 9223372036854775808",
                                      "old 1\r", "old 1\n" + base64.b64encode(bytes(31)).decode(), "old ٣",
                                      "old 1" + ("\n" + base64.b64encode(bytes(32)).decode()) * 64])  # fmt: skip
    def test_a_head_of_another_form_is_refused(self, head):
        with pytest.raises(InvalidInput):
            Request.parse(f"{head}\n\n{note()}".encode())

    @pytest.mark.parametrize("answer", [b"", b"\xff", b"x\n", line()[:-1].encode(), line(FORKED).encode(),
                                        line(key=OTHER).encode(), line(name="x").encode()])  # fmt: skip
    def test_an_answer_without_the_witnesss_cosignature_is_refused(self, answer):
        with pytest.raises((WrongContent, BadSignature)):
            cosigning.read_answer(answer, TEN, FIRST)

    def test_what_others_add_to_an_answer_is_left_away(self):
        answer = line(key=OTHER, name="other") + line(at=NOW - 1) + line()
        assert cosigning.read_answer(answer.encode(), TEN, FIRST) == (line(), NOW)


class TestSettings:
    """[witnesses] in node.toml."""

    def test_the_table_is_replaced_and_the_rest_stays(self, tmp_path):
        path = tmp_path / "node.toml"
        path.write_text('# mine\nlisten = "127.0.0.1:0"  # here\n\n[ witnesses ]\nrequire = 0\nkeys = [\n]\n')
        assert witnesses.load(path) == Policy()
        for policy in (BOTH, Policy(1, (SECOND,)), Policy()):
            witnesses.save(path, policy)
            assert witnesses.load(path) == policy
            assert path.read_text().startswith('# mine\nlisten = "127.0.0.1:0"  # here\n')
            assert path.read_text().count("[witnesses]") == bool(policy.keys)
        assert witnesses.load(tmp_path / "none.toml") == Policy()

    @pytest.mark.parametrize(
        "text",
        ["witnesses = 3", "[witnesses]\nrequire = 1", "[witnesses]\nrequire = true", "[witnesses]\nkeys = 'x'",
         "[witnesses]\nkeys = ['x']", "[witnesses]\nneed = 2", "[witnesses"],
    )  # fmt: skip
    def test_what_makes_no_sense_is_refused(self, tmp_path, text):
        (tmp_path / "node.toml").write_text(text)
        with pytest.raises(HomeUnusable):
            witnesses.load(tmp_path / "node.toml")

    def test_a_table_in_another_form_is_left_to_the_user(self, tmp_path):
        (tmp_path / "node.toml").write_text("witnesses = {require = 0, keys = []}\n")
        with pytest.raises(HomeUnusable, match=r"by hand|TOML"):
            witnesses.save(tmp_path / "node.toml", BOTH)


def test_an_empty_log_can_be_cosigned():
    empty = Checkpoint("example.org/log", 0, merkle.EMPTY_ROOT)
    assert cosigning.dates(note(empty, line(empty)), [FIRST]) == {FIRST: NOW}
