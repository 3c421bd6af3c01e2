"""The tables of catalog.db, as steps from one version of the schema to the next.

A step that was released is never edited: a change is a new step at the end. ``PRAGMA user_version`` counts those done.
"""

from typing import Final

MIGRATIONS: Final = (
    """
    CREATE TABLE object (
        key TEXT PRIMARY KEY,             -- Identifier.key: letters folded
        id TEXT NOT NULL,                 -- as given
        kind TEXT NOT NULL,               -- SourceKind
        source BLOB NOT NULL,             -- path, as the file system spells it
        type TEXT NOT NULL,
        metadata TEXT NOT NULL,           -- JSON
        rule TEXT NOT NULL,               -- JSON
        unlisted INTEGER NOT NULL,
        list_elements INTEGER NOT NULL,
        hidden TEXT NOT NULL,             -- parts of the summary that are not public, JSON
        current INTEGER NOT NULL,         -- newest version, a tombstone included
        withdrawn INTEGER NOT NULL,
        created_at INTEGER NOT NULL       -- Unix seconds, as all that end in _at
    ) STRICT;

    CREATE TABLE version (
        id INTEGER PRIMARY KEY,
        object TEXT NOT NULL REFERENCES object (key),
        version INTEGER NOT NULL,
        record BLOB NOT NULL,             -- Envelope
        manifest BLOB,                    -- Envelope; null in a tombstone, as are salt and pages_root
        salt BLOB,
        element_count INTEGER NOT NULL,
        total_bytes INTEGER NOT NULL,
        page_count INTEGER NOT NULL,
        pages_root BLOB,
        created_at INTEGER NOT NULL,
        UNIQUE (object, version)
    ) STRICT;

    CREATE TABLE page (
        version INTEGER NOT NULL REFERENCES version (id),
        page INTEGER NOT NULL,
        data BLOB NOT NULL,               -- a serialized ManifestPage, as it was hashed
        UNIQUE (version, page)
    ) STRICT;

    -- Of the newest version only: where an element is, and the fingerprint under which it was hashed.
    CREATE TABLE element (
        version INTEGER NOT NULL REFERENCES version (id),
        position INTEGER NOT NULL,
        name TEXT NOT NULL,
        length INTEGER NOT NULL,
        chunk_size INTEGER NOT NULL,
        modified_ns INTEGER NOT NULL,
        changed_ns INTEGER NOT NULL,
        inode INTEGER NOT NULL,
        settled INTEGER NOT NULL,         -- whether every later change shows in the fingerprint
        PRIMARY KEY (version, position)
    ) STRICT, WITHOUT ROWID;

    -- Of the newest version only, and only of elements of more than one chunk.
    CREATE TABLE leaves (
        version INTEGER NOT NULL REFERENCES version (id),
        position INTEGER NOT NULL,
        hashes BLOB NOT NULL,
        UNIQUE (version, position)
    ) STRICT;

    CREATE TABLE outbox (
        seq INTEGER PRIMARY KEY AUTOINCREMENT,
        key TEXT NOT NULL,                -- Identifier.key, or 'organization'
        envelope BLOB NOT NULL,
        created_at INTEGER NOT NULL,
        attempts INTEGER NOT NULL DEFAULT 0,
        next_try_at INTEGER NOT NULL DEFAULT 0,
        last_error TEXT NOT NULL DEFAULT '',
        refused INTEGER NOT NULL DEFAULT 0
    ) STRICT;
    CREATE INDEX outbox_key ON outbox (key, seq);

    CREATE TABLE organization (
        version INTEGER PRIMARY KEY,
        envelope BLOB NOT NULL
    ) STRICT;

    CREATE TABLE audit (
        id INTEGER PRIMARY KEY,
        at INTEGER NOT NULL,
        peer TEXT NOT NULL,
        key_id TEXT NOT NULL,
        object TEXT NOT NULL,
        version INTEGER NOT NULL,
        operation TEXT NOT NULL,
        allowed INTEGER NOT NULL,
        reason TEXT NOT NULL,
        bytes INTEGER NOT NULL DEFAULT 0,
        finished_at INTEGER
    ) STRICT;
    CREATE INDEX audit_at ON audit (at);
    CREATE INDEX audit_peer ON audit (peer, at);
    CREATE INDEX audit_object ON audit (object, at);
    """,
    # What is in it says which of the two it is: node.storage.catalog reads both.
    "ALTER TABLE object RENAME COLUMN rule TO terms;",
)
