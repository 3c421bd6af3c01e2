"""Reading what is leased: as a file, while its owner is away, each chunk held against the manifest before it is given.

Nothing is written anywhere. A lease that ends while somebody reads ends the reading at the next chunk.

    with open_kept(vault, resolver, identifier) as kept:
        with kept.open("visits.csv") as visits: ...
"""

import contextlib
import io
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Self

from hanse import sealing
from hanse.client.content import Description, reopen
from hanse.client.element_file import BUFFER_BYTES, ElementFile
from hanse.client.resolve import Resolver
from hanse.client.spool import sealed_file
from hanse.client.verify import read_at
from hanse.errors import HanseError, InvalidInput, NotFound, VerificationFailed, WrongContent
from hanse.files import storage_errors
from hanse.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash, root
from hanse.model.identifier import Identifier
from hanse.model.lease import Lease
from hanse.model.manifest import Element
from hanse.sealing import NONCE_BYTES
from hanse.vault.clock import uptime
from hanse.vault.leasing import damaged, element_path, leaves_path, read_head
from hanse.vault.vault import Vault

_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@dataclass
class Kept:
    """A lease that can be read. To be closed; the files that were opened stay open."""

    lease: Lease
    _vault: Vault
    _description: Description
    _chosen: frozenset[int]
    _key: bytes

    def elements(self) -> Iterator[tuple[int, Element]]:
        """What is kept, each with its position in the manifest."""
        for index, element in self._description.elements():
            if not self._chosen or index in self._chosen:
                yield index, element

    def has(self, name: str) -> bool:
        return any(element.name.text == name for _, element in self.elements())

    def open(self, name: str | None = None) -> io.BufferedReader:
        """The named element, or the only one. Raises NotFound, InvalidInput, WrongContent."""
        found = [each for each in self.elements() if name is None or each[1].name.text == name]
        if name is not None and not found:
            raise NotFound(f"no element of that name is kept of {self.lease.id}: `hanse open {self.lease.id}` lists")
        if len(found) != 1:
            raise InvalidInput(f"{len(found)} elements of {self.lease.id} are kept: say which")
        index, element = found[0]
        return io.BufferedReader(
            LeasedElement(self._vault, self.lease, self._key, self._description.manifest_digest, index, element),
            BUFFER_BYTES,
        )

    def close(self) -> None:
        self._description.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class LeasedElement(ElementFile):
    """Raw: ``Kept.open`` buffers it."""

    def __init__(
        self, vault: Vault, lease: Lease, key: bytes, manifest_digest: bytes, index: int, element: Element
    ) -> None:
        super().__init__(element)
        self._vault, self._lease = vault, lease
        self._stream = sealing.content(key, manifest_digest, index)
        self._ends = uptime() + vault.left(lease)
        with storage_errors("the vault"):
            self._descriptor = os.open(element_path(vault.folder / lease.name, index), _READ)
        try:
            self._leaves = self._load_leaves(key, manifest_digest, index)
        except BaseException:
            os.close(self._descriptor)
            raise

    def close(self) -> None:
        if not self.closed:
            os.close(self._descriptor)
        super().close()

    def _load(self, index: int) -> bytes:
        self._check_lease()
        chunk = self._read(index)
        if leaf_hash(chunk) != self._leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]:
            raise damaged(self._lease)
        return bytes(chunk)

    def _chunk(self, index: int) -> bytes:
        self._check_lease()
        return super()._chunk(index)

    def _check_lease(self) -> None:
        over = uptime() >= self._ends
        if over:
            self._vault.sweep()
        if over or not self._vault.alive(self._lease):
            self._cache.clear()
            raise self._vault.over(self._lease.id)

    def _read(self, index: int) -> memoryview:
        element = self._element
        chunk = memoryview(bytearray(element.chunk_length(index)))
        with storage_errors("the vault"):
            if not read_at(self._descriptor, chunk, index * element.chunk_size):
                raise damaged(self._lease)
        self._stream.apply_within(index * element.chunk_size, chunk)
        return chunk

    def _load_leaves(self, key: bytes, manifest_digest: bytes, index: int) -> bytes:
        """Those that were kept, of a large element; else of the bytes themselves."""
        element = self._element
        path: Path = leaves_path(self._vault.folder / self._lease.name, index)
        try:
            found = sealing.leaves(key, manifest_digest, index).apply(0, path.read_bytes())
        except FileNotFoundError:
            found = b"".join(leaf_hash(self._read(chunk)) for chunk in range(element.chunk_count))
        hashes = [found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)]
        if len(found) != HASH_BYTES * element.chunk_count or (
            (root(hashes) if hashes else EMPTY_ROOT) != element.merkle_root
        ):
            raise damaged(self._lease)
        return found


def open_kept(
    vault: Vault, resolver: Resolver, identifier: Identifier, version: int = 0, element: str | None = None
) -> Kept:
    """The newest complete lease of an object, with that ``element`` if one is named; version 0 is any.

    Raises NotFound or Revoked when there is none, WrongContent when what is kept is not what its owner signed.
    """
    vault.sweep()
    found: list[Lease] = sorted(
        (each for each in vault.leases(identifier) if each.complete and version in (0, each.version)),
        key=lambda each: (-each.version, -each.ends_at),
    )
    if not found:
        raise vault.over(identifier)
    failure: HanseError | None = None
    for lease in found:
        try:
            kept = _open(vault, resolver, lease)
        except VerificationFailed as error:
            failure = failure or error
            continue
        if element is None or kept.has(element):
            return kept
        kept.close()
    raise failure or NotFound(f"no element of that name is kept of {identifier}: `hanse open {identifier}` lists")


def _open(vault: Vault, resolver: Resolver, lease: Lease) -> Kept:
    key, head = vault.key(lease), read_head(vault, lease)
    if head is None:
        raise damaged(lease)
    signed, chosen = head
    with storage_errors("the vault"):
        descriptor = os.open(vault.folder / lease.name / "pages", _READ)
        nonce = os.pread(descriptor, NONCE_BYTES, 0)
    pages = sealed_file(descriptor, sealing.fresh(key, nonce), NONCE_BYTES)
    try:
        description = reopen(resolver, lease.id, lease.version, signed, pages)
    except (WrongContent, InvalidInput):
        pages.close()
        raise damaged(lease) from None
    except BaseException:
        with contextlib.suppress(OSError):
            pages.close()
        raise
    return Kept(lease, vault, description, frozenset(chosen), key)
