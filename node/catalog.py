"""What an owner does with what it wraps: add, refresh, withdraw, list, check.

What it is not: the reading side. The service and the publisher read node.storage.catalog.
The rule it keeps: a change is whole or not there, whatever happens to the process. Record, manifest, pages and outbox
row are one transaction. Its errors name paths: they are for the owner, at the command line, and go to no peer.

    catalog = Catalog(CatalogStorage.open(home / CATALOG), identity)
    catalog.add(Path("trial-7"), terms=Terms.opened())
"""

import builtins
import secrets
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from hanse import wire
from hanse.errors import (
    AlreadyExists,
    HanseError,
    InvalidInput,
    NotFound,
    SourceChanged,
    StorageFailed,
    Withdrawn,
)
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.record import AccessMode, Metadata, check_text
from hanse.model.terms import Terms
from hanse.signing import SigningKey
from node import checking, manifesting
from node.checking import Drift, Newest
from node.manifesting import HIDEABLE, Paging
from node.minting import mint
from node.progress import Meter, Report
from node.reuse import Known, Reuse, is_untouched
from node.sources.hashing import Hashed, Hasher
from node.sources.source import Source, SourceKind
from node.sources.walking import Found, Walk
from node.storage.catalog import CatalogStorage, Staging, StoredVersion, WrappedObject
from node.storage.outbox import Outbox

CATALOG = "catalog.db"
_NO_METADATA = Metadata()
_NOBODY = Terms()


class Owner(Protocol):
    """Who signs: an Identity."""

    @property
    def prefix(self) -> Prefix: ...
    @property
    def signing_key(self) -> SigningKey: ...


@dataclass(frozen=True, slots=True)
class Added:
    """What ``add`` made. ``notes``: what the owner should know of it, in words."""

    id: Identifier
    version: int
    element_count: int
    total_bytes: int
    empty_folders: int
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Refreshed:
    """What ``refresh`` found. ``version`` is the newest now; ``rehashed`` counts the files that had to be read."""

    id: Identifier
    version: int
    changed: bool
    rehashed: int
    element_count: int
    total_bytes: int


@dataclass(frozen=True, slots=True)
class TermsSet:
    """``version`` is the newest now; ``changed``: whether it is new, because the public part is different."""

    id: Identifier
    terms: Terms
    version: int
    changed: bool


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of ``hanse list``. ``published``: whether the registry has acknowledged the newest version."""

    id: Identifier
    version: int
    title: str
    type: str
    source: Path
    terms: Terms
    unlisted: bool
    withdrawn: bool
    published: bool
    element_count: int
    total_bytes: int
    created_at: int
    issued_at: int


class Catalog:
    """All that a node has wrapped. Any thread may call any method; whoever made ``storage`` closes it."""

    def __init__(self, storage: CatalogStorage, owner: Owner, clock: Callable[[], float] = time.time) -> None:
        self._storage = storage
        self._owner = owner
        self._clock = clock

    @property
    def outbox(self) -> Outbox:
        """What waits to be published."""
        return self._storage.outbox

    def add(
        self,
        path: Path,
        *,
        suffix: str | None = None,
        metadata: Metadata = _NO_METADATA,
        type: str = "",
        terms: Terms = _NOBODY,
        unlisted: bool = False,
        list_elements: bool = False,
        hidden: Iterable[str] = (),
        progress: Report | None = None,
        workers: int | None = None,
    ) -> Added:
        """Wraps a file or folder where it lies.

        Raises AlreadyExists, InvalidInput, LimitExceeded, NotFound, SourceChanged, NoSpace, StorageFailed.
        """
        check_text(type)
        id = Identifier.of(self._owner.prefix, suffix or mint(int(self._clock() * 1000)))
        if unknown := set(hidden) - set(HIDEABLE):
            raise InvalidInput(f"{', '.join(sorted(unknown))} cannot be hidden: only {', '.join(HIDEABLE)}")
        if self._storage.object(id) is not None:
            raise AlreadyExists(f"{id} is there already, and an identifier is never used twice")
        now = int(self._clock())
        source = Source.of(path)
        self._refuse_home(source)
        wrapped = WrappedObject(
            id, source, type, metadata, terms, unlisted, list_elements, frozenset(hidden), 1, False, now
        )
        with self._storage.staging() as staging:
            walk = Walk(wrapped.source)
            meter = Meter(progress, *(walk.measure() if progress else (0, 0)))
            paging = self._make(wrapped, staging, walk, walk, meter, workers)
            version = self._sign(wrapped, 1, b"", 0, paging)
            self._storage.insert(wrapped, version, staging)
        return Added(
            id, 1, version.element_count, version.total_bytes, walk.empty_folders, _notes(wrapped, version, walk)
        )

    def refresh(
        self, suffix: str | None = None, progress: Report | None = None, workers: int | None = None
    ) -> builtins.list[Refreshed]:
        """Makes a new version of what changed: of one object, or of all. Reads only files that were touched.

        Goes on after an object that fails, and raises that error at the end.
        """
        if suffix is None:
            chosen = [each.id.suffix for each in self._storage.objects() if not each.withdrawn]
        else:
            chosen = [suffix]
        existing = [self._existing(each) for each in chosen]
        walks = [Walk(wrapped.source) for wrapped, _ in existing]
        sizes = [walk.measure() for walk in walks] if progress else []
        meter = Meter(progress, sum(size for size, _ in sizes), sum(files for _, files in sizes))
        refreshed: builtins.list[Refreshed] = []
        failed: HanseError | None = None
        for (wrapped, version), walk in zip(existing, walks, strict=True):
            try:
                refreshed.append(self._refresh(wrapped, version, walk, meter, workers))
            except (InvalidInput, NotFound, SourceChanged) as error:
                failed = failed or error
        if failed is not None:
            raise failed
        return refreshed

    def _refresh(
        self, wrapped: WrappedObject, before: StoredVersion, walk: Walk, meter: Meter, workers: int | None
    ) -> Refreshed:
        source = wrapped.source
        if Source.of(source.path) != source:
            raise InvalidInput(f"{source.path} is no longer a {source.kind}: put back what was there, or withdraw it")
        if is_untouched(walk, self._storage, before):
            meter.done(before.total_bytes, before.element_count)
            meter.show(at_once=True)
            return Refreshed(wrapped.id, before.version, False, 0, before.element_count, before.total_bytes)
        reuse = Reuse(walk, Known(self._storage, before))
        with self._storage.staging() as staging:
            paging = self._make(wrapped, staging, walk, reuse, meter, workers)
            changed = paging.pages_root != before.pages_root
            number = before.version + 1 if changed else before.version
            if changed:
                issued_at = wire.decode_record(before.record.payload).issued_at
                version = self._sign(wrapped, number, before.record.digest, issued_at, paging)
                self._storage.append(wrapped, version, staging)
            elif reuse.rehashed:
                self._storage.replace(before, staging)
        return Refreshed(wrapped.id, number, changed, reuse.rehashed, paging.element_count, paging.total_bytes)

    def withdraw(self, suffix: str, reason: str = "") -> Identifier:
        """Ends an object for good. Raises NotFound, Withdrawn."""
        check_text(reason)
        wrapped, before = self._existing(suffix)
        record = wire.decode_record(before.record.payload)
        now = max(int(self._clock()), record.issued_at)
        envelope = manifesting.sign_tombstone(
            record, before.record.digest, reason=reason, now=now, key=self._owner.signing_key
        )
        tombstone = StoredVersion(wrapped.id, before.version + 1, envelope, None, b"", 0, 0, 0, b"", now)
        self._storage.append(wrapped, tombstone, None)
        return wrapped.id

    def set_terms(self, suffix: str, terms: Terms | Callable[[Terms], Terms]) -> TermsSet:
        """Other terms from now on, or what ``terms`` makes of those there are.

        A new version only where the public part is different; nothing is read or hashed. Grants that were given stay.
        Raises NotFound, Withdrawn, InvalidInput, LimitExceeded, Conflict.
        """
        wrapped, before = self._existing(suffix)
        chosen = terms(wrapped.terms) if callable(terms) else terms
        record = wire.decode_record(before.record.payload)
        after = before
        if not manifesting.says(record, chosen):
            assert before.manifest is not None  # noqa: S101 - only a tombstone has none
            now, salt = max(int(self._clock()), record.issued_at), secrets.token_bytes(32)
            signed, manifest = manifesting.sign_again(
                before.record, before.manifest, chosen, salt=salt, now=now, key=self._owner.signing_key
            )
            after = replace(
                before,
                version=before.version + 1,
                record=signed,
                manifest=manifest,
                salt=salt,
                created_at=now,
            )
        self._storage.set_terms(wrapped, chosen, before, after)
        return TermsSet(wrapped.id, chosen, after.version, after.version != before.version)

    def terms(self, suffix: str) -> tuple[WrappedObject, int]:
        """An object that is there, with its terms, and its version. Raises NotFound, Withdrawn."""
        wrapped, version = self._existing(suffix)
        return wrapped, version.version

    def check(
        self, deep: bool = False, progress: Report | None = None, newest: Newest | None = None
    ) -> Iterator[Drift]:
        """Compares what is there with what was promised, object by object; ``deep`` reads every byte again.

        ``newest`` asks the registry; without it the registry is left out.
        """
        return checking.check(self._storage, deep=deep, progress=progress, newest=newest)

    def list(self) -> builtins.list[Entry]:
        """All objects, the withdrawn ones too, by identifier."""
        objects = self._storage.objects()
        waiting = self.outbox.keys()  # after the objects: one that is added meanwhile is not taken for published
        entries = []
        for wrapped in objects:
            version = self._storage.version(wrapped.id, wrapped.current_version)
            if version is None:
                raise StorageFailed(
                    f"the newest version of {wrapped.id} is missing: restore catalog.db from your backup"
                )
            entries.append(
                Entry(
                    wrapped.id,
                    version.version,
                    wrapped.metadata.title,
                    wrapped.type,
                    wrapped.source.path,
                    wrapped.terms,
                    wrapped.unlisted,
                    wrapped.withdrawn,
                    not wrapped.unlisted and wrapped.id.key not in waiting,
                    version.element_count,
                    version.total_bytes,
                    wrapped.created_at,
                    version.created_at,
                )
            )
        return entries

    # The organization's own record.

    def put_organization(self, envelope: Envelope, sign: Callable[[Envelope], Envelope] | None = None) -> None:
        """The next record of this organization and its outbox row, in one transaction.

        After a key rotation ``sign`` makes the waiting records' envelopes anew, in the same transaction.
        """
        self._storage.put_organization(envelope, int(self._clock()), sign)

    # Inside.

    def _refuse_home(self, source: Source) -> None:
        home = self._storage.database.path.parent.resolve()
        if home.is_relative_to(source.path) or source.path.is_relative_to(home / "keys"):
            raise InvalidInput(
                f"{source.path} contains this node's home {home}, with its keys: wrap the data without the home"
            )

    def _existing(self, suffix: str) -> tuple[WrappedObject, StoredVersion]:
        id = Identifier.of(self._owner.prefix, suffix)
        wrapped = self._storage.object(id)
        version = self._storage.version(id, wrapped.current_version) if wrapped else None
        if wrapped is None or version is None:
            raise NotFound(f"there is no {id}: `hanse list` shows what there is")
        if wrapped.withdrawn:
            raise Withdrawn(f"{id} was withdrawn, and that is for good")
        return wrapped, version

    def _make(
        self,
        wrapped: WrappedObject,
        staging: Staging,
        walk: Walk,
        found: Iterable[Found | Hashed],
        meter: Meter,
        workers: int | None,
    ) -> Paging:
        paging = Paging(list_elements=wrapped.list_elements)
        with Hasher(walk, meter, workers, self._clock) as hasher:
            for page in paging.pages(hasher.hash(found)):
                staging.add_page(page.number, page.data, page.rows, page.leaves)
        return paging

    def _sign(
        self, wrapped: WrappedObject, number: int, previous: bytes, not_before: int, paging: Paging
    ) -> StoredVersion:
        # A version that is dated before the one it follows is refused by whoever saw that: a clock may be set back.
        now, key, salt = max(int(self._clock()), not_before), self._owner.signing_key, secrets.token_bytes(32)
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
            terms=wrapped.terms,
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


def _notes(wrapped: WrappedObject, version: StoredVersion, walk: Walk) -> tuple[str, ...]:
    notes = []
    if walk.empty_folders:
        one = walk.empty_folders == 1
        notes.append(
            f"{walk.empty_folders} empty folder{' is' if one else 's are'} left out: an object consists of files"
        )
    if version.element_count == 0:
        notes.append("the folder has no files, so the object has no content yet: `hanse refresh` when it has some")
    if not wrapped.terms.permissions and wrapped.terms.mode is AccessMode.ON_REQUEST:
        notes.append("nobody but you may fetch it before you granted it: neither --open nor --allow was given")
    return tuple(notes)
