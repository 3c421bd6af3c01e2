"""Whether what a registry stores holds together, and would be believed by those who ask it.

The log is read again from its first entry (registry.history), its tree is computed again from what was signed, and
whatever is stored beside the entries is compared with them: the tiles, where each object's newest version stands, the
search index, every organization's chain, the members. It runs beside a registry that serves: what is added meanwhile
is left out.

What it costs: memory for a line an organization, and a temporary file for a line an object.

    problems(storage, authority, registries, now, deep=True)     # [] when all is well
"""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from hanse import tiles, wire
from hanse.errors import HanseError, StorageFailed
from hanse.merkle import EMPTY_ROOT, HASH_BYTES, leaf_hash
from hanse.model.address import Address
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority
from hanse.tiles import WIDTH, Subtrees
from hanse.transparency import certificate_leaf, leaf_of
from registry import index, members
from registry.accept import Stored
from registry.history import Entry, History, Organization
from registry.index import Document
from registry.storage.base import Certificate, Change, Head, Line, NewRecord, Storage
from registry.storage.scratch import Scratch
from registry.usage import Usage

_AT_ONCE, _AT_ONCE_BYTES = 2_000, 16 << 20
_NAMED = 10  # of one kind; more help nobody


def problems(
    storage: Storage, authority: Authority, registries: tuple[Address, ...], now: int, *, deep: bool = False
) -> list[str]:
    """In words. ``deep`` verifies the signatures of records and certificates too."""
    found = Found()
    for each in storage.problems():
        found.add("", each)
    head = storage.head()
    history = History(authority, now, signatures=deep, problem=lambda position, error: _wrong(found, position, error))
    scratch, tree = Scratch(), _Tree(storage, head, found)
    places: dict[Prefix, int] = {}
    usages: Counter[tuple[Prefix, str]] = Counter()
    try:
        for changes in entries(storage, head.size):
            followed = history.follow(changes, scratch.known)
            usages.update(_usage(followed))
            tree.grow(changes[0].position, [each.leaf for each in followed])
            _compare_lines(storage, followed, found)
            records = {
                each.content.key: (each.position, each.content)
                for each in followed
                if isinstance(each.content, NewRecord)
            }
            places |= {
                each.content.prefix: each.position for each in followed if isinstance(each.content, Organization)
            }
            _compare_objects(storage, records, head.size, found)
            scratch.put(_seen(records))
        tree.end()
        unchanged = storage.head() == head
        _compare_organizations(storage, history, places, found)
        _compare_members(storage, registries, history, unchanged, found)
        _compare_invitations(storage, found)
        if unchanged:
            _compare_usages(storage, usages, found)
            figures = storage.figures()
            if (figures.objects, figures.withdrawn) != scratch.counts():
                found.add("", "there are objects that no entry of the log is about")
        if storage.recall("moving"):
            found.add(
                "",
                "the registry takes nothing new, because a move to another store was begun: go on with it "
                "(`hanse-registry migrate-store`), or end it with --undo",
            )
        if storage.recall("index_version") != str(index.VERSION):
            found.add("", "the search index was made by another version: `hanse-registry check --repair` makes it anew")
    except HanseError as error:
        found.add("", f"the log cannot be read to its end: {error}")
    finally:
        history.close()
        scratch.close()
    return found.lines()


def log_problems(storage: Storage) -> list[str]:
    """Of the tree alone."""
    found, head = Found(), storage.head()
    tree = _Tree(storage, head, found)
    try:
        for changes in entries(storage, head.size):
            leaves = [
                certificate_leaf(each.content) if each.is_certificate else leaf_of(wire.decode_envelope(each.content))
                for each in changes
            ]
            tree.grow(changes[0].position, leaves)
        tree.end()
    except HanseError as error:
        found.add("", f"the log cannot be computed again: {error}")
    return found.lines()


def reindex(storage: Storage) -> int:
    """Makes the search index anew from the newest records, in one transaction: how many are in it."""
    count = 0

    def documents() -> Iterator[tuple[int, Document]]:
        nonlocal count
        for changes in entries(storage, storage.head().size):
            for position, document in _newest_documents(storage, changes):
                count += 1
                yield position, document

    with storage.writing() as writing:
        writing.reindex(documents())
        writing.remember("index_version", str(index.VERSION))
    return count


def is_outdated(storage: Storage) -> bool:
    """Whether the search index has tokens of an older version than this program's."""
    return int(storage.recall("index_version") or index.VERSION) < index.VERSION


def entries(storage: Storage, size: int, after: int = 0) -> Iterator[list[Change]]:
    """All changes and certificates up to a size of the log, some at a time."""
    while after < size:
        some = storage.changes(after, min(_AT_ONCE, size - after), _AT_ONCE_BYTES, certificates=True)
        if not some or [each.position for each in some] != list(range(after + 1, after + 1 + len(some))):
            expected = next(
                (at for at, each in enumerate(some, after + 1) if each.position != at), after + 1 + len(some)
            )
            raise StorageFailed(f"the change at position {expected} is missing: restore the database from your backup")
        after += len(some)
        yield some


@dataclass
class Found:
    """Problems by kind, of each kind the first few."""

    _kinds: dict[str, list[str]] = field(default_factory=dict)
    _counts: dict[str, int] = field(default_factory=dict)

    def add(self, kind: str, text: str) -> None:
        """``kind`` is empty for what is always named."""
        self._counts[kind] = self._counts.get(kind, 0) + 1
        named = self._kinds.setdefault(kind, [])
        if not kind or len(named) < _NAMED:
            named.append(text)

    def lines(self) -> list[str]:
        """All that are named, and how many more there are."""
        lines = []
        for kind, named in self._kinds.items():
            lines += named
            if self._counts[kind] > len(named):
                lines.append(f"{self._counts[kind] - len(named):,} more like these: {kind}")
        return list(dict.fromkeys(lines))


def _wrong(found: Found, position: int, error: HanseError) -> None:
    found.add(error.reason, f"the entry at position {position:,} would not be believed: {error}")


class _Tree:
    """Computes the tree of a log again, and compares every tile that is stored with what it should be."""

    def __init__(self, storage: Storage, head: Head, found: Found) -> None:
        self._storage, self._head, self._found = storage, head, found
        self._growing: dict[tuple[int, int], Subtrees] = {}
        self._size, self._root, self._wrong = 0, EMPTY_ROOT, 0

    def grow(self, position: int, leaves: Sequence[bytes]) -> None:
        """With the data of the leaves from a position on."""
        if self._storage.leaves(position - 1, len(leaves)) != list(leaves):
            self._found.add("leaves", f"what is shown of the entries from position {position:,} on is not of them")
        changed, self._root = tiles.append(
            self._size, lambda *at: self._growing[at][0], [leaf_hash(leaf) for leaf in leaves]
        )
        self._growing |= changed
        self._size += len(leaves)
        for at in [at for at, each in self._growing.items() if len(each[0]) == WIDTH * HASH_BYTES]:
            self._compare(at, self._growing.pop(at))

    def _compare(self, at: tuple[int, int], tile: Subtrees) -> None:
        self._wrong += self._storage.tile(*at, len(tile[0]) // HASH_BYTES) != tile

    def end(self) -> None:
        """After the last entry."""
        for at, tile in self._growing.items():
            self._compare(at, tile)
            longer = self._storage.tile(*at, len(tile[0]) // HASH_BYTES + 1) is not None
            self._wrong += longer and self._storage.head() == self._head  # else it has grown since
        if self._wrong:
            self._found.add(
                "",
                f"{self._wrong} tiles of the log are not those of its entries: the log that was shown is another one",
            )
        if (self._size, self._root) != (self._head.size, self._head.root):
            self._found.add(
                "",
                f"the log says {self._head.size} entries under one root, and its {self._size} entries have another",
            )


def _usage(followed: Sequence[Entry]) -> Counter[tuple[Prefix, str]]:
    """Bytes, and identifiers that were used for the first time."""
    counts: Counter[tuple[Prefix, str]] = Counter()
    for entry in followed:
        if isinstance(entry.content, NewRecord):
            prefix = Prefix(entry.content.key.partition("/")[0])
            counts[prefix, "objects"] += entry.content.version == 1
            counts[prefix, "bytes"] += len(entry.content.envelope)
        elif isinstance(entry.content, Organization):
            counts[entry.content.prefix, "bytes"] += len(entry.content.stored.envelope)
    return counts


def _compare_usages(storage: Storage, counts: Counter[tuple[Prefix, str]], found: Found) -> None:
    told = storage.usages()
    for prefix in dict.fromkeys((*(prefix for prefix, _ in counts), *told)):
        usage, (objects, size) = told.get(prefix, Usage()), (counts[prefix, "objects"], counts[prefix, "bytes"])
        if (usage.objects, usage.bytes) != (objects, size):
            found.add(
                "usage",
                f"{prefix} is counted with {usage.objects:,} objects, {usage.bytes:,} bytes, and has {objects:,} and "
                f"{size:,}",
            )


def _compare_lines(storage: Storage, followed: Sequence[Entry], found: Found) -> None:
    """What is stored beside each entry, so that it need not be parsed."""
    stored = {each.position: each for each in storage.lines(followed[0].position, len(followed))}
    for entry in followed:
        line, content = Line(entry.position), entry.content
        if isinstance(content, NewRecord):
            line = Line(entry.position, content.key, content.version, content.issued_at, content.digest)
        elif isinstance(content, Certificate):
            line = Line(entry.position, str(content.prefix), None, content.issued_at)
        if stored.get(entry.position) != line:
            found.add("lines", f"what is stored beside the entry at position {entry.position:,} is not what it says")


def _seen(records: Mapping[str, tuple[int, NewRecord]]) -> Iterator[tuple[str, Stored]]:
    for key, (_, record) in records.items():
        yield key, Stored(record.version, record.digest, record.document is None)


def _compare_objects(storage: Storage, records: Mapping[str, tuple[int, NewRecord]], size: int, found: Found) -> None:
    """The newest versions among some entries with what is resolved and searched."""
    located = storage.located(list(records))
    documents: dict[int, Document] = {}
    for key, (position, record) in records.items():
        withdrawn, envelope, at = located.get(key, (False, b"", 0))
        if at < position:
            found.add("objects", f"{key} is not resolved to its newest version, at position {position:,}")
        elif at == position:
            if (withdrawn, envelope) != (record.document is None, record.envelope):
                found.add("objects", f"{key} is resolved to something else than its newest version")
            if record.document is not None:
                documents[position] = record.document
    wrong = storage.misindexed(documents)
    if not wrong:
        return
    keys = {position: key for key, (position, _) in records.items()}
    now = storage.located([keys[position] for position in wrong])
    for position in wrong:
        if now.get(keys[position], (False, b"", 0))[2] <= size:  # else it has a newer version since
            found.add(
                "search", f"{keys[position]} is not found by what its record says: `hanse-registry check --repair`"
            )


def _newest_documents(storage: Storage, changes: Sequence[Change]) -> Iterator[tuple[int, Document]]:
    records = {}
    for change in changes:
        if not change.is_certificate:
            envelope = wire.decode_envelope(change.content)
            if envelope.payload_type == PayloadType.RECORD:
                records[change.position] = wire.decode_record(envelope.payload)
    located = storage.located(list({record.id.key for record in records.values()}))
    for position, record in records.items():
        withdrawn, _, at = located.get(record.id.key, (True, b"", 0))
        if at == position and not withdrawn:
            yield position, index.document(record)


def _compare_organizations(storage: Storage, history: History, places: Mapping[Prefix, int], found: Found) -> None:
    for prefix, owner in history.owners.items():
        version = owner.record.version
        chain = [each for each in storage.organizations(prefix, 0) if each.version <= version]
        told = [_digest(each.envelope) for each in chain]
        if (
            [each.version for each in chain] != list(range(1, version + 1))
            or [each.digest for each in chain] != told
            or told[-1] != owner.digest
        ):
            found.add("organizations", f"the history of {prefix} is not the one that the log has")
        located = storage.located_organization(prefix)
        if located is None or located[1] < places[prefix]:
            found.add("organizations", f"the newest record of {prefix} is not where the log has it")


def _digest(envelope: bytes) -> bytes:
    try:
        return wire.decode_envelope(envelope).digest
    except HanseError:
        return b""


def _compare_invitations(storage: Storage, found: Found) -> None:
    for _, invitation in storage.invitations():
        if invitation.spent_by is not None:
            first = storage.organizations(invitation.prefix, 0)[:1]
            if [each.digest for each in first] != [invitation.spent_by]:
                found.add("invitations", f"an invitation of {invitation.prefix} let in somebody who is not in the log")


def _compare_members(
    storage: Storage, registries: tuple[Address, ...], history: History, unchanged: bool, found: Found
) -> None:
    version, listed = storage.membership()
    for member in listed:
        owner = history.owners.get(member.prefix)
        if owner is None or owner.record.version > member.organization_version:
            found.add("members", f"the line of {member.prefix} among the members is not of its newest record")
        elif owner.record.version < member.organization_version and unchanged:
            found.add(
                "members", f"the newest record of {member.prefix} is missing: restore the database from your backup"
            )
    for prefix in history.owners.keys() - {member.prefix for member in listed}:
        found.add("members", f"{prefix} joined, and is not among the members")
    told = history.membership.version if history.membership else 0
    if version < told or (unchanged and version != told):
        found.add("", f"the membership is at version {version}, and the log has version {told}")
    elif unchanged and version and not _is_logged(storage, registries):
        found.add(
            "",
            "the newest membership in the log is not that of the members: if the registry's addresses were changed, "
            "start it once, and check again",
        )


def _is_logged(storage: Storage, registries: tuple[Address, ...]) -> bool:
    try:
        return members.load(storage, registries, members.League()).position is not None
    except HanseError:
        return True  # it is told already why the members cannot be read
