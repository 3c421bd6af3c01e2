"""What a registry shows of its log, as messages and back. SPEC.md section 21.

Whatever does not parse raises InvalidInput; nothing else escapes. The rules of hanse.wire.
"""

from collections.abc import Iterable

from hanse import limits
from hanse.errors import InvalidInput
from hanse.evidence.checkpoint import MOST_LEAVES
from hanse.merkle import HASH_BYTES
from hanse.transparency import Inclusion, Shown
from hanse.v1 import registry_pb2


def shown_from_message(message: registry_pb2.Log) -> Shown:
    """The note is not verified yet."""
    if max(message.since, message.until) > MOST_LEAVES:
        raise InvalidInput("a log's size is larger than any log's")
    return Shown(message.checkpoint, message.since, _hashes(message.consistency), message.until)


def inclusion_from_message(message: registry_pb2.Inclusion) -> Inclusion:
    """A claim: see transparency.included."""
    if message.index > MOST_LEAVES:
        raise InvalidInput("an entry's number is larger than any log's")
    return Inclusion(message.index, _hashes(message.path))


def _hashes(found: Iterable[bytes]) -> tuple[bytes, ...]:
    hashes = tuple(found)
    if len(hashes) > limits.CONSISTENCY_HASHES or any(len(each) != HASH_BYTES for each in hashes):
        raise InvalidInput(f"a proof is at most {limits.CONSISTENCY_HASHES} hashes of {HASH_BYTES} bytes")
    return hashes
