"""What two organizations sign about data that passes between them: requests, grants, receipts. SPEC.md 15 to 19.

Pure. A paper proves nothing by itself: hanse.papers verifies it. Its name is the digest of its envelope. Times are
Unix seconds; digests and nonces are bytes, empty where there is none.
"""

from collections.abc import Collection
from dataclasses import dataclass

from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Operation

NONCE_BYTES = 16


@dataclass(frozen=True, slots=True)
class AccessRequest:
    """``consumer`` asks for leave. ``valid_until`` None: as long as the owner gives it."""

    nonce: bytes
    consumer: Prefix
    id: Identifier
    operations: tuple[Operation, ...]
    purposes: tuple[Purpose, ...]
    message: str
    valid_until: int | None
    issued_at: int


@dataclass(frozen=True, slots=True)
class Grant:
    """``issuer`` is the owner of ``ids``, or the holder of ``parent``. ``to_key`` None: whatever key ``to`` has."""

    nonce: bytes
    issuer: Prefix
    to: Prefix
    to_key: KeyId | None
    ids: tuple[Identifier, ...]
    conditions: Conditions
    request: bytes
    parent: bytes
    issued_at: int

    def __post_init__(self) -> None:
        if not self.ids or len({id.prefix for id in self.ids}) != 1:
            raise InvalidInput("a grant is for one or more objects of one owner")

    @property
    def owner(self) -> Prefix:
        return self.ids[0].prefix

    def is_within(self, parent: "Grant") -> bool:
        """Whether this one allows nothing that its parent does not; whoever holds it."""
        return set(self.ids) <= set(parent.ids) and self.conditions.is_within(parent.conditions)


@dataclass(frozen=True, slots=True)
class Denial:
    """The owner's no to a request."""

    request: bytes
    issuer: Prefix
    reason: str
    issued_at: int


@dataclass(frozen=True, slots=True)
class Revocation:
    """Ends a grant, and all that were narrowed from it, for good."""

    grant: bytes
    issuer: Prefix
    reason: str
    issued_at: int


@dataclass(frozen=True, slots=True, order=True)
class Delivered:
    """Whole elements, or when ``elements`` is 0, chunks of one."""

    element: int
    elements: int = 0
    first_chunk: int = 0
    chunks: int = 0

    def __post_init__(self) -> None:
        if self.elements and (self.first_chunk or self.chunks):
            raise InvalidInput("what was delivered is whole elements, or chunks of one element: not both")
        if not self.elements and not self.chunks:
            raise InvalidInput("what was delivered is at least one element or one chunk")


@dataclass(frozen=True, slots=True)
class Receipt:
    """What was delivered and verified, each chunk once. ``delivery`` (16 bytes) names the fetch."""

    delivery: bytes
    owner: Prefix
    consumer: Prefix
    id: Identifier
    version: int
    record: bytes
    grant: bytes
    purposes: tuple[Purpose, ...]
    delivered: tuple[Delivered, ...]
    unique_bytes: int
    started_at: int
    ended_at: int


@dataclass(frozen=True, slots=True)
class Deletion:
    """That the key of a leased copy was destroyed. ``reason``: expired, revoked or asked for."""

    owner: Prefix
    consumer: Prefix
    id: Identifier
    version: int
    grant: bytes
    reason: str
    deleted_at: int


def joined(parts: Collection[Delivered]) -> tuple[Delivered, ...]:
    """The same parts in order, each once, neighbours joined: the one form in which a receipt has them."""
    whole: list[list[int]] = []
    for first, end in sorted((each.element, each.element + each.elements) for each in parts if each.elements):
        if whole and first <= whole[-1][1]:
            whole[-1][1] = max(whole[-1][1], end)
        else:
            whole.append([first, end])
    found = [Delivered(first, end - first) for first, end in whole]
    chunks: dict[int, list[list[int]]] = {}
    for element, first, end in sorted(
        (each.element, each.first_chunk, each.first_chunk + each.chunks) for each in parts if not each.elements
    ):
        if any(low <= element < high for low, high in whole):
            continue
        runs = chunks.setdefault(element, [])
        if runs and first <= runs[-1][1]:
            runs[-1][1] = max(runs[-1][1], end)
        else:
            runs.append([first, end])
    found += [Delivered(element, 0, first, end - first) for element, runs in chunks.items() for first, end in runs]
    return tuple(sorted(found))
