"""Publishing: envelopes of all streams, verified in parallel, stored in groups, acknowledged when durable.

One thread owns the transaction. It takes all that waits, up to GROUP records, so that one sync to the disk
serves many; while it writes, other threads verify what comes next. The order of a stream is kept: what was
submitted first is decided first. One bad record does not sink its group, and a group that could not be
stored is answered 'try again', each of it.

    outcomes = writer.submit(prefix, message).result()
"""

import queue
import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from hanse import limits, wire
from hanse.errors import HanseError, InvalidInput, LimitExceeded
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.trust import VerifiedOrganization
from registry.accept import (
    Candidate,
    Code,
    OrganizationCandidate,
    Outcome,
    Stored,
    decide,
    decide_organization,
    examine,
)
from registry.joining import Membership
from registry.storage.base import NewRecord, Storage, Writing

_log = structlog.get_logger()

GROUP = 1000  # records in one transaction: enough to spread a sync over, too few to make anybody wait long


@dataclass(frozen=True, slots=True)
class _Examined:
    """The envelopes of one message and what is said of each, given the sender's record of that digest."""

    owner_digest: bytes
    envelopes: list[Envelope | Outcome]
    results: list[Candidate | OrganizationCandidate | Outcome]


class Owners(Protocol):
    """Who may publish now."""

    def owner(self, sender: Prefix) -> VerifiedOrganization:
        """Raises NotPermitted for one who may not."""

    def changed(self, keys: Collection[str], *, members: bool) -> None:
        """New versions of these objects were committed; ``members``: the membership is another one too."""


@dataclass(slots=True)
class _Batch:
    sender: Prefix
    examined: "Future[_Examined]"
    answer: "Future[list[Outcome]]"


class Writer:
    """Runs until ``close``."""

    def __init__(
        self, storage: Storage, membership: Membership, owners: Owners, clock: Callable[[], float] = time.time,
        threads: int = 2,
    ) -> None:  # fmt: skip
        self._storage = storage
        self._membership = membership
        self._owners = owners
        self._clock = clock
        self._waiting: queue.SimpleQueue[_Batch | None] = queue.SimpleQueue()
        self._pool = ThreadPoolExecutor(threads, "examine")
        self._thread = threading.Thread(target=self._run, name="writer", daemon=True)
        self._thread.start()

    def submit(self, sender: Prefix, envelopes: Callable[[], list[Envelope | Outcome]]) -> "Future[list[Outcome]]":
        """Their outcomes, in their order. ``envelopes`` decodes them, in another thread; may raise InvalidInput.

        An outcome among them stands for one that is no envelope.
        """
        answer: Future[list[Outcome]] = Future()
        # It cannot be cancelled: whoever waits for it may be gone, and the others of its group must have theirs.
        answer.set_running_or_notify_cancel()
        self._waiting.put(_Batch(sender, self._pool.submit(self._examine, sender, envelopes), answer))
        return answer

    def close(self) -> None:
        """Stores what was submitted, then ends."""
        self._waiting.put(None)
        self._thread.join()
        self._pool.shutdown()

    def _examine(self, sender: Prefix, decode: Callable[[], list[Envelope | Outcome]]) -> _Examined:
        envelopes = decode()
        if len(envelopes) > limits.BATCH:
            raise LimitExceeded(f"one message has at most {limits.BATCH} envelopes")
        owner, now = self._owners.owner(sender), int(self._clock())
        results = [each if isinstance(each, Outcome) else examine(each, sender, owner, now) for each in envelopes]
        return _Examined(owner.digest, envelopes, results)

    def _run(self) -> None:
        ended = False
        while not ended:
            group: list[tuple[_Batch, _Examined]] = []
            count = 0
            batch = self._waiting.get()
            while True:
                if batch is None:
                    ended = True
                    break
                try:
                    examined = batch.examined.result()
                    group.append((batch, examined))
                    count += len(examined.envelopes)
                except Exception as error:  # noqa: BLE001 — whatever it is belongs to whoever submitted
                    batch.answer.set_exception(error)
                if count >= GROUP or self._waiting.empty():
                    break
                batch = self._waiting.get()
            if group:
                self._store_and_answer(group)

    def _store_and_answer(self, group: Sequence[tuple[_Batch, _Examined]]) -> None:
        try:
            store = _Group(self._membership, self._owners, int(self._clock()))
            with self._storage.writing() as writing:
                answers = [store.decide(writing, batch.sender, examined) for batch, examined in group]
                store.flush(writing)
            if store.stored:
                self._owners.changed(store.keys, members=store.members_changed)
        except HanseError as error:
            _log.warning(
                "publish.failed",
                reason=error.reason,
                text=str(error),
                records=sum(len(examined.envelopes) for _, examined in group),
            )
            answers = [
                [
                    Outcome(each.digest, Code.TRY_AGAIN, f"the registry cannot store at present: {error}")
                    for each in examined.results
                ]
                for _, examined in group
            ]
        except Exception as error:  # noqa: BLE001 — each of the group is told
            _log.exception("publish.broken")
            for batch, _ in group:
                batch.answer.set_exception(error)
            return
        for (batch, _), outcomes in zip(group, answers, strict=True):
            batch.answer.set_result(outcomes)


class _Group:
    """The records of one transaction."""

    def __init__(self, membership: Membership, owners: Owners, now: int) -> None:
        self._membership = membership
        self._owners = owners
        self._now = now
        self._new: list[NewRecord] = []
        self._ahead: dict[str, Stored] = {}  # what this transaction is about to store
        self._organizations: dict[Prefix, VerifiedOrganization] = {}
        self.stored = 0
        self.members_changed = False

    def decide(self, writing: Writing, sender: Prefix, examined: _Examined) -> list[Outcome]:
        keys = [each.record.id.key for each in examined.results if isinstance(each, Candidate)]
        known = writing.stored(keys)
        outcomes = []
        for envelope, result in zip(examined.envelopes, examined.results, strict=True):
            each = result
            if isinstance(envelope, Envelope) and not isinstance(each, OrganizationCandidate):
                try:
                    owner = self._owner(sender)
                except HanseError as error:
                    each = Outcome(result.digest, Code.REFUSED, str(error))
                else:
                    if owner.digest != examined.owner_digest:
                        # Its owner has another record by now, perhaps another key.
                        each = examine(envelope, sender, owner, self._now)
                        if isinstance(each, Candidate):
                            known |= writing.stored([each.record.id.key])
            if isinstance(each, Outcome):
                outcomes.append(each)
            elif isinstance(each, OrganizationCandidate):
                outcomes.append(self._organization(writing, sender, each))
            else:
                outcomes.append(self._record(writing, each, known))
        return outcomes

    @property
    def keys(self) -> Collection[str]:
        """Of what has a new version."""
        return self._ahead.keys()

    def flush(self, writing: Writing) -> None:
        if self._new:
            writing.put_records(self._new)
            self.stored += len(self._new)
            self._new = []

    def _owner(self, sender: Prefix) -> VerifiedOrganization:
        return self._organizations.get(sender) or self._owners.owner(sender)

    def _record(self, writing: Writing, candidate: Candidate, known: dict[str, Stored]) -> Outcome:
        record, key = candidate.record, candidate.record.id.key
        stored = self._ahead.get(key) or known.get(key)
        same_version = None
        if stored is not None and record.version <= stored.version:
            if record.version == stored.version:
                same_version = stored.digest
            else:
                if key in self._ahead:
                    self.flush(writing)
                same_version = writing.digest_of(key, record.version)
        outcome = decide(candidate, stored, same_version)
        if outcome.code is Code.ACCEPTED and same_version is None:
            self._ahead[key] = Stored(record.version, candidate.digest, candidate.document is None)
            self._new.append(
                NewRecord(
                    key,
                    record.version,
                    candidate.digest,
                    record.issued_at,
                    wire.encode_envelope(candidate.envelope),
                    candidate.document,
                )
            )
        return outcome

    def _organization(self, writing: Writing, sender: Prefix, candidate: OrganizationCandidate) -> Outcome:
        try:
            pinned = self._owner(sender)
        except HanseError as error:
            return Outcome(candidate.digest, Code.REFUSED, str(error))
        try:
            known = writing.organization_digest(sender, candidate.version)
            decided = decide_organization(candidate, sender, pinned, known, self._now)
            if isinstance(decided, Outcome):
                return decided
            # In the order in which it was sent, also for those who watch.
            self.flush(writing)
            self._membership.follow(writing, decided)
        except InvalidInput as error:
            return Outcome(candidate.digest, Code.REFUSED, str(error))
        self._organizations[sender] = decided
        self.stored += 1
        self.members_changed = True
        return Outcome(candidate.digest, Code.ACCEPTED)
