"""Threads take turns: Python runs one of them at a time anyway, and those that fight for it spend more than they work.

Every SQL statement, file and lock gives up the interpreter's lock; of twenty threads that each do a little, another one
takes it each time, on another processor, and most of the time goes by in waking up. So whoever handles something small
does it in its turn, and gives that to the next only where it waits for something: a commit, a peer, a disk.

What it is not: a lock. It protects nothing, and whoever does not get its turn in time goes on without it.

    with turn():
        ...                     # decides, signs, verifies
        with waiting():
            future.result()
"""

import threading

_PATIENCE = 0.05  # seconds: somebody waits in his turn without saying so


class _Mine(threading.local):
    depth = 0
    held = False


_mine = _Mine()
_lock = threading.Lock()


class turn:  # noqa: N801 - reads as a statement
    """Inside, no other thread that is in a turn runs. May be nested."""

    __slots__ = ()

    def __enter__(self) -> None:
        _mine.depth += 1
        if _mine.depth == 1:
            _mine.held = _lock.acquire(timeout=_PATIENCE)

    def __exit__(self, *_: object) -> None:
        _mine.depth -= 1
        if _mine.depth == 0 and _mine.held:
            _mine.held = False
            _lock.release()


class waiting:  # noqa: N801
    """Inside, others have their turns, and this thread has none. Elsewhere than in a turn it does nothing."""

    __slots__ = ("_depth",)

    def __enter__(self) -> None:
        self._depth = _mine.depth
        if self._depth:
            _mine.depth = 0
            if _mine.held:
                _mine.held = False
                _lock.release()

    def __exit__(self, *_: object) -> None:
        if self._depth:
            _mine.depth = self._depth
            _mine.held = _lock.acquire(timeout=_PATIENCE)
