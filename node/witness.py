"""This node as a witness of its league's log: it cosigns what continues all that it cosigned before. SPEC.md 24.1.

Over plain HTTP, as C2SP tlog-witness has it: everybody may ask, since what is asked for must be signed by the registry
and what is answered proves itself. Its key and its name are its own, apart from those of the organization.
Source: https://c2sp.org/tlog-witness

The rule it keeps: never two histories. What it cosigned last is durable before anybody gets the cosignature, requests
are taken one at a time, and a witness that lost what it cosigned last does not start.

    witness = Witness.open(home, identity)
    witness.add(body)        # an Answer
"""

import asyncio
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPStatus

import structlog

from hanse import cosigning, merkle, transparency
from hanse.client.identity import Identity, passphrase
from hanse.cosigning import Request, WitnessKey
from hanse.errors import BadSignature, BrokenChain, Conflict, HanseError, HomeUnusable, InvalidInput, WrongContent
from hanse.evidence import checkpoint as notes
from hanse.evidence.checkpoint import Checkpoint
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.merkle import EMPTY_ROOT
from hanse.model.address import Address
from hanse.rpc.http import Answer, Asked, Server
from hanse.signing import SigningKey

KEY = "keys/witness.pem"
STATE = "witness.note"
PATH = "/add-checkpoint"
_SIZE = "text/x.tlog.size"
_REWRITE = 60  # seconds after which the date of an unchanged log is kept anew: for `hanse status`
_START_SECONDS = 10.0
log = structlog.get_logger("hanse.witness")


@dataclass(frozen=True, slots=True)
class Witnessed:
    """What `hanse status` tells: the key that others need, and what was cosigned last. ``at`` is None before that."""

    key: WitnessKey
    size: int
    at: int | None


class Witness:
    """Safe to share between threads; the home's lock keeps other processes out."""

    def __init__(
        self, home: Home, identity: Identity, key: SigningKey, note: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._path = home / STATE
        self._authority = identity.authority
        self._origin = transparency.origin(identity.authority)
        self._key = key
        self.key = WitnessKey(cosigning.name_of(identity.prefix), key.public)
        self._clock = clock
        self._lock = threading.Lock()
        self._last, self._at = _read(note, self._origin, self.key, str(self._path))

    @classmethod
    def open(cls, home: Home, identity: Identity, clock: Callable[[], float] = time.time) -> "Witness":
        """Makes its key the first time. Raises HomeUnusable."""
        if not (home / KEY).exists():
            # First that nothing was cosigned, then the key: a key without the other has lost it.
            write_durably(home / STATE, b"")
            home.write_secret(KEY, SigningKey.generate().to_pem(passphrase()))
        key = SigningKey.from_pem(home.read_secret(KEY), passphrase())
        return cls(home, identity, key, _kept(home), clock)

    def told(self) -> Witnessed:
        return Witnessed(self.key, self._last.size, self._at)

    def add(self, body: bytes) -> Answer:
        """What POST /add-checkpoint is answered."""
        try:
            request = Request.parse(body)
            offered, _ = notes.parse(request.note)
        except (InvalidInput, WrongContent) as error:
            return _refusal(HTTPStatus.BAD_REQUEST, error)
        if offered.origin != self._origin:
            return _refusal(HTTPStatus.NOT_FOUND, InvalidInput("this witness does not know a log of that name"))
        try:
            notes.read(request.note, self._origin, [self._authority.registry_key])
        except BadSignature as error:
            return _refusal(HTTPStatus.FORBIDDEN, error)
        if request.old > offered.size:
            return _refusal(HTTPStatus.BAD_REQUEST, InvalidInput("the old size is above the checkpoint's"))
        with self._lock:
            try:
                return self._decide(request, offered)
            except HanseError as error:  # of the disk
                log.error("witness.failed", error=str(error))
                return _refusal(HTTPStatus.INTERNAL_SERVER_ERROR, InvalidInput("this witness cannot write"))

    def _decide(self, request: Request, offered: Checkpoint) -> Answer:
        last = self._last
        if request.old != last.size or (offered.size == last.size and offered.root != last.root):
            if offered.size == last.size and offered.root != last.root:
                log.error("witness.fork", size=offered.size, note=request.note)
            return Answer(HTTPStatus.CONFLICT, f"{last.size}\n".encode(), _SIZE)
        try:
            _continues(last, offered, request.proof)
        except BrokenChain as error:
            # It is signed by the registry, and may show that it lies.
            log.error("witness.refused", last=last.size, size=offered.size, note=request.note)
            return _refusal(HTTPStatus.UNPROCESSABLE_ENTITY, error)
        now = int(self._clock())
        line = cosigning.sign(offered, self.key.name, self._key, now)
        if offered != last or self._at is None or not 0 <= now - self._at < _REWRITE:
            note = notes.parse(request.note)[0].text + "\n" + line
            write_durably(self._path, note.encode())
            self._last, self._at = offered, now
        return Answer(HTTPStatus.OK, line.encode(), "text/plain; charset=utf-8")


def witnessed(home: Home, identity: Identity) -> Witnessed | None:
    """Of a home that was a witness once, whether it runs or not. Raises HomeUnusable."""
    if not (home / KEY).exists():
        return None
    key = SigningKey.from_pem(home.read_secret(KEY), passphrase())
    return Witness(home, identity, key, _kept(home)).told()


def serve(witness: Witness, address: Address) -> tuple[Address, Callable[[], None]]:
    """Listens in a thread of its own: where, and what ends it. Raises Conflict."""
    loop = asyncio.new_event_loop()

    async def answer(asked: Asked) -> Answer:
        if asked.path != PATH:
            return Answer(HTTPStatus.NOT_FOUND)
        if asked.method != "POST":
            return Answer(HTTPStatus.METHOD_NOT_ALLOWED, allow="POST")
        return await asyncio.to_thread(witness.add, asked.body)

    server = Server(answer, what="a witness", most=cosigning.REQUEST_BYTES)

    def run() -> None:
        asyncio.set_event_loop(loop)
        loop.run_forever()
        loop.run_until_complete(loop.shutdown_default_executor())
        loop.close()

    thread = threading.Thread(target=run, name="witness", daemon=True)
    thread.start()

    def end() -> None:
        asyncio.run_coroutine_threadsafe(server.stop(), loop).result(_START_SECONDS)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(_START_SECONDS)

    try:
        bound = asyncio.run_coroutine_threadsafe(server.start(address), loop).result(_START_SECONDS)
    except Conflict:
        end()
        raise
    log.info("witness.listening", address=str(bound), key=str(witness.key), size=witness.told().size)
    return bound, end


def _kept(home: Home) -> str:
    path = home / STATE
    with storage_errors(str(path)):
        try:
            return path.read_text()
        except (FileNotFoundError, UnicodeDecodeError):
            raise HomeUnusable(_lost(str(path), "missing or damaged")) from None


def _read(note: str, origin: str, key: WitnessKey, path: str) -> tuple[Checkpoint, int | None]:
    if not note:
        return Checkpoint(origin, 0, EMPTY_ROOT), None
    try:
        last, _ = notes.parse(note)
        at = cosigning.dates(note, (key,))[key]
    except (WrongContent, BadSignature, KeyError):
        raise HomeUnusable(_lost(path, "not what this witness's key signed")) from None
    if last.origin != origin:
        raise HomeUnusable(_lost(path, "of another log"))
    return last, at


def _lost(path: str, what: str) -> str:
    return (
        f"{path} is {what}: without it this witness would cosign a second history. If it is lost, delete {KEY} too, "
        "and give the new key to those who had the old one"
    )


def _continues(last: Checkpoint, offered: Checkpoint, proof: tuple[bytes, ...]) -> None:
    """Raises BrokenChain."""
    if last.size in (0, offered.size):
        if proof:
            raise BrokenChain("there is nothing to prove, and the proof is not empty")
        return
    try:
        merkle.verify_consistency(last.size, last.root, offered.size, offered.root, proof)
    except HanseError:
        raise BrokenChain(f"the proof does not lead from {last.size} entries to {offered.size}") from None


def _refusal(status: HTTPStatus, error: HanseError) -> Answer:
    return Answer(status, f"{error}\n".encode(), "text/plain; charset=utf-8")
