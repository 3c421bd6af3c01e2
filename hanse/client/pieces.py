"""What is asked of an owner's node at once: small elements whole, large ones in runs of chunks."""

from collections.abc import Iterable
from dataclasses import dataclass

from hanse.client.peer import Span
from hanse.model.manifest import Element


@dataclass(slots=True)
class Whole:
    """A small element."""

    index: int
    element: Element

    @property
    def length(self) -> int:
        return self.element.length


@dataclass(slots=True)
class Chunks:
    """Consecutive chunks of a large element, with the verified hashes of all of its chunks."""

    index: int
    element: Element
    hashes: bytes
    first: int
    count: int

    @property
    def length(self) -> int:
        size = self.element.chunk_size
        return min(self.element.length, (self.first + self.count) * size) - self.first * size


Piece = Whole | Chunks


def spans(job: Iterable[Piece]) -> list[Span]:
    """The request for a job: neighbours among small elements in one span."""
    asked: list[Span] = []
    for piece in job:
        if isinstance(piece, Chunks):
            asked.append(Span(piece.index, 0, piece.first, piece.count))
        elif asked and asked[-1].elements and asked[-1].element + asked[-1].elements == piece.index:
            asked[-1] = Span(asked[-1].element, asked[-1].elements + 1)
        else:
            asked.append(Span(piece.index, 1))
    return asked
