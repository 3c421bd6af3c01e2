"""Every difference between what was promised and what is there has a name and a remedy."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from hanse import limits, wire
from hanse.errors import BadSignature, Unreachable
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.resolution import Resolution, ResolutionState
from hanse.signing import sign
from node.checking import Drift, Shown
from tests.wrapping import Owner, Shelf, later, next_tick


def wrap(shelf: Shelf) -> Identifier:
    shelf.write("trial/a", b"1")
    shelf.write("trial/b/c", b"2" * (limits.CHUNK_BYTES + 1))
    id = shelf.catalog.add(shelf / "trial", suffix="x1").id
    key = shelf.owner.signing_key
    shelf.catalog.put_organization(sign(PayloadType.ORGANIZATION, wire.encode_organization(shelf.owner.record), key))
    next_tick(shelf.folder)
    return id


def told(drifts: list[Drift]) -> list[tuple[str, str]]:
    return [(drift.element, drift.what) for drift in drifts]


def test_nothing_is_named_when_all_is_as_promised(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        id = wrap(shelf)
        own = shelf.stored(id)
        assert list(shelf.catalog.check(newest=lambda _: own.record)) == []
        assert list(shelf.catalog.check(deep=True, newest=lambda _: own.record)) == []


@pytest.mark.parametrize("deep", [False, True])
def test_new_changed_and_missing_elements_are_named(tmp_path: Path, deep: bool) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        shelf.write("trial/new", b"")
        shelf.write("trial/a", b"other")
        (tmp_path / "trial/b/c").unlink()

        drifts = list(shelf.catalog.check(deep=deep))

        changed = "has changed" if deep else "has changed, or was touched"
        assert told(drifts) == [("a", changed), ("b/c", "is missing"), ("new", "is new")]
        assert all("hanse refresh" in drift.remedy for drift in drifts)
        assert str(drifts[0]).startswith("86.north/x1 version 1, a: has changed")


def test_deep_tells_a_touch_from_a_change(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        (tmp_path / "trial/a").touch()
        assert told(list(shelf.catalog.check(deep=True))) == [("a", "was touched, its bytes are the same")]


def test_deep_finds_bytes_that_changed_under_the_same_fingerprint(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        path = shelf.write("trial/a", b"2")
        status = path.stat()
        with shelf.storage.database.writing() as connection:
            connection.execute(
                "UPDATE element SET modified_ns = ?, changed_ns = ? WHERE name = 'a'",
                (status.st_mtime_ns, status.st_ctime_ns),
            )
        assert list(shelf.catalog.check()) == []
        (drift,) = shelf.catalog.check(deep=True)
        assert "the disk may be failing" in drift.what


def remove(path: Path) -> None:
    shutil.rmtree(path)


def become_a_file(path: Path) -> None:
    shutil.rmtree(path)
    path.write_bytes(b"")


def gain_a_pipe(path: Path) -> None:
    os.mkfifo(path / "pipe")


@pytest.mark.parametrize(
    ("change", "what"),
    [
        (remove, "does not exist"),
        (become_a_file, "is no longer a folder"),
        (gain_a_pipe, "is a socket, a pipe or a device"),
    ],
)
def test_a_source_that_is_gone_or_unusable_is_named(tmp_path: Path, change: Callable[[Path], None], what: str) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        change(tmp_path / "trial")
        (drift,) = shelf.catalog.check()
        assert what in drift.what


@pytest.mark.parametrize(
    ("damage", "what"),
    [
        ("UPDATE page SET data = x'ff'", "a page of the manifest is damaged"),
        ("DELETE FROM page", "a page of the manifest is damaged"),
        ("UPDATE version SET salt = x'00'", "the manifest is not the one that the record is committed to"),
        ("UPDATE leaves SET hashes = zeroblob(64)", "its list of hashes is damaged"),
        ("DELETE FROM leaves", "its list of hashes is damaged"),
        ("DELETE FROM element WHERE position = 1", "the list of elements is damaged"),
    ],
)
def test_damage_in_the_catalog_is_named(tmp_path: Path, damage: str, what: str) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        with shelf.storage.database.writing() as connection:
            connection.execute(damage)
        drifts = list(shelf.catalog.check())
        assert what in [drift.what for drift in drifts]
        assert all("backup" in drift.remedy or "refresh" in drift.remedy for drift in drifts)


def test_a_signature_of_somebody_else_is_named(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        wrap(shelf)
        with shelf.storage.database.writing() as connection:
            (data,) = connection.execute("SELECT record FROM version").fetchone()
            forged = sign(PayloadType.RECORD, wire.decode_envelope(data).payload, Owner().signing_key)
            connection.execute("UPDATE version SET record = ?", (wire.encode_envelope(forged),))
        assert "a signature does not hold" in next(iter(shelf.catalog.check())).what


# The registry.


def unreachable(_: Identifier) -> Envelope | None:
    raise Unreachable("the registry does not answer")


def forged(_: Identifier) -> Envelope | None:
    raise BadSignature("not signed by 86.north")


def test_what_the_registry_does_not_show_is_named(tmp_path: Path) -> None:
    with Shelf.open(tmp_path, clock=later) as shelf:
        id = wrap(shelf)
        row = shelf.catalog.outbox.all()[0]
        shelf.catalog.outbox.failed(row.seq, "connection refused")

        def what(newest: Callable[[Identifier], Envelope | None]) -> list[str]:
            return [drift.what for drift in shelf.catalog.check(newest=newest)]

        assert what(lambda _: None) == ["is not published yet (connection refused)"]
        assert what(unreachable) == ["the registry cannot be asked: the registry does not answer"]
        assert what(forged) == ["the registry shows something that you did not sign: not signed by 86.north"]
        shelf.catalog.outbox.refused(row.seq, "not your prefix")
        assert what(lambda _: None) == ["the registry refused it: not your prefix"]
        shelf.catalog.outbox.acknowledged(row.seq)
        assert what(lambda _: None) == ["was acknowledged by the registry, which does not show it any more"]
        first = shelf.stored(id)
        shelf.write("trial/a", b"other")
        shelf.catalog.refresh()
        assert what(lambda _: first.record) == ["is not published yet"]
        shelf.catalog.outbox.acknowledged(shelf.catalog.outbox.all()[-1].seq)
        assert what(lambda _: first.record) == ["the registry shows another version (1)"]


def test_unlisted_objects_are_not_asked_for_and_withdrawn_ones_are(tmp_path: Path) -> None:
    asked: list[str] = []

    def newest(id: Identifier) -> Envelope | None:
        asked.append(str(id))
        return None

    with Shelf.open(tmp_path, clock=later) as shelf:
        shelf.catalog.add(shelf.write("a"), suffix="hidden", unlisted=True)
        shelf.catalog.add(shelf.write("b"), suffix="gone")
        shelf.catalog.withdraw("gone")
        (tmp_path / "b").unlink()
        drifts = list(shelf.catalog.check(newest=newest))
        assert asked == ["86.north/gone"]
        assert [drift.what for drift in drifts] == ["is not published yet"]


def test_the_registry_is_asked_for_many_at_a_time() -> None:
    ids = [Identifier.parse(f"86.north/{number}") for number in range(2500)]
    asked: list[int] = []

    def resolve(batch: list[Identifier]) -> list[Resolution]:
        asked.append(len(batch))
        return [Resolution(ResolutionState.UNKNOWN) for _ in batch]

    shown = Shown(resolve, ids)
    assert [shown(each) for each in ids] == [None] * 2500
    assert asked == [1000, 1000, 500]
    assert shown(Identifier.parse("86.north/added-meanwhile")) is None
    assert asked[-1] == 1
