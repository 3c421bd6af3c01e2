"""`hanse-registry migrate-store` to a real PostgreSQL, and what an operator does with a registry that lives there."""

import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse import merkle
from hanse.model.identifier import Prefix
from hanse.v1 import registry_pb2
from registry import app, operating
from registry.storage.postgres import PostgresStorage
from registry.storage.sqlite import SqliteStorage
from registry.store import Store
from registry.usage import Limits
from tests.league import Member, Registry
from tests.postgres import Postgres
from tests.processes import Process, Result, run, until
from tests.rpc.test_registry_check import make
from tests.rpc.test_registry_file import everything

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("registry-migrate")]

ACCEPTED, TRY_AGAIN = registry_pb2.PublishOutcome.CODE_ACCEPTED, registry_pb2.PublishOutcome.CODE_TRY_AGAIN


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    with Postgres() as made:
        yield made


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("migrate") / "registry"
    make(folder)
    return folder


def command(*arguments: object, code: int = 0) -> Result:
    result = run("registry.cli", *arguments)
    assert result.code == code, str(result)
    assert "Traceback" not in result.stderr
    return result


def test_given_a_registry_that_serves_when_it_is_moved_then_nothing_is_lost_and_it_goes_on_there(
    whole: Path, server: Postgres, tmp_path: Path
) -> None:
    home, dsn = Path(shutil.copytree(whole, tmp_path / "registry")), server.database()
    registry = Registry(home)
    registry.serve()
    try:
        member = registry.join("86.west")
        first = member.record("a", title="before")
        member.publish(first)
        told = command("migrate-store", dsn, "--home", home).stdout
        assert "restart" in told
        assert member.publish(member.record("b", title="too late"))[0].code == TRY_AGAIN
        assert member.resolve("86.west/a").resolutions[0].state == registry_pb2.Resolution.STATE_ACTIVE
        old, new = SqliteStorage(home / "registry.db"), PostgresStorage(dsn)
        assert old.head() == new.head()
        assert everything(old) == everything(new)
        old.close()
        new.close()
        registry.stop()
        registry.serve()
        assert member.publish(member.record("a", 2, first, title="after"))[0].code == ACCEPTED
        assert member.search("after").total == 1
        registry.join("86.east")
    finally:
        registry.stop()
    assert app.check(home, deep=True) == []
    assert "uses another store already" in command("migrate-store", dsn, "--home", home, code=7).stderr
    assert "uses another store already" in command("migrate-store", "--undo", "--home", home, code=7).stderr


@pytest.fixture(scope="module")
def moved(whole: Path, server: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A registry in PostgreSQL, with a limit that was set by command."""
    home = Path(shutil.copytree(whole, tmp_path_factory.mktemp("moved") / "registry"))
    app.limit(home, Prefix("86.north"), Limits(records=50))
    operating.move(home, Store.parse(server.database()))
    return home


def beside(home: Path) -> list[object]:
    """What is in no entry of the log, and must come back all the same."""
    with app.opened(home) as opened:
        storage = opened.storage
        return [sorted(storage.invitations()), storage.usages(), storage.texts()]


def test_given_a_registry_in_postgresql_that_serves_when_backed_up_then_all_of_it_comes_back(
    moved: Path, server: Postgres, tmp_path: Path
) -> None:
    """As of one moment, while a member publishes: into the same database once it is empty, another, a file."""
    registry = Registry(moved)
    registry.serve()
    try:
        member = registry.join("86.west")
        unused = registry.invite("86.invited")
        acknowledged: list[int] = []
        ended = threading.Event()

        def publish() -> None:
            while not ended.is_set():
                records = [member.record(f"{len(acknowledged)}-{each}", title="trial") for each in range(5)]
                acknowledged.append(sum(each.code == ACCEPTED for each in member.publish(*records)))

        publishing = threading.Thread(target=publish)
        publishing.start()
        until(lambda: acknowledged, "something to be published")
        before = sum(acknowledged)
        try:
            backup = command("backup", tmp_path / "backups", "--home", moved, "--json").json
        finally:
            after = sum(acknowledged)
            ended.set()
            publishing.join()
        assert after > before, "it served meanwhile"
        with app.opened(moved) as opened:
            leaves = [merkle.leaf_hash(each) for each in opened.storage.leaves(0, backup["entries"])]
        assert merkle.root(leaves).hex() == backup["root"], "the log that is served continues it"
    finally:
        registry.stop()
    folder = backup["folder"]
    refused = command("restore", folder, "--home", tmp_path / "back", code=7).stderr
    assert "a registry is in this database already" in refused
    assert [*(tmp_path / "back").iterdir()] == []
    command("restore", folder, "--home", tmp_path / "file", "--store", "file")
    assert not Path(tmp_path / "file" / "registry.toml").read_text().count("store =")
    command("restore", folder, "--home", tmp_path / "other", "--store", server.database())
    with app.opened(tmp_path / "file") as one, app.opened(tmp_path / "other") as other:
        assert (one.storage.head().size, one.storage.head().root.hex()) == (backup["entries"], backup["root"])
        assert everything(one.storage) == everything(other.storage)
        assert before <= one.storage.usages()[Prefix("86.west")].objects <= after
        assert one.storage.usages()[Prefix("86.north")].limits == Limits(records=50)
    assert beside(tmp_path / "file") == beside(tmp_path / "other")
    assert not (tmp_path / "other" / "registry.db").exists()
    # One file that anybody can prove goes back into a file too.
    command("export", tmp_path / "league.hanse", "--home", tmp_path / "other")
    command("import", tmp_path / "league.hanse", "--keys", tmp_path / "other", "--store", "file",
            "--home", tmp_path / "imported")  # fmt: skip
    assert app.check(tmp_path / "imported") == []
    back = Registry(tmp_path / "file")
    back.serve()
    try:
        Member.make(back, "86.invited").join(unused)  # it was not used before the backup
        member.registry, member.channel = back, back.dial()
        assert member.publish(member.record("after", title="trial"))[0].code == ACCEPTED
    finally:
        back.stop()
    assert app.check(tmp_path / "file", deep=True) == []
    with app.opened(moved) as opened:
        dsn = opened.config.store.address
    server.execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public", dsn)
    assert "entries in its log" in command("restore", folder, "--home", tmp_path / "back").stdout
    assert beside(tmp_path / "back") == beside(tmp_path / "other")


def test_given_a_move_that_is_killed_at_any_moment_then_the_file_is_whole_and_another_goes_on(
    whole: Path, server: Postgres, tmp_path: Path
) -> None:
    home, dsn = Path(shutil.copytree(whole, tmp_path / "registry")), server.database()
    with app.opened(home) as opened:
        before = everything(opened.storage)
    killed = 0
    for delay in (0.03, 0.06, 0.12, 0.24, 0.48):
        process = Process("migrate", tmp_path / "logs", "registry.cli", "migrate-store", dsn, "--home", home)
        process.start(wait=False)
        time.sleep(delay)
        killed += process.running
        process.kill()
        if "store =" in (home / "registry.toml").read_text():
            break  # it was done
        old = SqliteStorage(home / "registry.db")
        assert everything(old) == before
        old.close()
    if "store =" not in (home / "registry.toml").read_text():
        command("migrate-store", dsn, "--home", home)
    assert killed
    with app.opened(home) as opened:
        assert everything(opened.storage) == before
    assert app.check(home) == []


def test_given_a_database_that_is_gone_then_the_file_takes_new_entries_again_when_it_is_told_to(
    whole: Path, server: Postgres, tmp_path: Path
) -> None:
    home = Path(shutil.copytree(whole, tmp_path / "registry"))
    dsn = server.database()
    server.stop()
    try:
        refused = run("registry.cli", "migrate-store", dsn, "--home", home)
        assert refused.code not in (0, 2), str(refused)
        assert "Traceback" not in refused.stderr
    finally:
        server.start()
    until(lambda: server.running, "the server")
    command("migrate-store", "--undo", "--home", home)
    assert app.check(home) == []
    app.init(tmp_path / "other", "Other", app.Prefix("86"), store=app.Store.parse(dsn))
    assert "another league's" in command("migrate-store", dsn, "--home", home, code=7).stderr
