"""Is everything still as it was promised? Sources, manifests, what the registry shows, object by object; the log.

A drift names paths: it is for the owner. Nothing is changed here; ``remedy`` says what would put it right.
"""

import itertools
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from hanse import limits, merkle, trust, wire
from hanse.errors import HanseError, Unreachable, VerificationFailed
from hanse.evidence.checking import Damage
from hanse.evidence.evidence import Evidence
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier
from hanse.model.resolution import Resolution
from node.progress import Meter, Report
from node.reuse import Known, Promised, pair
from node.sources.fingerprint import Fingerprint
from node.sources.hashing import Hashed, Hasher
from node.sources.source import Source
from node.sources.walking import Found, Walk, unreadable
from node.storage.catalog import CatalogStorage, StoredVersion, WrappedObject

Newest = Callable[[Identifier], Envelope | None]
"""The newest record of an object that the registry shows, None if it shows none. Raises Unreachable."""

_REFRESH = "`hanse refresh` makes a new version"
_RESTORE = "restore catalog.db from your backup, or `hanse refresh`"


class Shown:
    """A Newest that asks for many at a time: ``ids`` are those that will be asked for, in that order."""

    def __init__(self, resolve: Callable[[list[Identifier]], list[Resolution]], ids: Iterable[Identifier]) -> None:
        self._resolve = resolve
        self._ahead = iter(ids)
        self._found: dict[Identifier, Envelope | None] = {}

    def __call__(self, id: Identifier) -> Envelope | None:
        while id not in self._found:
            batch = list(itertools.islice(self._ahead, limits.BATCH)) or [id]
            self._found = {each: found.record for each, found in zip(batch, self._resolve(batch), strict=True)}
        return self._found[id]


@dataclass(frozen=True, slots=True)
class Drift:
    """One difference. ``element`` is empty where it concerns the whole object."""

    id: Identifier
    version: int
    what: str
    element: str
    remedy: str

    def __str__(self) -> str:
        where = f"{self.id} version {self.version}" + (f", {self.element}" if self.element else "")
        return f"{where}: {self.what}. {self.remedy[:1].upper()}{self.remedy[1:]}"


def check_log(evidence: Evidence, storage: CatalogStorage, *, deep: bool) -> Damage | None:
    """The first thing that is wrong with this home's log; every key that it ever had counts."""
    records = (wire.decode_organization(each.payload) for each in storage.organizations())
    keys = {key.public_key for record in records for key in record.keys}
    return evidence.verify(deep=deep, earlier=keys)


def check(storage: CatalogStorage, *, deep: bool, progress: Report | None, newest: Newest | None) -> Iterator[Drift]:
    """Every drift there is. ``deep`` reads every byte again."""
    objects = storage.objects()
    sizes = [Walk(each.source).measure() for each in objects if not each.withdrawn] if progress else []
    meter = Meter(progress, sum(size for size, _ in sizes), sum(files for _, files in sizes))
    for wrapped in objects:
        version = storage.version(wrapped.id, wrapped.current_version)
        if version is None:
            yield Drift(wrapped.id, wrapped.current_version, "the version is missing in the catalog", "", _RESTORE)
            continue
        if not wrapped.withdrawn:
            yield from _Object(storage, wrapped, version, deep, meter).drifts()
    if newest is not None:
        yield from _registry(storage, objects, newest)


class _Object:
    def __init__(
        self, storage: CatalogStorage, wrapped: WrappedObject, version: StoredVersion, deep: bool, meter: Meter
    ) -> None:
        self._storage, self._wrapped, self._version = storage, wrapped, version
        self._deep, self._meter = deep, meter

    def _drift(self, what: str, remedy: str, element: str = "") -> Drift:
        return Drift(self._wrapped.id, self._version.version, what, element, remedy)

    def drifts(self) -> Iterator[Drift]:
        damaged = list(self._manifest())
        yield from damaged
        if damaged:
            return
        source = self._wrapped.source
        walk = Walk(source)
        try:
            if Source.of(source.path) != source:
                yield self._drift(f"{source.path} is no longer a {source.kind}", "put back what was there, or withdraw")
                return
            known = Known(self._storage, self._version)
            if self._deep:
                with Hasher(walk, self._meter) as hasher:
                    yield from self._compare(known, hasher.hash(walk), walk)
            else:
                yield from self._compare(known, walk, walk)
        except HanseError as error:
            yield self._drift(f"the source cannot be checked further: {error}", "put it right, then check again")

    def _manifest(self) -> Iterator[Drift]:
        version, storage = self._version, self._storage
        record = wire.decode_record(version.record.payload)
        if version.manifest is None or trust.commitment(version.salt, version.manifest) != record.commitment:
            yield self._drift("the manifest is not the one that the record is committed to", _RESTORE)
            return
        own = storage.organization()
        if own is not None:
            organization = wire.decode_organization(own.payload)
            try:
                trust.record(version.record, organization, now=record.issued_at)
                trust.manifest(version.manifest, version.salt, record, organization)
            except VerificationFailed as error:
                yield self._drift(f"a signature does not hold: {error}", "restore catalog.db from your backup")
        root = merkle.RootBuilder()
        for number in range(version.page_count):
            root.add(merkle.leaf_hash(storage.page(version, number) or b""))
        if root.root() != wire.decode_manifest(version.manifest.payload).pages_root:
            yield self._drift("a page of the manifest is damaged", _RESTORE)

    def _compare(self, known: Known, found: Iterator[Found | Hashed] | Walk, walk: Walk) -> Iterator[Drift]:
        compared = 0
        for promised, there in pair(known, found):
            if promised is None:
                assert there is not None  # noqa: S101
                yield self._drift("is new", _REFRESH, there.name.text)
                continue
            compared += 1
            name = promised.element.name.text
            if there is None:
                yield self._drift("is missing", f"put it back, or {_REFRESH}", name)
                continue
            yield from self._element(known, promised, there, walk)
        if compared != self._version.element_count:
            yield self._drift("the list of elements is damaged", _RESTORE)

    def _element(self, known: Known, promised: Promised, there: Found | Hashed, walk: Walk) -> Iterator[Drift]:
        element, row = promised
        name = element.name.text
        if element.chunk_count > 1:
            leaves = known.leaves(row.position)
            split = (leaves[at : at + merkle.HASH_BYTES] for at in range(0, len(leaves), merkle.HASH_BYTES))
            if len(leaves) != element.chunk_count * merkle.HASH_BYTES or merkle.root(split) != element.merkle_root:
                yield self._drift("its list of hashes is damaged", _RESTORE, name)
        if isinstance(there, Hashed):
            same_bytes = (there.merkle_root, there.sha256) == (element.merkle_root, element.sha256)
            touched = there.fingerprint != row.fingerprint
            if not same_bytes and not touched:
                yield self._drift(
                    "has other bytes, though nobody wrote to it: the disk may be failing",
                    "restore it from your backup",
                    name,
                )
            elif not same_bytes:
                yield self._drift("has changed", _REFRESH, name)
            elif touched:
                yield self._drift("was touched, its bytes are the same", f"{_REFRESH} or accepts it", name)
            return
        try:
            now = Fingerprint.of(there.status())
        except OSError as error:
            unreadable(walk.where(name), error)
        self._meter.done(now.size, 1)
        self._meter.show()
        if now != row.fingerprint:
            yield self._drift("has changed, or was touched", _REFRESH, name)


def _registry(storage: CatalogStorage, objects: list[WrappedObject], newest: Newest) -> Iterator[Drift]:
    waiting = {row.key: row for row in reversed(storage.outbox.all())}
    for wrapped in objects:
        own = storage.version(wrapped.id, wrapped.current_version)
        if wrapped.unlisted or own is None:
            continue

        def drift(what: str, remedy: str, of: WrappedObject = wrapped) -> Drift:
            return Drift(of.id, of.current_version, what, "", remedy)

        try:
            shown = newest(wrapped.id)
        except Unreachable as error:
            yield drift(f"the registry cannot be asked: {error}", "try again later")
            return
        except VerificationFailed as error:
            yield drift(f"the registry shows something that you did not sign: {error}", "ask the registry's operator")
            continue
        if shown is not None and shown.digest == own.record.digest:
            continue
        row = waiting.get(wrapped.id.key)
        version = wire.decode_record(shown.payload).version if shown is not None else 0
        if row is not None and row.refused:
            yield drift(f"the registry refused it: {row.last_error}", "`hanse status` shows it")
        elif row is not None and version < own.version:
            why = f" ({row.last_error})" if row.last_error else ""
            yield drift(f"is not published yet{why}", "`hanse serve` publishes it")
        elif shown is None:
            yield drift("was acknowledged by the registry, which does not show it any more", "ask its operator")
        else:
            yield drift(
                f"the registry shows another version ({version})",
                "is there another copy of this home? If catalog.db was restored from an old backup, ask for help",
            )
