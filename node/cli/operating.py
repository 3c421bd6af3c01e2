"""Looking after a node: status, audit, doctor."""

import re
import time
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import document, documents, facts, line, moment, number, safe, size, span, table, when

if TYPE_CHECKING:
    from node.doctor import Finding
    from node.status import Lied, OutboxStatus, Status

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


@command(short="How the node is, and what waits")
def status(session: Session) -> None:
    """How the node is: registry, membership, certificate, what waits to be published and why.

    \b
    With --json: prefix, key_id, key_change_pending, league, league_fingerprint, registries, registry_address,
    registry_error, registry_answered_at, membership_age, membership_limit, suspended, certificate_until, address,
    daemon, objects, withdrawn, own_policies, policies_problem, log_entries, log_losses [{prefix, seen}],
    forks [{prefix, first, second, at}], registry_lies [{first, second, proof, what, noticed_at,
    witnesses, forked, two_faced}], monitored, monitored_of, findings [as `hanse monitor` has them], receipts_waiting,
    owed [{peer, deliveries, bytes}], witness {key, size, at}, witnesses_required, witnesses [name], waiting,
    oldest_waiting_at, last_error, refused [{key, why}].
    """
    from dataclasses import fields

    from node.cli.monitoring import described
    from node.status import status as status_of

    found = status_of(session.folder)
    outbox = found.outbox
    if session.json:
        told = {field.name: getattr(found, field.name) for field in fields(found) if field.name != "outbox"}
        told["witness"] = found.witness and {
            "key": str(found.witness.key), "size": found.witness.size, "at": found.witness.at
        }  # fmt: skip
        told["findings"] = [described(each) for each in found.findings]
        told |= {"waiting": outbox.waiting, "oldest_waiting_at": outbox.oldest_at, "last_error": outbox.last_error}
        document(told | {"refused": outbox.refused})
        return
    line(f"{found.prefix}, a member of {safe(found.league)}")
    line()
    facts(
        [
            ("node", f"runs (process {found.daemon})" if found.daemon else "does not run: `hanse serve`"),
            ("address", found.address or "none published yet"),
            ("key id", f"{found.key_id}{', not yet acknowledged by the registry' if found.key_change_pending else ''}"),
            ("certificate", f"until {when(found.certificate_until)}"),
            ("registry", _registry(found)),
            ("standing", _STANDINGS[found.suspended]),
            ("objects", f"{found.objects:,}" + (f", and {found.withdrawn:,} withdrawn" if found.withdrawn else "")),
            ("to publish", _waiting(outbox)),
            ("own policies", _policies(found)),
            ("refused", "\n".join(f"{each.key}: {each.why}" for each in outbox.refused)),
            ("log", number(found.log_entries, "entry", "entries")),
            ("receipts", _receipts(found)),
            (
                "owed",
                "\n".join(
                    f"{each.peer}: {size(each.bytes)} in {number(each.deliveries, 'delivery', 'deliveries')}"
                    for each in found.owed
                ),
            ),
            ("LOST", "\n".join(f"{each.prefix} has seen {each.seen:,} entries. {_LOST}" for each in found.log_losses)),
            ("FORKED", "\n".join(f"{when(each.at)} by {each.prefix}. {_FORKED}" for each in found.forks)),
            ("monitor", _monitored(found)),
            ("witness", _witness(found)),
            ("requires", _requires(found)),
            ("IN YOUR NAME", _IN_YOUR_NAME.format(number(len(found.findings), "thing")) if found.findings else ""),
            ("LIED", "\n".join(map(_lied, found.registry_lies))),
        ],
        indent="  ",
    )


_LOST = "Our log does not have them any more: evidence.db seems to be an old backup. That peer still has its papers."
_FORKED = "What it signed of its log now and before do not fit together: it proves little. Both are kept, see --json."
_LIED = "Both checkpoints, signed by the registry, are kept: `hanse evidence export` has them."
_IN_YOUR_NAME = "{} in the registry's log that this home did not sign off: `hanse monitor`"
_STANDINGS = {None: "not known: the registry has not answered yet", False: "good", True: "SUSPENDED"}


def _lied(lie: "Lied") -> str:
    names = ", ".join(lie.two_faced)
    signed = f"SIGNED TWO HISTORIES, and is no witness any more: {names}. " if names else ""
    return f"{when(lie.noticed_at)}: {lie.what}. {signed}{_LIED}"


def _registry(found: "Status") -> str:
    if not found.registry_error:
        others = len(found.registries) - 1
        more = f", and has {number(others, 'other address', 'other addresses')}" if others > 0 else ""
        return f"answers at {found.registry_address or 'no address'}{more}"
    if found.membership_age is None:
        return f"{found.registry_error}\nIt has never answered yet."
    left = max(0, found.membership_limit - found.membership_age)
    return f"{found.registry_error}\nWorking with what it said {span(found.membership_age)} ago, for {span(left)} more."


def _witness(found: "Status") -> str:
    own = found.witness
    if own is None:
        return ""
    last = f"{number(own.size, 'entry', 'entries')}, {when(own.at)}" if own.at is not None else "nothing yet"
    return f"{own.key}\nlast cosigned {last}"


def _requires(found: "Status") -> str:
    if not found.witnesses:
        return ""
    return f"{found.witnesses_required} of {number(len(found.witnesses), 'witness', 'witnesses')} of the registry's log"


def _monitored(found: "Status") -> str:
    if not found.monitored_of:
        return ""
    of = f" of {found.monitored_of:,}" if found.monitored < found.monitored_of else ""
    return f"{found.monitored:,}{of} entries of the registry's log followed"


def _policies(found: "Status") -> str:
    if found.policies_problem:
        return f"{found.policies_problem}\nThose that were taken before stay in force."
    return f"{found.own_policies:,}" if found.own_policies else ""


def _receipts(found: "Status") -> str:
    waiting = found.receipts_waiting
    if not waiting:
        return ""
    return f"{number(waiting, 'waits', 'wait')} for the other side's signature: `hanse receipts --settle` asks again"


def _waiting(outbox: "OutboxStatus") -> str:
    if not outbox.waiting:
        return "nothing"
    since = f", the oldest since {when(outbox.oldest_at)}" if outbox.oldest_at else ""
    return f"{outbox.waiting:,}{since}" + (f"\n{outbox.last_error}" if outbox.last_error else "")


@command(short="Who asked for what, and got it or not")
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

    begin = parse_since(since, int(time.time())) if since is not None else None
    prefix = str(Prefix.parse(peer)) if peer is not None else None
    asked = None
    if object is not None:
        own = identity_of(session).prefix
        asked = str(Identifier.of(own, own_suffix(own, object)))
    with audit_of(session) as storage:
        rows = list(storage.query(prefix, asked, begin, limit))
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


@command(short="Why does it not work")
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
