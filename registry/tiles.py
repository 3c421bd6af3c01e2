"""The log over HTTP, as C2SP tlog-tiles has it: a checkpoint, and tiles that any cache or mirror may keep for ever.

Plain HTTP/1.1, GET and HEAD: what is served proves itself, and TLS is the business of whatever cache stands before it.
Hashes and the checkpoint are for everybody. Entries, which say of what kind each leaf is, only if the operator says so;
what was signed is in neither, and is for members (Watch). SPEC.md section 21.4.
Source: https://c2sp.org/tlog-tiles

The rule it keeps: no request costs more than one read, a few kilobytes and some seconds of waiting.
"""

import asyncio
import contextlib
from collections import Counter
from http import HTTPStatus

import structlog

from hanse import tiles
from hanse.errors import Conflict, HanseError, InvalidInput
from hanse.model.address import Address
from registry.log import Log

_log = structlog.get_logger()

_HEAD_BYTES = 8192
_IDLE = 30.0  # seconds that a connection may stay open without a request, or take to send one
_CONNECTIONS = 512
# A second: what was acknowledged is published by then, and a cache is asked a million times for one of ours.
_FRESH = "public, max-age=1"
_FOR_EVER = "public, max-age=31536000, immutable"
_NEVER = "no-store"  # what is not there may be there next


class Tiles:
    """A listener in the event loop that makes it."""

    def __init__(self, log: Log, *, public_entries: bool) -> None:
        self._log = log
        self._public_entries = public_entries
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.counts: Counter[int] = Counter()  # of answers by status

    async def start(self, address: Address) -> Address:
        """Where it listens. Raises Conflict."""
        try:
            self._server = await asyncio.start_server(self._connected, address.host, address.port, limit=_HEAD_BYTES)
        except OSError as error:
            raise Conflict(f"tiles cannot be served at {address}: {error.strerror}") from None
        bound = Address(address.host, self._server.sockets[0].getsockname()[1])
        _log.info("tiles.listening", address=str(bound))
        return bound

    async def stop(self) -> None:
        """Ends what is open."""
        if self._server is not None:
            self._server.close()
        for each in self._connections:
            each.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 - it is a coroutine that runs
        self._connections.add(task)
        try:
            if len(self._connections) > _CONNECTIONS:
                writer.write(self._answer(HTTPStatus.SERVICE_UNAVAILABLE, close=True))
                return
            # One that hangs up, is slow or talks nonsense is nobody's concern but its own.
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                while await asyncio.wait_for(self._exchange(reader, writer), _IDLE):
                    pass
        except asyncio.CancelledError:
            pass  # by ``stop``
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow."""
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        line, *fields = head[:-4].split("\r\n")
        method, _, rest = line.partition(" ")
        path, _, version = rest.rpartition(" ")
        headers = {
            name.strip().lower(): value.strip().lower() for name, _, value in (each.partition(":") for each in fields)
        }
        close = version != "HTTP/1.1" or headers.get("connection") == "close"
        if (
            version not in ("HTTP/1.1", "HTTP/1.0")
            or headers.get("content-length", "0") != "0"
            or "transfer-encoding" in headers
        ):
            close, answer = True, self._answer(HTTPStatus.BAD_REQUEST, close=True)
        elif method not in ("GET", "HEAD"):
            answer = self._answer(HTTPStatus.METHOD_NOT_ALLOWED, close=close)
        else:
            try:
                found = self._find(path)
            except HanseError as error:
                _log.error("tiles.failed", reason=error.reason, text=str(error))
                found = (HTTPStatus.SERVICE_UNAVAILABLE, b"", "text/plain", _NEVER)
            answer = self._answer(*found, close=close, without_body=method == "HEAD")
        writer.write(answer)
        await writer.drain()
        return not close

    def _find(self, path: str) -> tuple[HTTPStatus, bytes, str, str]:
        """Status, body, media type and how long it may be kept."""
        if path == "/checkpoint":
            return HTTPStatus.OK, self._log.checkpoint()[1].encode(), "text/plain; charset=utf-8", _FRESH
        try:
            level, number, count = tiles.parse_path(path[1:] if path.startswith("/") else "")
        except InvalidInput:
            return HTTPStatus.NOT_FOUND, b"", "text/plain", _NEVER
        if level == tiles.ENTRIES:
            found = self._log.entries(number, count) if self._public_entries else None
        else:
            found = self._log.hashes(level, number, count)
        if found is None:
            return HTTPStatus.NOT_FOUND, b"", "text/plain", _NEVER
        return HTTPStatus.OK, found, "application/octet-stream", _FOR_EVER

    def _answer(
        self, status: HTTPStatus, body: bytes = b"", media_type: str = "text/plain", cache: str = _NEVER,
        *, close: bool, without_body: bool = False,
    ) -> bytes:  # fmt: skip
        self.counts[status] += 1
        if status is not HTTPStatus.OK:
            body = f"{status.phrase}\n".encode()
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {media_type}\r\nContent-Length: {len(body)}\r\n"
            f"Cache-Control: {cache}\r\nX-Content-Type-Options: nosniff\r\n"
            + ("Allow: GET, HEAD\r\n" if status is HTTPStatus.METHOD_NOT_ALLOWED else "")
            + ("Connection: close\r\n\r\n" if close else "\r\n")
        )
        return head.encode() + (b"" if without_body else body)
