"""What a version of an object consists of, verified: the record, the manifest, the elements. SPEC.md section 8.

Pages are spooled as they come and used only when all are there and their Merkle root is the one that the owner
signed, so that memory does not grow with the number of elements. What was verified can be kept and ``reopen``ed.

    with describe(resolver, peer, identifier) as description:
        for index, element in description.elements(): ...
"""

import contextlib
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any, Protocol, Self

from hanse import limits, trust, wire
from hanse.client.peer import Peer
from hanse.client.progress import Patience
from hanse.client.resolve import Resolver
from hanse.client.spool import Spool
from hanse.errors import InvalidInput, LimitExceeded, NotFound, Unreachable, Withdrawn, WrongContent
from hanse.merkle import RootBuilder, leaf_hash
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier
from hanse.model.manifest import Element, ElementName, Manifest
from hanse.model.record import Status
from hanse.trust import VerifiedOrganization, VerifiedRecord

_LENGTH = struct.Struct("<I")
_FRAME_BYTES = 64 * limits.MIB  # of one thing in a spool: more is a damaged length
_KEPT_ELEMENTS = 50_000  # decoded once and kept; more are decoded from the spool each time
FIRST_PATIENCE = 8.0  # seconds of attempts to reach a node that did not answer yet


class Pages(Protocol):
    """A binary file that can be read from any position."""

    def read(self, length: int = -1, /) -> bytes: ...
    def seek(self, offset: int, whence: int = 0, /) -> int: ...
    def tell(self) -> int: ...
    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class Signed:
    """What a description was verified from, besides the pages."""

    record: Envelope
    manifest: Envelope
    salt: bytes


@dataclass
class Description:
    """A verified version. To be closed."""

    record: VerifiedRecord
    owner: VerifiedOrganization
    manifest: Manifest
    manifest_digest: bytes
    signed: Signed = field(repr=False)
    _spool: Pages = field(repr=False)
    _kept: list[Element] | None = field(default=None, repr=False)
    content: bytes = field(default=b"", repr=False)  # as it came along: not verified

    def elements(self) -> Iterator[tuple[int, Element]]:
        """Each with its position, in order."""
        if self._kept is not None:
            yield from enumerate(self._kept)
            return
        index = 0
        for page in unframed(self._spool):
            for element in wire.decode_page(page).elements:
                yield index, element
                index += 1

    def select(self, names: Iterable[str]) -> dict[int, Element]:
        """The elements of these names, by position. Raises NotFound."""
        wanted = {ElementName.parse(name).text for name in names}
        found = {index: element for index, element in self.elements() if element.name.text in wanted}
        if len(found) < len(wanted):
            raise NotFound(
                f"version {self.manifest.version} of {self.manifest.id} has no element of "
                f"{'that name' if len(wanted) == 1 else 'one of those names'}: `hanse resolve` shows the public ones"
            )
        return found

    def pages(self) -> Iterator[bytes]:
        """As they came, in order."""
        return unframed(self._spool)

    def close(self) -> None:
        self._spool.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def describe(
    resolver: Resolver,
    peer: Peer,
    identifier: Identifier,
    version: int = 0,
    *,
    patience: float = FIRST_PATIENCE,
    grant: bytes = b"",
    delivery: bytes = b"",
) -> Description:
    """Asks the owner's node, under a grant if need be; version 0 is the newest.

    With a ``delivery``, a small content comes along. Raises what policy, transport and verification raise.
    """
    spool = Spool()
    try:
        return _describe(resolver, peer, identifier, version, spool, Patience(patience), grant, delivery)
    except BaseException:
        spool.close()
        raise


def _describe(
    resolver: Resolver,
    peer: Peer,
    identifier: Identifier,
    version: int,
    spool: Spool,
    patience: Patience,
    grant: bytes,
    delivery: bytes,
) -> Description:
    pages, builder, found = 0, RootBuilder(), None
    while True:
        try:
            wanted = found.manifest.version if found else version
            described = peer.describe(identifier, wanted, pages, grant=grant, delivery=b"" if pages else delivery)
            try:
                signed = Signed(described.record, described.manifest, described.salt)
                again = _head(resolver, signed, identifier, wanted, spool)
                if found is not None and again.manifest_digest != found.manifest_digest:
                    raise WrongContent(f"{identifier} has two manifests of version {again.manifest.version}")
                found = again
                found.content = described.content
                for page in described.pages:
                    pages += 1
                    if pages > found.manifest.page_count:
                        raise WrongContent(f"the node sent more pages than the manifest of {identifier} has")
                    if len(page) > limits.MANIFEST_PAGE_BYTES:
                        raise WrongContent(f"the node sent a page of the manifest of {identifier} that is too large")
                    builder.add(leaf_hash(page))
                    spool.write(framed(page))
                    patience.progressed()
            finally:
                described.close()
            break
        except Unreachable as error:
            patience.wait(error)
    if pages != found.manifest.page_count or builder.root() != found.manifest.pages_root:
        raise WrongContent(f"the elements that the node sent are not those of the manifest of {identifier}")
    found._kept = _check(found.manifest, spool)
    return found


def reopen(resolver: Resolver, identifier: Identifier, version: int, signed: Signed, pages: Pages) -> Description:
    """A description that was kept: verified once more, without asking its owner. Raises as ``describe``."""
    found = _head(resolver, signed, identifier, version, pages)
    builder, count = RootBuilder(), 0
    for page in unframed(pages):
        builder.add(leaf_hash(page))
        count += 1
    if count != found.manifest.page_count or builder.root() != found.manifest.pages_root:
        raise WrongContent(f"the elements of {identifier} that were kept are not those of its manifest")
    if found.manifest.element_count <= _KEPT_ELEMENTS:
        found._kept = [element for _, element in found.elements()]
    return found


def _head(resolver: Resolver, signed: Signed, identifier: Identifier, version: int, spool: Pages) -> Description:
    record, owner = resolver.accept(identifier, signed.record, version=version)
    if record.record.status is Status.WITHDRAWN:
        raise Withdrawn(f"{identifier} was withdrawn by its owner: {record.record.reason or 'no reason is given'}")
    manifest = trust.manifest(signed.manifest, signed.salt, record.record, owner.record)
    return Description(record, owner, manifest, signed.manifest.digest, signed, spool)


def framed(page: bytes) -> bytes:
    """As it lies in a spool."""
    return _LENGTH.pack(len(page)) + page


def unframed(spool: Pages) -> Iterator[bytes]:
    """All that lies in a spool, each as it was before ``framed``. Raises WrongContent if something is missing."""
    spool.seek(0)
    while head := spool.read(_LENGTH.size):
        at = spool.tell()
        length = _LENGTH.unpack(head)[0] if len(head) == _LENGTH.size else -1
        page = spool.read(length) if 0 <= length <= _FRAME_BYTES else b""
        if len(page) != length:
            raise WrongContent("what was spooled is not there any more as it was")
        yield page
        spool.seek(at + length)


def _check(manifest: Manifest, spool: Pages) -> list[Element] | None:
    """That the elements are those of the manifest and can be written side by side. Raises WrongContent.

    Names are compared by 64-bit hashes, keyed anew in each process: a million of them fit.
    """
    count, total = 0, 0
    kept: list[Element] | None = [] if manifest.element_count <= _KEPT_ELEMENTS else None
    files: set[int] = set()
    folders: set[int] = set()
    folder_names: set[str] = set()
    what = f"the manifest of {manifest.id}"
    with _parsed(what):
        for data in unframed(spool):
            page = wire.decode_page(data)
            if page.first_element != count or not page.elements:
                raise WrongContent(f"{what} has a page that does not follow the one before it")
            for element in page.elements:
                fold = element.name.fold
                files.add(hash(fold))
                count += 1
                if len(files) != count:
                    raise WrongContent(f"{what} has two elements whose names some file systems take for the same")
                parent = fold.rpartition("/")[0]
                while parent and parent not in folder_names:
                    folder_names.add(parent)
                    folders.add(hash(parent))
                    parent = parent.rpartition("/")[0]
                if element.chunk_count > limits.ELEMENT_CHUNKS:
                    raise LimitExceeded(f"an element has at most {limits.ELEMENT_CHUNKS} chunks")
                total += element.length
            if kept is not None:
                kept.extend(page.elements)
            if len(folder_names) > 2 * _KEPT_ELEMENTS:
                folder_names.clear()
    if count != manifest.element_count or total != manifest.total_bytes:
        raise WrongContent(f"{what} counts other elements or bytes than it lists")
    if not files.isdisjoint(folders):
        raise WrongContent(f"{what} has an element whose name is also that of a folder")
    return kept


@contextlib.contextmanager
def _parsed(what: str) -> Iterator[Any]:
    try:
        yield
    except InvalidInput as error:
        raise WrongContent(f"{what} names an element that cannot be accepted: {error}") from None
