"""Suffixes for objects whose owner chose none: a UUIDv7 (RFC 9562), in 26 letters that nobody misreads.

They sort by the time at which they were made. Letters: Crockford's base 32, lower case.
"""

import secrets
import time

_LETTERS = "0123456789abcdefghjkmnpqrstvwxyz"


def mint(now_ms: int | None = None) -> str:
    """``now_ms``: Unix milliseconds."""
    at = int(time.time() * 1000) if now_ms is None else now_ms
    number = (at & (1 << 48) - 1) << 80 | secrets.randbits(80)
    number = number & ~(0xF << 76) | 0x7 << 76  # version
    number = number & ~(0x3 << 62) | 0x2 << 62  # variant
    return "".join(_LETTERS[number >> 5 * place & 31] for place in reversed(range(26)))
