"""Changes of evidence.db: many at once in one transaction, the log and its checkpoint with them.

One thread commits. Works that come while it commits are done together next, each within its own savepoint: one that
fails leaves nothing of itself and does not sink the others. ``change`` returns when its work is durable. Writers of
several processes take turns by the database's lock: positions have no gaps, and each commit has its checkpoint.

    position = evidence.change(lambda change: change.append(Kind.REVOCATION, payload))

A checkpoint is signed before its commit, but nobody sees it unless that succeeds: of two that contradict each other,
only one is ever shown.
"""

import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any, TypeVar

from hanse.errors import HanseError, StorageFailed
from hanse.evidence.storage import log
from hanse.evidence.storage.log import Edge, Entry, Kind
from hanse.storage.database import Connection, Database, transaction
from hanse.turns import turn

T = TypeVar("T")
GROUP = 512  # works in one transaction


@dataclass(slots=True)
class Change:
    """What a work is given: a connection inside the transaction, and the log. ``now`` is Unix seconds."""

    connection: Connection
    now: int
    _size: int
    _entries: list[Entry] = field(default_factory=list)

    def append(self, kind: Kind, payload: bytes) -> int:
        """The position that the payload will have in the log, if the work is committed."""
        self._entries.append(Entry.of(kind, payload))
        return self._size + len(self._entries) - 1


@dataclass(slots=True)
class _Work:
    do: Callable[[Change], Any]
    done: "Future[Any]"


@dataclass(slots=True, frozen=True)
class _Done:
    result: Any


class Writer:
    """Safe to share between threads. ``sign`` makes the signed note of a checkpoint of (size, root)."""

    def __init__(
        self, database: Database, sign: Callable[[int, bytes], str], clock: Callable[[], float] = time.time
    ) -> None:
        self._database, self._sign, self._clock = database, sign, clock
        self._queue: queue.SimpleQueue[_Work | None] = queue.SimpleQueue()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._closed = False
        # As this process left it, which is as it is if no other one has appended since. The writer's thread alone.
        self._edge = Edge(0, {})

    def submit(self, work: Callable[[Change], T]) -> "Future[T]":
        """Done when ``work`` is durable. ``work`` must not wait for another change."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise StorageFailed("the evidence is closed already")
            if self._thread is None:
                thread = threading.Thread(target=self._run, name="evidence", daemon=True)
                thread.start()
                self._thread = thread
            self._queue.put(_Work(work, done))
        return done

    @property
    def inside(self) -> bool:
        """Whether a work asks: who waits for another change there waits for ever."""
        return threading.current_thread() is self._thread

    def close(self) -> None:
        """Commits what was submitted, then takes nothing more. Twice does no harm."""
        with self._lock:
            self._closed, thread = True, self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        expected, patience, ended = 1, 0.0, False
        while not ended:
            works, ended = self._gather(expected, patience)
            if works:
                began = time.monotonic()
                self._commit(works)
                # Whoever was served now may come again at once. To wait a little for them makes half as many commits;
                # who comes alone waits for nobody.
                expected, patience = len(works) + self._queue.qsize(), (time.monotonic() - began) / 2

    def _gather(self, expected: int, patience: float) -> tuple[list[_Work], bool]:
        """Works for one commit, and whether they are the last; waits ``patience`` seconds for ``expected`` of them."""
        works: list[_Work] = []
        work = self._queue.get()
        deadline = time.monotonic() + patience
        while work is not None:
            works.append(work)
            if len(works) == GROUP:
                return works, False
            wait = deadline - time.monotonic() if len(works) < expected else 0
            try:
                work = self._queue.get(timeout=wait) if wait > 0 else self._queue.get_nowait()
            except queue.Empty:
                return works, False
        return works, True

    def _commit(self, works: list[_Work]) -> None:
        try:
            with turn():
                outcomes = self._transact(works)
        except HanseError as error:
            outcomes = [error] * len(works)
        except BaseException as error:  # noqa: BLE001 - whoever waits must not wait for ever
            outcomes = [StorageFailed(f"the evidence cannot be written: {type(error).__name__}")] * len(works)
        for work, outcome in zip(works, outcomes, strict=True):
            if isinstance(outcome, _Done):
                work.done.set_result(outcome.result)
            else:
                work.done.set_exception(outcome)

    def _transact(self, works: list[_Work]) -> "list[_Done | BaseException]":
        """What became of each work, once that is durable. Raises what befell them all."""
        outcomes: list[_Done | BaseException] = []
        with self._database.reading() as connection, transaction(connection):
            now, size = int(self._clock()), log.size(connection)
            entries: list[Entry] = []
            for work in works:
                change = Change(connection, now, size + len(entries))
                connection.execute("SAVEPOINT work")
                try:
                    with self._database.errors():
                        outcomes.append(_Done(work.do(change)))
                except BaseException as error:  # it belongs to whoever submitted the work
                    if not connection.in_transaction:
                        raise  # a full or failing disk: SQLite has given up the works before this one, too
                    connection.execute("ROLLBACK TO work")
                    outcomes.append(error)
                else:
                    entries += change._entries
                connection.execute("RELEASE work")
            edge = None
            if entries:
                before = self._edge if self._edge.size == size else Edge.read(connection, size)
                edge = log.append(connection, before, entries, now)
                log.put_checkpoint(connection, edge.size, self._sign(edge.size, edge.root()), now)
        if edge is not None:
            self._edge = edge
        return outcomes
