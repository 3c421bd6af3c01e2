"""Connections to owners' nodes that are kept for the next who needs one: a handshake costs more than a small fetch.

connections = Connections()
with connections.peer(identity, prefix, find) as north: ...     # given back at the end, ended after an error
"""

import threading
import time
from collections.abc import Callable

from hanse.client.identity import Identity
from hanse.client.peer import FindOrganization, Peer
from hanse.model.identifier import Prefix

_IDLE_SECONDS = 60.0
_IDLE_MOST = 32  # to one owner: as many as work at once


class Connections:
    """Of one client. Safe to share between threads; to be closed."""

    def __init__(self, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._idle: dict[Prefix, list[tuple[Peer, float]]] = {}
        self._closed = False

    def peer(self, identity: Identity, prefix: Prefix, find: FindOrganization) -> Peer:
        """The last that was given back under the same certificate, or another; the others end one after another."""
        stale: list[Peer] = []
        found = None
        with self._lock:
            kept = self._idle.get(prefix, [])
            now = self._monotonic()
            while kept and (kept[0][0].identity is not identity or now - kept[0][1] > _IDLE_SECONDS):
                stale.append(kept.pop(0)[0])
            if kept:
                found = kept.pop()[0]
        for each in stale:
            each.end()
        return found or Peer(identity, prefix, find, self._take_back)

    def _take_back(self, peer: Peer) -> bool:
        with self._lock:
            kept = self._idle.setdefault(peer.prefix, [])
            if self._closed or len(kept) >= _IDLE_MOST:
                return False
            kept.append((peer, self._monotonic()))
            return True

    def close(self) -> None:
        """Twice does no harm."""
        with self._lock:
            self._closed = True
            idle = [peer for kept in self._idle.values() for peer, _ in kept]
            self._idle.clear()
        for each in idle:
            each.end()
