"""One home's evidence: papers, deliveries, leases and the log, in N/evidence.db. Several processes use it at once.

with Evidence.open(identity) as evidence:
    evidence.change(lambda change: change.append(Kind.GRANT, payload))
"""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Self, TypeVar

from hanse.client.identity import Identity
from hanse.evidence.checkpoint import Checkpoint, origin, sign
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.evidence.writer import Change, Writer
from hanse.storage.database import Connection, Database

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
            return sign(Checkpoint(origin(who.prefix), size, root), who.signing_key)

        self._writer = Writer(database, signed, clock)

    @classmethod
    def open(cls, identity: Identity | Callable[[], Identity], clock: Callable[[], float] = time.time) -> "Evidence":
        """``identity`` is a function where the key may change while it is open."""
        find = identity if callable(identity) else lambda: identity
        return cls(Database.open(find().home / FILE, MIGRATIONS), find, clock)

    def change(self, work: Callable[[Change], T]) -> T:
        """Does ``work`` in a transaction; returns when it is durable. Raises what it raises."""
        return self._writer.submit(work).result()

    @property
    def writer(self) -> Writer:
        return self._writer

    @contextmanager
    def reading(self) -> Iterator[Connection]:
        with self.database.reading() as connection:
            yield connection

    def close(self) -> None:
        self._writer.close()
        self.database.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
