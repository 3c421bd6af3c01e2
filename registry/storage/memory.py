"""The registry's storage in memory: what the contract means, in the fewest words. For tests; nothing survives it."""

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from hanse import merkle, tiles
from hanse.model.identifier import Prefix
from hanse.model.organization import Member
from hanse.transparency import Kind, certificate_leaf, digest_leaf
from registry import index
from registry.accept import Stored
from registry.index import Document, Phrase, Question
from registry.storage.base import (
    OWN_TEXTS,
    Certificate,
    Change,
    Figures,
    Head,
    Line,
    NewRecord,
    StoredInvitation,
    StoredOrganization,
)
from registry.usage import Limits, Usage


@dataclass
class _Change:
    content: bytes
    leaf: bytes
    key: str = ""
    record: NewRecord | None = None
    certificate: Certificate | None = None


@dataclass
class _State:
    changes: list[_Change] = field(default_factory=list)
    objects: dict[str, tuple[NewRecord, int]] = field(default_factory=dict)  # the newest, and its position
    organizations: dict[Prefix, list[StoredOrganization]] = field(default_factory=dict)
    members: dict[Prefix, Member] = field(default_factory=dict)
    invitations: dict[bytes, StoredInvitation] = field(default_factory=dict)
    texts: dict[str, str] = field(default_factory=dict)
    membership_version: int = 0
    usages: dict[Prefix, Usage] = field(default_factory=dict)

    def copied(self) -> "_State":
        """What a transaction alters; what is in the lists never changes."""
        organizations = {prefix: list(chain) for prefix, chain in self.organizations.items()}
        return _State(
            list(self.changes), dict(self.objects), organizations, dict(self.members), dict(self.invitations),
            dict(self.texts), self.membership_version, dict(self.usages),
        )  # fmt: skip


class MemoryStorage:
    """See registry.storage.base for what every method promises."""

    distant = False

    def __init__(self) -> None:
        self._state = _State()
        self._one_writer = threading.Lock()

    @contextlib.contextmanager
    def writing(self) -> Iterator["MemoryWriting"]:
        with self._one_writer:
            writing = MemoryWriting(self._state.copied())
            yield writing
            self._state = writing.state

    @contextlib.contextmanager
    def reading(self) -> Iterator["MemoryStorage"]:
        yield self

    def resolve(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes]]:
        objects = self._state.objects
        return {
            key: (record.document is None, record.envelope)
            for key in keys
            if key in objects
            for record, _ in (objects[key],)
        }

    def organizations(self, prefix: Prefix, after_version: int) -> list[StoredOrganization]:
        return [each for each in self._state.organizations.get(prefix, ()) if each.version > after_version]

    def newest_organizations(self) -> list[bytes]:
        return [chain[-1].envelope for chain in self._state.organizations.values()]

    def membership(self) -> tuple[int, list[Member]]:
        state = self._state
        return state.membership_version, _in_order(state)

    def membership_version(self) -> int:
        return self._state.membership_version

    def changes(self, after: int, limit: int, limit_bytes: int, *, certificates: bool = False) -> list[Change]:
        found: list[Change] = []
        size = 0
        for position, change in enumerate(self._state.changes[after:], after + 1):
            if change.certificate is not None and not certificates:
                continue
            if len(found) == limit or size > limit_bytes:
                break
            found.append(Change(position, change.content, change.certificate is not None))
            size += len(change.content)
        return found

    def last_position(self) -> int:
        return len(self._state.changes)

    def head(self) -> Head:
        leaves = self._leaf_hashes()
        return Head(len(leaves), merkle.root(leaves))

    def tile(self, level: int, number: int, count: int) -> tiles.Subtrees | None:
        first, last = number << tiles.HEIGHT, (number << tiles.HEIGHT) + count
        leaves, each = self._leaf_hashes(), 1 << tiles.HEIGHT * level
        if last * each > len(leaves):
            return None
        hashes = (merkle.root(leaves[at * each : (at + 1) * each]) for at in range(first, last))
        return tiles.subtrees(b"".join(hashes))

    def leaves(self, first: int, count: int) -> list[bytes]:
        return [change.leaf for change in self._state.changes[first : first + count]]

    def located(self, keys: Sequence[str]) -> dict[str, tuple[bool, bytes, int]]:
        return {key: (*found, self._state.objects[key][1]) for key, found in self.resolve(keys).items()}

    def located_membership(self) -> int | None:
        told = self.recall("membership_position")
        return None if told is None else int(told)

    def located_organization(self, prefix: Prefix) -> tuple[bytes, int] | None:
        chain = self._state.organizations.get(prefix)
        if not chain:
            return None
        newest = chain[-1].envelope
        return newest, next(at for at, each in enumerate(self._state.changes, 1) if each.content == newest)

    def _leaf_hashes(self) -> list[bytes]:
        return [merkle.leaf_hash(change.leaf) for change in self._state.changes]

    def usages(self) -> dict[Prefix, Usage]:
        return dict(self._state.usages)

    def find(self, question: Question, as_of: int, limit: int) -> list[int]:
        matches = []
        for record, position in self._state.objects.values():
            document = record.document
            if document is None or position > as_of or not set(question.facets) <= set(document.facets.split()):
                continue
            if not (question.issued_from or 0) <= record.issued_at <= (question.issued_until or record.issued_at):
                continue
            if all(any(_has(phrase, text.split()) for text in document.texts) for phrase in question.phrases):
                matches.append((position, document.texts))
        return index.ranked(question, sorted(matches, reverse=True)[:limit])

    def records_at(self, positions: Sequence[int]) -> dict[int, bytes]:
        state = self._state
        newest = {position: state.objects[state.changes[position - 1].key][0] for position in positions}
        return {position: record.envelope for position, record in newest.items() if record.document is not None}

    def lines(self, first: int, count: int) -> list[Line]:
        some = self._state.changes[first - 1 : first - 1 + count]
        return [_line(position, each) for position, each in enumerate(some, first)]

    def invitations(self) -> list[tuple[bytes, StoredInvitation]]:
        return list(self._state.invitations.items())

    def texts(self) -> dict[str, str]:
        return {name: value for name, value in self._state.texts.items() if name not in OWN_TEXTS}

    def recall(self, name: str) -> str | None:
        return self._state.texts.get(name)

    def stamp(self) -> int:
        return 0  # there is no other connection

    def figures(self) -> Figures:
        objects = self._state.objects.values()
        withdrawn = sum(record.document is None for record, _ in objects)
        return Figures(len(objects), withdrawn, self.last_position(), 0)

    def misindexed(self, documents: Mapping[int, Document]) -> list[int]:
        newest = {position: record.document for record, position in self._state.objects.values()}
        return [position for position, document in documents.items() if newest.get(position) != document]

    def problems(self) -> list[str]:
        return []

    def close(self) -> None:
        pass


def _line(position: int, change: _Change) -> Line:
    if change.certificate is not None:
        return Line(position, str(change.certificate.prefix), None, change.certificate.issued_at)
    record = change.record
    if record is None:
        return Line(position)
    return Line(position, record.key, record.version, record.issued_at, record.digest)


def _in_order(state: _State) -> list[Member]:
    return [state.members[prefix] for prefix in sorted(state.members)]


def _has(phrase: Phrase, tokens: list[str]) -> bool:
    *whole, last = phrase.tokens
    return any(
        tokens[i : i + len(whole)] == whole
        and (tokens[i + len(whole)].startswith(last) if phrase.open_ended else tokens[i + len(whole)] == last)
        for i in range(len(tokens) - len(whole))
    )


class MemoryWriting:
    """See registry.storage.base for what every method promises."""

    def __init__(self, state: _State) -> None:
        self.state = state

    def stored(self, keys: Sequence[str]) -> dict[str, Stored]:
        found = {key: self.state.objects[key][0] for key in keys if key in self.state.objects}
        return {key: Stored(each.version, each.digest, each.document is None) for key, each in found.items()}

    def digest_of(self, key: str, version: int) -> bytes | None:
        records = (change.record for change in self.state.changes if change.key == key)
        return next((each.digest for each in records if each is not None and each.version == version), None)

    def put_records(self, records: Sequence[NewRecord]) -> None:
        for record in records:
            leaf = digest_leaf(Kind.RECORD, record.digest)
            self.state.changes.append(_Change(record.envelope, leaf, record.key, record))
            owner = Prefix(record.key.partition("/")[0])
            self._count(owner, objects=record.key not in self.state.objects, size=len(record.envelope))
            self.state.objects[record.key] = (record, len(self.state.changes))

    def put_organization(self, prefix: Prefix, organization: StoredOrganization) -> None:
        self.state.organizations.setdefault(prefix, []).append(organization)
        self.state.changes.append(_Change(organization.envelope, digest_leaf(Kind.ORGANIZATION, organization.digest)))
        self._count(prefix, objects=0, size=len(organization.envelope))

    def _count(self, prefix: Prefix, *, objects: int, size: int) -> None:
        before = self.usage(prefix)
        after = replace(before, objects=before.objects + objects, bytes=before.bytes + size)
        self.state.usages[prefix] = after

    def usage(self, prefix: Prefix, *, exact: bool = True) -> Usage:  # noqa: ARG002
        return self.state.usages.get(prefix, Usage())

    def put_pace(self, prefix: Prefix, paid_until: float) -> None:
        self.state.usages[prefix] = replace(self.usage(prefix), paid_until=paid_until)

    def put_limits(self, prefix: Prefix, limits: Limits) -> None:
        self.state.usages[prefix] = replace(self.usage(prefix), limits=limits)

    def organization_digest(self, prefix: Prefix, version: int) -> bytes | None:
        chain = self.state.organizations.get(prefix, ())
        return next((each.digest for each in chain if each.version == version), None)

    def newest_organization(self, prefix: Prefix) -> StoredOrganization | None:
        chain = self.state.organizations.get(prefix)
        return chain[-1] if chain else None

    def member(self, prefix: Prefix) -> Member | None:
        return self.state.members.get(prefix)

    def members(self) -> list[Member]:
        return _in_order(self.state)

    def put_member(self, member: Member, now: int) -> None:  # noqa: ARG002
        self.state.members[member.prefix] = member

    def next_membership_version(self) -> int:
        self.state.membership_version += 1
        return self.state.membership_version

    def put_membership(self, envelope: bytes, leaf: bytes) -> None:
        self.state.changes.append(_Change(envelope, leaf))
        self.remember("membership_position", str(len(self.state.changes)))

    def put_certificate(self, certificate: Certificate) -> None:
        leaf = certificate_leaf(certificate.der)
        self.state.changes.append(_Change(certificate.der, leaf, certificate=certificate))

    def newest_certificate(self, prefix: Prefix) -> Certificate | None:
        issued = (change.certificate for change in reversed(self.state.changes) if change.certificate is not None)
        return next((each for each in issued if each.prefix == prefix), None)

    def put_invitation(self, secret_hash: bytes, invitation: StoredInvitation, now: int) -> None:  # noqa: ARG002
        self.state.invitations[secret_hash] = invitation

    def invitation(self, secret_hash: bytes) -> StoredInvitation | None:
        return self.state.invitations.get(secret_hash)

    def spend_invitation(self, secret_hash: bytes, organization_digest: bytes, now: int) -> None:  # noqa: ARG002
        self.state.invitations[secret_hash] = replace(self.state.invitations[secret_hash], spent_by=organization_digest)

    def head(self) -> Head:
        hashes = [merkle.leaf_hash(change.leaf) for change in self.state.changes]
        return Head(len(hashes), merkle.root(hashes))

    def reindex(self, documents: Iterable[tuple[int, Document]]) -> None:
        found = dict(documents)
        for key, (record, position) in self.state.objects.items():
            self.state.objects[key] = (replace(record, document=found.get(position)), position)

    def remember(self, name: str, value: str) -> None:
        self.state.texts[name] = value
