"""Parts of an object: what lies within what, what is whole, and what it weighs, against sets of single chunks."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.evidence.parts import all_within, completed, weigh, within
from hanse.model.papers import Delivered, joined

ELEMENTS = [0, 3, 10, 25, 30]  # lengths, in chunks of 10 bytes
COUNTS = [max(1, -(-length // 10)) for length in ELEMENTS]


def sizes(first: int, count: int) -> list[tuple[int, int]]:
    return [(length, 10) for length in ELEMENTS[first : first + count]]


def chunks(part: Delivered) -> set[tuple[int, int]]:
    """An element without bytes has one chunk here: it is either delivered or not."""
    if part.elements:
        return {(e, c) for e in range(part.element, part.element + part.elements) for c in range(COUNTS[e])}
    return {(part.element, c) for c in range(part.first_chunk, part.first_chunk + part.chunks)}


wholes = st.builds(Delivered, st.integers(0, 4), st.just(1))
runs = st.sampled_from([(1, 0), (2, 0), (3, 0), (3, 1), (3, 2), (4, 0), (4, 1), (4, 2)]).flatmap(
    lambda at: st.integers(1, COUNTS[at[0]] - at[1]).map(lambda count: Delivered(at[0], 0, at[1], count))
)
several = st.lists(wholes | runs, max_size=6)


@given(several, wholes | runs)
def test_within_is_inclusion_of_chunks(served: list[Delivered], claim: Delivered) -> None:
    there = set().union(*map(chunks, served)) if served else set()
    assert within(claim, joined(served), COUNTS.__getitem__) == (chunks(claim) <= there)


@given(several, several)
def test_all_are_within_when_each_is(served: list[Delivered], claims: list[Delivered]) -> None:
    each = all(within(claim, joined(served), COUNTS.__getitem__) for claim in claims)
    assert all_within(claims, joined(served), COUNTS.__getitem__) == each


@given(several)
def test_completed_says_the_same_in_one_form(parts: list[Delivered]) -> None:
    found = completed(parts, dict(enumerate(COUNTS)))
    assert set().union(*map(chunks, found)) == set().union(*map(chunks, parts)) if parts else found == ()
    assert found == joined(found)
    assert not any(not e.elements and e.first_chunk == 0 and e.chunks == COUNTS[e.element] for e in found)


@given(several)
def test_parts_weigh_each_chunk_once(parts: list[Delivered]) -> None:
    there = set().union(*map(chunks, parts)) if parts else set()
    expected = sum(max(0, min(10, ELEMENTS[e] - 10 * c)) for e, c in there)
    assert weigh(completed(parts, dict(enumerate(COUNTS))), sizes) == expected


@pytest.mark.parametrize("part", [Delivered(5, 1), Delivered(4, 2), Delivered(3, 0, 3, 1), Delivered(3, 0, 0, 4)])
def test_what_there_is_not_has_no_weight(part: Delivered) -> None:
    with pytest.raises(ValueError, match="there is no such"):
        weigh([part], sizes)
