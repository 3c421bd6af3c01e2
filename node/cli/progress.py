"""Progress on stderr, only on a terminal: bytes, rate, time left. Otherwise nothing is drawn."""

import contextlib
import sys
from collections.abc import Callable, Iterator
from typing import Protocol


class Amount(Protocol):
    """How far something is, in bytes and files; totals may grow while it goes on."""

    @property
    def done_bytes(self) -> int: ...
    @property
    def total_bytes(self) -> int: ...
    @property
    def done_files(self) -> int: ...
    @property
    def total_files(self) -> int: ...


@contextlib.contextmanager
def counting(what: str) -> Iterator[Callable[[Amount], None] | None]:
    """Gives the function to be told of progress, or None when nobody would see it."""
    if not sys.stderr.isatty():
        yield None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (
        TextColumn("{task.description}"),
        BarColumn(bar_width=28),
        DownloadColumn(binary_units=True),
        TransferSpeedColumn(),
        TimeRemainingColumn(compact=True, elapsed_when_finished=True),
        TextColumn("{task.fields[files]}"),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(what, total=None, files="")

        def tell(amount: Amount) -> None:
            files = f"{amount.done_files:,}/{amount.total_files:,} files" if amount.total_files > 1 else ""
            bar.update(task, completed=amount.done_bytes, total=max(amount.total_bytes, 1), files=files)

        yield tell
