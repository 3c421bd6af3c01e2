"""Terms and policies at a daemon that serves: what is set is in force at the next call, and at what is running."""

import os
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest
from click.testing import CliRunner

from hanse.client.client import Client
from hanse.client.peer import Span
from hanse.errors import GrantNeeded, HanseError, HomeUnusable, NotFound, NotPermitted
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, Operation, Party, Permission, Terms
from node import doctor
from node.cli import main
from node.own_policies import FOLDER
from node.status import status
from tests.league import Registry, eventually
from tests.nodes import Caller, Node, fetch_request, raised

TRIAL = "86.north/trial"
FOR_ACME = Terms.allowing(["86.acme"])
AGAINST_ACME = 'forbid (principal == Hanse::Organization::"86.acme", action, resource);'


@dataclass
class Scene:
    north: Node
    acme: Node
    data: Path

    def own(self, text: str, name: str = "own.cedar") -> Path:
        folder = self.north.folder / FOLDER
        folder.mkdir(exist_ok=True)
        path = folder / name
        written = path.with_suffix(".new")
        written.write_text(text)
        written.replace(path)  # at once: what is there in between counts too
        return path

    def set(self, terms: Terms) -> None:
        with self.north.catalog() as catalog:
            catalog.set_terms("trial", terms)


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    data = tmp_path / "data.bin"
    data.write_bytes(os.urandom(3_000_000))
    with (
        Registry.start(tmp_path / "registry") as registry,
        Node.start(registry, "86.north", tmp_path / "north") as north,
    ):
        north.add(data, "trial", FOR_ACME)
        yield Scene(north, Node.join(registry, "86.acme", tmp_path / "acme"), data)


@pytest.fixture
def acme(scene: Scene) -> Iterator[Caller]:
    with Caller(scene.acme.identity, scene.north) as caller:
        yield caller


def gets_it(caller: Caller) -> bool:
    try:
        caller.describe(TRIAL)
    except NotPermitted:
        return False
    return True


# Terms.


def test_terms_that_are_set_while_the_node_serves_are_in_force_at_the_next_call(scene: Scene, acme: Caller) -> None:
    assert acme.fetch(TRIAL, 1, [Span(0, 1)]) == scene.data.read_bytes()
    scene.set(Terms())
    with pytest.raises(GrantNeeded, match="for a grant"):
        acme.describe(TRIAL)
    scene.set(Terms.opened())
    assert acme.fetch(TRIAL, 2, [Span(0, 1)]) == scene.data.read_bytes()


def test_what_needs_a_grant_is_not_given_without_one(scene: Scene, acme: Caller) -> None:
    scene.set(Terms(permissions=(Permission((Party.parse("86.acme"),), Conditions(max_fetches=3)),)))
    with pytest.raises(GrantNeeded):
        acme.fetch(TRIAL, 1, [Span(0, 1)])


def test_compute_only_gives_neither_bytes_nor_their_hashes(scene: Scene, acme: Caller) -> None:
    described = Permission((), Conditions(operations=(Operation.DESCRIBE,)))
    scene.set(Terms(AccessMode.COMPUTE_ONLY, (described,)))
    assert acme.describe(TRIAL)
    with pytest.raises(NotPermitted):
        acme.fetch(TRIAL, 2, [Span(0, 1)])
    with pytest.raises(NotPermitted):
        acme.hashes(TRIAL, 2, 0)
    with Caller(scene.north.identity, scene.north) as owner:
        assert owner.fetch(TRIAL, 2, [Span(0, 1)]) == scene.data.read_bytes()


def test_the_public_sees_mode_purposes_and_duties_and_nobody_who_is_named(scene: Scene) -> None:
    conditions = Conditions(
        purposes=(Purpose.parse("academic-research"),),
        duties=(Duty.parse("delete-after=30d"), Duty.parse("do-not-pass-on")),
        max_fetches=3,
    )
    scene.set(Terms(permissions=(Permission((Party.parse("86.acme"),), conditions),)))
    scene.north.published()
    with Client(scene.acme.folder) as client:
        record = client.resolve(TRIAL, max_age=0).record.record
    assert record.version == 2
    assert record.access.mode is AccessMode.ON_REQUEST
    assert record.access.purposes == ("academic-research",)
    assert record.access.duties == (
        "delete within 30 days of fetching (enforced by the consumer's node)",
        "do not pass on (enforced by contract)",
    )
    assert "acme" not in str(record)
    told = CliRunner().invoke(main, ["--home", str(scene.acme.folder), "resolve", TRIAL]).stdout
    assert "on request: its owner decides who may fetch it (academic-research)" in told
    assert "delete within 30 days of fetching (enforced by the consumer's node)" in told
    assert "do not pass on (enforced by contract)" in told


# The owner's own policies.


def test_a_policy_is_taken_while_the_node_serves_and_a_wrong_one_changes_nothing(scene: Scene, acme: Caller) -> None:
    assert gets_it(acme)
    scene.own(AGAINST_ACME)
    eventually(lambda: not gets_it(acme))
    assert not gets_it(acme)  # once more: the last may have been let in, and ended a moment later
    assert scene.north.audit()[-1].decided.why == "forbidden by policies/own.cedar:1"

    scene.own(AGAINST_ACME + "\n\nforbid (principal")
    daemon = scene.north.daemon
    assert daemon is not None
    eventually(lambda: "policies/own.cedar:3" in daemon.own_policies.problem)
    assert not gets_it(acme)
    told = status(scene.north.folder)
    assert told.own_policies is None
    assert "policies/own.cedar:3" in told.policies_problem
    findings = [each for each in doctor.examine(scene.north.folder) if each.check == "policies"]
    assert [(each.grade, "policies/own.cedar:3" in each.text) for each in findings] == [(doctor.Grade.FAIL, True)]

    scene.own("// nothing any more")
    eventually(lambda: gets_it(acme))
    assert status(scene.north.folder).own_policies == 0


def read_slowly(stream: Iterator[bytes]) -> None:
    """So that there is always more to come."""
    for _ in stream:
        time.sleep(0.2)


def test_a_policy_ends_what_is_running(scene: Scene, acme: Caller, tmp_path: Path) -> None:
    large = tmp_path / "large.bin"
    large.write_bytes(os.urandom(64 << 20))
    scene.north.add(large, "large", FOR_ACME)
    stream = acme.call("Fetch", fetch_request("86.north/large", 1, [Span(0, 1)]))
    next(stream)
    scene.own(AGAINST_ACME)
    with pytest.raises(HanseError), raised():
        read_slowly(stream)
    # A stream whose reader does not take anything can only be cut.
    assert stream.code() in (grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.CANCELLED)
    with pytest.raises(NotPermitted):
        acme.describe("86.north/large")


def test_to_whom_a_policy_forbids_it_an_unlisted_object_does_not_exist(scene: Scene, acme: Caller) -> None:
    scene.north.add(scene.data, "secret", FOR_ACME, unlisted=True)
    assert acme.describe("86.north/secret")
    scene.own(AGAINST_ACME)

    def is_absent() -> bool:
        try:
            acme.describe("86.north/secret")
        except NotFound as error:
            return "or none for you" in str(error)
        return False

    eventually(is_absent)


def test_a_node_does_not_start_with_a_policy_that_it_cannot_take(scene: Scene) -> None:
    scene.own("permit (principal, action, resource);")
    scene.north.stop()
    with pytest.raises(HomeUnusable, match=r"policies/own\.cedar:1: own policies forbid"):
        scene.north.serve()
    scene.own(AGAINST_ACME)
    scene.north.serve()
    with Caller(scene.acme.identity, scene.north) as acme:
        assert not gets_it(acme)
