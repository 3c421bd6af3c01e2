"""Receipts between real nodes: what both sides hold, what is counted, and what is left after kills at random instants.

Each test with kills prints the seed of its instants; HANSE_SEED repeats them.
"""

import contextlib
import json
import secrets
import sqlite3
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import limits, wire
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from tests.breaking import CHUNK, MIB, Program, Slowed, chance, journaled, write_content
from tests.processes import League, Node, free_port, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("receipts"), pytest.mark.timeout(300)]

NORTH, SOUTH = "86.north", "86.south"
PURPOSE = "academic-research"
SMALL = 10_240
KILLS = 6

MANY = """
import json, sys, threading
from hanse import Client
from hanse.errors import HanseError

home, identifier, purpose, count = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4])
ends = []
ready = threading.Barrier(count)

def fetch():
    ready.wait()
    try:
        with client.open(identifier, purpose=purpose) as file:
            ends.append(len(file.read()))
    except HanseError as error:
        ends.append(f"{type(error).__name__}: {error}")

with Client(home) as client:
    workers = [threading.Thread(target=fetch) for _ in range(count)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
print(json.dumps(ends), flush=True)
"""
"""Opens an object so many times, and then reads all at once; prints how each ended."""

AGAIN = """
import json, sys, threading
from pathlib import Path
from hanse import Client
from hanse.errors import HanseError

home, identifier, purpose, folder = sys.argv[1:]

def fetch(which):
    number = 0
    while True:
        number += 1
        path = Path(folder) / f"{which}-{number}"
        if path.exists():
            continue
        try:
            fetched = client.fetch(identifier, path, purpose=purpose, patience=30)
        except HanseError as error:
            print(json.dumps({"error": str(error)}), flush=True)
            continue
        print(json.dumps({"path": path.name, "by_both": fetched.receipt.by_both}), flush=True)

with Client(home) as client:
    workers = [threading.Thread(target=fetch, args=(which,)) for which in range(3)]
    for each in workers:
        each.start()
    for each in workers:
        each.join()
"""
"""Fetches an object to one file after the other, three at once, for ever."""

READ = """
import sys, time
from pathlib import Path
from hanse import Client

with Client(sys.argv[1], receipts=sys.argv[3] == "receipts") as client:
    with client.open(sys.argv[2]) as file:
        file.read()
        print("read", flush=True)
        while sys.argv[4:] and not Path(sys.argv[4]).exists():
            time.sleep(0.02)
"""
"""Reads an object, and closes it; if a path is named, when there is something."""


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        north = made.join(NORTH, serve=False)
        settings(north, f'listen = "127.0.0.1:{free_port()}"\ncalls_per_peer = 100000\n')
        north.start()
        made.join(SOUTH, serve=False)
        yield made


@pytest.fixture
def north(league: League) -> Iterator[Node]:
    yield league.nodes[NORTH]
    if not league.nodes[NORTH].process.running:
        league.nodes[NORTH].start()


@pytest.fixture
def south(league: League) -> Iterator[Node]:
    yield league.nodes[SOUTH]
    league.nodes[SOUTH].kill()


def settings(node: Node, text: str) -> None:
    with (node.home / "node.toml").open("a") as file:
        file.write(text)


def wrap(north: Node, folder: Path, size: int, *terms: str) -> str:
    """A new object, open or under ``terms``."""
    path = write_content(folder / "wrapped.bin", size)
    more = () if terms else ("--open",)
    id = str(north.json("add", path, "--id", f"object-{secrets.token_hex(4)}", *more)["id"])
    if terms:
        north.command("terms", id, *terms)
    north.published()
    return id


def granted(north: Node, south: Node, folder: Path, size: int, *limit: str) -> str:
    """A new object that south may fetch under a grant that it holds."""
    id = wrap(north, folder, size, "--allow", SOUTH, "--purpose", PURPOSE, *limit)
    assert south.json("request", id, "--purpose", PURPOSE)["state"] == "granted"
    return id


def rows(node: Node, id: str) -> dict[bytes, Row]:
    """As the database has them now, whoever writes it."""
    with contextlib.closing(sqlite3.connect(node.home / "evidence.db", timeout=60)) as connection:
        return {row.id: row for row in table.query(connection, object_key=id)}


def used(north: Node, id: str) -> tuple[int, int]:
    """(fetches, bytes) counted on the one grant for the object."""
    with contextlib.closing(sqlite3.connect(north.home / "evidence.db", timeout=60)) as connection:
        found = connection.execute(
            "SELECT fetches, bytes FROM grant_ JOIN grant_object USING (digest) WHERE object = ?", (id,)
        ).fetchall()
    assert len(found) == 1
    return found[0]


def receipts(node: Node, id: str) -> list[Any]:
    return node.lines("receipts", "--object", id)


def equal_receipts(north: Node, south: Node, id: str) -> int:
    """That all that south has is signed by both and the same at north. How many there are."""
    ours, theirs = rows(south, id), rows(north, id)
    for each in ours.values():
        assert each.state is State.SETTLED, f"{each.id.hex()} is {each.state}"
        assert each.receipt is not None
        assert each.receipt == theirs[each.id].receipt
        assert len(wire.decode_envelope(each.receipt).signatures) == 2
    return len(ours)


def month() -> str:
    """This one (UTC), which does not end while something is fetched, signed and told of."""
    until(lambda: len({time.gmtime(time.time() + ahead).tm_mon for ahead in (0, 75)}) == 1, "the next month")
    return time.strftime("%Y-%m", time.gmtime())


def arrived(target: Path) -> int:
    """Bytes that a fetch to ``target`` has verified and written."""
    return journaled(target)[0] * CHUNK


# What both sides hold, and what a statement says of it.


def test_both_hold_the_same_receipt_and_a_range_fetched_twice_counts_once(
    north: Node, south: Node, tmp_path: Path
) -> None:
    id, period = granted(north, south, tmp_path, 3 * MIB), month()
    first = south.json("fetch", id, "-o", tmp_path / "first")
    assert first["receipt"] == {"by_both": True, "reason": ""}
    assert "Both signed the receipt" in south.command("fetch", id, "-o", tmp_path / "second").stdout
    mine, theirs = receipts(south, id), receipts(north, id)
    assert len(mine) == len(theirs) == 2
    assert {each["receipt"] for each in mine} == {each["receipt"] for each in theirs}
    assert {each["direction"] for each in mine} == {"fetched"}
    assert {each["direction"] for each in theirs} == {"served"}
    for each in (*mine, *theirs):
        assert (each["state"], len(set(each["signed_by"])), each["bytes"]) == ("both", 2, 3 * MIB)
        assert each["purposes"] == [PURPOSE]
    assert equal_receipts(north, south, id) == 2
    for node, direction, peer in ((north, "served", SOUTH), (south, "fetched", NORTH)):
        told = [each for each in node.lines("statement", "--period", period) if each["object"] == id]
        assert told == [
            {
                "direction": direction,
                "peer": peer,
                "object": id,
                "deliveries": 2,
                "proved_deliveries": 2,
                "proved_bytes": 3 * MIB,
                "our_word_bytes": 0,
                "purposes": [PURPOSE],
                "exact": True,
            }
        ]
        csv = node.command("statement", "--period", period, "--csv", "--peer", peer).stdout.splitlines()
        assert csv[0] == "direction,peer,object,deliveries,proved_deliveries,proved_bytes,our_word_bytes,purposes,exact"
        assert f"{direction},{peer},{id},2,2,{3 * MIB},0,{PURPOSE},true" in csv
    until(lambda: used(north, id) == (2, 6 * MIB), "the counters")


# Limits.


def test_fifty_fetches_at_once_of_a_grant_for_twenty(league: League, north: Node, south: Node, tmp_path: Path) -> None:
    id = granted(north, south, tmp_path, SMALL, "--max-fetches", "20")
    programs = [Program(f"many-{n}", league.logs, MANY, south.home, id, PURPOSE, 10) for n in range(5)]
    for each in programs:
        each.start(wait=False)
    ends = []
    for each in programs:
        assert each.wait(120) == 0, each.everything
        ends += json.loads(each.stdout)
    assert len(ends) == 50
    assert ends.count(SMALL) == 20
    refused = [str(end) for end in ends if end != SMALL]
    # Whoever comes when the others have used it up asks for another grant.
    assert [
        end for end in refused if "allows 20 fetches" not in end and "waits for 86.north to decide" not in end
    ] == []
    until(lambda: not any(row.reserved for row in rows(north, id).values()), "the streams to end")
    assert used(north, id) == (20, 20 * SMALL)
    assert sum(row.size for row in rows(north, id).values()) == 20 * SMALL
    assert south.command("fetch", id, "-o", tmp_path / "out", expect=None).code == 4


def test_a_limit_of_bytes_is_not_passed_by_streams_at_once(north: Node, south: Node, tmp_path: Path) -> None:
    size, limit = 200 * MIB, 150 * MIB
    id = granted(north, south, tmp_path, size, "--max-bytes", str(limit))
    refused = south.command("fetch", id, "-o", tmp_path / "out", "--streams", "4", expect=4)
    assert "allows 157,286,400 bytes" in refused.stderr
    until(lambda: not any(row.reserved for row in rows(north, id).values()), "the streams to end")
    fetches, amount = used(north, id)
    assert fetches == 1
    assert amount <= limit
    assert equal_receipts(north, south, id) == 1  # for what came
    assert receipts(south, id)[0]["bytes"] <= amount
    assert arrived(tmp_path / "out") <= amount


# Kills.


def test_a_consumer_killed_again_and_again_ends_with_one_receipt_counted_once(
    north: Node, south: Node, tmp_path: Path
) -> None:
    instants = chance("a consumer killed")
    size = 160 * MIB
    id = granted(north, south, tmp_path, size)
    kills = 0
    for number in range(KILLS):
        process, before = south.begin(f"fetch-{number}", "fetch", id, "-o", tmp_path / "out"), arrived(tmp_path / "out")
        mark = before + instants.randrange(size // (2 * KILLS))
        # Not as fast as it can: what comes between the mark and the kill must leave something for the others.
        with Slowed(process, lambda before=before: (arrived(tmp_path / "out") - before) // CHUNK, 40):  # type: ignore[misc]
            until(lambda mark=mark, process=process: arrived(tmp_path / "out") > mark or not process.running, "bytes")  # type: ignore[misc]
            if process.running:
                process.kill()
                kills += 1
            else:
                break
    assert kills >= 3
    assert not (tmp_path / "out").exists()
    done = south.json("fetch", id, "-o", tmp_path / "out")
    assert done["receipt"]["by_both"]
    assert done["resumed"] > 0
    assert equal_receipts(north, south, id) == 1
    assert receipts(south, id)[0]["bytes"] == size
    until(lambda: not any(row.reserved for row in rows(north, id).values()), "the streams to end")
    fetches, amount = used(north, id)
    assert fetches == 1
    assert size <= amount <= size + kills * limits.ACCOUNT_WINDOW_BYTES


def test_an_owner_killed_in_mid_stream_has_counted_all_that_it_gave(north: Node, south: Node, tmp_path: Path) -> None:
    instants = chance("an owner killed in mid-stream")
    size = 400 * MIB
    id = granted(north, south, tmp_path, size)
    process = south.begin("fetch", "fetch", id, "-o", tmp_path / "out")
    kills = 0
    while kills < 4:
        mark = arrived(tmp_path / "out") + instants.randrange(size // (2 * KILLS))
        until(lambda mark=mark: arrived(tmp_path / "out") > mark or not process.running, "bytes")  # type: ignore[misc]
        if not process.running:
            break
        north.kill()
        kills += 1
        time.sleep(0.1)  # what was on the line arrives
        got = arrived(tmp_path / "out")
        counted = used(north, id)
        assert counted[0] == 1
        assert got <= counted[1], "something was free"
        north.start()
    assert kills >= 3
    assert process.wait(120) == 0, process.everything
    south.command("receipts", "--settle")
    assert equal_receipts(north, south, id) == 1
    until(lambda: not any(row.state is State.RUNNING for row in rows(north, id).values()), "the streams to end")
    fetches, amount = used(north, id)
    assert fetches == 1
    assert size <= amount <= size + (kills + 1) * (limits.ACCOUNT_WINDOW_BYTES + 24 * CHUNK)


@pytest.mark.parametrize("killed", ["consumer", "owner", "both"])
def test_killed_between_serving_counting_signing_and_answering(
    league: League, north: Node, south: Node, tmp_path: Path, killed: str
) -> None:
    instants = chance(f"small fetches, {killed} killed")
    id = granted(north, south, tmp_path, SMALL)
    target = tmp_path / "fetched"
    target.mkdir()
    program = Program(f"again-{killed}", league.logs, AGAIN, south.home, id, PURPOSE, target)
    for number in range(KILLS):
        if not program.running:
            program.start(wait=False)
        before = len(rows(north, id))
        until(lambda before=before: len(rows(north, id)) > before + 3, "fetches")  # type: ignore[misc]
        # Of those, up to three may have brought nothing yet: however slow it is, some are whole in the end.
        until(lambda number=number: len(whole_in(target)) >= 2 * (number + 1), "some of them to end")  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.3))
        if killed != "owner":
            program.kill()
        if killed != "consumer":
            north.kill()
            north.start()
    program.kill()
    for left in target.glob(".*.hanse-partial"):  # what was begun is ended
        south.command("fetch", id, "-o", target / left.name[1:].removesuffix(".hanse-partial"))
    south.command("receipts", "--settle")
    count = equal_receipts(north, south, id)
    whole = whole_in(target)
    assert count >= len(whole) > 3 * KILLS // 2, "a file without a receipt"
    assert all(path.stat().st_size == SMALL for path in whole)
    fetches, amount = used(north, id)
    assert fetches == len(rows(north, id)) >= count
    # What nobody signed for was under way at a kill: three at once.
    assert count * SMALL <= amount <= (count + 2 * 3 * KILLS) * SMALL


def whole_in(folder: Path) -> list[Path]:
    return [path for path in folder.iterdir() if not path.name.startswith(".")]


# One side is away, or does not want to.


def test_a_half_is_kept_while_the_owner_is_away_and_settled_by_the_daemon(
    league: League, north: Node, south: Node, tmp_path: Path
) -> None:
    id = wrap(north, tmp_path, SMALL)
    program = Program("read", league.logs, READ, south.home, id, "receipts", tmp_path / "go on")
    program.start(wait=False)
    until(lambda: "read" in program.stdout, "the bytes")
    north.kill()
    (tmp_path / "go on").touch()
    assert program.wait() == 0, program.everything
    half = receipts(south, id)
    assert [(each["state"], len(each["signed_by"])) for each in half] == [("us", 1)]
    assert south.json("status")["receipts_waiting"] == 1
    assert "waits for the other side's signature" in south.command("status").stdout
    assert south.command("receipts", "--settle", expect=5).stderr
    north.start()
    south.start()
    until(lambda: receipts(south, id)[0]["state"] == "both", "the daemon to settle")
    assert equal_receipts(north, south, id) == 1
    assert south.json("status")["receipts_waiting"] == 0


def test_who_never_signs_is_refused_beyond_what_it_may_owe(league: League, north: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, 2 * MIB)
    east, west = league.join("86.east", serve=False), league.join("86.west", serve=False)
    north.process.terminate()
    before = (north.home / "node.toml").read_text()
    settings(north, f"owed_bytes_per_peer = {3 * MIB}\nsign_alone_after_seconds = 1\n")
    north.start()
    period = month()
    try:
        for _ in range(2):
            program = Program("unsigned", league.logs, READ, east.home, id, "none")
            program.start(wait=False)
            assert program.wait() == 0, program.everything
        refused = Program("refused", league.logs, READ, east.home, id, "none")
        refused.start(wait=False)
        assert refused.wait() != 0
        assert "ReceiptsOwed" in refused.stderr
        assert "has not signed for" in refused.stderr
        told = east.command("fetch", id, "-o", tmp_path / "refused", expect=4)
        assert "has not signed for" in told.stderr
        until(lambda: [each["state"] for each in receipts(north, id)] == ["us", "us"], "the owner to sign alone")
        assert {"peer": "86.east", "deliveries": 2, "bytes": 4 * MIB} in north.json("status")["owed"]
        assert west.json("fetch", id, "-o", tmp_path / "honest")["receipt"]["by_both"]
        east_line = next(
            each for each in north.lines("statement", "--period", period, "--peer", "86.east") if each["object"] == id
        )
        assert (east_line["proved_bytes"], east_line["our_word_bytes"]) == (0, 2 * MIB)
    finally:
        north.process.terminate()
        (north.home / "node.toml").write_text(before)
        north.start()
