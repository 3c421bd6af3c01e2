import pytest

from hanse.errors import InvalidInput
from hanse.model.identifier import Prefix
from registry.turns import Turns
from registry.usage import NO_LIMITS, UNLIMITED, Account, Limits, Usage, count, shown, size

NORTH, SOUTH, NOW = Prefix("86.north"), Prefix("86.south"), 1_700_000_000.0


NOTHING = Usage()


def account(used: Usage = NOTHING, now: float = NOW, **allowed: int) -> Account:
    return Account(NORTH, used, Limits(**allowed).over(NO_LIMITS), now)


def test_the_nearest_place_that_says_something_counts_value_by_value():
    told, own, everybody = Limits(records=5), Limits(records=7, bytes=UNLIMITED), Limits(1, 2, 3)
    assert told.over(own).over(everybody) == Limits(5, 2, UNLIMITED)
    assert [shown(each) for each in (5, UNLIMITED, None)] == [5, None, None]


def test_given_all_its_identifiers_then_a_new_one_waits_and_a_version_or_a_tombstone_does_not():
    full = account(Usage(objects=3), records=3)
    refusal = full.admit(new=True, size=10, bounded=True)
    assert refusal is not None
    assert refusal.message == (
        "86.north has 3 identifiers in the registry, and its limit is 3: it waits; ask the registry's operator for more"
    )
    assert (refusal.wait, refusal.pause) == (300, False)
    assert full.admit(new=False, size=10, bounded=True) is None
    assert full.admit(new=False, size=10, bounded=False) is None


def test_given_its_bytes_then_what_passes_them_waits_and_what_is_smaller_or_ends_an_object_does_not():
    full = account(Usage(bytes=90), bytes=100)
    refusal = full.admit(new=True, size=11, bounded=True)
    assert refusal is not None
    assert "has 90 bytes in the registry, its limit is 100, and this record has 11" in refusal.message
    assert full.admit(new=True, size=10, bounded=True) is None
    assert full.admit(new=False, size=500, bounded=False) is None


def test_given_a_rate_then_a_minute_of_it_goes_at_once_and_the_rest_as_time_passes():
    first = account(publishes_per_minute=60)
    said = [first.admit(new=True, size=1, bounded=True) for _ in range(90)]
    assert [each is None for each in said] == [True] * 60 + [False] * 30
    assert all(each.pause for each in said[60:])
    assert [said[60].wait, said[89].wait] == [1, 30]
    later = account(Usage(paid_until=first.paid_until), NOW + 10, publishes_per_minute=60)
    assert sum(later.admit(new=True, size=1, bounded=True) is None for _ in range(90)) == 10
    rested = account(Usage(paid_until=later.paid_until), NOW + 500, publishes_per_minute=60)
    assert sum(rested.admit(new=True, size=1, bounded=True) is None for _ in range(90)) == 60


def test_given_a_clock_that_was_set_back_then_nobody_waits_longer_than_a_minute():
    ahead = account(Usage(paid_until=NOW + 86_400), publishes_per_minute=60)
    refusal = ahead.admit(new=True, size=1, bounded=True)
    assert refusal is not None
    assert refusal.wait == 1
    assert ahead.paid_until == NOW + 60


def test_given_a_rate_of_nothing_then_everything_waits_keys_too():
    refusal = account(publishes_per_minute=0).admit(new=False, size=1, bounded=False)
    assert refusal is not None
    assert (refusal.message, refusal.wait) == (
        "86.north may publish nothing at present: ask the registry's operator", 60
    )  # fmt: skip


def test_given_no_limits_then_nothing_is_paced():
    free = account(Usage(10**12, 10**15))
    assert free.admit(new=True, size=10**6, bounded=True) is None
    assert not free.spent


@pytest.mark.parametrize(
    ("text", "found"),
    [("0", 0), ("1234", 1234), ("500MB", 500_000_000), ("2 gib", 2 << 30), ("1k", 1000), ("none", UNLIMITED)],
)
def test_sizes(text, found):
    assert size(text) == found


@pytest.mark.parametrize("text", ["", "-1", "1.5GB", "GB", "1 PB", "99999999999999TB", "1 2"])
def test_rejected_sizes(text):
    with pytest.raises(InvalidInput, match="is not a size: bytes, or with kB"):
        size(text)


@pytest.mark.parametrize(("text", "found"), [("0", 0), (" 7 ", 7), ("None", UNLIMITED)])
def test_counts(text, found):
    assert count(text) == found


@pytest.mark.parametrize("text", ["", "-1", "1e3", "many", "9" * 16])
def test_rejected_counts(text):
    with pytest.raises(InvalidInput, match="is not a limit: a number, or none"):
        count(text)


def test_senders_take_turns_and_the_order_of_each_is_kept():
    turns: Turns[str] = Turns()
    for each in ("n1", "n2", "n3"):
        turns.put(NORTH, each)
    assert turns.get() == "n1"
    turns.put(SOUTH, "s1")
    turns.put(SOUTH, "s2")
    assert len(turns) == 4
    turns.end()
    assert [turns.get() for _ in range(5)] == ["n2", "s1", "n3", "s2", None]
    assert not turns
