"""The client against the real registry: what the simulated one cannot show."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from hanse.client import identity
from hanse.client.client import Client
from hanse.client.league import League
from hanse.errors import NotFound, Unreachable, Withdrawn
from hanse.home import Home
from hanse.model.identifier import Prefix
from hanse.model.publishing import OutcomeCode
from hanse.rpc import tls
from registry import app
from tests.league import Member, Registry, eventually


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.start(tmp_path / "registry") as registry:
        yield registry


def home(member: Member, folder: Path) -> Path:
    """As `hanse join` makes it."""
    home = Home.create(folder, identity.MARKER)
    home.write_secret(identity.IDENTITY_KEY, member.key.to_pem())
    home.write_secret(identity.TLS_KEY, member.tls_key.to_pem())
    home.write_secret(identity.NODE_CERTIFICATE, tls.to_pem(member.node_certificate))
    home.write_secret(identity.MEMBER_CERTIFICATE, tls.to_pem(member.certificate))
    authority = (member.registry.folder / "authority.bin").read_bytes()
    identity.write_league(home, member.prefix, authority, (member.registry.address,))
    return folder


@pytest.fixture
def north(registry: Registry) -> Member:
    return registry.join("86.north", node="")


@pytest.fixture
def client(registry: Registry, tmp_path: Path) -> Iterator[Client]:
    with Client(home(registry.join("86.acme", node=""), tmp_path / "acme")) as client:
        yield client


def test_what_is_published_is_resolved_searched_and_withdrawn(north: Member, client: Client, tmp_path: Path) -> None:
    first = north.record("x", title="Visits of the trial")
    with Client(home(north, tmp_path / "north")) as owner, League(owner.identity) as league:
        assert [each.code for each in league.publish([first, first])] == [OutcomeCode.ACCEPTED] * 2
        assert client.resolve("86.north/x").record.record.metadata.title == "Visits of the trial"
        assert [str(each.record.id) for each in client.search("visits").records] == ["86.north/x"]
        list(league.publish([north.record("x", 2, first, withdrawn=True)]))
    with pytest.raises(Withdrawn):
        client.resolve("86.north/x", max_age=0)
    with pytest.raises(NotFound):
        client.resolve("86.north/y")
    with pytest.raises(NotFound, match=r"86\.nobody"):
        client.resolve("86.nobody/y")


def test_changes_are_watched_as_they_come(north: Member, client: Client) -> None:
    with League(client.identity) as league:
        seen = []
        published = north.record("x")

        def watch() -> None:
            for change in league.watch():
                seen.append(change)
                if change.envelope is not None and change.envelope.digest == published.digest:
                    return

        watching = threading.Thread(target=watch, daemon=True)
        watching.start()
        north.publish(published)
        watching.join(60)
        assert not watching.is_alive()
        positions = [each.position for each in seen]
        assert positions == sorted(set(positions))


def test_membership_knows_suspensions(registry: Registry, north: Member, client: Client) -> None:
    assert client.resolver.membership(max_age=0).members[north.prefix].suspended_at is None
    assert set(client.resolver.membership(max_age=0).members) == {Prefix("86.north"), Prefix("86.acme")}
    app.suspend(registry.folder, north.prefix, "a reason")
    eventually(lambda: client.resolver.membership(max_age=0).members[north.prefix].suspended_at)


def test_a_certificate_is_renewed(registry: Registry, client: Client) -> None:
    with League(client.identity) as league:
        key = tls.TlsKey.from_pem(client.identity.tls_key)
        issued = tls.read_certificate(league.renew(tls.make_request(key, client.identity.prefix)))
    assert issued.organization == client.identity.prefix
    assert issued.key_digest == client.identity.certificate.key_digest


def test_the_registry_comes_back(registry: Registry, north: Member, client: Client) -> None:
    north.publish(north.record("x"))
    client.resolve("86.north/x")
    registry.stop()
    assert client.resolve("86.north/x", max_age=0).registry_down
    with pytest.raises(Unreachable):
        client.search("x")
    registry.serve()
    eventually(lambda: not client.resolve("86.north/x", max_age=0).registry_down)
