"""Requests, grants and their ends between real nodes: asked, given, used, narrowed, revoked, lost and found again.

Bounds on time: a revocation ends a running stream within 2 s of the command's end; SLACK is what a loaded machine may
add until a process is scheduled and its end is seen.
"""

from pathlib import Path

import pytest

from tests.processes import League, Node, until

pytestmark = pytest.mark.timeout(300)
PURPOSE = "health-research"


@pytest.fixture
def league(tmp_path: Path):
    with League(tmp_path) as made:
        yield made


@pytest.fixture
def north(league: League) -> Node:
    return league.join("86.north")


@pytest.fixture
def acme(league: League) -> Node:
    return league.join("86.acme")


def wrap(north: Node, folder: Path, content: bytes = b"patient,dose\n1,20\n", *options: str) -> str:
    """An object on request, published."""
    path = folder / "visits.csv"
    path.write_bytes(content)
    id = north.json("add", path, *options)["id"]
    north.published()
    return str(id)


def test_a_request_is_seen_approved_and_fetched_under_its_grant(north: Node, acme: Node, tmp_path: Path) -> None:
    id = wrap(north, tmp_path)

    refused = acme.command("fetch", id, "-o", tmp_path / "out", expect=4)
    assert f"hanse request {id} --purpose" in refused.stderr

    asked = acme.json("request", id, "--purpose", PURPOSE, "--message", "for the trial")
    assert asked["state"] == "waiting"
    assert acme.json("request", id, "--purpose", PURPOSE)["request"] == asked["request"]

    (seen,) = north.lines("requests")
    assert (seen["peer"], seen["id"], seen["purposes"], seen["message"]) == ("86.acme", id, [PURPOSE], "for the trial")
    assert seen["key_id"] == acme.json("status")["key_id"]

    waiting = acme.begin("fetch", "fetch", id, "--wait", "-o", tmp_path / "out")
    until(lambda: "waits for 86.north" in waiting.stderr, "the fetch to wait")
    given = north.json("approve", seen["number"], "--until", "30d", "--max-fetches", "3")
    assert waiting.wait(30) == 0, waiting.everything
    assert (tmp_path / "out").read_bytes() == b"patient,dose\n1,20\n"

    (held,) = acme.lines("grants")
    assert (held["grant"], held["side"], held["state"], held["max_fetches"]) == (given["grant"], "held", "valid", 3)
    (of_north,) = north.lines("grants", "--given")
    assert (of_north["fetches"], of_north["bytes"]) == (1, 18)
    assert north.lines("requests") == []
