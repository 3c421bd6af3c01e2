"""The database's schema, step by step. ``user_version`` counts the steps that were taken.

A step that was ever released is never altered: a new one is appended.
"""

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse.errors import HomeUnusable

STEPS = (
    """
    CREATE TABLE meta (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;

    CREATE TABLE members (
        prefix TEXT PRIMARY KEY,
        display_name TEXT NOT NULL,
        organization_version INTEGER NOT NULL,
        suspended_at INTEGER,
        reason TEXT NOT NULL,
        joined_at INTEGER NOT NULL
    ) WITHOUT ROWID;

    CREATE TABLE organizations (
        prefix TEXT NOT NULL,
        version INTEGER NOT NULL,
        digest BLOB NOT NULL,
        envelope BLOB NOT NULL,
        PRIMARY KEY (prefix, version)
    ) WITHOUT ROWID;

    CREATE TABLE invitations (
        secret_hash BLOB PRIMARY KEY,
        prefix TEXT NOT NULL,
        display_name TEXT NOT NULL,
        expires_at INTEGER NOT NULL,
        created_at INTEGER NOT NULL,
        spent_at INTEGER,
        spent_by BLOB
    ) WITHOUT ROWID;

    -- Everything that Watch tells, and the only copy of each record. The columns before the envelope are read
    -- without it.
    CREATE TABLE changes (
        position INTEGER PRIMARY KEY,
        object INTEGER,
        version INTEGER,
        issued_at INTEGER,
        digest BLOB,
        envelope BLOB NOT NULL
    );
    CREATE UNIQUE INDEX changes_of_object ON changes (object, version) WHERE object IS NOT NULL;

    -- One line an object: where its newest version is.
    CREATE TABLE objects (
        number INTEGER PRIMARY KEY,
        key TEXT NOT NULL UNIQUE,
        version INTEGER NOT NULL,
        withdrawn INTEGER NOT NULL,
        position INTEGER NOT NULL,
        digest BLOB NOT NULL
    );

    -- rowid is the position of an active object's newest version. The texts are tokens already (registry.index):
    -- ASCII letters and digits, and everything beyond ASCII, are theirs; spaces are between them.
    CREATE VIRTUAL TABLE search USING fts5(title, description, subjects, creators, facets, tokenize = 'ascii');
    """,
)


def migrate(connection: sqlite3.Connection, name: str) -> None:
    """Brings the schema up to date. Raises HomeUnusable when it is newer than this program."""
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    if version > len(STEPS):
        raise HomeUnusable(
            f"{name} was written by a newer version of hanse-registry (schema {version}; this one knows "
            f"{len(STEPS)}): install that version, or restore the backup made before the upgrade"
        )
    if version == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        for step in STEPS[version:]:
            for statement in _statements(step):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {len(STEPS)}")
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


def _statements(script: str) -> list[str]:
    # executescript() would commit the transaction first.
    found, rest = [], ""
    for line in script.splitlines(keepends=True):
        rest += line
        if sqlite3.complete_statement(rest):
            found.append(rest)
            rest = ""
    return found
