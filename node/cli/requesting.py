"""Asking for leave to fetch, and answering: request, requests, approve, deny.

All work with the daemon running or not, on either side.
"""

import time
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.granting import conditions, grant_fields, objects
from node.cli.home import grants_of
from node.cli.output import document, documents, line, moment, safe, table
from node.cli.times import parse_size, parse_until

if TYPE_CHECKING:
    from hanse.client.access import Answer
    from hanse.evidence.storage.papers import RequestRow


@command(short="Ask an owner for leave to fetch")
@click.argument("id")
@click.option("--purpose", "purposes", multiple=True, required=True, metavar="P", help="What for; may be repeated.")
@click.option("--message", default="", metavar="T", help="To the owner's people.")
@click.option("--until", metavar="D", help="Until when it is wanted: a time (2027-06-30) or a span from now (30d).")
def request(session: Session, id: str, purposes: tuple[str, ...], message: str, until: str | None) -> None:
    """Ask the owner of the object ID for leave to fetch it, for the purposes that you name.

    Purposes are names of the W3C Data Privacy Vocabulary or the Data Use Ontology (academic-research,
    health-research, ...), or a few words; `hanse resolve` shows those that the owner names. By asking you bind
    yourself to use the data for these purposes only. The same command again asks how the request stands.

    \b
    With --json: id, request, number, state (waiting, granted, denied), grant, reason.
    """
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of

    identifier = Identifier.parse(id)
    ends = parse_until(until) if until is not None else None
    with client_of(session) as client:
        answer = client.request(identifier, purposes, message, ends)
    if session.json:
        document(_answer_fields(answer))
        return
    if answer.state == "granted":
        line(f"Granted: {answer.grant.hex()[:16]}. `hanse fetch {safe(identifier)}` fetches it.")
    elif answer.state == "denied":
        line(f"Denied by {identifier.prefix}: {safe(answer.reason) or 'no reason is given'}")
    else:
        line(f"Request {answer.number} waits for {identifier.prefix} to decide.")
        line(f"`hanse grants` shows the answer; `hanse fetch {safe(identifier)} --wait` goes on when it comes.")


def _answer_fields(answer: "Answer") -> dict[str, object]:
    return {
        "id": answer.id,
        "request": answer.request,
        "number": answer.number,
        "state": answer.state,
        "grant": answer.grant.hex() or None,
        "reason": answer.reason,
    }


@command(short="What others ask you for")
@click.option("--all", "every", is_flag=True, help="Also those that were answered.")
@click.option("--sent", is_flag=True, help="What you asked others for, instead.")
def requests(session: Session, every: bool, sent: bool) -> None:
    """What others ask you for: `hanse approve N` or `hanse deny N --reason T` answers number N.

    The key id is the asker's current one: when it matters, compare it with what they tell you on another channel
    (`hanse trust` pins it). With --sent, the peer is whom you asked; `hanse grants` asks them for their answers.

    \b
    With --json, one a line, newest first: number, request, peer, key_id, id, operations, purposes, message,
    until, state, grant, reason, at, answered_at.
    """
    with grants_of(session) as grants:
        rows = [(row, grants.key_id(row.peer)) for row in grants.requests(waiting=not every, sent=sent)]
    if session.json:
        documents(_request_fields(row, key) for row, key in rows)
        return
    if not rows:
        line("There is no request yet." if every else "No request waits; --all shows those that were answered.")
        return
    table(
        ("N", "WHEN", "WHO", "KEY ID", "OBJECT", "PURPOSES", "STATE", "MESSAGE"),
        [
            (
                row.number,
                moment(row.at),
                row.peer,
                key or "not known",
                asked.id,
                ", ".join(map(str, asked.purposes)),
                row.state.value,
                asked.message,
            )
            for row, key in rows
            for asked in (row.request,)
        ],
        right=(0,),
    )


def _request_fields(row: "RequestRow", key: object) -> dict[str, object]:
    asked = row.request
    return {
        "number": row.number,
        "request": row.digest,
        "peer": row.peer,
        "key_id": key,
        "id": asked.id,
        "operations": asked.operations,
        "purposes": asked.purposes,
        "message": asked.message,
        "until": asked.valid_until,
        "state": row.state,
        "grant": row.grant.hex() or None,
        "reason": row.reason,
        "at": row.at,
        "answered_at": row.answered_at,
    }


@command(short="Say yes to a request")
@click.argument("number", type=click.IntRange(1), metavar="N")
@click.option("--until", metavar="D", help="Not longer than: a time (2027-06-30) or a span from now (30d).")
@click.option("--max-fetches", type=click.IntRange(1), metavar="N", help="Not more fetches than N.")
@click.option("--max-bytes", metavar="S", help="Not more bytes than S (10GiB).")
def approve(session: Session, number: int, until: str | None, max_fetches: int | None, max_bytes: str | None) -> None:
    """Say yes to request N: signs a grant for what was asked, on the object's terms, shortened as you say.

    The peer's node gets it when it asks again; `hanse revoke` ends it at once.

    \b
    With --json: the fields of a line of `hanse grants`.
    """
    ends = parse_until(until) if until is not None else None
    most = parse_size(max_bytes, "--max-bytes") if max_bytes is not None else None
    with grants_of(session) as grants:
        row = grants.approve(number, until=ends, max_fetches=max_fetches, max_bytes=most)
    if session.json:
        document(grant_fields(row, int(time.time())))
        return
    line(f"Granted: {row.name} to {row.holder}, for {objects(row.grant)}.")
    conditions(row.grant)


@command(short="Say no to a request")
@click.argument("number", type=click.IntRange(1), metavar="N")
@click.option("--reason", required=True, metavar="T", help="Told to who asked.")
def deny(session: Session, number: int, reason: str) -> None:
    """Say no to request N. Who asked is told the reason.

    \b
    With --json: number, request, reason.
    """
    with grants_of(session) as grants:
        denial = grants.deny(number, reason)
    if session.json:
        document({"number": number, "request": denial.request, "reason": denial.reason})
        return
    line(f"Request {number} is denied.")
