"""Processes that need not import everything again: forked from one that has imported Hanse and done nothing else.

    child = fork("node.cli", ("list", "--home", home), stdout=file, stderr=file, env=environment(), cwd=ROOT)
    child.wait(60)

A command of ``hanse`` spends most of its time on imports, and the tests start thousands. A forked process is real: it
has its own memory, files, environment, session and end, and is killed as any other. What it does not show is that a
fresh interpreter finds all it imports, nor how one is torn down; hence tests.processes starts the first of each command
with a new one, and all of them where HANSE_TESTS_EXEC is set.
"""

import array
import atexit
import contextlib
import ctypes
import gc
import importlib
import json
import os
import pkgutil
import runpy
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MOST = 1 << 17
"""Bytes of one order."""


class Forked:
    """What subprocess.Popen would be, as far as tests.processes uses it."""

    def __init__(self, argv: Sequence[str], pid: int, told: socket.socket) -> None:
        self.args, self.pid, self._told = argv, pid, told
        self.returncode: int | None = None
        self._lock = threading.Lock()

    def poll(self) -> int | None:
        return self._ask(0)

    def wait(self, timeout: float | None = None) -> int:
        code = self._ask(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return code

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _ask(self, timeout: float | None) -> int | None:
        if self.returncode is None and select.select((self._told,), (), (), timeout)[0]:
            with self._lock:
                if self.returncode is None:
                    self.returncode = int(self._told.recv(64) or b"-9")
        return self.returncode


class _Nursery:
    """The process that all others are forked from, and the socket on which it takes orders."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._orders: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    def fork(self, order: Mapping[str, Any], files: Sequence[int]) -> tuple[int, socket.socket]:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs, self._lock:
            if self._orders is None:
                self._orders = self._begin()
            passed = array.array("i", [*files, theirs.fileno()])
            self._orders.sendmsg([json.dumps(order).encode()], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, passed)])
        pid = ours.recv(64)
        assert pid, "the process that forks others is gone"
        return int(pid), ours

    def _begin(self) -> socket.socket:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * MOST)
        with theirs:
            self._process = subprocess.Popen(
                (sys.executable, "-c", f"from tests.forking import serve; serve({theirs.fileno()})"),
                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, cwd=ROOT, start_new_session=True,
                pass_fds=(theirs.fileno(),), env=os.environ | {"PYTHONPATH": str(ROOT)},
            )  # fmt: skip
        atexit.register(self._end, ours, self._process)
        return ours

    @staticmethod
    def _end(orders: socket.socket, process: "subprocess.Popen[bytes]") -> None:
        orders.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(5)


_NURSERY = _Nursery()


def fork(
    module: str,
    arguments: Sequence[str],
    *,
    stdout: int,
    stderr: int,
    env: Mapping[str, str],
    cwd: Path,
    daemon: bool = False,
    traced: bool = False,
) -> Forked:
    """``python -m module arguments`` with nothing to read, as a fork of what has imported it.

    A daemon has a session of its own, and is ended as Python ends; a command is not torn down once it has said all.
    ``traced``: it begins when a tracer has attached itself.
    """
    argv = (sys.executable, "-m", module, *arguments)
    order = {
        "module": module,
        "arguments": arguments,
        "env": dict(env),
        "cwd": str(cwd),
        "whole": daemon,
        "traced": traced,
    }
    return Forked(argv, *_NURSERY.fork(order, (stdout, stderr)))


def serve(orders: int) -> None:
    """The nursery's life: ends when nobody can give orders any more. In a child, it runs what was ordered."""
    with socket.socket(fileno=orders) as taken:
        ordered = _until_ordered(taken)
    if ordered is not None:
        _become(**ordered)


def _until_ordered(orders: socket.socket) -> dict[str, Any] | None:
    import hanse
    import node
    import registry

    for package in (hanse, node, registry):
        for found in pkgutil.walk_packages(package.__path__, package.__name__ + "."):
            if not found.name.endswith("__main__"):
                importlib.import_module(found.name)
    gc.collect()
    gc.freeze()  # a collection in a child would copy every page
    assert len(os.listdir("/proc/self/task")) == 1, "a process with threads must not be forked"
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    woken, wake = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    signal.set_wakeup_fd(wake, warn_on_full_buffer=False)
    children: dict[int, socket.socket] = {}
    while True:
        ready = select.select((orders, woken), (), ())[0]
        if woken in ready:
            os.read(woken, 4096)
            _tell_ended(children)
        if orders not in ready:
            continue
        data, passed, _, _ = orders.recvmsg(MOST, socket.CMSG_SPACE(3 * 4))
        if not data:
            return None
        files = array.array("i")
        files.frombytes(passed[0][2])
        order = json.loads(data)
        child = os.fork()
        if child == 0:
            _leave(files, session=order["whole"])
            os.closerange(3, max(woken, wake, *files, *(each.detach() for each in (orders, *children.values()))) + 1)
            return dict(order)
        os.close(files[0])
        os.close(files[1])
        children[child] = socket.socket(fileno=files[2])


def _tell_ended(children: dict[int, socket.socket]) -> None:
    while children:
        child, status = os.waitpid(-1, os.WNOHANG)
        if not child:
            return
        with children.pop(child) as told, contextlib.suppress(OSError):
            told.send(str(os.waitstatus_to_exitcode(status)).encode())


def _leave(files: Sequence[int], *, session: bool) -> None:
    """Nothing of the nursery's own is kept; only then is it told who this is, since whoever knows may send signals."""
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    out, err, told = files
    os.dup2(out, 1)
    os.dup2(err, 2)
    if session:
        os.setsid()
    with socket.socket(fileno=told) as opened:
        opened.send(str(os.getpid()).encode())


def _become(module: str, arguments: list[str], env: dict[str, str], cwd: str, whole: bool, traced: bool) -> None:
    """``whole``: to the interpreter's own end. Else it ends where everything of Hanse's has: to clear away what was
    imported would first copy all of it.
    """
    from hanse.rpc.environment import prepare

    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    prepare()
    if traced:
        ctypes.CDLL(None).prctl(
            0x59616D61, ctypes.c_ulong(-1), 0, 0, 0
        )  # PR_SET_PTRACER: others than root may trace it
        while "TracerPid:\t0\n" in Path("/proc/self/status").read_text():
            time.sleep(0.001)
    sys.argv = [module, *arguments]
    if module in sys.modules and not hasattr(sys.modules[module], "__path__"):
        del sys.modules[module]  # a module that is run is not there before
    if whole:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
        return
    code = 0
    try:
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    threading._shutdown()  # type: ignore[attr-defined]
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
