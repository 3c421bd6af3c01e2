"""Getting data and holding it against what its owner signed: fetch, verify."""

from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.opening import lease_fields, show_lease
from node.cli.output import document, line, note, number, safe, size

if TYPE_CHECKING:
    from hanse.client.access import Answer


@command(short="Fetch an object, verified")
@click.argument("id")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="Where to; else ./NAME.")
@click.option("--element", "elements", multiple=True, metavar="NAME", help="Only this file inside; may be repeated.")
@click.option("--version", type=click.IntRange(1), metavar="V", help="An earlier version; else the newest.")
@click.option("--streams", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="At once.")
@click.option("--purpose", "purposes", multiple=True, metavar="P", help="What for: asks for a grant if need be.")
@click.option("--wait", is_flag=True, help="Wait until the owner has answered, then go on.")
def fetch(
    session: Session,
    id: str,
    output: Path | None,
    elements: tuple[str, ...],
    version: int | None,
    streams: int,
    purposes: tuple[str, ...],
    wait: bool,
) -> None:
    """Fetch the object ID from its owner's node; every byte is verified before it is kept.

    One file is written as a file, several as a folder. After an interruption, the same command goes on
    from what was verified.

    What comes with a duty to delete is kept in this home's vault, sealed, until its time, and not as files:
    `hanse open` reads it, `hanse leases` shows until when.

    An object that needs a grant is fetched under one that you hold (`hanse grants`). With --purpose, one is asked
    for if you hold none for it; with --wait, the command waits for the owner, and goes on by itself.

    \b
    With --json: id, version, path, elements, bytes, transferred, resumed, already_there, signed_by {prefix, key_id},
    receipt {by_both, reason} (null if nothing was delivered), and lease {grant, until, enforced} of what is kept in
    the vault.
    """
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of
    from node.cli.progress import transferring

    identifier = Identifier.parse(id)
    session.after_interrupt = "Stopped. What was verified is kept: run the same command again to go on from there."
    with client_of(session) as client, transferring("fetching") as progress:
        fetched = client.fetch(
            identifier,
            output,
            elements=elements,
            version=version or 0,
            streams=streams,
            progress=progress,
            purpose=purposes,
            wait=wait,
            waiting=_waits,
        )
    if session.json:
        document(
            {
                "id": fetched.id,
                "version": fetched.version,
                "path": fetched.path,
                "elements": fetched.elements,
                "bytes": fetched.total_bytes,
                "transferred": fetched.transferred_bytes,
                "resumed": fetched.resumed_bytes,
                "already_there": fetched.already_there,
                "signed_by": {"prefix": fetched.id.prefix, "key_id": fetched.signed_by},
                "receipt": fetched.receipt,
            }
            | ({"lease": lease_fields(fetched.lease)} if fetched.lease is not None else {})
        )
        return
    what = number(fetched.elements, "file") + ", " if fetched.elements != 1 else ""
    where = fetched.id if fetched.lease is not None else _near(fetched.path)
    line(f"{safe(where)}: {what}{size(fetched.total_bytes)}, version {fetched.version}")
    if fetched.already_there:
        line("It was there already: nothing was transferred.")
    elif fetched.resumed_bytes:
        line(
            f"Went on from {size(fetched.resumed_bytes)} of an earlier attempt; {size(fetched.transferred_bytes)} now."
        )
    line(f"Every byte is verified against the signature of {fetched.id.prefix} (key {fetched.signed_by}).")
    if fetched.receipt is not None and fetched.receipt.by_both:
        line(f"Both signed the receipt: you, and {fetched.id.prefix}.")
    elif fetched.receipt is not None:
        line(f"The receipt is signed by us only, and will be tried again: {safe(fetched.receipt.reason)}")
    if fetched.lease is not None:
        show_lease(fetched.lease, _near(fetched.path))


def _waits(answer: "Answer") -> None:
    note(
        f"Request {answer.number} waits for {answer.id.prefix} to decide. This goes on when it has; Ctrl-C leaves the "
        "request as it is."
    )


def _near(path: Path) -> Path:
    """As one would type it here."""
    return path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path


@command(short="Do local bytes match the published version?")
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("id")
@click.pass_context
def verify(context: click.Context, session: Session, path: Path, id: str) -> None:
    """Does the file or folder PATH match the published version of the object ID?

    Asks the owner's node for the signed manifest, so it needs the right to fetch. Ends with 6 if it does not match.

    \b
    With --json: id, matches, differences [{name, kind}].
    """
    from hanse.errors import NotFound
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of
    from node.cli.progress import transferring

    identifier = Identifier.parse(id)
    if not path.exists():
        raise NotFound(f"{path} does not exist")
    session.after_interrupt = "Stopped. Nothing was changed."
    with client_of(session) as client, transferring("verifying") as progress:
        differences = list(client.verify(path, identifier, progress=progress))
    if session.json:
        document({"id": identifier, "matches": not differences, "differences": differences})
    elif differences:
        for each in differences:
            line(f"{each.kind}: {safe(each.name)}")
        line(f"{safe(path)} is not {safe(identifier)}: {number(len(differences), 'difference')}.")
    else:
        line(f"{safe(path)} is {safe(identifier)}, byte for byte.")
    if differences:
        context.exit(6)
