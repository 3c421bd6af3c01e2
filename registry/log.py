"""The registry's log as it is shown: signed checkpoints and proofs, made when they are asked for. SPEC.md section 21.

Nothing is signed but what was committed, and a checkpoint has all that was acknowledged here before it is asked for;
what another process acknowledged, as soon as ``tell`` was called. So none is stored, and every process that has the
key shows the same log.
What witnesses cosigned is shown in its place for as long as it is young (registry.witnesses gathers it): most who ask
do not need the entries of the last moment, and some need the cosignatures.
All methods are for one thread: the event loop's, or that of ``read`` when the storage is distant.
They raise StorageFailed.
"""

import asyncio
import contextlib
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TypeVar

from hanse import merkle, tiles, transparency
from hanse.errors import StorageFailed
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import HASH_BYTES
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.tiles import WIDTH, Subtrees
from registry import framing
from registry.progress import Steps
from registry.storage.base import Head, Storage

_Read = TypeVar("_Read")
_OUTGROWN = 0.7  # seconds that a cosigned checkpoint is shown although there is a newer one: within one it is published
_COSIGNED = 3  # that are remembered: witnesses do not answer at the same time
_CHECKPOINT_LIFE = 5.0  # seconds: an unchanged log is not signed anew with each question
_TILES = 256  # that are remembered: 4 MiB, the upper ones of a log of some 10 million entries


@dataclass(slots=True)
class _Cosigned:
    """A checkpoint, the last note of it, and the witnesses' lines under it."""

    head: Head
    note: str
    signed_at: float
    lines: dict[str, str] = field(default_factory=dict)
    outgrown_at: float | None = None  # on the monotonic clock

    @property
    def text(self) -> str:
        return self.note + "".join(self.lines.values())


class Log:
    """What Resolve, GetMembership, GetCheckpoint and the tiles' listener tell of one storage's log."""

    def __init__(self, storage: Storage, key: SigningKey, authority: Authority, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._key = key
        self._origin = transparency.origin(authority)
        self._clock = clock
        self._head: Head | None = None
        self._signed: tuple[Head, float, str] | None = None
        self._cosigned: list[_Cosigned] = []  # the newest last
        self._published = 0
        self._tiles: OrderedDict[tuple[int, int, int], Subtrees] = OrderedDict()
        self.grown = asyncio.Event()  # for who gathers cosignatures
        self._reader = ThreadPoolExecutor(1, "log") if storage.distant else None
        self.steps = Steps()  # of that thread

    async def read(self, function: Callable[..., _Read], *values: object) -> _Read:
        """What a function gives that reads from this log or its storage: when that is distant, from another thread.

        It is one thread, in the order of the calls: all methods but ``newest`` belong to it then.
        """
        if self._reader is None:
            return function(*values)
        return await asyncio.get_running_loop().run_in_executor(self._reader, self._read, function, *values)

    def _read(self, function: Callable[..., _Read], *values: object) -> _Read:
        with self.steps.working():
            return function(*values)

    def close(self) -> None:
        """After that nothing is read."""
        if self._reader is not None:
            self._reader.shutdown(wait=False, cancel_futures=True)

    def tell(self) -> None:
        """Something was committed, here or elsewhere. To be called in the event loop; ``read`` has it from then on."""
        if self._reader is None:
            self.changed()
        else:
            with contextlib.suppress(RuntimeError):  # it was closed
                self._reader.submit(self.changed)
        self.grown.set()

    def changed(self) -> None:
        """The same, in the thread that reads."""
        self._head = None
        now = time.monotonic()
        for each in self._cosigned:
            if each.outgrown_at is None:
                each.outgrown_at = now

    def head(self, least: int = 0) -> Head:
        """Of the log, which is known to have ``least`` entries."""
        if self._head is None or self._head.size < least:
            self._head = self._storage.head()
            now = time.monotonic()
            for each in self._cosigned:
                each.outgrown_at = None if each.head == self._head else each.outgrown_at or now
        return self._head

    def bare(self, least: int = 0) -> tuple[Checkpoint, str]:
        """The checkpoint of all that there is, and a note of it that nobody else has signed."""
        now, head = self._clock(), self.head(least)
        signed, checkpoint = self._signed, Checkpoint(self._origin, head.size, head.root)
        if signed is None or signed[0] != head or not 0 <= now - signed[1] < _CHECKPOINT_LIFE:
            signed = self._signed = (head, now, transparency.sign(checkpoint, self._key, int(now)))
        return checkpoint, signed[2]

    def to_cosign(self, least: int = 0) -> tuple[Checkpoint, str]:
        """The same, to be shown to a witness. From now on is noticed when it is outgrown."""
        checkpoint, note = self.bare(least)
        if self._signed is not None and self._signed[0] not in (each.head for each in self._cosigned):
            head, signed_at, _ = self._signed
            self._cosigned = [*self._cosigned, _Cosigned(head, note, signed_at)][-_COSIGNED:]
        return checkpoint, note

    def cosigned(self, checkpoint: Checkpoint, name: str, line: str) -> None:
        """What a witness answered to it; nothing, if it answered so late that nobody wants it any more."""
        for each in self._cosigned:
            if (each.head.size, each.head.root) == (checkpoint.size, checkpoint.root):
                each.lines[name] = line

    def checkpoint(self, least: int = 0) -> tuple[int, str]:
        """The size of the log, and the signed note of it; of at least ``least`` entries, if there are so many."""
        checkpoint, note = self.bare(least)
        now, oldest = self._clock(), time.monotonic() - _OUTGROWN
        fit = [
            each
            for each in self._cosigned
            if each.lines and each.head.size >= least and (each.outgrown_at is None or each.outgrown_at >= oldest)
        ]
        if not fit:
            return checkpoint.size, note
        best = max(fit, key=lambda each: (len(each.lines), each.head.size))
        if best.outgrown_at is None and not 0 <= now - best.signed_at < _CHECKPOINT_LIFE:
            # What was outgrown keeps its date: nobody is told today that yesterday's log is all there is.
            best.note, best.signed_at = note, now
        return best.head.size, best.text

    def published(self) -> str:
        """What is shown to everybody: never less than before."""
        self._published, note = self.checkpoint(self._published)
        return note

    @property
    def newest(self) -> tuple[int, float] | None:
        """The size of the newest checkpoint that was signed here, and when, in Unix seconds. From any thread."""
        return None if self._signed is None else (self._signed[0].size, self._signed[1])

    def shown(self, seen: int, least: int = 0, until: int = 0) -> tuple[int, bytes]:
        """The size of the log, and a serialized ``Log`` for one who has seen ``seen`` entries.

        It proves that they begin those of the checkpoint, or the first ``until``.
        """
        size, note = self.checkpoint(max(seen, least, until))
        parts = [framing.field(1, note.encode())]
        if 0 < seen <= (until or size) <= size:
            # One that has seen more than there is will find out by the checkpoint alone.
            parts += [framing.field(2, each) for each in self.consistency(seen, until or size)]
            parts.append(b"\x18" + framing.varint(seen))
            parts += [b"\x20" + framing.varint(until)] if until else []
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
