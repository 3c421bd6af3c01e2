"""Changes of evidence.db: many at once in one transaction, the log and its checkpoint with them.

One thread commits. Works that come while it commits are done together next, each within its own savepoint: one that
fails leaves nothing of itself and does not sink the others. ``change`` returns when its work is durable.

    position = evidence.change(lambda change: change.append(Kind.REVOCATION, payload))
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
from hanse.evidence.storage.log import Entry, Kind
from hanse.storage.database import Connection, Database, transaction

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

    def submit(self, work: Callable[[Change], T]) -> "Future[T]":
        """Done when ``work`` is durable. ``work`` must not wait for another change."""
        done: Future[T] = Future()
        done.set_running_or_notify_cancel()
        with self._lock:
            if self._closed:
                raise StorageFailed("the evidence is closed already")
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="evidence", daemon=True)
                self._thread.start()
            self._queue.put(_Work(work, done))
        return done

    def close(self) -> None:
        """Commits what was submitted. Twice does no harm."""
        with self._lock:
            self._closed, thread = True, self._thread
            if thread is not None:
                self._queue.put(None)
        if thread is not None:
            thread.join()

    def _run(self) -> None:
        ended = False
        while not ended:
            works: list[_Work] = []
            work = self._queue.get()
            while work is not None:
                works.append(work)
                if len(works) == GROUP or self._queue.empty():
                    break
                work = self._queue.get()
            ended = work is None
            if works:
                self._commit(works)

    def _commit(self, works: list[_Work]) -> None:
        results: list[tuple[_Work, Any, BaseException | None]] = []
        try:
            with self._database.reading() as connection, transaction(connection):
                now, size = int(self._clock()), log.size(connection)
                entries: list[Entry] = []
                for work in works:
                    change = Change(connection, now, size + len(entries))
                    connection.execute("SAVEPOINT work")
                    try:
                        result = work.do(change)
                    except Exception as error:  # noqa: BLE001 - it belongs to whoever submitted the work
                        connection.execute("ROLLBACK TO work")
                        results.append((work, None, error))
                    else:
                        results.append((work, result, None))
                        entries += change._entries
                    connection.execute("RELEASE work")
                if entries:
                    root = log.append(connection, size, entries, now)
                    log.put_checkpoint(connection, size + len(entries), self._sign(size + len(entries), root), now)
        except HanseError as error:
            results = [(work, None, error) for work in works]
        except Exception as error:  # noqa: BLE001 - whoever waits must not wait for ever
            failure = StorageFailed(f"the evidence cannot be written: {type(error).__name__}")
            results = [(work, None, failure) for work in works]
        for work, result, failed in results:
            if failed is not None:
                work.done.set_exception(failed)
            else:
                work.done.set_result(result)
