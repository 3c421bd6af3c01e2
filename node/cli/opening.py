"""What is kept under a duty to delete: open, leases."""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import document, documents, line, note, number, safe, size, table, when

if TYPE_CHECKING:
    from hanse.client.client import Client
    from hanse.model.identifier import Identifier
    from hanse.model.lease import Lease
    from hanse.vault.reading import Kept

_GRANT_DIGITS = 16


@command("open", short="Read what is kept under a duty to delete")
@click.argument("id")
@click.option("--element", metavar="NAME", help="This file inside; without it, all are listed.")
@click.option("--version", type=click.IntRange(1), metavar="V", help="An earlier version; else the newest kept.")
@click.option("-o", "--output", metavar="-", help="- writes to the terminal too; there is nothing else to choose.")
def open_object(session: Session, id: str, element: str | None, version: int | None, output: str | None) -> None:
    """Read the object ID, which was fetched under a duty to delete it and is kept in this home's vault.

    Without --element, lists what is kept. With it, the file is written to what stdout leads to: a pipe to the
    program that uses it. Every byte is verified as it is read. It is not written to a file by this command: a file
    outside the vault would not be deleted when its time has come.

    \b
    With --json and without --element: id, version, grant, until, enforced, elements [{name, bytes, media_type}].
    """
    from hanse.errors import InvalidInput
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of

    if output not in (None, "-"):
        raise InvalidInput(
            "what is kept under a duty to delete does not leave the vault for a file, where nobody would delete it: "
            "-o takes only -, for stdout"
        )
    if element is not None and output is None and sys.stdout.isatty():
        raise InvalidInput("stdout is a terminal: lead it to the program that reads it, or say -o - to see it here")
    identifier = Identifier.parse(id)
    with client_of(session) as client, client.kept(identifier, version=version or 0, element=element) as kept:
        if element is None:
            _list(session, kept)
            return
        with kept.open(element) as file:
            shutil.copyfileobj(file, sys.stdout.buffer, 1 << 20)
            sys.stdout.buffer.flush()


def _list(session: Session, kept: "Kept") -> None:
    elements = [element for _, element in kept.elements()]
    if session.json:
        document(
            _fields(kept.lease)
            | {"elements": [{"name": e.name.text, "bytes": e.length, "media_type": e.media_type} for e in elements]}
        )
        return
    line(
        f"{safe(kept.lease.id)}, version {kept.lease.version}: {number(len(elements), 'file')}, "
        f"until {when(kept.lease.ends_at)}"
    )
    line()
    table(("SIZE", "NAME"), [(size(each.length), each.name.text) for each in elements], right=(0,))
    line()
    line(f"`hanse open {safe(kept.lease.id)} --element NAME | PROGRAM` reads one.")


@command("leases", short="What is kept under a duty to delete, and until when")
@click.option("--delete", "ended", metavar="ID", help="Delete what is kept of this object now.")
@click.option("--reported", is_flag=True, help="Instead: what others deleted of your objects, as they signed it.")
def leases(session: Session, ended: str | None, reported: bool) -> None:
    """What this home keeps under a duty to delete, until when, and which deletions their owners have yet to be told.

    At that time, or when the grant is revoked, this node destroys the key with which it is sealed, and tells the
    owner with a signed deletion. It does so at the next command or start if it did not run then.

    \b
    With --json, one a line: id, version, grant, state (kept, fetching, deleted), until, enforced; of what is deleted
    and its owner has yet to be told also reason, deleted_at. With --reported: id, version, peer, grant, reason,
    deleted_at, told_at.
    """
    from hanse.errors import InvalidInput
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of

    if reported:
        if ended is not None:
            raise InvalidInput("--delete is about what is kept here, --reported about what others kept: not both")
        _reported(session)
        return
    identifier = Identifier.parse(ended) if ended is not None else None
    with client_of(session) as client:
        if identifier is not None:
            _delete(client, identifier)
        kept, deleted = client.leases(), client.vault.undelivered()
    if session.json:
        documents(map(_fields, kept))
        documents(
            {
                "id": row.id,
                "version": row.version,
                "grant": row.grant.hex(),
                "state": "deleted",
                "reason": row.reason,
                "deleted_at": row.destroyed_at,
            }
            for row in deleted
        )
        return
    if kept:
        table(
            ("OBJECT", "VERSION", "STATE", "UNTIL", "GRANT", "ENFORCED"),
            [(e.id, e.version, _state(e), when(e.ends_at), e.grant.hex()[:_GRANT_DIGITS], _enforced()) for e in kept],
        )
    else:
        line("Nothing is kept under a duty to delete.")
    for row in deleted:
        note(
            f"{safe(row.id)}, version {row.version}, was deleted {when(row.destroyed_at or 0)} ({row.reason}); "
            f"{row.owner} has yet to be told"
        )


def _reported(session: Session) -> None:
    from hanse.vault.vault import reported
    from node.cli.home import evidence_of

    with evidence_of(session) as evidence:
        found = reported(evidence)
    if session.json:
        documents(
            {
                "id": each.id,
                "version": each.version,
                "peer": each.consumer,
                "grant": each.grant.hex(),
                "reason": each.reason,
                "deleted_at": each.deleted_at,
                "told_at": at,
            }
            for each, at in found
        )
    elif found:
        table(
            ("DELETED", "BY", "OBJECT", "VERSION", "WHY", "GRANT"),
            [
                (when(e.deleted_at), e.consumer, e.id, e.version, e.reason, e.grant.hex()[:_GRANT_DIGITS])
                for e, _ in found
            ],
        )
    else:
        line("Nobody has told you of a deletion yet.")


def _delete(client: "Client", identifier: "Identifier") -> None:
    from hanse.client.settling import settle_all
    from hanse.errors import NotFound

    if not client.vault.end(identifier):
        raise NotFound(f"nothing of {identifier} is kept in the vault: `hanse leases` shows what is")
    told = settle_all(client.resolver, client.evidence, identifier.prefix).get(identifier.prefix)
    note(
        f"What was kept of {safe(identifier)} is deleted"
        + (f", and {identifier.prefix} is told so." if told is not None and not told.problem else ".")
    )


def lease_fields(lease: "Lease") -> dict[str, object]:
    """The stable names of --json."""
    return {"grant": lease.grant.hex(), "until": lease.ends_at, "enforced": _enforced()}


def _fields(lease: "Lease") -> dict[str, object]:
    return {"id": lease.id, "version": lease.version, "state": _state(lease)} | lease_fields(lease)


def _state(lease: "Lease") -> str:
    return "kept" if lease.complete else "fetching"


def _enforced() -> str:
    from hanse.model.terms import Enforcement

    return Enforcement.CONSUMERS_NODE.value


def show_lease(lease: "Lease", folder: Path) -> None:
    """Where something that was fetched is, until when, and how to read it."""
    line(f"It is kept in the vault of this home ({safe(folder)}), sealed, until {when(lease.ends_at)}:")
    line(f"then, or when {lease.id.prefix} revokes the grant, this node deletes it and tells {lease.id.prefix}.")
    line(f"`hanse open {safe(lease.id)}` lists and reads it.")
