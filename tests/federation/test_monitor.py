"""Real daemons: an owner learns what was done in her name, and is not alarmed by her own life.

The registry is the real one; what it would never do is put into its database beside it, with its own keys.
"""

import contextlib
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from hanse import wire
from hanse.client import renewal
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as Registry
from hanse.client.storage.known import FILE as KNOWN
from hanse.client.storage.known import Known
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import NodeEndpoint
from hanse.model.publishing import OutcomeCode
from hanse.model.record import ObjectRecord, Status
from hanse.rpc import tls
from hanse.signing import SigningKey, sign
from node.own_name import Finding, Kind
from node.storage.monitor import FILE as MONITOR
from node.storage.monitor import MonitorStorage, Reported
from registry import app
from registry.storage.base import Certificate, NewRecord
from tests.processes import League, Node, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("monitor")]

A_MINUTE = 60.0


@dataclass
class Scene:
    league: League
    north: Node
    acme: Node
    monitor: MonitorStorage
    own: ObjectRecord

    @property
    def identity(self) -> Identity:
        return Identity.load(Home.open(self.north.home, MARKER, ""))

    def findings(self) -> list[Reported]:
        return self.monitor.findings()

    def size(self) -> int:
        """Entries of the registry's log."""
        with app.opened(self.league.registry.home) as registry:
            return registry.storage.head().size

    def followed(self) -> None:
        """Returns when north's daemon has followed all that there is."""
        size = self.size()
        until(lambda: self.monitor.state().size >= size, "the monitor to follow the log", A_MINUTE)

    def learns(self, kind: Kind, count: int = 1) -> list[Finding]:
        """What north's daemon reports of that kind, within a minute."""

        def enough() -> list[Finding]:
            found = [each.finding for each in self.findings() if each.finding.kind is kind]
            return found if len(found) >= count else []

        return list(until(enough, f"north to learn of {count} {kind}", A_MINUTE))

    def publish(self, *envelopes: Envelope) -> None:
        """As whoever has north's key does, from another machine."""
        with Registry(self.identity) as registry:
            for outcome in registry.publish(envelopes):
                assert outcome.code is OutcomeCode.ACCEPTED, outcome

    def record(self, suffix: str, version: int = 1, key: SigningKey | None = None, **changes: Any) -> Envelope:
        """Like one of north's own, but another."""
        made = replace(
            self.own,
            id=Identifier.of(Prefix("86.north"), suffix),
            version=version,
            issued_at=int(time.time()),
            **changes,
        )
        return sign(PayloadType.RECORD, wire.encode_record(made), key or self.identity.signing_key)

    def resolved(self, id: str) -> Envelope:
        with Registry(self.identity) as registry:
            found = registry.resolve([Identifier.parse(id)])[0].record
        assert found is not None
        return found


@contextlib.contextmanager
def scene_in(folder: Path) -> Iterator[Scene]:
    with League(folder) as league:
        north, acme = league.join("86.north"), league.join("86.acme")
        (folder / "a.csv").write_text("x,y\n1,2\n")
        north.command("add", folder / "a.csv", "--id", "a", "--open")
        north.published()
        with contextlib.closing(MonitorStorage.open(north.home / MONITOR)) as monitor:
            scene = Scene(league, north, acme, monitor, None)  # type: ignore[arg-type]
            scene.own = wire.decode_record(scene.resolved("86.north/a").payload)
            yield scene


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with scene_in(tmp_path_factory.mktemp("monitor")) as made:
        yield made


@pytest.fixture
def own_scene(tmp_path: Path) -> Iterator[Scene]:
    """Of a test whose registry will have lost something."""
    with scene_in(tmp_path / "league") as made:
        yield made


def test_a_whole_life_raises_no_alarm(scene: Scene, tmp_path: Path) -> None:
    north, registry = scene.north, scene.league.registry
    (tmp_path / "b.csv").write_text("x\n1\n")
    north.command("add", tmp_path / "b.csv", "--id", "b")
    (tmp_path / "b.csv").write_text("x\n1\n2\n")
    north.command("refresh", "b")
    north.command("rotate-key")
    north.published()
    north.command("withdraw", "b", "--reason", "done")
    north.command("add", tmp_path / "b.csv", "--id", "c", "--unlisted")
    identity = scene.identity
    with Registry(identity) as league:
        renewal.renew(identity, league)
    north.kill()  # in the middle of whatever it does
    north.start()
    north.published()  # its address: what is sent while it is suspended waits or is refused
    registry.command("suspend", "86.north", "--reason", "a test")
    registry.command("restore", "86.north")
    for each in range(2):  # the daemon and commands look at the same time, while something is published
        north.command("add", tmp_path / "b.csv", "--id", f"d{each}")
        assert north.command("monitor", "--once").stdout.endswith("that this home did not sign off.\n")
    north.published()
    scene.followed()
    assert scene.findings() == []
    assert "monitor.found" not in north.process.everything
    # While it is suspended it cannot follow the log, and says so if it looks just then: nothing else failed.
    failed = [line for line in north.process.everything.splitlines() if "monitor.failed" in line]
    assert all("86.north is suspended: a test" in line for line in failed), failed
    status = north.json("status")
    assert (status["registry_lies"], status["findings"]) == ([], [])
    assert status["monitored"] == status["monitored_of"]


def test_a_registry_that_was_restored_is_accepted_by_a_command_and_gets_back_what_it_lost(
    own_scene: Scene, tmp_path: Path
) -> None:
    """All that a member had published since the backup; the daemons run the whole time."""
    north, acme, registry = own_scene.north, own_scene.acme, own_scene.league.registry
    source = tmp_path / "e.csv"
    source.write_text("x\n1\n")
    north.command("add", source, "--id", "e", "--open")
    north.published()
    backup = registry.command("backup", tmp_path / "backups", "--json").json
    source.write_text("x\n1\n2\n")
    north.command("refresh", "e")
    north.command("add", source, "--id", "f", "--open")
    north.command("withdraw", "f")
    north.published()
    size = own_scene.size()
    until(lambda: north.json("status")["monitored_of"] == size, "north to see what will be lost")
    assert acme.json("resolve", "86.north/e", "--prove")["version"] == 2
    registry.kill()
    shutil.move(registry.home, tmp_path / "lost")
    registry.command("restore", backup["folder"])
    for change in ("suspend", "restore"):  # so that it does not become the same log again
        registry.command(change, "86.acme")
    registry.start()
    # What it signed in the second of its death may be a mirror's that is behind; it signs anew after a few.
    until(lambda: "hanse accept-registry" in north.json("status")["registry_error"], "north to be told what to do")
    assert north.json("status")["registry_lies"]
    told = ("--size", backup["entries"], "--root", backup["root"])
    accepted = north.json("accept-registry", "--yes", *told)
    assert accepted["shown"]["size"] == backup["entries"] + 2
    assert accepted["seen"]["size"] > backup["entries"]
    assert (accepted["published_again"], accepted["contradicted"]) == (3, [])
    north.published()  # by the daemon
    # The other member: what it has seen of north's is not older, and not forgotten.
    acme.command("resolve", "86.north/e", "--prove", expect=6)
    acme.command("accept-registry", "--yes", *told)
    assert acme.json("resolve", "86.north/e", "--prove")["version"] == 2
    acme.command("resolve", "86.north/f", expect=3)  # withdrawn
    for each in (north, acme):
        each.command("monitor", "--once")  # what was found wrong with the log meanwhile is explained
        with contextlib.closing(Known.open(each.home / KNOWN)) as known:
            lies = known.registry_lies()
        assert lies
        assert all(lie.accepted_at for lie in lies)


def test_a_certificate_in_a_members_name_is_reported(scene: Scene) -> None:
    """The CA's own key, a key that is not the member's, and an entry in the log."""
    key = tls.TlsKey.generate()
    with app.opened(scene.league.registry.home) as registry, registry.storage.writing() as writing:
        prefix, now = Prefix("86.north"), int(time.time())
        issued = registry.membership._issuer.member_certificate(tls.make_request(key, prefix), prefix, now)
        writing.put_certificate(Certificate(prefix, now, issued))
    (found,) = scene.learns(Kind.CERTIFICATE)
    assert "which your record never named" in found.what
    until(lambda: "monitor.found" in scene.north.process.stderr, "the daemon to say so")
    assert scene.acme.command("monitor", "--once").code == 0
    told = scene.north.command("monitor", "--once", expect=6)
    assert f". Entry {found.position:,}: a certificate for 86.north" in told.stdout
    doctor = scene.north.command("doctor", expect=6)
    assert "1 done in your name in the registry's log that this home did not sign off" in doctor.stdout
    assert "1 thing in the registry's log that this home did not sign off" in scene.north.command("status").stdout


def test_a_record_under_a_stolen_key_is_reported_after_a_kill_too(scene: Scene) -> None:
    newest = scene.resolved("86.north/a")
    scene.north.kill()
    scene.publish(scene.record("stolen"), scene.record("a", 2, previous=newest.digest))
    scene.north.start()
    stolen, second = scene.learns(Kind.RECORD, 2)
    assert "version 1 of 86.north/stolen (signed with your key" in stolen.what
    assert "version 2 of 86.north/a (signed with your key" in second.what
    scene.north.restart()
    scene.publish(
        scene.record("a", 3, previous=scene.resolved("86.north/a").digest, status=Status.WITHDRAWN, reason="no more")
    )
    assert "a tombstone, signed with your key" in scene.learns(Kind.RECORD, 3)[2].what
    assert len({each.number for each in scene.findings()}) == len(scene.findings()) == 4


def test_a_record_that_the_registry_made_up_is_reported(scene: Scene) -> None:
    made_up = scene.record("made-up", key=SigningKey.generate())
    with app.opened(scene.league.registry.home) as registry, registry.storage.writing() as writing:
        record = wire.decode_record(made_up.payload)
        new = NewRecord(record.id.key, 1, made_up.digest, record.issued_at, wire.encode_envelope(made_up), None)
        writing.put_records([new])
    assert "86.north/made-up (not signed by you)" in scene.learns(Kind.RECORD, 4)[3].what


def test_an_organization_record_under_a_stolen_key_is_reported(scene: Scene) -> None:
    """Another machine is put into the member's record: it would be believed by everybody."""
    scene.north.published()  # where it is since it was started last: a version of this record too
    with Registry(scene.identity) as registry:
        before = registry.get_organization(Prefix("86.north"))[-1]
    known = wire.decode_organization(before.payload)
    certificate = tls.make_node_certificate(tls.TlsKey.generate(), Prefix("86"), known.prefix, int(time.time()))
    record = replace(
        known,
        version=known.version + 1,
        previous=before.digest,
        nodes=(*known.nodes, NodeEndpoint(Address("198.51.100.7", 7100), certificate)),
        issued_at=int(time.time()),
    )
    scene.publish(sign(PayloadType.ORGANIZATION, wire.encode_organization(record), scene.identity.signing_key))
    (found,) = scene.learns(Kind.ORGANIZATION)
    assert "a node at 198.51.100.7:7100" in found.what
    assert "somebody has your key" in found.remedy


def test_what_was_looked_into_is_dismissed(scene: Scene) -> None:
    numbers = [each.number for each in scene.findings()]
    first, *others = numbers
    assert scene.north.json("monitor", "--dismiss", first) == {"dismissed": [first]}
    assert [each.number for each in scene.findings()] == others
    scene.north.command("monitor", "--once", expect=6)
    scene.north.command("monitor", *(argument for each in others for argument in ("--dismiss", each)))
    assert scene.north.command("monitor", "--once").code == 0
    kept = scene.north.lines("monitor", "--once", "--all")
    assert [each["number"] for each in kept if each["kind"] != "log"] == numbers
    assert all(each["dismissed_at"] for each in kept)
    scene.north.command("monitor", "--dismiss", 99, expect=3)
