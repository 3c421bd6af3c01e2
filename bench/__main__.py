"""Runs the figures and prints one table: ``python -m bench [--short] [--write] [NAME ...]``.

Names: bulk, small_files, resolving, searching, publishing, log, caching, wrapping, memory, operating, evidence,
workers, mirroring; without one, all of them.
"""

import argparse
import importlib
import re
import shutil
import sys
import tempfile
import time
from pathlib import Path

from bench.scale import LONG, SHORT, Scale
from bench.table import Machine, Row, markdown, say

FAMILIES = (
    "bulk",
    "small_files",
    "resolving",
    "searching",
    "publishing",
    "log",
    "caching",
    "wrapping",
    "memory",
    "operating",
    "evidence",
    "workers",
    "mirroring",
)
RESULTS = Path(__file__).with_name("RESULTS.md")


def measure(name: str, scale: Scale, within: Path) -> list[Row]:
    """What a family printed until it failed, if it did: the others are measured all the same."""
    rows: list[Row] = []
    folder = within / name
    folder.mkdir()
    began = time.monotonic()
    say(f"  {name}")
    try:
        for row in importlib.import_module(f"bench.{name}").measure(scale, folder):
            rows.append(row)
            say(f"  = {row.what} / {row.against}: {row.cells()[4]} {row.verdict}")
    except Exception as error:  # noqa: BLE001
        first = str(error).strip().splitlines() or [""]
        rows.append(Row(name, "–", failed=f"{type(error).__name__}: {first[0][:200]}".replace(str(within), "")))
        say(f"  ! {name}: {error}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    say(f"  {name} took {time.monotonic() - began:.0f} s")
    return rows


def written(title: str, table: str) -> None:
    """Puts the table where the last one of that title was, or below the others."""
    known = re.split(r"^## ", RESULTS.read_text(), flags=re.MULTILINE)[1:] if RESULTS.exists() else []
    sections = {each.partition("\n")[0]: each for each in known} | {title: f"{title}\n\n{table}"}
    RESULTS.write_text("# Results\n\n" + "\n".join(f"## {each.rstrip()}\n" for each in sections.values()))


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench", description="Hanse against what a user would otherwise pick."
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help=", ".join(FAMILIES))
    parser.add_argument("--short", action="store_true", help="smaller and fewer runs: under ten minutes")
    parser.add_argument("--write", action="store_true", help="also write the table to bench/RESULTS.md")
    parser.add_argument("--folder", type=Path, help="where to put files of some GB for as long as it runs")
    arguments = parser.parse_args()
    if unknown := set(arguments.names) - set(FAMILIES):
        parser.error(f"no figure is called {min(unknown)}: {', '.join(FAMILIES)}")
    scale = SHORT if arguments.short else LONG
    names = [name for name in FAMILIES if not arguments.names or name in arguments.names]
    within = Path(tempfile.mkdtemp(prefix="hanse-bench-", dir=arguments.folder))
    began, machine = time.monotonic(), Machine()
    try:
        rows = [row for name in names for row in measure(name, scale, within)]
    finally:
        shutil.rmtree(within, ignore_errors=True)
    words = ["python -m bench", *(["--short"] if arguments.short else []), *arguments.names]
    table = (
        f"Printed by `{' '.join(words)}` ({scale.name} form) in {(time.monotonic() - began) / 60:.0f} minutes.\n"
        f"{machine}\n\n"
        "Runs were made in turns (A B A B …). Medians, in parentheses the extremes; a ratio is that of the medians,\n"
        "in parentheses the smallest and the largest of a pair.\n\n"
        f"{markdown(rows)}"
    )
    print(table)
    if arguments.write:
        of = f": {', '.join(arguments.names)}" if arguments.names else ""
        written(f"{scale.name.capitalize()} form{of}", table)
    return 1 if any(row.failed for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
