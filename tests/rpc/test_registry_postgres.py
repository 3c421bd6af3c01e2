"""A registry whose store is a PostgreSQL: the same calls, and what is left of it while its database is away."""

import concurrent.futures
import time
from pathlib import Path

import pytest

from hanse.errors import AlreadyExists, HomeUnusable, NotAuthenticated, Overloaded, Suspended, Unreachable
from hanse.model.identifier import Prefix
from registry import app
from registry.service import Service
from registry.storage import postgres_connections
from registry.store import Store
from tests.league import LOCAL, Member, Registry, eventually
from tests.postgres import Cuttable, Postgres


def test_given_a_store_in_postgresql_then_it_is_a_registry_and_outlives_a_cut(tmp_path: Path, monkeypatch):
    monkeypatch.setattr(postgres_connections.Connection, "patience", 1.5)
    looks: list[bool] = []  # each at what other processes stored, and whether there was something
    look = Service._changed_elsewhere

    def looked(service: Service) -> bool:
        looks.append(look(service))
        return looks[-1]

    monkeypatch.setattr(Service, "_changed_elsewhere", looked)
    with Postgres() as server:
        way = Cuttable(server.port)
        dsn = server.database().replace(f":{server.port}", f":{way.port}") + "?connect_timeout=2"
        home = tmp_path / "registry"
        app.init(home, "Test league", Prefix("86"), LOCAL, store=Store.parse(dsn))
        assert not (home / "registry.db").exists()
        registry = Registry(home)
        registry.serve()
        try:
            north, south = registry.join("86.north"), registry.join("86.south")
            first = north.record("a", title="Heart trial")
            assert [each.code for each in north.publish(first, north.record("b", title="Lungs"))] == [1, 1]
            assert len(north.search("heart").records) == 1
            assert len(south.resolve("86.north/a", "86.north/b").resolutions) == 2
            assert app.check(home) == []
            with pytest.raises(AlreadyExists, match="a new one needs an empty one"):
                app.init(tmp_path / "second", "Another", Prefix("86"), LOCAL, store=Store.parse(dsn))
            seen = len(looks) + 1
            eventually(lambda: looks[seen:][-2:] == [False, False])  # before, it forgets all answers each time
            assert len(south.resolve("86.north/a").resolutions) == 1
            stranger = Member.make(registry, "86.stranger")
            stranger.league = north.league
            with pytest.raises(NotAuthenticated):
                stranger.resolve("86.north/a")
            third = north.record(
                "c"
            )  # one, however often it is sent: of some attempts nobody knows what became of them
            way.stall()
            with concurrent.futures.ThreadPoolExecutor(8) as pool:
                waiting = [pool.submit(north.resolve, f"86.north/unknown{number}") for number in range(3)]
                # Whether these are members by now the database would know.
                waiting += [pool.submit(stranger.resolve, "86.north/a"), pool.submit(stranger.publish, first)]
                publishing = pool.submit(north.publish, third)
                answers = 0
                while not any(each.done() for each in (*waiting, publishing)):
                    # What is remembered is answered meanwhile.
                    assert len(south.resolve("86.north/a").resolutions) == 1
                    answers += 1
                    time.sleep(0.02)  # less often than a member may
                assert answers > 3, "one would be answered at the end if it waited too"
                for each in waiting:
                    with pytest.raises((Overloaded, Unreachable)):
                        each.result(60)
                assert publishing.result(60)[0].code == 4  # try again
            way.heal()
            eventually(lambda: north.publish(third)[0].code == 1)
            newer = north.record("a", 2, first, title="Heart trial, second part")
            assert north.publish(newer)[0].code == 1
            assert south.resolve("86.north/a").resolutions[0].record.payload == newer.payload
            app.suspend(home, Prefix("86.south"), "why")

            def suspended() -> bool:
                try:
                    south.resolve("86.north/a")
                except Suspended:
                    return True
                return False

            eventually(suspended)
            assert app.check(home) == []
        finally:
            way.heal()
            registry.stop()
            way.close()


def test_given_the_database_of_another_league_then_a_home_refuses_it(tmp_path: Path):
    app.init(tmp_path / "one", "One", Prefix("86"), LOCAL)
    app.init(tmp_path / "other", "Other", Prefix("86"), LOCAL)
    (tmp_path / "one" / "registry.db").unlink()
    (tmp_path / "other" / "registry.db").rename(tmp_path / "one" / "registry.db")
    with pytest.raises(HomeUnusable, match="of two leagues"):
        app.status(tmp_path / "one")
