"""Leases between real nodes: what is to be deleted is deleted, whatever is killed, and its owner is told so.

Searched is every file of the consumer's home and of its folder for temporary files, names of files included: for
words of the content, words of elements' names, and the bytes of the vault's keys. What a disk keeps of files that
were removed is not searched (THREATS.md).
"""

import contextlib
import os
import random
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.breaking import wrong_clock
from tests.forking import fork
from tests.leasing import PURPOSE, deletions_at, found, keys_of, wrap_leased
from tests.processes import ROOT, League, Node, begin, environment, until

pytestmark = [pytest.mark.federation, pytest.mark.timeout(900), pytest.mark.xdist_group("leases")]

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
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            done = begin(argv, out.fileno(), err.fileno(), environment()).wait(90)
            for file in (out, err):
                file.seek(0)
            assert done == 0, err.read().decode()
            return out.read()


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
    id = scene.wrapped(life := 40)  # seconds, for all that is looked at while it is there
    scene.acme.start()
    refused = scene.acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "out", expect=2)
    assert "kept in the vault of this home" in refused.stderr
    told = scene.acme.command("fetch", id, "--purpose", PURPOSE).stdout
    fetched_at = time.time()
    assert f"`hanse open {id}`" in told
    assert "kept in the vault" in told
    (lease,) = scene.acme.lines("leases")
    assert (lease["id"], lease["state"], lease["enforced"]) == (id, "kept", "by the consumer's node")
    assert abs(lease["until"] - fetched_at - life) < 15

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

    until(lambda: not (scene.acme.home / "vault").exists(), "the vault to be emptied")
    assert lease["until"] - 1 <= time.time() <= lease["until"] + 20
    assert not scene.traces(*keys)
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert (str(deletion.id), deletion.reason, str(deletion.consumer)) == (id, "expired", "86.acme")
    assert abs(deletion.deleted_at - lease["until"]) <= 20
    until(lambda: scene.acme.lines("leases") == [], "the deletion to be noted as delivered")
    (seen,) = scene.north.lines("leases", "--reported")
    assert (seen["id"], seen["peer"], seen["reason"], seen["grant"]) == (id, "86.acme", "expired", lease["grant"])
    (received,) = until(
        lambda: [each for each in scene.acme.lines("receipts") if each["state"] == "both"], "the receipt to be settled"
    )
    assert received["grant"] == lease["grant"]
    gone = scene.acme.command("open", id, "--element", "small", expect=3)
    assert "was deleted on" in gone.stderr


def test_it_is_read_while_the_owner_and_the_registry_are_away(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    scene.north.kill()
    scene.league.registry.kill()
    started = time.monotonic()
    assert scene.read(id, NAME) == ROWS
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("first", [["list"], ["status"], ["leases"], ["serve"]])
def test_what_expired_while_nothing_ran_is_destroyed_by_the_first_command(scene: Scene, first: list[str]) -> None:
    id = scene.wrapped(8)
    scene.fetch(id)
    keys = keys_of(scene.acme.home)
    assert len(keys) == 1
    time.sleep(8.5)
    assert keys_of(scene.acme.home) == keys
    if first == ["serve"]:
        scene.acme.start()
        until(lambda: not (scene.acme.home / "vault").exists(), "the daemon to sweep")
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
    until(lambda: not (scene.acme.home / "vault").exists(), "the vault to be emptied")
    assert not scene.traces(*keys)
    (deletion,) = until(lambda: deletions_at(scene.north), "the owner to be told")
    assert (str(deletion.id), deletion.reason) == (id, "revoked")
    assert "revoked" in scene.acme.command("open", id, expect=4).stderr


def test_whoever_reads_without_a_daemon_learns_of_a_revocation(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    (held,) = scene.acme.lines("grants", "--held")
    scene.north.command("revoke", held["grant"])
    # Each asks for two seconds: a machine that is too busy to answer within them tells the next.
    refused = until(lambda: (done := scene.acme.command("open", id, expect=None)).code and done, "it to be learned of")
    assert (refused.code, refused.stdout) == (4, ""), str(refused)
    assert not (scene.acme.home / "vault").exists()


def test_it_is_deleted_when_somebody_asks(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    keys = keys_of(scene.acme.home)
    told = scene.acme.command("leases", "--delete", id)
    assert "86.north is told so" in told.stderr
    assert not scene.traces(*keys)
    assert not (scene.acme.home / "vault").exists()
    scene.acme.command("leases", "--delete", id, expect=3)
    (deletion,) = deletions_at(scene.north)
    assert deletion.reason == "asked for"
    assert scene.acme.lines("leases") == []


def test_a_fetch_that_is_killed_again_and_again_leaves_nothing_open_and_goes_on(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    whole = 1e9
    for _ in range(2):
        began = time.monotonic()
        scene.fetch(id)
        whole = min(whole, time.monotonic() - began)
        scene.acme.command("leases", "--delete", id)
    chance, kills, number = random.Random(11), 0, 0
    while kills < 8:
        number += 1
        assert number < 60, f"{kills} kills"
        process = scene.acme.begin(f"fetch{number}", "fetch", id, "--purpose", PURPOSE)
        slept = chance.uniform(0, 1) * whole
        time.sleep(slept)
        process.send(signal.SIGKILL)
        kills += process.wait() == -signal.SIGKILL
        assert not scene.traces()
        if process.code == 0:
            whole = min(whole, slept)  # the machine is faster by now
            scene.acme.command("leases", "--delete", id)
    scene.fetch(id)
    assert scene.read(id, "large") == LARGE
    (lease,) = [each for each in scene.acme.lines("leases") if each["state"] == "kept"]
    assert lease["id"] == id
    assert not scene.traces()
    scene.acme.command("leases", "--delete", id)
    assert not (scene.acme.home / "vault").exists()


def test_a_clock_that_is_set_back_two_days_prolongs_nothing(scene: Scene) -> None:
    id = scene.wrapped(life := 20)
    scene.fetch(id)
    fetched_at = time.monotonic()
    keys = keys_of(scene.acme.home)
    late = Node(scene.acme.prefix, scene.acme.home, scene.folder.parent / "late", **wrong_clock(-2))
    late.command("list")
    assert keys_of(scene.acme.home) == keys
    time.sleep(max(0.0, fetched_at + life + 0.5 - time.monotonic()))
    late.command("list")
    assert not (scene.acme.home / "vault").exists()
    assert not scene.traces(*keys)


def test_a_daemon_that_is_killed_when_something_expires_has_it_finished_by_the_next(
    scene: Scene, tmp_path: Path
) -> None:
    id = scene.wrapped(8)
    scene.fetch(id)
    (key,) = keys_of(scene.acme.home)
    home, copy, chance = scene.acme.home, tmp_path / "copy", random.Random(5)
    shutil.copytree(home, copy)
    time.sleep(8.5)
    for _ in range(5):
        restored(home, copy)
        scene.acme.process.start(wait=False)
        until(lambda: not keys_of(home), "the daemon to sweep") if chance.random() < 0.5 else time.sleep(
            chance.random()
        )
        scene.acme.kill()
        assert not (keys_of(home) == [key] and signed(home))
        scene.acme.start()
        until(lambda: signed(home) == 1 and not (home / "vault").exists(), "the next daemon to finish")
        assert not scene.traces(key)
        scene.acme.kill()
        assert signed(home) == 1


def test_it_is_not_written_to_a_terminal_unasked(scene: Scene) -> None:
    id = scene.wrapped(LONG)
    scene.fetch(id)
    argv = [sys.executable, "-m", "node.cli", "open", id, "--element", "small", "--home", str(scene.acme.home)]
    for more, code, shown in (((), 2, False), (("-o", "-"), 0, True)):
        ours, theirs = os.openpty()
        with subprocess.Popen(
            [*argv, *more], stdout=theirs, stderr=subprocess.PIPE, cwd=ROOT, env=environment()
        ) as process:  # fmt: skip
            os.close(theirs)
            seen = b""
            with contextlib.suppress(OSError):  # the terminal's end
                while part := os.read(ours, 4096):
                    seen += part
            os.close(ours)
            assert process.wait(90) == code
        assert (MARK.encode() in seen) == shown


# Of the sweep's own work: the key is overwritten and removed, files are removed, rows and leaves are committed.
INSTANTS = [
    *(("fsync", number) for number in (1, 2, 3)),
    ("unlink", 1),
    *(("unlinkat", number) for number in (1, 3, 6)),
    *(("rmdir", number) for number in (1, 2, 3)),
    *(("fdatasync", number) for number in (1, 2, 3, 4, 5, 6)),
    *(("pwrite64", number) for number in (2, 4, 6, 8, 11, 14)),
]


def killed_at(home: Path, call: str, number: int, *arguments: str) -> bool:
    """A command of which each thread is killed at its n-th such system call; whether any came so far."""
    with tempfile.TemporaryFile() as said:
        process = fork(
            "node.cli", [*arguments, "--home", str(home)], stdout=said.fileno(), stderr=said.fileno(),
            env=environment(), cwd=ROOT, traced=True,
        )  # fmt: skip
        strace = ["strace", "-f", "-qq", "-o", os.devnull, "-e", f"trace={call}", "-p", str(process.pid)]
        try:
            subprocess.run(
                [*strace, "-e", f"inject={call}:signal=SIGKILL:when={number}"], check=True, timeout=100
            )  # fmt: skip
            code = process.wait(90)
        finally:
            process.kill()
        said.seek(0)
        assert code in (0, -signal.SIGKILL), said.read().decode()
        return code != 0


def restored(home: Path, copy: Path) -> None:
    """The home as it was."""
    shutil.rmtree(home)
    shutil.copytree(copy, home)


def signed(home: Path) -> int:
    """Deletions in the consumer's own log."""
    with contextlib.closing(sqlite3.connect(home / "evidence.db")) as connection:
        return int(connection.execute("SELECT count(*) FROM leaf WHERE kind = 'deletion'").fetchone()[0])


def test_a_sweep_that_is_killed_anywhere_is_finished_by_the_next(scene: Scene, tmp_path: Path) -> None:
    id = scene.wrapped(8)
    scene.fetch(id)
    (key,) = keys_of(scene.acme.home)
    home, copy = scene.acme.home, tmp_path / "copy"
    shutil.copytree(home, copy)
    time.sleep(8.5)
    between = set()
    for call, number in INSTANTS:
        restored(home, copy)
        if not killed_at(home, call, number, "list"):
            assert (keys_of(home), signed(home)) == ([], 1)
            continue
        key_is_there, told = keys_of(home) == [key], signed(home)
        assert not (key_is_there and told), f"signed before the key was gone: {call} {number}"
        between.add((bool(keys_of(home)), told))
        scene.acme.command("list")
        assert not (home / "vault").exists(), f"{call} {number}"
        assert not scene.traces(key), f"{call} {number}"
        assert signed(home) == 1, f"{call} {number}"
    # The kills fell before the key was gone, between that and the signature, and after it.
    assert between == {(True, 0), (False, 0), (False, 1)}


def test_a_fetch_that_is_killed_at_any_of_its_first_steps_leaves_nothing_in_the_open(
    scene: Scene, tmp_path: Path
) -> None:
    id = scene.wrapped(LONG)
    scene.acme.command("grants")
    home, copy = scene.acme.home, tmp_path / "copy"
    shutil.copytree(home, copy)
    killed = 0
    for call, number in (("fsync", 1), ("fsync", 2), ("mkdir", 2), ("mkdir", 3), ("flock", 2), ("fdatasync", 3)):
        restored(home, copy)
        killed += killed_at(home, call, number, "fetch", id, "--purpose", PURPOSE)
        keys = keys_of(home)
        assert not scene.traces()
        scene.fetch(id)
        assert scene.read(id, NAME) == ROWS
        scene.acme.command("leases", "--delete", id)
        assert not (home / "vault").exists()
        assert not scene.traces(*[each for each in keys if len(each) == 32])
    assert killed >= 4
