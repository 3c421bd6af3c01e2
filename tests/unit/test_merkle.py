"""RFC 6962 trees, against the recursive definition of the RFC itself."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.merkle import (
    EMPTY_ROOT,
    HASH_BYTES,
    RootBuilder,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    nodes,
    nodes_after,
    root,
    root_at,
)


def by_definition(leaves: list[bytes]) -> bytes:
    """RFC 6962 section 2.1, as it is written."""
    if not leaves:
        return sha256(b"").digest()
    if len(leaves) == 1:
        return leaves[0]
    k = 1
    while 2 * k < len(leaves):
        k *= 2
    return sha256(b"\x01" + by_definition(leaves[:k]) + by_definition(leaves[k:])).digest()


@pytest.mark.parametrize("count", [*range(34), 63, 64, 65, 1000])
def test_the_root_is_that_of_the_definition(count: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(count)]
    assert root(leaves) == by_definition(leaves)


@given(st.lists(st.binary(max_size=40), max_size=70))
def test_the_root_is_that_of_the_definition_for_any_leaves(data: list[bytes]) -> None:
    leaves = [leaf_hash(each) for each in data]
    assert root(leaves) == by_definition(leaves)


@given(st.lists(st.binary(min_size=32, max_size=32), min_size=1, max_size=40), st.data())
def test_any_change_changes_the_root(leaves: list[bytes], data: st.DataObject) -> None:
    at = data.draw(st.integers(0, len(leaves) - 1))
    changed = [*leaves]
    changed[at] = bytes([changed[at][0] ^ 1]) + changed[at][1:]
    assert root(changed) != root(leaves)
    assert root([*leaves, leaves[-1]]) != root(leaves)
    assert root(leaves[:-1]) != root(leaves)


def test_a_leaf_is_never_a_node() -> None:
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_a_view_hashes_as_its_bytes() -> None:
    assert leaf_hash(memoryview(b"abc")) == leaf_hash(b"abc") == sha256(b"\x00abc").digest()


def test_the_builder_can_be_asked_at_any_time() -> None:
    builder, leaves = RootBuilder(), []
    assert builder.root() == EMPTY_ROOT
    for n in range(20):
        leaves.append(leaf_hash(b"%d" % n))
        builder.add(leaves[-1])
        assert builder.root() == builder.root() == root(leaves)


@given(st.integers(0, 300), st.integers(0, 300))
def test_a_builder_that_was_kept_goes_on_as_if_it_had_not_been(before: int, after: int) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(before + after)]
    whole, first = RootBuilder(), RootBuilder()
    for leaf in leaves[:before]:
        first.add(leaf)
    again = RootBuilder.resumed(first.size, first.edge)
    assert (again.size, again.root()) == (before, root(leaves[:before]))
    for leaf in leaves[before:]:
        again.add(leaf)
    for leaf in leaves:
        whole.add(leaf)
    assert (again.size, again.edge, again.root()) == (len(leaves), whole.edge, root(leaves))
    assert len(again.edge) <= HASH_BYTES * len(leaves).bit_length()


@given(st.integers(0, 300), st.integers(1, 300), st.data())
def test_proofs_of_what_came_after_an_edge_are_those_of_the_whole_tree(
    before: int, after: int, data: st.DataObject
) -> None:
    leaves = [leaf_hash(b"%d" % n) for n in range(before + after)]
    kept = RootBuilder()
    for leaf in leaves[:before]:
        kept.add(leaf)
    size, index = len(leaves), data.draw(st.integers(before, before + after - 1))
    node = nodes_after(before, kept.edge, leaves[before:])
    assert inclusion_proof(node, index, size) == inclusion_proof(nodes(leaves), index, size)
    old = data.draw(st.integers(before, size))
    assert consistency_proof(node, old, size) == consistency_proof(nodes(leaves), old, size)
    assert root_at(node, old) == root(leaves[:old])


@pytest.mark.parametrize(("size", "edge"), [(0, bytes(32)), (1, b""), (3, bytes(32)), (4, bytes(64)), (5, bytes(63))])
def test_an_edge_of_another_size_is_refused(size: int, edge: bytes) -> None:
    with pytest.raises(InvalidInput, match=f"not the right edge of a tree of {size} leaves"):
        RootBuilder.resumed(size, edge)


def test_what_is_inside_an_edge_is_not_known() -> None:
    with pytest.raises(InvalidInput, match="only the right edge"):
        inclusion_proof(nodes_after(4, bytes(32), [bytes(32)]), 2, 5)
