"""Requests, grants and their ends between real nodes: asked, given, used, narrowed, revoked, lost and found again.

Bounds on time: a revocation ends a running stream within BOUND of the command's end; SLACK is what a loaded machine may
add until a process is scheduled and its end is seen.
"""

import random
import secrets
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse import limits
from hanse.client import access
from hanse.client.client import Client
from hanse.client.peer import Buffer, Peer, Span, Stream
from hanse.errors import HanseError, NotPermitted, Revoked, Unreachable
from hanse.evidence.storage import papers
from hanse.evidence.storage.papers import RequestState
from hanse.model.identifier import Identifier
from hanse.model.purposes import Purpose
from tests.processes import League, Node, until

pytestmark = pytest.mark.timeout(900)
PURPOSE = "health-research"
CONTENT = b"patient,dose\n1,20\n"
BIG = 512 * limits.MIB  # of zeros, on no disk: a reader of 25 messages a second has 20 seconds with it
BOUND = 2.0
SLACK = 1.0
KILLS = 5


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        for prefix in ("86.north", "86.acme", "86.third"):
            made.join(prefix)
        yield made


@pytest.fixture
def north(league: League) -> Iterator[Node]:
    """Running again after each test, and the registry too."""
    yield league.nodes["86.north"]
    for process in (league.registry.process, league.nodes["86.north"].process):
        if not process.running:
            process.start()


@pytest.fixture
def acme(league: League) -> Node:
    return league.nodes["86.acme"]


@pytest.fixture
def third(league: League) -> Node:
    return league.nodes["86.third"]


def wrap(north: Node, folder: Path, *terms: str, length: int = 0) -> str:
    """A new object, published; on request unless ``terms`` say more."""
    path = folder / "visits.csv"
    with path.open("wb") as file:
        file.write(CONTENT)
        file.truncate(length or len(CONTENT))
    id = str(north.json("add", path, "--id", f"visits-{secrets.token_hex(4)}")["id"])
    if terms:
        north.command("terms", id, *terms)
    north.published()
    return id


def automatic(*more: str) -> tuple[str, ...]:
    return ("--on-request", "--allow", "86.acme", "--purpose", PURPOSE, *more)


def waiting_for(north: Node, id: str) -> dict[str, object]:
    """The one request for that object which waits, when it has come."""
    (found,) = until(lambda: [each for each in north.lines("requests") if each["id"] == id], "the request to arrive")
    return dict(found)


def held(node: Node, id: str) -> dict[str, object]:
    (found,) = [each for each in node.lines("grants") if id in each["ids"]]
    return dict(found)


# Asking.


def test_a_request_is_seen_approved_and_fetched_under_its_grant(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path)
    assert f"hanse request {id} --purpose" in acme.command("resolve", id).stdout
    refused = acme.command("fetch", id, "-o", tmp_path / "out", expect=4)
    assert f"hanse request {id} --purpose" in refused.stderr

    asked = acme.json("request", id, "--purpose", PURPOSE, "--message", "for the trial")
    assert asked["state"] == "waiting"
    assert acme.json("request", id, "--purpose", PURPOSE)["request"] == asked["request"]
    seen = waiting_for(north, id)
    assert (seen["peer"], seen["id"], seen["purposes"], seen["message"]) == ("86.acme", id, [PURPOSE], "for the trial")
    assert seen["key_id"] == acme.json("status")["key_id"]

    waiting = acme.begin("fetch", "fetch", id, "--wait", "-o", tmp_path / "out")
    until(lambda: "waits for 86.north" in waiting.stderr, "the fetch to wait")
    given = north.json("approve", seen["number"], "--until", "30d", "--max-fetches", "3")
    assert waiting.wait(90) == 0, waiting.everything
    assert (tmp_path / "out").read_bytes() == CONTENT

    of_acme = held(acme, id)
    assert (of_acme["grant"], of_acme["side"], of_acme["state"], of_acme["max_fetches"]) == (
        given["grant"], "held", "valid", 3,
    )  # fmt: skip
    assert (of_acme["fetches"], of_acme["bytes"]) == (1, len(CONTENT))
    of_north = next(each for each in north.lines("grants", "--given") if each["grant"] == given["grant"])
    assert (of_north["fetches"], of_north["bytes"]) == (1, len(CONTENT))
    assert not [each for each in north.lines("requests") if each["id"] == id]
    assert str(given["grant"])[:16] in acme.command("resolve", id).stdout


def test_a_denial_ends_the_waiting_with_its_reason(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path)
    waiting = acme.begin("denied", "fetch", id, "--purpose", PURPOSE, "--wait", "-o", tmp_path / "out")
    seen = waiting_for(north, id)
    north.command("deny", seen["number"], "--reason", "the ethics board has yet to meet")
    assert waiting.wait(90) == 4
    assert "the ethics board has yet to meet" in waiting.stderr
    assert not (tmp_path / "out").exists()
    assert "the ethics board has yet to meet" in acme.command("grants").stdout
    (sent,) = [each for each in acme.lines("requests", "--sent", "--all") if each["id"] == id]
    assert (sent["state"], sent["reason"]) == ("denied", "the ethics board has yet to meet")


def test_what_the_terms_decide_needs_no_person(north: Node, acme: Node, third: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, *automatic("--max-fetches", "2", "--duty", "attribute=North Hospital"))
    acme.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "out")
    assert (tmp_path / "out").read_bytes() == CONTENT
    assert held(acme, id)["duties"] == [{"duty": "attribute=North Hospital", "enforcement": "by contract"}]
    assert "attribute=North Hospital (by contract)" in acme.command("grants", "--held").stdout
    acme.command("fetch", id, "-o", tmp_path / "again")
    used = acme.command("fetch", id, "-o", tmp_path / "more", expect=4)
    assert not (tmp_path / "more").exists(), used
    asked = third.command("fetch", id, "--purpose", PURPOSE, "-o", tmp_path / "third", expect=4)
    assert "waits for 86.north to decide" in asked.stderr


def test_an_answer_that_was_lost_is_got_by_asking_again(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path)
    waiting = acme.begin("lost", "fetch", id, "--purpose", PURPOSE, "--wait", "-o", tmp_path / "out")
    seen = waiting_for(north, id)
    north.kill()
    given = north.json("approve", seen["number"])  # with the daemon gone
    assert waiting.running
    north.start()
    assert waiting.wait(90) == 0, waiting.everything
    assert held(acme, id)["grant"] == given["grant"]


def test_no_request_is_answered_twice_however_often_the_node_is_killed(north: Node, acme: Node, tmp_path: Path) -> None:
    """Kill -9 at random instants while many threads ask; the same request never has two grants."""
    # One object for each thread: of one, no more than limits.GRANTS_A_DAY grants are automatic.
    ids = [Identifier.parse(wrap(north, tmp_path, *automatic())) for _ in range(4)]
    asked: list[bytes] = []
    answers: dict[bytes, set[bytes]] = {}
    stop = threading.Event()

    def ask(client: Client, id: Identifier) -> None:
        while not stop.is_set():
            # Another message: another request. It is asked again until there is an answer, and then once more.
            message = secrets.token_hex(8)
            request = b""
            while not request and not stop.is_set():
                try:
                    request = access.request(client.resolver, client.evidence, id, (Purpose(PURPOSE),), message).request
                except Unreachable:
                    request = _ours(client, message)
            asked.append(request)

    with Client(acme.home) as client:
        threads = [threading.Thread(target=ask, args=(client, id)) for id in ids]
        for thread in threads:
            thread.start()
        for _ in range(KILLS):
            time.sleep(random.uniform(0.05, 0.6))
            north.kill()
            north.start()
        stop.set()
        for thread in threads:
            thread.join(60)
        for request in {*asked}:
            until(lambda request=request: _answered(client, request, answers), "the answer")  # type: ignore[misc]
    grants = [each for each in north.lines("grants", "--given") if {*map(str, ids)} & {*each["ids"]}]
    by_request = [each["request"] for each in grants]
    assert len(by_request) == len(set(by_request))
    assert {request.hex() for request in asked} <= set(by_request)
    assert len(asked) > KILLS
    for request, found in answers.items():
        assert found == {bytes.fromhex(each["grant"]) for each in grants if each["request"] == request.hex()}


def _ours(client: Client, message: str) -> bytes:
    """The request of that message, which was kept before it was sent; empty if it was the registry that was away."""
    with client.evidence.reading() as connection:
        rows = papers.requests(connection, ours=True)
    return next((row.digest for row in rows if row.request.message == message), b"")


def _answered(client: Client, request: bytes, answers: dict[bytes, set[bytes]]) -> bool:
    try:
        answer = access.poll(client.resolver, client.evidence, request)
    except Unreachable:
        return False
    answers.setdefault(request, set()).add(answer.grant)
    return answer.state is RequestState.GRANTED


# Ending.


class Slowly:
    """Reads a stream of a large object, 25 messages a second at most, and keeps when and how it ended."""

    def __init__(self, stream: Stream[Buffer]) -> None:
        self._stream = stream
        self.got, self.ended_at = 0, 0.0
        self.error: HanseError | None = None
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        try:
            for message in self._stream:
                self.got += len(message)
                time.sleep(0.04)
        except HanseError as error:
            self.error = error
        self.ended_at = time.monotonic()

    def end(self, timeout: float) -> None:
        self._thread.join(timeout)


def fetching(client: Client, peer: Peer, id: str, grant: str) -> Stream[Buffer]:
    """All of a large object, by one call."""
    return peer.fetch(
        Identifier.parse(id),
        client.resolve(id, max_age=0).record.record.version,  # terms made a version
        [Span(0, 1)],
        grant=bytes.fromhex(grant),
        delivery=secrets.token_bytes(16),
    )


def slowly(client: Client, peer: Peer, id: str, grant: str) -> Slowly:
    found = Slowly(fetching(client, peer, id, grant))
    until(lambda: found.got > limits.MIB, "the stream to run")
    return found


@pytest.mark.parametrize("registry", ["runs", "is down"])
def test_a_revocation_ends_a_running_stream_within_two_seconds(
    league: League, north: Node, acme: Node, tmp_path: Path, registry: str
) -> None:
    id = wrap(north, tmp_path, *automatic(), length=BIG)
    grant = acme.json("request", id, "--purpose", PURPOSE)["grant"]
    with Client(acme.home) as client, client.resolver.peer(Identifier.parse(id).prefix) as peer:
        reading = slowly(client, peer, id, grant)
        if registry == "is down":
            league.registry.kill()
        north.command("revoke", grant[:8], "--reason", "consent was withdrawn")
        revoked_at = time.monotonic()
        reading.end(30)
        assert isinstance(reading.error, Revoked)
        assert reading.got < BIG // 2
        assert reading.ended_at - revoked_at < BOUND + SLACK
        with pytest.raises(Revoked):  # and the next call at once
            peer.describe(Identifier.parse(id), grant=bytes.fromhex(grant))
    told = acme.command("fetch", id, "-o", tmp_path / "out", expect=4)
    assert "revoked" in told.stderr
    found = held(acme, id)
    assert (found["state"], found["reason"]) == ("revoked", "consent was withdrawn")


def test_who_reads_nothing_is_cut_off_too(north: Node, acme: Node, tmp_path: Path) -> None:
    """What is under way then is at most what fits between the two: the window, and what gRPC has read ahead."""
    id = wrap(north, tmp_path, *automatic(), length=BIG)
    grant = acme.json("request", id, "--purpose", PURPOSE)["grant"]
    with Client(acme.home) as client, client.resolver.peer(Identifier.parse(id).prefix) as peer:
        messages = fetching(client, peer, id, grant)
        messages.wait()
        north.command("revoke", grant)
        row = until(lambda: _ended(north, id, grant), "the stream to be ended", BOUND + SLACK + 5)
        rest: list[int] = []
        with pytest.raises(HanseError):
            rest.extend(len(message) for message in messages)
        assert sum(rest) <= row["bytes"] <= 4 * limits.STREAM_WINDOW_BYTES


def _ended(north: Node, id: str, grant: str) -> dict[str, object] | None:
    """The audit's row of the one stream, when it is over: bytes of one that runs are written every few seconds.

    Until then the grant is charged for what is counted ahead, too.
    """
    (charged,) = [each["bytes"] for each in north.lines("grants", "--given") if each["grant"] == grant]
    rows = [each for each in north.lines("audit", "--object", id) if each["bytes"]]
    return next((each for each in rows if each["bytes"] == charged), None)


def test_a_grant_that_ends_by_its_time_ends_a_running_stream(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path, length=BIG)
    acme.json("request", id, "--purpose", PURPOSE)
    seen = waiting_for(north, id)
    given = north.json("approve", seen["number"], "--until", "12s")  # until the stream runs, and not to its end
    with Client(acme.home) as client, client.resolver.peer(Identifier.parse(id).prefix) as peer:
        reading = slowly(client, peer, id, given["grant"])
        reading.end(30)
        late = time.time() - given["valid_until"] - (time.monotonic() - reading.ended_at)
        assert isinstance(reading.error, NotPermitted)
        assert 0 <= late < BOUND + SLACK
        assert reading.got < BIG
    acme.command("grants")
    assert held(acme, id)["state"] == "over"


# Passing on.


def test_a_narrowed_grant_serves_a_third_organization_until_what_is_above_it_ends(
    north: Node, acme: Node, third: Node, tmp_path: Path
) -> None:
    id = wrap(north, tmp_path, *automatic("--pass-on", "--max-fetches", "3"))
    own = acme.json("request", id, "--purpose", PURPOSE)["grant"]
    paper = tmp_path / "for-third.json"
    wider = acme.command(
        "narrow", own[:12], "--to", "86.third", "--max-fetches", "4", "-o", paper, expect=2
    )  # fmt: skip
    assert "never allows more than its parent: see --max-fetches" in wider.stderr
    assert not paper.exists()
    made = acme.json("narrow", own[:12], "--to", "86.third", "--max-fetches", "2", "--until", "2h", "-o", paper)

    stolen = acme.command("grants", "--take", paper, expect=4)
    assert "is for 86.third" in stolen.stderr
    taken = third.json("grants", "--take", paper)
    assert (taken["grant"], taken["issuer"], taken["max_fetches"]) == (made["grant"], "86.acme", 2)
    third.command("fetch", id, "-o", tmp_path / "third")
    assert (tmp_path / "third").read_bytes() == CONTENT
    acme.command("fetch", id, "-o", tmp_path / "acme")
    given = {each["grant"]: each["fetches"] for each in north.lines("grants", "--given") if id in each["ids"]}
    assert given == {own: 2, made["grant"]: 1}

    north.command("revoke", own[:12], "--reason", "the contract ended")
    refused = third.command("fetch", id, "-o", tmp_path / "again", expect=4)
    assert "revoked" in refused.stderr
    assert held(third, id)["state"] == "revoked"
    assert "revoked by 86.north" in third.command("grants", "--held").stdout


def test_who_narrowed_a_grant_can_end_it_also_while_its_owner_is_away(
    north: Node, acme: Node, third: Node, tmp_path: Path
) -> None:
    id = wrap(north, tmp_path, *automatic("--pass-on"))
    own = acme.json("request", id, "--purpose", PURPOSE)["grant"]
    paper = tmp_path / "for-third.json"
    made = acme.json("narrow", own, "--to", "86.third", "-o", paper)
    third.command("grants", "--take", paper)
    third.command("fetch", id, "-o", tmp_path / "third")
    north.kill()
    assert acme.json("revoke", made["grant"], "--reason", "enough")["told"] is False
    north.start()
    until(lambda: "could not be asked" not in acme.command("grants").stderr, "its owner to be told")
    third.command("fetch", id, "-o", tmp_path / "again", expect=4)
    acme.command("fetch", id, "-o", tmp_path / "acme")


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "this is no grant to take"),
        ("{}", "this is no grant"),
        ('{"kind": "hanse grant 1", "grants": ["//8="]}', ""),
    ],
)
def test_what_is_no_grant_is_not_taken(acme: Node, tmp_path: Path, text: str, why: str) -> None:
    (tmp_path / "paper").write_text(text)
    refused = acme.command("grants", "--take", tmp_path / "paper", expect=2)
    assert why in refused.stderr
