"""A registry moves from its file to another store: read-only meanwhile, the same afterwards, whole when it is cut."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.errors import Conflict, Unreachable
from hanse.model.identifier import Prefix
from hanse.v1 import registry_pb2
from registry import app, checking, copying, operating
from registry.config import with_store
from registry.storage.sqlite import SqliteStorage
from registry.usage import Limits
from tests.league import Registry
from tests.rpc.test_registry_check import make
from tests.rpc.test_registry_file import everything

TRY_AGAIN = registry_pb2.PublishOutcome.CODE_TRY_AGAIN


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("copying") / "registry"
    make(folder)
    app.limit(folder, Prefix("86.north"), Limits(records=50))
    app.invite(folder, Prefix("86.invited"))
    return folder


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(whole, tmp_path / "registry"))


@pytest.fixture
def source(home: Path) -> Iterator[SqliteStorage]:
    opened = SqliteStorage(home / "registry.db")
    yield opened
    opened.close()


@pytest.fixture
def target(tmp_path: Path) -> Iterator[SqliteStorage]:
    opened = SqliteStorage(tmp_path / "target.db")
    yield opened
    opened.close()


def expect_same(source: SqliteStorage, target: SqliteStorage, home: Path) -> None:
    assert everything(source) == everything(target)
    assert source.usages() == target.usages()
    assert source.invitations() == target.invitations()
    assert source.texts() == target.texts()
    with app.opened(home) as registry:
        assert checking.problems(target, registry.authority, registry.announced(), 2_000_000_000, deep=True) == []


def test_given_a_registry_then_its_copy_is_the_same(home: Path, source: SqliteStorage, target: SqliteStorage) -> None:
    with app.opened(home) as registry:
        head = copying.copy(source, target, registry.authority, 2_000_000_000)
        assert head == source.head()
        copying.copy(source, target, registry.authority, 2_000_000_000)  # once more: there is nothing to do
    expect_same(source, target, home)
    assert source.usages()[Prefix("86.north")].limits == Limits(records=50)


@pytest.mark.parametrize("at", [1, 3, 4])
def test_given_a_copy_that_was_cut_off_then_another_goes_on(
    home: Path, source: SqliteStorage, target: SqliteStorage, monkeypatch: pytest.MonkeyPatch, at: int
) -> None:
    """After so many transactions: among the entries, before what is in no entry."""
    monkeypatch.setattr(checking, "_AT_ONCE", 100)
    writing, count = SqliteStorage.writing, 0

    def cut(self: SqliteStorage, **more: bool):
        nonlocal count
        count += self is target
        if count > at:
            raise KeyboardInterrupt
        return writing(self, **more)

    with app.opened(home) as registry:
        monkeypatch.setattr(SqliteStorage, "writing", cut)
        with pytest.raises(KeyboardInterrupt):
            copying.copy(source, target, registry.authority, 2_000_000_000)
        monkeypatch.setattr(SqliteStorage, "writing", writing)
        assert target.last_position() == min(at * 100, source.last_position())
        copying.copy(source, target, registry.authority, 2_000_000_000)
    expect_same(source, target, home)


def test_given_a_target_with_anything_else_in_it_then_it_is_refused(
    home: Path, source: SqliteStorage, tmp_path: Path
) -> None:
    with Registry.start(tmp_path / "other") as other:
        other.join("86.other")
    foreign = SqliteStorage(tmp_path / "other" / "registry.db")
    with app.opened(home) as registry, pytest.raises(Conflict, match="entries of another registry"):
        copying.copy(source, foreign, registry.authority, 2_000_000_000)
    foreign.close()


def test_given_a_move_then_a_running_registry_answers_and_takes_nothing_new(home: Path, source: SqliteStorage) -> None:
    registry = Registry(home)
    registry.serve()
    try:
        member = registry.join("86.west")
        before = member.record("a", title="before")
        member.publish(before)
        source.moving = True
        outcome = member.publish(member.record("b", title="meanwhile"))[0]
        assert outcome.code == TRY_AGAIN
        assert "being moved to another store" in outcome.message
        assert member.resolve("86.west/a").resolutions[0].state == registry_pb2.Resolution.STATE_ACTIVE
        assert member.search("before").total == 1
        with pytest.raises(Unreachable, match="being moved to another store"):
            registry.join("86.east")
        registry.stop()
        registry.serve()  # it can be started, too
        assert member.resolve("86.west/a").resolutions[0].state == registry_pb2.Resolution.STATE_ACTIVE
        assert any("--undo" in each for each in app.check(home))
        operating.stay(home)
        assert member.publish(member.record("b", title="after"))[0].code == registry_pb2.PublishOutcome.CODE_ACCEPTED
    finally:
        registry.stop()
    assert app.check(home) == []


@pytest.mark.parametrize(
    "text",
    [
        'root = "86"\n',
        'root = "86"  # comment\nadvertise = [\n  "a:1",\n]\n\n[referrals]\n"10" = ["b:1"]\n',
        'root = "86"',
    ],
)
def test_the_store_is_written_into_the_settings_and_nothing_else_is_altered(text: str) -> None:
    new = with_store(text, "postgresql://registry@db/registry")
    assert 'store = "postgresql://registry@db/registry"\n' in new
    assert new.replace('store = "postgresql://registry@db/registry"\n', "").strip() == text.strip()

    other = with_store(new, "postgresql://registry@other/registry")
    assert "@db" not in other
    assert with_store(other, None).strip() == text.strip()


def test_settings_that_a_program_should_not_touch_are_left_alone() -> None:
    with pytest.raises(Conflict, match="put `store = "):
        with_store('"store" = "x"\nroot = "86"\n', "postgresql://registry@db/registry")


def test_given_a_move_then_a_backup_of_the_file_is_a_registry_that_takes_new_entries(
    home: Path, source: SqliteStorage, target: SqliteStorage, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Made in the middle of it: neither stands in the other's way."""
    writing, made = SqliteStorage.writing, []

    def back_up(self: SqliteStorage, **more: bool):
        if self is target and not made:
            made.append(operating.backup(home, tmp_path / "backups"))
        return writing(self, **more)

    source.moving = True
    with app.opened(home) as registry:
        monkeypatch.setattr(SqliteStorage, "writing", back_up)
        copying.copy(source, target, registry.authority, 2_000_000_000)
        monkeypatch.setattr(SqliteStorage, "writing", writing)
    expect_same(source, target, home)
    assert source.moving
    operating.restore(made[0].folder, tmp_path / "restored")
    assert app.check(tmp_path / "restored") == []
    restored = SqliteStorage(tmp_path / "restored" / "registry.db")
    assert not restored.moving
    assert everything(restored) == everything(target)
    restored.close()
