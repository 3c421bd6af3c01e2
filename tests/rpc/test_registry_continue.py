"""Continue over real sockets: what a registry takes from a member whose newer key it lost, and from nobody else.

Each member here has changed its key, and destroyed the old one; the registry has only what was before. SPEC.md 9.9.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace

import pytest

from hanse import limits, transparency, wire, wire_log
from hanse.errors import (
    InvalidInput,
    LimitExceeded,
    NotAuthenticated,
    Overloaded,
    Suspended,
)
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey, sign
from hanse.transparency import Shown
from hanse.v1 import envelope_pb2, registry_pb2
from registry import app
from tests.league import Member, Registry, raised

ACCEPTED = 1
UNLED = "do not lead from the newest that the registry has"


class Clock:
    def __init__(self) -> None:
        self.offset = 0.0

    def __call__(self) -> float:
        return time.time() + self.offset


@pytest.fixture(scope="module")
def clock() -> Clock:
    return Clock()


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory, clock: Clock) -> Iterator[Registry]:
    settings = '[limits."86.paced"]\npublishes_per_minute = 2\n'
    with Registry.start(tmp_path_factory.mktemp("league") / "registry", settings=settings, clock=clock) as running:
        yield running


def changed(registry: Registry, prefix: str) -> tuple[Member, list[Envelope]]:
    """A member with a key that the registry does not know, and all its records."""
    member = registry.join(prefix)
    first, key = member.organization_envelope, SigningKey.generate()
    second = member.next_organization(key=key)
    member.key = key
    return member, [first, second]


def ask(
    member: Member,
    organizations: Sequence[Envelope],
    *,
    store: bool = False,
    caller: Envelope | None = None,
    seen: int = 0,
) -> Shown:
    request = registry_pb2.ContinueRequest(
        caller=wire.envelope_to_message(caller or member.sign_pass()),
        organizations=[wire.envelope_to_message(each) for each in organizations],
        store=store,
        seen_size=seen,
    )
    with raised():
        return wire_log.shown_from_message(member.stub.Continue(request, timeout=60).log)


def size(registry: Registry) -> int:
    """Entries of the log."""
    with app.opened(registry.folder) as opened:
        return opened.storage.head().size


def chain(registry: Registry, member: Member) -> list[bytes]:
    """Digests of what is stored."""
    with app.opened(registry.folder) as opened:
        return [each.digest for each in opened.storage.organizations(member.prefix, 0)]


def test_given_a_lost_key_when_the_member_only_looks_then_it_sees_the_log_and_nothing_is_changed(
    registry: Registry,
) -> None:
    member, records = changed(registry, "86.looks")
    with pytest.raises(NotAuthenticated, match=r"as far as the registry knows.*`hanse accept-registry`"):
        member.membership()
    before = size(registry)
    with app.opened(registry.folder) as opened:
        authority = opened.authority
    shown = ask(member, records[1:], seen=3)
    signed = transparency.read(shown.note, authority, now=int(registry.clock()))
    assert (signed.checkpoint.size, shown.since) == (before, 3)
    assert size(registry) == before
    with pytest.raises(NotAuthenticated):
        member.membership()


def test_given_a_lost_key_when_its_records_are_stored_then_the_new_key_counts_and_the_old_one_does_not(
    registry: Registry,
) -> None:
    member = registry.join("86.stores")
    old, key = replace(member), SigningKey.generate()
    records = [member.organization_envelope, member.next_organization(key=key)]
    member.key = key
    before = size(registry)
    assert old.membership().head.payload
    shown = ask(member, records[1:], store=True)
    assert f"\n{before + 2}\n" in shown.note  # the record and the membership: in the log before the answer
    assert chain(registry, member) == [each.digest for each in records]
    assert [each.code for each in member.publish(member.record("x"))] == [ACCEPTED]
    with pytest.raises(NotAuthenticated, match="current key"):
        old.membership()
    registry.stop()
    registry.serve()
    again = replace(member, channel=registry.dial())
    assert again.membership().head.payload


def test_given_two_changes_and_records_that_are_there_when_stored_twice_then_each_is_stored_once(
    registry: Registry,
) -> None:
    member, records = changed(registry, "86.twice")
    key = SigningKey.generate()
    records += [member.next_organization(name="Another name"), member.next_organization(key=key)]
    member.key = key
    ask(member, records, store=True)
    after = size(registry)
    assert chain(registry, member) == [each.digest for each in records]
    for some in (records, records[2:], records[3:], []):
        ask(member, some, store=True)
    assert size(registry) == after


def wrong_key(member: Member, records: list[Envelope]) -> list[Envelope]:
    """The old key did not sign the change."""
    return [sign(PayloadType.ORGANIZATION, records[1].payload, member.key)]


def skipped(member: Member, records: list[Envelope]) -> list[Envelope]:
    return [member.next_organization()]


def reversed_order(member: Member, records: list[Envelope]) -> list[Envelope]:
    return [member.next_organization(), records[1]]


def of_another(member: Member, records: list[Envelope]) -> list[Envelope]:
    """Somebody else's newest record with this member's key, and this member's pass."""
    other = replace(member.organization, prefix=Prefix("86.other"))
    return [sign(PayloadType.ORGANIZATION, wire.encode_organization(other), member.key)]


def made_up(member: Member, records: list[Envelope]) -> list[Envelope]:
    """A first record, by whoever."""
    first = replace(member.organization, version=1, previous=b"", keys=member.organization.keys[:1])
    return [sign(PayloadType.ORGANIZATION, wire.encode_organization(first), member.key)]


def of_the_future(member: Member, records: list[Envelope]) -> list[Envelope]:
    late = replace(member.organization, issued_at=int(member.registry.clock()) + 2 * limits.CLOCK_SKEW)
    return [sign(PayloadType.ORGANIZATION, wire.encode_organization(late), member.key)]


def none(member: Member, records: list[Envelope]) -> list[Envelope]:
    return []


REFUSED = {
    wrong_key: UNLED,
    skipped: UNLED,
    reversed_order: "not signed by the member's current key|" + UNLED,
    of_another: UNLED,
    made_up: UNLED,
    of_the_future: UNLED,
    none: "not signed by the member's current key",
}


@pytest.mark.parametrize("spoil", REFUSED, ids=lambda each: each.__name__)
def test_given_records_that_do_not_lead_to_the_key_then_nothing_is_stored_or_shown(
    registry: Registry, spoil: Callable[[Member, list[Envelope]], list[Envelope]]
) -> None:
    member, records = changed(registry, f"86.{spoil.__name__.replace('_', '-')}")
    organizations, before = spoil(member, records), size(registry)
    for store in (False, True):
        with pytest.raises(NotAuthenticated, match=REFUSED[spoil]) as refused:
            ask(member, organizations, store=store)
        # Neither which version the registry has, nor which key.
        assert "version" not in str(refused.value)
        assert str(wire.decode_organization(records[0].payload).current_key.key_id) not in str(refused.value)
    assert size(registry) == before


def test_given_true_records_when_somebody_else_brings_them_then_they_are_refused(registry: Registry) -> None:
    """All members have each other's records: to have them is no proof."""
    member, records = changed(registry, "86.victim")
    other, before = registry.join("86.thief"), size(registry)
    for caller in (
        member.sign_pass(key=SigningKey.generate()),
        other.sign_pass(),  # of its own
        member.sign_pass(now=int(registry.clock()) - 2 * limits.PASS_LIFE),  # one that was overheard long ago
        sign(PayloadType.RENEWAL, member.sign_pass().payload, member.key),
        replace(member, league=bytes(32)).sign_pass(),
    ):
        with pytest.raises(NotAuthenticated):
            ask(member, records[1:], store=True, caller=caller)
    assert size(registry) == before


def test_given_the_request_of_before_when_it_is_sent_again_then_it_changes_nothing(registry: Registry) -> None:
    """By one who read it: the registry has moved on, and takes only what follows."""
    member, records = changed(registry, "86.replayed")
    caller = member.sign_pass()
    ask(member, records[1:], store=True, caller=caller)
    ask(member, records[1:], store=True, caller=caller)  # the answer was lost
    key = SigningKey.generate()
    third = member.next_organization(key=key)
    assert [each.code for each in member.publish(third)] == [ACCEPTED]
    member.key = key
    after = size(registry)
    with pytest.raises(NotAuthenticated, match=UNLED):
        ask(member, records[1:], store=True, caller=caller)
    assert size(registry) == after
    assert member.membership().head.payload


def test_given_another_history_here_when_the_member_brings_its_own_then_it_is_refused(registry: Registry) -> None:
    """A thief of the old key was faster."""
    member = registry.join("86.robbed")
    thief, key = replace(member), SigningKey.generate()
    true = member.next_organization(key=key)
    member.key = key
    assert [each.code for each in thief.publish(thief.next_organization(name="Robbed"))] == [ACCEPTED]
    with pytest.raises(NotAuthenticated, match=UNLED):
        ask(member, [true], store=True)


def test_given_a_stranger_then_it_is_told_what_a_pass_of_its_would_be_told(registry: Registry) -> None:
    stranger = Member.make(registry, "86.stranger")
    with app.opened(registry.folder) as opened:
        stranger.league = opened.authority.fingerprint
    with pytest.raises(NotAuthenticated) as by_pass:
        stranger.membership()
    with pytest.raises(NotAuthenticated) as by_records:
        ask(stranger, [stranger.organization_envelope], store=True)
    assert str(by_records.value) == str(by_pass.value)
    assert "not a member of this league" in str(by_pass.value)


def test_given_a_suspended_member_then_nothing_is_taken_until_it_is_restored(registry: Registry) -> None:
    member, records = changed(registry, "86.suspended")
    app.suspend(registry.folder, member.prefix, "unpaid")
    for store in (False, True):
        with pytest.raises(Suspended, match="unpaid"):
            ask(member, records[1:], store=store)
    assert len(chain(registry, member)) == 1
    app.restore(registry.folder, member.prefix)
    ask(member, records[1:], store=True)
    assert len(chain(registry, member)) == 2


def test_given_too_many_records_then_they_are_refused_by_number(registry: Registry) -> None:
    member, records = changed(registry, "86.many")
    following = [records[1], *(member.next_organization(name=f"Name {each}") for each in range(limits.CONTINUED))]
    with pytest.raises(LimitExceeded, match="at most 100 organization records"):
        ask(member, following, store=True)
    assert len(chain(registry, member)) == 1
    ask(member, following[: limits.CONTINUED], store=True)
    assert len(chain(registry, member)) == limits.CONTINUED + 1


def test_given_a_limit_of_versions_a_minute_then_the_rest_is_taken_when_it_allows(
    registry: Registry, clock: Clock
) -> None:
    member, records = changed(registry, "86.paced")
    records += [member.next_organization(name=f"Name {each}") for each in range(2)]
    with pytest.raises(Overloaded):
        ask(member, records, store=True)
    assert chain(registry, member) == [each.digest for each in records[:3]]
    clock.offset += 60
    try:
        ask(member, records, store=True)
    finally:
        clock.offset = 0
    assert len(chain(registry, member)) == 4


def test_given_other_records_among_them_then_none_is_taken(registry: Registry) -> None:
    member, records = changed(registry, "86.mixed")
    with pytest.raises(InvalidInput, match="only organization records"):
        ask(member, [member.record("x"), *records], store=True)
    assert len(chain(registry, member)) == 1


def test_given_a_record_that_nobody_could_dial_by_then_it_is_refused_as_when_it_is_published(
    registry: Registry,
) -> None:
    member = registry.join("86.nowhere")
    key, old = SigningKey.generate(), member.key
    member.next_organization(key=key)
    nowhere = replace(member.organization, nodes=())
    member.key = key
    with pytest.raises(InvalidInput, match="at least one node certificate"):
        ask(member, [sign(PayloadType.ORGANIZATION, wire.encode_organization(nowhere), key, old)], store=True)
    assert len(chain(registry, member)) == 1


BROKEN = [
    envelope_pb2.Envelope(),
    envelope_pb2.Envelope(payload_type="x" * 129, payload=b"x"),
    envelope_pb2.Envelope(payload_type=PayloadType.ORGANIZATION.value, payload=bytes(limits.ENVELOPE_BYTES + 1)),
    envelope_pb2.Envelope(payload_type=PayloadType.ORGANIZATION.value, payload=b"\xff\xff"),
]


@pytest.mark.parametrize("broken", BROKEN, ids=["empty", "type", "too large", "payload"])
def test_given_garbage_in_place_of_a_pass_or_a_record_then_it_is_refused_as_what_it_is(
    registry: Registry, broken: envelope_pb2.Envelope
) -> None:
    member = registry.join(f"86.garbage{BROKEN.index(broken)}")
    signed = wire.envelope_to_message(member.sign_pass())
    for request in (
        registry_pb2.ContinueRequest(caller=broken, organizations=[signed], store=True),
        registry_pb2.ContinueRequest(caller=signed, organizations=[broken], store=True),
        registry_pb2.ContinueRequest(organizations=[broken]),
    ):
        with pytest.raises((InvalidInput, LimitExceeded, NotAuthenticated)), raised():
            member.stub.Continue(request, timeout=60)
    assert member.membership().head.payload
