"""Progress on stderr, only on a terminal: bytes, rate, time left. Otherwise nothing is drawn."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from node.cli.output import size

if TYPE_CHECKING:
    from hanse.client.progress import Progress as Transferred
    from node.progress import Progress as Counted

Draw = Callable[[int, int, int, int, int], None]


@contextlib.contextmanager
def counting(what: str) -> Iterator["Callable[[Counted], None] | None"]:
    """Local work: gives the function to be told of progress, or None when nobody would see it."""
    with _bar(what) as draw:
        yield (
            None
            if draw is None
            else (lambda now: draw(now.done_bytes, now.total_bytes, now.done_files, now.total_files, 0))
        )


@contextlib.contextmanager
def transferring(what: str) -> Iterator["Callable[[Transferred], None] | None"]:
    """A transfer; what was there before this run does not count for its rate."""
    with _bar(what) as draw:
        yield (
            None
            if draw is None
            else (
                lambda now: draw(
                    now.done_bytes, now.total_bytes, now.done_elements, now.total_elements, now.resumed_bytes
                )
            )
        )


@contextlib.contextmanager
def _bar(what: str) -> Iterator[Draw | None]:
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
    from rich.text import Text

    class Rate(ProgressColumn):
        """Rich's own column tells decimal units."""

        def render(self, task: Task) -> Text:
            speed = task.finished_speed or task.speed
            return Text(f"{size(int(speed))}/s" if speed else "")

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        DownloadColumn(binary_units=True),
        Rate(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[files]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, files="")
        resumed = 0

        def draw(done: int, total: int, done_files: int, total_files: int, before: int) -> None:
            nonlocal resumed
            if before != resumed:
                resumed = before
                bar.reset(task, completed=before, total=max(total, 1))
            files = f"{done_files:,}/{total_files:,} files" if total_files > 1 else ""
            bar.update(task, completed=done, total=max(total, 1), files=files)

        yield draw
