"""What registry.storage.base promises, held against every implementation."""

from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from sqlite_utils.utils import sqlite3

from hanse.errors import HomeUnusable, InvalidInput
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.model.search import Query
from registry.accept import Stored
from registry.index import Document, ask, tokens
from registry.storage.base import Change, NewRecord, Storage, StoredInvitation, StoredOrganization
from registry.storage.sqlite import SqliteStorage
from registry.usage import Limits, Usage

NORTH, SOUTH = Prefix("86.north"), Prefix("86.south")


def new(
    suffix: str, version: int = 1, *, title: str = "", description: str = "", issued_at: int = 100, gone: bool = False
):
    key = f"86.north/{suffix}"
    document = None if gone else Document(tokens(title), tokens(description), "", "", "xeverything")
    return NewRecord(
        key, version, f"{key} {version}".encode(), issued_at, f"envelope {key} {version}".encode(), document
    )


def put(storage: Storage, *records: NewRecord) -> None:
    with storage.writing() as writing:
        writing.put_records(records)


def found(storage: Storage, text: str, **more: object) -> list[bytes]:
    positions = storage.find(ask(Query(text=text, **more)), storage.last_position(), 100)
    records = storage.records_at(positions)
    return [records[each] for each in positions if each in records]


def problems(storage: Storage) -> list[str]:
    """Without those of the log: the envelopes here are none (see test_registry_log.py)."""
    return [each for each in storage.problems() if "log" not in each]


def test_given_nothing_then_everything_is_empty(storage):
    assert storage.resolve(["86.north/a"]) == {}
    assert storage.membership() == (0, [])
    assert storage.changes(0, 10, 1000) == []
    assert storage.last_position() == 0
    assert storage.organizations(NORTH, 0) == []
    assert storage.recall("x") is None
    assert storage.problems() == []


def test_given_two_versions_when_resolved_then_the_newest_is_answered(storage):
    put(storage, new("a"), new("b"))
    put(storage, new("a", 2))
    assert storage.resolve(["86.north/a", "86.north/b", "86.north/c"]) == {
        "86.north/a": (False, b"envelope 86.north/a 2"),
        "86.north/b": (False, b"envelope 86.north/b 1"),
    }
    with storage.writing() as writing:
        assert writing.stored(["86.north/a", "86.north/c"]) == {"86.north/a": Stored(2, b"86.north/a 2", False)}
        assert writing.digest_of("86.north/a", 1) == b"86.north/a 1"
        assert writing.digest_of("86.north/a", 3) is None
        assert writing.digest_of("86.north/c", 1) is None


def test_given_versions_of_one_object_in_one_sequence_then_the_last_counts_and_all_are_changes(storage):
    put(storage, new("a", title="old"), new("a", 2, title="middle"), new("a", 3, title="new"))
    assert storage.resolve(["86.north/a"])["86.north/a"][1] == b"envelope 86.north/a 3"
    assert [each.position for each in storage.changes(0, 10, 1000)] == [1, 2, 3]
    assert found(storage, "old") == found(storage, "middle") == []
    assert found(storage, "new") == [b"envelope 86.north/a 3"]
    assert problems(storage) == []


def test_given_a_tombstone_then_it_resolves_as_withdrawn_and_is_not_found(storage):
    put(storage, new("a", title="trial"), new("b", title="trial"))
    put(storage, new("a", 2, gone=True))
    assert storage.resolve(["86.north/a"])["86.north/a"] == (True, b"envelope 86.north/a 2")
    assert found(storage, "trial") == [b"envelope 86.north/b 1"]
    assert storage.records_at([1, 2]) == {2: b"envelope 86.north/b 1"}
    assert storage.figures().withdrawn == 1
    assert problems(storage) == []


@pytest.mark.parametrize("count", [1, 9, 10, 11, 99, 100, 101, 250, 251, 1000])
def test_given_many_keys_when_resolved_then_each_is_answered(storage, count):
    put(storage, *(new(str(i)) for i in range(count)))
    keys = [f"86.north/{i}" for i in range(count)]
    assert storage.resolve(keys) == {key: (False, f"envelope {key} 1".encode()) for key in keys}


def test_given_an_error_in_a_transaction_then_nothing_of_it_is_stored(storage):
    with pytest.raises(InvalidInput), storage.writing() as writing:  # noqa: PT012
        writing.put_records([new("a")])
        writing.put_member(Member(NORTH, "North", 1), 1)
        writing.next_membership_version()
        raise InvalidInput("no")
    assert storage.resolve(["86.north/a"]) == {}
    assert storage.membership() == (0, [])
    assert storage.last_position() == 0


def test_given_changes_of_all_kinds_then_they_come_in_order_and_from_any_position(storage):
    with storage.writing() as writing:
        writing.put_organization(NORTH, StoredOrganization(1, b"d1", b"org 1"))
        writing.put_membership(b"head 1", b"leaf")
        writing.put_records([new("a")])
    everything = [Change(1, b"org 1"), Change(2, b"head 1"), Change(3, b"envelope 86.north/a 1")]
    assert storage.changes(0, 10, 1000) == everything
    assert storage.changes(2, 10, 1000) == everything[2:]
    assert storage.changes(0, 2, 1000) == everything[:2]
    assert storage.changes(0, 10, 1) == everything[:1]
    assert storage.changes(3, 10, 1000) == storage.changes(1 << 63, 10, 1000) == []


def test_given_a_chain_then_it_is_read_from_any_version(storage):
    chain = [StoredOrganization(i, bytes([i]), b"org %d" % i) for i in (1, 2, 3)]
    with storage.writing() as writing:
        for each in chain:
            writing.put_organization(NORTH, each)
        assert writing.newest_organization(NORTH) == chain[-1]
        assert writing.organization_digest(NORTH, 2) == b"\2"
        assert writing.organization_digest(NORTH, 4) is None
        assert writing.newest_organization(SOUTH) is None
    assert storage.organizations(NORTH, 0) == chain
    assert storage.organizations(NORTH, 2) == chain[2:]
    assert storage.organizations(SOUTH, 0) == []
    with storage.writing() as writing:
        writing.put_organization(SOUTH, StoredOrganization(1, b"s", b"south 1"))
    assert sorted(storage.newest_organizations()) == [b"org 3", b"south 1"]


def test_given_members_then_they_are_listed_by_prefix_and_replaced_whole(storage):
    with storage.writing() as writing:
        writing.put_member(Member(SOUTH, "South", 1), 1)
        writing.put_member(Member(NORTH, "North", 1), 1)
        assert writing.next_membership_version() == 1
    suspended = Member(SOUTH, "South", 2, 77, "why")
    with storage.writing() as writing:
        writing.put_member(suspended, 2)
        assert writing.next_membership_version() == 2
        assert writing.member(SOUTH) == suspended
        assert writing.members() == [Member(NORTH, "North", 1), suspended]
    assert storage.membership() == (2, [Member(NORTH, "North", 1), suspended])
    assert storage.membership_version() == 2


def test_given_an_invitation_when_spent_then_it_says_by_whom(storage):
    told = StoredInvitation(NORTH, "North", 500, None)
    with storage.writing() as writing:
        writing.put_invitation(b"hash", told, 1)
        assert writing.invitation(b"other") is None
        assert writing.invitation(b"hash") == told
        writing.spend_invitation(b"hash", b"digest", 2)
    with storage.writing() as writing:
        assert writing.invitation(b"hash") == StoredInvitation(NORTH, "North", 500, b"digest")


def test_when_something_is_remembered_twice_then_the_last_is_recalled(storage):
    for value in ("1", "2"):
        with storage.writing() as writing:
            writing.remember("port", value)
    assert storage.recall("port") == "2"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("trial", "ab"), ("TRIAL", "ab"), ("Trial Heart", "a"), ("tri", "ab"), ("tr", ""), ("rial", ""),
        ("数据", "c"), ("数据集", "c"), ("据集", "c"), ("集", "c"), ("数", "c"), ("据数", ""), ("集数", ""),
        ("据", "c"),
        ("high-pressure", "a"), ("pressure-high", ""), ("pressure high", "a"), ("ai数据", "c"),
        ("café", "b"), ("cafe", "b"), ("NEAR", ""), ("trial OR heart", ""), ("title:trial", ""), ('"trial', "ab"),
        ("trial*", "ab"), ("-trial", "ab"),
        ("(trial", "ab"), ("{title}", ""), ("'; DROP TABLE search; --", ""),
    ],
)  # fmt: skip
def test_when_searched_then_found(storage, text, expected):
    put(
        storage,
        new("a", title="Trial of a heart medicine", description="High pressure"),
        new("b", title="Trials", description="in the café"),
        new("c", title="AI数据集", description="nothing"),
    )
    assert sorted(each.decode()[len("envelope 86.north/")] for each in found(storage, text)) == sorted(expected)


def test_given_a_word_in_title_and_in_description_then_the_title_ranks_first(storage):
    put(storage, new("a", title="Other", description="about rain"), new("b", title="Rain"), new("c", title="Dry"))
    assert found(storage, "rain") == [b"envelope 86.north/b 1", b"envelope 86.north/a 1"]


def test_given_more_matches_than_wanted_then_the_newest_of_them_are_ranked(storage):
    put(storage, new("old", title="rain"), *(new(str(n), description="rain") for n in range(3)), new("b", title="rain"))
    assert storage.find(ask(Query(text="rain")), 5, 4) == [5, 4, 3, 2]


def test_given_a_word_that_was_never_published_then_its_beginnings_find_nothing(storage):
    put(storage, new("a", title="trial"))
    assert (len(found(storage, "tri")), found(storage, "trials"), found(storage, "xyz")) == (1, [], [])
    put(storage, new("a", 2, title="dry"), new("b", title="tribe"))
    assert found(storage, "tri") == [b"envelope 86.north/b 1"]


def test_given_dates_then_both_ends_are_inclusive(storage):
    put(storage, *(new(str(day), title="day", issued_at=day) for day in (10, 20, 30)))
    assert len(found(storage, "day", issued_from=20)) == 2
    assert len(found(storage, "day", issued_until=20)) == 2
    assert found(storage, "day", issued_from=20, issued_until=20) == [b"envelope 86.north/20 1"]


def test_what_is_stored_is_counted_for_its_owner_in_the_same_transaction(storage):
    with storage.writing() as writing:
        assert writing.usage(NORTH) == Usage()
        writing.put_organization(NORTH, StoredOrganization(1, b"d1", b"org 1"))
        writing.put_records([new("a"), new("a", 2), new("b")])
        size = len(b"org 1") + 3 * len(b"envelope 86.north/a 1")
        assert writing.usage(NORTH) == Usage(2, size)
        writing.put_pace(NORTH, 1_700_000_000.25)
        writing.put_limits(NORTH, Limits(records=5, bytes=(1 << 63) - 1))
        writing.put_limits(SOUTH, Limits(publishes_per_minute=0))
    put(storage, new("a", 3, gone=True))  # a tombstone frees nothing
    size += len(b"envelope 86.north/a 3")
    assert storage.usages() == {
        NORTH: Usage(2, size, 1_700_000_000.25, Limits(records=5, bytes=(1 << 63) - 1)),
        SOUTH: Usage(limits=Limits(publishes_per_minute=0)),
    }
    with pytest.raises(InvalidInput), storage.writing() as writing:  # noqa: PT012
        writing.put_records([new("c")])
        writing.put_limits(NORTH, Limits())
        raise InvalidInput("no")
    assert storage.usages()[NORTH].objects == 2
    with storage.writing() as writing:
        writing.put_limits(NORTH, Limits())
    assert storage.usages()[NORTH] == Usage(2, size, 1_700_000_000.25)
    assert problems(storage) == []


def test_given_more_matches_than_asked_for_or_newer_ones_then_they_are_left_out(storage):
    put(storage, *(new(str(i), title="word") for i in range(5)))
    question = ask(Query(text="word"))
    assert len(storage.find(question, 5, 3)) == 3
    assert sorted(storage.find(question, 2, 100)) == [1, 2]


def test_given_sqlite_when_opened_again_then_all_is_there(tmp_path: Path):
    path = tmp_path / "registry.db"
    first = SqliteStorage(path)
    put(first, new("a", title="trial"))
    first.close()
    second = SqliteStorage(path)
    assert found(second, "trial") == [b"envelope 86.north/a 1"]
    assert path.stat().st_mode & 0o777 == 0o600
    second.close()


def test_given_two_sqlite_connections_then_one_notices_what_the_other_did(tmp_path: Path):
    one, other = SqliteStorage(tmp_path / "registry.db"), SqliteStorage(tmp_path / "registry.db")
    before = one.stamp()
    assert one.stamp() == before
    put(other, new("a"))
    with ThreadPoolExecutor(1) as another_thread:  # the daemon asks from whichever is free
        after = another_thread.submit(one.stamp).result()
    assert after != before
    assert one.stamp() == after
    assert one.last_position() == 1
    one.close()
    other.close()


def test_given_a_newer_schema_then_it_says_so(tmp_path: Path):
    path = tmp_path / "registry.db"
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    with pytest.raises(HomeUnusable, match="newer version of hanse-registry"):
        SqliteStorage(path)


def test_given_no_database_then_it_says_so(tmp_path: Path):
    path = tmp_path / "registry.db"
    path.write_bytes(b"this is not a database" * 100)
    with pytest.raises(HomeUnusable, match="not a database"):
        SqliteStorage(path)
