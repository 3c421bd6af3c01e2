"""A queue in which senders take turns: each one's things in their order, one of each sender's after another.

The rule it keeps: whoever has put a thousand things delays another by one of them at a time.

turns.put(north, first)
turns.get()              # waits until there is something
"""

import threading
from collections import OrderedDict, deque
from typing import Generic, TypeVar

from hanse.model.identifier import Prefix

T = TypeVar("T")


class Turns(Generic[T]):
    """For any threads. ``None`` is what ``get`` gives, in the end, when ``end`` was called and nothing is left."""

    def __init__(self) -> None:
        self._queues: OrderedDict[Prefix, deque[T]] = OrderedDict()
        self._changed = threading.Condition()
        self._ended = False

    def put(self, sender: Prefix, thing: T) -> None:
        """At the end of the sender's own; a sender without any comes after all that have."""
        with self._changed:
            queue = self._queues.get(sender)
            if queue is None:
                queue = self._queues[sender] = deque()
            queue.append(thing)
            self._changed.notify()

    def get(self) -> T | None:
        """The next, of whose turn it is."""
        with self._changed:
            while not self._queues:
                if self._ended:
                    return None
                self._changed.wait()
            sender, queue = next(iter(self._queues.items()))
            thing = queue.popleft()
            if queue:
                self._queues.move_to_end(sender)
            else:
                del self._queues[sender]
            return thing

    def end(self) -> None:
        """Nothing is put after that."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()

    def __bool__(self) -> bool:
        return bool(self._queues)

    def __len__(self) -> int:
        with self._changed:
            return sum(map(len, self._queues.values()))
