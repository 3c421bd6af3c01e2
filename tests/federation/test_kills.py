"""kill -9, at random instants, many times over: what was acknowledged is there, what was not is retried or absent.

Each test prints the seed of its instants; HANSE_SEED repeats them.
"""

import contextlib
import itertools
import json
import os
import random
import shutil
import time
import urllib.request
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hanse import limits, wire
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as Registry
from hanse.client.partial import partial_path
from hanse.home import Home
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier
from node.catalog import CATALOG, Catalog
from node.storage.catalog import CatalogStorage
from tests.breaking import (
    CHUNK,
    MIB,
    Eye,
    Program,
    Slowed,
    chance,
    equal_files,
    equal_folders,
    journaled,
    served,
    told,
    write_content,
    write_folder,
)
from tests.processes import League, Node, Process, free_port, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("kills"), pytest.mark.timeout(900)]

NORTH, SOUTH = "86.north", "86.south"

# What may be under way between the two processes when one of them dies, and is then sent again, in MiB: what HTTP/2's
# window and all buffers hold (two windows of 8, and 1 that is being sent: test_access.py asks for less than four), what
# the reader has queued (8), is about to queue (1), hashes and writes (2: chunks and messages do not line up), what
# no line of the journal covers yet of small files (1), and what the sender counts before it notices (1 or 2).
IN_FLIGHT = 32 * MIB
DESCRIPTION = MIB  # of a folder: its pages are asked for anew by each run
KILLS = 7

ADDER = """
import contextlib, json, sys, time
from pathlib import Path
from hanse.client.identity import MARKER, Identity
from hanse.home import Home
from node.catalog import CATALOG, Catalog
from hanse.model.terms import Terms
from node.storage.catalog import CatalogStorage

home, folder, name = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
with contextlib.closing(CatalogStorage.open(home / CATALOG)) as storage:
    catalog = Catalog(storage, Identity.load(Home.open(home, MARKER, "")))
    for number in range(1_000_000):
        path, suffix = folder / f"{name}-{number}", f"{name}/{number}"
        path.write_text(f"{name} {number}")
        added = catalog.add(path, suffix=suffix, terms=Terms.opened())
        print(json.dumps({"id": str(added.id), "version": added.version}), flush=True)
        if number % 3 == 0:
            path.write_text(f"{name} {number}, second edition")
            again = catalog.refresh(suffix)[0]
            print(json.dumps({"id": str(again.id), "version": again.version}), flush=True)
        time.sleep(0.005)
"""
"""Adds objects, and new versions of some, a hundred or so a second; a line is an acknowledgement, as exit code 0 is."""


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        north = made.join(NORTH, serve=False)
        with (north.home / "node.toml").open("a") as settings:
            settings.write(f'metrics = "127.0.0.1:{free_port()}"\n')
        north.start()
        made.join(SOUTH, serve=False)
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture(autouse=True)
def running(league: League, north: Node) -> None:
    """Whatever the test before left behind."""
    for process in (league.registry.process, north.process):
        if not process.running:
            process.start()


@pytest.fixture(scope="module")
def south(league: League) -> Node:
    return league.nodes[SOUTH]


@pytest.fixture
def stop() -> Iterator[contextlib.ExitStack]:
    """What is to be ended with the test, however it ends."""
    with contextlib.ExitStack() as stack:
        yield stack


@pytest.fixture(scope="module")
def folder(north: Node, league: League) -> Path:
    """Wrapped as 'folder'."""
    path = write_folder(league.folder / "data/folder", 4000, 8192)
    north.command("add", path, "--id", "folder", "--open")
    return path


@pytest.fixture(scope="module")
def file(north: Node, league: League) -> Path:
    """Wrapped as 'file'."""
    path = write_content(league.folder / "data/file", 256 * MIB)
    north.command("add", path, "--id", "file", "--open")
    return path


@contextlib.contextmanager
def catalog_of(node: Node) -> Iterator[tuple[Catalog, CatalogStorage]]:
    """The node's own database, read beside its daemon."""
    with contextlib.closing(CatalogStorage.open(node.home / CATALOG)) as storage:
        yield Catalog(storage, Identity.load(Home.open(node.home, MARKER, ""))), storage


def resolved(node: Node, ids: list[str]) -> dict[str, tuple[int, bytes]]:
    """What the registry has: version and digest of each."""
    found = {}
    with Registry(Identity.load(Home.open(node.home, MARKER, ""))) as registry:
        for start in range(0, len(ids), limits.BATCH):
            part = ids[start : start + limits.BATCH]
            for id, answer in zip(part, registry.resolve([Identifier.parse(each) for each in part]), strict=True):
                if answer.record is not None:
                    found[id] = wire.decode_record(answer.record.payload).version, answer.record.digest
    return found


def changes(node: Node, last: str) -> Iterator[tuple[str, int]]:
    """All that was ever published, in order, up to the first version of ``last``."""
    with Registry(Identity.load(Home.open(node.home, MARKER, ""))) as registry:
        for change in registry.watch():
            if change.envelope is not None and change.envelope.payload_type == PayloadType.RECORD:
                record = wire.decode_record(change.envelope.payload)
                yield str(record.id), record.version
                if str(record.id) == last:
                    return


@pytest.mark.parametrize("victim", ["registry", "node"])
def test_what_was_acknowledged_is_published_once_in_the_end(
    league: League, north: Node, tmp_path: Path, stop: contextlib.ExitStack, victim: str
) -> None:
    instants = chance(f"publishing, and the {victim} killed")
    process = league.registry.process if victim == "registry" else north.process
    acknowledged: dict[str, int] = {}
    adder = Program("adder", tmp_path, ADDER, north.home, tmp_path, victim)
    stop.callback(lambda: adder.kill())
    for kill in itertools.count():
        if kill >= 10 and len(acknowledged) > 100:
            break
        if not adder.running:
            adder = Program(f"adder-{kill}", tmp_path, ADDER, north.home, tmp_path, f"{victim}-{kill}")
            adder.start(wait=False)
            until(lambda adder=adder: told(adder) or not adder.running, "something to be added")  # type: ignore[misc]
        time.sleep(instants.uniform(0, 0.7))
        process.kill()
        time.sleep(instants.uniform(0, 0.3))
        if instants.random() < 0.4:
            adder.kill()
        process.start()
        acknowledged |= {each["id"]: each["version"] for each in told(adder)}
        with catalog_of(north) as (catalog, _):
            entries = {str(each.id): each for each in catalog.list()}
        lost = {id for id, version in acknowledged.items() if id not in entries or entries[id].version < version}
        assert not lost
        done = {id: each.version for id, each in entries.items() if each.published}
        there = resolved(north, list(done))
        assert {id for id, version in done.items() if there.get(id, (0, b""))[0] < version} == set()
    adder.kill()
    acknowledged |= {each["id"]: each["version"] for each in told(adder)}
    assert len(acknowledged) > 100, adder.everything
    north.published()
    last = north.json("add", tmp_path / f"{victim}-0-0", "--id", f"{victim}/last", "--open")["id"]
    north.published()
    assert not north.json("status")["refused"]
    with catalog_of(north) as (catalog, storage):
        entries = {str(each.id): each for each in catalog.list()}
        there = resolved(north, list(entries))
        for id, entry in entries.items():
            assert entry.version >= acknowledged.get(id, 1)
            newest = storage.version(entry.id, entry.version)
            assert newest is not None
            assert there[id] == (entry.version, newest.record.digest)
    assert acknowledged.keys() <= entries.keys()
    published = list(changes(north, last))
    assert max(Counter(published).values()) == 1
    in_order: dict[str, list[int]] = {}
    for id, version in published:
        in_order.setdefault(id, []).append(version)
    assert all(versions == list(range(1, entries[id].version + 1)) for id, versions in in_order.items())
    assert league.registry.command("check").code == 0
    print(f"{len(acknowledged)} acknowledged, {len(published)} published")


def test_an_add_that_is_killed_left_all_or_nothing(north: Node, folder: Path) -> None:
    instants = chance("add, killed")
    whole = 1e9
    for name in ("first", "whole"):
        began = time.monotonic()
        assert north.json("add", folder, "--id", name, "--unlisted")["elements"] == 4000
        whole = min(whole, time.monotonic() - began)
    finished = 0
    for number in range(10):
        adding = north.begin(f"add-{number}", "add", folder, "--id", f"killed-{number}", "--unlisted")
        slept = instants.uniform(0.05, 1.2) * whole
        time.sleep(slept)
        adding.kill()
        if adding.code == 0:
            whole = min(whole, slept)  # the machine is faster by now
        with catalog_of(north) as (catalog, storage):
            entry = next((each for each in catalog.list() if each.id.suffix == f"killed-{number}"), None)
            assert entry is not None or adding.code != 0
            if entry is not None:
                finished += 1
                version = storage.version(entry.id, 1)
                assert version is not None
                assert entry.element_count == sum(1 for _ in storage.elements(version, 0, 10_000)) == 4000
                assert all(storage.page(version, page) for page in range(version.page_count))
    print(f"{finished} of 10 had finished")
    assert finished < 10
    assert north.json("add", folder, "--id", "next", "--unlisted")["elements"] == 4000
    with catalog_of(north) as (_, storage), storage.database.reading() as connection:
        assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
    assert not [name for name in os.listdir(north.home) if "tmp" in name or "staging" in name]


def _is_whole_file(source: Path) -> Callable[[Path], bool]:
    return lambda path: path.stat().st_size == source.stat().st_size


def _is_whole_folder(files: int) -> Callable[[Path], bool]:
    return lambda path: sum(len(names) for _, _, names in os.walk(path)) == files


def _sent(north: Node) -> int:
    """Bytes that the node's daemon says it sent since it started; asked when no stream is open."""
    address = next(
        line.split('"')[1] for line in (north.home / "node.toml").read_text().splitlines() if "metrics" in line
    )

    def quiet() -> str | None:
        with urllib.request.urlopen(f"http://{address}/metrics", timeout=60) as answer:
            text = str(answer.read().decode())
        return text if "\nhanse_open_streams 0.0\n" in text else None

    text: str = until(quiet, "the node to see that its peer is gone")
    return int(next(float(line.split()[1]) for line in text.splitlines() if line.startswith("hanse_served_bytes_tot")))


@pytest.mark.parametrize("streams", [1, 4])
def test_a_fetch_that_is_killed_again_and_again_ends_with_equal_bytes(
    north: Node, south: Node, file: Path, tmp_path: Path, streams: int
) -> None:
    instants = chance(f"fetch over {streams}, killed")
    target = tmp_path / "got"
    arguments = ("fetch", f"{NORTH}/file", "-o", target, "--streams", streams, "--json")
    there, kills, runs, wasted, ended = 0, 0, 0, 0, None
    began_with = served(north, "file", SOUTH)
    with Eye(target, _is_whole_file(file)) as eye:
        while ended is None:
            sent = _sent(north)
            fetching = south.begin(f"fetch-{streams}-{kills}-{runs}", *arguments)
            if kills < KILLS:
                _somewhere(instants, fetching, lambda: journaled(target)[0], there, 35)
                fetching.kill()
            else:
                fetching.wait()
            assert fetching.code in (0, -9), fetching.everything
            kills += fetching.code == -9
            if not target.exists():
                assert fetching.code == -9, fetching.everything
                before, there = there, journaled(target)[0]
                assert there >= before
                wasted = max(wasted, _sent(north) - sent - (there - before) * CHUNK)
                continue
            # It ended, or was killed as it ended.
            assert equal_files(target, file)
            if kills >= KILLS and fetching.code == 0:
                ended = fetching
            else:
                runs += 1
                target.rename(tmp_path / "run").unlink()
                shutil.rmtree(partial_path(target), ignore_errors=True)
                there = 0
    result = json.loads(ended.stdout)
    print(f"{kills} kills; at most {wasted / MIB:.1f} MiB under way at one; {result}")
    assert wasted <= IN_FLIGHT * streams
    assert not eye.partly
    assert equal_files(target, file)
    assert result["resumed"] == there * CHUNK
    assert result["transferred"] + result["resumed"] == file.stat().st_size
    whole = (runs + 1) * file.stat().st_size
    # What the last of them served is written down after its end.
    until(lambda: served(north, "file", SOUTH) - began_with >= whole, "what was served to be counted")
    again = served(north, "file", SOUTH) - began_with - whole
    assert 0 <= again <= kills * IN_FLIGHT * streams
    assert not partial_path(target).exists()


def test_a_fetch_of_a_folder_that_is_killed_again_and_again_ends_with_equal_bytes(
    north: Node, south: Node, folder: Path, tmp_path: Path
) -> None:
    instants = chance("fetch of a folder, killed")
    target = tmp_path / "got"
    there, kills, runs, wasted, ended = 0, 0, 0, 0, None
    with Eye(target, _is_whole_folder(4000)) as eye:
        while ended is None:
            sent = _sent(north)
            fetching = south.begin(f"folder-{kills}-{runs}", "fetch", f"{NORTH}/folder", "-o", target, "--json")
            if kills < KILLS:
                _somewhere(instants, fetching, lambda: journaled(target)[1], there, 700)
                fetching.kill()
            else:
                fetching.wait()
            assert fetching.code in (0, -9), fetching.everything
            kills += fetching.code == -9
            if not target.exists():
                assert fetching.code == -9, fetching.everything
                before, there = there, journaled(target)[1]
                assert there >= before
                wasted = max(wasted, _sent(north) - sent - DESCRIPTION - (there - before) * 8192)
                continue
            # It ended, or was killed as it ended.
            assert equal_folders(target, folder)
            if kills >= KILLS and fetching.code == 0:
                ended = fetching
            else:
                runs += 1
                target.rename(tmp_path / f"run-{runs}")
                shutil.rmtree(partial_path(target), ignore_errors=True)
                there = 0
    result = json.loads(ended.stdout)
    print(f"{kills} kills; at most {wasted / MIB:.1f} MiB under way at one; {result}")
    assert wasted <= IN_FLIGHT
    assert not eye.partly
    assert equal_folders(target, folder)
    assert result["resumed"] == there * 8192


def _somewhere(instants: random.Random, process: Process, done: Callable[[], int], before: int, step: int) -> None:
    """Returns at a random instant of a run: any time at all, or when it has come some way further."""
    if instants.random() < 0.3:
        time.sleep(instants.uniform(0, 1.2))
        return
    goal = before + instants.randint(1, step)
    deadline = time.monotonic() + 90
    while process.running and done() < goal and time.monotonic() < deadline:
        time.sleep(0.001)


@pytest.mark.parametrize("streams", [1, 4])
def test_a_fetch_goes_on_when_the_node_was_killed_and_came_back_elsewhere(
    north: Node, south: Node, file: Path, tmp_path: Path, streams: int
) -> None:
    instants = chance(f"serving over {streams}, killed")
    target = tmp_path / "got"
    arguments = ("fetch", f"{NORTH}/file", "-o", target, "--streams", streams, "--json")
    fetching = south.begin(f"elsewhere-{streams}", *arguments)
    kills = there = 0
    while kills < 2 and fetching.running:
        goal = journaled(target)[0] + instants.randint(1, 70)
        address = north.process.address
        with _no_faster(fetching, target):  # else it may be done before the node is killed
            until(lambda goal=goal: journaled(target)[0] >= goal or not fetching.running, "some chunks to arrive")  # type: ignore[misc]
            if not fetching.running:
                break
            north.kill()
        kills += 1
        there = _settled(target, fetching)
        number = max((row["number"] for row in north.lines("audit", "--limit", 1)), default=0)
        north.start()
        assert north.process.address != address
    if fetching.wait(400) == 5:
        fetching = south.begin(f"elsewhere-{streams}-again", *arguments)
        fetching.wait()
    assert fetching.code == 0, fetching.everything
    assert equal_files(target, file)
    assert kills, "the node was never killed in the middle of a fetch"
    # What the last daemon sent is what was missing when it started, not a chunk more.
    rows = until(
        lambda: [row for row in north.lines("audit", "--object", "file") if row["number"] > number], "the audit"
    )
    until(
        lambda: (
            sum(
                row["bytes"]
                for row in north.lines("audit", "--object", "file")
                if row["number"] > number and row["operation"] == "fetch"
            )
            == file.stat().st_size - there * CHUNK
        ),
        f"{file.stat().st_size - there * CHUNK} bytes to be counted after {rows}",
    )
    print(f"{kills} kills; {json.loads(fetching.stdout)}")


def _no_faster(fetching: Process, target: Path) -> Slowed:
    """Than 100 chunks a second, beyond those that are there."""
    before = journaled(target)[0]
    return Slowed(fetching, lambda: journaled(target)[0] - before, 100)


def _settled(target: Path, reader: Process) -> int:
    """Chunks that are there when the reader has written all that had arrived: none is added, and it only waits."""
    found, since = journaled(target)[0], time.monotonic()
    while time.monotonic() - since < 0.5 and reader.running:
        time.sleep(0.02)
        if journaled(target)[0] != found or _works(reader.pid):
            found, since = journaled(target)[0], time.monotonic()
    return found


def _works(pid: int) -> bool:
    """Whether any thread runs, would if it had a processor, or waits for the disk."""
    for each in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has ended
            if each.read_text().rpartition(")")[2].split()[0] in "RD":
                return True
    return False


def test_a_change_of_keys_that_is_killed_leaves_a_node_that_works(
    league: League, north: Node, south: Node, tmp_path: Path
) -> None:
    instants = chance("rotate-key, killed")
    (tmp_path / "data").write_bytes(b"a,b\n")
    north.command("add", tmp_path / "data", "--id", "before-rotations", "--open")
    north.published()
    pinned = south.json("resolve", f"{NORTH}/before-rotations")["signed_by"]["key_id"]
    previous = north.home / "keys/identity.previous.pem"
    for _ in range(2):
        began = time.monotonic()
        north.command("rotate-key")
        whole = time.monotonic() - began  # the second time as those that follow
        until(lambda: not previous.exists(), "the change of keys to be acknowledged")
    keys = {north.json("status")["key_id"]}
    for number in range(6):
        rotating = north.begin(f"rotate-{number}", "rotate-key")
        time.sleep(instants.uniform(0.1, 1.05) * whole)
        rotating.kill()
        assert rotating.code in (0, -9), rotating.everything
        north.command("add", tmp_path / "data", "--id", f"rotated-{number}", "--open")
        with catalog_of(north) as (_, storage):
            until(lambda storage=storage: not storage.outbox.all(), "all to be published")  # type: ignore[misc]
        until(lambda: not previous.exists(), "the change of keys to be acknowledged")
        keys.add(str(Identity.load(Home.open(north.home, MARKER, "")).signing_key.public.key_id))
    print(f"{len(keys) - 1} of 6 had changed the key")
    assert pinned not in keys
    last = south.json("resolve", f"{NORTH}/rotated-5")
    assert last["signed_by"]["key_id"] == north.json("status")["key_id"] != pinned
    for id in ("before-rotations", "rotated-0", "rotated-5"):
        south.command("fetch", f"{NORTH}/{id}", "-o", tmp_path / id)
        assert (tmp_path / id).read_bytes() == b"a,b\n"
    assert league.registry.command("check").code == 0
    assert not [each for each in north.lines("doctor") if each["grade"] == "fail"]
