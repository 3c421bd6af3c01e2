"""Durations as an operator types them: ``30m``, ``24h``, ``7d``. A number and a unit, nothing else."""

import re

from hanse import limits
from hanse.errors import InvalidInput

_UNITS = {"s": 1, "m": 60, "h": limits.HOUR, "d": limits.DAY, "w": 7 * limits.DAY}
_FORM = re.compile(r"([0-9]{1,6})([smhdw])")


def parse(text: str) -> int:
    """Seconds; at least 1. Raises InvalidInput."""
    match = _FORM.fullmatch(text.strip())
    if match is None or int(match[1]) == 0:
        raise InvalidInput(f"{text!r} is not a duration: a number and s, m, h, d or w, for example 24h")
    return int(match[1]) * _UNITS[match[2]]


def to_text(seconds: int) -> str:
    """The shortest exact form."""
    for unit, size in reversed(_UNITS.items()):
        if seconds and seconds % size == 0:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
