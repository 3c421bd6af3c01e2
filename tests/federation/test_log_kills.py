"""kill -9 of the registry while it is published to: what it acknowledged is in one log, which nobody ever saw fork."""

import random
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest

from hanse import merkle, transparency, wire
from hanse.client.client import Client
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League as ClientLeague
from hanse.errors import HanseError, Unreachable
from hanse.home import Home
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.publishing import OutcomeCode
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.signing import sign
from registry.storage.sqlite import SqliteStorage
from tests.processes import League, until

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("log-kills"), pytest.mark.timeout(900)]

KILLS = 6


def record(prefix: Prefix, number: int) -> ObjectRecord:
    access, now = Access(AccessMode.OPEN), int(time.time())
    return ObjectRecord(
        Identifier.of(prefix, str(number)), 1, b"", "", Status.ACTIVE, Metadata(title="t"), Summary(), access,
        ("fetch",), bytes(32), now, 300,
    )  # fmt: skip


def test_killed_again_and_again_there_is_one_log_of_all_that_was_acknowledged(tmp_path: Path) -> None:
    with League(tmp_path) as league:
        publisher, follower = league.join("86.north", serve=False), league.join("86.acme", serve=False)
        identity = Identity.load(Home.open(publisher.home, MARKER, ""))
        accepted: list[int] = []
        broken: list[BaseException] = []
        ended = threading.Event()

        def publish() -> None:
            number = 0
            while not ended.is_set():
                batch = range(number, number + 20)
                payloads = [wire.encode_record(record(identity.prefix, each)) for each in batch]
                envelopes = [sign(PayloadType.RECORD, each, identity.signing_key) for each in payloads]
                while not ended.is_set():
                    try:
                        with ClientLeague(identity) as registry:
                            outcomes = list(registry.publish(envelopes))
                    except Unreachable:
                        time.sleep(0.05)
                        continue
                    if all(each.code is OutcomeCode.ACCEPTED for each in outcomes):
                        accepted.extend(batch)
                        break
                number = batch.stop

        def follow() -> None:
            """As a running node does, but without rest: a fork between two of its questions would be noticed."""
            with Client(follower.home) as client:
                while not ended.is_set():
                    try:
                        client.resolver.membership(max_age=0)
                    except Unreachable:
                        time.sleep(0.02)
                    except HanseError as error:
                        broken.append(error)
                        return

        threads = [threading.Thread(target=work, daemon=True) for work in (publish, follow)]
        for each in threads:
            each.start()
        for _ in range(KILLS):
            time.sleep(random.uniform(0.1, 0.6))
            league.registry.restart()
        until(lambda: len(accepted) >= 20 or broken, "a batch to be accepted between two kills, or after the last")
        ended.set()
        for each in threads:
            each.join(60)
        assert broken == []
        assert len(accepted) >= 20
        with Client(follower.home) as client:
            client.resolver.membership(max_age=0)
            proof = client.resolve(f"86.north/{accepted[-1]}", prove=True).proof
            assert proof is not None
            assert client._known.registry_lies() == []
        league.registry.kill()
        assert league.registry.command("check", "--json").json == {"problems": []}
        with closing(SqliteStorage(league.registry.home / "registry.db")) as storage:
            head = storage.head()
            leaves = storage.leaves(0, head.size)
            assert head.size >= proof.size
            assert merkle.root(map(merkle.leaf_hash, leaves)) == head.root
            assert len(set(leaves)) == len(leaves)
            found = storage.located([f"86.north/{each}" for each in accepted])
            assert len(found) == len(accepted)
            for _, envelope, position in found.values():
                assert leaves[position - 1] == transparency.leaf_of(wire.decode_envelope(envelope))
