"""What every command of ``hanse`` shares: the options of all, how it ends, what an error looks like.

The rule it keeps: a user sees one line that says what happened and what to do; a traceback only with --debug.
Nothing slow is imported here: a command imports what it needs when it runs.
"""

import functools
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from hanse import __version__
from hanse.errors import HanseError
from node.cli.output import error, note

EXIT_CODES = """\b
Exit codes:
  0 done                  4 not permitted
  1 internal error        5 unreachable or timed out: worth trying again
  2 wrong usage           6 verification failed: do not trust it
  3 not found             7 conflict"""

COMPLETION = """\b
Completion in the shell:
  eval "$(_HANSE_COMPLETE=bash_source hanse)"    (zsh_source, fish_source)"""

INTERRUPTED = 130
"""As shells report a command that Ctrl-C ended."""


class Session:
    """What was said for the whole run: which home, for whom to print, how much to tell about a bug."""

    def __init__(self) -> None:
        self.chosen: Path | None = None
        self.json = False
        self.debug = False
        self.after_interrupt = "Stopped. What was done is kept; run it again to go on."

    @property
    def folder(self) -> Path:
        """--home, else HANSE_HOME, else the platform's data folder."""
        if self.chosen is not None:
            return self.chosen.expanduser()
        from hanse.home import default_home

        return default_home()


def _session(context: click.Context) -> Session:
    return context.find_root().ensure_object(Session)


def _take_home(context: click.Context, _: click.Parameter, value: str | None) -> None:
    if value == "":
        # What a script with an unset variable says; the current folder is not what it means.
        raise click.BadParameter("an empty name is no folder")
    if value is not None:
        _session(context).chosen = Path(value)


def _take_json(context: click.Context, _: click.Parameter, value: bool) -> None:
    _session(context).json |= value


def _take_debug(context: click.Context, _: click.Parameter, value: bool) -> None:
    _session(context).debug |= value


F = TypeVar("F", bound=Callable[..., Any])


def _options(function: F) -> F:
    """--home, --json and --debug, before the command's name or after it."""
    for option in (
        click.option(
            "--debug", is_flag=True, expose_value=False, callback=_take_debug, help="Show where an error came from."
        ),
        click.option("--json", is_flag=True, expose_value=False, callback=_take_json, help="Print for machines: JSON."),
        click.option(
            "--home",
            metavar="DIR",
            expose_value=False,
            callback=_take_home,
            help="The node's folder; else HANSE_HOME, else the platform's data folder.",
        ),
    ):
        function = option(function)
    return function


pass_session = click.make_pass_decorator(Session, ensure=True)


def command(name: str | None = None, *, short: str) -> Callable[[Callable[..., Any]], click.Command]:
    """A command of ``hanse``: its function gets the Session first. ``short`` stands in the list of all."""

    def make(function: Callable[..., Any]) -> click.Command:
        @functools.wraps(function)
        def swept(session: Session, *arguments: Any, **options: Any) -> Any:
            _sweep(session)
            return function(session, *arguments, **options)

        return click.command(name, short_help=short, epilog=EXIT_CODES)(_options(pass_session(swept)))

    return make


def _sweep(session: Session) -> None:
    """Before anything else: what this home must not keep any longer is deleted. SPEC.md section 19.4."""
    if (session.folder / "vault").exists():
        from hanse.home import Home
        from hanse.vault.vault import sweep_home

        try:
            sweep_home(Home(session.folder))
        except HanseError as failure:
            note(f"what is kept under a duty to delete could not be looked after: {failure}")


def group(name: str, *, short: str) -> Callable[[Callable[..., Any]], click.Group]:
    """A family of commands under one word of ``hanse``."""

    def make(function: Callable[..., Any]) -> click.Group:
        return click.group(name, short_help=short, epilog=EXIT_CODES)(_options(function))

    return make


class Root(click.Group):
    """The command itself: every way in which a command can end is decided here."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """In the order in which they are first needed."""
        return list(self.commands)

    def main(
        self,
        args: Sequence[str] | None = None,
        prog_name: str | None = "hanse",
        complete_var: str | None = None,
        standalone_mode: bool = True,  # noqa: ARG002 - ours to decide
        windows_expand_args: bool = True,
        **extra: Any,
    ) -> Any:
        """Runs and ends the process with its exit code."""
        session = Session()
        for stream in (sys.stdout, sys.stderr):
            if hasattr(stream, "reconfigure"):
                stream.reconfigure(errors="backslashreplace")
        # gRPC's own lines about handshakes say nothing that our errors do not.
        os.environ.setdefault("GRPC_VERBOSITY", "NONE")
        code = self._run(session, args, prog_name, complete_var, windows_expand_args, extra)
        sys.exit(code)

    def _run(
        self,
        session: Session,
        args: Sequence[str] | None,
        prog_name: str | None,
        complete_var: str | None,
        windows_expand_args: bool,
        extra: dict[str, Any],
    ) -> int:
        try:
            ended = super().main(
                args,
                prog_name,
                complete_var,
                standalone_mode=False,
                windows_expand_args=windows_expand_args,
                obj=session,
                **extra,
            )
            sys.stdout.flush()
        except click.ClickException as wrong:
            wrong.show()
            return wrong.exit_code
        except (click.Abort, KeyboardInterrupt):
            note(session.after_interrupt)
            return INTERRUPTED
        except HanseError as failure:
            if session.debug:
                traceback.print_exc()
            error(str(failure))
            return failure.exit_code
        except BrokenPipeError:
            # Whoever read our output has seen enough. Nothing is left to be flushed into the closed pipe at the end.
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 0
        except Exception as bug:  # noqa: BLE001  a bug of ours: told in one line, whatever it is
            if session.debug:
                traceback.print_exc()
            where = "the lines above say where" if session.debug else "run it again with --debug to see where"
            error(f"internal error: {type(bug).__name__}: {where}, and report it")
            return 1
        return ended if isinstance(ended, int) else 0


@click.group(cls=Root, epilog=f"{EXIT_CODES}\n\n{COMPLETION}", context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="hanse", message="%(prog)s %(version)s")
@_options
def main() -> None:
    """Hanse: a federated data network node.

    Wraps your data where it lies, publishes signed metadata only, and gives the data itself to those whom you allow.
    """
