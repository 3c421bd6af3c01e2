"""Who signed two histories: found whenever it can be proved, and nobody else is named, whatever stands in a proof.

Of hanse.client.lies and of the verifier that stands alone: both are asked the same.
"""

import base64
import contextlib
from dataclasses import replace
from itertools import permutations
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse import cosigning, limits, merkle, transparency, verifier, wire
from hanse.client import lies
from hanse.client.league import League
from hanse.client.storage.known import Known, RegistryLie
from hanse.cosigning import WitnessKey
from hanse.errors import Unreachable
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import leaf_hash
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.transparency import Shown, Signed
from tests.simulator import ROOT
from tests.vectors import fixed

NOW = fixed.T0
ENCODED = wire.encode_authority(ROOT, "x", fixed.certificate(fixed.CA), fixed.REGISTRY.public)
AUTHORITY: Authority = wire.decode_authority(ENCODED)
LEAGUE = verifier.read_league(ENCODED)
KEY, OTHER = SigningKey.generate(), SigningKey.generate()
WITNESS, STRANGER = WitnessKey("witness.example/w", KEY.public), WitnessKey("witness.example/s", OTHER.public)


def opened(path: Path) -> contextlib.closing[Known]:
    return contextlib.closing(Known.open(path))


histories = st.lists(st.binary(min_size=1, max_size=2), min_size=2, max_size=40)


def tree(leaves: list[bytes]) -> merkle.Nodes:
    return merkle.nodes([leaf_hash(each) for each in leaves])


def signed(leaves: list[bytes], size: int, at: int = NOW) -> Signed:
    """As a registry shows it, and a witness has cosigned it."""
    checkpoint = Checkpoint(transparency.origin(AUTHORITY), size, merkle.root_at(tree(leaves), size))
    note = transparency.sign(checkpoint, fixed.REGISTRY, at) + cosigning.sign(checkpoint, WITNESS.name, KEY, at)
    return Signed(checkpoint, at, note)


def whole(node: merkle.Nodes, old: int, new: int) -> tuple[bytes, ...]:
    """A proof with the root of the first leaves in it, also where RFC 6962 leaves it out."""
    proof = merkle.consistency_proof(node, old, new)
    return proof if old & (old - 1) else (merkle.root_at(node, old), *proof)


def accused(one: Signed, other: Signed, proof: tuple[bytes, ...]) -> set[str]:
    """By the home and by the verifier alone; they must agree."""
    kept = lies.lie(one, other, proof, "x", NOW, (WITNESS, STRANGER))
    assert set(kept.witnesses) == {str(WITNESS)}
    audit = verifier.Audit({})
    audit.report.league = LEAGUE
    for each in (WITNESS, STRANGER):
        audit.report.witnesses[str(each)] = verifier.read_witness(str(each))
    line = {"first": kept.first, "second": kept.second, "proof": base64.b64encode(kept.proof).decode(), "seen_at": NOW}
    audit._take(verifier.Checked(9, 9, "registry-fork", b"", "", line))
    alone = {each.name for _, each in audit.report.two_faced}
    assert alone == set(lies.two_faced(kept))
    if kept.first != kept.second and one.checkpoint != other.checkpoint and not audit.report.problems:
        assert ("SIGNED TWO HISTORIES" in audit.report.registry[0][2]) is bool(alone)
    return alone


@settings(max_examples=80, deadline=None)
@given(histories, st.data())
def test_an_honest_history_never_names_anybody(leaves: list[bytes], data: Any) -> None:
    """Two checkpoints of one log, in any order and with any dates, and what a liar may add as a proof."""
    sizes = st.integers(1, len(leaves))
    old, new, some, more = (data.draw(sizes) for _ in range(4))
    another = data.draw(histories)
    noise = st.lists(st.binary(min_size=32, max_size=32), max_size=6).map(tuple)
    others = whole(tree(another), *sorted((min(old, len(another)), min(new, len(another)))))
    true = whole(tree(leaves), *sorted((some, more)))
    parts = st.sampled_from([*true, *others, bytes(32)])
    proof = data.draw(st.one_of(st.just(true), st.just(others), noise, st.lists(parts, max_size=8).map(tuple)))
    later = data.draw(st.integers(-5, 5))
    assert accused(signed(leaves, old), signed(leaves, new, NOW + later), proof) == set()


@settings(max_examples=80, deadline=None)
@given(histories, st.data())
def test_of_two_histories_whoever_cosigned_both_is_named(leaves: list[bytes], data: Any) -> None:
    old = data.draw(st.integers(1, len(leaves) - 1))
    new = data.draw(st.integers(old, len(leaves)))
    at = data.draw(st.integers(0, old - 1))
    rewritten = [*leaves[:at], leaves[at] + b"!", *leaves[at + 1 :]]
    proof = whole(tree(rewritten), old, new) if new > old else ()
    before, after = signed(leaves, old), signed(rewritten, new, NOW + 1)
    assert accused(before, after, proof) == {WITNESS.name}
    assert accused(replace(after, at=NOW), before, proof) == {WITNESS.name}
    assert accused(before, after, proof[:-1]) == ({WITNESS.name} if new == old else set())


@given(st.sampled_from([4, 8, 16, 32]), st.integers(1, 40))
def test_a_proof_from_a_leaf_before_has_the_root_of_a_power_of_two(old: int, more: int) -> None:
    node, new = tree([b"%d" % number for number in range(old + more)]), old + more
    found = merkle.with_first_root(old, merkle.consistency_proof(node, old - 1, new))
    assert found == whole(node, old, new)
    assert merkle.first_root(old, new, merkle.root_at(node, new), found) == merkle.root_at(node, old)


def test_whoever_has_the_larger_log_is_asked_until_one_proves_it(tmp_path: Path) -> None:
    leaves = [b"%d" % number for number in range(20)]
    rewritten = [b"another", *leaves[1:]]
    node = tree(rewritten)

    class Asked:
        """Three addresses: one that is away, one that proves nothing, one that has the log."""

        def __init__(self) -> None:
            self.answers = [None, leaves, rewritten]

        def searching(self) -> Any:
            return contextlib.nullcontext()

        def pass_over(self) -> bool:
            self.answers.pop(0)
            return bool(self.answers)

        def get_checkpoint(self, seen: int, until: int) -> Shown:
            if self.answers[0] is None:
                raise Unreachable("away")
            return Shown("", seen, merkle.consistency_proof(tree(self.answers[0]), seen, until), until)

    for number, old in enumerate((8, 9)):
        for turned, pair in enumerate(permutations((signed(leaves, old), signed(rewritten, 20)))):
            with opened(tmp_path / f"{number}-{turned}.db") as known:
                kept = lies.keep(known, lies.lie(*pair, (), "x", NOW, (WITNESS,)), lambda: Asked())  # type: ignore[arg-type, return-value]
                assert kept.proof == b"".join(whole(node, old, 20))
                assert lies.is_fork(kept)
                assert lies.two_faced(kept) == (WITNESS.name,)
                assert known.registry_lies() == [kept]


def found(
    leaves: list[bytes], old: int, size: int, *, at: int = 0, proof: bool = False, by: bool = True
) -> RegistryLie:
    """Of a log of ``size`` entries that begins otherwise, ``at`` seconds later."""
    rewritten = [b"another", *leaves[1:size]]
    told = whole(tree(rewritten), old, size) if proof else ()
    before, after = signed(leaves, old, NOW + at), signed(rewritten, size, NOW + at + 1)
    return lies.lie(before, after, told, "x", NOW + at, (WITNESS,) if by else ())


def test_what_is_found_is_kept_before_anybody_is_asked(tmp_path: Path) -> None:
    leaves = [b"%d" % number for number in range(20)]
    with opened(tmp_path / "known.db") as known:

        def cut_off() -> League:
            assert [each.proof for each in known.registry_lies()] == [b""]
            raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            lies.keep(known, found(leaves, 8, 20), cut_off)
        proved = lies.keep(known, found(leaves, 8, 20, at=60, proof=True), None)
        assert (lies.is_fork(proved), known.registry_lies()) == (True, [proved])
        assert lies.keep(known, found(leaves, 8, 20, at=90), cut_off) == proved, "nobody need be asked any more"


def test_one_contradiction_that_is_signed_anew_again_and_again_leaves_room_for_others(tmp_path: Path) -> None:
    leaves = [b"%d" % number for number in range(60)]
    with opened(tmp_path / "known.db") as known:
        for at in range(40):
            lies.keep(known, found(leaves, 8, 20, at=5 * at, by=at == 30), None)
        (kept,) = known.registry_lies()
        assert (kept.noticed_at, kept.witnesses) == (NOW, (str(WITNESS),)), "what most witnesses cosigned"
        for size in range(21, 60):
            lies.keep(known, found(leaves, 8, size), None)
        assert len(known.registry_lies()) == limits.FORKS_PER_PEER
        proved = lies.keep(known, found(leaves, 8, 60, proof=True), None)
        assert len(known.registry_lies()) == limits.FORKS_PER_PEER
        assert [each for each in known.registry_lies() if lies.is_fork(each)] == [proved]


def test_whoever_contradicts_itself_again_after_a_person_accepted_it_is_told_again(tmp_path: Path) -> None:
    leaves = [b"%d" % number for number in range(20)]
    with opened(tmp_path / "known.db") as known:
        first = lies.keep(known, found(leaves, 8, 20), None)
        known.accept_registry_log(20, first.second, NOW + 5)
        lies.keep(known, found(leaves, 8, 20, at=1000), None)
        assert [each.accepted_at for each in known.registry_lies()] == [NOW + 5, None]


def test_keys_of_what_was_kept_before_are_none() -> None:
    one, other = signed([b"a", b"b"], 2), signed([b"a", b"c"], 2)
    kept = RegistryLie(one.note, other.note, b"", "x", NOW)
    assert lies.is_fork(kept)
    assert (lies.two_faced(kept), lies.cosigned_both(kept)) == ((), ())
