"""A league on this machine, to look at: demo."""

import contextlib
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import click

from node.cli.frame import Session, command
from node.cli.output import cut, line, safe

if TYPE_CHECKING:
    from node.demo import Event


@command(short="A league on this machine, start to finish")
@click.option("--keep", type=click.Path(path_type=Path), metavar="DIR", help="Use this empty folder, and leave it.")
def demo(session: Session, keep: Path | None) -> None:
    """A registry and three organizations on this machine, start to finish, in about a minute.

    Needs no network and nothing else. Ends by itself and leaves nothing running.
    """
    from node.demo import play

    session.after_interrupt = "Stopped. Nothing is left running."
    begun = time.monotonic()
    signal.signal(signal.SIGTERM, _interrupted)
    folder = keep.expanduser().absolute() if keep is not None else Path(tempfile.mkdtemp(prefix="hanse-demo-"))
    try:
        with contextlib.closing(play(folder, terminal=sys.stderr.isatty())) as story:  # type: ignore[type-var]
            for event in story:
                _show(event)
    finally:
        if keep is None:
            shutil.rmtree(folder, ignore_errors=True)
    line()
    seconds = time.monotonic() - begun
    line(click.style(f"Every scene ended as it should, in {seconds:.0f} s. Nothing is left running.", bold=True))
    if keep is not None:
        line(f"The homes are in {safe(folder)}: `hanse serve --home {safe(folder)}/north/home` goes on from here.")


def _interrupted(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def _show(event: "Event") -> None:
    from node.demo import Scene, Told, Typed

    if isinstance(event, Scene):
        line()
        line(click.style(f"{event.number}  {event.title}", fg="cyan", bold=True))
    elif isinstance(event, Told):
        line()
        line(f"   {event.text}")
    elif isinstance(event, Typed):
        line()
        line("   " + click.style(f"{event.prompt}$ ", fg="green") + click.style(event.command, bold=True))
    else:
        for each in event.text.splitlines():
            line(f"   {cut(safe(each), 160)}" if each else "")
        if event.code:
            line("   " + click.style(f"(exit code {event.code})", dim=True))
