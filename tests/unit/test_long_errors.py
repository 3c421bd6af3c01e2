"""An error that quotes a long input still arrives as what it is."""

from concurrent import futures
from typing import Any

import grpc
import pytest

from hanse.errors import HanseError, InvalidInput
from hanse.rpc import status


class _Failing(grpc.GenericRpcHandler):
    def service(self, handler_call_details: Any) -> Any:
        del handler_call_details
        return grpc.unary_unary_rpc_method_handler(
            lambda data, context: status.abort(context, InvalidInput(data.decode()))
        )


def _told(text: str) -> HanseError:
    server = grpc.server(futures.ThreadPoolExecutor(1))
    server.add_generic_rpc_handlers((_Failing(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/hanse.v1.Node/Describe")
            with pytest.raises(grpc.RpcError) as raised:
                call(text.encode(), timeout=60)
        return status.from_rpc(raised.value, "the peer")
    finally:
        server.stop(0)


@pytest.mark.parametrize("text", ["x" * 1_000_000, "病" * 3000, "\U0001f600" * 600, "short"])
def test_the_class_and_the_beginning_of_the_text_arrive(text: str) -> None:
    told = _told(text)
    assert type(told) is InvalidInput
    assert str(told).startswith(f"the peer: {text[:5]}")
