"""The vocabulary of purposes: names, IRIs, what includes what; and words of one's own."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.model.purposes import NAMES, WORDS, Purpose


@pytest.mark.parametrize(
    ("text", "name", "iri"),
    [
        ("academic-research", "academic-research", "https://w3id.org/dpv#AcademicResearch"),
        ("Academic Research", "academic-research", "https://w3id.org/dpv#AcademicResearch"),
        ("non_commercial_research", "non-commercial-research", "https://w3id.org/dpv#NonCommercialResearch"),
        ("dpv:ImproveHealthcare", "improve-healthcare", "https://w3id.org/dpv#ImproveHealthcare"),
        ("https://w3id.org/dpv#LegalCompliance", "legal-compliance", "https://w3id.org/dpv#LegalCompliance"),
        ("DUO:0000042", "general-research-use", "http://purl.obolibrary.org/obo/DUO_0000042"),
        ("http://purl.obolibrary.org/obo/DUO_0000006", "health-research", "http://purl.obolibrary.org/obo/DUO_0000006"),
        ("clinical-research", "clinical-research", None),
        ("Kalibrierung der Modelle", "Kalibrierung der Modelle", None),
        ("临床研究", "临床研究", None),
        ("https://w3id.org/dpv#NoSuch", "https://w3id.org/dpv#NoSuch", None),
    ],
)
def test_a_purpose_is_known_by_any_of_its_spellings(text: str, name: str, iri: str | None) -> None:
    purpose = Purpose.parse(text)
    assert (purpose.name, purpose.iri) == (name, iri)


@pytest.mark.parametrize("text", ["", " ", " x", "x\n", "a\nb", "a\tb", "\x00", "x" * (WORDS + 1)])
def test_what_is_no_purpose_is_refused(text: str) -> None:
    with pytest.raises(InvalidInput):
        Purpose.parse(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_name_is_in_kebab_case_and_comes_back_from_its_iri(name: str) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", name)
    iri = Purpose(name).iri
    assert iri is not None
    assert Purpose.parse(iri) == Purpose(name)
    assert Purpose.parse(name) == Purpose(name)


def test_there_are_some_thirty_of_the_one_vocabulary_and_a_few_of_the_other() -> None:
    iris = [Purpose(name).iri or "" for name in NAMES]
    assert len(set(iris)) == len(NAMES) >= 35
    assert sum("/DUO_" in iri for iri in iris) >= 5


@pytest.mark.parametrize(
    ("name", "broader"),
    [
        ("commercial-research", {"commercial-purpose", "research-and-development"}),
        ("disease-specific-research", {"health-research", "general-research-use"}),
        (
            "improve-existing-products-and-services",
            {"optimisation-for-controller", "service-optimisation", "service-provision"},
        ),
        ("research-and-development", set()),
        ("clinical-research", set()),
    ],
)
def test_a_purpose_knows_what_includes_it(name: str, broader: set[str]) -> None:
    assert Purpose(name).with_broader[0].name == name
    assert {each.name for each in Purpose(name).with_broader} == broader | {name}


@pytest.mark.parametrize("name", NAMES)
def test_no_purpose_includes_itself_by_way_of_another(name: str) -> None:
    for broader in Purpose(name).with_broader[1:]:
        assert broader.iri is not None
        assert name not in [each.name for each in broader.with_broader]


@given(st.text(max_size=WORDS))
def test_whatever_parses_parses_again_to_the_same(text: str) -> None:
    try:
        purpose = Purpose.parse(text)
    except InvalidInput:
        return
    assert Purpose.parse(str(purpose)) == purpose
    if purpose.iri:
        assert Purpose.parse(purpose.iri) == purpose
