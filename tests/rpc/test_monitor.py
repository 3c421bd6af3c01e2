"""The monitor against a registry that lies in its log, or lets somebody act in a member's name; in one process.

The registry is simulated: it signs checkpoints of whatever its log is made to be, and shows whatever it likes of it.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from hanse import limits, transparency, verifier, wire
from hanse.client.client import Client
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.log import RegistryLog
from hanse.client.storage.known import FILE as KNOWN
from hanse.client.storage.known import Known
from hanse.errors import RolledBack, VerificationFailed
from hanse.merkle import RootBuilder, root, verify_consistency, verify_inclusion
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import IdentityKey, NodeEndpoint
from hanse.model.resolution import Change
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from node import monitor as following
from node.catalog import CATALOG
from node.monitor import Look, Monitor
from node.own_name import Finding, Kind
from node.storage.catalog import CatalogStorage
from node.storage.monitor import FILE, MonitorStorage
from tests.league import Registry
from tests.nodes import Node
from tests.simulator import ROOT, Organization, SimulatedLeague

X, Y = "86.north/x", "86.north/y"


@dataclass
class Scene:
    """North's home and its monitor; acme publishes beside it. What north signs itself is in its catalog."""

    league: SimulatedLeague
    north: Organization
    acme: Organization
    identity: Identity
    registry: League
    known: Known
    catalog: CatalogStorage
    storage: MonitorStorage

    @property
    def monitor(self) -> Monitor:
        return Monitor(lambda: self.identity, lambda: self.registry, self.known, self.catalog, self.storage)

    def look(self) -> Look:
        return self.monitor.look()

    def found(self) -> list[tuple[Kind, int]]:
        return [(each.kind, each.position) for each in self.look().found]

    def kept(self) -> list[Finding]:
        return [each.finding for each in self.storage.findings()]


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    with SimulatedLeague() as league, contextlib.ExitStack() as stack:
        north, acme = league.join("86.north"), league.join("86.acme")
        with Client(north.home(tmp_path / "north")) as client:
            identity = client.identity
        close = stack.enter_context
        registry = close(League(identity))
        known = close(contextlib.closing(Known.open(identity.home / KNOWN)))
        catalog = close(contextlib.closing(CatalogStorage.open(identity.home / CATALOG)))
        storage = close(contextlib.closing(MonitorStorage.open(identity.home / FILE)))
        north.serve()
        for each in north.history:
            catalog.put_organization(each, league.now, enqueued=False)
        for suffix in ("a", "b", "c"):
            acme.wrap(suffix, b"content")
        yield Scene(league, north, acme, identity, registry, known, catalog, storage)


def proved(finding: Finding, scene: Scene) -> bool:
    """Whether what was found stands in what the registry signed: by the finding alone."""
    authority = wire.decode_authority(scene.league.authority)
    signed = transparency.verify(finding.note, authority).checkpoint
    if finding.kind is Kind.CERTIFICATE:
        leaf = transparency.certificate_leaf(finding.content)
    else:
        leaf = transparency.leaf_of(wire.decode_envelope(finding.content))
    digest = transparency.leaf_hash(leaf)
    path = [finding.path[at : at + 32] for at in range(0, len(finding.path), 32)]
    proof = [finding.consistency[at : at + 32] for at in range(0, len(finding.consistency), 32)]
    found = verifier.root_from_proof(digest, finding.position - 1, finding.size, finding.path)
    assert found is not None
    verify_inclusion(digest, finding.position - 1, finding.size, path, found)
    verify_consistency(finding.size, found, signed.size, signed.root, proof)
    return True


def test_others_entries_are_nobodys_business(scene: Scene) -> None:
    scene.acme.rotate()
    scene.acme.wrap("d", b"content")
    assert scene.look() == Look((), len(scene.league.leaves), len(scene.league.leaves))
    assert scene.look().found == ()


def test_a_record_that_the_catalog_does_not_have_is_found_and_proved(scene: Scene) -> None:
    scene.look()
    scene.north.wrap("x", b"content")
    place = len(scene.league.leaves)
    assert scene.found() == [(Kind.RECORD, place)]
    (finding,) = scene.kept()
    assert "version 1 of 86.north/x (signed with your key" in finding.what
    assert "this home's catalog lacks" in finding.what
    assert "somebody has your key" in finding.remedy
    assert proved(finding, scene)
    assert scene.found() == []  # once
    assert len(scene.kept()) == 1


def test_a_tombstone_and_what_nobody_signed_are_told_apart(scene: Scene) -> None:
    scene.north.wrap("x", b"content")
    scene.north.withdraw("x", "gone")
    scene.north.wrap("y", b"content", key=SigningKey.generate())
    scene.look()
    first, tombstone, invented = (each for each in scene.kept() if each.kind is Kind.RECORD)
    assert "a tombstone" in tombstone.what
    assert "a tombstone" not in first.what
    assert "not signed by you" in invented.what
    assert "nobody who checks believes it" in invented.remedy


def test_an_identifier_in_other_letters_is_still_ours(scene: Scene) -> None:
    record = scene.acme.make("z", [], [], False).record
    payload = wire.encode_record(record).replace(b"86.acme/z", b"86.NORTH/")
    payload = payload.replace(b"\n\x0986.NORTH/", b"\n\x0a86.NORTH/z")
    scene.league.log_entry(sign(PayloadType.RECORD, payload, scene.north.key))
    assert scene.found() == [(Kind.RECORD, len(scene.league.leaves))]


def test_a_neighbour_of_ours_by_name_is_not_us(scene: Scene) -> None:
    east = scene.league.join("86.north-east")
    east.wrap("x", b"content")
    request = tls.make_request(east.tls_key, east.prefix)
    league = scene.league
    league.log_entry(tls.issue_member(league.ca_key, league.ca_certificate, request, ROOT, east.prefix, league.now))
    assert scene.found() == []


def test_an_organization_record_that_is_not_our_own_is_found(scene: Scene) -> None:
    thief = SigningKey.generate()
    other = tls.make_node_certificate(tls.TlsKey.generate(), ROOT, scene.north.prefix, scene.league.now)
    record = scene.north.record
    assert record is not None
    old = replace(record.keys[0], valid_until=scene.league.now)
    scene.north.publish_organization(
        thief,
        scene.north.key,
        keys=(IdentityKey(thief.public, scene.league.now), old),
        nodes=(*record.nodes, NodeEndpoint(Address("198.51.100.7", 7100), other)),
    )
    assert scene.found() == [(Kind.ORGANIZATION, len(scene.league.leaves))]
    (finding,) = scene.kept()
    assert f"the key {thief.public.key_id}" in finding.what
    assert "a node at 198.51.100.7:7100" in finding.what
    assert "signed with your key" in finding.what
    assert proved(finding, scene)


def test_a_certificate_is_ours_only_with_a_key_that_our_record_names(scene: Scene) -> None:
    league = scene.league

    def issue(key: tls.TlsKey, prefix: Prefix) -> bytes:
        request = tls.make_request(key, prefix)
        return tls.issue_member(league.ca_key, league.ca_certificate, request, ROOT, prefix, league.now)

    league.log_entry(issue(scene.north.tls_key, scene.north.prefix))
    league.log_entry(issue(tls.TlsKey.generate(), scene.acme.prefix))
    assert scene.found() == []
    league.log_entry(issue(tls.TlsKey.generate(), scene.north.prefix))
    scene.acme.wrap("d", b"content")
    assert scene.found() == [(Kind.CERTIFICATE, len(league.leaves) - 1)]
    (finding,) = scene.kept()
    assert "which your record never named" in finding.what
    assert proved(finding, scene)


def test_a_mirrors_certificate_in_our_name_is_one_too(scene: Scene) -> None:
    league, prefix = scene.league, scene.north.prefix
    for key in (scene.north.tls_key, tls.TlsKey.generate()):
        request = tls.make_request(key, prefix)
        league.log_entry(tls.issue_mirror(league.ca_key, league.ca_certificate, request, ROOT, prefix, league.now))
    assert scene.found() == [(Kind.CERTIFICATE, len(league.leaves))]


def test_what_is_found_in_the_middle_of_a_long_log_is_proved_too(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "STEP", 3)
    for suffix in "defgh":
        scene.acme.wrap(suffix, b"content")
        scene.north.wrap(suffix, b"content")
    scene.look()
    records = [each for each in scene.kept() if each.kind is Kind.RECORD]
    assert len(records) == 5
    assert all(proved(each, scene) for each in records)
    assert len({each.size for each in records}) > 2


# A log that is not what was signed.


def altered(scene: Scene, changes: list[Change]) -> list[Change]:
    """One entry is another one for whoever watches."""
    other = scene.acme.make("other", [], [], False).record_envelope
    return [replace(each, envelope=other) if each.position == 5 else each for each in changes]


def re_ordered(scene: Scene, changes: list[Change]) -> list[Change]:
    swapped = {5: changes[5], 6: changes[4]} if len(changes) > 5 else {}
    return [replace(swapped.get(each.position, each), position=each.position) for each in changes]


def with_an_entry_more(scene: Scene, changes: list[Change]) -> list[Change]:
    """Only whoever watches is shown it."""
    other = scene.acme.make("other", [], [], False).record_envelope
    more = [*changes[:4], Change(0, other), *changes[4:]]
    return [replace(each, position=at) for at, each in enumerate(more, 1)]


def without_one_of_them(scene: Scene, changes: list[Change]) -> list[Change]:
    """Withheld, and those after it moved up."""
    left = [each for each in changes if each.position != 5]
    return [replace(each, position=at) for at, each in enumerate(left, 1)]


LIES: list[Callable[[Scene, list[Change]], list[Change]]] = [
    altered, re_ordered, with_an_entry_more, without_one_of_them,
]  # fmt: skip


@pytest.mark.parametrize("lie", LIES, ids=[each.__name__ for each in LIES])
def test_an_entry_that_is_not_what_was_signed_is_named(scene: Scene, lie: Callable) -> None:
    for suffix in "de":
        scene.acme.wrap(suffix, b"content")
    scene.league.lies["watch"] = lambda changes: lie(scene, changes)
    assert scene.found() == [(Kind.LOG, 5)]
    (finding,) = scene.kept()
    assert "entry 5 that the registry shows (" in finding.what
    assert "is not what its signed checkpoint of" in finding.what
    assert finding.content
    assert transparency.verify(finding.note, scene.identity.authority).checkpoint.size == len(scene.league.leaves)
    assert scene.storage.state().size == 0  # nothing of that step is believed
    assert scene.found() == []  # and said once
    del scene.league.lies["watch"]
    assert scene.look().size == len(scene.league.leaves)
    assert len(scene.kept()) == 1


def test_an_entry_that_is_left_out_is_named(scene: Scene) -> None:
    scene.look()
    scene.acme.wrap("d", b"content")
    missing = len(scene.league.leaves)
    scene.acme.wrap("e", b"content")
    scene.league.lies["watch"] = lambda changes: [each for each in changes if each.position != missing]
    assert scene.found() == [(Kind.LOG, missing)]
    assert f"entry {missing} is withheld" in scene.kept()[0].what
    assert f"gives entry {missing + 1} instead" in scene.kept()[0].what


def test_a_registry_that_shows_nothing_of_what_it_signed_withholds_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.look()
    monkeypatch.setattr(following, "STEP_SECONDS", 0.3)  # from now on there is nothing that could come too late
    scene.acme.wrap("d", b"content")
    scene.league.lies["watch"] = lambda _: []
    assert scene.found() == [(Kind.LOG, len(scene.league.leaves))]
    assert "gives nothing" in scene.kept()[0].what


def test_a_log_that_was_rewritten_where_it_had_been_followed_is_refused_by_what_was_seen(scene: Scene) -> None:
    scene.look()
    scene.league.leaves[3] = bytes(33)
    scene.acme.wrap("d", b"content")
    with pytest.raises(VerificationFailed, match="does not continue the one of"):
        scene.look()
    assert scene.known.registry_lies()


def test_when_what_was_seen_is_lost_the_monitor_still_remembers(scene: Scene) -> None:
    """known.db put back from a backup, and a registry that uses it: the edge does not fit, and both notes are kept."""
    scene.look()
    before = scene.storage.state()
    with scene.known._database.writing() as db:
        db.execute("DELETE FROM registry_log")
    scene.league.leaves[3] = bytes(33)
    scene.acme.wrap("d", b"content")
    assert scene.found() == [(Kind.LOG, before.size)]
    assert "does not begin with the" in scene.kept()[0].what
    (lie,) = scene.known.registry_lies()
    assert lie.first == before.note
    assert transparency.verify(lie.second, scene.identity.authority).checkpoint.size > before.size


def test_a_rolled_back_log_is_no_news_but_an_error(scene: Scene) -> None:
    scene.look()
    scene.league.shown_size = len(scene.league.leaves) - 1
    with pytest.raises(RolledBack):
        scene.look()


def test_two_monitors_of_one_home_count_each_entry_once(scene: Scene) -> None:
    """One is in the middle of a step when the other has done it."""
    scene.north.wrap("x", b"content")
    first, second = scene.monitor, scene.monitor
    found: list[Look] = []
    judged = first._ledger.organizations

    class Slow:
        digest_of = first._ledger.digest_of

        def organizations(self):  # what the first asks before it keeps its step
            if not found:
                found.append(second.look())
            return judged()

    first._ledger = Slow()
    assert first.look().found == ()
    assert [each.kind for each in found[0].found] == [each.kind for each in scene.kept()]
    assert first.look().size == len(scene.league.leaves)


def test_after_it_began_anew_nothing_is_reported_again(scene: Scene) -> None:
    scene.north.wrap("x", b"content")
    scene.look()
    kept = scene.storage.findings()
    scene.storage.dismiss(kept[0].number, 1)
    scene.storage.begin_anew()
    assert scene.look().found == ()
    assert scene.storage.findings() == kept[1:]
    assert len(scene.storage.findings(dismissed=True)) == len(kept)


def test_a_flood_is_kept_up_to_a_limit(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "FINDINGS", 3)
    for suffix in "uvwxyz":
        scene.north.wrap(suffix, b"content")
    scene.look()
    assert len(scene.kept()) == 3
    assert scene.look().size == len(scene.league.leaves)


def test_without_ask_what_this_home_has_seen_is_enough(scene: Scene) -> None:
    scene.look()
    RegistryLog(scene.identity.authority, scene.known, lambda: scene.league.now).follow(
        lambda seen: (None, scene.registry.get_checkpoint(seen))
    )
    scene.league.calls.clear()
    scene.monitor.look(ask=False)
    assert scene.league.calls == []


def test_a_monitor_that_is_killed_after_any_step_goes_on_from_there(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(following, "STEP", 1)
    scene.north.wrap("x", b"content")
    scene.north.wrap("y", b"content")
    sizes, monitor = [], scene.monitor

    class KilledError(BaseException):
        pass

    def kill(_: float) -> bool:
        raise KilledError

    for _ in range(100):
        monitor = scene.monitor  # nothing but what is on the disk
        try:
            monitor.look(rest=kill)
        except KilledError:
            sizes.append(scene.storage.state().size)
        else:
            break
    assert sizes == list(range(1, len(scene.league.leaves) + 1))
    assert [each.kind for each in scene.kept()] == [Kind.RECORD, Kind.RECORD]
    leaves = [transparency.leaf_hash(each) for each in scene.league.leaves]
    assert RootBuilder.resumed(sizes[-1], scene.storage.state().edge).root() == root(leaves)


def test_whoever_stops_the_daemon_does_not_wait_for_a_long_log(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(following, "STEP", 1)
    assert scene.monitor.look(rest=lambda _: True).size < len(scene.league.leaves)
    assert scene.storage.state().size == 1


def test_while_what_was_seen_is_exchanged_nothing_is_followed_or_reported(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    scene.look()
    before = scene.storage.state()
    assert scene.storage.report(before, Finding(Kind.LOG, b"w", 1, "", ""), 1)
    scene.storage.hold(int(time.time()))
    assert scene.kept() == []  # it is explained
    scene.league.leaves[3] = bytes(33)  # what a restored registry looks like
    scene.acme.wrap("d", b"content")
    assert scene.look().found == ()
    assert not scene.storage.report(before, Finding(Kind.LOG, b"x", 1, "", ""), 1)
    monkeypatch.setattr(following, "HELD_SECONDS", 0)  # whoever held it was killed
    with pytest.raises(VerificationFailed):
        scene.look()
    assert scene.storage.state().size == 0


@pytest.mark.parametrize("on", [True, False])
def test_the_daemon_follows_the_log_unless_its_owner_says_no(tmp_path: Path, on: bool) -> None:
    with Registry.start(tmp_path / "registry") as registry:
        node = Node.join(registry, "86.north", tmp_path / "north")
        node.settings("" if on else "monitor = false\n")
        before = set(threading.enumerate())
        node.serve()
        try:
            assert ("monitor" in {each.name for each in set(threading.enumerate()) - before}) is on
        finally:
            node.stop()
