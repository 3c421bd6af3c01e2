"""Processor time of all that takes part in a figure: what bounds a rate when client, server and database share cores.

    meter = Meter({"registry": registry.pid, "PostgreSQL": postgres.pid}, calls=10_000)
    run = meter.around(lambda: (calls_a_second, generator_seconds))
    print(meter)     # "0.470 = generator 0.030 + registry 0.310 + PostgreSQL 0.130, 95% of 2 cores busy"

User and system time as the kernel counts it. What it is not: the cost of waiting. A rate is below cores / milliseconds.
"""

import contextlib
import os
import resource
import statistics
from collections.abc import Callable, Mapping

import psutil

from bench.table import Run

GENERATOR = "generator"
Measured = Callable[[], tuple[float, float]]
"""A run: calls a second, and the generator's own processor seconds."""


def seconds(pid: int) -> float:
    """Of a process and all its descendants so far."""
    total = 0.0
    # A child that ends meanwhile is in its parent's time from then on: so the parent is last.
    for process in (*reversed(psutil.Process(pid).children(recursive=True)), psutil.Process(pid)):
        with contextlib.suppress(psutil.NoSuchProcess):
            total += sum(process.cpu_times()[:4])
    return total


def of_children() -> float:
    """Of those that this process started and that ended."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


class Meter:
    """Of one variant. ``parts``: which processes are looked at, with their descendants; ``calls``: of one run."""

    def __init__(self, parts: Mapping[str, int], calls: int) -> None:
        self._parts, self._calls = parts, calls
        self.forget()

    def forget(self) -> None:
        """The runs so far: they were to warm up."""
        self._milliseconds: dict[str, list[float]] = {name: [] for name in (GENERATOR, *self._parts)}
        self._busy: list[float] = []

    def around(self, measured: Measured) -> Run:
        """The same run, looked at."""

        def run() -> float:
            before = {name: seconds(pid) for name, pid in self._parts.items()}
            rate, own = measured()
            used = {GENERATOR: own} | {name: seconds(pid) - before[name] for name, pid in self._parts.items()}
            for name, took in used.items():
                self._milliseconds[name].append(1000 * took / self._calls)
            self._busy.append(sum(used.values()) * rate / self._calls / _cores())
            return rate

        return run

    def __str__(self) -> str:
        parts = {name: statistics.median(took) for name, took in self._milliseconds.items()}
        listed = " + ".join(f"{name} {each:.3f}" for name, each in parts.items())
        return f"{sum(parts.values()):.3f} = {listed}, {statistics.median(self._busy):.0%} of {_cores()} cores busy"


def _cores() -> int:
    return len(os.sched_getaffinity(0))
