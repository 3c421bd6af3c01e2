"""What this home can prove, in one file: export it, verify such a file, erase what the law demands."""

import contextlib
import time
from pathlib import Path

import click

from node.cli.frame import Session, command, group
from node.cli.operating import parse_since
from node.cli.output import document, facts, line, note, number, safe, size


@group("evidence", short="What this node can prove, in one file")
def evidence() -> None:
    """What this node can prove: receipts, grants, records and keys, with proofs, for an auditor."""


@command("export", short="Write the evidence to one file")
@click.option("-o", "--output", metavar="FILE", help="Else evidence-PREFIX-DATE.txt in this folder.")
@click.option("--object", "object", metavar="ID", help="Only about this object; a suffix of our own, or an identifier.")
@click.option("--peer", metavar="PREFIX", help="Only what passed between us and this organization.")
@click.option("--since", metavar="D", help="Only what is dated since an age (15m, 2h, 7d) or a time (2026-11-23, UTC).")
def export_evidence(
    session: Session, output: str | None, object: str | None, peer: str | None, since: str | None
) -> None:
    """Writes receipts, grants, records, keys and proofs to one file, which only you can read.

    Neither names nor contents of elements are in it. Works without the registry, and says what is missing then. If all
    is exported, checkpoints of the registry that contradict each other come along, and what `hanse monitor` found. A
    file that exists is not replaced. `hanse evidence verify FILE`, or hanse/verifier.py alone, says what it proves.

    \b
    With --json: file, lines, size, receipts, half_receipts, log_size, missing.
    """
    from hanse.client.reaching import reach
    from hanse.client.storage.known import FILE, Known
    from hanse.evidence.evidence import Evidence
    from hanse.model.identifier import Identifier, Prefix
    from node.cli.home import own_suffix, storage_of
    from node.cli.progress import counting
    from node.exporting import Selection, Sources, export
    from node.storage.monitor import FILE as MONITOR
    from node.storage.monitor import MonitorStorage

    begin = parse_since(since, int(time.time())) if since is not None else None
    session.after_interrupt = "Stopped. No file was written."
    with contextlib.ExitStack() as stack:
        identity, storage = stack.enter_context(storage_of(session))
        wanted = None
        if object is not None:
            whole = "/" in object
            wanted = (
                Identifier.parse(object)
                if whole
                else Identifier.of(identity.prefix, own_suffix(identity.prefix, object))
            )
        chosen = Selection(wanted, Prefix.parse(peer) if peer is not None else None, begin)
        path = Path(output or f"evidence-{identity.prefix}-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}.txt")
        kept = stack.enter_context(Evidence.open(identity))
        known = stack.enter_context(contextlib.closing(Known.open(identity.home / FILE)))
        league = stack.enter_context(reach(identity))
        report = stack.enter_context(counting("Exporting"))
        monitor = stack.enter_context(contextlib.closing(MonitorStorage.open(identity.home / MONITOR)))
        found = export(path.expanduser(), Sources(kept, storage, known, league, monitor), chosen, report)
    if session.json:
        document(
            {
                "file": path,
                "lines": found.lines,
                "size": found.size,
                "receipts": found.receipts,
                "half_receipts": found.half_receipts,
                "log_size": found.log_size,
                "missing": found.missing,
            }
        )
        return
    for each in found.missing:
        note(f"Missing: {safe(each)}")
    facts(
        [
            ("file", path),
            ("size", f"{size(found.size)}, {number(found.lines, 'line')}"),
            ("receipts", f"{found.receipts:,} signed by both, {found.half_receipts:,} by one side only"),
            ("log", number(found.log_size, "entry", "entries")),
        ]
    )


@command("verify", short="What does a file of evidence prove")
@click.argument("file", metavar="FILE", type=click.Path(dir_okay=False))
@click.option("--key", "keys", metavar="PREFIX=KEYID", multiple=True, help="A key confirmed on another channel.")
@click.option("--witness", "witnesses", metavar="KEY", multiple=True, help="A witness's key, confirmed likewise.")
@click.option("--receipt", metavar="HEX", help="One receipt in detail: the beginning of its digest.")
@click.pass_context
def verify_evidence(
    context: click.Context,
    session: Session,
    file: str,
    keys: tuple[str, ...],
    witnesses: tuple[str, ...],
    receipt: str | None,
) -> None:
    """Says of a file, and of each receipt in it, what is proved and what is not.

    The same as `python -m hanse.verifier FILE`, which an auditor can run without Hanse: that one file, Python and
    its package cryptography are enough. Ends with 0 if all is proved, 6 if something is wrong, 1 otherwise.

    \b
    With --json, one a line, each with a member document: a receipt (receipt, verdict, line, position, owner,
    consumer, object, version, unique_bytes, grant, purposes, started_at, ended_at, delivery, signed_by, proved,
    not_proved, wrong, assumed), a problem (line, kind, what), and last the file (exit_code and what it says).
    """
    from hanse import verifier

    confirmed = [*(f"--key={each}" for each in keys), *(f"--witness={each}" for each in witnesses)]
    arguments = [*confirmed, *(["--json"] if session.json else []), "--", file]
    if receipt is not None:
        arguments.insert(0, f"--receipt={receipt}")
    context.exit(verifier.main(arguments, prog="hanse evidence verify"))


@command("erase", short="Erase entries of the log, for a legal duty")
@click.argument("positions", metavar="POSITION...", nargs=-1, required=True, type=click.IntRange(0))
@click.option("--yes", is_flag=True, help="Do not ask.")
def erase_evidence(session: Session, positions: tuple[int, ...], yes: bool) -> None:
    """Destroys what entries of this node's log say, for good: where a law demands it.

    That there was an entry stays provable, and so does everything else; what it said is gone, and with it what
    you could prove by it. The tables of grants and deliveries, backups and the other side keep what they have.

    \b
    With --json: erased [position].
    """
    from node.cli.home import evidence_of

    with evidence_of(session) as kept:
        chosen = sorted(set(positions))
        for position in chosen:
            leaf = next(iter(kept.leaves(position, position + 1)), None)
            if leaf is not None and not session.json:
                what = "erased already" if leaf.payload is None else f"a {leaf.kind}"
                line(f"Position {position}: {what}")
        if not yes:
            click.confirm(f"Erase {number(len(chosen), 'entry', 'entries')} for good?", abort=True, err=True)
        for position in chosen:
            kept.erase(position)
    if session.json:
        document({"erased": chosen})
    else:
        line(f"Erased {number(len(chosen), 'entry', 'entries')}. A backup of this home may still have them.")


for each in (export_evidence, verify_evidence, erase_evidence):
    evidence.add_command(each)
