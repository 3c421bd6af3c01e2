"""Changing the terms of an object: what is kept, what becomes public, and that nothing is hashed again."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hanse import trust, wire
from hanse.errors import Conflict, InvalidInput, LimitExceeded, NotFound, Withdrawn
from hanse.model.identifier import Identifier
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode, ObjectRecord
from hanse.model.terms import Conditions, Duty, Operation, Party, Permission, Terms
from hanse.model.terms_json import format_terms
from node.catalog import CATALOG
from node.sources.walking import Found
from tests.wrapping import Shelf

STUDY = Conditions(
    purposes=(Purpose.parse("clinical-research"),), max_fetches=20, duties=(Duty.parse("delete-after=30d"),)
)
FOR_ACME = Terms(AccessMode.ON_REQUEST, (Permission((Party.parse("86.acme"),), STUDY),))


def record_of(shelf: Shelf, id: Identifier) -> ObjectRecord:
    return wire.decode_record(shelf.stored(id).record.payload)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Every file that is opened to be hashed."""
    names: list[str] = []
    before: Callable[..., Any] = Found.open

    def spy(found: Found, *args: Any, **more: Any) -> Any:
        names.append(found.name.text)
        return before(found, *args, **more)

    monkeypatch.setattr(Found, "open", spy)
    return names


def test_other_terms_of_which_the_public_part_is_different_make_a_version_of_the_same_content(
    tmp_path: Path, opened: list[str]
) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.write("trial/a.bin", b"x" * 3_000_000)
        shelf.write("trial/b.txt", b"y")
        id = shelf.catalog.add(tmp_path / "trial", suffix="trial", list_elements=True).id
        before, elements = shelf.stored(id), list(shelf.storage.elements(shelf.stored(id), 0, 9))
        hashes = shelf.storage.leaves(before, 0)
        opened.clear()

        made = shelf.catalog.set_terms("trial", FOR_ACME)

        assert (made.version, made.changed) == (2, True)
        assert opened == []
        after, record = shelf.stored(id), record_of(shelf, id)
        assert record.access.mode is AccessMode.ON_REQUEST
        assert record.access.purposes == ("clinical-research",)
        assert record.access.duties == ("delete within 30 days of fetching (enforced by the consumer's node)",)
        assert "acme" not in str(record)
        assert record.previous == before.record.digest
        assert record.summary == wire.decode_record(before.record.payload).summary
        assert after.pages_root == before.pages_root
        assert after.manifest is not None
        assert record.commitment == trust.commitment(after.salt, after.manifest)
        assert wire.decode_manifest(after.manifest.payload).version == 2
        # All that can be served moved along, and the older pages stay.
        assert list(shelf.storage.elements(after, 0, 9)) == elements
        assert shelf.storage.leaves(after, 0) == hashes != b""
        assert shelf.storage.page(after, 0) == shelf.storage.page(before, 0) is not None
        assert [row.key for row in shelf.catalog.outbox.all()] == ["86.north/trial"] * len(shelf.catalog.outbox.all())
        assert shelf.catalog.outbox.all()[-1].envelope == after.record
        assert shelf.catalog.list()[0].terms == FOR_ACME
        # And the next refresh finds nothing to do.
        assert not shelf.catalog.refresh("trial")[0].changed


def test_what_the_public_is_not_told_changes_without_a_version(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        id = shelf.catalog.add(shelf.write("a", b"x"), suffix="x", terms=Terms.allowing(["86.acme"])).id
        waiting = len(shelf.catalog.outbox.all())
        made = shelf.catalog.set_terms("x", Terms.allowing(["86.acme", "86.east"]))
        assert (made.version, made.changed) == (1, False)
        assert shelf.stored(id).version == 1
        assert len(shelf.catalog.outbox.all()) == waiting
        assert shelf.catalog.list()[0].terms == Terms.allowing(["86.acme", "86.east"])


def test_of_an_unlisted_object_nothing_is_published(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x", unlisted=True)
        assert shelf.catalog.set_terms("x", FOR_ACME).version == 2
        assert shelf.catalog.outbox.all() == []


def test_compute_only_takes_the_fetch_out_of_what_is_offered(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        id = shelf.catalog.add(shelf.write("a", b"x"), suffix="x", terms=Terms.opened()).id
        shelf.catalog.set_terms("x", Terms(AccessMode.COMPUTE_ONLY))
        assert record_of(shelf, id).operations == ("describe",)
        assert record_of(shelf, id).access.mode is AccessMode.COMPUTE_ONLY


def test_terms_can_be_made_of_those_that_are_there(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x", terms=Terms.allowing(["86.acme"]))

        def add(terms: Terms) -> Terms:
            return Terms(terms.mode, (*terms.permissions, *FOR_ACME.permissions))

        assert len(shelf.catalog.set_terms("x", add).terms.permissions) == 2


def test_of_two_changes_at_once_the_slower_is_told(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x", terms=Terms.allowing(["86.acme"]))

        def slow(terms: Terms) -> Terms:
            shelf.catalog.set_terms("x", Terms.allowing(["86.east"]))
            return Terms.allowing(["86.acme", "86.south"])

        with pytest.raises(Conflict, match="run it again"):
            shelf.catalog.set_terms("x", slow)
        assert shelf.catalog.list()[0].terms == Terms.allowing(["86.east"])


def test_what_is_not_there_or_ended_has_no_terms(tmp_path: Path) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x")
        with pytest.raises(NotFound):
            shelf.catalog.set_terms("y", Terms.opened())
        shelf.catalog.withdraw("x")
        with pytest.raises(Withdrawn):
            shelf.catalog.set_terms("x", Terms.opened())


def test_terms_that_would_not_fit_the_record_change_nothing(tmp_path: Path) -> None:
    many = tuple(
        Permission(conditions=Conditions(duties=tuple(Duty.parse(f"other={n}.{m} {'x' * 1000}") for m in range(60))))
        for n in range(2)
    )
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x")
        with pytest.raises(LimitExceeded):
            shelf.catalog.set_terms("x", Terms(permissions=many))
        assert shelf.catalog.list()[0].terms == Terms()


def test_what_contradicts_itself_is_refused() -> None:
    with pytest.raises(InvalidInput, match="compute-only terms permit no fetch"):
        Terms(AccessMode.COMPUTE_ONLY, (Permission(),))
    with pytest.raises(InvalidInput, match="open terms let every member"):
        Terms(AccessMode.OPEN, (Permission((Party.parse("86.acme"),)),))
    with pytest.raises(InvalidInput, match="open terms let every member"):
        Terms(AccessMode.OPEN, (Permission(automatic=False),))
    with pytest.raises(InvalidInput, match="at least one operation"):
        Conditions(operations=())
    with pytest.raises(InvalidInput, match="ends before it begins"):
        Conditions(valid_from=20, valid_until=20)
    with pytest.raises(InvalidInput, match="contradict each other"):
        Conditions(duties=(Duty.parse("do-not-pass-on"),), pass_on=True)
    assert Terms(AccessMode.COMPUTE_ONLY, (Permission(conditions=Conditions(operations=(Operation.DESCRIBE,))),))


@pytest.mark.parametrize(
    ("rule", "terms"),
    [
        ('{"open": false, "allowed": []}', Terms()),
        ('{"open": true, "allowed": []}', Terms.opened()),
        (
            '{"open": false, "allowed": ["86.acme", "86.east#' + "a1" * 16 + '"]}',
            Terms.allowing(["86.acme", "86.east#" + "a1" * 16]),
        ),
    ],
)
def test_a_catalog_of_before_there_were_terms_opens_with_what_was_allowed(
    tmp_path: Path, rule: str, terms: Terms
) -> None:
    with Shelf.open(tmp_path) as shelf:
        shelf.catalog.add(shelf.write("a", b"x"), suffix="x", terms=terms)
    path = tmp_path / "home" / CATALOG
    old = sqlite3.connect(path)
    old.execute("ALTER TABLE object RENAME COLUMN terms TO rule")
    old.execute("UPDATE object SET rule = ?", (rule,))
    old.execute("PRAGMA user_version = 1")
    old.commit()
    old.close()
    with Shelf.open(tmp_path, shelf.owner) as shelf:
        assert shelf.catalog.list()[0].terms == terms
        assert not shelf.catalog.set_terms("x", terms).changed
        text = sqlite3.connect(path).execute("SELECT terms FROM object").fetchone()[0]
        assert text == format_terms(terms)
