"""Leases between real nodes: what is to be deleted is deleted, whatever is killed, and its owner is told so.

Searched is every file of the consumer's home and of its folder for temporary files, names of files included: for
words of the content, words of elements' names, and the bytes of the vault's keys. What a disk keeps of files that
were removed is not searched (THREATS.md).
"""

import os
import random
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.leasing import PURPOSE, deletions_at, found, keys_of, wrap_leased
from tests.processes import ROOT, League, Node, environment, until

pytestmark = [pytest.mark.federation, pytest.mark.timeout(300), pytest.mark.xdist_group("leases")]

MARK = f"kenari{secrets.token_hex(5)}"
CANARIES = (MARK.encode(), b"Haematokrit 0,44")
NAME = f"ward/{MARK}-b.csv"
ROWS = (f"{MARK},Haematokrit 0,44\n" * 20_000).encode()
LARGE = ROWS * 12  # 8 MB and more: comes in chunks
LONG = 3600


@dataclass
class Scene:
    """An owner that serves, and a consumer whose temporary files are in ``temporary``."""

    league: League
    north: Node
    acme: Node
    temporary: Path
    folder: Path

    def wrapped(self, seconds: int) -> str:
        """A folder with the canary in names and contents."""
        return wrap_leased(self.north, self.folder, f"trial-{secrets.token_hex(3)}", seconds)

    def fetch(self, id: str, *more: object) -> None:
        self.acme.command("fetch", id, "--purpose", PURPOSE, *more)

    def traces(self, *more: bytes) -> list[tuple[Path, bytes]]:
        return [*found(self.acme.home, *CANARIES, *more), *found(self.temporary, *CANARIES, *more)]

    def read(self, id: str, name: str) -> bytes:
        argv = [sys.executable, "-m", "node.cli", "open", id, "--element", name, "--home", str(self.acme.home)]
        done = subprocess.run(argv, capture_output=True, cwd=ROOT, env=environment(), check=False, timeout=60)
        assert done.returncode == 0, done.stderr.decode()
        return done.stdout


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    temporary, folder = tmp_path / "temporary", tmp_path / "data"
    temporary.mkdir()
    for name, content in ((NAME, ROWS), ("large", LARGE), ("small", ROWS[:100])):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    with League(tmp_path / "league") as league:
        north = league.join("86.north")
        acme = league.join("86.acme", serve=False, TMPDIR=str(temporary))
        yield Scene(league, north, acme, temporary, folder)


def test_what_is_leased_is_kept_read_and_gone_in_time(scene: Scene, tmp_path: Path) -> None:
    id = scene.wrapped(12)
    scene.acme.start()
    refused = scene.acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "out", expect=2)
    assert "kept in the vault of this home" in refused.stderr
    told = scene.acme.command("fetch", id, "--purpose", PURPOSE).stdout
    fetched_at = time.time()
    assert f"`hanse open {id}`" in told
    assert "kept in the vault" in told
    (lease,) = scene.acme.lines("leases")
    assert (lease["id"], lease["state"], lease["enforced"]) == (id, "kept", "by the consumer's node")
    assert abs(lease["until"] - fetched_at - 12) < 5

    listed = scene.acme.json("open", id)
    assert {each["name"]: each["bytes"] for each in listed["elements"]} == {
        NAME: len(ROWS), "large": len(LARGE), "small": 100,
    }  # fmt: skip
    assert scene.read(id, "large") == LARGE
    refused = scene.acme.command("open", id, "--element", NAME, "-o", tmp_path / "out", expect=2)
    assert "does not leave the vault" in refused.stderr
    assert not scene.traces()
    keys = keys_of(scene.acme.home)
    assert len(keys) == 1

    until(lambda: not (scene.acme.home / "vault").exists(), "the vault to be emptied", 40)
    assert lease["until"] - 1 <= time.time() <= lease["until"] + 6
    assert not scene.traces(*keys)
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert (str(deletion.id), deletion.reason, str(deletion.consumer)) == (id, "expired", "86.acme")
    assert abs(deletion.deleted_at - lease["until"]) <= 6
    until(lambda: scene.acme.lines("leases") == [], "the deletion to be noted as delivered")
    gone = scene.acme.command("open", id, "--element", "small", expect=3)
    assert "was deleted on" in gone.stderr


def test_it_is_read_while_the_owner_and_the_registry_are_away(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    scene.north.kill()
    scene.league.registry.kill()
    started = time.monotonic()
    assert scene.read(id, NAME) == ROWS
    assert time.monotonic() - started < 15


@pytest.mark.parametrize("first", [["list"], ["status"], ["leases"], ["serve"]])
def test_what_expired_while_nothing_ran_is_destroyed_by_the_first_command(scene: Scene, first: list[str]) -> None:
    id = scene.wrapped(3)
    scene.fetch(id)
    keys = keys_of(scene.acme.home)
    assert len(keys) == 1
    time.sleep(4)
    assert keys_of(scene.acme.home) == keys
    if first == ["serve"]:
        scene.acme.start()
        until(lambda: not (scene.acme.home / "vault").exists(), "the daemon to sweep", 10)
    else:
        scene.acme.command(*first)
    assert not (scene.acme.home / "vault").exists()
    assert not scene.traces(*keys)
    if first != ["serve"]:
        assert [each["reason"] for each in scene.acme.lines("leases")] in (["expired"], [])
        scene.acme.start()
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert (str(deletion.id), deletion.reason) == (id, "expired")


def test_a_revocation_destroys_within_seconds(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.acme.start()
    scene.fetch(id)
    keys = keys_of(scene.acme.home)
    (held,) = scene.acme.lines("grants", "--held")
    scene.north.command("revoke", held["grant"])
    until(lambda: not (scene.acme.home / "vault").exists(), "the vault to be emptied", 20)
    assert not scene.traces(*keys)
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert (str(deletion.id), deletion.reason) == (id, "revoked")
    assert "revoked" in scene.acme.command("open", id, expect=4).stderr


def test_whoever_reads_without_a_daemon_learns_of_a_revocation(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    (held,) = scene.acme.lines("grants", "--held")
    scene.north.command("revoke", held["grant"])
    assert scene.acme.command("open", id, expect=4).stdout == ""
    assert not (scene.acme.home / "vault").exists()


def test_it_is_deleted_when_somebody_asks(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    keys = keys_of(scene.acme.home)
    scene.acme.command("leases", "--delete", id)
    assert not scene.traces(*keys)
    assert not (scene.acme.home / "vault").exists()
    scene.acme.command("leases", "--delete", id, expect=3)
    scene.acme.start()
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert deletion.reason == "asked for"


def test_a_fetch_that_is_killed_again_and_again_leaves_nothing_open_and_goes_on(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    chance, kills, names = random.Random(11), 0, set()
    for number in range(12):
        process = scene.acme.begin(f"fetch{number}", "fetch", id, "--purpose", PURPOSE)
        time.sleep(0.45 + 0.05 * number + chance.random() * 0.05)
        if process.running:
            process.send(signal.SIGKILL)
            kills += 1
        process.wait()
        assert not scene.traces()
        if (scene.acme.home / "vault/keys").exists():
            names |= {path.name for path in (scene.acme.home / "vault/keys").iterdir()}
    assert kills >= 4
    scene.fetch(id)
    assert scene.read(id, "large") == LARGE
    (lease,) = [each for each in scene.acme.lines("leases") if each["state"] == "kept"]
    assert lease["id"] == id
    assert not scene.traces()
    scene.acme.command("leases", "--delete", id)
    assert not (scene.acme.home / "vault").exists()


CALLS = "fsync,fdatasync,pwrite64,write,unlink,unlinkat,rmdir,openat,mkdir,flock"


def killed_at(node: Node, call: int, *arguments: str) -> bool:
    """A command that is killed at one of its system calls of CALLS; whether it came so far."""
    argv = [
        "strace", "-f", "-o", os.devnull, "-e", f"trace={CALLS}", "-e", f"inject={CALLS}:signal=SIGKILL:when={call}",
        "-P", str(node.home / "vault"), "-P", str(node.home / "evidence.db"),
        sys.executable, "-m", "node.cli", *arguments, "--home", str(node.home),
    ]  # fmt: skip
    done = subprocess.run(argv, capture_output=True, cwd=ROOT, env=environment(), check=False, timeout=100)
    return done.returncode != 0
