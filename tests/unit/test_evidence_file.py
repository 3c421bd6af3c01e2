"""One file of evidence: what an exporter puts into it, and what the verifier says that it proves."""

import os
import stat
from dataclasses import replace
from pathlib import Path

import pytest

from hanse.errors import AlreadyExists, StorageFailed, Unreachable
from hanse.evidence.lines import BLOCK
from hanse.evidence.storage import peers
from hanse.evidence.storage.log import Kind
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Duty, DutyKind
from node.exporting import Selection
from tests.evidence_forging import taken_apart, verified, whats
from tests.evidence_year import BEGAN, DAY, Year, many, ordinary


@pytest.fixture
def year(tmp_path: Path):
    with Year.begin(tmp_path) as made:
        yield made


def test_both_sides_export_the_same_receipt_and_both_files_prove_it(year: Year, tmp_path: Path) -> None:
    made = ordinary(year)
    for party in (year.north, year.acme):
        path = tmp_path / f"{party.prefix}.txt"
        exported = year.export(party, path)
        report, found = verified(path)
        assert (whats(report), report.missing, exported.missing, report.exit_code) == ([], [], (), 0)
        receipt = found[made["receipt"].digest.hex()]
        assert (receipt.verdict, receipt.not_proved, receipt.wrong) == ("proved", [], [])
        assert any("signed by both: the owner 86.north with key" in each for each in receipt.proved)
        assert any(f"of the log of {party.prefix}" in each for each in receipt.proved)
        assert any("covers the object, the operation, the holder, the time" in each for each in receipt.proved)
        assert any("within the limits of the grant" in each for each in receipt.proved)
        assert exported.lines == report.lines
        assert exported.size == path.stat().st_size


def test_each_kind_of_receipt_is_called_what_it_is(year: Year, tmp_path: Path) -> None:
    made = ordinary(year)
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    verdicts = {name: found[made[name].digest.hex()].verdict for name in ("receipt", "lab", "opened", "half")}
    assert verdicts == {"receipt": "proved", "lab": "proved", "opened": "proved", "half": "half"}
    narrowed, half = found[made["lab"].digest.hex()], found[made["half"].digest.hex()]
    assert any("the last of 2, each narrowed by the holder of the one before" in each for each in narrowed.proved)
    assert any("was revoked by 86.acme" in each and "not before the delivery" in each for each in narrowed.proved)
    assert any("open to every member" in each for each in found[made["opened"].digest.hex()].proved)
    assert "that 86.acme agreed: it has no signature of 86.acme" in half.not_proved
    assert half.proved[0].startswith("signed only by the owner 86.north")
    assert report.exit_code == 0


def test_the_file_is_its_owners_alone_and_never_replaces_another(year: Year, tmp_path: Path) -> None:
    ordinary(year)
    path = tmp_path / "file"
    year.export(year.north, path)
    before = path.read_bytes()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    with pytest.raises(AlreadyExists, match="choose another name"):
        year.export(year.north, path)
    assert path.read_bytes() == before
    assert [each for each in os.listdir(tmp_path) if each.endswith(".tmp")] == []


def test_an_export_that_fails_leaves_nothing(year: Year, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ordinary(year)

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(Exception, match="no space left"):
        year.export(year.north, tmp_path / "file")
    monkeypatch.undo()
    assert [each for each in os.listdir(tmp_path) if each not in ("north", "acme", "lab")] == []


def test_an_empty_home_exports_an_empty_file_that_verifies(year: Year, tmp_path: Path) -> None:
    exported = year.export(year.lab, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert (exported.receipts, exported.log_size, found, report.exit_code) == (0, 0, {}, 0)


@pytest.mark.parametrize("entries", [1, 2, BLOCK - 1, BLOCK, BLOCK + 1, 2 * BLOCK + 3])
def test_the_whole_log_is_proved_by_its_leaves_whatever_its_size(year: Year, tmp_path: Path, entries: int) -> None:
    receipt = year.receipt(year.record())
    for number in range(entries - 1):
        year.batch.append(
            year.evidence[year.north.prefix].writer.submit(lambda c, n=number: c.append(Kind.DECISION, b"%d" % n))
        )
    year.settle()
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert report.exit_code == 0
    assert report.checkpoint is not None
    assert report.checkpoint.size == entries
    assert found[receipt.digest.hex()].verdict == "proved"


def test_on_several_processors_the_same_is_found_as_on_one(year: Year, tmp_path: Path) -> None:
    many(year, 1500)
    year.export(year.north, tmp_path / "file")
    data = (tmp_path / "file").read_bytes()
    for altered in (
        data,
        data.replace(b'"kind":"receipt"', b'"kind":"recaipt"', 900).replace(b"recaipt", b"receipt", 899),
    ):
        one, found = verified(altered, jobs=1)
        two, again = verified(altered, jobs=2)
        assert list(found) == list(again)
        assert {each: vars(found[each]) for each in found} == {each: vars(again[each]) for each in again}
        assert vars(one) == vars(two)
    assert (len(found), one.exit_code, len(one.problems)) == (1499, 6, 2)
    assert "it was altered" in whats(one)[0]


def test_a_log_that_does_not_parse_is_told_and_nothing_is_written(year: Year, tmp_path: Path) -> None:
    year.evidence[year.north.prefix].change(lambda change: change.append(Kind.GRANT, b"not an envelope"))
    with pytest.raises(StorageFailed, match="entry 0 of the log does not parse"):
        year.export(year.north, tmp_path / "file")
    assert not (tmp_path / "file").exists()


# What was chosen.


def test_a_selection_has_what_the_chosen_rests_on_and_nothing_of_others(year: Year, tmp_path: Path) -> None:
    made = ordinary(year)
    exported = year.export(year.north, tmp_path / "file", selection=Selection(peer=year.lab.prefix))
    report, found = verified(tmp_path / "file")
    assert list(found) == [made["lab"].digest.hex()]
    assert found[made["lab"].digest.hex()].verdict == "proved"
    assert (report.exit_code, exported.missing) == (0, ())
    # the grant, the one that it narrows, and the request which that answers
    assert (report.kinds["grant"], report.kinds["request"], report.kinds["revocation"]) == (2, 1, 1)
    assert report.kinds["leaves"] == 0
    assert report.header["selection"] == {"peer": "86.lab"}


def test_a_selection_by_object_and_by_date(year: Year, tmp_path: Path) -> None:
    made = ordinary(year)
    year.export(year.north, tmp_path / "open", selection=Selection(object=year.id("OPEN")))
    assert set(verified(tmp_path / "open")[1]) == {made["opened"].digest.hex(), made["half"].digest.hex()}
    year.export(year.north, tmp_path / "late", selection=Selection(since=BEGAN + 2 * DAY))
    report, found = verified(tmp_path / "late")
    assert made["receipt"].digest.hex() not in found
    assert found[made["lab"].digest.hex()].verdict == "proved"
    assert report.exit_code == 0


# What is missing.


def test_without_the_registry_the_file_says_what_it_lacks(year: Year, tmp_path: Path) -> None:
    receipt = year.receipt(year.record())
    year.now += DAY
    year.acme.rotate(year.now)
    registry = year.registry
    registry.down = Unreachable("the registry does not answer")
    exported = year.export(year.north, tmp_path / "file", registry=registry)
    report, found = verified(tmp_path / "file")
    assert exported.missing == ("organization 86.acme: its whole history is not at hand: the registry does not answer",)
    assert report.missing == list(exported.missing)
    assert verified(tmp_path / "file", {"86.acme": str(year.acme.keys[0].public.key_id)})[0].confirmed == set()
    # The old key is only said to have been acme's, by the record of the new one.
    doubts = found[receipt.digest.hex()].not_proved
    assert any("its history is not whole here" in each for each in doubts)
    assert (report.exit_code, whats(report)) == (1, [])


def test_with_the_registry_the_whole_history_of_keys_is_there(year: Year, tmp_path: Path) -> None:
    receipt = year.receipt(year.record())
    year.now += DAY
    for party in (year.acme, year.north):
        party.rotate(year.now)
    year.now += DAY
    year.acme.rotate(year.now)
    later = year.receipt(year.record("other"))
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert (report.exit_code, report.missing) == (0, [])
    assert {found[each.digest.hex()].verdict for each in (receipt, later)} == {"proved"}
    assert report.organizations["86.acme"].version == 3


def test_the_registry_is_not_asked_for_what_is_wholly_known(year: Year, tmp_path: Path) -> None:
    year.receipt(year.record())
    registry = year.registry
    year.export(year.north, tmp_path / "file", registry=registry)
    assert registry.asked == []


def test_a_registry_that_gives_another_history_is_not_believed(year: Year, tmp_path: Path) -> None:
    year.receipt(year.record())
    year.acme.rotate(year.now)
    registry = year.registry
    registry._parties[year.acme.prefix] = replace(year.lab, prefix=year.acme.prefix)
    exported = year.export(year.north, tmp_path / "file", registry=registry)
    assert any("86.acme" in each for each in exported.missing)
    assert verified(tmp_path / "file")[0].organizations["86.acme"].keys[0].id == str(year.acme.key.public.key_id)


def test_without_an_organizations_record_its_signature_is_not_judged(year: Year, tmp_path: Path) -> None:
    receipt = year.receipt(year.record())
    registry = year.registry
    registry.down = Unreachable("the registry does not answer")
    year.export(year.north, tmp_path / "file", registry=registry, pins=False)
    report, found = verified(tmp_path / "file")
    assert (report.exit_code, whats(report)) == (1, [])
    assert (
        "whether 86.acme signed: its record, and so its key, is not in this file"
        in found[receipt.digest.hex()].not_proved
    )


def test_a_record_that_nobody_kept_is_missing(year: Year, tmp_path: Path) -> None:
    record = year.record()
    receipt = year.receipt(record, record=bytes(32))
    exported = year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert exported.missing == ("record 86.north/trial version 1: this home has not kept it",)
    assert (report.exit_code, found[receipt.digest.hex()].verdict) == (1, "partly")


def test_a_grant_that_is_not_in_the_log_is_missing(year: Year, tmp_path: Path) -> None:
    grant = year.grant(logged=False)
    receipt = year.receipt(year.record(), grant)
    exported = year.export(year.north, tmp_path / "file", selection=Selection(peer=year.acme.prefix))
    assert exported.missing == (f"grant {grant.digest.hex()[:16]}: it is not in this home's log",)
    report, found = verified(tmp_path / "file")
    assert (report.exit_code, found[receipt.digest.hex()].verdict) == (1, "partly")


# Erased.


def test_an_erased_payload_leaves_the_rest_proved(year: Year, tmp_path: Path) -> None:
    made = ordinary(year)
    evidence = year.evidence[year.north.prefix]
    position = next(
        leaf.position for leaf in evidence.leaves() if leaf.payload and made["receipt"].payload in leaf.payload
    )
    evidence.erase(position)
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert report.erased == [(position, "receipt")]
    assert made["receipt"].digest.hex() not in found
    assert found[made["lab"].digest.hex()].verdict == "proved"
    assert (report.exit_code, whats(report)) == (0, [])
    assert made["receipt"].digest.hex() in verified_of(year, tmp_path / "theirs")


def verified_of(year: Year, path: Path) -> set[str]:
    """The receipts in the other side's file."""
    year.export(year.acme, path)
    return set(verified(path)[1])


# Keys by telephone.


def test_a_key_that_was_told_is_confirmed_also_through_a_change_of_keys(year: Year, tmp_path: Path) -> None:
    receipt = year.receipt(year.record())
    first = str(year.acme.key.public.key_id)
    year.now += DAY
    year.acme.rotate(year.now)
    year.export(year.north, tmp_path / "file")
    for told in (first, str(year.acme.key.public.key_id)):
        report, found = verified(tmp_path / "file", {"86.acme": told})
        assert report.exit_code == 0
        assert "the key of 86.acme is the one that was confirmed with --key" in found[receipt.digest.hex()].proved
    report, _ = verified(tmp_path / "file", {"86.nobody": first})
    assert (report.exit_code, report.unconfirmed) == (1, ["--key 86.nobody: this file has no record of 86.nobody"])
    report, _ = verified(tmp_path / "file", {"86.acme": "00" * 16})
    assert report.exit_code == 6
    assert "86.acme has the key" in whats(report)[0]


# Grants and their limits.


@pytest.mark.parametrize(
    ("conditions", "changed", "says"),
    [
        ({"max_fetches": 2}, {}, "it is delivery 3 under the grant"),
        ({"max_bytes": 11 << 20}, {}, "bytes were delivered under the grant"),
        ({"purposes": (Purpose("health-research"),)}, {}, "is for certain purposes, and the receipt names none"),
        (
            {"purposes": (Purpose("health-research"),)},
            {"purposes": (Purpose("academic-research"),)},
            "does not cover the purpose academic-research",
        ),
        ({"valid_from": BEGAN + DAY}, {}, "s before the grant"),
        ({"valid_until": BEGAN - DAY}, {}, "s after the end of the grant"),
    ],
)
def test_a_receipt_beyond_its_grant_is_a_contradiction(
    year: Year, tmp_path: Path, conditions: dict[str, object], changed: dict[str, object], says: str
) -> None:
    record, grant = year.record(), year.grant(**conditions)
    for _ in range(3):
        year.receipt(record, grant, **changed)
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert report.exit_code == 6
    assert any(says in each for each in whats(report))
    assert any(each.verdict == "wrong" for each in found.values())


def test_within_its_limits_a_grant_is_kept(year: Year, tmp_path: Path) -> None:
    record = year.record()
    grant = year.grant(
        max_fetches=3, max_bytes=15 << 20, valid_from=BEGAN, valid_until=BEGAN + 10,
        purposes=(Purpose("general-research-use"),),
    )  # fmt: skip
    for _ in range(3):
        year.receipt(record, grant, purposes=(Purpose("disease-specific-research"),))
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert (report.exit_code, {each.verdict for each in found.values()}) == (0, {"proved"})


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_revocation_counts_from_its_date(year: Year, tmp_path: Path, when: str) -> None:
    record, grant = year.record(), year.grant()
    if when == "before":
        year.revocation(grant)
        year.now += DAY
    receipt = year.receipt(record, grant)
    if when == "after":
        year.now += DAY
        year.revocation(grant)
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert report.exit_code == (6 if when == "before" else 0)
    told = found[receipt.digest.hex()]
    assert any("revoked by 86.north" in each for each in (told.wrong if when == "before" else told.proved))


def test_a_revocation_by_somebody_else_counts_for_nothing(year: Year, tmp_path: Path) -> None:
    grant = year.grant()
    year.revocation(grant, year.lab)
    year.now += DAY
    receipt = year.receipt(year.record(), grant)
    year.export(year.north, tmp_path / "file")
    assert verified(tmp_path / "file")[1][receipt.digest.hex()].verdict == "proved"


@pytest.mark.parametrize(
    ("parent", "narrow", "says"),
    [
        ({"pass_on": False}, {}, "which it may not pass on"),
        ({"pass_on": True, "max_fetches": 2}, {"max_fetches": 3}, "allows more than it, or owes less"),
        ({"pass_on": True}, {"suffixes": ("trial", "other")}, "allows more than it, or owes less"),
        ({"pass_on": True, "duties": (Duty(DutyKind.DELETE_AFTER, 60),)}, {}, "allows more than it, or owes less"),
    ],
)
def test_a_grant_that_widens_proves_nothing(
    year: Year, tmp_path: Path, parent: dict[str, object], narrow: dict[str, object], says: str
) -> None:
    wide = year.grant(**parent)
    narrowed = year.grant(issuer=year.acme, to=year.lab, parent=wide, **narrow)
    year.receipt(year.record(), narrowed, consumer=year.lab)
    year.export(year.north, tmp_path / "file")
    report, _ = verified(tmp_path / "file")
    assert report.exit_code == 6
    assert any(says in each for each in whats(report))


def test_a_grant_of_somebody_elses_object_proves_nothing(year: Year, tmp_path: Path) -> None:
    receipt = year.receipt(year.record(), year.grant(issuer=year.lab))
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert report.exit_code == 6
    assert any("who does not own the object" in each for each in found[receipt.digest.hex()].wrong)


def test_one_delivery_has_one_receipt(year: Year, tmp_path: Path) -> None:
    record = year.record()
    for size in (1, 2):
        year.receipt(record, delivery=bytes(16), unique_bytes=size)
    year.export(year.north, tmp_path / "file")
    report, _ = verified(tmp_path / "file")
    assert any("for the same delivery" in each for each in whats(report))


def test_what_one_side_alone_says_is_not_an_error(year: Year, tmp_path: Path) -> None:
    record, grant = year.record(), year.grant(valid_until=BEGAN - DAY, max_fetches=1)
    halves = [year.receipt(record, grant, half=year.acme, delivery=bytes([n] * 16)) for n in range(3)]
    year.export(year.acme, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    assert {found[each.digest.hex()].verdict for each in halves} == {"half"}
    assert report.exit_code == 0
    assert any("after the end of the grant" in each for each in found[halves[0].digest.hex()].not_proved)


def test_a_half_that_the_other_side_signed_later_is_not_shown_as_one(year: Year, tmp_path: Path) -> None:
    record, same, other = year.record(), bytes([1] * 16), bytes([2] * 16)
    for delivery, size in ((same, 5), (other, 4)):
        year.receipt(record, half=year.north, delivery=delivery, unique_bytes=size)
        year.receipt(record, delivery=delivery, unique_bytes=5)
    exported = year.export(year.north, tmp_path / "file")
    report, _ = verified(tmp_path / "file")
    # The first half says what the receipt says; the second, that more went out, or less, than the other signed for.
    assert (exported.receipts, exported.half_receipts, report.kinds["half-receipt"]) == (2, 1, 1)
    assert report.verdicts == {"proved": 2, "settled": 1}
    assert (report.exit_code, whats(report)) == (0, [])


# Duties.


def test_a_deletion_is_shown_and_one_that_is_due_is_missed(year: Year, tmp_path: Path) -> None:
    record = year.record()
    duty = (Duty(DutyKind.DELETE_AFTER, DAY),)
    kept, late, missing, ahead = (year.grant(duties=duty) for _ in range(4))
    receipts = [year.receipt(record, each) for each in (kept, late, missing)]
    year.now += DAY
    year.deletion(record, kept)
    year.now += DAY
    year.deletion(record, late)
    receipts.append(year.receipt(record, ahead))
    year.export(year.north, tmp_path / "file")
    report, found = verified(tmp_path / "file")
    told = [found[each.digest.hex()] for each in receipts]
    assert any("no later than it was due" in each for each in told[0].proved)
    assert any("s later than it was due" in each for each in told[1].proved)
    assert any("no deletion is in this file" in each for each in told[2].not_proved)
    assert any("that time had not come" in each for each in told[3].assumed)
    assert [each.verdict for each in told] == ["proved", "proved", "partly", "proved"]
    assert report.exit_code == 1


# What peers' logs said.


def test_checkpoints_and_forks_of_peers_come_along(year: Year, tmp_path: Path) -> None:
    year.receipt(year.record(mode=AccessMode.OPEN))
    theirs = year.evidence[year.acme.prefix]
    first = theirs.newest_checkpoint()
    theirs.change(lambda change: change.append(Kind.DECISION, b"x"))
    second = theirs.newest_checkpoint()
    assert first is not None
    assert second is not None
    held = peers.Held(2, second, year.now, 0, 0)
    fork = peers.Fork("86.acme", first, second, year.now)

    def keep(change) -> None:  # type: ignore[no-untyped-def]
        peers.hold(change.connection, "86.acme", held)
        peers.put_fork(change.connection, fork, 4)

    year.evidence[year.north.prefix].change(keep)
    year.export(year.north, tmp_path / "file")
    report, _ = verified(tmp_path / "file")
    assert (report.exit_code, whats(report)) == (0, [])
    assert (report.kinds["peer-checkpoint"], report.kinds["fork"]) == (1, 1)
    assert "the exporter says that the log of 86.acme of 2 entries does not continue that of 1" in report.notes[0]
    lines = taken_apart((tmp_path / "file").read_bytes())
    assert [each["note"] for each in lines if each["kind"] == "peer-checkpoint"] == [second]
