"""Settling with owners: our halves of receipts go out, theirs come back. SPEC.md section 17.4.

One Settle carries all that waits for an owner, so that many fetches at once cost one round trip. What comes back is
believed only if it is the very payload that we signed, with our signature and one of the owner's own key; until then a
half is a half, is kept, and is sent again. Deletions and checkpoints of both logs travel along.

    settle_all(resolver, evidence)                  # {prefix: Report}
"""

import random
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field

from hanse import limits, wire
from hanse.client.keys import Signer
from hanse.client.peer import Peer
from hanse.client.resolve import Resolver
from hanse.errors import BadSignature, HanseError, VerificationFailed, WrongContent
from hanse.evidence import peers
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.organization import OrganizationRecord
from hanse.trust import signing_key
from hanse.vault import vault

MOST = limits.SETTLED_AT_ONCE // 2  # receipts in one call; the other half is for deletions
_FRESH_SECONDS = 5  # a half that is younger is being settled by whoever made it
_RETRY_SECONDS = 5.0
_RETRY_MOST_SECONDS = 3600.0


@dataclass(frozen=True, slots=True)
class Outcome:
    """``by_both``: the receipt has both signatures. Otherwise it is ours only, and ``reason`` says why."""

    by_both: bool
    reason: str = ""


@dataclass(slots=True)
class Report:
    """How settling with one owner went. ``refused``: what it said to each that it would not sign."""

    settled: int = 0
    refused: list[str] = field(default_factory=list)
    problem: str = ""


def settle_all(resolver: Resolver, evidence: Evidence, owner: Prefix | None = None) -> dict[Prefix, Report]:
    """Everything that waits, of all owners or of one. Raises only what concerns this home."""
    with evidence.reading() as connection:
        owners = {Prefix(row.peer) for row in table.waiting(connection)}
    owners |= set(vault.owners_waiting(evidence))
    reports: dict[Prefix, Report] = {}
    for each in sorted(owners if owner is None else owners & {owner}):
        report = reports[each] = Report()
        tried: set[bytes] = set()
        try:
            with resolver.peer(each) as peer:
                while batch := [row for row in _waiting(evidence, each) if row.id not in tried][:MOST]:
                    tried |= {row.id for row in batch}
                    _add(report, settle(peer, resolver, evidence, batch))
                if not tried:
                    _add(report, settle(peer, resolver, evidence, []))
        except HanseError as error:
            report.problem = str(error)
    return reports


def _add(report: Report, answered: tuple[dict[bytes, Outcome], str]) -> None:
    outcomes, problem = answered
    report.settled += sum(each.by_both for each in outcomes.values())
    report.refused += [each.reason for each in outcomes.values() if not each.by_both]
    report.problem = problem or report.problem


def settle(
    peer: Peer,
    resolver: Resolver,
    evidence: Evidence,
    rows: Sequence[Row],
    *,
    checkpoints: bool = True,
    keep: Callable[["Future[None]", Sequence[Row]], None] | None = None,
) -> tuple[dict[bytes, Outcome], str]:
    """One call: how each went, and what is wrong with the owner's log, which undoes no receipt.

    ``checkpoints``: whether the two logs are shown to each other. ``keep`` is told when the receipts of those rows are
    durable; without it, they are when this returns.

    Raises Unreachable and what else kept the two from speaking; not what is wrong with one paper.
    """
    owner = peer.prefix
    halves = [wire.decode_envelope(row.receipt or b"") for row in rows]
    deletions = vault.undelivered(evidence, owner)[:MOST]
    shown = peers.offer(evidence, owner) if checkpoints else None
    answers, theirs = peer.settle([*halves, *deletions], shown)
    outcomes: dict[bytes, Outcome] = {}
    whole: list[tuple[Row, Envelope]] = []
    signer = Signer(resolver, owner)
    for row, half, (paper, refusal) in zip(rows, halves, answers, strict=False):
        if paper is None:
            outcomes[row.id] = Outcome(False, f"{owner} does not sign: {refusal or 'without a reason'}")
            continue
        try:
            check_whole(signer, owner, half, paper, row.moved_at)
        except VerificationFailed as error:
            outcomes[row.id] = Outcome(False, str(error))
            continue
        whole.append((row, paper))
        outcomes[row.id] = Outcome(True)
    taken = [each for each, (_, refusal) in zip(deletions, answers[len(rows) :], strict=True) if not refusal]
    if whole:
        stored = evidence.writer.submit(lambda change: _keep_whole(change, whole))
        if keep is not None:
            keep(stored, [row for row, _ in whole])
        else:
            stored.result()
    if taken:
        vault.delivered(evidence, taken)
    problem = ""
    if theirs is not None and shown is not None:
        try:
            signer.believed(lambda record: peers.accept(evidence, owner, record, theirs, asked=shown.seen))
        except VerificationFailed as error:
            problem = str(error)
    return outcomes, problem


def check_whole(signer: Signer, owner: Prefix, half: Envelope, whole: Envelope, ended_at: int) -> None:
    """That it is our half with the owner's signature. Raises BadSignature, WrongContent."""
    if (whole.payload_type, whole.payload) != (half.payload_type, half.payload):
        raise WrongContent(f"{owner} answered with another receipt than the one that we signed: it was altered")
    if len(whole.signatures) != 2 or half.signatures[0] not in whole.signatures:
        raise BadSignature(f"{owner} answered with a receipt that has not our signature and one more")

    def check(record: OrganizationRecord) -> None:
        if signing_key(whole, record, ended_at) is None:
            raise BadSignature(f"{owner} answered with a receipt that is not signed by a key of its own")

    signer.believed(check)


def _keep_whole(change: Change, whole: Iterable[tuple[Row, Envelope]]) -> None:
    for row, paper in whole:
        encoded = wire.encode_envelope(paper)
        row.state, row.receipt, row.receipt_digest = State.SETTLED, encoded, paper.digest
        row.claimed = row.size
        if table.signed(change.connection, row):  # else another process of this home was faster
            change.append(Kind.RECEIPT, encoded)


def _waiting(evidence: Evidence, owner: Prefix) -> list[Row]:
    with evidence.reading() as connection:
        return table.waiting(connection, str(owner))


class Retrying:
    """Tries again what could not be settled: each owner after a while, longer each time. One thread calls ``look``."""

    def __init__(
        self, resolver: Callable[[], Resolver], evidence: Evidence, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._resolver, self._evidence, self._monotonic = resolver, evidence, monotonic
        self._due: dict[Prefix, tuple[float, float]] = {}  # when, and how long was waited for it

    def look(self) -> None:
        """Settles with the owners whose time has come. Raises only what concerns this home."""
        fresh = int(self._evidence.clock()) - _FRESH_SECONDS
        with self._evidence.reading() as connection:
            owners = {Prefix(row.peer) for row in table.waiting(connection) if row.moved_at <= fresh}
        owners |= set(vault.owners_waiting(self._evidence))
        for owner in self._due.keys() - owners:
            del self._due[owner]
        for owner in sorted(owners):
            due, waited = self._due.get(owner, (0.0, 0.0))
            if self._monotonic() < due:
                continue
            report = settle_all(self._resolver(), self._evidence, owner).get(owner, Report())
            again = _RETRY_SECONDS if report.settled else min(max(_RETRY_SECONDS, 2 * waited), _RETRY_MOST_SECONDS)
            self._due[owner] = (self._monotonic() + again * random.uniform(0.5, 1.0), again)  # noqa: S311
