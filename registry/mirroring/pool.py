"""Checking in processes of their own, because one core verifies less than a registry can show.

Results come in the order in which messages were submitted. Each process knows the organizations as they are at the
place of its message: whatever earlier messages have of them is sent along. Nothing here decides: see checking.

    with Pool(authority, organizations, processes=2) as pool:
        first, second = pool.submit(message, 0), pool.submit(another, 256)
        first.result()
"""

import multiprocessing
import pickle
import queue
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from multiprocessing.connection import Connection
from typing import Self

from hanse.errors import HanseError, StorageFailed
from registry.mirroring.checking import Checker, Entry, organizations_in

_Task = tuple[bytes, int, int, Future[list[Entry]]]


class Pool:
    """To be closed. ``submit`` is for one thread."""

    def __init__(
        self, authority: bytes, organizations: Sequence[bytes], processes: int, clock: Callable[[], float] = time.time
    ) -> None:
        self._clock = clock
        self._news: list[bytes] = []  # organization records of all messages so far, in order
        self._tasks: queue.SimpleQueue[_Task | None] = queue.SimpleQueue()
        context = multiprocessing.get_context("spawn")  # gRPC's threads do not survive a fork
        self._processes = []
        self._threads = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, authority, tuple(organizations)), daemon=True)
            process.start()
            theirs.close()
            thread = threading.Thread(target=self._feed, args=(ours,), name="checking", daemon=True)
            thread.start()
            self._processes.append(process)
            self._threads.append(thread)

    def submit(self, message: bytes, after: int) -> Future[list[Entry]]:
        """See Checker.check."""
        future: Future[list[Entry]] = Future()
        self._tasks.put((message, after, len(self._news), future))
        self._news += organizations_in(message)
        return future

    def close(self) -> None:
        """What was submitted and has not begun is dropped."""
        while True:
            try:
                self._tasks.get_nowait()
            except queue.Empty:
                break
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join(10)
        for process in self._processes:
            process.join(1)
            if process.is_alive():
                process.kill()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _feed(self, connection: Connection) -> None:
        told = 0  # of the news
        with connection:
            while (task := self._tasks.get()) is not None:
                message, after, known, future = task
                try:
                    connection.send((self._news[told:known], message, after, int(self._clock())))
                    told = max(told, known)
                    error, found = pickle.loads(connection.recv_bytes())  # noqa: S301 - of our own process
                except (OSError, EOFError):
                    future.set_exception(StorageFailed("a process that checks entries ended: out of memory?"))
                    continue
                if error is not None:
                    future.set_exception(error)
                else:
                    future.set_result(found)


def _work(connection: Connection, authority: bytes, organizations: tuple[bytes, ...]) -> None:
    """Until the other end is closed."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # whoever started it ends it
    checker = Checker(authority, organizations)
    while True:
        try:
            news, message, after, now = connection.recv()
        except EOFError:
            return
        answer: tuple[HanseError | None, list[Entry]]
        try:
            checker.follow(news)
            answer = (None, checker.check(message, after, now))
        except HanseError as error:
            answer = (error, [])
        connection.send_bytes(pickle.dumps(answer, 5))
