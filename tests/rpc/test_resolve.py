"""Resolving and searching: from an honest registry, without one, and from one that lies."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from hanse import limits, wire
from hanse.client import identity
from hanse.client.client import Client
from hanse.client.league import League
from hanse.errors import (
    BadSignature,
    BrokenChain,
    HanseError,
    NotFound,
    NotPermitted,
    RolledBack,
    Suspended,
    Unreachable,
    VerificationFailed,
    Withdrawn,
    WrongContent,
)
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey
from hanse.model.publishing import OutcomeCode
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from hanse.v1 import registry_pb2
from tests.simulator import ROOT, Organization, SimulatedLeague, element


class Clock:
    """Unix seconds that a test sets."""

    def __init__(self, now: float) -> None:
        self.now = now

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def league() -> Iterator[SimulatedLeague]:
    with SimulatedLeague() as league:
        yield league


@pytest.fixture
def north(league: SimulatedLeague) -> Organization:
    return league.join("86.north")


@pytest.fixture
def clock(league: SimulatedLeague) -> Clock:
    return Clock(league.now + 1)


@pytest.fixture
def home(league: SimulatedLeague, tmp_path: Path) -> Path:
    return league.join("86.acme").home(tmp_path / "home")


@pytest.fixture
def client(home: Path, clock: Clock) -> Iterator[Client]:
    with Client(home, clock=clock) as client:
        yield client


# An honest registry.


def test_a_record_is_resolved_and_says_who_signed_it(north: Organization, client: Client, clock: Clock) -> None:
    north.wrap("x", b"1")
    found = client.resolve("hdl:86.North/X")
    assert found.record.record.metadata.title == "Title of x"
    assert found.record.signed_by == north.key.public.key_id
    assert found.owner.record.display_name == "The 86.north"
    assert (found.checked_at, found.from_cache, found.registry_down, found.unlisted) == (clock(), False, False, False)


def test_within_its_time_to_live_a_record_comes_from_the_cache(
    league: SimulatedLeague, north: Organization, client: Client, clock: Clock
) -> None:
    north.wrap("x", b"1", time_to_live=60)
    checked_at = client.resolve("86.north/x").checked_at
    league.calls.clear()
    clock.now += 59
    again = client.resolve("86.north/x")
    assert (again.from_cache, again.checked_at, league.calls) == (True, checked_at, [])
    clock.now += 2
    assert client.resolve("86.north/x").checked_at == clock()
    assert league.calls == ["resolve"]


def test_max_age_asks_earlier(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    north.wrap("x", b"2")
    assert client.resolve("86.north/x").record.record.version == 1
    assert client.resolve("86.north/x", max_age=0).record.record.version == 2


def test_the_cache_outlives_the_process(home: Path, north: Organization, clock: Clock, league: SimulatedLeague) -> None:
    north.wrap("x", b"1")
    with Client(home, clock=clock) as first:
        first.resolve("86.north/x")
    league.stop()
    with Client(home, clock=clock) as second:
        assert second.resolve("86.north/x").from_cache


def test_without_the_registry_the_cache_answers_and_says_so(
    league: SimulatedLeague, north: Organization, client: Client, clock: Clock
) -> None:
    north.wrap("x", b"1")
    checked_at = client.resolve("86.north/x").checked_at
    league.stop()
    clock.now += 10_000
    found = client.resolve("86.north/x")
    assert (found.registry_down, found.from_cache, found.checked_at) == (True, True, checked_at)


def test_without_the_registry_and_the_cache_it_says_what_to_do(league: SimulatedLeague, client: Client) -> None:
    league.stop()
    with pytest.raises(Unreachable, match=r"Nothing is known of 86.north/x.*hanse doctor"):
        client.resolve("86.north/x")


def test_a_withdrawn_object_says_why_and_who_signed_that(north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    north.withdraw("x", "consent was revoked")
    for max_age in (0, None):  # from the registry, then from the cache
        with pytest.raises(Withdrawn, match=f"consent was revoked .*{north.key.public.key_id}") as raised:
            client.resolve("86.north/x", max_age=max_age)
        assert raised.value.exit_code == 3


def test_a_changed_key_is_followed(north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    north.rotate()
    north.rotate()
    north.wrap("x", b"2")
    north.wrap("y", b"2")
    assert client.resolve("86.north/y").record.signed_by == north.key.public.key_id
    assert client.resolve("86.north/x", max_age=0).record.record.version == 2


def test_an_old_record_counts_after_its_key_was_changed(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.wrap("x", b"1")
    old = north.key.public.key_id
    north.rotate()
    assert client.resolve("86.north/x").record.signed_by == old


def test_search_gives_verified_records(north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    north.wrap("y", b"2")
    page = client.search("title", owner="86.north", access="open")
    assert [str(each.record.id) for each in page.records] == ["86.north/x", "86.north/y"]
    assert (page.refused, page.next_page_token, page.total) == ((), "", 2)


def test_publishing_and_watching(north: Organization, client: Client, home: Path, clock: Clock) -> None:
    first, second = north.wrap("x", b"1"), north.wrap("y", b"2")
    with League(client.identity, clock) as league:
        outcomes = list(league.publish([first.record_envelope, second.record_envelope]))
        assert [(each.digest, each.code) for each in outcomes] == [
            (first.record_envelope.digest, OutcomeCode.ACCEPTED),
            (second.record_envelope.digest, OutcomeCode.ACCEPTED),
        ]
        changes = league.watch(after=1)
        assert next(changes).envelope == second.record_envelope


def test_the_next_address_of_the_registry_is_tried(north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    known = client.identity.registries[0]
    nobody = type(known)("127.0.0.1", 1)
    with League(replace(client.identity, registries=(nobody, known))) as league:
        assert league.get_organization(Prefix("86.north"))
    first = north.wrap("y", b"1").record_envelope
    with League(replace(client.identity, registries=(nobody, known))) as league:
        assert [each.code for each in league.publish(iter([first] * 3))] == [OutcomeCode.ACCEPTED] * 3
    with League(replace(client.identity, registries=(nobody, known))) as league:
        assert next(league.watch()).position == 1


def test_membership_is_kept_for_a_day(
    league: SimulatedLeague, north: Organization, client: Client, clock: Clock
) -> None:
    league.suspended[north.prefix] = league.now
    assert client.resolver.membership().members[north.prefix].suspended_at == league.now
    league.stop()
    clock.now += limits.MEMBERSHIP_LIFE - 10
    assert client.resolver.membership().members[north.prefix].suspended_at
    clock.now += 20
    with pytest.raises(Unreachable, match="not known any more"):
        client.resolver.membership()


def test_membership_is_refreshed(league: SimulatedLeague, north: Organization, client: Client, clock: Clock) -> None:
    assert client.resolver.membership().members[north.prefix].suspended_at is None
    league.suspended[north.prefix] = league.now
    league.membership_version += 1
    assert client.resolver.membership().members[north.prefix].suspended_at is None
    clock.now += limits.MEMBERSHIP_REFRESH + 1
    assert client.resolver.membership().members[north.prefix].suspended_at


@pytest.mark.parametrize("error", [Suspended("your organization is suspended"), NotPermitted("no")])
def test_what_the_registry_says_no_to_is_passed_on(
    league: SimulatedLeague, client: Client, monkeypatch: pytest.MonkeyPatch, error: HanseError
) -> None:
    from hanse.rpc import status

    monkeypatch.setattr(SimulatedLeague, "Resolve", lambda self, request, context: status.abort(context, error))
    league.stop()
    league.start()
    with pytest.raises(type(error), match=str(error)):
        client.resolve("86.north/x")


# Unlisted objects.


def test_an_unlisted_object_resolves_at_its_owner(north: Organization, client: Client) -> None:
    north.wrap("secret", b"1", listed=False)
    found = client.resolve("86.north/secret")
    assert found.unlisted
    assert found.record.record.metadata.title == "Title of secret"


def test_none_and_not_for_you_are_told_alike(north: Organization, client: Client) -> None:
    north.wrap("secret", b"1", listed=False)
    texts = []
    for refusal in (NotFound("no such object"), NotPermitted("86.north/secret is not for you")):
        north.serve().refuse = refusal
        with pytest.raises(NotFound) as raised:
            client.resolve("86.north/secret")
        texts.append(str(raised.value))
    assert texts[0] == texts[1]


def test_an_unknown_organization(client: Client) -> None:
    with pytest.raises(NotFound, match=r"there is no organization 86.nobody"):
        client.resolve("86.nobody/x")


def test_an_organization_without_a_node(north: Organization, client: Client) -> None:
    with pytest.raises(NotFound, match="known to you"):
        client.resolve("86.north/x")


def test_an_unlisted_object_whose_node_is_away(north: Organization, client: Client, clock: Clock) -> None:
    north.wrap("secret", b"1", listed=False)
    north.serve().stop()
    with pytest.raises(Unreachable, match="if it is unlisted cannot be asked"):
        client.resolve("86.north/secret")
    north.serve().start()
    client.resolve("86.north/secret")
    north.serve().stop()
    clock.now += 10_000
    assert client.resolve("86.north/secret").from_cache


def test_a_newer_record_of_the_owner_is_no_rollback_of_the_registry(
    north: Organization, client: Client, tmp_path: Path, league: SimulatedLeague
) -> None:
    """The owner's node has a version that waits in its outbox."""
    north.wrap("x", b"1")
    published = league.records["86.north/x"]
    north.wrap("x", b"2")
    league.records["86.north/x"] = published
    assert client.fetch("86.north/x", tmp_path / "out").version == 2
    assert client.resolve("86.north/x", max_age=0).record.record.version == 2


# A registry that lies.


def altered(envelope: Envelope) -> Envelope:
    return replace(envelope, payload=envelope.payload.replace(b"Title", b"Tutle"))


def unsigned(envelope: Envelope) -> Envelope:
    return replace(envelope, signatures=())


def forged(envelope: Envelope) -> Envelope:
    return sign(PayloadType.RECORD, envelope.payload, SigningKey.generate())


def renamed_key(envelope: Envelope) -> Envelope:
    """Signed by another key that is called by the owner's key id."""
    made = sign(PayloadType.RECORD, envelope.payload, SigningKey.generate())
    return replace(made, signatures=(replace(made.signatures[0], keyid=envelope.signatures[0].keyid),))


def other_kind(envelope: Envelope) -> Envelope:
    return replace(envelope, payload_type=PayloadType.MANIFEST.value)


def garbage(envelope: Envelope) -> Envelope:
    return replace(envelope, payload=b"\xff\xff\xff")


@pytest.mark.parametrize("seen", [False, True], ids=["first contact", "seen before"])
@pytest.mark.parametrize(
    ("lie", "error", "text"),
    [
        (altered, BadSignature, "not signed by 86.north"),
        (unsigned, BadSignature, "not signed by 86.north"),
        (forged, BadSignature, "not signed by 86.north"),
        (renamed_key, BadSignature, "not signed by 86.north"),
        (other_kind, BadSignature, "was offered as one for"),
        (garbage, WrongContent, "does not parse"),
    ],
    ids=lambda each: getattr(each, "__name__", ""),
)
def test_a_record_that_its_owner_did_not_sign(
    league: SimulatedLeague,
    north: Organization,
    client: Client,
    lie: Callable[[Envelope], Envelope],
    error: type[HanseError],
    text: str,
    seen: bool,
) -> None:
    north.wrap("x", b"1")
    if seen:
        client.resolve("86.north/x")
    league.records["86.north/x"] = lie(league.records["86.north/x"])
    with pytest.raises(error, match=text) as raised:
        client.resolve("86.north/x", max_age=0)
    assert raised.value.exit_code == 6


def test_a_rolled_back_record(league: SimulatedLeague, north: Organization, client: Client) -> None:
    old = north.wrap("x", b"1")
    north.wrap("x", b"2")
    client.resolve("86.north/x")
    league.records["86.north/x"] = old.record_envelope
    with pytest.raises(RolledBack, match=r"version 1 of 86.north/x was offered, but version 2 was seen"):
        client.resolve("86.north/x", max_age=0)


def test_a_record_that_is_held_back(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    del league.records["86.north/x"]
    with pytest.raises(RolledBack, match=r"there is no 86.north/x, but it gave version 1 before"):
        client.resolve("86.north/x", max_age=0)


def test_two_records_of_one_version(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    other = north.make("x", [element("x", b"2")], [b"2"], True)
    fork = sign(PayloadType.RECORD, wire.encode_record(replace(other.record, version=1, previous=b"")), north.key)
    league.records["86.north/x"] = fork
    with pytest.raises(BrokenChain, match="two different records of version 1"):
        client.resolve("86.north/x", max_age=0)


def test_a_record_of_another_object(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    league.records["86.north/y"] = league.records["86.north/x"]
    with pytest.raises(WrongContent, match=r"a record of 86.north/x was offered for 86.north/y"):
        client.resolve("86.north/y")


def test_a_record_that_another_member_signed(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    mallory = league.join("86.mallory")
    league.records["86.north/x"] = sign(PayloadType.RECORD, league.records["86.north/x"].payload, mallory.key)
    with pytest.raises(BadSignature):
        client.resolve("86.north/x")


def test_a_swapped_key_of_a_known_organization(league: SimulatedLeague, north: Organization, client: Client) -> None:
    """The registry makes up a key, signs an organization record and an object record with it."""
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    made_up = SigningKey.generate()
    assert north.record is not None
    keys = (IdentityKey(made_up.public, league.now), replace(north.record.keys[0], valid_until=league.now))
    north.publish_organization(made_up, keys=keys)
    league.records["86.north/x"] = sign(PayloadType.RECORD, league.records["86.north/x"].payload, made_up)
    with pytest.raises(BrokenChain, match=r"which its known key .* did not sign"):
        client.resolve("86.north/x", max_age=0)


@pytest.mark.parametrize("versions", [1, 2])
def test_a_history_that_is_another(league: SimulatedLeague, north: Organization, client: Client, versions: int) -> None:
    """The registry offers a whole other history of an organization that was seen before."""
    north.wrap("x", b"1")
    client.resolve("86.north/x")
    impostor = Organization(league, north.prefix, SigningKey.generate(), tls.TlsKey.generate(), north.node_certificate)
    for _ in range(versions):
        impostor.publish_organization()
    league.organizations[north.prefix] = impostor
    league.records["86.north/x"] = impostor.make("x", [], [], False).record_envelope
    with pytest.raises(VerificationFailed) as raised:
        client.resolve("86.north/x", max_age=0)
    assert "86.north" in str(raised.value)


def test_a_history_that_does_not_begin_with_1(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    del north.history[0]
    with pytest.raises(BrokenChain, match="begins with version 2"):
        client.resolve("86.north/x")


def test_another_organization_than_was_asked_for(league: SimulatedLeague, north: Organization, client: Client) -> None:
    mallory = league.join("86.mallory")
    north.wrap("x", b"1")
    history = [wire.envelope_to_message(each) for each in mallory.history]
    league.lies["organization"] = lambda _: registry_pb2.GetOrganizationResponse(organizations=history)
    with pytest.raises(WrongContent, match=r"a record of 86.mallory was offered for 86.north"):
        client.resolve("86.north/x")


def test_a_told_key_protects_the_first_contact(league: SimulatedLeague, north: Organization, client: Client) -> None:
    north.wrap("x", b"1")
    client.resolver._known.tell_key(north.prefix, SigningKey.generate().public.key_id)
    with pytest.raises(BrokenChain, match="but you pinned"):
        client.resolve("86.north/x")
    client.resolver._known.tell_key(north.prefix, north.key.public.key_id)
    assert client.resolve("86.north/x").record.record.version == 1


def test_telling_a_key_drops_a_pin_without_it(league: SimulatedLeague, north: Organization, client: Client) -> None:
    """First contact was with an impostor; then somebody telephoned."""
    north.wrap("x", b"1")
    true_record = league.records["86.north/x"]
    impostor = Organization(league, north.prefix, SigningKey.generate(), tls.TlsKey.generate(), north.node_certificate)
    impostor.publish_organization()
    league.organizations[north.prefix] = impostor
    league.records["86.north/x"] = impostor.make("x", [], [], False).record_envelope
    client.resolve("86.north/x")
    client.resolver._known.tell_key(north.prefix, north.key.public.key_id)
    with pytest.raises(BrokenChain, match="but you pinned"):
        client.resolve("86.north/x")
    league.organizations[north.prefix] = north
    league.records["86.north/x"] = true_record
    assert client.resolve("86.north/x").record.signed_by == north.key.public.key_id


def test_a_tampered_cache_is_found_out(home: Path, north: Organization, clock: Clock) -> None:
    """What comes out of the cache is verified as what comes from the network."""
    import sqlite3

    north.wrap("x", b"1")
    with Client(home, clock=clock) as client:
        client.resolve("86.north/x")
    with sqlite3.connect(home / "known.db") as db:
        (envelope,) = db.execute("SELECT envelope FROM record").fetchone()
        db.execute("UPDATE record SET envelope = ?", (envelope.replace(b"Title", b"Tutle"),))
    db.close()
    with Client(home, clock=clock) as client, pytest.raises(BadSignature):
        client.resolve("86.north/x")


def test_a_bad_record_in_a_search_is_reported_and_left_out(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    north.wrap("x", b"1")
    north.wrap("y", b"2")
    north.wrap("z", b"3")
    league.records["86.north/y"] = altered(league.records["86.north/y"])
    league.records["86.north/z"] = garbage(league.records["86.north/z"])
    page = client.search("title")
    assert [str(each.record.id) for each in page.records] == ["86.north/x"]
    assert len(page.refused) == 2
    assert "86.north/y" in page.refused[0]


def membership_message(head: Envelope, members: bytes) -> Any:
    return registry_pb2.GetMembershipResponse(head=wire.envelope_to_message(head), members=members)


def test_a_membership_that_is_forged(league: SimulatedLeague, north: Organization, client: Client) -> None:
    league.lies["membership"] = lambda _: membership_message(*league.membership(SigningKey.generate()))
    with pytest.raises(BadSignature, match="the membership is not signed by the league's registry"):
        client.resolver.membership()


def test_a_membership_whose_list_is_another(league: SimulatedLeague, north: Organization, client: Client) -> None:
    head, members = league.membership()
    league.lies["membership"] = lambda _: membership_message(head, members.replace(b"86.north", b"86.nurth"))
    with pytest.raises(WrongContent, match="not the one that the registry signed"):
        client.resolver.membership()


def test_a_membership_that_is_rolled_back(
    league: SimulatedLeague, north: Organization, client: Client, clock: Clock
) -> None:
    league.suspended[north.prefix] = league.now
    league.membership_version = 5
    client.resolver.membership()
    league.membership_version = 4
    del league.suspended[north.prefix]
    clock.now += 60
    with pytest.raises(RolledBack, match="older membership"):
        client.resolver.membership()


@pytest.mark.parametrize(
    "lie",
    [
        lambda response: registry_pb2.ResolveResponse(),
        lambda response: registry_pb2.ResolveResponse(resolutions=[*response.resolutions] * 2),
        lambda response: registry_pb2.ResolveResponse(resolutions=[registry_pb2.Resolution()]),
        lambda response: registry_pb2.ResolveResponse(
            resolutions=[registry_pb2.Resolution(state=registry_pb2.Resolution.STATE_ACTIVE)]
        ),
    ],
    ids=["nothing", "twice", "no state", "no record"],
)
def test_an_answer_that_makes_no_sense(
    league: SimulatedLeague, north: Organization, client: Client, lie: Callable[[Any], Any]
) -> None:
    north.wrap("x", b"1")
    league.lies["resolve"] = lie
    with pytest.raises(WrongContent, match="the registry"):
        client.resolve("86.north/x")


def test_a_registry_of_another_league_is_not_the_registry(
    league: SimulatedLeague, north: Organization, client: Client
) -> None:
    """Somebody else answers at the registry's address, with an authority of their own."""
    league.stop()
    with SimulatedLeague() as other:
        other.stop()
        other.address = league.address
        other.start()
        with pytest.raises(Unreachable, match="do not agree on a secure connection"):
            client.resolve("86.north/x")


# The member's own certificate.


def test_an_expired_certificate_is_renewed_without_a_daemon(
    league: SimulatedLeague, north: Organization, home: Path, tmp_path: Path
) -> None:
    north.wrap("x", b"1")
    acme = league.organizations[Prefix("86.acme")]
    request = tls.make_request(acme.tls_key, acme.prefix)
    old = tls.issue_member(
        league.ca_key, league.ca_certificate, request, ROOT, acme.prefix, league.now - 30 * limits.DAY
    )
    (home / identity.MEMBER_CERTIFICATE).write_bytes(tls.to_pem(old))
    with Client(home) as client:
        client.fetch("86.north/x", tmp_path / "out")
        assert client.identity.certificate.not_after < league.now
    with Client(home) as again:
        assert again.identity.certificate.not_after > league.now
