"""Publishing: records signed by the client, verified and made durable by the registry, acknowledged."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bench import ours
from bench.scale import Scale
from bench.table import Row, Target, in_turns
from hanse import wire
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League
from hanse.home import Home
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.publishing import OutcomeCode
from hanse.signing import sign

PREFIX = Prefix.parse("86.north")


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    message = bytes(700)
    private = Ed25519PrivateKey.generate()
    signature, public = private.sign(message), private.public_key()

    def verify() -> float:
        count = 5_000
        began = time.perf_counter()
        for _ in range(count):
            public.verify(signature, message)
        return count / (time.perf_counter() - began)

    with ours.league(folder / "league") as league:
        node = league.join(str(PREFIX), serve=False)
        first = 0

        def publish() -> float:
            nonlocal first
            seconds = ours.module_seconds("bench.publishing", node.home, first, scale.published)
            first += scale.published
            return scale.published / seconds

        runs = in_turns(scale.runs, {"publish": publish, "Ed25519 verify": verify})
    yield Row(
        "publish, signed, verified, durable",
        "Ed25519 verify rate (`cryptography`, one thread)",
        Target(0.5),
        tuple(runs["publish"]),
        tuple(runs["Ed25519 verify"]),
        unit="records/s",
        how=f"`League.publish` of {scale.published:,} new records of about 600 bytes in a fresh process: signing, one "
        "stream, until the last is acknowledged",
    )


def publish(home: Path, first: int, count: int) -> float:
    """Seconds from before the first signature to after the last acknowledgement."""
    identity = Identity.load(Home.open(home, MARKER, ""))
    now = int(time.time())
    payloads = [wire.encode_record(ours.record(each, now)) for each in ours.identifiers(PREFIX, first, count)]
    with League(identity) as league:
        league.get_membership()
        began = time.perf_counter()
        envelopes = (sign(PayloadType.RECORD, each, identity.signing_key) for each in payloads)
        accepted = sum(outcome.code is OutcomeCode.ACCEPTED for outcome in league.publish(envelopes))
        seconds = time.perf_counter() - began
    assert accepted == count, f"{accepted} of {count} were accepted"
    return seconds


if __name__ == "__main__":
    print(publish(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
