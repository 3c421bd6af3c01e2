"""The registry's log as it is shown: signed checkpoints and proofs, made when they are asked for. SPEC.md section 21.

Nothing is signed but what was committed, and a checkpoint has all that was acknowledged here before it is asked for;
what another process acknowledged, as soon as ``changed`` was told. So none is stored, and every process that has the
key shows the same log.
All methods are for one thread, the event loop's. They raise StorageFailed.
"""

from collections import OrderedDict
from collections.abc import Callable

from hanse import merkle, tiles, transparency
from hanse.errors import StorageFailed
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import HASH_BYTES
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.tiles import WIDTH, Subtrees
from registry import framing
from registry.storage.base import Head, Storage

_CHECKPOINT_LIFE = 5.0  # seconds: an unchanged log is not signed anew with each question
_TILES = 256  # that are remembered: 4 MiB, the upper ones of a log of some 10 million entries


class Log:
    """What Resolve, GetMembership, GetCheckpoint and the tiles' listener tell of one storage's log."""

    def __init__(self, storage: Storage, key: SigningKey, authority: Authority, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._key = key
        self._origin = transparency.origin(authority)
        self._clock = clock
        self._head: Head | None = None
        self._signed: tuple[Head, float, str] | None = None
        self._tiles: OrderedDict[tuple[int, int, int], Subtrees] = OrderedDict()

    def changed(self) -> None:
        """Something was committed, here or elsewhere."""
        self._head = None

    def head(self, least: int = 0) -> Head:
        """Of the log, which is known to have ``least`` entries."""
        if self._head is None or self._head.size < least:
            self._head = self._storage.head()
        return self._head

    def checkpoint(self, least: int = 0) -> tuple[int, str]:
        """The size of the log, and the signed note of it."""
        now, head = self._clock(), self.head(least)
        signed = self._signed
        if signed is None or signed[0] != head or not 0 <= now - signed[1] < _CHECKPOINT_LIFE:
            note = transparency.sign(Checkpoint(self._origin, head.size, head.root), self._key, int(now))
            signed = self._signed = (head, now, note)
        return head.size, signed[2]

    def shown(self, seen: int, least: int = 0) -> tuple[int, bytes]:
        """The size of the log, and a serialized ``Log`` for one who has seen ``seen`` entries."""
        size, note = self.checkpoint(max(seen, least))
        parts = [framing.field(1, note.encode())]
        if 0 < seen <= size:
            # One that has seen more than there is will find out by the checkpoint alone.
            parts += [framing.field(2, each) for each in self.consistency(seen, size)]
            parts.append(b"\x18" + framing.varint(seen))
        return size, b"".join(parts)

    def consistency(self, old: int, new: int) -> tuple[bytes, ...]:
        """See merkle.consistency_proof."""
        return merkle.consistency_proof(tiles.nodes(self._subtrees(new)), old, new)

    def inclusion(self, position: int, size: int) -> bytes:
        """A serialized ``Inclusion`` of what stands at a position of the changes."""
        path = tiles.inclusion_proof(self._subtrees(size), position - 1, size)
        return b"".join((b"\x08", framing.varint(position - 1), *(b"\x12\x20" + each for each in path)))

    def hashes(self, level: int, number: int, count: int) -> bytes | None:
        """Of a tile; None when there is none so long."""
        if tiles.width(level, number, self.head().size) < count:
            return None
        return self._tile(level, number, count)[0][: count * HASH_BYTES]

    def entries(self, number: int, count: int) -> bytes | None:
        """An entry bundle of tlog-tiles: each leaf's data after its length in two bytes."""
        first = number * WIDTH
        if self.head().size < first + count:
            return None
        leaves = self._storage.leaves(first, count)
        return b"".join(len(each).to_bytes(2, "big") + each for each in leaves)

    def _subtrees(self, size: int) -> Callable[[int, int], Subtrees]:
        return lambda level, number: self._tile(level, number, tiles.width(level, number, size))

    def _tile(self, level: int, number: int, count: int) -> Subtrees:
        name = (level, number, count)
        found = self._tiles.get(name)
        if found is None:
            found = self._storage.tile(*name)
            if found is None:
                raise StorageFailed(f"the log lacks a part (tile {level}/{number}): `hanse-registry check`")
            self._tiles[name] = found
            while len(self._tiles) > _TILES:
                self._tiles.popitem(last=False)
        else:
            self._tiles.move_to_end(name)
        return found
