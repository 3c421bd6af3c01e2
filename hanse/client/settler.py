"""Settling in the background: who ends a fetch waits for one future, whatever else is settled with the same owner.

All that waits for an owner goes with one call, and while that is under way the next takes along what came meanwhile.
What it is not: what settling is (hanse.client.settling), nor what tries again another day (Retrying, there).

    settler = Settler(resolver, lambda: evidence)
    settler.submit(prefix, delivery).result(3).by_both
"""

import contextlib
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, InvalidStateError

from hanse import limits
from hanse.client.peer import Peer
from hanse.client.resolve import Resolver
from hanse.client.settling import MOST, Outcome, settle
from hanse.errors import HanseError
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.model.identifier import Prefix
from hanse.turns import turn

_AT_ONCE = 2  # calls to one owner: what comes while one is under way goes with the other
_IDLE_SECONDS = 10.0  # after which a thread that has nothing to settle ends
_SHOWN_SECONDS = 1.0  # between two exchanges of checkpoints with one owner


class Settler:
    """Settles in threads of its own, _AT_ONCE for each owner while there is work. Safe to share; to be closed."""

    def __init__(self, resolver: Resolver, evidence: Callable[[], Evidence]) -> None:
        self._resolver, self._evidence = resolver, evidence
        self._lock = threading.Lock()
        self._queues: dict[Prefix, _Queue] = {}
        self._threads: dict[threading.Thread, Prefix] = {}
        self._refused: dict[bytes, Outcome] = {}
        self._shown: dict[Prefix, float] = {}
        # What is with its owner, until the answer is on the disk.
        self._flying: dict[Prefix, dict[bytes, Future[Outcome]]] = {}
        self._closed = False

    def submit(self, owner: Prefix, delivery: bytes) -> "Future[Outcome]":
        """Done when the receipt is whole and durable, or when it could not be settled now. Never raises.

        With ``delivery`` b"", when that can be said of all that waits.
        """
        outcome: Future[Outcome] = Future()
        self._put(owner, delivery, outcome)
        return outcome

    def follow(self, stored: "Future[None]", owner: Prefix, delivery: bytes) -> "Future[Outcome]":
        """The same once our half is ``stored``; raises what that raises."""
        outcome: Future[Outcome] = Future()

        def go_on(stored: "Future[None]") -> None:
            error = stored.exception()
            if error is None:
                self._put(owner, delivery, outcome)
            else:
                outcome.set_exception(error)

        stored.add_done_callback(go_on)
        return outcome

    def _put(self, owner: Prefix, delivery: bytes, outcome: "Future[Outcome]") -> None:
        with self._lock:
            if not self._closed:
                waiting = self._queues.setdefault(owner, queue.SimpleQueue())
                waiting.put((delivery, outcome))
                working = sum(each == owner for each in self._threads.values())
                # While one call is with the owner, the next takes along what came meanwhile.
                if not working or (working < _AT_ONCE and not waiting.empty()):
                    thread = threading.Thread(
                        target=self._run, args=(owner, waiting), name=f"hanse-settle-{owner}", daemon=True
                    )
                    self._threads[thread] = owner
                    thread.start()
                return
        outcome.set_result(Outcome(False, "this home's client was closed"))

    def close(self, timeout: float = limits.SETTLE_WAIT) -> None:
        """What was submitted is settled if it can be, for a bounded time. Twice does no harm."""
        with self._lock:
            self._closed = True
            for each in self._queues.values():
                each.put(None)
            threads = list(self._threads)
        for thread in threads:
            thread.join(timeout)

    def _run(self, owner: Prefix, waiting: "_Queue") -> None:
        peer: Peer | None = None
        try:
            while batch := self._batch(waiting):
                try:
                    if peer is None:
                        peer = self._resolver.peer(owner)
                    with turn():
                        self._settle(peer, owner, batch)
                except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
                    reason = str(error) if isinstance(error, HanseError) else type(error).__name__
                    for _, outcome in batch:
                        _tell(outcome, Outcome(False, reason))
        finally:
            if peer is not None:
                peer.close()

    def _batch(self, waiting: "_Queue") -> "list[_Item]":
        """All that waits; empty when this thread is to end: there was nothing for a while, or it was closed."""
        found: list[_Item] = []
        timeout = _IDLE_SECONDS
        while len(found) < MOST:
            try:
                item = waiting.get(timeout=timeout) if timeout else waiting.get_nowait()
            except queue.Empty:
                if found:
                    return found
                with self._lock:
                    if waiting.empty():  # else it came just now, when this thread was counted on
                        del self._threads[threading.current_thread()]
                        return []
                continue
            if item is None:
                waiting.put(None)
                break
            found.append(item)
            timeout = 0
        return found

    def _settle(self, peer: Peer, owner: Prefix, batch: "list[_Item]") -> None:
        evidence = self._evidence()
        wanted = {delivery for delivery, _ in batch}
        due = self._is_due(owner)
        with evidence.reading() as connection:
            rows = table.waiting_of(connection, str(owner), wanted)
            if due or b"" in wanted:  # what has waited since another day, too, unless it was refused already
                others = table.waiting(connection, str(owner))
                rows += [row for row in others if row.id not in wanted and row.id not in self._refused]
        with self._lock:
            under_way = self._flying.setdefault(owner, {})
            rows = [row for row in rows if row.id not in under_way][:MOST]
            flights: dict[bytes, Future[Outcome]] = {row.id: Future() for row in rows}
            under_way.update(flights)
            under_way = dict(under_way)
        for delivery, outcome in batch:
            if not delivery:
                _when_all(list(under_way.values()), outcome)
            elif delivery in under_way:
                under_way[delivery].add_done_callback(lambda done, outcome=outcome: _tell(outcome, done.result()))  # type: ignore[misc]
            else:
                _tell(outcome, self._refused.get(delivery) or self._known(evidence, owner, delivery))
        if rows:
            self._fly(peer, evidence, rows, flights, checkpoints=due)

    def _fly(
        self, peer: Peer, evidence: Evidence, rows: Sequence[Row], flights: Mapping[bytes, "Future[Outcome]"], *,
        checkpoints: bool,
    ) -> None:  # fmt: skip
        """One call; each flight lands when what became of it is known, and durable."""
        owner, failed = peer.prefix, "it was not settled"

        def keep(stored: "Future[None]", settled: Sequence[Row]) -> None:
            ids = [row.id for row in settled]

            def land(_: object) -> None:
                for id in ids:
                    self._land(owner, id, flights[id], _stored(stored))

            stored.add_done_callback(land)

        outcomes: dict[bytes, Outcome] = {}
        try:
            outcomes, _ = settle(peer, self._resolver, evidence, rows, checkpoints=checkpoints, keep=keep)
        except BaseException as error:
            failed = str(error) if isinstance(error, HanseError) else type(error).__name__
            raise
        finally:
            for row in rows:
                outcome = outcomes.get(row.id, Outcome(False, failed))
                if not outcome.by_both:
                    if row.id in outcomes:
                        self._refused[row.id] = outcome
                    self._land(owner, row.id, flights[row.id], outcome)

    def _land(self, owner: Prefix, id: bytes, flight: "Future[Outcome]", outcome: Outcome) -> None:
        with self._lock:
            self._flying[owner].pop(id, None)
        _tell(flight, outcome)

    def _is_due(self, owner: Prefix) -> bool:
        """Whether the two logs are shown to each other again."""
        now = time.monotonic()
        with self._lock:
            due = now >= self._shown.get(owner, 0.0) + _SHOWN_SECONDS
            if due:
                self._shown[owner] = now
        return due

    def _known(self, evidence: Evidence, owner: Prefix, delivery: bytes) -> Outcome:
        with evidence.reading() as connection:
            state = table.state(connection, delivery, ours=True, peer=str(owner))
        return Outcome(state is State.SETTLED, "" if state is State.SETTLED else "it was not settled")


_Item = tuple[bytes, "Future[Outcome]"]
_Queue = queue.SimpleQueue[_Item | None]


def _tell(future: "Future[Outcome]", outcome: Outcome) -> None:
    with contextlib.suppress(InvalidStateError):  # it was told before
        future.set_result(outcome)


def _when_all(flights: "list[Future[Outcome]]", outcome: "Future[Outcome]") -> None:
    """Tells when the last has landed."""
    left, lock = len(flights) + 1, threading.Lock()

    def landed(_: object) -> None:
        nonlocal left
        with lock:
            left -= 1
            last = left == 0
        if last:
            _tell(outcome, Outcome(all(each.result().by_both for each in flights)))

    for each in flights:
        each.add_done_callback(landed)
    landed(None)


def _stored(stored: "Future[None]") -> Outcome:
    error = stored.exception()
    return Outcome(True) if error is None else Outcome(False, str(error))
