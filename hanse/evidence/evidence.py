"""One home's evidence: papers, deliveries, leases and the log, in N/evidence.db. Several processes use it at once.

with Evidence.open(identity) as evidence:
    evidence.change(lambda change: change.append(Kind.GRANT, payload))
"""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Self, TypeVar

from hanse.client.identity import Identity
from hanse.errors import Conflict, NotFound
from hanse.evidence.checking import Damage, first_damage
from hanse.evidence.checkpoint import Checkpoint, origin, sign
from hanse.evidence.storage import log
from hanse.evidence.storage.log import Leaf
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.evidence.writer import Change, Writer
from hanse.model.keys import PublicKey
from hanse.storage.database import Connection, Database, transaction
from hanse.turns import waiting

FILE = "evidence.db"
T = TypeVar("T")


class Evidence:
    """Safe to share between threads; to be closed. Raises NoSpace, StorageFailed, HomeUnusable."""

    def __init__(
        self, database: Database, identity: Callable[[], Identity], clock: Callable[[], float] = time.time
    ) -> None:
        self.database = database
        self.identity = identity
        self.clock = clock

        def signed(size: int, root: bytes) -> str:
            who = identity()
            return sign(Checkpoint(origin(who.prefix), size, root), who.acknowledged_key)

        self._writer = Writer(database, signed, clock)

    @classmethod
    def open(cls, identity: Identity | Callable[[], Identity], clock: Callable[[], float] = time.time) -> "Evidence":
        """``identity`` is a function where the key may change while it is open."""
        find = identity if callable(identity) else lambda: identity
        return cls(Database.open(find().home / FILE, MIGRATIONS), find, clock)

    def change(self, work: Callable[[Change], T]) -> T:
        """Does ``work`` in a transaction; returns when it is durable. Raises what it raises."""
        if self._writer.inside:
            raise RuntimeError("a change within a change would wait for itself")
        with waiting():
            return self._writer.submit(work).result()

    @property
    def writer(self) -> Writer:
        return self._writer

    @contextlib.contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.database.reading() as connection:
            yield connection

    def size(self) -> int:
        """Number of entries in the log."""
        with self.reading() as connection:
            return log.size(connection)

    def leaves(self, first: int = 0, end: int | None = None) -> Iterator[Leaf]:
        """The log's entries in order, from position ``first`` to before ``end``: to be read to the end or closed."""
        with self.reading() as connection:
            yield from log.leaves(connection, first, end)

    def newest_checkpoint(self) -> str | None:
        """The signed note of the log as it is; None while it is empty."""
        with self.reading() as connection:
            return log.newest_checkpoint(connection)

    def erase(self, position: int) -> None:
        """Destroys the payload and salt of one entry; proofs of everything, its own leaf included, stay whole.

        What else keeps that paper (the tables of grants and deliveries, backups, the other side) is not touched.
        Twice does no harm. Raises NotFound; Conflict when it is to be done again, because somebody reads just now.
        """
        if not self.change(lambda change: log.erase(change.connection, position)):
            raise NotFound(f"the log has no entry {position}")
        with self.reading() as connection:
            if not log.forget(connection):
                raise Conflict(
                    "it is erased, but traces are left on the disk while another command reads: run it again"
                )

    def verify(self, *, deep: bool = False, earlier: Iterable[PublicKey] = ()) -> Damage | None:
        """The first thing in the log that is not as it was signed, None if all is.

        ``deep`` reads every payload. ``earlier``: keys that this organization had before; they sign nothing new, but
        what they signed counts.
        """
        identity = self.identity()
        keys = [key.public for key in (identity.signing_key, identity.previous_key) if key is not None]
        keys += [key for key in earlier if key not in keys]
        with self.reading() as connection, transaction(connection, "BEGIN"):
            return first_damage(connection, origin(identity.prefix), keys, deep=deep)

    def close(self) -> None:
        self._writer.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
