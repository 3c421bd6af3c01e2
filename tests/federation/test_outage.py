"""The registry is down, a daemon is asked to stop, a member is suspended: everybody else goes on."""

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest

from hanse.client.identity import MARKER, Identity
from hanse.client.peer import Span
from hanse.home import Home
from hanse.model.address import Address
from hanse.rpc import status
from hanse.rpc.channel import dial
from tests.breaking import MIB, Slowed, equal_files, journaled, write_content
from tests.nodes import fetch_request
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("outage")]

NORTH, SOUTH = "86.north", "86.south"
SIZE = 256 * MIB


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        made.join(NORTH)
        made.join(SOUTH, serve=False)
        yield made


@pytest.fixture(scope="module")
def north(league: League) -> Node:
    return league.nodes[NORTH]


@pytest.fixture(scope="module")
def south(league: League) -> Node:
    return league.nodes[SOUTH]


@pytest.fixture(scope="module")
def file(north: Node, south: Node, league: League) -> Path:
    """Wrapped as 'file', and published."""
    path = write_content(league.folder / "data/file", SIZE)
    north.command("add", path, "--id", "file", "--open")
    north.published()
    south.command("fetch", f"{NORTH}/file", "-o", league.folder / "known")  # so that each knows the other
    return path


def stream_of(north: Node, south: Node, chunks: int = SIZE // MIB) -> tuple[grpc.Channel, grpc.Call]:
    """South's connection to north's node, and a Fetch of the file on it that nobody reads yet."""
    owner, caller = (Identity.load(Home.open(each.home, MARKER, "")) for each in (north, south))
    channel = dial(
        Address.parse(north.process.address),
        roots=owner.node_certificate,
        server_name=owner.prefix.server_name,
        key=caller.tls_key,
        chain=caller.member_certificate,
    )
    request = fetch_request(f"{NORTH}/file", 1, [Span(0, 0, 0, chunks)])
    return channel, channel.unary_stream("/hanse.v1.Node/Fetch")(request, timeout=120)


def test_without_the_registry_a_league_goes_on_and_catches_up(
    league: League, north: Node, south: Node, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    league.registry.kill()
    # Adding goes on, and status says what waits and why.
    for number in range(3):
        north.command("add", tmp_path / "small", "--id", f"meanwhile-{number}", "--open")
    waiting = until(
        lambda: (found := north.json("status"))["last_error"] and found, "the node to have tried to publish"
    )
    assert waiting["waiting"] == 3
    assert "the registry" in waiting["last_error"]
    assert waiting["registry_error"]
    assert waiting["membership_age"] <= 60
    shown = north.command("status").stdout
    assert "3, the oldest since" in shown
    assert "Working with what it said" in shown
    # What was resolved before is answered from the cache, with its age.
    cached = south.command("resolve", f"{NORTH}/file")
    assert "ago" in cached.stdout, str(cached)
    assert south.json("resolve", f"{NORTH}/file")["from_cache"]
    # A known object is fetched, because both know who belongs to the league.
    south.command("fetch", f"{NORTH}/file", "-o", tmp_path / "got")
    assert equal_files(tmp_path / "got", file)
    # What was never seen cannot be found, and that is worth trying again.
    unknown = south.command("resolve", f"{NORTH}/meanwhile-0", expect=5)
    assert "the registry" in unknown.stderr
    league.registry.start()
    began = time.monotonic()
    north.published()
    print(f"published {time.monotonic() - began:.1f} s after the registry was back")
    for number in range(3):
        assert south.json("resolve", f"{NORTH}/meanwhile-{number}")["version"] == 1


def test_after_a_long_outage_publishing_goes_on_within_seconds_too(league: League, north: Node, tmp_path: Path) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    league.registry.kill()
    north.command("add", tmp_path / "small", "--id", "long-outage", "--open")
    # Its waits double with each failure: the next one is up to 16 s.
    until(lambda: '"failures": 5' in north.process.everything, "five tries")
    league.registry.start()
    began = time.monotonic()
    north.published()
    print(f"published {time.monotonic() - began:.1f} s after the registry was back")


def test_a_node_that_is_stopped_lets_a_running_fetch_end(north: Node, south: Node, file: Path, tmp_path: Path) -> None:
    target = tmp_path / "got"
    fetching = south.begin("drained", "fetch", f"{NORTH}/file", "-o", target)
    # So that it is not over before the node is stopped, and what is left takes no ten seconds on a slow machine.
    with Slowed(fetching, lambda: journaled(target)[0], 64):
        until(lambda: journaled(target)[0] >= SIZE // MIB // 2 or not fetching.running, "half of the chunks to arrive")
        assert fetching.running
    began = time.monotonic()
    assert north.process.terminate() == 0
    assert time.monotonic() - began < 60
    assert fetching.wait() == 0, fetching.everything
    assert equal_files(target, file)
    assert "Traceback" not in north.process.everything
    north.start()


def test_a_node_that_is_stopped_does_not_wait_for_ever_and_forgets_nothing(
    league: League, north: Node, south: Node, file: Path, tmp_path: Path
) -> None:
    (tmp_path / "small").write_bytes(b"a,b\n")
    before = {each["id"] for each in north.lines("list")}
    league.registry.kill()
    north.command("add", tmp_path / "small", "--id", "before-the-end", "--open")
    channel, call = stream_of(north, south)
    next(call)  # and not another
    began = time.monotonic()
    assert north.process.terminate() == 0
    took = time.monotonic() - began
    print(f"stopped after {took:.1f} s")
    assert 9 <= took < 60, "a running stream gets its ten seconds, and not for ever"
    channel.close()
    assert {each["id"] for each in north.lines("list")} == before | {f"{NORTH}/before-the-end"}
    assert north.json("status")["waiting"] >= 1
    league.registry.start()
    north.start()
    north.published()
    assert south.json("resolve", f"{NORTH}/before-the-end")["version"] == 1


def test_a_registry_that_is_stopped_ends_well(league: League, north: Node) -> None:
    began = time.monotonic()
    assert league.registry.process.terminate() == 0
    assert time.monotonic() - began < 60
    assert "Traceback" not in league.registry.process.everything
    league.registry.start()
    assert {each["prefix"] for each in league.registry.command("orgs", "--json").lines} == {NORTH, SOUTH}


def test_a_suspension_ends_a_running_stream_and_the_command(
    league: League, north: Node, south: Node, file: Path, tmp_path: Path
) -> None:
    target = tmp_path / "got"
    fetching = south.begin("suspended", "fetch", f"{NORTH}/file", "-o", target)
    with Slowed(fetching, lambda: journaled(target)[0], 8):
        until(lambda: journaled(target)[0] >= 5 or not fetching.running, "some chunks to arrive")
        assert fetching.running
        league.registry.command("suspend", SOUTH, "--reason", "did not pay")
        began = time.monotonic()
        try:
            code = fetching.wait(90)
        finally:
            took = time.monotonic() - began
            print(f"ended {took:.1f} s after the suspension, with {journaled(target)[0]} of {SIZE // MIB} chunks")
    assert code == 4, fetching.everything
    assert "suspended" in fetching.stderr
    assert took < 60
    assert not target.exists()
    refused = south.command("fetch", f"{NORTH}/file", "-o", target, expect=4)
    assert "suspended" in refused.stderr
    assert "did not pay" in south.command("doctor", expect=4).stdout
    league.registry.command("restore", SOUTH)
    until(
        lambda: south.command("fetch", f"{NORTH}/file", "-o", target, expect=None).code == 0,
        "the restoration to be known",
    )  # fmt: skip
    assert equal_files(target, file)


def test_a_reader_that_takes_little_is_ended_by_a_suspension_too(
    league: League, north: Node, south: Node, file: Path
) -> None:
    channel, call = stream_of(north, south)
    try:
        next(call)
        league.registry.command("suspend", SOUTH)
        began = time.monotonic()
        received = 1
        ended: grpc.RpcError | None = None
        try:
            for _ in call:
                received += 1
                time.sleep(0.2)
        except grpc.RpcError as error:
            ended = error
        took = time.monotonic() - began
        assert ended is not None, "all of it arrived"
        told = status.from_rpc(ended, "north")
        print(f"ended after {took:.1f} s and {received} messages: {told.reason}: {told}")
        assert took < 60  # what was on its way is read at five messages a second
        assert told.reason in ("Suspended", "Unreachable")  # the latter: it took too little to be told
    finally:
        channel.close()
        league.registry.command("restore", SOUTH)
