"""A forked command is what a started one is: its output, its end, its environment, its session, its interrupts."""

import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests import processes
from tests.forking import Forked
from tests.processes import Process, Registry, run, until


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "registry", tmp_path / "logs")


@pytest.fixture(autouse=True)
def begun(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HANSE_TESTS_EXEC", raising=False)
    for command in ("list", "serve", "status", "--help"):
        processes._begun.update({("node.cli", command), ("registry.cli", command)})


@pytest.mark.parametrize("module", ["node.cli", "registry.cli"])
@pytest.mark.parametrize("arguments", [["--help"], ["status", "--home", "/nowhere/at/all"], ["status", "--wrong"]])
def test_a_forked_command_says_and_ends_as_a_started_one(
    module: str, arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    forked = run(module, *arguments)
    monkeypatch.setenv("HANSE_TESTS_EXEC", "1")
    assert run(module, *arguments) == forked


def test_the_environment_is_that_of_the_order(tmp_path: Path) -> None:
    for name in ("here", "there"):
        assert str(tmp_path / name) in run("node.cli", "list", HANSE_HOME=str(tmp_path / name)).stderr


def test_who_changes_how_python_starts_gets_an_interpreter(registry: Registry) -> None:
    told = Process("told", registry.home.parent / "logs", "registry.cli", "serve", "--home", registry.home, LC_ALL="C")
    told.start()
    assert isinstance(told._popen, subprocess.Popen)
    told.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_a_forked_daemon_has_a_session_and_ends_by_signals(registry: Registry, number: signal.Signals) -> None:
    registry.start()
    daemon = registry.process
    assert isinstance(daemon._popen, Forked)
    assert os.getsid(daemon.pid) == daemon.pid
    daemon.send(number)
    assert daemon.wait(60) == (-number if number is signal.SIGKILL else 0)
    until(lambda: not Path(f"/proc/{daemon.pid}").exists(), "it to be gone")
    registry.restart()
    assert daemon.running
    registry.kill()
    assert not daemon.running


def test_a_command_that_takes_too_long_is_ended(registry: Registry) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run("registry.cli", "serve", "--home", registry.home, timeout=0.5)
    registry.start()  # nobody has it in use
    registry.kill()
