import pytest

from hanse import wire
from hanse.errors import NotAuthenticated, Overloaded, Suspended
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, Member, OrganizationRecord, Pass
from hanse.signing import SigningKey, sign
from hanse.trust import VerifiedOrganization
from registry import passes as module
from registry.members import League, Standing
from registry.passes import Bucket, Passes

NORTH, LEAGUE, NOW = Prefix("86.north"), b"l" * 32, 1_700_000_000
KEY = SigningKey.generate()


def standing(*, key: SigningKey = KEY, suspended_at: int | None = None) -> Standing:
    record = OrganizationRecord(NORTH, 1, b"", "North", "", (IdentityKey(key.public, NOW),), (), NOW)
    verified = VerifiedOrganization(record, Envelope("", b"", ()), b"")
    return Standing(Member(NORTH, "North", 1, suspended_at, "unpaid"), verified, b"")


class Clock:
    def __init__(self) -> None:
        self.now = float(NOW)

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def passes(clock):
    made = Passes(LEAGUE, clock, rate=10, burst=20)
    made.replace_league(League(1, {NORTH: standing()}))
    return made


def carried(*, prefix=NORTH, league=LEAGUE, issued=NOW, life=600, key=KEY, kind=PayloadType.PASS):
    envelope = sign(kind, wire.encode_pass(Pass(prefix, league, issued, issued + life)), key)
    return [("user-agent", "x"), ("hanse-pass-bin", wire.encode_envelope(envelope))]


def test_given_a_members_pass_then_it_names_the_caller(passes):
    assert passes.check(carried()).prefix == NORTH


@pytest.mark.parametrize(
    ("metadata", "said"),
    [
        (None, "without a pass"),
        ([], "without a pass"),
        ([("other", b"x")], "without a pass"),
        ([("hanse-pass-bin", b"\xff\xff")], "does not parse"),
        ([("hanse-pass-bin", b"")], "does not parse"),
        ([("hanse-pass-bin", bytes(5000))], "does not parse"),
        ([("hanse-pass-bin", "text")], "does not parse"),
        (carried(prefix=Prefix("86.south")), "not a member"),
        (carried(league=b"o" * 32), "another league"),
        (carried(key=SigningKey.generate()), "not signed by the member's current key"),
        (carried(kind=PayloadType.RENEWAL), "not signed"),
        (carried(issued=NOW - 1000), "apart"),
        (carried(issued=NOW + 1000), "apart"),
        (carried(issued=NOW - 1000, life=1 << 30), "apart"),
    ],
)
def test_given_no_good_pass_then_it_is_refused(passes, metadata, said):
    with pytest.raises(NotAuthenticated, match=said):
        passes.check(metadata)


def test_given_a_remembered_pass_when_it_runs_out_then_it_is_refused(passes, clock):
    metadata = carried()
    passes.check(metadata)
    clock.now += 600 + 119
    passes.check(metadata)
    clock.now += 2
    with pytest.raises(NotAuthenticated, match="apart"):
        passes.check(metadata)


def test_given_a_remembered_pass_when_the_member_is_suspended_then_the_next_call_is_refused(passes):
    metadata = carried()
    caller = passes.check(metadata)
    passes.replace_league(League(2, {NORTH: standing(suspended_at=NOW)}))
    with pytest.raises(Suspended, match=r"86\.north is suspended: unpaid"):
        passes.check(metadata)
    with pytest.raises(Suspended):
        passes.standing(caller)


def test_given_a_remembered_pass_when_the_key_changes_then_it_is_refused(passes):
    metadata = carried()
    passes.check(metadata)
    passes.replace_league(League(2, {NORTH: standing(key=SigningKey.generate())}))
    with pytest.raises(NotAuthenticated, match="current key"):
        passes.check(metadata)


def test_given_many_passes_then_the_memory_is_bounded(passes, clock, monkeypatch):
    monkeypatch.setattr(module, "_REMEMBERED", 3)
    clock.now += 10
    for i in range(9):
        passes.check(carried(issued=NOW + i))
    assert len(passes._known) == 3


def test_given_more_calls_than_allowed_then_overloaded_until_time_has_passed(passes, clock):
    metadata = carried()
    for _ in range(20):
        passes.check(metadata)
    with pytest.raises(Overloaded, match="more than 10 times a second"):
        passes.check(carried(life=599))
    clock.now += 0.125
    passes.check(metadata)
    with pytest.raises(Overloaded):
        passes.check(metadata)


def test_given_a_clock_that_goes_back_then_a_bucket_neither_gives_nor_takes():
    bucket = Bucket(1, 2, 100)
    assert bucket.take(100)
    assert bucket.take(50)
    assert not bucket.take(50)
    assert bucket.take(51)
