"""A grpcio server over TLS that answers with the request. ``python -m bench.echo sync PORT KEY CERT``."""

import asyncio
import sys
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc

OPTIONS = (("grpc.so_reuseport", 0),)


class Handler(grpc.GenericRpcHandler):
    """One unary method, bytes in and the same bytes out."""

    def __init__(self, method: Any) -> None:
        self._method = grpc.unary_unary_rpc_method_handler(method)

    def service(self, handler_call_details: Any) -> Any:  # noqa: ARG002
        return self._method


def credentials(key: Path, certificate: Path) -> grpc.ServerCredentials:
    return grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())])


def echo(request: bytes, context: Any) -> bytes:  # noqa: ARG001
    return request


async def async_echo(request: bytes, context: Any) -> bytes:  # noqa: ARG001
    return request


async def serve_asyncio(port: int, key: Path, certificate: Path) -> None:
    server = grpc.aio.server(options=OPTIONS)
    server.add_generic_rpc_handlers((Handler(async_echo),))
    server.add_secure_port(f"127.0.0.1:{port}", credentials(key, certificate))
    await server.start()
    await server.wait_for_termination()


def serve_sync(port: int, key: Path, certificate: Path) -> None:
    server = grpc.server(futures.ThreadPoolExecutor(8), handlers=(Handler(echo),), options=OPTIONS)
    server.add_secure_port(f"127.0.0.1:{port}", credentials(key, certificate))
    server.start()
    server.wait_for_termination()


if __name__ == "__main__":
    kind, port, key, certificate = sys.argv[1], int(sys.argv[2]), Path(sys.argv[3]), Path(sys.argv[4])
    if kind == "asyncio":
        asyncio.run(serve_asyncio(port, key, certificate))
    else:
        serve_sync(port, key, certificate)
