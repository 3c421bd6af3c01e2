"""Gathers witnesses' cosignatures onto the registry's checkpoints. SPEC.md section 24.2.

What it is not: in anybody's way. Publishing, resolving and the tiles never wait for a witness; one that is slow or
down has a task and a back-off of its own, is logged when it fails and when it is back, and is told by ``status``.
Every process that serves gathers for itself: what one has is of no use to another a moment later.
Source: https://c2sp.org/tlog-witness

    task = asyncio.create_task(Witnesses(config.witnesses, log).run())
"""

import asyncio
import contextlib
import time
from dataclasses import dataclass, field

import structlog

from hanse import cosigning
from hanse.cosigning import Request, WitnessKey
from hanse.errors import BrokenChain, Conflict, HanseError, InvalidInput, Unreachable
from hanse.evidence.checkpoint import Checkpoint
from hanse.rpc.http import Url, call
from registry.log import Log

_log = structlog.get_logger()

_APART = 0.5  # seconds between two questions to one witness
_AGAIN = 30.0  # seconds after which an unchanged log is cosigned anew: clients want a date of the last minutes
_BACK_OFF = (0.5, 1.0, 2.0, 4.0, 8.0, 15.0)  # seconds after the first failure, the second, …
_TIMEOUT = 10.0
_LOOK_TIMEOUT = 3.0
_ANSWER_BYTES = 16 * 1024
_ATTEMPTS = 4  # to agree with a witness on what it knows, while others tell it more


@dataclass(frozen=True, slots=True)
class Witness:
    """One line of the setting: whose cosignatures are taken, and where to ask for them."""

    key: WitnessKey
    url: Url

    @classmethod
    def parse(cls, text: str) -> "Witness":
        """``KEY URL``. Raises InvalidInput."""
        key, _, url = text.strip().partition(" ")
        if not url:
            raise InvalidInput("a witness is its key, a space and its URL")
        return cls(WitnessKey.parse(key), Url.parse(url))


@dataclass(slots=True)
class State:
    """What is known of a witness: how much it cosigned, and when (Unix seconds); ``problem`` is empty if it answers."""

    witness: Witness
    size: int = 0
    at: int | None = None
    problem: str = ""
    failures: int = 0
    not_before: float = 0.0
    again_at: float = 0.0
    task: "asyncio.Task[None] | None" = field(default=None, repr=False)

    @property
    def name(self) -> str:
        return self.witness.key.name

    def wait(self, size: int, now: float) -> float | None:
        """Seconds until it is to be asked about a log of this size; None while it is being asked."""
        if self.task is not None:
            return None
        due = self.not_before if self.problem or size > self.size else max(self.not_before, self.again_at)
        return max(0.0, due - now)


class Witnesses:
    """For one event loop, the log's."""

    def __init__(self, witnesses: tuple[Witness, ...], log: Log) -> None:
        self._log = log
        self.states = tuple(State(each) for each in witnesses)

    async def run(self) -> None:
        """Until it is cancelled."""
        try:
            while self.states:
                self._log.grown.clear()
                try:
                    wait = self._begin((await self._log.read(self._log.head)).size)
                except HanseError as error:  # of the storage: whoever serves says so too
                    _log.error("witnesses.failed", reason=error.reason, text=str(error))
                    wait = 1.0
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(self._log.grown.wait(), wait)
        finally:
            for each in self.states:
                if each.task is not None:
                    each.task.cancel()

    def _begin(self, size: int) -> float:
        """Asks those that are due about a log of this size; seconds until the next one is, unless it grows."""
        now, wait = time.monotonic(), _AGAIN
        for each in self.states:
            left = each.wait(size, now)
            if left is None:
                continue
            if left > 0:
                wait = min(wait, left)
                continue
            each.task = asyncio.create_task(self._asked(each))
        return wait

    async def _asked(self, state: State) -> None:
        state.not_before = time.monotonic() + _APART
        try:
            await ask(state, self._log)
        except HanseError as error:
            self._failed(state, error)
        except Exception as error:  # noqa: BLE001 - one that answers what we did not think of stops nobody else
            self._failed(state, Unreachable(f"{state.witness.url}: {type(error).__name__}"))
        else:
            if state.problem:
                _log.info("witness.back", witness=state.name, size=state.size)
            state.problem, state.failures, state.again_at = "", 0, time.monotonic() + _AGAIN
        finally:
            state.task = None
            self._log.grown.set()

    def _failed(self, state: State, error: HanseError) -> None:
        if not state.problem:
            _log.warning("witness.away", witness=state.name, reason=error.reason, text=str(error))
        state.problem = str(error)
        state.not_before = time.monotonic() + _BACK_OFF[min(state.failures, len(_BACK_OFF) - 1)]
        state.failures += 1


async def ask(state: State, log: Log, timeout: float = _TIMEOUT) -> None:
    """Has the newest checkpoint cosigned. Raises Unreachable, Conflict, BrokenChain, BadSignature, WrongContent."""
    witness, size = state.witness, state.size
    for _ in range(_ATTEMPTS):
        checkpoint, note = await log.read(log.to_cosign, size)
        if checkpoint.size < size:
            raise BrokenChain(
                f"{state.name} has cosigned {size:,} entries, and there are {checkpoint.size:,} now: this registry was "
                "restored from an old backup, or is not the one that the witness knows"
            )
        proof = await log.read(log.consistency, size, checkpoint.size) if 0 < size < checkpoint.size else ()
        body = Request(size, proof, note).encode()
        status, answer = await call(witness.url, "/add-checkpoint", body, most=_ANSWER_BYTES, timeout=timeout)
        if status == 200:
            line, state.at = cosigning.read_answer(answer, checkpoint, witness.key)
            state.size = checkpoint.size
            await log.read(log.cosigned, checkpoint, state.name, line)
            return
        if status != 409:
            raise _refused(state.name, status, checkpoint)
        told = _size(answer)
        if told == size:
            raise BrokenChain(f"{state.name} has cosigned another log of {size:,} entries, and refuses this one")
        if state.at is not None and told < state.size:
            _log.warning("witness.went_back", witness=state.name, before=state.size, now=told)
        size = told
    raise Conflict(f"{state.name} is told of other checkpoints at the same time")


def look(witnesses: tuple[Witness, ...], log: Log) -> tuple[State, ...]:
    """Asks each once, for an operator who waits. The witnesses' own state is what is told, whoever else asks them."""

    async def each(state: State) -> None:
        try:
            await ask(state, log, _LOOK_TIMEOUT)
        except HanseError as error:
            state.problem = str(error)

    async def all_of_them() -> None:
        await asyncio.gather(*map(each, states))

    states = tuple(State(each) for each in witnesses)
    asyncio.run(all_of_them())
    return states


def _refused(name: str, status: int, checkpoint: Checkpoint) -> HanseError:
    match status:
        case 404:
            return Conflict(f"{name} does not know this log, {checkpoint.origin}: is it a member of this league?")
        case 403:
            return Conflict(f"{name} knows this log by another key")
        case 422:
            return BrokenChain(f"{name} has cosigned another history of this log, and refuses this one")
    return Unreachable(f"{name} answers with status {status}")


def _size(answer: bytes) -> int:
    text = answer.strip().decode("latin-1")
    if not text.isascii() or not text.isdecimal() or len(text) > 19:
        raise Conflict("a witness knows another size of the log, and does not say which")
    return int(text)
