"""Who asked for what, and who was given it: the owner's side. SPEC.md section 16.

A request is known by its digest, and asking again is the same question: an answer that was lost is got by asking for
it again, and no request has two answers. Request, answer and their leaves in the log are one transaction. What ends a
grant counts at the next question, whichever process wrote it: nothing of it is kept in memory.

    grants = Grants(evidence, lambda: resolver, storage, policies)
    grants.ask(data, caller)                        # a call of the node's service
    grants.approve(3, until=1814400000)             # a command, with the daemon running or not
"""

import secrets
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import TypeVar

from hanse import limits, papers, wire, wire_papers
from hanse.client.keys import believed
from hanse.client.resolve import Resolver
from hanse.errors import (
    Conflict,
    GrantNeeded,
    HanseError,
    InvalidInput,
    LimitExceeded,
    NotFound,
    NotPermitted,
    Revoked,
    VerificationFailed,
    Withdrawn,
)
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers as storage
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.papers import GrantRow, RequestRow, RequestState
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import NONCE_BYTES, AccessRequest, Denial, Grant, Revocation
from hanse.model.record import check_text
from hanse.model.terms import Conditions, Operation
from hanse.signing import SigningKey, sign
from hanse.v1 import node_pb2
from node.audit import Audit, Decided
from node.granting import answers, approved, bound_key, check_askable, least
from node.policy import Asked, Caller, Policies, Usage, grantable
from node.presenting import Check, take_chain, take_revocation
from node.storage.catalog import CatalogStorage, WrappedObject

T = TypeVar("T")
_WHY = {  # for the owner's audit
    NotFound: "not visible, or no such object",
    Withdrawn: "withdrawn",
    NotPermitted: "compute only",
    LimitExceeded: "too many requests wait",
}
_decoded = lru_cache(4096)(wire_papers.decode_grant)


@dataclass(frozen=True, slots=True)
class Held:
    """A grant that the caller holds, and those above it: from the owner's to it; names and use of each."""

    grant: Grant
    chain: tuple[Grant, ...]
    digests: tuple[bytes, ...]
    usage: tuple[Usage, ...]


class Grants:
    """Any thread may call any method. Those for calls raise what the caller is told."""

    def __init__(
        self,
        evidence: Evidence,
        resolver: Callable[[], Resolver],
        catalog: CatalogStorage,
        policies: Policies,
        clock: Callable[[], float] = time.time,
        audit: Audit | None = None,
    ) -> None:
        """``audit``: where requests that are refused are recorded; the others are papers, and in the log."""
        self._evidence, self._resolver, self._catalog = evidence, resolver, catalog
        self._policies, self._clock, self._audit = policies, clock, audit

    @property
    def evidence(self) -> Evidence:
        """Where it is all kept."""
        return self._evidence

    @property
    def _prefix(self) -> Prefix:
        return self._evidence.identity().prefix

    # Calls of the node's service.

    def ask(self, data: bytes, caller: Caller) -> bytes:
        """An AskRequest; an AskResponse, empty while a person has yet to decide."""
        envelope = wire.envelope_from_message(wire.parse(node_pb2.AskRequest, data).request)
        now = int(self._clock())
        request = self._believed(
            [caller.prefix], lambda records: papers.verify_request(envelope, records[caller.prefix], now)
        )
        try:
            wrapped = self._visible(request, caller, now)
            check_askable(wrapped.terms, request)
            answer = self._evidence.change(lambda change: self._answer(change, envelope, request, caller, wrapped))
        except (NotFound, NotPermitted, InvalidInput) as error:
            if self._audit is not None:
                who, why = (str(caller.prefix), str(caller.key_id)), _WHY.get(type(error), "not as it must be")
                self._audit.decided(Decided(*who, str(request.id), 0, "ask", False, why, now))
            raise
        return node_pb2.AskResponse(
            answer=wire.envelope_to_message(answer) if answer is not None else None
        ).SerializeToString()

    def present(self, data: bytes, caller: Caller) -> bytes:
        """A PresentRequest; an empty PresentResponse when the chain is known here from now on."""
        message, now = wire.parse(node_pb2.PresentRequest, data), int(self._clock())
        if len(message.grants) > limits.GRANT_CHAIN or len(message.revocations) > limits.BATCH:
            raise LimitExceeded(f"a call shows one chain of {limits.GRANT_CHAIN} grants at most")
        if message.grants:
            chain = [wire.envelope_from_message(each) for each in message.grants]
            take_chain(self._evidence, self._believed, chain, caller, now)
        for each in message.revocations:
            take_revocation(self._evidence, self._believed, wire.envelope_from_message(each), caller, now)
        return node_pb2.PresentResponse().SerializeToString()

    def standing(self, data: bytes, caller: Caller) -> bytes:
        """A StandingRequest; a StandingResponse with what was revoked of grants that the caller holds or made."""
        message = wire.parse(node_pb2.StandingRequest, data)
        if len(message.grants) > limits.BATCH:
            raise LimitExceeded(f"a call asks for {limits.BATCH} grants at most")
        response = node_pb2.StandingResponse()
        with self._evidence.reading() as connection:
            room = limits.MESSAGE_BYTES - limits.BATCH * 64  # what more there is, the next call tells
            for digest in dict.fromkeys(message.grants):
                rows = storage.chain(connection, digest)
                if rows and caller.prefix in (rows[-1].holder, rows[-1].maker):
                    ended = next((row.revocation for row in rows if row.revocation is not None), None)
                    room -= len(ended.payload) + limits.ENVELOPE_EXTRA_BYTES if ended is not None else 0
                    if room < 0:
                        break
                    if ended is not None:
                        response.revoked.add(grant=digest, revocation=wire.envelope_to_message(ended))
        return response.SerializeToString()

    def held(self, digest: bytes, caller: Caller, id: Identifier) -> Held:
        """The grant of that name, if the caller may use it for the object. Its limits and times are the policy's.

        Raises GrantNeeded, NotPermitted, Revoked: in the same words whether or not there is such an object.
        """
        with self._evidence.reading() as connection:
            rows = storage.chain(connection, digest)
        if not rows or rows[-1].holder != caller.prefix or rows[0].owner != self._prefix:
            raise GrantNeeded(f"{caller.prefix} holds no such grant of {self._prefix}: ask for one, or show it first")
        chain = tuple(_decoded(row.envelope.payload) for row in rows)
        grant = chain[-1]
        if id not in grant.ids:  # before anything that says more to whom the object does not exist
            raise NotPermitted("the grant is for other objects: `hanse grants` says for which")
        if any(row.revoked_at is not None for row in rows):
            raise Revoked(f"the grant was revoked: `hanse grants` says by whom and why; ask {self._prefix} anew")
        if grant.to_key not in (None, caller.key_id):
            raise NotPermitted(f"the grant is bound to another key of {caller.prefix} than its current one")
        digests = tuple(row.digest for row in rows)
        return Held(grant, chain, digests, tuple(Usage(row.fetches, row.bytes) for row in rows))

    # What the owner's people do.

    def approve(
        self, number: int, *, until: int | None = None, max_fetches: int | None = None, max_bytes: int | None = None
    ) -> GrantRow:
        """The grant. Raises NotFound, Conflict when it was answered, InvalidInput, Withdrawn."""
        row = self._request(number)
        request = wire_papers.decode_request(row.envelope.payload)
        asker = Caller(row.peer, self._resolver().organization(row.peer).record.current_key.key_id)
        wrapped = self._catalog.object(request.id)
        if wrapped is None or wrapped.withdrawn:
            raise Withdrawn(f"{request.id} was withdrawn: `hanse deny {number}` answers the request")
        check_askable(wrapped.terms, request)

        def work(change: Change) -> GrantRow:
            self._still_waits(change, row)
            conditions = approved(
                wrapped.terms, asker, request, change.now, until=until, max_fetches=max_fetches, max_bytes=max_bytes
            )
            envelope = self._grant(change, row.digest, request, asker, wrapped, conditions)
            made = storage.grant(change.connection, envelope.digest)
            assert made is not None  # noqa: S101 - it was put there just now
            return made

        return self._evidence.change(work)

    def deny(self, number: int, reason: str) -> Denial:
        """Raises NotFound, Conflict when it was answered."""
        check_text(reason)
        row = self._request(number)

        def work(change: Change) -> Denial:
            self._still_waits(change, row)
            denial = Denial(row.digest, self._prefix, reason, change.now)
            envelope = sign(PayloadType.DENIAL, wire_papers.encode_denial(denial), self._key)
            change.append(Kind.DENIAL, wire.encode_envelope(envelope))
            storage.answer_request(change.connection, row.digest, RequestState.DENIED, envelope, change.now)
            return denial

        return self._evidence.change(work)

    def revoke(self, digest: bytes, reason: str = "") -> Envelope:
        """Ends a grant that this organization made, and all below it. A second time gives the first revocation.

        Raises NotFound, NotPermitted.
        """
        check_text(reason)

        def work(change: Change) -> Envelope:
            row = storage.grant(change.connection, digest)
            if row is None:
                raise NotFound("there is no such grant here: `hanse grants --given` shows what was given")
            if self._prefix not in (row.maker, row.owner):
                raise NotPermitted(f"only {row.maker}, who made it, can revoke this grant, or {row.owner}")
            if row.revocation is not None:
                return row.revocation
            revocation = Revocation(digest, self._prefix, reason, change.now)
            envelope = sign(PayloadType.REVOCATION, wire_papers.encode_revocation(revocation), self._key)
            change.append(Kind.REVOCATION, wire.encode_envelope(envelope))
            storage.revoke(change.connection, digest, envelope, change.now)
            return envelope

        return self._evidence.change(work)

    def requests(self, *, waiting: bool = True, sent: bool = False) -> list[RequestRow]:
        """Those that others sent, or with ``sent`` ours, newest first."""
        with self._evidence.reading() as connection:
            return storage.requests(connection, ours=sent, waiting=waiting)

    def key_id(self, prefix: Prefix) -> KeyId | None:
        """The current identity key of who asked; None if it cannot be said now."""
        try:
            return self._resolver().organization(prefix).record.current_key.key_id
        except HanseError:
            return None

    # How.

    @property
    def _key(self) -> SigningKey:
        return self._evidence.identity().signing_key

    def _request(self, number: int) -> RequestRow:
        with self._evidence.reading() as connection:
            row = storage.numbered(connection, number, ours=False)
        if row is None:
            raise NotFound(f"there is no request {number}: `hanse requests --all` shows all of them")
        return row

    def _still_waits(self, change: Change, row: RequestRow) -> None:
        now = storage.request(change.connection, row.digest)
        if now is None or now.state is not RequestState.WAITING:
            raise Conflict(
                f"request {row.number} was answered already: {now.state.value if now else 'gone'}. "
                "`hanse revoke` ends a grant; who was denied can ask again"
            )

    def _visible(self, request: AccessRequest, caller: Caller, now: int) -> WrappedObject:
        """The object, if the caller may know of it. Raises NotFound in the words of the service, Withdrawn."""
        absent = NotFound(f"the node of {self._prefix} has no object {request.id}, or none for you")
        if request.id.prefix != self._prefix:
            raise absent
        if caller.prefix == self._prefix:
            raise InvalidInput(f"{request.id} is your own: you need no grant for it")
        wrapped = self._catalog.object(request.id)
        if wrapped is None:
            raise absent
        asked = Asked(caller, Operation.DESCRIBE, request.id, now)
        decision = self._policies.decide(asked, wrapped.terms, owner=self._prefix, unlisted=wrapped.unlisted)
        if not decision.visible and not self._holds_any(caller, request.id):
            raise absent
        if wrapped.withdrawn:
            raise Withdrawn(f"{wrapped.id} was withdrawn by its owner")
        return wrapped

    def _holds_any(self, caller: Caller, id: Identifier) -> bool:
        """Whether it was ever given a grant for it, and so knows that it exists."""
        with self._evidence.reading() as connection:
            return storage.given(connection, id, holder=caller.prefix)[0] > 0

    def _answer(
        self, change: Change, envelope: Envelope, request: AccessRequest, caller: Caller, wrapped: WrappedObject
    ) -> Envelope | None:
        """Inside one transaction: the request, and if the terms decide it, the grant."""
        connection, digest = change.connection, envelope.digest
        row = storage.request(connection, digest)
        if row is not None and row.state is not RequestState.WAITING:
            return row.answer
        standing, conditions = self._automatic(change, request, caller, wrapped)
        if row is None:
            given = standing is not None or conditions is not None
            if not given and storage.waiting_of(connection, caller.prefix) >= limits.REQUESTS_WAITING:
                raise LimitExceeded(
                    f"{caller.prefix} has {limits.REQUESTS_WAITING} requests waiting at {self._prefix}, the most it "
                    "may: wait for their answers"
                )
            storage.put_request(connection, envelope, ours=False, peer=caller.prefix, about=request.id, now=change.now)
            change.append(Kind.REQUEST, wire.encode_envelope(envelope))
        if standing is not None:
            storage.answer_request(connection, digest, RequestState.GRANTED, standing, change.now)
            return standing
        if conditions is not None:
            return self._grant(change, digest, request, caller, wrapped, conditions)
        return None

    def _automatic(
        self, change: Change, request: AccessRequest, caller: Caller, wrapped: WrappedObject
    ) -> tuple[Envelope | None, Conditions | None]:
        """An earlier grant that answers the request, or the conditions of a new one, or neither: a person decides.

        What is counted is given once: else asking again would begin the count again. And after a revocation nothing
        is automatic any more for whom it concerned.
        """
        conditions = grantable(wrapped.terms, caller, request)
        if conditions is None:
            return None, None
        who = {"holder": caller.prefix, "maker": self._prefix}
        count, lately, revoked = storage.given(change.connection, request.id, since=change.now - limits.DAY, **who)
        if revoked or lately >= limits.GRANTS_A_DAY:
            return None, None
        ends = least(conditions.valid_until, request.valid_until)
        if ends is not None and ends <= change.now:
            return None, None
        conditions = replace(conditions, valid_until=ends)
        if count and (conditions.max_fetches is not None or conditions.max_bytes is not None):
            for row in storage.grants_for(change.connection, request.id, now=change.now, **who):
                if answers(row.grant, request, caller, change.now) and _is_left(row):
                    return row.envelope, None
            return None, None
        return None, conditions

    def _grant(
        self,
        change: Change,
        digest: bytes,
        request: AccessRequest,
        asker: Caller,
        wrapped: WrappedObject,
        conditions: Conditions,
    ) -> Envelope:
        grant = Grant(
            nonce=secrets.token_bytes(NONCE_BYTES),
            issuer=self._prefix,
            to=request.consumer,
            to_key=bound_key(wrapped.terms, asker),
            ids=(wrapped.id,),
            conditions=conditions,
            request=digest,
            parent=b"",
            issued_at=change.now,
        )
        envelope = sign(PayloadType.GRANT, wire_papers.encode_grant(grant), self._key)
        storage.put_grant(change.connection, grant, envelope, change.now)
        storage.answer_request(change.connection, digest, RequestState.GRANTED, envelope, change.now)
        change.append(Kind.GRANT, wire.encode_envelope(envelope))
        return envelope

    def _believed(self, prefixes: Iterable[Prefix], check: Check[T]) -> T:
        """What a peer showed, verified. That it does not verify is the peer's fault, and it is told why."""
        try:
            return believed(self._resolver(), prefixes, check)
        except (VerificationFailed, NotFound) as error:
            raise NotPermitted(f"what you sent cannot be believed: {error}") from None


def _is_left(row: GrantRow) -> bool:
    given = row.grant.conditions
    return (given.max_fetches is None or row.fetches < given.max_fetches) and (
        given.max_bytes is None or row.bytes < given.max_bytes
    )
