"""Changes of evidence from many threads and processes: one order, no gaps, all or nothing, durable when they return."""

import json
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from hanse.errors import Conflict, HomeUnusable, StorageFailed
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import log
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import GROUP, Change
from hanse.storage import database as module
from tests.evidence import Member, append

ROOT = Path(__file__).parents[2]


@pytest.fixture
def member(tmp_path: Path) -> Member:
    return Member.of(tmp_path)


@pytest.fixture
def evidence(member: Member) -> Iterator[Evidence]:
    with member.evidence() as opened:
        yield opened


@contextmanager
def held(evidence: Evidence) -> Iterator[None]:
    """Inside, the writer is busy with a work of its own, so that what is submitted waits and is done together."""
    inside, go = threading.Event(), threading.Event()

    def wait(_: Change) -> None:
        inside.set()
        assert go.wait(90)

    first = evidence.writer.submit(wait)
    assert inside.wait(90)
    try:
        yield
    finally:
        go.set()
    first.result(60)


def putting(payload: bytes) -> Callable[[Change], int]:
    return lambda change: change.append(Kind.RECEIPT, payload)


def payloads(evidence: Evidence) -> list[bytes | None]:
    return [each.payload for each in evidence.leaves()]


def commits(evidence: Evidence) -> int:
    with evidence.reading() as connection:
        return len(list(log.checkpoints(connection)))


def requests(evidence: Evidence) -> list[str]:
    with evidence.reading() as connection:
        return [row[0] for row in connection.execute("SELECT peer FROM request ORDER BY number")]


def requesting(peer: str) -> Callable[[Change], int]:
    """A row, and its entry in the log."""

    def do(change: Change) -> int:
        change.connection.execute(
            "INSERT INTO request (digest, ours, peer, object, envelope, state, at) VALUES (?, 0, ?, '', x'', '', 0)",
            (peer.encode(), peer),
        )
        return change.append(Kind.REQUEST, peer.encode())

    return do


def test_threads_get_positions_without_gaps_and_each_finds_its_payload_there(evidence: Evidence) -> None:
    def work(thread: int) -> list[tuple[int, bytes]]:
        told = []
        for number in range(40):
            mine = [b"%d.%d.%d" % (thread, number, each) for each in range(number % 3 + 1)]
            positions = append(evidence, *mine)
            assert positions == list(range(positions[0], positions[0] + len(mine))), "what is one change is together"
            told += zip(positions, mine, strict=True)
        assert told == sorted(told), "what came later stands later"
        return told

    with ThreadPoolExecutor(16) as pool:
        told = [each for mine in pool.map(work, range(16)) for each in mine]
    assert [payload for _, payload in sorted(told)] == payloads(evidence)
    assert [position for position, _ in sorted(told)] == list(range(16 * 79))
    assert commits(evidence) < 16 * 40, "those that came together were committed together"
    assert evidence.verify(deep=True) is None


# Appends from several threads, and says where each payload is; begins when it is told to.
WORKER = """
import json, sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from hanse.signing import SigningKey
from tests.evidence import Member, append
folder, name = Path(sys.argv[1]), sys.argv[2]
member = Member.of(folder)
member.signing_key = SigningKey.from_pem((folder / "key").read_bytes())
with member.evidence() as evidence:
    print("ready", flush=True)
    sys.stdin.readline()
    def work(number):
        payloads = [f"{name}.{number}.{each}" for each in range(number % 2 + 1)]
        return list(zip(append(evidence, *map(str.encode, payloads)), payloads))
    with ThreadPoolExecutor(4) as pool:
        print(json.dumps([each for mine in pool.map(work, range(60)) for each in mine]))
"""


def test_processes_that_write_at_once_share_one_order(member: Member, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(member.signing_key.to_pem())
    member.evidence().close()
    workers = [
        subprocess.Popen(
            [sys.executable, "-c", WORKER, str(tmp_path), str(number)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for number in range(4)
    ]
    for worker in workers:
        assert worker.stdout is not None
        assert worker.stdout.readline() == "ready\n"
    told: list[tuple[int, str]] = []
    for worker in workers:
        assert worker.stdin is not None
        worker.stdin.write("\n")
        worker.stdin.flush()
    for worker in workers:
        said, _ = worker.communicate(timeout=240)
        assert worker.returncode == 0
        told += [(position, payload) for position, payload in json.loads(said)]
    with member.evidence() as evidence:
        found = [(each.position, (each.payload or b"").decode()) for each in evidence.leaves()]
        assert found == sorted(told)
        assert len(found) == 4 * 90
        assert evidence.verify(deep=True) is None
    # They did take turns: no worker's entries are all before another's.
    spans = [[position for position, payload in told if payload.startswith(f"{number}.")] for number in range(4)]
    assert any(min(a) < max(b) and min(b) < max(a) for a in spans for b in spans if a is not b)


# Appends for ever, and says each time what is there for good.
ENDLESS = """
import sys
from pathlib import Path
from hanse.signing import SigningKey
from tests.evidence import Member, append
folder, name = Path(sys.argv[1]), sys.argv[2]
member = Member.of(folder)
member.signing_key = SigningKey.from_pem((folder / "key").read_bytes())
with member.evidence() as evidence:
    number = 0
    while True:
        append(evidence, f"{name}.{number}".encode())
        print(number, flush=True)
        number += 1
"""


def test_a_process_that_is_killed_among_others_takes_nothing_with_it(member: Member, tmp_path: Path) -> None:
    (tmp_path / "key").write_bytes(member.signing_key.to_pem())
    member.evidence().close()

    def start(name: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [sys.executable, "-c", ENDLESS, str(tmp_path), name], cwd=ROOT, stdout=subprocess.PIPE, text=True
        )

    lasting = [start("a"), start("b")]
    told: dict[str, int] = {}
    for number in range(8):
        name = f"killed-{number}"
        victim = start(name)
        assert victim.stdout is not None
        for _ in range(number + 1):
            assert victim.stdout.readline()
        victim.kill()
        told[name] = number + len([line for line in victim.communicate()[0].split("\n")[:-1] if line])
    for name, process in zip("ab", lasting, strict=True):
        assert process.poll() is None
        process.kill()
        told[name] = len(process.communicate()[0].split("\n")[:-1]) - 1
    with member.evidence() as evidence:
        assert evidence.verify(deep=True) is None
        found = Counter((each.payload or b"").decode() for each in evidence.leaves())
        assert set(found.values()) == {1}
        for name, last in told.items():
            mine = sorted(int(each.split(".")[1]) for each in found if each.startswith(f"{name}."))
            assert mine in (list(range(last + 1)), list(range(last + 2))), "one more may have been on its way"


def test_what_is_submitted_together_is_one_commit_in_its_order(evidence: Evidence) -> None:
    with held(evidence):
        done = [evidence.writer.submit(putting(b"%d" % number)) for number in range(100)]
    assert [each.result(60) for each in done] == list(range(100))
    assert commits(evidence) == 1


def test_more_than_fit_into_one_commit_are_several(evidence: Evidence) -> None:
    with held(evidence):
        done = [evidence.writer.submit(putting(b"%d" % number)) for number in range(2 * GROUP + 1)]
    assert [each.result(60) for each in done] == list(range(2 * GROUP + 1))
    assert commits(evidence) == 3
    assert evidence.verify(deep=True) is None


def test_a_work_that_raises_leaves_nothing_and_sinks_no_other(evidence: Evidence) -> None:
    def fails(change: Change) -> None:
        requesting("86.failed")(change)
        raise ValueError("as it likes")

    with held(evidence):
        done = [
            evidence.writer.submit(each)
            for each in (requesting("86.a"), fails, requesting("86.b"), fails, requesting("86.c"))
        ]
    assert [done[number].result(60) for number in (0, 2, 4)] == [0, 1, 2]
    for number in (1, 3):
        with pytest.raises(ValueError, match="as it likes"):
            done[number].result(60)
    assert requests(evidence) == ["86.a", "86.b", "86.c"]
    assert payloads(evidence) == [b"86.a", b"86.b", b"86.c"]
    assert evidence.verify(deep=True) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, GeneratorExit, MemoryError])
def test_whatever_a_work_raises_reaches_who_submitted_it_and_the_writer_goes_on(
    evidence: Evidence, error: type[BaseException]
) -> None:
    def fails(change: Change) -> None:
        change.append(Kind.GRANT, b"never")
        raise error

    with pytest.raises(error):
        evidence.change(fails)
    assert append(evidence, b"next") == [0]


def test_an_error_of_the_database_in_a_work_says_so_and_sinks_no_other(evidence: Evidence) -> None:
    def twice(change: Change) -> None:
        for _ in range(2):
            requesting("86.twice")(change)

    with held(evidence):
        done: list[Future[Any]] = [evidence.writer.submit(each) for each in (putting(b"a"), twice, putting(b"b"))]
    with pytest.raises(StorageFailed, match="UNIQUE"):
        done[1].result(60)
    assert (done[0].result(60), done[2].result(60)) == (0, 1)
    assert requests(evidence) == []


def test_a_transaction_that_the_database_gave_up_fails_all_who_were_in_it(evidence: Evidence) -> None:
    """As SQLite does by itself when the disk is full or fails."""

    def gives_up(change: Change) -> None:
        change.connection.execute("ROLLBACK")
        raise StorageFailed("the disk failed")

    with held(evidence):
        done: list[Future[Any]] = [
            evidence.writer.submit(each) for each in (requesting("86.a"), gives_up, requesting("86.b"))
        ]
    for each in done:
        with pytest.raises(StorageFailed, match="the disk failed"):
            each.result(60)
    assert (requests(evidence), payloads(evidence)) == ([], [])
    assert append(evidence, b"next") == [0]


def test_a_work_that_hides_that_it_lost_the_transaction_is_not_acknowledged(evidence: Evidence) -> None:
    def hides(change: Change) -> None:
        change.connection.execute("ROLLBACK")

    with held(evidence):
        done: list[Future[Any]] = [evidence.writer.submit(each) for each in (requesting("86.a"), hides)]
    for each in done:
        with pytest.raises(StorageFailed):
            each.result(60)
    assert (requests(evidence), payloads(evidence)) == ([], [])


def test_what_cannot_be_signed_is_not_in_the_log(member: Member) -> None:
    allowed = True

    def identity() -> Member:
        if not allowed:
            raise HomeUnusable("the key cannot be read")
        return member

    with Evidence.open(identity) as evidence:  # type: ignore[arg-type]
        append(evidence, b"one")
        allowed = False
        with held(evidence):
            done: list[Future[Any]] = [evidence.writer.submit(each) for each in (requesting("86.a"), putting(b"x"))]
        for each in done:
            with pytest.raises(HomeUnusable, match="the key cannot be read"):
                each.result(60)
        assert evidence.change(lambda change: change.now) > 0  # what puts nothing into the log needs no signature
        allowed = True
        assert append(evidence, b"two") == [1]
        assert (requests(evidence), payloads(evidence)) == ([], [b"one", b"two"])
        assert evidence.verify(deep=True) is None


def test_another_writer_is_waited_for(member: Member) -> None:
    with member.evidence() as evidence, member.evidence() as other:
        with other.database.writing():
            waiting = evidence.writer.submit(putting(b"one"))
            assert not waiting.done()
        assert waiting.result(60) == 0


def test_another_writer_that_never_ends_is_named(member: Member, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "BUSY_TIMEOUT", 0.05)
    with member.evidence() as evidence, member.evidence() as other:
        with other.database.writing():
            done = [evidence.writer.submit(putting(b"one")), evidence.writer.submit(putting(b"two"))]
            for each in done:
                with pytest.raises(Conflict, match=r"evidence\.db is busy with another hanse command: run it again"):
                    each.result(60)
        assert append(evidence, b"three") == [0]


def submit_for_ever(evidence: Evidence, done: list[Future[Any]]) -> None:
    while True:
        done.append(evidence.writer.submit(putting(b"late")))


def test_closing_waits_for_what_was_submitted_and_takes_nothing_more(member: Member) -> None:
    evidence = member.evidence()
    with held(evidence):
        done = [evidence.writer.submit(putting(b"%d" % number)) for number in range(GROUP + 10)]
        closing = threading.Thread(target=evidence.close)
        closing.start()
        with pytest.raises(StorageFailed, match="closed already"):
            submit_for_ever(evidence, done)  # until the other thread has got so far
    closing.join(60)
    assert not closing.is_alive()
    assert [each.result(0) for each in done] == list(range(len(done)))
    evidence.close()
    with pytest.raises(StorageFailed, match="closed already"):
        append(evidence, b"more")
    with member.evidence() as again:
        assert again.size() == len(done)


def test_closing_what_was_never_used_does_no_harm(member: Member) -> None:
    evidence = member.evidence()
    evidence.close()
    evidence.close()


def test_a_change_within_a_change_is_refused_and_nobody_waits_for_ever(evidence: Evidence) -> None:
    with pytest.raises(RuntimeError, match="would wait for itself"):
        evidence.change(lambda _: append(evidence, b"inner"))
    assert append(evidence, b"next") == [0]


def test_all_of_one_commit_have_one_time_which_is_taken_when_it_begins(member: Member) -> None:
    now = 1000.9
    with member.evidence(lambda: now) as evidence:
        with held(evidence):
            done = [evidence.writer.submit(lambda change: (change.append(Kind.GRANT, b"x"), change.now)) for _ in "ab"]
            now = 2000.9
        assert [each.result(60) for each in done] == [(0, 2000), (1, 2000)]
        now = 1500  # a clock may go back: the order of the log is that of its positions
        append(evidence, b"y")
        assert [each.at for each in evidence.leaves()] == [2000, 2000, 1500]
        assert evidence.verify(deep=True) is None


def test_a_clock_that_fails_fails_the_change_and_no_later_one(member: Member) -> None:
    now = float("nan")
    with member.evidence(lambda: now) as evidence:
        with pytest.raises(StorageFailed, match="the evidence cannot be written: ValueError"):
            append(evidence, b"one")
        now = 1.0
        assert append(evidence, b"two") == [0]
