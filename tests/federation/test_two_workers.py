"""Two workers over PostgreSQL with a witness and a mirror: one log, whoever is asked; and one of them that hangs."""

import contextlib
import json
import os
import signal
import ssl
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from shutil import copytree
from typing import Any

import grpc
import psutil
import psycopg
import pytest

from hanse import cosigning, transparency
from hanse.cosigning import WitnessKey
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority
from hanse.signing import SigningKey
from hanse.v1 import registry_pb2
from node import witness as module
from registry import app
from registry.store import Store
from tests import league
from tests.league import Member
from tests.postgres import Postgres
from tests.processes import Node, Process, free_port, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("two_workers")]

SILENCE = 8  # seconds: longer than a worker that goes on may get no processor


@dataclass
class Scene:
    registry: league.Registry
    supervisor: Process
    north: Member
    witness: WitnessKey
    mirror: Path
    authority: Authority

    @property
    def workers(self) -> set[int]:
        return {each.pid for each in psutil.Process(self.supervisor.pid).children()}

    @contextlib.contextmanager
    def each(self) -> Iterator[dict[int, Member]]:
        """North, connected to each of the workers."""
        with contextlib.ExitStack() as stack:
            found: dict[int, Member] = {}

            def connect() -> bool:
                before = _ports(psutil.Process(), self.registry.address)
                channel = stack.enter_context(contextlib.closing(self.registry.dial()))
                grpc.channel_ready_future(channel).result(60)
                (own,) = _ports(psutil.Process(), self.registry.address) - before
                for pid in self.workers:
                    if own in {each.raddr.port for each in _connections(pid) if each.raddr}:
                        found[pid] = _through(self.north, channel)
                return set(found) == self.workers

            until(connect, "a connection to each")
            yield found

    def checkpoint(self, member: Member) -> tuple[str, tuple[int, bytes]]:
        """The note, and what it says of the log."""
        answer = member.stub.GetCheckpoint(registry_pb2.GetCheckpointRequest(), metadata=member.metadata, timeout=60)
        told = transparency.verify(answer.log.checkpoint, self.authority).checkpoint
        return answer.log.checkpoint, (told.size, told.root)

    def logged(self, event: str) -> list[dict[str, Any]]:
        written = self.supervisor.stderr.splitlines(keepends=True)  # the last one perhaps in part
        lines = (line for line in written if line.startswith("{") and line.endswith("\n"))
        return [told for told in map(json.loads, lines) if told["event"] == event]


def _connections(pid: int) -> list[Any]:
    return psutil.Process(pid).net_connections("tcp")


def _ports(process: psutil.Process, address: Address) -> set[int]:
    found = process.net_connections("tcp")
    return {each.laddr.port for each in found if each.raddr and each.raddr.port == address.port}


def _through(member: Member, channel: grpc.Channel) -> Member:
    copied = Member(**vars(member))
    copied.channel = channel
    return copied


def accepted(member: Member, suffix: str) -> None:
    (outcome,) = member.publish(member.record(suffix, title="Trial"))
    assert outcome.code == registry_pb2.PublishOutcome.CODE_ACCEPTED


@pytest.fixture(scope="module")
def database() -> Iterator[Postgres]:
    with Postgres() as server:
        yield server


@pytest.fixture(scope="module")
def scene(tmp_path_factory: pytest.TempPathFactory, database: Postgres) -> Iterator[Scene]:
    folder = tmp_path_factory.mktemp("league")
    home, logs = folder / "registry", folder / "logs"
    with contextlib.ExitStack() as stack:
        address, at = Address("127.0.0.1", free_port()), f"127.0.0.1:{free_port()}"
        key = SigningKey.generate()
        cosigner = WitnessKey(cosigning.name_of(Prefix("86.witness")), key.public)
        app.init(home, "Test league", Prefix.parse("86"), address, (address,), store=Store.parse(database.database()))
        with (home / "registry.toml").open("a") as file:
            file.write(f'calls_per_second = 1e9\nwitnesses = ["{cosigner} http://{at}"]\n')
        registry = league.Registry(home, address)
        registry.serve()
        north, witness = registry.join("86.north"), Node("86.witness", folder / "witness", logs)
        witness.command("join", registry.invite("86.witness"), "--listen", "127.0.0.1:0")
        registry.stop()

        (witness.home / module.KEY).touch(0o600)
        (witness.home / module.KEY).write_bytes(key.to_pem())
        (witness.home / module.STATE).write_bytes(b"")
        witnessing = Process("witness", logs, "node.cli", "serve", "--home", witness.home, "--witness", at)
        supervisor = Process("registry", logs, "tests.supervised", home, SILENCE)
        for each in (witnessing, supervisor):
            stack.callback(each.kill)
            each.start()  # the witness first: the registry would say that it is away

        mirror, own = folder / "mirror", f"127.0.0.1:{free_port()}"
        invitation = app.invite(home, Prefix("86.mirror"), mirror=True)
        mirrored = Process(
            "mirror", logs, "registry.cli", "mirror", invitation, "--home", mirror, "--listen", own, "--advertise", own
        )
        stack.callback(mirrored.kill)
        mirrored.start()
        with app.opened(home) as opened:
            authority = opened.authority
        yield Scene(registry, supervisor, north, cosigner, mirror, authority)


def test_each_worker_shows_its_log_cosigned_and_a_mirror_has_the_same(scene: Scene) -> None:
    with scene.each() as members:
        for pid, member in members.items():
            accepted(member, f"by-{pid}")
        keys = [f"86.north/by-{pid}" for pid in members]

        def all_agree() -> bool:
            notes, heads = zip(*(scene.checkpoint(each) for each in members.values()), strict=True)
            with app.opened(scene.mirror) as mirror:
                # What was cosigned is shown for a moment after it was outgrown: all may agree on less.
                has_both, head = set(mirror.storage.resolve(keys)) == set(keys), mirror.storage.head()
            cosigned = all(scene.witness in cosigning.dates(note, [scene.witness]) for note in notes)
            return has_both and cosigned and set(heads) == {(head.size, head.root)}

        until(all_agree, "both workers and the mirror to show one log, cosigned")
    assert scene.logged("witness.away") == []
    assert app.check(scene.mirror) == []


def test_a_worker_that_hangs_is_replaced_while_the_other_serves_on(scene: Scene) -> None:
    with scene.each() as members:
        hung, other = members
        accepted(members[hung], "before")
        os.kill(hung, signal.SIGSTOP)
        accepted(members[other], "meanwhile")
        until(lambda: hung not in scene.workers and len(scene.workers) == 2, "another in its place")
        until(lambda: len(scene.logged("worker.started")) == 3, "it to serve")
        accepted(members[other], "after")
        assert other in scene.workers
    (told,) = (each for each in scene.logged("worker.hangs") if each["process"] == hung)
    assert told["text"] == f"it lives and gets nowhere, for {SILENCE} s: killed, another takes its place"
    (died,) = scene.logged("worker.died")
    assert died["code"] == "SIGKILL"
    with scene.each() as members:
        for each in members.values():
            found = each.resolve("86.north/before", "86.north/meanwhile", "86.north/after")
            assert [one.state for one in found.resolutions] == [registry_pb2.Resolution.STATE_ACTIVE] * 3


def test_two_that_start_at_once_for_the_first_time_show_one_certificate(database: Postgres, tmp_path: Path) -> None:
    homes, addresses = (tmp_path / "one", tmp_path / "other"), [Address("127.0.0.1", free_port()) for _ in range(2)]
    dsn = database.database()
    app.init(homes[0], "Test league", Prefix.parse("86"), addresses[0], tuple(addresses), store=Store.parse(dsn))
    copytree(*homes)
    settings = homes[1] / "registry.toml"
    settings.write_text(settings.read_text().replace(f'listen = "{addresses[0]}"', f'listen = "{addresses[1]}"'))
    machines = [league.Registry(home, address) for home, address in zip(homes, addresses, strict=True)]
    threads = [threading.Thread(target=each.serve) for each in machines]
    waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with psycopg.connect(dsn) as held:
        held.execute("SELECT size FROM tree FOR UPDATE")
        for each in threads:
            each.start()
        until(lambda: database.execute(waiting, dsn) == [(2,)], "both to have found none, and to wait")
    for each in threads:
        each.join(60)
    try:
        assert len({ssl.get_server_certificate((each.host, each.port)) for each in addresses}) == 1
    finally:
        for each in machines:
            each.stop()
