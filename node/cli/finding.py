"""Finding what others publish: resolve, search."""

import time
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import document, documents, facts, line, note, number, safe, size, span, table, when

if TYPE_CHECKING:
    from hanse.client.resolve import LogProof, Resolved
    from hanse.model.record import ObjectRecord


@command(short="The verified record of an object")
@click.argument("id")
@click.option("--prove", is_flag=True, help="Only if the registry proves that everybody sees the same.")
def resolve(session: Session, id: str, prove: bool) -> None:
    """The record of the object ID, verified: what it is, by whom it is signed, how old the answer is.

    With --prove the registry is asked in any case, and must prove that the record is in its log, and that this log
    continues what this home has seen of it.

    \b
    With --json: id, version, status, type, title, description, creators, publisher, publication_year, subjects,
    language, license, relations, attributes, elements, bytes, media_types, access, operations, issued_at,
    signed_by {prefix, key_id, confirmed}, checked_at, from_cache, registry_down, unlisted, grant (that is held),
    reason, proof {index, size, at} or null.
    """
    from hanse.client.access import best_grant
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of, known_of

    identifier = Identifier.parse(id)
    with client_of(session) as client:
        resolved = client.resolve(identifier, prove=prove)
        grant = best_grant(client.evidence, identifier, int(time.time()))
        held = f"you hold {grant.hex()[:16]} for it: `hanse grants` says what it allows" if grant else ""
    with known_of(session) as known:
        confirmed = known.told_key(identifier.prefix) is not None
    proof = resolved.proof
    if session.json:
        document(
            record_fields(resolved.record.record)
            | {
                "signed_by": {
                    "prefix": resolved.owner.record.prefix,
                    "key_id": resolved.record.signed_by,
                    "confirmed": confirmed,
                },
                "checked_at": resolved.checked_at,
                "from_cache": resolved.from_cache,
                "registry_down": resolved.registry_down,
                "unlisted": resolved.unlisted,
                "grant": grant.hex() or None,
                "proof": None if proof is None else {"index": proof.index, "size": proof.size, "at": proof.at},
            }
        )
        return
    show_record(resolved.record.record)
    line()
    facts([*_proof(resolved, confirmed), ("grant", held)], indent="  ")


def _proof(resolved: "Resolved", confirmed: bool) -> list[tuple[str, object]]:
    owner, now = resolved.owner.record, int(time.time())
    first = owner.keys[-1].valid_from
    key = f"{resolved.record.signed_by}"
    if resolved.record.signed_by != owner.current_key.key_id:
        key += " (a previous key, current when this was signed)"
    pinned = "confirmed by you with `hanse trust`" if confirmed else "trusted since it was first seen here"
    age = max(0, now - resolved.checked_at)
    if resolved.registry_down:
        source = f"from the cache, {span(age)} old: the registry does not answer"
    elif resolved.unlisted:
        source = f"from the owner's own node, {span(age)} ago: the object is unlisted"
    elif resolved.from_cache:
        source = f"from the cache, checked {span(age)} ago"
    else:
        source = "from the registry, just now"
    return [
        ("signed by", ", ".join(dict.fromkeys(filter(None, (str(owner.prefix), owner.display_name))))),
        ("key id", key),
        ("the key is", f"{pinned}; the organization joined {when(first, now)}"),
        ("contact", owner.contact),
        ("answer", source),
        ("proved", _log_proof(resolved.proof)),
    ]


def _log_proof(proof: "LogProof | None") -> str:
    if proof is None:
        return ""
    return f"entry {proof.index + 1:,} of {proof.size:,} in the registry's log, which continues what was seen before"


@command(short="Find published objects")
@click.argument("text", default="")
@click.option("--owner", metavar="PREFIX", help="Only what this organization owns.")
@click.option("--type", "type", default="", metavar="T", help="Only objects of this type.")
@click.option("--subject", default="", metavar="S", help="Only with this keyword.")
@click.option("--limit", type=click.IntRange(1, 10_000), default=20, show_default=True, metavar="N")
@click.pass_context
def search(
    context: click.Context, session: Session, text: str, owner: str | None, type: str, subject: str, limit: int
) -> None:
    """Published objects that TEXT describes, best first. Every record is verified before it is shown.

    Records that do not verify are left out, each with its reason; the command then ends with 6.

    \b
    With --json, one a line: the fields of `hanse resolve`, without those of the answer.
    """
    from hanse import limits
    from hanse.model.identifier import Prefix
    from node.cli.home import client_of

    prefix = Prefix.parse(owner) if owner is not None else None
    records: list[ObjectRecord] = []
    token, left_out = "", 0
    with client_of(session) as client:
        while True:
            page = client.search(
                text,
                owner=prefix,
                type=type,
                subject=subject,
                page_size=min(limit - len(records), limits.SEARCH_PAGE),
                page_token=token,
            )
            records += [each.record for each in page.records]
            for problem in page.refused:
                note(f"left out: {safe(problem)}")
            left_out += len(page.refused)
            token = page.next_page_token
            if not token or len(records) >= limit:
                break
    if session.json:
        documents(map(record_fields, records))
    elif records:
        _list(records)
        if token:
            note(f"{number(len(records), 'object')} of {page.total:,}; --limit shows more.")
    else:
        line("Nothing that can be believed was found." if left_out else "Nothing found.")
    if left_out:
        context.exit(6)


def _list(records: "list[ObjectRecord]") -> None:
    table(
        ("IDENTIFIER", "TYPE", "FILES", "SIZE", "ACCESS", "TITLE"),
        [
            (
                each.id,
                each.type,
                "–" if each.summary.element_count is None else f"{each.summary.element_count:,}",
                size(each.summary.total_bytes),
                each.access.mode.value,
                each.metadata.title,
            )
            for each in records
        ],
        right=(2, 3),
    )


def show_record(record: "ObjectRecord") -> None:
    """A public record for people."""
    described, summary = record.metadata, record.summary
    line(click.style(safe(record.id), bold=True))
    line()
    facts(
        [
            ("status", "withdrawn" + (f": {record.reason}" if record.reason else ""))
            if record.status == "withdrawn"
            else ("", ""),
            ("title", described.title),
            ("about", described.description),
            ("type", record.type),
            ("creators", "; ".join(described.creators)),
            ("publisher", described.publisher),
            ("year", described.publication_year or ""),
            ("subjects", ", ".join(described.subjects)),
            ("language", described.language),
            ("license", described.license),
            ("relations", "\n".join(f"{each.type} {each.id}" for each in described.relations)),
            ("attributes", described.attributes_json),
            ("version", f"{record.version}, {when(record.issued_at)}"),
            ("files", "" if summary.element_count is None else f"{summary.element_count:,}"),
            ("size", "" if summary.total_bytes is None else size(summary.total_bytes)),
            ("media types", ", ".join(summary.media_types)),
            ("inside", "\n".join(f"{each.name}  {size(each.length)}" for each in summary.elements)),
            ("access", _access(record)),
            ("to fetch", _command(record)),
            ("duties", "\n".join(record.access.duties)),
        ],
        indent="  ",
    )


def _access(record: "ObjectRecord") -> str:
    told = {
        "open": "open: any member may fetch it",
        "on-request": "on request: its owner decides who may fetch it",
        "compute-only": "compute only: the data does not leave its owner",
    }[record.access.mode.value]
    return told + (f" ({', '.join(record.access.purposes)})" if record.access.purposes else "")


def _command(record: "ObjectRecord") -> str:
    """What to type, where it is not obvious."""
    if record.access.mode != "on-request" or record.status == "withdrawn":
        return ""
    purpose = next(iter(record.access.purposes), "P")
    named = purpose if " " not in purpose else f"'{purpose}'"
    return (
        f"`hanse fetch {record.id} --purpose {named} --wait` asks its owner, and fetches when it says yes\n"
        f"`hanse request {record.id} --purpose {named}` asks only"
    )


def record_fields(record: "ObjectRecord") -> dict[str, object]:
    """The stable names of --json."""
    import json

    described, summary = record.metadata, record.summary
    return {
        "id": record.id,
        "version": record.version,
        "status": record.status,
        "type": record.type,
        "title": described.title,
        "description": described.description,
        "creators": described.creators,
        "publisher": described.publisher,
        "publication_year": described.publication_year or None,
        "subjects": described.subjects,
        "language": described.language,
        "license": described.license,
        "relations": [{"type": each.type, "id": each.id} for each in described.relations],
        "attributes": json.loads(described.attributes_json) if described.attributes_json else {},
        "elements": summary.element_count,
        "bytes": summary.total_bytes,
        "media_types": summary.media_types,
        "listed": [{"name": each.name, "bytes": each.length} for each in summary.elements],
        "access": record.access.mode,
        "operations": record.operations,
        "issued_at": record.issued_at,
        "reason": record.reason,
    }
