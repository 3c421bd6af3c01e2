"""The registry's database in PostgreSQL: many processes, on many machines, one registry.

Only SQL that PostgreSQL, CockroachDB and YugabyteDB share; tested with PostgreSQL alone. What serves one process well
as a file is here the work of one call, of few round trips; reading takes no lock. Writing is in postgres_writing.

    storage = PostgresStorage("postgresql://registry@db.example.org/registry")
"""

import contextlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import psycopg

from hanse import tiles
from hanse.errors import HomeUnusable
from hanse.merkle import HASH_BYTES
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import Subtrees
from registry import index
from registry.index import Document, Question
from registry.storage import postgres_search, tree
from registry.storage.base import (
    OWN_TEXTS,
    Change,
    Figures,
    Head,
    Line,
    StoredInvitation,
    StoredOrganization,
    batched,
    transact,
)
from registry.storage.postgres_connections import Connection, Connections, database_errors
from registry.storage.postgres_migrations import migrate
from registry.storage.postgres_writing import MEMBER, USAGE, PostgresWriting, listed, transaction, usage_of
from registry.usage import Usage

_MOST = 1 << 62
_AT_ONCE = 1000  # rows
_SNAPSHOT = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"  # all of it as of one moment

_RESOLVE = (
    "SELECT o.key, o.withdrawn, c.envelope, o.position FROM objects o JOIN changes c ON c.position = o.position"
    " WHERE o.key = ANY(%s::text[])"
)
_CHANGES = (
    "SELECT position, envelope AS content, false AS is_certificate, octet_length(envelope) AS size"
    " FROM changes WHERE position > %s"
)
_CERTIFICATES = "SELECT position, certificate, true, octet_length(certificate) FROM certificates WHERE position > %s"
_LEAVES = (
    "SELECT position, digest, CASE WHEN key IS NULL THEN envelope END, NULL::bytea FROM changes"
    " WHERE position BETWEEN %s AND %s UNION ALL"
    " SELECT position, NULL::bytea, NULL::bytea, certificate FROM certificates WHERE position BETWEEN %s AND %s"
    " ORDER BY position"
)
_LINES = (
    "SELECT position, key, version, issued_at, digest FROM changes WHERE position BETWEEN %s AND %s UNION ALL"
    " SELECT position, prefix, NULL::int8, issued_at, NULL::bytea FROM certificates WHERE position BETWEEN %s AND %s"
    " ORDER BY position"
)
_BEYOND = "SELECT count(*) FROM tiles WHERE number << (8 * (level + 1))::int4 >= (SELECT size FROM tree)"
_CHECKS = (
    ("objects whose newest version is missing",
     "SELECT count(*) FROM objects o LEFT JOIN changes c ON c.position = o.position AND c.key = o.key"
     " AND c.version = o.version AND c.digest = o.digest WHERE c.position IS NULL"),
    ("active objects that searching does not find",
     "SELECT count(*) FROM objects o LEFT JOIN search s ON s.position = o.position"
     " WHERE NOT o.withdrawn AND s.position IS NULL"),
    ("found things that are no active objects",
     "SELECT count(*) FROM search s LEFT JOIN changes c ON c.position = s.position"
     " LEFT JOIN objects o ON o.key = c.key AND o.position = s.position AND NOT o.withdrawn WHERE o.key IS NULL"),
    ("organization records that do not stand where the log has them",
     "SELECT count(*) FROM organizations o LEFT JOIN changes c ON c.position = o.position"
     " AND c.envelope = o.envelope WHERE c.position IS NULL"),
    ("organization records that stand where others do",
     "SELECT count(*) - count(DISTINCT position) FROM organizations"),
    ("found things with another date than their records have",
     "SELECT count(*) FROM search s JOIN changes c ON c.position = s.position WHERE c.issued_at <> s.issued_at"),
    ("organizations whose identifiers are not as many as were counted",
     "SELECT count(*) FROM usage LEFT JOIN (SELECT split_part(key, '/', 1) AS prefix, count(*) AS objects"
     " FROM objects GROUP BY 1) AS counted ON counted.prefix = usage.prefix"
     " WHERE usage.objects <> coalesce(counted.objects, 0)"),
)  # fmt: skip


class _Alone(Connections):
    """One connection, whose transaction goes on from one question to the next. Given back by whoever opened it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._one_at_a_time = threading.Lock()

    @contextlib.contextmanager
    def one(self, *, fresh: bool = False) -> Iterator[Connection]:  # noqa: ARG002
        with self._one_at_a_time:
            yield self._connection

    def rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with database_errors(), self.one() as connection:
            return connection.rows(sql, values)

    def close(self) -> None:
        pass


class PostgresStorage:
    """See registry.storage.base for what every method promises."""

    distant = True

    def __init__(self, dsn: str) -> None:
        """Makes or upgrades the tables. Raises HomeUnusable, Overloaded, NoSpace, StorageFailed."""
        self._connections = Connections(dsn)
        try:
            self._refuse_unsafe()
            migrate(self._connections)
            if self.recall("index_version") is None:
                # Of an older one: registry.checking.reindex, before it is served.
                transact(self, lambda writing: writing.remember("index_version", str(index.VERSION)))
        except BaseException:
            self._connections.close()
            raise

    def _refuse_unsafe(self) -> None:
        sql = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'synchronous_commit', 'server_encoding')"
        told = dict(self._rows(sql))
        for name, setting in told.items():
            if name != "server_encoding" and setting in ("off", "local"):
                raise HomeUnusable(
                    f"the registry's database runs with {name} = {setting}: what it says is stored may be lost in a "
                    f"power cut. Set {name} = on, and restart it"
                )
        if told.get("server_encoding", "UTF8") != "UTF8":
            raise HomeUnusable("the registry's database is not in UTF-8: make it with `createdb -E UTF8 -T template0`")

    def _rows(self, sql: str, values: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        return self._connections.rows(sql, values)

    def writing(self) -> contextlib.AbstractContextManager[PostgresWriting]:
        return transaction(self._connections)

    @contextlib.contextmanager
    def reading(self) -> Iterator["PostgresStorage"]:
        with self._patient() as connection:
            connection.run(_SNAPSHOT)
            yield _Snapshot(connection)

    def resolve(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes]]:
        return {key: (gone, envelope) for key, gone, envelope, _ in self._rows(_RESOLVE, (list(keys),))}

    def organizations(self, prefix: Prefix, after_version: int) -> list[StoredOrganization]:
        sql = "SELECT version, digest, envelope FROM organizations WHERE prefix = %s AND version > %s ORDER BY version"
        return [StoredOrganization(*row) for row in self._rows(sql, (str(prefix), min(after_version, _MOST)))]

    def newest_organizations(self) -> list[bytes]:
        sql = (
            "SELECT o.envelope FROM organizations o JOIN (SELECT prefix, max(version) AS version FROM organizations"
            " GROUP BY prefix) AS newest ON newest.prefix = o.prefix AND newest.version = o.version"
        )
        return [bytes(row[0]) for row in self._rows(sql)]

    def membership(self) -> tuple[int, list[Member]]:
        # One statement sees one moment.
        rows = self._rows(
            f"SELECT (SELECT value FROM meta WHERE name = 'membership_version'), {MEMBER}"
            " FROM (SELECT 1 AS x) AS one LEFT JOIN members ON true"
        )
        return int(rows[0][0] or 0), listed([row[1:] for row in rows if row[1] is not None])

    def membership_version(self) -> int:
        return int(self.recall("membership_version") or 0)

    def changes(self, after: int, limit: int, limit_bytes: int, *, certificates: bool = False) -> list[Change]:
        first = min(after, _MOST)
        sql, values = _CHANGES, [first]
        if certificates:
            sql, values = f"{sql} UNION ALL {_CERTIFICATES}", [first, first]
        sql = (
            "SELECT position, content, is_certificate FROM (SELECT position, content, is_certificate,"
            " coalesce(sum(size) OVER (ORDER BY position ROWS BETWEEN UNBOUNDED PRECEDING AND 1 PRECEDING), 0) AS told"
            f" FROM ({sql} ORDER BY position LIMIT %s) AS part) AS summed WHERE told <= %s ORDER BY position"
        )
        return [Change(*row) for row in self._rows(sql, (*values, limit, limit_bytes))]

    def last_position(self) -> int:
        return self.head().size

    def head(self) -> Head:
        return Head(*self._rows("SELECT size, root FROM tree WHERE one = 1")[0])

    def tile(self, level: int, number: int, count: int) -> Subtrees | None:
        rows = self._rows("SELECT hashes FROM tiles WHERE level = %s AND number = %s", (level, number))
        return tiles.unpacked(rows[0][0], count) if rows and len(rows[0][0]) >= count * HASH_BYTES else None

    def leaves(self, first: int, count: int) -> list[bytes]:
        positions = (first + 1, first + count)
        return list(tree.leaf_data(self._rows(_LEAVES, positions * 2), first + 1))

    def located(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes, int]]:
        return {key: (gone, envelope, at) for key, gone, envelope, at in self._rows(_RESOLVE, (list(keys),))}

    def located_membership(self) -> int | None:
        told = self.recall("membership_position")
        return None if told is None else int(told)

    def located_organization(self, prefix: Prefix) -> tuple[bytes, int] | None:
        sql = "SELECT envelope, position FROM organizations WHERE prefix = %s ORDER BY version DESC LIMIT 1"
        rows = self._rows(sql, (str(prefix),))
        return (rows[0][0], rows[0][1]) if rows else None

    def usages(self) -> dict[Prefix, Usage]:
        return {Prefix(row[0]): usage_of(row) for row in self._rows(f"SELECT {USAGE} FROM usage")}

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        wanted = postgres_search.query(question)
        sql = "SELECT position, words FROM search WHERE position <= %s"
        values: list[object] = [as_of]
        if wanted is not None:
            sql += " AND words @@ %s::tsquery"
            values.append(wanted)
        if question.issued_from is not None or question.issued_until is not None:
            sql += " AND issued_at BETWEEN %s AND %s"
            values += [question.issued_from or 0, min(question.issued_until or _MOST, _MOST)]
        sql, order = f"SELECT position FROM ({sql} ORDER BY position DESC LIMIT %s) AS newest", "position DESC"
        values.append(limit)
        if question.phrases:
            # Long texts have more of everything: 1 divides by the logarithm of their length.
            order = f"ts_rank(%s::float4[], words, %s::tsquery, 1) DESC, {order}"
            values += [postgres_search.RANK_WEIGHTS, postgres_search.ranked_by(question)]
        return [row[0] for row in self._rows(f"{sql} ORDER BY {order}", values)]

    def records_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        rows = self._rows(
            "SELECT then_.position, newest.envelope FROM changes AS then_ JOIN objects ON objects.key = then_.key"
            " JOIN changes AS newest ON newest.position = objects.position"
            " WHERE then_.position = ANY(%s::int8[]) AND NOT objects.withdrawn",
            (list(positions),),
        )
        return dict(rows)

    def lines(self, first: int, count: int) -> list[Line]:
        positions = (first, first + count - 1)
        return [Line(*row) for row in self._rows(_LINES, positions * 2)]

    def invitations(self) -> list[tuple[bytes, StoredInvitation]]:
        rows = self._rows("SELECT secret_hash, prefix, display_name, expires_at, spent_by, mirror FROM invitations")
        return [(secret_hash, StoredInvitation(Prefix(prefix), *rest)) for secret_hash, prefix, *rest in rows]

    def texts(self) -> dict[str, str]:
        return {name: value for name, value in self._rows("SELECT name, value FROM meta") if name not in OWN_TEXTS}

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE name = %s", (name,))
        return str(rows[0][0]) if rows else None

    def stamp(self) -> int:
        # Whatever the running daemon must notice is in the log.
        return self.last_position()

    def figures(self) -> Figures:
        with self._patient() as connection:
            objects, withdrawn = connection.rows("SELECT count(*), count(*) FILTER (WHERE withdrawn) FROM objects")[0]
            ((last,),) = connection.rows("SELECT size FROM tree WHERE one = 1")
            size = self._size(connection)
        return Figures(objects, withdrawn, last, size)

    def _size(self, connection: Connection) -> int:
        try:
            return int(connection.rows("SELECT pg_database_size(current_database())")[0][0])
        except psycopg.DatabaseError:
            return 0  # not every database that speaks PostgreSQL's language knows

    def misindexed(self, documents: Mapping[int, Document]) -> list[int]:
        found = []
        for some in batched(documents.items(), _AT_ONCE):
            rows = self._rows(
                "SELECT wanted.position FROM unnest(%s::int8[], %s::text[]) AS wanted(position, words)"
                " LEFT JOIN search ON search.position = wanted.position"
                " WHERE search.position IS NULL OR search.words <> wanted.words::tsvector",
                ([position for position, _ in some], [postgres_search.vector(each) for _, each in some]),
            )
            found += [row[0] for row in rows]
        return found

    def problems(self) -> list[str]:
        with self._patient() as connection:
            connection.run(_SNAPSHOT)
            counts = [(what, connection.rows(sql)[0][0]) for what, sql in _CHECKS]
            ((beyond,),) = connection.rows(_BEYOND)
        found = [f"{count} {what}" for what, count in counts if count]
        return [*found, "the log has tiles of entries that are missing"] if beyond else found

    @contextlib.contextmanager
    def _patient(self) -> Iterator[Connection]:
        with database_errors(), self._connections.one() as connection:
            connection.make_patient()
            yield connection

    def close(self) -> None:
        self._connections.close()


class _Snapshot(PostgresStorage):
    """What was committed when it began, whatever is written meanwhile. For reading only."""

    def __init__(self, connection: Connection) -> None:
        self._connections = _Alone(connection)

    def _size(self, connection: Connection) -> int:  # noqa: ARG002
        return 0  # a question that fails would end the transaction
