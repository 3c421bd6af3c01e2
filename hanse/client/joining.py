"""Becoming a member: an invitation spent, keys and certificates in a home. SPEC.md section 5.1 and 5.2.

The rule it keeps: running it again after any interruption, or after a lost answer, goes on with the same keys and
the same signed record, so that an invitation is never burnt for nothing. ``league.json`` is written last: a home
without it is unfinished, one with it is whole.

    entered = enter(home, invitation, address=address, now=now)
    ...                                   # what else belongs into this home
    complete(entered)
"""

from dataclasses import dataclass
from datetime import UTC, datetime

import grpc

from hanse import limits, trust, wire
from hanse.client.identity import (
    IDENTITY_KEY,
    MEMBER_CERTIFICATE,
    NODE_CERTIFICATE,
    TLS_KEY,
    Identity,
    write_league,
)
from hanse.errors import HanseError, InvalidInput, Unreachable, VerificationFailed
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.invitation import Invitation
from hanse.model.organization import Authority, IdentityKey, NodeEndpoint, OrganizationRecord
from hanse.model.record import check_text
from hanse.rpc import channel, tls
from hanse.rpc.status import from_rpc
from hanse.signing import SigningKey, sign
from hanse.v1 import registry_pb2, registry_pb2_grpc

UNFINISHED = "joining.bin"


@dataclass(frozen=True)
class Entered:
    """A new member. ``authority`` as it came."""

    identity: Identity
    organization: Envelope
    authority: bytes


def read_invitation(text: str, now: int) -> Invitation:
    """One that has not expired. Raises InvalidInput."""
    invitation = wire.invitation_from_text(text)
    if invitation.expires_at < now - limits.CLOCK_SKEW:
        raise InvalidInput(
            f"the invitation expired on {_day(invitation.expires_at)}, and this machine's clock says {_day(now)}: "
            "set the clock if it is wrong, else ask for a new invitation"
        )
    return invitation


def enter(
    home: Home,
    invitation: Invitation,
    *,
    address: Address | None,
    now: int,
    name: str | None = None,
    contact: str = "",
    passphrase: str | None = None,
) -> Entered:
    """Spends the invitation. The home is locked by the caller.

    Raises InvalidInput, VerificationFailed (not the league that invited), NotPermitted (spent or revoked), Unreachable
    (run it again), HomeUnusable, NoSpace.
    """
    check_text(contact)
    check_text(name or "")
    league, authority_bytes, registry = _find_league(invitation, now)
    signing_key, tls_key = _keys(home, passphrase)
    organization = _organization(home, invitation, league, signing_key, tls_key, address, name, contact, now)
    certificate = _spend(home, invitation, league, registry, organization, tls_key)
    with storage_errors(str(home.folder)):
        node_certificate = (home / NODE_CERTIFICATE).read_bytes()
    member_certificate = tls.to_pem(certificate)
    identity = Identity(
        home,
        invitation.prefix,
        league,
        invitation.registries,
        signing_key,
        tls_key.to_pem(),
        node_certificate,
        member_certificate,
    )
    write_durably(home / MEMBER_CERTIFICATE, member_certificate, 0o644)
    return Entered(identity, organization, authority_bytes)


def complete(entered: Entered) -> None:
    """The last thing: from now on it is a member's home."""
    identity = entered.identity
    write_league(identity.home, identity.prefix, entered.authority, identity.registries)
    (identity.home / UNFINISHED).unlink(missing_ok=True)


def _day(seconds: int) -> str:
    try:
        return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M UTC")
    except (ValueError, OverflowError, OSError):
        return "a day that no calendar has"


def _find_league(invitation: Invitation, now: int) -> tuple[Authority, bytes, Address]:
    """The league that the fingerprint in the invitation names, and the address at which it was found."""
    missed: Unreachable | None = None
    for address in invitation.registries:
        try:
            return *_ask_authority(invitation, address, now), address
        except Unreachable as error:
            missed = error
    raise missed or Unreachable("the invitation names no registry: ask for a new one")


def _ask_authority(invitation: Invitation, address: Address, now: int) -> tuple[Authority, bytes]:
    leaf = channel.unverified_certificate(address)
    whom = f"the registry at {address}"
    try:
        shown = tls.read_certificate(tls.from_pem(leaf))
        root = Prefix.parse(shown.spiffe_id.removeprefix("spiffe://").partition("/registry")[0])  # or of a mirror
    except InvalidInput:
        raise VerificationFailed(
            f"what answers at {address} is not a registry: is the invitation's address still right?"
        ) from None
    if not shown.not_before <= now <= shown.not_after:
        raise VerificationFailed(
            f"this machine's clock says {_day(now)}, but the registry's certificate holds from "
            f"{_day(shown.not_before)} to {_day(shown.not_after)}: set the clock"
        )
    with channel.dial(address, roots=leaf, server_name=tls.registry_name(root)) as registry:
        try:
            answer = registry_pb2_grpc.RegistryStub(registry).GetAuthority(
                registry_pb2.GetAuthorityRequest(), timeout=limits.CALL_TIMEOUT
            )
        except grpc.RpcError as error:
            raise from_rpc(error, whom) from None
    league = trust.authority(answer.authority, invitation.league)
    if not invitation.prefix.is_under(league.root):
        raise VerificationFailed(f"the league of {league.root} cannot have a member {invitation.prefix}")
    return league, answer.authority


def _keys(home: Home, passphrase: str | None) -> tuple[SigningKey, tls.TlsKey]:
    """Those of an unfinished attempt, or new ones."""
    if (home / IDENTITY_KEY).exists():
        signing_key = SigningKey.from_pem(home.read_secret(IDENTITY_KEY), passphrase)
    else:
        signing_key = SigningKey.generate()
        home.write_secret(IDENTITY_KEY, signing_key.to_pem(passphrase))
    if (home / TLS_KEY).exists():
        tls_key = tls.TlsKey.from_pem(home.read_secret(TLS_KEY))
    else:
        tls_key = tls.TlsKey.generate()
        home.write_secret(TLS_KEY, tls_key.to_pem())
    return signing_key, tls_key


def _organization(
    home: Home,
    invitation: Invitation,
    league: Authority,
    signing_key: SigningKey,
    tls_key: tls.TlsKey,
    address: Address | None,
    name: str | None,
    contact: str,
    now: int,
) -> Envelope:
    """Version 1 of the organization's record: that of the unfinished attempt, if it was for this invitation."""
    path = home / UNFINISHED
    with storage_errors(str(path)):
        kept = path.read_bytes() if path.exists() else b""
    spent, _, envelope_bytes = kept.partition(b"\n")
    if spent == _attempt(invitation):
        try:
            return wire.decode_envelope(envelope_bytes)
        except InvalidInput:
            pass  # A torn file cannot be, a foreign one can: make a new one.
    certificate = tls.make_node_certificate(tls_key, league.root, invitation.prefix, now)
    record = OrganizationRecord(
        prefix=invitation.prefix,
        version=1,
        previous=b"",
        display_name=name or invitation.display_name or str(invitation.prefix),
        contact=contact,
        keys=(IdentityKey(signing_key.public, now),),
        nodes=(NodeEndpoint(address, certificate),),
        issued_at=now,
    )
    envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), signing_key)
    write_durably(home / NODE_CERTIFICATE, tls.to_pem(certificate), 0o644)
    write_durably(path, _attempt(invitation) + b"\n" + wire.encode_envelope(envelope))
    return envelope


def _attempt(invitation: Invitation) -> bytes:
    return f"{invitation.prefix} {invitation.league.hex()}".encode()


def _spend(
    home: Home,
    invitation: Invitation,
    league: Authority,
    address: Address,
    organization: Envelope,
    tls_key: tls.TlsKey,
) -> bytes:
    request = registry_pb2.JoinRequest(
        secret=invitation.secret,
        organization=wire.envelope_to_message(organization),
        csr=tls.make_request(tls_key, invitation.prefix),
    )
    roots = tls.to_pem(league.ca_certificate)
    with channel.dial(address, roots=roots, server_name=tls.registry_name(league.root)) as registry:
        try:
            answer = registry_pb2_grpc.RegistryStub(registry).Join(request, timeout=limits.CALL_TIMEOUT)
        except grpc.RpcError as error:
            failure: HanseError = from_rpc(error, f"the registry at {address}")
            if not isinstance(failure, Unreachable):
                # A definite no: the next attempt signs a record of its own, with the clock of then.
                (home / UNFINISHED).unlink(missing_ok=True)
            raise failure from None
    try:
        issued = tls.read_certificate(answer.certificate)
    except InvalidInput:
        raise VerificationFailed("the registry answered with something that is not a certificate") from None
    if issued.organization != invitation.prefix or issued.key_digest != tls.request_key_digest(request.csr):
        raise VerificationFailed(f"the registry issued a certificate that is not for {invitation.prefix} and its key")
    return answer.certificate
