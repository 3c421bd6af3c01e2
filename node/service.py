"""The Node service: gives manifests and bytes to peers that the owner has authorized. SPEC.md section 10.

Every call goes the same way: who is it, may it call so often, is it a member in good standing whose own record names
its key, do the object's terms let it in; the answer is a durable row of the audit; only then are bytes sent.
The rules it keeps: a method without a declared policy is not served; to whoever may not know of an object, it does not
exist; no other exception than ours reaches a peer, and ours say nothing private.
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from enum import StrEnum
from functools import partial
from typing import Any, Protocol

import grpc
import structlog
from grpc_health.v1 import health_pb2

from hanse import limits, wire
from hanse.errors import (
    Conflict,
    DeliveryClosed,
    GrantNeeded,
    HanseError,
    HomeUnusable,
    InvalidInput,
    LimitExceeded,
    NoSpace,
    NotFound,
    NotPermitted,
    ReceiptsOwed,
    Revoked,
    SourceChanged,
    StorageFailed,
    Unreachable,
    UsedUp,
    Withdrawn,
)
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import Grant
from hanse.model.terms import Operation
from hanse.rpc import server
from hanse.rpc.status import abort
from hanse.turns import turn
from hanse.v1 import node_pb2
from node import streams
from node.audit import Also, Audit, Decided, Ticket
from node.deliveries import PART_BYTES, Deliveries, Serving, Unit
from node.members import Members
from node.observe import Metrics
from node.policy import Asked, Caller, Policies, Usage
from node.rates import Rates
from node.sources.opening import Opener
from node.storage.catalog import CatalogStorage, ServedElement, StoredVersion, WrappedObject
from node.streams import Piece, Stream, Streams

_MOST = (1 << 63) - 1  # what the catalog's integers hold
_FETCH = "fetch"
_DIGEST_BYTES = 32
_WHY: dict[type[HanseError], str] = {
    UsedUp: "the grant is used up",
    Revoked: "the grant is revoked",
    ReceiptsOwed: "it owes receipts",
    DeliveryClosed: "the delivery is closed",
}
Answer = Callable[[bytes, Caller], bytes]
log = structlog.get_logger("hanse.node.service")


class Who(StrEnum):
    """LEAGUE: whoever shows a certificate of the league. MEMBER: see the module; then the object's terms decide."""

    LEAGUE = "league"
    MEMBER = "member"


POLICY = {
    "/hanse.v1.Node/Describe": Who.MEMBER,
    "/hanse.v1.Node/Hashes": Who.MEMBER,
    "/hanse.v1.Node/Fetch": Who.MEMBER,
    "/hanse.v1.Node/Ask": Who.MEMBER,
    "/hanse.v1.Node/Present": Who.MEMBER,
    "/hanse.v1.Node/Standing": Who.MEMBER,
    "/hanse.v1.Node/Settle": Who.MEMBER,
    "/grpc.health.v1.Health/Check": Who.LEAGUE,
}


@dataclass(frozen=True, slots=True)
class Granted:
    """A decision in the caller's favour: what it may have."""

    wrapped: WrappedObject
    version: StoredVersion
    stream: Stream
    held: "Held | None" = None


class Held(Protocol):
    """A grant that the caller holds, the owner's grant that it comes from first in ``chain``; what was used of each."""

    @property
    def grant(self) -> Grant: ...
    @property
    def chain(self) -> tuple[Grant, ...]: ...
    @property
    def digests(self) -> tuple[bytes, ...]: ...
    @property
    def usage(self) -> tuple[Usage, ...]: ...


class Grants(Protocol):
    """node.grants.Grants, as far as it is asked here."""

    def held(self, digest: bytes, caller: Caller, id: Identifier) -> Held:
        """Raises Revoked, NotPermitted."""
        ...


class NodeService(grpc.GenericRpcHandler):
    """All the methods that a node answers. Generators: they run in the server's threads, a stream in each."""

    def __init__(
        self,
        prefix: Prefix,
        storage: CatalogStorage,
        members: Members,
        audit: Audit,
        open_streams: Streams,
        *,
        rates: Rates | None = None,
        metrics: Metrics | None = None,
        contact: Callable[[], str] = str,
        clock: Callable[[], float] = time.time,
        small: Mapping[str, Answer] | None = None,
        policies: Policies | None = None,
        grants: Grants | None = None,
        deliveries: Deliveries | None = None,
    ) -> None:
        """``small``: what answers the calls of one message, by the method's name; those left out are UNIMPLEMENTED.

        ``deliveries`` None: what is served is not counted and no receipt is expected.
        """
        self._prefix, self._storage, self._members, self._audit = prefix, storage, members, audit
        self._streams, self._rates = open_streams, rates or Rates()
        self._metrics, self._contact, self._clock = metrics or Metrics(), contact, clock
        self._policies, self._grants, self._deliveries = policies or Policies(), grants, deliveries
        self.serving = True
        self._handlers = {
            "/hanse.v1.Node/Describe": self._describe,
            "/hanse.v1.Node/Hashes": self._hashes,
            "/hanse.v1.Node/Fetch": self._fetch,
        }
        self._small = {f"/hanse.v1.Node/{name}": answer for name, answer in (small or {}).items()}
        offered = {f"/hanse.v1.Node/{method.name}" for method in node_pb2.DESCRIPTOR.services_by_name["Node"].methods}
        undeclared = (offered - set(POLICY)) | ((set(self._handlers) | set(self._small)) - offered)
        if undeclared:
            raise HanseError(f"methods without a declared policy or a handler: {', '.join(sorted(undeclared))}")
        self._rpc = {method: self._handler(method) for method in POLICY}

    def service(self, handler_call_details: Any) -> Any:
        """Unknown methods, and those without a declared policy, are UNIMPLEMENTED."""
        return self._rpc.get(handler_call_details.method)

    def _handler(self, method: str) -> Any:
        if method == "/grpc.health.v1.Health/Check":
            return grpc.unary_unary_rpc_method_handler(self._health)
        operation = method.rpartition("/")[2].lower()
        if method in self._small:
            return grpc.unary_unary_rpc_method_handler(partial(self._answer, operation, method))
        if method not in self._handlers:
            return None
        # Neither gRPC's deserializer, whose errors are not ours, nor its serializer, which would copy.
        return grpc.unary_stream_rpc_method_handler(partial(self._serve, operation, self._handlers[method]))

    def _serve(
        self, operation: str, handler: Callable[[bytes, "_Call"], Iterator[bytes]], data: bytes, context: Any
    ) -> Iterator[bytes]:
        call = _Call(operation, context)
        outcome: HanseError | None = None
        try:
            call.peer, call.key_digest = server.peer(context.auth_context())
            yield from handler(data, call)
        except Exception as error:  # noqa: BLE001 - whatever it is, the peer gets what is for its eyes and no more
            outcome = self._outcome(operation, error)
        finally:
            if call.stream is not None:
                self._streams.close(call.stream)
            if call.ticket is not None:
                self._audit.finish(call.ticket, call.after)
            if call.serving is not None:
                call.serving.leave()
            self._metrics.call(operation, "OK" if outcome is None else outcome.status)
        if outcome is not None:
            abort(context, outcome)

    def _answer(self, operation: str, method: str, data: bytes, context: Any) -> bytes:
        """A call of one message to a member in good standing."""
        outcome: HanseError | None = None
        found = b""
        try:
            peer, key_digest = server.peer(context.auth_context())
            self._rates.spend((peer, key_digest))
            with turn():
                found = self._small[method](data, self._members.caller(peer, key_digest))
        except Exception as error:  # noqa: BLE001
            outcome = self._outcome(operation, error)
        self._metrics.call(operation, "OK" if outcome is None else outcome.status)
        if outcome is not None:
            abort(context, outcome)
        return found

    def _outcome(self, operation: str, error: Exception) -> HanseError:
        """What the peer is told."""
        reference = secrets.token_hex(4)
        if not isinstance(error, HanseError):
            # An exception's text may say what a file or a peer said: the log has none of it.
            log.error(
                "call.failed", operation=operation, reference=reference, kind=type(error).__name__, where=_where(error)
            )
            return HanseError(f"internal error of the node of {self._prefix}, which its log has as {reference}")
        if isinstance(error, NoSpace | StorageFailed | HomeUnusable | Conflict) and not isinstance(
            error, SourceChanged
        ):
            # Of this machine, and its text names paths: for the owner.
            log.error("call.failed", operation=operation, reference=reference, error=str(error))
            return Unreachable(
                f"the node of {self._prefix} cannot answer now, for a reason that its log has as {reference}: "
                "try again later"
            )
        return error

    def _describe(self, data: bytes, call: "_Call") -> Iterator[bytes]:
        request = wire.parse(node_pb2.DescribeRequest, data)
        most = min(request.content_bytes, limits.SMALL_CONTENT_BYTES)
        found: list[ServedElement] = []

        def begin(_: Granted) -> Iterator[Unit]:
            return (_whole(each) for each in found)

        def is_small(version: StoredVersion) -> bool:
            if not 0 < version.total_bytes <= most or version.element_count != 1 or version.page_count != 1:
                return False
            found.extend(self._storage.elements(version, 0, 1))
            return bool(found) and found[0].length <= found[0].chunk_size

        asked = None
        if most and not (request.no_pages or request.first_page):
            asked = _Asked(request.delivery, begin, is_small, at_once=True)
        granted = self._decide(request.id, request.version, request.grant, call, asked)
        version = granted.version
        assert version.manifest is not None  # noqa: S101 - only a tombstone has none, and _decide refuses that
        message = node_pb2.DescribeResponse(
            record=wire.envelope_to_message(version.record),
            manifest=wire.envelope_to_message(version.manifest),
            salt=version.salt,
        )
        if call.operation == _FETCH:
            assert asked is not None  # noqa: S101 - only then it became one
            message.content, message.page = self._small_content(granted, call, asked)
            yield message.SerializeToString()
            return
        yield message.SerializeToString()
        if request.no_pages:
            return
        for number in range(request.first_page, version.page_count):
            page = self._storage.page(version, number)
            if page is None:
                raise SourceChanged(_replaced(granted))
            yield self._counted(call, node_pb2.DescribeResponse(page=page).SerializeToString(), len(page))

    def _small_content(self, granted: Granted, call: "_Call", asked: "_Asked") -> tuple[bytes, bytes]:
        """The bytes and the only page, which were counted as served."""
        serving, ticket = call.serving, call.ticket
        assert ticket is not None  # noqa: S101 - it was decided
        pieces = serving.pieces() if serving else (u.piece for u in asked.begin(granted) if u.piece is not None)
        try:
            with Opener(granted.wrapped.source) as opener, self._sources(granted):
                content = streams.gathered(pieces, opener)
            page = self._storage.page(granted.version, 0)
            if page is None:
                raise SourceChanged(_replaced(granted))
            granted.stream.moved(len(content))
        except HanseError:
            ticket.served, call.after = 0, serving.give_back if serving else None
            raise
        ticket.served = len(content)  # of what is no delivery, too
        self._metrics.served(len(content))
        return content, page

    def _hashes(self, data: bytes, call: "_Call") -> Iterator[bytes]:
        request = wire.parse(node_pb2.HashesRequest, data)
        granted = self._decide(request.id, request.version, request.grant, call)
        if request.element >= granted.version.element_count:
            raise InvalidInput(f"the object has {granted.version.element_count} elements")
        if granted.version.version != granted.wrapped.current_version:
            raise SourceChanged(_replaced(granted))
        leaves = self._storage.leaves(granted.version, request.element)
        for start in range(0, len(leaves), limits.STREAM_MESSAGE_BYTES):
            part = leaves[start : start + limits.STREAM_MESSAGE_BYTES]
            yield self._counted(call, node_pb2.HashesResponse(hashes=part).SerializeToString(), len(part))

    def _fetch(self, data: bytes, call: "_Call") -> Iterator[bytes]:
        request = wire.parse(node_pb2.FetchRequest, data)
        if len(request.spans) > limits.SPANS:
            raise LimitExceeded(f"a request has at most {limits.SPANS} spans")

        def begin(granted: Granted) -> Iterator[Unit]:
            if granted.version.version != granted.wrapped.current_version:
                raise SourceChanged(_replaced(granted))
            for span in request.spans:
                _check_span(span, granted.version.element_count)
            return self._units(granted, request.spans)

        asked = _Asked(request.delivery, begin)
        granted = self._decide(request.id, request.version, request.grant, call, asked)
        serving = call.serving
        pieces = serving.pieces() if serving else (u.piece for u in begin(granted) if u.piece is not None)
        stream = granted.stream
        with Opener(granted.wrapped.source) as opener, self._sources(granted):
            for message, length in streams.frames(
                pieces,
                opener,
                lambda: stream.next_size(self._streams.message_bytes()),
            ):
                self._counted(call, message, length)
                if serving is not None:
                    serving.sent(length)
                yield message

    @contextlib.contextmanager
    def _sources(self, granted: Granted) -> Iterator[None]:
        """Says of what the source is no longer the source."""
        try:
            yield
        except SourceChanged:
            raise SourceChanged(
                f"source changed since version {granted.version.version} of {granted.wrapped.id}; "
                "ask the owner to run hanse refresh"
            ) from None

    def _counted(self, call: "_Call", message: bytes, length: int) -> bytes:
        assert call.stream is not None and call.ticket is not None  # noqa: S101, PT018 - it was decided
        call.stream.moved(length)
        call.ticket.served += length
        self._metrics.served(length)
        return message

    def _units(self, granted: Granted, spans: Iterable[node_pb2.Span]) -> Iterator[Unit]:
        for span in spans:
            expected = span.element
            for element in self._storage.elements(granted.version, span.element, span.elements or 1):
                expected += 1
                of = -(-element.length // element.chunk_size)
                if span.elements and element.length <= PART_BYTES:
                    yield _whole(element)
                    continue
                first, end = (0, of) if span.elements else (span.first_chunk, span.first_chunk + span.chunks)
                if end > of:
                    raise InvalidInput("a span goes beyond the last chunk of its element")
                yield from _runs(element, first, end, of)
            if expected != span.element + (span.elements or 1):
                raise SourceChanged(_replaced(granted))

    def _decide(self, text: str, number: int, digest: bytes, call: "_Call", asked: "_Asked | None" = None) -> Granted:
        """Whether the caller gets in, as a durable row. Raises what the caller is told."""
        self._rates.spend((call.peer, call.key_digest))
        with turn():
            return self._decided(text, number, digest, call, asked)

    def _decided(self, text: str, number: int, digest: bytes, call: "_Call", asked: "_Asked | None") -> Granted:
        identifier = Identifier.parse(text)
        if number > _MOST:
            raise InvalidInput("a version is less than 2^63")
        if digest and len(digest) != _DIGEST_BYTES:
            raise InvalidInput(f"a grant is named by {_DIGEST_BYTES} bytes")
        try:
            caller = self._members.caller(call.peer, call.key_digest)
        except NotPermitted as error:
            self._record(call, "", text, number, False, error.reason)
            raise
        wrapped = self._storage.object(identifier) if identifier.prefix == self._prefix else None
        version = self._storage.version(identifier, number or (wrapped.current_version if wrapped else 1))
        if asked is not None and call.operation != _FETCH:
            # With its content it is a fetch, judged and counted as one.
            if wrapped is not None and version is not None and asked.is_one(version):
                call.operation = _FETCH
            else:
                asked = None
        call.stream = self._streams.open(
            call.peer,
            call.context.cancel,
            lambda: self._objection(identifier, call.peer, call.key_digest, call.operation, digest),
            (identifier, call.peer, call.key_digest, call.operation, digest),
        )
        refusal, why, held = self._refusal(identifier, wrapped, caller, call.operation, digest)
        if refusal is None and version is None:
            refusal, why = NotFound(f"there is no version {number} of {identifier}"), "no such version"
        key_id, exact = str(caller.key_id), version.version if version else number
        if refusal is not None or wrapped is None or version is None:
            self._record(call, key_id, text, exact, False, why)
            raise refusal or NotFound(self._absent(identifier))
        granted = Granted(wrapped, version, call.stream, held)
        if (
            asked is None
            or self._deliveries is None
            or caller.prefix == self._prefix
            or not (held or self._deliveries.receipts)
        ):
            call.ticket = self._record(call, key_id, text, exact, True, why)
            return granted
        try:
            units = asked.begin(granted)
            serving = self._deliveries.serving(
                caller.prefix, asked.delivery, version, held, units, at_once=asked.at_once
            )
        except HanseError:
            call.ticket = self._record(call, key_id, text, exact, True, why)
            raise
        try:
            call.ticket = self._record(call, key_id, text, exact, True, why, serving.open, serving.size)
        except HanseError as error:
            serving.leave(failed=True)
            if isinstance(error, NotPermitted | InvalidInput):
                self._record(call, key_id, text, exact, False, _WHY.get(type(error), "not a delivery"))
            raise
        call.serving = serving
        call.after = None if asked.at_once else serving.close
        return granted

    def _refusal(
        self, identifier: Identifier, wrapped: WrappedObject | None, caller: Caller, operation: str, digest: bytes
    ) -> tuple[HanseError | None, str, Held | None]:
        """What the caller is to be told, None if it gets in; why, for the owner; and the grant that it holds."""
        held, failure = None, None
        if digest and wrapped is not None:
            try:
                found = self._grants.held(digest, caller, identifier) if self._grants is not None else None
                self._members.check_holders(found.chain[:-1] if found is not None else ())
                held = found
            except NotPermitted as error:
                failure = error
        decision = self._policies.decide(
            Asked(
                caller,
                Operation.DESCRIBE if operation == "describe" else Operation.FETCH,
                identifier,
                int(self._clock()),
                held.grant if held else None,
                held.chain if held else (),
                held.usage if held else (),
                held.digests if held else (),
                begun=True,  # the limits are kept where it is counted: in the transaction of the delivery
            ),
            wrapped.terms if wrapped else None,
            owner=self._prefix,
            unlisted=wrapped.unlisted if wrapped else True,
        )
        if wrapped is not None and not decision.visible and isinstance(failure, Revoked):
            return failure, failure.reason.lower(), None  # whoever held a grant for it knows of it
        if not decision.visible or wrapped is None:
            return NotFound(self._absent(identifier)), decision.why, None
        if wrapped.withdrawn:
            return Withdrawn(f"{wrapped.id} was withdrawn by its owner"), "withdrawn", None
        if not decision.allowed:
            if failure is not None:
                return failure, failure.reason.lower(), None
            contact = self._contact() or str(self._prefix)
            way = " for a grant" if decision.error is GrantNeeded else ""
            return decision.error(f"{caller.prefix} may not read {wrapped.id}: ask {contact}{way}"), decision.why, None
        return None, decision.why, held

    def _absent(self, identifier: Identifier) -> str:
        return f"the node of {self._prefix} has no object {identifier}, or none for you"

    def _objection(
        self, identifier: Identifier, peer: Prefix, key_digest: bytes, operation: str, digest: bytes
    ) -> HanseError | None:
        """Why a running stream may not go on; asked once a second by the watchdog."""
        try:
            caller = self._members.caller(peer, key_digest)
            return self._refusal(identifier, self._storage.object(identifier), caller, operation, digest)[0]
        except Unreachable as error:
            return error if self._members.is_stale() else None
        except HanseError as error:
            return error

    def _record(
        self,
        call: "_Call",
        key_id: str,
        text: str,
        version: int,
        allowed: bool,
        why: str,
        also: Also | None = None,
        served: int = 0,
    ) -> Ticket:
        return self._audit.decided(
            Decided(str(call.peer), key_id, text, version, call.operation, allowed, why, int(self._clock())),
            also,
            served,
        )

    def _health(self, data: bytes, context: Any) -> bytes:
        try:
            asked = wire.parse(health_pb2.HealthCheckRequest, data).service
        except InvalidInput as error:
            abort(context, error)
            raise
        if asked not in ("", "hanse.v1.Node"):
            abort(context, NotFound("there is no such service here"))
        status = health_pb2.HealthCheckResponse.SERVING if self.serving else health_pb2.HealthCheckResponse.NOT_SERVING
        return bytes(health_pb2.HealthCheckResponse(status=status).SerializeToString())


class _Call:
    """One call, as far as it got."""

    def __init__(self, operation: str, context: Any) -> None:
        self.operation = operation
        self.context = context
        self.peer = Prefix("")
        self.key_digest = b""
        self.stream: Stream | None = None
        self.ticket: Ticket | None = None
        self.serving: Serving | None = None
        self.after: Also | None = None  # what changes when it ended


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a fetch is of; ``begin`` checks it."""

    delivery: bytes
    begin: Callable[[Granted], Iterator[Unit]]
    is_one: Callable[[StoredVersion], bool] = lambda _: True
    at_once: bool = False


def _check_span(span: node_pb2.Span, element_count: int) -> None:
    if span.elements and (span.first_chunk or span.chunks):
        raise InvalidInput("a span has whole elements, or chunks of one element: not both")
    if not span.elements and not span.chunks:
        raise InvalidInput("a span has at least one element or one chunk")
    if span.element + (span.elements or 1) > element_count:
        raise InvalidInput(f"a span goes beyond the object's {element_count} elements")


def _whole(element: ServedElement) -> Unit:
    piece = Piece(element.name, element.fingerprint, 0, element.length, whole=True)
    return Unit(element.position, element.length, piece if element.length else None)


def _runs(element: ServedElement, first: int, end: int, of: int) -> Iterator[Unit]:
    """Chunks of one element, no more at once than a window counts."""
    size = element.chunk_size
    while first < end:
        chunks = min(end - first, max(1, PART_BYTES // size))
        start, length = first * size, min((first + chunks) * size, element.length) - first * size
        piece = Piece(element.name, element.fingerprint, start, length, whole=length == element.length)
        yield Unit(element.position, length, piece, first, chunks, size, of)
        first += chunks


def _replaced(granted: Granted) -> str:
    return (
        f"version {granted.version.version} of {granted.wrapped.id} was replaced by a newer one: "
        "only the newest can be served"
    )


def _where(error: BaseException) -> str:
    frame = error.__traceback__
    while frame is not None and frame.tb_next is not None:
        frame = frame.tb_next
    return "" if frame is None else f"{frame.tb_frame.f_code.co_qualname}:{frame.tb_lineno}"
