"""The audit's writer: durable before it returns, together when they come together, bytes while a stream runs."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from hanse.client.identity import Identity
from hanse.errors import NoSpace, StorageFailed, UsedUp
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.evidence.writer import Change, _Work
from hanse.model.identifier import Prefix
from hanse.signing import SigningKey
from hanse.storage.database import Database
from node import audit
from node.audit import Audit, Decided, Row
from node.storage.audit import AuditStorage, move
from node.storage.catalog import CatalogStorage
from tests.league import eventually


def decided(number: int = 0, *, peer: str = "86.acme", allowed: bool = True, at: int = 100) -> Decided:
    return Decided(peer, "0" * 32, f"86.north/x{number}", 1, "fetch", allowed, "because", at)


class Breakable(Evidence):
    """Counts commits, waits at a gate, and fails when told to."""

    commits = 0
    gate: threading.Event
    error: Exception | None = None

    @classmethod
    def at(cls, folder: Path) -> "Breakable":
        key = SigningKey.generate()
        identity = cast("Identity", SimpleNamespace(prefix=Prefix("86.north"), signing_key=key, acknowledged_key=key))
        evidence = cls(Database.open(folder / "evidence.db", MIGRATIONS), lambda: identity)
        gate = evidence.gate = threading.Event()
        gate.set()
        commit = evidence.writer._commit

        def commit_or_fail(works: list[_Work]) -> None:
            gate.wait(90)
            evidence.commits += 1
            if evidence.error is None:
                commit(works)
            else:
                for work in works:
                    work.done.set_exception(evidence.error)

        evidence.writer._commit = commit_or_fail  # type: ignore[method-assign]
        return evidence

    @property
    def rows(self) -> dict[int, Row]:
        return {row.number: row for row in AuditStorage(self.database).query(None, None, None, 1000)}

    @property
    def payloads(self) -> list[bytes]:
        with self.reading() as connection:
            return [row[0] for row in connection.execute("SELECT payload FROM leaf ORDER BY position")]


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Breakable]:
    with Breakable.at(tmp_path) as made:
        yield made


@pytest.fixture
def writer(memory: Breakable) -> Iterator[Audit]:
    made = Audit(memory)
    yield made
    made.close()


def test_a_decision_is_durable_when_it_returns(writer: Audit, memory: Breakable) -> None:
    ticket = writer.decided(decided(1, allowed=False))
    assert memory.rows[ticket.number].decided == decided(1, allowed=False)
    assert memory.payloads == [decided(1, allowed=False).payload]


def test_what_belongs_to_a_decision_is_there_with_it_or_neither_is(writer: Audit, memory: Breakable) -> None:
    def refuse(_: Change) -> None:
        raise UsedUp("no more")

    with pytest.raises(UsedUp):
        writer.decided(decided(1), refuse)
    assert (memory.rows, memory.payloads) == ({}, [])
    ticket = writer.decided(decided(2), lambda change: change.append(Kind.RECEIPT, b"with it"))
    assert memory.payloads == [b"with it", decided(2).payload]
    assert list(memory.rows) == [ticket.number]


def test_decisions_that_come_together_are_committed_together(
    writer: Audit, memory: Breakable, monkeypatch: pytest.MonkeyPatch
) -> None:
    submitted, submit = [], memory.writer.submit

    def counted(work: Callable[[Change], Any]) -> "Future[Any]":
        done = submit(work)
        submitted.append(done)
        return done

    monkeypatch.setattr(memory.writer, "submit", counted)
    memory.gate.clear()
    threads = [threading.Thread(target=writer.decided, args=(decided(number),)) for number in range(50)]
    for thread in threads:
        thread.start()
    eventually(lambda: len(submitted) == 50)
    memory.gate.set()
    for thread in threads:
        thread.join(60)
    assert len(memory.rows) == 50
    assert memory.commits < 25


def test_a_decision_that_cannot_be_written_is_an_error_to_whoever_made_it(writer: Audit, memory: Breakable) -> None:
    memory.error = NoSpace("full")
    with pytest.raises(NoSpace):
        writer.decided(decided(1))
    memory.error = None
    writer.decided(decided(3))
    assert [row.decided.object for row in memory.rows.values()] == ["86.north/x3"]


def test_bytes_are_written_when_the_stream_ends(writer: Audit, memory: Breakable) -> None:
    ticket = writer.decided(decided(1))
    ticket.served = 4096
    writer.finish(ticket)
    eventually(lambda: memory.rows[ticket.number].served == 4096)


def test_bytes_of_a_stream_that_runs_are_written_meanwhile(memory: Breakable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 0.05)
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    ticket.served = 1
    eventually(lambda: memory.rows[ticket.number].served == 1)
    ticket.served = 2
    eventually(lambda: memory.rows[ticket.number].served == 2)
    writer.close()


def test_bytes_that_could_not_be_written_are_written_later(memory: Breakable, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 0.05)
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    memory.error = NoSpace("full")
    ticket.served = 7
    writer.finish(ticket)
    memory.error = None
    eventually(lambda: memory.rows[ticket.number].served == 7)
    writer.close()


def test_closing_writes_what_is_left_and_takes_nothing_more(memory: Breakable) -> None:
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    ticket.served = 9
    writer.close()
    assert memory.rows[ticket.number].served == 9
    with pytest.raises(StorageFailed):
        writer.decided(decided(2))


def test_rows_are_found_again(writer: Audit, memory: Breakable) -> None:
    for n in range(1, 6):
        ticket = writer.decided(decided(n, peer=f"86.{'ae'[n % 2]}", at=100 + n))
    ticket.served = 77
    writer.finish(ticket)
    eventually(lambda: memory.rows[5].served == 77)
    table = AuditStorage(memory.database)
    assert [row.number for row in table.query(None, None, None, 100)] == [5, 4, 3, 2, 1]
    assert next(table.query(None, None, None, 1)).served == 77
    assert [row.number for row in table.query("86.a", None, None, 100)] == [4, 2]
    assert [row.number for row in table.query(None, "86.north/X3", None, 100)] == [3]
    assert [row.number for row in table.query(None, None, 104, 100)] == [5, 4]
    assert next(table.query(None, "86.north/x3", None, 1)).decided == decided(3, peer="86.e", at=103)


def test_rows_of_earlier_versions_are_taken_over_once(tmp_path: Path, memory: Breakable) -> None:
    storage = CatalogStorage.open(tmp_path / "catalog.db")
    with storage.database.writing() as connection:
        connection.executemany(
            "INSERT INTO audit (id, at, peer, key_id, object, version, operation, allowed, reason, bytes) "
            "VALUES (?, 100, '86.acme', ?, ?, 1, 'fetch', 1, 'because', 7)",
            [(n, "0" * 32, f"86.north/x{n}") for n in range(1, 4)],
        )
        before = connection.execute("SELECT * FROM audit").fetchall()
    assert move(storage.database, memory) == 3
    with storage.database.writing() as connection:  # killed before it deleted them there
        connection.executemany("INSERT INTO audit VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", before)
    assert move(storage.database, memory) == 3
    assert move(storage.database, memory) == 0
    assert {n: (row.decided, row.served) for n, row in memory.rows.items()} == {n: (decided(n), 7) for n in (1, 2, 3)}
    writer = Audit(memory)
    assert writer.decided(decided(9)).number == 4
    writer.close()
    storage.close()
