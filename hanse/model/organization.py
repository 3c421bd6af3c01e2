"""Organizations, the league's authority and its members. SPEC.md sections 4 to 6."""

from dataclasses import dataclass

from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId, PublicKey


@dataclass(frozen=True, slots=True)
class IdentityKey:
    """A key and when it counts, in Unix seconds; ``valid_until`` is None while it is current."""

    public_key: PublicKey
    valid_from: int
    valid_until: int | None = None


@dataclass(frozen=True, slots=True)
class NodeEndpoint:
    """Where a node is reached (None: it only fetches), and the one certificate it is known by (X.509, DER)."""

    address: Address | None
    tls_certificate: bytes


@dataclass(frozen=True, slots=True)
class OrganizationRecord:
    """Who an organization is: its keys, the current one first, and its nodes."""

    prefix: Prefix
    version: int
    previous: bytes
    display_name: str
    contact: str
    keys: tuple[IdentityKey, ...]
    nodes: tuple[NodeEndpoint, ...]
    issued_at: int

    @property
    def current_key(self) -> PublicKey:
        return self.keys[0].public_key

    def key(self, key_id: KeyId) -> IdentityKey | None:
        """The key of that name, current or previous."""
        return next((key for key in self.keys if key.public_key.key_id == key_id), None)


@dataclass(frozen=True, slots=True)
class Authority:
    """What a league is known by. ``fingerprint`` is SHA-256 of the bytes it came in (32 bytes)."""

    root: Prefix
    display_name: str
    ca_certificate: bytes
    registry_key: PublicKey
    fingerprint: bytes


@dataclass(frozen=True, slots=True)
class Member:
    """One line of the membership; ``suspended_at`` is Unix seconds, None while in good standing.

    ``mirror``: it serves what the registry tells, under the registry's name.
    """

    prefix: Prefix
    display_name: str
    organization_version: int
    suspended_at: int | None = None
    reason: str = ""
    mirror: bool = False


@dataclass(frozen=True, slots=True)
class Membership:
    """Who belongs to the league, as the registry stated it at ``issued_at``."""

    version: int
    issued_at: int
    members: dict[Prefix, Member]
    registries: tuple[Address, ...]
    members_sha256: bytes


@dataclass(frozen=True, slots=True)
class Pass:
    """Who calls the registry, for a few minutes. Unix seconds."""

    prefix: Prefix
    league: bytes
    issued_at: int
    expires_at: int


@dataclass(frozen=True, slots=True)
class Renewal:
    """Asks for a fresh certificate: a PKCS #10 request in DER. ``server``: one to serve with, as a mirror."""

    prefix: Prefix
    league: bytes
    issued_at: int
    csr: bytes
    server: bool = False
