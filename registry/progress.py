"""Whether a process that serves gets anywhere: what tells its supervisor that it need not be killed.

What it is not: health, which a database that is away makes bad and a new process makes no better.
The rule it keeps: only what nothing but an end can end is standing still. A thread that waits for the database is not:
each such wait has a limit of its own (registry.storage.postgres_connections).

    steps = Steps()
    with steps.working():                                 # in the thread that works
        ...
    task = asyncio.create_task(beat(tell, (steps,)))      # in the event loop
"""

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence

BEAT = 1.0  # seconds
_mine = threading.local()


class Steps:
    """Those of one thread, which makes them; one other asks."""

    def __init__(self) -> None:
        self._count = self._seen = 0
        self._working = False

    @contextlib.contextmanager
    def working(self) -> Iterator[None]:
        """Around what must come to an end."""
        _mine.steps = self
        self._step(working=True)
        try:
            yield
        finally:
            self._step(working=False)
            _mine.steps = None

    def _step(self, *, working: bool) -> None:
        self._count += 1
        self._working = working

    def went_on(self) -> bool:
        """Whether there was a step since the last question, or nothing is to be done."""
        working, count = self._working, self._count
        before, self._seen = self._seen, count
        return not working or count != before


@contextlib.contextmanager
def waiting() -> Iterator[None]:
    """Around a wait that ends by itself, in a thread that may have Steps or none."""
    steps: Steps | None = getattr(_mine, "steps", None)
    if steps is None:
        yield
        return
    before = steps._working
    steps._step(working=False)
    try:
        yield
    finally:
        steps._step(working=before)


async def beat(tell: Callable[[], None], threads: Sequence[Steps], every: float = BEAT) -> None:
    """Until it is cancelled: tells, for as long as the event loop comes by and each of the threads goes on."""
    while True:
        went_on = [each.went_on() for each in threads]
        if all(went_on):
            tell()
        await asyncio.sleep(every)
