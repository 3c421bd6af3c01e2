"""What does not fit in memory for a while: a temporary file that nobody can read, not even from the disk afterwards.

It is sealed with a key that exists in this process's memory alone: the pages of a manifest name elements, and the
folder for temporary files is not the home.

    spool = Spool(); spool.write(b"..."); spool.seek(0); spool.read(3)
"""

import io
import os
import tempfile
from typing import Any

from hanse import limits, sealing
from hanse.sealing import Keystream

MEMORY_BYTES = 4 * limits.MIB
_BUFFER_BYTES = 256 * limits.KIB


class SealedFile(io.RawIOBase):
    """A file, from ``start`` bytes on, under a keystream. Owns the descriptor. To be written once, in order."""

    def __init__(self, descriptor: int, stream: Keystream, start: int = 0) -> None:
        super().__init__()
        self._descriptor, self._stream, self._start = descriptor, stream, start
        self._position = 0

    def readable(self) -> bool:
        return True

    def writable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        length = os.fstat(self._descriptor).st_size - self._start
        self._position = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: length}[whence]
        return self._position

    def readinto(self, buffer: Any) -> int:
        into = memoryview(buffer).cast("B")
        read = os.preadv(self._descriptor, [into], self._start + self._position)
        self._stream.apply_within(self._position, into[:read])
        self._position += read
        return read

    def write(self, data: Any) -> int:
        written = os.pwrite(self._descriptor, self._stream.apply(self._position, data), self._start + self._position)
        self._position += written
        return written

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()


def sealed_file(descriptor: int, stream: Keystream, start: int = 0) -> io.BufferedRandom:
    """Buffered."""
    return io.BufferedRandom(SealedFile(descriptor, stream, start), _BUFFER_BYTES)


class Spool:
    """Written from the beginning to the end, then read as often as one likes; gone when it is closed."""

    def __init__(self, memory: int = MEMORY_BYTES) -> None:
        self._memory = memory
        self._file: io.BytesIO | io.BufferedRandom = io.BytesIO()

    def write(self, data: bytes) -> int:
        written = self._file.write(data)
        if isinstance(self._file, io.BytesIO) and self._file.tell() > self._memory:
            held, self._file = self._file.getbuffer(), _temporary()
            self._file.write(held)
        return written

    def read(self, length: int = -1) -> bytes:
        return self._file.read(length)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def close(self) -> None:
        self._file.close()


def _temporary() -> io.BufferedRandom:
    with tempfile.TemporaryFile(prefix="hanse-") as file:
        descriptor = os.dup(file.fileno())
    return sealed_file(descriptor, sealing.fresh(sealing.new_key(), sealing.new_nonce()))
