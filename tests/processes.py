"""Real daemons and commands for tests: start, kill, restart, and read what they left.

    with League(tmp_path) as league:
        north = league.join("86.north", serve=True)
        added = north.json("add", "visits.csv", "--open")
        league.registry.kill(); league.registry.start()

Every process writes to files under the league's folder, so that what it said is there however it ended. The first of
each command has an interpreter of its own; the others are forked from one that has imported all (tests.forking).
"""

import contextlib
import json
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tests.forking import Forked, fork

ROOT = Path(__file__).resolve().parent.parent
# How long something that happens is waited for before the test fails. None of them is a promise about speed: a machine
# that does much else at the same time takes its time.
START_TIMEOUT = 90.0
COMMAND_TIMEOUT = 120.0
END_TIMEOUT = 90.0


# Below what the system gives to connections and to port 0, and below what the product picks: while a daemon that has to
# come back on its port is down, nobody gets that. Each of several workers of pytest has a part of its own.
_PORTS_EACH = 1_000
_FIRST_PORT = 10_000 + _PORTS_EACH * (int(os.environ.get("PYTEST_XDIST_WORKER", "gw0")[2:]) % 9)
_ports = iter(random.sample(range(_FIRST_PORT, _FIRST_PORT + _PORTS_EACH), _PORTS_EACH))


def free_port() -> int:
    """A port that nobody has, and that is given to nobody else: for a daemon that must come back on the same one."""
    for port in _ports:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("there are no more ports for tests")


def environment(**more: str) -> dict[str, str]:
    """That of a user, without anything of this machine's user in it."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("HANSE_", "_HANSE"))}
    kept["PYTHONPATH"] = os.pathsep.join(filter(None, [str(ROOT), kept.get("PYTHONPATH")]))
    return kept | more


_READ_AT_START = ("PYTHON", "LD_", "LC_", "LANG", "OPENSSL", "FAKETIME")
_AT_START = {name: value for name, value in environment().items() if name.startswith(_READ_AT_START)}
_begun: set[tuple[str, ...]] = set()


def begin(
    argv: Sequence[str], stdout: int, stderr: int, env: dict[str, str], *, daemon: bool = False
) -> "subprocess.Popen[bytes] | Forked":
    """``python -m MODULE COMMAND ...``: a fork, unless it is the first COMMAND or needs its own interpreter."""
    _, option, module, *arguments = argv
    command = (module, *arguments[:1])
    alike = {name: value for name, value in env.items() if name.startswith(_READ_AT_START)} == _AT_START
    if option == "-m" and alike and command in _begun and "HANSE_TESTS_EXEC" not in os.environ:
        return fork(module, arguments, stdout=stdout, stderr=stderr, env=env, cwd=ROOT, daemon=daemon)
    _begun.add(command)
    return subprocess.Popen(
        argv, stdout=stdout, stderr=stderr, stdin=subprocess.DEVNULL, env=env, cwd=ROOT, start_new_session=daemon
    )


def until(condition: Callable[[], Any], what: str, timeout: float = START_TIMEOUT) -> Any:
    """Polls until the condition gives something true, and returns it; fails with ``what`` after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while True:
        found = condition()
        if found:
            return found
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:.0f} s for {what}")
        time.sleep(0.02)


@dataclass(frozen=True)
class Result:
    """How a command ended. ``code`` is negative when a signal ended it."""

    argv: tuple[str, ...]
    code: int
    stdout: str
    stderr: str

    @property
    def json(self) -> Any:
        """The one document on stdout."""
        return json.loads(self.stdout)

    @property
    def lines(self) -> list[Any]:
        """The documents on stdout, one a line."""
        return [json.loads(line) for line in self.stdout.splitlines() if line]

    def __str__(self) -> str:
        return f"$ {' '.join(self.argv)}\nexit code {self.code}\n--- stdout\n{self.stdout}\n--- stderr\n{self.stderr}"


def run(module: str, *arguments: object, timeout: float = COMMAND_TIMEOUT, **env: str) -> Result:
    """One command to its end: ``run("node.cli", "list", "--home", home)``."""
    argv = (sys.executable, "-m", module, *map(str, arguments))
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        process = begin(argv, out.fileno(), err.fileno(), environment(**env))
        try:
            code = process.wait(timeout)
        except BaseException:
            process.kill()
            process.wait()
            raise
        said = [os.pread(each.fileno(), os.fstat(each.fileno()).st_size, 0) for each in (out, err)]
    return Result(argv, code, *(each.decode(errors="replace") for each in said))


class Process:
    """A daemon, or a command that is to be interrupted. ``start`` may be called again after it ended."""

    def __init__(self, name: str, logs: Path, module: str, *arguments: object, **env: str) -> None:
        self.name, self._logs, self._env = name, logs, env
        self._argv = (sys.executable, "-m", module, *map(str, arguments))
        self._popen: subprocess.Popen[bytes] | Forked | None = None
        self._run = 0
        logs.mkdir(parents=True, exist_ok=True)

    @property
    def pid(self) -> int:
        assert self._popen is not None
        return self._popen.pid

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def stdout(self) -> str:
        """What this run wrote so far."""
        return self._text("stdout", self._run)

    @property
    def stderr(self) -> str:
        return self._text("stderr", self._run)

    @property
    def everything(self) -> str:
        """What every run wrote to either."""
        return "".join(self._text(kind, each) for each in range(1, self._run + 1) for kind in ("stdout", "stderr"))

    @property
    def address(self) -> str:
        """HOST:PORT of the 'listening on' line."""
        for line in self.stdout.splitlines():
            if "listening on " in line:
                return line.split("listening on ", 1)[1].split()[0]
        raise AssertionError(f"{self.name} is not listening yet")

    def start(self, *, wait: bool = True) -> "Process":
        """Starts it; with ``wait``, returns when it says where it listens."""
        assert not self.running, f"{self.name} is running"
        self._run += 1
        with self._path("stdout", self._run).open("wb") as out, self._path("stderr", self._run).open("wb") as err:
            self._popen = begin(self._argv, out.fileno(), err.fileno(), environment(**self._env), daemon=True)
        if wait:
            until(lambda: "listening on " in self.stdout or not self.running, f"{self.name} to listen\n{self.stderr}")
            assert self.running, f"{self.name} ended with {self.code} at its start:\n{self.everything}"
        return self

    @property
    def code(self) -> int | None:
        return None if self._popen is None else self._popen.poll()

    def send(self, number: signal.Signals) -> None:
        """A signal to the process alone."""
        assert self._popen is not None
        self._popen.send_signal(number)

    def wait(self, timeout: float = COMMAND_TIMEOUT) -> int:
        """Its exit code."""
        assert self._popen is not None
        return self._popen.wait(timeout)

    def terminate(self, timeout: float = END_TIMEOUT) -> int:
        """Asks it to end (SIGTERM); its exit code."""
        self.send(signal.SIGTERM)
        return self.wait(timeout)

    def kill(self) -> None:
        """As a power cut would, with everything it started."""
        if self._popen is None:
            return
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._popen.pid, signal.SIGKILL)
        self._popen.wait(END_TIMEOUT)

    def restart(self) -> "Process":
        """Kill, start."""
        self.kill()
        return self.start()

    def _path(self, kind: str, number: int) -> Path:
        return self._logs / f"{self.name}.{number}.{kind}"

    def _text(self, kind: str, number: int) -> str:
        path = self._path(kind, number)
        return path.read_text(errors="replace") if path.exists() else ""


class Registry:
    """A registry with a port of its own, the same one after each start."""

    def __init__(self, folder: Path, logs: Path, root: str = "86", **env: str) -> None:
        self.home = folder
        address = f"127.0.0.1:{free_port()}"
        self.command(
            "init", "--name", "Test League", "--root", root, "--listen", address, "--advertise", address
        )  # fmt: skip
        self.process = Process("registry", logs, "registry.cli", "serve", "--home", folder, **env)

    def start(self) -> None:
        self.process.start()

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        self.process.restart()

    def command(self, *arguments: object, expect: int | None = 0) -> Result:
        """``hanse-registry``, on this home."""
        result = run("registry.cli", *arguments, "--home", self.home)
        assert expect is None or result.code == expect, str(result)
        return result

    def invite(self, prefix: str, *more: object) -> str:
        """The invitation's text."""
        return self.command("invite", prefix, *more).stdout.strip()


class Node:
    """An organization: its home, its daemon (``node.process``) and its commands."""

    def __init__(self, prefix: str, folder: Path, logs: Path, **env: str) -> None:
        self.prefix, self.home, self._env = prefix, folder, env
        self.process = Process(prefix, logs, "node.cli", "serve", "--home", folder, **env)

    def start(self) -> "Node":
        self.process.start()
        return self

    def kill(self) -> None:
        self.process.kill()

    def restart(self) -> None:
        self.process.restart()

    def command(self, *arguments: object, expect: int | None = 0, timeout: float = COMMAND_TIMEOUT) -> Result:
        """``hanse`` on this home; fails unless it ends with ``expect`` (None: however it likes)."""
        result = run("node.cli", *arguments, "--home", self.home, timeout=timeout, **self._env)
        assert expect is None or result.code == expect, str(result)
        assert "Traceback" not in result.stderr, str(result)
        return result

    def json(self, *arguments: object) -> Any:
        """The one document that a command prints with --json."""
        return self.command(*arguments, "--json").json

    def lines(self, *arguments: object) -> list[Any]:
        """The documents that a command prints with --json, one a line."""
        return self.command(*arguments, "--json").lines

    def begin(self, name: str, *arguments: object) -> Process:
        """A command that is left running: to be interrupted."""
        process = Process(
            f"{self.prefix}.{name}", self.process._logs, "node.cli", *arguments, "--home", self.home, **self._env
        )
        return process.start(wait=False)

    def published(self, timeout: float = START_TIMEOUT) -> None:
        """Returns when nothing waits to be published."""
        until(lambda: self.json("status")["waiting"] == 0, f"{self.prefix} to publish", timeout)


class League:
    """A registry and its members, gone when the ``with`` ends."""

    def __init__(self, folder: Path, root: str = "86") -> None:
        self.folder, self.logs = folder, folder / "logs"
        self.registry = Registry(folder / "registry", self.logs, root)
        self.nodes: dict[str, Node] = {}

    def join(self, prefix: str, *, serve: bool = True, **env: str) -> Node:
        """Invites, joins and (with ``serve``) starts an organization."""
        node = Node(prefix, self.folder / prefix, self.logs, **env)
        node.command("join", self.registry.invite(prefix), "--listen", "127.0.0.1:0")
        self.nodes[prefix] = node
        return node.start() if serve else node

    def __enter__(self) -> "League":
        self.registry.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in (*self.nodes.values(), self.registry):
            each.kill()


@contextlib.contextmanager
def league(folder: Path, *prefixes: str) -> Iterator[League]:
    """A league whose members all serve."""
    with League(folder) as made:
        for prefix in prefixes:
            made.join(prefix)
        yield made
