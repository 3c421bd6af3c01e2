"""The storages that keep one contract: in memory, in SQLite, in a PostgreSQL that is started once a session."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from registry.storage.base import Storage
from registry.storage.memory import MemoryStorage
from registry.storage.postgres import PostgresStorage
from registry.storage.sqlite import SqliteStorage
from tests.postgres import Postgres


@pytest.fixture(scope="session")
def postgres() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(params=["memory", "sqlite", "postgres"])
def storage(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Storage]:
    made: Storage
    if request.param == "memory":
        made = MemoryStorage()
    elif request.param == "sqlite":
        made = SqliteStorage(tmp_path / "registry.db")
    else:
        made = PostgresStorage(request.getfixturevalue("postgres").database())
    yield made
    made.close()
