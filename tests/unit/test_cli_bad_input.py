"""Bad input to every command: a clear error that says what is wrong, the agreed exit code, and nothing lost or made."""

import json
import os
import time
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from hanse import wire
from hanse.client.identity import (
    IDENTITY_KEY,
    MARKER,
    MEMBER_CERTIFICATE,
    NODE_CERTIFICATE,
    TLS_KEY,
    Identity,
    write_league,
)
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, NodeEndpoint, OrganizationRecord
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from node.catalog import CATALOG, Catalog
from node.cli import main
from node.storage.catalog import CatalogStorage

ROOT, NORTH = Prefix("86"), Prefix("86.north")
NOBODY_THERE = Address("127.0.0.1", 1)


def make_home(folder: Path) -> Home:
    """A member's home whose registry never answers."""
    home = Home.create(folder, MARKER)
    now, key, tls_key, ca_key = int(time.time()), SigningKey.generate(), tls.TlsKey.generate(), tls.TlsKey.generate()
    ca = tls.make_authority(ca_key, ROOT, now)
    own = tls.make_node_certificate(tls_key, ROOT, NORTH, now)
    home.write_secret(IDENTITY_KEY, key.to_pem())
    home.write_secret(TLS_KEY, tls_key.to_pem())
    (home / NODE_CERTIFICATE).write_bytes(tls.to_pem(own))
    issued = tls.issue_member(ca_key, ca, tls.make_request(tls_key, NORTH), ROOT, NORTH, now)
    (home / MEMBER_CERTIFICATE).write_bytes(tls.to_pem(issued))
    authority = wire.encode_authority(ROOT, "Test League", ca, SigningKey.generate().public)
    write_league(home, NORTH, authority, (NOBODY_THERE,))
    record = OrganizationRecord(
        NORTH, 1, b"", "North", "", (IdentityKey(key.public, now),), (NodeEndpoint(None, own),), now
    )
    storage = CatalogStorage.open(home / CATALOG)
    Catalog(storage, Identity.load(home)).put_organization(
        sign(PayloadType.ORGANIZATION, wire.encode_organization(record), key)
    )
    storage.close()
    return home


@pytest.fixture
def home(tmp_path: Path) -> Home:
    made = make_home(tmp_path / "home")
    (tmp_path / "data.csv").write_bytes(b"1,2,3\n")
    return made


def hanse(home: Home, *arguments: object) -> Result:
    result = CliRunner().invoke(main, [*map(str, arguments), "--home", str(home.folder)])
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    return result


NOT_AN_ID = [
    "",
    "no-slash",
    "86.north/",
    "/suffix",
    "86.NO RTH/x",
    "86..north/x",
    "86.north/a\x1b[2J",
    "86.north/" + "x" * 600,
]
NOT_A_PREFIX = ["", "86.", "86.no rth", "-86", "86.ünïcode", "a" * 300]
NEEDS_AN_ID = [["resolve"], ["fetch"], ["verify", "data.csv"]]


@pytest.mark.parametrize("bad", NOT_AN_ID)
@pytest.mark.parametrize("command", NEEDS_AN_ID, ids=lambda words: words[0])
def test_what_is_no_identifier_is_refused(home: Home, command: list[str], bad: str) -> None:
    result = hanse(home, *command, "--", bad) if bad.startswith("-") else hanse(home, *command, bad)
    assert result.exit_code == 2
    assert result.stderr.startswith("Error: ")
    assert "\x1b" not in result.stderr


@pytest.mark.parametrize("bad", NOT_A_PREFIX)
@pytest.mark.parametrize(
    "command",
    [["trust", "{}", "ab" * 16], ["audit", "--peer", "{}"], ["search", "x", "--owner", "{}"]],
    ids=lambda w: w[0],
)
def test_what_is_no_prefix_is_refused(home: Home, command: list[str], bad: str) -> None:
    words = [bad if word == "{}" else word for word in command]
    if words[0] == "trust":
        words = ["trust", "--", bad, "ab" * 16]
        result = CliRunner().invoke(main, ["--home", str(home.folder), *words])
    else:
        result = hanse(home, *words)
    assert result.exit_code == 2
    assert "prefix" in result.stderr


# arguments -> exit code, what the error says
WRONG: list[tuple[list[str], int, str]] = [
    (["join"], 2, "Missing argument"),
    (["join", "hanse-invite:1:abc"], 2, "invitation"),
    (["join", "nonsense"], 2, "invitation"),
    (["join", ""], 2, "invitation"),
    (["join", "nonsense", "--listen", "nowhere"], 2, "address"),
    (["join", "nonsense", "--advertise", "host:99999"], 2, "address"),
    (["add"], 2, "Missing argument"),
    (["add", "missing.csv"], 3, "does not exist"),
    (["add", "data.csv", "--id", ""], 2, "identifier"),
    (["add", "data.csv", "--id", " x "], 2, "identifier"),
    (["add", "data.csv", "--id", "x" * 600], 2, "identifier"),
    (["add", "data.csv", "--id", "a\x07"], 2, "identifier"),
    (["add", "data.csv", "--allow", "no prefix"], 2, "prefix"),
    (["add", "data.csv", "--allow", "86.acme#"], 2, "key id"),
    (["add", "data.csv", "--allow", "86.acme#12"], 2, "key id"),
    (["add", "data.csv", "--open", "--allow", "86.acme"], 2, "not both"),
    (["add", "data.csv", "--relation", "Nonsense=86.a/b"], 2, "relation"),
    (["add", "data.csv", "--relation", "Cites"], 2, "relation"),
    (["add", "data.csv", "--title", "a\x1b[2J"], 2, "control characters"),
    (["add", "data.csv", "--metadata", "missing.json"], 3, "does not exist"),
    (["add", "data.csv", "--metadata", "."], 2, "folder"),
    (["add", "data.csv", "--metadata", "data.csv"], 2, "JSON"),
    (["add", "data.csv", "--description", "x" * 70_000], 2, ""),
    (["add", "data.csv", "extra"], 2, "extra"),
    (["list", "extra"], 2, "extra"),
    (["status", "extra"], 2, "extra"),
    (["check", "--shallow"], 2, "--shallow"),
    (["refresh", "missing"], 3, "hanse list"),
    (["refresh", ""], 2, "identifier"),
    (["withdraw", "missing"], 3, "hanse list"),
    (["withdraw", "86.other/thing"], 3, "86.north/86.other/thing"),
    (["withdraw"], 2, "Missing argument"),
    (["search", "x", "--limit", "0"], 2, "--limit"),
    (["search", "x", "--limit", "many"], 2, "--limit"),
    (["fetch", "86.acme/x", "--streams", "0"], 2, "--streams"),
    (["fetch", "86.acme/x", "--streams", "65"], 2, "--streams"),
    (["fetch", "86.acme/x", "--version", "0"], 2, "--version"),
    (["fetch", "86.acme/x", "--version", "-1"], 2, "--version"),
    (["verify", "data.csv"], 2, "Missing argument"),
    (["audit", "--since", "yesterday"], 2, "--since"),
    (["audit", "--since", "99999999999d"], 2, "--since"),
    (["audit", "--object", "a\x1bb"], 2, "identifier"),
    (["audit", "--limit", "0"], 2, "--limit"),
    (["trust", "86.acme"], 2, "Missing argument"),
    (["trust", "86.acme", "xyz"], 2, "key id"),
    (["rotate-key", "now"], 2, "now"),
    (["doctor", "no prefix at all"], 2, "prefix"),
    (["doctor", "86.acme/"], 2, "identifier"),
    (["demo", "--keep", "."], 2, "not empty"),
    (["nonsense"], 2, "No such command"),
    (["--nonsense"], 2, "--nonsense"),
    (["list", "--home", ""], 2, "--home"),
]


@pytest.mark.parametrize(
    ("arguments", "code", "says"), WRONG, ids=lambda value: " ".join(value)[:40] if isinstance(value, list) else None
)
def test_wrong_input_is_a_clear_error(
    home: Home, monkeypatch: pytest.MonkeyPatch, arguments: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(home.folder.parent)
    before = _kept(home)
    result = CliRunner().invoke(main, ["--home", str(home.folder), *arguments])
    assert result.exit_code == code, result.output
    assert says in result.stderr
    assert "Error: " in result.stderr
    assert "Traceback" not in result.output
    assert "internal error" not in result.output
    assert _kept(home) == before


def _kept(home: Home) -> list[str]:
    return [entry["id"] for entry in map(json.loads, hanse(home, "list", "--json").stdout.splitlines())]


@pytest.mark.parametrize(
    "command",
    [
        ["serve"], ["add", "data.csv"], ["list"], ["status"], ["check"], ["refresh"], ["withdraw", "x"],
        ["resolve", "86.a/b"], ["search", "x"], ["fetch", "86.a/b"], ["verify", ".", "86.a/b"], ["audit"],
        ["trust", "86.a", "ab" * 16], ["rotate-key"], ["doctor"],
    ],
    ids=lambda words: words[0],
)  # fmt: skip
def test_a_home_that_nobody_joined_with_is_told_from_a_broken_one(tmp_path: Path, command: list[str]) -> None:
    result = CliRunner().invoke(main, [*command, "--home", str(tmp_path / "none")])
    assert result.exit_code == 1
    assert "hanse join" in result.output
    assert "internal error" not in result.output
    assert not (tmp_path / "none").exists()


def test_keys_that_others_can_read_are_refused_with_the_way_out(home: Home) -> None:
    (home / IDENTITY_KEY).chmod(0o644)
    result = hanse(home, "list")
    assert result.exit_code == 1
    assert f"chmod 600 {home / IDENTITY_KEY}" in result.stderr
    assert "FAIL" in hanse(home, "doctor").stdout


@pytest.mark.parametrize("name", [MARKER, IDENTITY_KEY, TLS_KEY, MEMBER_CERTIFICATE])
def test_a_damaged_home_is_told_as_such_by_the_doctor_and_no_bug_of_ours(home: Home, name: str) -> None:
    (home / name).write_bytes(b"damaged")
    for command in (["list"], ["resolve", "86.a/b"], ["fetch", "86.a/b"], ["status"], ["rotate-key"]):
        result = hanse(home, *command)
        assert result.exit_code == 0 or result.stderr.startswith("Error: ")
        if name in (MARKER, IDENTITY_KEY):
            assert result.exit_code == 1, result.output
    examined = hanse(home, "doctor")
    assert examined.exit_code == 1
    assert "FAIL  keys" in examined.stdout


def test_without_a_registry_what_needs_none_works_and_the_rest_says_so(home: Home, tmp_path: Path) -> None:
    added = hanse(home, "add", tmp_path / "data.csv", "--id", "x", "--json")
    assert added.exit_code == 0
    assert json.loads(added.stdout)["id"] == "86.north/x"
    assert "nobody but you" in hanse(home, "add", tmp_path / "data.csv").stdout
    assert json.loads(hanse(home, "status", "--json").stdout)["waiting"] == 3
    resolved = hanse(home, "resolve", "86.acme/y")
    assert resolved.exit_code == 5
    assert "does not answer" in resolved.stderr
    examined = [json.loads(line) for line in hanse(home, "doctor", "--json").stdout.splitlines()]
    assert [each["check"] for each in examined if each["grade"] == "fail"] == ["registry"]


def test_what_is_printed_before_a_reader_goes_away_is_no_error(home: Home) -> None:
    read, write = os.pipe()
    os.close(read)
    import subprocess
    import sys

    done = subprocess.run(
        [sys.executable, "-m", "node.cli", "list", "--home", str(home.folder)], stdout=write, stderr=subprocess.PIPE,
        cwd=Path(__file__).parents[2], check=False,
    )  # fmt: skip
    os.close(write)
    assert done.stderr == b""
