"""Deliveries: what is served is counted before it is served, on every grant of the chain. SPEC.md section 17.

A fetch is counted, and the first window of its bytes reserved, in the transaction of the decision; each next window
while the one before it is served. What was reserved and not served is given back at the end. The rules it keeps: no
byte goes out that is not counted on the disk; a limit is never passed, however many streams there are; a crash charges
up to a window a stream too much, never too little. What it is not: a judge of who may fetch (node.policy).

    serving = deliveries.serving(peer, id, version, held, units)
    ticket = audit.decided(decision, serving.open)
    for message, length in frames(serving.pieces()): serving.sent(length)
    audit.finish(ticket, serving.close)
"""

import secrets
import threading
from collections import deque
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Protocol

from hanse import limits, wire_papers
from hanse.errors import DeliveryClosed, InvalidInput, LimitExceeded, ReceiptsOwed, Revoked, UsedUp
from hanse.evidence.evidence import Evidence
from hanse.evidence.parts import completed
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage import papers
from hanse.evidence.storage.deliveries import Row, State
from hanse.evidence.writer import Change
from hanse.model.identifier import Prefix
from hanse.model.papers import NONCE_BYTES, Delivered, Grant, Receipt
from node.storage.catalog import StoredVersion
from node.streams import Piece


@dataclass(slots=True)
class Unit:
    """What is counted together: an element (``chunks`` 0), or a run of chunks of one that has ``of`` chunks in all.

    ``piece`` is None when there is nothing to be read.
    """

    element: int
    length: int
    piece: Piece | None
    first_chunk: int = 0
    chunks: int = 0
    chunk_size: int = 0
    of: int = 0


PART_BYTES = limits.ACCOUNT_WINDOW_BYTES // 2
"""Counted at once: what is being served and what is counted ahead are a window together."""


class Used(Protocol):
    """A grant that is used, and those above it; the owner's first."""

    @property
    def chain(self) -> tuple[Grant, ...]: ...
    @property
    def digests(self) -> tuple[bytes, ...]: ...


@dataclass(slots=True)
class _Window:
    units: list[Unit]
    length: int
    parts: list[Delivered]
    end: int = 0  # bytes of the stream up to here


@dataclass(slots=True, eq=False)
class _Shared:
    """One delivery while streams of it are open in this process. Changed by the evidence's writer alone."""

    peer: str
    id: bytes
    receipt: Receipt | None = None  # what is known of it but for what was served
    served: tuple[Delivered, ...] = ()  # by streams that ended
    size: int = 0  # bytes that went out on them
    counts: dict[int, int] = field(default_factory=dict)  # chunks of the elements that are served by chunks
    open: "set[Serving]" = field(default_factory=set)
    streams: int = 0


class Deliveries:
    """Those of one node. Safe to share between threads."""

    def __init__(
        self, evidence: Evidence, owner: Prefix, owed_bytes: int | None = None, *, receipts: bool = True
    ) -> None:
        """``owed_bytes``: a peer that was served more than that without signing for it is refused.

        Without ``receipts``, only what goes under a grant is a delivery: its use is counted.
        """
        self.evidence = evidence
        self.owner = owner
        self.owed_bytes = owed_bytes if receipts else None
        self.receipts = receipts
        self._lock = threading.Lock()
        self._open: dict[tuple[str, bytes], _Shared] = {}

    def serving(
        self,
        peer: Prefix,
        id: bytes,
        version: StoredVersion,
        held: Used | None,
        units: Iterable[Unit],
        *,
        at_once: bool = False,
    ) -> "Serving":
        """One stream of a delivery; an empty ``id`` is a delivery of its own. To be left at the end.

        ``at_once``: of one window, counted as served when it is opened, and given back if it could not be. Reads the
        first units. Raises InvalidInput, and what ``units`` raises.
        """
        if id and len(id) != NONCE_BYTES:
            raise InvalidInput(f"a delivery is named by {NONCE_BYTES} bytes")
        name = id or secrets.token_bytes(NONCE_BYTES)
        return Serving(self, str(peer), name, version, held, iter(units), at_once=at_once)

    def is_open(self, row: Row) -> bool:
        """Whether a stream of it is running."""
        with self._lock:
            return (row.peer, row.id) in self._open

    def _enter(self, peer: str, id: bytes) -> _Shared:
        with self._lock:
            shared = self._open.setdefault((peer, id), _Shared(peer, id))
            shared.streams += 1
            return shared

    def _leave(self, shared: _Shared) -> None:
        with self._lock:
            shared.streams -= 1
            if not shared.streams:
                del self._open[shared.peer, shared.id]


class Serving:
    """One stream. ``open`` and ``close`` run inside a change; the rest in the thread that serves."""

    def __init__(
        self,
        deliveries: Deliveries,
        peer: str,
        id: bytes,
        version: StoredVersion,
        held: Used | None,
        units: Iterator[Unit],
        *,
        at_once: bool = False,
    ) -> None:
        self._at_once = at_once
        self._deliveries, self._version, self._held, self._units = deliveries, version, held, units
        self._windows: deque[_Window] = deque()  # counted, and not known to be served whole
        self._done: tuple[Delivered, ...] = ()
        self._before: tuple[Delivered, ...] = ()  # it ended
        self._reserved = self._sent = 0  # bytes of this stream
        self._first = self._take()
        self._left = False
        self._shared = deliveries._enter(peer, id)

    def open(self, change: Change) -> None:
        """Begins the delivery or goes on with it.

        Raises UsedUp, Revoked, ReceiptsOwed, DeliveryClosed, InvalidInput, LimitExceeded.
        """
        shared = self._shared
        row = table.get(change.connection, shared.id, ours=False, peer=shared.peer)
        if row is None:
            self._check_owed(change)
            shared.receipt = self._begin(change)
        else:
            self._check(row, change.now)
            if not shared.open:
                # What was reserved when a process ended stays counted: it may have been served.
                receipt = wire_papers.decode_receipt(row.delivered)
                shared.receipt, shared.served, shared.size = receipt, receipt.delivered, row.size + row.reserved
        self._reserve(change, self._first, int(row is None))
        if self._at_once:
            self._sent = self._reserved
            self._end()
        self._write(change, new=row is None)

    def pieces(self) -> Iterator[Piece]:
        """What is to be read, each only when it is counted. Raises UsedUp, Revoked, DeliveryClosed, StorageFailed."""
        window: _Window | None = self._first
        while window is not None:
            following = self._take()
            counted = None
            if following.units:
                counted = self._deliveries.evidence.writer.submit(
                    lambda change, following=following: self._go_on(change, following)  # type: ignore[misc]
                )
            for unit in window.units:
                if unit.piece is not None:
                    yield unit.piece
            window = None
            if counted is not None:
                counted.result()
                window = following

    def sent(self, length: int) -> None:
        """So many bytes go out."""
        self._sent += length

    @property
    def size(self) -> int:
        """Bytes that are known to be served when it is opened."""
        return self._first.length if self._at_once else 0

    def give_back(self, change: Change) -> None:
        """Nothing of what was counted as served at once could be."""
        shared = self._shared
        if self._held is not None:
            papers.use(change.connection, self._held.digests, 0, -self._sent)
        shared.size -= self._sent
        shared.served = self._before
        self._write(change)

    def close(self, change: Change) -> None:
        """Keeps what was served, gives back what was not."""
        shared = self._shared
        if self not in shared.open:
            return
        if self._held is not None:
            papers.use(change.connection, self._held.digests, 0, self._sent - self._reserved)
        self._end()
        self._write(change)

    def _end(self) -> None:
        shared = self._shared
        self._before = shared.served
        shared.served = completed([*shared.served, *self._served()], shared.counts)
        shared.size += self._sent
        shared.open.discard(self)

    def leave(self, *, failed: bool = False) -> None:
        """After ``close`` was submitted, or with ``failed`` when ``open`` was not committed. Twice does no harm."""
        if not self._left:
            self._left = True
            if failed:
                self._shared.open.discard(self)
            self._deliveries._leave(self._shared)

    def _begin(self, change: Change) -> Receipt:
        version, held = self._version, self._held
        return Receipt(
            self._shared.id,
            self._deliveries.owner,
            Prefix(self._shared.peer),
            version.object,
            version.version,
            version.record.digest,
            held.digests[-1] if held else b"",
            held.chain[-1].conditions.purposes if held else (),
            (),
            0,
            change.now,
            change.now,
        )

    def _check_owed(self, change: Change) -> None:
        limit = self._deliveries.owed_bytes
        if limit is None:
            return
        owed = table.owed(change.connection, self._shared.peer)
        if owed > limit:
            raise ReceiptsOwed(
                f"{self._shared.peer} was served {owed:,} bytes that it has not signed for, and may owe {limit:,}: "
                "`hanse receipts --settle` signs what waits"
            )

    def _check(self, row: Row, now: int) -> None:
        grant = self._held.digests[-1] if self._held else b""
        if (row.object, row.version, row.grant) != (self._version.object.key, self._version.version, grant):
            raise InvalidInput("a delivery is of one version of one object, under one grant")
        if row.state is State.SETTLED:
            raise DeliveryClosed("this delivery is settled: a fetch of more is another delivery")
        if row.started_at + limits.DELIVERY_LIFE <= now:
            raise DeliveryClosed("this delivery began too long ago: a fetch of more is another delivery")

    def _go_on(self, change: Change, window: _Window) -> None:
        shared = self._shared
        if table.state(change.connection, shared.id, ours=False, peer=shared.peer) is State.SETTLED:
            raise DeliveryClosed("this delivery is settled: a fetch of more is another delivery")
        self._reserve(change, window, 0)
        self._write(change)

    def _reserve(self, change: Change, window: _Window, fetches: int) -> None:
        """Counts a window. When it is refused, or its commit fails, the stream ends."""
        shared = self._shared
        so_far = shared.size + sum(each._reserved for each in shared.open)
        if so_far + window.length > 2 * self._version.total_bytes + limits.ACCOUNT_WINDOW_BYTES:
            raise DeliveryClosed("this delivery was sent twice over: a fetch of more is another delivery")
        if self._held is not None:
            _count(change, self._held, fetches, window.length)
        shared.counts.update((unit.element, unit.of) for unit in window.units if unit.chunks)
        shared.open.add(self)
        self._reserved += window.length
        window.end = self._reserved
        self._windows.append(window)
        while len(self._windows) > 1 and self._windows[0].end <= self._sent:
            self._done = completed([*self._done, *self._windows.popleft().parts], shared.counts)

    def _write(self, change: Change, *, new: bool = False) -> None:
        """The row as it is: what was served, and what is counted ahead as if it were."""
        shared = self._shared
        assert shared.receipt is not None  # noqa: S101 - opened first
        parts, sent, reserved = list(shared.served), 0, 0
        for each in shared.open:
            parts += each._done
            parts += [part for window in each._windows for part in window.parts]
            sent, reserved = sent + each._sent, reserved + each._reserved
        served = completed(parts, shared.counts)
        if len(served) > limits.DELIVERY_PARTS:
            raise LimitExceeded(f"a delivery has at most {limits.DELIVERY_PARTS} separate parts: fetch them in several")
        size = shared.size + sent
        receipt = replace(shared.receipt, delivered=served, ended_at=max(change.now, shared.receipt.started_at))
        state = State.RUNNING if shared.open else State.ENDED if size else State.EMPTY
        delivered, ahead = wire_papers.encode_receipt(receipt), reserved - sent
        if not new:
            table.moved(change.connection, shared.id, shared.peer, delivered, size, ahead, change.now, state)
            return
        version = self._version
        table.put(
            change.connection,
            Row(
                shared.id, False, shared.peer, version.object.key, version.version, receipt.grant, delivered, size,
                ahead, receipt.started_at, change.now, state, owed=size + ahead,
            ),
        )  # fmt: skip

    def _served(self) -> list[Delivered]:
        """What went out whole; of a run of chunks, those that did."""
        found = list(self._done)
        for window in self._windows:
            if window.end <= self._sent:
                found += window.parts
                continue
            at, whole = window.end - window.length, []
            for unit in window.units:
                if at + unit.length > self._sent:
                    chunks = (self._sent - at) // unit.chunk_size if unit.chunks else 0
                    if chunks:
                        whole.append(replace(unit, chunks=chunks))
                    break
                whole.append(unit)
                at += unit.length
            return [*found, *_parts(whole)]
        return found

    def _take(self) -> _Window:
        units: list[Unit] = []
        length = 0
        while length < PART_BYTES and len(units) < limits.ACCOUNT_WINDOW_UNITS:
            unit = next(self._units, None)
            if unit is None:
                break
            units.append(unit)
            length += unit.length
        return _Window(units, length, _parts(units))


def _count(change: Change, held: Used, fetches: int, size: int) -> None:
    """Counts on each grant of the chain, or on none."""
    if papers.use(change.connection, held.digests, fetches, size, unrevoked=True) != len(held.chain):
        raise Revoked("the grant was revoked: ask for another with `hanse request`")
    for grant, digest in zip(held.chain, held.digests, strict=True):
        conditions = grant.conditions
        if conditions.max_fetches is None and conditions.max_bytes is None:
            continue
        used_fetches, used_bytes = table.used(change.connection, digest)
        if conditions.max_fetches is not None and fetches and used_fetches > conditions.max_fetches:
            raise UsedUp(f"the grant allows {conditions.max_fetches:,} fetches, and all of them were used")
        if conditions.max_bytes is not None and used_bytes > conditions.max_bytes:
            left = max(0, conditions.max_bytes - used_bytes + size)
            raise UsedUp(f"the grant allows {conditions.max_bytes:,} bytes, and {left:,} of them are left")


def _parts(units: Iterable[Unit]) -> list[Delivered]:
    """Neighbours joined."""
    found: list[list[int]] = []  # element, elements, first chunk, chunks
    for unit in units:
        if found:
            last = found[-1]
            if not unit.chunks and last[1] and last[0] + last[1] == unit.element:
                last[1] += 1
                continue
            if unit.chunks and not last[1] and last[0] == unit.element and last[2] + last[3] == unit.first_chunk:
                last[3] += unit.chunks
                continue
        found.append([unit.element, 0 if unit.chunks else 1, unit.first_chunk, unit.chunks])
    return [Delivered(*each) for each in found]
