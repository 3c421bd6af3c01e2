"""A refresh reads only what was touched, and promises what a fresh add would promise."""

import os
import random
import shutil
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hanse import limits, trust, wire
from hanse.errors import InvalidInput, NotFound
from hanse.model.identifier import Identifier
from node.progress import Progress
from node.sources.walking import Found
from tests.wrapping import Shelf, later, next_tick


def read_names(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are opened to be hashed, from now on."""
    opened: list[str] = []
    original = Found.open

    def spy(found: Found) -> int:
        opened.append(found.name.text)
        return original(found)

    monkeypatch.setattr(Found, "open", spy)
    return opened


def test_an_untouched_object_is_not_read_and_has_no_new_version(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        shelf.write("trial/a", b"1")
        shelf.write("trial/b/c", b"2" * 2_000_000)
        shelf.catalog.add(tmp_path / "trial", suffix="x1")
        opened = read_names(monkeypatch)

        (refreshed,) = shelf.catalog.refresh("x1")

        assert (refreshed.changed, refreshed.version, refreshed.rehashed, opened) == (False, 1, 0, [])
        assert len(shelf.catalog.outbox.all()) == 1


def test_only_what_changed_is_read_and_the_new_version_continues_the_old(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        for name in ("a", "b", "c", "long"):
            shelf.write(f"trial/{name}", name.encode() * 1000 * (1 if name != "long" else 1000))
        id = shelf.catalog.add(tmp_path / "trial", suffix="x1").id
        before = shelf.stored(id)
        next_tick(tmp_path)
        shelf.write("trial/b", b"other")
        shelf.write("trial/bb", b"new")
        (tmp_path / "trial/c").unlink()
        opened = read_names(monkeypatch)

        (refreshed,) = shelf.catalog.refresh()

        assert (refreshed.changed, refreshed.version, refreshed.rehashed) == (True, 2, 2)
        assert opened == ["b", "bb"]
        assert shelf.names(id) == ["a", "b", "bb", "long"]
        after = shelf.stored(id)
        seen = trust.Seen(1, before.record.digest)
        trust.record(after.record, shelf.owner.record, now=int(time.time()) + 20, seen=seen)
        stored = shelf.stored(id, 2)
        assert len(shelf.storage.leaves(stored, 3)) == 32 * shelf.manifest(id)[3].chunk_count


def test_an_older_version_stays_as_history_but_cannot_be_served(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        path = shelf.write("a", b"1")
        id = shelf.catalog.add(path, suffix="x1").id
        first = shelf.stored(id, 1)
        shelf.write("a", b"22")
        shelf.catalog.refresh()

        assert shelf.elements(first) == []
        assert [element.length for element in shelf.manifest(id, 1)] == [1]
        assert [element.length for element in shelf.manifest(id, 2)] == [2]
        assert [wire.decode_record(row.envelope.payload).version for row in shelf.catalog.outbox.all()] == [1, 2]


def test_a_change_right_after_hashing_is_seen_even_if_the_fingerprint_hides_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Given a file system with a clock so coarse that two writes have one time, when the second comes after hashing,
    # then the refresh reads the file again because its fingerprint was too young to be trusted.
    with Shelf.open(tmp_path) as shelf:
        path = shelf.write("a", b"1")
        shelf.catalog.add(path, suffix="x1")
        path.write_bytes(b"2")
        with shelf.storage.database.writing() as connection:
            status = path.stat()
            connection.execute(
                "UPDATE element SET modified_ns = ?, changed_ns = ?", (status.st_mtime_ns, status.st_ctime_ns)
            )

        assert shelf.catalog.refresh("x1")[0].changed


def test_a_file_that_was_young_is_trusted_after_the_next_refresh(tmp_path: Path) -> None:
    now = time.time()
    with Shelf.open(tmp_path, clock=lambda: now) as shelf:
        shelf.catalog.add(shelf.write("a", b"1"), suffix="x1")
        assert shelf.catalog.refresh()[0].rehashed == 1
        now += 10
        assert [(each.rehashed, each.changed) for each in shelf.catalog.refresh()] == [(1, False)]
        assert shelf.catalog.refresh()[0].rehashed == 0
        assert len(shelf.catalog.outbox.all()) == 1


def test_a_copy_with_the_same_times_is_the_same_version_and_can_be_served_after_a_refresh(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        path = shelf.write("trial/a", b"1")
        shelf.catalog.add(path.parent, suffix="x1")
        shutil.copytree(path.parent, tmp_path / "copy", copy_function=shutil.copy2)
        shutil.rmtree(path.parent)
        (tmp_path / "copy").rename(path.parent)
        assert list(shelf.catalog.check())

        (refreshed,) = shelf.catalog.refresh()

        assert (refreshed.changed, refreshed.rehashed) == (False, 1)
        assert list(shelf.catalog.check()) == []


def test_times_and_the_executable_bit_are_part_of_a_version(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        path = shelf.write("a", b"1")
        id = shelf.catalog.add(path, suffix="x1").id
        next_tick(tmp_path)
        path.chmod(0o755)
        assert shelf.catalog.refresh()[0].version == 2
        assert shelf.manifest(id)[0].executable
        os.utime(path, ns=(10**18, 10**18))
        assert shelf.catalog.refresh()[0].version == 3
        assert shelf.manifest(id)[0].modified_ns == 10**18


def test_one_object_that_fails_does_not_hold_up_the_others(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        for name in ("a", "b", "c"):
            shelf.catalog.add(shelf.write(f"{name}/file", b"1"), suffix=name)
            shelf.write(f"{name}/file", b"22")
        shutil.rmtree(tmp_path / "b")

        with pytest.raises(NotFound, match="b/file does not exist"):
            shelf.catalog.refresh()

        assert [entry.version for entry in shelf.catalog.list()] == [2, 1, 2]


def test_a_source_that_became_something_else_is_refused(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        path = shelf.write("a", b"1")
        shelf.catalog.add(path, suffix="x1")
        path.unlink()
        path.mkdir()
        with pytest.raises(InvalidInput, match="is no longer a file"):
            shelf.catalog.refresh()


def test_a_damaged_page_is_made_anew(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        id = shelf.catalog.add(shelf.write("a", b"1"), suffix="x1").id
        with shelf.storage.database.writing() as connection:
            connection.execute("UPDATE page SET data = ?", (b"\xff",))
        assert [drift.what for drift in shelf.catalog.check()] == ["a page of the manifest is damaged"]

        assert not shelf.catalog.refresh()[0].changed

        assert shelf.names(id) == ["a"]
        assert list(shelf.catalog.check(deep=True)) == []


def test_progress_counts_what_is_reused_too(tmp_path: Path) -> None:
    told: list[Progress] = []
    with Shelf.open(tmp_path, clock=later) as shelf:
        shelf.catalog.add(shelf.write("a", b"1" * 100), suffix="x1")
        shelf.catalog.add(shelf.write("b", b"1" * 100), suffix="x2")
        shelf.catalog.refresh(progress=told.append)
    assert told[-1] == Progress(200, 200, 2, 2)


NAMES = ["a.txt", "a-b", "a/b", "a/c", "a0", "b", "d/e/f", "d/e/g", "z", "数"]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(seed=st.integers(0, 2**32), rounds=st.integers(1, 3))
def test_after_any_edits_a_refresh_promises_what_a_fresh_add_would(
    tmp_path_factory: pytest.TempPathFactory, seed: int, rounds: int
) -> None:
    chance = random.Random(seed)
    folder = tmp_path_factory.mktemp("edits")
    with Shelf.open(folder, clock=later) as shelf:
        (folder / "data").mkdir()
        id: Identifier | None = None
        for number in range(rounds + 1):
            next_tick(folder)
            for name in chance.sample(NAMES, chance.randint(0, 5)):
                edit(shelf, folder / "data", name, chance)
            if id is None:
                id = shelf.catalog.add(folder / "data", suffix="x1").id
            else:
                before = shelf.manifest(id)
                (refreshed,) = shelf.catalog.refresh("x1")
                assert refreshed.changed == (shelf.manifest(id) != before)
            fresh = shelf.catalog.add(folder / "data", suffix=f"fresh-{number}").id
            stored, wanted = shelf.stored(id), shelf.stored(fresh)
            assert shelf.pages(stored) == shelf.pages(wanted)
            assert shelf.elements(stored) == shelf.elements(wanted)
            for position in range(stored.element_count):
                assert shelf.storage.leaves(stored, position) == shelf.storage.leaves(wanted, position)


def edit(shelf: Shelf, folder: Path, name: str, chance: random.Random) -> None:
    path = folder / name
    match chance.choice(["write", "write long", "remove", "touch", "mode", "rename"]):
        case "remove" if path.is_file():
            path.unlink()
        case "touch" if path.is_file():
            path.touch()
        case "mode" if path.is_file():
            path.chmod(chance.choice([0o644, 0o755]))
        case "rename" if path.is_file():
            path.rename(path.with_name(path.name + "-renamed"))
        case "write long":
            shelf.write(f"data/{name}", bytes([chance.randrange(256)]) * (limits.CHUNK_BYTES + chance.randrange(3)))
        case _:
            shelf.write(f"data/{name}", bytes([chance.randrange(3)]) * chance.randrange(3))
