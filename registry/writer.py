"""Publishing: envelopes of all streams, verified in parallel, stored in groups, acknowledged when durable.

One thread owns the transaction. It takes all that waits, up to GROUP records, so that one sync to the disk
serves many; while it writes, other threads verify what comes next. The order of a sender is kept: what it
submitted first is decided first. Senders take turns, a message each, so that one with a thousand messages waiting
is one among the others, and delays nobody by more than its share. One bad record does not sink its group, and a
group that could not be stored is answered 'try again', each of it.

    outcomes = writer.submit(prefix, message).result()
"""

import threading
import time
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import structlog

from hanse import limits, wire
from hanse.errors import HanseError, InvalidInput, LimitExceeded, NotPermitted, StorageFailed
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
from registry.figures import Durations
from registry.joining import Membership
from registry.passes import refuse_suspended
from registry.progress import Steps, waiting
from registry.storage.base import NewRecord, Storage, Writing, transact
from registry.turns import Turns
from registry.usage import NO_LIMITS, Account, Limits

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
        self,
        storage: Storage,
        membership: Membership,
        owners: Owners,
        allowed: Callable[[Prefix, Limits], Limits],
        clock: Callable[[], float] = time.time,
        threads: int = 2,
    ) -> None:
        """``allowed``: what an organization may use, when the database says this of it."""
        self._storage = storage
        self._membership = membership
        self._owners = owners
        self._allowed = allowed
        self._clock = clock
        self.commits = Durations()
        self.committed_at = 0.0  # Unix seconds, of the newest here
        self.steps = Steps()  # of the thread that writes
        self._examining: Turns[Callable[[], None]] = Turns()
        self._waiting: Turns[_Batch] = Turns()
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
        examined: Future[_Examined] = Future()
        self._examining.put(sender, lambda: _settle(examined, lambda: self._examine(sender, envelopes)))
        self._waiting.put(sender, _Batch(sender, examined, answer))
        self._pool.submit(self._examine_next)
        return answer

    def close(self) -> None:
        """Stores what was submitted, then ends."""
        self._waiting.end()
        self._thread.join()
        self._pool.shutdown()

    def _examine_next(self) -> None:
        """Of whose turn it is, not necessarily of who submitted last."""
        action = self._examining.get()
        if action is not None:
            action()

    def _examine(self, sender: Prefix, decode: Callable[[], list[Envelope | Outcome]]) -> _Examined:
        envelopes = decode()
        if len(envelopes) > limits.BATCH:
            raise LimitExceeded(f"one message has at most {limits.BATCH} envelopes")
        owner, now = self._owners.owner(sender), int(self._clock())
        results = [each if isinstance(each, Outcome) else examine(each, sender, owner, now) for each in envelopes]
        return _Examined(owner.digest, envelopes, results)

    def _run(self) -> None:
        batch = self._waiting.get()
        while batch is not None:
            with self.steps.working():
                self._serve(batch)
            batch = self._waiting.get()

    def _serve(self, batch: _Batch | None) -> None:
        """This one, and with it what else waits."""
        group: list[tuple[_Batch, _Examined]] = []
        count = 0
        while batch is not None:
            try:
                with waiting():  # for other threads, which have their own turn
                    examined = batch.examined.result()
                group.append((batch, examined))
                count += len(examined.envelopes)
            except Exception as error:  # noqa: BLE001 — whatever it is belongs to whoever submitted
                batch.answer.set_exception(error)
            batch = self._waiting.get() if count < GROUP and self._waiting else None
        if group:
            self._store_and_answer(group)

    def _store_and_answer(self, group: Sequence[tuple[_Batch, _Examined]]) -> None:
        tried: list[_Group] = []

        def store(writing: Writing) -> list[list[Outcome]]:
            tried.append(_Group(self._membership, self._owners, self._allowed, self._clock()))
            return tried[-1].store(writing, [(batch.sender, examined) for batch, examined in group])

        try:
            began = time.perf_counter()
            answers = transact(self._storage, store)
            # An attempt of which nobody knew whether it was stored may have been.
            if any(each.stored for each in tried):
                self.commits.add(time.perf_counter() - began)
                self.committed_at = self._clock()
                self._owners.changed(_keys(tried), members=any(each.members_changed for each in tried))
        except HanseError as error:
            self._owners.changed(_keys(tried), members=False)
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


def _settle(future: "Future[_Examined]", action: Callable[[], _Examined]) -> None:
    try:
        found = action()
    except BaseException as error:  # noqa: BLE001 — whoever waits for it is told
        future.set_exception(error)
    else:
        future.set_result(found)


def _keys(groups: "Sequence[_Group]") -> set[str]:
    return set[str]().union(*(each.keys for each in groups))


class _Group:
    """The records of one transaction."""

    def __init__(
        self, membership: Membership, owners: Owners, allowed: Callable[[Prefix, Limits], Limits], now: float
    ) -> None:
        self._membership = membership
        self._owners = owners
        self._allowed = allowed
        self._at, self._now = now, int(now)
        self._accounts: dict[Prefix, Account] = {}
        self._new: list[NewRecord] = []
        self._ahead: dict[str, Stored] = {}  # what this transaction is about to store
        self._organizations: dict[Prefix, VerifiedOrganization] = {}
        self.stored = 0
        self.members_changed = False

    def store(self, writing: Writing, group: Sequence[tuple[Prefix, _Examined]]) -> list[list[Outcome]]:
        """The outcomes of each."""
        keys = [each.record.id.key for _, one in group for each in one.results if isinstance(each, Candidate)]
        known = writing.stored(list(dict.fromkeys(keys)))
        answers = [self._decide(writing, sender, examined, known) for sender, examined in group]
        self._flush(writing)
        self._settle(writing)
        return answers

    def _decide(self, writing: Writing, sender: Prefix, examined: _Examined, known: dict[str, Stored]) -> list[Outcome]:
        outcomes = []
        for envelope, result in zip(examined.envelopes, examined.results, strict=True):
            each = result
            if isinstance(envelope, Envelope) and not isinstance(each, OrganizationCandidate):
                try:
                    owner = self._owner(writing, sender)
                except NotPermitted as error:
                    each = Outcome(result.digest, Code.TRY_AGAIN, str(error))  # a suspension ends
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
                outcomes.append(self._record(writing, sender, each, known))
        return outcomes

    @property
    def keys(self) -> Collection[str]:
        """Of what has a new version."""
        return self._ahead.keys()

    def _flush(self, writing: Writing) -> None:
        if self._new:
            writing.put_records(self._new)
            self.stored += len(self._new)
            self._new = []

    def _settle(self, writing: Writing) -> None:
        """The last of the transaction: what its senders have used up of their minute."""
        for prefix, account in self._accounts.items():
            if account.spent:
                writing.put_pace(prefix, account.paid_until)

    def _account(self, writing: Writing, sender: Prefix) -> Account:
        account = self._accounts.get(sender)
        if account is None:
            usage = writing.usage(sender, exact=False)
            allowed = self._allowed(sender, usage.limits)
            if allowed != NO_LIMITS:
                usage = writing.usage(sender)
            account = self._accounts[sender] = Account(sender, usage, allowed, self._at)
        return account

    def _owner(self, writing: Writing, sender: Prefix) -> VerifiedOrganization:
        """As of this transaction: another process may have stored a newer key, or a suspension, just now."""
        found = self._organizations.get(sender)
        if found is None:
            member = writing.member(sender)
            if member is not None:
                refuse_suspended(member)
            found = self._owners.owner(sender)
            if member is not None and member.organization_version != found.record.version:
                found = _newest(writing, sender)
            self._organizations[sender] = found
        return found

    def _record(self, writing: Writing, sender: Prefix, candidate: Candidate, known: dict[str, Stored]) -> Outcome:
        record, key = candidate.record, candidate.record.id.key
        stored = self._ahead.get(key) or known.get(key)
        same_version = None
        if stored is not None and record.version <= stored.version:
            if record.version == stored.version:
                same_version = stored.digest
            else:
                if key in self._ahead:
                    self._flush(writing)
                same_version = writing.digest_of(key, record.version)
        outcome = decide(candidate, stored, same_version)
        if outcome.code is Code.ACCEPTED and same_version is None:
            encoded = wire.encode_envelope(candidate.envelope)
            refusal = self._account(writing, sender).admit(
                new=stored is None, size=len(encoded), bounded=candidate.document is not None or stored is None
            )
            if refusal is not None:
                return Outcome(candidate.digest, Code.TRY_AGAIN, refusal.message, refusal.wait, refusal.pause)
            self._ahead[key] = Stored(record.version, candidate.digest, candidate.document is None)
            self._new.append(
                NewRecord(
                    key,
                    record.version,
                    candidate.digest,
                    record.issued_at,
                    encoded,
                    candidate.document,
                )
            )
        return outcome

    def _organization(self, writing: Writing, sender: Prefix, candidate: OrganizationCandidate) -> Outcome:
        try:
            pinned = self._owner(writing, sender)
        except NotPermitted as error:
            return Outcome(candidate.digest, Code.TRY_AGAIN, str(error))
        try:
            known = writing.organization_digest(sender, candidate.version)
            decided = decide_organization(candidate, sender, pinned, known, self._now)
            if isinstance(decided, Outcome):
                return decided
            # A new key must get through whatever space is used; who sends thousands of them waits all the same.
            size = len(wire.encode_envelope(candidate.envelope))
            refusal = self._account(writing, sender).admit(new=False, size=size, bounded=False)
            if refusal is not None:
                return Outcome(candidate.digest, Code.TRY_AGAIN, refusal.message, refusal.wait, refusal.pause)
            # In the order in which it was sent, also for those who watch.
            self._flush(writing)
            self._membership.follow(writing, decided)
        except InvalidInput as error:
            return Outcome(candidate.digest, Code.REFUSED, str(error))
        self._organizations[sender] = decided
        self.stored += 1
        self.members_changed = True
        return Outcome(candidate.digest, Code.ACCEPTED)


def _newest(writing: Writing, prefix: Prefix) -> VerifiedOrganization:
    """Of a member. It was verified before it was stored."""
    stored = writing.newest_organization(prefix)
    if stored is None:
        raise StorageFailed(f"the newest record of {prefix} is missing: `hanse-registry check`")
    envelope = wire.decode_envelope(stored.envelope)
    return VerifiedOrganization(wire.decode_organization(envelope.payload), envelope, stored.digest)
