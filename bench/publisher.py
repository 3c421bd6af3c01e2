"""One publishing member: ``python -m bench.publisher HOME FIRST COUNT`` signs, connects, says ready, waits for a line.

Then it publishes. It sends bytes and compares the answers with those that it wants to see, so that what is measured is
the registry and not its caller: everything else is done before. Each connection takes the next message when few of its
own are unanswered, so that a process of the registry that was dealt more connections does not get more work with them.
At the end it prints how many records were accepted, and its processor seconds since the line.
"""

import sys
import threading
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path

import grpc

from bench import ours
from hanse import limits, wire
from hanse.client.identity import MARKER, Identity
from hanse.home import Home
from hanse.rpc import tls
from hanse.rpc.channel import dial
from hanse.v1 import registry_pb2

METHOD = "/hanse.v1.Registry/Publish"
CONNECTIONS = 4
BATCH = 100  # envelopes of a message
UNANSWERED = 4  # messages of a connection

_Message = tuple[bytes, bytes]  # what is sent, and what is to be answered


def main(home: Path, first: int, count: int) -> tuple[int, float]:
    who = Identity.load(Home.open(home, MARKER, ""))
    now = int(time.time())
    envelopes = list(ours.signed(ours.identifiers(who.prefix, first, count), who.signing_key, now))
    messages = deque[_Message]()
    for at in range(0, count, BATCH):
        some = envelopes[at : at + BATCH]
        accepted = registry_pb2.PublishOutcome.CODE_ACCEPTED
        outcomes = [registry_pb2.PublishOutcome(digest=each.digest, code=accepted) for each in some]
        messages.append(
            (
                registry_pb2.PublishRequest(envelopes=map(wire.envelope_to_message, some)).SerializeToString(),
                registry_pb2.PublishResponse(outcomes=outcomes).SerializeToString(),
            )
        )
    calls = []
    for _ in range(CONNECTIONS):
        channel = dial(
            who.registries[0],
            roots=tls.to_pem(who.authority.ca_certificate),
            server_name=tls.registry_name(who.authority.root),
            max_message=limits.MEMBERSHIP_BYTES,
        )
        grpc.channel_ready_future(channel).result(timeout=60)
        calls.append(channel.stream_stream(METHOD, _registered_method=False))
    metadata = (("hanse-pass-bin", wire.encode_envelope(who.sign_pass(now))),)
    failed: list[bytes] = []

    def publish(number: int) -> None:
        room, wanted = threading.Semaphore(UNANSWERED), deque[bytes]()

        def sent() -> Iterator[bytes]:
            while room.acquire() and messages:
                try:
                    message, answer = messages.popleft()
                except IndexError:  # another connection was quicker
                    return
                wanted.append(answer)
                yield message

        for answer in calls[number](sent(), metadata=metadata, timeout=300):
            if answer != wanted.popleft():
                failed.append(answer)
            room.release()
        failed.extend(wanted)

    threads = [threading.Thread(target=publish, args=(number,)) for number in range(CONNECTIONS)]
    print("ready", flush=True)
    sys.stdin.readline()
    began = time.process_time()
    for each in threads:
        each.start()
    for each in threads:
        each.join()
    return 0 if failed or messages else count, time.process_time() - began


if __name__ == "__main__":
    print(*main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
