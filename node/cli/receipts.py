"""What was delivered, both ways, and who signed for it: receipts, statement."""

import csv
import io
import time
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.operating import parse_since
from node.cli.output import documents, line, moment, number, safe, size, table

if TYPE_CHECKING:
    from hanse.evidence.storage.deliveries import Row
    from node.statement import Line


@command(short="What was delivered, and who signed for it")
@click.option("--object", "object", metavar="ID", help="Only of this object; a suffix of our own, or an identifier.")
@click.option("--peer", metavar="PREFIX", help="Only what passed between you and this organization.")
@click.option("--since", metavar="D", help="An age (15m, 2h, 7d) or a time (2026-11-23, UTC).")
@click.option("--settle", is_flag=True, help="First ask the owners again for the signatures that are missing.")
@click.pass_context
def receipts(
    context: click.Context, session: Session, object: str | None, peer: str | None, since: str | None, settle: bool
) -> None:
    """What was delivered, in both directions, and whether both sides signed for it.

    Signed by both, a receipt proves that the bytes were delivered and verified. Signed by us only, it is our word: it
    is kept, and the node and the next fetch ask for the other signature again, as --settle does now.

    \b
    With --json, one a line, newest first: delivery, direction (served, fetched), peer, object, version, grant,
    purposes, delivered [{element, elements, first_chunk, chunks}], bytes, started_at, ended_at, state (both, us, none),
    signed_by, receipt. Ends with 5 if --settle could not reach an owner.
    """
    from hanse.model.identifier import Identifier, Prefix
    from node.cli.home import evidence_of, identity_of, own_suffix

    begin = parse_since(since, int(time.time())) if since is not None else None
    whom = str(Prefix.parse(peer)) if peer is not None else None
    key = None
    if object is not None:
        own = identity_of(session).prefix
        key = (Identifier.parse(object) if "/" in object else Identifier.of(own, own_suffix(own, object))).key
    unreached = settle and _settle(session)
    from hanse.evidence.storage import deliveries

    with evidence_of(session) as evidence, evidence.reading() as connection:
        rows = list(deliveries.query(connection, object_key=key, peer=whom, since=begin))
    if session.json:
        documents(map(_fields, rows))
    elif not rows:
        line("No delivery that fits." if any((object, peer, since)) else "Nothing was delivered yet, in or out.")
    else:
        table(
            ("WHEN", "", "PEER", "OBJECT", "BYTES", "GRANT", "SIGNED BY"),
            [
                (
                    moment(row.started_at),
                    _DIRECTIONS[row.ours],
                    row.peer,
                    f"{told['object']} v{row.version}",
                    size(row.claimed or row.size),
                    row.grant.hex()[:16] or "–",
                    _SIGNED[str(told["state"])],
                )
                for row in rows
                for told in [_fields(row)]
            ],
            right=(4,),
        )
    if unreached:
        context.exit(5)


_DIRECTIONS = {True: "fetched from", False: "served to"}
_SIGNED = {"both": "both", "us": "us only", "none": "nobody yet"}


def _settle(session: Session) -> bool:
    """Whether an owner could not be reached."""
    from hanse.client.settling import settle_all
    from node.cli.home import client_of
    from node.cli.output import note

    with client_of(session) as client:
        reports = settle_all(client.resolver, client.evidence)
    for prefix, report in reports.items():
        if report.settled:
            note(f"{prefix} signed {number(report.settled, 'receipt')}.")
        for reason in dict.fromkeys(report.refused):
            note(safe(reason))
        if report.problem:
            note(f"{prefix}: {safe(report.problem)}")
    if not reports:
        note("Nothing waits for a signature.")
    return any(report.problem for report in reports.values())


def _fields(row: "Row") -> dict[str, object]:
    from hanse import wire, wire_papers
    from hanse.evidence.storage.deliveries import State

    envelope = wire.decode_envelope(row.receipt) if row.receipt else None
    told = wire_papers.decode_receipt(envelope.payload if envelope else row.delivered)
    state = "both" if row.state is State.SETTLED else "us" if row.state is State.HALF else "none"
    return {
        "delivery": row.id,
        "direction": "fetched" if row.ours else "served",
        "peer": row.peer,
        "object": told.id,
        "version": row.version,
        "grant": row.grant.hex() or None,
        "purposes": told.purposes,
        "delivered": told.delivered,
        "bytes": row.claimed or told.unique_bytes or row.size,
        "started_at": told.started_at,
        "ended_at": told.ended_at,
        "state": state,
        "signed_by": [each.keyid for each in envelope.signatures] if envelope else [],
        "receipt": row.receipt_digest.hex() if row.receipt_digest else None,
    }


@command(short="What passed in a period, by peer and object")
@click.option("--period", required=True, metavar="P", help="A year, month or day (UTC): 2026, 2026-11, 2026-11-23.")
@click.option("--peer", metavar="PREFIX", help="Only what passed between you and this organization.")
@click.option("--csv", "as_csv", is_flag=True, help="Print comma-separated values.")
def statement(session: Session, period: str, peer: str | None, as_csv: bool) -> None:
    """What passed between you and each peer in a period, in both directions, by object.

    A chunk that was delivered several times under one grant counts once. What both signed, and what is your word only,
    stand apart. A delivery belongs to the period in which it began.

    \b
    With --json, one a line, and the columns of --csv: direction (served, fetched), peer, object, deliveries,
    proved_deliveries, proved_bytes, our_word_bytes, purposes, exact (false: the bytes are an upper bound).
    """
    from hanse.model.identifier import Prefix
    from node.cli.home import evidence_of, storage_of
    from node.statement import parse_period
    from node.statement import statement as statement_of
    from node.weights import Weights

    begin, end = parse_period(period)
    with storage_of(session) as (_, storage), evidence_of(session) as evidence:
        lines = statement_of(
            evidence, Weights(storage).of, begin, end, Prefix.parse(peer) if peer is not None else None
        )
    if as_csv:
        line(_csv(lines))
    elif session.json:
        documents(map(_columns, lines))
    elif not lines:
        line(f"Nothing passed in {period}.")
    else:
        table(
            ("", "PEER", "OBJECT", "DELIVERIES", "SIGNED BY BOTH", "BYTES SIGNED BY BOTH", "OUR WORD ONLY", "PURPOSES"),
            [
                (
                    _DIRECTIONS[each.ours],
                    each.peer,
                    each.object,
                    each.deliveries,
                    each.proved_deliveries,
                    ("" if each.exact else "≤ ") + size(each.proved_bytes),
                    size(each.our_word_bytes),
                    ", ".join(map(str, each.purposes)) or "–",
                )
                for each in lines
            ],
            right=(3, 4, 5, 6),
        )


def _columns(each: "Line") -> dict[str, object]:
    return {
        "direction": "fetched" if each.ours else "served",
        "peer": each.peer,
        "object": each.object,
        "deliveries": each.deliveries,
        "proved_deliveries": each.proved_deliveries,
        "proved_bytes": each.proved_bytes,
        "our_word_bytes": each.our_word_bytes,
        "purposes": each.purposes,
        "exact": each.exact,
    }


def _csv(lines: "list[Line]") -> str:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = (
        "direction", "peer", "object", "deliveries", "proved_deliveries", "proved_bytes", "our_word_bytes",
        "purposes", "exact",
    )  # fmt: skip
    writer.writerow(names)
    for each in lines:
        told = _columns(each) | {"purposes": "; ".join(map(str, each.purposes)), "exact": str(each.exact).lower()}
        # A spreadsheet takes a cell that begins so for a formula, and purposes are the peer's words.
        cells = [str(told[name]) for name in names]
        writer.writerow("'" + cell if cell[:1] in "=+-@\t" else cell for cell in cells)
    return text.getvalue().rstrip("\n")
