"""`hanse terms`, and the modes of `hanse add`: what is set, what is shown, and what is refused with a way out."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result

from hanse import wire
from hanse.home import Home
from hanse.model.identifier import Identifier
from hanse.model.record import AccessMode, ObjectRecord
from hanse.model.terms import Operation, Terms
from node.catalog import CATALOG
from node.cli import main
from node.storage.catalog import CatalogStorage
from tests.unit.test_cli_bad_input import make_home

TRIAL = Identifier.parse("86.north/trial")


def hanse(home: Home, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--home", str(home.folder)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = make_home(tmp_path / "home")
    (tmp_path / "data.csv").write_bytes(b"1,2,3\n")
    hanse(made, "add", tmp_path / "data.csv", "--id", "trial", "--allow", "86.acme")
    return made


def kept(home: Home) -> tuple[Terms, ObjectRecord]:
    storage = CatalogStorage.open(home / CATALOG)
    try:
        wrapped = storage.object(TRIAL)
        assert wrapped is not None
        version = storage.version(TRIAL, wrapped.current_version)
        assert version is not None
        return wrapped.terms, wire.decode_record(version.record.payload)
    finally:
        storage.close()


def shown(home: Home, *arguments: object) -> dict[str, Any]:
    told: dict[str, Any] = json.loads(hanse(home, "terms", "trial", *arguments, "--json").stdout)
    return told


def test_terms_are_shown_as_they_were_added(home: Home) -> None:
    told = hanse(home, "terms", "86.north/trial").stdout
    assert "who  86.acme" in told
    assert "how  without asking" in told
    assert shown(home) == {
        "id": "86.north/trial",
        "version": 1,
        "mode": "on-request",
        "permissions": [
            {
                "parties": ["86.acme"], "automatic": True, "operations": ["describe", "fetch"], "purposes": [],
                "valid_from": None, "valid_until": None, "max_fetches": None, "max_bytes": None, "duties": [],
                "pass_on": False,
            }
        ],
    }  # fmt: skip


def test_terms_are_set_as_precisely_as_they_are_said(home: Home) -> None:
    told = hanse(
        home, "terms", "trial", "--allow", "86.acme", "--purpose", "clinical-research", "--from", "2026-01-01",
        "--until", "2027-06-30", "--max-fetches", "20", "--max-bytes", "10GB", "--duty", "delete-after=30d",
        "--duty", "attribute=North Hospital", "--pass-on",
    ).stdout  # fmt: skip
    for text in (
        "86.acme",
        "clinical-research",
        "until    2027-06-30T00:00:00Z",
        "20 fetches, 10.0 GiB, with each grant",
        "delete within 30 days of fetching (enforced by the consumer's node)",
        "attribute: North Hospital (enforced by contract)",
        "by a grant, given by itself when asked",
        "Version 2, which tells the public, waits for `hanse serve`.",
    ):
        assert text in told
    terms, record = kept(home)
    (permission,) = terms.permissions
    assert permission.conditions.max_bytes == 10 << 30
    assert permission.conditions.valid_until == 1_814_313_600
    assert record.version == 2
    assert record.access.mode is AccessMode.ON_REQUEST
    assert record.access.purposes == ("clinical-research",)
    assert len(record.access.duties) == 2


def test_without_allow_it_concerns_every_member(home: Home) -> None:
    told = shown(home, "--purpose", "academic-research", "--manual")
    assert told["permissions"][0]["parties"] == []
    assert told["permissions"][0]["automatic"] is False
    assert told["changed"] is True
    assert "by a grant that a person gives" in hanse(home, "terms", "trial").stdout


def test_add_puts_a_permission_beside_those_that_are_there(home: Home) -> None:
    told = shown(home, "--add", "--allow", "86.east", "--until", "30d")
    assert [each["parties"] for each in told["permissions"]] == [["86.acme"], ["86.east"]]
    assert told["changed"] is False
    assert kept(home)[1].version == 1


@pytest.mark.parametrize(
    ("options", "mode", "permissions"),
    [
        (["--open"], "open", 1),
        (["--open", "--duty", "attribute=North"], "open", 1),
        (["--on-request"], "on-request", 0),
        (["--compute-only"], "compute-only", 0),
        (["--compute-only", "--allow", "86.acme"], "compute-only", 1),
    ],
)
def test_the_ready_made_modes(home: Home, options: list[str], mode: str, permissions: int) -> None:
    told = shown(home, *options)
    assert (told["mode"], len(told["permissions"])) == (mode, permissions)
    terms, record = kept(home)
    assert record.access.mode == mode
    if mode == "compute-only":
        assert record.operations == ("describe",)
        assert all(each.conditions.operations == (Operation.DESCRIBE,) for each in terms.permissions)


def test_odrl_goes_out_and_comes_back(home: Home, tmp_path: Path) -> None:
    hanse(home, "terms", "trial", "--allow", "86.acme", "--purpose", "academic-research", "--max-fetches", "3")
    before, _ = kept(home)
    policy = hanse(home, "terms", "trial", "--odrl").stdout
    assert json.loads(policy)["@type"] == "Offer"
    (tmp_path / "terms.jsonld").write_text(policy)
    hanse(home, "terms", "trial", "--open")
    hanse(home, "terms", "trial", "--file", tmp_path / "terms.jsonld")
    assert kept(home)[0] == before


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--open", "--compute-only"], "leave out --open or --compute-only"),
        (["--open", "--allow", "86.acme"], "open to every member, or allowed to some"),
        (["--open", "--manual"], "open terms let every member fetch"),
        (["--compute-only", "--operation", "fetch"], "compute-only terms permit no fetch"),
        (["--add"], "--add adds a permission"),
        (["--until", "yesterday"], "neither a span"),
        (["--from", "2027-01-02", "--until", "2027-01-01"], "ends before it begins"),
        (["--max-fetches", "0"], "0"),
        (["--max-bytes", "many"], "no size"),
        (["--duty", "sing"], "is not a duty: delete-after=30d"),
        (["--duty", "delete-after=soon"], "is not a span of time"),
        (["--duty", "delete-after"], "is not a span of time"),
        (["--duty", "attribute"], "has a text"),
        (["--duty", "do-not-pass-on", "--pass-on"], "contradict each other"),
        (["--purpose", ""], "a purpose is a name"),
        (["--allow", "acme!"], "is not a prefix"),
        (["--file", "nowhere.jsonld"], "does not exist"),
        (["--file", "nowhere.jsonld", "--open"], "--file holds the terms whole"),
    ],
)
def test_what_makes_no_terms_is_refused_and_changes_nothing(home: Home, options: list[str], message: str) -> None:
    before = kept(home)
    result = hanse(home, "terms", "trial", *options, code=3 if message == "does not exist" else 2)
    assert message in result.stderr
    assert kept(home) == before


@pytest.mark.parametrize(
    ("text", "message"),
    [("{", "is not JSON"), ("[]", "is a JSON object"), ("\xff", "is not JSON"), (" " * 70_000, "terms fit in that")],
)
def test_a_file_that_holds_no_terms_is_refused(home: Home, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "terms.jsonld").write_bytes(text.encode("latin-1"))
    assert message in hanse(home, "terms", "trial", "--file", tmp_path / "terms.jsonld", code=2).stderr


def test_of_what_is_not_there_or_not_ours_there_are_no_terms(home: Home) -> None:
    assert "there is no 86.north/nothing" in hanse(home, "terms", "nothing", code=3).stderr
    hanse(home, "withdraw", "trial")
    assert "was withdrawn" in hanse(home, "terms", "trial", "--open", code=3).stderr


def test_add_takes_the_modes(home: Home, tmp_path: Path) -> None:
    path = tmp_path / "data.csv"
    told = json.loads(hanse(home, "add", path, "--id", "c", "--compute-only", "--json").stdout)
    assert (told["mode"], told["open"], told["allowed"]) == ("compute-only", False, [])
    told = json.loads(hanse(home, "add", path, "--id", "r", "--on-request", "--json").stdout)
    assert told["mode"] == "on-request"
    assert "one mode" in hanse(home, "add", path, "--open", "--on-request", code=2).stderr
    assert "not both" in hanse(home, "add", path, "--open", "--allow", "86.acme", code=2).stderr
    listed = hanse(home, "list").stdout
    assert "nobody: compute only" in listed
