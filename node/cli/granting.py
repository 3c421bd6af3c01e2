"""What was given and is held: grants, revoke, narrow.

All work with the daemon running or not, on either side.
"""

import time
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.home import grants_of
from node.cli.output import document, documents, line, moment, note, number, safe, size, table, when
from node.cli.times import parse_size, parse_until

if TYPE_CHECKING:
    from hanse.evidence.storage.papers import GrantRow, RequestRow
    from hanse.model.papers import Grant


@command("grants", short="What was given, and what is held")
@click.option("--given", is_flag=True, help="Only what you gave, and what others narrowed of it.")
@click.option("--held", is_flag=True, help="Only what you hold, and what you narrowed of it for others.")
@click.option(
    "--take", type=click.Path(path_type=Path), metavar="FILE", help="Take a grant that somebody narrowed for you."
)
def list_grants(session: Session, given: bool, held: bool, take: Path | None) -> None:
    """The grants that you gave and those that you hold: for what, until when, how much of them was used.

    Asks the owners of what you hold whether it still holds, and for answers to requests that wait; whoever does not
    answer is named, and what was last known is shown. Each duty says how it is kept: by contract, or by the
    consumer's node. Of what you hold, it shows what you used; its owner also counts what others used of it.

    \b
    With --json, one a line: grant, side (given, held), owner, issuer, to, to_key, ids, operations, purposes,
    valid_from, valid_until, max_fetches, max_bytes, fetches, bytes, duties [{duty, enforcement}], pass_on, parent,
    request, state (valid, not-yet, over, revoked, used-up), revoked_at, reason, at.
    """
    from hanse.client import standing
    from hanse.client.passing import take as take_text
    from node.cli.home import client_of

    if given and held:
        raise click.UsageError("--given and --held leave nothing to show: say one of them, or neither")
    now = int(time.time())
    with client_of(session) as client:
        if take is not None:
            _say(session, take_text(client.resolver, client.evidence, _read(take)), "Taken")
            return
        problems = {} if given else standing.refresh(client.resolver, client.evidence)
        own = client.identity.prefix
        rows = standing.all_grants(client.evidence)
        waiting = [] if given else standing.unanswered(client.evidence)
    shown = [
        (row, "given" if row.owner == own else "held", ended)
        for row, ended in rows
        if not (given and row.owner != own) and not (held and row.owner == own)
    ]
    if session.json:
        documents(grant_fields(row, now, side=side, ended=ended) for row, side, ended in shown)
    else:
        _show_grants([each for each in shown if each[1] == "given"], "Given", now)
        _show_grants([each for each in shown if each[1] == "held"], "Held", now)
        if not shown:
            line("No grants yet: `hanse request ID --purpose P` asks for one, `hanse approve N` gives one.")
        for row in waiting:
            line(_unanswered(row))
    for prefix, problem in problems.items():
        note(f"{prefix} could not be asked, what was last known of it is shown: {safe(problem)}")


def _say(session: Session, row: "GrantRow", what: str) -> None:
    """A grant that this command made or took."""
    if session.json:
        document(grant_fields(row, int(time.time()), side="held"))
        return
    line(f"{what}: {row.name}, from {row.maker} to {row.holder}, for {objects(row.grant)}.")
    conditions(row.grant)


def _unanswered(row: "RequestRow") -> str:
    about = f"request {row.number} to {row.peer} for {row.request.id}"
    if row.state == "denied":
        return safe(f"Denied: {about}: {row.reason or 'no reason is given'}")
    return safe(f"Waits: {about}, since {moment(row.at)}")


def _show_grants(rows: "list[tuple[GrantRow, str, GrantRow | None]]", title: str, now: int) -> None:
    if not rows:
        return
    line(click.style(title, bold=True))
    table(
        ("GRANT", "FROM", "TO", "STATE", "FETCHES", "BYTES", "UNTIL", "OBJECTS"),
        [
            (
                row.name,
                row.maker,
                row.holder,
                _state(row, ended, now),
                _of(f"{row.fetches:,}", given.max_fetches and f"{given.max_fetches:,}"),
                _of(size(row.bytes), given.max_bytes and size(given.max_bytes)),
                when(given.valid_until, now) if given.valid_until else "–",
                objects(row.grant),
            )
            for row, _, ended in rows
            for given in (row.grant.conditions,)
        ],
    )
    for row, _, ended in rows:
        if ended is not None:
            line(f"  {row.name}: {_why(ended)}")
        for duty in row.grant.conditions.duties:
            line(f"  {row.name}: {safe(duty)} ({duty.enforcement})")
    line()


def _why(ended: "GrantRow") -> str:
    paper = ended.ended
    if paper is None:
        return "revoked"
    which = "" if ended.maker == paper.issuer else f", which {ended.maker} made"
    return (
        f"revoked by {paper.issuer}{which}, {when(ended.revoked_at or 0)}: {safe(paper.reason) or 'no reason is given'}"
    )


def _of(used: str, most: object) -> str:
    return f"{used} of {most}" if most else used


def objects(grant: "Grant") -> str:
    """The first few."""
    return safe(", ".join(map(str, grant.ids[:3]))) + (f" and {len(grant.ids) - 3} more" if len(grant.ids) > 3 else "")


def conditions(grant: "Grant") -> None:
    """Prints what a grant is for."""
    given = grant.conditions
    if given.purposes:
        line(f"  for      {safe(', '.join(map(str, given.purposes)))}")
    if given.valid_until is not None:
        line(f"  until    {when(given.valid_until)}")
    limits = [number(given.max_fetches, "fetch", "fetches")] if given.max_fetches else []
    limits += [size(given.max_bytes)] if given.max_bytes else []
    if limits:
        line(f"  at most  {', '.join(limits)}")
    for duty in given.duties:
        line(f"  duty     {safe(duty)} ({duty.enforcement})")


def _state(row: "GrantRow", ended: "GrantRow | None", now: int) -> str:
    from hanse.client.access import is_used_up

    given = row.grant.conditions
    if ended is not None:
        return "revoked"
    if given.valid_until is not None and now >= given.valid_until:
        return "over"
    if given.valid_from is not None and now < given.valid_from:
        return "not-yet"
    return "used-up" if is_used_up(row, row.grant) else "valid"


def grant_fields(
    row: "GrantRow", now: int, *, side: str = "given", ended: "GrantRow | None" = None
) -> dict[str, object]:
    """The stable names of --json. ``ended``: the grant of the chain that was revoked."""
    grant, given = row.grant, row.grant.conditions
    return {
        "grant": row.digest,
        "side": side,
        "owner": row.owner,
        "issuer": row.maker,
        "to": row.holder,
        "to_key": grant.to_key,
        "ids": grant.ids,
        "operations": given.operations,
        "purposes": given.purposes,
        "valid_from": given.valid_from,
        "valid_until": given.valid_until,
        "max_fetches": given.max_fetches,
        "max_bytes": given.max_bytes,
        "fetches": row.fetches,
        "bytes": row.bytes,
        "duties": [{"duty": str(duty), "enforcement": duty.enforcement} for duty in given.duties],
        "pass_on": given.pass_on,
        "parent": grant.parent.hex() or None,
        "request": grant.request.hex() or None,
        "state": _state(row, ended, now),
        "revoked_at": ended.revoked_at if ended is not None else None,
        "reason": ended.ended.reason if ended is not None and ended.ended is not None else "",
        "at": row.at,
    }


@command(short="End a grant, at once")
@click.argument("grant")
@click.option("--reason", default="", metavar="T", help="Told to who held it.")
def revoke(session: Session, grant: str, reason: str) -> None:
    """End a grant that you gave, or that you narrowed, and all that were narrowed from it, for good.

    GRANT is any unique beginning of its digits, six or more. At your node it counts at once, also for a stream that
    runs and also while the registry does not answer. One that you narrowed ends at its owner's node when that is
    told: now if it answers, else at the next `hanse grants`.

    \b
    With --json: grant, revoked_at, reason, told (false: the owner has yet to be told).
    """
    from hanse import wire_papers
    from hanse.client.standing import named, tell
    from hanse.errors import HanseError
    from node.cli.home import client_of

    with grants_of(session) as grants:
        row = named(grants.evidence, grant)
        revocation = wire_papers.decode_revocation(grants.revoke(row.digest, reason).payload)
    told, why = True, ""
    if row.owner != revocation.issuer:
        with client_of(session) as client:
            try:
                tell(client.resolver, client.evidence, row.digest)
            except HanseError as error:
                told, why = False, str(error)
    if session.json:
        document({"grant": row.digest, "revoked_at": revocation.issued_at, "reason": revocation.reason, "told": told})
        return
    line(f"Revoked: {row.name}, which {row.holder} held.")
    if not told:
        note(f"{row.owner} has yet to be told, `hanse grants` tries again: {safe(why)}")


@command(short="Make a weaker grant of yours for somebody else")
@click.argument("grant")
@click.option("--to", "to", required=True, metavar="PREFIX[#KEYID]", help="Who it is for.")
@click.option("--object", "ids", multiple=True, metavar="ID", help="Only this object of it; may be repeated.")
@click.option("--until", metavar="D", help="Not longer than: a time (2027-06-30) or a span from now (30d).")
@click.option("--max-fetches", type=click.IntRange(1), metavar="N", help="Not more fetches than N.")
@click.option("--max-bytes", metavar="S", help="Not more bytes than S (10GiB).")
@click.option("--purpose", "purposes", multiple=True, metavar="P", help="Only for this; may be repeated.")
@click.option("--pass-on", is_flag=True, help="Let them narrow it in turn.")
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), required=True, metavar="FILE", help="What to hand to them."
)
def narrow(
    session: Session,
    grant: str,
    to: str,
    ids: tuple[str, ...],
    until: str | None,
    max_fetches: int | None,
    max_bytes: str | None,
    purposes: tuple[str, ...],
    pass_on: bool,
    output: Path,
) -> None:
    """Make a weaker grant of one that you hold, for somebody else, if its owner lets you pass it on.

    GRANT is any unique beginning of its digits, six or more. What you leave out is as in yours; it can never be
    wider. The file is no secret: it serves the organization that it names and nobody else, who takes it with
    `hanse grants --take FILE`. What they use counts on your grant too, and it ends when yours does.

    \b
    With --json: the fields of a line of `hanse grants`.
    """
    from hanse.client.passing import narrow as make
    from hanse.client.standing import named
    from hanse.model.identifier import Identifier
    from hanse.model.purposes import Purpose
    from hanse.model.terms import Party
    from node.cli.home import evidence_of

    party = Party.parse(to)
    with evidence_of(session) as evidence:
        row, text = make(
            evidence,
            named(evidence, grant).digest,
            party,
            ids=[Identifier.parse(each) for each in ids],
            purposes=[Purpose.parse(each) for each in purposes],
            until=parse_until(until) if until is not None else None,
            max_fetches=max_fetches,
            max_bytes=parse_size(max_bytes, "--max-bytes") if max_bytes is not None else None,
            pass_on=pass_on,
        )
    _write(output, text)
    _say(session, row, f"Made, in {safe(output)}")


def _read(path: Path) -> str:
    from hanse import limits
    from hanse.errors import InvalidInput, NotFound
    from hanse.files import storage_errors

    with storage_errors(str(path)):
        try:
            with path.open("rb") as file:
                return file.read(limits.GRANT_FILE_BYTES + 1).decode(errors="replace")
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path} does not exist") from None
        except IsADirectoryError:
            raise InvalidInput(f"{path} is a folder: --take takes a file") from None


def _write(path: Path, text: str) -> None:
    from hanse.files import storage_errors, write_durably

    with storage_errors(str(path)):
        write_durably(path, text.encode())
