"""What became of a published envelope. SPEC.md section 9.4."""

from dataclasses import dataclass
from enum import StrEnum


class OutcomeCode(StrEnum):
    """TRY_AGAIN: send it again. CONFLICT: another version is there. REFUSED: never, as it is."""

    ACCEPTED = "accepted"
    REFUSED = "refused"
    CONFLICT = "conflict"
    TRY_AGAIN = "try-again"


@dataclass(frozen=True, slots=True)
class PublishOutcome:
    """``digest`` names the envelope (32 bytes); ``message`` says what happened and what to do if not accepted.

    TRY_AGAIN may say how long to ``wait``, in seconds; with ``pause`` nothing else is accepted before either.
    """

    digest: bytes
    code: OutcomeCode
    message: str = ""
    wait: int = 0
    pause: bool = False
