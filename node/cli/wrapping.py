"""What this organization wraps: add, list, check, refresh, withdraw."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import click

from node.cli.frame import Session, command
from node.cli.output import document, documents, facts, line, note, number, safe, size, table

if TYPE_CHECKING:
    from hanse.model.record import AccessMode, Metadata
    from hanse.model.terms import Terms
    from node.catalog import Entry


@command(short="Wrap a file or a folder as a digital object")
@click.argument("path", type=click.Path(path_type=Path))
@click.option("--id", "suffix", metavar="SUFFIX", help="The identifier's second part; made up if not given.")
@click.option("--title", default="", metavar="T", help="Public.")
@click.option("--description", default="", metavar="D", help="Public.")
@click.option(
    "--type", "type", default="", metavar="T", help="What kind of object it is, in your field's words. Public."
)
@click.option("--subject", "subjects", multiple=True, metavar="S", help="A keyword; may be repeated. Public.")
@click.option("--license", "license", default="", metavar="L", help="SPDX name, for example CC-BY-4.0. Public.")
@click.option("--relation", "relations", multiple=True, metavar="TYPE=ID", help="DataCite relation; may be repeated.")
@click.option("--metadata", type=click.Path(path_type=Path), metavar="FILE.json", help="More DataCite fields. Public.")
@click.option("--open", "everyone", is_flag=True, help="Any member of the league in good standing may fetch it.")
@click.option("--on-request", is_flag=True, help="Others ask, and you decide (`hanse requests`); so it is without any.")
@click.option("--compute-only", is_flag=True, help="Nobody else may fetch it, whatever was granted.")
@click.option("--allow", multiple=True, metavar="PREFIX[#KEYID]", help="Who may fetch it unasked; may be repeated.")
@click.option("--unlisted", is_flag=True, help="Publish nothing: it resolves at this node, for those allowed only.")
@click.option("--list-elements", is_flag=True, help="Make the names and sizes of the files inside public.")
def add(
    session: Session,
    path: Path,
    suffix: str | None,
    title: str,
    description: str,
    type: str,
    subjects: tuple[str, ...],
    license: str,
    relations: tuple[str, ...],
    metadata: Path | None,
    everyone: bool,
    on_request: bool,
    compute_only: bool,
    allow: tuple[str, ...],
    unlisted: bool,
    list_elements: bool,
) -> None:
    """Wrap the file or folder PATH where it lies, as a digital object. No copy is made.

    Only the metadata becomes public. With neither --open nor --allow nobody else may fetch it before you granted it;
    `hanse terms` says more precisely who may do what.
    """
    from hanse.model.record import AccessMode, Relation
    from hanse.model.terms import Terms
    from node.cli.home import catalog_of, daemon_runs, identity_of, own_suffix
    from node.cli.progress import counting

    terms = Terms.chosen(chosen_mode(everyone, on_request, compute_only), allow)
    base = _metadata(metadata)
    described = replace(
        base,
        title=title or base.title,
        description=description or base.description,
        license=license or base.license,
        subjects=tuple(dict.fromkeys((*base.subjects, *subjects))),
        relations=tuple(dict.fromkeys((*base.relations, *map(Relation.parse, relations)))),
    )
    chosen = own_suffix(identity_of(session).prefix, suffix) if suffix is not None else None
    session.after_interrupt = "Stopped: nothing was added."
    with catalog_of(session) as catalog, counting("hashing") as progress:
        added = catalog.add(
            path,
            suffix=chosen,
            metadata=described,
            type=type,
            terms=terms,
            unlisted=unlisted,
            list_elements=list_elements,
            progress=progress,
        )
        ways = _ways_in(session, terms)
    running = daemon_runs(session)
    if session.json:
        document(
            {
                "id": added.id,
                "version": added.version,
                "elements": added.element_count,
                "bytes": added.total_bytes,
                "mode": terms.mode,
                "open": terms.mode is AccessMode.OPEN,
                "allowed": terms.parties,
                "unlisted": unlisted,
                "daemon_running": running,
            }
        )
        return
    line(click.style(safe(added.id), bold=True))
    line()
    facts(
        [
            ("wrapped", f"{safe(path)}: {number(added.element_count, 'file')}, {size(added.total_bytes)}"),
            ("may fetch", "\n".join(ways)),
            ("public", _public(unlisted, list_elements)),
        ],
        indent="  ",
    )
    if added.empty_folders:
        note(f"{number(added.empty_folders, 'empty folder')} left out: an object consists of files.")
    if not added.element_count:
        note("There is no file in it yet: `hanse refresh` when there is.")
    line()
    if unlisted:
        line("It is served while `hanse serve` runs; give its identifier to those whom you allowed.")
    elif running:
        line("The running node publishes it now; `hanse status` shows what waits.")
    else:
        line("It will be published when `hanse serve` runs.")


def chosen_mode(everyone: bool, on_request: bool, compute_only: bool) -> "AccessMode | None":
    """Raises InvalidInput when more than one is given."""
    from hanse.errors import InvalidInput
    from hanse.model.record import AccessMode

    given = [
        mode
        for mode, flag in (
            (AccessMode.OPEN, everyone),
            (AccessMode.ON_REQUEST, on_request),
            (AccessMode.COMPUTE_ONLY, compute_only),
        )
        if flag
    ]
    if len(given) > 1:
        raise InvalidInput(f"an object has one mode: leave out {' or '.join(f'--{mode}' for mode in given)}")
    return given[0] if given else None


def _metadata(path: Path | None) -> "Metadata":
    """What the file says. Raises InvalidInput, NotFound, LimitExceeded."""
    from hanse import limits
    from hanse.errors import InvalidInput, LimitExceeded, NotFound
    from hanse.files import storage_errors
    from hanse.model.record import Metadata
    from node.metadata import parse_metadata

    if path is None:
        return Metadata()
    with storage_errors(str(path)):
        try:
            with path.open("rb") as file:
                data = file.read(limits.ENVELOPE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path} does not exist") from None
        except IsADirectoryError:
            raise InvalidInput(f"{path} is a folder: --metadata takes a JSON file") from None
    if len(data) > limits.ENVELOPE_BYTES:
        raise LimitExceeded(f"{path} has more than {limits.ENVELOPE_BYTES} bytes: metadata fits in that")
    try:
        return parse_metadata(data.decode())
    except UnicodeDecodeError:
        raise InvalidInput(f"{path} is not UTF-8 text") from None


def _public(unlisted: bool, list_elements: bool) -> str:
    if unlisted:
        return "nothing: the object is unlisted"
    described = "identifier, description, number of files, total size, media types"
    if list_elements:
        return f"{described}, and the name and size of each file, as you asked"
    return f"{described}. Not: file names, contents, digests"


def _ways_in(session: Session, terms: "Terms") -> list[str]:
    """Who may fetch, a line each, with the key by which each is known here."""
    from node.cli.home import known_of

    if terms.mode == "open":
        return ["every member of the league in good standing"]
    if terms.mode == "compute-only":
        return ["nobody but you: it is for computing where it lies"]
    if not terms.permissions:
        return ["nobody but you, and whom you grant it: `hanse requests` shows who asks"]
    ways = []
    with known_of(session) as known:
        for each in terms.parties:
            seen = known.organization(each.prefix)
            told = known.told_key(each.prefix)
            if each.key_id is not None:
                ways.append(f"{each.prefix}, only with key {each.key_id}")
            elif told is not None:
                ways.append(f"{each.prefix}, key {told}, confirmed by you")
            elif seen is not None:
                ways.append(f"{each.prefix}, known by key {seen.record.current_key.key_id}")
            else:
                ways.append(f"{each.prefix}, no key of it known yet: whoever the registry says it is")
    return ways


@command("list", short="What this node has wrapped")
def list_objects(session: Session) -> None:
    """What this node has wrapped.

    \b
    With --json, one a line: id, version, title, type, elements, bytes, mode, open, allowed, unlisted,
    status, published, source, issued_at.
    """
    from node.cli.home import catalog_of

    with catalog_of(session) as catalog:
        entries = catalog.list()
    if session.json:
        documents(_entry(each) for each in entries)
        return
    if not entries:
        line("Nothing yet: `hanse add PATH` wraps a file or a folder.")
        return
    table(
        ("IDENTIFIER", "VERSION", "FILES", "SIZE", "WHO MAY FETCH", "STATE", "TITLE"),
        [
            (
                each.id,
                each.version,
                f"{each.element_count:,}",
                size(each.total_bytes),
                _who(each.terms),
                _state(each),
                each.title,
            )
            for each in entries
        ],
        right=(1, 2, 3),
    )


def _entry(entry: "Entry") -> dict[str, object]:
    return {
        "id": entry.id,
        "version": entry.version,
        "title": entry.title,
        "type": entry.type,
        "elements": entry.element_count,
        "bytes": entry.total_bytes,
        "mode": entry.terms.mode,
        "open": entry.terms.mode == "open",
        "allowed": entry.terms.parties,
        "unlisted": entry.unlisted,
        "status": "withdrawn" if entry.withdrawn else "active",
        "published": entry.published,
        "source": entry.source,
        "issued_at": entry.issued_at,
    }


def _who(terms: "Terms") -> str:
    if terms.mode == "compute-only":
        return "nobody: compute only"
    if any(not each.parties for each in terms.permissions):
        return "every member" if terms.mode == "open" else "every member, on request"
    named = ", ".join(dict.fromkeys(str(each.prefix) for each in terms.parties))
    if not named:
        return "on request"
    return named if any(each.unasked for each in terms.permissions) else f"{named}, on request"


def _state(entry: "Entry") -> str:
    if entry.withdrawn:
        return "withdrawn"
    if entry.unlisted:
        return "unlisted"
    return "published" if entry.published else "waiting"


@command(short="Compare what is there with what was promised")
@click.option("--deep", is_flag=True, help="Read and hash every byte again.")
@click.pass_context
def check(context: click.Context, session: Session, deep: bool) -> None:
    """Compare sources, manifests, the registry and the log with what was promised, and name every difference.

    Ends with 6 if the log is not what was signed, else with 7 if there is a difference, with 5 if only the registry
    could not be asked.

    \b
    With --json, one a line: id, version, what, element, remedy.
    Of the log: log_entry (the first bad one), what, remedy.
    """
    from hanse.errors import Unreachable
    from hanse.model.envelope import Envelope
    from hanse.model.identifier import Identifier
    from node.checking import Shown, check_log
    from node.cli.home import catalog_of, evidence_of, league_of, storage_of
    from node.cli.progress import counting

    unreachable: list[Unreachable] = []
    session.after_interrupt = "Stopped. Nothing was changed."
    with catalog_of(session) as catalog, league_of(session) as league, counting("checking") as progress:
        shown = Shown(league.resolve, [each.id for each in catalog.list() if not each.unlisted])

        def newest(id: Identifier) -> Envelope | None:
            try:
                return shown(id)
            except Unreachable as error:
                unreachable.append(error)
                raise

        drifts = list(catalog.check(deep, progress, newest=newest))
    with storage_of(session) as (_, storage), evidence_of(session) as evidence:
        entries, damage = evidence.size(), check_log(evidence, storage, deep=deep)
    remedy = "Restore evidence.db from your backup; your peers hold later checkpoints of it."
    if session.json:
        if damage is not None:
            documents([{"log_entry": damage.position, "what": damage.what, "remedy": remedy}])
        documents(
            {"id": each.id, "version": each.version, "what": each.what, "element": each.element, "remedy": each.remedy}
            for each in drifts
        )
    elif not drifts:
        line(f"Everything is as promised{' (every byte was read)' if deep else ''}.")
    else:
        for each in drifts:
            line(safe(each))
        line()
        line(f"{number(len(drifts), 'difference')}.")
    if not session.json:
        if damage is not None:
            line(f"The log is damaged. {safe(str(damage)[:1].upper() + str(damage)[1:])}. {remedy}")
        elif entries:
            line(f"The log is as it was signed: {number(entries, 'entry', 'entries')}.")
    if damage is not None:
        context.exit(6)
    if drifts:
        # That the registry could not be asked is one of them: alone, it is no difference yet.
        context.exit(unreachable[0].exit_code if unreachable and len(drifts) == 1 else 7)


@command(short="Make new versions of what changed")
@click.argument("suffix", required=False)
def refresh(session: Session, suffix: str | None) -> None:
    """Make a new version of what changed since it was wrapped: of all objects, or of SUFFIX.

    \b
    With --json, one a line: id, version, changed.
    """
    from node.cli.home import catalog_of, identity_of, own_suffix
    from node.cli.progress import counting

    chosen = own_suffix(identity_of(session).prefix, suffix) if suffix is not None else None
    session.after_interrupt = "Stopped. The versions that were finished are kept; run it again for the rest."
    with catalog_of(session) as catalog, counting("hashing") as progress:
        refreshed = catalog.refresh(chosen, progress)
    if session.json:
        documents(
            {
                "id": each.id,
                "version": each.version,
                "changed": each.changed,
                "rehashed": each.rehashed,
                "elements": each.element_count,
                "bytes": each.total_bytes,
            }
            for each in refreshed
        )
        return
    for each in refreshed:
        line(f"{safe(each.id)}: {f'version {each.version}' if each.changed else 'unchanged'}")
    if not refreshed:
        line("Nothing to refresh.")


@command(short="End an object for good")
@click.argument("suffix")
@click.option("--reason", default="", metavar="T", help="Why; public, in the tombstone.")
def withdraw(session: Session, suffix: str, reason: str) -> None:
    """End the object SUFFIX for good: nobody gets it any more, and its identifier is never used again.

    The data itself stays where it is.
    """
    from node.cli.home import catalog_of, daemon_runs, identity_of, own_suffix

    chosen = own_suffix(identity_of(session).prefix, suffix)
    with catalog_of(session) as catalog:
        withdrawn = catalog.withdraw(chosen, reason)
    if session.json:
        document({"id": withdrawn, "status": "withdrawn", "reason": reason})
    else:
        line(f"{safe(withdrawn)} is withdrawn, for good. The data stays where it is.")
        if not daemon_runs(session):
            line("Others learn of it when `hanse serve` runs.")
