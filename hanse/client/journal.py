"""What of a fetch is written already: one line of 32 bytes for each run of chunks or elements, appended.

The rule it keeps: a line is appended after the data it speaks of was written. It is not synced: after a power
cut it may claim more than the disk has. Therefore whoever goes on from it hashes again what it claims.
"""

import os
import struct
from dataclasses import dataclass
from pathlib import Path

from hanse.files import storage_errors

_LINE = struct.Struct("<QQQQ")  # element, elements, first chunk, chunks: as a Span
_HEAD_BYTES = 32
_LINE_MOST = 1 << 16  # chunks or elements of one line: more than one stream is asked for at once


_DELIVERY = (1 << 64) - 1  # instead of an element: the line names the delivery of those that follow it
_ID = struct.Struct("<QQ")


@dataclass(frozen=True, slots=True)
class Begun:
    """A delivery: its 16 bytes, and when it began (Unix seconds)."""

    id: bytes
    at: int


class Journal:
    """Of one fetch, named by 32 bytes. Appending is safe from several threads."""

    def __init__(
        self,
        descriptor: int,
        elements: set[int],
        chunks: dict[int, set[int]],
        delivery: "Begun | None" = None,
        earlier: set[tuple[int, int]] | None = None,
    ) -> None:
        """``delivery``: the last that was begun; ``earlier``: (element, chunk or -1) that came in those before it."""
        self._descriptor = descriptor
        self.elements = elements
        self.chunks = chunks
        self.delivery = delivery
        self.earlier = earlier or set()

    @classmethod
    def open(cls, path: Path, name: bytes) -> "Journal | None":
        """The journal at ``path``, new if there is none. None if it is that of another fetch."""
        with storage_errors("the journal of the fetch"):
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                found = _read(descriptor, os.fstat(descriptor).st_size)
                if not found:
                    os.write(descriptor, name)
                elif found[:_HEAD_BYTES] != name:
                    os.close(descriptor)
                    return None
                torn = (len(found) - _HEAD_BYTES) % _LINE.size if found else 0
                if torn:  # a line that was cut off by a kill
                    os.ftruncate(descriptor, len(found) - torn)
                return cls(descriptor, *_parse(found[_HEAD_BYTES : len(found) - torn]))
            except BaseException:
                os.close(descriptor)
                raise

    def wrote_elements(self, first: int, count: int) -> None:
        self._append(first, count, 0, 0)

    def wrote_chunks(self, element: int, first: int, count: int) -> None:
        self._append(element, 0, first, count)

    def began(self, delivery: "Begun") -> None:
        """What is written from now on came in that delivery."""
        self._append(_DELIVERY, *_ID.unpack(delivery.id), delivery.at)

    def close(self) -> None:
        os.close(self._descriptor)

    def _append(self, *line: int) -> None:
        with storage_errors("the journal of the fetch"):
            os.write(self._descriptor, _LINE.pack(*line))


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    at = 0
    while at < size and (part := os.pread(descriptor, size - at, at)):
        parts.append(part)
        at += len(part)
    return b"".join(parts)


def _parse(
    lines: bytes,
) -> tuple[set[int], dict[int, set[int]], Begun | None, set[tuple[int, int]]]:
    elements: set[int] = set()
    chunks: dict[int, set[int]] = {}
    delivery: Begun | None = None
    earlier: set[tuple[int, int]] = set()
    for element, count, first, length in _LINE.iter_unpack(lines):
        if element == _DELIVERY:
            delivery = Begun(_ID.pack(count, first), length)
            earlier.update((each, -1) for each in elements)
            earlier.update((each, chunk) for each, some in chunks.items() for chunk in some)
            continue
        if max(count, length) > _LINE_MOST:
            continue  # damaged: what it may have meant is fetched again
        if count:
            elements.update(range(element, element + count))
        else:
            chunks.setdefault(element, set()).update(range(first, first + length))
    return elements, chunks, delivery, earlier
