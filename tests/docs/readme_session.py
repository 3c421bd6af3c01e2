"""Types the README's session for real, and puts what was printed under each command.

python tests/docs/readme_session.py        # rewrites README.md
"""

import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
_BLOCK = re.compile(r"(?<=```console\n)(.*?)(?=```)", re.DOTALL)
_GRANT = re.compile(r"\b[0-9a-f]{16}\b")
_GIVEN = re.compile(r"^Granted: ([0-9a-f]{16})\b", re.MULTILINE)
_VARIES = (
    (re.compile(r"127\.0\.0\.1:\d+"), "127.0.0.1:7443"),
    (re.compile(r"\b[0-9a-f]{64}\b"), "5f" * 32),
    (re.compile(r"\b[0-9a-f]{32}\b"), "5f" * 16),
    (re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ"), "2026-11-23T12:00:00Z"),
    (re.compile(r"\b[0-9a-f]{16}\b"), "5f" * 8),
    (re.compile(r"\(in \d+ \w+\)"), "(in 6 days)"),
    (re.compile(r"\b\d+ entries"), "9 entries"),
    (re.compile(r"process \d+"), "process 1000"),
    (re.compile(r"\b[\d.]+ (?:Ki)?B\b"), "0 B"),
    (re.compile(r" +$", re.MULTILINE), ""),
)


def session(readme: str) -> list[tuple[str, str]]:
    """The commands of the section "A session", each with the output that stands under it."""
    section = readme.split("## A session")[1].split("\n## ")[0]
    told: list[tuple[str, str]] = []
    for line in "".join(_BLOCK.findall(section)).splitlines(keepends=True):
        if line.startswith("$ "):
            told.append((line[2:].rstrip("\n"), ""))
        else:
            told[-1] = (told[-1][0], told[-1][1] + line)
    return told


def settle(text: str) -> str:
    """What two runs of a session have in common."""
    for pattern, instead in _VARIES:
        text = pattern.sub(instead, text)
    return text


def play(commands: list[str], folder: Path) -> Iterator[tuple[str, str]]:
    """Each command as it was typed, and what it prints; one that ends in "&" runs to the end of the session.

    A grant has another name each time: where a command names one, the last that was given is typed.
    """
    shims = folder / "bin"
    shims.mkdir()
    for name, words in (("hanse", "-m node.cli"), ("hanse-registry", "-m registry.cli"), ("python", "")):
        (shims / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" {words} "$@"\n')
        (shims / name).chmod(0o755)
    place = folder / "place"
    place.mkdir()
    kept = {name: value for name, value in os.environ.items() if not name.startswith("HANSE_")}
    environment = kept | {"PATH": f"{shims}:{kept['PATH']}", "PYTHONPATH": str(ROOT), "LC_ALL": "C.UTF-8"}
    grant = ""
    with ExitStack() as running:
        for told in commands:
            command = _GRANT.sub(grant, told) if grant else told
            if command.endswith(" &"):
                daemon = subprocess.Popen(
                    f"exec {command[:-2]}", shell=True, cwd=place, env=environment, stdout=subprocess.PIPE,
                    stderr=subprocess.DEVNULL, text=True,
                )  # fmt: skip
                running.callback(daemon.wait, 90)
                running.callback(daemon.terminate)
                assert daemon.stdout is not None
                yield command, daemon.stdout.readline()
            else:
                done = subprocess.run(
                    command, shell=True, cwd=place, env=environment, capture_output=True, text=True, timeout=120,
                )  # fmt: skip
                printed = done.stdout + done.stderr
                grant = (_GIVEN.findall(printed) or [grant])[-1]
                yield command, printed
                if " add " in command or " terms " in command:
                    _published(place, environment)


def _published(place: Path, environment: dict[str, str]) -> None:
    """The reader takes longer to type the next command than the node to publish."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        told = subprocess.run(
            ["hanse", "status", "--home", "north", "--json"],
            cwd=place,
            env=environment,
            capture_output=True,
            check=True,
        )
        if not json.loads(told.stdout)["waiting"]:
            return
        time.sleep(0.1)


def main() -> None:
    readme = README.read_text()
    with tempfile.TemporaryDirectory() as folder:
        outputs = iter(list(play([command for command, _ in session(readme)], Path(folder))))
    head, rest = readme.split("## A session", 1)
    section, *after = rest.split("\n## ")

    def fill(block: re.Match[str]) -> str:
        commands = [line for line in block[0].splitlines() if line.startswith("$ ")]
        return "".join(f"$ {command}\n{output}" for command, output in itertools.islice(outputs, len(commands)))

    README.write_text("\n## ".join([head + "## A session" + _BLOCK.sub(fill, section), *after]))


if __name__ == "__main__":
    main()
