"""One registry as several processes of this machine: a supervisor, and workers that share its address.

The supervisor serves nobody. It holds the port, so that a taken one is noticed and stays ours, starts the workers,
starts one anew that died, and ends them. Each worker is a whole registry without a state of its own: what it knows is
in the store. The kernel deals the connections out (SO_REUSEPORT).

The rules it keeps: no worker outlives its supervisor. Each reads a pipe that only the supervisor can write to, and
ends at once when it closes. And none stands still for long: each writes a line a second while it gets anywhere
(registry.progress); the supervisor counts its own seconds without one, not the clock's, so that a machine that was
suspended has nobody killed.

    with held(address):
        asyncio.run(supervise(Plan(folder, 2, address, None, debug=False), ready, threading.Event()))

A worker is ``python -m registry.workers``; what it is to do is its argument, in JSON.
"""

import asyncio
import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from asyncio.subprocess import Process
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import structlog

from hanse.errors import BY_REASON, Conflict, HanseError
from hanse.model.address import Address
from registry.progress import BEAT

_log = structlog.get_logger()

_AGAIN, _AGAIN_MOST = 0.1, 10.0  # seconds before a worker is started anew; twice as long each time
_STEADY = 30.0  # seconds after which one that dies counts as having been well
_ENDING = 30.0  # seconds that workers get to end in
SILENCE = 30  # beats that may be missing: a machine that has too much to do is not made to start processes too
_SIGN = b"\n"


@dataclass(frozen=True)
class Plan:
    """What is to be served. Addresses have their ports: 0 was resolved before. ``tiles`` None: no such listener.

    A worker that was silent for more than ``silence`` beats is killed.
    """

    folder: Path
    workers: int
    address: Address
    tiles: Address | None
    debug: bool
    silence: int = SILENCE

    def argument(self, number: int) -> str:
        """Of worker ``number``, from 0 on."""
        return json.dumps(
            {
                "folder": str(self.folder),
                "number": number,
                "address": str(self.address),
                "tiles": str(self.tiles) if self.tiles else "",
                "debug": self.debug,
                # A worker may be of a newer version than its supervisor, or an older one.
                "beats": True,
            }
        )


@dataclass(frozen=True)
class Place:
    """Which of the workers this process is, and what all of them listen on."""

    number: int
    address: Address
    tiles: Address | None


@contextlib.contextmanager
def held(address: Address) -> Iterator[None]:
    """Keeps the port for those who share it. Raises Conflict when somebody has it, another registry of ours too."""
    with contextlib.ExitStack() as stack:
        for share in (False, True):
            # First alone, which fails whoever listens there; then as one of those to come. It never listens.
            try:
                found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
                holder = socket.socket(found[0][0])
                if share:
                    stack.enter_context(holder)
                    holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
                holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                with contextlib.nullcontext() if share else holder:
                    holder.bind(found[0][4])
            except OSError as error:
                raise Conflict(f"{address} cannot be listened on: {error.strerror}") from None
        yield


async def supervise(plan: Plan, ready: Callable[[], None], stop: threading.Event) -> None:
    """Until SIGTERM, SIGINT or ``stop``. Raises what a worker raised that did not come up at the first start."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        with contextlib.suppress(ValueError, RuntimeError):  # not in the main thread: whoever started it ends it
            loop.add_signal_handler(each, ended.set)
    workers = [_Worker(plan, number, ended) for number in range(plan.workers)]
    tasks = [asyncio.create_task(each.keep()) for each in workers]
    up = asyncio.create_task(_all_up(workers))
    over = asyncio.create_task(_over(stop, ended))
    listening = asyncio.create_task(_listen(workers))
    try:
        await asyncio.wait([up, over, *tasks], return_when=asyncio.FIRST_COMPLETED)
        if up.done():
            _log.info("serve.started", address=str(plan.address), workers=plan.workers, home=str(plan.folder))
            ready()
            await asyncio.wait([over, *tasks], return_when=asyncio.FIRST_COMPLETED)
    finally:
        ended.set()
        _log.info("serve.ending")
        up.cancel()
        over.cancel()
        listening.cancel()
        for number in (signal.SIGTERM, signal.SIGKILL):
            for worker in workers:
                worker.send(number)
            await asyncio.wait(tasks, timeout=_ENDING)
        _log.info("serve.ended")
    for task in tasks:
        task.result()


async def _all_up(workers: "list[_Worker]") -> None:
    for each in workers:
        await each.came_up.wait()


async def _listen(workers: "list[_Worker]") -> None:
    while True:
        await asyncio.sleep(BEAT)
        for each in workers:
            each.listen()


async def _over(stop: threading.Event, ended: asyncio.Event) -> None:
    while not (stop.is_set() or ended.is_set()):
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(ended.wait(), 0.2)


class _Worker:
    """One place, and the process that has it at the time."""

    def __init__(self, plan: Plan, number: int, ended: asyncio.Event) -> None:
        self.came_up = asyncio.Event()
        self._plan, self._number, self._ended = plan, number, ended
        self._process: Process | None = None
        self._silent: int | None = None  # beats since its last sign; None before its first, at which it serves

    async def keep(self) -> None:
        """Starts it, and starts it again. Raises why it did not come up, if it never did."""
        pause = _AGAIN
        while not self._ended.is_set():
            began = time.monotonic()
            told = await self._run()
            if self._ended.is_set():
                break
            if not self.came_up.is_set():
                raise told or HanseError(f"a worker ended at its start, with {self._code}")
            pause = _AGAIN if time.monotonic() - began > _STEADY else min(2 * pause, _AGAIN_MOST)
            _log.error(
                "worker.died",
                worker=self._number,
                code=self._code,
                again_in=pause,
                **({"reason": told.reason, "text": str(told)} if told else {}),
            )
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._ended.wait(), pause)

    @property
    def _code(self) -> str:
        code = self._process.returncode if self._process else None
        return signal.Signals(-code).name if code is not None and code < 0 else f"exit code {code}"

    async def _run(self) -> HanseError | None:
        """From its start to its end; the error that it told of."""
        program = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [program, os.environ.get("PYTHONPATH")]))
        self._process = process = await asyncio.create_subprocess_exec(
            sys.executable, "-P", "-m", "registry.workers", self._plan.argument(self._number),
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=os.environ | {"PYTHONPATH": path},
        )  # fmt: skip
        if self._ended.is_set():
            self.send(signal.SIGTERM)
        told: HanseError | None = None
        assert process.stdout is not None  # noqa: S101 - it is a pipe
        while line := await process.stdout.readline():
            if line == _SIGN:
                self.heard()
                continue
            said = json.loads(line)
            if "reason" in said:
                told = BY_REASON.get(said["reason"], HanseError)(said["text"])
            else:
                self.came_up.set()
                _log.info("worker.started", worker=self._number, process=process.pid)
        self._silent = None
        await process.wait()
        return told

    def heard(self) -> None:
        """A sign of life came."""
        self._silent = 0

    def listen(self) -> None:
        """To be called once a beat: kills one that was silent for too long."""
        if self._silent is None:
            return
        self._silent += 1
        if self._silent > self._plan.silence:
            self._silent = None
            self._kill(f"it lives and gets nowhere, for {self._plan.silence} s: killed, another takes its place")

    def send(self, number: signal.Signals) -> None:
        """To the process, if there is one."""
        if self._process is not None and self._process.returncode is None:
            if number == signal.SIGKILL:
                self._kill("it does not end: killed")
                return
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(number)

    def _kill(self, why: str) -> None:
        assert self._process is not None  # noqa: S101 - it was started
        _log.error("worker.hangs", worker=self._number, process=self._process.pid, text=why)
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGKILL)


def main(argument: str) -> int:
    """A worker's life; its exit code."""
    from registry import app
    from registry.observe import start_log

    wanted = json.loads(argument)
    threading.Thread(target=_end_with_supervisor, name="supervisor", daemon=True).start()
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if wanted["debug"] else "NONE")
    start_log(debug=wanted["debug"], worker=wanted["number"])
    tiles = Address.parse(wanted["tiles"]) if wanted["tiles"] else None
    place = Place(wanted["number"], Address.parse(wanted["address"]), tiles)
    try:
        app.serve_place(
            Path(wanted["folder"]), place, lambda: _tell({}), _give_sign if wanted.get("beats") else lambda: None
        )
    except HanseError as error:
        _tell({"reason": error.reason, "text": str(error)})
        return error.exit_code
    return 0


def _tell(what: dict[str, str]) -> None:
    print(json.dumps(what), flush=True)  # noqa: T201 - the supervisor reads it


def _give_sign() -> None:
    # A supervisor that does not read must not stop us.
    if select.select((), (1,), (), 0)[1]:
        with contextlib.suppress(BrokenPipeError):  # it is gone: another thread ends us
            os.write(1, _SIGN)


def _end_with_supervisor() -> None:
    while os.read(0, 1):
        pass
    # As kill -9 would: what was acknowledged is stored, and the port is needed for whoever comes next.
    os._exit(1)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
