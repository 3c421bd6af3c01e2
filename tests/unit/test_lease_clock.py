"""The clock of leases: never back, never slower than the machine's uptime, and right again after it was wrong."""

from hypothesis import given
from hypothesis import strategies as st

from hanse.vault.clock import Reading, Seen, advance

START = 1_790_000_000.0
STEPS = st.lists(st.tuples(st.floats(0, 1e6), st.floats(-1e7, 1e7), st.booleans()), max_size=30)


def run(steps: list[tuple[float, float, bool]]) -> list[tuple[Seen, float]]:
    """Readings of a machine that runs for so long, is set by so much, and perhaps starts anew; with the true time."""
    wall, up, boot, true = START, 0.0, 0, 0.0
    seen = advance(None, Reading(wall, "0", up))
    found = [(seen, true)]
    for passed, set_by, restarted in steps:
        wall, up, true = wall + passed + set_by, up + passed, true + passed
        if restarted:
            boot, up = boot + 1, 0.0
        seen = advance(seen, Reading(wall, str(boot), up))
        found.append((seen, true))
    return found


@given(STEPS)
def test_it_never_goes_back(steps: list[tuple[float, float, bool]]) -> None:
    shown = [seen.lease for seen, _ in run(steps)]
    assert shown == sorted(shown)


@given(STEPS)
def test_however_the_clock_is_set_it_is_no_slower_than_a_machine_that_runs(
    steps: list[tuple[float, float, bool]],
) -> None:
    running = [(passed, set_by, False) for passed, set_by, _ in steps]
    assert all(seen.lease - START >= true - 1e-3 for seen, true in run(running))


@given(st.lists(st.floats(0, 1e6), max_size=30), st.lists(st.booleans(), max_size=30))
def test_while_the_clock_is_right_it_is_the_clock(passed: list[float], restarts: list[bool]) -> None:
    steps = [(each, 0.0, restarted) for each, restarted in zip(passed, restarts, strict=False)]
    assert all(abs(seen.lease - START - true) < 1e-3 for seen, true in run(steps))


def test_after_a_clock_that_was_ahead_the_time_goes_on_as_it_should() -> None:
    shown = [seen.lease - START for seen, _ in run([(10, 5000, False), (10, -5000, False), (10, 0, False)])]
    assert shown == [0, 5010, 5020, 5030]


def test_looked_at_often_it_is_not_faster() -> None:
    steps = [(0.1, 0.0, False)] * 1000
    assert abs(run(steps)[-1][0].lease - START - 100) < 0.01


def test_without_a_name_of_the_run_only_the_clock_counts() -> None:
    first = advance(None, Reading(START, "", 5.0))
    assert advance(first, Reading(START + 1, "", 500.0)).lease == START + 1
