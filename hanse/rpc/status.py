"""Our errors as gRPC statuses and back. SPEC.md section 12; google.rpc.Status with an ErrorInfo.

The sender's class travels as the ErrorInfo's reason, so that the receiver raises the same one. What a peer
says is a claim: its text is cut and stripped of control characters before anybody sees it.
"""

from typing import Any

import grpc
from google.protobuf.message import DecodeError
from google.rpc import error_details_pb2, status_pb2

from hanse.errors import BY_REASON, HanseError, NotPermitted, Overloaded, TimedOut, Unreachable, VerificationFailed

DOMAIN = "hanse"
_DETAILS = "grpc-status-details-bin"
_TEXT_CHARACTERS = 600
_SENT_BYTES = 1200  # percent-encoded and in base64 it fits the 8 KiB of metadata that every receiver takes

_BY_STATUS: dict[grpc.StatusCode, type[HanseError]] = {
    grpc.StatusCode.DEADLINE_EXCEEDED: TimedOut,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.PERMISSION_DENIED: NotPermitted,
}


def code(error: HanseError) -> grpc.StatusCode:
    """The status that an error travels as."""
    return grpc.StatusCode[error.status]


def details(error: HanseError) -> tuple[tuple[str, bytes], ...]:
    """The trailing metadata that names the error's class."""
    status = status_pb2.Status(code=code(error).value[0], message=_sent(error))
    status.details.add().Pack(error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN))
    return ((_DETAILS, status.SerializeToString()),)


def abort(context: Any, error: HanseError) -> Any:
    """Ends a synchronous call with an error. Does not return."""
    context.set_trailing_metadata(details(error))
    context.abort(code(error), _sent(error))


async def abort_async(context: Any, error: HanseError) -> Any:
    """Ends an asynchronous call with an error. Does not return."""
    context.set_trailing_metadata(details(error))
    await context.abort(code(error), _sent(error))


def _sent(error: HanseError) -> str:
    # It may quote what the caller sent, which may be long: a text that does not fit would arrive as Overloaded.
    return clean(str(error)).encode()[:_SENT_BYTES].decode(errors="ignore")


def from_rpc(error: grpc.RpcError, whom: str) -> HanseError:
    """What a failed call means; ``whom`` names the other side for the reader."""
    told = error.code() if isinstance(error, grpc.Call) else grpc.StatusCode.UNKNOWN
    text = clean(error.details() or "" if isinstance(error, grpc.Call) else str(error))
    kind = _named(error)
    if kind is not None:
        return kind(f"{whom}: {text}")
    if told == grpc.StatusCode.UNAVAILABLE:
        if "handshake" in text.lower() or "certificate" in text.lower() or "ssl" in text.lower():
            return Unreachable(
                f"{whom} and this node do not agree on a secure connection: an expired or unknown certificate, "
                "a wrong clock, or not the node it should be. `hanse doctor` tells which"
            )
        # gRPC tells of every address and layer; what the last one met is what a person can use.
        return Unreachable(f"{whom} does not answer: {text.rpartition(': ')[2] or 'no connection'}")
    if told == grpc.StatusCode.CANCELLED:
        return Unreachable(f"{whom} ended the call")
    return _BY_STATUS.get(told, Unreachable)(f"{whom}: {text or told.name}")


def is_told(error: grpc.RpcError) -> bool:
    """Whether the other side itself said so: it is there, and answers."""
    return _named(error) is not None


def _named(error: grpc.RpcError) -> type[HanseError] | None:
    trailing: Any = error.trailing_metadata() if isinstance(error, grpc.Call) else None
    for key, value in trailing or ():
        if key == _DETAILS:
            try:
                status = status_pb2.Status.FromString(value)
                for detail in status.details:
                    info = error_details_pb2.ErrorInfo()
                    if detail.Unpack(info) and info.domain == DOMAIN:
                        kind = BY_REASON.get(info.reason)
                        # Whether something verifies is decided on this side of the wire only.
                        return None if kind is not None and issubclass(kind, VerificationFailed) else kind
            except DecodeError:
                return None
    return None


def clean(text: str) -> str:
    """A stranger's text, safe to print: no control characters, no more than a paragraph."""
    return "".join(c if c.isprintable() else " " for c in text[:_TEXT_CHARACTERS]).strip()
