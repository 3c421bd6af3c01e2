"""The daemon's life: joining, publishing, restarting, changing keys, renewing, doing without the registry, stopping."""

import contextlib
import os
import signal
import stat
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import grpc
import pytest

from hanse import limits, trust, wire
from hanse.client import joining, renewal
from hanse.client.identity import IDENTITY_KEY, MARKER, PREVIOUS_KEY, TLS_KEY, Identity
from hanse.client.joining import UNFINISHED
from hanse.client.league import League
from hanse.client.peer import Span
from hanse.client.resolve import Resolver
from hanse.client.storage.known import Known, RegistryLie
from hanse.errors import (
    Conflict,
    HomeInUse,
    HomeUnusable,
    InvalidInput,
    NotPermitted,
    Unreachable,
    VerificationFailed,
)
from hanse.model.address import Address
from hanse.model.identifier import Identifier, Prefix
from hanse.model.terms import Party, Permission, Terms
from hanse.rpc import tls
from node import app, rotate
from node.app import Daemon
from node.join import join
from node.status import status
from registry import app as registry_app
from tests.league import Registry, eventually
from tests.nodes import LOCAL, Caller, Node, fetch_request, raised
from tests.processes import free_port

OPEN = Terms.opened()


@dataclass
class Clock:
    """A clock that tests move."""

    ahead: float = 0.0

    def __call__(self) -> float:
        return time.time() + self.ahead


@pytest.fixture
def registry(tmp_path: Path) -> Iterator[Registry]:
    with Registry.start(tmp_path / "registry") as started:
        yield started


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "data.csv"
    path.write_bytes(b"a,b\n1,2\n")
    return path


def resolver(node: Node, known: Known) -> Resolver:
    identity = node.identity
    return Resolver(identity, known, League(identity, node.clock), node.clock)


# Joining.


def test_joining_leaves_a_home_that_is_whole_and_closed_to_others(registry: Registry, tmp_path: Path) -> None:
    identity = join(registry.invite("86.north"), tmp_path / "north", listen=LOCAL, contact="data@north.example")
    home = tmp_path / "north"
    assert identity.prefix == Prefix("86.north")
    assert stat.S_IMODE(home.stat().st_mode) == 0o700
    for name in (IDENTITY_KEY, TLS_KEY):
        assert stat.S_IMODE((home / name).stat().st_mode) == 0o600
    assert not (home / UNFINISHED).exists()
    loaded = Identity.load(identity.home)
    assert loaded.signing_key.public == identity.signing_key.public
    assert loaded.certificate.organization == Prefix("86.north")
    assert loaded.certificate.not_after > time.time() + 6 * limits.DAY


def test_joining_twice_in_one_home_is_refused(registry: Registry, tmp_path: Path) -> None:
    join(registry.invite("86.north"), tmp_path / "north")
    with pytest.raises(HomeInUse, match="already set up"):
        join(registry.invite("86.acme"), tmp_path / "north")


def test_an_invitation_is_spent_by_its_use(registry: Registry, tmp_path: Path) -> None:
    invitation = registry.invite("86.north")
    join(invitation, tmp_path / "north")
    with pytest.raises((NotPermitted, Conflict, InvalidInput)):
        join(invitation, tmp_path / "other")
    assert not (tmp_path / "other" / MARKER).exists()
    assert not (tmp_path / "other" / UNFINISHED).exists()


def test_a_lost_answer_is_made_good_by_running_it_again(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    invitation, spend = registry.invite("86.north"), joining._spend

    def lost(*arguments: object) -> bytes:
        spend(*arguments)  # type: ignore[arg-type]
        raise Unreachable("the answer was lost")

    monkeypatch.setattr(joining, "_spend", lost)
    with pytest.raises(Unreachable):
        join(invitation, tmp_path / "north")
    assert not (tmp_path / "north" / MARKER).exists()
    key = (tmp_path / "north" / IDENTITY_KEY).read_bytes()
    monkeypatch.undo()
    identity = join(invitation, tmp_path / "north")
    assert identity.signing_key.to_pem() == key


def test_a_clock_that_is_wrong_is_named(registry: Registry, tmp_path: Path) -> None:
    for days in (-2, 2):
        clock = Clock(days * limits.DAY)
        with pytest.raises((InvalidInput, VerificationFailed), match="clock"):
            join(registry.invite("86.north"), tmp_path / f"north{days}", clock=clock)


def test_an_expired_invitation_says_when_it_expired(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="the invitation expired on"):
        join(registry.invite("86.north", valid=60), tmp_path / "north", clock=Clock(3600))
    assert not (tmp_path / "north").exists()


def test_a_registry_with_another_fingerprint_is_refused(registry: Registry, tmp_path: Path) -> None:
    told = wire.invitation_from_text(registry.invite("86.north"))
    swapped = wire.invitation_to_text(
        type(told)(told.registries, told.prefix, told.secret, bytes(32), told.expires_at, told.display_name)
    )
    with pytest.raises(VerificationFailed, match="not the one that invited you"):
        join(swapped, tmp_path / "north")


def test_nothing_at_the_address_is_worth_trying_again(registry: Registry, tmp_path: Path) -> None:
    invitation = registry.invite("86.north")
    registry.stop()
    with pytest.raises(Unreachable, match="nothing answers at"):
        join(invitation, tmp_path / "north")
    registry.serve()
    assert join(invitation, tmp_path / "north").prefix == Prefix("86.north")


@pytest.mark.parametrize("text", ["", "hello", "hanse-invite:1:", "hanse-invite:1:AAAA", "hanse-invite:2:AAAA"])
def test_what_is_no_invitation_is_refused_before_anything_is_written(tmp_path: Path, text: str) -> None:
    with pytest.raises(InvalidInput, match="invitation"):
        join(text, tmp_path / "north")
    assert not (tmp_path / "north").exists()


def test_a_cut_paste_is_told_from_a_refusal(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="incomplete"):
        join(registry.invite("86.north")[:-5], tmp_path / "north")


def test_listening_on_all_addresses_needs_one_that_others_can_dial(registry: Registry, tmp_path: Path) -> None:
    with pytest.raises(InvalidInput, match="needs advertise"):
        join(registry.invite("86.north"), tmp_path / "north", listen=Address("0.0.0.0", 7100))


# Serving.


def test_the_address_that_was_taken_stands_in_the_organizations_own_record(registry: Registry, tmp_path: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.published()
        acme = Node.join(registry, "86.acme", tmp_path / "acme")
        known = Known.open(acme.folder / "known.db")
        first = resolver(acme, known).organization(Prefix("86.north"))
        assert first.record.nodes[0].address == north.address
        north.stop()
        north.serve()
        north.published()
        second = resolver(acme, known).organization(Prefix("86.north"), fresh=True)
        assert second.record.nodes[0].address == north.address
        assert second.record.version == first.record.version + (second.record.nodes != first.record.nodes)
        known.close()


def test_a_home_serves_once(registry: Registry, tmp_path: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        with pytest.raises(HomeInUse, match="hanse serve"):
            Daemon(north.folder).start()
        assert status(north.folder).daemon == os.getpid()


def test_a_port_that_is_taken_is_named_and_the_home_is_free_again(registry: Registry, tmp_path: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        acme = Node.join(registry, "86.acme", tmp_path / "acme")
        (acme.folder / "node.toml").write_text(f'listen = "{north.address}"\n')
        with pytest.raises(Conflict, match="port is taken"):
            acme.serve()
        (acme.folder / "node.toml").write_text('listen = "127.0.0.1:0"\n')
        acme.serve()
        acme.stop()


def test_a_key_that_others_can_read_stops_the_start(registry: Registry, tmp_path: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    (north.folder / IDENTITY_KEY).chmod(0o644)
    with pytest.raises(HomeUnusable, match="chmod 600"):
        north.serve()


def test_a_setting_that_is_not_known_stops_the_start(registry: Registry, tmp_path: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    north.settings("speed = 3\n")
    with pytest.raises(HomeUnusable, match="'speed' is not a setting"):
        north.serve()


def test_metrics_are_served_on_a_local_port(registry: Registry, tmp_path: Path, data: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    port = free_port()
    north.settings(f'metrics = "127.0.0.1:{port}"\n')
    north.add(data, "trial", OPEN)
    north.serve()
    try:
        with Caller(Node.join(registry, "86.acme", tmp_path / "acme").identity, north) as acme:
            assert acme.fetch("86.north/trial", 1, [Span(0, 1)]) == data.read_bytes()
        text = urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=60).read().decode()
    finally:
        north.stop()
    assert 'hanse_requests_total{operation="fetch",status="OK"} 1.0' in text
    assert f"hanse_served_bytes_total {float(data.stat().st_size)}" in text
    for name in ("hanse_open_streams", "hanse_outbox_length", "hanse_certificate_expiry", "hanse_membership_age"):
        assert name in text
    assert data.name not in text


# Publishing.


def test_what_was_added_while_the_registry_was_away_is_published_when_it_is_back(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.published()
        registry.stop()
        for number in range(5):
            north.add(data, f"trial-{number}", OPEN)
        eventually(lambda: status(north.folder).outbox.last_error != "")
        seen = status(north.folder)
        assert seen.outbox.waiting == 5
        assert seen.registry_error
        registry.serve()
        north.published()
        assert status(north.folder).registry_error == ""


def test_what_the_registry_refuses_is_kept_and_shown(registry: Registry, tmp_path: Path, data: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(data, "a", OPEN)
        north.published()
        # A home restored from an old backup makes another version 1.
        with north.storage() as storage, storage.database.writing() as connection:
            for table in ("element", "leaves", "page"):
                connection.execute(f"DELETE FROM {table}")
            connection.execute("DELETE FROM version")
            connection.execute("DELETE FROM object")
        north.add(data, "a", OPEN)
        eventually(lambda: len(status(north.folder).outbox.refused) == 1)
        refused = status(north.folder).outbox.refused[0]
        assert refused.key == "86.north/a"
        assert "another version 1" in refused.why


# Without the registry.


def test_a_node_goes_on_with_what_it_last_knew_for_a_day_and_not_longer(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    clock = Clock()
    with Node.start(registry, "86.north", tmp_path / "north", clock=clock) as north:
        north.add(data, "trial", OPEN)
        acme = Node.join(registry, "86.acme", tmp_path / "acme")
        with Caller(acme.identity, north) as caller:
            assert caller.describe("86.north/trial")
            registry.stop()
            clock.ahead = limits.MEMBERSHIP_LIFE - 60
            assert caller.describe("86.north/trial")
            assert status(north.folder, clock).membership_age >= limits.MEMBERSHIP_LIFE - 120
            clock.ahead = limits.MEMBERSHIP_LIFE + 60
            with pytest.raises(Unreachable, match="does not know who is in good standing"):
                caller.describe("86.north/trial")
        registry.serve()


def test_a_member_that_joined_just_now_gets_in_at_once(registry: Registry, tmp_path: Path, data: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(data, "trial", OPEN)
        for name in ("acme", "east"):
            with Caller(Node.join(registry, f"86.{name}", tmp_path / name).identity, north) as caller:
                assert caller.describe("86.north/trial")
            time.sleep(1.1)  # what is not known yet makes the node ask once a second at most


# A new key.


def test_a_change_of_keys_is_followed_by_those_who_pinned_the_old_one(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(data, "trial", OPEN)
        north.published()
        acme = Node.join(registry, "86.acme", tmp_path / "acme")
        known = Known.open(acme.folder / "known.db")
        trial = Identifier.parse("86.north/trial")
        before = resolver(acme, known).record(trial).owner.record
        with north.storage() as storage:
            after = rotate.rotate(north.identity, storage)
        assert after.previous_key is None
        assert after.signing_key.public != before.current_key
        found = resolver(acme, known).record(trial, max_age=0)
        assert found.owner.record.current_key == after.signing_key.public
        assert found.owner.record.key(before.current_key.key_id) is not None
        north.add(data, "later", OPEN)
        north.published()
        later = resolver(acme, known).record(Identifier.parse("86.north/later"), max_age=0)
        assert later.record.signed_by == after.signing_key.public.key_id
        eventually(lambda: north.daemon.identity.signing_key.public == after.signing_key.public)
        with Caller(acme.identity, north) as caller:
            assert caller.describe("86.north/trial")
        known.close()


def test_a_change_of_keys_without_the_registry_is_finished_by_the_daemon(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.published()
        registry.stop()
        north.add(data, "before", OPEN)
        with north.storage() as storage:
            after = rotate.rotate(north.identity, storage)
            assert after.previous_key is not None
            with pytest.raises(Conflict, match="has not been acknowledged"):
                rotate.rotate(north.identity, storage)
        assert status(north.folder).key_change_pending
        north.add(data, "after", OPEN)
        registry.serve()
        north.published()
        eventually(lambda: not (north.folder / PREVIOUS_KEY).exists())
        known = Known.open(tmp_path / "known.db")
        for name in ("before", "after"):
            found = resolver(north, known).record(Identifier.parse(f"86.north/{name}"))
            assert found.record.signed_by == after.signing_key.public.key_id
        known.close()


class Crash(BaseException):
    """The process ends here."""


@pytest.mark.parametrize("point", ["put_organization", "link", "replace", "drain", "unlink"])
def test_a_change_of_keys_that_was_interrupted_is_finished_or_was_never_begun(
    registry: Registry, tmp_path: Path, data: Path, monkeypatch: pytest.MonkeyPatch, point: str
) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    north.add(data, "trial", OPEN)
    old = north.identity.signing_key.public

    def crash(*_: object, **__: object) -> None:
        raise Crash

    with monkeypatch.context() as patch:
        if point == "put_organization":
            patch.setattr("node.storage.catalog.CatalogStorage.put_organization", crash)
        elif point == "link":
            patch.setattr("node.rotate.os.link", crash)
        elif point == "drain":
            patch.setattr("node.publish.Publisher.drain", crash)
        else:
            patch.setattr(f"pathlib.Path.{point}", _only_keys(getattr(Path, point), crash))
        with north.storage() as storage, pytest.raises(Crash):
            rotate.rotate(north.identity, storage)
    north.serve()
    try:
        north.published()
        eventually(lambda: not (north.folder / PREVIOUS_KEY).exists())
        known = Known.open(tmp_path / "known.db")
        owner = resolver(north, known).organization(Prefix("86.north"))
        assert owner.record.current_key == north.identity.signing_key.public
        assert (owner.record.current_key == old) == (point == "put_organization")
        assert resolver(north, known).record(Identifier.parse("86.north/trial"), max_age=0)
        known.close()
    finally:
        north.stop()


def test_a_change_of_keys_is_finished_once_by_a_command_and_a_daemon_that_do_it_at_once(
    registry: Registry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    north, link = Node.join(registry, "86.north", tmp_path / "north"), os.link
    begun = threading.Event()

    def slow_link(source: Path, target: Path) -> None:
        link(source, target)
        begun.set()
        time.sleep(0.2)  # in which another looks for what there is to do

    with north.storage() as storage, ThreadPoolExecutor(2) as pool:
        with monkeypatch.context() as patch:
            patch.setattr(rotate, "settle", lambda *_: False)
            rotate.change_key(north.identity, storage)
        old = north.identity.signing_key.public
        monkeypatch.setattr("node.rotate.os.link", slow_link)
        first = pool.submit(rotate.settle, north.identity.home, storage)
        assert begun.wait(60)
        second = pool.submit(rotate.settle, north.identity.home, storage)
        assert (first.result(), second.result()) == (True, False)
        assert north.identity.signing_key.public != old
        assert north.identity.previous_key is not None
        assert north.identity.previous_key.public == old


def _only_keys(original: Callable[..., object], crash: Callable[..., object]) -> Callable[..., object]:
    def changed(path: Path, *arguments: object, **more: object) -> object:
        if path.name in ("identity.next.pem", "identity.previous.pem"):
            return crash()
        return original(path, *arguments, **more)

    return changed


def test_terms_bound_to_a_key_ends_with_that_key(registry: Registry, tmp_path: Path, data: Path) -> None:
    acme = Node.join(registry, "86.acme", tmp_path / "acme")
    key_id = acme.identity.signing_key.public.key_id
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(data, "trial", Terms(permissions=(Permission((Party(Prefix("86.acme"), key_id),)),)))
        with Caller(acme.identity, north) as caller:
            assert caller.describe("86.north/trial")
            with acme.storage() as storage:
                rotate.rotate(acme.identity, storage)

            def refused() -> bool:
                try:
                    caller.describe("86.north/trial")
                except NotPermitted:
                    return True
                return False

            eventually(refused)
        assert north.audit()[-1].decided.why == "allowed with another key only"


# Certificates.


def test_a_certificate_is_renewed_at_two_thirds_of_its_life_and_no_stream_notices(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    with data.open("wb") as file:
        file.truncate(64 * limits.MIB)
    clock = Clock()
    registry.clock = clock
    registry.stop()
    registry.serve()
    with Node.start(registry, "86.north", tmp_path / "north", clock=clock) as north:
        north.add(data, "trial", OPEN)
        acme = Node.join(registry, "86.acme", tmp_path / "acme", clock=clock)
        with Caller(acme.identity, north) as caller:
            stream = caller.call("Fetch", fetch_request("86.north/trial", 1, [Span(0, 1)]), 60)
            got = len(next(stream))
            before = north.identity.certificate
            assert not renewal.is_due(north.identity, int(clock()))
            time.sleep(1.1)  # acme was new, and the node asks the registry out of turn once a second at most
            clock.ahead = 5 * limits.DAY
            eventually(lambda: north.identity.certificate.not_after > before.not_after)
            assert north.identity.certificate.key_digest == before.key_digest
            with raised():
                got += sum(len(each) for each in stream)
            assert got > 64 * limits.MIB
        registry.stop()
        registry.serve()


def test_a_home_whose_certificate_ran_out_renews_it(registry: Registry, tmp_path: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    identity = north.identity
    authority_key = tls.TlsKey.from_pem((registry.folder / "keys" / "ca.pem").read_bytes())
    past = tls.issue_member(
        authority_key,
        identity.authority.ca_certificate,
        tls.make_request(tls.TlsKey.from_pem(identity.tls_key), identity.prefix),
        Prefix("86"),
        identity.prefix,
        int(time.time()) - 30 * limits.DAY,
    )
    (north.folder / "member.pem").write_bytes(tls.to_pem(past))
    north.serve()
    try:
        eventually(lambda: north.identity.certificate.not_after > time.time() + 6 * limits.DAY)
    finally:
        north.stop()


# Stopping.


def test_stopping_gives_running_streams_a_bounded_time_and_then_says_try_again(
    registry: Registry, tmp_path: Path, data: Path
) -> None:
    with data.open("wb") as file:
        file.truncate(256 * limits.MIB)
    north = Node.join(registry, "86.north", tmp_path / "north")
    north.settings("drain_seconds = 1\n")
    north.add(data, "trial", OPEN)
    north.serve()
    acme = Node.join(registry, "86.acme", tmp_path / "acme")
    with Caller(acme.identity, north) as caller:
        stream = caller.call("Fetch", fetch_request("86.north/trial", 1, [Span(0, 1)]), 60)
        got = len(next(stream))
        began = time.monotonic()
        north.stop()
        assert time.monotonic() - began < 60
        rest: list[bytes] = []
        with pytest.raises(Unreachable), raised():
            rest.extend(stream)
    assert got + sum(len(each) for each in rest) < 256 * limits.MIB
    row = north.audit()[-1]
    assert row.decided.operation == "fetch"
    assert row.served > 0


def test_a_stream_that_ends_in_time_is_let_end(registry: Registry, tmp_path: Path, data: Path) -> None:
    with data.open("wb") as file:
        file.truncate(64 * limits.MIB)
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(data, "trial", OPEN)
        with Caller(Node.join(registry, "86.acme", tmp_path / "acme").identity, north) as caller:
            stream = caller.call("Fetch", fetch_request("86.north/trial", 1, [Span(0, 1)]), 60)
            got = len(next(stream))
            stopping = threading.Thread(target=north.stop)
            stopping.start()
            with raised():
                got += sum(len(each) for each in stream)
            stopping.join(60)
            assert not stopping.is_alive()
    assert got > 64 * limits.MIB


def test_sigterm_ends_serve_with_0(registry: Registry, tmp_path: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    told: list[Address] = []

    def announce(address: Address) -> None:
        told.append(address)
        os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    assert app.serve(north.folder, announce=announce) == 0
    assert told[0].port != 0
    assert signal.getsignal(signal.SIGTERM) is before
    assert status(north.folder).prefix == Prefix("86.north")


# What others see of it.


def test_the_registry_never_sees_a_private_key_or_what_was_wrapped(registry: Registry, tmp_path: Path) -> None:
    canary = b"canary-5f1d0c"
    folder = tmp_path / "wrapped"
    folder.mkdir()
    (folder / "name-canary-5f1d0c.txt").write_bytes(canary)
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.add(folder, "trial", OPEN)
        north.published()
        with Caller(Node.join(registry, "86.acme", tmp_path / "acme").identity, north) as acme:
            assert acme.fetch("86.north/trial", 1, [Span(0, 1)]) == canary
        private = (north.folder / IDENTITY_KEY).read_bytes().splitlines()[1]
    for path in registry.folder.rglob("*"):
        if path.is_file():
            content = path.read_bytes()
            assert canary not in content
            assert private not in content


def test_the_members_own_record_verifies_for_a_stranger(registry: Registry, tmp_path: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        north.published()
        with League(north.identity) as league:
            chain = league.get_organization(Prefix("86.north"))
        found = trust.chain(chain, pinned=None, now=int(time.time()))
        assert found is not None
        assert found.record.version == 2


def test_suspending_the_own_organization_shows_in_status(registry: Registry, tmp_path: Path) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    assert status(north.folder).suspended is False
    registry_app.suspend(registry.folder, Prefix("86.north"), "")
    eventually(lambda: status(north.folder).suspended or status(north.folder).registry_error)


def test_status_tells_of_a_contradiction_that_is_damaged_on_the_disk_and_of_all_else(
    registry: Registry, tmp_path: Path
) -> None:
    north = Node.join(registry, "86.north", tmp_path / "north")
    with contextlib.closing(Known.open(north.folder / "known.db")) as known:
        known.keep_registry_lie(RegistryLie("cut off", "notes", b"", "the registry forked", 1, witnesses=("no key",)))
    seen = status(north.folder)
    (lied,) = seen.registry_lies
    assert "the registry forked. What known.db keeps of it is damaged" in lied.what
    assert (lied.forked, lied.two_faced, seen.registry_error) == (False, (), "")


def test_without_a_certificate_there_is_no_connection(registry: Registry, tmp_path: Path) -> None:
    with Node.start(registry, "86.north", tmp_path / "north") as north:
        with Caller(north.identity, north, bare=True) as stranger, pytest.raises(grpc.RpcError) as caught:
            list(stranger.call("Describe", b""))
        assert caught.value.code() is grpc.StatusCode.UNAVAILABLE
