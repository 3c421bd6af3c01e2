"""Becoming and being a member: join, serve, rotate-key, trust."""

import click

from node.cli.frame import Session, command
from node.cli.output import document, facts, line, when


@command(short="Join a league with an invitation")
@click.argument("invitation")
@click.option("--listen", metavar="HOST:PORT", help="Where the node listens; port 0 asks for a free one.")
@click.option("--advertise", metavar="HOST:PORT", help="Where others reach it, if that is another address.")
def join(session: Session, invitation: str, listen: str | None, advertise: str | None) -> None:
    """Join a league with the INVITATION that its registry's operator sent you.

    Makes your keys in the home folder: they never leave it. Back the folder up.
    """
    from hanse.model.address import Address
    from node.join import join as join_league

    identity = join_league(
        invitation,
        session.folder,
        listen=Address.parse(listen) if listen is not None else None,
        advertise=Address.parse(advertise) if advertise is not None else None,
    )
    key_id, league = identity.signing_key.public.key_id, identity.authority
    if session.json:
        document(
            {
                "prefix": identity.prefix,
                "key_id": key_id,
                "league": league.display_name,
                "root": league.root,
                "home": identity.home.folder,
                "certificate_until": identity.certificate.not_after,
            }
        )
        return
    line(f"Joined {league.display_name or league.root} as {identity.prefix}.")
    line()
    facts(
        [
            ("key id", key_id),
            ("home", identity.home.folder),
            ("certificate", f"until {when(identity.certificate.not_after)}; the running node renews it"),
        ],
        indent="  ",
    )
    line()
    line("Next: `hanse serve` runs the node, `hanse add PATH` wraps data.")
    line("Tell partners your key id on another channel: with it they can be sure that it is you.")


@command(short="Run the node")
@click.option("--witness", metavar="HOST:PORT", help="Cosign the registry's log there; else `witness` of node.toml.")
def serve(session: Session, witness: str | None) -> int:
    """Run the node: publish what was added, serve those who are allowed.

    Prints 'listening on HOST:PORT' when it is ready. SIGTERM ends it gracefully.

    With --witness it signs over plain HTTP that the registry's log continues what it was before, and nothing else. The
    registry's operator, and whoever is to rely on it, need the key that `hanse status` shows.
    """
    from hanse.model.address import Address
    from node.app import serve as serve_node

    session.after_interrupt = "Stopped."
    return serve_node(session.folder, witness=Address.parse(witness) if witness is not None else None) or 0


@command(short="Pin a key that was confirmed outside the network")
@click.argument("prefix")
@click.argument("keyid")
def trust(session: Session, prefix: str, keyid: str) -> None:
    """Pin the key KEYID of the organization PREFIX, as it told you outside the network.

    From then on nothing that another key signed in its name is believed.
    """
    from hanse.model.identifier import Prefix
    from hanse.model.keys import KeyId
    from node.cli.home import known_of

    organization, key_id = Prefix.parse(prefix), KeyId.parse(keyid)
    with known_of(session) as known:
        before = known.organization(organization)
        known.tell_key(organization, key_id)
    agrees = before is not None and before.record.key(key_id) is not None
    if session.json:
        document({"prefix": organization, "key_id": key_id, "seen_before": before is not None, "agrees": agrees})
    elif agrees:
        line(f"{organization} is pinned to {key_id}: the key that it was known by already.")
    elif before is not None:
        line(f"{organization} is pinned to {key_id}.")
        line(f"Until now it was known by {before.record.current_key.key_id}: that is not believed any more.")
    else:
        line(f"{organization} is pinned to {key_id}. Nothing of it was seen before.")


@command("rotate-key", short="Make a new identity key, signed by the old and the new")
def rotate_key(session: Session) -> None:
    """Make a new identity key, signed by the old and the new: whoever knows the old one follows by itself."""
    from node.cli.home import daemon_runs, storage_of
    from node.observe import configure_logs
    from node.rotate import rotate

    configure_logs("debug" if session.debug else "error")
    with storage_of(session) as (identity, storage):
        rotated = rotate(identity, storage)
    before, after = identity.signing_key.public.key_id, rotated.signing_key.public.key_id
    known_to_registry = rotated.previous_key is None
    if session.json:
        document({"previous_key_id": before, "key_id": after, "known_to_registry": known_to_registry})
        return
    line(f"The new key is {after}; the one before it was {before}.")
    line("Whoever knows the old key follows by itself. Whoever allowed you by key id (`--allow PREFIX#KEYID`)")
    line("or pinned you with `hanse trust` must be told the new one.")
    if not known_to_registry:
        running = "" if daemon_runs(session) else " and `hanse serve` runs"
        line(f"The registry does not answer now. Others learn of the new key when it does{running}.")
