"""The log of a home: what is appended, in one order, under one root; what is erased; what was tampered with."""

import base64
from pathlib import Path
from typing import Any

import pytest

from hanse.errors import NotFound, StorageFailed
from hanse.evidence import proofs
from hanse.evidence.checkpoint import Checkpoint, key_hash, origin, parse, sign
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import log
from hanse.evidence.storage.log import Edge, Entry, Kind
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.merkle import leaf_hash, root, verify_consistency, verify_inclusion
from hanse.signing import SigningKey
from hanse.storage.database import Database
from tests.evidence import Member, append


@pytest.mark.parametrize("groups", [(1,), (1, 1, 1), (3, 4, 1), (8, 8), (5, 1, 1, 1, 9), (64, 1, 63)])
def test_the_root_is_that_of_all_leaves_however_they_came(tmp_path: Path, groups: tuple[int, ...]) -> None:
    database = Database.open(tmp_path / "evidence.db", MIGRATIONS)
    leaves: list[bytes] = []
    for group in groups:
        entries = [Entry.of(Kind.DECISION, f"payload {n}".encode()) for n in range(group)]
        with database.writing() as connection:
            before = Edge.read(connection, log.size(connection))
            assert before.size == len(leaves)
            leaves += [each.hash for each in entries]
            after = log.append(connection, before, entries, 1)
            assert after.root() == root(leaves)
            assert after == Edge.read(connection, len(leaves))
    database.close()


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member.of(tmp_path)


GROUPS = (1, 2, 5, 1, 8, 3)
SIZE = sum(GROUPS)


def filled(member: Member, groups: tuple[int, ...] = GROUPS) -> list[bytes]:
    """Its log has entries, of which these are the hashes."""
    with member.evidence(lambda: 1000) as evidence:
        for number, group in enumerate(groups):
            append(evidence, *(f"payload {number}.{n}".encode() for n in range(group)))
    return filled_hashes(member)


def filled_hashes(member: Member) -> list[bytes]:
    with member.evidence() as evidence:
        return [each.hash for each in evidence.leaves()]


def spoil(member: Member, statement: str, *values: object) -> None:
    """What somebody did to the file."""
    database = Database(member.file)
    with database.writing() as connection:
        connection.execute(statement, values)
    database.close()


def test_entries_are_read_back_in_their_order(member: Member) -> None:
    filled(member)
    with member.evidence() as evidence:
        found = list(evidence.leaves())
        assert [each.position for each in found] == list(range(SIZE)) == list(range(evidence.size()))
        assert [each.payload for each in found[:4]] == [b"payload 0.0", b"payload 1.0", b"payload 1.1", b"payload 2.0"]
        assert {(each.kind, each.at, len(each.salt or b"")) for each in found} == {("receipt", 1000, 16)}
        assert len({each.salt for each in found}) == SIZE
        assert list(evidence.leaves(3, 5)) == found[3:5]
        assert list(evidence.leaves(SIZE)) == []


def test_every_commit_has_its_checkpoint(member: Member) -> None:
    leaves = filled(member)
    with member.evidence() as evidence, evidence.reading() as connection:
        checkpoints = list(log.checkpoints(connection))
        assert [size for size, _ in checkpoints] == [sum(GROUPS[: n + 1]) for n in range(len(GROUPS))]
        for size, note in checkpoints:
            assert parse(note)[0] == Checkpoint(origin(member.prefix), size, root(leaves[:size]))
        assert evidence.newest_checkpoint() == checkpoints[-1][1]


def test_an_empty_log_has_no_checkpoint_and_is_whole(member: Member) -> None:
    with member.evidence() as evidence:
        assert (evidence.size(), evidence.newest_checkpoint(), list(evidence.leaves())) == (0, None, [])
        assert evidence.verify() is evidence.verify(deep=True) is None


def test_everything_in_it_can_be_proved_for_every_size_it_had(member: Member) -> None:
    leaves = filled(member)
    with member.evidence() as evidence, evidence.reading() as connection:
        for size in range(SIZE + 1):
            assert proofs.root_at(connection, size) == root(leaves[:size])
            for position in range(size):
                proof = proofs.inclusion(connection, position, size)
                verify_inclusion(leaves[position], position, size, proof, root(leaves[:size]))
            for old in range(size + 1):
                proof = proofs.consistency(connection, old, size)
                verify_consistency(old, root(leaves[:old]), size, root(leaves[:size]), proof)


def test_what_is_not_there_cannot_be_proved(member: Member) -> None:
    filled(member)
    with (
        member.evidence() as evidence,
        pytest.raises(StorageFailed, match=r"the log lacks a part .*: restore evidence.db from your backup"),
        evidence.reading() as connection,
    ):
        proofs.root_at(connection, SIZE + 1)


def test_an_erased_payload_is_gone_from_the_disk_and_every_proof_stays_whole(member: Member) -> None:
    canary = b"canary-of-a-person" * 60
    leaves = filled(member)
    with member.evidence() as evidence:
        for number in range(300):
            append(evidence, canary[: 100 + 3 * number], b"beside it" * number)
        leaves = [each.hash for each in evidence.leaves()]
        kept = [each for each in evidence.leaves() if each.position < SIZE or (each.position - SIZE) % 2]
        note = evidence.newest_checkpoint()

        for position in range(SIZE, SIZE + 600, 2):
            evidence.erase(position)
            evidence.erase(position)

        assert evidence.newest_checkpoint() == note
        assert [each for each in evidence.leaves() if each.payload is not None] == kept
        erased = [each for each in evidence.leaves() if each.payload is None]
        assert len(erased) == 300
        assert all(each.salt is None and each.hash == leaves[each.position] for each in erased)
        assert evidence.verify() is evidence.verify(deep=True) is None
        with evidence.reading() as connection:
            for position in range(SIZE, SIZE + 40):
                proof = proofs.inclusion(connection, position, len(leaves))
                verify_inclusion(leaves[position], position, len(leaves), proof, root(leaves))
        # The file is in use: what was erased is not merely going to be gone.
        for path in member.home.folder.iterdir():
            assert b"canary-of" not in path.read_bytes(), path.name
        append(evidence, b"one more")
        assert evidence.verify(deep=True) is None


def test_only_what_is_there_can_be_erased(member: Member) -> None:
    filled(member)
    with member.evidence() as evidence:
        for position in (-1, SIZE):
            with pytest.raises(NotFound, match=f"the log has no entry {position}"):
                evidence.erase(position)


def damage(evidence: Evidence, **how: Any) -> tuple[int, str] | None:
    found = evidence.verify(**how)
    return None if found is None else (found.position, found.what)


OTHER = leaf_hash(b"other")
NOT_ITS = "its payload or its hash is not the one that was logged"


@pytest.mark.parametrize("deep", [False, True])
@pytest.mark.parametrize("position", range(SIZE))
def test_a_changed_leaf_is_named(member: Member, position: int, deep: bool) -> None:
    filled(member)
    spoil(member, "UPDATE leaf SET hash = ? WHERE position = ?", OTHER, position)
    with member.evidence() as evidence:
        found = damage(evidence, deep=deep)
        assert found == (position, "its payload is not the one that was logged" if deep else NOT_ITS)
        assert str(evidence.verify()) == f"entry {position} of the log: {NOT_ITS}"


@pytest.mark.parametrize("position", range(SIZE))
@pytest.mark.parametrize("column", ["payload", "salt", "kind"])
def test_a_changed_payload_is_named_when_payloads_are_read(member: Member, column: str, position: int) -> None:
    filled(member)
    value = "grant" if column == "kind" else b"other"
    spoil(member, f"UPDATE leaf SET {column} = ? WHERE position = ?", value, position)
    with member.evidence() as evidence:
        assert evidence.verify() is None
        assert damage(evidence, deep=True) == (position, "its payload is not the one that was logged")


@pytest.mark.parametrize("column", ["payload", "salt"])
def test_half_an_erasure_is_none(member: Member, column: str) -> None:
    filled(member)
    spoil(member, f"UPDATE leaf SET {column} = NULL WHERE position = 4")
    with member.evidence() as evidence:
        assert damage(evidence, deep=True) == (4, "its payload is not the one that was logged")


def test_a_changed_leaf_whose_payload_was_erased_is_narrowed_down(member: Member) -> None:
    filled(member)
    with member.evidence() as evidence:
        evidence.erase(5)
    spoil(member, "UPDATE leaf SET hash = ? WHERE position = 5", OTHER)
    with member.evidence() as evidence:
        assert damage(evidence, deep=True) == (4, "it, or an entry beside it, is not what was logged")


@pytest.mark.parametrize("deep", [False, True])
def test_every_changed_or_missing_part_of_the_tree_is_found(member: Member, deep: bool) -> None:
    filled(member)
    database = Database(member.file)
    with database.reading() as connection:
        parts = connection.execute("SELECT level, position FROM subtree").fetchall()
    database.close()
    assert len(parts) == 10 + 5 + 2 + 1
    for number, (level, position) in enumerate(parts):
        copy = Member.of(member.home.folder / str(number))
        copy.signing_key = member.signing_key
        copy.file.write_bytes(member.file.read_bytes())
        statement = ("UPDATE subtree SET hash = ?", "DELETE FROM subtree WHERE hash <> ? AND 1")[number % 2]
        where = f" {'AND' if number % 2 else 'WHERE'} level = {level} AND position = {position}"
        spoil(copy, statement + where, OTHER)
        with copy.evidence() as evidence:
            assert damage(evidence, deep=deep) == (
                position << level,
                "it, or an entry beside it, is not what was logged",
            )


@pytest.mark.parametrize("position", range(SIZE))
def test_a_missing_leaf_is_named(member: Member, position: int) -> None:
    filled(member)
    spoil(member, "DELETE FROM leaf WHERE position = ?", position)
    with member.evidence() as evidence:
        found = damage(evidence)
        assert found is not None
        assert found[0] == position
        assert "is missing" in found[1]


def test_a_log_that_was_cut_or_lengthened_without_its_key_is_noticed(member: Member) -> None:
    filled(member)
    spoil(member, "DELETE FROM leaf WHERE position >= 9")
    with member.evidence() as evidence:
        assert damage(evidence) == (9, "is missing, with all up to 16: a checkpoint counts 17")
    spoil(member, "DELETE FROM checkpoint WHERE size > 9")
    with member.evidence() as evidence:
        assert damage(evidence) == (9, "there are parts of a larger tree than the leaves make")
    spoil(member, "DELETE FROM subtree WHERE ((position + 1) << level) > 9")
    with member.evidence() as evidence:
        assert evidence.verify(deep=True) is None  # only peers can tell: they have a later checkpoint
    entry = Entry.of(Kind.GRANT, b"forged")
    database = Database(member.file)
    with database.writing() as connection:
        log.append(connection, Edge.read(connection, 9), [entry], 1)
    database.close()
    with member.evidence() as evidence:
        assert damage(evidence) == (9, "has no checkpoint, nor has any after it")


def test_a_log_that_was_rewritten_without_its_key_is_noticed(member: Member) -> None:
    filled(member)
    notes: list[tuple[int, str]] = []
    with member.evidence() as evidence, evidence.reading() as connection:
        notes = list(log.checkpoints(connection))
    for table in ("leaf", "subtree"):
        spoil(member, f"DELETE FROM {table}")
    database = Database(member.file)
    with database.writing() as connection:
        log.append(connection, Edge(0, {}), [Entry.of(Kind.RECEIPT, b"forged %d" % n) for n in range(SIZE)], 1)
    database.close()
    with member.evidence() as evidence:
        assert damage(evidence, deep=True) == (0, "up to entry 0 the log is not the one that was signed")
    # With another key it can be signed, but not so that it counts.
    stranger = SigningKey.generate()
    database = Database(member.file)
    with database.writing() as connection:
        connection.execute("DELETE FROM checkpoint")
        for size, _ in notes:
            name = origin(member.prefix)
            note = sign(Checkpoint(name, size, proofs.root_at(connection, size)), stranger)
            forged = note.rpartition(" ")[0] + " " + notes[-1][1].rpartition(" ")[2]
            log.put_checkpoint(connection, size, forged, 1)
    database.close()
    with member.evidence() as evidence:
        found = damage(evidence)
        assert found is not None
        assert found[0] == SIZE - 1
        assert "the checkpoint after it is damaged: a checkpoint of 86.north" in found[1]
        found = damage(evidence, deep=True)
        assert found is not None
        assert found[0] == 0


@pytest.mark.parametrize("note", ["", "hello", "86.north\n1\n\n"])
def test_a_damaged_checkpoint_is_named(member: Member, note: str) -> None:
    filled(member)
    spoil(member, "UPDATE checkpoint SET note = ? WHERE size = 8", note)
    with member.evidence() as evidence:
        found = damage(evidence)
        assert found is not None
        assert found[0] == 7
        assert found[1].startswith("the checkpoint after it is damaged: a checkpoint is not a signed note")


def test_a_log_that_somebody_signed_with_another_key_is_noticed(member: Member) -> None:
    filled(member)
    member.signing_key = SigningKey.generate()
    with member.evidence() as evidence:
        assert damage(evidence) == (SIZE - 1, "the checkpoint after it is signed with no key of this organization")


def test_after_changes_of_keys_the_log_is_still_whole(member: Member) -> None:
    filled(member)
    earlier = []
    for _ in range(3):
        earlier.append(member.signing_key.public)
        member.signing_key = SigningKey.generate()
        with member.evidence() as evidence:
            assert evidence.verify(deep=True, earlier=earlier) is None
            append(evidence, b"more")
            assert evidence.verify(deep=True, earlier=earlier) is None
            assert evidence.verify() is None
    # What an earlier key is said to have signed, it must have signed.
    first = Checkpoint(origin(member.prefix), 1, root(filled_hashes(member)[:1]))
    forged = base64.b64encode(key_hash(first.origin, earlier[0]) + bytes(64)).decode()
    note = f"{first.text}\n\u2014 {first.origin} {forged}\n"
    spoil(member, "UPDATE checkpoint SET note = ? WHERE size = 1", note)
    with member.evidence() as evidence:
        assert evidence.verify(earlier=earlier) is None  # of old ones, the root alone was compared
        found = damage(evidence, deep=True, earlier=earlier)
        assert found is not None
        assert found[0] == 0
        assert "has a signature that is not its owner's" in found[1]
