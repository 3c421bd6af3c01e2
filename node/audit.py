"""Every decision is a durable row: who asked for what, whether it was allowed, why, and how many bytes went out.

The rule it keeps: ``decided`` returns when the row is on the disk, as a leaf of the log too, and nothing is served
before that. What belongs to a decision (a delivery that begins, a fetch that is counted) is in the same transaction.
The bytes of a running stream are written every few seconds: a crash loses that little.

    ticket = audit.decided(Decided(...))
    ticket.served += 1024
    audit.finish(ticket)
"""

import threading
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from hanse.errors import HanseError, StorageFailed
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from node.storage import audit as rows
from node.storage.audit import Decided, Row

__all__ = ["Audit", "Decided", "Row", "Ticket"]

FLUSH_SECONDS = 3.0
Also = Callable[[Change], object]


@dataclass(slots=True, eq=False)
class Ticket:
    """A decision whose bytes are being counted."""

    number: int
    served: int = 0
    written: int = 0


class Audit:
    """Safe to share between threads; ``close`` writes what is left, before the evidence is closed."""

    def __init__(self, evidence: Evidence) -> None:
        self._evidence = evidence
        self._lock = threading.Condition()
        self._running: set[Ticket] = set()
        self._unwritten: set[Ticket] = set()
        self._closed = False
        self._thread = threading.Thread(target=self._write_meanwhile, name="audit", daemon=True)
        self._thread.start()

    def decided(self, decision: Decided, also: Also | None = None, served: int = 0) -> Ticket:
        """Returns when the row is durable, and what ``also`` changes with it. ``served``: bytes, if that is known.

        Raises StorageFailed, NoSpace, or what ``also`` raises: then there is no row, and nothing may be served.
        """

        def record(change: Change) -> int:
            if also is not None:
                also(change)
            return rows.insert(change.connection, decision, change.append(Kind.DECISION, decision.payload), served)

        if self._closed:
            raise StorageFailed("the node is stopping")
        ticket = Ticket(self._evidence.change(record), served, served)
        if decision.allowed:
            with self._lock:
                self._running.add(ticket)
        return ticket

    def finish(self, ticket: Ticket, also: Also | None = None) -> None:
        """The stream ended; its bytes, and what ``also`` changes, are written with the next commit."""
        with self._lock:
            self._running.discard(ticket)
        if ticket.served != ticket.written or also is not None:
            self._submit([ticket], also)

    def close(self) -> None:
        """Twice does no harm."""
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _submit(self, tickets: list[Ticket], also: Also | None = None) -> "Future[None] | None":
        amounts = [(ticket, ticket.served) for ticket in tickets]

        def write(change: Change) -> None:
            rows.set_served(change.connection, [(ticket.number, amount) for ticket, amount in amounts])
            if also is not None:
                also(change)

        def written(future: "Future[None]") -> None:
            if future.exception() is None:
                for ticket, amount in amounts:
                    ticket.written = amount
            else:
                with self._lock:
                    self._unwritten.update(ticket for ticket, _ in amounts)

        try:
            future = self._evidence.writer.submit(write)
        except HanseError:
            return None
        future.add_done_callback(written)
        return future

    def _write_meanwhile(self) -> None:
        closed = False
        while not closed:
            with self._lock:
                if not self._closed:
                    self._lock.wait(FLUSH_SECONDS)
                closed = self._closed
                due = [each for each in self._running | self._unwritten if each.served != each.written]
                self._unwritten.clear()
            future = self._submit(due) if due else None
            if future is not None:
                future.exception()  # waits; those that failed are taken up again
