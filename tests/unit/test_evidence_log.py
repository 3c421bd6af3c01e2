"""The log of a home: what is appended, in one order, under one root."""

from pathlib import Path

import pytest

from hanse.evidence.storage import log
from hanse.evidence.storage.log import Entry, Kind
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.merkle import root
from hanse.storage.database import Database


@pytest.mark.parametrize("groups", [(1,), (1, 1, 1), (3, 4, 1), (8, 8), (5, 1, 1, 1, 9), (64, 1, 63)])
def test_the_root_is_that_of_all_leaves_however_they_came(tmp_path: Path, groups: tuple[int, ...]) -> None:
    database = Database.open(tmp_path / "evidence.db", MIGRATIONS)
    leaves: list[bytes] = []
    for group in groups:
        entries = [Entry.of(Kind.DECISION, f"payload {n}".encode()) for n in range(group)]
        with database.writing() as connection:
            first = log.size(connection)
            assert first == len(leaves)
            leaves += [each.hash for each in entries]
            assert log.append(connection, first, entries, 1) == root(leaves)
    database.close()
