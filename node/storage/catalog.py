"""The catalog's tables: objects, their versions, pages, elements and leaf hashes.

What it is not: a judge of what may change (node.catalog) or who may read (node.policy).
The rule it keeps: a change and its outbox row are one transaction; what is being hashed waits in temporary tables,
which hold no lock and are gone with the process, however it ends.
"""

import contextlib
import json
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

from hanse import wire
from hanse.errors import AlreadyExists, Conflict
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier
from hanse.model.record import Metadata
from hanse.model.terms import Terms
from hanse.model.terms_json import format_terms, parse_terms
from hanse.storage.database import Connection, Database, transaction
from node.metadata import format_metadata, parse_metadata
from node.sources.fingerprint import Fingerprint
from node.sources.source import Source, SourceKind
from node.storage.migrations import MIGRATIONS
from node.storage.outbox import ORGANIZATION, Outbox, enqueue, resign

ROWS = 2000  # read at once by what streams
_PARSED = 512  # rows that were parsed and are kept so: what many fetch is read at each call


@dataclass(frozen=True, slots=True)
class WrappedObject:
    """What the owner said of an object when it was added. ``hidden``: parts of the summary that are not public."""

    id: Identifier
    source: Source
    type: str
    metadata: Metadata
    terms: Terms
    unlisted: bool
    list_elements: bool
    hidden: frozenset[str]
    current_version: int
    withdrawn: bool
    created_at: int


@dataclass(frozen=True, slots=True)
class StoredVersion:
    """One version. ``row`` names it inside the database (0 before it is stored); a tombstone has no manifest."""

    object: Identifier
    version: int
    record: Envelope
    manifest: Envelope | None
    salt: bytes
    element_count: int
    total_bytes: int
    page_count: int
    pages_root: bytes
    created_at: int
    row: int = field(default=0, compare=False)


@dataclass(frozen=True, slots=True)
class ServedElement:
    """Where an element's bytes are, and the fingerprint that they were hashed under. Sizes in bytes."""

    position: int
    name: str
    length: int
    chunk_size: int
    fingerprint: Fingerprint
    settled: bool


class Staging:
    """A version in the making, on one connection. Positions count up from 0."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        for table, columns in _STAGED.items():
            connection.execute(f"DROP TABLE IF EXISTS temp.staged_{table}")
            connection.execute(f"CREATE TEMP TABLE staged_{table} ({columns})")

    def add_page(
        self, page: int, data: bytes, elements: Iterable[tuple[object, ...]], leaves: Iterable[tuple[int, bytes]]
    ) -> None:
        """A page; rows of its elements (position, name, length, chunk size, fingerprint, settled); leaf hashes."""
        with transaction(self.connection, "BEGIN"):
            self.connection.execute("INSERT INTO temp.staged_page VALUES (?, ?)", (page, data))
            self.connection.executemany("INSERT INTO temp.staged_element VALUES (?, ?, ?, ?, ?, ?, ?, ?)", elements)
            self.connection.executemany("INSERT INTO temp.staged_leaves VALUES (?, ?)", leaves)

    def drop(self) -> None:
        for table in _STAGED:
            self.connection.execute(f"DROP TABLE IF EXISTS temp.staged_{table}")


_STAGED = {
    "page": "page, data",
    "element": "position INTEGER PRIMARY KEY, name, length, chunk_size, modified_ns, changed_ns, inode, settled",
    "leaves": "position INTEGER PRIMARY KEY, hashes",
}
_ELEMENT = "position, name, length, chunk_size, modified_ns, changed_ns, inode, settled"
_OBJECT = "id, kind, source, type, metadata, terms, unlisted, list_elements, hidden, current, withdrawn, created_at"
_VERSION = (
    "object.id, version, record, manifest, salt, element_count, total_bytes, page_count, pages_root, "
    "version.created_at, version.id"
)


class CatalogStorage:
    """One catalog.db. Any thread may call any method."""

    def __init__(self, database: Database) -> None:
        self.database = database
        self.outbox = Outbox(database)

    @classmethod
    def open(cls, path: Path) -> "CatalogStorage":
        """Creates it if need be. Raises HomeUnusable, NoSpace, StorageFailed."""
        return cls(Database.open(path, MIGRATIONS))

    def close(self) -> None:
        self.database.close()

    # Objects and versions.

    def object(self, id: Identifier) -> WrappedObject | None:
        with self.database.reading() as connection:
            row = connection.execute(f"SELECT {_OBJECT} FROM object WHERE key = ?", (id.key,)).fetchone()
        return _object(row) if row else None

    def objects(self) -> list[WrappedObject]:
        """All, by identifier, the withdrawn ones too."""
        with self.database.reading() as connection:
            rows = connection.execute(f"SELECT {_OBJECT} FROM object ORDER BY key").fetchall()
        return [_object(row) for row in rows]

    def version(self, id: Identifier, version: int) -> StoredVersion | None:
        with self.database.reading() as connection:
            row = connection.execute(
                f"SELECT {_VERSION} FROM version JOIN object ON object.key = version.object "
                "WHERE object = ? AND version = ?",
                (id.key, version),
            ).fetchone()
        return _version(row) if row else None

    # What a version consists of.

    def page(self, version: StoredVersion, page: int) -> bytes | None:
        """A serialized ManifestPage, as it was hashed."""
        return self.page_of(version.row, page)

    def page_of(self, row: int, page: int) -> bytes | None:
        """``page`` of the version that ``row`` names."""
        with self.database.reading() as connection:
            found = connection.execute("SELECT data FROM page WHERE version = ? AND page = ?", (row, page)).fetchone()
        return found[0] if found else None

    def leaves(self, version: StoredVersion, position: int) -> bytes:
        """Concatenated; empty if the element has at most one chunk."""
        with self.database.reading() as connection:
            row = connection.execute(
                "SELECT hashes FROM leaves WHERE version = ? AND position = ?", (version.row, position)
            ).fetchone()
        return row[0] if row else b""

    def elements(self, version: StoredVersion, first: int, count: int) -> Iterator[ServedElement]:
        """In order; fewer than ``count`` if there are fewer, none if the version is no longer the newest."""
        at, end = first, first + count
        while at < end:
            with self.database.reading() as connection:
                rows = connection.execute(
                    f"SELECT {_ELEMENT} FROM element WHERE version = ? AND position >= ? AND position < ? "
                    "ORDER BY position",
                    (version.row, at, min(end, at + ROWS)),
                ).fetchall()
            if not rows:
                return
            for position, name, length, chunk_size, modified_ns, changed_ns, inode, settled in rows:
                fingerprint = Fingerprint(length, modified_ns, changed_ns, inode)
                yield ServedElement(position, name, length, chunk_size, fingerprint, bool(settled))
            at += len(rows)

    # Changes.

    @contextlib.contextmanager
    def staging(self) -> Iterator[Staging]:
        """Where a version's pages and elements wait until it is whole."""
        with self.database.reading() as connection:
            staging = Staging(connection)
            yield staging
            staging.drop()

    def insert(self, wrapped: WrappedObject, version: StoredVersion, staging: Staging) -> None:
        """A new object with its version 1, and its outbox row unless it is unlisted. Raises AlreadyExists."""
        connection = staging.connection
        with transaction(connection):
            if connection.execute("SELECT 1 FROM object WHERE key = ?", (wrapped.id.key,)).fetchone():
                raise AlreadyExists(f"{wrapped.id} is there already, and an identifier is never used twice")
            connection.execute(
                f"INSERT INTO object (key, {_OBJECT}) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                (wrapped.id.key, *_object_row(wrapped)),
            )
            row = self._insert_version(connection, wrapped, version)
            _take_staged(connection, row)

    def append(self, wrapped: WrappedObject, version: StoredVersion, staging: Staging | None) -> None:
        """The next version of an object (without ``staging``: its tombstone). Raises Conflict if another was faster."""
        with contextlib.ExitStack() as stack:
            connection = staging.connection if staging else stack.enter_context(self.database.reading())
            stack.enter_context(transaction(connection))
            _expect_current(connection, wrapped.id, version.version - 1)
            # The older one stays as history; only the newest can be served.
            old = "(SELECT id FROM version WHERE object = ? AND version < ?)"
            for table in ("element", "leaves"):
                connection.execute(f"DELETE FROM {table} WHERE version IN {old}", (wrapped.id.key, version.version))
            connection.execute(
                "UPDATE object SET current = ?, withdrawn = ? WHERE key = ?",
                (version.version, int(staging is None), wrapped.id.key),
            )
            row = self._insert_version(connection, wrapped, version)
            if staging:
                _take_staged(connection, row)

    def set_terms(self, wrapped: WrappedObject, terms: Terms, before: StoredVersion, after: StoredVersion) -> None:
        """Other terms and, unless ``after`` is ``before``, the next version: of the same content, with the same pages.

        Raises Conflict if another was faster.
        """
        with self.database.writing() as connection:
            _expect_current(connection, wrapped.id, before.version)
            kept = connection.execute("SELECT terms FROM object WHERE key = ?", (wrapped.id.key,)).fetchone()
            if _terms(kept[0]) != wrapped.terms:
                raise _changed(wrapped.id)
            connection.execute(
                "UPDATE object SET terms = ?, current = ? WHERE key = ?",
                (format_terms(terms), after.version, wrapped.id.key),
            )
            if after.version == before.version:
                return
            row = self._insert_version(connection, wrapped, after)
            connection.execute(
                "INSERT INTO page (version, page, data) SELECT ?, page, data FROM page WHERE version = ? ORDER BY page",
                (row, before.row),
            )
            for table in ("element", "leaves"):
                connection.execute(f"UPDATE {table} SET version = ? WHERE version = ?", (row, before.row))

    def replace(self, version: StoredVersion, staging: Staging) -> None:
        """The same content again, under new fingerprints. Raises Conflict if the version is no longer the newest."""
        connection = staging.connection
        with transaction(connection):
            _expect_current(connection, version.object, version.version)
            for table in ("page", "element", "leaves"):
                connection.execute(f"DELETE FROM {table} WHERE version = ?", (version.row,))
            _take_staged(connection, version.row)

    @staticmethod
    def _insert_version(connection: Connection, wrapped: WrappedObject, version: StoredVersion) -> int:
        cursor = connection.execute(
            "INSERT INTO version (object, version, record, manifest, salt, element_count, total_bytes, page_count, "
            "pages_root, created_at) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
            (
                wrapped.id.key,
                version.version,
                wire.encode_envelope(version.record),
                wire.encode_envelope(version.manifest) if version.manifest else None,
                version.salt or None,
                version.element_count,
                version.total_bytes,
                version.page_count,
                version.pages_root or None,
                version.created_at,
            ),
        )
        if not wrapped.unlisted:
            enqueue(connection, wrapped.id.key, version.record, version.created_at)
        return int(cursor.lastrowid or 0)

    # The organization's own record.

    def organization(self) -> Envelope | None:
        with self.database.reading() as connection:
            row = connection.execute("SELECT envelope FROM organization ORDER BY version DESC LIMIT 1").fetchone()
        return wire.decode_envelope(row[0]) if row else None

    def organizations(self) -> list[Envelope]:
        """All versions, oldest first."""
        with self.database.reading() as connection:
            rows = connection.execute("SELECT envelope FROM organization ORDER BY version").fetchall()
        return [wire.decode_envelope(row[0]) for row in rows]

    def put_organization(
        self, envelope: Envelope, now: int, sign: Callable[[Envelope], Envelope] | None = None, *, enqueued: bool = True
    ) -> None:
        """The next record and its outbox row; with ``sign``, what waits is signed anew in the same transaction.

        Raises Conflict when there is another record of that version. The same one again does no harm.
        """
        version = wire.decode_organization(envelope.payload).version
        encoded = wire.encode_envelope(envelope)
        with self.database.writing() as connection:
            row = connection.execute("SELECT envelope FROM organization WHERE version = ?", (version,)).fetchone()
            if row:
                if wire.decode_envelope(row[0]).digest == envelope.digest:
                    return
                raise Conflict(f"the organization has another record of version {version} already: run it again")
            connection.execute("INSERT INTO organization (version, envelope) VALUES (?, ?)", (version, encoded))
            if sign:
                resign(connection, sign)
            if enqueued:
                enqueue(connection, ORGANIZATION, envelope, now)


def _take_staged(connection: Connection, row: int) -> None:
    connection.execute(
        "INSERT INTO page (version, page, data) SELECT ?, page, data FROM temp.staged_page ORDER BY page", (row,)
    )
    connection.execute(
        f"INSERT INTO element (version, {_ELEMENT}) SELECT ?, {_ELEMENT} FROM temp.staged_element ORDER BY position",
        (row,),
    )
    connection.execute(
        "INSERT INTO leaves (version, position, hashes) SELECT ?, position, hashes FROM temp.staged_leaves", (row,)
    )


def _expect_current(connection: Connection, id: Identifier, version: int) -> None:
    row = connection.execute("SELECT current, withdrawn FROM object WHERE key = ?", (id.key,)).fetchone()
    if row is None or row != (version, 0):
        raise _changed(id)


def _changed(id: Identifier) -> Conflict:
    return Conflict(f"{id} was changed by another command in the meantime: run it again")


def _object_row(wrapped: WrappedObject) -> tuple[object, ...]:
    return (
        str(wrapped.id),
        wrapped.source.kind.value,
        os.fsencode(wrapped.source.path),
        wrapped.type,
        format_metadata(wrapped.metadata),
        format_terms(wrapped.terms),
        int(wrapped.unlisted),
        int(wrapped.list_elements),
        json.dumps(sorted(wrapped.hidden)),
        wrapped.current_version,
        int(wrapped.withdrawn),
        wrapped.created_at,
    )


@lru_cache(_PARSED)
def _object(row: tuple[str, str, bytes, str, str, str, int, int, str, int, int, int]) -> WrappedObject:
    id, kind, path, type, metadata, terms, unlisted, list_elements, hidden, current, withdrawn, created_at = row
    return WrappedObject(
        Identifier.parse(id),
        Source(SourceKind(kind), Path(os.fsdecode(path))),
        type,
        parse_metadata(metadata),
        _terms(terms),
        bool(unlisted),
        bool(list_elements),
        frozenset(json.loads(hidden)),
        current,
        bool(withdrawn),
        created_at,
    )


def _terms(text: str) -> Terms:
    """As they are, or as a rule of before there were terms: {"open": ..., "allowed": [...]}."""
    said = json.loads(text)
    if "mode" in said:
        return parse_terms(text)
    return Terms.opened() if said["open"] else Terms.allowing(said["allowed"])


@lru_cache(_PARSED)
def _version(
    row: tuple[str, int, bytes, bytes | None, bytes | None, int, int, int, bytes | None, int, int],
) -> StoredVersion:
    id, version, record, manifest, salt, count, size, pages, pages_root, created_at, number = row
    return StoredVersion(
        Identifier.parse(id),
        version,
        wire.decode_envelope(record),
        wire.decode_envelope(manifest) if manifest else None,
        salt or b"",
        count,
        size,
        pages,
        pages_root or b"",
        created_at,
        number,
    )
