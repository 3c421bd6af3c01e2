"""A fetch that goes into the vault: sealed as it is written, resumed with the same key, readable when it is complete.

What it is not: the fetch (hanse.client.fetch). What comes here was verified. No plaintext, and no element's name, is
written anywhere: elements are known by their position, the description is sealed, and so are the leaf hashes.

    fetch(resolver, identifier, lease=Leasing(vault, grant_digest, conditions))
"""

import contextlib
import fcntl
import io
import os
from collections.abc import Iterable, Sequence
from hashlib import sha256
from pathlib import Path

from hanse import sealing, wire
from hanse.client.content import Description, Signed, framed, unframed
from hanse.client.durable import sync_filesystem
from hanse.client.journal import Journal
from hanse.client.spool import sealed_file
from hanse.errors import HomeInUse, InvalidInput, NoSpace, WrongContent
from hanse.evidence.storage import papers
from hanse.files import storage_errors, sync_folder
from hanse.merkle import HASH_BYTES
from hanse.model.lease import Lease
from hanse.model.manifest import Element
from hanse.model.terms import Conditions
from hanse.sealing import NONCE_BYTES, Keystream
from hanse.vault import keys
from hanse.vault.vault import Vault

_MODE = 0o600
_KEEP = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
_IN_A_FOLDER = 12  # bits of an element's number: 4,096 files
_SLACK = 1 << 20
_INDEX_BYTES = 8


def element_path(folder: Path, index: int) -> Path:
    """Where an element lies in the folder of its lease."""
    return folder / "data" / str(index >> _IN_A_FOLDER) / str(index)


def leaves_path(folder: Path, index: int) -> Path:
    """Where the leaf hashes of its chunks lie, if it is a large one."""
    return folder / "leaves" / str(index)


class Leasing:
    """Of one fetch under one grant."""

    def __init__(self, vault: Vault, grant: bytes, conditions: Conditions) -> None:
        """``conditions`` are those of the grant. Raises InvalidInput when they have no duty to delete."""
        seconds = conditions.delete_after
        if seconds is None:
            raise InvalidInput("a grant without a duty to delete needs no lease")
        self.vault, self._grant = vault, grant
        self._seconds, self._until = seconds, conditions.valid_until
        self.folder = vault.folder

    @property
    def life(self) -> float:
        """Seconds from now to the end: as the duty says, and no longer than the grant itself."""
        left = float("inf") if self._until is None else self._until - self.vault.seen().reading.wall
        return max(0.0, min(float(self._seconds), left))

    def kept(self, description: Description, chosen: dict[int, Element] | None) -> Lease | None:
        """The lease of the same, if it is there and complete."""
        what = _what(description, chosen)
        for lease in self.vault.leases(description.manifest.id):
            if lease.complete and lease.grant == self._grant and lease.version == description.manifest.version:
                head = read_head(self.vault, lease)
                if head is not None and _named(head) == what:
                    return lease
        return None

    def begin(self, description: Description, chosen: dict[int, Element] | None) -> "LeasedPlace":
        """A new lease, or one that was interrupted. Raises HomeInUse when it is being fetched already."""
        what, manifest = _what(description, chosen), description.manifest
        with self.vault.lock():
            for lease in self.vault.leases(manifest.id):
                if lease.complete or (lease.grant, lease.version) != (self._grant, manifest.version):
                    continue
                key = keys.read(self.vault.keys, lease.name)
                place = LeasedPlace.enter(self, lease.name, key, description, what) if key else None
                if place is not None:
                    if self.vault.prolong(lease.name, self.life, finished=False) is not None:
                        place.describe(description, chosen)
                        return place
                    place.close()
            name, key = self.vault.make(self._grant, manifest.id, manifest.version, self.life)
            place = LeasedPlace.enter(self, name, key, description, what)
            assert place is not None  # noqa: S101 - nobody else knows its name
            place.describe(description, chosen)
            return place


def leasing_under(vault: Vault, grant: bytes) -> Leasing | None:
    """Where a fetch under that grant (digest) goes; None if it has no duty to delete."""
    with vault.evidence.reading() as connection:
        row = papers.grant(connection, grant) if grant else None
    conditions = row.grant.conditions if row is not None else None
    return Leasing(vault, grant, conditions) if conditions and conditions.delete_after is not None else None


class LeasedPlace:
    """A ``Place`` of hanse.client.partial in the vault. ``lease`` is there when it is finished."""

    lease: Lease | None = None

    def __init__(self, leasing: Leasing, name: str, key: bytes, description: Description, journal: Journal, lock: int):
        self._leasing, self._vault, self._name, self._key = leasing, leasing.vault, name, key
        self._id, self._digest = description.manifest.id, description.manifest_digest
        self.target = self._vault.folder / name
        self.journal = journal
        self._lock = lock
        self._made: set[Path] = set()

    @classmethod
    def enter(
        cls, leasing: Leasing, name: str, key: bytes, description: Description, what: bytes
    ) -> "LeasedPlace | None":
        """None if something else is being fetched there. Raises HomeInUse."""
        folder = leasing.vault.folder / name
        with storage_errors("the vault"):
            lock = os.open(folder, _FOLDER)
            try:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    raise HomeInUse(
                        f"another process is fetching {description.manifest.id} into the vault: wait for it"
                    ) from None
                journal = Journal.open(folder / "journal", sealing.name(key, what))
            except BaseException:
                os.close(lock)
                raise
        if journal is None:
            os.close(lock)
            return None
        return cls(leasing, name, key, description, journal, lock)

    def describe(self, description: Description, chosen: dict[int, Element] | None) -> None:
        """Keeps what is needed to read it while its owner is away."""
        signed = description.signed
        parts = (
            wire.encode_envelope(signed.record),
            wire.encode_envelope(signed.manifest),
            signed.salt,
            _indexes(chosen),
        )
        with storage_errors("the vault"):
            framed_parts = b"".join(map(framed, parts))
            self._seal("head", [sha256(framed_parts).digest(), framed_parts])
            self._seal("pages", map(framed, description.pages()))

    def _seal(self, name: str, parts: Iterable[bytes]) -> None:
        nonce = sealing.new_nonce()
        descriptor = os.open(self.target / name, _KEEP | os.O_TRUNC, _MODE)
        os.pwrite(descriptor, nonce, 0)
        with contextlib.closing(sealed_file(descriptor, sealing.fresh(self._key, nonce), NONCE_BYTES)) as file:
            for part in parts:
                file.write(part)

    def need(self, length: int, elements: int) -> None:
        room = os.statvfs(self.target)
        needed, free = length + elements * 512 + _SLACK, room.f_bavail * room.f_frsize
        if needed > free:
            raise NoSpace(
                f"{self._id} needs {needed / 1e6:,.0f} MB in the vault and the disk of the home has {free / 1e6:,.0f} "
                "MB free: free some"
            )

    def create(self, index: int, element: Element, *, empty: bool = False) -> int:  # noqa: ARG002 - a Place's
        path = element_path(self.target, index)
        try:
            self._make(path.parent)
            return os.open(path, _KEEP | (os.O_TRUNC if empty else 0), _MODE)
        except FileNotFoundError:
            raise self._vault.over(self._id) from None  # it was ended, and its folder removed, meanwhile

    def open(self, index: int, element: Element) -> int | None:  # noqa: ARG002 - a Place's
        try:
            return os.open(element_path(self.target, index), os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None

    def _stream(self, index: int) -> Keystream:
        return sealing.content(self._key, self._digest, index)

    def sealed(self, index: int, pieces: Sequence[memoryview], offset: int) -> Sequence[memoryview]:
        return self._stream(index).apply_pieces(offset, pieces)

    def opened(self, index: int, data: memoryview, offset: int) -> None:
        self._stream(index).apply_within(offset, data)

    def keep_leaves(self, index: int, leaves: bytes) -> None:
        path = leaves_path(self.target, index)
        with storage_errors("the vault"):
            self._make(path.parent)
            path.write_bytes(sealing.leaves(self._key, self._digest, index).apply(0, leaves))

    def date(self, descriptor: int, element: Element) -> None:
        """Times of elements are nobody's business either."""

    def finish(self) -> None:
        """Makes all durable, then the lease complete: its time runs from here. Raises when it was ended meanwhile."""
        with storage_errors("the vault"):
            sync_filesystem(self.target)
        self.lease = self._vault.prolong(self._name, self._leasing.life, finished=True)
        if self.lease is None:
            self._vault.sweep()
            raise self._vault.over(self._id)
        with storage_errors("the vault"):
            (self.target / "journal").unlink()
            sync_folder(self.target)

    def close(self) -> None:
        self.journal.close()
        os.close(self._lock)

    def _make(self, folder: Path) -> None:
        if folder not in self._made:
            for each in (folder.parent, folder) if folder.parent != self.target else (folder,):
                with contextlib.suppress(FileExistsError):
                    each.mkdir(mode=0o700)
            self._made.add(folder)


# What lies in ``head``.


def read_head(vault: Vault, lease: Lease) -> tuple[Signed, list[int]] | None:
    """What the description was verified from, and the positions of what was chosen: none if it is all.

    None when it is not what was written. Raises what ``Vault.key`` raises.
    """
    key = vault.key(lease)
    with storage_errors("the vault"):
        data = (vault.folder / lease.name / "head").read_bytes()
    nonce, sealed = data[:NONCE_BYTES], data[NONCE_BYTES:]
    plain = sealing.fresh(key, nonce).apply(0, sealed)
    digest, written = plain[:HASH_BYTES], plain[HASH_BYTES:]
    if sha256(written).digest() != digest:
        return None
    record, manifest, salt, indexes = unframed(io.BytesIO(written))
    return Signed(wire.decode_envelope(record), wire.decode_envelope(manifest), salt), [
        int.from_bytes(indexes[at : at + _INDEX_BYTES], "big") for at in range(0, len(indexes), _INDEX_BYTES)
    ]


def damaged(lease: Lease) -> WrongContent:
    """What is said of a lease whose description is not what was written."""
    return WrongContent(
        f"what is kept of {lease.id} is damaged on this disk: `hanse leases --delete {lease.id}`, then fetch it again"
    )


def _indexes(chosen: dict[int, Element] | None) -> bytes:
    return b"".join(index.to_bytes(_INDEX_BYTES, "big") for index in sorted(chosen or ()))


def _what(description: Description, chosen: dict[int, Element] | None) -> bytes:
    """What is fetched: of which manifest, and which elements."""
    return description.manifest_digest + _indexes(chosen)


def _named(head: tuple[Signed, list[int]]) -> bytes:
    signed, indexes = head
    return signed.manifest.digest + b"".join(index.to_bytes(_INDEX_BYTES, "big") for index in indexes)
