"""The log that registry.storage.base promises, held against every implementation."""

import itertools
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3

from hanse import merkle, tiles, wire
from hanse.errors import InvalidInput
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, NodeEndpoint, OrganizationRecord
from hanse.signing import SigningKey, sign
from hanse.transparency import certificate_leaf, leaf_of, membership_leaf
from registry.checking import log_problems
from registry.index import Document
from registry.storage.base import Certificate, Change, Head, NewRecord, Storage, StoredOrganization
from registry.storage.migrations import STEPS
from registry.storage.sqlite import SqliteStorage
from registry.usage import Usage

NORTH = Prefix("86.north")
KEY = SigningKey.generate()


def envelope(number: int, version: int = 1) -> Envelope:
    """Of a record, as far as the log looks at it."""
    return sign(PayloadType.RECORD, f"{number} {version}".encode(), KEY)


def new(number: int, version: int = 1) -> NewRecord:
    made = envelope(number, version)
    document = Document("", "", "", "", "x")
    return NewRecord(f"86.north/{number}", version, made.digest, 100, wire.encode_envelope(made), document)


def organization(version: int = 1) -> tuple[StoredOrganization, Envelope]:
    record = OrganizationRecord(
        NORTH, version, bytes(32) if version > 1 else b"", "North", "", (IdentityKey(KEY.public, 1),),
        (NodeEndpoint(Address("127.0.0.1", 1), b"certificate"),), 5,
    )  # fmt: skip
    made = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), KEY)
    return StoredOrganization(version, made.digest, wire.encode_envelope(made)), made


def head(version: int) -> Envelope:
    return sign(PayloadType.MEMBERSHIP, wire.encode_membership_head(version, 7, bytes(32), bytes(32)), KEY)


def put(storage: Storage, *records: NewRecord) -> None:
    with storage.writing() as writing:
        writing.put_records(records)


def problems(storage: Storage) -> list[str]:
    return storage.problems() + log_problems(storage)


def nodes(storage: Storage, size: int) -> merkle.Nodes:
    def tile(level: int, number: int) -> tiles.Subtrees:
        found = storage.tile(level, number, tiles.width(level, number, size))
        assert found is not None
        return found

    return tiles.nodes(tile)


def root(*leaves: bytes) -> bytes:
    return merkle.root(merkle.leaf_hash(leaf) for leaf in leaves)


def test_given_nothing_then_the_log_is_empty(storage):
    assert storage.head() == Head(0, merkle.EMPTY_ROOT)
    assert storage.tile(0, 0, 1) is None
    assert storage.leaves(0, 10) == []
    assert storage.located_membership() is None
    assert problems(storage) == []


def test_given_changes_of_all_kinds_then_each_is_a_leaf_at_its_position(storage):
    stored, signed = organization()
    certificate = Certificate(NORTH, 9, b"certificate")
    with storage.writing() as writing:
        writing.put_organization(NORTH, stored)
        writing.put_membership(wire.encode_envelope(head(1)), membership_leaf(1, bytes(32)))
        assert writing.newest_certificate(NORTH) is None
        writing.put_certificate(certificate)
        assert writing.newest_certificate(NORTH) == certificate
        writing.put_records([new(1), new(1, 2), new(2)])
    leaves = [
        leaf_of(signed), leaf_of(head(1)), certificate_leaf(b"certificate"),
        *(leaf_of(envelope(*each)) for each in ((1, 1), (1, 2), (2, 1))),
    ]  # fmt: skip
    assert storage.leaves(0, 10) == leaves
    assert storage.leaves(2, 2) == leaves[2:4]
    assert storage.head() == Head(6, root(*leaves))
    assert storage.last_position() == 6
    assert [each.position for each in storage.changes(0, 10, 1 << 20)] == [1, 2, 4, 5, 6]
    assert [each.position for each in storage.changes(2, 2, 1 << 20)] == [4, 5]
    everything = storage.changes(0, 10, 1 << 20, certificates=True)
    assert [each.position for each in everything] == [1, 2, 3, 4, 5, 6]
    assert everything[2] == Change(3, b"certificate", True)
    assert storage.changes(2, 1, 1 << 20, certificates=True) == [everything[2]]
    assert storage.located(["86.north/1", "86.north/3"]) == {"86.north/1": (False, new(1, 2).envelope, 5)}
    assert storage.located_organization(NORTH) == (stored.envelope, 1)
    assert storage.located_membership() == 2
    assert storage.located_organization(Prefix("86.south")) is None
    assert problems(storage) == []


@pytest.mark.parametrize("groups", [(1,), (1, 1, 1), (255, 1, 1), (256,), (257, 255), (300, 500, 1), (1, 1023, 1)])
def test_given_groups_of_any_size_then_root_and_proofs_are_those_of_all_leaves(storage, groups):
    size, heads = 0, [storage.head()]
    for group in groups:
        put(storage, *(new(number) for number in range(size, size + group)))
        size += group
        heads.append(storage.head())
    leaves = [merkle.leaf_hash(leaf_of(envelope(number))) for number in range(size)]
    assert heads[-1] == Head(size, merkle.root(leaves))
    node = nodes(storage, size)
    for index in {0, size // 2, size - 1}:
        merkle.verify_inclusion(leaves[index], index, size, merkle.inclusion_proof(node, index, size), heads[-1].root)
    for old, newer in itertools.combinations(heads, 2):
        proof = merkle.consistency_proof(nodes(storage, newer.size), old.size, newer.size)
        merkle.verify_consistency(old.size, old.root, newer.size, newer.root, proof)
    assert problems(storage) == []


def test_given_an_error_in_a_transaction_then_the_log_is_as_before(storage):
    put(storage, new(1))
    before = storage.head()
    with pytest.raises(InvalidInput), storage.writing() as writing:  # noqa: PT012
        writing.put_records([new(2)])
        writing.put_certificate(Certificate(NORTH, 9, b"certificate"))
        raise InvalidInput("no")
    assert storage.head() == before
    put(storage, new(2))
    assert storage.head() == Head(2, root(leaf_of(envelope(1)), leaf_of(envelope(2))))
    assert problems(storage) == []


def test_given_two_connections_that_write_in_turns_then_there_is_one_log(tmp_path: Path):
    one, other = SqliteStorage(tmp_path / "registry.db"), SqliteStorage(tmp_path / "registry.db")
    for number in range(600):
        put((one, other)[number % 2], new(number))
    assert one.head() == other.head() == Head(600, root(*(leaf_of(envelope(number)) for number in range(600))))
    assert problems(one) == []
    one.close()
    other.close()


def test_given_a_database_from_before_the_log_then_its_tree_is_built(tmp_path: Path):
    path = tmp_path / "registry.db"
    old = sqlite3.connect(path)
    old.executescript(STEPS[0])
    chain = [organization(version) for version in (1, 2)]
    with old:
        for position, (stored, _) in enumerate(chain, 1):
            old.execute(
                "INSERT INTO organizations VALUES ('86.north', ?, ?, ?)",
                (stored.version, stored.digest, stored.envelope),
            )
            old.execute("INSERT INTO changes (position, envelope) VALUES (?, ?)", (position, stored.envelope))
        old.execute("INSERT INTO changes (envelope) VALUES (?)", (wire.encode_envelope(head(1)),))
        for number in range(1000):
            made = new(number)
            old.execute("INSERT INTO changes VALUES (NULL, ?, 1, 1, ?, ?)", (number + 1, made.digest, made.envelope))
            old.execute(
                "INSERT INTO objects VALUES (?, ?, 1, 0, ?, ?)", (number + 1, made.key, number + 4, made.digest)
            )
            old.execute("INSERT INTO search (rowid, facets) VALUES (?, 'x')", (number + 4,))
        old.execute("PRAGMA user_version = 1")
    old.close()
    storage = SqliteStorage(path)
    leaves = [leaf_of(signed) for _, signed in chain] + [leaf_of(head(1))]
    leaves += [leaf_of(envelope(number)) for number in range(1000)]
    assert storage.head() == Head(1003, root(*leaves))
    assert storage.located_organization(NORTH) == (chain[1][0].envelope, 2)
    size = sum(len(each.envelope) for each, _ in chain) + sum(len(new(number).envelope) for number in range(1000))
    assert storage.usages() == {NORTH: Usage(1000, size)}

    assert problems(storage) == []
    put(storage, new(1000))
    assert storage.usages()[NORTH].objects == 1001
    assert storage.head() == Head(1004, root(*leaves, leaf_of(envelope(1000))))
    storage.close()


@pytest.mark.parametrize(
    ("sabotage", "found"),
    [
        ("UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 0 AND number = 1", "tiles of the log"),
        ("UPDATE tiles SET hashes = zeroblob(length(hashes)) WHERE level = 1", "tiles of the log"),
        ("UPDATE usage SET objects = objects - 1", "1 organizations whose identifiers are not as many as were counted"),
        ("INSERT INTO tiles VALUES (0, 9, zeroblob(32))", "tiles of entries that are missing"),
        ("UPDATE tree SET root = zeroblob(32)", "under one root"),
        ("UPDATE tree SET size = size - 1", "the log says 699 entries"),
        ("DELETE FROM changes WHERE position = 20", "position 20 is missing"),
        ("UPDATE changes SET envelope = (SELECT envelope FROM changes WHERE position = 1) WHERE position = 20",
         "tiles of the log"),
        ("UPDATE changes SET envelope = x'ff' WHERE position = 20", "cannot be computed again"),
    ],
)  # fmt: skip
def test_given_a_damaged_log_then_check_finds_it(tmp_path: Path, sabotage: str, found: str):
    path = tmp_path / "registry.db"
    storage = SqliteStorage(path)
    put(storage, *(new(number) for number in range(700)))
    assert problems(storage) == []
    with sqlite3.connect(path) as connection:
        connection.execute(sabotage)
    connection.close()
    assert any(found in each for each in problems(storage)), problems(storage)
    storage.close()
