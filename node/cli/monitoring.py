"""Watching the registry: monitor."""

import time
from typing import TYPE_CHECKING, Any

import click

from node.cli.frame import Session, command
from node.cli.output import document, documents, line, note, number, safe, when

if TYPE_CHECKING:
    from node.storage.monitor import Reported

_PAUSE = 1.0  # seconds between two looks of a command that stays


@command(short="What the registry's log says in your name")
@click.option("--once", is_flag=True, help="Up to what there is now; then end.")
@click.option("--all", "dismissed", is_flag=True, help="Also what was dismissed.")
@click.option("--dismiss", metavar="N", type=int, multiple=True, help="This finding was looked into; see below.")
@click.pass_context
def monitor(context: click.Context, session: Session, once: bool, dismissed: bool, dismiss: tuple[int, ...]) -> None:
    """Follow the registry's log, and report what was done in your name that this home did not sign off.

    A record or tombstone under your prefix that your catalog does not have, an organization record that is not your
    own, a certificate for a key that your record never named; and a log that is not what the registry signed. `hanse
    serve` does the same in the background; what either found is kept until it is dismissed, and `hanse status` shows
    that there is something. Ends with 6 as long as there is.

    --dismiss N is for what is explained: another machine of yours made it, or you know by whom and why. It stays in
    --all and in `hanse evidence export`.

    \b
    With --json, one a line: number, kind (record, organization, certificate, log), entry, what, remedy, noticed_at,
    dismissed_at.
    """
    import contextlib

    from hanse.client.reaching import reach
    from hanse.errors import Unreachable
    from node.cli.home import known_of, storage_of
    from node.monitor import Monitor
    from node.storage.monitor import FILE, MonitorStorage

    session.after_interrupt = "Stopped. It goes on from there."
    with contextlib.ExitStack() as stack:
        identity, catalog = stack.enter_context(storage_of(session))
        storage = stack.enter_context(contextlib.closing(MonitorStorage.open(identity.home / FILE)))
        for each in dismiss:
            storage.dismiss(each, int(time.time()))
        if dismiss:
            _dismissed(session, dismiss)
            return
        known = stack.enter_context(known_of(session))
        league = stack.enter_context(reach(identity))
        following = Monitor(lambda: identity, lambda: league, known, catalog, storage)
        shown: set[int] = set()
        while True:
            try:
                look = following.look()
            except Unreachable as error:
                if once:
                    raise
                note(str(error))
            else:
                _show(session, [each for each in storage.findings(dismissed=dismissed) if each.number not in shown])
                if once:
                    break
                shown |= {each.number for each in storage.findings(dismissed=True)}
            time.sleep(_PAUSE)
        found = storage.findings()
    if not session.json:
        line(
            f"{look.size:,} of {number(look.of, 'entry', 'entries')} of the registry's log followed. "
            + _sum(len(found))
        )
    if found:
        context.exit(6)


def described(each: "Reported") -> dict[str, Any]:
    """For machines."""
    found = each.finding
    return {
        "number": each.number,
        "kind": found.kind,
        "entry": found.position,
        "what": found.what,
        "remedy": found.remedy,
        "noticed_at": each.noticed_at,
        "dismissed_at": each.dismissed_at,
    }


def _show(session: Session, found: "list[Reported]") -> None:
    if session.json:
        documents(map(described, found))
        return
    for each in found:
        dismissed = f"dismissed {when(each.dismissed_at)}. " if each.dismissed_at else ""
        finding = each.finding
        line(f"{each.number}. {dismissed}Entry {finding.position:,}: {safe(finding.what)}. → {safe(finding.remedy)}.")


def _sum(count: int) -> str:
    if not count:
        return "Nothing in it is in your name that this home did not sign off."
    return f"{number(count, 'finding')} to look into; `hanse monitor --dismiss N` when one is explained."


def _dismissed(session: Session, numbers: tuple[int, ...]) -> None:
    if session.json:
        document({"dismissed": list(numbers)})
    else:
        line(f"Dismissed: {', '.join(map(str, numbers))}.")
