"""Evidence of real deliveries: both sides export, both files verify alone, and the same receipt is in both.

The tests go on from each other's league; each makes the objects that it needs.
"""

import secrets
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from hanse import verifier
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.timeout(900), pytest.mark.xdist_group("evidence")]

PURPOSE = "health-research"
NAME, CONTENT = "ward/albicocca.csv", b"patient,Haematokrit\n1,0.44\n"


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        for prefix in ("86.north", "86.acme"):
            made.join(prefix)
        yield made


@pytest.fixture
def north(league: League) -> Iterator[Node]:
    """Running again after each test, and the registry too."""
    yield league.nodes["86.north"]
    for process in (league.registry.process, league.nodes["86.north"].process):
        if not process.running:
            process.start()


@pytest.fixture
def acme(league: League) -> Node:
    return league.nodes["86.acme"]


def wrap(north: Node, folder: Path, *terms: str) -> str:
    """A published object of two elements under these terms."""
    source = folder / "source"
    (source / NAME).parent.mkdir(parents=True)
    (source / NAME).write_bytes(CONTENT)
    (source / "large").write_bytes(secrets.token_bytes(3 << 20))
    id = str(north.json("add", source, "--id", f"trial-{secrets.token_hex(4)}")["id"])
    north.command("terms", id, *terms)
    north.published()
    return id


def automatic(*more: str) -> tuple[str, ...]:
    return ("--on-request", "--allow", "86.acme", "--purpose", PURPOSE, *more)


def exported(node: Node, folder: Path, *more: object) -> Path:
    path = folder / f"{node.prefix}-{secrets.token_hex(3)}.txt"
    node.command("evidence", "export", "-o", path, *more)
    return path


def proved(node: Node, path: Path, *more: object, expect: int = 0) -> dict[str, dict[str, Any]]:
    """What the command says of each receipt, by its digest, and of the file under ""."""
    result = node.command("evidence", "verify", path, *more, "--json", expect=expect)
    return {each.get("receipt", "") if each["document"] == "receipt" else "": each for each in result.lines}


def of(found: dict[str, dict[str, Any]], id: str) -> list[dict[str, Any]]:
    return [each for each in found.values() if each.get("object") == id]


def settled(node: Node, id: str, count: int) -> None:
    """Waits until that many receipts of an object are signed by both."""
    until(
        lambda: sum(each["state"] == "both" for each in node.lines("receipts", "--object", id)) >= count,
        f"{node.prefix} to have {count} receipts",
    )


def test_both_sides_prove_the_same_delivery_each_from_its_own_file(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, *automatic("--max-fetches", "2", "--until", "30d"))
    for number in range(2):
        acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / f"out-{number}")
    for node in (north, acme):
        settled(node, id, 2)
    files = {node: exported(node, tmp_path) for node in (north, acme)}
    told = [f"--key={node.prefix}={node.json('status')['key_id']}" for node in (north, acme)]
    told_receipts = []
    for node, path in files.items():
        found = proved(node, path, *told)
        receipts = of(found, id)
        assert [each["verdict"] for each in receipts] == ["proved", "proved"]
        for each in receipts:
            assert set(each["signed_by"]) == {"86.north", "86.acme"}
            assert each["unique_bytes"] == len(CONTENT) + (3 << 20)
            assert each["purposes"] == [PURPOSE]
            for words in ("covers the object", "within the limits of the grant", f"of the log of {node.prefix}"):
                assert any(words in sentence for sentence in each["proved"]), (words, each)
            for prefix in ("86.north", "86.acme"):
                assert f"the key of {prefix} is the one that was confirmed with --key" in each["proved"]
        assert found[""]["missing"] == []
        told_receipts.append({each["receipt"] for each in receipts})
    assert told_receipts[0] == told_receipts[1]
    assert len(told_receipts[0]) == 2


def test_the_file_has_nothing_of_the_data(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, "--open")
    acme.command("fetch", id, "-o", tmp_path / "out")
    for node in (north, acme):
        settled(node, id, 1)
        lines = [verifier._read_members(line[65:]) for line in exported(node, tmp_path).read_bytes().splitlines()]
        everything = b"".join(
            verifier._base64(each["envelope"]) if "envelope" in each else str(each).encode() for each in lines
        )
        for private in (NAME.encode(), b"albicocca", b"large", CONTENT, b"Haematokrit"):
            assert private not in everything
        assert id.encode() in everything


def test_copied_alone_the_verifier_reads_what_the_daemons_made(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, "--open")
    acme.command("fetch", id, "-o", tmp_path / "out")
    settled(north, id, 1)
    path = exported(north, tmp_path, "--object", id)
    copy = tmp_path / "verifier.py"
    shutil.copy(verifier.__file__, copy)
    done = subprocess.run(
        [sys.executable, "-P", copy, path], capture_output=True, text=True, cwd=tmp_path, env={}, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert id in done.stdout
    assert "open to every member" in str(of(proved(north, path), id)[0]["proved"])
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 4
    path.write_bytes(data)
    assert "it was altered" in acme.command("evidence", "verify", path, expect=6).stdout


def test_without_the_registry_and_after_changes_of_keys_it_is_proved_or_said_what_is_missing(
    league: League, north: Node, acme: Node, tmp_path: Path
) -> None:
    id = wrap(north, tmp_path, *automatic())
    acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "out")
    for node in (north, acme):
        settled(node, id, 1)
        node.command("rotate-key")
    acme.published()
    north.published()
    # Each has seen the other's new key: what they fetch next is signed with it.
    acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "out-2")
    for node in (north, acme):
        settled(node, id, 2)
        found = proved(node, exported(node, tmp_path))
        assert [each["verdict"] for each in of(found, id)] == ["proved", "proved"]
        assert all(each["whole_history"] for each in found[""]["organizations"])
        assert {len(each["previous_key_ids"]) for each in found[""]["organizations"]} == {1}
    league.registry.kill()
    path = tmp_path / "offline"
    said = north.command("evidence", "export", "-o", path)
    assert "Missing: organization 86.acme: its whole history is not at hand" in said.stderr
    found = proved(north, path, expect=1)
    assert [each["what"] for each in found.values() if each["document"] == "problem"] == []
    assert sorted(each["verdict"] for each in of(found, id)) == ["partly", "proved"]


def test_one_sides_word_is_shown_as_one_sides_word(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, "--open")
    settings = north.home / "node.toml"
    before = settings.read_text()
    try:
        settings.write_text(before + "\nreceipts = false\n")
        north.restart()
        north.published()  # where it listens now
        acme.command("fetch", id, "-o", tmp_path / "out")
        path = exported(acme, tmp_path, "--object", id)
    finally:
        settings.write_text(before)
        north.restart()
    (receipt,) = of(proved(acme, path), id)
    assert (receipt["verdict"], receipt["wrong"]) == ("half", [])
    assert list(receipt["signed_by"]) == ["86.acme"]
    assert "that 86.north agreed: it has no signature of 86.north" in receipt["not_proved"]


def test_a_file_is_never_replaced_and_is_its_owners_alone(north: Node, tmp_path: Path) -> None:
    path = exported(north, tmp_path)
    assert path.stat().st_mode & 0o777 == 0o600
    before = path.read_bytes()
    assert "choose another name" in north.command("evidence", "export", "-o", path, expect=7).stderr
    assert path.read_bytes() == before


def test_an_erased_entry_leaves_the_rest_provable(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, "--open")
    for number in range(2):
        acme.command("fetch", id, "-o", tmp_path / f"out-{number}")
    for node in (north, acme):
        settled(node, id, 2)
    first, second = of(proved(north, exported(north, tmp_path)), id)
    refused = north.command("evidence", "erase", first["position"], expect=130)  # nobody is there to say yes
    assert f"Position {first['position']}: a receipt" in refused.stdout
    north.command("evidence", "erase", first["position"], "--yes")
    found = proved(north, exported(north, tmp_path))
    assert [each["receipt"] for each in of(found, id)] == [second["receipt"]]
    assert {"position": first["position"], "said_to_be": "receipt"} in found[""]["erased"]
    # What the other side has is not touched.
    assert first["receipt"] in proved(acme, exported(acme, tmp_path))
    north.command("evidence", "erase", 10**9, "--yes", expect=3)


def test_a_revocation_and_a_deletion_are_in_the_file(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, *automatic("--duty", "delete-after=1h"))
    acme.command("fetch", id, "--purpose", PURPOSE)
    settled(north, id, 1)
    (grant,) = [each for each in north.lines("grants", "--given") if id in each["ids"]]
    north.command("revoke", grant["grant"])

    def deleted() -> bool:
        found = proved(north, exported(north, tmp_path, "--object", id))
        return any("signed that its copy's key was destroyed" in each for each in of(found, id)[0]["proved"])

    acme.command("grants")  # learns of the revocation, and lets go of the key
    until(deleted, "the deletion to be told")
    (receipt,) = of(proved(north, exported(north, tmp_path, "--object", id)), id)
    assert any("was revoked by 86.north" in each for each in receipt["proved"])
    assert receipt["verdict"] == "proved"
