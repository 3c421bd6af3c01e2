"""The real command against a registry whose log lies: exit code 6, a message that names the lie, evidence kept.

The registry is simulated, since ours refuses to lie, and signs whatever it shows; the command is `hanse`, in a process
of its own.
"""

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hanse import limits, transparency, wire
from hanse.client.client import Client
from hanse.client.storage.known import Known, RegistryLie
from hanse.evidence import checkpoint as notes
from tests.evidence_forging import as_its_own, verified, whats
from tests.processes import Result, run
from tests.simulator import Organization, SimulatedLeague

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("lying-log")]

X = "86.north/x"


@dataclass
class Scene:
    """North has published x and some more; acme's home has seen a proof of x, and north publishes on."""

    league: SimulatedLeague
    north: Organization
    home: Path
    seen: int

    def hanse(self, *arguments: object) -> Result:
        result = run("node.cli", *arguments, "--home", self.home)
        assert "Traceback" not in result.stderr, str(result)
        return result

    def lies(self) -> list[RegistryLie]:
        with closing(Known.open(self.home / "known.db")) as known:
            return known.registry_lies()


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SimulatedLeague() as league:
        north = league.join("86.north")
        for suffix in ("w", "x", "y"):
            north.wrap(suffix, b"content", time_to_live=0)
        acme = league.join("86.acme")
        home = as_its_own(acme.home(tmp_path / "acme"), acme)
        with Client(home) as client:
            proof = client.resolve(X, prove=True).proof
            assert proof is not None
            seen = len(league.leaves)  # the membership too, which is asked for by the way
            assert proof.size <= seen
        north.wrap("z", b"content", time_to_live=0)
        yield Scene(league, north, home, seen)


def test_given_no_lie_then_the_proof_is_told_and_what_was_seen_grows(scene: Scene) -> None:
    result = scene.hanse("resolve", X, "--prove", "--json")
    assert result.code == 0, str(result)
    index = scene.league.leaves.index(transparency.leaf_of(scene.league.records[X]))
    proof = result.json["proof"]
    assert (proof["index"], proof["size"]) == (index, scene.seen + 1)
    told = scene.hanse("resolve", X, "--prove")
    assert f"entry {index + 1} of {scene.seen + 1} in the registry's log" in told.stdout
    assert scene.hanse("resolve", X, "--json").json["proof"] is None
    assert scene.lies() == []


def forked(scene: Scene) -> None:
    """The last entry that acme has seen was another one, for others."""
    scene.league.leaves[scene.seen - 1] = bytes(33)


def forked_at_the_size_that_was_seen(scene: Scene) -> None:
    scene.league.shown_size = scene.seen
    scene.league.leaves[scene.seen - 1] = bytes(33)


def rolled_back(scene: Scene) -> None:
    """Signed later than the larger one: what was signed before it, anybody could have kept."""
    scene.league.shown_size = scene.seen - 1
    scene.league.shown_at = int(time.time()) + 2


def with_a_removed_leaf(scene: Scene) -> None:
    """Others never see w; x is proved by its new place."""
    scene.league.leaves.remove(transparency.leaf_of(scene.league.records["86.north/w"]))


def with_a_removed_leaf_and_a_filler(scene: Scene) -> None:
    with_a_removed_leaf(scene)
    scene.league.leaves += [bytes(33), bytes(33)]


def re_ordered(scene: Scene) -> None:
    scene.league.leaves[:2] = scene.league.leaves[1::-1]


def without_a_proof_that_it_continues(scene: Scene) -> None:
    def lie(answer):
        answer.log.ClearField("consistency")
        answer.log.ClearField("since")
        return answer

    scene.league.lies["resolve"] = lie


def with_a_proof_from_another_size(scene: Scene) -> None:
    def lie(answer):
        answer.log.CopyFrom(scene.league.show(scene.seen - 1))
        return answer

    scene.league.lies["resolve"] = lie


FORKED = "of the larger have the root"
CONTRADICTIONS = [
    (forked, "does not continue the one of", FORKED),
    (forked_at_the_size_that_was_seen, "two different histories of", "signed two different logs of"),
    (rolled_back, "it was rolled back", "it took back entries"),
    (with_a_removed_leaf, "two different histories of", "signed two different logs of"),
    (with_a_removed_leaf_and_a_filler, "altered, removed or re-ordered", FORKED),
    (re_ordered, "does not continue the one of", FORKED),
    (without_a_proof_that_it_continues, "does not prove that its log of", ""),
    (with_a_proof_from_another_size, "does not prove that its log of", ""),
]
"""A lie, what a command calls it, and what somebody who has nothing but the file of evidence; "" if it is no proof."""


@pytest.mark.parametrize(("lie", "named", "proved"), CONTRADICTIONS, ids=[each[0].__name__ for each in CONTRADICTIONS])
def test_a_log_that_contradicts_what_was_seen_is_named_and_both_checkpoints_are_kept(
    scene: Scene, lie: Callable[[Scene], None], named: str, proved: str
) -> None:
    lie(scene)
    for _ in range(2):
        result = scene.hanse("resolve", X, "--prove")
        assert (result.code, result.stdout) == (6, ""), str(result)
        assert named in result.stderr
        assert "the registry's log" in result.stderr or "its log" in result.stderr
        assert "are kept as evidence" in result.stderr
    authority = wire.decode_authority(scene.league.authority)
    kept = scene.lies()
    assert kept
    for each in kept:
        first, second = transparency.verify(each.first, authority), transparency.verify(each.second, authority)
        assert first.checkpoint != second.checkpoint
        assert first.checkpoint.size == scene.seen
        assert named in each.what
    assert scene.hanse("evidence", "export", "-o", scene.home / "file").code == 0
    report, _ = verified(scene.home / "file")
    assert (report.exit_code, whats(report), len(report.registry)) == (0, [], len(kept))
    for _, is_proved, what in report.registry:
        assert is_proved is bool(proved)
        assert (proved or "and did not prove that the second continues the first") in what


def test_when_the_log_is_true_again_then_what_was_seen_before_still_counts(scene: Scene) -> None:
    true = list(scene.league.leaves)
    forked(scene)
    assert scene.hanse("resolve", X, "--prove").code == 6
    scene.league.leaves = true
    assert scene.hanse("resolve", X, "--prove").code == 0
    assert len(scene.lies()) == 1


def test_after_an_old_backup_a_person_can_accept_it_and_what_contradicts_is_kept(scene: Scene) -> None:
    rolled_back(scene)
    refused = scene.hanse("resolve", X, "--prove")
    assert refused.code == 6
    assert "restored from a backup: `hanse accept-registry`" in refused.stderr
    asked = scene.hanse("accept-registry")  # nobody answers
    assert asked.code == 130, str(asked)
    assert f"seen       {scene.seen} entries, root " in asked.stdout
    assert f"shown now  {scene.seen - 1} entries, root " in asked.stdout
    assert scene.hanse("resolve", X, "--prove").code == 6
    authority = wire.decode_authority(scene.league.authority)
    told = transparency.verify(scene.league.show(0).checkpoint, authority).checkpoint
    wrong = scene.hanse("accept-registry", "--yes", "--size", told.size, "--root", "00" * 32)
    assert wrong.code == 6
    assert "nothing was changed" in wrong.stderr
    accepted = scene.hanse("accept-registry", "--yes", "--json", "--size", told.size, "--root", told.root.hex())
    assert accepted.code == 0, str(accepted)
    assert accepted.json["accepted"]
    assert (accepted.json["seen"]["size"], accepted.json["shown"]["size"]) == (scene.seen, scene.seen - 1)
    assert accepted.json["shown"]["root"] == told.root.hex()
    assert scene.hanse("resolve", X, "--prove").code == 0
    assert len(scene.lies()) == 1
    assert scene.lies()[0].accepted_at
    again = scene.hanse("accept-registry", "--yes")
    assert "nothing to accept" in again.stdout


def proof_for_another_leaf(answer):
    answer.resolutions[0].inclusion.CopyFrom(answer.organization_inclusions[0])
    return answer


def proof_at_another_place(answer):
    answer.resolutions[0].inclusion.index += 1
    return answer


def proof_beyond_the_end(answer):
    answer.resolutions[0].inclusion.index = 1 << 40
    return answer


def no_proof(answer):
    answer.resolutions[0].ClearField("inclusion")
    return answer


def no_proof_of_the_owner(answer):
    answer.ClearField("organization_inclusions")
    return answer


def no_owner(answer):
    answer.ClearField("organizations")
    return answer


def no_checkpoint(answer):
    answer.ClearField("log")
    return answer


def a_hash_that_is_none(answer):
    answer.resolutions[0].inclusion.path.append(b"short")
    return answer


def too_many_hashes(answer):
    answer.log.consistency.extend([bytes(32)] * 100)
    return answer


def a_checkpoint_of_anybody(answer):
    answer.log.checkpoint = answer.log.checkpoint.replace("A", "B", 3)
    return answer


def no_date(answer):
    answer.log.checkpoint = answer.log.checkpoint.rpartition("\u2014")[0]
    return answer


LIES = [
    (proof_for_another_leaf, "does not prove that the record of 86.north/x is in its log"),
    (proof_at_another_place, "does not prove that the record of 86.north/x is in its log"),
    (proof_beyond_the_end, "does not prove that the record of 86.north/x is in its log"),
    (no_proof, "gives no proof that 86.north/x and its owner are in its log"),
    (no_proof_of_the_owner, "gives no proof that 86.north/x and its owner are in its log"),
    (no_owner, "gives no proof that 86.north/x and its owner are in its log"),
    (no_checkpoint, "the registry shows no checkpoint of its log, of which"),
    (a_hash_that_is_none, "the registry's answer does not parse"),
    (too_many_hashes, "the registry's answer does not parse"),
    (a_checkpoint_of_anybody, "the registry's log"),
    (no_date, "the registry's log: a checkpoint has no date"),
]


@pytest.mark.parametrize(("lie", "named"), LIES, ids=[each.__name__ for each, _ in LIES])
def test_an_answer_that_proves_nothing_is_refused(scene: Scene, lie: Callable, named: str) -> None:
    scene.league.lies["resolve"] = lie
    result = scene.hanse("resolve", X, "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert named in result.stderr


def test_a_checkpoint_of_another_log_is_refused_although_the_registry_signed_it(scene: Scene) -> None:
    def lie(answer):
        checkpoint, _ = notes.parse(answer.log.checkpoint)
        other = replace(checkpoint, origin=f"86.registry.hanse.internal/log/{'0' * 16}")
        answer.log.checkpoint = transparency.sign(other, scene.league.key, int(time.time()))
        return answer

    scene.league.lies["resolve"] = lie
    result = scene.hanse("resolve", X, "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "the registry's log: a checkpoint of another log" in result.stderr


def test_a_record_that_others_do_not_see_is_refused(scene: Scene) -> None:
    """Its owner signed it, the registry resolves it, and the log does not have it."""
    hidden = scene.north.make("v", [], [], False, time_to_live=0)
    scene.league.records["86.north/v"] = hidden.record_envelope
    assert scene.hanse("resolve", "86.north/v").code == 0
    result = scene.hanse("resolve", "86.north/v", "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "gives no proof that 86.north/v" in result.stderr


def test_an_owner_that_others_do_not_see_is_refused(scene: Scene) -> None:
    """A whole organization that the registry made up, records and all, for this member alone."""
    made_up = scene.league.join("86.east")
    made_up.wrap("x", b"content")
    scene.league.leaves = [
        each for each in scene.league.leaves if each not in {transparency.leaf_of(one) for one in made_up.history}
    ]
    result = scene.hanse("resolve", "86.east/x", "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "gives no proof that 86.east/x and its owner" in result.stderr


@pytest.mark.parametrize(
    ("seconds", "named"),
    [
        (-(limits.CHECKPOINT_AGE + limits.CLOCK_SKEW + 60), "stale checkpoint"),
        (limits.CLOCK_SKEW + 60, "dated in the future"),
    ],
)
def test_a_stale_checkpoint_is_named(scene: Scene, seconds: int, named: str) -> None:
    scene.league.shown_at = int(time.time()) + seconds
    result = scene.hanse("resolve", X, "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert named in result.stderr


def test_a_record_that_was_withheld_after_it_was_seen_is_a_rollback(scene: Scene) -> None:
    del scene.league.records[X]
    result = scene.hanse("resolve", X, "--prove")
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "holds records back" in result.stderr


def test_what_is_not_there_is_not_found_and_not_proved(scene: Scene) -> None:
    result = scene.hanse("resolve", "86.north/none", "--prove")
    assert (result.code, result.stdout) == (3, ""), str(result)
    assert "unlisted, or is held back" in result.stderr


def test_a_log_that_lies_with_the_membership_is_noticed_without_asking_for_proofs(scene: Scene) -> None:
    """A daemon asks for the membership every few seconds, and the checkpoint comes with it."""
    forked(scene)
    with Client(scene.home) as client, pytest.raises(Exception, match="does not continue the one of"):
        client.resolver.membership(max_age=0)
    assert len(scene.lies()) == 1


def test_a_membership_that_others_do_not_see_is_refused(scene: Scene) -> None:
    """It suspends north, for acme alone."""
    with Client(scene.home) as client:
        client.resolver.membership(max_age=0)
        scene.league.leaves_membership = False
        scene.league.membership_version += 1
        scene.league.suspended[scene.north.prefix] = 1
        with pytest.raises(Exception, match="no proof that the membership is in its log"):
            client.resolver.membership(max_age=0)
        scene.league.leaves.append(bytes(33))
        scene.league.lies["membership"] = lambda answer: (answer.inclusion.MergeFrom(scene.league.include(
            scene.league.records[X])), answer)[1]  # fmt: skip
        with pytest.raises(Exception, match="does not prove that the membership is in its log"):
            client.resolver.membership(max_age=0)
        kept = client.resolver._known.membership()
        assert wire.decode_membership_head(kept.head.payload)[0] == 1


def test_a_registry_without_a_log_is_believed_until_it_has_shown_one(tmp_path: Path) -> None:
    with SimulatedLeague() as league:
        league.log = False
        league.join("86.north").wrap("x", b"content", time_to_live=0)
        with Client(league.join("86.acme").home(tmp_path / "acme")) as client:
            client.resolver.membership(max_age=0)
            with pytest.raises(Exception, match="shows no checkpoint of its log"):
                client.resolve(X, prove=True)
            league.log = True
            client.resolver.membership(max_age=0)
            league.log = False
            with pytest.raises(Exception, match="it hides it"):
                client.resolver.membership(max_age=0)
