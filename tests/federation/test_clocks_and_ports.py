"""A clock that is two days wrong, and a start that cannot be: each is said with its way out, and nothing is lost."""

import contextlib
import ctypes
import os
import platform
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse.client.client import Client
from tests.breaking import (
    MIB,
    Slowed,
    equal_files,
    journaled,
    missing,
    set_clock,
    set_schema,
    small_disk,
    write_content,
    wrong_clock,
)
from tests.processes import League, Node, Process, Result, environment, run, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("clocks")]

NORTH, SOUTH = "86.north", "86.south"
DAYS = [2, -2]
_TGKILL = {"x86_64": 234, "aarch64": 131}  # a signal to one thread: the system call's number


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        made.join(NORTH)
        made.join(SOUTH, serve=False)
        yield made


@pytest.fixture
def north(league: League) -> Node:
    """Serves, whatever the test before left behind."""
    if not league.registry.process.running:
        league.registry.start()
    node = league.nodes[NORTH]
    return node if node.process.running else node.start()


@pytest.fixture
def south(league: League) -> Iterator[Node]:
    """Does not."""
    yield league.nodes[SOUTH]
    league.nodes[SOUTH].kill()


@pytest.fixture
def file(north: Node, south: Node, league: League) -> Path:
    """Wrapped as 'file', published, and known to south."""
    path = league.folder / "data/file"
    if not path.exists():
        write_content(path, 8 * MIB + 5)
        north.command("add", path, "--id", "file", "--open")
        north.published()
    with Client(south.home) as client:
        client.resolve(f"{NORTH}/file", max_age=0)  # just now: it counts for 300 s, longer than any of the tests
    return path


@contextlib.contextmanager
def clock_of(node: Node, days: float) -> Iterator[Node]:
    """The same home, whose commands and daemon have a wrong clock."""
    confused = Node(node.prefix, node.home, node.process._logs / f"confused{days:+g}", **wrong_clock(days))
    try:
        yield confused
    finally:
        confused.kill()


def clean(result: Result) -> Result:
    """However it ended: not by a bug."""
    assert result.code not in (1, -6, -11) or "internal error" not in result.stderr, str(result)
    assert "Traceback" not in result.stderr + result.stdout, str(result)
    assert "internal error" not in result.stderr, str(result)
    return result


def laid_to_the_clock(node: Node) -> Any:
    """What its status says once its last error does; before, it may have found nobody at that port."""
    told = node.json("status")
    return told if "clock" in told["last_error"] or "doctor" in told["last_error"] else None


# Wrong clocks.


@pytest.mark.parametrize("days", DAYS)
def test_a_user_whose_clock_is_wrong_is_told_so(south: Node, file: Path, tmp_path: Path, days: int) -> None:
    with clock_of(south, days) as confused:
        resolved = clean(confused.command("resolve", f"{NORTH}/file", expect=None))
        assert resolved.code in (0, 4, 5, 6), str(resolved)
        assert resolved.code == 0 or "clock" in resolved.stderr, str(resolved)
        fetched = clean(confused.command("fetch", f"{NORTH}/file", "-o", tmp_path / "got", expect=None, timeout=100))
        assert fetched.code in (0, 4, 5, 6), str(fetched)
        assert fetched.code == 0 or "clock" in fetched.stderr or "doctor" in fetched.stderr, str(fetched)
        assert fetched.code != 0 or equal_files(tmp_path / "got", file)
        doctor = confused.command("doctor", expect=None)
        assert doctor.code != 0
        failed = [line for line in doctor.stdout.splitlines() if line.startswith("FAIL")]
        assert any("clock" in line for line in failed), str(doctor)
    south.command("resolve", f"{NORTH}/file")
    south.command("fetch", f"{NORTH}/file", "-o", tmp_path / "right")
    assert equal_files(tmp_path / "right", file)
    assert south.command("doctor").stdout.count("FAIL") == 0


@pytest.mark.parametrize("days", DAYS)
def test_a_node_whose_clock_is_wrong_loses_nothing(
    north: Node, south: Node, file: Path, tmp_path: Path, days: int
) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    id = f"{NORTH}/with-a-clock-off-by-{days}"
    north.process.terminate()
    with clock_of(north, days) as confused:
        confused.start()
        try:
            confused.command("add", tmp_path / "small", "--id", id.partition("/")[2], "--open")
            confused.command("add", tmp_path / "small", "--id", f"unlisted{days:+}", "--open", "--unlisted")
            told = until(lambda: laid_to_the_clock(confused), "the node to try")
            assert told["waiting"] >= 1
            doctor = confused.command("doctor", expect=None)
            assert "clock" in " ".join(line for line in doctor.stdout.splitlines() if line.startswith("FAIL"))
            fetched = clean(south.command("fetch", f"{NORTH}/file", "-o", tmp_path / "got", expect=None, timeout=100))
            assert fetched.code in (0, 4, 5), str(fetched)
        finally:
            assert confused.process.terminate() == 0
        assert "Traceback" not in confused.process.everything
    north.start()
    north.published()
    status = north.json("status")
    assert not status["refused"], status
    assert south.json("resolve", id)["version"] == 1
    south.command("fetch", id, "-o", tmp_path / "small-again")
    assert (tmp_path / "small-again").read_bytes() == b"a,b\n"
    south.command("fetch", f"{NORTH}/unlisted{days:+}", "-o", tmp_path / "unlisted")
    (tmp_path / "small").write_bytes(b"a,b\n1,2\n")
    assert north.lines("refresh", id.partition("/")[2])[0]["version"] == 2
    north.published()
    assert until(lambda: south.command("fetch", id, "-o", tmp_path / "second").code == 0, "version 2")


@pytest.mark.parametrize("days", DAYS)
def test_a_registry_whose_clock_is_wrong_stops_nobody_for_good(
    league: League, north: Node, south: Node, file: Path, tmp_path: Path, days: int
) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    id = f"{NORTH}/registry-off-by-{days}"
    league.registry.process.terminate()
    confused = Process("registry-confused", league.logs, "registry.cli", "serve", "--home", league.registry.home,
                       **wrong_clock(days))  # fmt: skip
    confused.start()
    try:
        north.command("add", tmp_path / "small", "--id", id.partition("/")[2], "--open")
        until(lambda: laid_to_the_clock(north), "the node to try")
        doctor = north.command("doctor", expect=None)
        assert "clock" in " ".join(line for line in doctor.stdout.splitlines() if line.startswith("FAIL")), doctor
        # What both know already serves on.
        south.command("fetch", f"{NORTH}/file", "-o", tmp_path / "got")
        assert equal_files(tmp_path / "got", file)
    finally:
        assert confused.terminate() == 0
    assert "Traceback" not in confused.everything
    league.registry.start()
    north.published()
    assert not north.json("status")["refused"]
    assert south.json("resolve", id)["version"] == 1
    assert north.command("doctor").stdout.count("FAIL") == 0
    assert league.registry.command("check").code == 0


def test_a_certificate_is_renewed_while_a_stream_runs_and_the_stream_goes_on(tmp_path: Path) -> None:
    clock, registrys = tmp_path / "clock", tmp_path / "registrys-clock"
    environment = wrong_clock(0, clock)
    made = League(tmp_path / "league")
    made.registry.process = Process(
        "registry", made.logs, "registry.cli", "serve", "--home", made.registry.home, **wrong_clock(0, registrys)
    )
    with made as league:
        north, south = league.join(NORTH, **environment), league.join(SOUTH, serve=False, **environment)
        path = write_content(tmp_path / "file", 96 * MIB)
        north.command("add", path, "--id", "file", "--open")
        north.published()
        certificates = [(each.home / "member.pem").read_bytes() for each in (north, south)]
        target = tmp_path / "got"
        fetching = south.begin("renewed", "fetch", f"{NORTH}/file", "-o", target)
        with Slowed(fetching, lambda: journaled(target)[0], 2):
            until(lambda: journaled(target)[0] >= 5 or not fetching.running, "some chunks to arrive")
            set_clock(registrys, 5)  # of the seven days that a certificate holds
            time.sleep(2.5)  # until it has seen that: a renewal that fails is tried again after a minute
            set_clock(clock, 5)
            until(lambda: (north.home / "member.pem").read_bytes() != certificates[0], "the renewal")
            assert fetching.running
            assert journaled(target)[0] < 96
        assert fetching.wait() == 0, fetching.everything
        assert equal_files(target, path)
        # It is one stream, from its beginning to its end: nothing was asked for again.
        streams = until(
            lambda: [row for row in north.lines("audit", "--peer", SOUTH) if row["operation"] == "fetch"],
            "the audit",
        )
        assert len(streams) == 1
        south.command("fetch", f"{NORTH}/file", "-o", tmp_path / "again")
        assert (south.home / "member.pem").read_bytes() != certificates[1]
        assert "certificate.renewed" in north.process.everything


# Ends.


def test_a_signal_ends_a_daemon_whichever_of_its_threads_the_system_hands_it_to(league: League, north: Node) -> None:
    syscall, tgkill = ctypes.CDLL(None).syscall, _TGKILL[platform.machine()]
    for process in (north.process, league.registry.process):
        threads = {int(each.name) for each in Path(f"/proc/{process.pid}/task").iterdir()} - {process.pid}
        assert any(syscall(tgkill, process.pid, thread, signal.SIGTERM) == 0 for thread in threads)
        assert process.wait() == 0, process.everything
        process.start()


# Starts that cannot be.


def refused(process: Process, code: int, *says: str) -> None:
    """It does not start, and its error says all of that; no traceback."""
    process.start(wait=False)
    assert process.wait(90) == code, process.everything
    assert "listening on" not in process.stdout
    assert "Traceback" not in process.stderr
    errors = [line for line in process.stderr.splitlines() if line.lower().startswith("error: ")]
    assert len(errors) == 1, process.stderr
    for words in says:
        assert words in errors[0], process.stderr


def test_a_port_that_is_taken_is_named_with_the_way_out(league: League, north: Node, south: Node) -> None:
    taken = north.process.address
    (south.home / "node.toml").rename(south.home / "node.toml.before")
    (south.home / "node.toml").write_text(f'listen = "{taken}"\n')
    try:
        refused(south.process, 7, taken, "port is taken", "listen")
    finally:
        (south.home / "node.toml.before").rename(south.home / "node.toml")
    second = league.folder / "second-registry"
    assert run("registry.cli", "init", "--home", second, "--listen", taken, "--advertise", taken).code == 0
    refused(
        Process("second-registry", league.logs, "registry.cli", "serve", "--home", second),
        7, taken, "port is taken", "listen",
    )  # fmt: skip
    south.start()
    assert south.process.terminate() == 0


def test_a_home_serves_one_daemon_at_a_time(league: League, north: Node) -> None:
    refused(
        Process("second", league.logs, "node.cli", "serve", "--home", north.home), 7, str(north.home),
        str(north.process.pid),
    )  # fmt: skip
    refused(
        Process("registry-again", league.logs, "registry.cli", "serve", "--home", league.registry.home), 7,
        str(league.registry.home), str(league.registry.process.pid),
    )  # fmt: skip
    assert north.process.running
    assert league.registry.process.running


@pytest.mark.parametrize("key", ["keys/identity.pem", "keys/tls.pem"])
def test_a_nodes_key_that_others_can_read_is_refused(south: Node, key: str) -> None:
    path = south.home / key
    path.chmod(0o644)
    try:
        refused(south.process, 1, str(path), f"chmod 600 {path}")
        assert f"chmod 600 {path}" in south.command("resolve", f"{NORTH}/file", expect=1).stderr
        assert f"chmod 600 {path}" in south.command("doctor", expect=1).stdout
    finally:
        path.chmod(0o600)
    south.start()
    assert south.process.terminate() == 0


@pytest.mark.parametrize("key", ["keys/registry.pem", "keys/ca.pem", "keys/tls.pem"])
def test_a_registrys_key_that_others_can_read_is_refused(league: League, key: str) -> None:
    registry, path = league.registry, league.registry.home / key
    registry.process.terminate()
    path.chmod(0o640)
    try:
        refused(registry.process, 1, str(path), f"chmod 600 {path}")
    finally:
        path.chmod(0o600)
    registry.start()


@pytest.mark.parametrize("database", ["catalog.db", "known.db", "registry.db"])
def test_a_database_that_a_newer_program_wrote_is_left_alone(league: League, south: Node, database: str) -> None:
    of_registry = database == "registry.db"
    home = league.registry.home if of_registry else south.home
    process = league.registry.process if of_registry else south.process
    if process.running:
        process.terminate()
    before = set_schema(home / database, 999)
    try:
        refused(process, 1, database, "newer", "999", "upgrade", "backup")
        if not of_registry:
            told = clean(south.command("list" if database == "catalog.db" else "search", "x", expect=None))
            told = told if database != "catalog.db" else south.command("list", expect=1)
            assert "999" in told.stderr
            assert "999" in south.command("doctor", expect=None).stdout
    finally:
        assert set_schema(home / database, before) == 999
    process.start()
    if not of_registry:
        assert process.terminate() == 0


def _unprivileged(*argv: object) -> subprocess.CompletedProcess[str]:
    """Root without the privilege to pass over modes; any other user as it is."""
    front: tuple[object, ...] = ()
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            missing("setpriv is not here")
        front = ("setpriv", "--inh-caps=-all", "--bounding-set=-all")
    return subprocess.run(
        list(map(str, (*front, *argv))), capture_output=True, text=True, env=environment(), cwd=Path.cwd(),
        timeout=60, check=False, stdin=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.parametrize("command", ["serve", "add", "list", "resolve", "status", "rotate-key"])
def test_a_home_that_is_not_writable_is_named(south: Node, tmp_path: Path, command: str) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    rest = {"add": (tmp_path / "small",), "resolve": (f"{NORTH}/file",)}.get(command, ())
    south.home.chmod(0o500)
    try:
        done = _unprivileged(sys.executable, "-m", "node.cli", command, *rest, "--home", south.home)
        assert done.returncode == 1, done
        assert "not writable" in done.stderr
        assert "check its owner and mode" in done.stderr
        assert "Traceback" not in done.stderr
    finally:
        south.home.chmod(0o700)


def test_homes_on_a_read_only_disk_are_named(league: League, south: Node, tmp_path: Path) -> None:
    with small_disk(tmp_path / "disk", 32 * MIB) as disk:
        shutil.copytree(south.home, disk.folder / "node")
        shutil.copytree(league.registry.home, disk.folder / "registry")
        subprocess.run(["mount", "-o", "remount,ro", disk.folder], check=True)
        for module, home in (("node.cli", "node"), ("registry.cli", "registry")):
            done = run(module, "serve", "--home", disk.folder / home)
            assert done.code == 1, str(done)
            assert str(disk.folder / home) in done.stderr
            assert "not writable" in done.stderr
            assert "Traceback" not in done.stderr


def test_joining_into_a_folder_that_is_not_writable_wastes_no_invitation(league: League, tmp_path: Path) -> None:
    invitation = league.registry.invite("86.homeless")
    (tmp_path / "locked").mkdir(mode=0o500)
    home = tmp_path / "locked/home"
    done = _unprivileged(sys.executable, "-m", "node.cli", "join", invitation, "--home", home)
    assert done.returncode == 1, done
    assert str(home) in done.stderr
    assert "Traceback" not in done.stderr
    elsewhere = run("node.cli", "join", invitation, "--home", tmp_path / "home")
    assert elsewhere.code == 0, str(elsewhere)
