"""A registry's file, read by somebody who believes nothing: each entry, then all of them together. SPEC.md section 22.

    with path.open("rb") as file:
        verified = verify(file, str(path), now)                        # no key, no home; says what is in it
        verified = fill(storage, file, str(path), now)                 # the same, into an empty store

What it is not: word that the league is the right one. Compare the fingerprint with one that you know.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from hashlib import sha256
from typing import BinaryIO

from google.protobuf.message import DecodeError

from hanse import limits, transparency, wire
from hanse.errors import Conflict, InvalidInput, VerificationFailed, WrongContent
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.organization import Authority, Member
from hanse.model.organization import Membership as MembershipList
from hanse.transparency import Kind, Signed
from hanse.v1 import registry_file_pb2
from registry.accept import Stored
from registry.exporting import FORMAT, VERSION
from registry.history import Entry, History, Membership, Organization
from registry.storage.base import Change, NewRecord, Storage, Writing, transact
from registry.storage.scratch import Scratch

_AT_ONCE, _AT_ONCE_BYTES = 2_000, 16 << 20
_LONGEST = limits.MEMBERSHIP_BYTES + limits.NOTE_BYTES + limits.KIB  # the trailer of the largest league

Take = Callable[[History, Sequence[Change]], None]


@dataclass(frozen=True, slots=True)
class Verified:
    """What a file is proved to have. ``members`` are those that the newest entry about them names."""

    authority_bytes: bytes
    authority: Authority
    made_at: int
    signed: Signed
    counts: Counter[Kind]
    membership_version: int
    members: tuple[Member, ...]
    registries: tuple[Address, ...]


def verify(file: BinaryIO, name: str, now: int) -> Verified:
    """Raises VerificationFailed, which says what is wrong with the file and where."""
    scratch = Scratch()

    def take(history: History, changes: Sequence[Change]) -> None:
        scratch.put(_seen(history.follow(changes, scratch.known)))

    try:
        return _read(file, name, now, take, documents=False)
    finally:
        scratch.close()


def league_of(file: BinaryIO, name: str) -> tuple[bytes, Authority]:
    """What a file says of whom it is of, before it is verified. Raises WrongContent."""
    try:
        told = _Parts(file).header().authority
        return told, wire.decode_authority(told)
    except (VerificationFailed, InvalidInput) as error:
        raise WrongContent(f"{name} is not to be believed: {error}") from None


def fill(storage: Storage, file: BinaryIO, name: str, now: int) -> Verified:
    """Verifies a file and stores it. After an error the store is of no use. Raises VerificationFailed, Conflict."""
    if storage.last_position():
        raise Conflict("the store has entries already: a file is imported into an empty one")
    joined: dict[Prefix, int] = {}
    scratch = Scratch()

    def take(history: History, changes: Sequence[Change]) -> None:
        followed = history.follow(changes, scratch.known)
        scratch.put(_seen(followed))
        transact(storage, lambda writing: put(writing, followed))
        joined.update(history.joined)

    def finish(writing: Writing) -> None:
        for member in verified.members:
            writing.put_member(member, joined.get(member.prefix, now))
        writing.remember("membership_version", str(verified.membership_version))

    try:
        verified = _read(file, name, now, take, documents=True)
    finally:
        scratch.close()
    transact(storage, finish)
    return verified


def _seen(followed: Sequence[Entry]) -> Iterator[tuple[str, Stored]]:
    for each in followed:
        if isinstance(each.content, NewRecord):
            yield each.content.key, Stored(each.content.version, each.content.digest, each.content.document is None)


def put(writing: Writing, followed: Sequence[Entry]) -> None:
    """Stores entries in their order."""
    records: list[NewRecord] = []
    for entry in followed:
        if isinstance(entry.content, NewRecord):
            records.append(entry.content)
            continue
        writing.put_records(records)
        records = []
        if isinstance(entry.content, Organization):
            writing.put_organization(entry.content.prefix, entry.content.stored)
        elif isinstance(entry.content, Membership):
            writing.put_membership(entry.content.envelope, entry.leaf)
        else:
            writing.put_certificate(entry.content)
    writing.put_records(records)


def _read(file: BinaryIO, name: str, now: int, take: Take, *, documents: bool) -> Verified:
    parts = _Parts(file)
    try:
        header = parts.header()
        authority = wire.decode_authority(header.authority)
        history = History(authority, now, documents=documents)
        try:
            for changes in parts.entries():
                take(history, changes)
            trailer = parts.trailer()
            return _verified(header, authority, history, trailer)
        finally:
            history.close()
    except VerificationFailed as error:
        raise type(error)(f"{name} is not to be believed: {error}") from None
    except InvalidInput as error:
        raise WrongContent(f"{name} is not to be believed: {error}") from None


def _verified(
    header: registry_file_pb2.RegistryHeader,
    authority: Authority,
    history: History,
    trailer: registry_file_pb2.RegistryTrailer,
) -> Verified:
    told = Counter(
        {
            Kind.RECORD: trailer.records, Kind.ORGANIZATION: trailer.organizations,
            Kind.MEMBERSHIP: trailer.memberships, Kind.CERTIFICATE: trailer.certificates,
        }
    )  # fmt: skip
    signed = transparency.verify(trailer.checkpoint, authority)
    if signed.checkpoint.size != history.size:
        raise WrongContent(
            f"it has {history.size:,} entries, and the checkpoint in it is of {signed.checkpoint.size:,}: some are "
            "missing, or were added"
        )
    if signed.checkpoint.root != history.tree.root():
        raise WrongContent(
            "its entries are not those that the registry signed the checkpoint of: some were exchanged, altered or "
            "re-ordered"
        )
    if told != history.counts:
        raise WrongContent("it counts its entries wrongly")
    listed = _listed(history, trailer.members)
    members = tuple(listed.members.values()) if listed else ()
    for member in members:
        owner = history.owners.get(member.prefix)
        if owner is None or owner.record.version != member.organization_version:
            raise WrongContent(
                f"the newest record of {member.prefix}, which the members' list names, is not among its entries"
            )
    if len(members) != len(history.owners):
        raise WrongContent("not all who joined are among its members")
    version = history.membership.version if history.membership else 0
    return Verified(
        header.authority,
        authority,
        header.made_at,
        signed,
        history.counts,
        version,
        members,
        listed.registries if listed else (),
    )


def _listed(history: History, listed: bytes) -> MembershipList | None:
    if history.membership is None:
        if listed:
            raise WrongContent("it has a list of members that no entry names")
        return None
    if sha256(listed).digest() != history.membership.members_sha256:
        raise WrongContent("its list of members is not the one that the newest membership among its entries names")
    return wire.decode_membership(wire.decode_envelope(history.membership.envelope).payload, listed)[0]


class _Parts:
    """The parts of a file, in their order, and no other."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._digest = sha256()
        self._position = 0
        self._last: registry_file_pb2.RegistryPart | None = None
        self._before = b""  # SHA-256 of all before the last part

    def header(self) -> registry_file_pb2.RegistryHeader:
        part = self._next()
        if part is None or part.WhichOneof("part") != "header" or part.header.format != FORMAT:
            raise WrongContent("it is no registry's file")
        if part.header.version != VERSION:
            raise WrongContent(
                f"it is of version {part.header.version}, and this program knows {VERSION}: install a newer one"
            )
        return part.header

    def entries(self) -> Iterator[list[Change]]:
        some: list[Change] = []
        size = 0
        while (part := self._next()) is not None and part.WhichOneof("part") == "entry":
            change = part.entry
            if change.HasField("envelope") == bool(change.certificate):
                raise WrongContent(
                    f"the entry at position {change.position:,} is neither an envelope nor a certificate"
                )
            is_certificate = bool(change.certificate)
            change.envelope.DiscardUnknownFields()  # nobody signed those
            content = change.certificate if is_certificate else change.envelope.SerializeToString()
            self._position += 1
            some.append(Change(change.position, content, is_certificate))
            size += len(content)
            if len(some) == _AT_ONCE or size > _AT_ONCE_BYTES:
                yield some
                some, size = [], 0
        if some:
            yield some
        self._last = part

    def trailer(self) -> registry_file_pb2.RegistryTrailer:
        part = self._last
        if part is None:
            raise WrongContent(
                f"it ends after the entry at position {self._position:,}, before its end: it was cut off"
            )
        if part.WhichOneof("part") != "trailer":
            raise WrongContent(f"it has a part where none belongs, after the entry at position {self._position:,}")
        if part.trailer.sha256 != self._before:
            raise WrongContent("its bytes are not those that were written: it was altered or damaged")
        if self._file.read(1):
            raise WrongContent("something follows its end")
        return part.trailer

    def _next(self) -> registry_file_pb2.RegistryPart | None:
        """None at the end of the file."""
        self._before = self._digest.digest()
        length = self._length()
        if length is None:
            return None
        data = self._file.read(length)
        self._digest.update(data)
        if len(data) < length:
            raise WrongContent(f"it ends in the middle of a part, after position {self._position:,}: it was cut off")
        try:
            part = registry_file_pb2.RegistryPart.FromString(data)
        except DecodeError:
            raise WrongContent(f"what follows position {self._position:,} does not parse") from None
        return part

    def _length(self) -> int | None:
        length = shift = 0
        while True:
            byte = self._file.read(1)
            if not byte and not shift:
                return None
            self._digest.update(byte)
            if not byte:
                raise WrongContent(
                    f"it ends in the middle of a part, after position {self._position:,}: it was cut off"
                )
            length |= (byte[0] & 0x7F) << shift
            shift += 7
            if byte[0] < 0x80:
                break
            if shift > 28:
                length = _LONGEST + 1
                break
        if length > _LONGEST:
            raise WrongContent(f"what follows position {self._position:,} is longer than any part can be")
        return length
