"""The clock of leases: it never goes back, and a clock of the machine that was set back does not stop it. Pure.

It goes on by what the machine's clock went on, or, within one run of the machine, by what its uptime did if that is
more. So a lease ends in time although somebody sets the clock back, whether hanse runs meanwhile or not; what is
lost is the time that the machine was off, if its clock was set back just then. A clock that was ahead ends leases too
early; those that begin later are not concerned. SPEC.md section 19.4.

    seen = advance(seen, Reading.now(clock))
    seen.lease >= lease.expires_at
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Reading:
    """``wall`` is Unix seconds; ``since_boot`` seconds of the run of the machine that ``boot`` names."""

    wall: float
    boot: str
    since_boot: float

    @classmethod
    def now(cls, clock: Callable[[], float] = time.time) -> "Reading":
        return cls(clock(), _boot(), uptime())


@dataclass(frozen=True, slots=True)
class Seen:
    """What the clock of leases showed at a reading."""

    lease: float
    reading: Reading


def advance(seen: Seen | None, now: Reading) -> Seen:
    """The clock of leases at ``now``; without anything before, it is the machine's."""
    if seen is None:
        return Seen(now.wall, now)
    passed = max(0.0, now.wall - seen.reading.wall)
    if now.boot and now.boot == seen.reading.boot:
        passed = max(passed, now.since_boot - seen.reading.since_boot)
    return Seen(seen.lease + passed, now)


def uptime() -> float:
    """Seconds of this run of the machine; those that it slept too, where the system counts them."""
    return time.clock_gettime(_UPTIME)


_UPTIME = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)


@lru_cache(1)
def _boot() -> str:
    """Names the run of the machine; empty where the system does not say."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""
