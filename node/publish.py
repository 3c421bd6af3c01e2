"""Sends what waits in the outbox to the registry until it is acknowledged, for as long as that takes.

The rule it keeps: an acknowledged change was durable here before it was sent and is durable there before it leaves the
outbox; sending a thing twice does no harm. The order of an object's versions is kept: one at a time of each. A registry
that says how long to wait is not asked before.

    Publisher(storage, league, identity).run(stop)
"""

import random
import threading
import time
from collections.abc import Callable

import structlog

from hanse import limits
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.errors import HanseError, Unreachable, VerificationFailed
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.publishing import OutcomeCode, PublishOutcome
from hanse.signing import sign
from node.storage.catalog import CatalogStorage
from node.storage.outbox import ORGANIZATION, Waiting

POLL_SECONDS = 0.5
LONGEST_WAIT = 60.0
LONGEST_TOLD = 240.0  # seconds that a registry is obeyed: less than the outbox takes for a clock that was wrong
log = structlog.get_logger("hanse.node.publish")


class Publisher:
    """``run`` in a thread of the daemon, ``drain`` in a command. ``league`` and ``identity`` may change meanwhile."""

    def __init__(
        self,
        storage: CatalogStorage,
        league: Callable[[], League],
        identity: Callable[[], Identity],
        *,
        organization_acknowledged: Callable[[], None] = lambda: None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._storage, self._league, self._identity = storage, league, identity
        self._organization_acknowledged = organization_acknowledged
        self._clock = clock
        self._soon = threading.Event()
        self._paused_until = 0.0  # of the monotonic clock: the registry takes nothing of ours before

    def hurry(self) -> None:
        """There is a reason to think that it will succeed now: waits for nothing. From any thread."""
        self._soon.set()

    def run(self, stop: threading.Event) -> None:
        """Until told to stop. After a failure it waits 1 to 60 s, less if there is something new to send."""
        failures, newest_tried, wait_until, returns = 0, 0, 0.0, 0
        while not stop.wait(POLL_SECONDS):
            if self.paused:
                continue
            try:
                waiting = self._storage.outbox.pending(limits.BATCH)
                newest = max((each.seq for each in waiting), default=0)
                is_back = self._soon.is_set() or self._league().returns != returns
                is_early = time.monotonic() < wait_until and not is_back
                if not waiting or (is_early and newest <= newest_tried):
                    continue
                newest_tried, returns = newest, self._league().returns
                if is_back:
                    failures = 0  # the first attempt may still meet the connection that failed
                    self._soon.clear()
                sent = self._send(waiting)
                while (
                    sent
                    and not (stop.is_set() or self.paused)
                    and (waiting := self._storage.outbox.pending(limits.BATCH))
                ):
                    sent = self._send(waiting)
                failures = 0
            except HanseError as error:
                failures += 1
                delay = min(LONGEST_WAIT, 2.0 ** min(failures - 1, 6)) * random.uniform(0.5, 1.0)  # noqa: S311
                wait_until = time.monotonic() + max(1.0, delay)
                log.warning("publish.failed", error=str(error), failures=failures, wait_seconds=round(delay, 1))

    def drain(self) -> int:
        """Sends what can be sent now; returns how many were acknowledged. Raises what the registry's absence raises."""
        total = 0
        while waiting := self._storage.outbox.pending(limits.BATCH):
            sent = self._send(waiting)
            total += sent
            if not sent or self.paused:
                break
        return total

    @property
    def paused(self) -> bool:
        """The registry said that nothing more is accepted now."""
        return time.monotonic() < self._paused_until

    def _send(self, waiting: list[Waiting]) -> int:
        """One batch. Returns how many were acknowledged; raises Unreachable and the like after marking the oldest."""
        waiting = self._signed_by_current_key(waiting)
        acknowledged: list[int] = []
        put_off: dict[tuple[str, float], list[int]] = {}
        try:
            outcomes = self._league().publish(each.envelope for each in waiting)
            for each, outcome in zip(waiting, outcomes, strict=False):
                if outcome.digest != each.envelope.digest:
                    raise VerificationFailed("the registry acknowledged something else than what was sent to it")
                if outcome.code is OutcomeCode.TRY_AGAIN and outcome.wait:
                    put_off.setdefault((outcome.message, self._told_to_wait(outcome)), []).append(each.seq)
                elif self._settle(each, outcome):
                    acknowledged.append(each.seq)
                    if len(acknowledged) % limits.BATCH == 0:
                        self._storage.outbox.acknowledged_all(acknowledged[-limits.BATCH :])
        except HanseError as error:
            left = next((each for each in waiting if each.seq not in set(acknowledged)), None)
            if left is not None:
                self._storage.outbox.failed(left.seq, str(error))
            raise
        finally:
            self._storage.outbox.acknowledged_all(acknowledged)
            for (why, wait), seqs in put_off.items():
                self._storage.outbox.put_off(seqs, why, int(self._clock() + wait))
                log.warning("publish.waits", count=len(seqs), why=why, wait_seconds=wait)
            if acknowledged:
                log.info("publish.acknowledged", count=len(acknowledged))
        if any(each.key == ORGANIZATION and each.seq in acknowledged for each in waiting):
            self._organization_acknowledged()
        return len(acknowledged)

    def _told_to_wait(self, outcome: PublishOutcome) -> float:
        wait = min(LONGEST_TOLD, float(outcome.wait))
        if outcome.pause:
            self._paused_until = max(self._paused_until, time.monotonic() + wait)
        return wait

    def _settle(self, each: Waiting, outcome: PublishOutcome) -> bool:
        match outcome.code:
            case OutcomeCode.ACCEPTED:
                return True
            case OutcomeCode.TRY_AGAIN:
                delay = min(LONGEST_WAIT, 2.0 ** min(each.attempts, 6))
                self._storage.outbox.failed(each.seq, outcome.message, int(self._clock() + delay))
            case OutcomeCode.REFUSED | OutcomeCode.CONFLICT:
                log.warning("publish.refused", object=each.key, why=outcome.message)
                self._storage.outbox.refused(each.seq, outcome.message)
            case _:
                raise Unreachable("the registry gave an outcome that this version does not know: upgrade hanse")
        return False

    def _signed_by_current_key(self, waiting: list[Waiting]) -> list[Waiting]:
        """A command that began before a change of keys may have signed with the old one: sign again, digests stay."""
        key = self._identity().signing_key
        name = str(key.public.key_id)
        if all(each.key == ORGANIZATION or _is_signed(each.envelope, name) for each in waiting):
            return waiting
        self._storage.outbox.resign(
            lambda before: (
                before if _is_signed(before, name) else sign(PayloadType(before.payload_type), before.payload, key)
            )
        )
        return self._storage.outbox.pending(limits.BATCH)


def _is_signed(envelope: Envelope, name: str) -> bool:
    return any(signature.keyid == name for signature in envelope.signatures)
