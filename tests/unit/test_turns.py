"""Turns: one thread at a time where it is small work, others while it waits, and nobody for ever."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

from hanse import turns
from hanse.turns import turn, waiting

PATIENCE = 60.0


@pytest.fixture
def pool() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as made:
        yield made


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody goes on without its turn only because the machine is slow."""
    monkeypatch.setattr(turns, "_PATIENCE", PATIENCE)


@pytest.fixture(autouse=True)
def left_as_found() -> Iterator[None]:
    yield
    assert not turns._lock.locked()
    assert (turns._mine.depth, turns._mine.held) == (0, False)


def blocked(future: "Future[None]") -> bool:
    time.sleep(0.05)
    return not future.done()


def taking_a_turn() -> None:
    with turn():
        pass


def test_one_thread_at_a_time_is_in_its_turn(pool: ThreadPoolExecutor) -> None:
    inside, most = [0], [0]

    def work() -> None:
        for _ in range(50):
            with turn():
                inside[0] += 1
                most[0] = max(most[0], inside[0])
                time.sleep(0)
                inside[0] -= 1

    for each in [pool.submit(work) for _ in range(8)]:
        each.result()
    assert most == [1]


def test_others_have_theirs_while_one_waits(pool: ThreadPoolExecutor) -> None:
    with turn():
        other = pool.submit(taking_a_turn)
        assert blocked(other)
        with waiting():
            other.result(PATIENCE)
        assert blocked(pool.submit(taking_a_turn))


def test_a_turn_within_a_turn_is_the_same_one_also_when_it_waits(pool: ThreadPoolExecutor) -> None:
    with turn():
        with turn():
            with waiting():
                pool.submit(taking_a_turn).result(PATIENCE)
            assert blocked(pool.submit(taking_a_turn))
        assert blocked(pool.submit(taking_a_turn))
    pool.submit(taking_a_turn).result(PATIENCE)


def test_whoever_waits_may_take_a_turn_meanwhile(pool: ThreadPoolExecutor) -> None:
    """As a callback does, in whose thread it happens."""
    with turn(), waiting():
        taking_a_turn()
        pool.submit(taking_a_turn).result(PATIENCE)


@pytest.mark.parametrize("inside", [turn, lambda: waiting()])
def test_what_fails_gives_the_turn_back(inside: Callable[[], turn | waiting], pool: ThreadPoolExecutor) -> None:
    with pytest.raises(ValueError, match="so"), turn(), inside():
        raise ValueError("so")
    pool.submit(taking_a_turn).result(PATIENCE)


def test_to_wait_outside_of_a_turn_is_nothing() -> None:
    with waiting():
        assert not turns._lock.locked()


def test_who_does_not_get_its_turn_in_time_goes_on_without_it(
    pool: ThreadPoolExecutor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(turns, "_PATIENCE", 0.01)
    began, go_on = threading.Event(), threading.Event()

    def held() -> None:
        with turn():  # and waits without saying so
            began.set()
            assert go_on.wait(PATIENCE)

    holder = pool.submit(held)
    assert began.wait(PATIENCE)
    with turn():
        with waiting():
            pass
        assert turns._lock.locked()  # the other's, still
    taking_a_turn()
    go_on.set()
    holder.result(PATIENCE)
