"""The hot path: bytes of a stream, hashed, compared and written. Swapped as a whole when a faster way is found.

One thread receives, the caller hashes and writes: both release the GIL, so that they overlap. Nothing is written
that does not have the promised hash, and a sender of more than was asked for is cut off. SPEC.md section 10.5.
"""

import contextlib
import os
import queue
import threading
from collections.abc import Sequence
from hashlib import sha256

from hanse import limits
from hanse.client.peer import Buffer, Stream
from hanse.errors import HanseError, StorageFailed, WrongContent
from hanse.merkle import EMPTY_ROOT, root
from hanse.model.manifest import Element

_QUEUED = 8  # messages between the two threads
_AT_ONCE_BYTES = 256 * limits.KIB  # so little comes in a message or two: a thread would cost more
# For a larger write the kernel looks for larger runs of free memory, which cost up to four times as much (measured).
_WRITE_BYTES = 256 * limits.KIB


class Incoming:
    """Exactly ``asked`` bytes, received in a thread of their own if they are many.

    Raises what the stream raises, and WrongContent.
    """

    def __init__(self, stream: Stream[Buffer], asked: int) -> None:
        self._stream = stream
        self._asked = asked
        self._queue: queue.Queue[memoryview | HanseError | None] = queue.Queue(_QUEUED)
        self._view = memoryview(b"")
        self._at = 0
        self._closed = False
        self._received = 0
        self._thread: threading.Thread | None = None
        if asked > _AT_ONCE_BYTES:
            self._thread = threading.Thread(target=self._receive, name="hanse-receive", daemon=True)
            self._thread.start()

    def take(self, length: int) -> list[memoryview]:
        """The next bytes, as they lie in the messages: no copy."""
        end = self._at + length
        if end <= len(self._view):
            piece = self._view[self._at : end]
            self._at = end
            return [piece]
        pieces = [self._view[self._at :]] if self._at < len(self._view) else []
        missing = end - len(self._view)
        while missing:
            self._next()
            piece = self._view[:missing]
            self._at = len(piece)
            missing -= len(piece)
            pieces.append(piece)
        return pieces

    def end(self) -> None:
        """That nothing follows. Raises WrongContent."""
        found = self._found()
        if isinstance(found, HanseError):
            raise found
        if found is not None or self._at != len(self._view):
            raise WrongContent("the node sent more bytes than it was asked for")

    def cancel(self) -> None:
        """From another thread: whoever takes gets Unreachable."""
        self._stream.cancel()

    def close(self) -> None:
        self._closed = True
        self._stream.cancel()
        while self._thread is not None and self._thread.is_alive():
            with contextlib.suppress(queue.Empty):  # it may wait for room
                while True:
                    self._queue.get_nowait()
            self._thread.join(0.02)

    def _found(self) -> memoryview | HanseError | None:
        """The next message, or how it ended."""
        if self._thread is not None:
            return self._queue.get()
        for message in self._stream:
            self._received += len(message)
            if self._received > self._asked:
                self._stream.cancel()
                return WrongContent("the node sent more bytes than it was asked for")
            if message:
                return memoryview(message)
        return None

    def _next(self) -> None:
        found = self._found()
        if isinstance(found, HanseError):
            raise found
        if found is None:
            raise WrongContent("the node sent fewer bytes than it was asked for")
        self._view, self._at = found, 0

    def _receive(self) -> None:
        last: HanseError | None = None
        received = 0
        try:
            for message in self._stream:
                received += len(message)
                if received > self._asked:
                    self._stream.cancel()
                    last = WrongContent("the node sent more bytes than it was asked for")
                    break
                if message:
                    self._put(memoryview(message))
                if self._closed:
                    return
        except HanseError as error:
            last = error
        self._put(last)

    def _put(self, item: memoryview | HanseError | None) -> None:
        while not self._closed:
            with contextlib.suppress(queue.Full):
                self._queue.put(item, timeout=1)
                return


def leaf_of(pieces: Sequence[memoryview]) -> bytes:
    """RFC 6962 leaf hash of bytes that lie in pieces."""
    state = sha256(b"\x00")
    for piece in pieces:
        state.update(piece)
    return state.digest()


def take_element(incoming: Incoming, element: Element) -> list[memoryview]:
    """A whole small element, verified. Raises WrongContent."""
    length, size = element.length, element.chunk_size
    if length <= size:
        pieces = incoming.take(length) if length else []
        if len(pieces) == 1:
            state = sha256(b"\x00")
            state.update(pieces[0])
            found = state.digest()
        else:
            found = leaf_of(pieces) if length else EMPTY_ROOT
    else:
        pieces, leaves = [], []
        for start in range(0, length, size):
            chunk = incoming.take(min(size, length - start))
            leaves.append(leaf_of(chunk))
            pieces += chunk
        found = root(leaves)
    if found != element.merkle_root:
        raise WrongContent("an element is not what its owner signed: it has another hash")
    return pieces


def take_chunk(incoming: Incoming, length: int, leaf: bytes) -> list[memoryview]:
    """One chunk, verified. Raises WrongContent."""
    pieces = incoming.take(length)
    if leaf_of(pieces) != leaf:
        raise WrongContent("a chunk is not what its owner signed: it has another hash")
    return pieces


def write(descriptor: int, pieces: Sequence[memoryview], offset: int) -> None:
    """All of the pieces, one after another. Raises OSError."""
    for piece in pieces:
        left = piece
        while left:
            written = os.pwrite(descriptor, left[:_WRITE_BYTES], offset)
            if not written:
                raise StorageFailed("the disk took no more bytes")
            left, offset = left[written:], offset + written
