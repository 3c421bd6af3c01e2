"""The schema in PostgreSQL, step by step, while older programs go on working. ``schema_version`` counts the steps.

A step that was ever released is never altered: a new one is appended. It only adds, with IF NOT EXISTS, and what it
adds may be empty; so processes of the version before go on reading and writing, and a rolling upgrade needs no pause.
``oldest`` is the number of steps that a program must know at least to work with the schema after this one. A step
that takes something away names itself there, and is released after nobody has the older programs any more.

A program that meets more steps than it knows works if ``oldest`` allows it, else it refuses; it looks again in each
transaction, because it may be running when the step is taken.
"""

import time
from dataclasses import dataclass

import psycopg

from hanse.errors import HomeUnusable, Overloaded
from registry.storage.postgres_connections import Connection, Connections, database_errors


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to the schema. ``oldest``: see above."""

    oldest: int
    script: str


STEPS: tuple[Step, ...] = (
    Step(
        1,
        """
        CREATE TABLE IF NOT EXISTS meta (name TEXT PRIMARY KEY, value TEXT NOT NULL);

        CREATE TABLE IF NOT EXISTS members (
            prefix TEXT PRIMARY KEY,
            display_name TEXT NOT NULL,
            organization_version INT8 NOT NULL,
            suspended_at INT8,
            reason TEXT NOT NULL,
            joined_at INT8 NOT NULL,
            mirror BOOL NOT NULL DEFAULT false
        );

        CREATE TABLE IF NOT EXISTS organizations (
            prefix TEXT NOT NULL,
            version INT8 NOT NULL,
            digest BYTEA NOT NULL,
            envelope BYTEA NOT NULL,
            position INT8 NOT NULL,
            PRIMARY KEY (prefix, version)
        );

        CREATE TABLE IF NOT EXISTS invitations (
            secret_hash BYTEA PRIMARY KEY,
            prefix TEXT NOT NULL,
            display_name TEXT NOT NULL,
            expires_at INT8 NOT NULL,
            created_at INT8 NOT NULL,
            spent_at INT8,
            spent_by BYTEA,
            mirror BOOL NOT NULL DEFAULT false
        );

        -- Everything that Watch tells but certificates, and the only copy of each record. Of two who add the same
        -- version of an object at once the second fails here, whatever they read before.
        CREATE TABLE IF NOT EXISTS changes (
            position INT8 PRIMARY KEY,
            key TEXT,
            version INT8,
            issued_at INT8,
            digest BYTEA,
            envelope BYTEA NOT NULL,
            UNIQUE (key, version)
        );

        CREATE TABLE IF NOT EXISTS certificates (
            position INT8 PRIMARY KEY,
            prefix TEXT NOT NULL,
            issued_at INT8 NOT NULL,
            certificate BYTEA NOT NULL
        );
        CREATE INDEX IF NOT EXISTS certificates_of_member ON certificates (prefix, position);

        -- One line an object: where its newest version is. No other index: a new version costs none then.
        CREATE TABLE IF NOT EXISTS objects (
            key TEXT PRIMARY KEY,
            version INT8 NOT NULL,
            withdrawn BOOL NOT NULL,
            position INT8 NOT NULL,
            digest BYTEA NOT NULL
        );

        -- What each organization has stored (registry.usage), and the limits that the operator set for it: NULL says
        -- nothing. paid_until is Unix seconds.
        CREATE TABLE IF NOT EXISTS usage (
            prefix TEXT PRIMARY KEY,
            objects INT8 NOT NULL DEFAULT 0,
            bytes INT8 NOT NULL DEFAULT 0,
            paid_until FLOAT8 NOT NULL DEFAULT 0,
            records_limit INT8,
            pace_limit INT8,
            bytes_limit INT8
        );

        -- Of active objects' newest versions (registry.storage.postgres_search).
        CREATE TABLE IF NOT EXISTS search (position INT8 PRIMARY KEY, issued_at INT8 NOT NULL, words TSVECTOR NOT NULL);
        CREATE INDEX IF NOT EXISTS search_words ON search USING GIN (words);

        -- Hashes of 32 bytes, up to 256, and those of the subtrees inside when there are 256 (hanse.tiles).
        CREATE TABLE IF NOT EXISTS tiles (
            level INT8 NOT NULL,
            number INT8 NOT NULL,
            hashes BYTEA NOT NULL,
            PRIMARY KEY (level, number)
        );

        -- The one line that every writer locks: who holds it appends, and nobody else.
        CREATE TABLE IF NOT EXISTS tree (one INT8 PRIMARY KEY CHECK (one = 1), size INT8 NOT NULL, root BYTEA NOT NULL);
        INSERT INTO tree (one, size, root)
            VALUES (1, 0, '\\xe3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855')
            ON CONFLICT (one) DO NOTHING;
        """,
    ),
)

_MADE = """
    CREATE TABLE IF NOT EXISTS schema_version (
        one INT8 PRIMARY KEY CHECK (one = 1), version INT8 NOT NULL, oldest INT8 NOT NULL
    );
    INSERT INTO schema_version (one, version, oldest) VALUES (1, 0, 0) ON CONFLICT (one) DO NOTHING;
"""
_READ = "SELECT version, oldest FROM schema_version WHERE one = 1"
_ATTEMPTS = 10


def migrate(connections: Connections) -> None:
    """Brings the schema up to date; several processes may do so at once.

    Raises HomeUnusable when it is too new for this program.
    """
    for attempt in range(_ATTEMPTS):
        try:
            with database_errors(), connections.one() as connection:
                if not _up_to_date(connection):
                    connection.make_patient()
                    _take_steps(connection)
            return
        except Overloaded:
            if attempt + 1 == _ATTEMPTS:
                raise
            time.sleep(0.1 * (attempt + 1))  # two programs made the same table at once, for example


def _up_to_date(connection: Connection) -> bool:
    try:
        version, oldest = connection.rows(_READ)[0]
    except (psycopg.errors.UndefinedTable, IndexError):
        return False
    refuse_newer(oldest)
    return bool(version >= len(STEPS))


def _take_steps(connection: Connection) -> None:
    connection.execute(_MADE.encode())
    with connection.transaction():
        version, oldest = connection.rows(f"{_READ} FOR UPDATE")[0]
        refuse_newer(oldest)
        for step in STEPS[version:]:
            connection.execute(step.script.encode())
        if version < len(STEPS):
            connection.run(
                "UPDATE schema_version SET version = %s, oldest = %s WHERE one = 1",
                (len(STEPS), max(step.oldest for step in STEPS)),
            )


def refuse_newer(oldest: int) -> None:
    """Raises HomeUnusable when the schema is none that this program may work with."""
    if oldest > len(STEPS):
        raise HomeUnusable(
            f"the registry's database was upgraded for programs of schema {oldest} and later; this one knows "
            f"{len(STEPS)}: install the newer hanse-registry, or restore the backup made before the upgrade"
        )
