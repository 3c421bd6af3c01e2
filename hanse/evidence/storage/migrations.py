"""The tables of evidence.db, as steps from one version of the schema to the next.

A step that was released is never edited: a change is a new step at the end.
"""

from typing import Final

MIGRATIONS: Final = (
    """
    -- The log. A leaf's data is  kind, 0x00, SHA-256(salt || payload):  a payload can be erased, its leaf cannot.
    CREATE TABLE leaf (
        position INTEGER PRIMARY KEY,     -- from 0, without gaps
        kind TEXT NOT NULL,               -- hanse.evidence.log.Kind
        hash BLOB NOT NULL,               -- RFC 6962 leaf hash
        salt BLOB,                        -- null once the payload was erased
        payload BLOB,
        at INTEGER NOT NULL               -- Unix seconds, as all that end in _at
    ) STRICT;

    -- Complete subtrees of two leaves and more; level 1 has two leaves.
    CREATE TABLE subtree (
        level INTEGER NOT NULL,
        position INTEGER NOT NULL,
        hash BLOB NOT NULL,
        PRIMARY KEY (level, position)
    ) STRICT, WITHOUT ROWID;

    CREATE TABLE checkpoint (
        size INTEGER PRIMARY KEY,
        note TEXT NOT NULL,               -- C2SP signed note
        at INTEGER NOT NULL
    ) STRICT;

    -- The newest checkpoint of each peer's log that was seen to continue the one before it.
    CREATE TABLE peer_checkpoint (
        prefix TEXT PRIMARY KEY,
        size INTEGER NOT NULL,
        note TEXT NOT NULL,
        at INTEGER NOT NULL,
        told_size INTEGER NOT NULL,       -- of our log, that the peer says it has seen
        lost_size INTEGER NOT NULL        -- the same if our log had fewer or others then: it lost its end; else 0
    ) STRICT;

    -- Two signed checkpoints of one log that contradict each other: kept for good.
    CREATE TABLE fork (
        prefix TEXT NOT NULL,
        first TEXT NOT NULL,
        second TEXT NOT NULL,
        at INTEGER NOT NULL,
        PRIMARY KEY (prefix, first, second)
    ) STRICT, WITHOUT ROWID;

    -- Requests, both ways; number is what the owner types.
    CREATE TABLE request (
        number INTEGER PRIMARY KEY AUTOINCREMENT,
        digest BLOB NOT NULL UNIQUE,
        ours INTEGER NOT NULL,            -- 1: we ask, 0: we are asked
        peer TEXT NOT NULL,               -- the other side
        object TEXT NOT NULL,             -- Identifier.key
        envelope BLOB NOT NULL,
        state TEXT NOT NULL,              -- waiting, granted, denied
        answer BLOB,                      -- Envelope of a Grant or a Denial
        at INTEGER NOT NULL,
        answered_at INTEGER
    ) STRICT;
    CREATE INDEX request_peer ON request (peer, state);

    -- Grants: those we made, those we hold, and narrowed ones that were shown to us.
    CREATE TABLE grant_ (
        digest BLOB PRIMARY KEY,
        owner TEXT NOT NULL,
        maker TEXT NOT NULL,
        holder TEXT NOT NULL,
        parent BLOB,                      -- digest
        root BLOB NOT NULL,               -- digest of the owner's grant at the beginning of the chain
        envelope BLOB NOT NULL,
        valid_until INTEGER,
        fetches INTEGER NOT NULL DEFAULT 0,  -- used, of it and of all that were narrowed from it
        bytes INTEGER NOT NULL DEFAULT 0,
        revocation BLOB,                  -- Envelope
        revoked_at INTEGER,
        at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX grant_holder ON grant_ (holder, owner);
    CREATE INDEX grant_parent ON grant_ (parent);
    CREATE TABLE grant_object (
        object TEXT NOT NULL,             -- Identifier.key
        digest BLOB NOT NULL REFERENCES grant_ (digest),
        PRIMARY KEY (object, digest)
    ) STRICT, WITHOUT ROWID;

    -- Fetches, both ways: what was served or verified, until a receipt settles it.
    CREATE TABLE delivery (
        id BLOB NOT NULL,
        ours INTEGER NOT NULL,            -- 1: we fetched, 0: we served
        peer TEXT NOT NULL,
        object TEXT NOT NULL,
        version INTEGER NOT NULL,
        grant_ BLOB NOT NULL,             -- digest, or empty
        delivered BLOB NOT NULL,          -- what the receipt is to say, or what was served: a serialized Receipt
        bytes INTEGER NOT NULL,           -- served: all that went out; verified: each chunk once
        reserved INTEGER NOT NULL,        -- counted ahead and not yet served
        started_at INTEGER NOT NULL,
        moved_at INTEGER NOT NULL,
        state TEXT NOT NULL,              -- running, ended, half (one signature), settled, empty
        receipt BLOB,                     -- Envelope, with one signature or both
        receipt_digest BLOB,
        claimed INTEGER NOT NULL DEFAULT 0,  -- bytes that both signed for, each chunk once
        owed INTEGER NOT NULL DEFAULT 0,  -- bytes served that the peer did not sign for
        PRIMARY KEY (id, ours, peer)
    ) STRICT, WITHOUT ROWID;
    CREATE INDEX delivery_peer ON delivery (peer, state);
    CREATE INDEX delivery_object ON delivery (object, started_at);
    CREATE INDEX delivery_owed ON delivery (peer) WHERE owed > 0 AND ours = 0;
    CREATE INDEX delivery_unsigned ON delivery (moved_at) WHERE state IN ('running', 'ended') AND ours = 0;
    CREATE INDEX delivery_half ON delivery (started_at) WHERE state = 'half' AND ours = 1;

    -- What consumers signed about copies of ours that they had under a duty to delete.
    CREATE TABLE deletion (
        digest BLOB PRIMARY KEY,          -- of the envelope
        peer TEXT NOT NULL,
        object TEXT NOT NULL,
        version INTEGER NOT NULL,
        grant_ BLOB NOT NULL,
        envelope BLOB NOT NULL,
        at INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID;

    -- Copies that are kept under a duty to delete.
    CREATE TABLE lease (
        key_name TEXT PRIMARY KEY,        -- names the key's file and the folder
        grant_ BLOB NOT NULL,
        owner TEXT NOT NULL,
        object TEXT NOT NULL,             -- Identifier.key
        id TEXT NOT NULL,                 -- as it is written
        version INTEGER NOT NULL,
        made_at INTEGER NOT NULL,
        finished_at INTEGER,              -- null while it is being fetched
        expires_at REAL NOT NULL,         -- by the clock of leases
        reason TEXT,                      -- why it ends: decided before its key is touched
        destroyed_at INTEGER,             -- of the key
        deletion BLOB,                    -- Envelope
        delivered_at INTEGER              -- when the owner had the deletion
    ) STRICT;
    CREATE INDEX lease_live ON lease (object) WHERE destroyed_at IS NULL;

    -- A clock that does not go back: see hanse.vault.clock.
    CREATE TABLE lease_clock (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        lease REAL NOT NULL,
        wall REAL NOT NULL,
        boot TEXT NOT NULL,
        since_boot REAL NOT NULL
    ) STRICT;

    -- Records that receipts name: an object's newest one is not enough a year later.
    CREATE TABLE kept_record (
        digest BLOB PRIMARY KEY,
        envelope BLOB NOT NULL
    ) STRICT, WITHOUT ROWID;

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
        position INTEGER                  -- of its leaf
    ) STRICT;
    CREATE INDEX audit_at ON audit (at);
    CREATE INDEX audit_peer ON audit (peer, at);
    CREATE INDEX audit_object ON audit (object, at);
    """,
    """
    CREATE INDEX deletion_grant ON deletion (grant_, peer);
    """,
)
