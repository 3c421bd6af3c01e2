"""What this node has wrapped: adding, refreshing and withdrawing objects; what the service and the publisher read.

A change is whole or not there, whatever happens to the process: record, manifest, pages and outbox row are one
transaction. Errors of ``add``, ``refresh`` and ``check`` name paths: they are for the owner, at the command line.
Errors of the reading side name none: peers get them.

    catalog = Catalog(CatalogStorage.open(home / CATALOG), identity)
    catalog.add(Path("trial-7"), rule=Rule(open=True))
"""

import contextlib
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from hanse import wire
from hanse.errors import AlreadyExists, InvalidInput, NotFound, SourceChanged, Withdrawn
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.record import Metadata, check_text
from hanse.signing import SigningKey
from node import manifesting
from node.manifesting import HIDEABLE, Paging
from node.minting import mint
from node.policy import Rule
from node.progress import Meter, Report
from node.sources.hashing import Hasher
from node.sources.source import Source, SourceKind
from node.sources.walking import Walk
from node.storage.catalog import CatalogStorage, ServedElement, Staging, StoredVersion, WrappedObject
from node.storage.outbox import Outbox

CATALOG = "catalog.db"


class Owner(Protocol):
    """Who signs: an Identity."""

    @property
    def prefix(self) -> Prefix: ...
    @property
    def signing_key(self) -> SigningKey: ...


@dataclass(frozen=True, slots=True)
class Wrapped:
    """An object as the service must know it. ``record`` is that of the newest version, a tombstone included."""

    id: Identifier
    rule: Rule
    unlisted: bool
    withdrawn: bool
    current_version: int
    record: Envelope
    source: Source


@dataclass(frozen=True, slots=True)
class Added:
    """What ``add`` made. ``readable_by_others``: whether anybody but the owner gets in."""

    id: Identifier
    version: int
    element_count: int
    total_bytes: int
    empty_folders: int
    unlisted: bool
    readable_by_others: bool


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What ``refresh`` found; ``version`` is the newest now. ``rehashed``: files that had to be read."""

    id: Identifier
    version: int
    changed: bool
    rehashed: int
    element_count: int
    total_bytes: int
    empty_folders: int


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of ``hanse list``. ``waiting``: versions that the registry has not acknowledged yet."""

    id: Identifier
    version: int
    title: str
    type: str
    source: Source
    rule: Rule
    unlisted: bool
    withdrawn: bool
    element_count: int
    total_bytes: int
    created_at: int
    updated_at: int
    waiting: int


class Catalog:
    """All that a node has wrapped. Any thread may call any method; whoever made ``storage`` closes it."""

    def __init__(self, storage: CatalogStorage, owner: Owner, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._owner = owner
        self._clock = clock

    @property
    def outbox(self) -> Outbox:
        return self._storage.outbox

    # The owner's commands.

    def add(
        self,
        path: Path,
        *,
        suffix: str | None = None,
        metadata: Metadata = Metadata(),
        type: str = "",  # noqa: A002
        rule: Rule = Rule(),
        unlisted: bool = False,
        list_elements: bool = False,
        hidden: Iterable[str] = (),
        progress: Report | None = None,
        workers: int | None = None,
    ) -> Added:
        """Wraps a file or folder. Raises AlreadyExists, InvalidInput, NotFound, SourceChanged, LimitExceeded, NoSpace."""
        check_text(type)
        id = Identifier.of(self._owner.prefix, suffix or mint(int(self._clock() * 1000)))  # noqa: A001
        if unknown := set(hidden) - set(HIDEABLE):
            raise InvalidInput(f"{', '.join(sorted(unknown))} cannot be hidden: only {', '.join(HIDEABLE)}")
        if self._storage.object(id) is not None:
            raise AlreadyExists(f"{id} is there already, and an identifier is never used twice")
        now = int(self._clock())
        wrapped = WrappedObject(
            id, Source.of(path), type, metadata, rule, unlisted, list_elements, frozenset(hidden), 1, False, now
        )
        with self._storage.staging() as staging:
            made = self._make(wrapped, staging, progress, workers)
            version = self._sign(wrapped, 1, b"", made.paging)
            self._storage.insert(wrapped, version, staging)
        return Added(
            id,
            1,
            version.element_count,
            version.total_bytes,
            made.empty_folders,
            unlisted,
            rule.open or bool(rule.allowed),
        )

    def withdraw(self, suffix: str, reason: str = "") -> Wrapped:
        """Ends an object for good. Raises NotFound, Withdrawn."""
        check_text(reason)
        wrapped, before = self._existing(suffix)
        record = wire.decode_record(before.record.payload)
        now = int(self._clock())
        envelope = manifesting.sign_tombstone(
            record, before.record.digest, reason=reason, now=now, key=self._owner.signing_key
        )
        tombstone = StoredVersion(wrapped.id, before.version + 1, envelope, None, b"", 0, 0, 0, b"", now)
        self._storage.append(wrapped, tombstone, None)
        found = self.find(wrapped.id)
        assert found is not None  # noqa: S101
        return found

    def list(self) -> list[Entry]:
        """All objects, the withdrawn ones too, by identifier."""
        waiting: dict[str, int] = {}
        for row in self.outbox.all():
            waiting[row.key] = waiting.get(row.key, 0) + 1
        entries = []
        for wrapped in self._storage.objects():
            version = self._storage.version(wrapped.id, wrapped.current_version)
            assert version is not None  # noqa: S101
            entries.append(
                Entry(
                    wrapped.id,
                    version.version,
                    wrapped.metadata.title,
                    wrapped.type,
                    wrapped.source,
                    wrapped.rule,
                    wrapped.unlisted,
                    wrapped.withdrawn,
                    version.element_count,
                    version.total_bytes,
                    wrapped.created_at,
                    version.created_at,
                    waiting.get(wrapped.id.key, 0),
                )
            )
        return entries

    # What the service reads.

    def find(self, id: Identifier) -> Wrapped | None:  # noqa: A002
        """An object of this node, withdrawn or not."""
        wrapped = self._storage.object(id)
        if wrapped is None:
            return None
        version = self._storage.version(id, wrapped.current_version)
        if version is None:
            return None
        return Wrapped(
            wrapped.id,
            wrapped.rule,
            wrapped.unlisted,
            wrapped.withdrawn,
            wrapped.current_version,
            version.record,
            wrapped.source,
        )

    def version(self, id: Identifier, version: int) -> StoredVersion | None:  # noqa: A002
        """One version, old ones too. Only the newest can be served: see ``elements``."""
        return self._storage.version(id, version)

    def pages(self, version: StoredVersion, first_page: int = 0) -> Iterator[bytes]:
        """Serialized manifest pages, as they were hashed."""
        for number in range(first_page, version.page_count):
            page = self._storage.page(version, number)
            if page is None:
                raise SourceChanged("a page of the manifest is damaged; its owner can find out with `hanse check`")
            yield page

    def leaves(self, version: StoredVersion, element: int) -> bytes:
        """Leaf hashes of an element, concatenated; empty if it has at most one chunk."""
        return self._storage.leaves(version, element)

    def elements(self, version: StoredVersion, first: int = 0, count: int | None = None) -> Iterator[ServedElement]:
        """Consecutive elements of the newest version. Raises SourceChanged for an older one, also while it goes on."""
        expected = version.element_count - first if count is None else count
        got = 0
        for element in self._storage.elements(version, first, expected):
            yield element
            got += 1
        if got < expected:
            current = self._storage.object(version.object)
            number = current.current_version if current else version.version
            if number != version.version:
                raise SourceChanged(
                    f"{version.object} has changed since version {version.version}: fetch version {number}"
                )
            raise NotFound(f"version {version.version} of {version.object} has no such element")

    # The organization's own record.

    def organization(self) -> Envelope | None:
        """The newest."""
        return self._storage.organization()

    def put_organization(self, envelope: Envelope, sign: Callable[[Envelope], Envelope] | None = None) -> None:
        """The next record of this organization and its outbox row, in one transaction.

        After a key rotation ``sign`` makes the waiting records' envelopes anew, in the same transaction.
        """
        self._storage.put_organization(envelope, int(self._clock()), sign)

    # Inside.

    def _existing(self, suffix: str) -> tuple[WrappedObject, StoredVersion]:
        id = Identifier.of(self._owner.prefix, suffix)  # noqa: A001
        wrapped = self._storage.object(id)
        version = self._storage.version(id, wrapped.current_version) if wrapped else None
        if wrapped is None or version is None:
            raise NotFound(f"there is no {id}: `hanse list` shows what there is")
        if wrapped.withdrawn:
            raise Withdrawn(f"{id} was withdrawn, and that is for good")
        return wrapped, version

    def _make(self, wrapped: WrappedObject, staging: Staging, progress: Report | None, workers: int | None) -> "_Made":
        walk = Walk(wrapped.source)
        meter = Meter(progress, *(walk.measure() if progress else (0, 0)))
        paging = Paging(list_elements=wrapped.list_elements)
        with Hasher(walk, meter, workers) as hasher, contextlib.closing(hasher.hash(walk)) as hashed:
            for page in paging.pages(hashed):
                staging.add_page(page.number, page.data, page.rows, page.leaves)
        return _Made(paging, walk.empty_folders)

    def _sign(self, wrapped: WrappedObject, number: int, previous: bytes, paging: Paging) -> StoredVersion:
        now, key, salt = int(self._clock()), self._owner.signing_key, secrets.token_bytes(32)
        manifest = manifesting.sign_manifest(
            wrapped.id, number, paging, single_file=wrapped.source.kind is SourceKind.FILE, now=now, key=key
        )
        record = manifesting.sign_record(
            wrapped.id,
            number,
            previous,
            type=wrapped.type,
            metadata=wrapped.metadata,
            summary=manifesting.summary(paging, wrapped.hidden),
            rule=wrapped.rule,
            manifest=manifest,
            salt=salt,
            now=now,
            key=key,
        )
        return StoredVersion(
            wrapped.id,
            number,
            record,
            manifest,
            salt,
            paging.element_count,
            paging.total_bytes,
            paging.page_count,
            paging.pages_root,
            now,
        )


@dataclass(frozen=True, slots=True)
class _Made:
    paging: Paging
    empty_folders: int
