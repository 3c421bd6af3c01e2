"""Purposes of use: names of the W3C Data Privacy Vocabulary and of the Data Use Ontology, or words of one's own. Pure.

A purpose of the vocabularies includes those that they call narrower. Words are equal to themselves alone.
Sources: https://w3id.org/dpv#vocab-purposes (DPV 2.1, module purposes), http://purl.obolibrary.org/obo/duo.owl
(DUO: the permissions, of which its modifiers are conditions, not purposes).

    Purpose.parse("academic-research").iri      # "https://w3id.org/dpv#AcademicResearch"
    Purpose.parse("dpv:AcademicResearch").name  # "academic-research"
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, NamedTuple

from hanse.errors import InvalidInput
from hanse.model.record import check_text

WORDS: Final = 200
"""Characters of a purpose in words: a few, not an essay."""
_DPV: Final = "https://w3id.org/dpv#"
_DUO: Final = "http://purl.obolibrary.org/obo/DUO_"

_DPV_BROADER: Final[dict[str, tuple[str, ...]]] = {
    "AcademicResearch": ("ResearchAndDevelopment",),
    "Advertising": ("Marketing",),
    "CombatClimateChange": ("PublicBenefit",),
    "CommercialPurpose": (),
    "CommercialResearch": ("CommercialPurpose", "ResearchAndDevelopment"),
    "DataAltruism": ("PublicBenefit",),
    "EnforceSecurity": (),
    "FraudPreventionAndDetection": ("MisusePreventionAndDetection",),
    "FulfilmentOfContractualObligation": ("FulfilmentOfObligation",),
    "FulfilmentOfObligation": (),
    "ImproveExistingProductsAndServices": ("OptimisationForController",),
    "ImproveHealthcare": ("PublicBenefit",),
    "ImprovePublicServices": ("PublicBenefit",),
    "ImproveTransportMobility": ("PublicBenefit",),
    "LegalCompliance": ("FulfilmentOfObligation",),
    "Marketing": (),
    "MisusePreventionAndDetection": ("EnforceSecurity",),
    "NonCommercialPurpose": (),
    "NonCommercialResearch": ("NonCommercialPurpose", "ResearchAndDevelopment"),
    "OptimisationForController": ("ServiceOptimisation",),
    "OrganisationGovernance": (),
    "OrganisationRiskManagement": ("OrganisationGovernance",),
    "Personalisation": (),
    "ProtectionOfPublicSecurity": ("PublicBenefit",),
    "ProvideOfficialStatistics": ("PublicBenefit",),
    "PublicBenefit": (),
    "PublicPolicyMaking": ("PublicBenefit",),
    "RecordManagement": (),
    "RepairImpairments": ("ServiceProvision",),
    "RequestedServiceProvision": ("ServiceProvision",),
    "ResearchAndDevelopment": (),
    "ScientificResearch": ("ResearchAndDevelopment",),
    "ServiceOptimisation": ("ServiceProvision",),
    "ServiceProvision": (),
    "ServiceUsageAnalytics": ("ServiceProvision",),
    "Verification": ("EnforceSecurity",),
}
_DUO_BROADER: Final[dict[str, tuple[str, tuple[str, ...]]]] = {
    # name: (number, the next broader); labels of DUO, shortened
    "general-research-use": ("0000042", ()),
    "health-research": ("0000006", ("general-research-use",)),  # health or medical or biomedical research
    "disease-specific-research": ("0000007", ("health-research",)),
    "population-origins-research": ("0000011", ("general-research-use",)),
    "clinical-care-use": ("0000043", ()),
}


class _Known(NamedTuple):
    """Of a vocabulary: ``broader`` are names."""

    iri: str
    broader: tuple[str, ...]


def _kebab(local: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", local).lower()


_VOCABULARY: Final = {
    **{_kebab(name): _Known(_DPV + name, tuple(map(_kebab, broader))) for name, broader in _DPV_BROADER.items()},
    **{name: _Known(_DUO + number, broader) for name, (number, broader) in _DUO_BROADER.items()},
}
NAMES: Final = tuple(sorted(_VOCABULARY))
"""All of the vocabularies, as users type them."""
_SHORT: Final = ((_DPV, "dpv:"), (_DUO, "DUO:"))
_SPELLINGS: Final = {iri: name for name, (iri, _) in _VOCABULARY.items()} | {
    short + iri.removeprefix(long): name
    for name, (iri, _) in _VOCABULARY.items()
    for long, short in _SHORT
    if iri.startswith(long)
}


@dataclass(frozen=True, slots=True, order=True)
class Purpose:
    """``name`` as users type it: of the vocabulary, or words."""

    name: str

    @classmethod
    def parse(cls, text: str) -> "Purpose":
        """A name, an IRI of the vocabulary or its short form (dpv:..., DUO:...), or words. Raises InvalidInput."""
        text = _SPELLINGS.get(text, text)
        folded = re.sub(r"[\s_]+", "-", text.strip().lower())
        if folded in _VOCABULARY:
            return cls(folded)
        check_text(text)
        if not text or text != text.strip() or len(text) > WORDS or "\n" in text or "\t" in text:
            raise InvalidInput(f"a purpose is a name of the vocabulary or a few words, at most {WORDS} characters")
        return cls(text)

    @property
    def iri(self) -> str | None:
        """None for words of one's own."""
        known = _VOCABULARY.get(self.name)
        return known.iri if known else None

    @property
    def with_broader(self) -> "tuple[Purpose, ...]":
        """This one first, then those of the vocabulary that include it."""
        return _with_broader(self.name)

    def __str__(self) -> str:
        return self.name


@lru_cache(maxsize=1024)
def _with_broader(name: str) -> tuple[Purpose, ...]:
    found = [name]
    for each in found:
        if each in _VOCABULARY:
            found += [broader for broader in _VOCABULARY[each].broader if broader not in found]
    return tuple(map(Purpose, found))
