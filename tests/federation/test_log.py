"""The log of a real home: `hanse check` and `hanse status` tell of what was done to it."""

import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.client.identity import MARKER, Identity
from hanse.evidence import peers
from hanse.evidence.checkpoint import Checkpoint, origin, sign
from hanse.evidence.evidence import FILE, Evidence
from hanse.evidence.peers import Shown
from hanse.home import Home
from hanse.merkle import leaf_hash
from tests.evidence import Member, append
from tests.processes import League, Node

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("log")]


@pytest.fixture(scope="module")
def north(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Node]:
    with League(tmp_path_factory.mktemp("league")) as league:
        yield league.join("86.north", serve=False)


def evidence_of(node: Node) -> Evidence:
    return Evidence.open(Identity.load(Home.open(node.home, MARKER, "")))


def spoil(node: Node, statement: str) -> None:
    connection = sqlite3.connect(node.home / FILE)
    with connection:
        connection.execute(statement)
    connection.close()


def test_the_log_is_checked_and_its_first_bad_entry_named(north: Node) -> None:
    assert north.command("check").stdout == "Everything is as promised.\n"
    with evidence_of(north) as evidence:
        append(evidence, b"one", b"two", b"three")
    assert north.json("status")["log_entries"] == 3
    assert "The log is as it was signed: 3 entries." in north.command("check", "--deep").stdout
    assert north.lines("check") == []

    north.command("rotate-key")
    north.command("rotate-key")
    assert "as it was signed: 3 entries" in north.command("check", "--deep").stdout

    spoil(north, "UPDATE leaf SET payload = x'00' WHERE position = 1")
    assert "as it was signed" in north.command("check").stdout
    found = north.command("check", "--deep", expect=6).stdout
    assert "The log is damaged. Entry 1 of the log: its payload is not the one that was logged. Restore" in found
    (told,) = north.command("check", "--deep", "--json", expect=6).lines
    assert (told["log_entry"], told["what"]) == (1, "its payload is not the one that was logged")

    spoil(north, "UPDATE leaf SET hash = zeroblob(32) WHERE position = 0")
    assert "Entry 0 of the log" in north.command("check", expect=6).stdout


def test_status_tells_of_forked_peers_and_of_what_our_own_log_lost(north: Node, tmp_path: Path) -> None:
    told = north.json("status")
    assert (told["forks"], told["log_losses"]) == ([], [])
    assert "FORKED" not in (shown := north.command("status").stdout)
    assert "LOST" not in shown

    acme = Member.of(tmp_path, "86.acme")
    with evidence_of(north) as evidence:
        notes = [sign(Checkpoint(origin(acme.prefix), 5, leaf_hash(each)), acme.signing_key) for each in (b"a", b"b")]
        peers.accept(evidence, acme.prefix, acme.record, Shown(notes[0], (), 0, 1_000_000))
        with pytest.raises(peers.BrokenChain):
            peers.accept(evidence, acme.prefix, acme.record, Shown(notes[1], (), 0, 1_000_000))

    told = north.json("status")
    assert [(each["prefix"], each["first"], each["second"]) for each in told["forks"]] == [("86.acme", *notes)]
    assert told["log_losses"] == [{"prefix": "86.acme", "seen": 1_000_000}]
    shown = north.command("status").stdout
    assert "86.acme has seen 1,000,000 entries. Our log had fewer then" in shown
    assert "by 86.acme. It signed two histories of its log" in shown
