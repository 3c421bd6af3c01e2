"""Receipts: what was verified is noted as it comes, signed when all is there, and settled with the owner. SPEC.md 17.

A receipt says what arrived and was verified, each chunk once, whatever was asked for or sent twice. Our half is durable
before the data is given out under its name; that the owner's half is late or never comes does not fail a fetch.

    receipts = Receipts(resolver, lambda: evidence)
    session = receipts.session(record, grant)
    peer.fetch(..., delivery=session.delivery)
    session.verified(Delivered(0, 1), 4096)
    session.end().by_both
"""

import contextlib
import secrets
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future

from hanse import limits, wire, wire_papers
from hanse.client.journal import Begun
from hanse.client.resolve import Resolver
from hanse.client.settler import Settler
from hanse.client.settling import Outcome
from hanse.evidence.evidence import Evidence
from hanse.evidence.parts import completed
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage import papers, records
from hanse.evidence.storage.deliveries import Row, State
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.papers import NONCE_BYTES, Delivered, Receipt
from hanse.model.purposes import Purpose
from hanse.signing import sign
from hanse.trust import VerifiedRecord
from hanse.turns import turn, waiting

_KEPT = 10_000
_JOINED = 1024  # notes after which they are joined


class Receipts:
    """Those of one client. Safe to share between threads; to be closed."""

    def __init__(self, resolver: Resolver, evidence: Callable[[], Evidence], wait: float = limits.SETTLE_WAIT) -> None:
        """``wait``: seconds that the end of a fetch waits for the owner's signature."""
        self._resolver, self._evidence, self.wait = resolver, evidence, wait
        self._settler = Settler(resolver, evidence)
        self._purposes: dict[bytes, tuple[Purpose, ...]] = {}
        self.kept: set[bytes] = set()  # records that are durable here, by digest: some of them

    @property
    def evidence(self) -> Evidence:
        return self._evidence()

    def session(self, record: VerifiedRecord, grant: bytes = b"", begun: Begun | None = None) -> "Session":
        """One delivery of a version. ``begun``: as an earlier attempt began it. What is our own needs no receipt."""
        if record.record.id.prefix == self.evidence.identity().prefix:
            return Session(None, record, grant, begun)
        if begun is not None and self._state(record.record.id.prefix, begun.id) is not None:
            return Session(self, record, grant, None, spent=begun.id)
        return Session(self, record, grant, begun)

    def begin(self) -> Begun:
        """A name for a delivery, before it is known of what."""
        return Begun(secrets.token_bytes(NONCE_BYTES), int(self.evidence.clock()))

    def first(self, record: VerifiedRecord, grant: bytes, begun: Begun) -> "Session":
        """A delivery that nobody attempted before."""
        own = record.record.id.prefix == self.evidence.identity().prefix
        return Session(None if own else self, record, grant, begun)

    def settle(self, owner: Prefix, delivery: bytes) -> "Future[Outcome]":
        """Begins to; with it what else waits for that owner."""
        return self._settler.submit(owner, delivery)

    def follow(self, stored: "Future[None]", owner: Prefix, delivery: bytes) -> "Future[Outcome]":
        """The same once our half is ``stored``; raises what that raises."""
        return self._settler.follow(stored, owner, delivery)

    def close(self) -> None:
        """Waits for what is being settled, for a bounded time."""
        self._settler.close()

    def purposes(self, grant: bytes) -> tuple[Purpose, ...]:
        """For what the grant (digest) is."""
        found = self._purposes.get(grant)
        if found is None:
            with self.evidence.reading() as connection:
                row = papers.grant(connection, grant) if grant else None
            found = self._purposes[grant] = row.grant.conditions.purposes if row is not None else ()
        return found

    def has_kept(self, record: bytes, error: BaseException | None) -> None:
        """A record, by its digest, is durable here, unless there was an error."""
        if error is None:
            if len(self.kept) >= _KEPT:
                self.kept.clear()
            self.kept.add(record)

    def _state(self, owner: Prefix, delivery: bytes) -> State | None:
        with self.evidence.reading() as connection:
            return table.state(connection, delivery, ours=True, peer=str(owner))


class Session:
    """One delivery, from its first stream to its receipt. Any thread may call any method."""

    def __init__(
        self,
        receipts: Receipts | None,
        record: VerifiedRecord,
        grant: bytes,
        begun: Begun | None,
        spent: bytes = b"",
    ) -> None:
        """``receipts`` None: only a name for the delivery. ``spent``: one that we have signed for already."""
        self._receipts, self._record, self._grant, self._spent = receipts, record, grant, spent
        self.resumes = begun is not None
        clock = receipts.evidence.clock if receipts is not None else time.time
        self.begun = begun or Begun(secrets.token_bytes(NONCE_BYTES), int(clock()))
        self._lock = threading.Lock()
        self._notes: list[Delivered] = []
        self._counts: dict[int, int] = {}
        self._size = 0

    @property
    def delivery(self) -> bytes:
        return self.begun.id

    @property
    def owner(self) -> Prefix:
        return self._record.record.id.prefix

    @property
    def separate(self) -> int:
        """How many separate parts were noted, at most."""
        with self._lock:
            if len(self._notes) > _JOINED:
                self._notes = list(completed(self._notes, self._counts))
            return len(self._notes)

    def verified(self, part: Delivered, length: int, of: int = 0) -> None:
        """``length`` bytes came and are what their owner signed: noted once. ``of``: chunks that the element has."""
        with self._lock:
            self._notes.append(part)
            self._size += length
            if of:
                self._counts[part.element] = of
            if len(self._notes) > _JOINED and len(self._notes) % _JOINED == 0:
                self._notes = list(completed(self._notes, self._counts))

    def keep(self) -> None:
        """Makes our half durable, if anything came. Twice does no harm. Raises NoSpace, StorageFailed."""
        stored = self._store()
        if stored is not None:
            with waiting():
                stored.result()
            self._spent = self.delivery

    def _store(self) -> "Future[None] | None":
        """Begins to; None when there is nothing to be kept."""
        receipts = self._receipts
        with self._lock:
            parts, size = completed(self._notes, self._counts), self._size
        if receipts is None or not parts or self._spent == self.delivery:
            return None
        evidence, record = receipts.evidence, self._record.record
        identity = evidence.identity()
        ended_at = max(int(evidence.clock()), self.begun.at)
        receipt = Receipt(
            self.delivery,
            self.owner,
            identity.prefix,
            record.id,
            record.version,
            self._record.digest,
            self._grant,
            receipts.purposes(self._grant),
            parts,
            size,
            self.begun.at,
            ended_at,
        )
        payload = wire_papers.encode_receipt(receipt)
        half = sign(PayloadType.RECEIPT, payload, identity.acknowledged_key)
        encoded = wire.encode_envelope(half)
        row = Row(
            self.delivery, True, str(self.owner), record.id.key, record.version, self._grant, payload, size, 0,
            self.begun.at, ended_at, State.HALF, encoded, half.digest,
        )  # fmt: skip

        def work(change: Change) -> None:
            if table.add(change.connection, row):
                if self._record.digest not in receipts.kept:
                    records.keep(change.connection, self._record.envelope)
                papers.use(change.connection, [self._grant], 1, size)
                change.append(Kind.HALF_RECEIPT, encoded)

        stored = evidence.writer.submit(work)
        stored.add_done_callback(lambda done: receipts.has_kept(self._record.digest, done.exception()))
        return stored

    def settle(self) -> Outcome | None:
        """Waits for the owner's signature, for a bounded time. None when there is nothing to be signed."""
        if self._receipts is None or not self._spent:
            return None
        return self._wait(self._receipts.settle(self.owner, self._spent), self._receipts.wait)

    def end(self) -> Outcome | None:
        """``keep``, ``settle``, waiting once for both."""
        with turn():
            stored = self._store()
            if stored is None or self._receipts is None:
                return self.settle()
            outcome = self._receipts.follow(stored, self.owner, self.delivery)
        try:
            return self._wait(outcome, self._receipts.wait)
        finally:
            with waiting():
                stored.result()  # however long the disk takes
            self._spent = self.delivery

    def _wait(self, outcome: "Future[Outcome]", seconds: float) -> Outcome:
        with contextlib.suppress(TimeoutError), waiting():
            return outcome.result(seconds)
        return Outcome(False, f"{self.owner} did not answer within {seconds:.0f} s")

    def another(self) -> "Session":
        """When the owner takes no more of this delivery: what came in it is signed, what comes is another's."""
        self.keep()
        if self._receipts is not None and self._spent == self.delivery:
            self._receipts.settle(self.owner, self.delivery)
        return Session(self._receipts, self._record, self._grant, None, spent=self._spent)

    def pay(self) -> None:
        """Waits until the owner has signed, or refused, what waits: before a fetch that it refuses until then."""
        if self._receipts is not None:
            with contextlib.suppress(TimeoutError):
                self._receipts.settle(self.owner, b"").result(limits.CALL_TIMEOUT)
