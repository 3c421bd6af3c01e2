"""Purposes of use: names of the W3C Data Privacy Vocabulary and of the Data Use Ontology, or words of one's own. Pure.

Sources: https://w3id.org/dpv#vocab-purposes (DPV 2.1), http://purl.obolibrary.org/obo/duo.owl

    Purpose.parse("academic-research").iri      # "https://w3id.org/dpv#AcademicResearch"
"""

import re
from dataclasses import dataclass

from hanse.errors import InvalidInput
from hanse.model.record import check_text

_DPV = "https://w3id.org/dpv#"
_DUO = "http://purl.obolibrary.org/obo/DUO_"
_WORDS = 200

_BROADER: dict[str, tuple[str, str]] = {
    # name: (IRI, the next broader name or "")
    "research-and-development": (_DPV + "ResearchAndDevelopment", ""),
    "academic-research": (_DPV + "AcademicResearch", "research-and-development"),
    "commercial-research": (_DPV + "CommercialResearch", "research-and-development"),
    "non-commercial-research": (_DPV + "NonCommercialResearch", "research-and-development"),
    "scientific-research": (_DPV + "ScientificResearch", "research-and-development"),
    "general-research-use": (_DUO + "0000042", ""),
    "health-research": (_DUO + "0000006", "general-research-use"),
    "disease-specific-research": (_DUO + "0000007", "health-research"),
    "population-origins-research": (_DUO + "0000011", "general-research-use"),
    "clinical-care-use": (_DUO + "0000043", ""),
}
_NAMES = {iri: name for name, (iri, _) in _BROADER.items()}
VOCABULARY = tuple(_BROADER)


@dataclass(frozen=True, slots=True, order=True)
class Purpose:
    """``name`` as users type it: of the vocabulary, or words."""

    name: str

    @classmethod
    def parse(cls, text: str) -> "Purpose":
        """A name, an IRI of the vocabulary, or words. Raises InvalidInput."""
        text = _NAMES.get(text, text)
        folded = re.sub(r"[\s_]+", "-", text.strip().lower())
        if folded in _BROADER:
            return cls(folded)
        check_text(text)
        if not text or text != text.strip() or len(text) > _WORDS or "\n" in text:
            raise InvalidInput(f"a purpose is a name of the vocabulary or a few words, at most {_WORDS} characters")
        return cls(text)

    @property
    def iri(self) -> str | None:
        """None for words of one's own."""
        known = _BROADER.get(self.name)
        return known[0] if known else None

    @property
    def with_broader(self) -> "tuple[Purpose, ...]":
        """This one, and those of the vocabulary that include it."""
        found, name = [self], self.name
        while (known := _BROADER.get(name)) and known[1]:
            name = known[1]
            found.append(Purpose(name))
        return tuple(found)

    def __str__(self) -> str:
        return self.name
