"""Every column of every table, in both databases, is compared by `hanse-registry check`, or it is said why not.

A column that a later step of the schema adds fails here until one of both is true.
"""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3

from hanse.model.identifier import Prefix
from registry import app, operating
from registry.store import Store
from registry.usage import Limits
from tests.league import Registry
from tests.postgres import Postgres

# What nothing else says, so that it cannot be compared.
KNOWN_ONLY_HERE = {
    "meta.name", "meta.value",  # those that are derived are named below
    "members.joined_at", "invitations.secret_hash", "invitations.display_name", "invitations.expires_at",
    "invitations.created_at", "invitations.spent_at", "invitations.mirror",
    "usage.paid_until", "usage.records_limit", "usage.pace_limit", "usage.bytes_limit",
    "objects.number",  # SQLite's: changed everywhere it is another number for the same object
    "words.word",  # more words than are used do no harm; missing ones are found (test_registry_check)
    "tree.one", "schema_version.one", "schema_version.version", "schema_version.oldest",
}  # fmt: skip
DERIVED_TEXTS = {"membership_version": "'7'", "membership_position": "'1'", "index_version": "'0'"}
# Which line is altered, where it is not all the same.
WHERE = {
    "changes": "version = 1", "search": "true", "invitations": "spent_by IS NOT NULL", "tiles": "level = 0",
    "organizations": "prefix = '86.north' AND version = 1",
}  # fmt: skip


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two members, one suspended, a chain of two records, objects with one and two versions, a tombstone."""
    folder = tmp_path_factory.mktemp("columns") / "registry"
    with Registry.start(folder) as registry:
        north = registry.join("86.north")
        registry.join("86.south")
        first, gone = north.record("one", title="Trial"), north.record("gone")
        north.publish(first, gone, north.record("gone", 2, gone, withdrawn=True), north.record("two", title="Weather"))
        north.publish(north.next_organization(name="North"))
        north.publish(north.record("one", 2, first, title="Trial, second part"))
        app.suspend(folder, Prefix("86.south"), "unpaid")
        app.invite(folder, Prefix("86.invited"))
        app.limit(folder, Prefix("86.north"), Limits(records=50))
    assert app.check(folder, deep=True) == []
    return folder


def expect_each_is_compared(
    home: Path, columns: list[tuple[str, str, str]], alter: Callable[[str, str, str], None]
) -> None:
    """``columns``: table, name, type. ``alter`` changes one line of it, after it has put back what it did before."""
    unnoticed = []
    for table, name, kind in columns:
        if f"{table}.{name}" in KNOWN_ONLY_HERE:
            continue
        other = f"CASE WHEN {name} IS NULL THEN {{0}} ELSE {{1}} END"
        number = kind.lower() in ("integer", "int8", "bigint", "real")
        flag = kind.lower() == "boolean"
        value = (
            f"NOT {name}" if flag
            else other.format("7", f"1 - {name}" if name in ("withdrawn", "mirror") else f"{name} + 1000") if number
            else other.format("'x'", f"{name} || 'x'") if kind.lower() in ("text", "")
            else f"'{name}'" if kind == "tsvector"
            else "decode('00', 'hex')" if kind == "bytea" else "x'00'"
        )  # fmt: skip
        alter(table, f"{name} = {value}", WHERE.get(table, "true"))
        if app.check(home) == []:
            unnoticed.append(f"{table}.{name}")
    for name, value in DERIVED_TEXTS.items():
        alter("meta", f"value = {value}", f"name = '{name}'")
        if app.check(home) == []:
            unnoticed.append(name)
    assert unnoticed == []


def test_in_sqlite_each_column_is_compared(whole: Path, tmp_path: Path) -> None:
    home = Path(shutil.copytree(whole, tmp_path / "registry"))
    database = home / "registry.db"

    def alter(table: str, what: str, where: str) -> None:
        shutil.copyfile(whole / "registry.db", database)
        connection = sqlite3.connect(database)
        with connection:
            (row,) = connection.execute(f"SELECT {key(table)} FROM {table} WHERE {where} LIMIT 1").fetchone()
            cursor = connection.execute(f"UPDATE {table} SET {what} WHERE {key(table)} = ? AND {where}", (row,))
            assert cursor.rowcount == 1, (table, what)
        connection.close()

    def key(table: str) -> str:
        return {"search": "rowid"}.get(table) or next(name for of, name, _ in columns if of == table)

    connection = sqlite3.connect(database)
    tables = [row[0] for row in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
    columns = [
        (table, row[1], row[2])
        for table in tables
        if table == "search" or not table.startswith(("search_", "sqlite_", "indexed"))
        for row in connection.execute(f"PRAGMA table_info({table})")
    ]
    connection.close()
    expect_each_is_compared(home, columns, alter)


def test_in_postgresql_each_column_is_compared(whole: Path, postgres: Postgres, tmp_path: Path) -> None:
    home, dsn = Path(shutil.copytree(whole, tmp_path / "registry")), postgres.database()
    operating.move(home, Store.parse(dsn))
    assert app.check(home) == []
    columns = postgres.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'public'"
        " ORDER BY 1, ordinal_position",
        dsn,
    )
    before: list[str] = []

    def alter(table: str, what: str, where: str) -> None:
        for each in before:
            postgres.execute(each, dsn)
        before[:] = [f"TRUNCATE {table}", f"INSERT INTO {table} SELECT * FROM kept_{table}"]
        postgres.execute(f"CREATE TABLE IF NOT EXISTS kept_{table} AS SELECT * FROM {table}", dsn)
        line = f"(SELECT ctid FROM {table} WHERE {where} LIMIT 1)"
        changed = postgres.execute(f"UPDATE {table} SET {what} WHERE ctid = {line} RETURNING 1", dsn)
        assert len(changed) == 1, (table, what)

    expect_each_is_compared(home, columns, alter)
