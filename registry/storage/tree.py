"""The log's tables in SQLite: tiles, and how large the tree over them is. SPEC.md section 21; hanse.tiles.

All functions work inside the caller's transaction, if there is one. A tile that grows is written again, a full one
never; what is appended together costs one write a tile.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import islice

from sqlite_utils.utils import sqlite3  # type: ignore[attr-defined]

from hanse import tiles, wire
from hanse.errors import StorageFailed
from hanse.merkle import HASH_BYTES, leaf_hash
from hanse.tiles import WIDTH, Subtrees
from hanse.transparency import Kind, certificate_leaf, digest_leaf, leaf_of
from registry.storage.base import Head

_AT_ONCE = 64 * WIDTH  # leaves of which a tree is built
_LEAVES = (
    "SELECT position, digest, CASE WHEN object IS NULL THEN envelope END, NULL FROM changes"
    " WHERE position BETWEEN ? AND ? UNION ALL"
    " SELECT position, NULL, NULL, certificate FROM certificates WHERE position BETWEEN ? AND ? ORDER BY position"
)
_LAST = (1 << 63) - 1


def head(connection: sqlite3.Connection) -> Head:
    """As of the last commit, or of this transaction."""
    return Head(*connection.execute("SELECT size, root FROM tree").fetchone())


def append(connection: sqlite3.Connection, size: int, leaves: Sequence[bytes]) -> None:
    """Adds leaf hashes to the ``size`` that there are."""
    changed, root = tiles.append(size, lambda level, number: _hashes(connection, level, number), leaves)
    connection.executemany(
        "INSERT INTO tiles VALUES (?, ?, ?) ON CONFLICT (level, number) DO UPDATE SET hashes = excluded.hashes",
        [(*at, tiles.packed(tile)) for at, tile in changed.items()],
    )
    connection.execute("UPDATE tree SET size = ?, root = ?", (size + len(leaves), root))


def tile(connection: sqlite3.Connection, level: int, number: int, count: int) -> Subtrees | None:
    """See Storage.tile."""
    row = connection.execute("SELECT hashes FROM tiles WHERE level = ? AND number = ?", (level, number)).fetchone()
    return None if row is None or len(row[0]) < count * HASH_BYTES else tiles.unpacked(row[0], count)


def build(connection: sqlite3.Connection) -> None:
    """The tree over what a database of before had, and where its organizations stand. Raises StorageFailed."""
    size, leaves = 0, _leaves(connection)
    while some := list(islice(leaves, _AT_ONCE)):
        append(connection, size, [leaf_hash(leaf) for leaf in some])
        size += len(some)
    sql = "SELECT position, envelope FROM changes WHERE object IS NULL"
    places = []
    for position, content in connection.execute(sql):
        envelope = wire.decode_envelope(content)
        if leaf_of(envelope)[0] == Kind.ORGANIZATION:
            record = wire.decode_organization(envelope.payload)
            places.append((position, str(record.prefix), record.version))
    connection.executemany("UPDATE organizations SET position = ? WHERE prefix = ? AND version = ?", places)


def problems(connection: sqlite3.Connection) -> list[str]:
    """Tiles beyond the log's end: nobody who asks for tiles of the log ever sees them."""
    sql = "SELECT count(*) FROM tiles WHERE number << 8 * (level + 1) >= (SELECT size FROM tree)"
    (count,) = connection.execute(sql).fetchone()
    return ["the log has tiles of entries that are missing"] if count else []


def leaves(connection: sqlite3.Connection, first: int, count: int) -> list[bytes]:
    """See Storage.leaves."""
    return list(_leaves(connection, (first + 1, first + count)))


def _leaves(connection: sqlite3.Connection, positions: tuple[int, int] = (1, _LAST)) -> Iterator[bytes]:
    return leaf_data(connection.execute(_LEAVES, (*positions, *positions)), positions[0])


def leaf_data(rows: Iterable[tuple[int, bytes | None, bytes | None, bytes | None]], first: int) -> Iterator[bytes]:
    """The data of leaves, of rows in order, from position ``first`` on: position, digest, envelope, certificate.

    Of records the digest counts. Serves every database. Raises StorageFailed where one is missing.
    """
    for expected, (position, digest, envelope, certificate) in enumerate(rows, first):
        if position != expected:
            raise StorageFailed(f"the change at position {expected} is missing: restore the database from your backup")
        if certificate is not None:
            yield certificate_leaf(certificate)
        elif envelope is not None:
            yield leaf_of(wire.decode_envelope(envelope))
        else:
            yield digest_leaf(Kind.RECORD, digest or b"")


def _hashes(connection: sqlite3.Connection, level: int, number: int) -> bytes:
    return _stored(connection, level, number)[: WIDTH * HASH_BYTES]


def _stored(connection: sqlite3.Connection, level: int, number: int) -> bytes:
    row = connection.execute("SELECT hashes FROM tiles WHERE level = ? AND number = ?", (level, number)).fetchone()
    return b"" if row is None else bytes(row[0])
