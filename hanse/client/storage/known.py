"""What this home has seen of others: pins of organizations, the newest records, the membership. N/known.db.

It is the cache and the protection against rollback in one: what is kept never gets older. Several processes
use it at once (the daemon, commands). It keeps envelopes; whoever reads them verifies them again.

    known = Known.open(home / "known.db")
    known.keep_organization(verified)
"""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache
from pathlib import Path

from hanse import limits, trust, wire
from hanse.errors import HanseError, StorageFailed
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.record import Status
from hanse.storage.database import Database
from hanse.trust import Seen, VerifiedOrganization, VerifiedRecord

FILE = "known.db"

_MIGRATIONS = (
    """
    CREATE TABLE organization (prefix TEXT PRIMARY KEY, version INTEGER NOT NULL, envelope BLOB NOT NULL) STRICT;
    CREATE TABLE told_key (prefix TEXT PRIMARY KEY, key_id TEXT NOT NULL) STRICT;
    CREATE TABLE record (
        key TEXT PRIMARY KEY, prefix TEXT NOT NULL, version INTEGER NOT NULL, digest BLOB NOT NULL,
        envelope BLOB NOT NULL, origin TEXT NOT NULL, checked_at INTEGER NOT NULL
    ) STRICT;
    CREATE INDEX record_prefix ON record (prefix);
    CREATE TABLE membership (
        one INTEGER PRIMARY KEY CHECK (one = 1), head BLOB NOT NULL, members BLOB NOT NULL, checked_at INTEGER NOT NULL
    ) STRICT;
    """,
    """
    CREATE TABLE registry_log (
        one INTEGER PRIMARY KEY CHECK (one = 1), size INTEGER NOT NULL, note TEXT NOT NULL, seen_at INTEGER NOT NULL
    ) STRICT;
    CREATE TABLE registry_lie (
        first TEXT NOT NULL, second TEXT NOT NULL, proof BLOB NOT NULL, what TEXT NOT NULL, noticed_at INTEGER NOT NULL,
        PRIMARY KEY (first, second)
    ) STRICT;
    """,
    "ALTER TABLE registry_lie ADD COLUMN accepted_at INTEGER;",
    "ALTER TABLE registry_lie ADD COLUMN witnesses TEXT NOT NULL DEFAULT '';",
)
_IDLE = 8  # connections: each is used for one statement, and streams need the descriptors
_ANY_TIME = 1 << 40  # a pin was checked against the clock when it was made


class Origin(StrEnum):
    """Who gave a record: the registry must never know less than it did; an owner's node may know more than it."""

    REGISTRY = "registry"
    OWNER = "owner"


@dataclass(frozen=True, slots=True)
class Cached:
    """The newest record seen of an object, not verified since; ``checked_at`` in Unix seconds."""

    envelope: Envelope
    seen: Seen
    origin: Origin
    checked_at: int


@dataclass(frozen=True, slots=True)
class KeptMembership:
    """The membership as it came, not verified since; ``checked_at`` in Unix seconds."""

    head: Envelope
    members: bytes
    checked_at: int


@dataclass(frozen=True, slots=True)
class RegistryLie:
    """Two checkpoints of the registry's log, signed by it, that were not one history: C2SP signed notes.

    ``proof``: that no log has both, or else what came to prove that one continues the other: hashes one after the
    other. ``what`` is the error's text. ``accepted_at``: when a person said that it was restored from a backup (Unix
    seconds). ``witnesses``: the keys of those that cosigned both, as far as this home named them.
    """

    first: str
    second: str
    proof: bytes
    what: str
    noticed_at: int
    accepted_at: int | None = None
    witnesses: tuple[str, ...] = ()


class Known:
    """Safe to share between threads. Raises StorageFailed, NoSpace, HomeUnusable."""

    def __init__(self, database: Database) -> None:
        self._database = database

    @classmethod
    def open(cls, path: Path) -> "Known":
        return cls(Database.open(path, _MIGRATIONS, _IDLE))

    def close(self) -> None:
        self._database.close()

    def organization(self, prefix: Prefix) -> VerifiedOrganization | None:
        """The pin of an organization; its own signature is checked again."""
        return self.pin(prefix)[0]

    def pin(self, prefix: Prefix) -> tuple[VerifiedOrganization | None, KeyId | None]:
        """The same, and ``told_key``."""
        with self._database.reading() as db:
            envelope, key_id = db.execute(
                "SELECT (SELECT envelope FROM organization WHERE prefix = ?1), "
                "(SELECT key_id FROM told_key WHERE prefix = ?1)",
                (str(prefix),),
            ).fetchone()
        told = None if key_id is None else KeyId(key_id)
        if envelope is None:
            return None, told
        with self._readable():
            pinned = _pinned(envelope)
        return (pinned if pinned.record.prefix == prefix else None), told

    def keep_organization(self, verified: VerifiedOrganization) -> None:
        """Pins it, unless a newer version is pinned already."""
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO organization VALUES (?, ?, ?) ON CONFLICT (prefix) DO UPDATE "
                "SET version = excluded.version, envelope = excluded.envelope WHERE excluded.version > version",
                (str(verified.record.prefix), verified.record.version, wire.encode_envelope(verified.envelope)),
            )

    def told_key(self, prefix: Prefix) -> KeyId | None:
        with self._database.reading() as db:
            row = db.execute("SELECT key_id FROM told_key WHERE prefix = ?", (str(prefix),)).fetchone()
        return KeyId(row[0]) if row else None

    def tell_key(self, prefix: Prefix, key_id: KeyId) -> None:
        """Pins a key that was confirmed outside the network; a pin that lacks it is dropped with all it vouched for."""
        pinned = self.organization(prefix)
        with self._database.writing() as db:
            db.execute(
                "INSERT INTO told_key VALUES (?, ?) ON CONFLICT (prefix) DO UPDATE SET key_id = excluded.key_id",
                (str(prefix), str(key_id)),
            )
            if pinned is not None and pinned.record.key(key_id) is None:
                db.execute("DELETE FROM organization WHERE prefix = ?", (str(prefix),))
                db.execute("DELETE FROM record WHERE prefix = ?", (str(prefix),))

    def record(self, identifier: Identifier) -> Cached | None:
        with self._database.reading() as db:
            row = db.execute(
                "SELECT envelope, version, digest, origin, checked_at FROM record WHERE key = ?", (identifier.key,)
            ).fetchone()
        if row is None:
            return None
        with self._readable():
            envelope, issued_at, withdrawn = _record(row[0])
            return Cached(envelope, Seen(row[1], row[2], issued_at, withdrawn), Origin(row[3]), row[4])

    def keep_record(self, verified: VerifiedRecord, checked_at: int, origin: Origin = Origin.REGISTRY) -> None:
        self.keep_records([verified], checked_at, origin)

    def keep_records(
        self, verified: Iterable[VerifiedRecord], checked_at: int, origin: Origin = Origin.REGISTRY
    ) -> None:
        """Keeps each, unless a newer version is kept already. What the registry had stays marked so."""
        rows = [
            (
                each.record.id.key, str(each.record.id.prefix), each.record.version, each.digest,
                wire.encode_envelope(each.envelope), origin.value, checked_at,
            )
            for each in verified
        ]  # fmt: skip
        with self._database.writing() as db:
            db.executemany(
                "INSERT INTO record (key, prefix, version, digest, envelope, origin, checked_at) "
                "VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key) DO UPDATE SET version = excluded.version, "
                "digest = excluded.digest, envelope = excluded.envelope, checked_at = excluded.checked_at, "
                "origin = CASE WHEN excluded.version > version OR excluded.origin = 'registry' "
                "THEN excluded.origin ELSE origin END WHERE excluded.version > version "
                "OR (excluded.version = version AND excluded.digest = digest)",
                rows,
            )

    def membership(self) -> KeptMembership | None:
        with self._database.reading() as db:
            row = db.execute("SELECT head, members, checked_at FROM membership").fetchone()
        if row is None:
            return None
        with self._readable():
            return KeptMembership(wire.decode_envelope(row[0]), row[1], row[2])

    def keep_membership(self, head: Envelope, members: bytes, checked_at: int) -> None:
        """The caller has verified that it is no older than what is kept."""
        with self._database.writing() as db:
            db.execute(
                "INSERT OR REPLACE INTO membership VALUES (1, ?, ?, ?)",
                (wire.encode_envelope(head), members, checked_at),
            )

    def registry_log(self) -> str | None:
        """The signed note of the largest checkpoint of the registry's log that was seen to continue all before it."""
        with self._database.reading() as db:
            row = db.execute("SELECT note FROM registry_log").fetchone()
        return str(row[0]) if row else None

    def keep_registry_log(self, before: str | None, size: int, note: str, seen_at: int) -> bool:
        """Whether ``note`` took the place of ``before``, or need not: False when another process kept another one."""
        with self._database.writing() as db:
            row = db.execute("SELECT note, size FROM registry_log").fetchone()
            if (row[0] if row else None) != before:
                return False
            if row is None or size > row[1]:
                db.execute("INSERT OR REPLACE INTO registry_log VALUES (1, ?, ?, ?)", (size, note, seen_at))
        return True

    def accept_registry_log(self, size: int, note: str, seen_at: int) -> None:
        """Takes a log for the one that was seen, whatever was: its registry was restored, and a person says so.

        The membership is asked for anew. Of records that the registry showed only their owners count from now on: none
        gets older by it, and the registry may know less than it did.
        """
        with self._database.writing() as db:
            db.execute("INSERT OR REPLACE INTO registry_log VALUES (1, ?, ?, ?)", (size, note, seen_at))
            db.execute("UPDATE registry_lie SET accepted_at = coalesce(accepted_at, ?)", (seen_at,))
            db.execute("DELETE FROM membership")
            db.execute("UPDATE record SET origin = ? WHERE origin = ?", (Origin.OWNER.value, Origin.REGISTRY.value))

    def keep_registry_lie(self, lie: RegistryLie, instead: RegistryLie | None = None) -> None:
        """For good, but for what proves more ``instead``; at most FORKS_PER_PEER of them."""
        with self._database.writing() as db:
            if instead is not None:
                db.execute("DELETE FROM registry_lie WHERE first = ? AND second = ?", (instead.first, instead.second))
            if db.execute("SELECT count(*) FROM registry_lie").fetchone()[0] < limits.FORKS_PER_PEER:
                db.execute(
                    # Another process may have asked before a person accepted that the first of them counts no more.
                    "INSERT OR IGNORE INTO registry_lie VALUES (?1, ?2, ?3, ?4, ?5, "
                    "coalesce(?6, (SELECT max(accepted_at) FROM registry_lie WHERE first = ?1)), ?7)",
                    (
                        lie.first,
                        lie.second,
                        lie.proof,
                        lie.what,
                        lie.noticed_at,
                        lie.accepted_at,
                        "\n".join(lie.witnesses),
                    ),
                )

    def registry_lies(self) -> list[RegistryLie]:
        """The oldest first."""
        with self._database.reading() as db:
            rows = db.execute("SELECT * FROM registry_lie ORDER BY noticed_at, rowid").fetchall()
        return [RegistryLie(*(*row[:-1], tuple(row[-1].splitlines()))) for row in rows]

    @contextlib.contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except (HanseError, ValueError):
            raise StorageFailed(
                f"{self._database.path} is damaged: restore it from your backup. Without it, what was seen of others "
                "before is forgotten, and their keys are trusted on first use again"
            ) from None


@lru_cache(64)
def _record(envelope: bytes) -> tuple[Envelope, int, bool]:
    decoded = wire.decode_envelope(envelope)
    record = wire.decode_record(decoded.payload)
    return decoded, record.issued_at, record.status is Status.WITHDRAWN


@lru_cache(1024)
def _pinned(envelope: bytes) -> VerifiedOrganization:
    # Asked for at every call to a node: the same bytes have the same signature.
    return trust.organization(wire.decode_envelope(envelope), pinned=None, now=_ANY_TIME)
