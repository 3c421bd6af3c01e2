"""From hashed files to a version: pages, a signed manifest, a signed record. Pure: time, keys and salt are arguments.

The same files give the same pages, byte for byte: elements come in the order of their names, and a page ends where
the next element would pass a limit.
"""

import mimetypes
from collections.abc import Iterable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Final, NamedTuple

from hanse import limits, merkle, trust, wire
from hanse.errors import LimitExceeded
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.manifest import Element, Manifest, ManifestPage
from hanse.model.record import Access, AccessMode, ListedElement, Metadata, ObjectRecord, Status, Summary
from hanse.model.terms import Operation, Terms
from hanse.signing import SigningKey, sign
from node.sources.hashing import Hashed

HIDEABLE: Final = ("element-count", "total-bytes", "media-types")
"""Parts of the summary that an owner may keep from the public."""

_DEFAULT_TYPE: Final = "application/octet-stream"
_ELEMENT_BYTES: Final = 160  # of an element in a page, besides name and media type, at most
# Without the machine's own tables, so that a file has the same type everywhere.
_TYPES: Final = {
    **mimetypes.MimeTypes().types_map[True],
    ".gz": "application/gzip",
    ".bz2": "application/x-bzip2",
    ".xz": "application/x-xz",
    ".zst": "application/zstd",
    ".7z": "application/x-7z-compressed",
    ".parquet": "application/vnd.apache.parquet",
    ".arrow": "application/vnd.apache.arrow.file",
    ".jsonl": "application/jsonl",
    ".ndjson": "application/x-ndjson",
    ".yaml": "application/yaml",
    ".yml": "application/yaml",
    ".geojson": "application/geo+json",
    ".md": "text/markdown",
}


def media_type(name: str) -> str:
    """Of a file name, by its last extension (IANA's types)."""
    base = name.rpartition("/")[2]
    stem, dot, extension = base.rpartition(".")
    return _by_extension("." + extension) if dot and stem else _DEFAULT_TYPE


@lru_cache(maxsize=4096)
def _by_extension(extension: str) -> str:
    return _TYPES.get(extension) or _TYPES.get(extension.lower()) or _DEFAULT_TYPE


class Page(NamedTuple):
    """A serialized page, rows of its elements for the catalog, and the leaf hashes of those longer than a chunk."""

    number: int
    data: bytes
    rows: list[tuple[object, ...]]
    leaves: list[tuple[int, bytes]]


class Paging:
    """Makes pages of elements and adds up what a manifest and a summary say. One pass."""

    def __init__(self, *, list_elements: bool = False) -> None:
        self.element_count = self.total_bytes = self.page_count = 0
        self.media_types: set[str] = set()
        self.listed: list[ListedElement] | None = [] if list_elements else None
        self._listed_bytes = 0
        self._root = merkle.RootBuilder()

    @property
    def pages_root(self) -> bytes:
        return self._root.root()

    def pages(self, files: Iterable[Hashed]) -> Iterator[Page]:
        """Raises LimitExceeded when more elements are to be listed than a record holds."""
        batch: list[tuple[Hashed, str]] = []
        size = 0
        for file in files:
            kind = media_type(file.name.text)
            more = _ELEMENT_BYTES + len(kind) + len(file.name.text.encode())
            if batch and (
                len(batch) == limits.MANIFEST_PAGE_ELEMENTS or size + more > limits.MANIFEST_PAGE_BYTES - limits.KIB
            ):
                yield self._page(batch)
                batch, size = [], 0
            batch.append((file, kind))
            size += more
        if batch:
            yield self._page(batch)

    def _page(self, batch: list[tuple[Hashed, str]]) -> Page:
        first, chunk = self.element_count, limits.CHUNK_BYTES
        elements: list[Element] = []
        rows: list[tuple[object, ...]] = []
        leaves: list[tuple[int, bytes]] = []
        for position, (file, kind) in enumerate(batch, first):
            name, print_, executable, root, whole, hashes, settled = file
            length = print_.size
            elements.append(Element(name, kind, length, chunk, root, whole, print_.modified_ns, executable))
            rows.append((position, name.text, length, chunk, print_[1], print_[2], print_[3], int(settled)))
            if hashes:
                leaves.append((position, hashes))
            self.total_bytes += length
            self.media_types.add(kind)
            if self.listed is not None:
                self._list(name.text, kind, length)
        data = wire.encode_page(ManifestPage(first, tuple(elements)))
        self._root.add(merkle.leaf_hash(data))
        page = Page(self.page_count, data, rows, leaves)
        self.element_count += len(batch)
        self.page_count += 1
        return page

    def _list(self, name: str, kind: str, length: int) -> None:
        assert self.listed is not None  # noqa: S101
        self.listed.append(ListedElement(name, kind, length))
        self._listed_bytes += len(name.encode()) + len(kind)
        if self._listed_bytes > limits.ENVELOPE_BYTES:
            raise too_large()


def too_large() -> LimitExceeded:
    """The record does not hold all that it is to say."""
    return LimitExceeded(
        f"the public record would have more than {limits.ENVELOPE_BYTES // limits.KIB} KiB: leave out --list-elements, "
        "or shorten the description and attributes"
    )


def summary(paging: Paging, hidden: frozenset[str]) -> Summary:
    """What the public may know of the content."""
    return Summary(
        None if "element-count" in hidden else paging.element_count,
        None if "total-bytes" in hidden else paging.total_bytes,
        () if "media-types" in hidden else tuple(sorted(paging.media_types)),
        tuple(paging.listed or ()),
    )


def access(terms: Terms) -> Access:
    """What the public may know of the terms: not who is named in them, and not how much of it they may have."""
    return Access(
        terms.mode, tuple(str(each) for each in terms.purposes), tuple(each.in_words for each in terms.duties)
    )


def operations(terms: Terms) -> tuple[str, ...]:
    """Those that the node offers at all."""
    compute_only = terms.mode is AccessMode.COMPUTE_ONLY
    return tuple(each.value for each in Operation if not (compute_only and each is Operation.FETCH))


def sign_manifest(
    id: Identifier,
    version: int,
    paging: Paging,
    *,
    single_file: bool,
    now: int,
    key: SigningKey,
) -> Envelope:
    """The manifest over all pages."""
    manifest = Manifest(
        id,
        version,
        paging.element_count,
        paging.total_bytes,
        paging.page_count,
        paging.pages_root,
        now,
        single_file,
    )
    return sign(PayloadType.MANIFEST, wire.encode_manifest(manifest), key)


def sign_record(
    id: Identifier,
    version: int,
    previous: bytes,
    *,
    type: str,
    metadata: Metadata,
    summary: Summary,
    terms: Terms,
    manifest: Envelope,
    salt: bytes,
    now: int,
    key: SigningKey,
) -> Envelope:
    """The public record of an active version. Raises LimitExceeded."""
    record = ObjectRecord(
        id,
        version,
        previous,
        type,
        Status.ACTIVE,
        metadata,
        summary,
        access(terms),
        operations(terms),
        trust.commitment(salt, manifest),
        now,
        limits.RECORD_TIME_TO_LIVE,
    )
    return _signed(record, key)


def says(record: ObjectRecord, terms: Terms) -> bool:
    """Whether the record tells the public what the terms want it to know."""
    return (record.access, record.operations) == (access(terms), operations(terms))


def sign_again(
    record: Envelope, manifest: Envelope, terms: Terms, *, salt: bytes, now: int, key: SigningKey
) -> tuple[Envelope, Envelope]:
    """Record and manifest of the next version: of the same content, under other terms. Raises LimitExceeded."""
    before, content = wire.decode_record(record.payload), wire.decode_manifest(manifest.payload)
    content = replace(content, version=before.version + 1, issued_at=now)
    signed = sign(PayloadType.MANIFEST, wire.encode_manifest(content), key)
    after = replace(
        before,
        version=before.version + 1,
        previous=record.digest,
        access=access(terms),
        operations=operations(terms),
        commitment=trust.commitment(salt, signed),
        issued_at=now,
    )
    return _signed(after, key), signed


def sign_tombstone(before: ObjectRecord, previous: bytes, *, reason: str, now: int, key: SigningKey) -> Envelope:
    """Ends an object: says what it was called, and why it is gone. The commitment stays that of the last version."""
    record = ObjectRecord(
        before.id,
        before.version + 1,
        previous,
        before.type,
        Status.WITHDRAWN,
        Metadata(title=before.metadata.title),
        Summary(),
        before.access,
        (),
        before.commitment,
        now,
        limits.RECORD_TIME_TO_LIVE,
        reason,
    )
    return _signed(record, key)


def _signed(record: ObjectRecord, key: SigningKey) -> Envelope:
    payload = wire.encode_record(record)
    if len(payload) > limits.ENVELOPE_BYTES:
        raise too_large()
    return sign(PayloadType.RECORD, payload, key)
