"""The log of the real registry, over real sockets: what it shows, to whom, and that a client can check all of it."""

import subprocess
import sys
import threading
import time

import pytest

from hanse import merkle, transparency, wire, wire_log
from hanse.client.client import Client
from hanse.errors import InvalidInput, LimitExceeded, NotFound, Withdrawn
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Renewal
from hanse.rpc import tls
from hanse.signing import sign
from hanse.transparency import Kind
from hanse.v1 import registry_pb2
from registry import app
from tests.league import Registry, eventually, raised

ACTIVE, WITHDRAWN, UNKNOWN, INVALID = 1, 2, 3, 5


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    with Registry.start(tmp_path_factory.mktemp("league") / "registry") as running:
        yield running


@pytest.fixture(scope="module")
def authority(registry):
    with app.opened(registry.folder) as opened:
        return opened.authority


@pytest.fixture(scope="module")
def north(registry):
    return registry.join("86.north")


def checkpoint(member, authority, seen=0):
    request = registry_pb2.GetCheckpointRequest(seen_size=seen)
    with raised():
        answer = member.stub.GetCheckpoint(request, metadata=member.metadata, timeout=60)
    shown = wire_log.shown_from_message(answer.log)
    return transparency.read(shown.note, authority, now=int(time.time())), shown


def grown(member, authority, size):
    """The checkpoint of that size, once the daemon has noticed what the operator's commands did."""
    eventually(lambda: checkpoint(member, authority)[0].checkpoint.size >= size)
    found, _ = checkpoint(member, authority)
    assert found.checkpoint.size == size
    return found


def resolved(member, *ids, seen=0, with_organization=True):
    request = registry_pb2.ResolveRequest(ids=ids, with_organization=with_organization, prove=True, seen_size=seen)
    with raised():
        return member.stub.Resolve(request, metadata=member.metadata, timeout=60)


def entries(member, count):
    """The log's leaves, computed from what Watch tells."""
    request = registry_pb2.WatchRequest(with_certificates=True)
    call = member.stub.Watch(request, metadata=member.metadata, timeout=60)
    leaves = []
    for answer in call:
        for change in answer.changes:
            assert change.position == len(leaves) + 1
            leaves.append(
                transparency.certificate_leaf(change.certificate)
                if change.certificate
                else transparency.leaf_of(wire.envelope_from_message(change.envelope))
            )
        if len(leaves) >= count:
            call.cancel()
            break
    return leaves[:count]


def root(leaves):
    return merkle.root(map(merkle.leaf_hash, leaves))


def test_given_an_acknowledged_publish_then_the_next_checkpoint_has_it(registry, north, authority):
    before, _ = checkpoint(north, authority)
    seen = before
    for number in range(20):
        record = north.record(f"at-once-{number}")
        assert north.publish(record)[0].code == 1
        newer, shown = checkpoint(north, authority, seen.checkpoint.size)
        assert newer.checkpoint.size == seen.checkpoint.size + 1
        transparency.follow(seen, newer, shown)
        leaves = entries(north, newer.checkpoint.size)
        assert leaves[-1] == transparency.leaf_of(record)
        assert root(leaves) == newer.checkpoint.root
        seen = newer
    _, shown = checkpoint(north, authority, before.checkpoint.size)
    transparency.follow(before, seen, shown)


def test_given_a_smaller_log_than_was_seen_then_no_proof_comes_and_no_error(north, authority):
    newest, shown = checkpoint(north, authority, 1 << 40)
    assert (shown.since, shown.consistency) == (0, ())
    checkpoint(north, authority, newest.checkpoint.size)


def test_given_records_and_tombstones_then_each_is_proved_under_one_checkpoint(north, authority):
    first, gone = north.record("proved"), north.record("gone")
    north.publish(first, gone)
    second, tombstone = north.record("proved", 2, first), north.record("gone", 2, gone, withdrawn=True)
    north.publish(second, tombstone)
    answer = resolved(north, "86.north/proved", "86.north/none", "86.north/GONE", "not an id", "86.stranger/x")
    assert [each.state for each in answer.resolutions] == [ACTIVE, UNKNOWN, WITHDRAWN, INVALID, UNKNOWN]
    shown = wire_log.shown_from_message(answer.log)
    signed = transparency.read(shown.note, authority, now=int(time.time()))
    for place, envelope in ((0, second), (2, tombstone)):
        told = answer.resolutions[place]
        assert wire.envelope_from_message(told.record) == envelope
        inclusion = wire_log.inclusion_from_message(told.inclusion)
        transparency.included(transparency.leaf_of(envelope), inclusion, signed.checkpoint, "it")
    assert not any(answer.resolutions[place].HasField("inclusion") for place in (1, 3, 4))
    (owner,) = answer.organizations
    (inclusion,) = map(wire_log.inclusion_from_message, answer.organization_inclusions)
    leaf = transparency.leaf_of(wire.envelope_from_message(owner))
    transparency.included(leaf, inclusion, signed.checkpoint, "its owner")
    assert not resolved(north, "86.north/proved", with_organization=False).organizations


def test_given_too_many_identifiers_then_no_proofs(north):
    with pytest.raises(LimitExceeded, match="proves at most 100"):
        resolved(north, *(f"86.north/{number}" for number in range(101)))


def test_given_large_records_then_an_answer_with_proofs_ends_early_and_fits(north):
    records = [north.record(f"large-{number}", description="x" * 60_000) for number in range(80)]
    for each in records:
        north.publish(each)
    answer = resolved(north, *(f"86.north/large-{number}" for number in range(80)))
    assert 0 < len(answer.resolutions) < 80
    assert len(answer.organizations) == len(answer.organization_inclusions) == 1


def test_given_joining_rotation_suspension_and_restoration_then_each_is_an_entry(registry, north, authority):
    before, _ = checkpoint(north, authority)
    south = registry.join("86.south")
    for change in (lambda: app.suspend(registry.folder, Prefix("86.south"), "why"),
                   lambda: app.restore(registry.folder, Prefix("86.south"))):  # fmt: skip
        change()
    grown(north, authority, before.checkpoint.size + 5)
    after, shown = checkpoint(north, authority, before.checkpoint.size)
    transparency.follow(before, after, shown)
    added = entries(north, after.checkpoint.size)[before.checkpoint.size :]
    kinds = [Kind(leaf[0]) for leaf in added]
    assert kinds == [Kind.ORGANIZATION, Kind.MEMBERSHIP, Kind.CERTIFICATE, Kind.MEMBERSHIP, Kind.MEMBERSHIP]
    assert added[0] == transparency.leaf_of(south.organization_envelope)
    assert added[2] == transparency.certificate_leaf(south.certificate)
    # The statement that is given out is signed anew each time, and is that entry all the same.
    eventually(
        lambda: added[-1] == transparency.leaf_of(wire.envelope_from_message(north.membership().head))
    )  # the daemon looks for what the operator's commands did


def test_given_other_addresses_after_a_restart_then_the_membership_that_is_told_is_an_entry(tmp_path):
    with Registry.start(tmp_path / "registry") as registry:
        member = registry.join("86.north")
        with app.opened(registry.folder) as opened:
            authority = opened.authority
        for _ in range(2):  # the second time nothing is new
            registry.stop()
            settings = registry.folder / "registry.toml"
            if "advertise" not in settings.read_text():
                settings.write_text('advertise = ["elsewhere.example.org:1"]\n' + settings.read_text())
            registry.serve()
            member.channel = registry.dial()
            request = registry_pb2.GetMembershipRequest(with_checkpoint=True)
            answer = member.stub.GetMembership(request, metadata=member.metadata, timeout=60)
            signed = transparency.verify(answer.log.checkpoint, authority)
            leaf = transparency.leaf_of(wire.envelope_from_message(answer.head))
            inclusion = wire_log.inclusion_from_message(answer.inclusion)
            transparency.included(leaf, inclusion, signed.checkpoint, "the membership")
            assert b"elsewhere.example.org:1" in answer.members
            assert signed.checkpoint.size == 4


def test_given_settings_that_changed_under_a_running_registry_then_what_it_tells_is_an_entry(tmp_path):
    with Registry.start(tmp_path / "registry") as registry:
        member = registry.join("86.north")
        registry.join("86.south")
        with app.opened(registry.folder) as opened:
            authority = opened.authority
        settings = registry.folder / "registry.toml"
        settings.write_text('advertise = ["elsewhere.example.org:1"]\n' + settings.read_text())
        app.suspend(registry.folder, Prefix("86.south"))

        def told():
            request = registry_pb2.GetMembershipRequest(with_checkpoint=True)
            answer = member.stub.GetMembership(request, metadata=member.metadata, timeout=60)
            signed = transparency.verify(answer.log.checkpoint, authority)
            leaf = transparency.leaf_of(wire.envelope_from_message(answer.head))
            inclusion = wire_log.inclusion_from_message(answer.inclusion)
            transparency.included(leaf, inclusion, signed.checkpoint, "the membership")
            return answer

        for _ in range(30):  # at each moment, before it has noticed and after
            answer = told()
            time.sleep(0.02)
        assert b"elsewhere" not in answer.members
        assert wire.decode_membership_head(answer.head.payload)[0] == 3  # two joined, one was suspended: nothing else


def test_given_a_renewal_then_the_certificate_is_an_entry_and_asking_again_adds_none(registry, authority):
    member = registry.join("86.west")
    now = int(time.time())

    def renew(key):
        csr = tls.make_request(key, member.prefix)
        wanted = Renewal(member.prefix, member.league, now, csr)
        envelope = sign(PayloadType.RENEWAL, wire.encode_renewal(wanted), member.key)
        request = registry_pb2.RenewRequest(renewal=wire.envelope_to_message(envelope))
        return member.stub.Renew(request, timeout=60).certificate

    before, _ = checkpoint(member, authority)
    assert renew(member.tls_key) == renew(member.tls_key) == member.certificate
    after, _ = checkpoint(member, authority)
    assert after.checkpoint == before.checkpoint
    with app.opened(registry.folder) as opened, opened.storage.writing() as writing:
        csr = tls.make_request(member.tls_key, member.prefix)
        later = opened.membership._certify(writing, csr, member.organization, now + 61)
    assert later != member.certificate
    newest = grown(member, authority, before.checkpoint.size + 1)
    assert entries(member, newest.checkpoint.size)[-1] == transparency.certificate_leaf(later)


def test_given_many_publishers_at_once_then_there_is_one_log_and_check_computes_it_again(tmp_path):
    with Registry.start(tmp_path / "registry") as registry:
        members = [registry.join(f"86.m{number}") for number in range(4)]

        def publish(member):
            for batch in range(5):
                records = [member.record(f"{batch}-{number}") for number in range(60)]
                assert {each.code for each in member.publish(*records)} == {1}

        threads = [threading.Thread(target=publish, args=(member,)) for member in members]
        for each in threads:
            each.start()
        for each in threads:
            each.join()
        with app.opened(registry.folder) as opened:
            authority = opened.authority
        signed, _ = checkpoint(members[0], authority)
        assert signed.checkpoint.size == 4 * 3 + 4 * 300
        assert root(entries(members[0], signed.checkpoint.size)) == signed.checkpoint.root
    assert app.check(tmp_path / "registry") == []


def test_given_a_registry_that_was_killed_then_what_it_showed_is_continued(tmp_path):
    from tests.processes import League

    with League(tmp_path) as league:
        node = league.join("86.north", serve=False)
        (tmp_path / "data").write_text("x")
        with Client(node.home) as client:
            client.resolver.membership(max_age=0)
            before = client.resolver._log.seen()
            league.registry.restart()
            client.resolver.membership(max_age=0)
            node.start()
            node.command("add", tmp_path / "data", "--id", "x", "--open")
            node.published()
            league.registry.restart()
            proof = client.resolve("86.north/x", prove=True).proof
            assert proof.size > before.checkpoint.size
        league.registry.command("check")


def test_given_a_client_then_it_proves_and_remembers(registry, north, authority, tmp_path):
    invitation = registry.invite("86.acme")
    acme = type(north).make(registry, "86.acme")
    acme.join(invitation)
    home = acme.home(tmp_path / "acme", invitation)
    north.publish(north.record("seen"), gone := north.record("later-gone"))
    with Client(home.folder) as client:
        assert client.resolve("86.north/seen").proof is None
        first = client.resolve("86.north/seen", prove=True)
        assert not first.from_cache
        assert first.proof.index == first.proof.size - 2
    north.publish(north.record("later-gone", 2, gone, withdrawn=True))
    with Client(home.folder) as client:
        with pytest.raises(Withdrawn):
            client.resolve("86.north/later-gone", prove=True)
        with pytest.raises(NotFound, match=r"no 86\.north/never"):
            client.resolve("86.north/never", prove=True)
        assert client.resolver._log.seen().checkpoint.size == first.proof.size + 1
        seen = client.resolver._log.seen()
        client.resolver.membership(max_age=0)
        assert client.resolver._log.seen() == seen


def test_given_two_processes_of_one_home_then_neither_accuses_an_honest_registry(registry, north, tmp_path):
    invitation = registry.invite("86.busy")
    busy = type(north).make(registry, "86.busy")
    busy.join(invitation)
    home = busy.home(tmp_path / "busy", invitation)
    north.publish(north.record("busy"))
    code = (
        "import sys; from hanse.client.client import Client\n"
        "with Client(sys.argv[1]) as client:\n"
        "    for _ in range(40): client.resolve('86.north/busy', prove=True)\n"
    )
    running = [subprocess.Popen([sys.executable, "-c", code, str(home.folder)]) for _ in range(2)]
    number = 0
    while any(each.poll() is None for each in running):
        north.publish(north.record(f"busy-{number}"))
        number += 1
    assert [each.returncode for each in running] == [0, 0]


@pytest.mark.parametrize(
    "message",
    [
        registry_pb2.Log(since=1 << 63),
        registry_pb2.Log(consistency=[b"x"]),
        registry_pb2.Log(consistency=[bytes(32)] * 65),
    ],
)
def test_what_does_not_parse_is_refused(message):
    with pytest.raises(InvalidInput):
        wire_log.shown_from_message(message)


def test_an_impossible_place_is_refused():
    with pytest.raises(InvalidInput):
        wire_log.inclusion_from_message(registry_pb2.Inclusion(index=1 << 63))
