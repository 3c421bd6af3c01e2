"""What every element that is read as a file has in common: a position, and chunks that were verified and are kept.

Where the chunks come from is its subclasses' affair: the owner's node, or the vault.
"""

import io
from collections import OrderedDict
from typing import Any

from hanse import limits
from hanse.model.manifest import Element

_CACHED_BYTES = 16 * limits.MIB
BUFFER_BYTES = 256 * limits.KIB


class ElementFile(io.RawIOBase):
    """Seekable, read-only, raw: to be buffered. Raises hanse.errors. Not safe to share between threads."""

    def __init__(self, element: Element) -> None:
        super().__init__()
        self._element = element
        self._position = 0
        self._cache: OrderedDict[int, bytes] = OrderedDict()
        self._cached = max(2, _CACHED_BYTES // element.chunk_size)
        self.name = element.name.text

    def _load(self, index: int) -> bytes:
        """One chunk, verified."""
        raise NotImplementedError

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        self._open()
        return self._position

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        self._open()
        base = {io.SEEK_SET: 0, io.SEEK_CUR: self._position, io.SEEK_END: self._element.length}.get(whence)
        if base is None:
            raise ValueError(f"whence is 0, 1 or 2, not {whence}")
        if base + offset < 0:
            raise ValueError("a position is not negative")
        self._position = base + offset
        return self._position

    def readinto(self, buffer: Any) -> int:
        """Up to the end of one chunk."""
        self._open()
        size, into = self._element.chunk_size, memoryview(buffer).cast("B")
        if self._position >= self._element.length or not into:
            return 0
        index, start = divmod(self._position, size)
        part = memoryview(self._chunk(index))[start : start + len(into)]
        into[: len(part)] = part
        self._position += len(part)
        return len(part)

    def _open(self) -> None:
        if self.closed:
            raise ValueError("the file is closed")

    def _chunk(self, index: int) -> bytes:
        chunk = self._cache.get(index)
        if chunk is not None:
            self._cache.move_to_end(index)
            return chunk
        chunk = self._load(index)
        self._cache[index] = chunk
        if len(self._cache) > self._cached:
            self._cache.popitem(last=False)
        return chunk
