"""A database that cannot be used says why and what to do; what was committed is there, what was not is not."""

import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse.errors import Conflict, HomeUnusable, StorageFailed
from hanse.storage import database as module
from hanse.storage.database import Database
from node.storage.catalog import CatalogStorage
from node.storage.migrations import MIGRATIONS
from tests.wrapping import public_folder

STEPS = (
    "CREATE TABLE one (a INTEGER) STRICT;",
    "-- the next;\nCREATE TABLE two (b INTEGER) STRICT;\nINSERT INTO two VALUES (7);",
)


def test_an_older_schema_is_brought_up_and_keeps_its_rows(tmp_path: Path) -> None:
    with_one = Database.open(tmp_path / "db", STEPS[:1])
    with with_one.writing() as connection:
        connection.execute("INSERT INTO one VALUES (1)")
    with_one.close()

    for _ in range(2):
        database = Database.open(tmp_path / "db", STEPS)
        with database.reading() as connection:
            assert connection.execute("SELECT a FROM one").fetchall() == [(1,)]
            assert connection.execute("SELECT b FROM two").fetchall() == [(7,)]
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
        database.close()


def test_a_migration_that_fails_changes_nothing(tmp_path: Path) -> None:
    Database.open(tmp_path / "db", STEPS[:1]).close()
    with pytest.raises(StorageFailed):
        Database.open(tmp_path / "db", (STEPS[0], "CREATE TABLE two (b INTEGER);\nCREATE TABLE two (b INTEGER);"))
    database = Database.open(tmp_path / "db", STEPS)
    with database.reading() as connection:
        assert connection.execute("SELECT b FROM two").fetchall() == [(7,)]
    database.close()


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    storage = CatalogStorage.open(tmp_path / "catalog.db")
    with storage.database.writing() as connection:
        connection.execute(f"PRAGMA user_version = {len(MIGRATIONS) + 1}")
    storage.close()

    with pytest.raises(HomeUnusable, match=r"written by a newer hanse .*: upgrade hanse, or restore the backup"):
        CatalogStorage.open(tmp_path / "catalog.db")


@pytest.mark.parametrize("content", [b"this is no database" * 100, b"SQLite format 3\0" + b"\xff" * 5000])
def test_a_damaged_file_is_named(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "catalog.db").write_bytes(content)
    with pytest.raises(StorageFailed, match=r"catalog\.db is damaged: restore it from your backup"):
        CatalogStorage.open(tmp_path / "catalog.db")


def test_a_missing_folder_and_a_folder_in_its_place_are_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match="No such file"):
        CatalogStorage.open(tmp_path / "missing/catalog.db")
    (tmp_path / "catalog.db").mkdir()
    with pytest.raises(StorageFailed, match="Is a directory"):
        CatalogStorage.open(tmp_path / "catalog.db")


def test_a_home_that_is_not_writable_is_named() -> None:
    script = f"""
import os, sys
sys.path[:0] = {sys.path!r}
from pathlib import Path
from node.storage.catalog import CatalogStorage
os.setuid(65534) if os.getuid() == 0 else None
try:
    CatalogStorage.open(Path(sys.argv[1]))
except Exception as error:
    print(type(error).__name__, error)
"""

    def told(path: Path) -> str:
        return subprocess.run(
            [sys.executable, "-c", script, str(path)], capture_output=True, text=True, check=True
        ).stdout

    with public_folder() as folder:
        path = folder / "catalog.db"
        folder.chmod(0o555)
        assert told(path).startswith(f"HomeUnusable {path} cannot be used: Permission denied. Check its owner and mode")
        folder.chmod(0o755)
        CatalogStorage.open(path).close()
        path.chmod(0o666)
        folder.chmod(0o555)  # no room for the write-ahead log
        assert told(path).startswith(f"HomeUnusable {path} cannot be opened or written: check its owner and mode")
        folder.chmod(0o755)


def test_a_writer_that_waits_too_long_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.05)
    one, other = (Database.open(tmp_path / "db", STEPS) for _ in range(2))
    with one.writing(), pytest.raises(Conflict, match="busy with another hanse command"), other.writing():
        pass
    with other.writing() as connection:
        connection.execute("INSERT INTO one VALUES (1)")
    one.close()
    other.close()


def test_what_fails_in_the_middle_is_rolled_back(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db", STEPS)

    def fail() -> None:
        with database.writing() as connection:
            connection.execute("INSERT INTO one VALUES (1)")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        fail()
    with database.reading() as connection:
        assert connection.execute("SELECT * FROM one").fetchall() == []
    database.close()


def test_every_connection_is_durable_and_checks_references(tmp_path: Path) -> None:
    storage = CatalogStorage.open(tmp_path / "catalog.db")
    with storage.database.reading() as connection, storage.database.reading() as other:
        for each in (connection, other):
            assert each.execute("PRAGMA journal_mode").fetchone() == ("wal",)
            assert each.execute("PRAGMA synchronous").fetchone() == (2,)
            assert each.execute("PRAGMA foreign_keys").fetchone() == (1,)
    storage.close()
    storage.close()
    with pytest.raises(StorageFailed, match="closed already"):
        storage.objects()
    assert os.listdir(tmp_path) == ["catalog.db"]


def test_no_sqlite_error_escapes(tmp_path: Path) -> None:
    database = Database.open(tmp_path / "db", STEPS)
    with pytest.raises(StorageFailed) as caught, database.reading() as connection:
        connection.execute("SELECT * FROM missing")
    assert isinstance(caught.value.__cause__, sqlite3.Error)
    database.close()


def test_no_more_connections_are_kept_than_were_asked_for(tmp_path: Path) -> None:
    """Each has descriptors that a stream may need."""
    database = Database.open(tmp_path / "x.db", (), idle=2)
    with ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(database.reading())
    assert len(database._idle) == 2
    database.close()
