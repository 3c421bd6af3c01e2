"""The registry's database in SQLite: one file, write-ahead log, every commit synced to the disk.

Several processes may have it open: the daemon and the operator's commands. One connection a thread for reading,
one for writing. Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/fts5.html
"""

import contextlib
import threading
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse import limits
from hanse.errors import HanseError, HomeUnusable, NoSpace, Overloaded, StorageFailed, Unreachable
from hanse.files import storage_errors
from hanse.merkle import leaf_hash
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import Subtrees
from hanse.transparency import Kind, certificate_leaf, digest_leaf
from registry import index
from registry.accept import Stored
from registry.index import Document, Question
from registry.storage import tree
from registry.storage.base import (
    OWN_TEXTS,
    Certificate,
    Change,
    Figures,
    Head,
    Line,
    NewRecord,
    StoredInvitation,
    StoredOrganization,
)
from registry.storage.migrations import migrate
from registry.usage import Limits, Usage

_BUSY_SECONDS = 5.0
_KEYS_A_QUERY = 250
_COMPLETIONS = 64  # of the beginning of a word: with more, FTS5 is asked for the beginning
_KNOWN_WORDS = 100_000  # that are remembered not to be written again: some 10 MB
_MOVING = "moving"  # a name in the store
_IS_MOVING = f"SELECT 1 FROM meta WHERE name = '{_MOVING}' AND value <> ''"
# Pages come straight from the operating system's cache: a lookup among a million records costs what one among a
# thousand does.
_MAPPED_BYTES = 1024 * limits.MIB
_MEMBER = "prefix, display_name, organization_version, suspended_at, reason, mirror"
_USAGE = "prefix, objects, bytes, paid_until, records_limit, pace_limit, bytes_limit"

_RESOLVE_ONE = (
    "SELECT o.key, o.withdrawn, c.envelope FROM objects o JOIN changes c ON c.position = o.position WHERE o.key = ?"
)

_LOCATE = _RESOLVE_ONE.replace("c.envelope FROM", "c.envelope, o.position FROM")


_LINES = (
    "SELECT c.position, coalesce(o.key, '(' || c.object || ')'), c.version, c.issued_at, c.digest FROM changes c"
    " LEFT JOIN objects o ON o.number = c.object WHERE c.position BETWEEN ? AND ? UNION ALL"
    " SELECT position, prefix, NULL, issued_at, NULL FROM certificates WHERE position BETWEEN ? AND ? ORDER BY position"
)

_DOCUMENT = "title, description, subjects, creators, facets"
_INDEX = f"INSERT INTO search (rowid, {_DOCUMENT}) VALUES (?, ?, ?, ?, ?, ?)"


def _indexed(position: int, text: Document) -> tuple[object, ...]:
    return position, text.title, text.description, text.subjects, text.creators, text.facets


def _in(count: int) -> str:
    return ",".join("?" * count)


_OBJECTS = (
    "SELECT key, number, version, digest, withdrawn, position FROM objects WHERE key IN " + f"({_in(_KEYS_A_QUERY)})"
)

_RESOLVE_MANY = {
    count: _RESOLVE_ONE.replace("= ?", f"IN ({_in(count)})") for count in (10, 100, _KEYS_A_QUERY)
}  # few texts, so that each is prepared once a connection


_NO_SPACE = ("SQLITE_FULL", "SQLITE_IOERR_SHMSIZE")  # the second: for the index of what waits to be copied


def failure(error: sqlite3.Error) -> HanseError:
    """What an error of SQLite means for whoever waits."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name in _NO_SPACE or "disk is full" in str(error):
        return NoSpace("no space left on the registry's disk: free some; nothing that was acknowledged is lost")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Overloaded("the registry's database is busy: try again")
    return StorageFailed(f"the registry's database failed ({name or type(error).__name__}): `hanse-registry check`")


@contextlib.contextmanager
def database_errors() -> Iterator[None]:
    """Turns an error of SQLite into the one that says what it means."""
    try:
        yield
    except sqlite3.Error as error:
        raise failure(error) from error


class SqliteStorage:
    """See registry.storage.base for what every method promises."""

    distant = False

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. Raises HomeUnusable, NoSpace, StorageFailed."""
        self._path = path
        self._local = threading.local()
        self._guard = threading.Lock()
        self._one_writer = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        self._stamping = threading.Lock()
        self._stamper: sqlite3.Connection | None = None
        self._words: Set[str] = frozenset()  # that are in the table for certain
        try:
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            migrate(self._writer, str(path))
            if self.recall("index_version") is None:
                with self.writing() as writing:
                    # Of an older one: registry.checking.reindex, before it is served.
                    writing.remember("index_version", str(index.VERSION))
        except sqlite3.Error as error:
            if getattr(error, "sqlite_errorname", "").startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
                raise HomeUnusable(f"{path} cannot be opened for writing: check its owner and mode") from error
            if getattr(error, "sqlite_errorname", "") == "SQLITE_NOTADB":
                raise HomeUnusable(f"{path} is not a database: restore it from your backup") from error
            raise failure(error) from error
        with storage_errors(str(path)):
            path.chmod(0o600)

    def _connect(self) -> sqlite3.Connection:
        connection = sqlite3.connect(self._path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA cache_size = -16000")
        connection.execute("PRAGMA temp_store = MEMORY")
        return connection

    @property
    def _reader(self) -> sqlite3.Connection:
        reader: sqlite3.Connection | None = getattr(self._local, "reader", None)
        if reader is None:
            reader = self._connect()
            reader.execute(f"PRAGMA mmap_size = {_MAPPED_BYTES}")
            reader.execute("PRAGMA query_only = 1")
            self._local.reader = reader
            with self._guard:
                self._readers.append(reader)
        return reader

    def _rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with database_errors():
            return self._reader.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def writing(self, *, although_moving: bool = False) -> Iterator["SqliteWriting"]:
        with self._one_writer, database_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                if not although_moving and self._writer.execute(_IS_MOVING).fetchone():
                    raise Unreachable(
                        "the registry is being moved to another store, and takes nothing new until that is done: "
                        "try again in some minutes"
                    )
                writing = SqliteWriting(self._writer, self._words)
                yield writing
                writing.grow()
                self._writer.execute("COMMIT")
                self._words = writing.words if len(writing.words) <= _KNOWN_WORDS else frozenset()
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

    @contextlib.contextmanager
    def reading(self) -> Iterator["SqliteStorage"]:
        # One moment would be a long transaction, in which the log of the database grows. Backups are copied instead.
        yield self

    def resolve(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes]]:
        try:
            execute = self._reader.execute
            if len(keys) == 1:
                row = execute(_RESOLVE_ONE, keys).fetchone()
                return {} if row is None else {row[0]: (row[1], row[2])}
            found: dict[str, tuple[bool, bytes]] = {}
            for first in range(0, len(keys), _KEYS_A_QUERY):
                part = tuple(keys[first : first + _KEYS_A_QUERY])
                size = next(size for size in _RESOLVE_MANY if size >= len(part))
                padded = part + part[:1] * (size - len(part))
                found.update({key: (gone, envelope) for key, gone, envelope in execute(_RESOLVE_MANY[size], padded)})
        except sqlite3.Error as error:
            raise failure(error) from error
        return found

    def organizations(self, prefix: Prefix, after_version: int) -> list[StoredOrganization]:
        sql = "SELECT version, digest, envelope FROM organizations WHERE prefix = ? AND version > ? ORDER BY version"
        return [StoredOrganization(*row) for row in self._rows(sql, (str(prefix), min(after_version, 1 << 62)))]

    def newest_organizations(self) -> list[bytes]:
        sql = "SELECT envelope, max(version) FROM organizations GROUP BY prefix"
        return [row[0] for row in self._rows(sql)]

    def membership(self) -> tuple[int, list[Member]]:
        with database_errors():
            reader = self._reader
            reader.execute("BEGIN")
            try:
                return _membership_version(reader), _members(reader)
            finally:
                reader.execute("COMMIT")

    @property
    def moving(self) -> bool:
        """Whether nobody may write, because everything is on its way to another store: see registry.copying."""
        return bool(self._rows(_IS_MOVING))

    @moving.setter
    def moving(self, moves: bool) -> None:
        with self.writing(although_moving=True) as writing:
            writing.remember(_MOVING, "yes" if moves else "")

    def invitations(self) -> list[tuple[bytes, StoredInvitation]]:
        rows = self._rows("SELECT secret_hash, prefix, display_name, expires_at, spent_by, mirror FROM invitations")
        return [
            (secret_hash, StoredInvitation(Prefix(prefix), name, expires_at, spent_by, bool(mirror)))
            for secret_hash, prefix, name, expires_at, spent_by, mirror in rows
        ]

    def texts(self) -> dict[str, str]:
        return {name: value for name, value in self._rows("SELECT name, value FROM meta") if name not in OWN_TEXTS}

    def membership_version(self) -> int:
        with database_errors():
            return _membership_version(self._reader)

    def changes(self, after: int, limit: int, limit_bytes: int, *, certificates: bool = False) -> list[Change]:
        found: list[Change] = []
        size, first = 0, min(after, 1 << 62)
        with database_errors():
            sql, values = "SELECT position, envelope, 0 FROM changes WHERE position > ?", [first]
            if certificates:
                sql += " UNION ALL SELECT position, certificate, 1 FROM certificates WHERE position > ?"
                values.append(first)
            cursor = self._reader.execute(f"{sql} ORDER BY position LIMIT ?", (*values, limit))
            for position, content, is_certificate in cursor:
                found.append(Change(position, content, bool(is_certificate)))
                size += len(content)
                if size > limit_bytes:
                    break
            cursor.close()
        return found

    def last_position(self) -> int:
        return self.head().size

    def head(self) -> Head:
        with database_errors():
            return tree.head(self._reader)

    def tile(self, level: int, number: int, count: int) -> Subtrees | None:
        with database_errors():
            return tree.tile(self._reader, level, number, count)

    def leaves(self, first: int, count: int) -> list[bytes]:
        with database_errors():
            return tree.leaves(self._reader, first, count)

    def located(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes, int]]:
        return {
            key: (bool(gone), envelope, position)
            for key in keys
            for _, gone, envelope, position in self._rows(_LOCATE, (key,))
        }

    def located_membership(self) -> int | None:
        told = self.recall("membership_position")
        return None if told is None else int(told)

    def located_organization(self, prefix: Prefix) -> tuple[bytes, int] | None:
        sql = "SELECT envelope, position FROM organizations WHERE prefix = ? ORDER BY version DESC LIMIT 1"
        rows = self._rows(sql, (str(prefix),))
        return (rows[0][0], rows[0][1]) if rows else None

    def usages(self) -> dict[Prefix, Usage]:
        return {Prefix(row[0]): _usage(row) for row in self._rows(f"SELECT {_USAGE} FROM usage")}

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        # The newest that match are found without looking at all that do.
        columns = ", ".join(index.TEXT_COLUMNS) if question.phrases else "''"
        sql = f"SELECT search.rowid, {columns} FROM search"
        values: list[Any] = []
        dated = question.issued_from is not None or question.issued_until is not None
        if dated:
            sql += " JOIN changes ON changes.position = search.rowid"
        sql += " WHERE search MATCH ? AND search.rowid <= ?"
        values += [index.expression(question, self._completions(question)), as_of]
        if dated:
            sql += " AND changes.issued_at BETWEEN ? AND ?"
            values += [question.issued_from or 0, min(question.issued_until or 1 << 62, 1 << 62)]
        rows = self._rows(f"{sql} ORDER BY search.rowid DESC LIMIT ?", (*values, limit))
        return index.ranked(question, ((row[0], row[1:]) for row in rows))

    def _completions(self, question: Question) -> dict[str, list[str]]:
        """Of each beginning that has not too many."""
        found = {}
        for each in question.phrases:
            begin = each.tokens[-1]
            if each.open_ended:
                sql = f"SELECT word FROM words WHERE word >= ? AND word < ? LIMIT {_COMPLETIONS + 1}"
                rows = self._rows(sql, (begin, begin + chr(0x10FFFF)))
                if len(rows) <= _COMPLETIONS:
                    found[begin] = [row[0] for row in rows]
        return found

    def records_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        # One by one: a page is small.
        sql = (
            "SELECT newest.envelope FROM changes AS then_ JOIN objects ON objects.number = then_.object"
            " JOIN changes AS newest ON newest.position = objects.position"
            " WHERE then_.position = ? AND NOT objects.withdrawn"
        )
        return {position: row[0] for position in positions for row in self._rows(sql, (position,))}

    def lines(self, first: int, count: int) -> list[Line]:
        positions = (first, first + count - 1)
        return [Line(*row) for row in self._rows(_LINES, positions * 2)]

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def stamp(self) -> int:
        # Each connection counts for itself, from where it began: it is always the same one that is asked.
        with self._stamping, database_errors():
            if self._stamper is None:
                self._stamper = self._connect()
            return int(self._stamper.execute("PRAGMA data_version").fetchone()[0])

    def figures(self) -> Figures:
        objects, withdrawn = self._rows("SELECT count(*), coalesce(sum(withdrawn), 0) FROM objects")[0]
        size = 0
        for name in (self._path.name, f"{self._path.name}-wal"):
            with contextlib.suppress(FileNotFoundError):
                size += self._path.with_name(name).stat().st_size
        return Figures(objects, withdrawn, self.last_position(), size)

    def misindexed(self, documents: Mapping[int, Document]) -> list[int]:
        stored: dict[int, Document] = {}
        positions = list(documents)
        for first in range(0, len(positions), _KEYS_A_QUERY):
            part = positions[first : first + _KEYS_A_QUERY]
            rows = self._rows(f"SELECT rowid, {_DOCUMENT} FROM search WHERE rowid IN ({_in(len(part))})", part)
            stored.update({row[0]: Document(*row[1:]) for row in rows})
        return [position for position, document in documents.items() if stored.get(position) != document]

    def problems(self) -> list[str]:
        found = [row[0] for row in self._rows("PRAGMA integrity_check") if row[0] != "ok"]
        checks = (
            ("objects whose newest version is missing",
             "SELECT count(*) FROM objects o LEFT JOIN changes c ON c.position = o.position AND c.object = o.number"
             " AND c.version = o.version AND c.digest = o.digest WHERE c.position IS NULL"),
            ("active objects that searching does not find",
             "SELECT count(*) FROM objects WHERE NOT withdrawn AND position NOT IN (SELECT rowid FROM search)"),
            ("found things that are no active objects",
             "SELECT count(*) FROM search WHERE rowid NOT IN (SELECT position FROM objects WHERE NOT withdrawn)"),
            ("words that are indexed and not known",
             "SELECT count(DISTINCT term) FROM indexed WHERE col <> 'facets' AND term NOT IN (SELECT word FROM words)"),
            ("organization records that do not stand where the log has them",
             "SELECT count(*) FROM organizations o LEFT JOIN changes c ON c.position = o.position"
             " AND c.envelope = o.envelope WHERE c.position IS NULL"),
            ("organization records that stand where others do",
             "SELECT count(*) - count(DISTINCT position) FROM organizations"),
            ("organizations whose identifiers are not as many as were counted",
             "SELECT count(*) FROM usage LEFT JOIN (SELECT substr(key, 1, instr(key, '/') - 1) AS prefix,"
             " count(*) AS objects FROM objects GROUP BY 1) AS real USING (prefix)"
             " WHERE usage.objects <> coalesce(real.objects, 0)"),
        )  # fmt: skip
        for what, sql in checks:
            (count,) = self._rows(sql)[0]
            if count:
                found.append(f"{count} {what}")
        with database_errors():
            found += tree.problems(self._reader)
        return found

    def close(self) -> None:
        with self._guard, self._one_writer, self._stamping:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
            if self._stamper is not None:
                self._stamper.close()
            self._writer.close()


def _membership_version(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE name = 'membership_version'").fetchone()
    return int(row[0]) if row else 0


def _members(connection: sqlite3.Connection) -> list[Member]:
    rows = connection.execute(f"SELECT {_MEMBER} FROM members ORDER BY prefix")
    return [_member(row) for row in rows]


def _member(row: Sequence[Any]) -> Member:
    prefix, name, version, suspended_at, reason, mirror = row
    return Member(Prefix(prefix), name, version, suspended_at, reason, bool(mirror))


def _usage(row: Sequence[Any]) -> Usage:
    _, objects, size, paid_until, *limited = row
    return Usage(objects, size, paid_until, Limits(*limited))


class SqliteWriting:
    """See registry.storage.base for what every method promises."""

    def __init__(self, connection: sqlite3.Connection, words: Set[str]) -> None:
        self._connection = connection
        self._known, self._new = words, set[str]()
        self._size = tree.head(connection).size
        self._leaves: list[bytes] = []  # hashes

    def grow(self) -> None:
        """Puts the leaves of all that was written into the tree: once, at the end of the transaction."""
        if self._leaves:
            tree.append(self._connection, self._size, self._leaves)
            self._size, self._leaves = self._size + len(self._leaves), []

    def _append(self, leaf: bytes) -> int:
        """The position that it takes."""
        self._leaves.append(leaf_hash(leaf))
        return self._size + len(self._leaves)

    def _row(self, sql: str, values: Sequence[Any]) -> tuple[Any, ...] | None:
        row: tuple[Any, ...] | None = self._connection.execute(sql, values).fetchone()
        return row

    def stored(self, keys: Sequence[str]) -> dict[str, Stored]:
        return {
            key: Stored(version, digest, bool(withdrawn))
            for key, (_, version, digest, withdrawn, _) in self._objects(keys).items()
        }

    def _objects(self, keys: Sequence[str]) -> dict[str, tuple[int, int, bytes, int, int]]:
        found = {}
        for first in range(0, len(keys), _KEYS_A_QUERY):
            part = list(keys[first : first + _KEYS_A_QUERY])
            part += part[:1] * (_KEYS_A_QUERY - len(part))
            found.update({row[0]: row[1:] for row in self._connection.execute(_OBJECTS, part)})
        return found

    def digest_of(self, key: str, version: int) -> bytes | None:
        sql = "SELECT c.digest FROM objects o JOIN changes c ON c.object = o.number AND c.version = ? WHERE o.key = ?"
        row = self._row(sql, (min(version, 1 << 62), key))
        return row[0] if row else None

    def put_records(self, records: Sequence[NewRecord]) -> None:
        known = self._objects(list({record.key for record in records}))
        number = self._next("SELECT max(number) FROM objects")
        changes, gone = [], []
        new: dict[int, tuple[object, ...]] = {}
        updated: dict[int, tuple[object, ...]] = {}
        documents: dict[int, tuple[object, ...]] = {}
        for record in records:
            before = known.get(record.key)
            position = self._append(digest_leaf(Kind.RECORD, record.digest))
            if before is None:
                own, number = number, number + 1
            else:
                own = before[0]
                if documents.pop(before[4], None) is None and not before[3]:
                    gone.append((before[4],))
            changes.append((position, own, record.version, record.issued_at, record.digest, record.envelope))
            withdrawn = int(record.document is None)
            line = (record.version, withdrawn, position, record.digest)
            if before is None or own in new:
                new[own] = (own, record.key, *line)
            else:
                updated[own] = (*line, own)
            if record.document is not None:
                documents[position] = _indexed(position, record.document)
            known[record.key] = (own, record.version, record.digest, withdrawn, position)
        many = self._connection.executemany
        self._count(records, new)
        many("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)", changes)
        many("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)", new.values())
        many(
            "UPDATE objects SET version = ?, withdrawn = ?, position = ?, digest = ? WHERE number = ?", updated.values()
        )
        many("DELETE FROM search WHERE rowid = ?", gone)
        many(_INDEX, documents.values())
        self._learn(record.document for record in records if record.document is not None)

    @property
    def words(self) -> Set[str]:
        """That are in the table if this is committed."""
        return self._known | self._new if self._new else self._known

    def _learn(self, documents: Iterable[Document]) -> None:
        words = {word for each in documents for text in each.texts for word in text.split()} - self._known - self._new
        self._connection.executemany("INSERT OR IGNORE INTO words VALUES (?)", [(word,) for word in words])
        self._new |= words

    def _count(self, records: Sequence[NewRecord], new: dict[int, tuple[object, ...]]) -> None:
        """One line an organization: a batch is mostly of one."""
        sizes, objects = Counter[str](), Counter[str]()
        for record in records:
            sizes[record.key.partition("/")[0]] += len(record.envelope)
        for _, key, *_ in new.values():
            objects[str(key).partition("/")[0]] += 1
        for prefix, size in sizes.items():
            self._add(prefix, objects[prefix], size)

    def _add(self, prefix: str, objects: int, size: int) -> None:
        self._connection.execute(
            "INSERT INTO usage (prefix, objects, bytes) VALUES (?, ?, ?) ON CONFLICT (prefix) DO UPDATE SET"
            " objects = usage.objects + excluded.objects, bytes = usage.bytes + excluded.bytes",
            (prefix, objects, size),
        )

    def usage(self, prefix: Prefix, *, exact: bool = True) -> Usage:  # noqa: ARG002
        row = self._row(f"SELECT {_USAGE} FROM usage WHERE prefix = ?", (str(prefix),))
        return _usage(row) if row else Usage()

    def put_pace(self, prefix: Prefix, paid_until: float) -> None:
        self._connection.execute(
            "INSERT INTO usage (prefix, paid_until) VALUES (?, ?) ON CONFLICT (prefix) DO UPDATE SET"
            " paid_until = excluded.paid_until",
            (str(prefix), paid_until),
        )

    def put_limits(self, prefix: Prefix, limits: Limits) -> None:
        self._connection.execute(
            "INSERT INTO usage (prefix, records_limit, pace_limit, bytes_limit) VALUES (?, ?, ?, ?)"
            " ON CONFLICT (prefix) DO UPDATE SET records_limit = excluded.records_limit,"
            " pace_limit = excluded.pace_limit, bytes_limit = excluded.bytes_limit",
            (str(prefix), limits.records, limits.publishes_per_minute, limits.bytes),
        )

    def _next(self, sql: str) -> int:
        row = self._row(sql, ())
        return (row[0] or 0) + 1 if row else 1

    def put_organization(self, prefix: Prefix, organization: StoredOrganization) -> None:
        position = self._append(digest_leaf(Kind.ORGANIZATION, organization.digest))
        self._connection.execute(
            "INSERT INTO organizations VALUES (?, ?, ?, ?, ?)",
            (str(prefix), organization.version, organization.digest, organization.envelope, position),
        )
        self._put_change(position, organization.envelope)
        self._add(str(prefix), 0, len(organization.envelope))

    def organization_digest(self, prefix: Prefix, version: int) -> bytes | None:
        row = self._row(
            "SELECT digest FROM organizations WHERE prefix = ? AND version = ?", (str(prefix), min(version, 1 << 62))
        )
        return row[0] if row else None

    def newest_organization(self, prefix: Prefix) -> StoredOrganization | None:
        row = self._row(
            "SELECT version, digest, envelope FROM organizations WHERE prefix = ? ORDER BY version DESC LIMIT 1",
            (str(prefix),),
        )
        return StoredOrganization(*row) if row else None

    def member(self, prefix: Prefix) -> Member | None:
        row = self._row(f"SELECT {_MEMBER} FROM members WHERE prefix = ?", (str(prefix),))
        return _member(row) if row else None

    def members(self) -> list[Member]:
        return _members(self._connection)

    def put_member(self, member: Member, now: int) -> None:
        self._connection.execute(
            f"INSERT INTO members ({_MEMBER}, joined_at) VALUES (?, ?, ?, ?, ?, ?, ?)"
            " ON CONFLICT (prefix) DO UPDATE SET"
            " display_name = excluded.display_name, organization_version = excluded.organization_version,"
            " suspended_at = excluded.suspended_at, reason = excluded.reason, mirror = excluded.mirror",
            (
                str(member.prefix), member.display_name, member.organization_version, member.suspended_at,
                member.reason, member.mirror, now,
            ),
        )  # fmt: skip

    def next_membership_version(self) -> int:
        version = _membership_version(self._connection) + 1
        self.remember("membership_version", str(version))
        return version

    def put_membership(self, envelope: bytes, leaf: bytes) -> None:
        position = self._append(leaf)
        self._put_change(position, envelope)
        self.remember("membership_position", str(position))

    def _put_change(self, position: int, envelope: bytes) -> None:
        self._connection.execute("INSERT INTO changes (position, envelope) VALUES (?, ?)", (position, envelope))

    def put_certificate(self, certificate: Certificate) -> None:
        position = self._append(certificate_leaf(certificate.der))
        self._connection.execute(
            "INSERT INTO certificates VALUES (?, ?, ?, ?)",
            (position, str(certificate.prefix), certificate.issued_at, certificate.der),
        )

    def newest_certificate(self, prefix: Prefix) -> Certificate | None:
        row = self._row(
            "SELECT issued_at, certificate FROM certificates WHERE prefix = ? ORDER BY position DESC LIMIT 1",
            (str(prefix),),
        )
        return Certificate(prefix, *row) if row else None

    def put_invitation(self, secret_hash: bytes, invitation: StoredInvitation, now: int) -> None:
        self._connection.execute(
            "INSERT INTO invitations (secret_hash, prefix, display_name, expires_at, created_at, spent_by, mirror)"
            " VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                secret_hash, str(invitation.prefix), invitation.display_name, invitation.expires_at, now,
                invitation.spent_by, invitation.mirror,
            ),
        )  # fmt: skip

    def invitation(self, secret_hash: bytes) -> StoredInvitation | None:
        sql = "SELECT prefix, display_name, expires_at, spent_by, mirror FROM invitations WHERE secret_hash = ?"
        row = self._row(sql, (secret_hash,))
        return StoredInvitation(Prefix(row[0]), row[1], row[2], row[3], bool(row[4])) if row else None

    def spend_invitation(self, secret_hash: bytes, organization_digest: bytes, now: int) -> None:
        self._connection.execute(
            "UPDATE invitations SET spent_at = ?, spent_by = ? WHERE secret_hash = ?",
            (now, organization_digest, secret_hash),
        )

    def head(self) -> Head:
        self.grow()
        return tree.head(self._connection)

    def reindex(self, documents: Iterable[tuple[int, Document]]) -> None:
        self._connection.execute("DELETE FROM search")
        self._connection.execute("DELETE FROM words")
        self._new, self._known = set(), frozenset()

        def indexed() -> Iterator[tuple[object, ...]]:
            for position, document in documents:
                self._learn([document])
                yield _indexed(position, document)

        self._connection.executemany(_INDEX, indexed())

    def remember(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
