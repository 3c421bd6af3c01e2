"""The doctor names what is broken, says what to do, and goes on with the rest, however much is broken."""

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import limits
from hanse.client.identity import IDENTITY_KEY, MARKER, MEMBER_CERTIFICATE, NODE_CERTIFICATE, TLS_KEY
from hanse.client.storage.known import FILE, Known
from hanse.errors import NotPermitted
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from hanse.model.organization import NodeEndpoint
from hanse.rpc import tls
from hanse.signing import SigningKey
from node.doctor import Finding, Grade, examine, parse_target, worst
from tests.simulator import Organization, SimulatedLeague

NORTH, OBJECT = "86.north", "86.north/x"


@pytest.fixture
def league() -> Iterator[SimulatedLeague]:
    with SimulatedLeague() as made:
        yield made


@pytest.fixture
def north(league: SimulatedLeague) -> Organization:
    owner = league.join(NORTH)
    owner.wrap("x", b"data")
    return owner


@pytest.fixture
def acme(league: SimulatedLeague) -> Organization:
    return league.join("86.acme")


@pytest.fixture
def home(north: Organization, acme: Organization, tmp_path: Path) -> Path:
    return acme.home(tmp_path / "acme")


def look(home: Path, target: str | None = None, **more: Any) -> dict[str, Finding]:
    """The worst finding of each check."""
    found: dict[str, Finding] = {}
    for each in examine(home, parse_target(target) if target else None, **more):
        if each.check not in found or each.grade is Grade.FAIL:
            found[each.check] = each
    return found


def failed(found: dict[str, Finding]) -> list[str]:
    return [check for check, each in found.items() if each.grade is Grade.FAIL]


def test_when_all_is_well_nothing_fails(home: Path) -> None:
    found = look(home, OBJECT)
    assert failed(found) == []
    assert worst(found.values()) == 0
    assert found["policy"].text == "you may fetch it (version 1)"
    assert set(found) == {
        "home", "keys", "disk", "certificate", "registry", "clock", "standing", "own record", "own node", "sources",
        "outbox", "member", "key", "node", "record", "policy",
    }  # fmt: skip


def test_without_a_home_it_says_how_to_get_one(tmp_path: Path) -> None:
    found = look(tmp_path / "none")
    assert failed(found) == ["home"]
    assert "hanse join" in found["home"].remedy
    assert worst(found.values()) == 1


def test_a_joining_that_did_not_end_is_told_as_such(home: Path) -> None:
    (home / MARKER).unlink()
    assert "did not end" in look(home)["home"].text


@pytest.mark.parametrize("name", [IDENTITY_KEY, TLS_KEY, NODE_CERTIFICATE, MEMBER_CERTIFICATE])
def test_a_missing_key_is_named(home: Path, name: str) -> None:
    (home / name).unlink()
    found = look(home)
    assert failed(found) == ["keys"]
    assert str(home / name) in found["keys"].text


def test_a_key_that_others_can_read_is_named(home: Path) -> None:
    (home / IDENTITY_KEY).chmod(0o640)
    assert "chmod 600" in look(home)["keys"].text


def test_keys_of_two_homes_mixed_up_are_noticed(home: Path) -> None:
    (home / TLS_KEY).write_bytes(tls.TlsKey.generate().to_pem())
    assert "do not belong together" in look(home)["keys"].text


def test_a_clock_two_days_ahead_is_noticed_by_the_certificates(home: Path) -> None:
    found = look(home, clock=lambda: time.time() + 8 * limits.DAY)
    assert found["certificate"].grade is Grade.FAIL
    assert "set the clock" in found["certificate"].remedy


def test_a_clock_two_days_behind_is_noticed(home: Path) -> None:
    found = look(home, clock=lambda: time.time() - 2 * limits.DAY - limits.HOUR)
    assert found["clock"].grade is Grade.FAIL
    assert "2 days behind" in found["clock"].text


def test_a_certificate_that_runs_out_soon_is_a_warning(home: Path) -> None:
    found = look(home, clock=lambda: time.time() + 6 * limits.DAY)
    assert found["certificate"].grade is Grade.WARN


def test_a_registry_that_is_away_is_unreachable_and_the_rest_goes_on(home: Path, league: SimulatedLeague) -> None:
    league.stop()
    found = look(home)
    assert failed(found) == ["registry"]
    assert worst(found.values()) == 5
    assert {"sources", "outbox"} <= set(found)


def test_another_registry_at_the_address_is_told_from_none(home: Path, league: SimulatedLeague) -> None:
    league.stop()
    league.ca_key = tls.TlsKey.generate()
    league.ca_certificate = tls.make_authority(league.ca_key, Prefix("86"), league.now)
    league.start()
    assert "another authority" in look(home)["registry"].remedy


def test_a_membership_that_another_key_signed_is_not_believed(home: Path, league: SimulatedLeague) -> None:
    forged = SigningKey.generate()

    def lie(response: Any) -> Any:
        from hanse import wire

        head, members = league.membership(forged)
        response.head.CopyFrom(wire.envelope_to_message(head))
        response.members = members
        return response

    league.lies["membership"] = lie
    found = look(home)
    assert failed(found) == ["registry"]
    assert worst(found.values()) == 6


def test_a_suspension_is_told_with_its_date(home: Path, league: SimulatedLeague, acme: Organization) -> None:
    league.suspended[acme.prefix] = 1_700_000_000
    found = look(home)
    assert "2023-11-14T22:13:20Z" in found["standing"].text
    assert worst(found.values()) == 4


def test_an_old_copy_of_a_home_is_noticed(home: Path, acme: Organization) -> None:
    acme.rotate()
    assert "old copy" in look(home)["own record"].remedy


def test_a_key_seen_first_is_a_warning_and_one_told_by_telephone_is_not(home: Path, north: Organization) -> None:
    assert look(home, NORTH)["key"].grade is Grade.WARN
    assert look(home, NORTH)["key"].grade is Grade.OK  # pinned by the first look
    known = Known.open(home / FILE)
    known.tell_key(Prefix(NORTH), north.key.public.key_id)
    known.close()
    assert "confirmed by you" in look(home, NORTH)["key"].text


def test_a_key_that_was_told_otherwise_fails_verification(home: Path) -> None:
    known = Known.open(home / FILE)
    known.tell_key(Prefix(NORTH), KeyId("ab" * 16))
    known.close()
    found = look(home, NORTH)
    assert worst(found.values()) == 6
    assert any("impersonating" in each.text for each in found.values())


def test_somebody_else_at_the_owners_address_is_noticed(home: Path, north: Organization, acme: Organization) -> None:
    acme.wrap("y", b"other")
    assert acme.node is not None
    assert north.record is not None
    certificate = north.record.nodes[0].tls_certificate
    north.publish_organization(north.key, nodes=(NodeEndpoint(acme.node.address, certificate),))
    found = look(home, NORTH)
    assert failed(found) == ["node"]
    assert worst(found.values()) == 6


def test_an_owner_that_is_away_is_unreachable(home: Path, north: Organization) -> None:
    assert north.node is not None
    north.node.stop()
    found = look(home, NORTH)
    assert failed(found) == ["node"]
    assert worst(found.values()) == 5


def test_a_refusal_says_whom_to_ask(home: Path, north: Organization) -> None:
    north.serve().refuse = NotPermitted("86.acme may not read 86.north/x: ask 86.north")
    found = look(home, OBJECT)
    assert failed(found) == ["policy"]
    assert worst(found.values()) == 4
    assert "ask the owner" in found["policy"].remedy


def test_nobody_of_that_name_is_not_found(home: Path) -> None:
    found = look(home, "86.nobody")
    assert failed(found) == ["member"]
    assert worst(found.values()) == 3


def test_an_object_that_nobody_knows_is_not_found(home: Path) -> None:
    assert worst(look(home, "86.north/nothing").values()) == 3


def test_the_worst_is_the_first_failure() -> None:
    ok, warn = Finding("a", Grade.OK, ""), Finding("b", Grade.WARN, "", "", 0)
    first, second = Finding("c", Grade.FAIL, "", "", 5), Finding("d", Grade.FAIL, "", "", 6)
    assert worst([ok, warn]) == 0
    assert worst([ok, first, second]) == 5
    assert worst([Finding("e", Grade.FAIL, "")]) == 1


def test_a_target_is_a_prefix_or_an_identifier() -> None:
    assert parse_target(NORTH) == Prefix(NORTH)
    assert str(parse_target(OBJECT)) == OBJECT
