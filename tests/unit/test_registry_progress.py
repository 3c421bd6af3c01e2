"""What a worker's signs of life depend on: its event loop, and each thread that everybody waits for."""

import asyncio
import signal
import threading
from pathlib import Path
from types import SimpleNamespace

from hanse.model.address import Address
from hanse.model.identifier import Prefix
from registry.accept import Code, Outcome
from registry.progress import Steps, beat, waiting
from registry.workers import Plan, _Worker
from registry.writer import Writer


def test_a_thread_goes_on_unless_it_stands_still_in_its_work():
    steps, begun, waits, end = Steps(), threading.Event(), threading.Event(), threading.Event()

    def work() -> None:
        with steps.working():
            begun.set()
            end.wait(90)
            end.clear()
            with waiting():
                waits.set()
                end.wait(90)

    assert [steps.went_on() for _ in range(2)] == [True, True]  # nothing is to be done
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    assert begun.wait(90)
    assert [steps.went_on() for _ in range(3)] == [True, False, False]
    end.set()
    assert waits.wait(90)
    assert [steps.went_on() for _ in range(3)] == [True] * 3
    end.set()
    thread.join(60)
    assert [steps.went_on() for _ in range(3)] == [True] * 3


def test_no_sign_is_given_while_the_thread_that_writes_stands_still():
    let, standing, signs = threading.Event(), threading.Event(), []

    class Storage:
        def writing(self):
            standing.set()
            let.wait(90)
            raise RuntimeError("that was all")

    owner = SimpleNamespace(digest=b"")
    owners = SimpleNamespace(owner=lambda _: owner, changed=lambda *_, **__: None)
    writer = Writer(Storage(), None, owners, lambda _, told: told)

    async def scene() -> None:
        beating = asyncio.create_task(beat(lambda: signs.append(1), (Steps(), writer.steps), every=0.001))
        await until(lambda: len(signs) > 2)
        answer = writer.submit(Prefix("86.north"), lambda: [Outcome(bytes(32), Code.REFUSED, "")])
        await until(standing.is_set)
        while True:  # until a beat has seen it
            before = len(signs)
            await asyncio.sleep(0.05)
            if len(signs) == before:
                break
        let.set()
        await until(lambda: len(signs) > before + 2)
        beating.cancel()
        assert isinstance(answer.exception(30), RuntimeError)

    asyncio.run(asyncio.wait_for(scene(), 30))
    writer.close()


def test_the_supervisor_counts_its_own_beats_from_the_first_sign_on_and_kills_once():
    sent = []
    worker = _Worker(Plan(Path(), 1, Address("127.0.0.1", 1), None, debug=False, silence=3), 0, asyncio.Event())
    worker._process = SimpleNamespace(pid=1, returncode=None, send_signal=sent.append)
    for _ in range(10):
        worker.listen()  # it has not begun to serve
    worker.heard()
    for _ in range(3):
        worker.listen()
    worker.heard()
    for _ in range(3):
        worker.listen()
    assert sent == []
    for _ in range(10):
        worker.listen()
    assert sent == [signal.SIGKILL]


async def until(condition) -> None:
    while not condition():
        await asyncio.sleep(0.001)
