"""Leases in one process: sealed, read verified, ended by their time, and what the owner then gets."""

import io
import os
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse import limits, wire
from hanse.client.client import Client
from hanse.client.identity import IDENTITY_KEY
from hanse.errors import (
    Conflict,
    HomeInUse,
    HomeUnusable,
    InvalidInput,
    NoSpace,
    NotFound,
    Revoked,
    StorageFailed,
    WrongContent,
)
from hanse.evidence.storage.log import Kind
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier
from hanse.model.papers import Deletion
from hanse.signing import is_signed_by
from hanse.vault import clock as clocks
from hanse.vault import reading
from hanse.vault import vault as vaults
from hanse.wire_papers import decode_deletion
from tests.leasing import Clock, found, grant_to, keys_of, leased
from tests.simulator import Organization, SimulatedLeague

CANARY = b"kenari-7f3a91"
NAME = "ward/kenari-7f3a91-name.csv"
LARGE = CANARY * 400_000  # 5.2 MB: more than comes whole, in many chunks
FOLDER = {NAME: CANARY * 1000, "empty": b"", "large": LARGE, "middle": CANARY * 5000}


@dataclass
class Scene:
    """An owner, and a consumer whose clock the test moves."""

    north: Organization
    client: Client
    clock: Clock
    home: Path

    def read(self, element: str | None = None, id: str = "86.north/trial") -> bytes:
        with self.client.kept(id, element=element) as kept, kept.open(element) as file:
            return file.read()

    def deletions(self) -> list[Deletion]:
        waiting = vaults.undelivered(self.client.evidence)
        assert all(is_signed_by(each, self.client.identity.signing_key.public) for each in waiting)
        assert all(each.payload_type == PayloadType.DELETION for each in waiting)
        return [decode_deletion(each.payload) for each in waiting]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    clock = Clock(time.time)
    with SimulatedLeague() as league:
        north, acme = league.join("86.north"), league.join("86.acme")
        north.wrap("trial", FOLDER, page_elements=2)
        north.wrap("x", LARGE)
        home = acme.home(tmp_path / "home")
        with Client(home, clock=clock) as client:
            client.resolve("86.north/trial")
            yield Scene(north, client, clock, home)


@pytest.mark.parametrize("streams", [1, 3])
def test_what_is_leased_is_read_as_it_was(scene: Scene, streams: int) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    fetched = leased(scene.client, "86.north/trial", grant, streams=streams)
    assert fetched.lease is not None
    assert fetched.lease.complete
    assert abs(fetched.lease.ends_at - time.time() - 3600) < 60
    assert (fetched.elements, fetched.total_bytes) == (4, sum(map(len, FOLDER.values())))
    for name, content in FOLDER.items():
        assert scene.read(name) == content
    with scene.client.open("86.north/trial", "large") as file:
        local = io.BytesIO(LARGE)
        for offset, length in ((0, 10), (len(LARGE) - 5, 10), (12_345, 70_000), (limits.MIB + 1, 3)):
            assert file.seek(offset) == local.seek(offset)
            assert file.read(length) == local.read(length)
        with pytest.raises(io.UnsupportedOperation):
            file.write(b"x")


def test_nothing_of_it_lies_open_on_the_disk(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    assert leased(scene.client, "86.north/trial", grant).lease is not None
    assert scene.read(NAME) == FOLDER[NAME]
    assert not found(scene.home, CANARY, CANARY[:8])
    (key,) = (scene.home / "vault/keys").iterdir()
    assert key.stat().st_mode & 0o777 == 0o600
    assert (scene.home / "vault").stat().st_mode & 0o777 == 0o700
    assert len(found(scene.home, key.read_bytes())) == 1


def test_it_is_read_while_the_owner_and_the_registry_are_away(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    leased(scene.client, "86.north/trial", grant)
    assert scene.north.node is not None
    scene.north.node.stop()
    scene.north.league.stop()
    assert scene.read("middle") == FOLDER["middle"]


def test_chosen_elements_are_leases_of_their_own(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    leased(scene.client, "86.north/trial", grant, "middle")
    leased(scene.client, "86.north/trial", grant, "large", NAME)
    assert scene.read("middle") == FOLDER["middle"]
    assert scene.read(NAME) == FOLDER[NAME]
    with pytest.raises(NotFound, match="no element of that name"):
        scene.read("empty")
    assert len(scene.client.leases()) == 2


def test_the_same_again_is_there_already(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x")
    first = leased(scene.client, "86.north/x", grant)
    again = leased(scene.client, "86.north/x", grant)
    assert again.already_there
    assert again.transferred_bytes == 0
    assert first.lease is not None
    assert again.lease is not None
    assert again.lease.name == first.lease.name


def test_at_its_time_the_key_is_gone_and_the_deletion_is_signed(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial", delete_after=1000)
    leased(scene.client, "86.north/trial", grant)
    (path,) = (scene.home / "vault/keys").iterdir()
    key = path.read_bytes()
    scene.clock.ahead += 940
    assert scene.read("middle") == FOLDER["middle"]
    assert scene.deletions() == []
    scene.clock.ahead += 61
    with pytest.raises(NotFound, match=r"was deleted on .* \(expired\)"):
        scene.read("middle")
    assert not found(scene.home, CANARY, key)
    assert not (scene.home / "vault").exists()
    (deletion,) = scene.deletions()
    assert (str(deletion.owner), str(deletion.consumer), str(deletion.id)) == ("86.north", "86.acme", "86.north/trial")
    assert (deletion.version, deletion.grant, deletion.reason) == (1, grant, "expired")
    assert abs(deletion.deleted_at - scene.clock()) < 60
    with scene.client.evidence.reading() as connection:
        rows = connection.execute("SELECT payload FROM leaf WHERE kind = ?", (Kind.DELETION.value,)).fetchall()
    assert [wire.decode_envelope(row[0]) for row in rows] == vaults.undelivered(scene.client.evidence)


def test_a_lease_never_outlives_its_grant(scene: Scene) -> None:
    until = int(time.time()) + 300
    grant = grant_to(scene.client, scene.north, "x", delete_after=1000, until=until)
    fetched = leased(scene.client, "86.north/x", grant)
    assert fetched.lease is not None
    assert until - 1 <= fetched.lease.ends_at <= until
    scene.clock.ahead += 301
    assert scene.client.leases() == []
    assert not (scene.home / "vault").exists()


def test_whoever_reads_when_it_ends_reads_no_further(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x", delete_after=100)
    leased(scene.client, "86.north/x", grant)
    with scene.client.open("86.north/x") as file:
        assert file.read(10) == LARGE[:10]
        scene.client.vault.end(Identifier.parse("86.north/x"))
        file.seek(2 * limits.MIB)
        with pytest.raises(NotFound, match="asked for"):
            file.read(10)


def test_whoever_reads_when_its_time_comes_reads_no_further(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = grant_to(scene.client, scene.north, "x", delete_after=1000)
    leased(scene.client, "86.north/x", grant)
    with scene.client.open("86.north/x") as file:
        assert file.read(10) == LARGE[:10]
        scene.clock.ahead += 1000
        uptime = clocks.uptime  # which nobody can set goes on as well
        for module in (clocks, reading):
            monkeypatch.setattr(module, "uptime", lambda: uptime() + 1000)
        file.seek(2 * limits.MIB)
        with pytest.raises(NotFound, match="expired"):
            file.read(10)
    assert not (scene.home / "vault").exists()


def test_a_clock_that_is_set_back_prolongs_nothing(scene: Scene) -> None:
    grant, began = grant_to(scene.client, scene.north, "x", delete_after=3600), time.monotonic()
    leased(scene.client, "86.north/x", grant)
    scene.clock.ahead += 3500
    assert len(scene.client.leases()) == 1
    scene.clock.ahead -= 100_000
    (lease,) = scene.client.leases()
    assert -3 - (time.monotonic() - began) < lease.ends_at - scene.clock() - 100 < 3
    scene.clock.ahead += 101
    assert scene.client.leases() == []
    assert [each.reason for each in scene.deletions()] == ["expired"]


def test_a_clock_that_was_ahead_for_a_while_does_not_stop_later_leases(scene: Scene) -> None:
    first, second = (grant_to(scene.client, scene.north, name, delete_after=100) for name in ("x", "trial"))
    leased(scene.client, "86.north/x", first)
    scene.clock.ahead += 50
    leased(scene.client, "86.north/trial", second)
    scene.clock.ahead += 10
    scene.client.leases()
    scene.clock.ahead += 1_000_000
    assert scene.client.leases() == []
    scene.clock.ahead -= 1_000_000
    began = time.monotonic()
    leased(scene.client, "86.north/x", first)
    (lease,) = scene.client.leases()
    assert -3 - (time.monotonic() - began) < lease.ends_at - scene.clock() - 100 < 3
    scene.clock.ahead += 101
    assert scene.client.leases() == []


def test_a_revoked_grant_ends_its_leases(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x")
    leased(scene.client, "86.north/x", grant)
    scene.client.evidence.change(
        lambda change: change.connection.execute("UPDATE grant_ SET revoked_at = 1 WHERE digest = ?", (grant,))
    )
    with pytest.raises(Revoked, match="revoked the grant"):
        scene.read(id="86.north/x")
    assert [each.reason for each in scene.deletions()] == ["revoked"]
    assert not found(scene.home, CANARY)


def test_it_is_ended_when_somebody_asks(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x", "trial")
    leased(scene.client, "86.north/x", grant)
    leased(scene.client, "86.north/trial", grant)
    assert scene.client.vault.end(Identifier.parse("86.north/x")) == 1
    assert [str(each.id) for each in scene.client.leases()] == ["86.north/trial"]
    assert [(str(each.id), each.reason) for each in scene.deletions()] == [("86.north/x", "asked for")]
    assert scene.client.vault.end(Identifier.parse("86.north/x")) == 0


@pytest.mark.parametrize("where", ["data/0/2", "data/0/0", "leaves/2", "head", "pages"])
def test_a_flipped_bit_is_found(scene: Scene, where: str) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    fetched = leased(scene.client, "86.north/trial", grant)
    assert fetched.lease is not None
    path = scene.home / "vault" / fetched.lease.name / where
    data = bytearray(path.read_bytes())
    for at in range(0, len(data), max(1, len(data) // 40)):
        data[at] ^= 1 << at % 8
        path.write_bytes(data)
        with pytest.raises(WrongContent, match="damaged on this disk"):
            list(map(scene.read, FOLDER))
        data[at] ^= 1 << at % 8
    path.write_bytes(data)
    assert all(scene.read(name) == content for name, content in FOLDER.items())


def test_a_file_that_was_cut_off_is_found(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x")
    fetched = leased(scene.client, "86.north/x", grant)
    assert fetched.lease is not None
    os.truncate(scene.home / "vault" / fetched.lease.name / "data/0/0", len(LARGE) - 1)
    with pytest.raises(WrongContent, match="damaged"):
        scene.read(id="86.north/x")


def test_an_interrupted_fetch_goes_on_under_the_same_lease(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    node = scene.north.node
    assert node is not None
    node.message_bytes = 20_000

    def interrupted(parts: Iterator[bytes]) -> Iterator[bytes]:
        for number, part in enumerate(parts):
            if number == 100:
                raise Conflict("enough")
            yield part

    node.lies["fetch"] = interrupted
    with pytest.raises(Conflict):
        leased(scene.client, "86.north/trial", grant)
    (begun,) = scene.client.leases()
    assert not begun.complete
    with pytest.raises(NotFound):
        scene.read("large")
    assert not found(scene.home, CANARY)
    node.lies.clear()
    fetched = leased(scene.client, "86.north/trial", grant)
    assert fetched.lease is not None
    assert fetched.lease.name == begun.name
    assert fetched.resumed_bytes > 1_000_000
    assert all(scene.read(name) == content for name, content in FOLDER.items())


def test_what_was_begun_and_left_ends_too(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial", delete_after=100)
    node = scene.north.node
    assert node is not None

    def refused(parts: Iterator[bytes]) -> Iterator[bytes]:
        raise Conflict("no")
        yield b""

    node.lies["fetch"] = refused
    with pytest.raises(Conflict):
        leased(scene.client, "86.north/trial", grant)
    assert len(scene.client.leases()) == 1
    scene.clock.ahead += 101
    assert scene.client.leases() == []
    assert not (scene.home / "vault").exists()
    assert len(scene.deletions()) == 1


def test_a_new_client_sweeps_before_anything_else(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x", delete_after=100)
    leased(scene.client, "86.north/x", grant)
    scene.clock.ahead += 101
    assert (scene.home / "vault").exists()
    with Client(scene.home, clock=scene.clock):
        assert not (scene.home / "vault").exists()


def test_what_belongs_to_no_lease_is_removed(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x")
    leased(scene.client, "86.north/x", grant)
    vault = scene.home / "vault"
    (vault / "keys" / ("0" * 32)).write_bytes(b"k" * 32)
    (vault / ("0" * 32) / "data").mkdir(parents=True)
    (vault / "keys" / "folder").mkdir()
    (vault / "file").write_bytes(b"x")
    scene.client.vault.sweep()
    assert len(list((vault / "keys").iterdir())) == 1
    assert len(list(vault.iterdir())) == 2
    assert scene.read(id="86.north/x") == LARGE


def test_on_a_full_disk_the_key_goes_all_the_same(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    grant = grant_to(scene.client, scene.north, "x", delete_after=100)
    leased(scene.client, "86.north/x", grant)
    scene.client.leases()
    scene.clock.ahead += 101
    vault = scene.client.vault
    seen = vault.seen()
    monkeypatch.setattr(vault, "seen", lambda: seen)

    def full(_: object) -> None:
        raise NoSpace("no space left on the disk")

    with monkeypatch.context() as failing:
        failing.setattr(scene.client.evidence, "change", full)
        with pytest.raises(NoSpace):
            vault.sweep()
        assert not keys_of(scene.home)
        assert not scene.deletions()
    vault.sweep()
    assert not (scene.home / "vault").exists()
    assert len(scene.deletions()) == 1


def test_without_the_passphrase_the_key_goes_and_the_word_of_it_follows(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    grant = grant_to(scene.client, scene.north, "x", delete_after=100)
    leased(scene.client, "86.north/x", grant)
    scene.client.identity.home.write_secret(IDENTITY_KEY, scene.client.identity.signing_key.to_pem("secret"))
    scene.clock.ahead += 101
    with pytest.raises(HomeUnusable, match="HANSE_PASSPHRASE"):
        Client(scene.home, clock=scene.clock)
    assert not keys_of(scene.home)
    assert not found(scene.home, CANARY)
    assert not scene.deletions()
    monkeypatch.setenv("HANSE_PASSPHRASE", "secret")
    Client(scene.home, clock=scene.clock).close()
    assert not (scene.home / "vault").exists()
    assert [each.reason for each in scene.deletions()] == ["expired"]


def test_many_who_sweep_at_once_sign_once(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x", "trial", delete_after=100)
    for element in (NAME, "middle", "large"):
        leased(scene.client, "86.north/trial", grant, element)
    scene.clock.ahead += 101
    with ThreadPoolExecutor(8) as pool:
        clients = list(pool.map(lambda _: Client(scene.home, clock=scene.clock), range(8)))
    for each in clients:
        each.close()
    assert not (scene.home / "vault").exists()
    assert len(scene.deletions()) == 3


def test_the_same_is_not_fetched_twice_at_once(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x")
    node, met = scene.north.node, []
    assert node is not None

    def meanwhile(parts: Iterator[bytes]) -> Iterator[bytes]:
        with pytest.raises(HomeInUse, match="another process is fetching"):
            leased(scene.client, "86.north/x", grant)
        met.append(True)
        yield from parts

    node.lies["fetch"] = meanwhile
    leased(scene.client, "86.north/x", grant)
    assert met
    assert scene.read(id="86.north/x") == LARGE


def test_a_fetch_that_is_ended_while_it_runs_keeps_nothing(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    node = scene.north.node
    assert node is not None
    node.message_bytes = 20_000

    def ended(parts: Iterator[bytes]) -> Iterator[bytes]:
        for number, part in enumerate(parts):
            if number == 100:
                assert scene.client.vault.end(Identifier.parse("86.north/trial")) == 1
            yield part

    node.lies["fetch"] = ended
    with pytest.raises((NotFound, StorageFailed)):
        leased(scene.client, "86.north/trial", grant)
    scene.client.vault.sweep()
    assert not (scene.home / "vault").exists()
    assert not found(scene.home, CANARY)
    assert [each.reason for each in scene.deletions()] == ["asked for"]


def test_two_copies_that_end_in_one_second_are_one_paper(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "trial")
    for element in ("empty", "middle", NAME):
        leased(scene.client, "86.north/trial", grant, element)
    assert scene.client.vault.end(Identifier.parse("86.north/trial")) == 3
    evidence = scene.client.evidence
    logged = [leaf.payload for leaf in evidence.leaves() if leaf.kind == Kind.DELETION]
    assert len(logged) == len(set(logged))
    vaults.delivered(evidence, vaults.undelivered(evidence))
    assert vaults.undelivered(evidence) == []


def test_deletions_are_listed_until_their_owner_has_them(scene: Scene) -> None:
    grant = grant_to(scene.client, scene.north, "x", "trial")
    for id in ("86.north/x", "86.north/trial"):
        leased(scene.client, id, grant)
        scene.client.vault.end(Identifier.parse(id))
    evidence = scene.client.evidence
    first, second = vaults.undelivered(evidence, scene.north.prefix)
    assert vaults.owners_waiting(evidence) == [scene.north.prefix]
    assert vaults.undelivered(evidence, scene.client.identity.prefix) == []
    vaults.delivered(evidence, [first])
    assert vaults.undelivered(evidence) == [second]
    vaults.delivered(evidence, [first, second])
    assert vaults.owners_waiting(evidence) == []


def test_no_file_is_written_for_what_is_leased(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grant_to(scene.client, scene.north, "x")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InvalidInput, match="kept in the vault of this home"):
        scene.client.fetch("86.north/x", tmp_path / "out")
    fetched = scene.client.fetch("86.north/x")
    assert fetched.lease is not None
    assert fetched.path == scene.home / "vault" / fetched.lease.name
    assert {each.name for each in tmp_path.iterdir()} == {"home"}
