"""Is the log what was signed? Its tree is made again from its leaves and held against everything that is kept of it.

What it is not: proof against whoever has the signing key; peers, who keep our checkpoints, are (hanse.evidence.peers).

    first_damage(connection, origin(prefix), [key.public], deep=True)     # None when all is well
"""

from collections.abc import Collection, Iterator
from dataclasses import dataclass

from hanse.errors import VerificationFailed
from hanse.evidence.checkpoint import Checkpoint, is_by, parse, read
from hanse.evidence.storage import log
from hanse.evidence.storage.log import Leaf
from hanse.merkle import leaf_hash, node_hash, root_at
from hanse.model.keys import PublicKey
from hanse.storage.database import Connection


@dataclass(frozen=True, slots=True)
class Damage:
    """The first thing that is wrong. ``position`` is that of the first leaf it concerns, from 0."""

    position: int
    what: str

    def __str__(self) -> str:
        return f"entry {self.position:,} of the log: {self.what}"


def first_damage(connection: Connection, name: str, keys: Collection[PublicKey], *, deep: bool) -> Damage | None:
    """Of the log called ``name``, whose owner has or had ``keys``. ``deep`` also hashes every payload.

    The newest checkpoint must be signed by one of them. Call it in a transaction where others may write.
    """
    return next(_Check(connection, name, keys, deep).damages(), None)


class _Check:
    def __init__(self, connection: Connection, name: str, keys: Collection[PublicKey], deep: bool) -> None:
        self._connection, self._name, self._keys, self._deep = connection, name, keys, deep
        self._size, self._complete = 0, 0
        self._newest = log.newest_checkpoint(connection)
        self._known: dict[tuple[int, int], bytes] = {}  # perfect subtrees whose parent is not complete yet

    def damages(self) -> Iterator[Damage]:
        signed = 0  # leaves under the last checkpoint that was right
        leaves = log.leaves(self._connection) if self._deep else log.bare_leaves(self._connection)
        for size, note in log.checkpoints(self._connection):
            while self._size < size:
                leaf = next(leaves, None)
                if leaf is None:
                    yield Damage(self._size, f"is missing, with all up to {size - 1:,}: a checkpoint counts {size:,}")
                    return
                yield from self._leaf(leaf)
            yield from self._checkpoint(signed, note)
            signed = size
        if next(leaves, None) is not None:
            yield Damage(signed, "has no checkpoint, nor has any after it")
        if log.count_subtrees(self._connection) != self._complete:
            yield Damage(self._size, "there are parts of a larger tree than the leaves make")

    def _leaf(self, leaf: Leaf) -> Iterator[Damage]:
        position = self._size
        if leaf.position != position:
            yield Damage(position, "is missing")
        if self._deep and not _is_whole(leaf):
            yield Damage(position, "its payload is not the one that was logged")
        level, digest = 0, leaf.hash
        while position >> level & 1:
            digest = node_hash(self._known.pop((level, (position >> level) - 1)), digest)
            level += 1
            self._complete += 1
            if log.find_node(self._connection, level, position >> level) != digest:
                first = position >> level << level
                yield Damage(*self._guilty(first, position + 1, "it, or an entry beside it, is not what was logged"))
        self._known[level, position >> level] = digest
        self._size += 1

    def _checkpoint(self, signed: int, note: str) -> Iterator[Damage]:
        last = self._size - 1
        try:
            found, _ = parse(note)
        except VerificationFailed as error:
            yield Damage(last, f"the checkpoint after it is damaged: {error}")
            return
        root = root_at(lambda level, position: self._known[level, position], self._size)
        if found != Checkpoint(self._name, self._size, root, found.extensions):
            yield Damage(
                *self._guilty(signed, self._size, f"up to entry {last:,} the log is not the one that was signed")
            )
        ours = any(is_by(note, key) for key in self._keys)
        if note == self._newest and not ours:
            yield Damage(last, "the checkpoint after it is signed with no key of this organization")
        if ours and (self._deep or note == self._newest):
            try:
                read(note, self._name, self._keys)
            except VerificationFailed as error:
                yield Damage(last, f"the checkpoint after it is damaged: {error}")

    def _guilty(self, first: int, end: int, otherwise: str) -> tuple[int, str]:
        """The leaf whose payload shows that its hash is wrong, if one does."""
        for leaf in log.leaves(self._connection, first, end):
            if not _is_whole(leaf):
                return leaf.position, "its payload or its hash is not the one that was logged"
        return first, otherwise


def _is_whole(leaf: Leaf) -> bool:
    """An erased one is."""
    if leaf.payload is None or leaf.salt is None:
        return leaf.payload is leaf.salt
    return leaf_hash(log.leaf_data(leaf.kind, leaf.salt, leaf.payload)) == leaf.hash
