"""What of a home is leased: where it lies, until when, and its end. N/vault and the table of leases.

    N/vault/keys/<name>     32 random bytes, 0600: what destroying destroys
    N/vault/<name>/         what is sealed with that key: head, pages, data/<n>/<number of the element>, leaves/<number>

The rules it keeps: a key is durable before anything is sealed with it. A lease that ends goes through these steps,
each durable before the next: why it ends is noted; the key is overwritten and removed; the sealed bytes are removed;
the deletion is signed, with its leaf in the log and the lease's row in one transaction. Whatever is killed in between,
the next sweep goes on from there; so nothing is signed while the key is there, and nothing that was decided is undone.
SPEC.md section 19.

    vault = Vault(home, evidence)
    vault.sweep()
    vault.leases()
"""

import contextlib
import fcntl
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from datetime import UTC, datetime
from pathlib import Path

from hanse import wire
from hanse.client.identity import Identity
from hanse.errors import HanseError, NotFound, Revoked
from hanse.evidence.evidence import FILE, Evidence
from hanse.evidence.storage import papers
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.evidence.writer import Change
from hanse.files import alone, storage_errors
from hanse.home import Home
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.lease import Lease
from hanse.model.papers import Deletion
from hanse.signing import sign
from hanse.storage.database import Connection, Database
from hanse.vault import keys
from hanse.vault.clock import Reading, Seen, advance
from hanse.vault.storage import leases
from hanse.vault.storage.leases import Row
from hanse.wire_papers import decode_deletion, encode_deletion

FOLDER = "vault"
_LOCK = "vault.lock"
_KEYS = "keys"
EXPIRED, REVOKED, ASKED_FOR = "expired", "revoked", "asked for"
_NOTE_SECONDS = 10.0  # of the clock of leases: so much of a clock that is set back can be lost when all is killed


class Vault:
    """Of one home; several processes use it at once. ``clock`` gives Unix seconds. Safe to share between threads."""

    def __init__(self, home: Home, evidence: Evidence, clock: Callable[[], float] = time.time) -> None:
        self.evidence = evidence
        self.folder = home / FOLDER
        self.keys = self.folder / _KEYS
        self._lock_path = home / _LOCK
        self._clock = clock
        self._sweeping = threading.Lock()

    # What is there.

    def leases(self, identifier: Identifier | None = None) -> list[Lease]:
        """Those that are live, newest first."""
        if not self.folder.exists():
            return []
        with self.evidence.reading() as connection:
            rows = [row for row in leases.live(connection, identifier) if not row.reason]
        now = self.seen() if rows else None
        return [self.lease(row, now) for row in rows if now is not None and now.lease < row.expires_at]

    def lease(self, row: Row, now: Seen) -> Lease:
        """As people see it: with the end by the machine's clock."""
        ends_at = int(now.reading.wall + row.expires_at - now.lease)
        return Lease(
            row.key_name, row.grant, row.id, row.version, row.made_at, ends_at, row.finished_at is not None
        )  # fmt: skip

    def undelivered(self) -> list[Row]:
        """What was deleted and its owner has yet to be told."""
        with self.evidence.reading() as connection:
            return leases.undelivered(connection)

    def key(self, lease: Lease) -> bytes:
        """Raises NotFound or Revoked when the lease has ended."""
        found = keys.read(self.keys, lease.name)
        if found is None:
            raise self.over(lease.id)
        return found

    def alive(self, lease: Lease) -> bool:
        """Whether its key is there; cheap."""
        return keys.exists(self.keys, lease.name)

    def over(self, identifier: Identifier) -> HanseError:
        """Why there is nothing to read of that object."""
        with self.evidence.reading() as connection:
            last = leases.ended(connection, identifier)
        if last is None or last.destroyed_at is None:
            return NotFound(
                f"nothing of {identifier} is kept in the vault: `hanse fetch {identifier}` puts it there, if it comes "
                "with a duty to delete it"
            )
        day = datetime.fromtimestamp(last.destroyed_at, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        if last.reason == REVOKED:
            return Revoked(f"{identifier.prefix} revoked the grant: what was kept of {identifier} was deleted on {day}")
        return NotFound(
            f"what was kept of {identifier} was deleted on {day} ({last.reason}); `hanse fetch {identifier}` fetches "
            "it again, as far as the grant allows"
        )

    def left(self, lease: Lease) -> float:
        """Seconds until it ends. Raises as ``key``."""
        with self.evidence.reading() as connection:
            row = leases.one(connection, lease.name)
        if row is None or row.reason:
            raise self.over(lease.id)
        return row.expires_at - self.seen().lease

    def seen(self) -> Seen:
        """The clock of leases."""
        reading = Reading.now(self._clock)
        with self.evidence.reading() as connection:
            before = leases.seen(connection)
        now = advance(before, reading)
        if before is None or (
            now.lease - before.lease >= _NOTE_SECONDS
            or reading.wall < before.reading.wall
            or reading.boot != before.reading.boot
        ):
            self.evidence.change(lambda change: leases.keep_seen(change.connection, now))
        return now

    # The beginning of a lease; hanse.vault.leasing calls this with the lock held.

    def make(self, grant: bytes, identifier: Identifier, version: int, life: float) -> tuple[str, bytes]:
        """A new lease of ``life`` seconds: its name and its key, both durable."""
        name = keys.new_name()
        with storage_errors(str(self.folder)):
            for folder in (self.folder, self.keys, self.folder / name):
                folder.mkdir(mode=0o700, exist_ok=True)
        key = keys.make(self.keys, name)
        now = self.seen()

        def put(change: Change) -> None:
            leases.keep_seen(change.connection, now)
            leases.put(
                change.connection, name, grant, identifier, version, int(now.reading.wall), now.lease + life
            )  # fmt: skip

        self.evidence.change(put)
        return name, key

    def prolong(self, name: str, life: float, *, finished: bool) -> Lease | None:
        """One that is being fetched, or is complete now. None if it was ended meanwhile."""
        now = self.seen()
        done = int(now.reading.wall) if finished else None

        def work(change: Change) -> Row | None:
            leases.keep_seen(change.connection, now)
            changed = leases.prolong(change.connection, name, now.lease + life, done)
            return leases.one(change.connection, name) if changed else None

        row = self.evidence.change(work)
        return self.lease(row, now) if row is not None else None

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Nobody else begins or ends a lease meanwhile."""
        with alone(self._lock_path):
            yield

    # The end.

    def end(self, identifier: Identifier, reason: str = ASKED_FOR) -> int:
        """Ends all leases of an object at once; how many."""
        with self.evidence.reading() as connection:
            names = [row.key_name for row in leases.live(connection, identifier) if not row.reason]
        self._decide({reason: names} if names else {})
        self.sweep()
        return len(names)

    def sweep(self) -> list[Row]:
        """Destroys what is due, and goes on with what was begun. Returns what it destroyed. Raises hanse.errors."""
        if not self.folder.exists():
            return []
        with self._sweeping, self.evidence.reading() as connection:
            rows = leases.live(connection)
            due: dict[str, list[str]] = {}
            if rows:
                now = self.seen().lease
                for row in rows:
                    reason = "" if row.reason else self._due(connection, row, now)
                    if reason:
                        due.setdefault(reason, []).append(row.key_name)
                self._decide(due)
                rows = leases.live(connection) if due else rows
            ending = [row for row in rows if row.reason]
            for row in ending:
                self._destroy(row)
            self._tidy()
        return ending

    def _due(self, connection: Connection, row: Row, now: float) -> str:
        if any(each.revoked_at is not None for each in papers.chain(connection, row.grant)):
            return REVOKED
        if now >= row.expires_at and (row.finished_at is not None or not in_use(self.folder / row.key_name)):
            return EXPIRED
        # Without its key it is at its end, whoever removed that.
        return "" if keys.read(self.keys, row.key_name) is not None else ASKED_FOR

    def _decide(self, due: dict[str, list[str]]) -> None:
        """Notes it. If that fails, what is due is destroyed all the same: the time does not wait for a full disk."""

        def work(change: Change) -> None:
            for reason, names in due.items():
                leases.end(change.connection, names, reason)

        try:
            if due:
                self.evidence.change(work)
        except HanseError:
            with self.lock():
                for names in due.values():
                    for name in names:
                        keys.destroy(self.keys, name)
            raise

    def _destroy(self, row: Row) -> None:
        with self.lock():
            if self.keys.exists():
                keys.destroy(self.keys, row.key_name)
        # Nobody can open it any more: what is left of it is noise, and `_tidy` comes back for it.
        shutil.rmtree(self.folder / row.key_name, ignore_errors=True)
        identity = self.evidence.identity()

        def record(change: Change) -> None:
            now = max(1, change.now)
            deletion = Deletion(row.owner, identity.prefix, row.id, row.version, row.grant, row.reason, now)
            envelope = sign(PayloadType.DELETION, encode_deletion(deletion), identity.acknowledged_key)
            known = leases.is_signed(change.connection, envelope)
            if leases.destroyed(change.connection, row.key_name, now, envelope):
                if not known:  # no paper stands in a log twice
                    change.append(Kind.DELETION, wire.encode_envelope(envelope))
                leases.forget_seen(change.connection)

        self.evidence.change(record)

    def _tidy(self) -> None:
        """Removes what no live lease has: keys of leases that never began, sealed bytes whose key is gone."""
        live = self._live_names()
        if live and not self._strays(live):
            return
        with self.lock():
            live = self._live_names()
            for path in self._strays(live):
                if path.is_dir() and not path.is_symlink():
                    shutil.rmtree(path)
                else:
                    keys.destroy(path.parent, path.name)
            if not live:
                for folder in (self.keys, self.folder):
                    with contextlib.suppress(FileNotFoundError):  # it was removed before a kill
                        folder.rmdir()

    def _live_names(self) -> set[str]:
        with self.evidence.reading() as connection:
            return {row.key_name for row in leases.live(connection)}

    def _strays(self, live: set[str]) -> list[Path]:
        with contextlib.suppress(FileNotFoundError):
            found = [path for path in self.folder.iterdir() if path.name != _KEYS and path.name not in live]
            return found + [self.keys / name for name in keys.names(self.keys) if name not in live]
        return []


def sweep_home(home: Home, clock: Callable[[], float] = time.time) -> None:
    """Before anything else is done in a home: what is due is destroyed, also where nobody can sign just now."""
    if (home / FOLDER).exists():
        with Evidence(Database.open(home / FILE, MIGRATIONS), lambda: Identity.load(home), clock) as evidence:
            Vault(home, evidence, clock).sweep()


def in_use(folder: Path) -> bool:
    """Whether a process is fetching into the folder of a lease."""
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


# Deletions on their way to the owner.


def undelivered(evidence: Evidence, owner: Prefix | None = None) -> list[Envelope]:
    """Signed deletions that their owners, or that one, do not have yet: for Settle."""
    with evidence.reading() as connection:
        return [row.deletion for row in leases.undelivered(connection, owner) if row.deletion is not None]


def reported(evidence: Evidence) -> list[tuple[Deletion, int]]:
    """What others deleted of ours, as they signed it, and when it was told; newest first."""
    with evidence.reading() as connection:
        return [(decode_deletion(envelope.payload), at) for envelope, at in leases.reported(connection)]


def owners_waiting(evidence: Evidence) -> list[Prefix]:
    """To whom there is a deletion to be delivered."""
    with evidence.reading() as connection:
        return list(dict.fromkeys(row.owner for row in leases.undelivered(connection)))


def delivered(evidence: Evidence, deletions: Iterable[Envelope]) -> None:
    """Their owner has them durably."""
    digests = [each.digest for each in deletions]

    def work(change: Change) -> None:
        for digest in digests:
            leases.delivered(change.connection, digest, change.now)

    if digests:
        evidence.change(work)
