"""What PostgreSQL adds to the contract: several processes, and everything that a network, a power cut and a disk do."""

import contextlib
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from hanse import merkle
from hanse.errors import HomeUnusable, NoSpace, Overloaded
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from registry.progress import Steps
from registry.storage import postgres_connections, postgres_migrations
from registry.storage.base import Storage, transact
from registry.storage.postgres import PostgresStorage
from tests.contract.stores import NEXT_STEP, SHARED, new, put
from tests.postgres import Cuttable, Postgres
from tests.processes import Process, until


@pytest.fixture
def dsn(postgres: Postgres) -> str:
    return postgres.database()


@pytest.fixture
def opened() -> Iterator[Callable[[str], PostgresStorage]]:
    storages: list[PostgresStorage] = []

    def opening(dsn: str) -> PostgresStorage:
        storages.append(PostgresStorage(dsn))
        return storages[-1]

    yield opening
    for each in storages:
        each.close()


class Writers:
    """Processes that store until they are told to stop."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: list[Process] = []

    def start(self, dsn: str, name: str, *version: str) -> Process:
        go_on = self._folder / name
        go_on.touch()
        process = Process(name, self._folder / "logs", "tests.contract.stores", dsn, str(go_on), *version)
        self._processes.append(process.start())
        return process

    def acknowledged(self) -> dict[str, bytes]:
        # The last line may be there in part: a file is read while it is written.
        lines = [line for each in self._processes for line in each.stdout.rpartition("\n")[0].splitlines()[1:]]
        told = [line.split() for line in lines]
        return {key: bytes.fromhex(digest) for key, digest in told}

    def until(self, count: int) -> None:
        """So many more are acknowledged."""
        before = len(self.acknowledged())
        until(lambda: len(self.acknowledged()) >= before + count, f"{count} more records")

    def end(self) -> dict[str, bytes]:
        for each in self._processes:
            (self._folder / each.name).unlink()
        for each in self._processes:
            assert each.wait(90) == 0, each.everything
        return self.acknowledged()

    def kill(self) -> None:
        for each in self._processes:
            each.kill()


@pytest.fixture
def writers(tmp_path: Path) -> Iterator[Writers]:
    made = Writers(tmp_path)
    yield made
    made.kill()


def assert_one_log(storage: Storage, acknowledged: dict[str, bytes]) -> None:
    """Everything acknowledged is there once, in one order without gaps, under one root."""
    head = storage.head()
    leaves = storage.leaves(0, head.size)
    assert len(leaves) == head.size
    assert head.root == merkle.root(map(merkle.leaf_hash, leaves))
    found: dict[tuple[str, int], int] = {}
    changes = storage.changes(0, head.size + 1, 1 << 40)
    assert [each.position for each in changes] == list(range(1, head.size + 1))
    for each in changes:
        key, version, _ = each.content.split(b" ", 2)
        assert (key.decode(), int(version)) not in found
        found[key.decode(), int(version)] = each.position
    with storage.writing() as writing:
        stored = writing.stored(list(acknowledged))
    assert {key: each.digest for key, each in stored.items()} == acknowledged
    versions = [version for key, version in found if key == SHARED]
    assert versions == list(range(1, len(versions) + 1))
    assert storage.problems() == []


def test_given_two_processes_of_four_threads_then_there_is_one_log(dsn, opened, writers):
    storage = opened(dsn)
    stamp = storage.stamp()
    for name in ("one", "other"):
        writers.start(dsn, name)
    writers.until(600)
    assert storage.stamp() != stamp
    assert_one_log(storage, writers.end())


def test_given_programs_of_two_schema_versions_when_both_publish_then_there_is_one_log(
    dsn, opened, writers, monkeypatch
):
    older = opened(dsn)
    writers.start(dsn, "older")
    writers.until(100)
    writers.start(dsn, "newer", "newer")
    writers.until(200)
    until(lambda: any("newer" in key for key in writers.acknowledged()), "a record of the newer one")
    later = opened(dsn)  # an older program that is started after the upgrade
    assert later._rows("SELECT version FROM schema_version") == [(len(postgres_migrations.STEPS) + 1,)]
    put(later, [new("86.north/later")])
    acknowledged = writers.end()
    assert any(".newer." in key or "newer" in key for key in acknowledged)
    assert_one_log(older, acknowledged)
    # A step that takes something away, long after.
    removal = postgres_migrations.Step(len(postgres_migrations.STEPS) + 2, "ALTER TABLE members DROP COLUMN nickname")
    with monkeypatch.context() as patch:
        patch.setattr(postgres_migrations, "STEPS", (*postgres_migrations.STEPS, NEXT_STEP, removal))
        put(opened(dsn), [new("86.north/newest")])
    for refused in (lambda: opened(dsn), lambda: put(older, [new("86.north/no")])):
        with pytest.raises(HomeUnusable, match="install the newer hanse-registry"):
            refused()
    assert set(older.resolve(["86.north/newest", "86.north/no"])) == {"86.north/newest"}


@pytest.mark.timeout(900)  # it waits for many a sync to the disk
def test_given_a_server_that_is_killed_in_commits_then_what_was_acknowledged_is_there_once(opened, writers):
    with Postgres() as server:
        dsn = server.database()
        storage = opened(dsn)
        for name in ("one", "other"):
            writers.start(dsn, name)
        for _ in range(3):
            writers.until(40)
            server.kill()
            began = time.monotonic()
            with pytest.raises(Overloaded):
                storage.head()
            assert time.monotonic() - began < 60
            server.start()
        writers.until(40)
        assert_one_log(storage, writers.end())
        storage.close()
        server.stop()
        server.start(fsync="off")
        with pytest.raises(HomeUnusable, match="fsync = off"):
            opened(dsn)


def test_given_a_connection_that_is_cut_or_stalls_then_it_is_told_soon_and_heals(postgres, dsn, opened, monkeypatch):
    monkeypatch.setitem(postgres_connections._SESSION, "idle_in_transaction_session_timeout", "1500")
    near, way = opened(dsn), Cuttable(postgres.port)
    far = opened(dsn.replace(f":{postgres.port}", f":{way.port}") + "?connect_timeout=2")
    put(far, [new("86.north/1")])
    monkeypatch.setattr(postgres_connections.Connection, "patience", 1.0)  # to make the tables may take longer
    for number, end in enumerate((way.cut, way.stall), 2):
        with pytest.raises(Overloaded), far.writing() as writing:  # noqa: PT012
            writing.members()  # it has the lock that every writer needs
            end()
            writing.put_records([new(f"86.north/lost{number}")])
        for refused in (far.head, lambda: far.resolve(["86.north/1"])):
            began = time.monotonic()
            with pytest.raises(Overloaded):
                refused()
            assert time.monotonic() - began < 60
        put(near, [new(f"86.north/near{number}")])  # the server took the lock away from who is gone
        way.heal()
        put(far, [new(f"86.north/{number}")])
        assert far.head() == near.head()
    assert near.resolve(["86.north/lost2", "86.north/lost3"]) == {}
    way.close()


def test_given_a_thread_that_waits_for_a_database_that_is_away_then_it_goes_on(postgres, dsn, opened, monkeypatch):
    way, steps, told = Cuttable(postgres.port), Steps(), []
    far = opened(dsn.replace(f":{postgres.port}", f":{way.port}") + "?connect_timeout=2")
    put(far, [new("86.north/1")])
    monkeypatch.setattr(postgres_connections.Connection, "patience", 0.5)
    way.stall()

    def ask() -> None:
        with steps.working(), contextlib.suppress(Overloaded):
            far.head()

    thread = threading.Thread(target=ask)
    thread.start()
    while thread.is_alive():
        told.append(steps.went_on())
        thread.join(0.02)
    # It is between two waits now and then, and on a machine with much to do a little longer.
    assert told.count(True) > told.count(False)
    way.close()


@pytest.mark.skipif(os.geteuid() != 0, reason="a small disk is mounted by root only")
def test_given_a_full_disk_then_it_is_told_reading_goes_on_and_it_recovers(postgres, opened, tmp_path):
    disk = postgres.folder / "disk"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=12m,uid=65534,gid=65534,mode=0700", "none", disk], check=True)
    try:
        postgres.execute(f"CREATE TABLESPACE small LOCATION '{disk}'")
        postgres.execute("CREATE DATABASE full_disk TABLESPACE small")
        storage = opened(postgres.dsn_of("full_disk"))
        stored, number = [], 0
        with pytest.raises(NoSpace, match="free some"):  # noqa: PT012
            while number < 1000:
                some = [new(f"86.north/{number + at}", size=20_000) for at in range(10)]
                number += 10
                transact(storage, lambda writing, some=some: writing.put_records(some))
                stored += some
        assert stored
        assert storage.last_position() == len(stored)
        assert len(storage.resolve([each.key for each in stored])) == len(stored)
        with pytest.raises(NoSpace):
            transact(storage, lambda writing: writing.put_records(some))
        subprocess.run(["mount", "-o", "remount,size=64m", disk], check=True)
        put(storage, some)
        assert_one_log(storage, {each.key: each.digest for each in (*stored, *some)})
        storage.close()
    finally:
        postgres.execute("DROP DATABASE IF EXISTS full_disk WITH (FORCE)")
        postgres.execute("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", "-l", disk], check=False)


def test_given_a_server_that_would_not_sync_commits_then_the_registry_has_it_do_so(postgres, dsn, opened):
    postgres.execute(f"ALTER DATABASE {dsn.rpartition('/')[2]} SET synchronous_commit = off")
    assert opened(dsn)._rows("SHOW synchronous_commit") == [("on",)]


def test_given_two_who_store_one_version_at_once_then_one_begins_anew_and_decides_by_the_other(dsn, opened):
    one, other = opened(dsn), opened(dsn)
    with pytest.raises(Overloaded), one.writing() as writing:  # noqa: PT012
        assert writing.stored(["86.north/a"]) == {}
        put(other, [new("86.north/a")])
        writing.put_records([new("86.north/a")])
    with one.writing() as writing:
        assert writing.stored(["86.north/a"])["86.north/a"].version == 1
    assert one.head().size == 1


def test_given_a_member_that_is_suspended_while_its_records_are_decided_about_then_that_is_begun_anew(dsn, opened):
    one, other, north = opened(dsn), opened(dsn), Prefix("86.north")
    with pytest.raises(Overloaded), one.writing() as writing:  # noqa: PT012
        assert writing.member(north) is None
        with other.writing() as suspending:
            suspending.put_member(Member(north, "North", 1, 77, "why"), 1)
            suspending.next_membership_version()
        writing.put_records([new("86.north/a")])
    assert one.resolve(["86.north/a"]) == {}


def test_given_many_threads_that_read_then_connections_stay_few(postgres, dsn, opened):
    storage = opened(dsn)
    put(storage, [new("86.north/a")])
    threads = [threading.Thread(target=lambda: [storage.head() for _ in range(20)]) for _ in range(30)]
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    ((count,),) = postgres.execute(
        f"SELECT count(*) FROM pg_stat_activity WHERE datname = '{dsn.rpartition('/')[2]}' AND pid <> pg_backend_pid()"
        " AND backend_type = 'client backend'"  # the server's own workers come by now and then
    )
    assert 0 < count <= postgres_connections._MOST


@pytest.mark.parametrize("dsn", ["postgresql://u:s3cret@127.0.0.1:1/x", "postgresql://u:s3cret@s3cret@127.0.0.1:1/x",
                                 "postgresql://u:s3#cret@127.0.0.1:1/x"])  # fmt: skip
def test_given_a_password_in_the_address_then_no_error_has_it(dsn, opened):
    with pytest.raises((HomeUnusable, Overloaded)) as raised:
        opened(dsn)
    assert "s3" not in str(raised.value)
    assert raised.value.__cause__ is None


def test_given_no_psycopg_then_the_error_says_what_to_install():
    code = (
        "import sys; sys.modules['psycopg'] = None\n"
        "from registry.store import Store\n"
        "try: Store.parse('postgresql://x/y').open()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert "HomeUnusable" in done.stdout
    assert "pip install 'hanse[postgres]'" in done.stdout
