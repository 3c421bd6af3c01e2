"""What is asked of a registry's search. SPEC.md section 9.6."""

from dataclasses import dataclass

from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.record import AccessMode


@dataclass(frozen=True, slots=True)
class Query:
    """Every filter that is set must hold. Dates are Unix seconds, inclusive."""

    text: str = ""
    owner: Prefix | None = None
    type: str = ""
    subject: str = ""
    media_type: str = ""
    access: AccessMode | None = None
    issued_from: int | None = None
    issued_until: int | None = None
    page_size: int = 20
    page_token: str = ""


@dataclass(frozen=True, slots=True)
class SearchResult:
    """What a registry answers, best first, not verified. ``total`` counts at most limits.SEARCH_COUNT matches."""

    records: tuple[Envelope, ...]
    next_page_token: str
    total: int
