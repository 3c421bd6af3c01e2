"""Whom this home wants as witnesses of the registry's log: witness list, add, remove, require."""

from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command, group
from node.cli.output import document, line, note, table

if TYPE_CHECKING:
    from hanse.cosigning import Policy


@group("witness", short="Who must have cosigned the registry's log")
def witness() -> None:
    """Who must have cosigned the registry's log before this home believes it.

    A witness signs only what continues all that it signed before; so the registry cannot show this home another log
    than it shows to those whom you name here. `hanse serve --witness` makes a node one.
    """


@command("list", short="The witnesses, and how many are required")
def list_witnesses(session: Session) -> None:
    """The witnesses that this home knows, and how many of them must have cosigned.

    \b
    With --json: require, witnesses [{name, key}].
    """
    policy = _policy(session)
    if session.json:
        _document(policy)
    elif policy.keys:
        table(("WITNESS", "KEY"), [(each.name, str(each)) for each in policy.keys])
        _tell(policy)
    else:
        line("No witnesses: `hanse witness add KEY`.")


@command("add", short="Name a witness")
@click.argument("key")
def add_witness(session: Session, key: str) -> None:
    """Name the witness with that KEY, which its `hanse status` shows. How many are required is not changed by it."""
    from hanse.cosigning import Policy, WitnessKey
    from hanse.errors import AlreadyExists, InvalidInput
    from node.cli.home import identity_of

    policy, found = _policy(session), WitnessKey.parse(key)
    if found in policy.keys:
        raise AlreadyExists(f"{found.name} is named already")
    if found.key == identity_of(session).authority.registry_key:
        raise InvalidInput("this is the registry's own key: it would be its own witness")
    _save(session, Policy(policy.require, (*policy.keys, found)))


@command("remove", short="Strike a witness off")
@click.argument("name")
def remove_witness(session: Session, name: str) -> None:
    """Strike off the witness with that NAME or key. One that is needed for what is required stays."""
    from hanse.cosigning import Policy
    from hanse.errors import Conflict, NotFound

    policy = _policy(session)
    left = tuple(each for each in policy.keys if name not in (each.name, str(each)))
    if left == policy.keys:
        raise NotFound(f"no witness {name} is named: `hanse witness list`")
    if policy.require > len(left):
        raise Conflict(f"{policy.require} are required, and {len(left)} would be left: `hanse witness require` first")
    _save(session, Policy(policy.require, left))


@command("require", short="Say how many must have cosigned")
@click.argument("count", type=click.IntRange(0), metavar="N")
def require_witnesses(session: Session, count: int) -> None:
    """Believe the registry's log only when N of the named witnesses have cosigned it within the last minutes."""
    from hanse.cosigning import Policy

    _save(session, Policy(count, _policy(session).keys))


for each in (list_witnesses, add_witness, remove_witness, require_witnesses):
    witness.add_command(each)


def _policy(session: Session) -> "Policy":
    from node.cli.home import identity_of

    return identity_of(session).witnesses


def _save(session: Session, policy: "Policy") -> None:
    from hanse.client import witnesses
    from node.cli.home import daemon_runs, home_of

    witnesses.save(home_of(session) / witnesses.FILE, policy.check())
    if session.json:
        _document(policy)
    else:
        _tell(policy)
    if daemon_runs(session):
        note("`hanse serve` takes it when it is started again.")


def _document(policy: "Policy") -> None:
    document({"require": policy.require, "witnesses": [{"name": each.name, "key": str(each)} for each in policy.keys]})


def _tell(policy: "Policy") -> None:
    line(f"{policy.require} of {len(policy.keys)} must have cosigned the registry's log before it is believed.")
