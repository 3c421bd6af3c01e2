"""Every decision is a durable row: who asked for what, whether it was allowed, why, and how many bytes went out.

The rule it keeps: ``decided`` returns when the row is on the disk, and nothing is served before that. Rows of calls
that come together are committed together by one writer, so that a thousand readers do not wait for a thousand syncs.
The bytes of a running stream are written every few seconds: a crash loses that little.

    ticket = audit.decided(Decided(...))
    ticket.served += 1024
    audit.finish(ticket)
"""

import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from hanse.errors import HanseError, StorageFailed

FLUSH_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Decided:
    """One decision. ``object`` and ``version`` are what the caller asked for (0: the newest); ``at`` Unix seconds."""

    peer: str
    key_id: str
    object: str
    version: int
    operation: str
    allowed: bool
    why: str
    at: int


@dataclass(frozen=True, slots=True)
class Row:
    """A decision as it is kept; ``number`` grows, ``served`` is bytes."""

    number: int
    decided: Decided
    served: int


class AuditStorage(Protocol):
    """Where rows are kept. One daemon writes, from one thread; any number of processes read."""

    def last_number(self) -> int:
        """0 when there is no row."""
        ...

    def write(self, rows: Sequence[Row], served: Sequence[tuple[int, int]]) -> None:
        """New rows, and (number, bytes) of older ones: all or nothing, durable when it returns. May be repeated."""
        ...

    def query(self, peer: str | None, object_id: str | None, since: int | None, limit: int) -> Iterator[Row]:
        """Newest first. ``object_id`` and ``peer`` must be equal, ``since`` is Unix seconds, inclusive."""
        ...


@dataclass(slots=True, eq=False)
class Ticket:
    """A decision whose bytes are being counted."""

    number: int
    served: int = 0
    written: int = 0


@dataclass(slots=True, eq=False)
class _Pending:
    row: Row
    done: threading.Event = field(default_factory=threading.Event)
    error: HanseError | None = None


class Audit:
    """The writer. Safe to share between threads; ``close`` writes what is left."""

    def __init__(self, storage: AuditStorage) -> None:
        self._storage = storage
        self._lock = threading.Condition()
        self._number = storage.last_number()
        self._pending: list[_Pending] = []
        self._running: set[Ticket] = set()
        self._ended: list[Ticket] = []
        self._closed = False
        self._thread = threading.Thread(target=self._write_all, name="audit", daemon=True)
        self._thread.start()

    def decided(self, decision: Decided) -> Ticket:
        """Returns when the row is durable. Raises StorageFailed, NoSpace: then nothing may be served."""
        with self._lock:
            if self._closed:
                raise StorageFailed("the node is stopping")
            self._number += 1
            pending = _Pending(Row(self._number, decision, 0))
            ticket = Ticket(self._number)
            self._pending.append(pending)
            self._lock.notify()
        pending.done.wait()
        if pending.error is not None:
            raise pending.error
        if decision.allowed:
            with self._lock:
                self._running.add(ticket)
        return ticket

    def finish(self, ticket: Ticket) -> None:
        """The stream ended; its bytes are written with the next commit."""
        with self._lock:
            self._running.discard(ticket)
            if ticket.served != ticket.written:
                self._ended.append(ticket)
                self._lock.notify()

    def close(self) -> None:
        with self._lock:
            self._closed = True
            self._lock.notify()
        self._thread.join()

    def _write_all(self) -> None:
        flushed_at = time.monotonic()
        while True:
            with self._lock:
                if not (self._pending or self._ended or self._closed):
                    self._lock.wait(FLUSH_SECONDS)
                pending, self._pending = self._pending, []
                counted, self._ended = self._ended, []
                closed = self._closed
                if closed or time.monotonic() - flushed_at >= FLUSH_SECONDS:
                    counted, flushed_at = [*counted, *self._running], time.monotonic()
            updates = [(ticket, ticket.served) for ticket in counted if ticket.served != ticket.written]
            error = self._write(pending, updates)
            for each in pending:
                each.error = error
                each.done.set()
            if error is not None:
                with self._lock:
                    self._ended += [ticket for ticket, _ in updates if ticket not in self._running]
                    if not closed:
                        self._lock.wait(1.0)
            if closed:
                return

    def _write(self, pending: list[_Pending], updates: list[tuple[Ticket, int]]) -> HanseError | None:
        if not pending and not updates:
            return None
        try:
            self._storage.write([each.row for each in pending], [(ticket.number, served) for ticket, served in updates])
        except HanseError as error:
            return error
        except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
            return StorageFailed(f"the audit cannot be written: {type(error).__name__}")
        for ticket, served in updates:
            ticket.written = served
        return None
