"""How grants stand: owners are asked what they revoked, and told what we did. SPEC.md section 16.5.

What it is not: what ends a grant. At its owner a revocation counts at once; here it is learned of.

    refresh(resolver, evidence)         # {prefix: why it could not be asked}
"""

import contextlib
from collections import defaultdict

from hanse import limits, papers, wire, wire_papers
from hanse.client import access
from hanse.client.keys import believed
from hanse.client.resolve import Resolver
from hanse.errors import HanseError, InvalidInput, NotFound, Revoked, UsedUp, WrongContent
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers as storage
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.papers import GrantRow, RequestRow, RequestState
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix

_LEAST_DIGITS = 6
_DENIED_SECONDS = 30 * limits.DAY


def refresh(resolver: Resolver, evidence: Evidence) -> dict[Prefix, str]:
    """Answers to requests that wait, revocations of grants held and narrowed. Returns whom it could not ask, and why.

    Raises only what concerns this home.
    """
    own, now = evidence.identity().prefix, int(evidence.clock())
    with evidence.reading() as connection:
        waiting = storage.requests(connection, ours=True, waiting=True)
        rows = [*storage.grants(connection, holder=own), *storage.grants(connection, maker=own)]
    concerned = {row.digest: row for row in rows if row.owner != own and not _is_over(row, now)}
    problems: dict[Prefix, str] = {}
    for request in waiting:
        if request.peer not in problems:
            try:
                access.poll(resolver, evidence, request.digest)
            except HanseError as error:
                problems[request.peer] = str(error)
    by_owner: defaultdict[Prefix, list[GrantRow]] = defaultdict(list)
    for row in concerned.values():
        by_owner[row.owner].append(row)
    for owner, rows in by_owner.items():
        if owner not in problems:
            try:
                _refresh(resolver, evidence, owner, rows)
            except HanseError as error:
                problems[owner] = str(error)
    return problems


def _is_over(row: GrantRow, now: int) -> bool:
    until = row.grant.conditions.valid_until
    return until is not None and until <= now


def _refresh(resolver: Resolver, evidence: Evidence, owner: Prefix, rows: list[GrantRow]) -> None:
    own = evidence.identity().prefix
    for row in rows:
        if row.maker == own and row.revocation is not None:
            tell(resolver, evidence, row.digest)
    asked = [row.digest for row in rows if row.revoked_at is None]
    with resolver.peer(owner) as peer:
        for first in range(0, len(asked), limits.BATCH):
            for digest, envelope in peer.standing(asked[first : first + limits.BATCH]):
                learn(resolver, evidence, digest, envelope)


def tell(resolver: Resolver, evidence: Evidence, digest: bytes) -> None:
    """Tells the owner that we ended a grant that we narrowed. Raises what the owner's node says.

    The grant is shown with it: whoever holds it may not have done so yet, and must not be able to afterwards.
    """
    with evidence.reading() as connection:
        rows = storage.chain(connection, digest)
    if rows and rows[-1].revocation is not None:
        with resolver.peer(rows[-1].owner) as peer:
            peer.present([row.envelope for row in rows], [rows[-1].revocation])


def all_grants(evidence: Evidence) -> list[tuple[GrantRow, GrantRow | None]]:
    """Those of our objects and those that we hold or made, newest first; each with the one of its chain that ended."""
    own = evidence.identity().prefix
    with evidence.reading() as connection:
        rows = [row for row in storage.grants(connection) if own in (row.owner, row.holder, row.maker)]
        return [
            (row, next((each for each in storage.chain(connection, row.digest) if each.revoked_at is not None), None))
            for row in rows
        ]


def unanswered(evidence: Evidence) -> list[RequestRow]:
    """Our requests that wait, and those that were denied of late."""
    since = evidence.clock() - _DENIED_SECONDS
    with evidence.reading() as connection:
        rows = storage.requests(connection, ours=True)
    return [
        row
        for row in rows
        if row.state is RequestState.WAITING or (row.state is RequestState.DENIED and (row.answered_at or 0) > since)
    ]


def ended(resolver: Resolver, evidence: Evidence, digest: bytes, why: Revoked | UsedUp) -> None:
    """Its owner refused a grant: it is not chosen again. What is revoked is kept when the owner proves it."""
    if isinstance(why, UsedUp):
        access.used_up(evidence, digest)
        return
    with evidence.reading() as connection:
        rows = storage.chain(connection, digest)
    if rows:
        with contextlib.suppress(HanseError):
            _refresh(resolver, evidence, rows[0].owner, [rows[-1]])


def learn(resolver: Resolver, evidence: Evidence, digest: bytes, envelope: Envelope) -> None:
    """Keeps a revocation of a grant, or of one above it. Raises VerificationFailed."""
    now = int(evidence.clock())
    with evidence.reading() as connection:
        chain = storage.chain(connection, digest)
    try:
        claimed = wire_papers.decode_revocation(envelope.payload)
    except InvalidInput as error:
        raise WrongContent(f"a revocation does not parse: {error}") from None
    ended = next((row for row in chain if row.digest == claimed.grant), None)
    if ended is None or not papers.may_revoke(claimed, ended.grant):
        raise WrongContent(f"{claimed.issuer} revoked a grant that it did not make")
    believed(
        resolver,
        [claimed.issuer],
        lambda records: papers.verify_revocation(envelope, records[claimed.issuer], now=now),
    )

    def work(change: Change) -> None:
        if storage.revoke(change.connection, claimed.grant, envelope, change.now):
            change.append(Kind.REVOCATION, wire.encode_envelope(envelope))

    evidence.change(work)


def named(evidence: Evidence, text: str) -> GrantRow:
    """The grant whose name begins so. Raises NotFound, InvalidInput when it is no name or that of several."""
    digits = text.strip().lower()
    if not _LEAST_DIGITS <= len(digits) <= 64 or not set(digits) <= set("0123456789abcdef"):
        raise InvalidInput(f"a grant is named by {_LEAST_DIGITS} or more of its digits: `hanse grants` shows them")
    with evidence.reading() as connection:
        found = storage.beginning(connection, digits)
    if not found:
        raise NotFound(f"there is no grant {digits} here: `hanse grants` shows what was given and is held")
    if len(found) > 1:
        raise InvalidInput(f"{len(found)} grants begin with {digits}: give more digits")
    return found[0]
