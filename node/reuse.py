"""What the newest version of an object already knows of its files: so that only what was touched is read again."""

import stat
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from hanse import merkle, wire
from hanse.errors import InvalidInput
from hanse.model.manifest import Element
from node.sources.fingerprint import Fingerprint
from node.sources.hashing import Hashed
from node.sources.walking import Found, Walk, unreadable
from node.storage.catalog import CatalogStorage, ServedElement, StoredVersion


class Promised(NamedTuple):
    """An element as its page promises it, and as it was found on the disk."""

    element: Element
    found: ServedElement


class Known:
    """The elements of a stored version, in the order of their names. Ends early at a page that is damaged."""

    def __init__(self, storage: CatalogStorage, version: StoredVersion) -> None:
        self._storage = storage
        self._version = version

    def __iter__(self) -> Iterator[Promised]:
        for number in range(self._version.page_count):
            try:
                page = wire.decode_page(self._storage.page(self._version, number) or b"")
            except InvalidInput:
                return
            rows = self._storage.elements(self._version, page.first_element, len(page.elements))
            for element, row in zip(page.elements, rows, strict=False):
                if element.name.text != row.name:
                    return
                yield Promised(element, row)

    def leaves(self, position: int) -> bytes:
        """Leaf hashes of an element, concatenated; empty if it has at most one chunk."""
        return self._storage.leaves(self._version, position)


class Reuse:
    """A pass over a source that knows the files that were not touched. ``rehashed``: how many must be read."""

    def __init__(self, walk: Walk, known: Known) -> None:
        self._walk = walk
        self._known = known
        self.rehashed = 0

    def __iter__(self) -> Iterator[Found | Hashed]:
        known = iter(self._known)
        before = next(known, None)
        for found in self._walk:
            # Code points order as UTF-8 bytes do.
            while before is not None and before.found.name < found.name.text:
                before = next(known, None)
            reused = self._reuse(found, before) if before and before.found.name == found.name.text else None
            self.rehashed += reused is None
            yield reused or found

    def _reuse(self, found: Found, before: Promised) -> Hashed | None:
        try:
            status = found.status()
        except OSError as error:
            unreadable(self._walk.where(found.name.text), error)
        element, row = before
        if not row.settled or not stat.S_ISREG(status.st_mode) or Fingerprint.of(status) != row.fingerprint:
            return None
        leaves = self._known.leaves(row.position) if element.chunk_count > 1 else b""
        return Hashed(
            found.name,
            row.fingerprint,
            bool(status.st_mode & 0o111),
            element.merkle_root,
            element.sha256,
            leaves,
            row.settled,
        )


def is_untouched(walk: Walk, storage: CatalogStorage, version: StoredVersion) -> bool:
    """Whether names and fingerprints alone show that nothing changed: the usual case, and the cheapest to see."""
    root = merkle.RootBuilder()
    for number in range(version.page_count):
        root.add(merkle.leaf_hash(storage.page(version, number) or b""))
    if root.root() != version.pages_root:
        return False
    rows = storage.elements(version, 0, version.element_count)
    count = 0
    for found in walk:
        count += 1
        row = next(rows, None)
        if row is None or not row.settled or row.name != found.name.text:
            return False
        try:
            status = found.status()
        except OSError:
            return False  # the full pass says what is the matter
        if not stat.S_ISREG(status.st_mode) or Fingerprint.of(status) != row.fingerprint:
            return False
    return count == version.element_count


def pair(
    known: Iterable[Promised], found: Iterable[Found | Hashed]
) -> Iterator[tuple[Promised | None, Found | Hashed | None]]:
    """What was promised beside what is there, by name; None where one of them is missing."""
    left, right = iter(known), iter(found)
    promised, there = next(left, None), next(right, None)
    while promised is not None or there is not None:
        if there is None or (promised is not None and promised.found.name < there.name.text):
            yield promised, None
            promised = next(left, None)
        elif promised is None or there.name.text < promised.found.name:
            yield None, there
            there = next(right, None)
        else:
            yield promised, there
            promised, there = next(left, None), next(right, None)
