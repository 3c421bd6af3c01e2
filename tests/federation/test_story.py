"""The whole of it, with real processes: two organizations share a file and a folder, a third gets nothing.

The tests go on from each other's league, in this order; each says what it needs.
"""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("story")]

NORTH, SOUTH, WEST = "86.north-hospital", "86.south-pharma", "86.west-university"
SCANS = os.urandom(3 * 1024 * 1024 + 17)
TREE = {
    "观测数据.csv": "日期,数值\n2026-03-01,17.2\n".encode(),
    "visits/2026/spring.csv": b"patient,age\n1,44\n" * 1000,
    "visits/2026/autumn.csv": b"patient,age\n2,45\n" * 1000,
    "no-adverse-events.txt": b"",
    "run.sh": b"#!/bin/sh\nexit 0\n",
}


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        for prefix in (NORTH, SOUTH, WEST):
            made.join(prefix)
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture(scope="module")
def south(league: League) -> Node:
    return league.nodes[SOUTH]


@pytest.fixture(scope="module")
def west(league: League) -> Node:
    return league.nodes[WEST]


@pytest.fixture(scope="module")
def data(league: League) -> Path:
    """North's own files."""
    folder = league.folder / "data"
    for name, content in TREE.items():
        path = folder / "trial" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "trial/run.sh").chmod(0o755)
    (folder / "scans.tar").write_bytes(SCANS)
    (folder / "draft.txt").write_bytes(b"not for everybody")
    return folder


@pytest.fixture(scope="module")
def wrapped(north: Node, data: Path) -> Node:
    """North, with its objects published."""
    north.command("add", data / "scans.tar", "--id", "scans", "--title", "Scans", "--allow", SOUTH)
    north.command("add", data / "trial", "--id", "trial-7", "--title", "Trial 7: 临床观测数据集", "--allow", SOUTH)
    north.command("add", data / "draft.txt", "--id", "draft", "--unlisted", "--allow", SOUTH)
    north.published()
    return north


def _tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_joining_shows_the_own_key_and_what_to_do_next(league: League) -> None:
    newcomer = league.join("86.newcomer", serve=False)
    again = newcomer.command("join", league.registry.invite("86.newcomer-two"), expect=7)
    assert "already" in again.stderr
    assert {each["prefix"] for each in league.registry.command("orgs", "--json").lines} >= {NORTH, SOUTH, WEST}


def test_add_says_what_is_public_and_who_may_fetch(north: Node, data: Path) -> None:
    told = north.command("add", data / "draft.txt", "--id", "nobodys").stdout
    assert f"{NORTH}/nobodys" in told
    assert "nobody but you" in told
    assert "Not: file names" in told


def test_the_list_shows_what_is_wrapped(wrapped: Node) -> None:
    entries = {each["id"]: each for each in wrapped.lines("list")}
    assert entries[f"{NORTH}/trial-7"]["elements"] == len(TREE)
    assert entries[f"{NORTH}/scans"]["bytes"] == len(SCANS)
    assert entries[f"{NORTH}/draft"]["unlisted"]
    assert entries[f"{NORTH}/trial-7"]["published"]


def test_south_finds_it_by_a_piece_of_a_chinese_word(wrapped: Node, south: Node) -> None:
    found = south.lines("search", "观测数据")
    assert [each["id"] for each in found] == [f"{NORTH}/trial-7"]
    assert south.lines("search", "测观") == []


def test_south_resolves_it_and_is_told_who_signed(wrapped: Node, south: Node) -> None:
    record = south.json("resolve", f"{NORTH}/trial-7")
    assert record["title"] == "Trial 7: 临床观测数据集"
    assert record["signed_by"]["prefix"] == NORTH
    assert record["signed_by"]["key_id"] in south.command("resolve", f"{NORTH}/trial-7").stdout


def test_south_fetches_a_file_and_a_folder_and_they_verify(wrapped: Node, south: Node, league: League) -> None:
    file, folder = league.folder / "got.tar", league.folder / "got"
    told = south.command("fetch", f"{NORTH}/scans", "-o", file).stdout
    assert "verified against the signature" in told
    assert file.read_bytes() == SCANS
    south.command("fetch", f"{NORTH}/trial-7", "-o", folder)
    assert _tree(folder) == TREE
    assert (folder / "run.sh").stat().st_mode & 0o100
    assert south.json("verify", folder, f"{NORTH}/trial-7")["matches"]
    (folder / "观测数据.csv").write_bytes(b"altered")
    altered = south.command("verify", folder, f"{NORTH}/trial-7", "--json", expect=6).json
    assert altered["differences"] == [{"name": "观测数据.csv", "kind": "different"}]


def test_south_fetches_one_element(wrapped: Node, south: Node, league: League) -> None:
    target = league.folder / "autumn.csv"
    south.command("fetch", f"{NORTH}/trial-7", "--element", "visits/2026/autumn.csv", "-o", target)
    assert target.read_bytes() == TREE["visits/2026/autumn.csv"]


def test_an_unlisted_object_is_there_for_those_allowed_only(
    wrapped: Node, south: Node, west: Node, league: League
) -> None:
    target = league.folder / "draft.txt"
    south.command("fetch", f"{NORTH}/draft", "-o", target)
    assert target.read_bytes() == b"not for everybody"
    hidden = west.command("fetch", f"{NORTH}/draft", "-o", league.folder / "no", expect=3)
    absent = west.command("fetch", f"{NORTH}/dr4ft", "-o", league.folder / "no", expect=3)
    assert hidden.stderr == absent.stderr.replace("dr4ft", "draft")
    assert "draft" not in " ".join(each["id"] for each in west.lines("search", "--owner", NORTH))


def test_a_third_party_is_refused_and_told_whom_to_ask(wrapped: Node, west: Node, league: League) -> None:
    refused = west.command("fetch", f"{NORTH}/trial-7", "-o", league.folder / "no", expect=4)
    assert NORTH in refused.stderr
    assert not (league.folder / "no").exists()
    assert west.command("doctor", f"{NORTH}/trial-7", expect=4).stdout.count("FAIL") == 1


def test_the_owner_sees_every_decision(wrapped: Node, south: Node, west: Node, league: League) -> None:
    south.command("fetch", f"{NORTH}/scans", "-o", league.folder / "again.tar")
    west.command("fetch", f"{NORTH}/scans", "-o", league.folder / "no", expect=4)

    def served() -> bool:
        return any(row["bytes"] >= len(SCANS) for row in wrapped.lines("audit", "--peer", SOUTH, "--object", "scans"))

    until(served, "the bytes to be counted")
    refused = wrapped.lines("audit", "--peer", WEST, "--object", f"{NORTH}/scans")
    assert refused
    assert not any(row["allowed"] or row["bytes"] for row in refused)
    assert wrapped.lines("audit", "--since", "2100-01-01") == []


def test_a_change_is_refused_until_refresh_makes_a_new_version(
    wrapped: Node, south: Node, league: League, data: Path
) -> None:
    identifier = f"{NORTH}/growing"
    (data / "growing.txt").write_bytes(b"first")
    wrapped.command("add", data / "growing.txt", "--id", "growing", "--open")
    (data / "growing.txt").write_bytes(b"second edition")
    drift = wrapped.command("check", expect=7)
    assert "growing" in drift.stdout
    refused = south.command("fetch", identifier, "-o", league.folder / "growing.txt", expect=7)
    assert "changed" in refused.stderr
    refreshed = {each["id"]: each for each in wrapped.lines("refresh", "growing")}
    assert refreshed[identifier]["version"] == 2
    wrapped.published()
    south.command("fetch", identifier, "-o", league.folder / "growing.txt")
    assert (league.folder / "growing.txt").read_bytes() == b"second edition"


def test_a_withdrawn_object_is_gone_for_good(wrapped: Node, south: Node, league: League, data: Path) -> None:
    identifier = f"{NORTH}/passing"
    wrapped.command("add", data / "draft.txt", "--id", "passing", "--open")
    wrapped.published()
    south.command("resolve", identifier)
    wrapped.command("withdraw", "passing", "--reason", "superseded")
    wrapped.published()
    gone = south.command("fetch", identifier, "-o", league.folder / "passing", expect=3)
    assert "withdrawn" in gone.stderr
    assert wrapped.command("add", data / "draft.txt", "--id", "PASSING", expect=7).stderr.startswith("Error: ")


def test_whoever_pinned_the_old_key_follows_to_the_new_one(
    wrapped: Node, south: Node, league: League, data: Path
) -> None:
    before = south.json("resolve", f"{NORTH}/scans")["signed_by"]["key_id"]
    rotated = wrapped.json("rotate-key")
    assert rotated["previous_key_id"] == before
    wrapped.published()
    wrapped.command("add", data / "draft.txt", "--id", "after-rotation", "--open")
    wrapped.published()
    assert south.json("resolve", f"{NORTH}/after-rotation")["signed_by"]["key_id"] == rotated["key_id"]
    south.command("fetch", f"{NORTH}/scans", "-o", league.folder / "after-rotation.tar")
    assert (league.folder / "after-rotation.tar").read_bytes() == SCANS


def test_a_key_that_was_told_otherwise_is_refused(wrapped: Node, league: League) -> None:
    doubter = league.join("86.doubter", serve=False)
    doubter.command("trust", NORTH, "ab" * 16)
    refused = doubter.command("resolve", f"{NORTH}/scans", expect=6)
    assert "impersonating" in refused.stderr


def test_a_suspended_member_is_refused_until_it_is_restored(wrapped: Node, south: Node, league: League) -> None:
    target = league.folder / "suspended.tar"

    def fetched() -> int:
        target.unlink(missing_ok=True)
        return south.command("fetch", f"{NORTH}/scans", "-o", target, expect=None).code

    league.registry.command("suspend", SOUTH, "--reason", "did not pay")
    until(lambda: fetched() == 4, "the suspension to bite")
    assert not target.exists()
    assert "did not pay" in south.command("doctor", expect=4).stdout
    league.registry.command("restore", SOUTH)
    until(lambda: fetched() == 0, "the restoration to bite")
    assert target.read_bytes() == SCANS


def test_when_all_is_well_the_doctor_says_so(wrapped: Node, south: Node) -> None:
    findings = south.lines("doctor", f"{NORTH}/scans")
    assert {each["check"] for each in findings} >= {"home", "keys", "clock", "registry", "standing", "own node"}
    assert not [each for each in findings if each["grade"] == "fail"]


def test_the_cache_answers_while_the_registry_is_down(wrapped: Node, south: Node, league: League, data: Path) -> None:
    south.command("resolve", f"{NORTH}/trial-7")
    league.registry.kill()
    told = wrapped.json("add", data / "draft.txt", "--id", "meanwhile", "--open")
    assert told["id"] == f"{NORTH}/meanwhile"
    assert south.json("resolve", f"{NORTH}/trial-7")["from_cache"]
    assert south.command("doctor", expect=5).stdout.count("FAIL") == 1
    league.registry.restart()
    wrapped.published()
    south.command("resolve", f"{NORTH}/meanwhile")


def test_a_daemon_ends_gracefully_on_sigterm(league: League, wrapped: Node) -> None:
    assert wrapped.process.terminate() == 0
    assert "Traceback" not in wrapped.process.everything
    assert league.registry.process.terminate() == 0
    assert "Traceback" not in league.registry.process.everything
