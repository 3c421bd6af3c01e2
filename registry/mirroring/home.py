"""A mirror's home: that of a member, with a registry's database. Made from an invitation. SPEC.md section 23.1.

What makes it complete is ``league.json``, as in every member's home; ``mirror.toml`` has what its operator may set.
After a promotion there is a ``registry.toml``, and it is a registry's.
"""

import secrets
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from hanse import wire
from hanse.client import identity as member
from hanse.client.identity import Identity
from hanse.client.joining import complete, enter, read_invitation
from hanse.client.league import League
from hanse.client.storage.known import FILE, Known
from hanse.errors import HomeInUse, HomeUnusable, InvalidInput, Unreachable, VerificationFailed
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.invitation import SCHEME
from hanse.model.organization import NodeEndpoint, OrganizationRecord
from hanse.model.publishing import OutcomeCode
from hanse.rpc import tls
from hanse.signing import sign
from registry import config as settings
from registry.config import Config
from registry.mirroring import MARKER
from registry.ports import free_port
from registry.storage.base import Storage
from registry.storage.sqlite import SqliteStorage

DATABASE = "registry.db"
AUTHORITY = "authority.bin"
CA_CERTIFICATE = "ca.crt"
SERVER_CERTIFICATE = "server.pem"
STATE = "mirror.json"
REMEDY = "`hanse-registry mirror INVITATION --home {0}` makes a mirror of it"


def join(
    text: str,
    folder: Path,
    listen: Address | None = None,
    advertise: Address | None = None,
    clock: Callable[[], float] = time.time,
) -> None:
    """Spends an invitation. May be run again after any interruption. Raises what hanse.client.joining.enter raises."""
    now = int(clock())
    invitation = read_invitation(text, now)
    home = Home.create(folder, member.MARKER)
    if (home / settings.MARKER).exists():
        raise HomeInUse(f"{folder} is a registry's home: choose another --home")
    with home.lock("hanse-registry mirror"):
        config = Config("", invitation.prefix, listen or settings.DEFAULT_LISTEN, (advertise,) if advertise else ())
        port = _prepare(home, config)
        entered = enter(home, invitation, address=config.advertised(port)[0], now=now)
        league = entered.identity.authority
        write_durably(home / AUTHORITY, entered.authority, 0o644)
        write_durably(home / CA_CERTIFICATE, tls.to_pem(league.ca_certificate), 0o644)
        config = Config(league.display_name, league.root, config.listen, config.advertise)
        write_durably(home / MARKER, config.to_toml().encode())
        complete(entered)


def _prepare(home: Home, config: Config) -> int:
    """The database; the port that is listened on for good."""
    storage = SqliteStorage(home / DATABASE)
    try:
        port = config.listen.port or int(storage.recall("port") or 0) or free_port(config.listen)
        with storage.writing() as writing:
            if storage.recall("page_secret") is None:
                writing.remember("page_secret", secrets.token_hex(32))
            if not config.listen.port:
                writing.remember("port", str(port))
        return port
    finally:
        storage.close()


def open_home(folder: Path) -> tuple[Home, Config, Identity]:
    """Raises HomeUnusable, with the way out."""
    home = Home.open(folder, member.MARKER, REMEDY.format(folder))
    if (home / settings.MARKER).exists():
        raise HomeUnusable(f"{folder} is a registry's home: `hanse-registry serve --home {folder}` runs it")
    if not (home / MARKER).exists():
        raise HomeUnusable(f"{folder} is an organization's home, and no mirror's: choose another --home")
    return home, settings.load(home / MARKER), Identity.load(home)


def configure(folder: Path, listen: Address | None, advertise: Address | None) -> None:
    """Changes what is set; the mirror's record follows when it runs."""
    home, before, _ = open_home(folder)
    after = Config(before.name, before.root, listen or before.listen, (advertise,) if advertise else before.advertise)
    if (after.listen, after.advertise) != (before.listen, before.advertise):
        write_durably(home / MARKER, after.to_toml().encode())
        _prepare(home, after)


def registries(identity: Identity, known: Known, own: tuple[Address, ...]) -> tuple[Address, ...]:
    """Where the registry is: as the membership names it, else as the invitation did; without the mirror itself."""
    kept = known.membership()
    named = wire.decode_registries(kept.members) if kept is not None else ()
    return tuple(each for each in named if each not in own) or identity.registries


def named(home: Home) -> tuple[Address, ...]:
    """The registry's addresses and its mirrors', as the membership that was told last names them."""
    with closing(Known.open(home / FILE)) as known:
        kept = known.membership()
    return wire.decode_registries(kept.members) if kept is not None else ()


def mirrors(storage: Storage) -> list[Address]:
    """Where the league's mirrors are, as far as their records say."""
    listed = [each.prefix for each in storage.membership()[1] if each.mirror]
    newest = (wire.decode_envelope(storage.organizations(prefix, 0)[-1].envelope) for prefix in listed)
    nodes = (node for envelope in newest for node in wire.decode_organization(envelope.payload).nodes)
    return [node.address for node in nodes if node.address is not None]


def is_invitation(text: str) -> bool:
    """Else it is an address."""
    return "".join(text.split()).startswith(SCHEME)


def server_certificate(home: Home) -> bytes | None:
    """What it serves with, PEM; None before the first."""
    with storage_errors(str(home / SERVER_CERTIFICATE)):
        return (home / SERVER_CERTIFICATE).read_bytes() if (home / SERVER_CERTIFICATE).exists() else None


def is_due(pem: bytes | None, now: int) -> bool:
    """At two thirds of its life, as member certificates are."""
    if pem is None:
        return True
    try:
        certificate = tls.read_pem_certificate(pem)
    except InvalidInput:
        return True
    return now >= certificate.not_before + 2 * (certificate.not_after - certificate.not_before) // 3


def renew_server_certificate(home: Home, identity: Identity, league: League) -> bytes:
    """PEM, kept. Raises Unreachable, NotPermitted, VerificationFailed, NoSpace."""
    key = tls.TlsKey.from_pem(identity.tls_key)
    issued = league.renew(tls.make_request(key, identity.prefix), server=True)
    try:
        certificate = tls.read_certificate(issued)
    except InvalidInput:
        raise VerificationFailed("the registry answered with something that is not a certificate") from None
    if certificate.mirror != identity.prefix or not tls.is_key_of(key, issued):
        raise VerificationFailed(
            f"the registry issued a certificate that is not for the mirror of {identity.prefix} and its key: "
            "is it of a version that knows mirrors?"
        )
    pem = tls.to_pem(issued)
    write_durably(home / SERVER_CERTIFICATE, pem, 0o644)
    return pem


def readdress(identity: Identity, storage: Storage, league: League, address: Address, now: int) -> bool:
    """Publishes where the mirror is reached, if its record says otherwise. Whether it did."""
    chain = storage.organizations(identity.prefix, 0)
    if not chain:
        return False
    before = wire.decode_organization(wire.decode_envelope(chain[-1].envelope).payload)
    nodes = tuple(NodeEndpoint(address, each.tls_certificate) for each in before.nodes)
    if nodes == before.nodes:
        return False
    record = OrganizationRecord(
        before.prefix,
        before.version + 1,
        chain[-1].digest,
        before.display_name,
        before.contact,
        before.keys,
        nodes,
        max(now, before.issued_at),
    )
    envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), identity.signing_key)
    (outcome,) = league.publish([envelope])
    if outcome.code is not OutcomeCode.ACCEPTED:
        raise Unreachable(f"the registry did not take this mirror's new address: {outcome.message}")
    return True
