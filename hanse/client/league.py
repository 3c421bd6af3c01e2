"""The registry as a member sees it: channels, the pass, retries, the next address when one does not answer.

Its addresses are its own, and those of mirrors, which know no more than it does, and may know less.

What it is not: a judge. What comes back are claims; hanse.client.resolve has them verified.

    with League(identity) as league:
        league.resolve([identifier])
"""

import contextlib
import json
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Self, TypeVar

import grpc

from hanse import limits, wire, wire_log
from hanse.client.addresses import Addresses
from hanse.client.identity import Identity
from hanse.errors import HanseError, InvalidInput, Unreachable, WrongContent
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import Renewal
from hanse.model.publishing import PublishOutcome
from hanse.model.resolution import Change, Resolution
from hanse.model.search import Query, SearchResult
from hanse.rpc import status, tls
from hanse.rpc.channel import dial
from hanse.signing import sign
from hanse.transparency import Inclusion, Shown
from hanse.turns import waiting
from hanse.v1 import registry_pb2
from hanse.v1.registry_pb2_grpc import RegistryStub

T = TypeVar("T")
PASS_METADATA = "hanse-pass-bin"  # noqa: S105 - a name
_REPEATED = ("GetMembership", "GetOrganization", "Resolve", "Search", "Renew", "GetCheckpoint", "Continue")
_RETRIES = json.dumps(
    {
        "methodConfig": [
            {
                "name": [{"service": "hanse.v1.Registry", "method": method} for method in _REPEATED],
                "retryPolicy": {
                    "maxAttempts": 3,
                    "initialBackoff": "0.05s",
                    "maxBackoff": "0.5s",
                    "backoffMultiplier": 3,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ]
    }
)
_CONNECT_MS = 8_000  # for a connection to be made: whoever drops packets does not hold everything up
_NAME = "the registry"


@dataclass(frozen=True, slots=True)
class Proved:
    """An answer with its proofs: None where the registry gave none. Claims, all of it."""

    resolution: Resolution
    shown: Shown | None
    record: Inclusion | None
    organization: Inclusion | None


@dataclass(frozen=True, slots=True)
class ProvedMembership:
    """The head and the list (empty if the caller has it), with proofs. Claims.

    ``shown`` is None of a registry from before there was a log, and of one that withholds it.
    """

    head: Envelope
    members: bytes
    shown: Shown | None
    inclusion: Inclusion | None


class League:
    """Safe to share between threads. Every method raises hanse.errors only; Unreachable is worth trying again."""

    def __init__(self, identity: Identity, clock: Callable[[], float] = time.time) -> None:
        self._identity = identity
        self._clock = clock
        self._lock = threading.Lock()
        self._addresses = Addresses(identity.registries)
        self._asking = threading.local()  # by: who answered last; without: who is not asked now
        self._channels: dict[Address, grpc.Channel] = {}
        self._pass: tuple[int, bytes] | None = None
        self._brought: tuple[Envelope, ...] = ()

    def get_membership(self, known_sha256: bytes = b"") -> tuple[Envelope, bytes]:
        """The signed head, and the list of members: empty if it is the one that the caller has."""
        found = self._membership(registry_pb2.GetMembershipRequest(known_members_sha256=known_sha256))
        return found.head, found.members

    def prove_membership(self, known_sha256: bytes, seen_size: int) -> ProvedMembership:
        """The same, and what is to prove that this is what everybody is told."""
        return self._membership(
            registry_pb2.GetMembershipRequest(
                known_members_sha256=known_sha256, with_checkpoint=True, seen_size=seen_size
            )
        )

    def _membership(self, request: registry_pb2.GetMembershipRequest) -> ProvedMembership:
        response = self._call(lambda stub, with_pass: stub.GetMembership(request, **with_pass))
        with _claims():
            return ProvedMembership(
                wire.envelope_from_message(response.head),
                response.members,
                wire_log.shown_from_message(response.log) if response.HasField("log") else None,
                wire_log.inclusion_from_message(response.inclusion) if response.HasField("inclusion") else None,
            )

    def get_checkpoint(self, seen_size: int = 0, until_size: int = 0) -> Shown:
        """What the registry shows of its log to one who has seen ``seen_size`` entries.

        With ``until_size``, that these are the first of so many, instead of the first of all.
        """
        if self._brought:
            return self._continue(store=False, seen_size=seen_size, until_size=until_size)
        request = registry_pb2.GetCheckpointRequest(seen_size=seen_size, until_size=until_size)
        response = self._call(lambda stub, with_pass: stub.GetCheckpoint(request, **with_pass))
        with _claims():
            return wire_log.shown_from_message(response.log)

    def bring(self, organizations: Sequence[Envelope]) -> None:
        """Of a registry that knows an older key than this home's: the own records that lead to it, at most CONTINUED.

        ``get_checkpoint`` brings them from now on, and nothing is changed; ``continue_organization`` has them stored.
        """
        self._brought = tuple(organizations)

    def continue_organization(self) -> None:
        """Has stored what was brought, if anything was; this home's key counts again when it returns."""
        if self._brought:
            self._continue(store=True)
            self._brought = ()

    def _continue(self, *, store: bool, seen_size: int = 0, until_size: int = 0) -> Shown:
        request = registry_pb2.ContinueRequest(
            caller=wire.envelope_to_message(self._identity.sign_pass(int(self._clock()))),
            organizations=[wire.envelope_to_message(each) for each in self._brought],
            store=store,
            seen_size=seen_size,
            until_size=until_size,
        )
        response = self._call(lambda stub, with_pass: stub.Continue(request, **with_pass))
        with _claims():
            return wire_log.shown_from_message(response.log)

    def get_organization(self, prefix: Prefix, after_version: int = 0) -> list[Envelope]:
        """An organization's records after that version, oldest first."""
        request = registry_pb2.GetOrganizationRequest(prefix=str(prefix), after_version=after_version)
        response = self._call(lambda stub, with_pass: stub.GetOrganization(request, **with_pass))
        with _claims():
            return [wire.envelope_from_message(each) for each in response.organizations]

    def resolve(self, ids: Sequence[Identifier], with_organization: bool = False) -> list[Resolution]:
        """One for each identifier, in that order; at most limits.BATCH."""
        resolutions: list[Resolution] = []
        while len(resolutions) < len(ids):  # an answer ends early so that it fits a message
            rest = [str(each) for each in ids[len(resolutions) :]]
            request = registry_pb2.ResolveRequest(ids=rest, with_organization=with_organization)
            response = self._call(lambda stub, with_pass, request=request: stub.Resolve(request, **with_pass))  # type: ignore[misc]
            with _claims():
                found = wire.resolutions_from_message(response)
            if not 0 < len(found) <= len(rest):
                raise WrongContent("the registry answered another number of identifiers than it was asked for")
            resolutions += found
        return resolutions

    def prove(self, identifier: Identifier, seen_size: int) -> Proved:
        """What the registry has of it, and what is to prove that this is in the log that everybody sees."""
        request = registry_pb2.ResolveRequest(
            ids=[str(identifier)], with_organization=True, prove=True, seen_size=seen_size
        )
        response = self._call(lambda stub, with_pass: stub.Resolve(request, **with_pass))
        with _claims():
            found = wire.resolutions_from_message(response)
            if len(found) != 1:
                raise WrongContent("the registry answered another number of identifiers than it was asked for")
            (told,) = response.resolutions
            owner = response.organization_inclusions
            return Proved(
                found[0],
                wire_log.shown_from_message(response.log) if response.HasField("log") else None,
                wire_log.inclusion_from_message(told.inclusion) if told.HasField("inclusion") else None,
                wire_log.inclusion_from_message(owner[0]) if len(owner) == 1 else None,
            )

    def search(self, query: Query) -> SearchResult:
        request = wire.query_to_message(query)
        response = self._call(lambda stub, with_pass: stub.Search(request, **with_pass))
        with _claims():
            return wire.search_result_from_message(response)

    def renew(self, csr: bytes, *, server: bool = False) -> bytes:
        """A fresh member's certificate (DER) for a PKCS #10 request (DER) with this home's TLS key.

        ``server``: one to serve with under the registry's name, which only its mirrors get.
        """
        now = int(self._clock())
        wanted = Renewal(self._identity.prefix, self._identity.authority.fingerprint, now, csr, server)
        envelope = sign(PayloadType.RENEWAL, wire.encode_renewal(wanted), *self._identity.registry_keys)
        request = registry_pb2.RenewRequest(renewal=wire.envelope_to_message(envelope))
        return self._call(lambda stub, with_pass: stub.Renew(request, **with_pass)).certificate

    def publish(self, envelopes: Iterable[Envelope]) -> Iterator[PublishOutcome]:
        """The outcomes in the order of the envelopes, each when it is durable. Ends early by raising."""
        requests = _Requests(envelopes)
        for response in self._stream(
            lambda stub, with_pass: stub.Publish(requests.again(), **with_pass), limits.PUBLISH_TIMEOUT
        ):
            requests.answered()
            with _claims():
                yield from [wire.outcome_from_message(each) for each in response.outcomes]

    def watch(
        self, after: int = 0, *, certificates: bool = False, timeout: float = limits.STREAM_TIMEOUT
    ) -> Generator[Change]:
        """Every change after a position, in order; stays open until it raises Unreachable or the caller closes it.

        With ``certificates`` the positions have no gaps, and position p is entry p - 1 of the log.
        """
        request = registry_pb2.WatchRequest(after=after, with_certificates=certificates)
        for response in self._stream(lambda stub, with_pass: stub.Watch(request, **with_pass), timeout):
            with _claims():
                yield from [wire.change_from_message(each) for each in response.changes]

    def watch_messages(self, after: int) -> Iterator[bytes]:
        """What ``watch`` with certificates gives, as serialized WatchResponses: for who has them checked elsewhere."""
        request = registry_pb2.WatchRequest(after=after, with_certificates=True)
        for response in self._stream(lambda stub, with_pass: stub.Watch(request, **with_pass)):
            yield response.SerializeToString()

    @property
    def returns(self) -> int:
        """How often an address that had not answered did again: another number is a reason to try again."""
        return self._addresses.returns

    def learn(self, registries: Iterable[Address]) -> None:
        """The registry's addresses as the membership names them: its own first, then its mirrors'."""
        self._addresses.learn(registries)

    @property
    def addresses(self) -> tuple[Address, ...]:
        """All that are known, the one to ask first at the beginning."""
        return tuple(self._addresses.in_order())

    @property
    def answered(self) -> Address | None:
        """Who answered this thread last, if only to refuse."""
        return getattr(self._asking, "by", None)

    @contextlib.contextmanager
    def searching(self) -> Iterator[None]:
        """Inside, ``pass_over`` counts, for this thread: one question may be put to several addresses."""
        if getattr(self._asking, "without", None) is not None:
            yield  # it is part of another such question
            return
        self._asking.without = set()
        try:
            yield
        finally:
            self._asking.without = None

    def pass_over(self) -> bool:
        """Whoever answered this thread last told something old: whether another can be asked instead."""
        without, by = getattr(self._asking, "without", None), getattr(self._asking, "by", None)
        if without is None or by is None or by in without:
            return False
        without.add(by)
        return bool(self._addresses.in_order(without))

    def close(self) -> None:
        with self._lock:
            for channel in self._channels.values():
                channel.close()
            self._channels.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _call(self, call: Callable[[RegistryStub, dict[str, Any]], T]) -> T:
        failure: HanseError | None = None
        for address in self._in_order():
            try:
                with waiting():
                    answer = call(self._stub(address), self._arguments(limits.CALL_TIMEOUT))
            except grpc.RpcError as error:
                failed = self._failed(error, address)
                if not isinstance(failed, Unreachable):
                    self._asking.by = address
                    raise failed from None
                failure = failure or failed
            else:
                self._answered(address)
                return answer
        raise failure or _nobody()

    def _stream(
        self, call: Callable[[RegistryStub, dict[str, Any]], Iterable[T]], timeout: float = limits.STREAM_TIMEOUT
    ) -> Iterator[T]:
        """Of the first address that begins to answer. One that ends in the middle is not gone on with elsewhere."""
        failure: HanseError | None = None
        for address in self._in_order():
            stream = call(self._stub(address), self._arguments(timeout))
            begun = False
            try:
                for each in stream:
                    if not begun:
                        begun = True
                        self._answered(address)
                    yield each
            except grpc.RpcError as error:
                failed = self._failed(error, address)
                if begun or not isinstance(failed, Unreachable):
                    raise failed from None
                failure = failure or failed
            else:
                return
            finally:
                if isinstance(stream, grpc.Call):
                    stream.cancel()
        raise failure or _nobody()

    def _in_order(self) -> list[Address]:
        return self._addresses.in_order(getattr(self._asking, "without", None) or ())

    def _answered(self, address: Address) -> None:
        self._asking.by = address
        self._addresses.back(address)

    def _failed(self, error: grpc.RpcError, address: Address) -> HanseError:
        failure = status.from_rpc(error, f"{_NAME} at {address}")
        if isinstance(failure, Unreachable) and not status.is_told(error):
            self._addresses.away(address)
        return failure

    def _stub(self, address: Address) -> RegistryStub:
        with self._lock:
            channel = self._channels.get(address)
            if channel is None:
                authority = self._identity.authority
                channel = self._channels[address] = dial(
                    address,
                    roots=tls.to_pem(authority.ca_certificate),
                    server_name=tls.registry_name(authority.root),
                    max_message=limits.MEMBERSHIP_BYTES,
                    options=(("grpc.service_config", _RETRIES), ("grpc.min_reconnect_backoff_ms", _CONNECT_MS)),
                )
        return RegistryStub(channel)

    def _arguments(self, timeout: float) -> dict[str, Any]:
        now = int(self._clock())
        with self._lock:
            if self._pass is None or not self._pass[0] <= now < self._pass[0] + limits.PASS_LIFE // 2:
                self._pass = (now, wire.encode_envelope(self._identity.sign_pass(now)))
            return {"timeout": timeout, "metadata": ((PASS_METADATA, self._pass[1]),)}


def _nobody() -> HanseError:
    return Unreachable("this home knows no address of a registry: join again")


class _Requests:
    """What is published: in messages, which are kept until they are answered, to be sent to the next address."""

    def __init__(self, envelopes: Iterable[Envelope]) -> None:
        self._batches = _batches(envelopes)
        self._lock = threading.Lock()
        self._unanswered: deque[registry_pb2.PublishRequest] = deque()
        self._attempt = 0

    def again(self) -> Iterator[registry_pb2.PublishRequest]:
        """All that was not answered yet. What an earlier attempt may still take, it gets nothing more of."""
        with self._lock:
            self._attempt += 1
            return self._from(self._attempt)

    def answered(self) -> None:
        """The first of those that were sent."""
        with self._lock:
            if self._unanswered:
                self._unanswered.popleft()

    def _from(self, attempt: int) -> Iterator[registry_pb2.PublishRequest]:
        with self._lock:
            repeated = tuple(self._unanswered)
        yield from repeated
        while True:
            with self._lock:  # gRPC takes requests in a thread of its own, which may outlive its call
                batch = next(self._batches, None) if attempt == self._attempt else None
                if batch is None:
                    return
                request = registry_pb2.PublishRequest(envelopes=[wire.envelope_to_message(each) for each in batch])
                self._unanswered.append(request)
            yield request


class _claims:  # noqa: N801 - reads as a statement
    """What does not parse is the registry's fault, not the caller's."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        if isinstance(error, InvalidInput):
            raise WrongContent(f"the registry's answer does not parse: {error}") from None


def _batches(envelopes: Iterable[Envelope]) -> Iterator[list[Envelope]]:
    batch: list[Envelope] = []
    size = 0
    for each in envelopes:
        length = len(each.payload) + limits.ENVELOPE_EXTRA_BYTES
        if batch and size + length > limits.MESSAGE_BYTES:
            yield batch
            batch, size = [], 0
        batch.append(each)
        size += length
        if len(batch) == limits.BATCH:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch
