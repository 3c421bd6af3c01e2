"""One pass over the bytes: a leaf hash of every chunk, and SHA-256 of the whole.

Both are hashes of the same buffers. Of a long file a thread makes the one and a thread the other while a third
reads; short files are hashed in batches, a thread a batch, because handing over costs more than hashing them.
A file that changes while it is read is refused, never hashed as a mixture.

    with Hasher(walk, meter) as hasher:
        for hashed in hasher.hash(walk): ...
"""

import os
import queue
import stat
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as FutureTimeout
from hashlib import sha256
from typing import NamedTuple

from hanse import limits, merkle
from hanse.errors import SourceChanged
from hanse.model.manifest import ElementName
from node.progress import INTERVAL, Meter
from node.sources.fingerprint import Fingerprint
from node.sources.walking import Found, OpenFolder, Walk, unreadable

CHUNK = limits.CHUNK_BYTES
LONG = 16 * CHUNK  # from here on two threads hash one file
BUFFERS = 8  # chunks that are read ahead of the slower hash
BATCH_FILES = 128
BATCH_FOLDERS = 16  # each is an open descriptor


class Hashed(NamedTuple):
    """What a manifest and the catalog need to know of a file. ``leaves`` is empty if there is at most one chunk.

    ``settled``: whether every later change of the file shows in its fingerprint.
    """

    name: ElementName
    fingerprint: Fingerprint
    executable: bool
    merkle_root: bytes
    sha256: bytes
    leaves: bytes
    settled: bool


class Stopped(Exception):
    """The work was given up by whoever asked for it."""


class _Batch:
    """Files that one thread hashes after another; ``bytes_read`` is how far it is."""

    __slots__ = ("bytes_read", "files")

    def __init__(self, files: list[Found | Hashed]) -> None:
        self.files = files
        self.bytes_read = 0


_CUT = (b"", b"", b"")  # the file ended early


class Hasher:
    """Hashes the files of one source with ``workers`` threads. Close it; it stops what is under way."""

    def __init__(
        self, walk: Walk, meter: Meter, workers: int | None = None, clock: Callable[[], float] = time.time
    ) -> None:
        self._walk = walk
        self._meter = meter
        self._clock = clock
        self._workers = workers or min(4, os.cpu_count() or 1)
        self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="hash")
        self._stop = threading.Event()
        self._spare: list[memoryview] = []

    def __enter__(self) -> "Hasher":
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._pool.shutdown(cancel_futures=True)

    def hash(self, found: Iterable[Found | Hashed]) -> Iterator[Hashed]:
        """In the order in which they are found. What is already hashed passes through.

        Raises SourceChanged, InvalidInput; the message names the path, for the owner.
        """
        waiting: deque[tuple[_Batch, Future[list[Hashed]]]] = deque()
        for files in _batches(found):
            batch = _Batch(files)
            waiting.append((batch, self._pool.submit(self._batch, batch)))
            while len(waiting) > 2 * self._workers:
                yield from self._result(waiting)
        while waiting:
            yield from self._result(waiting)
        self._meter.show(at_once=True)

    def _result(self, waiting: "deque[tuple[_Batch, Future[list[Hashed]]]]") -> list[Hashed]:
        while True:
            try:
                results = waiting[0][1].result(timeout=INTERVAL)
                break
            except FutureTimeout:
                self._meter.show(sum(batch.bytes_read for batch, _ in waiting))
        waiting.popleft()
        self._meter.done(sum(each.fingerprint.size for each in results), len(results))
        self._meter.show(sum(batch.bytes_read for batch, _ in waiting))
        return results

    def _batch(self, batch: _Batch) -> list[Hashed]:
        try:
            buffer = self._spare.pop()
        except IndexError:
            buffer = memoryview(bytearray(1 + CHUNK))
        try:
            return [each if isinstance(each, Hashed) else self._file(each, buffer, batch) for each in batch.files]
        finally:
            self._spare.append(buffer)

    def _file(self, found: Found, buffer: memoryview, batch: _Batch) -> Hashed:
        if self._stop.is_set():
            raise Stopped
        now = int(self._clock() * 1_000_000_000)
        try:
            fd = found.open()
            try:
                status = os.fstat(fd)
                if not stat.S_ISREG(status.st_mode):
                    self._changed(found)
                size = status.st_size
                before = Fingerprint.of(status)
                if size <= CHUNK:
                    root, whole, leaves = _short(fd, size, buffer)
                elif size < LONG:
                    root, whole, leaves = self._serial(fd, size, buffer)
                else:
                    root, whole, leaves = self._parallel(fd, size, batch)
                if not whole or Fingerprint.of(os.fstat(fd)) != before:
                    self._changed(found)
            finally:
                os.close(fd)
            batch.bytes_read += size
        except OSError as error:
            unreadable(self._walk.where(found.name.text), error)
        return Hashed(found.name, before, bool(status.st_mode & 0o111), root, whole, leaves, before.is_settled(now))

    def _changed(self, found: Found) -> None:
        raise SourceChanged(
            f"{self._walk.where(found.name.text)} changed while it was read: run it again when nobody writes to it"
        )

    def _serial(self, fd: int, size: int, buffer: memoryview) -> tuple[bytes, bytes, bytes]:
        whole = sha256()
        leaves = bytearray()
        for offset in range(0, size, CHUNK):
            if self._stop.is_set():
                raise Stopped
            view = buffer[: 1 + min(CHUNK, size - offset)]
            if not _read_exactly(fd, view[1:], offset):
                return _CUT
            leaves += sha256(view).digest()
            whole.update(view[1:])
        return _root(leaves), whole.digest(), bytes(leaves)

    def _parallel(self, fd: int, size: int, batch: _Batch) -> tuple[bytes, bytes, bytes]:
        os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        ring = [memoryview(bytearray(1 + CHUNK)) for _ in range(BUFFERS)]
        whole, leaves = sha256(), bytearray()
        lanes = (
            _Lane(lambda view: whole.update(view[1:])),
            _Lane(lambda view: leaves.extend(sha256(view).digest())),
        )
        before = batch.bytes_read
        try:
            for index, offset in enumerate(range(0, size, CHUNK)):
                if self._stop.is_set():
                    raise Stopped
                for lane in lanes:
                    lane.wait_for_buffer()
                view = ring[index % BUFFERS][: 1 + min(CHUNK, size - offset)]
                if not _read_exactly(fd, view[1:], offset):
                    return _CUT
                for lane in lanes:
                    lane.put(view)
                batch.bytes_read = before + offset
        finally:
            for lane in lanes:
                lane.finish()
        batch.bytes_read = before
        return _root(leaves), whole.digest(), bytes(leaves)


class _Lane:
    """A thread that hashes buffers of a ring in their order."""

    def __init__(self, work: Callable[[memoryview], object]) -> None:
        self._work = work
        self._free = threading.Semaphore(BUFFERS)
        self._queue: queue.SimpleQueue[memoryview | None] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._run, name="hash")
        self._thread.start()

    def _run(self) -> None:
        while (view := self._queue.get()) is not None:
            self._work(view)
            self._free.release()

    def wait_for_buffer(self) -> None:
        self._free.acquire()

    def put(self, view: memoryview) -> None:
        self._queue.put(view)

    def finish(self) -> None:
        self._queue.put(None)
        self._thread.join()


def _short(fd: int, size: int, buffer: memoryview) -> tuple[bytes, bytes, bytes]:
    if size == 0:
        return merkle.EMPTY_ROOT, merkle.EMPTY_ROOT, b""
    view = buffer[: 1 + size]  # begins with the byte 0, RFC 6962's mark of a leaf
    content = view[1:]
    if not _read_exactly(fd, content, 0):
        return _CUT
    return sha256(view).digest(), sha256(content).digest(), b""


def _read_exactly(fd: int, view: memoryview, offset: int) -> bool:
    """Whether there was as much as the view holds."""
    done = os.preadv(fd, [view], offset)
    while done < len(view):
        count = os.preadv(fd, [view[done:]], offset + done)
        if count == 0:
            return False
        done += count
    return True


def _root(leaves: bytearray) -> bytes:
    return merkle.root(bytes(leaves[at : at + merkle.HASH_BYTES]) for at in range(0, len(leaves), merkle.HASH_BYTES))


def _batches(found: Iterable[Found | Hashed]) -> Iterator[list[Found | Hashed]]:
    batch: list[Found | Hashed] = []
    folders: set[OpenFolder] = set()
    for each in found:
        batch.append(each)
        if isinstance(each, Found):
            folders.add(each.folder)
        if len(batch) == BATCH_FILES or len(folders) == BATCH_FOLDERS:
            yield batch
            batch, folders = [], set()
    if batch:
        yield batch
