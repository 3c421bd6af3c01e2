"""`hanse-registry check`: whatever is stored beside the log is compared with it, and what is wrong is named."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3

from hanse.model.identifier import Prefix
from hanse.signing import SigningKey
from registry import app, checking, index
from registry.storage.sqlite import SqliteStorage
from tests.league import Registry

# The keys of what is made below.
ONE, TWO, GONE = "86.north/one", "86.north/two", "86.north/gone"


def make(folder: Path) -> None:
    """Two members, one suspended; three objects, one with three versions, one withdrawn; a key that was rotated."""
    with Registry.start(folder) as registry:
        north, south = registry.join("86.north"), registry.join("86.south")
        first = north.record("one", title="Trial of a heart medicine", subjects=["cardiology"])
        gone = north.record("gone", title="Mistake")
        north.publish(first, north.record("two", title="Weather"), gone, north.record("gone", 2, gone, withdrawn=True))
        key = SigningKey.generate()
        north.publish(north.next_organization(key=key))
        north.key = key
        second = north.record("one", 2, first, title="Trial of two medicines")
        north.publish(second, north.record("one", 3, second, title="Trial of three medicines"))
        south.publish(*(south.record(f"{number}", title=f"number {number}") for number in range(300)))
        app.suspend(folder, Prefix("86.south"), "unpaid")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("check") / "registry"
    make(folder)
    return folder


@pytest.fixture
def home(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "registry")
    return tmp_path / "registry"


@pytest.fixture
def storage(home: Path) -> Iterator[SqliteStorage]:
    opened = SqliteStorage(home / "registry.db")
    yield opened
    opened.close()


def alter(home: Path, *statements: str) -> None:
    connection = sqlite3.connect(home / "registry.db")
    with connection:
        for each in statements:
            connection.execute(each)
    connection.close()


def test_given_a_registry_that_is_whole_then_nothing_is_found(home: Path) -> None:
    assert app.check(home) == app.check(home, deep=True) == []


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        # The search index.
        ("UPDATE search SET title = 'weather' WHERE rowid ="
         " (SELECT position FROM objects WHERE key = '86.north/one')", f"{ONE} is not found by what its record says"),
        ("UPDATE search SET facets = 'x' WHERE rowid ="
         " (SELECT position FROM objects WHERE key = '86.north/two')", f"{TWO} is not found by what its record says"),
        ("DELETE FROM search WHERE rowid = (SELECT position FROM objects WHERE key = '86.north/two')",
         f"{TWO} is not found by what its record says"),
        ("INSERT INTO search (rowid, facets) VALUES (999, 'x')", "found things that are no active objects"),
        ("UPDATE meta SET value = '0' WHERE name = 'index_version'", "the search index was made by another version"),
        # Objects.
        ("DELETE FROM objects WHERE key = '86.north/two'", f"{TWO} is not resolved to its newest version"),
        ("UPDATE objects SET (position, version, digest) = (SELECT position, version, digest FROM changes"
         " WHERE object = number AND version = 1) WHERE key = '86.north/one'",
         f"{ONE} is not resolved to its newest version"),
        ("UPDATE objects SET withdrawn = 0 WHERE key = '86.north/gone'", f"{GONE} is resolved to something else"),
        ("INSERT INTO objects VALUES (999, '86.north/none', 1, 0, 1, x'00')",
         "objects whose newest version is missing"),
        # Organizations and members.
        ("DELETE FROM organizations WHERE prefix = '86.north' AND version = 2",
         "the history of 86.north is not the one that the log has"),
        ("UPDATE organizations SET envelope = x'00' WHERE prefix = '86.north' AND version = 1",
         "organization records that do not stand where the log has them"),
        ("UPDATE members SET organization_version = 1 WHERE prefix = '86.north'",
         "the line of 86.north among the members is not of its newest record"),
        ("UPDATE members SET organization_version = 7 WHERE prefix = '86.south'",
         "the newest record of 86.south is missing"),
        ("DELETE FROM members WHERE prefix = '86.south'", "86.south joined, and is not among the members"),
        ("UPDATE members SET suspended_at = NULL WHERE prefix = '86.south'",
         "the newest membership in the log is not that of the members"),
        ("UPDATE meta SET value = '2' WHERE name = 'membership_version'", "the membership is at version 2"),
        ("UPDATE usage SET bytes = bytes + 1 WHERE prefix = '86.north'", "86.north is counted with 3 objects"),
        # The log.
        ("UPDATE certificates SET certificate = zeroblob(200)", "the certificate at position"),
        ("UPDATE changes SET envelope = (SELECT envelope FROM changes WHERE object IS NOT NULL LIMIT 1)"
         " WHERE position = (SELECT position FROM objects WHERE key = '86.north/two')", "does not continue version 1"),
    ],
)  # fmt: skip
def test_given_something_that_does_not_go_with_the_log_then_it_is_named(home: Path, sabotage: str, found: str) -> None:
    alter(home, sabotage)
    problems = app.check(home)
    assert any(found in each for each in problems), problems


def test_given_many_alike_then_the_first_are_named_and_the_others_counted(home: Path) -> None:
    alter(home, "UPDATE search SET title = 'x' WHERE facets IN (SELECT facets FROM search)")
    problems = app.check(home)
    assert sum("is not found by what its record says" in each for each in problems) == 10
    assert "292 more like these: search" in problems


def test_given_a_record_that_its_owner_did_not_sign_then_the_deep_check_names_it(home: Path) -> None:
    """The signature of another record, of the same owner: the log's leaf is the same, whoever signed."""
    connection = sqlite3.connect(home / "registry.db")
    sql = "SELECT position, envelope FROM changes WHERE object IS NOT NULL ORDER BY position LIMIT 2"
    (position, one), (_, other) = connection.execute(sql).fetchall()
    connection.close()
    forged = one[:-64] + other[-64:]
    alter(home, f"UPDATE changes SET envelope = x'{forged.hex()}' WHERE position = {position}")
    assert app.check(home) == []
    assert any("is not signed by a key that its owner had then" in each for each in app.check(home, deep=True))


def test_given_a_search_index_of_an_older_version_then_it_is_made_anew(
    home: Path, storage: SqliteStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the daemon before it serves, or by --repair; other commands only say so."""
    alter(home, "DELETE FROM search")
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    assert checking.is_outdated(storage)
    assert any("--repair" in each for each in app.check(home))
    assert app.check(home, repair=True) == []
    assert not checking.is_outdated(storage)
    assert storage.find(index.ask(index.Query(text="three medicines")), storage.last_position(), 10)
    monkeypatch.setattr(index, "VERSION", index.VERSION + 1)
    alter(home, "UPDATE search SET title = ''")
    registry = Registry(home)
    registry.serve()
    registry.stop()
    assert app.check(home) == []
