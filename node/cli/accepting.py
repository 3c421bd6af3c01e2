"""Going on with a registry that was restored: accept-registry."""

import re
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import document, facts, line, note, number, safe, when

if TYPE_CHECKING:
    from hanse.transparency import Signed
    from node.accepting import Compared


@command("accept-registry", short="Go on with a registry that was restored")
@click.option(
    "--size", type=click.IntRange(0), metavar="N", help="Entries in its log after the restore, as you were told."
)
@click.option("--root", metavar="HEX", help="The root of those entries, as you were told; with --size.")
@click.option("--yes", is_flag=True, help="Do not ask.")
def accept_registry(session: Session, size: int | None, root: str | None, yes: bool) -> None:
    """Go on with a registry whose log does not continue what this home has seen, because it was restored.

    A registry that takes back what it said looks just like one that was restored from an old backup. Ask its operator
    on another channel, and compare --size and --root. What it signed before and now stays as evidence. What it lost of
    yours is published again, a change of your key first; ask the other members to do the same. Works while the node
    runs.

    \b
    With --json: accepted, seen {size, root, at}, shown {size, root, at}, why, older_key, published_again, contradicted.
    """
    from node.accepting import opened
    from node.cli.home import storage_of

    if (size is None) != (root is None):
        raise click.UsageError("--size and --root belong together")
    if root is not None and not re.fullmatch(r"[0-9a-fA-F]{64}", root):
        raise click.BadParameter("a root has 64 hexadecimal digits", param_hint="'--root'")
    with storage_of(session) as (identity, _), opened(identity) as accepting:
        there = accepting.compare(size, None if root is None else bytes.fromhex(root))
        if there.why and not session.json:
            _show(there)
        if there.why and not yes:
            click.confirm(
                "Did its operator tell you so, on another channel? Go on with what it shows now", abort=True, err=True
            )
        # It may have lost what this home had not seen in its log; or this was cut off the last time.
        accepted = accepting.accept(there) if there.why else accepting.publish_again()
    if session.json:
        document(
            {"accepted": bool(there.why)}
            | _told(there)
            | {"published_again": accepted.again, "contradicted": accepted.contradicted}
        )
        return
    for each in accepted.contradicted:
        note(f"{safe(each)}: the registry has what this home did not make: `hanse monitor --once` names it")
    if not there.why:
        line("The registry's log continues what this home has seen: there is nothing to accept.")
    else:
        line(
            "This home goes on with the registry as it is now; where it contradicted itself, both is kept as evidence."
        )
    if accepted.again:
        line(
            f"{number(accepted.again, 'record')} that it lost will be published again: `hanse status` shows what waits."
        )


def _show(there: "Compared") -> None:
    line(f"{safe(there.why)}.")
    line()
    facts([("seen", _checkpoint(there.seen)), ("shown now", _checkpoint(there.shown))], indent="  ")
    line()
    if there.older_key:
        line("It has lost a change of your key. If you go on, it stores the records that prove this change.")
        line()


def _told(there: "Compared") -> dict[str, object]:
    return {
        "seen": _fields(there.seen),
        "shown": _fields(there.shown),
        "why": there.why,
        "older_key": there.older_key,
    }


def _fields(signed: "Signed | None") -> dict[str, object] | None:
    if signed is None:
        return None
    return {"size": signed.checkpoint.size, "root": signed.checkpoint.root.hex(), "at": signed.at}


def _checkpoint(signed: "Signed | None") -> str:
    if signed is None:
        return ""
    found = signed.checkpoint
    return f"{number(found.size, 'entry', 'entries')}, root {found.root.hex()}\nsigned {when(signed.at)}"
