"""Times to come and sizes, as users type them: ``30d``, ``2027-06-30``, ``10GiB``."""

import re
import time

import click

_SPANS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
_SIZES = {"": 1, "b": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40, "p": 1 << 50}


def parse_until(text: str, option: str = "--until") -> int:
    """A span from now (``90s``, ``2h``, ``30d``) or a time in UTC (a date is its beginning), as Unix seconds.

    Raises click.BadParameter.
    """
    import datetime

    ahead = re.fullmatch(r"(\d{1,6})([smhdw])", text)
    if ahead:
        return int(time.time()) + int(ahead[1]) * _SPANS[ahead[2]]
    try:
        parsed = datetime.datetime.fromisoformat(text)
        return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither a span from now such as 2h, 30d nor a time such as 2027-06-30 or "
            "2027-06-30T14:00:00Z",
            param_hint=f"'{option}'",
        ) from None


def parse_size(text: str, option: str) -> int:
    """``500``, ``10MB``, ``1.5GiB``, in bytes; units are binary. Raises click.BadParameter."""
    told = re.fullmatch(r"(\d{1,15})(?:\.(\d{1,3}))?\s*([kmgtp]?)(?:i?b)?", text.strip().lower())
    found = int(float(f"{told[1]}.{told[2] or 0}") * _SIZES[told[3]]) if told else 0
    if not 0 < found < 1 << 62:
        raise click.BadParameter(f"{text!r} is no size such as 500MiB or 10GiB", param_hint=f"'{option}'")
    return found
