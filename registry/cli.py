"""The command ``hanse-registry``: parses, calls registry.app, prints. No decisions."""

import functools
import json
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

import hanse
from hanse.errors import HanseError, InvalidInput
from hanse.model.address import Address
from hanse.model.identifier import Prefix

_EPILOG = (
    "Exit codes: 0 done, 1 internal error, 2 wrong usage, 3 not found, 4 not permitted, 5 unreachable or timed out "
    "(worth trying again), 6 verification failed (do not trust it), 7 conflict."
)


class _Parsed(click.ParamType[Any]):
    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._parse(value)
        except InvalidInput as error:
            self.fail(str(error), param, ctx)


def _duration(text: str) -> int:
    from registry.duration import parse

    return parse(text)


PREFIX = _Parsed("prefix", Prefix.parse)
ADDRESS = _Parsed("host:port", Address.parse)
DURATION = _Parsed("duration", _duration)


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("hanse-registry"))


def _command(*, prints: bool = True) -> Callable[[Callable[..., None]], click.Command]:
    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(home: Path | None, debug: bool, **options: Any) -> None:
            folder = home or _default_home()
            _guarded(debug, lambda: function(folder, **options))

        decorated: Any = click.option("--debug", is_flag=True, help="Show tracebacks and more of the log.")(run)
        if prints:
            decorated = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(decorated)
        decorated = click.option(
            "--home",
            envvar="HANSE_HOME",
            type=click.Path(path_type=Path, file_okay=False),
            help="Where the registry keeps everything.  [default: the platform's data folder]",
        )(decorated)
        return main.command(epilog=_EPILOG)(decorated)

    return decorate


def _guarded(debug: bool, action: Callable[[], None]) -> None:
    try:
        action()
    except HanseError as error:
        if debug:
            traceback.print_exc()
        click.echo(f"error: {error}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except click.exceptions.Exit:
        raise
    except click.ClickException:
        raise
    except Exception as error:  # noqa: BLE001 — the last line of defence
        if debug:
            traceback.print_exc()
        click.echo(f"error: internal error ({type(error).__name__}): run it again with --debug and report it", err=True)
        sys.exit(1)


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(hanse.__version__)
def main() -> None:
    """Operate a registry: the league's directory of signed metadata. It holds nobody's data."""


@_command()
@click.option("--name", default="", help="The league's name, for people.")
@click.option("--root", type=PREFIX, default="86", show_default=True, help="What every member's prefix begins with.")
@click.option(
    "--listen", type=ADDRESS, help="HOST:PORT to listen on; port 0 takes a free one.  [default: 0.0.0.0:7400]"
)
@click.option("--advertise", type=ADDRESS, help="HOST:PORT that members dial.  [default: what it listens on]")
def init(home: Path, name: str, root: Prefix, listen: Address | None, advertise: Address | None, as_json: bool) -> None:
    """Make a new registry: its keys, its certificate authority, its database."""
    from registry import app

    app.init(home, name, root, listen, (advertise,) if advertise else ())
    told = app.status(home)
    addresses = [str(each) for each in told.registries]
    if as_json:
        click.echo(json.dumps({"home": str(home), "name": told.config.name, "root": str(root), "registries": addresses,
                               "league": told.fingerprint.hex()}, ensure_ascii=False))  # fmt: skip
        return
    click.echo(f"registry {told.config.name!r} for {root} is set up in {home}")
    click.echo(f"members will reach it at {', '.join(addresses)}; fingerprint {told.fingerprint.hex()}")
    click.echo(f"next: hanse-registry serve --home {home}")


@_command()
@click.argument("prefix", type=PREFIX)
@click.option("--name", default="", help="The organization's name, for people.")
@click.option("--valid", type=DURATION, default="24h", show_default=True, help="How long it may be used: 30m, 24h, 7d.")
def invite(home: Path, prefix: Prefix, name: str, valid: int, as_json: bool) -> None:
    """Print an invitation for PREFIX: one string, good for one organization, once."""
    from registry import app

    text = app.invite(home, prefix, name, valid)
    click.echo(json.dumps({"invitation": text, "prefix": str(prefix), "valid_seconds": valid}) if as_json else text)


@_command(prints=False)
def serve(home: Path) -> None:
    """Run the registry until SIGTERM. Prints 'listening on HOST:PORT' when it is ready."""
    from registry import app
    from registry.observe import start_log

    debug = bool(click.get_current_context().params["debug"])
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")
    start_log(debug=debug)
    app.serve(home, ready=lambda address: click.echo(f"listening on {address}"))


@_command()
def orgs(home: Path, as_json: bool) -> None:
    """List the members."""
    from registry import app

    listed = app.orgs(home)
    if not as_json and not listed:
        click.echo("no members yet: `hanse-registry invite PREFIX` makes an invitation", err=True)
    for member in listed:
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "prefix": str(member.prefix),
                        "name": member.display_name,
                        "organization_version": member.organization_version,
                        "suspended": member.suspended_at is not None,
                        "suspended_at": member.suspended_at,
                        "reason": member.reason,
                    },
                    ensure_ascii=False,
                )
            )
            continue
        standing = "suspended" if member.suspended_at is not None else "member"
        click.echo(
            "  ".join(filter(None, (f"{member.prefix!s:<32}", f"{standing:<9}", member.display_name, member.reason)))
        )


@_command()
@click.argument("prefix", type=PREFIX)
@click.option("--reason", default="", help="Told to the members.")
def suspend(home: Path, prefix: Prefix, reason: str, as_json: bool) -> None:
    """Suspend PREFIX: nodes refuse it within seconds."""
    from registry import app

    changed = app.suspend(home, prefix, reason)
    _print_standing(prefix, "suspended", changed, as_json)


@_command()
@click.argument("prefix", type=PREFIX)
def restore(home: Path, prefix: Prefix, as_json: bool) -> None:
    """End the suspension of PREFIX."""
    from registry import app

    changed = app.restore(home, prefix)
    _print_standing(prefix, "a member in good standing", changed, as_json)


def _print_standing(prefix: Prefix, standing: str, changed: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"prefix": str(prefix), "suspended": standing == "suspended", "changed": changed}))
    else:
        click.echo(f"{prefix} is {standing}" if changed else f"{prefix} was {standing} already")


@_command()
def status(home: Path, as_json: bool) -> None:
    """Tell how the registry is."""
    from registry import app

    told = app.status(home)
    figures = told.figures
    facts = {
        "name": told.config.name,
        "root": str(told.config.root),
        "serving": told.serving,
        "registries": [str(each) for each in told.registries],
        "league": told.fingerprint.hex(),
        "members": told.members,
        "suspended": told.suspended,
        "objects": figures.objects,
        "withdrawn": figures.withdrawn,
        "position": figures.last_position,
        "bytes_on_disk": figures.bytes_on_disk,
        "log_key": told.log_key,
    }
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        click.echo(f"{name.replace('_', ' '):<14} {', '.join(shown) if isinstance(shown, list) else shown}")


@_command()
def check(home: Path, as_json: bool) -> None:
    """Look for what does not hold together: keys, database, members' histories."""
    from registry import app

    problems = app.check(home)
    if as_json:
        click.echo(json.dumps({"problems": problems}, ensure_ascii=False))
    for problem in problems:
        click.echo(f"problem: {problem}", err=True)
    if problems:
        sys.exit(6)
    if not as_json:
        click.echo("no problems found")


if __name__ == "__main__":
    main()
