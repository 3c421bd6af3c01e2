"""The audit's writer: durable before it returns, together when they come together, bytes while a stream runs."""

import threading
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hanse.errors import NoSpace, StorageFailed
from node import audit
from node.audit import Audit, Decided, Row
from node.storage.audit import AuditStorage
from node.storage.catalog import CatalogStorage
from tests.league import eventually


def decided(number: int = 0, *, peer: str = "86.acme", allowed: bool = True, at: int = 100) -> Decided:
    return Decided(peer, "0" * 32, f"86.north/x{number}", 1, "fetch", allowed, "because", at)


class Memory:
    """Rows in a list; counts commits, and fails when told to."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.commits = 0
        self.error: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()

    def last_number(self) -> int:
        return max(self.rows, default=0)

    def write(self, rows: Sequence[Row], served: Sequence[tuple[int, int]]) -> None:
        self.gate.wait(10)
        if self.error is not None:
            raise self.error
        self.commits += 1
        for row in rows:
            self.rows[row.number] = row
        for number, amount in served:
            self.rows[number] = Row(number, self.rows[number].decided, amount)

    def query(self, peer: str | None, object_id: str | None, since: int | None, limit: int) -> Iterator[Row]:
        yield from list(self.rows.values())[::-1][:limit]


@pytest.fixture
def memory() -> Memory:
    return Memory()


@pytest.fixture
def writer(memory: Memory) -> Iterator[Audit]:
    made = Audit(memory)
    yield made
    made.close()


def test_a_decision_is_durable_when_it_returns(writer: Audit, memory: Memory) -> None:
    ticket = writer.decided(decided(1, allowed=False))
    assert memory.rows[ticket.number].decided == decided(1, allowed=False)


def test_decisions_that_come_together_are_committed_together(writer: Audit, memory: Memory) -> None:
    memory.gate.clear()
    threads = [threading.Thread(target=writer.decided, args=(decided(number),)) for number in range(50)]
    for thread in threads:
        thread.start()
    memory.gate.set()
    for thread in threads:
        thread.join(10)
    assert len(memory.rows) == 50
    assert memory.commits < 25


def test_a_decision_that_cannot_be_written_is_an_error_to_whoever_made_it(writer: Audit, memory: Memory) -> None:
    memory.error = NoSpace("full")
    with pytest.raises(NoSpace):
        writer.decided(decided(1))
    memory.error = RuntimeError("private")
    with pytest.raises(StorageFailed) as caught:
        writer.decided(decided(2))
    assert "private" not in str(caught.value)
    memory.error = None
    writer.decided(decided(3))
    assert [row.decided.object for row in memory.rows.values()] == ["86.north/x3"]


def test_bytes_are_written_when_the_stream_ends(writer: Audit, memory: Memory) -> None:
    ticket = writer.decided(decided(1))
    ticket.served = 4096
    writer.finish(ticket)
    eventually(lambda: memory.rows[ticket.number].served == 4096)


def test_bytes_of_a_stream_that_runs_are_written_meanwhile(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 0.05)
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    ticket.served = 1
    eventually(lambda: memory.rows[ticket.number].served == 1)
    ticket.served = 2
    eventually(lambda: memory.rows[ticket.number].served == 2)
    writer.close()


def test_bytes_that_could_not_be_written_are_written_later(memory: Memory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(audit, "FLUSH_SECONDS", 0.05)
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    memory.error = NoSpace("full")
    ticket.served = 7
    writer.finish(ticket)
    memory.error = None
    eventually(lambda: memory.rows[ticket.number].served == 7)
    writer.close()


def test_closing_writes_what_is_left_and_takes_nothing_more(memory: Memory) -> None:
    writer = Audit(memory)
    ticket = writer.decided(decided(1))
    ticket.served = 9
    writer.close()
    assert memory.rows[ticket.number].served == 9
    with pytest.raises(StorageFailed):
        writer.decided(decided(2))


def test_the_table_keeps_rows_and_finds_them_again(tmp_path: Path) -> None:
    storage = CatalogStorage.open(tmp_path / "catalog.db")
    table = AuditStorage(storage.database)
    assert table.last_number() == 0
    rows = [Row(n, decided(n, peer=f"86.{'ae'[n % 2]}", at=100 + n), 0) for n in range(1, 6)]
    table.write(rows, [])
    table.write([], [(5, 77)])
    table.write(rows, [])  # repeated after an answer that was lost
    assert table.last_number() == 5
    assert [row.number for row in table.query(None, None, None, 100)] == [5, 4, 3, 2, 1]
    assert next(table.query(None, None, None, 1)).served == 77
    assert [row.number for row in table.query("86.a", None, None, 100)] == [4, 2]
    assert [row.number for row in table.query(None, "86.north/X3", None, 100)] == [3]
    assert [row.number for row in table.query(None, None, 104, 100)] == [5, 4]
    assert next(table.query(None, "86.north/x3", None, 1)).decided == decided(3, peer="86.e", at=103)
    storage.close()
