"""Memory of a node: idle, and the most it ever had while it served."""

import time
from collections.abc import Iterator
from pathlib import Path

from bench import disk, ours
from bench.scale import GIB, Scale
from bench.table import Row, Target

PREFIX, READER = "86.north", "86.south"


def resident(pid: int, field: str) -> float:
    """MB (10^6 bytes) of a line of /proc: VmRSS now, VmHWM the most so far."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024 / 1e6
    raise RuntimeError(f"no {field}")


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    source = disk.sparse_file(folder / "large.bin", scale.served_bytes)
    with ours.league(folder / "league", PREFIX) as league:
        node, reader = league.nodes[PREFIX], league.join(READER, serve=False)
        node.command("add", source, "--id", "large", "--open", timeout=600)
        node.published()
        node.restart()
        time.sleep(3)
        idle = []
        for _ in range(5):
            time.sleep(0.5)
            idle.append(resident(node.process.pid, "VmRSS"))
        yield Row(
            "memory of an idle node",
            "–",
            Target(100, at_least=False, unit="MB"),
            tuple(idle),
            unit="MB",
            how="VmRSS of `hanse serve`, 3 to 6 s after its start",
        )
        ours.inside("drain", reader.home, f"{PREFIX}/large")
        most = resident(node.process.pid, "VmHWM")
        yield Row(
            f"memory of a node serving {scale.served_bytes / GIB:g} GiB",
            "–",
            Target(200, at_least=False, unit="MB"),
            (most,),
            unit="MB",
            how="VmHWM of `hanse serve` after one stream of all of it",
        )
