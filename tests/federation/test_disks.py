"""A full disk, on either side: said with what to do, nothing lost, nothing half-written; with room again it goes on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.client.partial import partial_path
from tests.breaking import CHUNK, MIB, Disk, Slowed, equal_files, journaled, small_disk, write_content
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("disks")]

NORTH, SOUTH, WEST = "86.north", "86.south", "86.west"
SIZE = 160 * MIB


@pytest.fixture(scope="module")
def disks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Disk]]:
    """One for the registry's home, one for a node's, one to fetch to."""
    folder = tmp_path_factory.mktemp("league")
    with (
        small_disk(folder / "registry", 16 * MIB) as registry,
        small_disk(folder / WEST, 16 * MIB) as home,
        small_disk(folder / "target", 256 * MIB) as target,
    ):
        yield {"registry": registry, "home": home, "target": target}


@pytest.fixture(scope="module")
def league(disks: dict[str, Disk]) -> Iterator[League]:
    with League(disks["registry"].folder.parent) as made:
        made.join(NORTH)
        made.join(SOUTH, serve=False)
        west = made.join(WEST)
        (made.folder / "before").write_bytes(b"a,b\n")
        west.command("add", made.folder / "before", "--id", "before", "--open")
        west.published()
        yield made


@pytest.fixture(scope="module")
def file(league: League) -> Path:
    """North's, wrapped as 'file'."""
    path = write_content(league.folder / "data/file", SIZE)
    league.nodes[NORTH].command("add", path, "--id", "file", "--open")
    league.nodes[NORTH].published()
    return path


@pytest.fixture(scope="module")
def south(league: League) -> Node:
    return league.nodes[SOUTH]


def test_a_fetch_that_has_no_room_is_refused_with_numbers_before_it_begins(
    south: Node, file: Path, disks: dict[str, Disk]
) -> None:
    disk, target = disks["target"], disks["target"].folder / "early"
    disk.fill(leave=100 * MIB)
    refused = south.command("fetch", f"{NORTH}/file", "-o", target, expect=1)
    assert "needs 169 MB" in refused.stderr
    assert "has 105 MB free" in refused.stderr
    assert "free some" in refused.stderr
    assert not target.exists()
    disk.free()
    south.command("fetch", f"{NORTH}/file", "-o", target)
    assert equal_files(target, file)
    target.unlink()


def test_a_disk_that_fills_up_during_a_fetch_costs_nothing_that_was_verified(
    south: Node, file: Path, disks: dict[str, Disk]
) -> None:
    disk, target = disks["target"], disks["target"].folder / "late"
    fetching = south.begin("filling", "fetch", f"{NORTH}/file", "-o", target)
    with Slowed(fetching, lambda: journaled(target)[0], 10):  # else it may be done before the disk is full
        until(lambda: journaled(target)[0] >= 10 or not fetching.running, "some chunks to arrive")
        disk.fill()
    assert fetching.wait() == 1, fetching.everything
    assert "no space left on the disk of" in fetching.stderr
    assert "free some, then run it again" in fetching.stderr
    assert "Traceback" not in fetching.stderr
    assert not target.exists()
    there = journaled(target)[0]
    assert there >= 10
    assert south.command("fetch", f"{NORTH}/file", "-o", target, expect=1).stderr.count("MB") == 2
    assert not target.exists()
    disk.free()
    result = south.json("fetch", f"{NORTH}/file", "-o", target)
    assert result["resumed"] == there * CHUNK
    assert equal_files(target, file)
    assert not partial_path(target).exists()
    target.unlink()


def test_a_node_whose_disk_is_full_says_so_and_loses_nothing(
    league: League, south: Node, file: Path, disks: dict[str, Disk], tmp_path: Path
) -> None:
    west, disk = league.nodes[WEST], disks["home"]
    many = tmp_path / "many"
    many.mkdir()
    for number in range(3000):  # its description does not fit into the write-ahead log that is there already
        (many / f"{'n' * 200}{number}").write_bytes(b"x")
    disk.fill()
    refused = west.command("add", many, "--id", "many", "--open", expect=1)
    assert "no space left on the disk" in refused.stderr
    assert "free some, then run it again" in refused.stderr
    assert [each["id"] for each in west.lines("list")] == [f"{WEST}/before"]
    assert west.process.running
    # What it cannot write down it does not serve, and its peer is told no more than that.
    waiting = south.begin("patient", "fetch", f"{WEST}/before", "-o", tmp_path / "got")
    until(lambda: "call.failed" in west.process.everything or not waiting.running, "the node to be asked")
    disk.free()
    assert waiting.wait() == 0, waiting.everything
    assert (tmp_path / "got").read_bytes() == b"a,b\n"
    assert west.json("add", many, "--id", "many", "--open")["elements"] == 3000
    west.published()
    assert {each["id"] for each in west.lines("list")} == {f"{WEST}/before", f"{WEST}/many"}
    assert west.command("check").code == 0
    assert "Traceback" not in west.process.everything


def test_a_node_that_starts_on_a_full_disk_says_so(league: League, disks: dict[str, Disk]) -> None:
    west, disk = league.nodes[WEST], disks["home"]
    west.kill()
    disk.fill()
    west.process.start(wait=False)
    until(lambda: not west.process.running or "listening on" in west.process.stdout, "the node to start or to give up")
    if west.process.running:  # what it needed was there already
        assert west.process.terminate() == 0
    else:
        assert west.process.code == 1
        assert "no space left on the disk" in west.process.stderr
    assert "Traceback" not in west.process.stderr
    disk.free()
    west.start()
    assert {each["id"] for each in west.lines("list")} >= {f"{WEST}/before"}


def test_a_registry_whose_disk_is_full_answers_and_stores_later(
    league: League, south: Node, file: Path, disks: dict[str, Disk], tmp_path: Path
) -> None:
    north, disk = league.nodes[NORTH], disks["registry"]
    (tmp_path / "small").write_bytes(b"a,b\n")
    north.command("add", tmp_path / "small", "--id", "unread", "--open")
    north.published()
    description = "what a registry keeps, and what it indexes " * 1000
    disk.fill()
    ids = [f"{NORTH}/late-{number}" for number in range(3)]
    for id in ids:
        north.command(
            "add", tmp_path / "small", "--id", id.partition("/")[2], "--open", "--description", description
        )  # fmt: skip
    said = until(
        lambda: "cannot store at present" in (error := north.json("status")["last_error"]) and error,
        "the registry to say that it cannot",
    )
    assert "no space left" in said
    assert str(league.folder) not in said
    assert not north.json("status")["refused"]
    assert not south.json("resolve", f"{NORTH}/unread")["from_cache"]
    assert {each["id"] for each in south.lines("search", "--owner", WEST)} >= {f"{WEST}/before"}
    assert league.registry.process.running
    disk.free()
    north.published()
    for id in ids:
        assert south.json("resolve", id)["version"] == 1
    assert league.registry.command("check").code == 0
    assert "Traceback" not in league.registry.process.everything


def test_the_registry_starts_on_a_full_disk_or_says_why_not(league: League, disks: dict[str, Disk]) -> None:
    disk, process = disks["registry"], league.registry.process
    process.kill()
    disk.fill()
    process.start(wait=False)
    until(lambda: not process.running or "listening on" in process.stdout, "the registry to start or to give up")
    if process.running:
        assert process.terminate() == 0
    else:
        assert process.code == 1
        assert "no space left" in process.stderr
    assert "Traceback" not in process.stderr
    disk.free()
    process.start()
    assert {each["prefix"] for each in league.registry.command("orgs", "--json").lines} == {NORTH, SOUTH, WEST}
