"""How often each peer may call: a token bucket each. Time is an argument's default, memory is bounded."""

import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Hashable

from hanse import limits
from hanse.errors import Overloaded

_PEERS = 10_000


class Rates:
    """``spend`` takes one call's token. Safe to share between threads."""

    def __init__(
        self,
        per_second: float = limits.CALLS_PER_PEER,
        burst: float = limits.CALLS_PER_PEER_BURST,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._per_second, self._burst, self._monotonic = per_second, burst, monotonic
        self._lock = threading.Lock()
        self._buckets: OrderedDict[Hashable, tuple[float, float]] = OrderedDict()

    def spend(self, peer: Hashable) -> None:
        """Raises Overloaded."""
        now = self._monotonic()
        with self._lock:
            tokens, at = self._buckets.get(peer, (self._burst, now))
            tokens = min(self._burst, tokens + (now - at) * self._per_second)
            allowed = tokens >= 1
            self._buckets[peer] = (tokens - 1 if allowed else tokens, now)
            self._buckets.move_to_end(peer)
            if len(self._buckets) > _PEERS:
                self._buckets.popitem(last=False)
        if not allowed:
            raise Overloaded(f"you call more than {self._per_second:.0f} times a second: slow down")
