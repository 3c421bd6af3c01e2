"""How much an organization may store and publish, and how much it has. Pure: counts, limits and the time come in.

Three limits: identifiers that it ever used, bytes of what it signed, and versions accepted a minute. Each value comes
from the nearest place that sets it: the operator's ``limit`` command (in the database), ``[limits."86.acme"]``,
``[limits]`` (both in registry.toml), else there is none.

The rule it keeps: an identifier is counted for good, because it is never used again; what is there already costs
nothing; and no limit of space keeps anybody from withdrawing an object or changing a key.

    account = Account(prefix, usage, allowed, now)
    refusal = account.admit(new=True, size=812, bounded=True)    # None: it is counted as stored
"""

import math
import re
from dataclasses import dataclass, fields

from hanse import limits
from hanse.errors import InvalidInput
from hanse.model.identifier import Prefix

UNLIMITED = (1 << 63) - 1  # what the databases' integers hold
MINUTE = 60.0  # seconds that may be published at once
WAIT_FOR_SPACE = 300  # seconds: the operator is a person
_UNITS = {"": 1, "k": 1000, "m": 1000**2, "g": 1000**3, "t": 1000**4,
          "ki": limits.KIB, "mi": limits.MIB, "gi": 1024 * limits.MIB, "ti": 1024**2 * limits.MIB}  # fmt: skip
_SIZE = re.compile(r"([0-9]{1,15})\s*([kmgt]i?|)b?", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Limits:
    """What one place says of an organization; None where it says nothing, UNLIMITED for 'none'."""

    records: int | None = None
    publishes_per_minute: int | None = None
    bytes: int | None = None

    def over(self, wider: "Limits") -> "Limits":
        """These, and what they leave open as in ``wider``."""
        return Limits(*(_nearest(getattr(self, each), getattr(wider, each)) for each in NAMES))


NAMES = tuple(each.name for each in fields(Limits))
NO_LIMITS = Limits(UNLIMITED, UNLIMITED, UNLIMITED)


def _nearest(own: int | None, wider: int | None) -> int | None:
    return wider if own is None else own


@dataclass(frozen=True, slots=True)
class Usage:
    """What is stored of an organization. ``paid_until``: Unix seconds that its publishing of before has used up.

    ``limits`` are those that the operator's command set.
    """

    objects: int = 0
    bytes: int = 0
    paid_until: float = 0.0
    limits: Limits = Limits()


@dataclass(frozen=True, slots=True)
class Refusal:
    """``wait``: seconds after which to try again; ``pause``: nothing else of the organization's is taken before."""

    message: str
    wait: int
    pause: bool = False


class Account:
    """One organization's, for one transaction."""

    def __init__(self, prefix: Prefix, usage: Usage, allowed: Limits, now: float) -> None:
        """``allowed`` has a value for everything."""
        self._prefix = prefix
        self._objects, self._bytes = usage.objects, usage.bytes
        self._allowed = allowed
        rate = _set(allowed.publishes_per_minute)
        self._cost = MINUTE / rate if rate else math.inf
        self._now = now
        # A clock that was set back must not make anybody wait longer than a full minute.
        self._paid_until = min(max(usage.paid_until, now), now + MINUTE)
        self._refused = 0
        self.paced = rate < UNLIMITED
        self.spent = False

    @property
    def paid_until(self) -> float:
        """To be kept when ``spent``."""
        return self._paid_until

    def admit(self, *, new: bool, size: int, bounded: bool) -> Refusal | None:
        """Counts one version, or says why not. ``bounded``: the limits of space concern it too."""
        if bounded:
            refusal = self._space(new, size)
            if refusal is not None:
                return refusal
        if self.paced:
            if self._paid_until + self._cost > self._now + MINUTE + 1e-6:
                return self._pace()
            self._paid_until += self._cost
            self.spent = True
        self._objects += new
        self._bytes += size
        return None

    def _space(self, new: bool, size: int) -> Refusal | None:
        records, most = _set(self._allowed.records), _set(self._allowed.bytes)
        if new and self._objects >= records:
            text = f"{self._prefix} has {self._objects:,} identifiers in the registry, and its limit is {records:,}"
        elif self._bytes + size > most:
            text = (
                f"{self._prefix} has {self._bytes:,} bytes in the registry, its limit is {most:,}, "
                f"and this record has {size:,}"
            )
        else:
            return None
        return Refusal(f"{text}: it waits; ask the registry's operator for more", WAIT_FOR_SPACE)

    def _pace(self) -> Refusal:
        self._refused += 1
        # When there is room for all that was refused here, or for as much as there ever is.
        needed = self._paid_until + self._refused * self._cost - self._now - MINUTE
        wait = math.ceil(min(max(needed, 1.0), MINUTE))
        rate = _set(self._allowed.publishes_per_minute)
        if not rate:
            return Refusal(f"{self._prefix} may publish nothing at present: ask the registry's operator", wait, True)
        return Refusal(
            f"{self._prefix} may publish {rate:,} versions a minute, and has: the others follow by themselves; "
            "for more ask the registry's operator",
            wait,
            True,
        )


def _set(value: int | None) -> int:
    return UNLIMITED if value is None else value


def count(text: str) -> int:
    """A number, or ``none``. Raises InvalidInput."""
    if text.strip().lower() == "none":
        return UNLIMITED
    if not re.fullmatch(r"[0-9]{1,15}", text.strip()):
        raise InvalidInput(f"{text!r} is not a limit: a number, or none")
    return int(text)


def size(text: str) -> int:
    """Bytes, from ``500MB``, ``10 GiB``, ``1234`` or ``none``. Raises InvalidInput."""
    if text.strip().lower() == "none":
        return UNLIMITED
    match = _SIZE.fullmatch(text.strip())
    if match is None or (found := int(match[1]) * _UNITS[match[2].lower()]) >= UNLIMITED:
        raise InvalidInput(f"{text!r} is not a size: bytes, or with kB, MB, GB, TB, KiB, MiB, GiB, TiB, or none")
    return found


def shown(value: int | None) -> int | None:
    """For JSON: None is no limit."""
    return None if value is None or value >= UNLIMITED else value
