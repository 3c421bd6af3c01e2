"""Tiles as tlog-tiles has them, held against merkle.root over all leaves."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse import merkle, tiles
from hanse.errors import InvalidInput


class Stored(dict):
    """Tiles as a database keeps them."""

    def read(self, level: int, number: int) -> bytes:
        return self.get((level, number), b"")[: tiles.WIDTH * 32]

    def nodes(self, size: int) -> merkle.Nodes:
        return tiles.nodes(lambda level, number: tiles.unpacked(self[level, number], tiles.width(level, number, size)))

    def append(self, size: int, leaves: list[bytes]) -> bytes:
        changed, root = tiles.append(size, self.read, leaves)
        self.update({at: tiles.packed(tile) for at, tile in changed.items()})
        return root


def hashes(count: int, seed: int = 1) -> list[bytes]:
    source = random.Random(seed)
    return [source.randbytes(32) for _ in range(count)]


@given(st.lists(st.integers(1, 700), min_size=1, max_size=6), st.randoms())
def test_however_leaves_come_the_root_and_every_proof_are_those_of_all(
    groups: list[int], source: random.Random
) -> None:
    leaves, stored, size = hashes(sum(groups)), Stored(), 0
    for group in groups:
        root = stored.append(size, leaves[size : size + group])
        size += group
        assert root == merkle.root(leaves[:size])
    index, old = source.randrange(size), source.randrange(size + 1)
    merkle.verify_inclusion(leaves[index], index, size, merkle.inclusion_proof(stored.nodes(size), index, size), root)
    proof = merkle.consistency_proof(stored.nodes(size), old, size)
    merkle.verify_consistency(old, merkle.root(leaves[:old]), size, root, proof)


@given(st.integers(1, 1500), st.randoms())
def test_the_short_way_to_a_proof_gives_the_same(size: int, source: random.Random) -> None:
    stored = Stored()
    stored.append(0, hashes(size))

    def tile(level: int, number: int) -> tiles.Subtrees:
        return tiles.unpacked(stored[level, number], tiles.width(level, number, size))

    for index in {0, size - 1, source.randrange(size)}:
        expected = merkle.inclusion_proof(stored.nodes(size), index, size)
        assert tiles.inclusion_proof(tile, index, size) == expected
    for index in (-1, size):
        with pytest.raises(InvalidInput, match=f"has no leaf {index}"):
            tiles.inclusion_proof(tile, index, size)


def test_three_levels_of_tiles() -> None:
    leaves, stored = hashes(65_536 + 300), Stored()
    stored.append(0, leaves[:65_000])
    root = stored.append(65_000, leaves[65_000:])
    assert root == merkle.root(leaves)
    assert {level for level, _ in stored} == {0, 1, 2}
    assert stored[2, 0] == merkle.root(leaves[:65_536])
    whole = lambda level, number: tiles.unpacked(stored[level, number], tiles.width(level, number, len(leaves)))  # noqa: E731
    for index in (0, 255, 256, 40_000, 65_535, 65_536, len(leaves) - 1):
        proof = tiles.inclusion_proof(whole, index, len(leaves))
        merkle.verify_inclusion(leaves[index], index, len(leaves), proof, root)
    for size in (1, 256, 65_535, 65_536, 65_537, len(leaves)):
        assert merkle.root_at(stored.nodes(size), size) == merkle.root(leaves[:size])


def test_a_tile_that_grew_proves_what_it_was() -> None:
    leaves, stored = hashes(200), Stored()
    stored.append(0, leaves)
    proof = merkle.inclusion_proof(stored.nodes(77), 12, 77)
    merkle.verify_inclusion(leaves[12], 12, 77, proof, merkle.root(leaves[:77]))


def test_a_tile_that_is_too_short_is_no_proof() -> None:
    stored = Stored({(0, 0): bytes(32 * 3)})
    with pytest.raises(InvalidInput, match="tile 0/0 is shorter than the log"):
        merkle.inclusion_proof(stored.nodes(9), 1, 9)


@pytest.mark.parametrize(
    ("level", "number", "count", "path"),
    [
        (0, 0, 256, "tile/0/000"),
        (0, 5, 1, "tile/0/005.p/1"),
        (1, 999, 255, "tile/1/999.p/255"),
        (3, 1000, 256, "tile/3/x001/000"),
        (0, 1_234_067, 256, "tile/0/x001/x234/067"),
        (tiles.ENTRIES, 1_234_067, 8, "tile/entries/x001/x234/067.p/8"),
    ],
)
def test_paths(level: int, number: int, count: int, path: str) -> None:
    assert tiles.path(level, number, count) == path
    assert tiles.parse_path(path) == (level, number, count)


@pytest.mark.parametrize(
    "path",
    [
        "", "x", "tile", "tile/", "tile/0", "tile/0/", "tile/0/0", "tile/0/00", "tile/0/0000", "tile/0/1000",
        "tile/0/-01", "tile/0/+01", "tile/0/0_1", "tile/0/000/", "tile/0/000.p", "tile/0/000.p/", "tile/0/000.p/0",
        "tile/0/000.p/256", "tile/0/000.p/01", "tile/0/000.p/1/", "tile/00/000", "tile/8/000", "tile/99/000",
        "tile/-1/000", "tile/0/x001", "tile/0/x001/x000", "tile/0/x000/001", "tile/0/001/000", "tile/0/x001/000x",
        "tile/entries", "tile/entries/٣٣٣", "tile/٣/000", "/tile/0/000", "tile//000", "tile/0/000?x", "tile/0/%30",
        "tile/0/../0/000", "tile/0/" + "x999/" * 9 + "999",
    ],
)  # fmt: skip
def test_what_is_no_path(path: str) -> None:
    with pytest.raises(InvalidInput, match="no tile's path"):
        tiles.parse_path(path)


@given(st.text("tile/entrsx0123456789.p", max_size=30))
def test_whatever_comes_is_a_path_or_refused(text: str) -> None:
    try:
        found = tiles.parse_path(text)
    except InvalidInput:
        return
    assert tiles.path(*found) == text


@pytest.mark.parametrize(
    ("level", "number", "size", "width"),
    [(0, 0, 0, 0), (0, 0, 1, 1), (0, 0, 256, 256), (0, 1, 256, 0), (0, 1, 300, 44), (1, 0, 255, 0), (1, 0, 256, 1),
     (1, 0, 65_536, 256), (2, 0, 65_536, 1), (tiles.ENTRIES, 1, 300, 44)],
)  # fmt: skip
def test_widths(level: int, number: int, size: int, width: int) -> None:
    assert tiles.width(level, number, size) == width
