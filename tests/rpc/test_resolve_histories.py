"""Histories as a client meets them: in several answers, signed by keys of before, ended by a tombstone."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import limits
from hanse.client.client import Client
from hanse.errors import BrokenChain, RolledBack, Withdrawn, WrongContent
from hanse.model.identifier import Identifier, Prefix
from tests.simulator import Organization, SimulatedLeague

NORTH = Prefix("86.north")


@pytest.fixture
def league() -> Iterator[SimulatedLeague]:
    with SimulatedLeague() as league:
        yield league


@pytest.fixture
def north(league: SimulatedLeague) -> Organization:
    return league.join("86.north")


@pytest.fixture
def home(league: SimulatedLeague, tmp_path: Path) -> Path:
    return league.join("86.acme").home(tmp_path / "home")


@pytest.fixture
def client(league: SimulatedLeague, home: Path) -> Iterator[Client]:
    with Client(home, clock=lambda: league.now) as client:
        yield client


def one_at_a_time(response: Any) -> Any:
    del response.organizations[1:]
    return response


def test_a_history_that_comes_in_parts_is_followed_to_its_end(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.rotate()
    north.publish_organization(contact="it moved")
    north.rotate()
    league.lies["organization"] = one_at_a_time
    found = client.resolver.organization(NORTH)
    assert found.record.version == 4
    assert found.record.current_key == north.key.public
    assert league.calls.count("organization") == 5  # the last one says that this is all


def test_a_told_key_that_comes_with_a_later_part_of_the_history_counts(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.rotate()
    north.rotate()
    client.resolver._known.tell_key(NORTH, north.key.public.key_id)
    league.lies["organization"] = one_at_a_time
    assert client.resolver.organization(NORTH).record.version == 3


def test_a_told_key_that_no_part_of_the_history_has_is_refused_and_nothing_is_pinned(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.rotate()
    client.resolver._known.tell_key(NORTH, league.organizations[Prefix("86.acme")].key.public.key_id)
    league.lies["organization"] = one_at_a_time
    with pytest.raises(BrokenChain, match="but you pinned"):
        client.resolver.organization(NORTH)
    assert client.resolver._known.organization(NORTH) is None


def test_a_history_without_end_is_given_up(league: SimulatedLeague, north: Organization, client: Client) -> None:
    def endless(response: Any) -> Any:
        north.publish_organization()
        return one_at_a_time(response)

    league.lies["organization"] = endless
    with pytest.raises(WrongContent, match=r"the history of 86.north that the registry gives does not end"):
        client.resolver.organization(NORTH)


def test_a_key_that_was_rotated_away_cannot_go_on_with_an_object_that_was_seen(
    league: SimulatedLeague, north: Organization, home: Path
) -> None:
    stolen = north.rotate()
    league.now += 1000
    north.wrap("x", b"true")
    with Client(home, clock=lambda: league.now) as client:
        client.resolve("86.north/x")
    north.wrap("x", b"false", key=stolen, issued_at=league.now - 1000)
    with Client(home, clock=lambda: league.now) as after_a_restart:
        with pytest.raises(BrokenChain, match=r"version 2 of 86.north/x is dated before version 1"):
            after_a_restart.resolve("86.north/x", max_age=0)
        page = after_a_restart.search("x")
        assert page.records == ()
        assert "dated before version 1" in page.refused[0]


def test_nothing_is_accepted_after_a_tombstone_that_was_seen(
    league: SimulatedLeague, north: Organization, home: Path
) -> None:
    first = north.wrap("x", b"1")
    north.withdraw("x", "consent was withdrawn")
    with Client(home, clock=lambda: league.now) as client, pytest.raises(Withdrawn):
        client.resolve("86.north/x")
    third = north.wrap("x", b"3")
    with Client(home, clock=lambda: league.now) as after_a_restart:
        with pytest.raises(BrokenChain, match="version 2 withdrew it"):
            after_a_restart.resolve("86.north/x", max_age=0)
        league.records[first.record.id.key] = first.record_envelope
        with pytest.raises(RolledBack, match="version 1"):
            after_a_restart.resolve("86.north/x", max_age=0)
        with pytest.raises(BrokenChain, match="version 2 withdrew it"):
            after_a_restart.resolver.accept(third.record.id, third.record_envelope)


def test_a_search_does_not_slip_in_what_does_not_follow_the_owners_own_record(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.wrap("x", b"1")
    second = north.wrap("x", b"2", listed=False)
    client.resolver.accept(Identifier.parse("86.north/x"), second.record_envelope)
    assert [each.record.version for each in client.search("x").records] == [1]  # the registry lags: no rollback
    north.wrap("x", b"3", previous=bytes(32))
    page = client.search("x")
    assert page.records == ()
    assert "does not continue version 2" in page.refused[0]


@pytest.mark.parametrize(("age", "asked"), [(limits.DAY - 1, 0), (limits.DAY, 1)])
def test_no_owner_silences_its_later_records_for_more_than_a_day(
    league: SimulatedLeague, north: Organization, client: Client, age: int, asked: int
) -> None:
    north.wrap("x", b"1", time_to_live=0xFFFFFFFF)
    client.resolve("86.north/x")
    league.calls.clear()
    league.now += age
    client.resolve("86.north/x")
    assert league.calls.count("resolve") == asked
