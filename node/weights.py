"""What parts of our own versions weigh, in bytes: from their manifests, which are kept as long as the objects.

Weights(catalog).of(identifier, 3, (Delivered(0, 12),))
"""

from collections.abc import Iterator
from functools import lru_cache

from hanse import wire
from hanse.evidence.parts import weigh
from hanse.model.identifier import Identifier
from hanse.model.manifest import ManifestPage
from hanse.model.papers import Delivered
from node.storage.catalog import CatalogStorage, StoredVersion

_KEPT_WEIGHTS = 4096
_KEPT_PAGES = 16


class Weights:
    """Any thread may ask. What was published does not change: what many fetch is looked at once."""

    def __init__(self, catalog: CatalogStorage) -> None:
        self._catalog = catalog
        self._found = lru_cache(_KEPT_WEIGHTS)(self._of)
        self._chunks = lru_cache(_KEPT_WEIGHTS)(self._chunks_of)
        self._pages = lru_cache(_KEPT_PAGES)(self._page)

    def of(self, id: Identifier, version: int, parts: tuple[Delivered, ...]) -> int | None:
        """Bytes; None if there is no such version of ours, or it has no such parts."""
        try:
            return self._found(id, version, parts)
        except ValueError:  # which is not kept: it may be published yet
            return None

    def chunks(self, id: Identifier, version: int, element: int) -> int:
        """How many an element has; 0 if there is no such element."""
        try:
            return self._chunks(id, version, element)
        except ValueError:
            return 0

    def _of(self, id: Identifier, number: int, parts: tuple[Delivered, ...]) -> int:
        version = self._version(id, number)
        if parts == (Delivered(0, version.element_count),):
            return version.total_bytes
        return weigh(parts, lambda first, count: self._sizes(version, first, count))

    def _chunks_of(self, id: Identifier, number: int, element: int) -> int:
        for length, chunk_size in self._sizes(self._version(id, number), element, 1):
            return -(-length // chunk_size)
        raise ValueError("there is no such element")

    def _version(self, id: Identifier, number: int) -> StoredVersion:
        version = self._catalog.version(id, number)
        if version is None:
            raise ValueError("there is no such version")
        return version

    def _sizes(self, version: StoredVersion, first: int, count: int) -> Iterator[tuple[int, int]]:
        """(length, chunk size) of elements."""
        low, high = 0, version.page_count - 1
        while low < high:  # pages are in the order of their elements
            middle = (low + high + 1) // 2
            if self._pages(version.row, middle).first_element <= first:
                low = middle
            else:
                high = middle - 1
        for number in range(low, version.page_count):
            page = self._pages(version.row, number)
            start = max(first - page.first_element, 0)
            end = first + count - page.first_element
            if end <= 0:
                return
            for element in page.elements[start:end]:
                yield element.length, element.chunk_size

    def _page(self, row: int, number: int) -> ManifestPage:
        data = self._catalog.page_of(row, number)
        if data is None:
            raise ValueError("there is no such page")
        return wire.decode_page(data)
