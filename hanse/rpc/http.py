"""Plain HTTP/1.1, as little of it as tiles and witnesses need: a listener for small requests, and one call.

What it serves proves itself by signatures, and so does what it fetches; TLS is the business of whatever stands before.
The rule it keeps: a request costs one short call, ``most`` bytes of memory and some seconds of waiting; whoever is
slow, hangs up or talks nonsense is nobody's concern but its own.

    server = Server(answer, what="tiles")
    await server.start(Address("127.0.0.1", 0))
    status, body = await call("http://127.0.0.1:7480", "/checkpoint")
"""

import asyncio
import contextlib
import ssl
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http import HTTPStatus
from urllib.parse import urlsplit

from hanse.errors import Conflict, InvalidInput, TimedOut, Unreachable, WrongContent
from hanse.model.address import Address

_HEAD_BYTES = 8192
_IDLE = 30.0  # seconds that a connection may stay open without a request, or take to send one
_CONNECTIONS = 512
_NEVER = "no-store"
_VERSIONS = ("HTTP/1.1", "HTTP/1.0")


@dataclass(frozen=True, slots=True)
class Asked:
    """A request: ``path`` as it was sent."""

    method: str
    path: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """``body`` is the status's own words if it is None. ``allow``: the methods of the path, for a 405."""

    status: HTTPStatus
    body: bytes | None = None
    media_type: str = "text/plain"
    cache: str = _NEVER
    allow: str = ""


class Server:
    """A listener in the event loop that makes it. ``answer`` is awaited for each request, and never raises."""

    def __init__(self, answer: Callable[[Asked], Awaitable[Answer]], *, what: str, most: int = 0) -> None:
        """``what`` it serves is for errors; ``most``: bytes of a request's body."""
        self._answer = answer
        self._what = what
        self._most = most
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self.counts: Counter[int] = Counter()  # of answers by status

    async def start(self, address: Address, *, shared: bool = False) -> Address:
        """Where it listens, with other processes if it is ``shared``. Raises Conflict."""
        try:
            self._server = await asyncio.start_server(
                self._connected, address.host, address.port, limit=_HEAD_BYTES, reuse_port=shared or None
            )
        except OSError as error:
            raise Conflict(f"{self._what} cannot be served at {address}: {error.strerror}") from None
        return Address(address.host, self._server.sockets[0].getsockname()[1])

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
                writer.write(self._written(Answer(HTTPStatus.SERVICE_UNAVAILABLE), close=True))
                return
            with contextlib.suppress(OSError, asyncio.IncompleteReadError, asyncio.LimitOverrunError, TimeoutError):
                more = True
                while more:
                    async with asyncio.timeout(_IDLE):  # asyncio.wait_for may swallow what ``stop`` does
                        more = await self._exchange(reader, writer)
        except asyncio.CancelledError:
            pass  # by ``stop``
        finally:
            self._connections.discard(task)
            writer.close()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """One request and its answer; whether another may follow."""
        line, headers = _head(await reader.readuntil(b"\r\n\r\n"))
        method, _, rest = line.partition(" ")
        path, _, version = rest.rpartition(" ")
        length = headers.get("content-length", "0")
        close = version != "HTTP/1.1" or headers.get("connection", "").lower() == "close"
        if version not in _VERSIONS or "transfer-encoding" in headers or not _is_number(length):
            close, answer = True, Answer(HTTPStatus.BAD_REQUEST)
        elif int(length) > self._most:
            too_large = HTTPStatus.REQUEST_ENTITY_TOO_LARGE if self._most else HTTPStatus.BAD_REQUEST
            close, answer = True, Answer(too_large)
        else:
            if headers.get("expect", "").lower() == "100-continue":
                writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
            answer = await self._answer(Asked(method, path, await reader.readexactly(int(length))))
        writer.write(self._written(answer, close=close, without_body=method == "HEAD"))
        await writer.drain()
        return not close

    def _written(self, answer: Answer, *, close: bool, without_body: bool = False) -> bytes:
        status = answer.status
        self.counts[status] += 1
        body = f"{status.phrase}\n".encode() if answer.body is None else answer.body
        head = (
            f"HTTP/1.1 {status.value} {status.phrase}\r\nContent-Type: {answer.media_type}\r\n"
            f"Content-Length: {len(body)}\r\nCache-Control: {answer.cache}\r\nX-Content-Type-Options: nosniff\r\n"
            + (f"Allow: {answer.allow}\r\n" if answer.allow else "")
            + ("Connection: close\r\n\r\n" if close else "\r\n")
        )
        return head.encode() + (b"" if without_body else body)


@dataclass(frozen=True, slots=True)
class Url:
    """Where something is served: ``http://host:port/prefix``, or https. ``str`` gives it without a slash at its end."""

    text: str
    address: Address = field(repr=False)
    secure: bool = field(default=False, repr=False)

    @classmethod
    def parse(cls, text: str) -> "Url":
        """Raises InvalidInput."""
        told = text.strip().rstrip("/")
        try:
            parts = urlsplit(told)
            secure = parts.scheme == "https"
            port = parts.port or (443 if secure else 80)
        except ValueError:
            raise InvalidInput(f"{text!r} is no URL") from None
        plain = told.isascii() and told.isprintable() and not set(told) & set(" ?#@\\")
        if parts.scheme not in ("http", "https") or not parts.hostname or not plain:
            raise InvalidInput(f"{text!r} is no URL: it has the form http://HOST:PORT, with a path if there is one")
        return cls(told, Address(parts.hostname, port), secure)

    def __str__(self) -> str:
        return self.text


async def call(url: Url, path: str, body: bytes | None = None, *, most: int, timeout: float) -> tuple[int, bytes]:
    """GET, or POST with a body; what came back, whatever its status. Raises Unreachable, TimedOut, WrongContent."""
    try:
        async with asyncio.timeout(timeout):
            return await _called(url, path, body, most)
    except TimeoutError:
        raise TimedOut(f"{url} does not answer in {timeout:.0f} s") from None
    except (OSError, asyncio.IncompleteReadError) as error:
        why = getattr(error, "strerror", None) or "it ends the connection"
        raise Unreachable(f"{url} does not answer: {why}") from None
    except (asyncio.LimitOverrunError, ValueError, IndexError):
        raise WrongContent(f"{url} does not answer as HTTP has it") from None


async def _called(url: Url, path: str, body: bytes | None, most: int) -> tuple[int, bytes]:
    reader, writer = await asyncio.open_connection(
        url.address.host,
        url.address.port,
        limit=_HEAD_BYTES,
        ssl=ssl.create_default_context() if url.secure else None,
    )
    try:
        parts = urlsplit(url.text)
        length = "" if body is None else f"Content-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
        head = f"{'GET' if body is None else 'POST'} {parts.path}{path} HTTP/1.1\r\nHost: {parts.netloc}\r\n{length}"
        writer.write(f"{head}Connection: close\r\n\r\n".encode() + (body or b""))
        await writer.drain()
        line, headers = "", dict[str, str]()
        while not line or line.split(" ")[1] == "100":
            line, headers = _head(await reader.readuntil(b"\r\n\r\n"))
            if not line.startswith("HTTP/1.") or not _is_number(line.split(" ")[1]):
                raise ValueError
        return int(line.split(" ")[1]), await _body(reader, headers, most)
    finally:
        writer.close()


async def _body(reader: asyncio.StreamReader, headers: dict[str, str], most: int) -> bytes:
    body = b""
    if "chunked" in headers.get("transfer-encoding", "").lower():
        while size := int((await reader.readuntil(b"\r\n")).partition(b";")[0], 16):
            if not 0 < size <= most - len(body):
                raise ValueError
            body += (await reader.readexactly(size + 2))[:-2]
        return body
    if "content-length" in headers:
        if not _is_number(headers["content-length"]) or int(headers["content-length"]) > most:
            raise ValueError
        return await reader.readexactly(int(headers["content-length"]))
    while part := await reader.read(most + 1 - len(body)):
        body += part
        if len(body) > most:
            raise ValueError
    return body


def _head(head: bytes) -> tuple[str, dict[str, str]]:
    """The first line, and the fields by their names in lower case."""
    line, *fields = head.decode("latin-1")[:-4].split("\r\n")
    parted = (each.partition(":") for each in fields)
    return line, {name.strip().lower(): value.strip() for name, _, value in parted}


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdecimal() and len(text) < 16
