"""One registry as several processes over PostgreSQL: whatever breaks, what was acknowledged is there once.

Each scene breaks something while four members publish, and then looks at everything: each acknowledged record at one
position, positions without a gap, one tree over them whose root every process signs, and nothing that `check` finds.
"""

import contextlib
import itertools
import os
import shutil
import signal
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import psutil
import pytest

from hanse import merkle, transparency, wire
from hanse.client.identity import Identity
from hanse.client.league import League
from hanse.client.resolve import Resolver
from hanse.client.storage.known import Known
from hanse.errors import Conflict, HanseError, NotPermitted
from hanse.evidence.checkpoint import Checkpoint
from hanse.merkle import leaf_hash
from hanse.model.address import Address
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import Authority
from hanse.model.search import Query
from hanse.signing import SigningKey
from hanse.v1 import registry_pb2, registry_pb2_grpc
from registry import app
from registry.store import Store
from registry.workers import held
from tests import league
from tests.breaking import MIB, Disk, small_disk
from tests.league import Member, raised
from tests.postgres import Cuttable, Postgres
from tests.processes import END_TIMEOUT, Process, free_port, run, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("workers")]

WORKERS = 4
BATCH = 20
DISK = 220 * MIB
UNLIMITED = "calls_per_second = 1e9\ncalls_burst = 1000000000\n"
_ACCEPTED = registry_pb2.PublishOutcome.CODE_ACCEPTED
_REFUSED = registry_pb2.PublishOutcome.CODE_REFUSED
_TRY_AGAIN = registry_pb2.PublishOutcome.CODE_TRY_AGAIN
_SCENES = itertools.count()


@dataclass
class Publisher:
    """A member that publishes without a pause, each batch until it is acknowledged."""

    member: Member
    scene: int
    acknowledged: set[bytes] = field(default_factory=set)
    wrong: list[str] = field(default_factory=list)
    _ended: threading.Event = field(default_factory=threading.Event)
    _made: int = 0
    _newest: list[Envelope] = field(default_factory=list)

    def run(self) -> None:
        while not self._ended.is_set():
            # Some are next versions of what was acknowledged before, perhaps by another process.
            older = self._newest[: BATCH // 4]
            batch = [self._next(each) for each in older]
            batch += [
                self.member.record(f"{self.scene}-{self._made + i}", title="Trial") for i in range(BATCH - len(batch))
            ]
            self._made += BATCH
            if self._publish(batch):
                self._newest = batch[len(older) :]

    def _next(self, envelope: Envelope) -> Envelope:
        record = wire.decode_record(envelope.payload)
        return self.member.record(record.id.suffix, record.version + 1, envelope, title="Trial, second")

    def _publish(self, batch: Sequence[Envelope]) -> bool:
        waiting = {each.digest: each for each in batch}
        while waiting:
            if self._ended.is_set():
                return False
            self.member.channel.close()
            self.member.channel = self.member.registry.dial()  # the kernel chooses which process gets it
            try:
                outcomes = self.member.publish(*waiting.values())
            except HanseError:
                time.sleep(0.05)
                continue
            for each in outcomes:
                if each.code == _ACCEPTED:
                    self.acknowledged.add(each.digest)
                    waiting.pop(each.digest)
                elif each.code != _TRY_AGAIN:
                    self.wrong.append(f"{each.code}: {each.message}")
                    return False
        return True

    def end(self) -> None:
        self._ended.set()


@dataclass
class Scene:
    """A database with a standby that each commit waits for, a registry of four processes, four members."""

    folder: Path
    primary: Postgres
    standby: Postgres
    disk: Disk
    network: Cuttable
    registry: league.Registry
    process: Process
    authority: Authority
    members: list[Member]
    acknowledged: set[bytes] = field(default_factory=set)

    @property
    def workers(self) -> list[int]:
        return [each.pid for each in psutil.Process(self.process.pid).children()]

    @contextlib.contextmanager
    def publishing(self) -> Iterator[list[Publisher]]:
        """Everybody publishes, before and after what happens inside."""
        number = next(_SCENES)
        publishers = [Publisher(each, number) for each in self.members]
        threads = [threading.Thread(target=each.run, daemon=True) for each in publishers]
        for each in threads:
            each.start()
        try:
            self.progress(publishers)
            yield publishers
            self.progress(publishers)
        finally:
            for each in publishers:
                each.end()
            for each in threads:
                each.join(60)
        assert [each.wrong for each in publishers] == [[]] * len(publishers)
        for each in publishers:
            self.acknowledged |= each.acknowledged

    def progress(self, publishers: Sequence[Publisher]) -> None:
        """Until each had something acknowledged that it sent after now."""
        before = [len(each.acknowledged) for each in publishers]
        until(
            lambda: all(len(each.acknowledged) > had + BATCH for each, had in zip(publishers, before, strict=True)),
            f"everybody to publish\n{self.process.stderr[-3000:]}",
        )

    def looks_at_everything(self) -> None:
        changes = self._watched()
        assert [each.position for each in changes] == list(range(1, len(changes) + 1))
        leaves, digests = [], []
        for each in changes:
            if each.certificate:
                leaves.append(transparency.certificate_leaf(each.certificate))
                continue
            envelope = wire.envelope_from_message(each.envelope)
            leaves.append(transparency.leaf_of(envelope))
            digests.append(envelope.digest)
        records = [each for each in digests if each in self.acknowledged]
        assert len(records) == len(set(records)), "something stands there twice"
        assert self.acknowledged <= set(digests), "something acknowledged is lost"
        hashes = [leaf_hash(each) for each in leaves]

        def all_agree() -> bool:
            # One that did not look since the last of it was stored elsewhere shows a little less, and nothing else.
            told = {(each.size, each.root) for each in self._checkpoints()}
            for size, root in told:
                assert size <= len(hashes), "there is more than was shown"
                assert root == merkle.root(hashes[:size]), f"another history of {size:,} entries"
            return {size for size, _ in told} == {len(changes)}

        until(all_agree, "every process to show all of it")
        assert app.check(self.registry.folder) == []

    def _watched(self) -> list[registry_pb2.Change]:
        member = self.members[0]
        with contextlib.closing(self.registry.dial()) as channel:
            stub = registry_pb2_grpc.RegistryStub(channel)
            size = self._checkpoint(stub).size
            request = registry_pb2.WatchRequest(after=0, with_certificates=True)
            changes: list[registry_pb2.Change] = []
            stream = stub.Watch(request, metadata=member.metadata, timeout=60)
            for answer in stream:
                changes += answer.changes
                if changes[-1].position >= size:
                    stream.cancel()
                    break
        return changes

    def _checkpoints(self) -> list[Checkpoint]:
        """Of each process: new connections, until each has been asked."""
        found = []
        asked: set[int] = set()
        deadline = time.monotonic() + END_TIMEOUT
        while not asked >= set(self.workers):
            assert time.monotonic() < deadline, f"of {self.workers} only {asked} were asked"
            before = self._ours()
            with contextlib.closing(self.registry.dial()) as channel:
                found.append(self._checkpoint(registry_pb2_grpc.RegistryStub(channel)))
                asked |= self._served_by(self._ours() - before)
        return found

    def _ours(self) -> set[int]:
        """The ports of this process's connections to the registry."""
        found = psutil.Process().net_connections("tcp")
        return {each.laddr.port for each in found if each.raddr and each.raddr.port == self.registry.address.port}

    def _served_by(self, ports: set[int]) -> set[int]:
        return {
            worker
            for worker in self.workers
            for each in psutil.Process(worker).net_connections("tcp")
            if each.raddr and each.raddr.port in ports
        }

    def _checkpoint(self, stub: registry_pb2_grpc.RegistryStub) -> Checkpoint:
        with raised():
            answer = stub.GetCheckpoint(
                registry_pb2.GetCheckpointRequest(), metadata=self.members[0].metadata, timeout=60
            )
        return transparency.verify(answer.log.checkpoint, self.authority).checkpoint


@pytest.fixture(scope="module")
def primary() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture
def machines(tmp_path: Path, primary: Postgres) -> Iterator[tuple[league.Registry, league.Registry]]:
    """Two registries with one store, the second from a copy of the first one's home."""
    homes = tmp_path / "one", tmp_path / "other"
    addresses = tuple(Address("127.0.0.1", free_port()) for _ in homes)
    app.init(
        homes[0], "Test league", Prefix.parse("86"), addresses[0], addresses, store=Store.parse(primary.database())
    )
    with (homes[0] / "registry.toml").open("a") as file:
        file.write(UNLIMITED)
    shutil.copytree(*homes)
    settings = homes[1] / "registry.toml"
    settings.write_text(settings.read_text().replace(f'listen = "{addresses[0]}"', f'listen = "{addresses[1]}"'))
    one, other = (league.Registry(home, address) for home, address in zip(homes, addresses, strict=True))
    with contextlib.ExitStack() as stack:
        for each in (one, other):
            each.serve()
            stack.callback(each.stop)
        yield one, other


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, primary: Postgres) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("league")
    with contextlib.ExitStack() as stack:
        database = primary.database().rpartition("/")[2]
        mounted = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="hanse-standby-")))
        mounted.chmod(0o755)
        disk = stack.enter_context(small_disk(mounted / "disk", DISK, "uid=65534", "gid=65534"))
        standby = Postgres(disk.folder, max_wal_size="32MB", min_wal_size="32MB").initialize_from(primary)
        stack.callback(standby.kill)
        standby.start()
        primary.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
        primary.execute("SELECT pg_reload_conf()")
        network = Cuttable(primary.port)
        stack.callback(network.close)
        store = f"postgresql://postgres@127.0.0.1:{network.port},127.0.0.1:{standby.port}/{database}"
        address = Address("127.0.0.1", free_port())
        home = folder / "registry"
        app.init(home, "Test league", Prefix.parse("86"), address, store=Store.parse(store))
        with (home / "registry.toml").open("a") as file:
            file.write(UNLIMITED)
        process = Process("registry", folder / "logs", "registry.cli", "serve", "--home", home, "--workers", WORKERS)
        stack.callback(process.kill)
        process.start()
        registry = league.Registry(home, address)
        with app.opened(home) as opened:
            authority = opened.authority
        members = [registry.join(f"86.m{number}") for number in range(4)]
        yield Scene(folder, primary, standby, disk, network, registry, process, authority, members)


def test_an_older_answer_of_another_process_is_no_rollback(
    machines: tuple[league.Registry, league.Registry], tmp_path: Path
) -> None:
    one, other = machines
    north, acme = one.join("86.north"), one.join("86.acme")
    identity = Identity.load(acme.home(tmp_path / "acme", one.invite("86.nobody")))
    with contextlib.ExitStack() as stack:
        known = stack.enter_context(contextlib.closing(Known.open(tmp_path / "acme" / "known.db")))
        asking = [stack.enter_context(League(replace(identity, registries=(each.address,)))) for each in machines]
        for each in asking:
            each.learn = lambda _: None  # type: ignore[method-assign] # each asks one of them, and nobody else
        resolvers = [Resolver(identity, known, each) for each in asking]
        x, before, version, proofs = Identifier.parse("86.north/x"), None, 0, 0
        # Whether the other has looked since is chance: on a machine that is slow enough it mostly has.
        while version < 30 or (not proofs and version < 600):
            version += 1
            before = north.record("x", version, before, title="Trial")
            assert [each.code for each in north.publish(before)] == [_ACCEPTED]
            for each in resolvers:
                found = each.record(x, max_age=0)
                assert (found.record.record.version, found.from_cache) == (version, False)
                proofs += found.proof is not None
                page = each.search(Query("Trial"))
                assert ([each.record.version for each in page.records], page.refused) == ([version], ())
            if version in (10, 20, 30):
                newcomer = one.join(f"86.new{version}")
                for each in resolvers:
                    assert newcomer.prefix in each.membership(max_age=0).members
                newcomer.channel = other.dial()
                assert [each.code for each in newcomer.publish(newcomer.record("y"))] == [_ACCEPTED]
                for each in resolvers:
                    each.record(Identifier.parse(f"{newcomer.prefix}/y"), max_age=0)
        assert proofs > 0, "no answer was old: the test tests nothing"


def test_a_new_key_and_a_suspension_count_at_once_in_every_process(
    machines: tuple[league.Registry, league.Registry],
) -> None:
    one, other = machines
    north = one.join("86.north")
    elsewhere = replace(north, channel=other.dial())
    first = north.record("x")
    assert [each.code for each in elsewhere.publish(first)] == [_ACCEPTED]
    key = SigningKey.generate()
    assert [each.code for each in north.publish(north.next_organization(key=key))] == [_ACCEPTED]
    old = elsewhere.record("y")
    with contextlib.suppress(NotPermitted):
        assert [each.code for each in elsewhere.publish(old)] == [_REFUSED]
    elsewhere.key = key
    assert [each.code for each in elsewhere.publish(elsewhere.record("x", 2, first))] == [_ACCEPTED]
    app.suspend(one.folder, north.prefix)
    with contextlib.suppress(NotPermitted):
        assert [each.code for each in elsewhere.publish(elsewhere.record("z"))] == [_TRY_AGAIN]
    app.restore(one.folder, north.prefix)
    assert [each.code for each in elsewhere.publish(elsewhere.record("z"))] == [_ACCEPTED]


def test_processes_that_are_told_different_addresses_do_not_answer_each_other_in_the_log(
    machines: tuple[league.Registry, league.Registry],
) -> None:
    one, other = machines
    north = one.join("86.north")
    other.stop()
    settings = other.folder / "registry.toml"
    settings.write_text(settings.read_text().replace("advertise = [", 'advertise = ["third.example:7400", '))
    other.serve()
    sizes = []
    for _ in range(5):
        for each in machines:
            north.channel = each.dial()
            answer = north.membership()
            head = wire.envelope_from_message(answer.head)
            found, _ = wire.decode_membership(head.payload, answer.members)
            assert str(found.registries[0]) == "third.example:7400"
        sizes.append(_size(one))
        time.sleep(0.2)  # longer together than both take to look
    assert len(set(sizes)) == 1


def _size(registry: league.Registry) -> int:
    with app.opened(registry.folder) as opened:
        return opened.storage.last_position()


def test_one_address_is_printed_once_and_a_second_registry_there_is_refused(scene: Scene) -> None:
    assert scene.process.stdout == f"listening on {scene.registry.address}\n"
    assert len(scene.workers) == WORKERS
    with pytest.raises(Conflict), held(scene.registry.address):
        pass


def test_a_worker_that_is_killed_is_started_anew_and_costs_nothing(scene: Scene) -> None:
    killed = scene.workers[0]
    with scene.publishing():
        os.kill(killed, signal.SIGKILL)
        until(lambda: len(set(scene.workers) - {killed}) == WORKERS, "another in its place")
        until(lambda: scene.process.stderr.count("worker.started") == WORKERS + 1, "it to serve")
    assert "worker.died" in scene.process.stderr
    scene.looks_at_everything()


def test_a_cut_between_the_registry_and_its_database(scene: Scene) -> None:
    with scene.publishing() as publishers:
        scene.network.cut()
        time.sleep(0.5)  # as long as it lasts
        assert scene.process.running
        scene.network.heal()
        scene.progress(publishers)
    scene.looks_at_everything()


def test_the_database_fails_over_and_nobody_touches_the_registry(scene: Scene) -> None:
    with scene.publishing() as publishers:
        began = time.monotonic()
        scene.primary.kill()
        scene.standby.promote()
        scene.progress(publishers)
        print(f"published {time.monotonic() - began:.1f} s after the primary was killed")
    assert scene.process.running
    assert len(scene.workers) == WORKERS
    scene.looks_at_everything()


def test_a_full_disk_of_the_database(scene: Scene) -> None:
    with scene.publishing() as publishers:
        scene.disk.fill()
        until(lambda: "publish.failed" in scene.process.stderr, "the registry to notice")
        had = [len(each.acknowledged) for each in publishers]
        scene.disk.free()

        def goes_on() -> bool:
            if not scene.standby.running:  # without room for its log PostgreSQL ends itself: somebody starts it again
                scene.standby.start()
            return all(len(each.acknowledged) > old for each, old in zip(publishers, had, strict=True))

        until(goes_on, "it to go on")
    scene.looks_at_everything()


def test_it_ends_gracefully_and_is_killed_with_all_its_workers(scene: Scene) -> None:
    assert run("registry.cli", "check", "--home", scene.registry.folder).code == 0
    workers = scene.workers
    assert scene.process.terminate() == 0
    assert not any(psutil.pid_exists(each) for each in workers)

    scene.process.start()
    workers = scene.workers
    os.kill(scene.process.pid, signal.SIGKILL)
    until(lambda: not any(map(alive, workers)), "the workers to follow")


def test_workers_over_a_file_are_refused_with_the_way_out(tmp_path: Path) -> None:
    app.init(tmp_path / "registry", "", Prefix.parse("86"), Address("127.0.0.1", 0))
    refused = run("registry.cli", "serve", "--workers", 2, "--home", tmp_path / "registry")
    assert refused.code == 1
    assert "hanse-registry migrate-store postgresql://" in refused.stderr


def alive(pid: int) -> bool:
    with contextlib.suppress(psutil.NoSuchProcess):
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    return False
