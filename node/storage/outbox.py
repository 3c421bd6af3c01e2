"""What waits to be published. A row is written in the transaction of the change that it publishes.

The order of an object's versions is kept: only the oldest waiting row of each key is offered. The organization's own
record goes first, alone, because the registry checks the others by it. A refused row blocks those after it of its
key, which could not be accepted either, and stays until somebody looks.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass

from hanse import wire
from hanse.model.envelope import Envelope
from node.storage.database import Connection, Database

ORGANIZATION = "organization"
"""The key of the organization's own record. No object has it: a key has a slash."""


@dataclass(frozen=True, slots=True)
class Waiting:
    """A row: ``key`` is an object's, or ORGANIZATION; times are Unix seconds."""

    seq: int
    key: str
    envelope: Envelope
    attempts: int
    last_error: str
    created_at: int
    next_try_at: int
    refused: bool


_COLUMNS = "seq, key, envelope, attempts, last_error, created_at, next_try_at, refused"
_HEADS = """
    SELECT {columns} FROM outbox AS head
    WHERE refused = 0 AND next_try_at <= ?
      AND NOT EXISTS (SELECT 1 FROM outbox AS before WHERE before.key = head.key AND before.seq < head.seq)
      AND (key = ? OR NOT EXISTS (SELECT 1 FROM outbox WHERE key = ?))
    ORDER BY seq LIMIT ?
"""


class Outbox:
    """Every method is one transaction, durable when it returns; repeating one does no harm."""

    def __init__(self, database: Database, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._clock = clock

    def pending(self, limit: int = 1000) -> list[Waiting]:
        """What may be sent now: at most one row of each key, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(
                _HEADS.format(columns=_COLUMNS), (int(self._clock()), ORGANIZATION, ORGANIZATION, limit)
            ).fetchall()
        return [_waiting(row) for row in rows]

    def all(self) -> list[Waiting]:
        """All that is not acknowledged yet, refused rows included, oldest first."""
        with self._database.reading() as connection:
            rows = connection.execute(f"SELECT {_COLUMNS} FROM outbox ORDER BY seq").fetchall()
        return [_waiting(row) for row in rows]

    def count(self) -> int:
        """How many rows are not acknowledged yet."""
        with self._database.reading() as connection:
            return int(connection.execute("SELECT count(*) FROM outbox").fetchone()[0])

    def keys(self) -> set[str]:
        """Of which objects something is not acknowledged yet."""
        with self._database.reading() as connection:
            return {key for (key,) in connection.execute("SELECT DISTINCT key FROM outbox")}

    def acknowledged(self, seq: int) -> None:
        """The registry has it."""
        with self._database.writing() as connection:
            connection.execute("DELETE FROM outbox WHERE seq = ?", (seq,))

    def acknowledged_all(self, seqs: list[int]) -> None:
        """The registry has them: one commit for all."""
        with self._database.writing() as connection:
            connection.executemany("DELETE FROM outbox WHERE seq = ?", [(seq,) for seq in seqs])

    def failed(self, seq: int, why: str, next_try_at: int = 0) -> None:
        """It is to be tried again."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?, next_try_at = ? WHERE seq = ?",
                (why, next_try_at, seq),
            )

    def refused(self, seq: int, why: str) -> None:
        """It is not accepted as it is."""
        with self._database.writing() as connection:
            connection.execute(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?, refused = 1 WHERE seq = ?", (why, seq)
            )

    def retry(self) -> int:
        """Offers refused rows again, and waiting ones at once. Returns how many rows there are."""
        with self._database.writing() as connection:
            return int(connection.execute("UPDATE outbox SET refused = 0, next_try_at = 0").rowcount)

    def resign(self, sign: Callable[[Envelope], Envelope]) -> None:
        """Replaces what waits by what ``sign`` makes of it, after a key rotation. Payloads stay as they are."""
        with self._database.writing() as connection:
            resign(connection, sign)


def resign(connection: Connection, sign: Callable[[Envelope], Envelope]) -> None:
    """Within a transaction: replaces the envelopes of all waiting objects, here and in the catalog."""
    rows = connection.execute("SELECT seq, key, envelope FROM outbox WHERE key <> ?", (ORGANIZATION,)).fetchall()
    for seq, key, data in rows:
        before = wire.decode_envelope(data)
        after = sign(before)
        if after.digest != before.digest:
            raise ValueError("a payload was altered where only its signature may be")
        encoded = wire.encode_envelope(after)
        connection.execute("UPDATE outbox SET envelope = ?, refused = 0 WHERE seq = ?", (encoded, seq))
        connection.execute("UPDATE version SET record = ? WHERE object = ? AND record = ?", (encoded, key, data))


def enqueue(connection: Connection, key: str, envelope: Envelope, now: int) -> None:
    """Within the transaction of the change."""
    connection.execute(
        "INSERT INTO outbox (key, envelope, created_at) VALUES (?, ?, ?)", (key, wire.encode_envelope(envelope), now)
    )


def _waiting(row: tuple[int, str, bytes, int, str, int, int, int]) -> Waiting:
    seq, key, data, attempts, last_error, created_at, next_try_at, refused = row
    return Waiting(seq, key, wire.decode_envelope(data), attempts, last_error, created_at, next_try_at, bool(refused))
