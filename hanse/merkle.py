"""RFC 6962 Merkle trees: roots over chunks, pages and logs, and proofs about logs.

Pure.
Hashes are 32 bytes of SHA-256. Source: RFC 6962 sections 2.1 to 2.1.2; RFC 9162 sections 2.1.3.2 and 2.1.4.2.

What a proof is not: word of how large a tree is. A size counts only with the root that it was signed with.

    root([leaf_hash(b"a"), leaf_hash(b"b")])
    proof = inclusion_proof(nodes(leaves), 3, len(leaves))
    verify_inclusion(leaves[3], 3, len(leaves), proof, root(leaves))
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import sha256

from hanse.errors import BrokenChain, InvalidInput, WrongContent

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()

Nodes = Callable[[int, int], bytes]
"""The root of 2**level leaves, of which the first is the leaf number position * 2**level."""


def leaf_hash(data: bytes | memoryview) -> bytes:
    """SHA-256(0x00 || data)."""
    state = sha256(b"\x00")
    state.update(data)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class RootBuilder:
    """The root of leaves that come one after another, in memory that grows with the logarithm of their number.

    All that it has is the tree's right edge, which can be kept and gone on with: ``RootBuilder.resumed(size, edge)``.
    """

    def __init__(self) -> None:
        # (height, hash) of the perfect subtrees so far, from the highest to the lowest.
        self._subtrees: list[tuple[int, bytes]] = []

    @classmethod
    def resumed(cls, size: int, edge: bytes) -> "RootBuilder":
        """As it was when it had ``size`` leaves and this ``edge``. Raises InvalidInput when the two do not fit."""
        builder = cls()
        levels = [level for level, _ in perfect(size)]
        if len(edge) != len(levels) * HASH_BYTES:
            raise InvalidInput(f"this is not the right edge of a tree of {size} leaves")
        hashes = (edge[at : at + HASH_BYTES] for at in range(0, len(edge), HASH_BYTES))
        builder._subtrees = list(zip(levels, hashes, strict=True))
        return builder

    @property
    def size(self) -> int:
        """How many leaves there are."""
        return sum(1 << height for height, _ in self._subtrees)

    @property
    def edge(self) -> bytes:
        """The roots of the perfect subtrees that the tree consists of, the highest first, one after the other."""
        return b"".join(digest for _, digest in self._subtrees)

    def add(self, leaf: bytes) -> None:
        height, digest = 0, leaf
        while self._subtrees and self._subtrees[-1][0] == height:
            digest = node_hash(self._subtrees.pop()[1], digest)
            height += 1
        self._subtrees.append((height, digest))

    def root(self) -> bytes:
        return _joined([digest for _, digest in self._subtrees])


def root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes."""
    builder = RootBuilder()
    for leaf in leaves:
        builder.add(leaf)
    return builder.root()


def perfect(size: int) -> Iterator[tuple[int, int]]:
    """(level, position) of the perfect subtrees that a tree of ``size`` leaves consists of, the highest first."""
    return _perfect(0, size)


def nodes(leaves: Sequence[bytes]) -> Nodes:
    """The perfect subtrees over leaf hashes in memory."""
    levels = [list(leaves)]
    while len(levels[-1]) > 1:
        below = levels[-1]
        levels.append([node_hash(below[at], below[at + 1]) for at in range(0, len(below) - 1, 2)])
    return lambda level, position: levels[level][position]


def nodes_after(size: int, edge: bytes, leaves: Sequence[bytes]) -> Nodes:
    """Those of a tree that begins with ``size`` leaves of which only the right edge is known, and goes on with these.

    Enough for proofs about leaf ``size`` and all after it. Asked for what is inside the edge, it raises InvalidInput.
    """
    roots = {part: edge[at * HASH_BYTES :][:HASH_BYTES] for at, part in enumerate(perfect(size))}

    def node(level: int, position: int) -> bytes:
        found = roots.get((level, position))
        if found is None:
            first = position << level
            if level:
                found = node_hash(node(level - 1, 2 * position), node(level - 1, 2 * position + 1))
            elif first >= size:
                found = leaves[first - size]
            else:
                raise InvalidInput("only the right edge of this tree is known")
            roots[level, position] = found
        return found

    return node


def root_at(node: Nodes, size: int) -> bytes:
    """The root of the first ``size`` leaves."""
    return _between(node, 0, size)


def inclusion_proof(node: Nodes, index: int, size: int) -> tuple[bytes, ...]:
    """That leaf ``index`` (from 0) is in the tree of ``size`` leaves. Raises InvalidInput when it is not."""
    if not 0 <= index < size:
        raise InvalidInput(f"a tree of {size} leaves has no leaf {index}")
    path: list[bytes] = []
    start, end = 0, size
    while end - start > 1:
        middle = start + _split(end - start)
        if index < middle:
            path.append(_between(node, middle, end))
            end = middle
        else:
            path.append(_between(node, start, middle))
            start = middle
    return tuple(reversed(path))


def consistency_proof(node: Nodes, old: int, new: int) -> tuple[bytes, ...]:
    """That the tree of ``new`` leaves begins with that of ``old``; empty where nothing is to prove (0, or equal).

    Raises InvalidInput when ``new`` is smaller.
    """
    if not 0 <= old <= new:
        raise InvalidInput(f"a tree of {new} leaves does not continue one of {old}")
    if old in (0, new):
        return ()
    path: list[bytes] = []
    start, end = 0, new
    while end != old:
        middle = start + _split(end - start)
        if old <= middle:
            path.append(_between(node, middle, end))
            end = middle
        else:
            path.append(_between(node, start, middle))
            start = middle
    if start:  # else it is the old root itself, which the other side has
        path.append(_between(node, start, end))
    return tuple(reversed(path))


def verify_inclusion(leaf: bytes, index: int, size: int, proof: Sequence[bytes], root: bytes) -> None:
    """Returns if leaf hash ``leaf`` is number ``index`` under ``root``. Raises WrongContent."""
    if not 0 <= index < size or not _are_hashes(leaf, root, *proof):
        raise WrongContent("a proof of inclusion is not one: it has an impossible position, or what is no hash")
    digest, at, last = leaf, index, size - 1
    for sibling in proof:
        if last == 0:
            raise WrongContent("a proof of inclusion is too long")
        if at & 1 or at == last:
            digest = node_hash(sibling, digest)
            while not at & 1 and at:  # no sibling on the right: the next levels have the same node
                at, last = at >> 1, last >> 1
        else:
            digest = node_hash(digest, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise WrongContent("a proof of inclusion is too short")
    if digest != root:
        raise WrongContent("a proof of inclusion leads to another root")


def verify_consistency(old: int, old_root: bytes, new: int, new_root: bytes, proof: Sequence[bytes]) -> None:
    """Returns if the tree of ``new`` leaves begins with that of ``old`` leaves. Raises BrokenChain."""
    if not 0 <= old <= new or not _are_hashes(old_root, new_root, *proof):
        raise BrokenChain("a proof of consistency is not one: it has impossible sizes, or what is no hash")
    for size, told in ((old, old_root), (new, new_root)):
        if size == 0 and told != EMPTY_ROOT:
            raise BrokenChain("an empty tree has another root")
    if old in (0, new):
        if proof:
            raise BrokenChain("a proof of consistency is too long")
        if old == new and old_root != new_root:
            raise BrokenChain("two trees of one size have different roots")
        return
    if _walked(old, new, proof if old & (old - 1) else (old_root, *proof)) != (old_root, new_root):
        raise BrokenChain("a proof of consistency leads to another root")


def first_root(old: int, new: int, new_root: bytes, proof: Sequence[bytes]) -> bytes | None:
    """The root of the first ``old`` leaves of the tree under ``new_root``, as a proof of consistency shows it.

    None if the proof does not lead to ``new_root``. Where ``old`` is a power of two, the root sought comes before the
    proof, which does not have it: see ``with_first_root``. Where it is not the root that somebody signed for ``old``
    leaves, no log has both.
    """
    if not 0 < old < new or not _are_hashes(new_root, *proof):
        return None
    try:
        found, whole = _walked(old, new, proof)
    except BrokenChain:
        return None
    return found if whole == new_root else None


def with_first_root(old: int, proof: Sequence[bytes]) -> tuple[bytes, ...]:
    """Of a proof from ``old`` - 1 leaves on that from ``old`` on, with the root of these before it.

    ``old`` is a power of two, from 4 on: the tree of one leaf less has all parts of its tree in its proof.
    """
    level = old.bit_length() - 1
    if old < 4 or old & (old - 1) or len(proof) <= level or not _are_hashes(*proof):
        return ()
    digest = node_hash(proof[0], proof[1])
    for left in proof[2 : level + 1]:
        digest = node_hash(left, digest)
    return digest, *proof[level + 1 :]


def _walked(old: int, new: int, steps: Sequence[bytes]) -> tuple[bytes, bytes]:
    """The roots of ``old`` leaves and of ``new`` ones that a proof leads to. Raises BrokenChain."""
    if not steps:
        raise BrokenChain("a proof of consistency is too short")
    at, last = old - 1, new - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = steps[0]
    for sibling in steps[1:]:
        if last == 0:
            raise BrokenChain("a proof of consistency is too long")
        if at & 1 or at == last:
            before, after = node_hash(sibling, before), node_hash(sibling, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, sibling)
        at, last = at >> 1, last >> 1
    if last:
        raise BrokenChain("a proof of consistency is too short")
    return before, after


def _split(count: int) -> int:
    """The largest power of two that is smaller than ``count``, which is 2 or more."""
    return 1 << (count - 1).bit_length() - 1


def _perfect(start: int, end: int) -> Iterator[tuple[int, int]]:
    """Those between two leaves; ``start`` is a multiple of the largest."""
    for level in reversed(range((end - start).bit_length())):
        if end - start >> level & 1:
            yield level, start >> level
            start += 1 << level


def _between(node: Nodes, start: int, end: int) -> bytes:
    return _joined([node(level, position) for level, position in _perfect(start, end)])


def _joined(subtrees: Sequence[bytes]) -> bytes:
    """The root over perfect subtrees, the highest first."""
    if not subtrees:
        return EMPTY_ROOT
    digest = subtrees[-1]
    for left in reversed(subtrees[:-1]):
        digest = node_hash(left, digest)
    return digest


def _are_hashes(*each: bytes) -> bool:
    return all(len(one) == HASH_BYTES for one in each)
