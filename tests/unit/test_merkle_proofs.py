"""Proofs over RFC 6962 trees: against the RFC's own recursion, and both ways with tlog-scales."""

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tlog_scales.tlog import ConsistencyProof, ConsistencyProofInvalid, InclusionProof, InclusionProofInvalid

from hanse.errors import BrokenChain, InvalidInput, WrongContent
from hanse.merkle import (
    EMPTY_ROOT,
    consistency_proof,
    inclusion_proof,
    leaf_hash,
    node_hash,
    nodes,
    root,
    root_at,
    verify_consistency,
    verify_inclusion,
)

LEAVES = [leaf_hash(b"%d" % n) for n in range(70)]
SIZES = [*range(1, 34), 63, 64, 65, 70]
PAIRS = [(old, new) for new in range(20) for old in range(new + 1)] + [*pairwise(SIZES)]


def split(count: int) -> int:
    k = 1
    while 2 * k < count:
        k *= 2
    return k


def path(m: int, leaves: Sequence[bytes]) -> list[bytes]:
    """RFC 6962 section 2.1.1, as it is written."""
    if len(leaves) == 1:
        return []
    k = split(len(leaves))
    if m < k:
        return [*path(m, leaves[:k]), root(leaves[k:])]
    return [*path(m - k, leaves[k:]), root(leaves[:k])]


def subproof(m: int, leaves: Sequence[bytes], whole: bool) -> list[bytes]:
    """RFC 6962 section 2.1.2, as it is written."""
    if m == len(leaves):
        return [] if whole else [root(leaves)]
    k = split(len(leaves))
    if m <= k:
        return [*subproof(m, leaves[:k], whole), root(leaves[k:])]
    return [*subproof(m - k, leaves[k:], False), root(leaves[:k])]


def theirs_accept_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree: bytes) -> bool:
    try:
        InclusionProof(index, size, list(proof)).check(leaf, tree)
    except InclusionProofInvalid:
        return False
    return True


def ours_accept_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], tree: bytes) -> bool:
    try:
        verify_inclusion(leaf, index, size, proof, tree)
    except WrongContent:
        return False
    return True


def theirs_accept_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        ConsistencyProof(old, new, list(proof)).check(old_root, new_root)
    except ConsistencyProofInvalid:
        return False
    return True


def ours_accept_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> bool:
    try:
        verify_consistency(old, old_root, new, new_root, proof)
    except BrokenChain:
        return False
    return True


def flipped(data: bytes) -> list[bytes]:
    """All that differ in one bit."""
    return [
        data[: bit // 8] + bytes([data[bit // 8] ^ 1 << bit % 8]) + data[bit // 8 + 1 :] for bit in range(8 * len(data))
    ]


def altered(proof: Sequence[bytes]) -> list[list[bytes]]:
    """One bit flipped, one hash left out, doubled, swapped or put in, or cut."""
    found = [[*proof[:at], wrong, *proof[at + 1 :]] for at in range(len(proof)) for wrong in flipped(proof[at])]
    found += [[*proof[:at], *proof[at + 1 :]] for at in range(len(proof))]
    for at in range(len(proof) + 1):
        found += [[*proof[:at], extra, *proof[at:]] for extra in (bytes(32), LEAVES[0], EMPTY_ROOT, *proof[:1])]
    found += [[*proof[:at], right, left, *proof[at + 2 :]] for at, (left, right) in enumerate(pairwise(proof))]
    found += [[*proof[:at], proof[at][:31], *proof[at + 1 :]] for at in range(len(proof))]
    return found


@pytest.mark.parametrize("size", SIZES)
def test_a_proof_of_inclusion_is_that_of_the_rfc_and_both_verifiers_accept_it(size: int) -> None:
    leaves, tree, node = LEAVES[:size], root(LEAVES[:size]), nodes(LEAVES)
    assert root_at(node, size) == tree
    for index in range(size):
        proof = inclusion_proof(node, index, size)
        assert list(proof) == path(index, leaves)
        verify_inclusion(leaves[index], index, size, proof, tree)
        assert theirs_accept_inclusion(leaves[index], index, size, proof, tree)


@pytest.mark.parametrize(("old", "new"), PAIRS)
def test_a_proof_of_consistency_is_that_of_the_rfc_and_both_verifiers_accept_it(old: int, new: int) -> None:
    proof = consistency_proof(nodes(LEAVES), old, new)
    assert list(proof) == ([] if old == 0 else subproof(old, LEAVES[:new], True))
    old_root, new_root = root(LEAVES[:old]), root(LEAVES[:new])
    verify_consistency(old, old_root, new, new_root, proof)
    assert theirs_accept_consistency(old, old_root, new, new_root, proof)


@pytest.mark.parametrize("size", [1, 2, 3, 6, 7, 8, 13])
def test_a_proof_of_inclusion_with_anything_changed_is_refused(size: int) -> None:
    leaves, tree = LEAVES[:size], root(LEAVES[:size])
    for index in range(size):
        proof, leaf = inclusion_proof(nodes(leaves), index, size), leaves[index]
        wrong = [(leaf, index, size, each, tree) for each in altered(proof)]
        wrong += [(each, index, size, proof, tree) for each in (*flipped(leaf), leaf[:31], b"", leaf + b"\0")]
        wrong += [(leaf, index, size, proof, each) for each in (*flipped(tree), tree[:31], b"", EMPTY_ROOT)]
        wrong += [(leaf, each, size, proof, tree) for each in (-1, size, *range(size + 3), 1 << 64) if each != index]
        wrong += [(leaf, index, each, proof, tree) for each in (0, -1, -size)]
        wrong += [(leaf, index, n, proof, root(LEAVES[:n])) for n in range(index + 1, 20) if n != size]
        for each in wrong:
            assert not ours_accept_inclusion(*each), each


@pytest.mark.parametrize(("old", "new"), [(1, 2), (1, 3), (2, 3), (3, 4), (3, 7), (4, 7), (6, 7), (6, 8), (7, 13)])
def test_a_proof_of_consistency_with_anything_changed_is_refused(old: int, new: int) -> None:
    before, after = root(LEAVES[:old]), root(LEAVES[:new])
    proof = consistency_proof(nodes(LEAVES), old, new)
    wrong = [(old, before, new, after, each) for each in altered(proof)]
    wrong += [(old, each, new, after, proof) for each in (*flipped(before), before[:31], b"", EMPTY_ROOT, after)]
    wrong += [(old, before, new, each, proof) for each in (*flipped(after), after[:31], b"", EMPTY_ROOT, before)]
    wrong += [(each, before, new, after, proof) for each in (-1, *range(new + 3), 1 << 64) if each != old]
    wrong += [(old, before, each, after, proof) for each in range(-1, old + 1)]
    wrong += [(old, before, n, root(LEAVES[:n]), proof) for n in range(old, 20) if n != new]
    for each in wrong:
        assert not ours_accept_consistency(*each), each


@pytest.mark.parametrize("size", range(9))
def test_nothing_is_to_prove_of_an_empty_tree_or_the_same_one(size: int) -> None:
    tree = root(LEAVES[:size])
    verify_consistency(0, EMPTY_ROOT, size, tree, ())
    verify_consistency(size, tree, size, tree, ())
    for wrong in (
        (0, LEAVES[0], size, tree, ()),
        (0, EMPTY_ROOT, size, tree, (LEAVES[0],)),
        (size, tree, size, tree, (LEAVES[0],)),
        (size, tree, size, LEAVES[60], ()),
        (0, EMPTY_ROOT, 0, LEAVES[0], ()),
        (size + 1, tree, size, tree, ()),
    ):
        assert not ours_accept_consistency(*wrong)


def test_an_inclusion_proof_alone_does_not_tell_the_size() -> None:
    """RFC 9162 proves by shape: the first of three leaves has the same path as the first of four. Sizes are signed."""
    leaf, tree = LEAVES[0], root(LEAVES[:3])
    proof = inclusion_proof(nodes(LEAVES), 0, 3)
    assert ours_accept_inclusion(leaf, 0, 4, proof, tree)
    assert theirs_accept_inclusion(leaf, 0, 4, proof, tree)
    assert not ours_accept_inclusion(leaf, 0, 4, proof, root(LEAVES[:4]))


def test_a_node_cannot_pass_for_a_leaf() -> None:
    inner = node_hash(LEAVES[0], LEAVES[1])
    assert not ours_accept_inclusion(inner, 0, 4, (node_hash(LEAVES[2], LEAVES[3]),), root(LEAVES[:4]))
    # Under another size it would: leaves are hashed by whoever verifies, and sizes are signed.
    assert ours_accept_inclusion(inner, 0, 2, (node_hash(LEAVES[2], LEAVES[3]),), root(LEAVES[:4]))


@pytest.mark.parametrize(("index", "size"), [(-1, 3), (3, 3), (0, 0), (9, 3)])
def test_there_is_no_proof_of_a_leaf_that_is_not_there(index: int, size: int) -> None:
    with pytest.raises(InvalidInput, match=f"a tree of {size} leaves has no leaf {index}"):
        inclusion_proof(nodes(LEAVES), index, size)


@pytest.mark.parametrize(("old", "new"), [(4, 3), (-1, 3), (1, 0)])
def test_there_is_no_proof_that_a_smaller_tree_continues(old: int, new: int) -> None:
    with pytest.raises(InvalidInput, match=f"a tree of {new} leaves does not continue one of {old}"):
        consistency_proof(nodes(LEAVES), old, new)


hashes = st.sampled_from(LEAVES[:6]) | st.binary(min_size=32, max_size=32)


@given(st.data())
def test_any_leaf_of_any_tree_is_proved_and_both_agree_on_any_change(data: st.DataObject) -> None:
    leaves = data.draw(st.lists(hashes, min_size=1, max_size=200))
    index = data.draw(st.integers(0, len(leaves) - 1))
    proof, tree = inclusion_proof(nodes(leaves), index, len(leaves)), root(leaves)
    assert ours_accept_inclusion(leaves[index], index, len(leaves), proof, tree)
    size, other = data.draw(st.integers(1, 300)), data.draw(st.integers(0, 300))
    shape = data.draw(st.sampled_from([proof, proof[1:], proof[:-1], (*proof, tree), proof[::-1]]))
    asked = (leaves[index], other, size, shape, tree)
    assert ours_accept_inclusion(*asked) == theirs_accept_inclusion(*asked)


@given(st.data())
def test_any_tree_continues_its_beginnings_and_both_agree_on_any_change(data: st.DataObject) -> None:
    leaves = data.draw(st.lists(hashes, min_size=1, max_size=200))
    old = data.draw(st.integers(0, len(leaves)))
    proof = consistency_proof(nodes(leaves), old, len(leaves))
    before, after = root(leaves[:old]), root(leaves)
    assert ours_accept_consistency(old, before, len(leaves), after, proof)
    m, n = data.draw(st.integers(0, 300)), data.draw(st.integers(1, 300))
    shape = data.draw(st.sampled_from([proof, proof[1:], proof[:-1], (*proof, after), proof[::-1]]))
    asked = (m, before, n, after, shape)
    assert ours_accept_consistency(*asked) == theirs_accept_consistency(*asked)
