"""What a home has seen of others: never older, durable, shared by processes."""

import sqlite3
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from hanse import trust
from hanse.client.storage.known import Known, Origin, RegistryLie
from hanse.errors import HomeUnusable, StorageFailed
from hanse.model.identifier import Identifier, Prefix
from hanse.signing import SigningKey
from hanse.trust import VerifiedOrganization, VerifiedRecord
from tests.simulator import Organization, SimulatedLeague

X = Identifier.parse("86.north/x")


@pytest.fixture
def north() -> Organization:
    return SimulatedLeague().join("86.north")


@pytest.fixture
def known(tmp_path: Path) -> Iterator[Known]:
    opened = Known.open(tmp_path / "known.db")
    yield opened
    opened.close()


def organizations(north: Organization) -> list[VerifiedOrganization]:
    found, pinned = [], None
    for envelope in north.history:
        pinned = trust.organization(envelope, pinned=pinned, now=north.league.now)
        found.append(pinned)
    return found


def record(north: Organization, version: int, title: str = "") -> VerifiedRecord:
    made = north.make("x", [], [], False, version=version, previous=b"p" * 32 if version > 1 else b"", type=title)
    return trust.record(made.record_envelope, organizations(north)[-1].record, now=north.league.now)


def test_nothing_is_known_at_first(known: Known) -> None:
    assert known.organization(Prefix("86.north")) is None
    assert known.told_key(Prefix("86.north")) is None
    assert known.record(X) is None
    assert known.membership() is None


def test_what_is_kept_is_there_after_a_restart(tmp_path: Path, north: Organization) -> None:
    (pin,), kept = organizations(north), record(north, 3)
    head, members = north.league.membership()
    first = Known.open(tmp_path / "known.db")
    first.keep_organization(pin)
    first.keep_record(kept, 77)
    first.keep_membership(head, members, 88)
    first.close()
    again = Known.open(tmp_path / "known.db")
    assert again.organization(north.prefix) == pin
    found = again.record(Identifier.parse("86.NORTH/X"))
    assert found is not None
    assert (found.envelope, found.seen.version, found.checked_at) == (kept.envelope, 3, 77)
    membership = again.membership()
    assert membership is not None
    assert (membership.head, membership.members, membership.checked_at) == (head, members, 88)
    again.close()


def test_an_older_organization_record_does_not_replace_a_newer(known: Known, north: Organization) -> None:
    north.publish_organization(contact="new")
    old, new = organizations(north)
    known.keep_organization(new)
    known.keep_organization(old)
    assert known.organization(north.prefix) == new


def test_an_older_record_does_not_replace_a_newer(known: Known, north: Organization) -> None:
    known.keep_record(record(north, 2), 10)
    known.keep_record(record(north, 1), 20)
    found = known.record(X)
    assert found is not None
    assert (found.seen.version, found.checked_at) == (2, 10)


def test_another_record_of_the_same_version_does_not_replace_it(known: Known, north: Organization) -> None:
    first = record(north, 2, "first")
    known.keep_record(first, 10)
    known.keep_record(record(north, 2, "second"), 20)
    found = known.record(X)
    assert found is not None
    assert (found.envelope, found.checked_at) == (first.envelope, 10)


def test_the_same_record_is_checked_again(known: Known, north: Organization) -> None:
    kept = record(north, 2)
    known.keep_record(kept, 10)
    known.keep_record(kept, 20)
    found = known.record(X)
    assert found is not None
    assert found.checked_at == 20


@pytest.mark.parametrize(
    ("origins", "remembered"),
    [
        ([Origin.OWNER], Origin.OWNER),
        ([Origin.REGISTRY], Origin.REGISTRY),
        ([Origin.OWNER, Origin.REGISTRY], Origin.REGISTRY),
        ([Origin.REGISTRY, Origin.OWNER], Origin.REGISTRY),
    ],
)
def test_what_the_registry_had_stays_marked(
    known: Known, north: Organization, origins: list[Origin], remembered: Origin
) -> None:
    kept = record(north, 1)
    for origin in origins:
        known.keep_record(kept, 10, origin)
    found = known.record(X)
    assert found is not None
    assert found.origin is remembered


def test_telling_a_key_that_the_pin_has_keeps_it(known: Known, north: Organization) -> None:
    (pin,) = organizations(north)
    known.keep_organization(pin)
    known.tell_key(north.prefix, north.key.public.key_id)
    assert known.told_key(north.prefix) == north.key.public.key_id
    assert known.organization(north.prefix) == pin


def test_telling_another_key_drops_the_pin_and_its_records_only(known: Known, north: Organization) -> None:
    south = north.league.join("86.south")
    for each in (north, south):
        known.keep_organization(organizations(each)[0])
        known.keep_record(record(each, 1), 10)
    known.tell_key(north.prefix, SigningKey.generate().public.key_id)
    assert known.organization(north.prefix) is None
    assert known.record(X) is None
    assert known.organization(south.prefix) is not None
    assert known.record(Identifier.parse("86.south/x")) is not None


def test_two_processes_share_it(tmp_path: Path, north: Organization) -> None:
    first, second = Known.open(tmp_path / "known.db"), Known.open(tmp_path / "known.db")
    first.keep_record(record(north, 1), 10)
    second.keep_record(record(north, 2), 10)
    found = first.record(X)
    assert found is not None
    assert found.seen.version == 2
    first.close()
    second.close()


def test_many_records_are_kept_at_once(known: Known, north: Organization) -> None:
    kept = record(north, 1)
    many = [replace(kept, record=replace(kept.record, id=Identifier.parse(f"86.north/{n}"))) for n in range(100)]
    known.keep_records(many, 10)
    assert all(known.record(each.record.id) for each in many)


def test_it_is_for_its_owners_eyes_only(tmp_path: Path) -> None:
    Known.open(tmp_path / "known.db").close()
    assert (tmp_path / "known.db").stat().st_mode & 0o777 == 0o600


def test_a_newer_schema_is_refused_with_the_way_out(tmp_path: Path) -> None:
    Known.open(tmp_path / "known.db").close()
    with sqlite3.connect(tmp_path / "known.db") as db:
        db.execute("PRAGMA user_version = 99")
    db.close()
    with pytest.raises(HomeUnusable, match="written by a newer hanse"):
        Known.open(tmp_path / "known.db")


def test_a_file_that_is_no_database_is_named(tmp_path: Path) -> None:
    (tmp_path / "known.db").write_bytes(b"x" * 5000)
    with pytest.raises(StorageFailed, match=r"known\.db"):
        Known.open(tmp_path / "known.db")


def test_a_damaged_pin_is_named(tmp_path: Path, north: Organization) -> None:
    known = Known.open(tmp_path / "known.db")
    known.keep_organization(organizations(north)[0])
    with sqlite3.connect(tmp_path / "known.db") as db:
        db.execute("UPDATE organization SET envelope = x'ff'")
    db.close()
    with pytest.raises(StorageFailed, match="is damaged: restore it"):
        known.organization(north.prefix)
    known.close()


def test_a_folder_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(StorageFailed, match=r"no/known\.db failed: No such file"):
        Known.open(tmp_path / "no" / "known.db")


def test_after_a_restore_was_accepted_the_registry_may_know_less_and_nothing_got_older(
    known: Known, north: Organization
) -> None:
    first, (pin,) = record(north, 3), organizations(north)
    known.keep_organization(pin)
    known.keep_record(first, 77)
    known.keep_membership(*north.league.membership(), 88)
    assert known.keep_registry_log(None, 9, "nine", 88)
    known.keep_registry_lie(RegistryLie("nine", "seven", b"", "it was rolled back", 89))
    known.accept_registry_log(7, "seven", 90)
    assert known.registry_log() == "seven"
    assert known.membership() is None
    kept = known.record(X)
    assert kept is not None
    assert (kept.seen.version, kept.origin) == (3, Origin.OWNER)
    assert known.organization(Prefix("86.north")) == pin
    # Who asked before it was accepted, and says so after.
    known.keep_registry_lie(RegistryLie("nine", "seven again", b"", "it was rolled back", 91))
    assert not known.keep_registry_log("nine", 10, "ten", 91)
    assert [each.accepted_at for each in known.registry_lies()] == [90, 90]
    known.keep_registry_lie(RegistryLie("seven", "six", b"", "it was rolled back", 92))
    assert known.registry_lies()[-1].accepted_at is None
