"""Object records: all that leaves an organization about an object without a grant. SPEC.md section 7."""

import json
import re
import unicodedata
from dataclasses import dataclass
from enum import StrEnum

from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier

RELATION_TYPES = frozenset(
    [
        "IsCitedBy",
        "Cites",
        "IsCollectedBy",
        "Collects",
        "IsSupplementTo",
        "IsSupplementedBy",
        "IsContinuedBy",
        "Continues",
        "IsDescribedBy",
        "Describes",
        "HasMetadata",
        "IsMetadataFor",
        "HasVersion",
        "IsVersionOf",
        "IsNewVersionOf",
        "IsPreviousVersionOf",
        "IsPartOf",
        "HasPart",
        "IsPublishedIn",
        "IsReferencedBy",
        "References",
        "IsDocumentedBy",
        "Documents",
        "IsCompiledBy",
        "Compiles",
        "IsVariantFormOf",
        "IsOriginalFormOf",
        "IsIdenticalTo",
        "IsReviewedBy",
        "Reviews",
        "IsDerivedFrom",
        "IsSourceOf",
        "IsRequiredBy",
        "Requires",
        "IsObsoletedBy",
        "Obsoletes",
        "IsTranslationOf",
        "HasTranslation",
    ]
)
"""DataCite 4.6, appendix 1, table 8: relationType."""

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]*/[a-z0-9][a-z0-9!#$&^_.+-]*(?:\s*;[ -~]*)?", re.IGNORECASE)


class Status(StrEnum):
    """A withdrawn object stays withdrawn."""

    ACTIVE = "active"
    WITHDRAWN = "withdrawn"


class AccessMode(StrEnum):
    """What the public is told of who gets in."""

    OPEN = "open"
    ON_REQUEST = "on-request"
    COMPUTE_ONLY = "compute-only"


@dataclass(frozen=True, slots=True)
class Date:
    """A DataCite dateType and an ISO 8601 value."""

    type: str
    value: str


@dataclass(frozen=True, slots=True)
class Relation:
    """``type`` is one of RELATION_TYPES; ``id`` any identifier, ours or a DOI."""

    type: str
    id: str

    @classmethod
    def parse(cls, text: str) -> "Relation":
        """``TYPE=ID``. Raises InvalidInput."""
        kind, equals, target = text.partition("=")
        if not equals or not target or kind not in RELATION_TYPES:
            raise InvalidInput(
                f"{text!r} is not a relation: TYPE=ID with a DataCite relation type, e.g. IsDerivedFrom=86.acme/x1"
            )
        return cls(kind, target)


@dataclass(frozen=True, slots=True)
class Metadata:
    """DataCite 4.6 names. ``attributes_json`` is a JSON object as text, or empty."""

    title: str = ""
    description: str = ""
    creators: tuple[str, ...] = ()
    publisher: str = ""
    publication_year: int = 0
    resource_type: str = ""
    subjects: tuple[str, ...] = ()
    language: str = ""
    license: str = ""
    dates: tuple[Date, ...] = ()
    version_label: str = ""
    relations: tuple[Relation, ...] = ()
    attributes_json: str = ""

    def __post_init__(self) -> None:
        texts = (
            self.title, self.description, *self.creators, self.publisher, self.resource_type, *self.subjects,
            self.language, self.license, self.version_label,
            *(text for date in self.dates for text in (date.type, date.value)),
            *(text for relation in self.relations for text in (relation.type, relation.id)),
        )  # fmt: skip
        for text in texts:
            check_text(text)
        for relation in self.relations:
            if relation.type not in RELATION_TYPES:
                raise InvalidInput(f"{relation.type!r} is not a DataCite relation type")
        if self.attributes_json:
            try:
                attributes = json.loads(self.attributes_json, parse_constant=_no_constant)
            except (ValueError, RecursionError):
                attributes = None
            if not isinstance(attributes, dict):
                raise InvalidInput("the attributes are not a JSON object")


@dataclass(frozen=True, slots=True)
class ListedElement:
    """An element whose name and size (bytes) the owner made public."""

    name: str
    media_type: str
    length: int


@dataclass(frozen=True, slots=True)
class Summary:
    """Each part is None or empty where the owner hides it."""

    element_count: int | None = None
    total_bytes: int | None = None
    media_types: tuple[str, ...] = ()
    elements: tuple[ListedElement, ...] = ()


@dataclass(frozen=True, slots=True)
class Access:
    """What the public may know of who gets in; purposes and duties in words."""

    mode: AccessMode
    purposes: tuple[str, ...] = ()
    duties: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ObjectRecord:
    """One version of one object. ``commitment`` is SHA-256(salt || manifest digest); ``time_to_live`` seconds."""

    id: Identifier
    version: int
    previous: bytes
    type: str
    status: Status
    metadata: Metadata
    summary: Summary
    access: Access
    operations: tuple[str, ...]
    commitment: bytes
    issued_at: int
    time_to_live: int
    reason: str = ""


def _no_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")


def check_text(text: str) -> None:
    """Raises InvalidInput where a text has control characters other than line feeds and tabs."""
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise InvalidInput("a text of the metadata has control characters")


def check_media_type(text: str) -> str:
    """Raises InvalidInput."""
    if not _MEDIA_TYPE.fullmatch(text):
        raise InvalidInput(f"{text!r} is not a media type, for example text/csv")
    return text
