"""Every RPC by name, who may call it, and what becomes of an error. SPEC.md sections 5.4 and 12.

Denied unless allowed: an RPC that has no policy here is refused, whoever calls. No error escapes as it is: one
that is not ours ends the call with INTERNAL and a reference, under which the log tells more.
"""

import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from enum import Enum
from typing import Any

import grpc
import structlog

from hanse.errors import HanseError, NoSpace, NotPermitted, StorageFailed, Unreachable
from hanse.rpc.status import abort_async
from hanse.v1 import registry_pb2
from registry.figures import Durations
from registry.passes import Caller, Passes
from registry.service import Service

_log = structlog.get_logger()

SERVICE = registry_pb2.DESCRIPTOR.services_by_name["Registry"]


class Policy(Enum):
    """Who may call."""

    ANYBODY = "anybody"  # what is said is checked by the call itself: an invitation, a signature
    MEMBERS = "members in good standing"


POLICIES: Mapping[str, Policy] = {
    "GetAuthority": Policy.ANYBODY,
    "Join": Policy.ANYBODY,
    "Renew": Policy.ANYBODY,
    "GetMembership": Policy.MEMBERS,
    "GetOrganization": Policy.MEMBERS,
    "Publish": Policy.MEMBERS,
    "Resolve": Policy.MEMBERS,
    "Search": Policy.MEMBERS,
    "Watch": Policy.MEMBERS,
    "GetCheckpoint": Policy.MEMBERS,
    "Continue": Policy.ANYBODY,
}

_STREAMS = ("Publish", "Watch")


class Calls:
    """Wraps a Service's methods into gRPC handlers; counts calls by method and status, and how long they took."""

    def __init__(self, service: Service, passes: Passes, policies: Mapping[str, Policy] = POLICIES) -> None:
        self.service = service
        self._passes = passes
        self._policies = policies
        self.counts: Counter[tuple[str, str]] = Counter()
        self.open: Counter[str] = Counter(dict.fromkeys(_STREAMS, 0))
        # Of calls with one answer, those that failed too; of publishing, see Service.
        self.durations = {name: Durations() for name in policies if name not in _STREAMS}

    def handler(self) -> grpc.GenericRpcHandler:
        """For ``add_generic_rpc_handlers``."""
        service = self.service
        quick = {
            "GetAuthority": service.get_authority,
            "GetMembership": service.get_membership,
            "GetOrganization": service.get_organization,
            "Resolve": service.resolve,
            "GetCheckpoint": service.get_checkpoint,
        }
        slow: dict[str, Callable[[bytes], Awaitable[bytes]]]
        slow = {
            "Join": service.join,
            "Renew": service.renew,
            "Search": service.search,
            "Continue": service.continue_organization,
        }
        if service.distant:
            # They wait for the database: in a thread, while the loop answers what is remembered.
            slow |= {name: self._elsewhere(name, quick.pop(name)) for name in list(quick) if name != "GetAuthority"}
        handlers = {}
        for method in SERVICE.methods:
            name = method.name
            if name not in self._policies:
                handlers[name] = _refusal(name, method.client_streaming, method.server_streaming)
            elif name in quick:
                handlers[name] = grpc.unary_unary_rpc_method_handler(self._quick(name, quick[name]))
            elif name in slow:
                handlers[name] = grpc.unary_unary_rpc_method_handler(self._slow(name, slow[name]))
            elif name == "Publish":
                handlers[name] = grpc.stream_stream_rpc_method_handler(self._stream(name, service.publish))
            else:
                handlers[name] = grpc.unary_stream_rpc_method_handler(self._stream(name, service.watch))
        return grpc.method_handlers_generic_handler(SERVICE.full_name, handlers)

    def _elsewhere(self, name: str, method: Callable[[bytes], bytes]) -> Callable[[bytes], Awaitable[bytes]]:
        service = self.service

        async def call(request: bytes) -> bytes:
            kept = service.kept(request) if name == "Resolve" else None
            return await service.log.read(method, request) if kept is None else kept

        return call

    async def _admit(self, metadata: Any) -> Caller:
        """Another process may have let the caller in, or taken its new key, just now: then the members are others."""
        try:
            return self._passes.check(metadata)
        except NotPermitted:
            if not await self.service.look_again():
                raise
        return self._passes.check(metadata)

    def _quick(self, name: str, method: Callable[[bytes], bytes]) -> Callable[..., Awaitable[Any]]:
        """For what takes microseconds: no second coroutine, which would cost more than the call."""
        members_only = self._policies[name] is Policy.MEMBERS
        check, look, counts, done = self._passes.check, self.service.look_at_members, self.counts, (name, "OK")
        took, now = self.durations[name].add, time.perf_counter

        async def call(request: bytes, context: Any) -> Any:
            started = now()
            try:
                if members_only:
                    check(context.invocation_metadata(), look)
                answer = method(request)
            except Exception as error:  # noqa: BLE001 — every error ends here
                took(now() - started)
                return await self._fail(name, error, context)
            counts[done] += 1
            took(now() - started)
            return answer

        return call

    def _slow(self, name: str, method: Callable[[bytes], Awaitable[bytes]]) -> Callable[..., Awaitable[Any]]:
        members_only = self._policies[name] is Policy.MEMBERS

        async def call(request: bytes, context: Any) -> Any:
            started = time.perf_counter()
            try:
                if members_only:
                    await self._admit(context.invocation_metadata())
                answer = await method(request)
            except Exception as error:  # noqa: BLE001 — every error ends here
                self.durations[name].add(time.perf_counter() - started)
                return await self._fail(name, error, context)
            self.counts[name, "OK"] += 1
            self.durations[name].add(time.perf_counter() - started)
            _log.debug("call", method=name, milliseconds=round(1000 * (time.perf_counter() - started), 1))
            return answer

        return call

    def _stream(self, name: str, method: Callable[[Any, Caller], AsyncIterator[bytes]]) -> Callable[..., Any]:
        async def call(request: Any, context: Any) -> AsyncIterator[bytes]:
            self.open[name] += 1
            try:
                caller = await self._admit(context.invocation_metadata())
                async for answer in method(request, caller):
                    yield answer
            except Exception as error:  # noqa: BLE001 — every error ends here
                await self._fail(name, error, context)
            finally:
                self.open[name] -= 1
            self.counts[name, "OK"] += 1

        return call

    async def _fail(self, name: str, error: Exception, context: Any) -> Any:
        if isinstance(error, NoSpace | StorageFailed):
            _log.error("storage.failed", method=name, reason=error.reason, text=str(error))
            # It is not the caller's disk.
            error = Unreachable("the registry cannot store at present: try again later")
        if not isinstance(error, HanseError):
            reference = secrets.token_hex(4)
            _log.error("call.broken", method=name, reference=reference, exc_info=error)
            error = HanseError(f"an internal error of the registry; its operator finds it in the log as {reference}")
        self.counts[name, error.status] += 1
        return await abort_async(context, error)


def _refusal(name: str, client_streams: bool, server_streams: bool) -> Any:
    error = NotPermitted(f"{name} has no declared policy: nobody may call it")

    async def unary(_request: Any, context: Any) -> Any:
        await abort_async(context, error)

    async def stream(_request: Any, context: Any) -> AsyncIterator[bytes]:
        await abort_async(context, error)
        yield b""

    if server_streams:
        make = grpc.stream_stream_rpc_method_handler if client_streams else grpc.unary_stream_rpc_method_handler
        return make(stream)
    make = grpc.stream_unary_rpc_method_handler if client_streams else grpc.unary_unary_rpc_method_handler
    return make(unary)
