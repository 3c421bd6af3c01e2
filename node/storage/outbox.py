"""What waits to be published. A row is written in the transaction of the change that it publishes.

The order of an object's versions is kept: only the oldest waiting row of each key is offered. The organization's own
record goes first, alone, because the registry checks the others by it. A refused row blocks those after it of its
key, which could not be accepted either, and stays until somebody looks.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse import wire
from hanse.model.envelope import Envelope
from hanse.storage.database import Connection, Database

ORGANIZATION = "organization"
"""The key of the organization's own record. No object has it: a key has a slash."""

_FAR = 300  # seconds: nobody puts a trial off for so long, so the clock was ahead when it was put off


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
    WHERE refused = 0 AND (next_try_at <= ? OR next_try_at > ?)
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
        now = int(self._clock())
        with self._database.reading() as connection:
            rows = connection.execute(
                _HEADS.format(columns=_COLUMNS), (now, now + _FAR, ORGANIZATION, ORGANIZATION, limit)
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

    def put_off(self, seqs: list[int], why: str, next_try_at: int) -> None:
        """They are to be tried again, not before then, which is less than 300 s from now: one commit for all."""
        with self._database.writing() as connection:
            connection.executemany(
                "UPDATE outbox SET attempts = attempts + 1, last_error = ?, next_try_at = ? WHERE seq = ?",
                [(why, next_try_at, seq) for seq in seqs],
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

    def offer_again(self, lost: Sequence[tuple[str, Sequence[Envelope]]], now: int) -> None:
        """What was acknowledged and lost there: per key all that the registry has not, in the order of versions.

        It takes the place of what waits of that key.
        """
        with self._database.writing() as connection:
            for key, envelopes in lost:
                connection.execute("DELETE FROM outbox WHERE key = ?", (key,))
                for each in envelopes:
                    enqueue(connection, key, each, now)

    def remake(self, after: int, now: int, make: Callable[[Envelope, dict[bytes, bytes]], Envelope | None]) -> int:
        """Replaces statements that nobody else has, here and in the catalog, by what ``make`` gives for each.

        It is asked in the order in which they were made, with the digests that were replaced so far, and gives None
        for what stays. Nothing is done where none is from after ``after``. Returns how many changed.
        """
        with self._database.writing() as connection:
            late = connection.execute(
                "SELECT EXISTS (SELECT 1 FROM outbox WHERE created_at > ?1) OR EXISTS (SELECT 1 FROM version "
                "JOIN object ON object.key = version.object WHERE object.unlisted AND version.created_at > ?1)",
                (after,),
            ).fetchone()[0]
            return _remake(connection, now, make) if late else 0


def _remake(connection: Connection, now: int, make: Callable[[Envelope, dict[bytes, bytes]], Envelope | None]) -> int:
    replaced: dict[bytes, bytes] = {}
    waiting = connection.execute("SELECT seq, key, envelope FROM outbox ORDER BY seq").fetchall()
    unlisted = connection.execute(
        "SELECT NULL, version.object, version.record FROM version JOIN object ON object.key = version.object "
        "WHERE object.unlisted ORDER BY version.id"
    ).fetchall()
    for seq, key, data in (*waiting, *unlisted):
        before = wire.decode_envelope(data)
        after = make(before, replaced)
        if after is None:
            continue
        replaced[before.digest] = after.digest
        encoded = wire.encode_envelope(after)
        connection.execute(
            "UPDATE outbox SET envelope = ?, created_at = min(created_at, ?), next_try_at = 0, refused = 0 "
            "WHERE seq = ?",
            (encoded, now, seq),
        )
        if key == ORGANIZATION:
            connection.execute("UPDATE organization SET envelope = ? WHERE envelope = ?", (encoded, data))
        else:
            connection.execute(
                "UPDATE version SET record = ?, created_at = min(created_at, ?) WHERE object = ? AND record = ?",
                (encoded, now, key, data),
            )
    return len(replaced)


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
