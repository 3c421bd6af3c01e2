"""RFC 6962 Merkle trees: the roots over the chunks of an element and the pages of a manifest.

Pure.
Hashes are 32 bytes of SHA-256. Source: RFC 6962 section 2.1.

    root([leaf_hash(b"a"), leaf_hash(b"b")])
"""

from collections.abc import Iterable
from hashlib import sha256

HASH_BYTES = 32
EMPTY_ROOT = sha256().digest()


def leaf_hash(data: bytes | memoryview) -> bytes:
    """SHA-256(0x00 || data)."""
    state = sha256(b"\x00")
    state.update(data)
    return state.digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """SHA-256(0x01 || left || right)."""
    return sha256(b"\x01" + left + right).digest()


class RootBuilder:
    """The root of leaves that come one after another, in memory that grows with the logarithm of their number."""

    def __init__(self) -> None:
        # (height, hash) of the perfect subtrees so far, from the highest to the lowest.
        self._subtrees: list[tuple[int, bytes]] = []

    def add(self, leaf: bytes) -> None:
        height, digest = 0, leaf
        while self._subtrees and self._subtrees[-1][0] == height:
            digest = node_hash(self._subtrees.pop()[1], digest)
            height += 1
        self._subtrees.append((height, digest))

    def root(self) -> bytes:
        if not self._subtrees:
            return EMPTY_ROOT
        digest = self._subtrees[-1][1]
        for _, left in reversed(self._subtrees[:-1]):
            digest = node_hash(left, digest)
        return digest


def root(leaves: Iterable[bytes]) -> bytes:
    """The Merkle tree hash of leaf hashes."""
    builder = RootBuilder()
    for leaf in leaves:
        builder.add(leaf)
    return builder.root()
