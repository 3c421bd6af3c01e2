"""How the C library keeps memory while bulk streams run: large buffers come and go, and are not given back each time.

gRPC copies every message into new memory. By default glibc maps what is large anew and returns it after use, so that
each message costs its pages' first touch again: a third of a transfer's processor time. Nothing happens elsewhere
than on glibc.
"""

import contextlib
import ctypes
from functools import cache

from hanse import limits

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BUFFER = 32 * limits.MIB  # the most that glibc takes for M_MMAP_THRESHOLD
_KEPT = 128 * limits.MIB  # of free memory at the top of a heap; what is used is bounded elsewhere
_GROWTH = 16 * limits.MIB


@cache
def keep_large_buffers() -> None:
    """For the whole process, and for good. May be called again."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BUFFER)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _GROWTH)
