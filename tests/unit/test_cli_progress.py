"""Progress is drawn on a terminal and nowhere else; the shell completes the commands."""

import os
import pty
import subprocess
import sys
from pathlib import Path

from node.cli.progress import counting, transferring

ROOT = Path(__file__).parents[2]
PROGRAM = """
from hanse.client.progress import Progress
from node.cli.progress import transferring
with transferring("fetching") as report:
    report(Progress(2 << 20, 4 << 20, 1, 3, 1 << 20))
    report(Progress(4 << 20, 4 << 20, 3, 3, 1 << 20))
print("done")
"""


def test_without_a_terminal_nobody_is_told() -> None:
    with counting("hashing") as counted, transferring("fetching") as transferred:
        assert counted is None
        assert transferred is None


def test_on_a_terminal_bytes_and_files_are_drawn_on_stderr_only() -> None:
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-c", PROGRAM], stdout=subprocess.PIPE, stderr=theirs, cwd=ROOT,
        env={**os.environ, "TERM": "xterm", "COLUMNS": "100"},
    ) as process:  # fmt: skip
        os.close(theirs)
        drawn = bytearray()
        try:
            while piece := os.read(ours, 4096):
                drawn += piece
        except OSError:  # the other side is closed
            pass
        assert process.stdout is not None
        assert process.stdout.read() == b"done\n"
    os.close(ours)
    assert process.returncode == 0
    assert "4.0/4.0 MiB" in drawn.decode()
    assert "3/3 files" in drawn.decode()


def test_the_shell_completes_commands() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "node.cli"], capture_output=True, text=True, cwd=ROOT, check=False,
        env={**os.environ, "_HANSE_COMPLETE": "bash_complete", "COMP_WORDS": "hanse res", "COMP_CWORD": "1"},
    )  # fmt: skip
    assert set(done.stdout.split()) == {"plain,resolve"}
