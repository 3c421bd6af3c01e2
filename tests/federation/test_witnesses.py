"""A real league with witnesses: the registry gathers, clients require, and a lie is found."""

import base64
import json
import re
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from hanse import cosigning, merkle, transparency
from hanse.client import witnesses
from hanse.client.identity import Identity
from hanse.client.storage.known import Known
from hanse.cosigning import Policy, Request, WitnessKey
from hanse.evidence import checkpoint as notes
from hanse.home import Home
from hanse.signing import SigningKey
from node.witness import Witness
from tests.evidence_forging import as_its_own, verified, whats
from tests.processes import League, Node, Result, free_port, run, until
from tests.simulator import SimulatedLeague

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("witnesses")]


@dataclass
class Scene:
    """A registry with two witnesses, and a member that requires both."""

    league: League
    witnesses: list[Node]
    north: Node
    source: Path

    def names(self) -> list[str]:
        return [f"{each.prefix}.witness.hanse.internal" for each in self.witnesses]

    def publish(self, suffix: str) -> str:
        self.source.write_text(suffix)
        self.north.command("add", self.source, "--id", suffix, "--open")
        self.north.published()
        return f"{self.north.prefix}/{suffix}"


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("league")
    with League(folder) as league:
        nodes, lines = [], []
        for prefix in ("86.first", "86.second"):
            node = league.join(prefix, serve=False)
            address = f"127.0.0.1:{free_port()}"
            node.process._argv = (*node.process._argv, "--witness", address)
            node.start()
            assert f"witness at http://{address}\n" in node.process.stdout
            told = node.json("status")["witness"]
            assert (told["size"], told["at"]) == (0, None)
            nodes.append(node)
            lines.append(f"{told['key']} http://{address}")
        with (league.registry.home / "registry.toml").open("a") as file:
            file.write(f"witnesses = {lines}\n")
        league.registry.restart()
        north = league.join("86.north", serve=False)
        for each in lines:
            north.command("witness", "add", each.split()[0])
        north.command("witness", "require", 2)
        north.start()
        source = folder / "source.txt"
        made = Scene(league, nodes, north, source)
        made.publish("first")
        yield made


def test_the_witnesses_cosign_and_the_client_that_requires_them_resolves(scene: Scene) -> None:
    told = scene.north.json("witness", "list")
    assert (told["require"], [each["name"] for each in told["witnesses"]]) == (2, scene.names())
    identifier = scene.publish("cosigned")
    proof = scene.north.json("resolve", identifier, "--prove")["proof"]
    for each in scene.witnesses:
        cosigned = each.json("status")["witness"]
        assert cosigned["size"] >= proof["size"]
    # When the log has just grown, its newest checkpoint is younger than any witness's answer to it.
    until(lambda: scene.north.json("status")["registry_error"] == "", "what it is told last to be cosigned too")


def test_while_one_is_away_it_is_named_and_when_it_is_back_all_heals(scene: Scene) -> None:
    scene.witnesses[1].kill()
    identifier = scene.publish("meanwhile")
    refused = scene.north.command("resolve", identifier, "--prove", expect=5)
    assert scene.names()[1] in refused.stderr
    assert scene.names()[0] not in refused.stderr
    assert "have not cosigned the registry's log" in refused.stderr
    # What is not asked to be proved goes on.
    scene.north.command("resolve", identifier)
    scene.witnesses[1].start()
    until(lambda: scene.north.command("resolve", identifier, "--prove", expect=None).code == 0, "it to heal")
    log = scene.league.registry.process.stderr
    assert len(re.findall(r'"witness.away"', log)) == 1
    assert len(re.findall(r'"witness.back"', log)) == 1


def test_status_of_the_registry_asks_each(scene: Scene) -> None:
    for each in (*scene.witnesses, scene.north):
        each.published()  # where it is since its last start: the log grows no more
    told = scene.league.registry.command("status", "--json").json["witnesses"]
    assert [(each["name"], each["problem"]) for each in told] == [(name, "") for name in scene.names()]
    scene.witnesses[0].kill()
    lines = scene.league.registry.command("status").stdout
    assert "does not answer" in lines
    assert f"{scene.names()[1]} has cosigned {told[1]['size']:,} entries" in lines
    scene.witnesses[0].start()


X = "86.north/x"


class Liar:
    """A registry that shows each caller what it likes, and asks the witnesses to cosign it."""

    def __init__(self, league: SimulatedLeague, *witnesses: Witness) -> None:
        self.league, self.witnesses = league, witnesses
        self.bought: dict[str, SigningKey] = {}  # witnesses that sign whatever it shows
        for call in ("resolve", "membership", "checkpoint"):
            league.lies[call] = self.cosigned

    def cosigned(self, answer: Any) -> Any:
        note = answer.log.checkpoint
        checkpoint, _ = notes.parse(note)
        for each in self.witnesses:
            before = each.told().size
            hashes = [merkle.leaf_hash(leaf) for leaf in self.league.leaves[: checkpoint.size]]
            proof = ()
            if 0 < before < checkpoint.size:
                proof = merkle.consistency_proof(merkle.nodes(hashes), before, checkpoint.size)
            told = each.add(Request(before, proof, note).encode())
            answer.log.checkpoint += told.body.decode() if told.status == 200 else ""
        for name, key in self.bought.items():
            answer.log.checkpoint += cosigning.sign(checkpoint, name, key, int(time.time()))
        return answer

    def home(self, prefix: str, folder: Path, policy: Policy) -> Path:
        member = self.league.join(prefix)
        home = as_its_own(member.home(folder), member)
        witnesses.save(home / witnesses.FILE, policy)
        return home


@pytest.fixture
def liar(tmp_path: Path) -> Iterator[Liar]:
    with SimulatedLeague() as league:
        north = league.join("86.north")
        for suffix in ("w", "x", "y"):
            north.wrap(suffix, b"content", time_to_live=0)
        homes = [Home(league.join(f"86.{name}").home(tmp_path / name)) for name in ("first", "second")]
        yield Liar(league, *(Witness.open(home, Identity.load(home)) for home in homes))


def resolve(home: Path) -> Result:
    result = run("node.cli", "resolve", X, "--prove", "--home", home)
    assert "Traceback" not in result.stderr, str(result)
    return result


def test_a_fork_shown_to_a_newcomer_is_not_cosigned_and_so_not_believed(liar: Liar, tmp_path: Path) -> None:
    policy = Policy(2, tuple(each.key for each in liar.witnesses))
    acme, east = (liar.home(f"86.{name}", tmp_path / name, policy) for name in ("acme", "east"))
    assert resolve(acme).code == 0
    # The newcomer is shown another history, true in itself: an entry that everybody else has seen is not in it.
    liar.league.leaves.remove(transparency.leaf_of(liar.league.records["86.north/w"]))
    liar.league.leaves.append(bytes(33))
    refused = resolve(east)
    assert (refused.code, refused.stdout) == (5, ""), str(refused)
    assert all(each.key.name in refused.stderr for each in liar.witnesses)
    assert "they refuse because the registry shows them another log" in refused.stderr
    with closing(Known.open(east / "known.db")) as known:
        assert known.registry_log() is None
    assert run("node.cli", "witness", "require", "0", "--home", east).code == 0
    assert resolve(east).code == 0  # who requires nobody is shown what the registry likes


def in_one_size(league: SimulatedLeague) -> None:
    league.leaves[-1], league.leaves_membership = bytes(33), False


def in_a_larger_one(league: SimulatedLeague) -> None:
    league.leaves[0] = bytes(33)
    league.leaves += [b"%033d" % number for number in range(5)]


def in_a_smaller_one(league: SimulatedLeague) -> None:
    """Of the larger log nobody gives a proof any more, but for a mirror, if there is one: here the registry itself."""
    seen = list(league.leaves)

    def shown_to_who_asks_on(answer: Any) -> Any:
        league.leaves[:], league.shown_size, mine = seen, None, list(league.leaves)
        answer.log.CopyFrom(league.show(len(seen) - 2, len(seen)))
        league.leaves[:], league.shown_size = mine, len(mine) - 1
        return answer

    league.lies["checkpoint"] = shown_to_who_asks_on
    league.leaves[0] = bytes(33)
    league.shown_size, league.shown_at = len(seen) - 2, int(time.time()) + 2


@pytest.mark.parametrize("forked", [in_one_size, in_a_larger_one, in_a_smaller_one])
def test_a_witness_that_signs_two_histories_is_named_by_all_and_for_good(
    liar: Liar, tmp_path: Path, forked: Callable[[SimulatedLeague], None]
) -> None:
    bought = SigningKey.generate()
    false = WitnessKey("witness.example/bought", bought.public)
    policy = Policy(1, (false, liar.witnesses[0].key))
    acme = liar.home("86.acme", tmp_path / "acme", policy)
    liar.bought[false.name] = bought
    assert resolve(acme).code == 0
    forked(liar.league)
    refused = resolve(acme)
    assert (refused.code, refused.stdout) == (6, ""), str(refused)
    assert f"SIGNED TWO HISTORIES, and is no witness any more: {false.name}" in refused.stderr
    assert liar.witnesses[0].key.name not in refused.stderr

    # Whoever reads that removes it: what it did stays.
    witnesses.save(acme / witnesses.FILE, Policy(0, (liar.witnesses[0].key,)))
    told = run("node.cli", "status", "--json", "--home", acme).json["registry_lies"][0]
    assert (told["forked"], told["two_faced"], told["witnesses"]) == (True, [false.name], [str(false)])
    assert run("node.cli", "evidence", "export", "-o", tmp_path / "file", "--home", acme).code == 0
    report, _ = verified(tmp_path / "file")
    assert (report.exit_code, whats(report)) == (0, [])
    assert report.registry
    assert all(proved for _, proved, _ in report.registry)
    assert {str(each) for _, each in report.two_faced} == {str(false)}


def test_the_verifier_says_whose_key_it_relies_on(liar: Liar, tmp_path: Path) -> None:
    bought, file = SigningKey.generate(), tmp_path / "file"
    false = WitnessKey("witness.example/bought", bought.public)
    acme = liar.home("86.acme", tmp_path / "acme", Policy(0, (false,)))
    liar.bought[false.name] = bought
    assert resolve(acme).code == 0
    in_a_larger_one(liar.league)
    assert resolve(acme).code == 6
    assert f"is no witness any more: {false.name}." in run("node.cli", "status", "--home", acme).stdout
    assert run("node.cli", "evidence", "export", "-o", file, "--home", acme).code == 0
    alone = run("hanse.verifier", file)
    assert alone.code == 0, str(alone)
    assert f"SIGNED TWO HISTORIES as a witness: {false.name} (if its key is {false})" in alone.stdout
    confirmed = run("hanse.verifier", file, "--json", "--witness", false)
    told = json.loads(confirmed.stdout.splitlines()[-1])["two_faced"]
    assert (confirmed.code, {(each["witness"], each["confirmed"]) for each in told}) == (0, {(str(false), True)})
    another = WitnessKey(false.name, SigningKey.generate().public)
    doubted = run("node.cli", "evidence", "verify", file, "--witness", another)
    assert (doubted.code, "has another key in this file than you were told" in doubted.stdout) == (6, True)


def test_a_forged_cosignature_is_a_failed_verification(liar: Liar, tmp_path: Path) -> None:
    stranger = SigningKey.generate()
    acme = liar.home("86.acme", tmp_path / "acme", Policy(1, (liar.witnesses[0].key,)))
    key = liar.witnesses[0].key

    def forged(answer: Any) -> Any:
        checkpoint, _ = notes.parse(answer.log.checkpoint)
        line = cosigning.sign(checkpoint, key.name, stranger, int(time.time()))
        blob = base64.b64decode(line.split()[2])
        answer.log.checkpoint += f"\u2014 {key.name} {base64.b64encode(key.key_hash + blob[4:]).decode()}\n"
        return answer

    liar.league.lies["resolve"] = forged
    refused = resolve(acme)
    assert (refused.code, refused.stdout) == (6, ""), str(refused)
    assert f"has a signature that is not of {key.name}" in refused.stderr
