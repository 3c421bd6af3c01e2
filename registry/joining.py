"""Invitations, joining, renewal, suspension: how the membership changes. SPEC.md sections 5.1, 5.2 and 6.

Used by the daemon and by the operator's commands, which may run while it does. Each change is one transaction
and leaves a signed membership head among the changes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from hashlib import sha256

from hanse import trust, wire
from hanse.errors import (
    AlreadyExists,
    Conflict,
    HanseError,
    InvalidInput,
    NotFound,
    NotPermitted,
    VerificationFailed,
)
from hanse.model.address import Address
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.invitation import Invitation
from hanse.model.organization import Authority, Member, OrganizationRecord
from hanse.rpc import tls
from hanse.trust import VerifiedOrganization
from registry.members import League, Statements
from registry.passes import refuse_suspended
from registry.storage.base import Certificate, Storage, StoredInvitation, StoredOrganization, Writing, transact

_SAME_CERTIFICATE = 60  # seconds


@dataclass(frozen=True)
class Issuer:
    """The league's certificate authority. repr() does not show its key."""

    key: tls.TlsKey
    authority: Authority

    def member_certificate(self, request: bytes, prefix: Prefix, now: int) -> bytes:
        """DER. Raises InvalidInput."""
        return tls.issue_member(self.key, self.authority.ca_certificate, request, self.authority.root, prefix, now)

    def mirror_certificate(self, request: bytes, prefix: Prefix, now: int) -> bytes:
        """DER. Raises InvalidInput."""
        return tls.issue_mirror(self.key, self.authority.ca_certificate, request, self.authority.root, prefix, now)


class Membership:
    """The changes of a league's membership."""

    def __init__(self, storage: Storage, issuer: Issuer, statements: Statements, clock: Callable[[], float]) -> None:
        self._storage = storage
        self._issuer = issuer
        self._statements = statements
        self._clock = clock

    def invite(
        self,
        prefix: Prefix,
        name: str,
        valid: int,
        registries: tuple[Address, ...],
        secret: bytes,
        *,
        mirror: bool = False,
    ) -> Invitation:
        """``mirror``: whoever joins mirrors this registry.

        Raises InvalidInput for a prefix that is not under the root, AlreadyExists for one that is taken."""
        root = self._issuer.authority.root
        if not prefix.is_under(root):
            raise InvalidInput(
                f"{prefix} is not under this registry's root {root}: invite {root}.{prefix}, for example"
            )
        now = int(self._clock())

        def store(writing: Writing) -> None:
            if writing.member(prefix) is not None:
                raise AlreadyExists(f"{prefix} is a member already: `hanse-registry orgs` lists all")
            writing.put_invitation(_hash(secret), StoredInvitation(prefix, name, now + valid, None, mirror), now)

        transact(self._storage, store)
        return Invitation(registries, prefix, secret, self._issuer.authority.fingerprint, now + valid, name)

    def join(self, secret: bytes, organization: Envelope, request: bytes) -> bytes:
        """The new member's certificate, DER; the same again answers again.

        Raises NotPermitted, InvalidInput, AlreadyExists, Suspended.
        """
        now = int(self._clock())
        try:
            verified = trust.organization(organization, pinned=None, now=now)
        except VerificationFailed as error:
            raise InvalidInput(f"the organization record is not accepted: {error}") from None
        record = verified.record

        def admit(writing: Writing) -> bytes:
            invitation = writing.invitation(_hash(secret))
            if invitation is None:
                raise NotPermitted("this registry does not know the invitation: ask its operator for a new one")
            if invitation.prefix != record.prefix:
                raise NotPermitted(f"the invitation is for {invitation.prefix}, not for {record.prefix}")
            if invitation.spent_by is not None and invitation.spent_by != verified.digest:
                raise NotPermitted("the invitation was used already: ask the registry's operator for a new one")
            if invitation.spent_by is None:
                if invitation.expires_at < now:
                    raise NotPermitted("the invitation has expired: ask the registry's operator for a new one")
                self._admit(writing, verified, now, mirror=invitation.mirror)
                writing.spend_invitation(_hash(secret), verified.digest, now)
            elif (member := writing.member(record.prefix)) is not None:
                refuse_suspended(member)
            # Before the end of the transaction: nobody becomes a member without getting a certificate.
            return self._certify(writing, request, record, now)

        return transact(self._storage, admit)

    def _certify(
        self, writing: Writing, request: bytes, record: OrganizationRecord, now: int, *, server: bool = False
    ) -> bytes:
        """What was issued just before is given again: asking often must not make the log grow."""
        check_request(request, record)
        last = writing.newest_certificate(record.prefix)
        if last is not None and 0 <= now - last.issued_at < _SAME_CERTIFICATE:
            before = tls.read_certificate(last.der)
            if before.key_digest == tls.request_key_digest(request) and (before.mirror is not None) == server:
                return last.der
        issue = self._issuer.mirror_certificate if server else self._issuer.member_certificate
        issued = issue(request, record.prefix, now)
        writing.put_certificate(Certificate(record.prefix, now, issued))
        return issued

    def _admit(self, writing: Writing, verified: VerifiedOrganization, now: int, *, mirror: bool) -> None:
        record = verified.record
        if writing.member(record.prefix) is not None:
            raise AlreadyExists(f"{record.prefix} is a member already")
        if record.version != 1:
            raise InvalidInput("an organization joins with version 1 of its record")
        check_endpoints(record)
        encoded = wire.encode_envelope(verified.envelope)
        writing.put_organization(record.prefix, StoredOrganization(1, verified.digest, encoded))
        writing.put_member(Member(record.prefix, record.display_name, 1, mirror=mirror), now)
        self._statements.record_change(writing)

    def renew(self, renewal: Envelope, league: League) -> bytes:
        """A fresh certificate, DER. Raises NotAuthenticated, Suspended, NotPermitted, InvalidInput."""
        now = int(self._clock())
        standing = league.standing(wire.decode_renewal(renewal.payload).prefix)
        record = standing.organization.record
        request = trust.renewal(renewal, record.current_key, self._issuer.authority.fingerprint, now=now)
        refuse_suspended(standing.member)
        if request.server and not standing.member.mirror:
            raise NotPermitted(
                f"{record.prefix} is no mirror of this registry: its operator invites one with `invite PREFIX --mirror`"
            )

        def certify(writing: Writing) -> bytes:
            return self._certify(writing, request.csr, record, now, server=request.server)

        return transact(self._storage, certify)

    def suspend(self, prefix: Prefix, reason: str) -> bool:
        """Whether it was not suspended before. Raises NotFound."""
        return self._set_standing(prefix, int(self._clock()), reason)

    def restore(self, prefix: Prefix) -> bool:
        """Whether it was suspended before. Raises NotFound."""
        return self._set_standing(prefix, None, "")

    def _set_standing(self, prefix: Prefix, suspended_at: int | None, reason: str) -> bool:
        changed = False

        def change(writing: Writing) -> None:
            nonlocal changed
            member = writing.member(prefix)
            if member is None:
                raise NotFound(f"{prefix} is not a member: `hanse-registry orgs` lists all")
            if (member.suspended_at is None) == (suspended_at is None):
                return  # before, or by an attempt of which nobody knew whether it was stored
            changed = True
            writing.put_member(replace(member, suspended_at=suspended_at, reason=reason), int(self._clock()))
            self._statements.record_change(writing)

        transact(self._storage, change)
        return changed

    def follow(self, writing: Writing, organization: VerifiedOrganization) -> None:
        """Stores the next record of a member's chain, which was verified. Raises InvalidInput."""
        record = organization.record
        check_endpoints(record)
        member = writing.member(record.prefix)
        if member is None:
            raise Conflict(f"{record.prefix} is not a member")
        encoded = wire.encode_envelope(organization.envelope)
        writing.put_organization(record.prefix, StoredOrganization(record.version, organization.digest, encoded))
        writing.put_member(
            replace(member, display_name=record.display_name, organization_version=record.version), record.issued_at
        )
        self._statements.record_change(writing)


def _hash(secret: bytes) -> bytes:
    return sha256(secret).digest()


def _endpoint_digests(record: OrganizationRecord) -> set[bytes]:
    return {tls.read_certificate(node.tls_certificate).key_digest for node in record.nodes}


def check_endpoints(record: OrganizationRecord) -> None:
    """That whoever dials by this record can. Raises InvalidInput."""
    if not record.nodes:
        raise InvalidInput("an organization record names at least one node certificate")
    for node in record.nodes:
        if tls.read_certificate(node.tls_certificate).organization != record.prefix:
            raise InvalidInput(f"a node certificate in the record of {record.prefix} is not made for {record.prefix}")


def check_request(request: bytes, record: OrganizationRecord) -> None:
    """That the key to be certified is one that the member's own record names. Raises InvalidInput, NotPermitted."""
    try:
        digest = tls.request_key_digest(request)
    except HanseError as error:
        raise InvalidInput(str(error)) from None
    if digest not in _endpoint_digests(record):
        raise NotPermitted(f"the certificate request is for a key that the record of {record.prefix} does not name")
