"""One file with all that this home can prove, or with what was chosen of it. SPEC.md section 20.

What it is not: a judge; hanse.verifier is, on the other side. Nothing of the data goes into the file: neither names
nor contents of elements. It works with what this home knows; the registry is asked for histories of organizations
that are not wholly known here, and when it does not answer the file says what it lacks.

    export(Path("evidence.txt"), sources, Selection(peer=acme))
"""

import os
from array import array
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

from hanse import trust, wire
from hanse import wire_papers as papers
from hanse.client.durable import rename_new
from hanse.client.identity import authority_bytes
from hanse.client.storage.known import Known
from hanse.errors import (
    AlreadyExists,
    BrokenChain,
    HanseError,
    InvalidInput,
    NotFound,
    StorageFailed,
    Unreachable,
    WrongContent,
)
from hanse.evidence.checkpoint import parse
from hanse.evidence.evidence import Evidence
from hanse.evidence.lines import BLOCK, FORMAT, VERSION, Lines, Member, base64_text, envelope_text
from hanse.evidence.storage import log, peers, records
from hanse.evidence.storage.log import Kind, Leaf
from hanse.files import storage_errors, sync_folder
from hanse.merkle import inclusion_proof
from hanse.model.envelope import Envelope
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import AccessRequest, Deletion, Denial, Grant, Receipt, Revocation
from hanse.storage.database import Connection, transaction
from node.progress import Meter, Report
from node.storage.catalog import CatalogStorage
from node.storage.monitor import MonitorStorage

Paper = AccessRequest | Denial | Grant | Revocation | Deletion | Receipt
DECODERS: dict[str, Callable[[bytes], Paper]] = {
    Kind.REQUEST: papers.decode_request,
    Kind.DENIAL: papers.decode_denial,
    Kind.GRANT: papers.decode_grant,
    Kind.REVOCATION: papers.decode_revocation,
    Kind.DELETION: papers.decode_deletion,
    Kind.RECEIPT: papers.decode_receipt,
    Kind.HALF_RECEIPT: papers.decode_receipt,
}
_ANSWERS_OF_A_CHAIN = 100


class Histories(Protocol):
    """The registry (hanse.client.league.League). May raise any HanseError."""

    def get_organization(self, prefix: Prefix, after_version: int = 0) -> list[Envelope]:
        """Records of an organization after that version, oldest first; none when there are no more."""


@dataclass(frozen=True)
class Sources:
    """Where the parts of a file come from. ``registry`` None: nobody is asked; ``monitor`` None: nothing was found."""

    evidence: Evidence
    catalog: CatalogStorage
    known: Known
    registry: Histories | None
    monitor: MonitorStorage | None = None


@dataclass(frozen=True, slots=True)
class Selection:
    """What is about this object, passed between us and this peer, or is dated since then (Unix seconds).

    What a chosen receipt or grant rests on comes with it, whatever its date.
    """

    object: Identifier | None = None
    peer: Prefix | None = None
    since: int | None = None

    @property
    def everything(self) -> bool:
        return self == Selection()

    @property
    def members(self) -> dict[str, str | int]:
        """As the header of a file has it."""
        told: dict[str, str | int] = {}
        if self.object is not None:
            told["object"] = str(self.object)
        if self.peer is not None:
            told["peer"] = str(self.peer)
        if self.since is not None:
            told["since"] = self.since
        return told

    def takes(self, paper: Paper) -> bool:
        """Whether a paper is chosen for itself; denials and revocations follow what they are about."""
        ids: tuple[Identifier, ...]
        match paper:
            case Receipt():
                ids, parties, at = (paper.id,), {paper.owner, paper.consumer}, paper.ended_at
            case Deletion():
                ids, parties, at = (paper.id,), {paper.owner, paper.consumer}, paper.deleted_at
            case AccessRequest():
                ids, parties, at = (paper.id,), {paper.consumer, paper.id.prefix}, paper.issued_at
            case Grant():
                ids, parties, at = paper.ids, {paper.issuer, paper.to, paper.owner}, paper.issued_at
            case _:
                return False
        return (
            (self.object is None or self.object in ids)
            and (self.peer is None or self.peer in parties)
            and (self.since is None or at >= self.since)
        )


@dataclass(frozen=True, slots=True)
class Exported:
    """What a file holds. ``missing``: what it should have had, and why it has not."""

    lines: int
    receipts: int
    half_receipts: int
    log_size: int
    size: int
    missing: tuple[str, ...]


@dataclass(slots=True)
class _Chosen:
    """Positions in the log by kind, and what the papers there rest on."""

    positions: dict[str, "array[int]"] = field(default_factory=lambda: {kind: array("q") for kind in DECODERS})
    erased: list[tuple[int, str]] = field(default_factory=list)
    # Whose records are needed, each with the key ids that papers which it should have signed name.
    signers: dict[Prefix, set[frozenset[str]]] = field(default_factory=dict)
    records: dict[bytes, tuple[Identifier, int]] = field(default_factory=dict)
    missing: list[tuple[str, str, str]] = field(default_factory=list)  # what, name, why
    complete: set[bytes] = field(default_factory=set)  # digests of receipts that both signed
    halves: dict[bytes, int] = field(default_factory=dict)
    size: int = 0

    def add(self, leaf: Leaf, envelope: Envelope, paper: Paper) -> None:
        self.size += len(envelope.payload)
        if leaf.kind == Kind.HALF_RECEIPT:
            self.halves[envelope.digest] = leaf.position
        else:
            self.positions[leaf.kind].append(leaf.position)
        if leaf.kind == Kind.RECEIPT:
            self.complete.add(envelope.digest)
        keyids = frozenset(each.keyid for each in envelope.signatures)
        for prefix in _signed_by(paper):
            self.signers.setdefault(prefix, set()).add(keyids)
        if isinstance(paper, Receipt):
            self.signers.setdefault(paper.id.prefix, set())
            self.records[paper.record] = (paper.id, paper.version)


def export(path: Path, sources: Sources, selection: Selection = Selection(), report: Report | None = None) -> Exported:
    """Writes the file, which only its owner can read, under its name when it is whole.

    Raises AlreadyExists when there is one of that name, NoSpace, HomeUnusable, StorageFailed.
    """
    taken = AlreadyExists(f"there is a file {path} already: choose another name with -o, or remove it")
    if os.path.lexists(path):
        raise taken
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with storage_errors(str(path)):
        try:
            descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
            with open(descriptor, "wb", buffering=1 << 20) as file:
                found = _write(file.write, sources, selection, report)
                file.flush()
                os.fsync(descriptor)
            rename_new(temporary, path)
        except FileExistsError:
            raise taken from None
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)
    return found


def _write(write: Callable[[bytes], object], sources: Sources, selection: Selection, report: Report | None) -> Exported:
    evidence, written = sources.evidence, 0
    identity, now = evidence.identity(), int(evidence.clock())
    meter = Meter(report)

    def counted(line: bytes) -> None:
        nonlocal written
        written += len(line)
        write(line)
        meter.done(len(line), 1)
        meter.show()

    lines = Lines(counted)
    # One state of the log for the whole file, whatever is appended meanwhile.
    with evidence.reading() as connection, transaction(connection, "BEGIN"):
        note = log.newest_checkpoint(connection)
        size = parse(note)[0].size if note else 0
        chosen = _choose(connection, size, selection)
        chosen.signers.setdefault(identity.prefix, set())
        held = [(each, at) for each, at in peers.all_held(connection) if _wanted(each, chosen, selection)]
        forks = [each for each in peers.forks(connection) if _wanted(each.prefix, chosen, selection)]
        for prefix in (*(each for each, _ in held), *(each.prefix for each in forks)):
            chosen.signers.setdefault(Prefix(prefix), set())
        organizations = list(_organizations(sources, chosen, now))
        named = list(_records(connection, sources, chosen))
        meter = Meter(report, 2 * chosen.size)  # about: base64, checksums, proofs
        lines.add(
            "header",
            {
                "format": FORMAT,
                "version": VERSION,
                "exporter": str(identity.prefix),
                "made_at": now,
                "selection": selection.members,
                "log_size": size,
                "checkpoint": note or "",
                "everything": selection.everything,
            },
        )
        for envelope in organizations:
            lines.add("organization", {"envelope": envelope_text(envelope)})
        for what, name, why in chosen.missing:
            lines.add("missing", {"what": what, "name": name, "why": why})
        if selection.everything:
            _write_leaves(lines, connection, size)
        for envelope in named:
            lines.add("record", {"envelope": envelope_text(envelope)})
        for kind in _ORDER:
            _write_papers(lines, connection, kind, chosen.positions[kind], None if selection.everything else size)
        for position, was in chosen.erased:
            lines.add("erased", {"position": position, "leaf": was})
        for prefix, each in held:
            lines.add("peer-checkpoint", {"prefix": prefix, "note": each.note, "seen_at": each.at})
        for fork in forks:
            lines.add("fork", {"prefix": fork.prefix, "first": fork.first, "second": fork.second, "seen_at": fork.at})
        if selection.everything:
            _write_registry(lines, sources)
        lines.end(identity.prefix, identity.signing_key)
    meter.show(at_once=True)
    return Exported(
        lines.count,
        len(chosen.positions[Kind.RECEIPT]),
        len(chosen.positions[Kind.HALF_RECEIPT]),
        size,
        written,
        tuple(f"{what} {name}: {why}" for what, name, why in chosen.missing),
    )


# The order in which a reader needs them: what a receipt rests on comes before it.
_ORDER = (
    Kind.REQUEST, Kind.DENIAL, Kind.GRANT, Kind.REVOCATION, Kind.DELETION, Kind.RECEIPT, Kind.HALF_RECEIPT,
)  # fmt: skip


def _wanted(prefix: str, chosen: _Chosen, selection: Selection) -> bool:
    return selection.everything or Prefix(prefix) in chosen.signers


def _signed_by(paper: Paper) -> tuple[Prefix, ...]:
    match paper:
        case Receipt():
            return (paper.owner, paper.consumer)
        case AccessRequest() | Deletion():
            return (paper.consumer,)
    return (paper.issuer,)


# What goes in.


def _papers(connection: Connection, size: int) -> Iterator[tuple[Leaf, Envelope, Paper]]:
    """All that the log has, but for decisions and what was erased. Raises StorageFailed when it is damaged."""
    for leaf in log.leaves(connection, 0, size):
        if leaf.payload is not None and leaf.kind in DECODERS:
            yield leaf, *_read(leaf.position, leaf.kind, leaf.payload)


def _read(position: int, kind: str, payload: bytes) -> tuple[Envelope, Paper]:
    try:
        envelope = wire.decode_envelope(payload)
        return envelope, DECODERS[kind](envelope.payload)
    except InvalidInput as error:
        raise StorageFailed(
            f"entry {position} of the log does not parse ({error}): evidence.db is damaged, restore it from your backup"
        ) from None


def _choose(connection: Connection, size: int, selection: Selection) -> _Chosen:
    chosen = _chosen(connection, size, selection)
    # A half that the other side signed later says nothing that the whole receipt does not.
    left = sorted(position for digest, position in chosen.halves.items() if digest not in chosen.complete)
    chosen.positions[Kind.HALF_RECEIPT].extend(left)
    return chosen


def _chosen(connection: Connection, size: int, selection: Selection) -> _Chosen:
    chosen = _Chosen()
    if selection.everything:
        for leaf in log.leaves(connection, 0, size):
            if leaf.kind in DECODERS and leaf.payload is None:
                chosen.erased.append((leaf.position, leaf.kind))
            elif leaf.kind in DECODERS and leaf.payload is not None:
                chosen.add(leaf, *_read(leaf.position, leaf.kind, leaf.payload))
        return chosen
    wanted, grants, requests = _closure(connection, size, selection)
    for leaf, envelope, paper in _papers(connection, size):
        digest = envelope.digest
        match paper:
            case Grant():
                taken = digest in grants
                grants.discard(digest)
            case AccessRequest():
                taken = digest in requests
            case Revocation():
                taken = paper.grant in wanted
            case Denial():
                taken = paper.request in requests
            case Deletion():
                taken = selection.takes(paper) or paper.grant in wanted
            case _:
                taken = selection.takes(paper)
        if taken:
            chosen.add(leaf, envelope, paper)
    chosen.missing += [("grant", each.hex()[:16], "it is not in this home's log") for each in sorted(grants)]
    return chosen


def _closure(connection: Connection, size: int, selection: Selection) -> tuple[set[bytes], set[bytes], set[bytes]]:
    """Digests of the grants that chosen papers rest on, the same again, and of the requests."""
    links: dict[bytes, tuple[bytes, bytes]] = {}
    grants: set[bytes] = set()
    requests: set[bytes] = set()
    for _, envelope, paper in _papers(connection, size):
        if isinstance(paper, Grant):
            links[envelope.digest] = (paper.parent, paper.request)
            if selection.takes(paper):
                grants.add(envelope.digest)
        elif isinstance(paper, (Receipt, Deletion)) and selection.takes(paper):
            grants.add(paper.grant)
        elif isinstance(paper, AccessRequest) and selection.takes(paper):
            requests.add(envelope.digest)
    waiting = list(grants)
    while waiting:
        parent, request = links.get(waiting.pop(), (b"", b""))
        if parent and parent not in grants:
            grants.add(parent)
            waiting.append(parent)
        requests.add(request)
    for none in (grants, requests):
        none.discard(b"")
    return set(grants), grants, requests


def _records(connection: Connection, sources: Sources, chosen: _Chosen) -> Iterator[Envelope]:
    for digest, (id, version) in sorted(chosen.records.items(), key=lambda each: (each[1][0].key, each[1][1])):
        stored, cached = sources.catalog.version(id, version), sources.known.record(id)
        found = (
            stored.record if stored else None,
            records.find(connection, digest),
            cached.envelope if cached else None,
        )
        record = next((each for each in found if each is not None and each.digest == digest), None)
        if record is not None:
            yield record
        else:
            chosen.missing.append(("record", f"{id} version {version}", "this home has not kept it"))


def _organizations(sources: Sources, chosen: _Chosen, now: int) -> Iterator[Envelope]:
    own, down = sources.evidence.identity().prefix, None
    for prefix, signed in sorted(chosen.signers.items(), key=lambda each: each[0]):
        if prefix == own:
            yield from sources.catalog.organizations()
            continue
        try:
            # A registry that did not answer once is not waited for again.
            yield from _history(sources if down is None else replace(sources, registry=None), prefix, signed, now)
        except HanseError as error:
            down = down or (error if isinstance(error, Unreachable) else None)
            error = down or error
            chosen.missing.append(("organization", str(prefix), f"its whole history is not at hand: {error}"))
            pinned = sources.known.organization(prefix)
            if pinned is not None:
                yield pinned.envelope


def _history(sources: Sources, prefix: Prefix, signed: set[frozenset[str]], now: int) -> Iterable[Envelope]:
    """All versions. Raises any HanseError when they are not known here and the registry does not give them."""
    pinned = sources.known.organization(prefix)
    if pinned is not None and pinned.record.version == 1:
        key = str(pinned.record.current_key.key_id)
        if all(key in keyids for keyids in signed):
            return [pinned.envelope]  # the whole history, as far as any paper here tells
    if sources.registry is None:
        raise NotFound("the registry was not asked")
    found: list[Envelope] = []
    for _ in range(_ANSWERS_OF_A_CHAIN):
        more = sources.registry.get_organization(prefix, len(found))
        if not more:
            break
        found += more
    try:
        newest = trust.chain(found, pinned=None, now=now)
    except InvalidInput as error:
        raise WrongContent(f"the registry's answer does not parse: {error}") from None
    if newest is None or newest.record.prefix != prefix:
        raise NotFound(f"the registry knows no {prefix}")
    if pinned is not None and (
        len(found) < pinned.record.version or found[pinned.record.version - 1].digest != pinned.digest
    ):
        raise BrokenChain(f"the registry gives another history of {prefix} than the one that was seen before")
    return found


# The lines.


def _write_leaves(lines: Lines, connection: Connection, size: int) -> None:
    hashes = bytearray()
    for leaf in log.bare_leaves(connection):
        if leaf.position >= size:
            break
        hashes += leaf.hash
        if len(hashes) == 32 * BLOCK or leaf.position == size - 1:
            first = leaf.position + 1 - len(hashes) // 32
            lines.add("leaves", {"first": first, "hashes": base64_text(bytes(hashes))})
            hashes.clear()


def _write_registry(lines: Lines, sources: Sources) -> None:
    """What the registry signed that contradicts itself, and what was found in its log."""
    lies = sources.known.registry_lies()
    findings = sources.monitor.findings(dismissed=True) if sources.monitor else []
    if lies or findings:
        home = sources.evidence.identity().home
        lines.add("authority", {"authority": base64_text(authority_bytes(home))})
    for key in sorted({key for lie in lies for key in lie.witnesses}):
        lines.add("witness", {"key": key})
    for lie in lies:
        proof = base64_text(lie.proof)
        members: dict[str, Member] = {"first": lie.first, "second": lie.second, "proof": proof}
        lines.add("registry-fork", {**members, "seen_at": lie.noticed_at})
    for each in findings:
        found = each.finding
        lines.add(
            "finding",
            {
                "what": found.kind.value,
                "entry": found.position,
                "text": found.what,
                "content": base64_text(found.content),
                "size": found.size,
                "path": base64_text(found.path),
                "note": found.note,
                "consistency": base64_text(found.consistency),
                "noticed_at": each.noticed_at,
                "dismissed_at": each.dismissed_at or 0,
            },
        )


def _write_papers(
    lines: Lines, connection: Connection, kind: str, positions: Iterable[int], proved_in: int | None
) -> None:
    nodes = log.nodes(connection)
    for position in positions:
        leaf = next(log.leaves(connection, position, position + 1))
        assert leaf.payload is not None and leaf.salt is not None  # noqa: S101, PT018 - chosen in this transaction
        members: dict[str, Member] = {
            "envelope": base64_text(leaf.payload),
            "position": position,
            "salt": leaf.salt.hex(),
        }
        if proved_in is not None:
            members["proof"] = base64_text(b"".join(inclusion_proof(nodes, position, proved_in)))
        lines.add(kind, members)
