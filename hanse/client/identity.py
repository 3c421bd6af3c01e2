"""Who this home is in the league: its keys, its certificates, where the registry is. SPEC.md section 5.

Read by the daemon, the commands and the SDK alike; nothing here talks to anybody.

    identity = Identity.load(Home.open(folder, MARKER, remedy))
"""

import base64
import binascii
import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from hanse import limits, wire
from hanse.client import witnesses
from hanse.cosigning import Policy
from hanse.errors import HomeUnusable, InvalidInput
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority, Pass
from hanse.rpc import tls
from hanse.signing import SigningKey, sign

MARKER = "league.json"
REMEDY = "`hanse join INVITATION` sets it up; --home or HANSE_HOME names another folder"
IDENTITY_KEY = "keys/identity.pem"
PREVIOUS_KEY = "keys/identity.previous.pem"
TLS_KEY = "keys/tls.pem"
NODE_CERTIFICATE = "node.pem"
MEMBER_CERTIFICATE = "member.pem"


def passphrase(environment: Mapping[str, str] = os.environ) -> str | None:
    """The passphrase of the identity key, if it has one."""
    return environment.get("HANSE_PASSPHRASE") or None


@dataclass(frozen=True)
class Identity:
    """Keys and certificates of one home. Certificates are PEM, as gRPC wants them.

    ``previous_key`` is there from a change of keys until the registry has acknowledged it: until then passes are
    signed with both, so that they count before and after. ``witnesses``: who must have cosigned the registry's log.
    """

    home: Home
    prefix: Prefix
    authority: Authority
    registries: tuple[Address, ...]
    signing_key: SigningKey
    tls_key: bytes
    node_certificate: bytes
    member_certificate: bytes
    previous_key: SigningKey | None = None
    witnesses: Policy = Policy()

    @classmethod
    def load(cls, home: Home) -> "Identity":
        """Raises HomeUnusable, with the way out."""
        path = home / MARKER
        try:
            with storage_errors(str(path)):
                league = json.loads(path.read_bytes())
            authority = wire.decode_authority(base64.b64decode(league["authority"], validate=True))
            prefix = Prefix.parse(league["prefix"])
            registries = tuple(Address.parse(each) for each in league["registries"])
        except (ValueError, KeyError, TypeError, binascii.Error, InvalidInput):
            raise HomeUnusable(f"{path} is damaged: restore it from your backup") from None
        with storage_errors(str(home.folder)):
            return cls(
                home,
                prefix,
                authority,
                registries,
                SigningKey.from_pem(home.read_secret(IDENTITY_KEY), passphrase()),
                home.read_secret(TLS_KEY),
                (home / NODE_CERTIFICATE).read_bytes(),
                (home / MEMBER_CERTIFICATE).read_bytes(),
                _previous_key(home),
                witnesses.load(home / witnesses.FILE),
            )

    @property
    def certificate(self) -> tls.Certificate:
        """What the member's certificate says: until when it holds. Raises HomeUnusable."""
        try:
            return tls.read_pem_certificate(self.member_certificate)
        except InvalidInput:
            raise HomeUnusable(f"{self.home / MEMBER_CERTIFICATE} is damaged: restore it from your backup") from None

    @property
    def registry_keys(self) -> tuple[SigningKey, ...]:
        """What signs to the registry."""
        return (self.signing_key,) if self.previous_key is None else (self.signing_key, self.previous_key)

    @property
    def acknowledged_key(self) -> SigningKey:
        """What signs to other members: while a new key has not reached the registry, they know the one before."""
        return self.previous_key or self.signing_key

    def sign_pass(self, now: int) -> Envelope:
        """Says who calls the registry, for PASS_LIFE seconds."""
        statement = Pass(self.prefix, self.authority.fingerprint, now, now + limits.PASS_LIFE)
        return sign(PayloadType.PASS, wire.encode_pass(statement), *self.registry_keys)


def _previous_key(home: Home) -> SigningKey | None:
    try:
        return SigningKey.from_pem(home.read_secret(PREVIOUS_KEY), passphrase())
    except HomeUnusable:
        if (home / PREVIOUS_KEY).exists():
            raise
        return None


def authority_bytes(home: Home) -> bytes:
    """The league's authority, as it came: its SHA-256 is the league's fingerprint. Raises HomeUnusable."""
    path = home / MARKER
    with storage_errors(str(path)):
        try:
            return base64.b64decode(json.loads(path.read_bytes())["authority"], validate=True)
        except (ValueError, KeyError, TypeError):
            raise HomeUnusable(f"{path} is damaged: restore it from your backup") from None


def write_league(home: Home, prefix: Prefix, authority: bytes, registries: tuple[Address, ...]) -> None:
    """Written last when joining: a home with this file is complete."""
    league = {
        "prefix": str(prefix),
        "registries": [str(each) for each in registries],
        "authority": base64.b64encode(authority).decode(),
    }
    write_durably(home / MARKER, json.dumps(league, indent=2).encode() + b"\n")
