"""Who is let in: the membership, the caller's own record, and what holds while the registry is away."""

import dataclasses

import pytest

from hanse import limits
from hanse.errors import BadSignature, BrokenChain, HanseError, NotAuthenticated, NotFound, Suspended, Unreachable
from hanse.model.address import Address
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId, PublicKey
from hanse.model.organization import IdentityKey, Member, Membership, NodeEndpoint, OrganizationRecord
from hanse.rpc import tls
from hanse.trust import VerifiedOrganization
from node.members import Members

ACME, NOW = Prefix("86.acme"), 1_800_000_000
TLS = tls.TlsKey.generate()
CERTIFICATE = tls.make_node_certificate(TLS, Prefix("86"), ACME, NOW)
KEY = tls.read_certificate(CERTIFICATE).key_digest


def organization(version: int = 1, certificate: bytes = CERTIFICATE, key: int = 1) -> VerifiedOrganization:
    record = OrganizationRecord(
        ACME, version, b"", "Acme", "", (IdentityKey(PublicKey(bytes([key]) * 32), 1),),
        (NodeEndpoint(Address("127.0.0.1", 1), b"no certificate"), NodeEndpoint(None, certificate)), NOW,
    )  # fmt: skip
    return VerifiedOrganization(record, Envelope("", b"", ()), bytes(32))


class League:
    """A resolver, and what is known, in one; every answer can be changed and is counted."""

    def __init__(self) -> None:
        self.members: dict[Prefix, Member] = {ACME: Member(ACME, "Acme", 1)}
        self.pinned, self.newest = organization(), organization()
        self.issued_at = NOW
        self.error: HanseError | None = None
        self.organization_error: HanseError | None = None
        self.asked: list[str] = []

    def membership(self, *, max_age: int = 0) -> Membership | None:
        self.asked.append("membership")
        if self.error is not None:
            raise self.error
        return Membership(1, self.issued_at, dict(self.members), (), bytes(32))

    def organization(self, prefix: Prefix, *, fresh: bool = False) -> VerifiedOrganization:
        self.asked.append("fresh" if fresh else "pinned")
        if self.organization_error is not None:
            raise self.organization_error
        return self.newest if fresh else self.pinned


class Known:
    """What `hanse trust` said, which a command writes while the daemon runs."""

    def __init__(self) -> None:
        self.told: dict[Prefix, KeyId] = {}

    def membership(self) -> None:
        return None

    def told_key(self, prefix: Prefix) -> KeyId | None:
        return self.told.get(prefix)


@pytest.fixture
def league() -> League:
    return League()


@pytest.fixture
def now() -> list[float]:
    return [NOW]


@pytest.fixture
def known() -> Known:
    return Known()


@pytest.fixture
def members(league: League, known: Known, now: list[float]) -> Members:
    return Members(lambda: league, known, lambda: now[0])  # type: ignore[arg-type,return-value]


def test_a_member_whose_record_names_its_key_is_let_in_with_its_current_key(members: Members) -> None:
    caller = members.caller(ACME, KEY)
    assert (caller.prefix, caller.key_id) == (ACME, organization().record.current_key.key_id)


def test_what_was_checked_once_is_not_asked_again(members: Members, league: League) -> None:
    members.caller(ACME, KEY)
    league.asked.clear()
    members.caller(ACME, KEY)
    assert league.asked == []


def test_a_stranger_is_refused_and_makes_the_registry_be_asked_once_a_second_at_most(
    members: Members, league: League
) -> None:
    for _ in range(20):
        with pytest.raises(NotAuthenticated, match="not a member"):
            members.caller(Prefix("86.ghost"), KEY)
    assert league.asked == ["membership"]


def test_another_key_than_the_records_is_refused_whatever_the_authority_says(members: Members) -> None:
    with pytest.raises(NotAuthenticated, match="names another key"):
        members.caller(ACME, bytes(32))


def test_a_suspended_member_is_refused_also_when_it_was_let_in_before(members: Members, league: League) -> None:
    members.caller(ACME, KEY)
    league.members[ACME] = Member(ACME, "Acme", 1, suspended_at=NOW)
    members.refresh()
    with pytest.raises(Suspended, match="is suspended"):
        members.caller(ACME, KEY)
    with pytest.raises(Suspended):
        members.check(ACME)


def test_a_key_that_was_told_while_the_daemon_runs_counts_at_once(
    members: Members, known: Known, league: League
) -> None:
    members.caller(ACME, KEY)
    known.told[ACME] = KeyId("0" * 32)
    league.organization_error = BrokenChain("86.acme has another key than you pinned")
    with pytest.raises(NotAuthenticated, match="than you pinned"):
        members.caller(ACME, KEY)
    del known.told[ACME]
    assert members.caller(ACME, KEY).prefix == ACME


def test_a_newer_record_of_the_caller_is_looked_up_and_its_old_key_ends(members: Members, league: League) -> None:
    members.caller(ACME, KEY)
    other = tls.make_node_certificate(tls.TlsKey.generate(), Prefix("86"), ACME, NOW)
    league.newest = organization(2, other, key=2)
    league.members[ACME] = Member(ACME, "Acme", 2)
    members.refresh()
    with pytest.raises(NotAuthenticated):
        members.caller(ACME, KEY)
    caller = members.caller(ACME, tls.read_certificate(other).key_digest)
    assert caller.key_id == league.newest.record.current_key.key_id


def test_a_key_that_is_newer_than_the_membership_makes_both_be_asked_again(members: Members, league: League) -> None:
    members.refresh()
    other = tls.make_node_certificate(tls.TlsKey.generate(), Prefix("86"), ACME, NOW)
    league.newest = organization(2, other)
    assert members.caller(ACME, tls.read_certificate(other).key_digest).prefix == ACME
    assert league.asked.count("fresh") == 1


@pytest.mark.parametrize("error", [BadSignature("not signed"), NotFound("no such organization")])
def test_a_record_that_cannot_be_believed_lets_nobody_in(members: Members, league: League, error: HanseError) -> None:
    league.organization_error = error
    with pytest.raises(NotAuthenticated, match="cannot be believed"):
        members.caller(ACME, KEY)


def test_while_the_registry_is_away_what_was_known_serves_for_a_day(
    members: Members, league: League, now: list[float]
) -> None:
    members.caller(ACME, KEY)
    league.error = Unreachable("away")
    now[0] = NOW + limits.MEMBERSHIP_LIFE
    assert members.caller(ACME, KEY)
    assert members.age() == limits.MEMBERSHIP_LIFE
    now[0] += 1
    assert members.is_stale()
    with pytest.raises(Unreachable, match="does not know who is in good standing"):
        members.caller(ACME, KEY)


def test_before_anything_is_known_nobody_is_let_in(members: Members, league: League) -> None:
    league.error = Unreachable("away")
    assert members.is_stale()
    assert members.age() is None
    with pytest.raises(Unreachable):
        members.caller(ACME, KEY)


def test_a_certificate_in_a_record_that_does_not_parse_names_no_key(members: Members, league: League) -> None:
    league.pinned = dataclasses.replace(organization(certificate=b"\x30\x00"))
    league.newest = league.pinned
    with pytest.raises(NotAuthenticated, match="names another key"):
        members.caller(ACME, KEY)
