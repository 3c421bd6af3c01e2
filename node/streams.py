"""The open streams of a node, and the messages of which they consist. SPEC.md section 10.4.

A message is made in one buffer: protobuf's header and then the file's bytes, read by the kernel to where they are
sent from. All streams together buffer at most STREAM_BUFFER_BYTES: a slow reader holds its own slot, little memory,
and nobody else up.

What it is not: a judge of who may read; ``Stream.end`` is how the judge stops one that runs.
"""

import io
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator
from dataclasses import dataclass, replace

from hanse import limits
from hanse.errors import HanseError, Overloaded, Unreachable
from hanse.model.identifier import Prefix
from node.sources.fingerprint import Fingerprint
from node.sources.opening import OpenElement, Opener

_DATA_FIELD = b"\x0a"  # FetchResponse.data: field 1, length-delimited
_SLOW_SECONDS = 5.0
_QUICK_SECONDS = 1.0


@dataclass(frozen=True, slots=True)
class Piece:
    """Consecutive bytes of one element; ``whole``: all of them."""

    name: str
    fingerprint: Fingerprint
    offset: int
    length: int
    whole: bool


def _varint(value: int) -> bytes:
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


class _Reader:
    """Keeps the element open that was read last: its next bytes are usually asked for next."""

    def __init__(self, opener: Opener) -> None:
        self._opener = opener
        self._name: str | None = None
        self._opened: OpenElement | None = None

    def read(self, piece: Piece, target: memoryview) -> None:
        if piece.whole:
            self._opener.read(piece.name, piece.fingerprint, target)
            return
        if self._opened is None or self._name != piece.name:
            self.close()
            self._opened, self._name = self._opener.open(piece.name, piece.fingerprint), piece.name
        self._opened.read_into(target, piece.offset)
        # After every read and not only at the end: what was read as a change happened is never sent.
        self._opened.check()

    def close(self) -> None:
        if self._opened is not None:
            self._opened.close()
            self._opened = None


def gathered(pieces: Iterable[Piece], opener: Opener) -> bytes:
    """All of them, which together are small. Raises SourceChanged."""
    content, reader = bytearray(), _Reader(opener)
    try:
        for piece in pieces:
            start = len(content)
            content += bytes(piece.length)
            with memoryview(content) as view, view[start:] as target:
                reader.read(piece, target)
    finally:
        reader.close()
    return bytes(content)


def frames(pieces: Iterable[Piece], opener: Opener, size: Callable[[], int]) -> Iterator[tuple[bytes, int]]:
    """Serialized FetchResponses, each with the number of data bytes in it. ``size`` is asked before each.

    Raises SourceChanged.
    """
    reader = _Reader(opener)
    try:
        for batch in _batches(pieces, size):
            length = sum(piece.length for piece in batch)
            header = _DATA_FIELD + _varint(length)
            # BytesIO hands its buffer out as bytes without a copy; bytes cannot be filled in place, it can.
            buffer = io.BytesIO()
            buffer.seek(len(header) + length - 1)
            buffer.write(b"\0")
            with buffer.getbuffer() as view:
                view[: len(header)] = header
                position = len(header)
                for piece in batch:
                    with view[position : position + piece.length] as target:
                        reader.read(piece, target)
                    position += piece.length
            yield buffer.getvalue(), length
    finally:
        reader.close()


def _batches(pieces: Iterable[Piece], size: Callable[[], int]) -> Iterator[list[Piece]]:
    """Small pieces together, large ones apart, so that each batch is about ``size()`` bytes."""
    batch: list[Piece] = []
    room = size()
    for piece in pieces:
        offset, left = piece.offset, piece.length
        while left:
            part = min(left, room)
            batch.append(piece if part == piece.length else replace(piece, offset=offset, length=part, whole=False))
            offset, left, room = offset + part, left - part, room - part
            if room == 0:
                yield batch
                batch, room = [], size()
    if batch:
        yield batch


class Stream:
    """One open stream: how far it is, and how it is to end. Made by Streams.open."""

    def __init__(
        self,
        peer: Prefix,
        cancel: Callable[[], object],
        still_allowed: Callable[[], HanseError | None],
        subject: Hashable,
    ) -> None:
        self.peer = peer
        self.still_allowed = still_allowed
        self.subject = subject
        self.served = 0
        self.moved_at = time.monotonic()
        self.ended_at: float | None = None
        self.error: HanseError | None = None
        self._cancel = cancel
        self._message_bytes = limits.MIN_STREAM_MESSAGE_BYTES

    def next_size(self, share: int) -> int:
        """Bytes of the next message: grows while the reader keeps up, shrinks when it does not.

        A slow line is so told from a dead one: a small message moves within STREAM_STALL.
        """
        took = time.monotonic() - self.moved_at
        if took < _QUICK_SECONDS:
            self._message_bytes *= 2
        elif took > _SLOW_SECONDS:
            self._message_bytes //= 2
        self._message_bytes = max(limits.MIN_STREAM_MESSAGE_BYTES, min(share, self._message_bytes))
        return self._message_bytes

    def moved(self, data: int) -> None:
        """A message went out, or is about to. Raises what the stream was ended with."""
        self.served += data
        self.moved_at = time.monotonic()
        if self.error is not None:
            raise self.error

    def end(self, error: HanseError) -> None:
        """Ends the stream before its next message."""
        if self.error is None:
            self.error, self.ended_at = error, time.monotonic()

    def cancel(self) -> None:
        """Ends it at once, without a word: for a reader that takes nothing."""
        self._cancel()


class Streams:
    """All open streams of the node."""

    def __init__(self, most: int = limits.STREAMS, most_per_peer: int = limits.STREAMS_PER_PEER) -> None:
        self._most, self._most_per_peer = most, most_per_peer
        self._lock = threading.Lock()
        self._open: set[Stream] = set()
        self._by_peer: Counter[Prefix] = Counter()
        self._closing: HanseError | None = None

    def __len__(self) -> int:
        return len(self._open)

    def open(
        self,
        peer: Prefix,
        cancel: Callable[[], object],
        still_allowed: Callable[[], HanseError | None],
        subject: Hashable = None,
    ) -> Stream:
        """Takes a slot; the caller gives it back with ``close``. Raises Overloaded.

        Streams of the same ``subject`` get the same answer from ``still_allowed``: it is asked once for all of them.
        """
        with self._lock:
            if self._closing is not None:
                raise self._closing
            if self._by_peer[peer] >= self._most_per_peer:
                raise Overloaded(
                    f"{peer} has {self._most_per_peer} streams open here, the most it may: end one, or try again later"
                )
            if len(self._open) >= self._most:
                raise Overloaded("this node has as many streams open as it allows: try again later")
            stream = Stream(peer, cancel, still_allowed, subject or object())
            self._open.add(stream)
            self._by_peer[peer] += 1
            return stream

    def close(self, stream: Stream) -> None:
        with self._lock:
            if stream in self._open:
                self._open.discard(stream)
                self._by_peer[stream.peer] -= 1
                if not self._by_peer[stream.peer]:
                    del self._by_peer[stream.peer]

    def message_bytes(self) -> int:
        """A stream's share of the buffer: two messages are under way in each, one here and one in the transport."""
        share = limits.STREAM_BUFFER_BYTES // (2 * max(1, len(self._open)))
        return max(limits.MIN_STREAM_MESSAGE_BYTES, min(limits.STREAM_MESSAGE_BYTES, share))

    def all(self) -> list[Stream]:
        with self._lock:
            return list(self._open)

    def refuse(self, error: Unreachable) -> None:
        """From now on no stream is opened: the node is stopping."""
        with self._lock:
            self._closing = error

    def end_all(self, error: HanseError) -> None:
        for stream in self.all():
            stream.end(error)


class Watchdog:
    """Over all open streams: may it go on, and does it move? A thread calls ``look`` every LOOK_SECONDS.

    A stream that may not go on ends within two looks and the grace between them: less than 2 s.
    """

    LOOK_SECONDS = 0.5
    GRACE_SECONDS = 0.75  # from the polite end, between two messages, to the cancelled call

    def __init__(self, streams: Streams) -> None:
        self._streams = streams

    def look(self) -> None:
        now = time.monotonic()
        answers: dict[Hashable, HanseError | None] = {}
        for stream in self._streams.all():
            if stream.error is None:
                if stream.subject not in answers:
                    answers[stream.subject] = stream.still_allowed()
                error = answers[stream.subject]
                if error is not None:
                    stream.end(error)
            ended = stream.ended_at is not None and now - stream.ended_at > self.GRACE_SECONDS
            if ended or now - stream.moved_at > limits.STREAM_STALL:
                stream.cancel()
