"""Proofs about a home's log, from its tables. hanse.merkle says how they are verified.

with evidence.reading() as connection:
    proof = inclusion(connection, position=7, size=100)
"""

from hanse import merkle
from hanse.evidence.storage import log
from hanse.storage.database import Connection


def root_at(connection: Connection, size: int) -> bytes:
    """The root when the log had ``size`` leaves. Raises StorageFailed when it has fewer."""
    return merkle.root_at(log.nodes(connection), size)


def inclusion(connection: Connection, position: int, size: int) -> tuple[bytes, ...]:
    """That the leaf at ``position`` is in the log of ``size`` leaves. Raises InvalidInput, StorageFailed."""
    return merkle.inclusion_proof(log.nodes(connection), position, size)


def consistency(connection: Connection, old: int, new: int) -> tuple[bytes, ...]:
    """That the log of ``new`` leaves begins with that of ``old``. Raises InvalidInput, StorageFailed."""
    return merkle.consistency_proof(log.nodes(connection), old, new)
