"""What a reader's commands say: resolve, search, fetch, verify, trust; and `add --allow`, which names the known key."""

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hanse.model.envelope import PayloadType
from hanse.signing import SigningKey, sign
from node.cli import main
from tests.simulator import Organization, SimulatedLeague

DATA = os.urandom(100_000)


@pytest.fixture
def north() -> Iterator[Organization]:
    with SimulatedLeague() as league:
        owner = league.join("86.north")
        owner.wrap("scan", DATA)
        owner.wrap("trial", {"观测.csv": b"1,2\n", "sub/empty": b""})
        yield owner


@pytest.fixture
def home(north: Organization, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return north.league.join("86.acme").home(tmp_path / "home")


def hanse(home: Path, *arguments: object, code: int = 0) -> Result:
    result = CliRunner().invoke(main, ["--home", str(home), *map(str, arguments)])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def test_resolve_says_by_whom_it_is_signed_and_how_old_the_answer_is(home: Path, north: Organization) -> None:
    first = hanse(home, "resolve", "86.north/scan").stdout
    assert f"key id      {north.key.public.key_id}" in first
    assert "from the registry, just now" in first
    assert "trusted since it was first seen here" in first
    assert "from the cache, checked " in hanse(home, "resolve", "hdl:86.NORTH/scan").stdout


def test_resolve_says_that_the_registry_is_down(home: Path, north: Organization) -> None:
    north.wrap("brief", b"x", time_to_live=0)
    hanse(home, "resolve", "86.north/brief")
    north.league.stop()
    told = json.loads(hanse(home, "resolve", "86.north/brief", "--json").stdout)
    assert (told["from_cache"], told["registry_down"]) == (True, True)
    assert "the registry does not answer" in hanse(home, "resolve", "86.north/brief").stdout


def test_resolve_says_that_a_key_was_confirmed(home: Path, north: Organization) -> None:
    hanse(home, "trust", "86.north", north.key.public.key_id)
    assert "confirmed by you" in hanse(home, "resolve", "86.north/scan").stdout
    assert json.loads(hanse(home, "resolve", "86.north/scan", "--json").stdout)["signed_by"]["confirmed"]


def test_trust_says_whether_the_key_is_the_one_that_is_known(home: Path, north: Organization) -> None:
    assert "Nothing of it was seen before" in hanse(home, "trust", "86.unseen", "ab" * 16).stdout
    hanse(home, "resolve", "86.north/scan")
    grouped = ":".join(str(north.key.public.key_id)[i : i + 4] for i in range(0, 32, 4))
    assert "known by already" in hanse(home, "trust", "86.north", grouped).stdout
    assert "not believed any more" in hanse(home, "trust", "86.north", "ab" * 16).stdout
    assert "impersonating" in hanse(home, "resolve", "86.north/scan", code=6).stderr


def test_search_shows_verified_records_reports_the_others_and_ends_with_6(home: Path, north: Organization) -> None:
    record = north.objects["86.north/scan"][0].record_envelope
    forged = sign(PayloadType.RECORD, record.payload, SigningKey.generate())
    north.league.records["86.north/forged"] = forged
    found = hanse(home, "search", "anything", "--json", code=6)
    assert {json.loads(line)["id"] for line in found.stdout.splitlines()} == {"86.north/scan", "86.north/trial"}
    assert "left out: " in found.stderr
    assert "not signed by 86.north" in found.stderr


def test_fetch_without_a_target_writes_the_objects_own_name(home: Path, tmp_path: Path, north: Organization) -> None:
    told = hanse(home, "fetch", "86.north/trial").stdout
    assert told.startswith("trial: 2 files, 4 B, version 1\n")
    assert f"verified against the signature of 86.north (key {north.key.public.key_id})" in told
    assert (tmp_path / "trial/观测.csv").read_bytes() == b"1,2\n"
    assert "there already" in hanse(home, "fetch", "86.north/trial").stdout


def test_fetch_as_json_has_stable_names(home: Path, tmp_path: Path, north: Organization) -> None:
    told = json.loads(hanse(home, "fetch", "86.north/scan", "-o", tmp_path / "got", "--json").stdout)
    assert told.pop("receipt")["by_both"] is False  # this owner is one that signs nothing
    assert told == {
        "id": "86.north/scan", "version": 1, "path": str(tmp_path / "got"), "elements": 1, "bytes": len(DATA),
        "transferred": len(DATA), "resumed": 0, "already_there": False,
        "signed_by": {"prefix": "86.north", "key_id": str(north.key.public.key_id)},
    }  # fmt: skip
    assert (tmp_path / "got").read_bytes() == DATA


def test_fetch_of_altered_bytes_ends_with_6_and_leaves_no_file(home: Path, tmp_path: Path, north: Organization) -> None:
    north.serve().lies["fetch"] = lambda parts: (bytes([part[0] ^ 1]) + part[1:] for part in parts)
    hanse(home, "fetch", "86.north/scan", "-o", tmp_path / "got", code=6)
    assert not (tmp_path / "got").exists()


def test_verify_names_each_difference_and_ends_with_6(home: Path, tmp_path: Path) -> None:
    hanse(home, "fetch", "86.north/trial")
    assert "byte for byte" in hanse(home, "verify", "trial", "86.north/trial").stdout
    (tmp_path / "trial/观测.csv").write_bytes(b"1,3\n")
    (tmp_path / "trial/new\x1b[2J").touch()
    told = hanse(home, "verify", "trial", "86.north/trial", code=6).stdout
    assert "different: 观测.csv" in told
    assert "extra: new�[2J" in told
    hanse(home, "verify", "nowhere", "86.north/trial", code=3)


def test_add_names_the_key_by_which_an_allowed_organization_is_known(home: Path, north: Organization) -> None:
    assert "no key of it known yet" in hanse(home, "add", "home/node.pem", "--allow", "86.north").stdout
    hanse(home, "resolve", "86.north/scan")
    assert (
        f"known by key {north.key.public.key_id}" in hanse(home, "add", "home/node.pem", "--allow", "86.north").stdout
    )
    hanse(home, "trust", "86.north", north.key.public.key_id)
    assert "confirmed by you" in hanse(home, "add", "home/node.pem", "--allow", "86.north").stdout
