"""The demonstration: it ends by itself, well, and leaves nothing behind, however it ends."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.processes import ROOT, environment, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("demo"), pytest.mark.timeout(900)]
# Seconds that a story, or its beginning, is waited for. Neither is a promise: a busy machine tells it slowly.
WHOLE, BEGINNING = 800, 400


def _start(tmp_path: Path, *arguments: str) -> subprocess.Popen[bytes]:
    with (tmp_path / "told").open("wb") as told:
        return subprocess.Popen(
            [sys.executable, "-m", "node.cli", "demo", *arguments], stdout=told, stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL, env=environment(TMPDIR=str(tmp_path)), cwd=ROOT, start_new_session=True,
            # A shell that runs the tests in the background ignores it, and so would whatever they start.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )  # fmt: skip


def _told(tmp_path: Path) -> str:
    return (tmp_path / "told").read_text()


def _left_running(folder: Path) -> list[str]:
    """Processes that work in homes under a folder."""
    found = []
    for process in psutil.process_iter():
        try:
            home = process.environ().get("HANSE_HOME", "")
            if home.startswith(str(folder)) and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def _nothing_runs(folder: Path) -> None:
    """What was killed as the story ended is gone as soon as the system has come to it."""
    until(lambda: not _left_running(folder), "what was killed to be gone", 10)


def _left_behind(tmp_path: Path) -> list[str]:
    return [name for name in os.listdir(tmp_path) if name.startswith("hanse-demo-")]


def test_it_tells_the_whole_story_and_leaves_nothing(tmp_path: Path) -> None:
    demo = _start(tmp_path)
    code = demo.wait(WHOLE)
    told = _told(tmp_path)
    assert code == 0, told
    for passage in (
        "listening on 127.0.0.1:",
        "Joined Demo League as 86.north-hospital",
        "86.north-hospital/trial-7",
        "Every byte is verified against the signature of 86.north-hospital",
        "128.0/128.0 MiB",
        "different: README.txt",
        "(exit code 4)",
        "(exit code 3)",
        "Granted: ",
        "Revoked: ",
        "the grant was revoked",
        "Every scene ended as it should",
    ):
        assert passage in told
    assert "Traceback" not in told
    assert "\x1b" not in told
    assert _left_running(tmp_path) == []
    assert _left_behind(tmp_path) == []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
@pytest.mark.parametrize("passage", ["1  A registry", "2  Three organizations", "5  South fetches"])
def test_it_cleans_up_when_it_is_stopped(tmp_path: Path, number: signal.Signals, passage: str) -> None:
    demo = _start(tmp_path)
    until(lambda: passage in _told(tmp_path) or demo.poll() is not None, passage, BEGINNING)
    time.sleep(0.3)  # somewhere in the scene
    demo.send_signal(number)
    assert demo.wait(90) == 130, _told(tmp_path)
    assert "Nothing is left running" in _told(tmp_path)
    assert "Traceback" not in _told(tmp_path)
    _nothing_runs(tmp_path)
    assert _left_behind(tmp_path) == []


def test_it_keeps_its_folder_if_asked_to(tmp_path: Path) -> None:
    demo = _start(tmp_path, "--keep", str(tmp_path / "kept"))
    until(lambda: "2  Three organizations" in _told(tmp_path) or demo.poll() is not None, "the second scene", BEGINNING)
    demo.send_signal(signal.SIGINT)
    assert demo.wait(90) == 130, _told(tmp_path)
    assert (tmp_path / "kept/registry/home/registry.toml").exists()
    _nothing_runs(tmp_path)
