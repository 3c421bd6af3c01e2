"""The real command against a registry that lies: exit code 6, a message that names what is wrong, nothing believed.

The registry is simulated, since ours refuses to lie; the command is `hanse`, in a process of its own.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hanse import wire
from hanse.client.client import Client
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.organization import IdentityKey
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from tests.processes import Result, run
from tests.simulator import ROOT, Organization, SimulatedLeague, Version

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("lying-registry")]

X = "86.north/x"
OFFERED = "version 1 of 86.north/x was offered, but version 2 was seen before"


@dataclass
class Scene:
    """North has published two versions of x, and acme's home has seen the second."""

    league: SimulatedLeague
    north: Organization
    versions: list[Version]
    home: Path
    out: Path

    def hanse(self, *arguments: object) -> Result:
        result = run("node.cli", *arguments, "--home", self.home)
        assert "Traceback" not in result.stderr, str(result)
        return result

    def offer(self, envelope: Envelope) -> None:
        self.league.records[X] = envelope

    @property
    def newest(self) -> Envelope:
        return self.versions[-1].record_envelope


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SimulatedLeague() as league:
        north = league.join("86.north")
        # Each answer is asked for anew: what lies in the cache is no lie.
        versions = [north.wrap("x", content, time_to_live=0) for content in (b"first", b"second")]
        home = league.join("86.acme").home(tmp_path / "acme")
        with Client(home) as client:
            assert client.resolve(X).record.record.version == 2
        (tmp_path / "out").mkdir()
        yield Scene(league, north, versions, home, tmp_path / "out")


def altered(scene: Scene) -> None:
    """The registry writes a line into the owner's record."""
    record = replace(scene.versions[-1].record, metadata=replace(scene.versions[-1].record.metadata, title="Better"))
    scene.offer(replace(scene.newest, payload=wire.encode_record(record)))


def forged(scene: Scene) -> None:
    """The registry makes up a next version, and a key to sign it."""
    made_up = scene.north.make("x", [], [], False, key=SigningKey.generate(), time_to_live=0)
    scene.offer(made_up.record_envelope)


def signed_by_another_member(scene: Scene) -> None:
    scene.offer(sign(PayloadType.RECORD, scene.newest.payload, scene.league.join("86.mallory").key))


def signed_by_the_registry(scene: Scene) -> None:
    scene.offer(sign(PayloadType.RECORD, scene.newest.payload, scene.league.key))


def without_a_signature(scene: Scene) -> None:
    scene.offer(replace(scene.newest, signatures=()))


def rolled_back(scene: Scene) -> None:
    scene.offer(scene.versions[0].record_envelope)


def of_another_kind(scene: Scene) -> None:
    scene.offer(replace(scene.newest, payload_type=PayloadType.MANIFEST))


def with_a_swapped_key(scene: Scene) -> None:
    """An organization record that names the registry's key, which signs a record too."""
    key, north = SigningKey.generate(), scene.north
    assert north.record is not None
    north.publish_organization(key, keys=(IdentityKey(key.public, scene.league.now), *north.record.keys[1:]))
    scene.offer(north.make("x", [], [], False, key=key, time_to_live=0).record_envelope)


def with_a_swapped_key_and_the_true_one_as_its_predecessor(scene: Scene) -> None:
    key, north, now = SigningKey.generate(), scene.north, scene.league.now
    assert north.record is not None
    before = (replace(north.record.keys[0], valid_until=now), *north.record.keys[1:])
    north.publish_organization(key, keys=(IdentityKey(key.public, now), *before))
    scene.offer(north.make("x", [], [], False, key=key, time_to_live=0).record_envelope)


def with_an_altered_organization(scene: Scene) -> None:
    """The owner's record, but with another address to go to; and an object record of a key that only it explains."""
    north = scene.north
    assert north.record is not None
    moved = replace(north.record, version=north.record.version + 1, contact="call me")
    north.history.append(replace(north.history[-1], payload=wire.encode_organization(moved)))
    forged(scene)


def with_another_history(scene: Scene) -> None:
    north = scene.north
    impostor = Organization(scene.league, north.prefix, SigningKey.generate(), north.tls_key, north.node_certificate)
    for _ in range(len(north.history) + 1):
        impostor.publish_organization()
    scene.league.organizations[north.prefix] = impostor
    scene.offer(impostor.make("x", [], [], False, time_to_live=0).record_envelope)


NOT_SIGNED = "the record of 86.north/x is not signed by 86.north"
OF_THE_OWNER = [
    (altered, NOT_SIGNED),
    (forged, NOT_SIGNED),
    (signed_by_another_member, NOT_SIGNED),
    (signed_by_the_registry, NOT_SIGNED),
    (without_a_signature, NOT_SIGNED),
    (rolled_back, OFFERED),
    (of_another_kind, "was offered as one for 'application/vnd.hanse.record.v1'"),
    (with_a_swapped_key, "86.north is offered with the new key"),
    (with_a_swapped_key_and_the_true_one_as_its_predecessor, "86.north is offered with the new key"),
    (with_an_altered_organization, "86.north is not signed by the key that it names"),
    (with_another_history, "86.north"),
]


@pytest.mark.parametrize(("lie", "names"), OF_THE_OWNER, ids=[lie.__name__ for lie, _ in OF_THE_OWNER])
def test_a_lie_about_an_object_that_was_seen_is_refused_by_resolve_search_and_fetch(
    scene: Scene, lie: Callable[[Scene], None], names: str
) -> None:
    truth, history = dict(scene.league.records), list(scene.north.history)
    lie(scene)
    resolved = scene.hanse("resolve", X)
    assert (resolved.code, resolved.stdout) == (6, ""), str(resolved)
    assert names in resolved.stderr
    found = scene.hanse("search", "Title")
    assert found.code == 6, str(found)
    assert X not in found.stdout
    assert "left out" in found.stderr
    assert names in found.stderr
    fetched = scene.hanse("fetch", X, "-o", scene.out / "x")
    assert (fetched.code, fetched.stdout) == (6, ""), str(fetched)
    assert names in fetched.stderr
    assert list(scene.out.iterdir()) == []

    # The lie left nothing behind: what is true is believed as before.
    scene.league.records, scene.north.history = truth, history
    scene.league.organizations[scene.north.prefix] = scene.north
    with Client(scene.home) as client:
        assert client.resolve(X).record.envelope == scene.newest


@pytest.mark.parametrize("command", [("resolve", X), ("fetch", X)], ids=lambda command: command[0])
def test_an_object_that_is_held_back_after_it_was_seen(scene: Scene, command: tuple[str, ...]) -> None:
    del scene.league.records[X]
    result = scene.hanse(*command)
    assert result.code == 6, str(result)
    assert "there is no 86.north/x, but it gave version 2 before" in result.stderr


@pytest.mark.parametrize("lie", [altered, forged, signed_by_another_member, of_another_kind])
def test_a_lie_is_refused_at_first_contact_too(scene: Scene, tmp_path: Path, lie: Callable[[Scene], None]) -> None:
    lie(scene)
    scene.home = scene.league.join("86.newcomer").home(tmp_path / "newcomer")
    result = scene.hanse("resolve", X)
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "86.north" in result.stderr or "application/vnd.hanse.record.v1" in result.stderr


def test_a_whole_organization_that_the_registry_invents_is_refused_where_its_key_was_told(
    scene: Scene, tmp_path: Path
) -> None:
    true_key = scene.north.key.public.key_id
    with_another_history(scene)
    scene.home = scene.league.join("86.newcomer").home(tmp_path / "newcomer")
    assert scene.hanse("trust", "86.north", true_key).code == 0
    result = scene.hanse("resolve", X)
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert f"but you pinned {true_key}" in result.stderr


def server_certificate(league: SimulatedLeague, key: tls.TlsKey, owner: Organization) -> bytes:
    """What the league's authority can issue to itself: a server's certificate in a member's name."""
    issuer = tls.x509.load_der_x509_certificate(league.ca_certificate).subject
    prefix = owner.prefix
    builder = tls._builder(str(prefix), issuer, key.private.public_key(), league.now, 86_400, ca=False)
    usage = tls.ExtendedKeyUsageOID.SERVER_AUTH
    return tls._sign(tls._end_entity(builder, tls.member_id(ROOT, prefix), prefix.server_name, usage), league.ca_key)


@pytest.mark.parametrize("made_by", ["the authority", "itself"])
def test_the_registry_cannot_stand_in_for_a_members_node(scene: Scene, made_by: str) -> None:
    """A man in the middle at the owner's own address, with a certificate in the owner's name."""
    node, key = scene.north.node, tls.TlsKey.generate()
    assert node is not None
    node.stop()
    node.tls_key = key
    if made_by == "itself":
        node.certificate = tls.make_node_certificate(key, ROOT, scene.north.prefix, scene.league.now)
    else:
        node.certificate = server_certificate(scene.league, key, scene.north)
    node.start()
    result = scene.hanse("fetch", X, "-o", scene.out / "x")
    assert result.code == 6, str(result)
    assert "does not have the key that 86.north names in its own signed record" in result.stderr
    assert list(scene.out.iterdir()) == []
    assert node.calls == []


def test_an_address_that_the_registry_swaps_is_refused_as_not_the_owners_word(scene: Scene) -> None:
    """Where to find a node stands in the owner's signed record: the registry cannot send anybody elsewhere."""
    north = scene.north
    assert north.record is not None
    (node,) = north.record.nodes
    elsewhere = replace(north.record, version=north.record.version + 1, nodes=(replace(node, address=None),))
    north.history.append(replace(north.history[-1], payload=wire.encode_organization(elsewhere)))
    result = scene.hanse("resolve", X)
    assert result.code == 6, str(result)
    assert "the record of 86.north is not signed by the key that it names" in result.stderr


@pytest.mark.parametrize(
    ("method", "lie"),
    [
        ("resolve", lambda answer: (answer.resolutions.append(answer.resolutions[0]), answer)[1]),
        ("resolve", lambda answer: (answer.ClearField("resolutions"), answer)[1]),
        ("resolve", lambda answer: (setattr(answer.resolutions[0], "state", 77), answer)[1]),
        ("resolve", lambda answer: (setattr(answer.resolutions[0].record, "payload", b"\xff"), answer)[1]),
        ("resolve", lambda answer: (setattr(answer.organizations[0], "payload", b"\xff"), answer)[1]),
        ("resolve", lambda answer: (answer.resolutions[0].ClearField("record"), answer)[1]),
    ],
    ids=["one too many", "none", "no such state", "no record", "no organization", "left out"],
)
def test_an_answer_that_makes_no_sense_is_the_registrys_fault(scene: Scene, method: str, lie: Any) -> None:
    scene.league.lies[method] = lie
    result = scene.hanse("resolve", X)
    assert (result.code, result.stdout) == (6, ""), str(result)
    assert "registry" in result.stderr or "record" in result.stderr
