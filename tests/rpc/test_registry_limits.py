"""What an organization may store and publish at a registry: limits, who sets them, and that one delays no others."""

import json
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing

import pytest
from click.testing import CliRunner

from hanse.model.identifier import Prefix
from hanse.v1 import registry_pb2
from registry import app
from registry.cli import main
from registry.writer import Writer
from tests.league import Member, Registry, eventually

ACCEPTED, TRY_AGAIN = registry_pb2.PublishOutcome.CODE_ACCEPTED, registry_pb2.PublishOutcome.CODE_TRY_AGAIN
SETTINGS = """
[limits]
records = 3
[limits."86.paced"]
records = "none"
publishes_per_minute = 5
[limits."86.flood"]
records = "none"
[limits."86.quiet"]
records = "none"
"""


class Clock:
    """That of the registry; stands still while a test says so."""

    def __init__(self) -> None:
        self.stopped_at: float | None = None

    def __call__(self) -> float:
        return time.time() if self.stopped_at is None else self.stopped_at


@pytest.fixture(scope="module")
def clock():
    return Clock()


@pytest.fixture(scope="module")
def registry(tmp_path_factory, clock):
    with Registry.start(tmp_path_factory.mktemp("limits") / "registry", settings=SETTINGS, clock=clock) as started:
        yield started


def command(registry: Registry, *words: object) -> dict:
    result = CliRunner().invoke(main, [*map(str, words), "--home", str(registry.folder), "--json"])
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def codes(outcomes) -> list[int]:
    return [each.code for each in outcomes]


def used(registry: Registry, member: Member) -> tuple[int, int]:
    space = app.spaces(registry.folder)[member.prefix]
    return space.used.objects, space.used.bytes


def test_given_a_full_member_then_it_is_told_why_until_the_operator_allows_more(registry):
    north = registry.join("86.north")
    first = [north.record(str(number)) for number in range(3)]
    assert codes(north.publish(*first)) == [ACCEPTED] * 3
    before = used(registry, north)
    assert codes(north.publish(*first)) == [ACCEPTED] * 3  # again: not counted
    assert used(registry, north) == before
    (refused,) = north.publish(north.record("more"))
    assert refused.code == TRY_AGAIN
    assert "has 3 identifiers in the registry, and its limit is 3" in refused.message
    assert (refused.wait_seconds, refused.pause) == (300, False)
    # A version of what is there, a tombstone and a new key are no new identifiers; what was withdrawn still counts.
    gone = north.record("0", 2, first[0], withdrawn=True)
    assert codes(north.publish(north.record("1", 2, first[1]), gone)) == [ACCEPTED] * 2
    assert codes(north.publish(north.next_organization(name="North 2"))) == [ACCEPTED]
    assert codes(north.publish(north.record("more"))) == [TRY_AGAIN]
    assert command(registry, "status")["nearly_full"] == ["86.north"]

    told = command(registry, "limit", "86.north", "--records", 4)
    assert (told["objects"], told["limits"]["records"]) == (3, 4)
    assert codes(north.publish(north.record("more"), north.record("and more"))) == [ACCEPTED, TRY_AGAIN]  # no restart
    told = command(registry, "limit", "86.north", "--records", "none", "--bytes", "1kB")
    assert told["limits"] == {"records": None, "publishes_per_minute": None, "bytes": 1000}
    (refused,) = north.publish(north.record("and more"))
    assert "its limit is 1,000, and this record has" in refused.message
    told = command(registry, "limit", "86.north", "--default")
    assert told["limits"] == {"records": 3, "publishes_per_minute": None, "bytes": None}
    (line,) = [
        json.loads(each)
        for each in CliRunner().invoke(main, ["orgs", "--home", str(registry.folder), "--json"]).stdout.splitlines()
        if "86.north" in each
    ]
    assert (line["objects"], line["limits"]["records"]) == (4, 3)
    assert line["bytes"] == used(registry, north)[1] > 1000


@pytest.fixture
def one_instant(clock):
    """However long it takes, nobody's minute goes on."""
    clock.stopped_at = time.time()
    yield
    clock.stopped_at = None


@pytest.mark.usefixtures("one_instant")
def test_given_a_rate_then_what_is_beyond_it_is_told_to_wait_in_one_batch_or_many(registry):
    paced = registry.join("86.paced")
    records = [paced.record(str(number)) for number in range(9)]
    outcomes = paced.publish(*records[:8])
    assert codes(outcomes) == [ACCEPTED] * 5 + [TRY_AGAIN] * 3
    assert all(each.pause and 1 <= each.wait_seconds <= 60 for each in outcomes[5:])
    assert "86.paced may publish 5 versions a minute, and has" in outcomes[7].message
    assert codes(paced.publish(records[0], records[8])) == [ACCEPTED, TRY_AGAIN]  # what is there is free
    registry.stop()
    registry.serve()  # a restart gives nobody another minute
    assert codes(paced.publish(records[8])) == [TRY_AGAIN]


def test_a_probe_tells_whether_the_registry_serves(registry):
    def code() -> int:
        return CliRunner().invoke(main, ["probe", "--home", str(registry.folder)]).exit_code

    assert code() == 0
    registry.stop()
    assert code() == 5
    registry.serve()
    assert code() == 0


def test_limit_of_a_stranger_is_refused(registry):
    result = CliRunner().invoke(main, ["limit", "86.nobody", "--home", str(registry.folder)])
    assert (result.exit_code, result.stderr) == (
        3,
        "error: 86.nobody is not a member: `hanse-registry orgs` lists all\n",
    )


def test_given_a_member_that_floods_the_registry_then_another_waits_for_one_message_of_its_and_no_more(
    registry, monkeypatch
):
    flood, quiet = registry.join("86.flood"), registry.join("86.quiet")
    names = [[f"{number}-{each}" for each in range(250)] for number in range(12)]
    messages = [[flood.record(each) for each in some] for some in names]
    submitted = Counter[str]()
    submit = Writer.submit

    def counted(writer: Writer, sender: Prefix, envelopes: Callable) -> Future:
        answer = submit(writer, sender, envelopes)
        submitted[str(sender)] += 1
        return answer

    monkeypatch.setattr(Writer, "submit", counted)
    with ThreadPoolExecutor(5) as pool, closing(sqlite3.connect(registry.folder / "registry.db")) as other:
        other.execute("BEGIN IMMEDIATE")  # so that all of it waits when the first group is stored
        flooded = [pool.submit(flood.publish_messages, messages[start::4]) for start in range(4)]
        eventually(lambda: submitted["86.flood"] == 12)
        asked = pool.submit(quiet.publish, quiet.record("one"))
        eventually(lambda: submitted["86.quiet"] == 1)
        other.rollback()
        assert codes(asked.result()) == [ACCEPTED]
        assert sum(len(each.result()) for each in flooded) == 3000
    with app.opened(registry.folder) as opened:
        flooding = opened.storage.located([f"86.flood/{each}" for some in names for each in some])
        first = min(at for _, _, at in flooding.values())
        ((_, _, at),) = opened.storage.located(["86.quiet/one"]).values()
    # It waits for what is being stored (a group), and for one message of the flood's.
    assert at - first <= 1000 + 250
