"""The database's schema, step by step. ``user_version`` counts the steps that were taken.

A step that was ever released is never altered: a new one is appended.
"""

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse.errors import HomeUnusable
from registry.storage import tree

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
    """
    -- The log. Leaf p - 1 is what stands at position p, among the changes or here: certificates are told to those
    -- who watch only if they ask for them.
    CREATE TABLE certificates (
        position INTEGER PRIMARY KEY,
        prefix TEXT NOT NULL,
        issued_at INTEGER NOT NULL,
        certificate BLOB NOT NULL
    );
    CREATE INDEX certificates_of_member ON certificates (prefix, position);

    -- Where each version stands among the changes.
    ALTER TABLE organizations ADD COLUMN position INTEGER;

    -- Hashes of 32 bytes, up to 256, and those of the subtrees inside when there are 256 (hanse.tiles).
    CREATE TABLE tiles (
        level INTEGER NOT NULL,
        number INTEGER NOT NULL,
        hashes BLOB NOT NULL,
        PRIMARY KEY (level, number)
    );

    CREATE TABLE tree (one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, root BLOB NOT NULL);
    INSERT INTO tree VALUES (1, 0, x'e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855');
    """,
    """
    -- Whether the member mirrors the registry, and whoever joins by the invitation will.
    ALTER TABLE members ADD COLUMN mirror INTEGER NOT NULL DEFAULT 0;
    ALTER TABLE invitations ADD COLUMN mirror INTEGER NOT NULL DEFAULT 0;
    """,
    """
    -- What each organization has stored (registry.usage), and the limits that the operator set for it: NULL says
    -- nothing. paid_until is Unix seconds.
    CREATE TABLE usage (
        prefix TEXT PRIMARY KEY,
        objects INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        paid_until REAL NOT NULL DEFAULT 0,
        records_limit INTEGER,
        pace_limit INTEGER,
        bytes_limit INTEGER
    ) WITHOUT ROWID;
    INSERT INTO usage (prefix, objects, bytes)
        SELECT prefix, sum(objects), sum(bytes) FROM (
            SELECT substr(o.key, 1, instr(o.key, '/') - 1) AS prefix, count(DISTINCT o.number) AS objects,
                sum(length(c.envelope)) AS bytes
            FROM objects o JOIN changes c ON c.object = o.number GROUP BY 1
            UNION ALL SELECT prefix, 0, sum(length(envelope)) FROM organizations GROUP BY prefix
        ) GROUP BY prefix;
    """,
    """
    -- Every word of the texts that search has, or had: what the beginning of one may mean.
    CREATE TABLE words (word TEXT PRIMARY KEY) WITHOUT ROWID;
    CREATE VIRTUAL TABLE indexed USING fts5vocab(search, col);
    INSERT INTO words SELECT DISTINCT term FROM indexed WHERE col <> 'facets';
    """,
)

_LOGGED = 2  # since this version of the schema there is a log


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
        if version < _LOGGED:
            tree.build(connection)
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
