"""A year's evidence: how long the verifier that stands alone takes for a file of 100,000 receipts, and its memory."""

import os
import resource
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

from bench.memory import resident
from bench.scale import Scale
from bench.table import Row, Target, say
from hanse import verifier
from tests.evidence_year import Year, many
from tests.processes import environment

RECEIPTS = 100_000


def verifying(scale: Scale, folder: Path) -> Iterator[Row]:
    """Rows of seconds and of MB."""
    path, home = folder / "year.txt", folder / "year"
    home.mkdir()
    with Year.begin(home) as year:
        many(year, RECEIPTS)
        began = time.perf_counter()
        year.export(year.north, path)
        exported = time.perf_counter() - began
    seconds, most = [], 0.0
    for number in range(scale.years):
        took, memory = run(path)
        seconds.append(took)
        most = max(most, memory)
        say(f"    {number + 1}/{scale.years} verify: {took:.0f} s, {memory:.0f} MB")
    yield Row(
        f"evidence of a year, {RECEIPTS:,} receipts, verified",
        "–",
        Target(60, at_least=False, unit="s"),
        tuple(seconds),
        unit="s",
        how=f"`python verifier.py FILE`, the file copied alone: {path.stat().st_size / 1e6:.0f} MB in the page cache, "
        f"{RECEIPTS * 2:,} signatures; every receipt proved. Exporting it took {exported:.0f} s",
    )
    yield Row(
        "memory of the verifier",
        "–",
        Target(500, at_least=False, unit="MB"),
        (most,),
        unit="MB",
        how="the most that its process and those it started had resident together",
    )


def run(path: Path) -> tuple[float, float]:
    """Seconds from its start to its end, and MB. Raises RuntimeError unless all is proved."""
    copy = path.with_name("verifier.py")
    copy.write_bytes(Path(verifier.__file__).read_bytes())
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, copy, path], stdout=subprocess.PIPE, text=True, env=environment())
    most, ended = [0.0], threading.Event()

    def watch() -> None:
        while not ended.wait(0.2):
            most[0] = max(most[0], sum(map(_resident, _family(process.pid))))

    watcher = threading.Thread(target=watch)
    watcher.start()
    said, _ = process.communicate()
    took = time.perf_counter() - began
    ended.set()
    watcher.join()
    if process.returncode != 0:
        raise RuntimeError(f"the verifier ended with {process.returncode}: {said[-400:]}")
    return took, max(most[0], resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024 / 1e6)


def _family(pid: int) -> list[int]:
    try:
        children = (Path(f"/proc/{pid}/task/{pid}/children")).read_text().split()
    except OSError:
        return []
    return [pid, *(each for child in children for each in _family(int(child)))]


def _resident(pid: int) -> float:
    try:
        return resident(pid, "VmRSS")
    except (OSError, RuntimeError):
        return 0.0  # it has just ended


if __name__ == "__main__":
    print(*run(Path(sys.argv[1])), os.cpu_count())
