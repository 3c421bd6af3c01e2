"""What a registry answers: to a question for an identifier, and in its stream of changes. SPEC.md section 9.

Claims of the registry: hanse.trust decides what of it is believed.
"""

from dataclasses import dataclass
from enum import StrEnum

from hanse.model.address import Address
from hanse.model.envelope import Envelope


class ResolutionState(StrEnum):
    """ELSEWHERE: another registry owns the root. INVALID: it is no identifier."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"
    UNKNOWN = "unknown"
    ELSEWHERE = "elsewhere"
    INVALID = "invalid"


@dataclass(frozen=True, slots=True)
class Resolution:
    """``record`` is the newest version or its tombstone; ``organization`` its owner's newest record, if asked for."""

    state: ResolutionState
    record: Envelope | None = None
    organization: Envelope | None = None
    referral: tuple[Address, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One line of the registry's stream of changes; positions strictly increase.

    ``certificate`` (X.509, DER) instead of an envelope, for those who asked for certificates.
    """

    position: int
    envelope: Envelope | None
    certificate: bytes = b""
