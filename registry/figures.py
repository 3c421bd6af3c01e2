"""What a running registry counts of itself, cheaply enough for calls that take microseconds.

What it is not: Prometheus, which registry.observe speaks. Nothing here is durable, and every process counts its own.
Each figure has one writing thread; readers may see it a moment late, never broken.

durations = Durations()
durations.add(0.0004)
"""

from bisect import bisect_left

# Seconds. From an answer out of memory to a disk in trouble, in steps of about 2.5.
BOUNDS = (
    0.00005, 0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip


class Durations:
    """A histogram of seconds."""

    __slots__ = ("counts", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BOUNDS) + 1)  # each alone, the last for what is beyond all bounds
        self.total = 0.0

    def add(self, seconds: float) -> None:
        """One more."""
        self.counts[bisect_left(BOUNDS, seconds)] += 1
        self.total += seconds

    def cumulative(self) -> list[tuple[str, int]]:
        """As Prometheus has them: how many took at most so long."""
        found, sum_ = [], 0
        for bound, count in zip((*map(str, BOUNDS), "+Inf"), list(self.counts), strict=True):
            sum_ += count
            found.append((bound, sum_))
        return found
