"""The log over HTTP, as C2SP tlog-tiles has it: a checkpoint, and tiles that any cache or mirror may keep for ever.

Plain HTTP/1.1, GET and HEAD: what is served proves itself, and TLS is the business of whatever cache stands before it.
Hashes and the checkpoint are for everybody. Entries, which say of what kind each leaf is, only if the operator says so;
what was signed is in neither, and is for members (Watch). SPEC.md section 21.4.
Source: https://c2sp.org/tlog-tiles

The rule it keeps: no request costs more than one read, a few kilobytes and some seconds of waiting.
"""

from collections import Counter
from http import HTTPStatus

import structlog

from hanse import tiles
from hanse.errors import HanseError, InvalidInput
from hanse.model.address import Address
from hanse.rpc.http import Answer, Asked, Server
from registry.log import Log

_log = structlog.get_logger()

# A second: what was acknowledged is published by then, and a cache is asked a million times for one of ours.
_FRESH = "public, max-age=1"
_FOR_EVER = "public, max-age=31536000, immutable"
_MISSING = Answer(HTTPStatus.NOT_FOUND)  # and not to be kept: what is not there may be there next


class Tiles:
    """A listener in the event loop that makes it."""

    def __init__(self, log: Log, *, public_entries: bool) -> None:
        self._log = log
        self._public_entries = public_entries
        self._server = Server(self._answer, what="tiles")

    @property
    def counts(self) -> Counter[int]:
        """Of answers by status."""
        return self._server.counts

    async def start(self, address: Address, *, shared: bool = False) -> Address:
        """Where it listens, with other processes if it is ``shared``. Raises Conflict."""
        bound = await self._server.start(address, shared=shared)
        _log.info("tiles.listening", address=str(bound))
        return bound

    async def stop(self) -> None:
        """Ends what is open."""
        await self._server.stop()

    async def _answer(self, asked: Asked) -> Answer:
        if asked.method not in ("GET", "HEAD"):
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, allow="GET, HEAD")
        try:
            return await self._log.read(self._find, asked.path)
        except HanseError as error:
            _log.error("tiles.failed", reason=error.reason, text=str(error))
            return Answer(HTTPStatus.SERVICE_UNAVAILABLE)

    def _find(self, path: str) -> Answer:
        if path == "/checkpoint":
            return Answer(HTTPStatus.OK, self._log.published().encode(), "text/plain; charset=utf-8", _FRESH)
        try:
            level, number, count = tiles.parse_path(path[1:] if path.startswith("/") else "")
        except InvalidInput:
            return _MISSING
        if level == tiles.ENTRIES:
            found = self._log.entries(number, count) if self._public_entries else None
        else:
            found = self._log.hashes(level, number, count)
        return _MISSING if found is None else Answer(HTTPStatus.OK, found, "application/octet-stream", _FOR_EVER)
