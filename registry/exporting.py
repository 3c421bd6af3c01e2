"""A registry as one file: its authority, every entry of its log in order, who its members are, and a signed checkpoint.

It has no key and nothing that only the operator knows, so that it can be given to anybody who may read the records; and
it proves itself (registry.importing). It is written beside a registry that serves: the log only grows, so that whatever
is read up to its size at the beginning is of one moment. SPEC.md section 22.

    written = write(storage, authority_bytes, sign, Path("league.hanse"), now)
"""

import os
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import BinaryIO

from hanse import transparency, wire
from hanse.errors import AlreadyExists, Overloaded, StorageFailed
from hanse.evidence.checkpoint import Checkpoint
from hanse.files import storage_errors, sync_folder
from hanse.merkle import RootBuilder, leaf_hash
from hanse.model.address import Address
from hanse.transparency import Kind
from hanse.v1 import registry_file_pb2
from registry import framing, members
from registry.checking import entries
from registry.storage.base import Change, Head, Storage

FORMAT, VERSION = "hanse-registry", 1
_TRIES = 5

Sign = Callable[[Checkpoint], str]
"""The signed note of a checkpoint."""


@dataclass(frozen=True, slots=True)
class Written:
    """What is in a file."""

    path: Path
    size: int
    root: bytes
    counts: Counter[Kind]
    bytes: int


def write(
    storage: Storage,
    authority: bytes,
    registries: Callable[[], tuple[Address, ...]],
    sign: Sign,
    path: Path,
    now: int,
) -> Written:
    """Durable when it returns; until then there is no such file. Raises AlreadyExists, NoSpace, StorageFailed."""
    with storage_errors(str(path)):
        if path.exists():
            raise AlreadyExists(f"{path} is there already: choose another name, or remove it")
        temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
        try:
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                written = _write(storage, authority, registries, sign, file, now)
                file.flush()
                os.fsync(file.fileno())
            os.link(temporary, path)  # and not a rename: two who write one name do not replace each other's
        except FileExistsError:
            raise AlreadyExists(f"{path} is there already: choose another name, or remove it") from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return Written(path, written[0].size, written[0].root, written[1], path.stat().st_size)


def _write(
    storage: Storage, authority: bytes, registries: Callable[[], tuple[Address, ...]], sign: Sign, file: BinaryIO,
    now: int,
) -> tuple[Head, Counter[Kind]]:  # fmt: skip
    head, listed = _moment(storage, registries)
    digest, tree, counts = sha256(), RootBuilder(), Counter[Kind]()

    def put(part: bytes) -> None:
        digest.update(part)
        file.write(part)

    header = registry_file_pb2.RegistryHeader(format=FORMAT, version=VERSION, authority=authority, made_at=now)
    put(_part(1, header.SerializeToString()))
    for changes in entries(storage, head.size):
        for change in changes:
            leaf = _leaf(change)
            counts[Kind(leaf[0])] += 1
            tree.add(leaf_hash(leaf))
            put(_part(2, _entry(change)))
    if tree.root() != head.root:
        raise StorageFailed(
            "the log's entries are not those that it was made of: `hanse-registry check`; nothing written"
        )
    checkpoint = Checkpoint(transparency.origin(wire.decode_authority(authority)), head.size, head.root)
    trailer = registry_file_pb2.RegistryTrailer(
        checkpoint=sign(checkpoint),
        members=listed,
        records=counts[Kind.RECORD],
        organizations=counts[Kind.ORGANIZATION],
        memberships=counts[Kind.MEMBERSHIP],
        certificates=counts[Kind.CERTIFICATE],
        sha256=digest.digest(),
    )
    put(_part(3, trailer.SerializeToString()))
    return head, counts


def _moment(storage: Storage, registries: Callable[[], tuple[Address, ...]]) -> tuple[Head, bytes]:
    """The log, and the members as its newest membership has them."""
    for _ in range(_TRIES):
        league = members.load(storage, registries(), members.League())
        head = storage.head()
        if storage.membership_version() != league.version:
            continue  # somebody joined just then
        if not league.version:
            return head, b""
        if league.position is None:
            raise StorageFailed(
                "the newest membership in the log is not that of the members: start the registry once, then try again"
            )
        return head, league.members
    raise Overloaded("the membership changes all the time: try again")


def _leaf(change: Change) -> bytes:
    if change.is_certificate:
        return transparency.certificate_leaf(change.content)
    return transparency.leaf_of(wire.decode_envelope(change.content))


def _entry(change: Change) -> bytes:
    return b"\x08" + framing.varint(change.position) + framing.field(3 if change.is_certificate else 2, change.content)


def _part(number: int, content: bytes) -> bytes:
    part = framing.field(number, content)
    return framing.varint(len(part)) + part
