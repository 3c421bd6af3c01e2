"""What the agreement says in words, held against the code that keeps it."""

import json
import re
from pathlib import Path

import pytest

import hanse
from hanse import limits, verifier
from hanse.errors import BY_REASON
from hanse.evidence.storage.log import Kind
from hanse.model.envelope import PayloadType
from hanse.model.purposes import NAMES, Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Duty, DutyKind
from hanse.model.terms_json import format_terms, parse_terms
from hanse.v1 import node_pb2, papers_pb2, registry_pb2
from node.cedar import SCHEMA
from node.own_policies import parse

REPOSITORY = Path(__file__).resolve().parents[2]
SPEC = (REPOSITORY / "proto" / "SPEC.md").read_text()
SOURCES = sorted(
    path
    for room in ("proto", "hanse", "node", "registry")
    for path in (REPOSITORY / room).rglob("*")
    if path.suffix in (".py", ".proto") and "_pb2" not in path.name
)
DOCUMENTS = [REPOSITORY / "proto" / name for name in ("README.md", "SPEC.md", "THREATS.md", "DECISIONS.md")]
NUMBERS = {match[1] for match in re.finditer(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", SPEC, re.MULTILINE)}
CITATION = re.compile(r"SPEC\.md,? sections? (\d+(?:\.\d+)*(?:(?:, | and | to )\d+(?:\.\d+)*)*)")


def section(number: str) -> str:
    found = re.search(rf"^## {number}\. .*?(?=^## )", SPEC + "\n## ", re.MULTILINE | re.DOTALL)
    assert found, f"SPEC.md has no section {number}"
    return found[0]


def table(text: str) -> list[list[str]]:
    """The body rows of the first table in a text."""
    rows = re.findall(r"^\|(.+)\|$", text, re.MULTILINE)
    return [[cell.strip().strip("`") for cell in row.split("|")] for row in rows[2:]]


def test_every_error_class_is_in_the_table_of_errors() -> None:
    told = {row[0]: (row[1], int(row[2])) for row in table(section("12"))}
    assert told == {name: (kind.status, kind.exit_code) for name, kind in BY_REASON.items()}


def test_every_listed_limit_is_the_one_in_the_code() -> None:
    rows = table(section("13"))
    listed = {row[0]: int(row[1].replace(",", "")) for row in rows}
    assert listed
    assert len(listed) == len(rows)
    assert listed == {name: getattr(limits, name, None) for name in listed}


def test_every_limit_that_a_document_names_is_listed() -> None:
    listed = {row[0] for row in table(section("13"))}
    named = {word for path in DOCUMENTS for word in re.findall(r"`([A-Z][A-Z_]{5,})`", path.read_text())}
    assert len(named) > 20
    assert {word for word in named if hasattr(limits, word)} - listed == set()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(REPOSITORY)))
def test_every_section_that_a_source_cites_exists(path: Path) -> None:
    # A citation may go over the end of a line of comment.
    text = re.sub(r"\s*\n\s*(?:#|//)?\s*", " ", path.read_text())
    for match in CITATION.finditer(text):
        for number in re.findall(r"\d+(?:\.\d+)*", match[1]):
            assert number in NUMBERS, f"{path.name} cites SPEC.md section {number}"


def test_citations_are_found_at_all() -> None:
    assert CITATION.search("SPEC.md sections 4, 5 and 6")[1] == "4, 5 and 6"  # type: ignore[index]
    assert sum(bool(CITATION.search(path.read_text())) for path in SOURCES) > 10


def test_the_documents_cite_sections_that_exist() -> None:
    for path in DOCUMENTS:
        for match in re.finditer(r"\bsections? (\d+(?:\.\d+)?)(?= |[,.;:)])(?! of RFC)", path.read_text()):
            before = path.read_text()[max(0, match.start() - 12) : match.start()]
            if not re.search(r"RFC \d+,? $", before):
                assert match[1] in NUMBERS, f"{path.name} cites section {match[1]}"


@pytest.mark.parametrize("kind", PayloadType)
def test_every_payload_type_is_listed(kind: PayloadType) -> None:
    assert f"`{kind.value}`" in section("3")


def test_every_kind_of_leaf_of_the_log_is_listed() -> None:
    assert [row[0] for row in table(section("18").split("### 18.2")[0])] == [kind.value for kind in Kind]


def test_every_kind_of_line_of_an_evidence_file_is_listed_in_its_order() -> None:
    rows = table(section("20").split("### 20.2")[1])
    assert [kind.strip("` ") for row in rows for kind in row[0].split(",")] == list(verifier.KINDS)


def test_how_each_duty_is_enforced_is_what_the_commands_say() -> None:
    told = {kind.strip("` "): row[1] for row in table(section("19")) for kind in row[0].split(",")}
    for kind in DutyKind:
        duty = Duty(kind, int(kind is DutyKind.DELETE_AFTER), "x" * (kind in (DutyKind.ATTRIBUTE, DutyKind.OTHER)))
        assert told[kind.name].startswith(duty.enforcement.value), kind


def test_the_schema_of_policies_is_the_one_they_are_checked_against() -> None:
    assert f"```\n{SCHEMA}```" in section("15")


def test_the_policies_in_the_text_are_policies() -> None:
    (text,) = (each for each in re.findall(r"```\n(.*?)```", section("15"), re.DOTALL) if "forbid (" in each)
    assert len(parse(text, "SPEC.md")) == 2


def test_the_terms_in_the_text_are_terms_and_in_their_one_form() -> None:
    (text,) = re.findall(r'^\{"mode".*$', section("15"), re.MULTILINE)
    assert format_terms(parse_terms(text)) == text


def test_the_names_of_purposes_in_the_text_are_those_of_the_code() -> None:
    told = section("15").split("### 15.2")[1].split("A **duty**")[0]
    paragraph, rows = told.split("with hyphens:")[1].split("Each is included")[0], table(told)
    assert sorted([*re.findall(r"`([a-z-]+)`", paragraph), *(row[0] for row in rows)]) == list(NAMES)
    for name, number, broader in rows:
        assert str(Purpose(name).iri).endswith(f"DUO_{number}")
        assert [each.name for each in Purpose(name).with_broader[1:2]] == [broader][: bool(broader)]


def test_the_modes_of_terms_and_the_parts_of_conditions_are_all_listed() -> None:
    terms, conditions = section("15").split("### 15.1")
    assert [row[0] for row in table(terms)] == [mode.value for mode in AccessMode]
    parts = [part.strip("` ") for row in table(conditions.split("### 15.2")[0]) for part in row[0].split(",")]
    assert parts == [field.name for field in papers_pb2.Conditions.DESCRIPTOR.fields]


def test_sections_and_decisions_are_counted_without_a_gap() -> None:
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", SPEC, re.MULTILINE)]
    text = (REPOSITORY / "proto" / "DECISIONS.md").read_text()
    decisions = [int(number) for number in re.findall(r"^## D(\d+)\. ", text, re.MULTILINE)]
    assert sections == list(range(1, len(sections) + 1))
    assert decisions == list(range(1, len(decisions) + 1))


def test_the_non_goals_come_last() -> None:
    assert re.findall(r"^## (.*)$", SPEC, re.MULTILINE)[-1] == "Non-goals"


def test_every_call_of_both_services_is_described() -> None:
    calls = [
        method.name
        for service in (
            registry_pb2.DESCRIPTOR.services_by_name["Registry"],
            node_pb2.DESCRIPTOR.services_by_name["Node"],
        )
        for method in service.methods
    ]
    headings = re.findall(r"^### (?:9|10)\.\d+\. (.*)$", SPEC, re.MULTILINE)
    assert [call for call in calls if not any(re.search(rf"\b{call}\b", heading) for heading in headings)] == []


def test_the_words_of_the_glossary_are_the_words_of_the_code() -> None:
    code = "\n".join(path.read_text().lower() for path in SOURCES)
    words = [row[0] for row in table(section("1")) if not row[1].startswith("(later)")]
    assert len(words) > 10
    assert [word for word in words if word not in code] == []


def test_numbers_of_sections_are_used_once() -> None:
    numbers = re.findall(r"^#{2,3} (\d+(?:\.\d+)?)\.? ", SPEC, re.MULTILINE)
    assert len(numbers) == len(set(numbers))


def test_every_test_that_the_threats_name_exists() -> None:
    names = re.findall(r"`(tests/[\w/]+\.py)`", (REPOSITORY / "proto" / "THREATS.md").read_text())
    assert [name for name in names if not (REPOSITORY / name).exists()] == []


def test_the_changelog_tells_of_this_version() -> None:
    assert f"## {hanse.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


def test_the_bytes_in_the_text_are_those_of_the_vectors() -> None:
    vectors = "".join(path.read_text() for path in (REPOSITORY / "tests" / "vectors").glob("*.json"))
    shown = re.findall(r"\b[0-9a-f]{32,}\b|hanse-invite:1:[\w-]{20,}", SPEC)
    assert len(shown) > 8
    assert [each for each in shown if each not in vectors] == []


def test_the_counts_of_examples_in_the_text_are_those_of_the_vectors() -> None:
    identifiers = json.loads((REPOSITORY / "tests" / "vectors" / "identifiers.json").read_text())
    counts = f"{len(identifiers['accepted'])} accepted and {len(identifiers['rejected'])} rejected"
    assert counts in SPEC
