"""The registry's database in SQLite: one file, write-ahead log, every commit synced to the disk.

Several processes may have it open: the daemon and the operator's commands. One connection a thread for reading,
one for writing. Source: https://www.sqlite.org/wal.html, https://www.sqlite.org/fts5.html
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse import limits
from hanse.errors import HanseError, HomeUnusable, NoSpace, Overloaded, StorageFailed
from hanse.files import storage_errors
from hanse.merkle import leaf_hash
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.tiles import Subtrees
from hanse.transparency import Kind, certificate_leaf, digest_leaf
from registry import index
from registry.accept import Stored
from registry.index import Question
from registry.storage import tree
from registry.storage.base import (
    Certificate,
    Change,
    Figures,
    Head,
    NewRecord,
    StoredInvitation,
    StoredOrganization,
)
from registry.storage.migrations import migrate

_BUSY_SECONDS = 5.0
_KEYS_A_QUERY = 250
# Pages come straight from the operating system's cache: a lookup among a million records costs what one among a
# thousand does.
_MAPPED_BYTES = 1024 * limits.MIB
_WEIGHTS = ", ".join(str(each) for each in index.WEIGHTS)
_MEMBER = "prefix, display_name, organization_version, suspended_at, reason"

_RESOLVE_ONE = (
    "SELECT o.key, o.withdrawn, c.envelope FROM objects o JOIN changes c ON c.position = o.position WHERE o.key = ?"
)

_LOCATE = _RESOLVE_ONE.replace("c.envelope FROM", "c.envelope, o.position FROM")


def _in(count: int) -> str:
    return ",".join("?" * count)


_OBJECTS = (
    "SELECT key, number, version, digest, withdrawn, position FROM objects WHERE key IN " + f"({_in(_KEYS_A_QUERY)})"
)

_RESOLVE_MANY = {
    count: _RESOLVE_ONE.replace("= ?", f"IN ({_in(count)})") for count in (10, 100, _KEYS_A_QUERY)
}  # few texts, so that each is prepared once a connection


def failure(error: sqlite3.Error) -> HanseError:
    """What an error of SQLite means for whoever waits."""
    name = getattr(error, "sqlite_errorname", "") or ""
    if name == "SQLITE_FULL" or "disk is full" in str(error):
        return NoSpace("no space left on the registry's disk: free some; nothing that was acknowledged is lost")
    if name.startswith(("SQLITE_BUSY", "SQLITE_LOCKED")):
        return Overloaded("the registry's database is busy: try again")
    return StorageFailed(f"the registry's database failed ({name or type(error).__name__}): `hanse-registry check`")


@contextlib.contextmanager
def _database_errors() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise failure(error) from error


class SqliteStorage:
    """See registry.storage.base for what every method promises."""

    def __init__(self, path: Path) -> None:
        """Opens the file, or makes it. Raises HomeUnusable, NoSpace, StorageFailed."""
        self._path = path
        self._local = threading.local()
        self._guard = threading.Lock()
        self._one_writer = threading.Lock()
        self._readers: list[sqlite3.Connection] = []
        try:
            self._writer = self._connect()
            self._writer.execute("PRAGMA journal_mode = WAL")
            migrate(self._writer, str(path))
            if self.recall("index_version") != str(index.VERSION):
                with self.writing() as writing:
                    # With a second version of the tokens comes the rebuilding, from the objects' newest envelopes.
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
        with _database_errors():
            return self._reader.execute(sql, values).fetchall()

    @contextlib.contextmanager
    def writing(self) -> Iterator["SqliteWriting"]:
        with self._one_writer, _database_errors():
            self._writer.execute("BEGIN IMMEDIATE")
            try:
                writing = SqliteWriting(self._writer)
                yield writing
                writing.grow()
                self._writer.execute("COMMIT")
            except BaseException:
                if self._writer.in_transaction:
                    self._writer.execute("ROLLBACK")
                raise

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

    def membership(self) -> tuple[int, list[Member]]:
        with _database_errors():
            reader = self._reader
            reader.execute("BEGIN")
            try:
                return _membership_version(reader), _members(reader)
            finally:
                reader.execute("COMMIT")

    def membership_version(self) -> int:
        with _database_errors():
            return _membership_version(self._reader)

    def changes(self, after: int, limit: int, limit_bytes: int, *, certificates: bool = False) -> list[Change]:
        found: list[Change] = []
        size, first = 0, min(after, 1 << 62)
        with _database_errors():
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
        with _database_errors():
            return tree.head(self._reader)

    def tile(self, level: int, number: int, count: int) -> Subtrees | None:
        with _database_errors():
            return tree.tile(self._reader, level, number, count)

    def leaves(self, first: int, count: int) -> list[bytes]:
        with _database_errors():
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

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        sql = "SELECT search.rowid FROM search"
        values: list[Any] = []
        dated = question.issued_from is not None or question.issued_until is not None
        if dated:
            sql += " JOIN changes ON changes.position = search.rowid"
        sql += " WHERE search MATCH ? AND search.rowid <= ?"
        values += [index.expression(question), as_of]
        if dated:
            sql += " AND changes.issued_at BETWEEN ? AND ?"
            values += [question.issued_from or 0, min(question.issued_until or 1 << 62, 1 << 62)]
        order = f"bm25(search, {_WEIGHTS}), search.rowid DESC" if question.phrases else "search.rowid DESC"
        return [row[0] for row in self._rows(f"{sql} ORDER BY {order} LIMIT ?", (*values, limit))]

    def records_at(self, positions: Sequence[int]) -> list[bytes]:
        # One by one: a page is small, and the order is the caller's.
        sql = (
            "SELECT newest.envelope FROM changes AS then_ JOIN objects ON objects.number = then_.object"
            " JOIN changes AS newest ON newest.position = objects.position"
            " WHERE then_.position = ? AND NOT objects.withdrawn"
        )
        return [row[0] for position in positions for row in self._rows(sql, (position,))]

    def recall(self, name: str) -> str | None:
        rows = self._rows("SELECT value FROM meta WHERE name = ?", (name,))
        return str(rows[0][0]) if rows else None

    def stamp(self) -> int:
        return int(self._rows("PRAGMA data_version")[0][0])

    def figures(self) -> Figures:
        objects, withdrawn = self._rows("SELECT count(*), coalesce(sum(withdrawn), 0) FROM objects")[0]
        size = 0
        for name in (self._path.name, f"{self._path.name}-wal"):
            with contextlib.suppress(FileNotFoundError):
                size += self._path.with_name(name).stat().st_size
        return Figures(objects, withdrawn, self.last_position(), size)

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
            ("organization records that do not stand where the log has them",
             "SELECT count(*) FROM organizations o LEFT JOIN changes c ON c.position = o.position"
             " AND c.envelope = o.envelope WHERE c.position IS NULL"),
        )  # fmt: skip
        for what, sql in checks:
            (count,) = self._rows(sql)[0]
            if count:
                found.append(f"{count} {what}")
        with _database_errors():
            reader = self._reader
            reader.execute("BEGIN")  # all of it as of one moment
            try:
                found += tree.problems(reader)
            finally:
                reader.execute("COMMIT")
        return found

    def close(self) -> None:
        with self._guard, self._one_writer:
            for reader in self._readers:
                reader.close()
            self._readers.clear()
            self._writer.close()


def _membership_version(connection: sqlite3.Connection) -> int:
    row = connection.execute("SELECT value FROM meta WHERE name = 'membership_version'").fetchone()
    return int(row[0]) if row else 0


def _members(connection: sqlite3.Connection) -> list[Member]:
    rows = connection.execute(f"SELECT {_MEMBER} FROM members ORDER BY prefix")
    return [Member(Prefix(prefix), *rest) for prefix, *rest in rows]


class SqliteWriting:
    """See registry.storage.base for what every method promises."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
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
                text = record.document
                documents[position] = (
                    position, text.title, text.description, text.subjects, text.creators, text.facets
                )  # fmt: skip
            known[record.key] = (own, record.version, record.digest, withdrawn, position)
        many = self._connection.executemany
        many("INSERT INTO changes VALUES (?, ?, ?, ?, ?, ?)", changes)
        many("INSERT INTO objects VALUES (?, ?, ?, ?, ?, ?)", new.values())
        many(
            "UPDATE objects SET version = ?, withdrawn = ?, position = ?, digest = ? WHERE number = ?", updated.values()
        )
        many("DELETE FROM search WHERE rowid = ?", gone)
        many(
            "INSERT INTO search (rowid, title, description, subjects, creators, facets) VALUES (?, ?, ?, ?, ?, ?)",
            documents.values(),
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
        return Member(prefix, *row[1:]) if row else None

    def members(self) -> list[Member]:
        return _members(self._connection)

    def put_member(self, member: Member, now: int) -> None:
        self._connection.execute(
            "INSERT INTO members VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (prefix) DO UPDATE SET"
            " display_name = excluded.display_name, organization_version = excluded.organization_version,"
            " suspended_at = excluded.suspended_at, reason = excluded.reason",
            (
                str(member.prefix), member.display_name, member.organization_version, member.suspended_at,
                member.reason, now,
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
            "INSERT INTO invitations VALUES (?, ?, ?, ?, ?, NULL, ?)",
            (
                secret_hash, str(invitation.prefix), invitation.display_name, invitation.expires_at, now,
                invitation.spent_by,
            ),
        )  # fmt: skip

    def invitation(self, secret_hash: bytes) -> StoredInvitation | None:
        sql = "SELECT prefix, display_name, expires_at, spent_by FROM invitations WHERE secret_hash = ?"
        row = self._row(sql, (secret_hash,))
        return StoredInvitation(Prefix(row[0]), *row[1:]) if row else None

    def spend_invitation(self, secret_hash: bytes, organization_digest: bytes, now: int) -> None:
        self._connection.execute(
            "UPDATE invitations SET spent_at = ?, spent_by = ? WHERE secret_hash = ?",
            (now, organization_digest, secret_hash),
        )

    def remember(self, name: str, value: str) -> None:
        self._connection.execute("INSERT OR REPLACE INTO meta VALUES (?, ?)", (name, value))
