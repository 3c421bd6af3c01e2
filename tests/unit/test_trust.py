"""What is believed and what is refused, rule by rule. Told keys are in test_told_keys.py."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hanse import limits, trust, wire
from hanse.errors import (
    BadSignature,
    BrokenChain,
    HanseError,
    NotAuthenticated,
    RolledBack,
    VerificationFailed,
    WrongContent,
)
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import IdentityKey, Pass, Renewal
from hanse.model.record import Status
from hanse.signing import SigningKey, sign
from hanse.trust import Seen, VerifiedOrganization
from tests.simulator import Organization, SimulatedLeague, element

X = Identifier.parse("86.north/x")


@pytest.fixture
def league() -> SimulatedLeague:
    return SimulatedLeague()


@pytest.fixture
def north(league: SimulatedLeague) -> Organization:
    return league.join("86.north")


def believe(north: Organization) -> VerifiedOrganization:
    found = trust.chain(north.history, pinned=None, now=north.league.now)
    assert found is not None
    return found


# Organizations.


def test_a_chain_is_followed_through_changes_of_keys(north: Organization) -> None:
    first = believe(north)
    north.rotate()
    north.publish_organization(contact="x")
    north.rotate()
    newest = believe(north)
    assert newest.record.version == 4
    assert trust.chain(north.history[1:], pinned=first, now=north.league.now) == newest
    assert [key.public_key for key in newest.record.keys][-1] == first.record.current_key


def test_the_pinned_record_itself_is_no_news(north: Organization) -> None:
    pinned = believe(north)
    assert trust.organization(north.history[0], pinned=pinned, now=north.league.now) is pinned
    assert trust.chain([], pinned=pinned, now=north.league.now) is pinned
    assert trust.chain([], pinned=None, now=north.league.now) is None


def next_version(north: Organization, *keys: SigningKey, **changes: Any) -> Envelope:
    north.publish_organization(*keys, **changes)
    return north.history[-1]


MADE_UP = SigningKey.generate()


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda n: next_version(n, MADE_UP), BadSignature, "not signed by the key that it names"),
        (
            lambda n: next_version(n, MADE_UP, keys=(IdentityKey(MADE_UP.public, n.league.now),)),
            BrokenChain,
            "which its known key .* did not sign",
        ),
        (
            lambda n: next_version(n, MADE_UP, n.key, keys=(IdentityKey(MADE_UP.public, n.league.now),)),
            BrokenChain,
            "leaves out its previous key",
        ),
        (lambda n: next_version(n, version=3), BrokenChain, "does not continue version 1"),
        (lambda n: next_version(n, previous=bytes(32)), BrokenChain, "does not continue version 1"),
        (lambda n: next_version(n, version=1, previous=b"", contact="x"), BrokenChain, "two different records"),
        (lambda n: next_version(n, prefix=Prefix("86.south")), WrongContent, "offered for 86.north"),
        (lambda n: next_version(n, issued_at=n.league.now + 1000), WrongContent, "dated in the future"),
        (lambda n: replace(n.history[0], payload_type="application/x"), BadSignature, "was offered as one for"),
        (lambda n: sign(PayloadType.ORGANIZATION, b"\xff", n.key), WrongContent, "does not parse"),
        (lambda n: sign(PayloadType.ORGANIZATION, b"", n.key), WrongContent, "does not parse"),
    ],
)
def test_an_organization_record_that_is_refused(
    north: Organization, make: Callable[[Organization], Envelope], error: type[HanseError], why: str
) -> None:
    pinned = believe(north)
    with pytest.raises(error, match=why) as raised:
        trust.organization(make(north), pinned=pinned, now=north.league.now)
    assert isinstance(raised.value, VerificationFailed)


def test_an_older_organization_record_is_a_rollback(north: Organization) -> None:
    north.publish_organization()
    with pytest.raises(RolledBack, match=r"version 1 of the record of 86.north was offered, but 2 was seen"):
        trust.organization(north.history[0], pinned=believe(north), now=north.league.now)


def test_a_history_begins_with_version_1(north: Organization) -> None:
    north.publish_organization()
    with pytest.raises(BrokenChain, match="begins with version 2, not 1"):
        trust.chain(north.history[1:], pinned=None, now=north.league.now)


# Records.


def test_a_record_is_believed(north: Organization) -> None:
    made = north.make("x", [], [], False)
    found = trust.record(made.record_envelope, believe(north).record, now=north.league.now, expected=X)
    assert found.record == made.record
    assert found.signed_by == north.key.public.key_id


@pytest.mark.parametrize(
    ("changes", "error", "why"),
    [
        ({"id": Identifier.parse("86.north/y")}, WrongContent, "a record of 86.north/y was offered for 86.north/x"),
        ({"issued_at": 1 << 39}, WrongContent, "dated in the future"),
        ({"version": 4, "previous": bytes(32)}, RolledBack, "version 4 of .* but version 5 was seen"),
        ({"version": 5, "previous": bytes(32)}, BrokenChain, "two different records of version 5"),
        ({"version": 6, "previous": bytes(32)}, BrokenChain, "version 6 of .* does not continue version 5"),
    ],
)
def test_a_record_that_is_refused(
    north: Organization, changes: dict[str, Any], error: type[HanseError], why: str
) -> None:
    made = north.make("x", [], [], False, **{"version": 7, "previous": bytes(32), **changes})
    with pytest.raises(error, match=why):
        trust.record(
            made.record_envelope, believe(north).record, now=north.league.now, expected=X, seen=Seen(5, b"s" * 32)
        )


def test_versions_may_have_been_missed(north: Organization) -> None:
    made = north.make("x", [], [], False, version=9, previous=bytes(32))
    seen = Seen(5, b"s" * 32)
    found = trust.record(made.record_envelope, believe(north).record, now=north.league.now, seen=seen)
    assert found.record.version == 9


def test_nobody_signs_for_another(north: Organization, league: SimulatedLeague) -> None:
    south = league.join("86.south")
    made = north.make("x", [], [], False, key=south.key)
    with pytest.raises(BadSignature):
        trust.record(made.record_envelope, believe(north).record, now=league.now)
    with pytest.raises(WrongContent, match=r"86.south cannot sign for 86.north/x"):
        trust.record(made.record_envelope, believe(south).record, now=league.now)


def test_a_previous_key_counts_for_its_own_time_only(north: Organization, league: SimulatedLeague) -> None:
    before = north.make("x", [], [], False)
    old = north.rotate()
    owner = believe(north).record
    assert trust.record(before.record_envelope, owner, now=league.now).signed_by == old.public.key_id
    late = north.make("x", [], [], False, key=old, issued_at=league.now + 60)
    with pytest.raises(BadSignature):
        trust.record(late.record_envelope, owner, now=league.now + 100)


def test_a_little_skew_is_allowed(north: Organization, league: SimulatedLeague) -> None:
    made = north.make("x", [], [], False)
    owner = believe(north).record
    trust.record(made.record_envelope, owner, now=league.now - limits.CLOCK_SKEW)
    with pytest.raises(WrongContent, match="is this machine's clock right"):
        trust.record(made.record_envelope, owner, now=league.now - limits.CLOCK_SKEW - 1)


# Manifests.


def test_a_manifest_is_believed(north: Organization) -> None:
    made = north.make("x", [element("a", b"1")], [b"1"], True)
    assert trust.manifest(made.manifest_envelope, made.salt, made.record, believe(north).record) == made.manifest


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda n, v: (v.manifest_envelope, b"salt", v.record), WrongContent, "committed to"),
        (
            lambda n, v: (v.manifest_envelope, v.salt, replace(v.record, version=2)),
            WrongContent,
            "version 1 was offered",
        ),
        (
            lambda n, v: (n.make("y", [], [], False).manifest_envelope, v.salt, v.record),
            WrongContent,
            "86.north/y version 1 was offered for 86.north/x",
        ),
        (lambda n, v: (v.record_envelope, v.salt, v.record), BadSignature, "was offered as one for"),
        (lambda n, v: (sign(PayloadType.MANIFEST, b"\xff", n.key), v.salt, v.record), WrongContent, "does not parse"),
    ],
    ids=["salt", "version", "object", "kind", "garbage"],
)
def test_a_manifest_that_is_refused(
    north: Organization, make: Callable[..., Any], error: type[HanseError], why: str
) -> None:
    made = north.make("x", [], [], False)
    with pytest.raises(error, match=why):
        trust.manifest(*make(north, made), believe(north).record)


def test_a_manifest_that_its_owner_did_not_sign(north: Organization) -> None:
    made = north.make("x", [], [], False)
    forged = sign(PayloadType.MANIFEST, made.manifest_envelope.payload, MADE_UP)
    with pytest.raises(BadSignature, match=r"is not signed by 86.north"):
        trust.manifest(forged, made.salt, made.record, believe(north).record)


# The league.


def test_the_membership_is_believed(league: SimulatedLeague, north: Organization) -> None:
    authority = wire.decode_authority(league.authority)
    found = trust.membership(*league.membership(), authority, now=league.now)
    assert list(found.members) == [north.prefix]
    assert trust.membership(*league.membership(), authority, now=league.now, seen=found) == found


def test_the_membership_of_another_league(league: SimulatedLeague) -> None:
    other = SimulatedLeague()
    authority = wire.decode_authority(league.authority)
    with pytest.raises(BadSignature, match="not signed by the league's registry"):
        trust.membership(*other.membership(), authority, now=league.now)
    with pytest.raises(WrongContent, match="that of another league"):
        trust.membership(*other.membership(league.key), authority, now=league.now)
    with pytest.raises(WrongContent, match="dated in the future"):
        trust.membership(*league.membership(), authority, now=league.now - 1000)


def test_a_rolled_back_membership(league: SimulatedLeague) -> None:
    authority = wire.decode_authority(league.authority)
    old = league.membership()
    league.membership_version += 1
    seen = trust.membership(*league.membership(), authority, now=league.now)
    with pytest.raises(RolledBack, match="older membership"):
        trust.membership(*old, authority, now=league.now, seen=seen)


def test_an_older_statement_of_the_same_membership_is_another_process_of_the_registry_or_much_too_old(
    league: SimulatedLeague,
) -> None:
    authority = wire.decode_authority(league.authority)
    stated = league.membership()
    seen = trust.membership(*stated, authority, now=league.now)
    later = replace(seen, issued_at=seen.issued_at + limits.CLOCK_SKEW)
    assert trust.membership(*stated, authority, now=league.now, seen=later) == seen
    with pytest.raises(RolledBack, match="older membership"):
        trust.membership(*stated, authority, now=league.now, seen=replace(later, issued_at=later.issued_at + 1))


def test_the_authority_is_that_of_the_invitation(league: SimulatedLeague) -> None:
    fingerprint = wire.decode_authority(league.authority).fingerprint
    assert trust.authority(league.authority, fingerprint).registry_key == league.key.public
    with pytest.raises(VerificationFailed, match="not the one that invited you"):
        trust.authority(SimulatedLeague().authority, fingerprint)


LEAGUE = b"l" * 32


def a_pass(north: Organization, **changes: Any) -> Envelope:
    now = north.league.now
    statement = replace(Pass(north.prefix, LEAGUE, now, now + limits.PASS_LIFE), **changes)
    return sign(PayloadType.PASS, wire.encode_pass(statement), north.key)


def test_a_pass_is_believed_for_its_time(north: Organization) -> None:
    now = north.league.now
    for at in (now - limits.CLOCK_SKEW, now, now + limits.PASS_LIFE + limits.CLOCK_SKEW):
        assert trust.caller(a_pass(north), north.key.public, LEAGUE, now=at).prefix == north.prefix
    for at in (now - limits.CLOCK_SKEW - 1, now + limits.PASS_LIFE + limits.CLOCK_SKEW + 1):
        with pytest.raises(NotAuthenticated, match="set the clock"):
            trust.caller(a_pass(north), north.key.public, LEAGUE, now=at)


def test_a_pass_that_is_refused(north: Organization) -> None:
    now = north.league.now
    with pytest.raises(NotAuthenticated, match="another league"):
        trust.caller(a_pass(north, league=b"o" * 32), north.key.public, LEAGUE, now=now)
    with pytest.raises(NotAuthenticated, match="current key"):
        trust.caller(a_pass(north), MADE_UP.public, LEAGUE, now=now)
    long = a_pass(north, expires_at=now + 365 * limits.DAY)
    with pytest.raises(NotAuthenticated):
        trust.caller(long, north.key.public, LEAGUE, now=now + limits.DAY)
    renewal = Renewal(north.prefix, LEAGUE, now, b"csr")
    signed = sign(PayloadType.RENEWAL, wire.encode_renewal(renewal), north.key)
    assert trust.renewal(signed, north.key.public, LEAGUE, now=now) == renewal
    with pytest.raises(NotAuthenticated):
        trust.caller(signed, north.key.public, LEAGUE, now=now)
    with pytest.raises(NotAuthenticated):
        trust.renewal(a_pass(north), north.key.public, LEAGUE, now=now)


def test_the_authoritys_word_alone_is_not_enough(north: Organization) -> None:
    trust.key_holder(north.prefix, [b"a", b"b"], b"b")
    with pytest.raises(NotAuthenticated, match="the certificate's issuer alone is not believed"):
        trust.key_holder(north.prefix, [b"a", b"b"], b"c")


def test_a_tombstone_is_a_record_like_any(north: Organization) -> None:
    made = north.make("x", [], [], False, status=Status.WITHDRAWN, reason="over")
    found = trust.record(made.record_envelope, believe(north).record, now=north.league.now)
    assert (found.record.status, found.record.reason) == (Status.WITHDRAWN, "over")


def test_a_key_that_was_rotated_away_cannot_go_on_by_an_earlier_date(
    north: Organization, league: SimulatedLeague
) -> None:
    old = north.rotate()
    league.now += 100
    first = north.make("x", [], [], False)
    owner = believe(north).record
    known = trust.record(first.record_envelope, owner, now=league.now)
    seen = Seen(1, known.digest, known.record.issued_at)
    stolen = north.make("x", [], [], False, key=old, version=2, previous=known.digest, issued_at=league.now - 100)
    assert trust.record(stolen.record_envelope, owner, now=league.now).signed_by == old.public.key_id
    with pytest.raises(BrokenChain, match=r"version 2 of 86.north/x is dated before version 1"):
        trust.record(stolen.record_envelope, owner, now=league.now, seen=seen)
    same_second = north.make("x", [], [], False, version=2, previous=known.digest)
    assert trust.record(same_second.record_envelope, owner, now=league.now, seen=seen).record.version == 2


@pytest.mark.parametrize("version", [3, 4])
def test_nothing_follows_a_tombstone(north: Organization, version: int) -> None:
    seen = Seen(2, b"t" * 32, north.league.now, withdrawn=True)
    made = north.make("x", [], [], False, version=version, previous=b"t" * 32)
    with pytest.raises(BrokenChain, match=f"version {version} of 86.north/x .* version 2 withdrew it"):
        trust.record(made.record_envelope, believe(north).record, now=north.league.now, seen=seen)
