"""Adding, listing and withdrawing objects, and what of them is to be published."""

import os
import re
import stat
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from hanse import limits, trust, wire
from hanse.errors import AlreadyExists, Conflict, InvalidInput, LimitExceeded, NotFound, Withdrawn
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.record import AccessMode, Metadata, ObjectRecord, Status
from hanse.model.terms import Terms
from hanse.signing import SigningKey, sign
from hanse.storage.database import IDLE
from node.catalog import CATALOG
from node.minting import mint
from node.storage.outbox import ORGANIZATION
from tests.wrapping import NORTH, Owner, Shelf

CANARY = "canary-7f3a"


def record_of(envelope: Envelope) -> ObjectRecord:
    return wire.decode_record(envelope.payload)


def the_record(shelf: Shelf, id: Identifier) -> ObjectRecord:
    wrapped = shelf.stored(id)
    return record_of(wrapped.record)


def test_a_folder_becomes_an_object_whose_signatures_hold(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.write("trial/a.csv", b"1,2\n")
        shelf.write("trial/inner/b.bin", b"x" * (limits.CHUNK_BYTES + 1))

        added = shelf.catalog.add(tmp_path / "trial", metadata=Metadata(title="Trial"), terms=Terms.opened())

        wrapped = shelf.stored(added.id)
        now = int(time.time())
        verified = trust.record(wrapped.record, shelf.owner.record, now=now, expected=added.id)
        stored = shelf.stored(added.id, 1)
        assert stored.manifest is not None
        manifest = trust.manifest(stored.manifest, stored.salt, verified.record, shelf.owner.record)
        assert (manifest.element_count, manifest.total_bytes, manifest.single_file) == (
            2,
            limits.CHUNK_BYTES + 5,
            False,
        )
        assert verified.record.metadata.title == "Trial"
        assert verified.record.summary.element_count == 2
        assert verified.record.summary.media_types == ("application/octet-stream", "text/csv")
        assert verified.record.operations == ("describe", "fetch")
        assert verified.record.time_to_live == limits.RECORD_TIME_TO_LIVE


def test_the_service_finds_elements_and_their_hashes(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.write("trial/a.csv", b"1,2\n")
        shelf.write("trial/b.bin", b"x" * (limits.CHUNK_BYTES + 1))
        added = shelf.catalog.add(tmp_path / "trial")
        stored = shelf.stored(added.id, 1)

        elements = shelf.elements(stored)

        assert [(each.name, each.length) for each in elements] == [("a.csv", 4), ("b.bin", limits.CHUNK_BYTES + 1)]
        assert shelf.storage.leaves(stored, 0) == b""
        assert len(shelf.storage.leaves(stored, 1)) == 64
        assert [each.position for each in shelf.storage.elements(stored, 1, 1)] == [1]
        assert list(shelf.storage.elements(stored, 2, 1)) == []


def test_a_file_is_a_single_file_and_an_empty_folder_has_no_elements(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        single = shelf.catalog.add(shelf.write("表.csv", b""))
        (tmp_path / "empty/inner").mkdir(parents=True)
        empty = shelf.catalog.add(tmp_path / "empty")

        stored = shelf.stored(single.id, 1)
        assert stored.manifest is not None
        assert wire.decode_manifest(stored.manifest.payload).single_file
        assert shelf.names(single.id) == ["表.csv"]
        assert (empty.element_count, empty.total_bytes, shelf.names(empty.id)) == (0, 0, [])
        assert any("empty folder" in note for note in empty.notes)
        assert any("no files" in note for note in empty.notes)


def test_without_terms_only_the_owner_gets_in_and_is_told_so(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x")
        assert any("nobody but you" in note for note in shelf.catalog.add(path).notes)
        allowed = shelf.catalog.add(path, terms=Terms.allowing(["86.south"]))
        assert allowed.notes == ()
        assert the_record(shelf, allowed.id).access.mode is AccessMode.ON_REQUEST
        assert "south" not in str(the_record(shelf, allowed.id))
        opened = shelf.catalog.add(path, terms=Terms.opened())
        assert the_record(shelf, opened.id).access.mode is AccessMode.OPEN


def test_terms_and_metadata_are_kept(tmp_path: Path) -> None:
    terms = Terms.allowing(["86.south", "86.east#" + "a1" * 16])
    metadata = Metadata(title="T", subjects=("a", "b"), attributes_json='{"n": [1, "数"]}')
    with Shelf.open(tmp_path) as shelf:
        id = shelf.catalog.add(shelf.write("a"), suffix="x1", metadata=metadata, type="Trial", terms=terms).id
    with Shelf.open(tmp_path, shelf.owner) as shelf:
        (entry,) = shelf.catalog.list()
        wrapped = shelf.storage.object(id)
        assert wrapped is not None
        assert (entry.terms, entry.type, entry.title, wrapped.metadata) == (terms, "Trial", "T", metadata)


# Identifiers.


def test_a_minted_suffix_has_26_letters_and_sorts_by_time() -> None:
    early, late = mint(1_000_000_000_000), mint(2_000_000_000_000)
    assert re.fullmatch(r"[0-9a-hjkmnp-tv-z]{26}", early)
    assert early < late
    assert len({mint() for _ in range(1000)}) == 1000
    number = 0
    for letter in early:
        number = number << 5 | "0123456789abcdefghjkmnpqrstvwxyz".index(letter)
    assert (number >> 80, number >> 76 & 15, number >> 62 & 3) == (1_000_000_000_000, 7, 2)


def test_an_identifier_is_never_used_twice_whatever_its_case(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a")
        shelf.catalog.add(path, suffix="Trial-7")
        for again in ("Trial-7", "trial-7"):
            with pytest.raises(AlreadyExists, match="never used twice"):
                shelf.catalog.add(path, suffix=again)
        shelf.catalog.withdraw("TRIAL-7")
        with pytest.raises(AlreadyExists):
            shelf.catalog.add(path, suffix="trial-7")


@pytest.mark.parametrize("suffix", [" a", "a\n", "e\u0301", "x" * 600])
def test_a_suffix_that_is_none_is_refused(tmp_path: Path, suffix: str) -> None:
    with Shelf.open(tmp_path) as shelf, pytest.raises(InvalidInput):
        shelf.catalog.add(shelf.write("a"), suffix=suffix)


def test_two_commands_that_add_the_same_suffix_at_once_make_one_object(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x" * 3_000_000)
        start = threading.Barrier(4)

        def add(_: int) -> str:
            start.wait()
            try:
                return str(shelf.catalog.add(path, suffix="x1").version)
            except AlreadyExists:
                return "exists"

        with ThreadPoolExecutor(4) as pool:
            assert sorted(pool.map(add, range(4))) == ["1", "exists", "exists", "exists"]
        assert len(shelf.catalog.outbox.pending()) == 1


# Privacy.


def test_no_name_path_or_content_is_in_what_is_published(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.write(f"{CANARY}/{CANARY}-folder/{CANARY}.csv", CANARY.encode())
        shelf.catalog.add(tmp_path / CANARY)
        shelf.catalog.add(tmp_path / CANARY / f"{CANARY}-folder" / f"{CANARY}.csv", terms=Terms.opened())
        shelf.write(f"{CANARY}/more", b"")
        shelf.catalog.refresh()
        shelf.catalog.withdraw(shelf.catalog.list()[0].id.suffix)

        published = b"".join(wire.encode_envelope(row.envelope) for row in shelf.catalog.outbox.all())
        digests = [each for entry in shelf.catalog.list() if not entry.withdrawn for each in shelf.manifest(entry.id)]

        assert CANARY.encode() not in published
        assert str(tmp_path).encode() not in published
        assert digests
        assert all(each.sha256 not in published and each.merkle_root not in published for each in digests)


def test_names_are_published_when_the_owner_says_so(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.write("trial/a.csv", b"1,2")
        id = shelf.catalog.add(tmp_path / "trial", list_elements=True).id
        (listed,) = the_record(shelf, id).summary.elements
        assert (listed.name, listed.media_type, listed.length) == ("a.csv", "text/csv", 3)


def test_parts_of_the_summary_are_hidden_when_the_owner_says_so(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        hidden = ["element-count", "total-bytes", "media-types"]
        summary = the_record(shelf, shelf.catalog.add(shelf.write("a.csv", b"x"), hidden=hidden).id).summary
        assert (summary.element_count, summary.total_bytes, summary.media_types) == (None, None, ())
        with pytest.raises(InvalidInput, match="size cannot be hidden: only element-count"):
            shelf.catalog.add(tmp_path / "a.csv", hidden=["size"])


def test_the_same_bytes_give_another_commitment_each_time(tmp_path: Path) -> None:
    # Otherwise whoever guesses the bytes could test the guess against the public record.
    with Shelf.open(tmp_path, clock=lambda: 1_800_000_000) as shelf:
        path = shelf.write("a", b"x")
        one, two = (the_record(shelf, shelf.catalog.add(path).id) for _ in range(2))
        assert one.commitment != two.commitment


def test_unlisted_objects_are_never_in_the_outbox(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x")
        id = shelf.catalog.add(path, suffix="hidden", unlisted=True).id
        shelf.write("a", b"xy")
        assert shelf.catalog.refresh("hidden")[0].version == 2
        shelf.catalog.withdraw("hidden")
        assert shelf.catalog.outbox.all() == []
        assert shelf.catalog.list()[0].published is False
        wrapped = shelf.storage.object(id)
        assert wrapped is not None
        assert wrapped.unlisted


def test_the_home_with_its_keys_is_never_wrapped(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        key = shelf.write("home/keys/identity.pem", b"secret")
        for path in (tmp_path, tmp_path / "home", key, key.parent):
            with pytest.raises(InvalidInput, match="with its keys"):
                shelf.catalog.add(path)
        assert shelf.catalog.list() == []


def test_the_catalog_is_readable_by_its_owner_only(tmp_path: Path) -> None:
    with Shelf.open(tmp_path):
        mode = stat.S_IMODE((tmp_path / "home" / CATALOG).stat().st_mode)
    assert mode == 0o600


# Limits.


def test_a_record_that_would_be_too_large_is_refused_with_the_way_out(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        for number in range(1000):
            shelf.write(f"many/{number:04}{'x' * 100}")
        with pytest.raises(LimitExceeded, match="leave out --list-elements"):
            shelf.catalog.add(tmp_path / "many", list_elements=True)
        with pytest.raises(LimitExceeded, match="64 KiB"):
            shelf.catalog.add(tmp_path / "many", metadata=Metadata(description="d" * 70_000))
        assert shelf.catalog.list() == []
        assert shelf.catalog.add(tmp_path / "many").element_count == 1000


def test_pages_keep_their_limits_with_many_and_with_long_names(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        for number in range(limits.MANIFEST_PAGE_ELEMENTS + 10):
            shelf.write(f"many/{number}")
        for number in range(400):
            shelf.write("long/" + "/".join(["d" * 250] * 13) + f"/{number:04}{'n' * 200}")
        for name, pages in (("many", 2), ("long", 2)):
            id = shelf.catalog.add(tmp_path / name).id
            stored = shelf.stored(id, 1)
            sizes = [len(page) for page in shelf.pages(stored)]
            assert len(sizes) == pages == stored.page_count
            assert max(sizes) <= limits.MANIFEST_PAGE_BYTES
            assert len(shelf.names(id)) == stored.element_count


# Withdrawing.


def test_a_withdrawn_object_leaves_a_signed_tombstone_that_continues_its_history(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x")
        id = shelf.catalog.add(path, suffix="x1", metadata=Metadata(title="T", description="D")).id
        first = shelf.stored(id)
        stored = shelf.stored(id, 1)
        path.unlink()

        assert shelf.catalog.withdraw("x1", "consent was revoked") == id

        wrapped = shelf.storage.object(id)
        assert wrapped is not None
        assert (wrapped.withdrawn, wrapped.current_version) == (True, 2)
        seen = trust.Seen(1, first.record.digest)
        tombstone = trust.record(shelf.stored(id).record, shelf.owner.record, now=int(time.time()), seen=seen).record
        assert (tombstone.status, tombstone.reason) == (Status.WITHDRAWN, "consent was revoked")
        assert tombstone.summary.element_count is None
        assert shelf.elements(stored) == []
        for again in (lambda: shelf.catalog.withdraw("x1"), lambda: shelf.catalog.refresh("x1")):
            with pytest.raises(Withdrawn, match="for good"):
                again()
        assert shelf.catalog.refresh() == []


def test_what_is_not_there_cannot_be_withdrawn_or_refreshed(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        for attempt in (lambda: shelf.catalog.withdraw("x9"), lambda: shelf.catalog.refresh("x9")):
            with pytest.raises(NotFound, match="hanse list"):
                attempt()


# The outbox.


def test_the_outbox_keeps_the_order_of_each_object(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x")
        for suffix in ("x1", "x2"):
            shelf.catalog.add(path, suffix=suffix)
        shelf.catalog.withdraw("x1")

        def offered() -> list[tuple[str, int]]:
            return [(row.key, record_of(row.envelope).version) for row in shelf.catalog.outbox.pending()]

        assert offered() == [("86.north/x1", 1), ("86.north/x2", 1)]
        first, second = shelf.catalog.outbox.pending()
        shelf.catalog.outbox.acknowledged(first.seq)
        shelf.catalog.outbox.acknowledged(first.seq)
        assert offered() == [("86.north/x2", 1), ("86.north/x1", 2)]
        assert shelf.catalog.outbox.pending(1) == [second]


def test_a_failed_row_waits_with_its_reason_and_a_refused_one_until_somebody_looks(tmp_path: Path) -> None:
    now = 1_800_000_000.0
    with Shelf.open(tmp_path, clock=lambda: now) as shelf:
        shelf.catalog.outbox._clock = lambda: now
        shelf.catalog.add(shelf.write("a"), suffix="x1")
        (row,) = shelf.catalog.outbox.pending()

        shelf.catalog.outbox.failed(row.seq, "registry unreachable", int(now) + 60)
        assert shelf.catalog.outbox.pending() == []
        now += 60
        (row,) = shelf.catalog.outbox.pending()
        assert (row.attempts, row.last_error) == (1, "registry unreachable")

        shelf.catalog.outbox.refused(row.seq, "not your prefix")
        shelf.catalog.withdraw("x1")
        assert shelf.catalog.outbox.pending() == []
        assert [(each.refused, each.last_error) for each in shelf.catalog.outbox.all()] == [
            (True, "not your prefix"),
            (False, ""),
        ]
        shelf.catalog.outbox.retry()
        assert [each.seq for each in shelf.catalog.outbox.pending()] == [row.seq]


def test_the_organizations_own_record_goes_first_and_alone(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a"), suffix="x1")
        key = shelf.owner.signing_key
        organization = sign(PayloadType.ORGANIZATION, wire.encode_organization(shelf.owner.record), key)
        shelf.catalog.put_organization(organization)
        shelf.catalog.put_organization(organization)

        (row,) = shelf.catalog.outbox.pending()
        assert (row.key, row.envelope) == (ORGANIZATION, organization)
        assert shelf.storage.organization() == organization
        shelf.catalog.outbox.acknowledged(row.seq)
        assert [each.key for each in shelf.catalog.outbox.pending()] == ["86.north/x1"]


def test_two_organization_records_of_one_version_conflict(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        for owner, fine in ((shelf.owner, True), (Owner(), False)):
            envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(owner.record), owner.signing_key)
            if fine:
                shelf.catalog.put_organization(envelope)
            else:
                with pytest.raises(Conflict, match="version 1 already"):
                    shelf.catalog.put_organization(envelope)
        assert len(shelf.catalog.outbox.all()) == 1


def test_after_a_rotation_what_waits_is_signed_anew_with_the_same_digest(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        id = shelf.catalog.add(shelf.write("a"), suffix="x1").id
        (before,) = shelf.catalog.outbox.pending()
        shelf.catalog.outbox.refused(before.seq, "unknown key")
        key = SigningKey.generate()

        shelf.catalog.outbox.resign(lambda old: sign(PayloadType(old.payload_type), old.payload, key))

        (after,) = shelf.catalog.outbox.pending()
        assert after.envelope.digest == before.envelope.digest
        assert [each.keyid for each in after.envelope.signatures] == [str(key.public.key_id)]
        wrapped = shelf.stored(id)
        assert wrapped.record == after.envelope


def test_list_says_what_the_registry_has(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"abc"), suffix="x1", metadata=Metadata(title="T"))
        (entry,) = shelf.catalog.list()
        assert (str(entry.id), entry.version, entry.title, entry.published) == ("86.north/x1", 1, "T", False)
        assert (entry.element_count, entry.total_bytes, entry.source) == (1, 3, (tmp_path / "a").resolve())
        shelf.catalog.outbox.acknowledged(shelf.catalog.outbox.pending()[0].seq)
        assert shelf.catalog.list()[0].published


# Many at once.


def test_many_threads_read_while_others_write(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"x")
        ids = [shelf.catalog.add(path, suffix=f"x{number}").id for number in range(5)]
        stop = threading.Event()

        def read() -> int:
            done = 0
            while True:  # at least once, however late it comes
                for id in ids:
                    stored = shelf.stored(id)
                    assert record_of(stored.record).version == stored.version
                    done += 1
                if stop.is_set():
                    return done

        with ThreadPoolExecutor(20) as pool:
            readers = [pool.submit(read) for _ in range(18)]
            try:
                for number in range(4):
                    shelf.catalog.add(path, suffix=f"y{number}")
                for id in ids:
                    shelf.catalog.withdraw(id.suffix)
            finally:
                stop.set()
            assert all(reader.result() > 0 for reader in readers)
        assert len(shelf.storage.database._idle) <= IDLE
    assert len(os.listdir(tmp_path / "home")) == 1, "the write-ahead log is folded in when the last one closes"


def test_prefix_is_the_owners(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        assert shelf.catalog.add(shelf.write("a")).id.prefix == NORTH
