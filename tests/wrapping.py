"""A catalog to test against: an owner with a key of its own, a home, and files to wrap.

shelf = Shelf.open(tmp_path)
shelf.write("trial/a.csv", b"1,2")
added = shelf.catalog.add(shelf / "trial")
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from hanse import wire
from hanse.model.identifier import Identifier, Prefix
from hanse.model.manifest import Element
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.signing import SigningKey
from node.catalog import CATALOG, Catalog
from node.storage.catalog import CatalogStorage, ServedElement, StoredVersion

NORTH = Prefix.parse("86.north")


def later() -> float:
    """A clock so far ahead that every file counts as settled: what was not touched is not read again."""
    return time.time() + 10


@dataclass(frozen=True)
class Owner:
    prefix: Prefix = NORTH
    signing_key: SigningKey = field(default_factory=SigningKey.generate)

    @property
    def record(self) -> OrganizationRecord:
        return OrganizationRecord(self.prefix, 1, b"", "North", "", (IdentityKey(self.signing_key.public, 1),), (), 1)


@dataclass
class Shelf:
    """A folder with a home in it, and whatever is written to it."""

    folder: Path
    owner: Owner
    storage: CatalogStorage
    catalog: Catalog

    @classmethod
    @contextlib.contextmanager
    def open(
        cls, folder: Path, owner: Owner | None = None, clock: Callable[[], float] = time.time
    ) -> Iterator["Shelf"]:
        owner = owner or Owner()
        home = folder / "home"
        home.mkdir(exist_ok=True)
        storage = CatalogStorage.open(home / CATALOG)
        try:
            yield cls(folder, owner, storage, Catalog(storage, owner, clock))
        finally:
            storage.close()

    def __truediv__(self, name: str) -> Path:
        return self.folder / name

    def write(self, name: str, content: bytes = b"") -> Path:
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        return path

    def stored(self, id: Identifier, version: int | None = None) -> StoredVersion:
        """The newest (or that) version."""
        wrapped = self.storage.object(id)
        assert wrapped is not None
        found = self.storage.version(id, version or wrapped.current_version)
        assert found is not None
        return found

    def pages(self, version: StoredVersion) -> list[bytes]:
        found = [self.storage.page(version, number) for number in range(version.page_count)]
        return [page for page in found if page is not None]

    def manifest(self, id: Identifier, version: int | None = None) -> list[Element]:
        """What the newest (or that) version promises."""
        return [each for page in self.pages(self.stored(id, version)) for each in wire.decode_page(page).elements]

    def elements(self, version: StoredVersion) -> list[ServedElement]:
        return list(self.storage.elements(version, 0, version.element_count))

    def names(self, id: Identifier) -> list[str]:
        return [element.name.text for element in self.manifest(id)]


@contextlib.contextmanager
def public_folder() -> Iterator[Path]:
    """A folder that every user may enter, unlike pytest's own."""
    with tempfile.TemporaryDirectory(prefix="hanse-test-") as folder:
        os.chmod(folder, 0o755)
        yield Path(folder).resolve()


def next_tick(folder: Path) -> None:
    """Waits until the file system's clock has moved on, so that a change from now on shows in a fingerprint."""
    probe = folder / ".tick"
    probe.touch()
    first = probe.stat().st_ctime_ns
    deadline = time.monotonic() + 90
    while probe.stat().st_ctime_ns == first:
        assert time.monotonic() < deadline, "the file system's clock stands still"
        os.utime(probe)
    probe.unlink()
