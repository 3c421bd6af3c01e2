"""How the C library keeps memory while bulk streams run: large buffers come and go, and are not given back each time.

gRPC copies every message into new memory. By default glibc maps what is large anew and returns it after use, so that
each message costs its pages' first touch again: a third of a transfer's processor time. Nothing happens elsewhere
than on glibc.
"""

import contextlib
import ctypes
import io

from hanse import limits

# malloc.h
_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_LARGEST_BUFFER = 32 * limits.MIB  # the most that glibc takes for M_MMAP_THRESHOLD
_KEPT = 128 * limits.MIB  # of free memory at the top of a heap; what is used is bounded elsewhere
_GROWTH = 16 * limits.MIB
_MADV_HUGEPAGE = 14  # linux/mman.h
_HUGE_PAGE = 2 * limits.MIB


def keep_large_buffers() -> None:
    """For the whole process, and for good. May be called again."""
    with contextlib.suppress(OSError, AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, _LARGEST_BUFFER)
        mallopt(_M_TRIM_THRESHOLD, _KEPT)
        mallopt(_M_TOP_PAD, _GROWTH)


def room(length: int) -> io.BytesIO:
    """Zeros to be filled through ``getbuffer()``; ``getvalue()`` then gives them as bytes. Neither copies.

    What is large is laid on huge pages where the system has them: otherwise the first touch of each small page
    costs as much as what is written to it.
    """
    # The zeros are nobody else's, so BytesIO takes them over; and nobody has written them: they are fresh pages.
    made = io.BytesIO(bytes(length))
    if length >= 2 * _HUGE_PAGE:
        with contextlib.suppress(OSError, AttributeError), made.getbuffer() as view:
            start = ctypes.addressof(ctypes.c_char.from_buffer(view))
            first, end = -(-start // _HUGE_PAGE) * _HUGE_PAGE, start + length
            ctypes.CDLL(None).madvise(ctypes.c_void_p(first), ctypes.c_size_t(end - first), _MADV_HUGEPAGE)
    return made
