"""From an identifier to files on this disk: what arrives is what the owner signed, or nothing does.

Every chunk is verified before it is written, under a temporary name beside the target; what was verified is not
sent again after an interruption of either side. Elements of up to _WHOLE_BYTES come many at a time, so that a
folder of small files costs no round trip each. SPEC.md section 10.

    fetch(resolver, Identifier.parse("86.north/trial-7"), Path("trial-7"), streams=2, report=print)
"""

import contextlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import TypeVar

from hanse import limits
from hanse.client.content import FIRST_PATIENCE, Description, describe
from hanse.client.durable import WriteBack
from hanse.client.naming import target_path
from hanse.client.partial import Partial, Place, remove_leftover
from hanse.client.peer import Peer
from hanse.client.pieces import Chunks, Piece, Whole, spans
from hanse.client.progress import Patience, Progress, Report
from hanse.client.receipts import Receipts, Session
from hanse.client.resolve import Resolver
from hanse.client.settling import Outcome
from hanse.client.transfer import Incoming, take_chunk, take_element, write
from hanse.client.verify import differences, holds, read_at
from hanse.errors import (
    Conflict,
    DeliveryClosed,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotPermitted,
    ReceiptsOwed,
    Unreachable,
    Withdrawn,
    WrongContent,
)
from hanse.files import storage_errors
from hanse.merkle import HASH_BYTES, leaf_hash, root
from hanse.model.identifier import Identifier
from hanse.model.keys import KeyId
from hanse.model.lease import Lease
from hanse.model.manifest import Element
from hanse.model.papers import Delivered
from hanse.rpc.allocation import keep_large_buffers
from hanse.vault.leasing import Leasing

T = TypeVar("T")
PATIENCE = 60.0  # seconds without progress after which a running fetch gives up
MAX_STREAMS = 32
_WHOLE_BYTES = 4 * limits.MIB  # held in memory, verified whole; larger ones need their chunks' hashes first
_JOB_BYTES = 1024 * limits.MIB
_MIN_JOB_BYTES = 16 * limits.MIB
_JOB_ELEMENTS = 8192
_HASHES_AHEAD = 8
_NOTE_BYTES = 1 * limits.MIB  # small files between two lines of the journal
_WRITE_BACK_BYTES = 16 * limits.MIB
_REPORT_SECONDS = 0.1
_MOST_DELIVERIES = 8  # of one run: an owner that closes each at once is not humoured for ever


@dataclass(frozen=True, slots=True)
class Fetched:
    """What is at ``path`` now. ``resumed_bytes`` were there; ``already_there``: all of it, under its name.

    ``signed_by`` is the key with which the owner signed the record of this version. With a ``lease``, ``path`` is the
    vault's folder, where all is sealed. ``receipt`` None: nothing was delivered now, or no receipts are made.
    """

    path: Path
    id: Identifier
    version: int
    signed_by: KeyId
    elements: int
    total_bytes: int
    transferred_bytes: int
    resumed_bytes: int = 0
    already_there: bool = False
    lease: Lease | None = None
    receipt: Outcome | None = None


def fetch(
    resolver: Resolver,
    identifier: Identifier,
    to: Path | None = None,
    *,
    elements: Sequence[str] = (),
    version: int = 0,
    streams: int = 1,
    report: Report | None = None,
    patience: float = PATIENCE,
    lease: Leasing | None = None,
    grant: bytes = b"",
    receipts: Receipts | None = None,
) -> Fetched:
    """Fetches an object, or the named elements of it: one element to a file, several to a folder.

    ``to`` is the file or folder to make (a file goes into a folder that exists); None is the object's own name in
    the current folder. With a ``lease``, it goes into the vault instead. Version 0 is the newest. Raises Conflict
    when there is something else at the target, NoSpace, what the owner's policy says, Unreachable when it does not
    answer for long, VerificationFailed.
    """
    keep_large_buffers()
    if not 1 <= streams <= MAX_STREAMS:
        raise LimitExceeded(f"a fetch has 1 to {MAX_STREAMS} streams")
    if version < 0:
        raise InvalidInput("a version is 1 or more; 0 is the newest")
    # The registry says whether it was withdrawn and which version is the newest; the owner's node has the rest.
    try:
        resolver.record(identifier)
    except Unreachable:
        pass
    except NotFound as error:
        if not grant or isinstance(error, Withdrawn):
            raise  # else it may be unlisted, and known to its owner and to whom it gave a grant
    with (
        resolver.peer(identifier.prefix) as peer,
        describe(
            resolver, peer, identifier, version, patience=min(FIRST_PATIENCE, patience), grant=grant
        ) as description,
    ):
        chosen = description.select(elements) if elements else None
        single = len(chosen) == 1 if chosen is not None else description.manifest.single_file
        target = target_path(identifier, description, chosen, to, single=single) if lease is None else lease.folder
        return _Fetch(
            resolver, peer, description, chosen, target, single, streams, report, patience, lease, grant, receipts
        ).run()


class _Fetch:
    """One run. Workers take jobs, which are made as they are needed; the first error ends all of them."""

    def __init__(
        self,
        resolver: Resolver,
        peer: Peer,
        description: Description,
        chosen: dict[int, Element] | None,
        target: Path,
        single: bool,
        streams: int,
        report: Report | None,
        patience: float,
        lease: Leasing | None,
        grant: bytes,
        receipts: Receipts | None,
    ) -> None:
        manifest = description.manifest
        self._resolver, self._peer, self._description = resolver, peer, description
        self._id, self._version = manifest.id, manifest.version
        self._chosen, self._target, self._single = chosen, target, single
        self._streams, self._report, self._patience, self._lease = streams, report, patience, lease
        self._grant, self._receipts = grant, receipts
        self._deliveries, self._paid = 1, False
        self._total = manifest.total_bytes if chosen is None else sum(each.length for each in chosen.values())
        self._count = manifest.element_count if chosen is None else len(chosen)
        self._done_bytes = self._done_elements = self._resumed = 0
        self._reported = 0.0
        self._remaining: dict[int, int] = {}  # chunks of large elements that are being fetched
        self._lock, self._planning, self._renewing = threading.Lock(), threading.Lock(), threading.Lock()
        self._stop = threading.Event()
        self._failure: BaseException | None = None
        self._active: set[Incoming] = set()

    def run(self) -> Fetched:
        if self._lease is not None:
            kept = self._lease.kept(self._description, self._chosen)
            if kept is not None:
                return replace(self._fetched(0, 0, already_there=True), lease=kept)
            place = self._lease.begin(self._description, self._chosen)
            fetched = self._fill(place)
            return replace(fetched, path=place.target, lease=place.lease)
        if os.path.lexists(self._target) and not self._gives_way():
            return self._compare()
        chosen = b"".join(index.to_bytes(8, "big") for index in sorted(self._chosen or ()))
        name = sha256(b"hanse-journal-1\n" + self._description.manifest_digest + chosen).digest()
        return self._fill(Partial(self._target, name, single=self._single))

    def _fill(self, partial: Place) -> Fetched:
        try:
            self._partial = partial
            claimed = self._claimed()
            partial.need(max(0, self._total - claimed), self._count)
            self._session = self._first_session = self._begin(partial)
            self._write_back = WriteBack(_WRITE_BACK_BYTES)
            try:
                self._transfer_all()
            except NotPermitted:
                self._session.end()  # it cannot go on: what came is signed for as it is
                raise
            except Unreachable as error:
                if not self._done_bytes:
                    raise
                raise type(error)(
                    f"{error}. {self._done_bytes:,} of {self._total:,} bytes are verified and kept: the same again "
                    "goes on from there"
                ) from None
            finally:
                self._write_back.close()
            if (self._done_elements, self._done_bytes) != (self._count, self._total):
                raise WrongContent(f"the elements of {self._id} did not all arrive")
            self._session.keep()
            partial.finish()
        finally:
            partial.close()
        fetched = self._fetched(self._total - self._resumed, self._resumed)
        return replace(fetched, receipt=self._session.settle())

    def _begin(self, partial: Place) -> Session:
        """The delivery that an earlier attempt began, or another."""
        record, begun = self._description.record, partial.journal.delivery
        if self._receipts is not None:
            session = self._receipts.session(record, self._grant, begun)
        else:
            session = Session(None, record, self._grant, begun)
        if session.begun != begun:
            partial.journal.began(session.begun)
        return session

    def _gives_way(self) -> bool:
        """An empty folder is no content that could be lost: a folder that is fetched takes its place."""
        if self._single or not self._target.is_dir() or self._target.is_symlink() or self._count == 0:
            return False
        with storage_errors(str(self._target)):
            return next(os.scandir(self._target), None) is None

    def _compare(self) -> Fetched:
        if (self._single and self._target.is_dir()) or (not self._single and not self._target.is_dir()):
            raise Conflict(f"{self._target} is there already: move it away, or choose another place with -o")
        found = differences(self._target, self._description, self._chosen, self._report)
        if found:
            raise Conflict(
                f"{self._target} is there already and differs from version {self._version} of {self._id} in "
                f"{len(found)} file{'s' * (len(found) > 1)}: move it away, or choose another place with -o"
            )
        remove_leftover(self._target)
        return self._fetched(0, 0, already_there=True)

    def _fetched(self, transferred: int, resumed: int, *, already_there: bool = False) -> Fetched:
        return Fetched(
            self._target,
            self._id,
            self._version,
            self._description.record.signed_by,
            self._count,
            self._total,
            transferred,
            resumed,
            already_there,
        )

    def _claimed(self) -> int:
        """Bytes that the journal says are there."""
        journal, total = self._partial.journal, 0
        if journal.elements or journal.chunks:
            for index, element in self._elements():
                if index in journal.elements:
                    total += element.length
                elif index in journal.chunks:
                    total += len(journal.chunks[index]) * element.chunk_size
        return total

    # What is to be fetched.

    def _elements(self) -> Iterable[tuple[int, Element]]:
        return self._description.elements() if self._chosen is None else sorted(self._chosen.items())

    def _plan(self, pool: ThreadPoolExecutor) -> Iterator[Piece]:
        """What is missing, in order. What the journal claims is hashed again; hashes of chunks are asked for ahead."""
        ahead: deque[tuple[int, Element, Future[bytes] | None]] = deque()
        asked = 0
        for index, element in self._elements():
            large = element.length > _WHOLE_BYTES
            ahead.append((index, element, pool.submit(self._hashes, index, element) if large else None))
            asked += large
            while ahead and (ahead[0][2] is None or asked > _HASHES_AHEAD):
                asked -= ahead[0][2] is not None
                yield from self._missing(*ahead.popleft())
        while ahead:
            yield from self._missing(*ahead.popleft())

    def _missing(self, index: int, element: Element, hashes: Future[bytes] | None) -> Iterator[Piece]:
        if hashes is None:
            if index in self._partial.journal.elements and self._is_there(index, element):
                if self._first_session.resumes and (index, -1) not in self._partial.journal.earlier:
                    self._first_session.verified(Delivered(index, 1), element.length)
                self._advance(element.length, 1, resumed=element.length)
            else:
                yield Whole(index, element)
            return
        leaves = hashes.result()
        self._partial.keep_leaves(index, leaves)
        there = self._chunks_there(index, element, leaves)
        missing = [chunk for chunk in range(element.chunk_count) if chunk not in there]
        bytes_there = sum(element.chunk_length(chunk) for chunk in there)
        if self._first_session.resumes:
            for chunk in sorted(there):
                if (index, chunk) not in self._partial.journal.earlier:
                    self._first_session.verified(
                        Delivered(index, 0, chunk, 1), element.chunk_length(chunk), element.chunk_count
                    )
        with self._lock:
            self._remaining[index] = len(missing)
        self._advance(bytes_there, 0, resumed=bytes_there)
        if not missing:
            self._complete(index, element)
        first = 0
        for at in range(1, len(missing) + 1):
            if at == len(missing) or missing[at] != missing[at - 1] + 1:
                yield Chunks(index, element, leaves, missing[first], at - first)
                first = at

    def _hashes(self, index: int, element: Element) -> bytes:
        found = self._patiently(
            lambda: self._peer.hashes(self._id, self._version, index, element.chunk_count, grant=self._grant)
        )
        if root(found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)) != element.merkle_root:
            raise WrongContent(f"the chunk hashes that the node of {self._id.prefix} sent are not those it signed")
        return found

    def _is_there(self, index: int, element: Element) -> bool:
        descriptor = self._partial.open(index, element)
        if descriptor is None:
            return False
        try:
            return holds(descriptor, element, lambda data, offset: self._partial.opened(index, data, offset))
        finally:
            os.close(descriptor)

    def _chunks_there(self, index: int, element: Element, leaves: bytes) -> set[int]:
        claimed = self._partial.journal.chunks.get(index)
        descriptor = self._partial.open(index, element) if claimed else None
        if not claimed or descriptor is None:
            return set()
        try:
            buffer = memoryview(bytearray(element.chunk_size))
            there = set()
            for chunk in sorted(claimed):
                if self._stop.is_set() or chunk >= element.chunk_count:
                    break
                view = buffer[: element.chunk_length(chunk)]
                leaf = leaves[chunk * HASH_BYTES : (chunk + 1) * HASH_BYTES]
                if read_at(descriptor, view, chunk * element.chunk_size):
                    self._partial.opened(index, view, chunk * element.chunk_size)
                    if leaf_hash(view) == leaf:
                        there.add(chunk)
            return there
        finally:
            os.close(descriptor)

    def _next_job(self, plan: Iterator[Piece]) -> deque[Piece]:
        """As much as one stream is asked for at once."""
        share = self._total // (4 * self._streams) if self._streams > 1 else _JOB_BYTES
        room = max(_MIN_JOB_BYTES, min(_JOB_BYTES, share))
        job: deque[Piece] = deque()
        with self._planning:
            while room > 0 and len(job) < _JOB_ELEMENTS:
                piece = self._put_back.pop() if self._put_back else next(plan, None)
                if piece is None:
                    break
                if isinstance(piece, Chunks) and piece.length > room:
                    count = max(1, room // piece.element.chunk_size)
                    if count < piece.count:
                        rest = Chunks(
                            piece.index, piece.element, piece.hashes, piece.first + count, piece.count - count
                        )
                        self._put_back.append(rest)
                        piece.count = count
                job.append(piece)
                room -= piece.length
        return job

    # The transfer.

    def _transfer_all(self) -> None:
        self._put_back: list[Piece] = []
        with ThreadPoolExecutor(2, "hanse-hashes") as pool:
            plan = self._plan(pool)
            workers = [
                threading.Thread(target=self._work, args=(number, plan), name=f"hanse-fetch-{number}", daemon=True)
                for number in range(self._streams)
            ]
            try:
                for worker in workers:
                    worker.start()
                for worker in workers:
                    worker.join()
            except BaseException:
                self._peer.end()  # what it waits for comes to an end
                raise
            finally:
                self._end()
                if self._failure is not None:
                    self._peer.end()
                for worker in workers:
                    worker.join()
                pool.shutdown(cancel_futures=True)
        if self._failure is not None:
            raise self._failure
        self._tell(final=True)

    def _work(self, number: int, plan: Iterator[Piece]) -> None:
        try:
            with contextlib.ExitStack() as stack:
                peer = self._peer if number == 0 else stack.enter_context(self._resolver.peer(self._id.prefix))
                while not self._stop.is_set() and (job := self._next_job(plan)):
                    self._patiently(lambda peer=peer, job=job: self._deliver(peer, job))  # type: ignore[misc]
        except BaseException as error:  # noqa: BLE001 - raised again by the thread that waits
            with self._lock:
                if self._failure is None and not self._stop.is_set():
                    self._failure = error
            self._end()

    def _end(self) -> None:
        self._stop.set()
        with self._lock:
            active = tuple(self._active)
        for incoming in active:
            incoming.cancel()

    def _patiently(self, attempt: Callable[[], T]) -> T:
        """Again and again while it is worth it; whatever arrives in between renews the patience."""
        patience = Patience(self._patience, self._stop.wait)
        while True:
            before = self._done_bytes
            try:
                return attempt()
            except Unreachable as error:
                if self._stop.is_set():
                    raise
                if self._done_bytes != before:
                    patience.progressed()
                patience.wait(error)

    def _deliver(self, peer: Peer, job: deque[Piece]) -> None:
        """In another delivery when the owner takes no more of this one; after signing when it waits for that."""
        while True:
            session = self._session
            try:
                return self._run_job(peer, job, session)
            except DeliveryClosed:
                with self._renewing:
                    if self._session is session:
                        self._deliveries += 1
                        if self._deliveries > _MOST_DELIVERIES:
                            raise
                        self._session = session.another()
                        self._partial.journal.began(self._session.begun)
            except ReceiptsOwed:
                if self._paid:
                    raise
                self._paid = True
                session.pay()

    def _run_job(self, peer: Peer, job: deque[Piece], session: Session) -> None:
        """One stream. What was done of the job is taken out of it, so that it can be run again."""
        if not job:
            return
        asked = sum(piece.length for piece in job)
        stream = peer.fetch(self._id, self._version, spans(job), grant=self._grant, delivery=session.delivery)
        incoming = Incoming(stream, asked)
        with self._lock:
            self._active.add(incoming)
        try:
            with storage_errors(str(self._target)):
                while job:
                    if self._stop.is_set():
                        return
                    if isinstance(job[0], Whole):
                        self._take_wholes(incoming, job, session)
                    else:
                        self._take_chunks(incoming, job, session)
            incoming.end()
        finally:
            with self._lock:
                self._active.discard(incoming)
            incoming.close()

    def _take_wholes(self, incoming: Incoming, job: deque[Piece], session: Session) -> None:
        """Consecutive small elements, until a line of the journal is due."""
        place, taken, length = self._partial, 0, 0
        first = job[0].index
        try:
            while job and length < _NOTE_BYTES:
                piece = job[0]
                if not isinstance(piece, Whole) or piece.index != first + taken:
                    break
                element = piece.element
                pieces = take_element(incoming, element)
                descriptor = place.create(piece.index, element, empty=True)
                try:
                    write(descriptor, place.sealed(piece.index, pieces, 0), 0)
                    place.date(descriptor, element)
                finally:
                    os.close(descriptor)
                job.popleft()
                taken += 1
                length += element.length
        finally:
            if taken:
                self._partial.journal.wrote_elements(first, taken)
                session.verified(Delivered(first, taken), length)
                self._advance(length, taken)

    def _take_chunks(self, incoming: Incoming, job: deque[Piece], session: Session) -> None:
        piece = job[0]
        assert isinstance(piece, Chunks)  # noqa: S101 - the caller looked
        element, hashes, size = piece.element, piece.hashes, piece.element.chunk_size
        journal, write_back, pending = self._partial.journal, self._write_back, 0
        descriptor = self._partial.create(piece.index, element)
        try:
            while piece.count and not self._stop.is_set():
                chunk = piece.first
                length = element.chunk_length(chunk)
                pieces = take_chunk(incoming, length, hashes[chunk * HASH_BYTES : (chunk + 1) * HASH_BYTES])
                write(descriptor, self._partial.sealed(piece.index, pieces, chunk * size), chunk * size)
                journal.wrote_chunks(piece.index, chunk, 1)
                session.verified(Delivered(piece.index, 0, chunk, 1), length, element.chunk_count)
                pending = write_back.wrote(descriptor, chunk * size, length, pending)
                piece.first += 1
                piece.count -= 1
                with self._lock:
                    self._remaining[piece.index] -= 1
                    complete = not self._remaining[piece.index]
                self._advance(length, 0)
                if complete:
                    self._complete(piece.index, element)
        finally:
            os.close(descriptor)
        if not piece.count:
            job.popleft()

    def _complete(self, index: int, element: Element) -> None:
        with self._lock:
            del self._remaining[index]
        descriptor = self._partial.create(index, element)
        try:
            if os.fstat(descriptor).st_size > element.length:  # bytes from an earlier, longer attempt
                os.ftruncate(descriptor, element.length)
            self._partial.date(descriptor, element)
        finally:
            os.close(descriptor)
        self._advance(0, 1)

    def _advance(self, length: int, elements: int, *, resumed: int = 0) -> None:
        with self._lock:
            self._done_bytes += length
            self._done_elements += elements
            self._resumed += resumed
        if self._report is not None:
            self._tell()

    def _tell(self, *, final: bool = False) -> None:
        now = time.monotonic()
        if self._report is not None and (final or now - self._reported >= _REPORT_SECONDS):
            self._reported = now
            self._report(Progress(self._done_bytes, self._total, self._done_elements, self._count, self._resumed))
