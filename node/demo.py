"""A league of three on this machine, start to finish: real processes, real files, the commands that one would type.

What it is not: a simulation. Every daemon is its own process with its own home, every output is what the command wrote.
The rule it keeps: it ends by itself and leaves nothing running, however it ends; it succeeds only if each scene ended
as it should.

    with contextlib.closing(play(Path("/tmp/league"), terminal=False)) as story:
        for event in story:
            print(event)
"""

import contextlib
import os
import pty
import random
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hanse.errors import HanseError, InvalidInput, NoSpace
from hanse.files import storage_errors

MIB = 1 << 20
SCANS_BYTES = 128 * MIB
IMAGE_BYTES = 8 * MIB
NEEDED_BYTES = 700 * MIB  # the sources, two fetched copies, databases, and some
START_TIMEOUT = 30.0  # seconds
COMMAND_TIMEOUT = 120.0
STOP_TIMEOUT = 8.0

NORTH, SOUTH, WEST = "86.north-hospital", "86.south-pharma", "86.west-university"
_NAMES = {NORTH: "North Hospital", SOUTH: "South Pharma", WEST: "West University"}
_PROMPTS = {"registry": "registry", NORTH: "north", SOUTH: "south", WEST: "west"}
_MODULES = {"hanse": "node.cli", "hanse-registry": "registry.cli"}
_LINE_BEGIN = b"\x1b[2K"
_STEERING = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[()][A-Z0-9]")


@dataclass(frozen=True, slots=True)
class Scene:
    """A new part of the story."""

    number: int
    title: str


@dataclass(frozen=True, slots=True)
class Told:
    """What the story-teller says."""

    text: str


@dataclass(frozen=True, slots=True)
class Typed:
    """A command, and in whose shell it is typed."""

    prompt: str
    command: str


@dataclass(frozen=True, slots=True)
class Written:
    """What a command wrote, and how it ended: ``code`` is None for one that goes on running."""

    text: str
    code: int | None


Event = Scene | Told | Typed | Written


def play(folder: Path, *, terminal: bool) -> Iterator[Event]:
    """The story, told in ``folder``, which is empty. With ``terminal``, progress bars are drawn on our own stderr.

    Raises HanseError when a scene does not end as it should. Close the iterator: then nothing is left running.
    """
    with storage_errors(str(folder)):
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise InvalidInput(f"{folder} is not empty: the demonstration needs a folder of its own")
        if shutil.disk_usage(folder).free < NEEDED_BYTES:
            raise NoSpace(f"the demonstration needs {NEEDED_BYTES // MIB} MiB of space in {folder}")
    stage = _Stage(folder, terminal)
    try:
        yield from _story(stage)
    finally:
        stage.close()


class _Stage:
    """The processes and folders of one performance."""

    def __init__(self, folder: Path, terminal: bool) -> None:
        self.folder = folder
        self._terminal = terminal
        self._scene = 0
        self._daemons: list[subprocess.Popen[bytes]] = []

    def home(self, who: str) -> Path:
        return self.folder / _PROMPTS[who] / "home"

    def desk(self, who: str) -> Path:
        """Where somebody types commands."""
        desk = self.folder / _PROMPTS[who]
        desk.mkdir(exist_ok=True)
        return desk

    def scene(self, title: str) -> Scene:
        self._scene += 1
        return Scene(self._scene, title)

    def type(
        self, who: str, *words: str, shown: str | None = None, expect: int = 0, bar: bool = False
    ) -> Iterator[Event]:
        """Types a command in somebody's shell and waits for its end."""
        yield Typed(_PROMPTS[who], shown or shlex.join(words))
        text, code = self._run(who, words, bar)
        yield Written(text, code)
        if code != expect:
            raise HanseError(f"scene {self._scene}: `{words[0]} {words[1]}` ended with {code}, not {expect}")

    def ask(self, who: str, *words: str) -> str:
        """What a command writes on stdout. Nobody sees it typed."""
        done = subprocess.run(
            self._argv(words), capture_output=True, env=self._environment(who), cwd=self.desk(who), check=False,
            timeout=COMMAND_TIMEOUT, stdin=subprocess.DEVNULL,
        )  # fmt: skip
        if done.returncode:
            raise HanseError(f"`{words[0]} {words[1]}` failed: {done.stderr.decode(errors='replace').strip()}")
        return done.stdout.decode()

    def serve(self, who: str, *words: str) -> Iterator[Event]:
        """Starts a daemon, which runs until the end of the story."""
        yield Typed(_PROMPTS[who], f"{shlex.join(words)} &")
        yield Written(self._start(who, words), None)

    def serve_quietly(self, who: str, *words: str) -> None:
        """The same, without a word."""
        self._start(who, words)

    def _start(self, who: str, words: tuple[str, ...]) -> str:
        log = self.desk(who) / "serve.log"
        with log.open("wb") as out, (self.desk(who) / "serve.err").open("wb") as err:
            daemon = subprocess.Popen(
                self._argv(words), stdout=out, stderr=err, stdin=subprocess.DEVNULL, env=self._environment(who),
                cwd=self.desk(who), start_new_session=True,
            )  # fmt: skip
        self._daemons.append(daemon)
        deadline = time.monotonic() + START_TIMEOUT
        while "listening on" not in (said := log.read_text(errors="replace")):
            if daemon.poll() is not None or time.monotonic() > deadline:
                why = (self.desk(who) / "serve.err").read_text(errors="replace").strip().splitlines()[-1:]
                raise HanseError(f"the daemon of {_PROMPTS[who]} did not start: {''.join(why)}")
            time.sleep(0.02)
        return next(line for line in said.splitlines() if "listening on" in line)

    def interrupt_fetch(self, who: str, *words: str, shown: str, after: int) -> Iterator[Event]:
        """Starts a fetch and presses Ctrl-C when about ``after`` bytes have been written."""
        desk = self.desk(who)
        begun = _written(desk)
        process = subprocess.Popen(
            self._argv(words), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL,
            env=self._environment(who), cwd=desk, start_new_session=True,
        )  # fmt: skip
        try:
            deadline = time.monotonic() + COMMAND_TIMEOUT
            while process.poll() is None and _written(desk) - begun < after and time.monotonic() < deadline:
                time.sleep(0.002)
            with contextlib.suppress(ProcessLookupError):
                process.send_signal(signal.SIGINT)
            text = process.communicate(timeout=COMMAND_TIMEOUT)[0].decode(errors="replace")
        finally:
            _end(process, signal.SIGKILL)
            process.wait()
        yield Typed(_PROMPTS[who], shown)
        yield Written(f"^C\n{text.strip()}" if process.returncode else text.strip(), process.returncode)

    def _argv(self, words: tuple[str, ...]) -> list[str]:
        return [sys.executable, "-m", _MODULES[words[0]], *words[1:]]

    def _environment(self, who: str) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("HANSE_", "_HANSE"))}
        # -m looks in the current folder, which is somebody's desk: the program is where this one is.
        program = str(Path(__file__).resolve().parent.parent)
        path = os.pathsep.join(filter(None, [program, kept.get("PYTHONPATH")]))
        return kept | {
            "HANSE_HOME": str(self.home(who)), "PYTHONPATH": path, "PYTHONUNBUFFERED": "1", "GRPC_VERBOSITY": "NONE",
        }  # fmt: skip

    def _run(self, who: str, words: tuple[str, ...], bar: bool) -> tuple[str, int]:
        if bar and not self._terminal:
            return self._run_before_a_screen(who, words)
        done = subprocess.run(
            self._argv(words), stdout=subprocess.PIPE, stderr=None if bar else subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=self._environment(who), cwd=self.desk(who), timeout=COMMAND_TIMEOUT,
            check=False,
        )  # fmt: skip
        return done.stdout.decode(errors="replace").strip(), done.returncode

    def _run_before_a_screen(self, who: str, words: tuple[str, ...]) -> tuple[str, int]:
        """The progress bar is drawn on a screen of our own: somebody who watches sees it go, else its end is told."""
        ours, theirs = pty.openpty()
        environment = self._environment(who) | {"COLUMNS": "100", "TERM": "xterm"}
        try:
            process = subprocess.Popen(
                self._argv(words), stdout=subprocess.PIPE, stderr=theirs, stdin=subprocess.DEVNULL, env=environment,
                cwd=self.desk(who), start_new_session=True,
            )  # fmt: skip
            os.close(theirs)
            screen = bytearray()
            try:
                with contextlib.suppress(OSError):  # the other side is closed: EIO on Linux
                    while piece := os.read(ours, 65_536):
                        screen += piece
                        if self._terminal:
                            sys.stderr.buffer.write(piece.replace(_LINE_BEGIN, _LINE_BEGIN + b"   "))
                            sys.stderr.flush()
                out = process.communicate(timeout=COMMAND_TIMEOUT)[0]
            finally:
                _end(process, signal.SIGKILL)
                process.wait()
        finally:
            os.close(ours)
        shown = "" if self._terminal else _last_look(bytes(screen))
        return "\n".join(filter(None, [shown, out.decode(errors="replace").strip()])), process.returncode

    def close(self) -> None:
        """Ends every daemon: politely, then not."""
        for daemon in self._daemons:
            _end(daemon, signal.SIGTERM)
        deadline = time.monotonic() + STOP_TIMEOUT
        try:
            for daemon in self._daemons:
                with contextlib.suppress(subprocess.TimeoutExpired):
                    daemon.wait(max(0.0, deadline - time.monotonic()))
        finally:
            for daemon in self._daemons:
                _end(daemon, signal.SIGKILL)
                daemon.wait()
            self._end_strays()

    def _end_strays(self) -> None:
        """A command that was being started as the signal came is in nobody's list: its home tells whose it is."""
        ours = f"HANSE_HOME={self.folder}/".encode()
        for process in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                if any(each.startswith(ours) for each in (process / "environ").read_bytes().split(b"\0")):
                    os.kill(int(process.name), signal.SIGKILL)


def _end(process: "subprocess.Popen[bytes]", number: signal.Signals) -> None:
    if process.poll() is None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, number)


def _written(folder: Path) -> int:
    """Bytes that are really on the disk, of all files of a folder; a file of holes counts for what is in it."""
    total = 0
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                total += os.lstat(os.path.join(parent, name)).st_blocks * 512
    return total


def _last_look(screen: bytes) -> str:
    """The last line that was drawn on a screen, without what steered it."""
    drawn = _STEERING.sub("", screen.decode(errors="replace"))
    lines = [line.rstrip() for line in re.split(r"[\r\n]+", drawn) if line.strip()]
    bars = [line for line in lines if "━" in line or "%" in line]
    rest = [line for line in lines if line not in bars]
    return "\n".join([*bars[-1:], *dict.fromkeys(rest)])


def make_data(desk: Path) -> None:
    """Some hundred MB of North Hospital's own: a large file, and a folder with all that folders have."""
    dice = random.Random(7)  # noqa: S311 - the same story every time
    with (desk / "scans.tar").open("wb") as scans:
        for _ in range(SCANS_BYTES // MIB):
            scans.write(dice.randbytes(MIB))
    trial = desk / "trial-7"
    for name in ("visits/2026/spring", "visits/2026/autumn", "images"):
        (trial / name).mkdir(parents=True)
    rows = "".join(f"{n},{dice.randint(18, 90)},{dice.uniform(3.5, 11.0):.2f}\n" for n in range(40_000))
    for season in ("spring", "autumn"):
        (trial / "visits/2026" / season / "visits.csv").write_text("patient,age,glucose\n" + rows)
    (trial / "观测数据.csv").write_text("日期,站点,数值\n2026-03-01,北,17.2\n2026-03-02,南,18.9\n" * 500)
    (trial / "images/heart.raw").write_bytes(dice.randbytes(IMAGE_BYTES))
    (trial / "images/lung.raw").write_bytes(dice.randbytes(IMAGE_BYTES))
    (trial / "README.txt").write_text("Trial 7. Ask before you cite.\n")
    (trial / "no-adverse-events.txt").touch()


def _story(stage: _Stage) -> Iterator[Event]:
    yield stage.scene("A registry opens. It will hold signed metadata, and nobody's data.")
    yield from stage.type(
        "registry", "hanse-registry", "init", "--name", "Demo League", "--root", "86", "--listen", "127.0.0.1:0"
    )
    yield from stage.serve("registry", "hanse-registry", "serve")

    yield stage.scene("Three organizations join, each with one invitation. Their keys never leave them.")
    for who in (NORTH, SOUTH, WEST):
        yield from _joins(stage, who, shown=who != WEST)
    yield Told("West University joins in the same way.")

    yield stage.scene("North Hospital wraps a file and a folder where they lie. Nothing is copied, nothing uploaded.")
    make_data(stage.desk(NORTH))
    yield from stage.type(
        NORTH, "hanse", "add", "scans.tar", "--id", "scans-2026", "--title", "Anonymized scans, spring 2026",
        "--subject", "radiology", "--allow", SOUTH, bar=True,
    )  # fmt: skip
    yield from stage.type(
        NORTH, "hanse", "add", "trial-7", "--id", "trial-7", "--title", "Trial 7: 临床观测数据集", "--license",
        "CC-BY-NC-4.0", "--allow", SOUTH, bar=True,
    )  # fmt: skip
    yield from stage.type(NORTH, "hanse", "add", "trial-7/README.txt", "--id", "draft", "--unlisted")
    _wait_until_published(stage)
    yield from stage.type(NORTH, "hanse", "list")

    yield stage.scene("South Pharma searches, and resolves what it found.")
    yield from stage.type(SOUTH, "hanse", "search", "观测数据")
    yield from stage.type(SOUTH, "hanse", "resolve", f"{NORTH}/trial-7")

    yield stage.scene("South fetches, straight from North. Every byte is verified before it is kept.")
    yield from stage.type(SOUTH, "hanse", "fetch", f"{NORTH}/scans-2026", bar=True)
    yield from stage.type(SOUTH, "hanse", "fetch", f"{NORTH}/trial-7", bar=True)
    yield from stage.type(SOUTH, "hanse", "verify", "trial-7", f"{NORTH}/trial-7")

    yield stage.scene("A fetch is stopped in its middle, and goes on where it was.")
    again = ("hanse", "fetch", f"{NORTH}/scans-2026", "-o", "again.tar")
    yield from stage.interrupt_fetch(SOUTH, *again, shown=shlex.join(again), after=SCANS_BYTES // 4)
    yield from stage.type(SOUTH, *again, bar=True)

    yield stage.scene("One byte is altered in South's copy. That does not go unnoticed.")
    yield Typed("south", "printf '!' | dd of=trial-7/README.txt conv=notrunc status=none")
    with (stage.desk(SOUTH) / "trial-7/README.txt").open("r+b") as copy:
        copy.write(b"!")
    yield from stage.type(SOUTH, "hanse", "verify", "trial-7", f"{NORTH}/trial-7", expect=6)

    yield stage.scene(
        "West University was not allowed. It may know that the trial exists; of the draft, not even that."
    )
    yield from stage.type(WEST, "hanse", "fetch", f"{NORTH}/trial-7", expect=4)
    yield from stage.type(WEST, "hanse", "fetch", f"{NORTH}/draft", expect=3)
    yield from stage.type(WEST, "hanse", "doctor", f"{NORTH}/trial-7", expect=4)

    yield stage.scene(
        "So West asks, and says what for. North grants it; afterwards both hold one receipt, signed by both."
    )
    yield from stage.type(
        WEST, "hanse", "request", f"{NORTH}/trial-7", "--purpose", "academic-research", "--message", "For our lectures."
    )
    yield from stage.type(NORTH, "hanse", "requests")
    yield from stage.type(NORTH, "hanse", "approve", "1", "--until", "30d", "--max-fetches", "2")
    yield from stage.type(WEST, "hanse", "fetch", f"{NORTH}/trial-7")
    yield from stage.type(WEST, "hanse", "receipts")
    yield from stage.type(NORTH, "hanse", "receipts", "--peer", WEST)

    yield stage.scene("North revokes the grant. What West has it has; the next fetch is refused.")
    yield from stage.type(NORTH, "hanse", "revoke", _given(stage), "--reason", "the lectures are over")
    yield from stage.type(WEST, "hanse", "fetch", f"{NORTH}/trial-7", "-o", "once-more", expect=4)

    yield stage.scene("North sees who asked for what, and what they got.")
    yield from stage.type(NORTH, "hanse", "audit", "--object", "trial-7", "--since", "1h")
    yield from stage.type(NORTH, "hanse", "status")


def _joins(stage: _Stage, who: str, *, shown: bool) -> Iterator[Event]:
    words = ("hanse-registry", "invite", who, "--name", _NAMES[who])
    invitation = stage.ask("registry", *words).strip()
    join = ("hanse", "join", invitation, "--listen", "127.0.0.1:0")
    if not shown:
        stage.ask(who, *join)
        stage.serve_quietly(who, "hanse", "serve")
        return
    short = f"{invitation[:28]}…"
    yield Typed("registry", shlex.join(words))
    yield Written(short, 0)
    yield from stage.type(who, *join, shown=f"hanse join {short} --listen 127.0.0.1:0")
    yield from stage.serve(who, "hanse", "serve")


def _given(stage: _Stage) -> str:
    """The name of the one grant that North gave."""
    import json

    return str(json.loads(stage.ask(NORTH, "hanse", "grants", "--given", "--json"))["grant"])[:16]


def _wait_until_published(stage: _Stage) -> None:
    import json

    deadline = time.monotonic() + START_TIMEOUT
    while json.loads(stage.ask(NORTH, "hanse", "status", "--json"))["waiting"]:
        if time.monotonic() > deadline:
            raise HanseError("what North added was not published in time: its serve.err may say why")
        time.sleep(0.1)
