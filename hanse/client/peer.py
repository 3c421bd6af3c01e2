"""An owner's node, dialled: whoever answers must hold the key of the certificate in the owner's own record.

What it is not: a judge of contents. What comes back are claims, in bounded messages; hanse.client.content and
hanse.client.transfer verify them. One Peer is one connection: several streams want several peers.

    with Peer(identity, prefix, resolver.organization) as north:
        described = north.describe(identifier)
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

import grpc
from google.protobuf.message import DecodeError

from hanse import limits, wire
from hanse.client.identity import Identity
from hanse.errors import (
    HanseError,
    InvalidInput,
    NotFound,
    Overloaded,
    TimedOut,
    Unreachable,
    VerificationFailed,
    WrongContent,
)
from hanse.evidence.peers import Shown
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.rpc import status, tls
from hanse.rpc.channel import dial
from hanse.trust import VerifiedOrganization
from hanse.turns import waiting
from hanse.v1 import envelope_pb2, node_pb2

T = TypeVar("T")
Buffer = bytes | memoryview


class FindOrganization(Protocol):
    """Resolver.organization: the pinned record, or with ``fresh`` what the registry has now."""

    def __call__(self, prefix: Prefix, *, fresh: bool = False) -> VerifiedOrganization: ...


@dataclass(frozen=True, slots=True)
class Span:
    """``elements`` whole ones from ``element`` on; or with 0, ``chunks`` of that one from ``first_chunk`` on."""

    element: int
    elements: int = 0
    first_chunk: int = 0
    chunks: int = 0


class Stream(Iterator[T]):
    """The messages of one call. ``cancel`` may be called from another thread; the reader then gets Unreachable."""

    def __init__(self, call: Any, watch: "_StallWatch", whom: str, prefix: Prefix) -> None:
        self._call = call
        self._watch = watch
        self._watched = watch.add(call)
        self._whom = whom
        self._prefix = prefix
        self._ahead: list[T] = []

    def wait(self) -> None:
        """Returns when the first message has come, or the end. Raises as ``next`` does."""
        with contextlib.suppress(StopIteration):
            self._ahead.append(next(self))

    def __next__(self) -> T:
        if self._ahead:
            return self._ahead.pop()
        watched = self._watched
        try:
            watched.since = time.monotonic()
            with waiting():
                message: T = next(self._call)
            watched.since = None
        except StopIteration:
            self.cancel()
            raise
        except grpc.RpcError as error:
            self.cancel()
            if watched.stalled:
                raise TimedOut(f"{self._whom} sent nothing for {limits.STREAM_STALL} s") from None
            raise _failure(error, self._whom, self._prefix) from None
        return message

    def cancel(self) -> None:
        self._watch.remove(self._watched)
        self._call.cancel()


@dataclass(frozen=True, slots=True)
class Described:
    """What a node says of a version, not verified. The pages come as they are read; ``close`` ends them.

    ``content``: what came with the first message, all of the only element; empty if it is to be fetched.
    """

    record: Envelope
    manifest: Envelope
    salt: bytes
    responses: Stream[node_pb2.DescribeResponse]
    first_page: bytes = b""
    content: bytes = b""

    @property
    def pages(self) -> Iterator[bytes]:
        if self.first_page:
            yield self.first_page
        for response in self.responses:
            yield response.page

    def close(self) -> None:
        self.responses.cancel()


class Peer:
    """Raises hanse.errors only. When nobody answers, or somebody else, the owner's record is looked up once more."""

    def __init__(
        self,
        identity: Identity,
        prefix: Prefix,
        find: FindOrganization,
        take_back: "Callable[[Peer], bool] | None" = None,
    ) -> None:
        """``take_back``: keeps it for the next when it is closed, and says whether it does."""
        self.prefix = prefix
        self.identity = identity
        self._take_back = take_back
        self._find = find
        self._version = self._valid_from = 0
        self._channels: list[tuple[str, grpc.Channel]] = []
        self._watch = _StallWatch()
        self._lock = threading.Lock()

    def describe(
        self,
        identifier: Identifier,
        version: int = 0,
        first_page: int = 0,
        no_pages: bool = False,
        *,
        grant: bytes = b"",
        delivery: bytes = b"",
    ) -> Described:
        """Version 0 is the newest. ``grant``: digest of the grant under which it is asked for.

        With a ``delivery``, a small content comes at once, and counts as fetched in it.
        """
        request = node_pb2.DescribeRequest(
            id=str(identifier),
            version=version,
            first_page=first_page,
            no_pages=no_pages,
            grant=grant,
            content_bytes=limits.SMALL_CONTENT_BYTES if delivery else 0,
            delivery=delivery,
        )
        stream = self._stream("Describe", request, node_pb2.DescribeResponse.FromString, limits.STREAM_TIMEOUT)
        head = next(stream, None)
        if head is None or not head.HasField("record") or not head.HasField("manifest"):
            raise WrongContent(f"the node of {self.prefix} described {identifier} without a record and a manifest")
        try:
            record, manifest = wire.envelope_from_message(head.record), wire.envelope_from_message(head.manifest)
        except InvalidInput as error:
            raise WrongContent(f"the node of {self.prefix} sent what does not parse: {error}") from None
        return Described(record, manifest, head.salt, stream, head.page, head.content)

    def hashes(self, identifier: Identifier, version: int, element: int, count: int, *, grant: bytes = b"") -> bytes:
        """The leaf hashes of an element's chunks, exactly ``count`` of them. Raises WrongContent."""
        request = node_pb2.HashesRequest(id=str(identifier), version=version, element=element, grant=grant)
        found = bytearray()
        stream = self._stream("Hashes", request, node_pb2.HashesResponse.FromString, limits.STREAM_TIMEOUT)
        for response in stream:
            found += response.hashes
            if len(found) > 32 * count:
                stream.cancel()
                break
        if len(found) != 32 * count:
            raise WrongContent(f"the node of {self.prefix} sent another number of chunk hashes than the manifest names")
        return bytes(found)

    def fetch(
        self, identifier: Identifier, version: int, spans: Sequence[Span], *, grant: bytes = b"", delivery: bytes = b""
    ) -> Stream[Buffer]:
        """The chunks of the spans, concatenated and cut anywhere. Calls with the same ``delivery`` count as one."""
        request = node_pb2.FetchRequest(
            id=str(identifier),
            version=version,
            spans=[
                node_pb2.Span(
                    element=each.element, elements=each.elements, first_chunk=each.first_chunk, chunks=each.chunks
                )
                for each in spans
            ],
            grant=grant,
            delivery=delivery,
        )
        return self._stream("Fetch", request, data_of_response, limits.STREAM_TIMEOUT)

    def ask(self, request: Envelope) -> Envelope | None:
        """The answer to an AccessRequest, not verified: a Grant or a Denial; None while the owner has yet to decide."""
        message = node_pb2.AskRequest(request=wire.envelope_to_message(request))
        response = self._one("Ask", message, node_pb2.AskResponse.FromString)
        return self._envelope(response.answer) if response.HasField("answer") else None

    def present(self, grants: Sequence[Envelope], revocations: Sequence[Envelope] = ()) -> None:
        """Shows a chain of grants, from the owner's to the last one; or revocations of grants that we made."""
        message = node_pb2.PresentRequest(
            grants=[wire.envelope_to_message(each) for each in grants],
            revocations=[wire.envelope_to_message(each) for each in revocations],
        )
        self._one("Present", message, node_pb2.PresentResponse.FromString)

    def standing(self, digests: Sequence[bytes]) -> list[tuple[bytes, Envelope]]:
        """Of at most limits.BATCH grants, those that were revoked, each with a revocation: not verified."""
        message = node_pb2.StandingRequest(grants=digests)
        response = self._one("Standing", message, node_pb2.StandingResponse.FromString)
        return [(each.grant, self._envelope(each.revocation)) for each in response.revoked]

    def settle(
        self, papers: Sequence[Envelope], shown: Shown | None
    ) -> tuple[list[tuple[Envelope | None, str]], Shown | None]:
        """(what was signed, or why not) of each paper, and what the owner shows of its log; nothing of it verified."""
        message = node_pb2.SettleRequest(papers=[wire.envelope_to_message(each) for each in papers])
        if shown is not None:
            message.checkpoint, message.since_size = shown.note, shown.since
            message.seen_size, message.seen_checkpoint = shown.seen, shown.seen_note
            message.consistency.extend(shown.proof)
        response = self._one("Settle", message, node_pb2.SettleResponse.FromString)
        if len(response.settled) != len(papers):
            raise WrongContent(f"the node of {self.prefix} answered another number of papers than it was sent")
        answers = [
            (self._envelope(each.paper) if each.HasField("paper") else None, status.clean(each.refusal))
            for each in response.settled
        ]
        if shown is None or not response.checkpoint:
            return answers, None
        proof, seen = tuple(response.consistency), response.seen_size
        return answers, Shown(response.checkpoint, proof, shown.seen, seen, response.seen_checkpoint)

    def _one(self, method: str, request: Any, parse: Callable[[bytes], T]) -> T:
        """A call of one message each way."""
        stream = self._stream(method, request, parse, limits.CALL_TIMEOUT)
        try:
            messages = list(itertools.islice(stream, 2))
        finally:
            stream.cancel()
        if len(messages) != 1:
            raise WrongContent(f"the node of {self.prefix} answered one question with another number of messages")
        return messages[0]

    def _envelope(self, message: envelope_pb2.Envelope) -> Envelope:
        try:
            return wire.envelope_from_message(message)
        except InvalidInput as error:
            raise WrongContent(f"the node of {self.prefix} sent what does not parse: {error}") from None

    def close(self) -> None:
        """No more is wanted of it for now."""
        if self._take_back is None or not self._take_back(self):
            self.end()

    def end(self) -> None:
        """Ends the connection, and what is under way on it. Twice does no harm."""
        for _, channel in self._channels:
            channel.close()
        self._channels.clear()
        self._watch.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: object, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.end()

    def _stream(self, method: str, request: Any, parse: Callable[[bytes], T], timeout: float) -> Stream[T]:
        """The messages of one call. Tries each address, then each address of a newer record of the owner."""
        self._dial(self._find(self.prefix))
        tried = self._version
        try:
            stream = self._first(method, request, parse, timeout)
        except (Unreachable, VerificationFailed) as failure:
            if isinstance(failure, Overloaded | TimedOut | WrongContent):
                raise
            with contextlib.suppress(Unreachable, NotFound):
                self._dial(self._find(self.prefix, fresh=True))
            if self._version == tried:
                raise
            stream = self._first(method, request, parse, timeout)
        return stream

    def _dial(self, owner: VerifiedOrganization) -> None:
        """Channels to each node of the organization's record; to new ones when the record is a newer one."""
        with self._lock:
            if owner.record.version != self._version or not self._channels:
                self._replace(owner)

    def _replace(self, owner: VerifiedOrganization) -> None:
        for _, channel in self._channels:
            channel.close()
        self._version = owner.record.version
        self._channels = []
        self._valid_from = 0
        for node in owner.record.nodes:
            if node.address is None:
                continue
            try:
                roots = tls.to_pem(node.tls_certificate)
                self._valid_from = max(self._valid_from, tls.read_certificate(node.tls_certificate).not_before)
            except (ValueError, InvalidInput):
                raise WrongContent(f"the record of {self.prefix} names a certificate that is none") from None
            channel = dial(
                node.address,
                roots=roots,
                server_name=self.prefix.server_name,
                key=self.identity.tls_key,
                chain=self.identity.member_certificate,
            )
            self._channels.append((str(node.address), channel))
        if not self._channels:
            raise NotFound(f"{self.prefix} runs no node that can be asked: its record names no address")

    def _first(self, method: str, request: Any, parse: Callable[[bytes], T], timeout: float) -> Stream[T]:
        """The stream from the first address that answers; its first message has come."""
        failure: HanseError | None = None
        for address, channel in tuple(self._channels):
            call = channel.unary_stream(
                f"/hanse.v1.Node/{method}",
                request_serializer=type(request).SerializeToString,
                response_deserializer=parse,
            )(request, timeout=timeout)
            stream: Stream[T] = Stream(call, self._watch, f"the node of {self.prefix} at {address}", self.prefix)
            try:
                stream.wait()
            except (Unreachable, VerificationFailed) as failed:
                error = self._early() or failed if isinstance(failed, VerificationFailed) else failed
                # Somebody else at one address outweighs nobody at the next.
                failure = failure if isinstance(failure, VerificationFailed) else error
                continue
            return stream
        assert failure is not None  # noqa: S101 - there is at least one channel
        raise failure

    def _early(self) -> Unreachable | None:
        """gRPC says no more than that a certificate does not verify; by the system's clock this one cannot."""
        if self._valid_from <= time.time():
            return None
        return Unreachable(
            f"by this machine's clock, the certificate of the node of {self.prefix} is not valid yet: is the clock "
            "right? `hanse doctor` compares it with the registry's"
        )


def _failure(error: grpc.RpcError, whom: str, prefix: Prefix) -> HanseError:
    told = error.code() if isinstance(error, grpc.Call) else None
    text = (error.details() or "") if isinstance(error, grpc.Call) else ""
    if told == grpc.StatusCode.UNAVAILABLE and (
        "CERTIFICATE_VERIFY_FAILED" in text or "Hostname Verification Check failed" in text
    ):
        return VerificationFailed(
            f"whoever answers as {whom} does not have the key that {prefix} names in its own signed record: "
            f"it is not the node of {prefix}, or {prefix} has yet to publish its new key"
        )
    if told == grpc.StatusCode.RESOURCE_EXHAUSTED and "larger than max" in text:
        return WrongContent(f"{whom} sent a message larger than the agreement allows")
    if told == grpc.StatusCode.INTERNAL and "deserializing" in text:
        return WrongContent(f"{whom} sent a message that does not parse")
    return status.from_rpc(error, whom)


def data_of_response(message: bytes) -> Buffer:
    """FetchResponse.data without a copy, where the message has the one shape that every sender makes."""
    if len(message) > 2 and message[0] == 0x0A:  # field 1, length-delimited
        length, shift, start = 0, 0, 1
        for start in range(1, min(6, len(message))):
            length |= (message[start] & 0x7F) << shift
            shift += 7
            if message[start] < 0x80:
                break
        if start + 1 + length == len(message):
            return memoryview(message)[start + 1 :]
    try:
        return node_pb2.FetchResponse.FromString(message).data
    except DecodeError:
        raise ValueError("not a FetchResponse") from None


class _Watched:
    """One call; ``since`` (monotonic seconds) is set while it waits for the other side."""

    def __init__(self, call: Any) -> None:
        self.call = call
        self.since: float | None = None
        self.stalled = False


class _StallWatch:
    """Ends calls that have waited for limits.STREAM_STALL: gRPC has deadlines for calls, none for messages."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._calls: set[_Watched] = set()
        self._closed = threading.Event()
        self._running = False

    def add(self, call: Any) -> _Watched:
        watched = _Watched(call)
        with self._lock:
            self._calls.add(watched)
            if not self._running:
                self._running = True
                threading.Thread(target=self._run, name="hanse-stall-watch", daemon=True).start()
        return watched

    def remove(self, watched: _Watched) -> None:
        with self._lock:
            self._calls.discard(watched)

    def close(self) -> None:
        self._closed.set()

    def _run(self) -> None:
        while not self._closed.wait(1.0):
            now = time.monotonic()
            with self._lock:
                if not self._calls:
                    self._running = False
                    return
                late = [each for each in self._calls if each.since and now - each.since > limits.STREAM_STALL]
            for watched in late:
                watched.stalled = True
                watched.call.cancel()
