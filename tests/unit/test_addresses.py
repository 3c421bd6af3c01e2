"""Which address of the registry is asked first, and when one that was away is preferred again."""

from hanse.client.addresses import LONGEST, SHORTEST, Addresses
from hanse.model.address import Address

OLD, OWN, MIRROR = (Address("127.0.0.1", port) for port in (1, 2, 3))


class Time:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_what_the_membership_names_comes_first_and_in_its_order() -> None:
    known = Addresses([OLD, OLD])
    assert known.in_order() == [OLD]
    known.learn([OWN, MIRROR])
    assert known.in_order() == [OWN, MIRROR, OLD]
    known.learn([MIRROR, OLD])
    assert known.in_order() == [MIRROR, OLD, OWN]
    assert known.in_order(without=[MIRROR]) == [OLD, OWN]


def test_one_that_is_away_is_asked_last_and_for_longer_each_time_but_never_given_up() -> None:
    time = Time()
    known = Addresses([OWN, MIRROR], time)
    waited = []
    for _ in range(7):
        known.away(OWN)
        known.away(OWN)  # once more, when the others had failed
        before = time.now
        while known.in_order() != [OWN, MIRROR]:
            assert known.in_order() == [MIRROR, OWN]
            time.now += 0.5
        waited.append(time.now - before)
    assert waited[:3] == [SHORTEST, 2 * SHORTEST, 4 * SHORTEST]
    assert waited[-1] == LONGEST


def test_one_that_answered_is_preferred_again_at_once() -> None:
    known = Addresses([OWN, MIRROR], Time())
    for _ in range(3):
        known.away(OWN)
    known.back(MIRROR)
    assert known.returns == 0
    known.back(OWN)
    assert known.in_order() == [OWN, MIRROR]
    known.back(OWN)
    assert known.returns == 1
