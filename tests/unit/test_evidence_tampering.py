"""Whatever is done to a file of evidence is found, and the line is named."""

import functools
import json
import os
import random
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse import verifier, wire
from hanse import wire_papers as papers
from hanse.evidence.lines import base64_text
from hanse.evidence.storage.log import Kind
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.terms import Conditions, Duty, DutyKind
from hanse.signing import SigningKey, sign
from node.exporting import Selection
from tests.evidence_forging import Line, envelope_of, find, put_together, taken_apart, verified, whats, with_envelope
from tests.evidence_year import DAY, Party, Year, ordinary


@pytest.fixture(scope="module")
def year(tmp_path_factory: pytest.TempPathFactory):
    with Year.begin(tmp_path_factory.mktemp("year")) as made:
        made.made = ordinary(made)  # type: ignore[attr-defined]
        made.export(made.north, made.folder / "file")
        yield made


@pytest.fixture
def file(year: Year) -> bytes:
    return (year.folder / "file").read_bytes()


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """A file with a line of almost every kind, short enough to flip each of its bits."""
    with Year.begin(tmp_path_factory.mktemp("small")) as made:
        grant = made.grant(max_fetches=3)
        made.receipt(made.record(), grant)
        made.receipt(made.record(), half=made.north)
        made.revocation(grant)
        made.export(made.north, made.folder / "file")
        return (made.folder / "file").read_bytes()


@pytest.fixture
def remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of the many files that differ in one bit, a signature that is the same is verified once."""
    monkeypatch.setattr(verifier, "verifies", functools.lru_cache(None)(verifier.verifies))


def named(data: bytes, at: int) -> tuple[int, str]:
    """The number and the kind of the line with that byte."""
    number = data.count(b"\n", 0, at) + 1
    return number, json.loads(data.splitlines()[number - 1][65:])["kind"]


@pytest.mark.parametrize("bit", range(8))
@pytest.mark.usefixtures("remembered")
def test_every_bit_that_is_flipped_is_found_and_its_line_is_named(small: bytes, bit: int) -> None:
    assert verified(small)[0].exit_code == 0
    for at in range(len(small)):
        flipped = bytearray(small)
        flipped[at] ^= 1 << bit
        report, _ = verified(bytes(flipped))
        assert report.exit_code == 6, f"byte {at}"
        problem, (number, kind) = report.problems[0], named(small, at)
        assert problem.line == number, f"byte {at}: {problem}"
        assert problem.kind in (kind, "unreadable"), f"byte {at}: {problem}"
        assert problem.what


@pytest.mark.usefixtures("remembered")
def test_every_file_that_is_cut_short_is_found(small: bytes) -> None:
    for length in range(len(small)):
        report, _ = verified(small[:length])
        assert report.exit_code == 6, f"{length} bytes"


@pytest.mark.usefixtures("remembered")
def test_bytes_that_are_put_in_or_left_out_are_found(small: bytes) -> None:
    choice = random.Random(7)
    for _ in range(1500):
        at, length = choice.randrange(len(small)), choice.randrange(1, 80)
        for changed in (small[:at] + small[at + length :], small[:at] + choice.randbytes(length) + small[at:]):
            report, _ = verified(changed)
            assert report.exit_code == 6
            assert report.problems[0].line <= named(small, at)[0] + 1


# Lines that are whole, and not where they belong: nobody signed again.


@pytest.mark.usefixtures("remembered")
def test_lines_that_are_removed_doubled_or_moved_are_found(file: bytes) -> None:
    lines = file.splitlines(keepends=True)
    for at in range(len(lines)):
        for changed in (lines[:at] + lines[at + 1 :], lines[: at + 1] + lines[at:]):
            report, _ = verified(b"".join(changed))
            assert report.exit_code == 6
            assert report.problems[0].line in (at + 1, at + 2) or at == len(lines) - 1
        for other in range(at):
            moved = list(lines)
            moved[at], moved[other] = moved[other], moved[at]
            report, _ = verified(b"".join(moved))
            assert report.exit_code == 6
            assert report.problems[0].line == other + 1


def rehashed(members: Line) -> bytes:
    text = json.dumps(members, separators=(",", ":")).encode()
    return verifier.sha256(text).hexdigest().encode() + b" " + text + b"\n"


def test_a_line_that_is_hashed_anew_and_not_signed_is_found(file: bytes) -> None:
    lines = file.splitlines(keepends=True)
    for at, line in enumerate(lines[:-1]):
        members = json.loads(line[65:])
        if members["kind"] != "header":
            continue
        members["made_at"] += 1
        report, _ = verified(b"".join([*lines[:at], rehashed(members), *lines[at + 1 :]]))
        assert report.exit_code == 6
        assert "the lines of this file are not those that 86.north signed" in whats(report)


def test_a_line_that_is_added_with_its_number_and_not_signed_is_found(file: bytes) -> None:
    lines = file.splitlines(keepends=True)
    last = json.loads(lines[-2][65:])
    added = rehashed({"line": len(lines), "kind": "erased", "position": 1, "leaf": "receipt"})
    end = json.loads(lines[-1][65:]) | {"line": len(lines) + 1}
    report, _ = verified(b"".join([*lines[:-1], added, rehashed(end)]))
    assert last["line"] == len(lines) - 1
    assert "the lines of this file are not those that 86.north signed" in whats(report)


def test_a_file_that_another_key_signed_is_found(file: bytes, year: Year) -> None:
    lines = taken_apart(file)
    for key in (SigningKey.generate(), year.acme.key):
        report, _ = verified(put_together(lines, year.north.prefix, key))
        assert report.exit_code == 6
        assert any("the file is not signed by 86.north" in each for each in whats(report))
    report, _ = verified(put_together(lines, year.acme.prefix, year.acme.key))
    assert report.exit_code == 6


# The exporter itself cheats: its own signature over the file is good.


def again(file: bytes, year: Year, change: Callable[[list[Line]], None]) -> tuple[verifier.Report, list[str]]:
    """The file with other lines, signed by its true exporter."""
    lines = taken_apart(file)
    change(lines)
    report, found = verified(put_together(lines, year.north.prefix, year.north.key))
    return report, [each for receipt in found.values() for each in (*receipt.wrong, *receipt.not_proved)]


def test_signed_again_as_it_was_the_file_is_as_good(file: bytes, year: Year) -> None:
    assert again(file, year, lambda lines: None)[0].exit_code == 0


def test_a_receipt_with_the_signatures_of_another_is_found(file: bytes, year: Year) -> None:
    def splice(lines: list[Line]) -> None:
        first, second = find(lines, "receipt"), find(lines, "receipt", 2)
        signatures = envelope_of(lines[second]).signatures
        lines[first] = with_envelope(lines[first], replace(envelope_of(lines[first]), signatures=signatures))

    report, _ = again(file, year, splice)
    assert any("the signature of 86.north with key" in each and "is false" in each for each in whats(report))
    assert report.problems[0].kind == "receipt"


def test_a_receipt_that_is_altered_is_found(file: bytes, year: Year) -> None:
    def enlarge(lines: list[Line]) -> None:
        at = find(lines, "receipt")
        envelope = envelope_of(lines[at])
        receipt = replace(papers.decode_receipt(envelope.payload), unique_bytes=1)
        lines[at] = with_envelope(lines[at], replace(envelope, payload=papers.encode_receipt(receipt)))

    report, _ = again(file, year, enlarge)
    assert report.problems[0].line == find(taken_apart(file), "receipt") + 1
    assert "is false" in report.problems[0].what


def one_signature(envelope: Envelope, party: Party) -> Envelope:
    keyid = str(party.key.public.key_id)
    return replace(envelope, signatures=tuple(each for each in envelope.signatures if each.keyid == keyid))


def test_a_receipt_of_both_that_lost_a_signature_is_found(file: bytes, year: Year) -> None:
    def strip(lines: list[Line]) -> None:
        at = find(lines, "receipt")
        lines[at] = with_envelope(lines[at], one_signature(envelope_of(lines[at]), year.north))

    report, _ = again(file, year, strip)
    assert any("it is not signed by 86.acme, only by 86.north" in each for each in whats(report))


def test_a_receipt_of_both_that_is_shown_as_half_is_found(file: bytes, year: Year) -> None:
    def halve(lines: list[Line], keep: bool) -> None:
        line = lines.pop(find(lines, "receipt"))
        envelope = envelope_of(line)
        half = with_envelope(line, envelope if keep else one_signature(envelope, year.north)) | {"kind": "half-receipt"}
        lines.insert(find(lines, "half-receipt"), half)

    report, _ = again(file, year, lambda lines: halve(lines, keep=True))
    assert any("shown as signed by one side, and both have signed it" in each for each in whats(report))
    # The log remembers what it was.
    report, _ = again(file, year, lambda lines: halve(lines, keep=False))
    assert any("it is not what stands at position" in each for each in whats(report))


def test_a_half_receipt_that_is_shown_as_one_of_both_is_found(file: bytes, year: Year) -> None:
    def raise_up(lines: list[Line]) -> None:
        lines[find(lines, "half-receipt")]["kind"] = "receipt"

    report, _ = again(file, year, raise_up)
    assert any("it is not signed by 86.acme, only by 86.north" in each for each in whats(report))


def test_a_forged_half_of_the_other_side_is_found(file: bytes, year: Year) -> None:
    def forge(lines: list[Line]) -> None:
        at = find(lines, "half-receipt")
        envelope = envelope_of(lines[at])
        by_us = sign(PayloadType.RECEIPT, envelope.payload, year.north.key).signatures[0]
        forged = (by_us, replace(by_us, keyid=str(year.acme.key.public.key_id)))
        lines[at] = with_envelope(lines[at], replace(envelope, signatures=forged)) | {"kind": "receipt"}

    report, _ = again(file, year, forge)
    assert any("the signature of 86.acme with key" in each for each in whats(report))


def test_a_signature_of_a_stranger_on_a_receipt_is_found(file: bytes, year: Year) -> None:
    def add(lines: list[Line]) -> None:
        at = find(lines, "receipt")
        envelope = envelope_of(lines[at])
        other = sign(PayloadType.RECEIPT, envelope.payload, SigningKey.generate()).signatures
        lines[at] = with_envelope(lines[at], replace(envelope, signatures=envelope.signatures + other))

    report, _ = again(file, year, add)
    assert any("a signature that is of neither" in each for each in whats(report))


def wider(envelope: Envelope, key: SigningKey) -> Envelope:
    grant = replace(papers.decode_grant(envelope.payload), conditions=Conditions(pass_on=True))
    return sign(PayloadType.GRANT, papers.encode_grant(grant), key)


def test_a_grant_in_place_of_which_a_wider_one_stands_is_found(file: bytes, year: Year) -> None:
    def widen(lines: list[Line]) -> None:
        at = find(lines, "grant")
        lines[at] = with_envelope(lines[at], wider(envelope_of(lines[at]), year.north.key))

    report, doubts = again(file, year, widen)
    assert any("it is not what stands at position" in each for each in whats(report))
    assert any("that grant is not in this file" in each for each in doubts)


def test_a_wider_grant_that_its_maker_did_not_sign_is_found(file: bytes, year: Year) -> None:
    def widen(lines: list[Line]) -> None:
        at = find(lines, "grant")
        envelope = envelope_of(lines[at])
        signatures = envelope.signatures
        lines[at] = with_envelope(lines[at], replace(wider(envelope, year.north.key), signatures=signatures))

    report, _ = again(file, year, widen)
    assert any("the signature of 86.north with key" in each for each in whats(report))
    assert report.problems[0].kind == "grant"


def test_a_paper_of_one_kind_is_none_of_another(file: bytes, year: Year) -> None:
    def pose(lines: list[Line]) -> None:
        at = find(lines, "denial")
        lines[at] |= {"kind": "revocation"}
        lines.insert(find(lines, "revocation"), lines.pop(at))

    report, _ = again(file, year, pose)
    assert any(
        "it is signed as 'application/vnd.hanse.denial.v1', not as a revocation" in each for each in whats(report)
    )


@pytest.mark.parametrize("kind", ["organization", "record", "grant", "receipt"])
def test_what_the_exporter_leaves_out_is_not_proved_or_found(file: bytes, year: Year, kind: str) -> None:
    def leave_out(lines: list[Line]) -> None:
        lines.pop(find(lines, kind))

    report, doubts = again(file, year, leave_out)
    if kind == "receipt":  # which is what "that nothing was left out" means
        assert (report.exit_code, report.verdicts["proved"]) == (0, 2)
    else:
        assert report.exit_code in (1, 6)
        assert doubts


def test_a_log_with_other_leaves_is_found(file: bytes, year: Year) -> None:
    def alter(lines: list[Line]) -> None:
        at = find(lines, "leaves")
        lines[at] |= {"hashes": base64_text(os.urandom(32) + verifier._base64(lines[at]["hashes"])[32:])}

    report, _ = again(file, year, alter)
    assert "the leaves of the log in this file are not those of the signed checkpoint" in whats(report)


def test_a_log_that_is_shortened_is_found(file: bytes, year: Year) -> None:
    def shorten(lines: list[Line]) -> None:
        at = find(lines, "leaves")
        lines[at] |= {"hashes": base64_text(verifier._base64(lines[at]["hashes"])[:-32])}

    assert again(file, year, shorten)[0].exit_code == 6


def test_a_checkpoint_of_another_log_or_size_is_found(file: bytes, year: Year) -> None:
    theirs = year.evidence[year.acme.prefix].newest_checkpoint()
    for changed in ({"checkpoint": theirs}, {"checkpoint": ""}, {"log_size": 1}):
        report, _ = again(file, year, lambda lines, changed=changed: lines[0].update(changed))  # type: ignore[misc]
        assert report.exit_code == 6
        assert any("checkpoint" in each for each in whats(report))


def test_a_proof_of_another_position_is_found(year: Year, tmp_path: Path) -> None:
    year.export(year.north, tmp_path / "chosen", selection=Selection(peer=year.acme.prefix))
    chosen = (tmp_path / "chosen").read_bytes()
    assert verified(chosen)[0].exit_code == 0

    def move(lines: list[Line]) -> None:
        lines[find(lines, "receipt")]["position"] += 1

    def reproof(lines: list[Line]) -> None:
        first, second = find(lines, "receipt"), find(lines, "grant")
        lines[first]["proof"] = lines[second]["proof"]

    def cut(lines: list[Line]) -> None:
        at = find(lines, "receipt")
        lines[at]["proof"] = base64_text(verifier._base64(lines[at]["proof"])[:-32])

    for change in (move, reproof, cut):
        report, _ = again(chosen, year, change)
        assert any("it does not stand at position" in each for each in whats(report))


def test_one_entry_of_the_log_is_not_shown_twice(file: bytes, year: Year) -> None:
    def double(lines: list[Line]) -> None:
        at = find(lines, "receipt")
        lines.insert(at, dict(lines[at]))

    report, _ = again(file, year, double)
    assert "this receipt is in the file twice" in whats(report)


def test_a_record_that_the_owner_did_not_sign_is_found(file: bytes, year: Year) -> None:
    def forge(lines: list[Line]) -> None:
        at = find(lines, "record")
        envelope = envelope_of(lines[at])
        lines[at] = with_envelope(lines[at], sign(PayloadType.RECORD, envelope.payload, year.acme.key))

    report, doubts = again(file, year, forge)
    assert any("it is not signed by 86.north" in each for each in whats(report))
    assert "the record that it names is not one that the owner signed" in doubts


def test_a_record_of_another_version_is_found(tmp_path: Path) -> None:
    with Year.begin(tmp_path) as made:
        record = made.record()
        made.receipt(record, version=2)
        made.export(made.north, tmp_path / "file")
        report, found = verified(tmp_path / "file")
    assert "the record that it names is of another object or version" in next(iter(found.values())).wrong
    assert report.exit_code == 6


# Organizations and their keys.


def test_an_invented_organization_needs_a_telephone_to_be_found(file: bytes, year: Year, tmp_path: Path) -> None:
    with Year.begin(tmp_path) as forged:  # the same names, other keys
        ordinary(forged)
        forged.export(forged.north, tmp_path / "file")
    told = {"86.acme": str(year.acme.key.public.key_id)}
    assert verified(tmp_path / "file")[0].exit_code == 0
    assert verified(tmp_path / "file", told)[0].exit_code == 6
    assert verified(file, told)[0].exit_code == 0


def test_a_key_that_the_one_before_did_not_sign_is_found(tmp_path: Path) -> None:
    with Year.begin(tmp_path) as made:
        made.receipt(made.record())
        made.now += DAY
        made.acme.rotate(made.now)
        made.export(made.north, tmp_path / "file")

        def usurp(lines: list[Line]) -> None:
            at = find(lines, "organization", 1)
            payload = envelope_of(lines[at]).payload
            lines[at] = with_envelope(lines[at], sign(PayloadType.ORGANIZATION, payload, made.acme.key))

        def skip(lines: list[Line]) -> None:
            lines.pop(find(lines, "organization"))

        file = (tmp_path / "file").read_bytes()
        assert again(file, made, lambda lines: None)[0].exit_code == 0
        assert any("is not signed by the one before it" in each for each in whats(again(file, made, usurp)[0]))
        report, doubts = again(file, made, skip)
        assert report.exit_code == 1
        assert any("its history is not whole here" in each for each in doubts)


def test_a_receipt_signed_with_a_key_that_was_replaced_is_found(tmp_path: Path) -> None:
    with Year.begin(tmp_path) as made:
        record, old = made.record(), made.acme.key
        made.now += DAY
        made.acme.rotate(made.now)
        made.now += DAY
        envelope = sign(PayloadType.RECEIPT, papers.encode_receipt(made.receipt_of(record)), old, made.north.key)
        made.log(Kind.RECEIPT, envelope, made.north)
        made.export(made.north, tmp_path / "file")
        report, _ = verified(tmp_path / "file")
    assert any("was no longer the key of 86.acme at its date" in each for each in whats(report))


def test_nothing_is_proved_by_the_word_of_an_organization_whose_key_is_not_there(tmp_path: Path) -> None:
    with Year.begin(tmp_path) as made:
        record, duty = made.record(), (Duty(DutyKind.DELETE_AFTER, DAY),)
        given, narrowed = made.grant(pass_on=True, duties=duty), []
        made.now += DAY
        made.receipt(record, given)
        made.now += DAY
        made.deletion(record, given)
        made.revocation(given)
        narrowed.append(made.grant(issuer=made.acme, to=made.lab, parent=given, duties=duty))
        made.receipt(record, narrowed[0], consumer=made.lab)
        made.export(made.lab, tmp_path / "file")
        made.export(made.north, tmp_path / "theirs")
        for of, party in (("file", made.lab), ("theirs", made.north)):
            lines = taken_apart((tmp_path / of).read_bytes())
            for prefix in ("86.north", "86.acme"):
                if prefix == str(party.prefix):
                    continue
                left = [each for each in lines if each["kind"] != "organization" or not is_of(each, prefix)]
                left.insert(4, {"kind": "missing", "what": "organization", "name": prefix, "why": "so it is said"})
                left.sort(key=lambda each: verifier.RANK[each["kind"]])
                report, found = verified(put_together(left, party.prefix, party.key))
                assert report.verdicts["proved"] == 0
                assert found
                for each in found.values():
                    said = " ".join(each.proved)
                    assert not (prefix == "86.north" and "is signed by the owner" in said)
                    assert not (prefix == "86.acme" and "signed that its copy's key was destroyed" in said)
                    assert not (prefix == "86.north" and "was revoked by" in said)
                    assert not any(f"with key {key.public.key_id}" in said for key in made_key(made, prefix))


def made_key(year: Year, prefix: str) -> list[SigningKey]:
    return next(each.keys for each in year.parties if str(each.prefix) == prefix)


def is_of(line: Line, prefix: str) -> bool:
    return wire.decode_organization(envelope_of(line).payload).prefix.text == prefix


def test_a_grant_that_was_made_after_the_delivery_did_not_allow_it(tmp_path: Path) -> None:
    with Year.begin(tmp_path) as made:
        record = made.record()
        made.now += DAY
        grant = made.grant()
        made.receipt(record, grant, started_at=made.now - 500, ended_at=made.now - 400)
        made.export(made.north, tmp_path / "file")
        report, _ = verified(tmp_path / "file")
    assert any("was made 500 s after the delivery began" in each for each in whats(report))


odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(), st.lists(st.integers(), max_size=2),
    st.just("\ud800"), st.just(10**30), st.just(-1), st.just(""), st.just("A" * 70_000), st.just({"since": 1e300}),
    st.sampled_from(verifier.KINDS), st.binary(max_size=90).map(base64_text),
)  # fmt: skip


@given(data=st.data())
@settings(
    max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)
def test_whatever_stands_in_a_file_that_is_signed_it_is_judged_and_nothing_breaks(
    data: st.DataObject, file: bytes, year: Year
) -> None:
    lines = taken_apart(file)
    for _ in range(data.draw(st.integers(1, 3))):
        line = lines[data.draw(st.integers(0, len(lines) - 1))]
        line[data.draw(st.sampled_from(sorted(line)))] = data.draw(odd)
    try:
        changed = put_together(lines, year.north.prefix, year.north.key)
    except (TypeError, ValueError):
        return  # it cannot be written
    report, found = verified(changed)
    assert report.exit_code in (0, 1, 6)
    json.dumps(verifier.summary(report))
    for each in found.values():
        json.dumps(verifier.describe(each))
    verifier._say(report, list(found.values()), lambda text: verifier.safe(text).encode() and None)


# What is no evidence at all.


@pytest.mark.parametrize(
    "data",
    [b"", b"\n", b"\0" * 4096, b"{}\n", b"x" * 400_000, b"\xff\xfe" * 99, b"0" * 64 + b" {}\n", b"[" * 5000 + b"\n"],
)
def test_what_is_no_evidence_is_refused(data: bytes) -> None:
    assert verified(data)[0].exit_code == 6


@pytest.mark.parametrize(
    "text",
    [
        "[1]", "{}", '{"line":1}', '{"line":1,"kind":"unknown"}', '{"line":1, "kind":"header"}', "nul", '"x"',
        '{"line":1,"kind":"leaves","first":0,"hashes":"*"}', '{"line":1,"kind":"leaves","first":0,"hashes":""}',
        '{"line":1,"line":1,"kind":"erased","position":0,"leaf":"x"}', '{"line":true,"kind":"record","envelope":""}',
        '{"line":1,"kind":"record","envelope":"AAAA"}', '{"line":1,"kind":"record","envelope":"\\u00e9"}',
        '{"line":1,"kind":["record"]}', '{"line":1,"kind":"record","envelope":null}', "[" * 9000,
        '{"line":1,"kind":"receipt","envelope":"","position":-1,"salt":""}', "1e999", '{"line":1e999,"kind":"record"}',
    ],
)  # fmt: skip
def test_a_line_that_is_whole_and_makes_no_sense_is_refused(text: str, file: bytes) -> None:
    line = verifier.sha256(text.encode()).hexdigest() + " " + text + "\n"
    report, _ = verified(file + line.encode())
    assert report.exit_code == 6
    assert report.problems[-1].line == len(file.splitlines()) + 1


def test_records_in_the_vectors_of_a_wire_are_read(file: bytes) -> None:
    """The forging used here is sound: what it takes apart is what was exported."""
    lines = taken_apart(file)
    assert wire.decode_record(envelope_of(lines[find(lines, "record")]).payload).version == 1
