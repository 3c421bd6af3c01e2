"""Parts of an object: whether what is claimed lies within what was served, and how many bytes it is. Pure.

within(Delivered(3, 1), (Delivered(0, 10),), chunk_count)       # True
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

from hanse.model.papers import Delivered, joined

ChunkCount = Callable[[int], int]
Sizes = Callable[[int, int], Iterable[tuple[int, int]]]
"""(length, chunk size) of elements, from a first one on, so many."""


def within(claim: Delivered, served: Sequence[Delivered], chunk_count: ChunkCount) -> bool:
    """``served`` is joined."""
    if claim.elements:
        at, end = claim.element, claim.element + claim.elements
        while at < end:
            covering = next((e for e in served if e.elements and e.element <= at < e.element + e.elements), None)
            if covering is not None:
                at = covering.element + covering.elements
            elif _has_chunks(served, at, 0, chunk_count(at)):
                at += 1
            else:
                return False
        return True
    return any(e.elements and e.element <= claim.element < e.element + e.elements for e in served) or _has_chunks(
        served, claim.element, claim.first_chunk, claim.first_chunk + claim.chunks
    )


def _has_chunks(served: Sequence[Delivered], element: int, first: int, end: int) -> bool:
    return first < end and any(
        not e.elements and e.element == element and e.first_chunk <= first and end <= e.first_chunk + e.chunks
        for e in served
    )


def all_within(claims: Iterable[Delivered], served: Sequence[Delivered], chunk_count: ChunkCount) -> bool:
    """``within`` for each, in one pass: both sides may have thousands of parts. ``served`` is joined."""
    counts = {e.element: chunk_count(e.element) for e in served if not e.elements and e.first_chunk == 0}
    there = completed(served, counts)
    return completed([*there, *claims], counts) == there


def completed(parts: Iterable[Delivered], counts: Mapping[int, int]) -> tuple[Delivered, ...]:
    """Joined; an element all of whose chunks are there is whole. ``counts``: chunks of the elements that matter."""
    found = joined(list(parts))
    if any(_is_whole(each, counts) for each in found):
        found = joined([Delivered(e.element, 1) if _is_whole(e, counts) else e for e in found])
    return found


def _is_whole(part: Delivered, counts: Mapping[int, int]) -> bool:
    return not part.elements and part.first_chunk == 0 and part.chunks == counts.get(part.element)


def weigh(parts: Iterable[Delivered], sizes: Sizes) -> int:
    """Bytes. Raises ValueError when there are no such elements or chunks."""
    total = 0
    for part in parts:
        found = 0
        for length, chunk_size in sizes(part.element, part.elements or 1):
            found += 1
            if part.elements:
                total += length
                continue
            if (part.first_chunk + part.chunks - 1) * chunk_size >= length:
                raise ValueError("there is no such chunk")
            total += min(length, (part.first_chunk + part.chunks) * chunk_size) - part.first_chunk * chunk_size
        if found != (part.elements or 1):
            raise ValueError("there is no such element")
    return total
