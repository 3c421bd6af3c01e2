"""The command ``hanse-registry``: parses, calls registry.app, prints. No decisions."""

import functools
import json
import os
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

import hanse
from hanse.errors import HanseError, InvalidInput
from hanse.model.address import Address
from hanse.model.identifier import Prefix

if TYPE_CHECKING:
    from registry.app import Space
    from registry.backup import Backup
    from registry.importing import Verified
    from registry.store import Store, Wanted
    from registry.witnesses import State

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


def _count(text: str) -> int:
    from registry.usage import count

    return count(text)


def _size(text: str) -> int:
    from registry.usage import size

    return size(text)


def _store(text: str) -> "Store":
    from registry.store import Store

    return Store.parse(text)


def _wanted(text: str) -> "Wanted":
    from registry.store import IN_FILE

    return IN_FILE if text == IN_FILE else _store(text)


STORE = _Parsed("address", _store)
WANTED = _Parsed("address", _wanted)
_WANTED_HELP = "Where it is kept from now on: postgresql://USER@HOST/DATABASE, an empty one, or the word file."
PREFIX = _Parsed("prefix", Prefix.parse)
ADDRESS = _Parsed("host:port", Address.parse)
DURATION = _Parsed("duration", _duration)
COUNT = _Parsed("number", _count)
SIZE = _Parsed("size", _size)


def _default_home() -> Path:
    import platformdirs

    return Path(platformdirs.user_data_dir("hanse-registry"))


def _command(*, prints: bool = True, needs_home: bool = True) -> Callable[[Callable[..., None]], click.Command]:
    def decorate(function: Callable[..., None]) -> click.Command:
        @functools.wraps(function)
        def run(debug: bool, home: Path | None = None, **options: Any) -> None:
            folder = home or _default_home()
            _guarded(debug, lambda: function(folder, **options) if needs_home else function(**options))

        decorated: Any = click.option("--debug", is_flag=True, help="Show tracebacks and more of the log.")(run)
        if prints:
            decorated = click.option("--json", "as_json", is_flag=True, help="Print JSON, for machines.")(decorated)
        if needs_home:
            decorated = click.option(
                "--home",
                envvar="HANSE_HOME",
                type=click.Path(path_type=Path, file_okay=False),
                help="Where the registry keeps everything.  [default: the platform's data folder]",
            )(decorated)
        return main.command(function.__name__.rstrip("_").replace("_", "-"), epilog=_EPILOG)(decorated)

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
@click.option(
    "--store", type=STORE, help="postgresql://USER@HOST/DATABASE, an empty one.  [default: a file in the home]"
)
def init(
    home: Path,
    name: str,
    root: Prefix,
    listen: Address | None,
    advertise: Address | None,
    store: "Store | None",
    as_json: bool,
) -> None:
    """Make a new registry: its keys, its certificate authority, its database."""
    from registry import app

    app.init(home, name, root, listen, (advertise,) if advertise else (), store=store)
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
@click.option("--mirror", is_flag=True, help="For `hanse-registry mirror`: it will serve what this registry tells.")
def invite(home: Path, prefix: Prefix, name: str, valid: int, mirror: bool, as_json: bool) -> None:
    """Print an invitation for PREFIX: one string, good for one organization, once."""
    from registry import app

    text = app.invite(home, prefix, name, valid, mirror=mirror)
    click.echo(json.dumps({"invitation": text, "prefix": str(prefix), "valid_seconds": valid}) if as_json else text)


@_command(prints=False)
@click.option("--workers", type=click.IntRange(1, 64), default=1, show_default=True, help="How many processes serve.")
def serve(home: Path, workers: int) -> None:
    """Run the registry until SIGTERM. Prints 'listening on HOST:PORT' when it is ready."""
    from registry import app
    from registry.observe import start_log

    debug = bool(click.get_current_context().params["debug"])
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")
    start_log(debug=debug)
    app.serve(home, ready=lambda address: click.echo(f"listening on {address}"), workers=workers, debug=debug)


@_command(prints=False)
@click.argument("source", metavar="[FROM]", required=False)
@click.option("--listen", type=ADDRESS, help="HOST:PORT to listen on; port 0 takes a free one.")
@click.option("--advertise", type=ADDRESS, help="HOST:PORT that members dial.  [default: what it listens on]")
def mirror(home: Path, source: str | None, listen: Address | None, advertise: Address | None) -> None:
    """Mirror a registry, read-only, until SIGTERM. Prints 'listening on HOST:PORT' when it serves.

    FROM is an invitation that the registry's operator made with --mirror: needed the first time. Later it may be left
    out, or be HOST:PORT of the registry.
    """
    from registry.mirroring import app
    from registry.observe import start_log

    debug = bool(click.get_current_context().params["debug"])
    os.environ.setdefault("GRPC_VERBOSITY", "INFO" if debug else "NONE")
    start_log(debug=debug)
    app.run(source, home, lambda address: click.echo(f"listening on {address}"), listen, advertise)


@_command()
def orgs(home: Path, as_json: bool) -> None:
    """List the members."""
    from registry import app

    listed, spaces = app.orgs(home), app.spaces(home)
    if not as_json and not listed:
        click.echo("no members yet: `hanse-registry invite PREFIX` makes an invitation", err=True)
    for member in listed:
        space = spaces.get(member.prefix)
        if as_json:
            click.echo(
                json.dumps(
                    {
                        "prefix": str(member.prefix),
                        "name": member.display_name,
                        "organization_version": member.organization_version,
                        "mirror": member.mirror,
                        "suspended": member.suspended_at is not None,
                        "suspended_at": member.suspended_at,
                        "reason": member.reason,
                    }
                    | (_space_facts(space) if space else {}),
                    ensure_ascii=False,
                )
            )
            continue
        standing = "suspended" if member.suspended_at is not None else "mirror" if member.mirror else "member"
        used = f"{space.used.objects:>9,} objects {space.used.bytes:>15,} bytes" if space else ""
        click.echo(
            "  ".join(
                filter(None, (f"{member.prefix!s:<32}", f"{standing:<9}", used, member.display_name, member.reason))
            )
        )


def _space_facts(space: "Space") -> dict[str, Any]:
    from registry.usage import NAMES, shown

    limits = {name: shown(getattr(space.allowed, name)) for name in NAMES}
    return {"objects": space.used.objects, "bytes": space.used.bytes, "limits": limits}


@_command()
@click.argument("prefix", type=PREFIX)
@click.option("--records", type=COUNT, help="Identifiers that it may ever use, or none.")
@click.option("--publishes-per-minute", type=COUNT, help="Versions that are accepted of it a minute, or none.")
@click.option("--bytes", "size", type=SIZE, help="Of the records that it signed: 500MB, 2GB, or none.")
@click.option("--default", "forget", is_flag=True, help="Forget what was set here: registry.toml counts again.")
def limit(
    home: Path, prefix: Prefix, records: int | None, publishes_per_minute: int | None, size: int | None,
    forget: bool, as_json: bool,
) -> None:  # fmt: skip
    """Set what PREFIX may store and publish; without an option, show it. It holds at once, without a restart."""
    from registry import app
    from registry.usage import Limits

    space = app.limit(home, prefix, Limits(records, publishes_per_minute, size), forget=forget)
    facts = _space_facts(space)
    if as_json:
        click.echo(json.dumps({"prefix": str(prefix)} | facts))
        return
    limits = {name: "none" if value is None else f"{value:,}" for name, value in facts["limits"].items()}
    click.echo(f"identifiers            {space.used.objects:,} of {limits['records']}")
    click.echo(f"bytes                  {space.used.bytes:,} of {limits['bytes']}")
    click.echo(f"publishes a minute     {limits['publishes_per_minute']}")


@_command()
@click.argument("prefix", type=PREFIX)
@click.option("--reason", default="", help="Told to the members.")
def suspend(home: Path, prefix: Prefix, reason: str, as_json: bool) -> None:
    """Suspend PREFIX: nodes refuse it within seconds."""
    from registry import app

    changed = app.suspend(home, prefix, reason)
    _print_standing(prefix, "suspended", changed, as_json)


@_command()
@click.argument("what", metavar="PREFIX|BACKUP")
@click.option("--store", type=WANTED, help=f"{_WANTED_HELP}  [default: as it was]")
def restore(home: Path, what: str, store: "Wanted", as_json: bool) -> None:
    """End the suspension of PREFIX, or make the new home --home of the folder BACKUP."""
    from registry import app, operating

    found = operating.what_to_restore(what)
    if found.prefix is not None:
        if store is not None:
            raise click.UsageError("--store is for a backup")
        changed = app.restore(home, found.prefix)
        _print_standing(found.prefix, "a member in good standing", changed, as_json)
    elif found.backup is not None:
        made = operating.restore(found.backup, home, store)
        if as_json:
            click.echo(json.dumps({"home": str(home), **_backup_facts(made)}, ensure_ascii=False))
            return
        click.echo(f"{home} is the registry as it was at {made.made}, with {made.entries:,} entries in its log")
        command = f"hanse accept-registry --size {made.entries} --root {made.root}"
        click.echo(
            "what was acknowledged after that is not in it. Members who saw more of the log will report a rollback and "
            f"let nobody in after a day, until they run `{command}`: "
            "before you serve it, read 'Restoring goes back in time' in deploy/README.md"
        )


@_command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def export(home: Path, file: Path, as_json: bool) -> None:
    """Write the whole registry to FILE, also while it serves: all that was signed, and no key."""
    from registry import operating

    written = operating.export(home, file)
    if as_json:
        click.echo(json.dumps({"file": str(written.path), "entries": written.size, "root": written.root.hex(),
                               "bytes": written.bytes, **_counts(written.counts)}))  # fmt: skip
        return
    click.echo(f"wrote {written.path}: {written.size:,} entries, {written.bytes / 1e6:,.1f} MB")
    click.echo(f"anybody can prove it: hanse-registry verify {written.path}")


@_command(needs_home=False)
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
def verify(file: Path, as_json: bool) -> None:
    """Prove every entry of a registry's FILE, and all of them together. Needs no home and no key."""
    from registry import operating

    _print_verified(operating.verify(file), as_json)


@_command()
@click.argument("file", type=click.Path(path_type=Path, dir_okay=False))
@click.option("--keys", required=True, type=click.Path(path_type=Path, file_okay=False),
              help="A backup, or a home, that has the league's keys.")  # fmt: skip
@click.option("--store", type=WANTED, help=f"{_WANTED_HELP}  [default: as in KEYS]")
def import_(home: Path, file: Path, keys: Path, store: "Wanted", as_json: bool) -> None:
    """Make the new home --home of a registry's FILE, after proving it."""
    from registry import operating

    verified = operating.import_(file, home, keys, store)
    _print_verified(verified, as_json)
    if not as_json:
        click.echo(f"{home} is that registry now; invitations that were not used yet have to be made again")
        click.echo(
            "if the members saw more entries than these, read 'Restoring goes back in time' in deploy/README.md first"
        )


@_command()
@click.argument("store", type=STORE, required=False)
@click.option("--undo", is_flag=True, help="End a move that was begun and not done: the file takes new entries again.")
def migrate_store(home: Path, store: "Store | None", undo: bool, as_json: bool) -> None:
    """Move the registry from the file in its home to STORE, an empty PostgreSQL: postgresql://USER@HOST/DATABASE.

    A registry that serves answers meanwhile and takes nothing new; restart it afterwards. What was cut off goes on when
    it is begun again.
    """
    from registry import operating

    if undo == (store is not None):
        raise click.UsageError("give either the address of a store, or --undo")
    if store is None:
        operating.stay(home)
        click.echo(
            json.dumps({"moving": False}) if as_json else "the registry stays in its file, and takes new entries"
        )
        return
    head = operating.move(home, store)
    if as_json:
        click.echo(json.dumps({"moving": False, "entries": head.size, "root": head.root.hex()}))
        return
    click.echo(f"moved {head.size:,} entries; both stores have the same log, members and objects")
    click.echo("restart `hanse-registry serve` now: until then it takes nothing new. registry.db is not used any more")


def _counts(counts: Mapping[Any, int]) -> dict[str, int]:
    return {f"{kind.name.lower()}_entries": counts[kind] for kind in sorted(counts)}


def _print_verified(verified: "Verified", as_json: bool) -> None:
    checkpoint = verified.signed.checkpoint
    if as_json:
        click.echo(json.dumps({
            "league": verified.authority.fingerprint.hex(), "name": verified.authority.display_name,
            "entries": checkpoint.size, "root": checkpoint.root.hex(), "made_at": verified.made_at,
            "signed_at": verified.signed.at, "members": len(verified.members), **_counts(verified.counts),
        }, ensure_ascii=False))  # fmt: skip
        return
    kinds = ", ".join(f"{count:,} {kind.name.lower()}" for kind, count in sorted(verified.counts.items()))
    click.echo(f"proved: {checkpoint.size:,} entries ({kinds}); {len(verified.members):,} members")
    click.echo(f"of the league {verified.authority.display_name!r}: is its fingerprint the one you know?")
    click.echo(verified.authority.fingerprint.hex())


def _backup_facts(made: "Backup") -> dict[str, Any]:
    return {
        "folder": str(made.folder), "made_at": made.made_at, "league": made.league, "entries": made.entries,
        "root": made.root, "schema": made.schema, "files": len(made.files), "bytes": made.bytes,
    }  # fmt: skip


@_command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False))
def backup(home: Path, folder: Path, as_json: bool) -> None:
    """Back up the registry, also while it serves, into a new folder in FOLDER that is named by the time.

    It is restored once and checked before it is called done. It holds the league's keys: keep it safe.
    """
    from registry import operating

    made = operating.backup(home, folder)
    if as_json:
        click.echo(json.dumps(_backup_facts(made), ensure_ascii=False))
        return
    click.echo(
        f"backed up to {made.folder}: {made.entries:,} entries, {made.bytes / 1e6:,.1f} MB; restored and checked"
    )
    click.echo(f"to go back: hanse-registry restore {made.folder} --home NEW")


def _print_standing(prefix: Prefix, standing: str, changed: bool, as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps({"prefix": str(prefix), "suspended": standing == "suspended", "changed": changed}))
    else:
        click.echo(f"{prefix} is {standing}" if changed else f"{prefix} was {standing} already")


@_command()
def status(home: Path, as_json: bool) -> None:
    """Tell how the registry, or the mirror, is."""
    from registry import app
    from registry.mirroring import is_mirror

    if is_mirror(home):
        _print_facts(_mirror_facts(home), as_json)
        return
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
        "record_bytes": told.record_bytes,
        "bytes_on_disk": figures.bytes_on_disk,
        "nearly_full": [str(each) for each in told.nearly_full],
        "log_key": told.log_key,
        "witnesses": [
            {"name": each.name, "size": each.size, "problem": each.problem} if as_json else _witness(each)
            for each in told.witnesses
        ],
    }
    _print_facts(facts, as_json)


def _print_facts(facts: dict[str, Any], as_json: bool) -> None:
    if as_json:
        click.echo(json.dumps(facts, ensure_ascii=False))
        return
    for name, value in facts.items():
        shown = {True: "yes", False: "no"}[value] if isinstance(value, bool) else value
        click.echo(f"{name.replace('_', ' '):<14} {', '.join(shown) if isinstance(shown, list) else shown}")


@_command(prints=False)
def probe(home: Path) -> None:
    """Ask the registry that runs here whether it is healthy, for containers: exit code 0 or 5."""
    from registry import app

    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    app.probe(home)


def _witness(state: "State") -> str:
    return state.problem or f"{state.name} has cosigned {state.size:,} entries"


def _mirror_facts(home: Path) -> dict[str, Any]:
    from registry import app
    from registry.mirroring.status import status as mirror_status

    told = mirror_status(home, time.time())
    return {
        "name": told.config.name,
        "root": str(told.config.root),
        "mirror": told.prefix,
        "of": [str(each) for each in told.of],
        "serving": app.answers(told.config.listen, told.port),
        "addresses": [str(each) for each in told.advertised],
        "league": told.fingerprint.hex(),
        "members": told.members,
        "suspended": told.suspended,
        "objects": told.figures.objects,
        "withdrawn": told.figures.withdrawn,
        "position": told.figures.last_position,
        "whole": told.whole,
        "lag_entries": told.lag_entries,
        "lag_seconds": told.lag_seconds,
        "last_error": told.error,
        "refused": told.refused,
        "certificate_until": told.certificate_until,
        "contradictions": [each.what for each in told.contradictions],
        "bytes_on_disk": told.figures.bytes_on_disk,
        "log_key": told.log_key,
    }


@_command()
@click.option(
    "--keys",
    type=click.Path(path_type=Path, file_okay=False),
    required=True,
    help="The registry's keys/, from a backup.",
)
@click.option("--force", is_flag=True, help="Also while the registry answers.")
def promote(home: Path, keys: Path, force: bool, as_json: bool) -> None:
    """Make a mirror the registry, when the registry is lost. The mirror's daemon must not run."""
    from registry.mirroring import promoting

    done = promoting.promote(home, keys, time.time, force=force)
    if as_json:
        facts = {
            "entries": done.entries, "root": done.root.hex(), "missing": done.missing, "seen_at": done.seen_at
        }  # fmt: skip
        click.echo(json.dumps({**facts, "registries": [str(each) for each in done.addresses]}))
        return
    click.echo(f"the registry is now this one, at {', '.join(map(str, done.addresses))}, with {done.entries:,} entries")
    if done.missing:
        click.echo(
            f"{done.missing:,} more were in the log that the lost registry showed, and are not here: if another "
            "mirror, or a backup, has them, do not serve this one, and take that instead",
            err=True,
        )
    heard = "" if done.seen_at is None else time.strftime(", %Y-%m-%d %H:%M:%S UTC", time.gmtime(done.seen_at))
    click.echo(f"lost may be what the registry acknowledged after it was last heard of{heard}; and unused invitations")
    click.echo(
        "members who saw more of its log report a rollback, until they run this; it publishes again what they lost: "
        f"hanse accept-registry --size {done.entries} --root {done.root.hex()}"
    )
    click.echo(f"next: hanse-registry serve --home {home}")


@_command()
@click.option("--deep", is_flag=True, help="Also verify every signature: some 20 s more for 100,000 records.")
@click.option("--repair", is_flag=True, help="Make the search index anew first. Members' data are never altered.")
def check(home: Path, deep: bool, repair: bool, as_json: bool) -> None:
    """Read the whole log again: whether all that is stored holds together and with it. Also while it serves."""
    from registry import app
    from registry.mirroring import is_mirror, status

    problems = app.check(home, deep=deep, repair=repair)
    if is_mirror(home) and (problem := status.problem(home)):
        problems = [*problems, problem]
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
