"""Evidence without fetches: papers signed by real keys, appended through hanse.evidence, in homes of two and more.

with Year.begin(tmp_path) as year:
    grant = year.grant(max_fetches=3)
    year.receipt(grant=grant)
    year.export(year.north, path)
"""

import contextlib
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hanse import trust, wire
from hanse import wire_papers as papers
from hanse.client.identity import Identity
from hanse.client.storage.known import FILE, Known
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import records
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from hanse.home import Home
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.organization import Authority, IdentityKey, OrganizationRecord
from hanse.model.papers import AccessRequest, Deletion, Delivered, Denial, Grant, Receipt, Revocation
from hanse.model.purposes import Purpose
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.model.terms import Conditions
from hanse.signing import SigningKey, sign
from node.catalog import CATALOG
from node.exporting import Exported, Histories, Selection, Sources, export
from node.storage.catalog import CatalogStorage

BEGAN = 1_790_000_000
DAY = 86_400
EVERYTHING = Selection()


@dataclass
class Party:
    """One organization and its home."""

    prefix: Prefix
    home: Home
    keys: list[SigningKey] = field(default_factory=lambda: [SigningKey.generate()])
    history: list[Envelope] = field(default_factory=list)
    record: OrganizationRecord | None = None
    clock: float = BEGAN

    @classmethod
    def make(cls, folder: Path, prefix: str) -> "Party":
        folder.mkdir(mode=0o700)
        party = cls(Prefix.parse(prefix), Home(folder))
        party._publish(
            OrganizationRecord(
                party.prefix, 1, b"", f"Organization {prefix}", "", (IdentityKey(party.key.public, BEGAN),), (), BEGAN
            ),
            party.key,
        )
        return party

    @property
    def key(self) -> SigningKey:
        return self.keys[-1]

    def rotate(self, now: int) -> None:
        assert self.record is not None
        old, new = self.key, SigningKey.generate()
        self.keys.append(new)
        current, *before = self.record.keys
        keys = (IdentityKey(new.public, now), replace(current, valid_until=now + 3600), *before)
        previous = self.history[-1].digest
        self._publish(
            replace(self.record, version=self.record.version + 1, previous=previous, keys=keys, issued_at=now), new, old
        )

    def _publish(self, record: OrganizationRecord, *keys: SigningKey) -> None:
        self.record = record
        self.history.append(sign(PayloadType.ORGANIZATION, wire.encode_organization(record), *keys))

    @property
    def verified(self) -> trust.VerifiedOrganization:
        found = trust.chain(self.history, pinned=None, now=1 << 39)
        assert found is not None
        return found

    @property
    def identity(self) -> Identity:
        authority = Authority(Prefix.parse("86"), "Test", b"", self.keys[0].public, bytes(32))
        return Identity(self.home, self.prefix, authority, (), self.key, b"", b"", b"")

    @contextlib.contextmanager
    def evidence(self) -> Iterator[Evidence]:
        with Evidence.open(lambda: self.identity, lambda: self.clock) as evidence:
            yield evidence


class Registry:
    """That knows the parties' histories; ``down`` makes it fail."""

    def __init__(self, parties: list[Party]) -> None:
        self._parties = {each.prefix: each for each in parties}
        self.down: Exception | None = None
        self.asked: list[Prefix] = []

    def get_organization(self, prefix: Prefix, after_version: int = 0) -> list[Envelope]:
        self.asked.append(prefix)
        if self.down is not None:
            raise self.down
        return self._parties[prefix].history[after_version : after_version + 2]


@dataclass
class Year:
    """What passed between ``north``, who owns, ``acme``, who fetches, and ``lab``, who may get narrowed grants."""

    folder: Path
    north: Party
    acme: Party
    lab: Party
    evidence: dict[Prefix, Evidence] = field(default_factory=dict)
    now: int = BEGAN
    batch: list[Any] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def begin(cls, folder: Path) -> Iterator["Year"]:
        parties = [Party.make(folder / name, f"86.{name}") for name in ("north", "acme", "lab")]
        year = cls(folder, *parties)
        with contextlib.ExitStack() as stack:
            for each in parties:
                year.evidence[each.prefix] = stack.enter_context(each.evidence())
            yield year

    @property
    def parties(self) -> list[Party]:
        return [self.north, self.acme, self.lab]

    @property
    def registry(self) -> Registry:
        return Registry(self.parties)

    # Papers. Each is signed, and logged by the parties that would log it.

    def log(self, kind: Kind, envelope: Envelope, *parties: Party, wait: bool = True) -> Envelope:
        payload = wire.encode_envelope(envelope)
        for each in parties:
            each.clock = self.now
            done = self.evidence[each.prefix].writer.submit(lambda change: change.append(kind, payload))
            if wait:
                done.result()
            else:
                self.batch.append(done)
        return envelope

    def settle(self) -> None:
        """Waits for what was logged without waiting."""
        for each in self.batch:
            each.result()
        self.batch.clear()

    def id(self, suffix: str = "trial") -> Identifier:
        return Identifier.of(self.north.prefix, suffix)

    def record(self, suffix: str = "trial", version: int = 1, mode: AccessMode = AccessMode.ON_REQUEST) -> Envelope:
        record = ObjectRecord(
            self.id(suffix), version, b"" if version == 1 else bytes(32), "dataset", Status.ACTIVE,
            Metadata(title="Trial"), Summary(), Access(mode), ("describe", "fetch"), bytes(32), self.now, 300,
        )  # fmt: skip
        envelope = sign(PayloadType.RECORD, wire.encode_record(record), self.north.key)
        for each in self.parties:
            self.evidence[each.prefix].change(lambda change: records.keep(change.connection, envelope))
        return envelope

    def request(self, *purposes: str, suffix: str = "trial") -> Envelope:
        named = tuple(Purpose.parse(each) for each in purposes)
        request = AccessRequest(
            secrets.token_bytes(16), self.acme.prefix, self.id(suffix), (), named, "Please.", None, self.now
        )
        envelope = sign(PayloadType.REQUEST, papers.encode_request(request), self.acme.key)
        return self.log(Kind.REQUEST, envelope, self.north, self.acme)

    def denial(self, request: Envelope) -> Envelope:
        denial = Denial(request.digest, self.north.prefix, "Not now.", self.now)
        envelope = sign(PayloadType.DENIAL, papers.encode_denial(denial), self.north.key)
        return self.log(Kind.DENIAL, envelope, self.north, self.acme)

    def grant(
        self,
        *,
        issuer: Party | None = None,
        to: Party | None = None,
        to_key: KeyId | None = None,
        suffixes: tuple[str, ...] = ("trial",),
        request: Envelope | None = None,
        parent: Envelope | None = None,
        logged: bool = True,
        **conditions: Any,
    ) -> Envelope:
        maker, holder = issuer or self.north, to or self.acme
        grant = Grant(
            secrets.token_bytes(16), maker.prefix, holder.prefix, to_key, tuple(map(self.id, suffixes)),
            Conditions(**conditions), request.digest if request else b"", parent.digest if parent else b"", self.now,
        )  # fmt: skip
        envelope = sign(PayloadType.GRANT, papers.encode_grant(grant), maker.key)
        parties = {each.prefix: each for each in (self.north, maker, holder)} if logged else {}
        return self.log(Kind.GRANT, envelope, *parties.values())

    def revocation(self, grant: Envelope, issuer: Party | None = None) -> Envelope:
        maker = issuer or self.north
        revocation = Revocation(grant.digest, maker.prefix, "Over.", self.now)
        envelope = sign(PayloadType.REVOCATION, papers.encode_revocation(revocation), maker.key)
        return self.log(Kind.REVOCATION, envelope, self.north, self.acme)

    def receipt_of(
        self, about: Envelope, grant: Envelope | None = None, consumer: Party | None = None, **changed: Any
    ) -> Receipt:
        named = wire.decode_record(about.payload)
        receipt = Receipt(
            secrets.token_bytes(16), self.north.prefix, (consumer or self.acme).prefix, named.id, named.version,
            about.digest, grant.digest if grant else b"", (), (Delivered(0, 2), Delivered(3, 0, 1, 4)), 5 << 20,
            self.now, self.now + 9,
        )  # fmt: skip
        return replace(receipt, **changed)

    def receipt(
        self,
        about: Envelope,
        grant: Envelope | None = None,
        *,
        consumer: Party | None = None,
        half: Party | None = None,
        wait: bool = True,
        **changed: Any,
    ) -> Envelope:
        """Signed by both and logged by both, or with ``half`` by one."""
        other = consumer or self.acme
        payload = papers.encode_receipt(self.receipt_of(about, grant, other, **changed))
        if half is not None:
            return self.log(Kind.HALF_RECEIPT, sign(PayloadType.RECEIPT, payload, half.key), half, wait=wait)
        envelope = sign(PayloadType.RECEIPT, payload, other.key, self.north.key)
        return self.log(Kind.RECEIPT, envelope, self.north, other, wait=wait)

    def deletion(self, record: Envelope, grant: Envelope) -> Envelope:
        named = wire.decode_record(record.payload)
        deletion = Deletion(
            self.north.prefix, self.acme.prefix, named.id, named.version, grant.digest, "expired", self.now
        )
        envelope = sign(PayloadType.DELETION, papers.encode_deletion(deletion), self.acme.key)
        return self.log(Kind.DELETION, envelope, self.north, self.acme)

    # Exports.

    def export(
        self,
        party: Party,
        path: Path,
        *,
        selection: Selection = EVERYTHING,
        registry: Histories | None = None,
        pins: bool = True,
    ) -> Exported:
        """As that party's home does it."""
        party.clock = self.now
        with (
            contextlib.closing(CatalogStorage.open(party.home / CATALOG)) as catalog,
            contextlib.closing(Known.open(party.home / FILE)) as known,
        ):
            for version, each in enumerate(party.history, 1):
                if version > len(catalog.organizations()):
                    catalog.put_organization(each, self.now, enqueued=False)
            for each in self.parties if pins else ():
                known.keep_organization(each.verified)
            sources = Sources(self.evidence[party.prefix], catalog, known, registry or self.registry)
            return export(path, sources, selection)


def ordinary(year: Year) -> dict[str, Envelope]:
    """A year with one of everything."""
    made = {"record": year.record(mode=AccessMode.ON_REQUEST), "open": year.record("open", mode=AccessMode.OPEN)}
    made["request"] = year.request("academic-research")
    made["grant"] = year.grant(
        request=made["request"], purposes=(Purpose.parse("research-and-development"),), max_fetches=5, pass_on=True,
        valid_until=BEGAN + 300 * DAY,
    )  # fmt: skip
    year.now += DAY
    purposes = (Purpose.parse("academic-research"),)
    made["receipt"] = year.receipt(made["record"], made["grant"], purposes=purposes)
    made["narrowed"] = year.grant(
        issuer=year.acme, to=year.lab, parent=made["grant"], purposes=purposes, max_fetches=1,
        valid_until=BEGAN + 20 * DAY,
    )  # fmt: skip
    year.now += DAY
    made["lab"] = year.receipt(made["record"], made["narrowed"], consumer=year.lab, purposes=purposes)
    made["opened"] = year.receipt(made["open"])
    made["half"] = year.receipt(made["open"], half=year.north)
    made["denied"] = year.denial(year.request("commercial-research", suffix="other"))
    made["revocation"] = year.revocation(made["narrowed"], year.acme)
    year.now += DAY
    return made


def many(year: Year, count: int) -> None:
    """A year of receipts, signed by both, of twenty objects under a grant each: in north's home only."""
    purposes = (Purpose.parse("academic-research"),)
    objects = [f"trial-{number}" for number in range(20)]
    records_ = [year.record(each) for each in objects]
    grants = [year.grant(suffixes=(each,), purposes=purposes, max_fetches=count) for each in objects]
    step = max(1, 364 * DAY // count)
    for first in range(0, count, 1000):
        payloads = []
        for number in range(first, min(first + 1000, count)):
            year.now += step
            receipt = year.receipt_of(records_[number % 20], grants[number % 20], purposes=purposes)
            envelope = sign(PayloadType.RECEIPT, papers.encode_receipt(receipt), year.acme.key, year.north.key)
            payloads.append(wire.encode_envelope(envelope))

        def append(change: Change, payloads: list[bytes] = payloads) -> None:
            for each in payloads:
                change.append(Kind.RECEIPT, each)

        year.evidence[year.north.prefix].change(append)
