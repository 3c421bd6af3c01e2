"""Who belongs to the league, as the running registry sees it, and the signed statement of it. SPEC.md section 6.

A ``League`` is one state of the membership and never changes; a new one replaces it when the database did.
Nothing here decides about a call: registry.passes does.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from hashlib import sha256

from hanse import wire
from hanse.errors import NotAuthenticated, StorageFailed
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority, Member, OrganizationRecord
from hanse.signing import SigningKey, sign
from hanse.transparency import membership_leaf
from hanse.trust import VerifiedOrganization
from registry.storage.base import Storage, StoredOrganization, Writing, transact

# How old a statement may be that is given out again, in seconds: signing each call's own would cost a signature.
HEAD_LIFE = 5


@dataclass(frozen=True, slots=True)
class Standing:
    """A member and its newest organization record; ``framed`` is the envelope as bytes."""

    member: Member
    organization: VerifiedOrganization
    framed: bytes


@dataclass(frozen=True)
class League:
    """One state of the membership. ``members`` is the serialized list, ``members_sha256`` 32 bytes.

    ``position`` is where the log has it.
    """

    version: int = 0
    standings: dict[Prefix, Standing] = field(default_factory=dict)
    members: bytes = b""
    members_sha256: bytes = b""
    position: int | None = None

    def standing(self, prefix: Prefix) -> Standing:
        """Raises NotAuthenticated for a stranger."""
        standing = self.standings.get(prefix)
        if standing is None:
            raise NotAuthenticated(f"{prefix} is not a member of this league: `hanse join` with an invitation")
        return standing


def addresses(
    own: tuple[Address, ...], members: Iterable[Member], newest: Callable[[Prefix], OrganizationRecord]
) -> list[Address]:
    """Where members find the registry: at its own addresses, then at those of its mirrors in good standing."""
    mirrors = (newest(each.prefix) for each in members if each.mirror and each.suspended_at is None)
    served = (node.address for record in mirrors for node in record.nodes if node.address is not None)
    return list(dict.fromkeys((*own, *served)))


def load(storage: Storage, registries: tuple[Address, ...], before: League) -> League:
    """The state that is stored; decodes only what ``before`` has not."""
    version, members = storage.membership()
    standings = {}
    for member in members:
        known = before.standings.get(member.prefix)
        if known is not None and known.organization.record.version == member.organization_version:
            standings[member.prefix] = Standing(member, known.organization, known.framed)
            continue
        chain = storage.organizations(member.prefix, member.organization_version - 1)
        if not chain:
            raise StorageFailed(
                f"the newest record of {member.prefix} is missing: restore the database from your backup"
            )
        newest = chain[0]
        envelope = wire.decode_envelope(newest.envelope)
        # It was verified before it was stored.
        record = wire.decode_organization(envelope.payload)
        organization = VerifiedOrganization(record, envelope, newest.digest)
        standings[member.prefix] = Standing(member, organization, newest.envelope)
    known_at = addresses(registries, members, lambda prefix: standings[prefix].organization.record)
    listed = wire.encode_members(members, known_at)
    digest = sha256(listed).digest()
    return League(version, standings, listed, digest, _logged(storage, version, digest))


def _logged(storage: Storage, version: int, members_sha256: bytes) -> int | None:
    """The position of that membership, if it is the newest that the log has."""
    position = storage.located_membership()
    if position is None or storage.leaves(position - 1, 1) != [membership_leaf(version, members_sha256)]:
        return None
    return position


class Statements:
    """Membership heads, signed with the registry's key."""

    def __init__(
        self,
        key: SigningKey,
        authority: Authority,
        registries: Callable[[], tuple[Address, ...]],
        clock: Callable[[], float],
    ) -> None:
        """``registries``: what members dial, mirrors apart, as the store has it now."""
        self.key = key
        self.registries = registries
        self._authority = authority
        self._clock = clock
        self._given: tuple[League, float, Envelope] | None = None

    def current(self, league: League) -> Envelope:
        """At most HEAD_LIFE seconds old."""
        now = self._clock()
        if self._given is None or self._given[0] is not league or not 0 <= now - self._given[1] < HEAD_LIFE:
            self._given = (league, now, self._sign(league.version, league.members_sha256))
        return self._given[2]

    def catch_up(self, storage: Storage) -> None:
        """What is given out must be in the log, also when the registry's addresses are others than they were."""
        if not self._is_behind(storage):
            return

        def add(writing: Writing) -> None:
            writing.head()  # from here on nobody else writes
            if self._is_behind(storage):  # still: several processes start together
                self.record_change(writing)

        transact(storage, add)

    def _is_behind(self, storage: Storage) -> bool:
        version, members = storage.membership()
        listed = self._listed(members, lambda prefix: storage.organizations(prefix, 0)[-1])
        return bool(version) and _logged(storage, version, listed) is None

    def record_change(self, writing: Writing) -> None:
        """To be called in each transaction that altered the members: the new state becomes a change of its own."""
        listed = self._listed(writing.members(), writing.newest_organization)
        version = writing.next_membership_version()
        writing.put_membership(wire.encode_envelope(self._sign(version, listed)), membership_leaf(version, listed))

    def _listed(self, members: list[Member], newest: Callable[[Prefix], StoredOrganization | None]) -> bytes:
        """SHA-256 of the list."""

        def record(prefix: Prefix) -> OrganizationRecord:
            stored = newest(prefix)
            if stored is None:
                raise StorageFailed(f"the record of {prefix} is missing: `hanse-registry check`")
            return wire.decode_organization(wire.decode_envelope(stored.envelope).payload)

        known_at = addresses(self.registries(), members, record)
        return sha256(wire.encode_members(members, known_at)).digest()

    def _sign(self, version: int, members_sha256: bytes) -> Envelope:
        head = wire.encode_membership_head(version, int(self._clock()), members_sha256, self._authority.fingerprint)
        return sign(PayloadType.MEMBERSHIP, head, self.key)
