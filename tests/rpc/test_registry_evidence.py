"""What the registry did wrong, in a file of evidence: verified by hanse.verifier alone, and by nobody's word."""

import base64
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanse import verifier
from hanse.cosigning import WitnessKey
from hanse.errors import VerificationFailed
from hanse.evidence.evidence import Evidence
from hanse.rpc import tls
from hanse.signing import SigningKey
from node import monitor as following
from node.exporting import Selection, Sources, export
from tests.evidence_forging import Line, find, put_together, taken_apart, verified, whats
from tests.rpc.test_monitor import Scene, scene  # noqa: F401 - the fixture
from tests.simulator import ROOT


@pytest.fixture
def filed(scene: Scene, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Scene, bytes]:  # noqa: F811
    """Four findings of three kinds, and one rewritten log."""
    monkeypatch.setattr(following, "STEP", 4)
    league, north = scene.league, scene.north
    north.wrap("x", b"content")
    north.wrap("y", b"content", key=SigningKey.generate())
    request = tls.make_request(tls.TlsKey.generate(), north.prefix)
    league.log_entry(tls.issue_member(league.ca_key, league.ca_certificate, request, ROOT, north.prefix, league.now))
    north.publish_organization(display_name="The North, says somebody")
    scene.acme.wrap("d", b"content")
    scene.look()
    league.leaves[3] = bytes(33)
    scene.acme.wrap("e", b"content")
    with pytest.raises(VerificationFailed):
        scene.look()
    return scene, exported(scene, tmp_path / "file")


def exported(scene: Scene, path: Path, selection: Selection = Selection()) -> bytes:  # noqa: B008, F811
    with Evidence.open(scene.identity) as evidence:
        export(path, Sources(evidence, scene.catalog, scene.known, None, scene.storage), selection)
    return path.read_bytes()


def test_findings_and_contradictions_are_proved_by_the_file_alone(filed: tuple[Scene, bytes]) -> None:
    scene, data = filed  # noqa: F811
    report, _ = verified(data)
    assert (report.exit_code, whats(report)) == (0, [])
    assert report.league is not None
    assert report.league.fingerprint == scene.identity.authority.fingerprint.hex()
    assert all(proved for _, proved, _ in report.registry)
    told = "\n".join(what for _, _, what in report.registry)
    key = scene.north.key.public.key_id
    assert f"is version 1 of 86.north/x, signed with its key {key}. 86.north says that it did not sign this off" in told
    assert "is version 1 of 86.north/y, signed with no key of it in this file" in told
    assert "is a certificate of the league's authority for 86.north, with the TLS key" in told
    assert f"of the record of 86.north, signed with its key {key}" in told
    assert re.search("and the first [0-9]+ entries of the larger have the root [0-9a-f]{16}: it forked its log", told)
    assert verifier.summary(report)["registry"][0]["proved"] is True


@pytest.mark.parametrize("proof", [b"", bytes(32) * 4])
def test_without_a_proof_that_leads_to_the_larger_one_two_sizes_prove_nothing(
    filed: tuple[Scene, bytes], proof: bytes
) -> None:
    scene, data = filed  # noqa: F811
    lines = taken_apart(data)
    _fork(lines)["proof"] = base64.b64encode(proof).decode()
    report, _ = verified(put_together(lines, scene.north.prefix, scene.identity.signing_key))
    assert (report.exit_code, whats(report)) == (0, [])
    _, proved, what = report.registry[0]
    assert (proved, "and did not prove that the second continues the first" in what) == (False, True)


def test_a_rollback_and_a_fork_are_proved_by_the_two_notes(scene: Scene, tmp_path: Path) -> None:  # noqa: F811
    league = scene.league
    scene.look()
    league.shown_size, league.shown_at = len(league.leaves) - 1, league.now + 60
    with pytest.raises(VerificationFailed):
        scene.look()
    league.shown_size = None
    league.leaves[3] = bytes(33)
    with pytest.raises(VerificationFailed):
        scene.look()
    report, _ = verified(exported(scene, tmp_path / "file"))
    assert (report.exit_code, whats(report)) == (0, [])
    assert [
        (proved, "took back entries" in what, "two different logs" in what) for _, proved, what in report.registry
    ] == [
        (True, True, False),
        (True, False, True),
    ]


def test_a_witness_that_changed_its_key_has_both(filed: tuple[Scene, bytes]) -> None:
    scene, data = filed  # noqa: F811
    lines = taken_apart(data)
    at = find(lines, "registry-fork")
    old, new = (str(WitnessKey("witness.example/w", SigningKey.generate().public)) for _ in range(2))
    lines[at:at] = [{"kind": "witness", "key": each} for each in (old, new)]
    report, _ = verified(put_together(lines, scene.north.prefix, scene.identity.signing_key))
    assert (report.exit_code, whats(report)) == (0, [])
    assert set(report.witnesses) == {old, new}


def test_what_was_chosen_for_one_peer_has_nothing_of_it(filed: tuple[Scene, bytes], tmp_path: Path) -> None:
    scene, _ = filed  # noqa: F811
    lines = taken_apart(exported(scene, tmp_path / "chosen", Selection(peer=scene.acme.prefix)))
    assert not {"authority", "registry-fork", "finding"} & {each["kind"] for each in lines}


def test_without_anything_of_it_the_file_is_as_before(scene: Scene, tmp_path: Path) -> None:  # noqa: F811
    assert "authority" not in {each["kind"] for each in taken_apart(exported(scene, tmp_path / "file"))}


def _finding(what: str) -> Callable[[list[Line]], Line]:
    return lambda lines: next(each for each in lines if each["kind"] == "finding" and each["what"] == what)


RECORD, CERTIFICATE, ORGANIZATION = _finding("record"), _finding("certificate"), _finding("organization")


def _fork(lines: list[Line]) -> Line:
    return lines[find(lines, "registry-fork")]


def _other_league(lines: list[Line]) -> None:
    line = lines[find(lines, "authority")]
    data = bytearray(base64.b64decode(line["authority"]))
    data[-1] ^= 1
    line["authority"] = base64.b64encode(data).decode()


def _set(line: Callable[[list[Line]], Line], **members: Any) -> Callable[[list[Line]], None]:
    return lambda lines: line(lines).update(members)


def _moved(lines: list[Line]) -> None:
    RECORD(lines)["entry"] += 1


def _other_content(lines: list[Line]) -> None:
    CERTIFICATE(lines)["content"] = CERTIFICATE(lines)["content"][:-8] + "AAAAAAA="


def _as_a_record(lines: list[Line]) -> None:
    RECORD(lines)["content"] = ORGANIZATION(lines)["content"]


def _same_note_twice(lines: list[Line]) -> None:
    _fork(lines)["second"] = _fork(lines)["first"]


def _swapped(lines: list[Line]) -> None:
    line = _fork(lines)
    line["first"], line["second"], line["proof"] = line["second"], line["first"], ""


def _altered_note(lines: list[Line]) -> None:
    size = _fork(lines)["first"].split("\n")[1]
    _fork(lines)["first"] = _fork(lines)["first"].replace(f"\n{size}\n", f"\n{int(size) + 1}\n")


def _without_date(lines: list[Line]) -> None:
    note = _fork(lines)["first"]
    _fork(lines)["first"] = note[: note.rindex("\u2014")]


def _no_authority(lines: list[Line]) -> None:
    del lines[find(lines, "authority")]


TAMPERED: list[tuple[Callable[[list[Line]], None], str]] = [
    (_other_league, "it is a checkpoint of another log than 86.registry.hanse.internal/log/"),
    (_no_authority, "the league whose registry it is about does not stand before it"),
    (_moved, "its proof"),
    (_set(RECORD, entry=0), "its proof of inclusion is none"),
    (_set(RECORD, path=""), "its proof"),
    (_set(RECORD, size=1), "its proof"),
    (_set(RECORD, what="decision"), "a finding of a kind that this verifier does not know"),
    (_set(ORGANIZATION, what="certificate"), "no certificate that could be read"),
    (_other_content, "certificate"),
    (_as_a_record, "it is signed as"),
    (_same_note_twice, "its two checkpoints are one"),
    (_swapped, "is not the later one"),
    (_altered_note, "is false"),
    (_without_date, "it has no date"),
]


@pytest.mark.parametrize(("alter", "named"), TAMPERED, ids=[str(at) for at in range(len(TAMPERED))])
def test_what_does_not_hold_is_called_wrong(
    filed: tuple[Scene, bytes], alter: Callable[[list[Line]], None], named: str
) -> None:
    """By an exporter who signs whatever it makes."""
    scene, data = filed  # noqa: F811
    lines = taken_apart(data)
    alter(lines)
    report, _ = verified(put_together(lines, scene.north.prefix, scene.identity.signing_key))
    assert report.exit_code == verifier.SOMETHING_WRONG
    assert any(named in each for each in whats(report)), whats(report)
