"""Invitations: one string to paste. SPEC.md section 5.1.

The text is ``hanse-invite:1:`` and base64url of the serialized message and the first 4 bytes of its SHA-256,
so that a paste that was cut is told from one that is refused.
"""

from dataclasses import dataclass

from hanse.model.address import Address
from hanse.model.identifier import Prefix

SCHEME = "hanse-invite:1:"


@dataclass(frozen=True, slots=True)
class Invitation:
    """``secret`` has 16 bytes and is spent by the first use; ``league`` is the authority's fingerprint."""

    registries: tuple[Address, ...]
    prefix: Prefix
    secret: bytes
    league: bytes
    expires_at: int
    display_name: str = ""
