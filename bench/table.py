"""Rows of figures and the one table they are printed in.

A row compares two lists of runs that were made in turns (A B A B ...), so that what the machine does meanwhile hits
both. What is printed is the ratio of the medians, and the smallest and the largest ratio of a pair.
"""

import datetime
import os
import platform
import statistics
import sys
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

Run = Callable[[], float]


@dataclass(frozen=True)
class Target:
    """``at_least``: more is better, and ratios are of rates. Otherwise less is better."""

    value: float
    at_least: bool = True
    unit: str = "×"

    def met(self, value: float) -> bool:
        return value >= self.value if self.at_least else value <= self.value

    def __str__(self) -> str:
        return f"{'at least' if self.at_least else 'at most'} {_number(self.value)} {self.unit}"


@dataclass(frozen=True)
class Row:
    """One figure. ``unit`` is that of the runs: "s" a run, or something a second, or MB.

    Without ``theirs`` the target is for our median itself. ``missing`` says which peer is not on this machine.
    """

    what: str
    against: str
    target: Target | None = None
    ours: tuple[float, ...] = ()
    theirs: tuple[float, ...] = ()
    unit: str = "s"
    how: str = ""
    missing: str = ""
    failed: str = ""

    @property
    def _ratios(self) -> list[float]:
        return [self._ratio(a, b) for a, b in zip(self.ours, self.theirs, strict=False)]

    def _ratio(self, ours: float, theirs: float) -> float:
        seconds_to_rates = self.unit in ("s", "ms") and (self.target is None or self.target.at_least)
        return theirs / ours if seconds_to_rates else ours / theirs

    @property
    def value(self) -> float | None:
        """What is held against the target."""
        if not self.ours:
            return None
        if not self.theirs:
            return statistics.median(self.ours)
        return self._ratio(statistics.median(self.ours), statistics.median(self.theirs))

    @property
    def verdict(self) -> str:
        if self.failed:
            return f"FAILED: {self.failed}"
        if self.missing:
            return f"not measured: {self.missing} is missing on this machine"
        if self.target is None or self.value is None:
            return "–"
        return "met" if self.target.met(self.value) else "**MISSED**"

    def cells(self) -> tuple[str, ...]:
        ratio = "–"
        if self.theirs and self.value is not None:
            ratio = f"**{self.value:.2f}** ({min(self._ratios):.2f}–{max(self._ratios):.2f})"
        return (
            self.what,
            self.against,
            self._runs(self.ours),
            self._runs(self.theirs),
            ratio,
            str(self.target) if self.target else "–",
            self.verdict,
            self.how,
        )

    def _runs(self, runs: tuple[float, ...]) -> str:
        if not runs:
            return "–"
        spread = f" ({_number(min(runs))}–{_number(max(runs))})" if len(runs) > 1 else ""
        return f"{_number(statistics.median(runs))} {self.unit}{spread}"


HEAD = ("what", "against", "Hanse", "the other", "ratio", "target", "", "how")


def markdown(rows: Iterable[Row]) -> str:
    lines = [HEAD, ("---",) * len(HEAD), *(row.cells() for row in rows)]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines) + "\n"


def _number(value: float) -> str:
    if value >= 10_000:
        return f"{value:,.0f}"
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.3g}" if value < 10 else f"{value:.1f}"


def say(text: str) -> None:
    """To whoever waits."""
    print(text, file=sys.stderr, flush=True)


def in_turns(
    times: int, variants: Mapping[str, Run], before: Callable[[], None] | None = None
) -> dict[str, list[float]]:
    """Runs every variant ``times`` times, A B A B ...; ``before`` runs before each run and is not counted."""
    results: dict[str, list[float]] = {name: [] for name in variants}
    for number in range(times):
        for name, run in variants.items():
            if before is not None:
                before()
            results[name].append(run())
            say(f"    {number + 1}/{times} {name}: {_number(results[name][-1])}")
    return results


@dataclass(frozen=True)
class Machine:
    """Facts without which the figures mean little."""

    cores: int = field(default_factory=lambda: len(os.sched_getaffinity(0)))
    load: float = field(default_factory=lambda: os.getloadavg()[1])

    def __str__(self) -> str:
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
        now = datetime.datetime.now(datetime.UTC)
        return (
            f"{now:%Y-%m-%d %H:%M} UTC · {_processor()}, {self.cores} cores, {memory:.0f} GB, "
            f"load of the five minutes before {self.load:.1f} · "
            f"Linux {platform.release().split('-')[0]} · Python {platform.python_version()} · "
            f"grpcio {_version('grpcio')}"
        )


def _processor() -> str:
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.split(":", 1)[1].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def _version(package: str) -> str:
    import importlib.metadata

    return importlib.metadata.version(package)
