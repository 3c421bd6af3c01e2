"""Getting data and holding it against what its owner signed: fetch, verify."""

from pathlib import Path

import click

from node.cli.frame import Session, command
from node.cli.output import document, line, number, safe, size


@command()
@click.argument("id")
@click.option("-o", "--output", type=click.Path(path_type=Path), metavar="PATH", help="Where to; else ./NAME.")
@click.option("--element", "elements", multiple=True, metavar="NAME", help="Only this file inside; may be repeated.")
@click.option("--version", type=click.IntRange(1), metavar="V", help="An earlier version; else the newest.")
@click.option("--streams", type=click.IntRange(1, 64), default=1, show_default=True, metavar="N", help="At once.")
def fetch(
    session: Session, id: str, output: Path | None, elements: tuple[str, ...], version: int | None, streams: int
) -> None:
    """Fetch the object ID from its owner's node; every byte is verified before it is kept.

    One file is written as a file, several as a folder. After an interruption, the same command goes on
    from what was verified.
    """
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of
    from node.cli.progress import transferring

    identifier = Identifier.parse(id)
    session.after_interrupt = "Stopped. What was verified is kept: run the same command again to go on from there."
    with client_of(session) as client, transferring("fetching") as progress:
        fetched = client.fetch(
            identifier, output, elements=elements, version=version, streams=streams, progress=progress
        )
    if session.json:
        document(
            {
                "id": fetched.id,
                "version": fetched.version,
                "path": fetched.path,
                "elements": fetched.element_count,
                "bytes": fetched.total_bytes,
                "transferred": fetched.transferred_bytes,
                "signed_by": {"prefix": fetched.id.prefix, "key_id": fetched.signed_by},
            }
        )
        return
    what = number(fetched.element_count, "file") + ", " if fetched.element_count != 1 else ""
    line(f"{safe(fetched.path)}: {what}{size(fetched.total_bytes)}, version {fetched.version}")
    if fetched.transferred_bytes < fetched.total_bytes:
        line(f"Transferred {size(fetched.transferred_bytes)}: the rest was there already.")
    line(f"Every byte is verified against the signature of {fetched.id.prefix} (key {fetched.signed_by}).")


@command()
@click.argument("path", type=click.Path(path_type=Path))
@click.argument("id")
@click.pass_context
def verify(context: click.Context, session: Session, path: Path, id: str) -> None:
    """Does the file or folder PATH match the published version of the object ID?

    Asks the owner's node for the signed manifest, so it needs the right to fetch. Ends with 6 if it does not match.

    \b
    With --json: id, matches, differences.
    """
    from hanse.model.identifier import Identifier
    from node.cli.home import client_of
    from node.cli.progress import transferring

    identifier = Identifier.parse(id)
    session.after_interrupt = "Stopped. Nothing was changed."
    with client_of(session) as client, transferring("verifying") as progress:
        differences = list(client.verify(path, identifier, progress=progress))
    if session.json:
        document({"id": identifier, "matches": not differences, "differences": [str(each) for each in differences]})
    elif differences:
        for each in differences:
            line(safe(each))
        line(f"{safe(path)} is not {safe(identifier)}: {number(len(differences), 'difference')}.")
    else:
        line(f"{safe(path)} is {safe(identifier)}, byte for byte.")
    if differences:
        context.exit(6)


COMMANDS = (fetch, verify)
