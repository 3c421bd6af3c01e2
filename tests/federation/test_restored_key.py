"""Real daemons: a registry was restored from a backup that is older than a member's key, and the old key is destroyed.

The member's own records prove the change: each is signed by the key of the one before it. SPEC.md 9.9 and 25.3.
"""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from hanse import wire
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as Registry
from hanse.errors import NotAuthenticated, Unreachable
from hanse.home import Home
from hanse.model.identifier import Prefix
from node.accepting import Accepting, Compared, opened
from registry import app
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("restored_key")]

NORTH, ACME = "86.north", "86.acme"
REMEDY = "`hanse accept-registry`"


@pytest.fixture
def league(tmp_path: Path) -> Iterator[League]:
    with League(tmp_path / "league") as made:
        made.join(NORTH)
        made.join(ACME)
        yield made


def identity(node: Node) -> Identity:
    return Identity.load(Home.open(node.home, MARKER, ""))


def add(node: Node, name: str, text: str = "x\n1\n") -> str:
    source = node.home.parent / f"{name}.csv"
    source.write_text(text)
    node.command("add", source, "--id", name, "--open")
    node.published()
    return f"{node.prefix}/{name}"


def rotated(node: Node) -> Identity:
    """Who the node was before: its old key, of which its home keeps nothing."""
    before = identity(node)
    node.command("rotate-key")
    until(lambda: identity(node).previous_key is None, "the old key to be destroyed")
    return before


def backed_up(league: League) -> dict[str, Any]:
    made: dict[str, Any] = league.registry.command("backup", league.folder / "backups", "--json").json
    return made


def restored(league: League, backup: dict[str, Any]) -> None:
    """Whatever was acknowledged since is lost, and it has gone on otherwise."""
    league.registry.kill()
    shutil.rmtree(league.registry.home)
    league.registry.command("restore", backup["folder"])
    for change in ("suspend", "restore"):
        league.registry.command(change, ACME)
    league.registry.start()


def entries(league: League) -> int:
    with app.opened(league.registry.home) as registry:
        return registry.storage.head().size


def key_at_the_registry(league: League, prefix: str) -> tuple[int, str]:
    """Version and key id of the newest organization record."""
    with app.opened(league.registry.home) as registry:
        newest = registry.storage.organizations(Prefix(prefix), 0)[-1]
    record = wire.decode_organization(wire.decode_envelope(newest.envelope).payload)
    return record.version, str(record.current_key.key_id)


def test_given_a_key_that_was_changed_after_the_backup_when_the_member_accepts_then_it_counts_again_and_the_old_one_not(
    league: League,
) -> None:
    north, acme = league.nodes[NORTH], league.nodes[ACME]
    kept, backup = add(north, "kept"), backed_up(league)
    early = add(north, "early")  # signed by the key that is destroyed
    before = rotated(north)
    late = add(north, "late")
    known = key_at_the_registry(league, NORTH)
    size = entries(league)
    until(lambda: north.json("status")["monitored_of"] == size, "north to see what will be lost")
    assert acme.json("resolve", late, "--prove")["version"] == 1
    restored(league, backup)
    told = ("--size", backup["entries"], "--root", backup["root"])

    # It is told what to do, wherever it looks; and nothing was changed by asking.
    until(lambda: REMEDY in north.json("status")["registry_error"], "north's status to say what to do")
    assert (
        "not signed by the member's current key, as far as the registry knows" in north.json("status")["registry_error"]
    )
    add_more = north.home.parent / "early.csv"
    north.command("add", add_more, "--id", "meanwhile", "--open")
    until(lambda: REMEDY in north.process.stderr, "the daemon's log to say so")
    assert REMEDY in north.command("search", "x", expect=4).stderr
    assert REMEDY in north.command("doctor", expect=None).stdout
    # What it signed in the second of its death may be a mirror's that is behind; it signs anew after a few.
    shown = until(lambda: (asked := north.command("accept-registry", expect=None)).code == 130 and asked, "a question")
    assert f"shown now  {backup['entries'] + 2} entries" in shown.stdout
    assert "It has lost a change of your key" in shown.stdout  # and nobody answers
    wrong = north.command("accept-registry", "--yes", "--size", backup["entries"], "--root", "00" * 32, expect=6)
    assert "nothing was changed" in wrong.stderr
    assert entries(league) == backup["entries"] + 2
    assert key_at_the_registry(league, NORTH)[1] == str(before.signing_key.public.key_id)

    accepted = north.json("accept-registry", "--yes", *told)
    assert (accepted["accepted"], accepted["older_key"], accepted["contradicted"]) == (True, True, [])
    assert accepted["published_again"] >= 2
    assert key_at_the_registry(league, NORTH)[1] == known[1] == str(identity(north).signing_key.public.key_id)
    # The daemon goes on by itself.
    north.published()
    until(lambda: not north.json("status")["registry_error"], "north's daemon to go on")
    assert key_at_the_registry(league, NORTH) == known
    acme.command("accept-registry", "--yes", *told)
    for each in (kept, early, late, f"{NORTH}/meanwhile"):
        assert acme.json("resolve", each, "--prove")["version"] == 1
    acme.command("fetch", late, "-o", league.folder / "fetched")
    with Registry(before) as old, pytest.raises(NotAuthenticated, match="current key"):
        old.get_membership()
    check = league.registry.command("check", "--deep")
    assert check.code == 0
    again = north.json("accept-registry", "--yes", *told)
    assert (again["accepted"], again["older_key"], again["published_again"]) == (False, False, 0)
    assert "Traceback" not in north.process.everything + league.registry.process.everything


def test_given_no_daemon_and_nothing_seen_since_the_backup_when_the_member_accepts_then_its_key_counts_again(
    league: League,
) -> None:
    """The log continues all that this home saw: that its key is not known is the only sign."""
    west = league.join("86.west", serve=False)
    backup = backed_up(league)
    for _ in range(2):
        before = rotated(west)
    known = key_at_the_registry(league, "86.west")
    assert known[0] == 3
    restored(league, backup)
    assert REMEDY in west.command("search", "x", expect=4).stderr
    accepted = west.json("accept-registry", "--yes", "--size", backup["entries"], "--root", backup["root"])
    assert (accepted["accepted"], accepted["older_key"]) == (True, True)
    assert accepted["why"] == "the registry knows 86.west by an older key than this home's"
    assert key_at_the_registry(league, "86.west") == known
    assert west.command("search", "x").code == 0
    with Registry(before) as old, pytest.raises(NotAuthenticated, match="current key"):
        old.get_membership()


def test_given_a_copy_of_a_home_with_its_old_key_when_it_accepts_then_nothing_is_given_to_it(league: League) -> None:
    """No registry was restored: the remedy is no way to come back for a key that was changed."""
    west = league.join("86.west", serve=False)
    rotated(west)
    copy = Node("86.west", league.folder / "copy", league.logs)
    shutil.copytree(west.home, copy.home)
    rotated(west)
    known = key_at_the_registry(league, "86.west")
    refused = copy.command("accept-registry", "--yes", expect=4)
    assert "do not lead from the newest that the registry has" in refused.stderr
    assert key_at_the_registry(league, "86.west") == known


def test_given_a_command_that_was_killed_when_all_but_the_publishing_was_done_then_the_next_one_does_that(
    league: League,
) -> None:
    """There is nothing to accept any more, and much that the registry has not."""
    north = league.nodes[NORTH]
    backup = backed_up(league)
    rotated(north)
    lost = add(north, "lost")
    north.kill()
    restored(league, backup)
    with opened(identity(north)) as accepting:
        # What it signed in the second of its death may be a mirror's that is behind; it signs anew after a few.
        there = until(lambda: _compared(accepting), "the registry to sign what it has now")
        accepting.publish_again = _killed  # type: ignore[method-assign]
        with pytest.raises(KeyboardInterrupt):
            accepting.accept(there)
    again = north.json("accept-registry", "--yes")
    assert (again["accepted"], again["older_key"], again["published_again"]) == (False, False, 1)
    north.start()
    north.published()
    assert north.json("resolve", lost, "--prove")["version"] == 1


def _compared(accepting: Accepting) -> Compared | None:
    with contextlib.suppress(Unreachable):
        return accepting.compare()
    return None


def _killed() -> NoReturn:
    raise KeyboardInterrupt
