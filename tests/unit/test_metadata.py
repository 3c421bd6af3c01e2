"""What an owner may say of an object in a file, and which mistakes are named."""

import contextlib
import dataclasses
import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.model.record import RELATION_TYPES, Date, Metadata, Relation
from node.metadata import format_metadata, parse_metadata, read_metadata

FULL = {
    "title": "Trial 7",
    "description": "数据",
    "creators": ["A. Author", "B"],
    "publisher": "North",
    "publication_year": 2026,
    "resource_type": "Dataset",
    "subjects": ["heart"],
    "language": "zh",
    "license": "CC-BY-4.0",
    "dates": [{"type": "Collected", "value": "2026-01/2026-02"}],
    "version_label": "1.0",
    "relations": [{"type": "IsDerivedFrom", "id": "86.acme/x=1"}],
    "attributes": {"arm": "B", "n": 7},
}


def test_every_field_is_read() -> None:
    metadata = parse_metadata(json.dumps(FULL))
    assert metadata.creators == ("A. Author", "B")
    assert metadata.dates == (Date("Collected", "2026-01/2026-02"),)
    assert metadata.relations == (Relation("IsDerivedFrom", "86.acme/x=1"),)
    assert json.loads(metadata.attributes_json) == FULL["attributes"]
    assert json.loads(format_metadata(metadata)) == FULL
    assert all(getattr(metadata, field.name) for field in dataclasses.fields(Metadata))


@pytest.mark.parametrize("text", ["{}", ' {"title": ""} ', '{"attributes": {}}', b"{}"])
def test_what_is_empty_is_nothing(text: str | bytes) -> None:
    assert parse_metadata(text) == Metadata()


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not JSON, line 1 column 1"),
        ('{\n"title": }', "is not JSON, line 2 column 10"),
        (b"\xff\xfe\xff", "is not JSON"),
        ("[" * 100_000, "is not JSON"),
        ("[]", "is not a JSON object"),
        ('"title"', "is not a JSON object"),
        ('{"titel": "x", "name": 1}', "unknown names: titel, name. Known are title, description"),
        ('{"title": 7}', "title is a text, in quotes"),
        ('{"title": null}', "title is a text"),
        ('{"title": "a\\u0000b"}', "control characters"),
        ('{"title": "\\ud800"}', "title is not valid Unicode"),
        ('{"subjects": "heart"}', "subjects is a list, in square brackets"),
        ('{"subjects": [1]}', "subjects is a text"),
        ('{"publication_year": "2026"}', "publication_year is a year"),
        ('{"publication_year": true}', "publication_year is a year"),
        ('{"publication_year": -1}', "publication_year is a year"),
        ('{"publication_year": 20260}', "publication_year is a year"),
        ('{"dates": {}}', "dates is a list"),
        ('{"dates": ["2026"]}', "each of dates has the form"),
        ('{"dates": [{"type": "Collected"}]}', "each of dates has the form"),
        ('{"dates": [{"type": "Collected", "value": 1}]}', "dates is a text"),
        ('{"relations": [{"type": "IsLike", "id": "x"}]}', "is not a relation"),
        ('{"relations": [{"type": "Cites", "id": ""}]}', "is not a relation"),
        ('{"relations": [{"type": "Cites", "id": "x", "more": 1}]}', "each of relations has the form"),
        ('{"attributes": []}', "attributes is a JSON object"),
        ('{"attributes": {"x": NaN}}', "NaN, which is not JSON"),
    ],
)
def test_mistakes_are_named(text: str | bytes, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_metadata(text)


def test_what_the_command_says_goes_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    path.write_text(json.dumps(FULL))
    metadata = read_metadata(path, title="Mine", description="", subjects=("heart", "lung"), relations=())
    assert (metadata.title, metadata.description, metadata.subjects) == ("Mine", "数据", ("heart", "lung"))
    assert len(metadata.relations) == 1
    assert read_metadata(None, title="T") == Metadata(title="T")


def test_a_file_that_is_no_metadata_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.json"
    with pytest.raises(InvalidInput, match=r"m\.json cannot be read: No such file"):
        read_metadata(path)
    path.write_text("x")
    with pytest.raises(InvalidInput, match=r"m\.json: the metadata is not JSON, line 1"):
        read_metadata(path)
    path.write_bytes(b" " * 100_000)
    with pytest.raises(InvalidInput, match="more than 64 KiB"):
        read_metadata(path)


TEXTS = st.text(st.characters(exclude_categories=["Cc", "Cs"]))
METADATA = st.builds(
    Metadata,
    title=TEXTS,
    creators=st.lists(TEXTS).map(tuple),
    publication_year=st.integers(0, 9999),
    dates=st.lists(st.builds(Date, TEXTS, TEXTS)).map(tuple),
    relations=st.lists(st.builds(Relation, st.sampled_from(sorted(RELATION_TYPES)), TEXTS.filter(bool))).map(tuple),
    attributes_json=st.dictionaries(TEXTS, st.integers() | TEXTS | st.none(), min_size=1).map(
        lambda value: json.dumps(value, ensure_ascii=False)
    ),
)


@given(METADATA)
def test_metadata_survives_the_catalog(metadata: Metadata) -> None:
    assert parse_metadata(format_metadata(metadata)) == metadata


@given(st.text() | st.binary())
def test_nothing_but_invalid_input_comes_of_any_text(text: str | bytes) -> None:
    with contextlib.suppress(InvalidInput):
        assert isinstance(parse_metadata(text), Metadata)
