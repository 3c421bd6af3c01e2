"""RFC 6962 trees, against the recursive definition of the RFC itself."""

from hashlib import sha256

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.merkle import EMPTY_ROOT, RootBuilder, leaf_hash, node_hash, root


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
