"""Mirrors as real daemons: they serve while the registry is away, believe no liar, and can take its place."""

import contextlib
import json
import random
import re
import shutil
import sqlite3
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
from prometheus_client.parser import text_string_to_metric_families

from bench.ours import signed
from hanse import wire
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as ClientLeague
from hanse.client.log import RegistryLog
from hanse.client.storage.known import Known
from hanse.errors import Suspended, Unreachable
from hanse.home import Home
from hanse.limits import DAY
from hanse.model.address import Address
from hanse.model.identifier import Identifier, Prefix
from registry.index import document
from registry.storage.base import NewRecord
from registry.storage.sqlite import SqliteStorage
from tests.breaking import MIB, set_clock, small_disk, wrong_clock
from tests.processes import League, Node, Process, Result, free_port, run, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("mirrors"), pytest.mark.timeout(300)]

NORTH, ACME, MIRROR = "86.north", "86.acme", "86.mirror"
WEST = Prefix("86.west")
_OF = "hanse_registry_replication_"
_LAST = "WHERE position = (SELECT max(position) FROM changes)"
_SAME = (
    "SELECT position, object, version, digest, envelope FROM changes ORDER BY position",
    "SELECT number, key, version, withdrawn, position, digest FROM objects ORDER BY number",
    "SELECT prefix, version, digest, envelope, position FROM organizations ORDER BY prefix, version",
    "SELECT position, prefix, issued_at, certificate FROM certificates ORDER BY position",
    "SELECT level, number, hashes FROM tiles ORDER BY level, number",
    "SELECT size, root FROM tree",
    "SELECT prefix, display_name, organization_version, suspended_at, reason, mirror FROM members ORDER BY prefix",
    "SELECT prefix, objects, bytes FROM usage ORDER BY prefix",
    "SELECT rowid, title, description, subjects, creators, facets FROM search ORDER BY rowid",
)


@dataclass
class Mirror:
    """One with a port of its own, the same one after each start."""

    home: Path
    process: Process

    @classmethod
    def invited(cls, league: League, prefix: str = MIRROR, folder: Path | None = None, **env: str) -> "Mirror":
        invitation = league.registry.invite(prefix, "--mirror")
        home = folder or league.folder / prefix
        address = f"127.0.0.1:{free_port()}"
        arguments = ("mirror", invitation, "--home", home, "--listen", address, "--advertise", address)
        return cls(home, Process(prefix, league.logs, "registry.cli", *arguments, **env))

    def start(self) -> None:
        """Returns when it serves, and so has everything: that takes the longer, the more there is."""
        self.process.start(wait=False)
        until(lambda: "listening on " in self.process.stdout or not self.process.running, "it to catch up", 200)
        assert self.process.running, self.process.everything

    @property
    def position(self) -> int:
        path = self.home / "registry.db"
        with (
            contextlib.suppress(sqlite3.Error),
            contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db,
        ):
            return int(db.execute("SELECT size FROM tree").fetchone()[0])
        return 0

    @property
    def status(self) -> dict[str, Any]:
        result = run("registry.cli", "status", "--home", self.home, "--json")
        assert result.code == 0, str(result)
        return dict(result.json)

    def check(self, command: str = "check") -> Result:
        return run("registry.cli", command, "--home", self.home)

    def is_as(self, registry: Path) -> bool:
        return contents(self.home) == contents(registry)


def contents(home: Path) -> list[list[tuple[Any, ...]]]:
    """Everything that a registry and its mirror have in common."""
    with contextlib.closing(sqlite3.connect(home / "registry.db")) as db:
        return [db.execute(sql).fetchall() for sql in _SAME]


def fill(league: League, owner: Node, count: int, first: int = 0) -> None:
    """Puts records straight into the registry's database, signed, as if they had been published."""
    identity = Identity.load(Home.open(owner.home, MARKER, ""))
    ids = [Identifier.of(identity.prefix, f"many-{number}") for number in range(first, first + count)]
    now, rows = int(time.time()), []
    for envelope in signed(ids, identity.signing_key, now):
        record = wire.decode_record(envelope.payload)
        rows.append(NewRecord(record.id.key, 1, envelope.digest, now, wire.encode_envelope(envelope), document(record)))
    storage = SqliteStorage(league.registry.home / "registry.db")
    with contextlib.closing(storage), storage.writing() as writing:
        writing.put_records(rows)


def add(node: Node, name: str) -> str:
    path = node.home.parent / "data" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(name)
    node.command("add", path, "--id", name, "--open", "--title", f"the {name} object")
    node.published()
    return f"{node.prefix}/{name}"


def knows(node: Node | Mirror, mirror: Mirror) -> bool:
    """Whether the registry has told of the mirror."""
    with contextlib.closing(sqlite3.connect(node.home / "known.db")) as db:
        row = db.execute("SELECT members FROM membership").fetchone()
    return row is not None and mirror.process.address in map(str, wire.decode_registries(row[0]))


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        made.join(NORTH)
        made.join(ACME)
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture(scope="module")
def acme(league: League) -> Node:
    return league.nodes[ACME]


@pytest.fixture(scope="module")
def mirror(league: League, north: Node, acme: Node) -> Iterator[Mirror]:
    add(north, "first")
    made = Mirror.invited(league)
    made.process.start()
    yield made
    made.process.kill()


def test_while_the_registry_is_away_its_mirror_answers_and_both_are_the_same_afterwards(
    league: League, north: Node, acme: Node, mirror: Mirror
) -> None:
    second = add(north, "second")
    until(lambda: mirror.is_as(league.registry.home), "the mirror to have everything")
    until(lambda: tells_all(mirror, acme), "the mirror to have the checkpoint of it")
    until(lambda: knows(acme, mirror), "acme to hear of the mirror")
    (told,) = (each for each in league.registry.command("orgs", "--json").lines if each["prefix"] == MIRROR)
    assert told["mirror"]
    league.registry.kill()
    try:
        proved = acme.json("resolve", second, "--prove")
        assert proved["proof"]["size"] >= proved["proof"]["index"]
        assert not acme.json("resolve", f"{NORTH}/first")["registry_down"]
        assert {each["id"] for each in acme.lines("search", "object")} == {second, f"{NORTH}/first"}
        north.command("add", north.home.parent / "data" / "first", "--id", "third", "--open")
        assert north.json("status")["waiting"]
        until(lambda: mirror.status["last_error"], "the mirror to say that the registry is away")
        mirror.process.restart()  # it serves without the registry too
        assert {each["id"] for each in acme.lines("search", "object")} == {second, f"{NORTH}/first"}
        stale = acme.command("resolve", second, "--prove", expect=5)
        assert "this mirror has not reached the registry" in stale.stderr or "does not answer" in stale.stderr
    finally:
        league.registry.start()
    north.published()
    until(lambda: mirror.is_as(league.registry.home), "the mirror to go on")
    until(lambda: not mirror.status["last_error"], "the mirror to say so")
    status = mirror.status
    assert (status["mirror"], status["whole"], status["lag_entries"], status["serving"]) == (MIRROR, True, 0, True)
    assert status["lag_seconds"] < 30
    check = run("registry.cli", "check", "--home", mirror.home)
    assert check.code == 0, str(check)
    assert "Traceback" not in mirror.process.everything
    assert run("registry.cli", "invite", "86.west", "--home", mirror.home).code == 1


def at(mirror: Mirror, node: Node) -> ClientLeague:
    """The node's calls, to the mirror alone."""
    identity = Identity.load(Home.open(node.home, MARKER, ""))
    return ClientLeague(replace(identity, registries=(Address.parse(mirror.process.address),)))


def tells_all(mirror: Mirror, node: Node) -> bool:
    """Whether it shows the node all that it has: it does under a checkpoint, which it takes over a moment later."""
    with at(mirror, node) as calls, contextlib.suppress(Unreachable):
        calls.get_checkpoint(mirror.position)
        return True
    return False


def test_a_mirror_takes_nothing_and_lets_in_whom_the_registry_does(
    league: League, north: Node, acme: Node, mirror: Mirror
) -> None:
    key = Identity.load(Home.open(north.home, MARKER, "")).signing_key
    (envelope,) = signed([Identifier.of(Prefix(NORTH), "x")], key, int(time.time()))
    with at(mirror, north) as calls:
        with pytest.raises(Unreachable, match="takes nothing: to publish, reach the registry at"):
            list(calls.publish([envelope]))
        with pytest.raises(Unreachable, match="to renew a certificate"):
            calls.renew(b"")
        calls.bring([envelope])
        for bring in (calls.get_checkpoint, calls.continue_organization):
            with pytest.raises(Unreachable, match="to go on with a newer key"):
                bring()
    with at(mirror, acme) as calls:
        until(lambda: _answers(calls), "the mirror to answer")
        league.registry.command("suspend", ACME, "--reason", "unpaid")
        refused = until(lambda: _refusal(calls), "the mirror to refuse acme")
        assert "unpaid" in refused
        league.registry.command("restore", ACME)
        until(lambda: _answers(calls), "the mirror to let acme in again")


def _answers(calls: ClientLeague) -> bool:
    try:
        calls.get_membership()
    except (Suspended, Unreachable):
        return False
    return True


def _refusal(calls: ClientLeague) -> str:
    try:
        calls.get_organization(Prefix(NORTH))
    except Suspended as error:
        return str(error)
    return ""


MANY = 26_000  # four transactions of a mirror: one for each time that it is killed, and the last


def test_killed_while_it_catches_up_a_mirror_goes_on_and_is_whole(league: League, north: Node, mirror: Mirror) -> None:
    fill(league, north, MANY)
    second = Mirror.invited(league, "86.second")
    chance = random.Random(17)
    second.process.start(wait=False)
    until(lambda: second.position >= 8192, "the first transaction")
    second.process.kill()
    for _ in range(2):
        before = second.position
        second.process.start(wait=False)
        instant = time.monotonic() + chance.uniform(0.3, 1.5)
        # However fast it is, it stores one transaction more at most, and is not whole.
        until(lambda at=instant, had=before: time.monotonic() > at or second.position > had, "the instant")  # type: ignore[misc]
        second.process.kill()
        assert second.position >= before
        assert run("registry.cli", "status", "--home", second.home, "--json").json["whole"] is False
    second.start()
    until(lambda: second.is_as(league.registry.home), "the mirror to have everything")
    until(lambda: mirror.is_as(league.registry.home), "the one that served meanwhile, too")
    assert second.status["whole"]
    second.process.kill()


def test_a_mirror_whose_disk_is_full_serves_on_and_takes_the_rest_when_there_is_room(
    league: League, acme: Node, north: Node, tmp_path_factory: pytest.TempPathFactory
) -> None:
    with small_disk(tmp_path_factory.mktemp("disk") / "mirror", 128 * MIB) as disk:
        full = Mirror.invited(league, "86.full", disk.folder)
        try:
            full.start()
            before = full.position
            disk.fill()
            fill(league, north, 2_000, first=MANY)
            until(lambda: "no space left" in full.process.stderr, "the mirror to say that its disk is full")
            assert full.process.running
            with at(full, acme) as calls:
                assert calls.resolve([Identifier.parse(f"{NORTH}/first")])[0].record is not None
            disk.free()
            until(lambda: full.is_as(league.registry.home), "the mirror to go on")
            assert full.position > before
        finally:
            full.process.kill()


def test_a_mirror_takes_the_place_of_a_registry_that_is_lost(
    league: League, north: Node, acme: Node, mirror: Mirror, tmp_path: Path
) -> None:
    until(lambda: mirror.is_as(league.registry.home), "the mirror to have everything")
    until(lambda: knows(north, mirror) and knows(acme, mirror), "the members to hear of the mirror")
    keys = shutil.copytree(league.registry.home / "keys", tmp_path / "keys")
    promote = ("promote", "--home", mirror.home, "--keys", keys)
    running = run("registry.cli", *promote)
    assert (running.code, "is in use by" in running.stderr) == (7, True), str(running)
    mirror.process.terminate()
    alive = run("registry.cli", *promote)
    assert (alive.code, "two registries of one league" in alive.stderr) == (7, True), str(alive)
    league.registry.kill()
    (tmp_path / "other").mkdir()
    for own, name in (("identity.pem", "registry.pem"), ("tls.pem", "ca.pem")):
        shutil.copy(north.home / "keys" / own, tmp_path / "other" / name)
    foreign = run("registry.cli", "promote", "--home", mirror.home, "--keys", tmp_path / "other")
    assert (foreign.code, "are not those of the league" in foreign.stderr) == (1, True), str(foreign)
    entries = mirror.position
    done = run("registry.cli", *promote, "--json")
    assert done.code == 0, str(done)
    assert (done.json["entries"], done.json["missing"]) == (entries, 0)
    assert done.json["registries"][0] == mirror.process.address
    promoted = Process("promoted", league.logs, "registry.cli", "serve", "--home", mirror.home)
    promoted.start()
    try:
        third = add(north, "after")
        assert acme.json("resolve", third, "--prove")["proof"]["size"] > entries
        with contextlib.closing(SqliteStorage(mirror.home / "registry.db")) as storage:
            (own,) = (each for each in storage.membership()[1] if str(each.prefix) == MIRROR)
        assert not own.mirror
        invitation = run("registry.cli", "invite", "86.new", "--home", mirror.home).stdout.strip()
        new = Node("86.new", league.folder / "new", league.logs)
        new.command("join", invitation)
        assert new.json("resolve", third, "--prove")["version"] == 1
        check = run("registry.cli", "check", "--home", mirror.home)
        assert check.code == 0, str(check)
    finally:
        promoted.kill()


def _saw(mirror: Mirror) -> None:
    """The newest checkpoint, and is gone before it has the entries."""
    identity = Identity.load(Home.open(mirror.home, MARKER, ""))
    with contextlib.closing(Known.open(mirror.home / "known.db")) as known, ClientLeague(identity) as calls:
        log = RegistryLog(identity.authority, known, time.time)
        log.follow(lambda seen: (None, calls.get_checkpoint(seen)))


def test_a_promoted_mirror_that_lacks_entries_says_so_and_a_person_at_each_member_accepts_it(tmp_path: Path) -> None:
    """In acme's home only commands are run: it hears of the mirror by the way."""
    with League(tmp_path) as league:
        north, acme = league.join(NORTH), league.join(ACME, serve=False)
        first, mirror = add(north, "first"), Mirror.invited(league)
        mirror.process.start()
        until(lambda: knows(north, mirror), "north to hear of the mirror")
        assert acme.json("search", "object")["id"] == first
        assert knows(acme, mirror)
        until(lambda: mirror.is_as(league.registry.home), "the mirror to have everything")
        mirror.process.terminate()
        lost, entries = add(north, "lost"), mirror.position
        for each in (north, acme):
            assert each.json("resolve", lost, "--prove")["version"] == 1
        _saw(mirror)
        keys = shutil.copytree(league.registry.home / "keys", tmp_path / "keys")
        league.registry.kill()
        done = run("registry.cli", "promote", "--home", mirror.home, "--keys", keys)
        assert done.code == 0, str(done)
        assert "1 more were in the log that the lost registry showed" in done.stderr
        (told,) = re.findall(r"(--size \d+ --root \w+)", done.stdout)
        assert told.startswith(f"--size {entries} ")
        promoted = Process("promoted", league.logs, "registry.cli", "serve", "--home", mirror.home)
        promoted.start()
        try:
            # What it signed in the second in which the lost one did may be a mirror's that is behind; it signs anew.
            until(
                lambda: "`hanse accept-registry`" in acme.command("resolve", lost, "--prove", expect=6).stderr,
                "acme to be told what to do",
            )
            until(lambda: north.json("status")["registry_lies"], "north's daemon to refuse it")
            until(
                lambda: "`hanse accept-registry`" in north.json("status")["registry_error"],
                "north to be told what to do",
            )
            accepted = {each: each.json("accept-registry", "--yes", *told.split()) for each in (acme, north)}
            assert [each["published_again"] for each in accepted.values()] == [0, 1]
            north.published()
            assert acme.json("resolve", lost, "--prove")["version"] == 1
            assert f"answers at {mirror.process.address}" in acme.command("status").stdout
            check = run("registry.cli", "check", "--home", mirror.home)
            assert check.code == 0, str(check)
        finally:
            promoted.kill()


def _issued(league: League) -> int:
    """Certificates in the mirror's name in the registry's log."""
    with _database(league) as db:
        return int(db.execute("SELECT count(*) FROM certificates WHERE prefix = ?", (MIRROR,)).fetchone()[0])


def test_a_mirror_renews_its_certificates_while_it_runs_and_goes_on_after_a_day_alone(tmp_path: Path) -> None:
    clocks = [tmp_path / name for name in ("registrys", "mirrors", "acmes")]
    registrys, mirrors, acmes = (wrong_clock(0, each) for each in clocks)

    def days(number: float) -> None:
        for each in clocks:
            set_clock(each, number)

    league = League(tmp_path / "league")
    league.registry.process = Process(
        "registry", league.logs, "registry.cli", "serve", "--home", league.registry.home, **registrys
    )
    with league:
        west = league.join(str(WEST), serve=False)
        fill(league, west, 3)
        acme = league.join(ACME, serve=False, **acmes)
        mirror = Mirror.invited(league, **mirrors)
        try:
            mirror.process.start()
            until(lambda: knows(mirror, mirror), "the mirror to be listed")
            assert acme.json("resolve", f"{WEST}/many-0", "--prove")["version"] == 1
            assert _issued(league) == 2
            # A day without the registry.
            league.registry.kill()
            days(1.1)
            until(lambda: mirror.check("probe").code == 5, "the mirror to say that it does not serve")
            alone = acme.command("resolve", f"{WEST}/many-1", expect=5)
            assert "does not answer" in alone.stderr or "has not reached the registry for 24 h" in alone.stderr
            # Of the seven days that certificates hold.
            set_clock(clocks[0], 5)
            league.registry.start()
            days(5)
            until(lambda: _issued(league) == 4, "both to be renewed")
            days(7.5)  # the first ones are over
            until(lambda: looked_at(mirror) > time.time() + 7.49 * DAY, "it to look again")
            assert _issued(league) == 4
            until(
                lambda: run("registry.cli", "probe", "--home", mirror.home, **mirrors).code == 0,
                "it to say that it serves",
            )
            league.registry.kill()
            found = acme.json("resolve", f"{WEST}/many-2")
            assert (found["version"], found["registry_down"]) == (1, False)
            days(10)  # they are due again: while they hold, it starts without the registry
            mirror.process.restart()
            assert "mirror.upkeep_failed" in mirror.process.stderr
        finally:
            mirror.process.kill()


def looked_at(mirror: Mirror) -> float:
    """When, by its clock, it last looked after its certificates, and had heard of the registry."""
    kept = json.loads((mirror.home / "mirror.json").read_text())
    return min(kept["at"], kept["whole_at"] or 0)


# What a registry may try. Each gets its home while it does not run, and what a mirror has of it.


def altered(league: League, _west: Node, _truth: Path) -> None:
    """The registry changes a byte of a signature."""
    with _database(league) as db:
        (envelope,) = db.execute(f"SELECT envelope FROM changes {_LAST}").fetchone()
        db.execute(f"UPDATE changes SET envelope = ? {_LAST}", (envelope[:-1] + bytes((envelope[-1] ^ 1,)),))


def replaced(league: League, west: Node, _truth: Path) -> None:
    """What it shows was signed, and is not what it logged."""
    key = Identity.load(Home.open(west.home, MARKER, "")).signing_key
    (other,) = signed([Identifier.of(WEST, "other")], key, int(time.time()))
    with _database(league) as db:
        db.execute(f"UPDATE changes SET envelope = ? {_LAST}", (wire.encode_envelope(other),))


def withheld(league: League, _west: Node, _truth: Path) -> None:
    with _database(league) as db:
        db.execute("DELETE FROM changes WHERE position = (SELECT max(position) FROM changes) - 2")


def rolled_back(league: League, _west: Node, truth: Path) -> None:
    _restore(league, truth / "old.db")


def forked(league: League, west: Node, truth: Path) -> None:
    _restore(league, truth / "old.db")
    fill(league, west, 50, first=400)


LIES: list[tuple[Callable[[League, Node, Path], None], str]] = [
    (altered, "is not signed by 86.west"),
    (replaced, "that does not begin with the"),
    (withheld, "is left out of what is shown"),
    (rolled_back, "it was rolled back"),
    (forked, "does not continue the one of"),
]


@contextlib.contextmanager
def _database(league: League) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(league.registry.home / "registry.db")) as db, db:
        yield db


def _save(league: League, path: Path) -> None:
    with _database(league) as db, contextlib.closing(sqlite3.connect(path)) as target:
        db.backup(target)


def _restore(league: League, path: Path) -> None:
    for each in league.registry.home.glob("registry.db*"):
        each.unlink()
    shutil.copy(path, league.registry.home / "registry.db")


def test_a_registry_that_lies_is_named_and_nothing_is_taken_from_it(tmp_path: Path) -> None:
    with League(tmp_path) as league:
        west = league.join(str(WEST), serve=False)
        fill(league, west, 20)
        mirror = Mirror.invited(league)
        mirror.process.start()
        until(lambda: knows(mirror, mirror), "the mirror to be listed")
        mirror.process.kill()
        with (mirror.home / "mirror.toml").open("a") as settings:
            settings.write(f'metrics = "127.0.0.1:{(metrics := free_port())}"\n')
        whole = mirror.position
        mirror.process.start()
        try:
            _save(league, tmp_path / "old.db")
            fill(league, west, 20, first=20)
            until(lambda: mirror.is_as(league.registry.home), "the mirror to have everything")
            position = mirror.position
            league.registry.kill()
            fill(league, west, 5, first=100)
            _save(league, tmp_path / "true.db")
            for lie, named in LIES:
                league.registry.kill()
                _restore(league, tmp_path / "true.db")
                lie(league, west, tmp_path)
                league.registry.start()
                until(lambda named=named: named in mirror.process.stderr, f"the mirror to find {lie.__name__}")
                assert mirror.position == position
                with at(mirror, west) as calls:
                    assert calls.resolve([Identifier.of(WEST, "many-39")])[0].record is not None
                    assert calls.resolve([Identifier.of(WEST, "many-100")])[0].record is None
            # The last of them still lies: once it is away, it is refused no more.
            until(lambda: mirror.status["refused"], "its status to say so")
            assert len(mirror.status["contradictions"]) == 2
            told = scraped(metrics)
            assert (told["refused"], told["contradictions"]) == (1, 2)
            assert told["verified_entries_total"] == position - whole
            assert told["heard_timestamp_seconds"] < time.time()
            refused = mirror.check()
            assert (refused.code, "takes nothing of its registry" in refused.stderr) == (6, True), str(refused)
            assert mirror.process.stderr.count("mirror.refused_the_registry") >= len(LIES)
            league.registry.kill()
            _restore(league, tmp_path / "true.db")
            league.registry.start()
            until(lambda: mirror.is_as(league.registry.home), "the mirror to follow the truth")
            until(lambda: not mirror.status["last_error"], "the mirror to say so")
            told = scraped(metrics)
            assert (told["refused"], told["lag_entries"]) == (0, 0)
            assert time.time() - 60 < told["heard_timestamp_seconds"] <= time.time()
            assert told["certificate_expiry_timestamp_seconds"] == mirror.status["certificate_until"]
            _its_own_database_is_lost(league, mirror)
            _the_registry_is_restored(league, west, mirror, tmp_path)
            _the_registry_is_made_anew(league, mirror, tmp_path)
        finally:
            mirror.process.kill()


def _its_own_database_is_lost(league: League, mirror: Mirror) -> None:
    mirror.process.kill()
    _forget(mirror, "registry.db")
    mirror.process.start()
    assert "mirror.database_lost" in mirror.process.stderr
    assert mirror.is_as(league.registry.home)


def _the_registry_is_restored(league: League, west: Node, mirror: Mirror, folder: Path) -> None:
    """From a backup that is older than what the mirror has: a person decides, and it begins anew."""
    league.registry.kill()
    _restore(league, folder / "old.db")
    league.registry.start()
    until(lambda: "mirror.refused_the_registry" in mirror.process.stderr, "the mirror to notice")
    mirror.process.kill()
    for name in ("registry.db", "known.db"):
        _forget(mirror, name)
    mirror.process.start()
    fill(league, west, 5, first=500)
    until(lambda: mirror.is_as(league.registry.home), "the mirror to follow what was restored")


def _the_registry_is_made_anew(league: League, mirror: Mirror, folder: Path) -> None:
    """At the same address, with other keys: the mirror serves on, and says it in every way."""
    league.registry.kill()
    league.registry.home.rename(folder / "gone")
    address = league.registry.process.address
    league.registry.command("init", "--name", "T", "--root", "86", "--listen", address, "--advertise", address)
    league.registry.start()
    until(lambda: "not of this league" in mirror.process.stderr, "the mirror to notice")
    until(lambda: mirror.status["refused"], "its status to say so")
    assert mirror.check().code == 6
    assert mirror.check("probe").code == 0


def _forget(mirror: Mirror, name: str) -> None:
    for each in mirror.home.glob(f"{name}*"):
        each.unlink()


def scraped(port: int) -> dict[str, float]:
    """What a mirror tells of its following."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60) as answer:
        families = list(text_string_to_metric_families(answer.read().decode()))
    samples = {sample.name: sample.value for family in families for sample in family.samples}
    return {name.removeprefix(_OF): value for name, value in samples.items() if name.startswith(_OF)}
