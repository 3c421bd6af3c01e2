"""Leave to fetch: asking an owner for it, taking the answer, choosing the grant to use. SPEC.md section 16.

The rule it keeps: a request is kept before it is sent, and sent again it is the same request, so that an answer that
was lost is got by asking again; an answer is kept only if its owner signed it and it is within what was asked.

    answer = request(resolver, evidence, identifier, (Purpose.parse("clinical-research"),))
    answer = poll(resolver, evidence, answer.request)
    best_grant(evidence, identifier, now)
"""

import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from hanse import papers, turns, wire, wire_papers
from hanse.client.keys import believed
from hanse.client.resolve import Resolver
from hanse.errors import (
    GrantNeeded,
    HanseError,
    InvalidInput,
    NotAuthenticated,
    NotFound,
    NotPermitted,
    Suspended,
    Unreachable,
    WrongContent,
)
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers as storage
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.papers import GrantRow, RequestRow, RequestState
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.papers import NONCE_BYTES, AccessRequest, Denial, Grant
from hanse.model.purposes import Purpose
from hanse.model.record import check_text
from hanse.model.terms import Operation, covers
from hanse.signing import sign

POLL_SECONDS = 1.0
_BOTH = (Operation.DESCRIBE, Operation.FETCH)


@dataclass(frozen=True, slots=True)
class Answer:
    """How a request stands. ``request`` and ``grant`` are digests; ``reason`` is the owner's, when it was denied."""

    state: RequestState
    id: Identifier
    request: bytes
    number: int
    grant: bytes = b""
    reason: str = ""


def request(
    resolver: Resolver,
    evidence: Evidence,
    identifier: Identifier,
    purposes: Sequence[Purpose],
    message: str = "",
    until: int | None = None,
    operations: tuple[Operation, ...] = _BOTH,
) -> Answer:
    """Asks the owner. The same question, while it waits, is the same request. ``until`` in Unix seconds.

    Raises NotFound, NotPermitted, LimitExceeded, Unreachable: then the request is kept, and ``poll`` sends it.
    """
    check_text(message)
    if not purposes:
        raise InvalidInput("say what for: a request names at least one purpose")
    if identifier.prefix == evidence.identity().prefix:
        raise InvalidInput(f"{identifier} is your own: you need no grant for it")
    if until is not None and until <= evidence.clock():
        raise InvalidInput("the time until when it is wanted is in the past")
    resolver.organization(identifier.prefix)  # a prefix that nobody has is nobody to ask

    def work(change: Change) -> RequestRow:
        for row in storage.requests(change.connection, ours=True, waiting=True, about=identifier):
            asked = wire_papers.decode_request(row.envelope.payload)
            if (asked.operations, set(asked.purposes), asked.valid_until) == (operations, set(purposes), until) and (
                not message or asked.message == message
            ):
                return row
        identity = evidence.identity()
        made = AccessRequest(
            nonce=secrets.token_bytes(NONCE_BYTES),
            consumer=identity.prefix,
            id=identifier,
            operations=operations,
            purposes=tuple(dict.fromkeys(purposes)),
            message=message,
            valid_until=until,
            issued_at=change.now,
        )
        envelope = sign(PayloadType.REQUEST, wire_papers.encode_request(made), identity.signing_key)
        storage.put_request(
            change.connection, envelope, ours=True, peer=identifier.prefix, about=identifier, now=change.now
        )
        change.append(Kind.REQUEST, wire.encode_envelope(envelope))
        kept = storage.request(change.connection, envelope.digest)
        assert kept is not None  # noqa: S101 - it was put there just now
        return kept

    return _ask(resolver, evidence, evidence.change(work))


def poll(resolver: Resolver, evidence: Evidence, digest: bytes) -> Answer:
    """Asks how a request stands, unless it was answered. Raises as ``request``."""
    with evidence.reading() as connection:
        row = storage.request(connection, digest)
    if row is None or not row.ours:
        raise NotFound("there is no such request of ours")
    return _ask(resolver, evidence, row) if row.state is RequestState.WAITING else _answer(row)


def _ask(resolver: Resolver, evidence: Evidence, row: RequestRow) -> Answer:
    try:
        with resolver.peer(row.peer) as peer:
            answer = peer.ask(row.envelope)
    except (NotAuthenticated, Suspended):
        raise  # of us, not of the request: it waits until we are in good standing again
    except (NotFound, NotPermitted, InvalidInput):
        evidence.change(lambda change: storage.refuse_request(change.connection, row.digest, change.now))
        raise
    if answer is not None:
        if answer.payload_type == PayloadType.DENIAL:
            _take_denial(resolver, evidence, row, answer)
        else:
            _take_grant(resolver, evidence, row, answer)
        with evidence.reading() as connection:
            row = storage.request(connection, row.digest) or row
    return _answer(row)


def _answer(row: RequestRow) -> Answer:
    id = wire_papers.decode_request(row.envelope.payload).id
    if row.state is RequestState.GRANTED and row.answer is not None:
        return Answer(row.state, id, row.digest, row.number, grant=row.answer.digest)
    reason = wire_papers.decode_denial(row.answer.payload).reason if row.answer is not None else ""
    return Answer(row.state, id, row.digest, row.number, reason=reason)


def _take_grant(resolver: Resolver, evidence: Evidence, row: RequestRow, envelope: Envelope) -> None:
    """Verifies and keeps it. Raises BadSignature, WrongContent."""
    now = int(evidence.clock())
    grant = believed(resolver, [row.peer], lambda records: papers.verify_grant(envelope, records[row.peer], now=now))
    asked = wire_papers.decode_request(row.envelope.payload)
    wrong = _objection(grant, asked, evidence)
    if wrong:
        raise WrongContent(f"{row.peer} answered a request for {asked.id} with a grant that {wrong}")

    def work(change: Change) -> None:
        if storage.put_grant(change.connection, grant, envelope, change.now):
            change.append(Kind.GRANT, wire.encode_envelope(envelope))
        storage.answer_request(change.connection, row.digest, RequestState.GRANTED, envelope, change.now)

    evidence.change(work)


def _objection(grant: Grant, asked: AccessRequest, evidence: Evidence) -> str:
    """What is wrong with an answer; empty if nothing is. That it came late, and is over, is nobody's fault."""
    who, given = evidence.identity(), grant.conditions
    if grant.parent or grant.issuer != grant.owner or asked.id not in grant.ids:
        return "is not its owner's, or for something else"
    if grant.to != who.prefix or grant.to_key not in (None, who.signing_key.public.key_id):
        return "is for somebody else, or another key"
    if not set(given.operations) <= set(asked.operations):
        return "allows what was not asked for"
    if not given.purposes or not all(covers(asked.purposes, each) for each in given.purposes):
        return "is for purposes that were not asked for"
    return ""


def _take_denial(resolver: Resolver, evidence: Evidence, row: RequestRow, envelope: Envelope) -> None:
    now = int(evidence.clock())
    denial: Denial = believed(
        resolver, [row.peer], lambda records: papers.verify_denial(envelope, records[row.peer], now=now)
    )
    if denial.request != row.digest:
        raise WrongContent(f"{row.peer} answered a request with the denial of another")

    def work(change: Change) -> None:
        storage.answer_request(change.connection, row.digest, RequestState.DENIED, envelope, change.now)
        change.append(Kind.DENIAL, wire.encode_envelope(envelope))

    evidence.change(work)


# Choosing.


def best_grant(evidence: Evidence, identifier: Identifier, now: int, purposes: Sequence[Purpose] = ()) -> bytes:
    """Digest of the grant to use; empty if none is held that holds now, as far as is known, for all ``purposes``.

    The most specific first, then the one that lasts longest, then the newest.
    """
    who = evidence.identity()
    with evidence.reading() as connection:
        rows = storage.grants_for(connection, identifier, holder=who.prefix, now=now)
        usable = [
            (row, grant)
            for row in rows
            if _holds(grant := row.grant, now, purposes)
            and grant.to_key in (None, who.signing_key.public.key_id)
            and not (row.parent and any(each.revoked_at for each in storage.chain(connection, row.digest)))
            and not is_used_up(row, grant)
        ]
    if not usable:
        return b""
    # Grants come newest first, and the first of equals is taken.
    return min(usable, key=lambda each: (len(each[1].ids), -(each[1].conditions.valid_until or 1 << 62)))[0].digest


def _holds(grant: Grant, now: int, purposes: Sequence[Purpose]) -> bool:
    given = grant.conditions
    return given.holds_at(now) and (not given.purposes or all(covers(given.purposes, each) for each in purposes))


def is_used_up(row: GrantRow, grant: Grant) -> bool:
    """Whether nothing is left of it, as far as is known."""
    given = grant.conditions
    return (given.max_fetches is not None and row.fetches >= given.max_fetches) or (
        given.max_bytes is not None and row.bytes >= given.max_bytes
    )


def used_up(evidence: Evidence, digest: bytes) -> None:
    """Its owner says that nothing is left of a grant: it is not chosen again."""

    def work(change: Change) -> None:
        row = storage.grant(change.connection, digest)
        if row is not None:
            given = row.grant.conditions
            storage.exhaust(change.connection, digest, given.max_fetches or 0, given.max_bytes or 0)

    evidence.change(work)


def obtain(
    resolver: Resolver,
    evidence: Evidence,
    identifier: Identifier,
    purposes: Sequence[Purpose] = (),
    *,
    wait: bool = False,
    waiting: Callable[[Answer], None] | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> bytes:
    """The grant to fetch under, shown to the owner if it must be; empty if none is held and none was asked for.

    With ``purposes``, asks if no grant is held for them; with ``wait``, until there is an answer: ``waiting`` is
    told so once. Raises GrantNeeded while a person has yet to decide, NotPermitted with the owner's reason.
    """
    if identifier.prefix == evidence.identity().prefix:
        return b""
    digest = best_grant(evidence, identifier, int(evidence.clock()), purposes)
    answer = None if digest else _asked(resolver, evidence, identifier, purposes, wait=wait)
    if answer is not None and answer.state is RequestState.WAITING:
        if not wait:
            raise GrantNeeded(
                f"request {answer.number} for {identifier} waits for {identifier.prefix} to decide: the same command "
                "with --wait goes on when it did; `hanse grants` shows the answer"
            )
        if waiting is not None:
            waiting(answer)
        while answer.state is RequestState.WAITING:
            with turns.waiting():
                sleep(POLL_SECONDS)
            try:
                answer = poll(resolver, evidence, answer.request)
            except Unreachable:
                continue
    if answer is not None:
        if answer.state is not RequestState.GRANTED:
            raise NotPermitted(
                f"{identifier.prefix} denied the request for {identifier}: {answer.reason or 'no reason'}"
            )
        digest = answer.grant
    if digest:
        show(resolver, evidence, digest)
    return digest


def _asked(
    resolver: Resolver, evidence: Evidence, identifier: Identifier, purposes: Sequence[Purpose], *, wait: bool
) -> Answer | None:
    """The answer to a request for these purposes; without any, to the one that waits, if there is one."""
    if purposes:
        return request(resolver, evidence, identifier, purposes)
    with evidence.reading() as connection:
        rows = storage.requests(connection, ours=True, waiting=True, about=identifier)
    if not rows:
        return None
    try:
        answer = poll(resolver, evidence, rows[0].digest)
    except HanseError:
        return None
    # Without a grant it may be open all the same.
    return answer if wait or answer.state is RequestState.GRANTED else None


def needed(identifier: Identifier, told: HanseError) -> GrantNeeded:
    """What the owner's node said, with the command to type."""
    return GrantNeeded(
        f"{told}. `hanse request {identifier} --purpose P` asks for a grant, and `hanse fetch {identifier} --purpose P "
        "--wait` asks and goes on when it is given"
    )


def show(resolver: Resolver, evidence: Evidence, digest: bytes) -> None:
    """A narrowed grant is shown to the owner before it is used: it may not have seen it. The owner's own are known."""
    with evidence.reading() as connection:
        rows = storage.chain(connection, digest)
    if len(rows) > 1:
        with resolver.peer(rows[0].owner) as peer:
            peer.present([row.envelope for row in rows])
