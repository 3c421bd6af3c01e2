"""The log of a real home: `hanse check` and `hanse status` tell of what was done to it."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.client.identity import MARKER, Identity
from hanse.evidence import peers
from hanse.evidence.checkpoint import Checkpoint, origin, parse, sign
from hanse.evidence.evidence import FILE, Evidence
from hanse.evidence.peers import Shown
from hanse.home import Home
from hanse.merkle import leaf_hash
from tests.evidence import Member, append
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("log")]


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.join("86.north", serve=False)


def evidence_of(node: Node) -> Evidence:
    return Evidence.open(Identity.load(Home.open(node.home, MARKER, "")))


def spoil(node: Node, statement: str) -> None:
    connection = sqlite3.connect(node.home / FILE)
    with connection:
        connection.execute(statement)
    connection.close()


def fetch_and_settle(consumer: Node, id: str, target: Path) -> None:
    """Both have shown each other their logs: with the receipt, for which a fetch waits a few seconds at most."""
    receipt = consumer.json("fetch", id, "-o", target)["receipt"]
    if not receipt["by_both"]:
        until(lambda: _settles(consumer), "the receipt to be settled")


def _settles(consumer: Node) -> bool:
    told = consumer.command("receipts", "--settle", "--json", expect=None)
    return told.code == 0 and all(each["state"] == "both" for each in told.lines)


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
    assert "86.acme has seen 1,000,000 entries. Our log does not have them any more" in shown
    assert "by 86.acme. What it signed of its log now and before do not fit together" in shown


def test_an_owner_restored_from_an_old_backup_is_noticed_by_its_peer_and_by_itself(
    league: League, tmp_path: Path
) -> None:
    owner, consumer = league.join("86.owner"), league.join("86.consumer", serve=False)
    (tmp_path / "data").write_bytes(b"a,b\n")
    owner.command("add", tmp_path / "data", "--id", "data", "--open")
    owner.published()
    backup = tmp_path / "backup"

    def fetch(number: int) -> None:
        owner.published()  # where it listens now
        fetch_and_settle(consumer, "86.owner/data", tmp_path / f"got-{number}")

    fetch(1)
    assert owner.process is not None
    assert owner.process.terminate() == 0
    shutil.copyfile(owner.home / FILE, backup)
    owner.start()
    fetch(2)
    seen = consumer.json("status")
    assert (seen["forks"], seen["log_losses"]) == ([], [])
    assert owner.json("status")["log_losses"] == []
    had = owner.json("status")["log_entries"]

    owner.process.terminate()
    shutil.copyfile(backup, owner.home / FILE)
    owner.start()
    fetch(3)

    (fork,) = consumer.json("status")["forks"]
    assert fork["prefix"] == "86.owner"
    first, second = (parse(fork[each])[0] for each in ("first", "second"))
    assert first.size <= had
    assert second.root != first.root
    assert "FORKED" in consumer.command("status").stdout
    (loss,) = owner.json("status")["log_losses"]
    assert loss == {"prefix": "86.consumer", "seen": first.size}
    assert "86.consumer has seen" in owner.command("status").stdout
    # Its own log is whole, as far as it goes: it takes others to notice.
    assert "The log is as it was signed" in owner.command("check", "--deep").stdout


def test_a_consumer_restored_from_an_old_backup_is_noticed_by_the_owner_and_by_itself(
    league: League, tmp_path: Path
) -> None:
    owner, consumer = league.join("86.giver"), league.join("86.taker", serve=False)
    (tmp_path / "data").write_bytes(b"a,b\n")
    owner.command("add", tmp_path / "data", "--id", "data", "--open")
    owner.published()
    backup = tmp_path / "backup"

    def fetch(number: int) -> None:
        fetch_and_settle(consumer, "86.giver/data", tmp_path / f"got-{number}")

    fetch(1)
    shutil.copyfile(consumer.home / FILE, backup)
    fetch(2)
    fetch(3)
    assert consumer.json("status")["log_losses"] == []

    shutil.copyfile(backup, consumer.home / FILE)
    for number in range(4, 8):  # the owner has seen more than the first of these can prove, and says so
        fetch(number)

    (loss,) = consumer.json("status")["log_losses"]
    assert loss["prefix"] == "86.giver"
    assert "LOST" in consumer.command("status").stdout
    (fork, *_) = owner.json("status")["forks"]
    assert fork["prefix"] == "86.taker"
    first, second = (parse(fork[each])[0] for each in ("first", "second"))
    assert first.size == loss["seen"] <= second.size
    assert first.root != second.root
    assert owner.json("status")["log_losses"] == []
    assert "log.forked" in owner.process.everything
