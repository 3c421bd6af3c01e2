"""Looking after a node: status, audit, doctor."""

import re
import time
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import documents, line, moment, number, safe, size, table

if TYPE_CHECKING:
    from node.doctor import Finding

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def parse_since(text: str, now: int) -> int:
    """``90s``, ``15m``, ``2h``, ``7d``, ``4w`` ago, or a date ``2026-11-23`` or time ``2026-11-23T14:00:00Z`` (UTC).

    Raises click.BadParameter.
    """
    import datetime

    ago = re.fullmatch(r"(\d{1,9})([smhdw])", text)
    if ago:
        return max(0, now - int(ago[1]) * _UNITS[ago[2]])
    try:
        parsed = datetime.datetime.fromisoformat(text)
        return int((parsed if parsed.tzinfo else parsed.replace(tzinfo=datetime.UTC)).timestamp())
    except (ValueError, OverflowError):
        raise click.BadParameter(
            f"{text!r} is neither an age such as 15m, 2h, 7d nor a time such as 2026-11-23 or 2026-11-23T14:00:00Z",
            param_hint="'--since'",
        ) from None


@command()
@click.option("--peer", metavar="PREFIX", help="Only what this organization asked for.")
@click.option(
    "--object", "object", metavar="ID", help="Only about this object; a suffix of our own, or a whole identifier."
)
@click.option("--since", metavar="D", help="An age (15m, 2h, 7d) or a time (2026-11-23, UTC).")
@click.option("--limit", type=click.IntRange(1), default=1000, show_default=True, metavar="N", help="The newest N.")
def audit(session: Session, peer: str | None, object: str | None, since: str | None, limit: int) -> None:
    """Every decision of this node: who asked for what, whether it was allowed, and how many bytes went out.

    \b
    With --json, one a line, newest first: number, at, peer, key_id, object, version, operation, allowed, why, bytes.
    """
    from hanse.model.identifier import Identifier, Prefix
    from node.cli.home import audit_of, identity_of, own_suffix

    begin = parse_since(since, int(time.time())) if since else None
    prefix = str(Prefix.parse(peer)) if peer else None
    asked = None
    if object is not None:
        own = identity_of(session).prefix
        asked = str(Identifier.of(own, own_suffix(own, object)))
    with audit_of(session) as rows_of:
        rows = list(rows_of(prefix, asked, begin, limit))
    if session.json:
        documents(
            {
                "number": row.number,
                "at": row.decided.at,
                "peer": row.decided.peer,
                "key_id": row.decided.key_id,
                "object": row.decided.object,
                "version": row.decided.version,
                "operation": row.decided.operation,
                "allowed": row.decided.allowed,
                "why": row.decided.why,
                "bytes": row.served,
            }
            for row in rows
        )
        return
    if not rows:
        line("No decision yet that fits." if any((peer, object, since)) else "Nobody has asked for anything yet.")
        return
    table(
        ("WHEN", "WHO", "WHAT", "OBJECT", "DECISION", "BYTES", "WHY"),
        [
            (
                moment(row.decided.at),
                row.decided.peer,
                row.decided.operation,
                row.decided.object,
                "allowed" if row.decided.allowed else "refused",
                size(row.served),
                row.decided.why,
            )
            for row in rows
        ],
        right=(5,),
    )


@command()
@click.argument("target", metavar="[ID|PREFIX]", required=False)
@click.pass_context
def doctor(context: click.Context, session: Session, target: str | None) -> None:
    """Why does it not work: clock, keys, certificate, registry, own node, sources; with ID or PREFIX, that too.

    Ends with the exit code of the first thing that fails.

    \b
    With --json, one a line: check, grade (ok, warn, fail), text, remedy, exit_code.
    """
    from node.doctor import examine, parse_target, worst

    asked = parse_target(target) if target is not None else None
    found: list[Finding] = []
    for finding in examine(session.folder, asked):
        found.append(finding)
        if session.json:
            documents([finding])
        else:
            _show(finding)
    if not session.json:
        line()
        line(_summary(found))
    code = worst(found)
    if code:
        context.exit(code)


_MARKS = {
    "ok": click.style("ok  ", fg="green"),
    "warn": click.style("warn", fg="yellow"),
    "fail": click.style("FAIL", fg="red"),
}


def _show(finding: "Finding") -> None:
    line(f"{_MARKS[finding.grade.value]}  {safe(finding.check):<12}  {safe(finding.text)}")
    if finding.remedy:
        line(f"{'':18}  → {safe(finding.remedy)}")


def _summary(found: "list[Finding]") -> str:
    failed = sum(each.grade.value == "fail" for each in found)
    warned = sum(each.grade.value == "warn" for each in found)
    if failed:
        return f"{number(failed, 'thing')} to repair; the first is often the cause of the others."
    return f"It works; {number(warned, 'thing')} to look after." if warned else "All is well."


COMMANDS = (audit, doctor)
