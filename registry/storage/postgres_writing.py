"""One transaction in PostgreSQL. What makes several processes one registry is here.

The rule it keeps: whoever appends holds the one line of ``tree``; so positions have no gaps and come in the order of
the commits. It is held shortly: publishing reads without it what the newest versions are, prepares everything, and
takes it only to write, in two round trips: lock and the right edge of the tree; then all rows and the commit at once.
If somebody else stored another version of one of the objects meanwhile, ``changes`` has that version already, the
transaction fails as a whole, and whoever called begins anew (registry.storage.base.transact); so it does if any member
changed. Everything else takes the line before it reads, and decides about what nobody can change.
"""

import contextlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import psycopg

from hanse import tiles
from hanse.errors import Overloaded
from hanse.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import WIDTH, Subtrees
from hanse.transparency import Kind, certificate_leaf, digest_leaf
from registry.accept import Stored
from registry.index import Document
from registry.storage import postgres_migrations
from registry.storage.base import Certificate, Head, NewRecord, StoredInvitation, StoredOrganization, batched
from registry.storage.postgres_connections import UNKNOWN, Connection, Connections, database_errors
from registry.storage.postgres_search import vector
from registry.usage import Limits, Usage

MEMBER = "prefix, display_name, organization_version, suspended_at, reason, mirror"
_MEMBERSHIP = "SELECT value FROM meta WHERE name = 'membership_version'"
_ONE_MEMBER = f"SELECT ({_MEMBERSHIP}), {MEMBER} FROM (SELECT 1 AS x) AS one LEFT JOIN members ON members.prefix = %s"
_NOT_READ = ""
USAGE = "prefix, objects, bytes, paid_until, records_limit, pace_limit, bytes_limit"
_MOST = 1 << 62  # numbers of members are cut to what the database holds
_LEVELS = 7  # of tiles: more than 2**56 leaves need
# The tiles that have room, each by its own key; of those that are full there is none with this number yet.
_EDGE = " UNION ALL ".join(
    f"SELECT t.level, t.hashes FROM tree CROSS JOIN tiles t WHERE tree.one = 1 AND t.level = {level}"
    f" AND t.number = tree.size >> {tiles.HEIGHT * (level + 1)}"
    for level in range(_LEVELS)
)
_CHANGES = (
    "INSERT INTO changes (position, key, version, issued_at, digest, envelope)"
    " SELECT %s::int8 + n, key, version, issued_at, digest, envelope FROM"
    " unnest(%s::text[], %s::int8[], %s::int8[], %b::bytea[], %b::bytea[])"
    " WITH ORDINALITY AS new(key, version, issued_at, digest, envelope, n)"
)
_OBJECTS = (
    "INSERT INTO objects (key, version, withdrawn, position, digest)"
    " SELECT key, version, withdrawn, position, digest FROM"
    " unnest(%s::text[], %s::int8[], %s::bool[], %s::int8[], %b::bytea[])"
    " AS new(key, version, withdrawn, position, digest)"
    " ON CONFLICT (key) DO UPDATE SET version = excluded.version, withdrawn = excluded.withdrawn,"
    " position = excluded.position, digest = excluded.digest"
)
_SEARCH = (
    "INSERT INTO search (position, issued_at, words) SELECT position, issued_at, words::tsvector FROM"
    " unnest(%s::int8[], %s::int8[], %s::text[]) AS new(position, issued_at, words)"
)
_COUNT = (
    "INSERT INTO usage (prefix, objects, bytes) SELECT prefix, objects, bytes FROM"
    " unnest(%s::text[], %s::int8[], %s::int8[]) AS new(prefix, objects, bytes) ON CONFLICT (prefix) DO UPDATE SET"
    " objects = usage.objects + excluded.objects, bytes = usage.bytes + excluded.bytes"
)
_TILES = (
    "INSERT INTO tiles (level, number, hashes) SELECT level, number, hashes FROM"
    " unnest(%s::int8[], %s::int8[], %b::bytea[]) AS new(level, number, hashes)"
    " ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes"
)


@dataclass(frozen=True, slots=True)
class _Object:
    """The newest version of an object, as it was read."""

    stored: Stored
    position: int


@contextlib.contextmanager
def transaction(connections: Connections) -> Iterator["PostgresWriting"]:
    """Raises Overloaded when it lost a race, or when nobody knows whether it was stored; both are worth a retry."""
    with database_errors(), connections.one() as connection:
        writing = PostgresWriting(connection)
        try:
            yield writing
            writing.commit()
        except BaseException:
            writing.abandon()
            raise


class PostgresWriting:
    """See registry.storage.base for what every method promises."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._locked = False
        self._size, self._root = 0, EMPTY_ROOT  # of the log before this transaction
        self._edge: dict[int, bytes] = {}
        self._membership: str | None = _NOT_READ  # its version, when something of it was read without the lock
        self._leaves: list[bytes] = []  # hashes
        self._pending: list[NewRecord] = []
        self._seen: dict[str, _Object | None] = {}

    def commit(self) -> None:
        """The end. Without anything written it is none."""
        write = self._prepared()
        if write is None and not self._locked:
            return
        self._lock_only()
        self._connection.warned = False
        try:
            with self._connection.pipeline():
                if write is not None:
                    write()
                self._grow()
                done = self._connection.run("COMMIT")
        except psycopg.OperationalError as error:
            if not error.sqlstate or error.sqlstate.startswith(("08", "57P", "40003")):
                raise Overloaded(UNKNOWN) from error
            raise
        # A warning: a synchronous standby was no longer waited for, so that the commit may be lost with this server.
        if done.statusmessage != "COMMIT" or self._connection.warned:
            raise Overloaded(UNKNOWN)

    def abandon(self) -> None:
        """Nothing of it is stored. A connection in doubt is closed."""
        try:
            if self._connection.closed or not self._locked:
                return
            if self._connection.pgconn.transaction_status in (
                psycopg.pq.TransactionStatus.INTRANS,
                psycopg.pq.TransactionStatus.INERROR,
            ):
                self._connection.execute("ROLLBACK")
        except psycopg.Error:
            self._connection.close()

    # The lock, and what is written under it.

    def _lock(self) -> None:
        """For whoever reads what others may change, or writes: what was put before is written first."""
        write = self._prepared()
        self._lock_only()
        if write is not None:
            with self._connection.pipeline():
                write()

    def _lock_only(self) -> None:
        if self._locked:
            return
        connection, self._locked = self._connection, True
        with connection.pipeline():
            connection.run("BEGIN ISOLATION LEVEL READ COMMITTED")
            tree = connection.run("SELECT size, root FROM tree WHERE one = 1 FOR UPDATE")
            edge = connection.run(_EDGE)
            schema = connection.run("SELECT oldest FROM schema_version WHERE one = 1")
            membership = connection.run(f"SELECT ({_MEMBERSHIP})")
        postgres_migrations.refuse_newer(schema.fetchall()[0][0])
        if self._membership != _NOT_READ:
            self._same_membership(membership.fetchall()[0][0])
        ((self._size, self._root),) = tree.fetchall()
        self._edge = {level: hashes for level, hashes in edge.fetchall() if len(hashes) < WIDTH * HASH_BYTES}

    def _prepared(self) -> "_Records | None":
        """What was put and is not written yet, with all that can be done without the lock."""
        if not self._pending:
            return None
        records, self._pending = self._pending, []
        self._look([record.key for record in records if record.key not in self._seen])
        return _Records(self, records)

    def _append(self, *leaves: bytes) -> int:
        """The position of the first."""
        first = self._size + len(self._leaves) + 1
        self._leaves += leaves
        return first

    def _grow(self) -> None:
        """Puts the leaves of all that was written into the tree: once, at the end of the transaction."""
        if not self._leaves:
            return
        changed, root = self._grown()
        places, hashes = list(changed), [tiles.packed(each) for each in changed.values()]
        levels, numbers = [level for level, _ in places], [number for _, number in places]
        self._connection.run(_TILES, (levels, numbers, hashes))
        self._connection.run(
            "UPDATE tree SET size = %s, root = %s WHERE one = 1", (self._size + len(self._leaves), root)
        )

    def _grown(self) -> tuple[dict[tuple[int, int], Subtrees], bytes]:
        """The tiles that are other ones with the new leaves, and the root."""
        if not self._leaves:
            return {}, self._root
        return tiles.append(self._size, lambda level, _: self._edge[level], self._leaves)

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        self._lock()
        return self._connection.rows(sql, values)

    def _row(self, sql: str, values: Sequence[object]) -> tuple[Any, ...] | None:
        rows = self._rows(sql, values)
        return rows[0] if rows else None

    def _run(self, sql: str, values: Sequence[object]) -> None:
        self._lock()
        self._connection.run(sql, values)

    # Records. Reading them takes no lock.

    def stored(self, keys: Sequence[str]) -> dict[str, Stored]:
        if self._pending:
            self._lock()
        self._look([key for key in keys if key not in self._seen])
        return {key: found.stored for key in keys if (found := self._seen[key]) is not None}

    def _look(self, keys: Sequence[str]) -> None:
        if not keys:
            return
        self._seen.update(dict.fromkeys(keys))
        sql = "SELECT key, version, digest, withdrawn, position FROM objects WHERE key = ANY(%s::text[])"
        for key, version, digest, withdrawn, position in self._connection.rows(sql, (list(keys),)):
            self._seen[key] = _Object(Stored(version, digest, withdrawn), position)

    def digest_of(self, key: str, version: int) -> bytes | None:
        if self._pending:
            self._lock()
        sql = "SELECT digest FROM changes WHERE key = %s AND version = %s"
        rows = self._connection.rows(sql, (key, min(version, _MOST)))
        return rows[0][0] if rows else None

    def put_records(self, records: Sequence[NewRecord]) -> None:
        self._pending.extend(records)

    # Everything else.

    def put_organization(self, prefix: Prefix, organization: StoredOrganization) -> None:
        self._lock()
        position = self._append(leaf_hash(digest_leaf(Kind.ORGANIZATION, organization.digest)))
        self._run(
            "INSERT INTO organizations (prefix, version, digest, envelope, position) VALUES (%s, %s, %s, %s, %s)",
            (str(prefix), organization.version, organization.digest, organization.envelope, position),
        )
        self._put_change(position, organization.envelope)
        self._connection.run(_COUNT, ([str(prefix)], [0], [len(organization.envelope)]))

    def organization_digest(self, prefix: Prefix, version: int) -> bytes | None:
        sql = "SELECT digest FROM organizations WHERE prefix = %s AND version = %s"
        row = self._row(sql, (str(prefix), min(version, _MOST)))
        return row[0] if row else None

    def newest_organization(self, prefix: Prefix) -> StoredOrganization | None:
        row = self._row(
            "SELECT version, digest, envelope FROM organizations WHERE prefix = %s ORDER BY version DESC LIMIT 1",
            (str(prefix),),
        )
        return StoredOrganization(*row) if row else None

    def member(self, prefix: Prefix) -> Member | None:
        """Without the lock; when it is taken, no member may have changed meanwhile."""
        if self._pending:
            self._lock()
        rows = self._connection.rows(_ONE_MEMBER, (str(prefix),))
        if not self._locked:
            self._same_membership(rows[0][0])
        return Member(prefix, *rows[0][2:]) if rows[0][1] is not None else None

    def _same_membership(self, version: str | None) -> None:
        if self._membership not in (_NOT_READ, version):
            raise Overloaded("the membership changed meanwhile: try again")
        self._membership = version

    def members(self) -> list[Member]:
        return listed(self._rows(f"SELECT {MEMBER} FROM members"))

    def put_member(self, member: Member, now: int) -> None:
        self._run(
            f"INSERT INTO members ({MEMBER}, joined_at) VALUES (%s, %s, %s, %s, %s, %s, %s)"
            " ON CONFLICT (prefix) DO UPDATE SET display_name = excluded.display_name,"
            " organization_version = excluded.organization_version, suspended_at = excluded.suspended_at,"
            " reason = excluded.reason, mirror = excluded.mirror",
            (
                str(member.prefix), member.display_name, member.organization_version, member.suspended_at,
                member.reason, member.mirror, now,
            ),
        )  # fmt: skip

    def next_membership_version(self) -> int:
        row = self._row("SELECT value FROM meta WHERE name = %s", ("membership_version",))
        version = int(row[0]) + 1 if row else 1
        self.remember("membership_version", str(version))
        return version

    def put_membership(self, envelope: bytes, leaf: bytes) -> None:
        self._lock()
        position = self._append(leaf_hash(leaf))
        self._put_change(position, envelope)
        self.remember("membership_position", str(position))

    def _put_change(self, position: int, envelope: bytes) -> None:
        self._run("INSERT INTO changes (position, envelope) VALUES (%s, %s)", (position, envelope))

    def put_certificate(self, certificate: Certificate) -> None:
        self._lock()
        position = self._append(leaf_hash(certificate_leaf(certificate.der)))
        self._run(
            "INSERT INTO certificates (position, prefix, issued_at, certificate) VALUES (%s, %s, %s, %s)",
            (position, str(certificate.prefix), certificate.issued_at, certificate.der),
        )

    def newest_certificate(self, prefix: Prefix) -> Certificate | None:
        row = self._row(
            "SELECT issued_at, certificate FROM certificates WHERE prefix = %s ORDER BY position DESC LIMIT 1",
            (str(prefix),),
        )
        return Certificate(prefix, *row) if row else None

    def reindex(self, documents: Iterable[tuple[int, Document]]) -> None:
        self._lock()
        connection = self._connection
        connection.make_patient()
        connection.run("DELETE FROM search")
        for some in batched(documents, 1000):
            connection.run(
                "INSERT INTO search (position, issued_at, words) SELECT new.position, changes.issued_at,"
                " new.words::tsvector FROM unnest(%s::int8[], %s::text[]) AS new(position, words)"
                " JOIN changes ON changes.position = new.position",
                ([position for position, _ in some], [vector(each) for _, each in some]),
            )

    def put_invitation(self, secret_hash: bytes, invitation: StoredInvitation, now: int) -> None:
        # A secret is made once: a line that is there is of an attempt of which nobody knew whether it was stored.
        self._run(
            "INSERT INTO invitations (secret_hash, prefix, display_name, expires_at, created_at, spent_by, mirror)"
            " VALUES (%s, %s, %s, %s, %s, %s, %s) ON CONFLICT (secret_hash) DO NOTHING",
            (
                secret_hash, str(invitation.prefix), invitation.display_name, invitation.expires_at, now,
                invitation.spent_by, invitation.mirror,
            ),
        )  # fmt: skip

    def invitation(self, secret_hash: bytes) -> StoredInvitation | None:
        sql = "SELECT prefix, display_name, expires_at, spent_by, mirror FROM invitations WHERE secret_hash = %s"
        row = self._row(sql, (secret_hash,))
        return StoredInvitation(Prefix(row[0]), *row[1:]) if row else None

    def spend_invitation(self, secret_hash: bytes, organization_digest: bytes, now: int) -> None:
        self._run(
            "UPDATE invitations SET spent_at = %s, spent_by = %s WHERE secret_hash = %s",
            (now, organization_digest, secret_hash),
        )

    def head(self) -> Head:
        self._lock()
        return Head(self._size + len(self._leaves), self._grown()[1])

    def usage(self, prefix: Prefix, *, exact: bool = True) -> Usage:
        if exact or self._pending:
            self._lock()
        rows = self._connection.rows(f"SELECT {USAGE} FROM usage WHERE prefix = %s", (str(prefix),))
        return usage_of(rows[0]) if rows else Usage()

    def put_pace(self, prefix: Prefix, paid_until: float) -> None:
        self._run(
            "INSERT INTO usage (prefix, paid_until) VALUES (%s, %s) ON CONFLICT (prefix) DO UPDATE SET"
            " paid_until = excluded.paid_until",
            (str(prefix), paid_until),
        )

    def put_limits(self, prefix: Prefix, limits: Limits) -> None:
        self._run(
            "INSERT INTO usage (prefix, records_limit, pace_limit, bytes_limit) VALUES (%s, %s, %s, %s)"
            " ON CONFLICT (prefix) DO UPDATE SET records_limit = excluded.records_limit,"
            " pace_limit = excluded.pace_limit, bytes_limit = excluded.bytes_limit",
            (str(prefix), limits.records, limits.publishes_per_minute, limits.bytes),
        )

    def remember(self, name: str, value: str) -> None:
        self._run(
            "INSERT INTO meta (name, value) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET value = excluded.value",
            (name, value),
        )


def usage_of(row: Sequence[Any]) -> Usage:
    """Of the columns USAGE."""
    _, objects, size, paid_until, *limited = row
    return Usage(objects, size, paid_until, Limits(*limited))


def listed(rows: Sequence[tuple[Any, ...]]) -> list[Member]:
    """In the order of their prefixes, which is not that of every database's language."""
    return [Member(Prefix(prefix), *rest) for prefix, *rest in sorted(rows, key=lambda row: row[0])]


class _Records:
    """Records that were put together, ready to be written once the lock is there."""

    def __init__(self, writing: PostgresWriting, records: Sequence[NewRecord]) -> None:
        self._writing = writing
        self._records = records
        self._leaves = [leaf_hash(digest_leaf(Kind.RECORD, record.digest)) for record in records]
        self._newest = {record.key: at for at, record in enumerate(records)}
        seen = writing._seen
        before = [found for key in self._newest if (found := seen[key]) is not None]
        self._gone = [found.position for found in before if not found.stored.withdrawn]
        self._sizes, self._objects = Counter[str](), Counter[str]()  # of their owners
        for record in records:
            self._sizes[record.key.partition("/")[0]] += len(record.envelope)
        for key in self._newest:
            self._objects[key.partition("/")[0]] += seen[key] is None
        self._vectors = {
            at: vector(document) for at in self._newest.values() if (document := records[at].document) is not None
        }

    def __call__(self) -> None:
        """Writes them, in a pipeline."""
        run, records, newest = self._writing._connection.run, self._records, self._newest
        first = self._writing._append(*self._leaves)
        run(
            _CHANGES,
            (
                first - 1,
                [each.key for each in records],
                [each.version for each in records],
                [each.issued_at for each in records],
                [each.digest for each in records],
                [each.envelope for each in records],
            ),
        )
        lines = [records[at] for at in newest.values()]
        run(
            _OBJECTS,
            (
                [each.key for each in lines],
                [each.version for each in lines],
                [each.document is None for each in lines],
                [first + at for at in newest.values()],
                [each.digest for each in lines],
            ),
        )
        prefixes = list(self._sizes)
        run(_COUNT, (prefixes, [self._objects[each] for each in prefixes], list(self._sizes.values())))
        if self._gone:
            run("DELETE FROM search WHERE position = ANY(%s::int8[])", (self._gone,))
        if self._vectors:
            run(
                _SEARCH,
                (
                    [first + at for at in self._vectors],
                    [records[at].issued_at for at in self._vectors],
                    list(self._vectors.values()),
                ),
            )
        for each, at in zip(lines, newest.values(), strict=True):
            stored = Stored(each.version, each.digest, each.document is None)
            self._writing._seen[each.key] = _Object(stored, first + at)
