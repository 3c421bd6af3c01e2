"""What an owner lets whom do with an object: `hanse terms` shows it and sets it."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from node.cli.frame import Session, command
from node.cli.home import catalog_of, daemon_runs, identity_of, own_suffix
from node.cli.output import document, facts, line, note, number, safe, size, when
from node.cli.times import parse_size, parse_until
from node.cli.wrapping import chosen_mode

if TYPE_CHECKING:
    from hanse.model.identifier import Identifier
    from hanse.model.record import AccessMode
    from hanse.model.terms import Conditions, Permission, Terms


@command(short="Who may do what with an object of yours")
@click.argument("id")
@click.option("--open", "everyone", is_flag=True, help="Any member, without asking a person. Public.")
@click.option("--on-request", is_flag=True, help="What is not permitted here, a person decides. Public.")
@click.option("--compute-only", is_flag=True, help="Nobody fetches it, whatever was granted. Public.")
@click.option("--allow", multiple=True, metavar="PREFIX[#KEYID]", help="Whom it concerns; may be repeated. Else: all.")
@click.option("--operation", "operations", multiple=True, type=click.Choice(["describe", "fetch"]), help="Else: both.")
@click.option("--purpose", "purposes", multiple=True, metavar="P", help="Only for this; may be repeated. Public.")
@click.option("--from", "begin", metavar="D", help="Not before: a time (2027-01-01) or a span from now (2h).")
@click.option("--until", metavar="D", help="Not from then on: a time (2027-06-30) or a span from now (30d).")
@click.option("--max-fetches", type=click.IntRange(1), metavar="N", help="How often, with each grant.")
@click.option("--max-bytes", metavar="SIZE", help="How much, with each grant: 10GB.")
@click.option(
    "--duty", "duties", multiple=True, metavar="D",
    help="What is owed: delete-after=30d, attribute=TEXT, do-not-pass-on, other=TEXT; may be repeated. Public.",
)  # fmt: skip
@click.option("--pass-on", is_flag=True, help="Whoever is granted it may grant less of it to others.")
@click.option("--manual", is_flag=True, help="A person decides each request for it: `hanse requests`.")
@click.option("--add", "beside", is_flag=True, help="Beside the permissions that are there, not in their place.")
@click.option("--file", type=click.Path(path_type=Path), metavar="FILE.jsonld", help="Take the terms from ODRL.")
@click.option("--odrl", "as_odrl", is_flag=True, help="Print them as an ODRL 2.2 policy (JSON-LD).")
def terms(
    session: Session,
    id: str,
    everyone: bool,
    on_request: bool,
    compute_only: bool,
    allow: tuple[str, ...],
    operations: tuple[str, ...],
    purposes: tuple[str, ...],
    begin: str | None,
    until: str | None,
    max_fetches: int | None,
    max_bytes: str | None,
    duties: tuple[str, ...],
    pass_on: bool,
    manual: bool,
    beside: bool,
    file: Path | None,
    as_odrl: bool,
) -> None:
    """Show who may do what with the object ID of yours, for what and for what in return; or, with options, set it.

    Options replace the terms that are there; with --add they become one permission more. Whoever a permission without
    purposes, duties and limits concerns needs not ask. Others ask (`hanse request`) and get a grant, signed by you:
    by itself where a permission covers what they ask for, unless --manual. Grants that were given stay as they are:
    `hanse revoke` ends them.

    \b
      hanse terms trial-7 --allow 86.acme --purpose clinical-research --until 2027-06-30 --max-fetches 20

    Purposes are names of the W3C DPV (academic-research) or of DUO (health-research), or a few words of your own.

    \b
    With --json: id, version, mode, permissions [{parties, automatic, operations, purposes, valid_from, valid_until,
    max_fetches, max_bytes, duties [{duty, enforcement}], pass_on}], changed (whether a new version is published).
    """
    from hanse.model.purposes import Purpose
    from hanse.model.terms import Conditions, Duty, Operation, Party, Permission

    mode = chosen_mode(everyone, on_request, compute_only)
    conditioned: dict[str, Any] = {
        "operations": tuple(map(Operation, dict.fromkeys(operations))),
        "purposes": tuple(dict.fromkeys(map(Purpose.parse, purposes))),
        "valid_from": parse_until(begin, "--from") if begin is not None else None,
        "valid_until": parse_until(until) if until is not None else None,
        "max_fetches": max_fetches,
        "max_bytes": parse_size(max_bytes, "--max-bytes") if max_bytes is not None else None,
        "duties": tuple(dict.fromkeys(map(Duty.parse, duties))),
        "pass_on": pass_on,
    }
    said = {name: value for name, value in conditioned.items() if value not in (None, (), False)}
    parties = tuple(dict.fromkeys(map(Party.parse, allow)))
    permission = None
    if parties or said or manual:
        if compute_only:
            said.setdefault("operations", (Operation.DESCRIBE,))
        permission = Permission(parties, Conditions(**said), not manual)
    suffix = own_suffix(identity_of(session).prefix, id)
    change = _change(session, suffix, mode, permission, beside, file)
    with catalog_of(session) as catalog:
        changed = catalog.set_terms(suffix, change).changed if change else False
        wrapped, version = catalog.terms(suffix)
    if as_odrl:
        import json

        from node.odrl import to_odrl

        line(json.dumps(to_odrl(wrapped.terms, wrapped.id), ensure_ascii=False, indent=2))
        return
    if session.json:
        told = {"id": wrapped.id, "version": version, **_fields(wrapped.terms)}
        document(told | {"changed": changed} if change else told)
        return
    _show(wrapped.id, wrapped.terms)
    if change:
        line()
        if not changed:
            line("In force. What the public sees of it is as before.")
        elif wrapped.unlisted:
            line(f"In force, as version {version}. Nothing is published: the object is unlisted.")
        else:
            published = "is published by the running node" if daemon_runs(session) else "waits for `hanse serve`"
            line(f"In force. Version {version}, which tells the public, {published}.")


def _change(
    session: Session,
    suffix: str,
    mode: "AccessMode | None",
    permission: "Permission | None",
    beside: bool,
    file: Path | None,
) -> "Callable[[Terms], Terms] | None":
    """What makes the new terms of the old ones; None when nothing is to be set."""
    if file is not None:
        if mode or permission or beside:
            raise click.UsageError("--file holds the terms whole: say nothing beside it")
        read = _read(session, suffix, file)
        return lambda _: read
    if beside and permission is None:
        raise click.UsageError("--add adds a permission: say whom it concerns or on what conditions")
    if mode is None and permission is None:
        return None
    return lambda before: before.changed(mode, permission, beside=beside)


def _read(session: Session, suffix: str, path: Path) -> "Terms":
    """Raises NotFound, InvalidInput, LimitExceeded."""
    import json

    from hanse import limits
    from hanse.errors import InvalidInput, LimitExceeded, NotFound
    from hanse.files import storage_errors
    from hanse.model.identifier import Identifier
    from node.odrl import from_odrl

    with storage_errors(str(path)):
        try:
            with path.open("rb") as file:
                data = file.read(limits.ENVELOPE_BYTES + 1)
        except (FileNotFoundError, NotADirectoryError):
            raise NotFound(f"{path} does not exist") from None
        except IsADirectoryError:
            raise InvalidInput(f"{path} is a folder: --file takes an ODRL policy") from None
    if len(data) > limits.ENVELOPE_BYTES:
        raise LimitExceeded(f"{path} has more than {limits.ENVELOPE_BYTES} bytes: terms fit in that")
    try:
        policy = json.loads(data)
    except (ValueError, RecursionError):
        raise InvalidInput(f"{path} is not JSON") from None
    return from_odrl(policy, Identifier.of(identity_of(session).prefix, suffix))


def _fields(terms: "Terms") -> dict[str, object]:
    """The stable names of --json."""
    return {
        "mode": terms.mode,
        "permissions": [
            {"parties": each.parties, "automatic": each.automatic, **_condition_fields(each.conditions)}
            for each in terms.permissions
        ],
    }


def _condition_fields(conditions: "Conditions") -> dict[str, object]:
    return {
        "operations": conditions.operations,
        "purposes": conditions.purposes,
        "valid_from": conditions.valid_from,
        "valid_until": conditions.valid_until,
        "max_fetches": conditions.max_fetches,
        "max_bytes": conditions.max_bytes,
        "duties": [{"duty": str(each), "enforcement": each.enforcement} for each in conditions.duties],
        "pass_on": conditions.pass_on,
    }


_MODES = {
    "open": "open: every member needs not ask a person",
    "on-request": "on request: what is not permitted below, a person decides",
    "compute-only": "compute only: nobody fetches it, whatever was granted",
}


def _show(id: "Identifier", terms: "Terms") -> None:
    line(click.style(safe(id), bold=True))
    line()
    facts([("mode", _MODES[terms.mode.value])], indent="  ")
    for each in terms.permissions:
        conditions = each.conditions
        line()
        facts(
            [
                ("who", ", ".join(map(str, each.parties)) or "every member in good standing"),
                ("may", ", ".join(conditions.operations)),
                ("for", ", ".join(map(str, conditions.purposes)) or "any purpose"),
                ("from", when(conditions.valid_from) if conditions.valid_from else ""),
                ("until", when(conditions.valid_until) if conditions.valid_until else ""),
                ("at most", _limits(conditions)),
                ("owed", "\n".join(each.in_words for each in conditions.duties)),
                ("pass on", "a weaker grant may be made of one for it" if conditions.pass_on else ""),
                ("how", _way(each)),
            ],
            indent="  ",
        )
    if not terms.permissions:
        note("Nothing is permitted here: others get it by a grant alone.")


def _limits(conditions: "Conditions") -> str:
    said = [
        number(conditions.max_fetches, "fetch", "fetches") if conditions.max_fetches else "",
        size(conditions.max_bytes) if conditions.max_bytes else "",
    ]
    told = ", ".join(each for each in said if each)
    return f"{told}, with each grant" if told else ""


def _way(permission: "Permission") -> str:
    if permission.unasked:
        return "without asking"
    return "by a grant, given by itself when asked" if permission.automatic else "by a grant that a person gives"
