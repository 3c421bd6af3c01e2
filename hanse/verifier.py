"""Verifies an evidence file (``hanse evidence export``): what is proved in it, receipt by receipt, and what is not.

It stands alone on purpose: the standard library and ``cryptography``, nothing else, so that an auditor can take this
one file to a machine that has no Hanse on it, and read all that he relies on. That is also why it is longer than any
other file here, and says again in its own words what hanse.wire_papers, hanse.papers and hanse.merkle say.

What it is not: a judge of what was agreed, nor of what is not in the file. SPEC.md section 20.

    python -m hanse.verifier FILE [--key PREFIX=KEYID]... [--witness KEY]... [--receipt HEX] [--json]
    python verifier.py FILE                  # the same, copied alone to another machine (Python 3.11 or newer)
"""

import argparse
import binascii
import concurrent.futures
import itertools
import json
import multiprocessing
import os
import re
import sys
import time
import unicodedata
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

FORMAT, VERSION = "hanse-evidence", 1
LINE_BYTES = 1024 * 1024  # no line of the format is longer
ENVELOPE_BYTES = 64 * 1024
NOTE_BYTES = 128 * 1024
CLOCK_SKEW = 120  # seconds: how wrong an honest clock may be
GRANT_CHAIN = 8
BLOCK = 1024  # leaf hashes in one line
CHUNK_LINES = 400  # given to a worker at once
SHOWN = 30  # problems and receipts that are listed one by one for a person
KEPT = 10_000  # problems that are kept; beyond that they are counted
ALL_PROVED, OTHERWISE, SOMETHING_WRONG = 0, 1, 6  # how it ends

KINDS = (
    "header", "organization", "missing", "leaves", "record", "request", "denial", "grant", "revocation", "deletion",
    "receipt", "half-receipt", "erased", "peer-checkpoint", "fork", "authority", "witness", "registry-fork",
    "finding", "trailer",
)  # fmt: skip
RANK = {kind: rank for rank, kind in enumerate(KINDS)}
HEAD = {"header", "organization", "missing"}  # what must be known before signatures can be checked
PAPERS = ("request", "denial", "grant", "revocation", "deletion", "receipt", "half-receipt")
TYPES = {kind: f"application/vnd.hanse.{kind}.v1" for kind in (*PAPERS, "organization", "record", "evidence")} | {
    "half-receipt": "application/vnd.hanse.receipt.v1"
}


class Malformed(Exception):
    """Bytes that do not parse, or say what cannot be."""


# Protocol buffers, as much as is needed of them.

VARINT, FIXED64, BYTES, GROUP, END, FIXED32 = range(6)
_TYPES: dict[str, tuple[type, int, Any]] = {  # how a value is written, and what an absent one is
    "str": (str, BYTES, ""),
    "bytes": (bytes, BYTES, b""),
    "int": (int, VARINT, 0),
    "uint": (abs, VARINT, 0),  # type: ignore[dict-item]
    "bool": (bool, VARINT, False),
}


class Schema(NamedTuple):
    """Of a message: number to (name, type or schema, how it is written, repeated); and what an empty one is."""

    fields: dict[int, tuple[str, Any, int, bool]]
    empty: dict[str, Any]
    many: tuple[str, ...]
    messages: tuple[tuple[str, Any], ...]


def _schema(text: str, **messages: Schema) -> Schema:
    """Fields in the order of their numbers, from 1 on: ``type [many] name``, or ``-`` for one that is not needed."""
    made = Schema({}, {}, tuple(re.findall(r"many (\w+)", text)), tuple(messages.items()))
    for number, each in enumerate(text.split(", "), 1):
        if each != "-":
            kind, *many, name = each.split()
            type_, wire, empty = _TYPES.get(kind, (messages.get(name), BYTES, b""))
            made.fields[number] = (name, type_, wire, bool(many))
            made.empty[name] = empty
    return made._replace(messages=tuple(each for each in messages.items() if each[0] not in made.many))


ENVELOPE = _schema("str type, bytes payload, message many signatures", signatures=_schema("str keyid, bytes sig"))
ORGANIZATION = _schema(
    "str prefix, uint version, bytes previous, str name, -, message many keys, -, int issued_at",
    keys=_schema("bytes raw, int valid_from, int valid_until"),
)
AUTHORITY = _schema("str root, str name, bytes ca, bytes key")
RECORD = _schema(
    "str id, uint version, bytes previous, -, -, -, -, message access, -, -, int issued_at",
    access=_schema("uint mode"),
)
CONDITIONS = _schema(
    "str many operations, str many purposes, int valid_from, int valid_until, uint max_fetches, uint max_bytes, "
    "message many duties, bool pass_on",
    duties=_schema("uint kind, int seconds, str text"),
)
REQUEST = _schema(
    "bytes nonce, str consumer, str id, str many operations, str many purposes, str message, int valid_until, "
    "int issued_at"
)
GRANT = _schema(
    "bytes nonce, str issuer, str to, str to_key, str many ids, message conditions, bytes request, bytes parent, "
    "int issued_at",
    conditions=CONDITIONS,
)
ANSWER = _schema("bytes of, str issuer, str reason, int issued_at")  # a denial and a revocation have one form
RECEIPT = _schema(
    "bytes delivery, str owner, str consumer, str id, uint version, bytes record, bytes grant, str many purposes, "
    "message many delivered, uint unique_bytes, int started_at, int ended_at",
    delivered=_schema("uint element, uint elements, uint first_chunk, uint chunks"),
)
DELETION = _schema("str owner, str consumer, str id, uint version, bytes grant, str reason, int deleted_at")


def parse(data: bytes, schema: Schema) -> dict[str, Any]:
    """The fields that a schema names, each with a value; others are skipped. Raises Malformed."""
    found = schema.empty.copy()
    for name in schema.many:
        found[name] = []
    fields, at, end = schema.fields, 0, len(data)
    while at < end:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise Malformed("a field has a number that there is not")
        value: Any
        if wire == VARINT:
            value, at = _varint(data, at)
        else:
            if wire == BYTES:
                size, at = _varint(data, at)
            elif wire == FIXED64:
                size = 8
            elif wire == FIXED32:
                size = 4
            elif wire == GROUP:
                at = _after_group(data, at, number)
                continue
            else:
                raise Malformed("a field has a type that there is not")
            if size > end - at:
                raise Malformed("a field goes beyond the end")
            value = data[at : at + size]
            at += size
        known = fields.get(number)
        if known is None or wire != known[2]:
            continue
        name, kind, _, repeated = known
        if kind is str:
            value = _text(value)
        elif kind is int:
            value = value - (1 << 64) if value >> 63 else value
        elif kind is bool:
            value = value != 0
        if repeated:
            found[name].append(parse(value, kind) if kind.__class__ is Schema else value)
        elif kind.__class__ is Schema:
            found[name] += value  # two halves of one message are one message
        else:
            found[name] = value
    for name, kind in schema.messages:
        found[name] = parse(found[name], kind)
    return found


def _varint(data: bytes, at: int) -> tuple[int, int]:
    try:
        byte = data[at]
        at += 1
        if byte < 0x80:
            return byte, at
        value, shift = byte & 0x7F, 7
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value & ((1 << 64) - 1), at
            shift += 7
            if shift >= 70:
                raise Malformed("a number has more than ten bytes")
    except IndexError:
        raise Malformed("a number goes beyond the end") from None


def _after_group(data: bytes, at: int, number: int) -> int:
    """Where a group ends: nothing here has groups, and readers of the format skip those they do not know."""
    open_ = [number]
    while open_:
        tag, at = _varint(data, at)
        number, wire = tag >> 3, tag & 7
        if not 0 < number < 1 << 29 or len(open_) > 100:
            raise Malformed("a group is not one")
        if wire == VARINT:
            _, at = _varint(data, at)
        elif wire == GROUP:
            open_.append(number)
        elif wire == END:
            if open_.pop() != number:
                raise Malformed("a group is not closed")
        elif wire in (BYTES, FIXED64, FIXED32):
            size, at = _varint(data, at) if wire == BYTES else (8 if wire == FIXED64 else 4, at)
            at += size
            if at > len(data):
                raise Malformed("a field goes beyond the end")
        else:
            raise Malformed("a field has a type that there is not")
    return at


def _text(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        raise Malformed("a text is not UTF-8") from None


# What stands in the papers.

_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_FOLD = {upper: upper + 32 for upper in range(ord("A"), ord("Z") + 1)}
_SCHEMES = ("hanse://", "hanse:", "info:hdl/", "hdl:")
_MOST = (1 << 63) - 1
_ED25519 = bytes.fromhex("302a300506032b6570032100")
# Points of small order, without the sign bit: under such a key one signature fits many messages.
_SMALL_ORDER = {
    bytes.fromhex(each)
    for each in (
        "00" * 32,
        "01" + "00" * 31,
        "26e8958fc2b227b045c3f489f2ef98f0d5dfac05d3c63339b13802886d53fc05",
        "c7176a703d4dd84fba3c0b760d10670f2a2053fa2c39ccc64ec7fd7792ac037a",
        "ec" + "ff" * 30 + "7f",
        "ed" + "ff" * 30 + "7f",
        "ee" + "ff" * 30 + "7f",
    )
}
_DPV, _DUO = "https://w3id.org/dpv#", "http://purl.obolibrary.org/obo/DUO_"
_DPV_BROADER: dict[str, tuple[str, ...]] = {
    "AcademicResearch": ("ResearchAndDevelopment",),
    "Advertising": ("Marketing",),
    "CombatClimateChange": ("PublicBenefit",),
    "CommercialPurpose": (),
    "CommercialResearch": ("CommercialPurpose", "ResearchAndDevelopment"),
    "DataAltruism": ("PublicBenefit",),
    "EnforceSecurity": (),
    "FraudPreventionAndDetection": ("MisusePreventionAndDetection",),
    "FulfilmentOfContractualObligation": ("FulfilmentOfObligation",),
    "FulfilmentOfObligation": (),
    "ImproveExistingProductsAndServices": ("OptimisationForController",),
    "ImproveHealthcare": ("PublicBenefit",),
    "ImprovePublicServices": ("PublicBenefit",),
    "ImproveTransportMobility": ("PublicBenefit",),
    "LegalCompliance": ("FulfilmentOfObligation",),
    "Marketing": (),
    "MisusePreventionAndDetection": ("EnforceSecurity",),
    "NonCommercialPurpose": (),
    "NonCommercialResearch": ("NonCommercialPurpose", "ResearchAndDevelopment"),
    "OptimisationForController": ("ServiceOptimisation",),
    "OrganisationGovernance": (),
    "OrganisationRiskManagement": ("OrganisationGovernance",),
    "Personalisation": (),
    "ProtectionOfPublicSecurity": ("PublicBenefit",),
    "ProvideOfficialStatistics": ("PublicBenefit",),
    "PublicBenefit": (),
    "PublicPolicyMaking": ("PublicBenefit",),
    "RecordManagement": (),
    "RepairImpairments": ("ServiceProvision",),
    "RequestedServiceProvision": ("ServiceProvision",),
    "ResearchAndDevelopment": (),
    "ScientificResearch": ("ResearchAndDevelopment",),
    "ServiceOptimisation": ("ServiceProvision",),
    "ServiceProvision": (),
    "ServiceUsageAnalytics": ("ServiceProvision",),
    "Verification": ("EnforceSecurity",),
}
_DUO_BROADER: dict[str, tuple[str, tuple[str, ...]]] = {
    "general-research-use": ("0000042", ()),
    "health-research": ("0000006", ("general-research-use",)),
    "disease-specific-research": ("0000007", ("health-research",)),
    "population-origins-research": ("0000011", ("general-research-use",)),
    "clinical-care-use": ("0000043", ()),
}


def _kebab(local: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "-", local).lower()


PURPOSES: dict[str, tuple[str, tuple[str, ...]]] = {  # name: (IRI, the next broader names)
    **{_kebab(name): (_DPV + name, tuple(map(_kebab, broader))) for name, broader in _DPV_BROADER.items()},
    **{name: (_DUO + number, broader) for name, (number, broader) in _DUO_BROADER.items()},
}
_SPELLINGS = {iri: name for name, (iri, _) in PURPOSES.items()} | {
    short + iri.removeprefix(long): name
    for name, (iri, _) in PURPOSES.items()
    for long, short in ((_DPV, "dpv:"), (_DUO, "DUO:"))
    if iri.startswith(long)
}
DELETE_AFTER, ATTRIBUTE, DO_NOT_PASS_ON, OTHER = 1, 2, 3, 4  # Duty.Kind
OPEN = 1  # Access.Mode


class Signature(NamedTuple):
    """``keyid`` is a claim."""

    keyid: str
    sig: bytes


class Envelope(NamedTuple):
    """DSSE: the bytes that were signed, and who says to have signed them."""

    type: str
    payload: bytes
    signatures: tuple[Signature, ...]

    @property
    def encoding(self) -> bytes:
        """What is signed."""
        kind = self.type.encode()
        return b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(self.payload), self.payload)


class Conditions(NamedTuple):
    """None: not restricted."""

    operations: tuple[str, ...]
    purposes: tuple[str, ...]
    valid_from: int | None
    valid_until: int | None
    max_fetches: int | None
    max_bytes: int | None
    duties: tuple[tuple[int, int, str], ...]  # kind, seconds, text
    pass_on: bool

    @property
    def delete_after(self) -> int | None:
        """Seconds; the shortest that is owed."""
        return min((seconds for kind, seconds, _ in self.duties if kind == DELETE_AFTER), default=None)


class Request(NamedTuple):
    """What was asked for."""

    consumer: str
    id: str
    purposes: tuple[str, ...]
    at: int


class Grant(NamedTuple):
    """``issuer`` is the owner of ``ids``, or the holder of ``parent``."""

    issuer: str
    to: str
    to_key: str
    ids: tuple[str, ...]
    conditions: Conditions
    request: bytes
    parent: bytes
    at: int

    @property
    def owner(self) -> str:
        return self.ids[0].partition("/")[0]


class Answer(NamedTuple):
    """A denial of a request, or a revocation of a grant."""

    of: bytes
    issuer: str
    reason: str
    at: int


class Receipt(NamedTuple):
    """What was delivered and verified. ``id`` as it was written."""

    delivery: bytes
    owner: str
    consumer: str
    id: str
    version: int
    record: bytes
    grant: bytes
    purposes: tuple[str, ...]
    delivered: tuple[tuple[int, int, int, int], ...]
    unique_bytes: int
    started_at: int
    ended_at: int

    @property
    def at(self) -> int:
        return self.ended_at


class Deletion(NamedTuple):
    """That the key of a leased copy was destroyed."""

    owner: str
    consumer: str
    id: str
    version: int
    grant: bytes
    reason: str
    at: int


class Record(NamedTuple):
    """Of one version of an object."""

    id: str
    version: int
    mode: int
    at: int


def read_envelope(data: bytes) -> Envelope:
    """Raises Malformed."""
    found = parse(data, ENVELOPE)
    signatures = tuple(Signature(each["keyid"], each["sig"]) for each in found["signatures"])
    if len(found["payload"]) > ENVELOPE_BYTES or len(signatures) > 4 or len(found["type"]) > 128:
        raise Malformed("an envelope is too long")
    if any(len(each.keyid) > 64 or len(each.sig) > 64 for each in signatures):
        raise Malformed("an envelope's signature is too long")
    return Envelope(found["type"], found["payload"], signatures)


@lru_cache(4096)
def read_prefix(text: str) -> str:
    """In its canonical form. Raises Malformed."""
    folded = text.translate(_FOLD)
    if len(folded.encode(errors="replace")) > 200 or any(
        not _LABEL.fullmatch(label) or len(label) > 63 for label in folded.split(".")
    ):
        raise Malformed("what should be the name of an organization is none")
    return folded


@lru_cache(65_536)
def read_id(text: str) -> str:
    """Its prefix canonical, its suffix as given. Raises Malformed."""
    for scheme in _SCHEMES:
        if text[: len(scheme)].lower() == scheme:
            text = text[len(scheme) :]
            break
    prefix, slash, suffix = text.partition("/")
    if not slash or not suffix or suffix != suffix.strip() or not suffix.isprintable():
        raise Malformed("what should be an identifier is none")
    whole = f"{read_prefix(prefix)}/{suffix}"
    if not unicodedata.is_normalized("NFC", suffix) or len(whole.encode()) > 512:
        raise Malformed("what should be an identifier is none")
    return whole


def fold(identifier: str) -> str:
    """Equal for identifiers that mean the same object."""
    return identifier.translate(_FOLD)


def read_purpose(text: str) -> str:
    """A name of the vocabulary, or words. Raises Malformed."""
    text = _SPELLINGS.get(text, text)
    folded = re.sub(r"[\s_]+", "-", text.strip().lower())
    if folded in PURPOSES:
        return folded
    _words(text)
    if not text or text != text.strip() or len(text) > 200 or "\n" in text or "\t" in text:
        raise Malformed("what should be a purpose is none")
    return text


def covers(purposes: Iterable[str], purpose: str) -> bool:
    """Whether a purpose is one of these, or a narrower one in its vocabulary."""
    found = [purpose]
    for each in found:
        found += [broader for broader in PURPOSES.get(each, ("", ()))[1] if broader not in found]
    return any(each in purposes for each in found)


def _words(text: str) -> str:
    if not text.isprintable() and any(unicodedata.category(c) in ("Cc", "Cs") and c not in "\n\t" for c in text):
        raise Malformed("a text has control characters")
    if len(text.encode()) > 4096:
        raise Malformed("a text is too long")
    return text


def _sized(data: bytes, size: int, *, optional: bool = False) -> bytes:
    if len(data) != size and not (optional and not data):
        raise Malformed(f"what should have {size} bytes has not")
    return data


def _time(seconds: int) -> int:
    if not 0 < seconds < 1 << 40:
        raise Malformed("a date is no time")
    return seconds


def _limit(value: int) -> int | None:
    if not 0 <= value <= _MOST:
        raise Malformed("a limit is out of range")
    return value or None


def _operations(names: list[str]) -> tuple[str, ...]:
    if not set(names) <= {"describe", "fetch"}:
        raise Malformed("an operation is none that there is")
    return tuple(names)


def _purposes(names: list[str]) -> tuple[str, ...]:
    if len(names) > 64:
        raise Malformed("there are too many purposes")
    return tuple(map(read_purpose, names))


def _number(value: int) -> int:
    if not 1 <= value <= _MOST:
        raise Malformed("a version is out of range")
    return value


def read_conditions(found: dict[str, Any]) -> Conditions:
    """Raises Malformed."""
    duties = []
    for duty in found["duties"]:
        kind, seconds, text = duty["kind"] & 0xFFFFFFFF, duty["seconds"], _words(duty["text"])
        if kind not in (DELETE_AFTER, ATTRIBUTE, DO_NOT_PASS_ON, OTHER):
            raise Malformed("a duty is of a kind that this verifier does not know")
        if (kind == DELETE_AFTER) != (seconds > 0) or (kind in (ATTRIBUTE, OTHER)) != bool(text):
            raise Malformed("a duty lacks its time or its text")
        duties.append((kind, seconds, text))
    conditions = Conditions(
        _operations(found["operations"]),
        _purposes(found["purposes"]),
        _limit(found["valid_from"]),
        _limit(found["valid_until"]),
        _limit(found["max_fetches"]),
        _limit(found["max_bytes"]),
        tuple(duties),
        found["pass_on"],
    )
    begin, end = conditions.valid_from, conditions.valid_until
    if not conditions.operations or len(duties) > 64 or (begin is not None and end is not None and begin >= end):
        raise Malformed("conditions make no sense")
    if conditions.pass_on and any(kind == DO_NOT_PASS_ON for kind, _, _ in duties):
        raise Malformed("conditions contradict themselves")
    return conditions


def read_request(payload: bytes) -> Request:
    """Raises Malformed."""
    found = parse(payload, REQUEST)
    _sized(found["nonce"], 16)
    _operations(found["operations"])
    _words(found["message"])
    _limit(found["valid_until"])
    return Request(
        read_prefix(found["consumer"]), read_id(found["id"]), _purposes(found["purposes"]), _time(found["issued_at"])
    )


def read_grant(payload: bytes) -> Grant:
    """Raises Malformed."""
    found = parse(payload, GRANT)
    _sized(found["nonce"], 16)
    ids = tuple(map(read_id, found["ids"]))
    if not 0 < len(ids) <= 1000 or len({each.partition("/")[0] for each in ids}) != 1:
        raise Malformed("a grant is for one or more objects of one owner")
    return Grant(
        read_prefix(found["issuer"]),
        read_prefix(found["to"]),
        read_key_id(found["to_key"]) if found["to_key"] else "",
        ids,
        read_conditions(found["conditions"]),
        _sized(found["request"], 32, optional=True),
        _sized(found["parent"], 32, optional=True),
        _time(found["issued_at"]),
    )


def read_answer(payload: bytes) -> Answer:
    """Raises Malformed."""
    found = parse(payload, ANSWER)
    return Answer(
        _sized(found["of"], 32), read_prefix(found["issuer"]), _words(found["reason"]), _time(found["issued_at"])
    )


def read_receipt(payload: bytes) -> Receipt:
    """Raises Malformed."""
    found = parse(payload, RECEIPT)
    delivered = tuple(
        (each["element"], each["elements"], each["first_chunk"], each["chunks"]) for each in found["delivered"]
    )
    _check_delivered(delivered)
    if found["unique_bytes"] > _MOST:
        raise Malformed("a number of bytes is out of range")
    started_at, ended_at = _time(found["started_at"]), _time(found["ended_at"])
    if started_at > ended_at:
        raise Malformed("a receipt ends before it begins")
    return Receipt(
        _sized(found["delivery"], 16),
        read_prefix(found["owner"]),
        read_prefix(found["consumer"]),
        read_id(found["id"]),
        _number(found["version"]),
        _sized(found["record"], 32),
        _sized(found["grant"], 32, optional=True),
        _purposes(found["purposes"]),
        delivered,
        found["unique_bytes"],
        started_at,
        ended_at,
    )


def _check_delivered(parts: tuple[tuple[int, int, int, int], ...]) -> None:
    """In order, each part once, neighbours joined: so that nothing is counted twice."""
    whole: list[tuple[int, int]] = []
    before = (-1, -1)  # element, end of its chunks
    for part in parts:
        element, elements, first, chunks = part
        if max(part) > _MOST >> 1 or bool(elements) == bool(first or chunks) or not (elements or chunks):
            raise Malformed("what was delivered is neither whole elements nor chunks of one")
        if elements:
            whole.append((element, element + elements))
    if list(parts) != sorted(parts) or any(a[1] >= b[0] for a, b in itertools.pairwise(whole)):
        raise Malformed("what was delivered is not in order, or some of it is there twice")
    at = 0
    for element, elements, first, chunks in parts:
        if elements:
            continue
        while at < len(whole) and whole[at][1] <= element:
            at += 1
        if (at < len(whole) and whole[at][0] <= element) or (element == before[0] and first <= before[1]):
            raise Malformed("some of what was delivered is there twice")
        before = (element, first + chunks)


def read_deletion(payload: bytes) -> Deletion:
    """Raises Malformed."""
    found = parse(payload, DELETION)
    return Deletion(
        read_prefix(found["owner"]),
        read_prefix(found["consumer"]),
        read_id(found["id"]),
        _number(found["version"]),
        _sized(found["grant"], 32, optional=True),
        _words(found["reason"]),
        _time(found["deleted_at"]),
    )


def read_record(payload: bytes) -> Record:
    """Raises Malformed."""
    found = parse(payload, RECORD)
    return Record(read_id(found["id"]), _number(found["version"]), found["access"]["mode"], _time(found["issued_at"]))


READERS: dict[str, Callable[[bytes], Any]] = {
    "request": read_request,
    "denial": read_answer,
    "grant": read_grant,
    "revocation": read_answer,
    "deletion": read_deletion,
    "receipt": read_receipt,
    "half-receipt": read_receipt,
    "record": read_record,
}


def is_within(inner: Conditions, outer: Conditions) -> bool:
    """Whether these conditions allow nothing that the outer ones do not, and owe all that those owe."""
    return (
        set(inner.operations) <= set(outer.operations)
        and (not outer.purposes or (bool(inner.purposes) and all(covers(outer.purposes, p) for p in inner.purposes)))
        and (outer.valid_from is None or (inner.valid_from is not None and inner.valid_from >= outer.valid_from))
        and _at_most(inner.valid_until, outer.valid_until)
        and _at_most(inner.max_fetches, outer.max_fetches)
        and _at_most(inner.max_bytes, outer.max_bytes)
        and all(_owed(duty, inner.duties) for duty in outer.duties)
        and (outer.pass_on or not inner.pass_on)
    )


def _at_most(narrow: int | None, wide: int | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)


def _owed(duty: tuple[int, int, str], duties: tuple[tuple[int, int, str], ...]) -> bool:
    if duty[0] == DELETE_AFTER:
        return any(kind == DELETE_AFTER and seconds <= duty[1] for kind, seconds, _ in duties)
    return duty in duties


# Keys and signatures.


class Key(NamedTuple):
    """``until`` None: current."""

    raw: bytes
    id: str
    since: int
    until: int | None


class Organization(NamedTuple):
    """The newest record in the file. ``complete``: its history is there from version 1, which proves its older keys."""

    prefix: str
    name: str
    keys: tuple[Key, ...]
    version: int
    digest: bytes
    complete: bool


def key_id(raw: bytes) -> str:
    """32 hexadecimal digits."""
    return sha256(_ED25519 + raw).hexdigest()[:32]


def read_key_id(text: str) -> str:
    """As people write it. Raises Malformed."""
    bare = re.sub(r"[\s:-]", "", text).lower()
    if not re.fullmatch(r"[0-9a-f]{32}", bare):
        raise Malformed("what should be a key id is none: it has 32 hexadecimal digits")
    return bare


@lru_cache(4096)
def _public(raw: bytes) -> Ed25519PublicKey:
    return Ed25519PublicKey.from_public_bytes(raw)


def verifies(raw: bytes, signature: bytes, data: bytes) -> bool:
    """Ed25519."""
    try:
        _public(raw).verify(signature, data)
    except (InvalidSignature, ValueError):
        return False
    return True


GOOD, REPLACED, BAD, NONE, UNKNOWN = "good", "replaced", "bad", "none", "unknown"


class Signer(NamedTuple):
    """Whether an organization signed: ``state`` is one of the five above."""

    prefix: str
    key_id: str
    state: str


def signer(envelope: Envelope, encoding: bytes, prefix: str, known: Organization | None, at: int) -> Signer:
    """Whether it is signed by a key that was this organization's at that time."""
    if known is None:
        return Signer(prefix, "", UNKNOWN)
    state, keyid = NONE, ""
    for key in known.keys:
        for each in envelope.signatures:
            if each.keyid == key.id:
                if not verifies(key.raw, each.sig, encoding):
                    state, keyid = (BAD, key.id) if state == NONE else (state, keyid)
                elif key.until is None or at <= key.until:
                    return Signer(prefix, key.id, GOOD)
                else:
                    state, keyid = REPLACED, key.id
    return Signer(prefix, keyid, state)


def follow(before: Organization | None, envelope: Envelope) -> Organization:
    """The next record of an organization, or its first in the file. Raises Malformed with what is wrong."""
    if envelope.type != TYPES["organization"]:
        raise Malformed(f"it is signed as {envelope.type!r}, not as an organization record")
    found = parse(envelope.payload, ORGANIZATION)
    prefix, version, encoding = read_prefix(found["prefix"]), _number(found["version"]), envelope.encoding
    _time(found["issued_at"])
    keys = []
    for place, each in enumerate(found["keys"]):
        raw, until = _sized(each["raw"], 32), each["valid_until"]
        if raw[:31] + bytes([raw[31] & 0x7F]) in _SMALL_ORDER:
            raise Malformed("a key of it proves nothing: it is a point of small order")
        if bool(until) != bool(place):
            raise Malformed("its first key is not the current one, or another one is")
        keys.append(Key(raw, key_id(raw), _time(each["valid_from"]), until or None))
    if not keys:
        raise Malformed("it names no key")
    _sized(found["previous"], 0 if version == 1 else 32)
    if version == 1 and len(keys) > 1:
        raise Malformed("the first record of an organization names keys from before it")
    if signer(envelope, encoding, prefix, Organization(prefix, "", (keys[0],), 0, b"", True), 0).state != GOOD:
        raise Malformed(f"it is not signed by the key that it names, {keys[0].id}")
    digest = sha256(encoding).digest()
    if before is None:
        return Organization(prefix, found["name"], tuple(keys), version, digest, version == 1)
    if version != before.version + 1 or found["previous"] != before.digest:
        raise Malformed(f"it does not continue version {before.version}")
    history = keys[1:]
    if keys[0].raw != before.keys[0].raw:
        current = before._replace(keys=(before.keys[0]._replace(until=None),))
        if signer(envelope, encoding, prefix, current, 0).state != GOOD:
            raise Malformed(f"its new key {keys[0].id} is not signed by the one before it, {before.keys[0].id}")
        if not history or history[0].raw != before.keys[0].raw:
            raise Malformed("it leaves out the key before")
        history = history[1:]
    if tuple(history) != before.keys[1:]:
        raise Malformed("it alters the history of the keys")
    return Organization(prefix, found["name"], tuple(keys), version, digest, before.complete)


# Trees and signed notes.


def leaf_hash(data: bytes) -> bytes:
    """RFC 6962 section 2.1."""
    return sha256(b"\x00" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """RFC 6962 section 2.1."""
    return sha256(b"\x01" + left + right).digest()


class Tree:
    """The root of leaves that come one after another."""

    def __init__(self) -> None:
        self._stack: list[tuple[int, bytes]] = []
        self.size = 0

    def add(self, leaf: bytes) -> None:
        height, stack = 0, self._stack
        while stack and stack[-1][0] == height:
            leaf = node_hash(stack.pop()[1], leaf)
            height += 1
        stack.append((height, leaf))
        self.size += 1

    def root(self) -> bytes:
        if not self._stack:
            return sha256().digest()
        digest = self._stack[-1][1]
        for _, left in reversed(self._stack[:-1]):
            digest = node_hash(left, digest)
        return digest


def root_from_proof(leaf: bytes, position: int, size: int, proof: bytes) -> bytes | None:
    """The root that an inclusion proof leads to (RFC 9162 section 2.1.3.2), or None if it has the wrong length."""
    at, last, digest = position, size - 1, leaf
    for start in range(0, len(proof), 32):
        if last == 0:
            return None
        each = proof[start : start + 32]
        if at & 1 or at == last:
            digest = node_hash(each, digest)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            digest = node_hash(digest, each)
        at, last = at >> 1, last >> 1
    return digest if last == 0 else None


class Checkpoint(NamedTuple):
    """A log of ``size`` leaves, and its root."""

    size: int
    root: bytes
    key_id: str


def continues(old: Checkpoint, new: Checkpoint, proof: bytes) -> bool:
    """Whether the tree of ``new`` begins with that of ``old``: RFC 9162 section 2.1.4.2."""
    if old.size in (0, new.size):
        return not proof and (not old.size or old.root == new.root)
    return beginning(old.size, new, proof if old.size & (old.size - 1) else old.root + proof) == old.root


def beginning(size: int, whole: Checkpoint, proof: bytes) -> bytes | None:
    """The root of the first ``size`` leaves of a larger tree, as a proof shows it; None if it leads to no such tree.

    Where ``size`` is a power of two, that root stands before what RFC 6962 section 2.1.2 calls the proof.
    """
    steps = [proof[at : at + 32] for at in range(0, len(proof), 32)]
    if not 0 < size < whole.size or not steps or len(proof) % 32:
        return None
    at, last = size - 1, whole.size - 1
    while at & 1:
        at, last = at >> 1, last >> 1
    before = after = steps[0]
    for each in steps[1:]:
        if last == 0:
            return None
        if at & 1 or at == last:
            before, after = node_hash(each, before), node_hash(each, after)
            while not at & 1 and at:
                at, last = at >> 1, last >> 1
        else:
            after = node_hash(after, each)
        at, last = at >> 1, last >> 1
    return before if last == 0 and after == whole.root else None


class League(NamedTuple):
    """What a league's log is signed with, and its certificates by. ``log``: the name of the log."""

    root: str
    fingerprint: str
    ca: bytes
    key: bytes
    log: str


def read_league(data: bytes) -> League:
    """Raises Malformed."""
    found = parse(data, AUTHORITY)
    root, fingerprint = read_prefix(found["root"]), sha256(data).hexdigest()
    log = f"{root}.registry.hanse.internal/log/{fingerprint[:16]}"
    return League(root, fingerprint, found["ca"], _sized(found["key"], 32), log)


def read_note(note: str, known: Organization) -> Checkpoint:
    """A C2SP checkpoint signed by one of an organization's keys, whenever it was. Raises Malformed."""
    keys = [(key.raw, key.id) for key in known.keys]
    return _read_note(note, f"{known.prefix}.node.hanse.internal/log", keys, known.prefix)[0]


def read_registry_note(note: str, league: League) -> tuple[Checkpoint, int]:
    """A checkpoint of a league's log, and when it was signed (Unix seconds). Raises Malformed."""
    found, lines = _read_note(note, league.log, [(league.key, key_id(league.key))], "the league's registry")
    wanted, text = sha256(league.log.encode() + b"\n\x04" + league.key).digest()[:4], note.rpartition("\n\n")[0]
    dates = []
    for name, data in lines:
        if name == league.log and data[:4] == wanted:
            at = int.from_bytes(data[4:12], "big")
            if not verifies(league.key, data[12:], f"cosignature/v1\ntime {at}\n{text}\n".encode()):
                raise Malformed("it has a date that the league's registry did not sign")
            dates.append(_time(at))
    if not dates:
        raise Malformed("it has no date")
    return found, max(dates)


def _read_note(
    note: str, name: str, keys: list[tuple[bytes, str]], whose: str
) -> tuple[Checkpoint, list[tuple[str, bytes]]]:
    """The checkpoint, and (name, key hash and signature) of each signature line."""
    text, blank, lines = note.rpartition("\n\n")
    told = text.split("\n")
    try:
        length, signed_text = len(note.encode()), text.encode() + b"\n"
    except UnicodeEncodeError:
        raise Malformed("it is not valid Unicode") from None
    if length > NOTE_BYTES or any(c < " " and c != "\n" for c in note):
        raise Malformed("it is not a signed checkpoint")
    if not blank or len(told) < 3 or not all(told) or not re.fullmatch(r"0|[1-9][0-9]{0,18}", told[1]):
        raise Malformed("it is not a signed checkpoint")
    if told[0] != name:
        raise Malformed(f"it is a checkpoint of another log than {name}")
    size, root, signed_with = int(told[1]), _sized(_base64(told[2]), 32), ""
    if size > _MOST or (size == 0 and root != sha256().digest()):
        raise Malformed("it gives a log a size or a root that it cannot have")
    if not lines.endswith("\n"):
        raise Malformed("it is not a signed checkpoint")
    found = []
    for line in lines[:-1].split("\n"):
        signature = re.fullmatch(r"\u2014 ([^\s+]+) (\S+)", line)
        data = _base64(signature[2]) if signature else b""
        if signature is None or len(data) <= 4:
            raise Malformed("it has a line that is no signature")
        found.append((signature[1], data))
        if signature[1] != name:
            continue
        named = [key for key in keys if data[:4] == sha256(name.encode() + b"\n\x01" + key[0]).digest()[:4]]
        if named and not any(verifies(raw, data[4:], signed_text) for raw, _ in named):
            raise Malformed(f"its signature with key {named[0][1]} of {whose} is false")
        signed_with = signed_with or (named[0][1] if named else "")
    if not signed_with:
        raise Malformed(f"it is not signed by {whose}")
    return Checkpoint(size, root, signed_with), found


def _base64(text: str) -> bytes:
    """In the one form that it has."""
    try:
        data = binascii.a2b_base64(text.encode("ascii"))
    except (binascii.Error, ValueError):
        raise Malformed("what should be base64 is not") from None
    if binascii.b2a_base64(data, newline=False).decode() != text:
        raise Malformed("what should be base64 is not")
    return data


def _hex(text: str, size: int) -> bytes:
    if not re.fullmatch(r"[0-9a-f]*", text):
        raise Malformed("what should be hexadecimal is not")
    return _sized(bytes.fromhex(text) if len(text) % 2 == 0 else b"", size)


# What the registry of a league signed.


class Witness(NamedTuple):
    """Who cosigns a league's log: <https://c2sp.org/tlog-cosignature>."""

    name: str
    key: bytes

    def __str__(self) -> str:
        encoded = binascii.b2a_base64(b"\x04" + self.key, newline=False).decode()
        return f"{self.name}+{self.hash.hex()}+{encoded}"

    @property
    def hash(self) -> bytes:
        return sha256(self.name.encode() + b"\n\x04" + self.key).digest()[:4]

    def signed(self, note: str) -> bool:
        """Whether one line under a checkpoint, which was read, is its."""
        text, _, lines = note.rpartition("\n\n")
        for line in lines[:-1].split("\n"):
            _, name, signature = line.split(" ")
            data = _base64(signature)
            if name == self.name and data[:4] == self.hash:
                at = int.from_bytes(data[4:12], "big")
                if at < 1 << 63 and verifies(self.key, data[12:], f"cosignature/v1\ntime {at}\n{text}\n".encode()):
                    return True
        return False


def read_witness(text: str) -> Witness:
    """A C2SP verifier key. Raises Malformed."""
    name, _, rest = text.partition("+")
    data = _base64(rest.partition("+")[2])
    found = Witness(name, data[1:])
    if not name or re.search(r"\s", name) or data[:1] != b"\x04" or len(data) != 33 or str(found) != text:
        raise Malformed("a witness's key has the form NAME+HASH+KEY")
    return found


def _two_logs(league: League, data: dict[str, Any]) -> tuple[bool, bool, str]:
    """Whether two checkpoints contradict each other by themselves, whether no log has both, and in words.

    Raises Malformed.
    """
    first, then = read_registry_note(data["first"], league)
    second, now = read_registry_note(data["second"], league)
    sizes = f"of {first.size} entries ({moment(then)}) and of {second.size} ({moment(now)})"
    roots = f"with the roots {first.root.hex()[:16]} and {second.root.hex()[:16]}"
    if first.size == second.size:
        if first.root == second.root:
            raise Malformed("its two checkpoints are one: they contradict nothing")
        return True, True, f"it signed two different logs {sizes}, {roots}: it forked its log, or rewrote it"
    small, large = (first, second) if first.size < second.size else (second, first)
    proof = _base64(data["proof"])
    found = beginning(small.size, large, proof)
    signed = f"it signed logs {sizes}, {roots}"
    if found is not None and found != small.root:
        begins = f"the first {small.size} entries of the larger have the root {found.hex()[:16]}"
        return True, True, f"{signed}, and {begins}: it forked its log, or rewrote it"
    if second is small:
        if now <= then:
            raise Malformed("the smaller of its two checkpoints is not the later one: they contradict nothing")
        return True, False, f"{signed}: it took back entries, or was restored from a backup"
    if found == small.root or continues(small, large, proof):
        raise Malformed("the second of its two checkpoints continues the first, as the proof shows: no contradiction")
    return False, False, f"{signed}, and did not prove that the second continues the first"


_RECORD_LEAF, _ORGANIZATION_LEAF, _CERTIFICATE_LEAF = b"\x01", b"\x02", b"\x04"


def _in_registry_log(league: League, data: dict[str, Any], own: str, known: Organization | None) -> tuple[bool, str]:
    """That an entry stands in the log that the registry signed, and what it is. Raises Malformed."""
    signed, at = read_registry_note(data["note"], league)
    whole = f"its log of {signed.size} entries ({moment(at)})"
    content, kind = _base64(data["content"]), data["what"]
    if kind == "log":
        return False, f"of {whole} the exporter says: {data['text']}"
    if kind == "certificate":
        leaf, what = _CERTIFICATE_LEAF + sha256(content).digest(), _read_certificate(content, league, own)
    elif kind in ("record", "organization"):
        leaf, what = _read_own(content, kind, own, known)
    else:
        raise Malformed("it is a finding of a kind that this verifier does not know")
    root = root_from_proof(leaf_hash(leaf), data["entry"] - 1, data["size"], _base64(data["path"]))
    if not 0 < data["entry"] <= data["size"] or root is None:
        raise Malformed("its proof of inclusion is none")
    if not continues(Checkpoint(data["size"], root, ""), signed, _base64(data["consistency"])):
        raise Malformed("its proofs do not lead to the checkpoint of the registry's log")
    return True, f"entry {data['entry']} of {whole} is {what}. {own} says that it did not sign this off"


def _read_own(content: bytes, kind: str, own: str, known: Organization | None) -> tuple[bytes, str]:
    """The leaf of a record or organization record in the exporter's name, and what it is."""
    envelope = read_envelope(content)
    if envelope.type != TYPES[kind]:
        raise Malformed(f"it is signed as {envelope.type!r}, not as {TYPES[kind]!r}")
    if kind == "record":
        record = read_record(envelope.payload)
        prefix, what = record.id.partition("/")[0], f"version {record.version} of {record.id}"
    else:
        found = parse(envelope.payload, ORGANIZATION)
        prefix, what = read_prefix(found["prefix"]), f"version {_number(found['version'])} of the record of {own}"
    if prefix.lower() != own:
        raise Malformed(f"it is not in the name of {own}")
    by = signer(envelope, envelope.encoding, own, known, 0)
    signed = f"signed with its key {by.key_id}" if by.state == GOOD else "signed with no key of it in this file"
    leaf = _RECORD_LEAF if kind == "record" else _ORGANIZATION_LEAF
    return leaf + sha256(envelope.encoding).digest(), f"{what}, {signed}"


def _read_certificate(content: bytes, league: League, own: str) -> str:
    try:
        found, authority = x509.load_der_x509_certificate(content), x509.load_der_x509_certificate(league.ca)
        found.verify_directly_issued_by(authority)
        names = found.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        uris = names.get_values_for_type(x509.UniformResourceIdentifier)
        key = found.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    except InvalidSignature:
        raise Malformed("it is a certificate that the league's authority did not issue") from None
    except (ValueError, TypeError, x509.ExtensionNotFound):
        raise Malformed("it is no certificate that could be read") from None
    if not any(uri in (f"spiffe://{league.root}/org/{own}", f"spiffe://{league.root}/registry/{own}") for uri in uris):
        raise Malformed(f"it is a certificate that does not name {own}")
    return f"a certificate of the league's authority for {own}, with the TLS key {sha256(key).hexdigest()[:16]}"


# One line.


class World(NamedTuple):
    """What lines are judged by: the organizations, the checkpoint, and what the exporter says it lacks."""

    organizations: dict[str, Organization]
    checkpoint: Checkpoint | None
    missing: frozenset[str]


class Paper(NamedTuple):
    """A signed statement of the file. ``position`` is -1 outside the log; ``proven`` None: no proof of its own."""

    digest: bytes
    body: Any
    signers: tuple[Signer, ...]
    position: int
    leaf: bytes
    proven: bool | None


class Checked(NamedTuple):
    """A line by itself. ``said``: which number it gives itself; ``problem``: why it is not what it should be."""

    number: int
    said: int
    kind: str
    hash: bytes
    problem: str
    data: Any


_PAPER: dict[str, type] = {"envelope": str}
_MEMBERS: dict[str, dict[str, type]] = {
    "header": {
        "format": str, "version": int, "exporter": str, "made_at": int, "selection": dict, "log_size": int,
        "checkpoint": str, "everything": bool,
    },
    "organization": {"envelope": str},
    "missing": {"what": str, "name": str, "why": str},
    "leaves": {"first": int, "hashes": str},
    "record": {"envelope": str},
    "erased": {"position": int, "leaf": str},
    "peer-checkpoint": {"prefix": str, "note": str, "seen_at": int},
    "fork": {"prefix": str, "first": str, "second": str, "seen_at": int},
    "authority": {"authority": str},
    "witness": {"key": str},
    "registry-fork": {"first": str, "second": str, "proof": str, "seen_at": int},
    "finding": {
        "what": str, "entry": int, "text": str, "content": str, "size": int, "path": str, "note": str,
        "consistency": str, "noticed_at": int, "dismissed_at": int,
    },
    "trailer": {"envelope": str},
    **dict.fromkeys(PAPERS, _PAPER),
}  # fmt: skip
_LOGGED = {"position": int, "salt": str}


def check_line(number: int, raw: bytes, world: World) -> Checked:
    """``raw`` with its line end. Everything that can be said of a line without the others."""
    line = raw[:-1]
    hashed = leaf_hash(line)
    told = re.search(rb'"kind":"([a-z-]{1,20})"', line[:160])
    kind = told[1].decode() if told else "unreadable"
    try:
        if not raw.endswith(b"\n"):
            raise Malformed("the file ends in the middle of it" if len(raw) <= LINE_BYTES else "it is too long")
        if len(line) < 66 or line[64:65] != b" " or sha256(line[65:]).hexdigest().encode() != line[:64]:
            raise Malformed("it was altered: its bytes do not have the checksum that it begins with")
        members = _read_members(line[65:])
        kind = members["kind"]
        checked = Checked(number, members["line"], kind, hashed, "", None)
        return _CHECKS[kind](checked, members, world)
    except Malformed as error:
        return Checked(number, -1, kind if kind in RANK else "unreadable", hashed, str(error), None)


_compact = json.JSONEncoder(separators=(",", ":")).encode


def _read_members(text: bytes) -> dict[str, Any]:
    try:
        members = json.loads(text)
    except (ValueError, RecursionError):
        raise Malformed("it is not JSON") from None
    if not isinstance(members, dict) or _compact(members).encode() != text:
        raise Malformed("it is not JSON in the one form that the format has")
    kind = members.get("kind")
    if not isinstance(kind, str) or kind not in RANK:
        raise Malformed("it is of a kind that this verifier does not know")
    wanted = {"line": int, "kind": str} | _MEMBERS[kind]
    if kind in PAPERS and "position" in members:
        wanted |= _LOGGED
        if "proof" in members:
            wanted["proof"] = str
    if members.keys() != wanted.keys() or any(type(members[name]) is not kind for name, kind in wanted.items()):
        raise Malformed("it has other members than the format has")
    return members


def _check_plain(checked: Checked, members: dict[str, Any], world: World) -> Checked:  # noqa: ARG001
    return checked._replace(data=members)


def _check_leaves(checked: Checked, members: dict[str, Any], world: World) -> Checked:  # noqa: ARG001
    hashes = _base64(members["hashes"])
    if len(hashes) % 32 or not 0 < len(hashes) <= 32 * BLOCK:
        raise Malformed("it is not a list of leaf hashes")
    return checked._replace(data=(members["first"], hashes))


def _check_envelope(checked: Checked, members: dict[str, Any], world: World) -> Checked:  # noqa: ARG001
    return checked._replace(data=read_envelope(_base64(members["envelope"])))


def _check_paper(checked: Checked, members: dict[str, Any], world: World) -> Checked:
    kind, data = checked.kind, _base64(members["envelope"])
    envelope = read_envelope(data)
    if envelope.type != TYPES[kind]:
        raise Malformed(f"it is signed as {envelope.type!r}, not as a {kind}")
    body, encoding = READERS[kind](envelope.payload), envelope.encoding
    signers = tuple(
        signer(envelope, encoding, prefix, world.organizations.get(prefix), body.at)
        for prefix in _signed_by(kind, body)
    )
    position, leaf, proven = members.get("position", -1), b"", None
    if position >= 0:
        salt = _hex(members["salt"], 16)
        leaf = leaf_hash(kind.encode() + b"\0" + sha256(salt + data).digest())
    elif "position" in members:
        raise Malformed("its position is none")
    if "proof" in members:
        checkpoint, proof = world.checkpoint, _base64(members["proof"])
        proven = (
            checkpoint is not None
            and position < checkpoint.size
            and len(proof) % 32 == 0
            and root_from_proof(leaf, position, checkpoint.size, proof) == checkpoint.root
        )
    paper = Paper(sha256(encoding).digest(), body, signers, position, leaf, proven)
    problem = _signature_problem(kind, envelope, encoding, paper, world)
    if not problem and proven is False:
        problem = f"its proof does not lead to the checkpoint: it does not stand at position {position} of the log"
    return checked._replace(problem=problem, data=paper)


def _signed_by(kind: str, body: Any) -> tuple[str, ...]:
    """Who has to sign."""
    if kind in ("receipt", "half-receipt"):
        return (body.owner, body.consumer)
    if kind in ("request", "deletion"):
        return (body.consumer,)
    return (body.id.partition("/")[0] if kind == "record" else body.issuer,)


def _signature_problem(kind: str, envelope: Envelope, encoding: bytes, paper: Paper, world: World) -> str:
    for each in paper.signers:
        if each.state == BAD:
            return f"the signature of {each.prefix} with key {each.key_id} is false"
        if each.state == REPLACED:
            return f"it is signed with key {each.key_id}, which was no longer the key of {each.prefix} at its date"
    states = {each.prefix: each.state for each in paper.signers}
    absent = [p for p, state in states.items() if state == NONE and p not in world.missing]
    if kind == "half-receipt":
        if all(state == GOOD for state in states.values()) and len(states) > 1:
            return "it is shown as signed by one side, and both have signed it"
        if all(state == NONE for state in states.values()):
            return "it is signed by neither of the two that it names"
    elif absent:
        others = [p for p, state in states.items() if state == GOOD]
        return f"it is not signed by {' and '.join(absent)}" + (f", only by {others[0]}" if others else "")
    if kind in ("receipt", "half-receipt") and UNKNOWN not in states.values() and not world.missing & states.keys():
        # Each good signer has verified one signature; only what is beside those has to be looked at.
        if len({each.key_id for each in paper.signers if each.state == GOOD}) == len(envelope.signatures):
            return ""
        keys = {key.id: key for prefix in states for key in world.organizations[prefix].keys}
        of_theirs = {
            s.keyid for s in envelope.signatures if s.keyid in keys and verifies(keys[s.keyid].raw, s.sig, encoding)
        }
        if len(of_theirs) != len(envelope.signatures):
            return "it has a signature that is of neither of the two that it names"
    return ""


_CHECKS: dict[str, Callable[[Checked, dict[str, Any], World], Checked]] = (
    dict.fromkeys(KINDS, _check_plain)
    | {"leaves": _check_leaves, "organization": _check_envelope, "trailer": _check_envelope}
    | dict.fromkeys((*PAPERS, "record"), _check_paper)
)


# All lines together.


class Problem(NamedTuple):
    """What is wrong, and in which line."""

    line: int
    kind: str
    what: str


@dataclass
class Finding:
    """One receipt: what is proved of it, what is not, what is wrong, and on what trust it rests."""

    line: int
    digest: str
    receipt: Receipt
    position: int
    half: bool
    signers: tuple[Signer, ...] = ()
    proved: list[str] = field(default_factory=list)
    not_proved: list[str] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    assumed: list[str] = field(default_factory=list)
    settled: bool = False

    @property
    def verdict(self) -> str:
        """``wrong``; of a half ``settled`` when both signed for it later, else ``half``; ``partly``; ``proved``."""
        if self.wrong:
            return "wrong"
        if self.half:
            return "settled" if self.settled else "half"
        return "partly" if self.not_proved else "proved"


@dataclass
class Report:
    """What is said of a file as a whole. ``tally``: (owner, consumer, object) to counts of verdicts and bytes."""

    header: dict[str, Any] = field(default_factory=dict)
    organizations: dict[str, Organization] = field(default_factory=dict)
    confirmed: set[str] = field(default_factory=set)
    unconfirmed: list[str] = field(default_factory=list)
    checkpoint: Checkpoint | None = None
    peers: dict[str, Checkpoint] = field(default_factory=dict)
    league: League | None = None
    registry: list[tuple[int, bool, str]] = field(default_factory=list)  # line, whether proved, what of the registry
    witnesses: dict[str, Witness] = field(default_factory=dict)  # by their keys: one may have had several
    told_witnesses: dict[str, Witness] = field(default_factory=dict)  # confirmed on another channel
    two_faced: list[tuple[int, Witness]] = field(default_factory=list)  # in which line, who signed two histories
    signed_with: str = ""
    lines: int = 0
    kinds: Counter[str] = field(default_factory=Counter)
    missing: list[str] = field(default_factory=list)
    erased: list[tuple[int, str]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)
    problem_count: int = 0
    tally: dict[tuple[str, str, str], Counter[str]] = field(default_factory=dict)
    verdicts: Counter[str] = field(default_factory=Counter)

    @property
    def exit_code(self) -> int:
        if self.problem_count:
            return SOMETHING_WRONG
        return OTHERWISE if self.verdicts["partly"] or self.missing or self.unconfirmed else ALL_PROVED


class Audit:
    """Takes the checked lines in their order, and gives a Finding for each receipt."""

    def __init__(self, told: dict[str, str]) -> None:
        self.report = Report()
        self._told = told
        self._tree = Tree()  # of this file's lines
        self._log = Tree()
        self._hashes = bytearray()
        self._expected = 1
        self._rank = 0
        self._ended = False
        self._missing: set[str] = set()
        self._records: dict[bytes, Paper] = {}
        self._grants: dict[bytes, Paper] = {}
        self._false: set[bytes] = set()  # digests of grants and records whose line has a problem
        self._revocations: dict[bytes, list[Answer]] = {}
        self._deletions: dict[tuple[Any, ...], list[Deletion]] = {}
        self._chains: dict[bytes, tuple[list[Paper], list[str], list[str]]] = {}
        self._used: dict[bytes, tuple[int, int]] = {}
        self._deliveries: set[tuple[str, str, bytes]] = set()
        self._seen: set[bytes] = set()
        self._positions: set[int] = set()

    @property
    def world(self) -> World:
        """What the lines after the head are judged by."""
        return World(dict(self.report.organizations), self.report.checkpoint, frozenset(self._missing))

    def _problem(self, checked: Checked, what: str) -> None:
        self.report.problem_count += 1
        if len(self.report.problems) < KEPT:
            self.report.problems.append(Problem(checked.number, checked.kind, what))

    def take(self, checked: Checked) -> Finding | None:
        """The next line."""
        report = self.report
        report.lines += 1
        report.kinds[checked.kind] += 1
        if checked.number == 1 and checked.kind != "header":
            self._problem(checked, "the file does not begin with the header of an evidence file")
        if checked.problem:
            self._problem(checked, checked.problem)
        if checked.data is None:
            self._expected += 1
        else:
            self._place(checked)
        finding = None
        if checked.kind == "trailer":
            self._trailer(checked)
        elif checked.data is not None:
            finding = self._take(checked)
        self._tree.add(checked.hash)
        return finding

    def _place(self, checked: Checked) -> None:
        """That no line is missing, added or moved."""
        if checked.said != self._expected:
            self._problem(
                checked,
                f"it says that it is line {checked.said}, where line {self._expected} should be: lines were removed, "
                "added or moved",
            )
        self._expected = checked.said + 1
        if self._ended:
            self._problem(checked, "it stands after the end of the file")
        if RANK[checked.kind] < self._rank:
            self._problem(checked, f"a line of the kind {checked.kind} cannot stand here")
        self._rank = max(self._rank, RANK[checked.kind])

    def _take(self, checked: Checked) -> Finding | None:
        kind, data = checked.kind, checked.data
        if kind == "header":
            self._header(checked)
        elif kind == "organization":
            self._organization(checked)
        elif kind == "missing":
            self._lacks(data)
        elif kind == "leaves":
            self._leaves(checked)
        elif kind == "erased":
            self._erased(checked)
        elif kind == "peer-checkpoint":
            held = self._note(checked, data["prefix"], data["note"])
            if held is not None:
                self.report.peers[data["prefix"]] = held
        elif kind == "fork":
            self._fork(checked, data["prefix"], data["first"], data["second"])
        elif kind in ("authority", "witness", "registry-fork", "finding"):
            try:
                self._of_registry(checked)
            except Malformed as error:
                self._problem(checked, str(error))
        else:
            return self._paper(checked, data)
        return None

    def _header(self, checked: Checked) -> None:
        data = checked.data
        if checked.number != 1 or self.report.header:
            self._problem(checked, "a file has one header, at its beginning")
            return
        try:
            if data["format"] != FORMAT or data["version"] != VERSION:
                raise Malformed(f"this verifier reads {FORMAT} {VERSION}, and the file is another: take a newer one")
            read_prefix(data["exporter"])
            _time(data["made_at"])
            if data["log_size"] < 0 or set(data["selection"]) - {"object", "peer", "since"}:
                raise Malformed("the header makes no sense")
        except Malformed as error:
            self._problem(checked, str(error))
        self.report.header = data

    def _organization(self, checked: Checked) -> None:
        known = self.report.organizations
        try:
            claimed = read_prefix(parse(checked.data.payload, ORGANIZATION)["prefix"])
            known[claimed] = follow(known.get(claimed), checked.data)
        except Malformed as error:
            self._problem(checked, str(error))

    def _lacks(self, data: dict[str, Any]) -> None:
        if data["what"] == "organization":
            self._missing.add(data["name"])
        self.report.missing.append(f"{data['what']} {data['name']}: {data['why']}")

    def settle(self) -> None:
        """When the head is over: which keys were confirmed, and the checkpoint of the exporter's log."""
        report, header = self.report, self.report.header
        for prefix, told in self._told.items():
            known = report.organizations.get(prefix)
            if known is None:
                report.unconfirmed.append(f"--key {prefix}: this file has no record of {prefix}")
            elif told == known.keys[0].id or (known.complete and told in {key.id for key in known.keys}):
                report.confirmed.add(prefix)
            elif told in {key.id for key in known.keys}:
                report.unconfirmed.append(
                    f"--key {prefix}: that {told} was the key of {prefix} before {known.keys[0].id} is not proved: its "
                    "history is not whole here"
                )
            else:
                self._whole(
                    "organization",
                    f"{prefix} has the key {known.keys[0].id} in this file, and you were told {told}: do not trust it",
                )
        exporter = report.organizations.get(header.get("exporter", ""))
        if not header.get("checkpoint"):
            if header.get("log_size"):
                self._whole("header", "the log has entries, and there is no checkpoint of it")
        elif exporter is not None:
            try:
                report.checkpoint = read_note(header["checkpoint"], exporter)
                if report.checkpoint.size != header["log_size"]:
                    raise Malformed("it is of another size than the header says")
            except Malformed as error:
                self._whole("header", f"the checkpoint of the log: {error}")

    def _whole(self, kind: str, what: str) -> None:
        self._problem(Checked(1 if kind == "header" else 0, 0, kind, b"", "", None), what)

    def _leaves(self, checked: Checked) -> None:
        first, hashes = checked.data
        if not self.report.header.get("everything") or first * 32 != len(self._hashes):
            self._problem(checked, "these leaves of the log do not continue those before them")
            return
        self._hashes += hashes
        for at in range(0, len(hashes), 32):
            self._log.add(hashes[at : at + 32])

    def _erased(self, checked: Checked) -> None:
        position = checked.data["position"]
        if position < 0 or position * 32 >= len(self._hashes) or position in self._positions:
            self._problem(checked, f"there can be no erased entry at position {position} of the log")
        self._positions.add(position)
        self.report.erased.append((position, checked.data["leaf"]))

    def _note(self, checked: Checked, prefix: str, note: str) -> Checkpoint | None:
        known = self.report.organizations.get(prefix)
        if known is None:
            self.report.notes.append(f"a checkpoint of {prefix} cannot be checked: its record is not in this file")
            return None
        try:
            return read_note(note, known)
        except Malformed as error:
            if prefix not in self._missing:
                self._problem(checked, f"the checkpoint of {prefix}: {error}")
            return None

    def _fork(self, checked: Checked, prefix: str, first: str, second: str) -> None:
        notes = self._note(checked, prefix, first), self._note(checked, prefix, second)
        if notes[0] is None or notes[1] is None:
            return
        sizes = notes[0].size, notes[1].size
        if sizes[0] == sizes[1] and notes[0].root != notes[1].root:
            told = f"{prefix} signed two different logs of {sizes[0]} entries: it rewrote its history"
        else:
            told = (
                f"the exporter says that the log of {prefix} of {sizes[1]} entries does not continue that of {sizes[0]}"
            )
        self.report.notes.append(f"{told} (line {checked.number})")

    def _of_registry(self, checked: Checked) -> None:
        """What the registry signed or let be done, by its own signatures."""
        report, data = self.report, checked.data
        if checked.kind == "authority":
            if report.league is not None:
                raise Malformed("there is one league in a file")
            report.league = read_league(_base64(data["authority"]))
            return
        if report.league is None:
            raise Malformed("the league whose registry it is about does not stand before it")
        if checked.kind == "witness":
            self._witness(read_witness(data["key"]))
            return
        if checked.kind == "registry-fork":
            proved, forked, text = _two_logs(report.league, data)
            text += self._cosigned(checked.number, data, forked)
        else:
            own = report.header.get("exporter", "")
            proved, text = _in_registry_log(report.league, data, own, report.organizations.get(own))
        report.registry.append((checked.number, proved, text))

    def _witness(self, found: Witness) -> None:
        self.report.witnesses[str(found)] = found
        told = [each for each in self.report.told_witnesses.values() if each.name == found.name]
        if told and found not in told:
            raise Malformed(f"{found.name} has another key in this file than you were told: do not trust it")

    def _cosigned(self, line: int, data: dict[str, Any], forked: bool) -> str:
        """Who cosigned both of two checkpoints, in words."""
        report = self.report
        known = report.witnesses | report.told_witnesses
        both = [each for each in known.values() if each.signed(data["first"]) and each.signed(data["second"])]
        if not both:
            return ""
        if not forked:
            return f". Both are cosigned by {', '.join(each.name for each in both)}, which may be right"
        report.two_faced += [(line, each) for each in both]
        sure = report.told_witnesses
        names = [f"{each.name} ({'--witness' if str(each) in sure else f'if its key is {each}'})" for each in both]
        return f". SIGNED TWO HISTORIES as a witness: {', '.join(names)}"

    def _paper(self, checked: Checked, paper: Paper) -> Finding | None:
        kind, body = checked.kind, paper.body
        unproved, false = self._in_log(checked, paper) if kind != "record" else ("", "")
        if paper.digest in self._seen and (kind != "half-receipt"):
            self._problem(checked, f"this {kind} is in the file twice")
        self._seen.add(paper.digest)
        if checked.problem and kind in ("grant", "record"):
            self._false.add(paper.digest)
        signed = not checked.problem and paper.signers[0].state == GOOD
        if kind == "record":
            self._records[paper.digest] = paper
        elif kind == "grant":
            self._grants[paper.digest] = paper
        elif kind == "revocation" and signed:
            self._revocations.setdefault(body.of, []).append(body)
        elif kind == "deletion" and signed:
            key = (body.owner, body.consumer, fold(body.id), body.version, body.grant)
            self._deletions.setdefault(key, []).append(body)
        elif kind in ("receipt", "half-receipt"):
            found = self._receipt(checked, paper, unproved, false)
            self._count(found)
            return found
        return None

    def _in_log(self, checked: Checked, paper: Paper) -> tuple[str, str]:
        """Whether the paper stands in the exporter's log: both empty, or why that is not proved, or why it is false."""
        if paper.position < 0:
            return "it is not shown to stand in the exporter's log", ""
        if self.report.checkpoint is None:
            return "there is no valid checkpoint of the exporter's log", ""
        false = ""
        if paper.position in self._positions:
            false = f"another line says that it stands at position {paper.position} of the log"
        self._positions.add(paper.position)
        at = paper.position * 32
        if paper.proven is None and self._hashes[at : at + 32] != paper.leaf:
            false = f"it is not what stands at position {paper.position} of the log"
        if false:
            self._problem(checked, false)
        return "", false or ("its proof is false" if paper.proven is False else "")

    # A receipt.

    def _receipt(self, checked: Checked, paper: Paper, unproved: str, false: str) -> Finding:
        receipt: Receipt = paper.body
        half = checked.kind == "half-receipt"
        found = Finding(checked.number, paper.digest.hex(), receipt, paper.position, half, paper.signers)
        found.wrong += [each for each in (checked.problem, false) if each]
        told = len(found.wrong)  # these are among the problems already
        self._signatures(found, paper)
        checkpoint = self.report.checkpoint
        if unproved:
            found.not_proved.append(f"that it stood in a log: {unproved}")
        elif checkpoint is not None and not false:
            found.proved.append(
                f"it stands at position {paper.position} of the log of {self.report.header['exporter']}, under a "
                f"checkpoint of {checkpoint.size} entries signed with key {checkpoint.key_id}"
            )
        key = (receipt.owner, receipt.consumer, receipt.delivery)
        if half:
            if key in self._deliveries:
                found.settled = True
                found.proved.append("a receipt of the same delivery, signed by both, is in this file too")
        elif key in self._deliveries:
            found.wrong.append("another receipt signed by both is in this file for the same delivery")
        else:
            self._deliveries.add(key)
        # What one side alone says may be false without anything being wrong with this file.
        doubts = found.not_proved if half else found.wrong
        self._record(found, receipt, doubts)
        if receipt.grant:
            self._grant(found, receipt, doubts)
        else:
            record = self._records.get(receipt.record)
            found.proved.append(
                "no grant was needed: the record says that the object is open to every member"
                if record is not None and record.body.mode == OPEN
                else "it names no grant: that the owner delivered without one is what the owner signed"
            )
        for each in found.wrong[told:]:
            self._problem(checked, each)
        return found

    def _count(self, found: Finding) -> None:
        receipt = found.receipt
        counts = self.report.tally.setdefault((receipt.owner, receipt.consumer, receipt.id), Counter())
        counts[found.verdict] += 1
        counts["bytes"] += 0 if found.half else receipt.unique_bytes
        self.report.verdicts[found.verdict] += 1

    def _signatures(self, found: Finding, paper: Paper) -> None:
        good = {each.prefix: each for each in paper.signers if each.state == GOOD}
        roles = {paper.body.owner: "the owner", paper.body.consumer: "the consumer"}
        for prefix in roles:
            if prefix not in good:
                states = {each.prefix: each.state for each in paper.signers}
                if states[prefix] == UNKNOWN:
                    found.not_proved.append(f"whether {prefix} signed: its record, and so its key, is not in this file")
                elif found.half or prefix in self._missing:
                    found.not_proved.append(f"that {prefix} agreed: it has no signature of {prefix}")
        if good:
            names = " and ".join(f"{roles[p]} {p} with key {each.key_id}" for p, each in good.items())
            both = "by both: " if len(good) == len(roles) else "only by "
            found.proved.append(f"signed {both}{names}")
        for prefix, each in good.items():
            known = self.report.organizations[prefix]
            if prefix in self.report.confirmed:
                found.proved.append(f"the key of {prefix} is the one that was confirmed with --key")
            else:
                found.assumed.append(f"key {each.key_id} is that of {prefix}, as this file gives it")
            if not known.complete and each.key_id != known.keys[0].id:
                found.not_proved.append(f"that key {each.key_id} was that of {prefix}: its history is not whole here")

    def _unproved(self, signer: Signer) -> str:
        """Empty if that organization's signature is proved, else why not. A false one is a problem of its line."""
        known = self.report.organizations.get(signer.prefix)
        if known is None:
            return f"the record of {signer.prefix}, and so its key, is not in this file"
        if signer.state == GOOD and signer.key_id != known.keys[0].id and not known.complete:
            return f"that key {signer.key_id} was that of {signer.prefix} is not proved: its history is not whole here"
        return "" if signer.state == GOOD else f"it has no signature of {signer.prefix}"

    def _record(self, found: Finding, receipt: Receipt, doubts: list[str]) -> None:
        paper = self._records.get(receipt.record)
        if paper is None:
            found.not_proved.append(
                f"what the record of version {receipt.version} said: it is not in this file; the receipt names its "
                f"digest {receipt.record.hex()}"
            )
            return
        record: Record = paper.body
        unproved = self._unproved(paper.signers[0])
        if receipt.record in self._false:
            doubts.append("the record that it names is not one that the owner signed")
        elif fold(record.id) != fold(receipt.id) or record.version != receipt.version:
            doubts.append("the record that it names is of another object or version")
        elif unproved:
            found.not_proved.append(f"that the owner signed the record that it names: {unproved}")
        else:
            found.proved.append(
                f"the record of {record.id} version {record.version} that it names is signed by the owner"
            )

    def _grant(self, found: Finding, receipt: Receipt, doubts: list[str]) -> None:
        chain, lacking, faults = self._chain(receipt.grant)
        found.not_proved += lacking
        doubts += faults
        if not chain:
            return
        body: Grant = chain[0].body
        conditions = body.conditions
        name = f"the grant {short(receipt.grant)}"
        before = len(doubts), len(found.not_proved)
        if fold(receipt.id) not in {fold(each) for each in body.ids}:
            doubts.append(f"{name} is not for this object")
        if body.to != receipt.consumer:
            doubts.append(f"{name} is for {body.to}, not for {receipt.consumer}")
        holder = next((each for each in found.signers if each.prefix == receipt.consumer and each.state == GOOD), None)
        if body.to_key and holder is not None and holder.key_id != body.to_key:
            found.not_proved.append(
                f"that the holder's key was {body.to_key}, to which {name} is bound, at the delivery"
            )
        if "fetch" not in conditions.operations:
            doubts.append(f"{name} does not allow to fetch")
        if conditions.purposes and not receipt.purposes:
            doubts.append(f"{name} is for certain purposes, and the receipt names none")
        uncovered = [each for each in receipt.purposes if conditions.purposes and not covers(conditions.purposes, each)]
        if uncovered:
            doubts.append(f"{name} does not cover the purpose {uncovered[0]}")
        if body.at > receipt.started_at + CLOCK_SKEW:
            doubts.append(f"{name} was made {body.at - receipt.started_at} s after the delivery began")
        self._times(found, receipt, conditions, name, doubts)
        if (len(doubts), len(found.not_proved)) == before and not faults and not lacking:
            narrowed = f", the last of {len(chain)}, each narrowed by the holder of the one before" if chain[1:] else ""
            found.proved.append(
                f"{name} of {body.issuer}{narrowed} covers the object, the operation, the holder, the time and "
                + (f"the purposes ({', '.join(receipt.purposes)})" if conditions.purposes else "any purpose")
            )
        self._revoked(found, receipt, chain, doubts)
        if not found.half and not found.wrong:
            self._limits(found, receipt, chain)
        self._deleted(found, receipt, conditions)

    def _chain(self, digest: bytes) -> tuple[list[Paper], list[str], list[str]]:
        """From the grant that was used up to the owner's; what is lacking; what is wrong."""
        if digest in self._chains:
            return self._chains[digest]
        chain: list[Paper] = []
        lacking: list[str] = []
        faults: list[str] = []
        at = digest
        while at:
            paper = self._grants.get(at)
            if paper is None:
                lacking.append(f"that the grant {short(at)} allowed it: that grant is not in this file")
                break
            body: Grant = paper.body
            if at in self._false:
                faults.append(f"the grant {short(at)} is not signed as it should be")
            elif unproved := self._unproved(paper.signers[0]):
                lacking.append(f"that {body.issuer} made the grant {short(at)}: {unproved}")
            if chain:
                faults += self._link(chain[-1].body, paper)
            chain.append(paper)
            at = body.parent
            if len(chain) > GRANT_CHAIN:
                faults.append("the chain of grants is longer than any may be")
                break
            if not at and body.issuer != body.owner:
                faults.append(f"the grant {short(paper.digest)} is of {body.issuer}, who does not own the object")
        self._chains[digest] = (chain, lacking, faults)
        return self._chains[digest]

    @staticmethod
    def _link(narrowed: Grant, above: Paper) -> Iterator[str]:
        parent: Grant = above.body
        name = short(above.digest)
        if narrowed.issuer != parent.to:
            yield f"{narrowed.issuer} narrowed the grant {name}, which {parent.to} holds"
        if not parent.conditions.pass_on:
            yield f"{parent.to} narrowed the grant {name}, which it may not pass on"
        inside = {fold(each) for each in narrowed.ids} <= {fold(each) for each in parent.ids}
        if not inside or not is_within(narrowed.conditions, parent.conditions):
            yield f"{narrowed.issuer} narrowed the grant {name} to one that allows more than it, or owes less"
        if narrowed.at < parent.at - CLOCK_SKEW:
            yield f"a grant that narrows {name} is dated before it"

    @staticmethod
    def _times(found: Finding, receipt: Receipt, conditions: Conditions, name: str, doubts: list[str]) -> None:
        begin, end = conditions.valid_from, conditions.valid_until
        if begin is not None and receipt.started_at < begin - CLOCK_SKEW:
            doubts.append(f"it began {begin - receipt.started_at} s before {name} was valid")
        elif end is not None and receipt.started_at >= end + CLOCK_SKEW:
            doubts.append(f"it began {receipt.started_at - end} s after the end of {name}")
        elif end is not None and receipt.ended_at >= end + CLOCK_SKEW:
            found.not_proved.append(
                f"that all of it was delivered while {name} was valid: it began within that time and ended "
                f"{receipt.ended_at - end} s after it"
            )

    def _revoked(self, found: Finding, receipt: Receipt, chain: list[Paper], doubts: list[str]) -> None:
        for paper in chain:
            name, body = short(paper.digest), paper.body
            for each in self._revocations.get(paper.digest, ()):
                if each.issuer not in (body.issuer, body.owner):
                    continue
                when = moment(each.at)
                if each.at < receipt.started_at - CLOCK_SKEW:
                    doubts.append(f"the grant {name} had been revoked by {each.issuer} at {when}, before the delivery")
                elif each.at < receipt.ended_at - CLOCK_SKEW:
                    found.not_proved.append(
                        f"that all of it was delivered before {each.issuer} revoked the grant {name} at {when}"
                    )
                else:
                    found.proved.append(
                        f"the grant {name} was revoked by {each.issuer} at {when}, not before the delivery"
                    )
        if not any(self._revocations.get(paper.digest) for paper in chain):
            found.assumed.append("the exporter left no revocation out: none of this grant is in the file")

    def _limits(self, found: Finding, receipt: Receipt, chain: list[Paper]) -> None:
        within = True
        for paper in chain:
            conditions = paper.body.conditions
            fetches, size = self._used.get(paper.digest, (0, 0))
            fetches, size = fetches + 1, size + receipt.unique_bytes
            self._used[paper.digest] = (fetches, size)
            name = short(paper.digest)
            if conditions.max_fetches is not None and fetches > conditions.max_fetches:
                within = False
                found.wrong.append(
                    f"it is delivery {fetches} under the grant {name}, which allows {conditions.max_fetches}"
                )
            if conditions.max_bytes is not None and size > conditions.max_bytes:
                within = False
                found.wrong.append(
                    f"with it {size} bytes were delivered under the grant {name}, which allows {conditions.max_bytes}"
                )
        limited = any(each.body.conditions.max_fetches or each.body.conditions.max_bytes for each in chain)
        if within and limited:
            found.proved.append("with the receipts before it in this file, it is within the limits of the grant")

    def _deleted(self, found: Finding, receipt: Receipt, conditions: Conditions) -> None:
        after = conditions.delete_after
        if after is None:
            return
        due = receipt.ended_at + after
        key = (receipt.owner, receipt.consumer, fold(receipt.id), receipt.version, receipt.grant)
        deletions = [each for each in self._deletions.get(key, ()) if each.at >= receipt.ended_at - CLOCK_SKEW]
        if deletions:
            first = min(deletions, key=lambda each: each.at)
            late = first.at - due
            found.proved.append(
                f"{receipt.consumer} signed that its copy's key was destroyed at {moment(first.at)}, {first.reason}"
                + (f": {late} s later than it was due" if late > CLOCK_SKEW else ": no later than it was due")
            )
        elif self.report.header.get("made_at", 0) > due:
            found.not_proved.append(
                f"that the copy was deleted, which was due at {moment(due)}: no deletion is in this file"
            )
        else:
            found.assumed.append(
                f"the copy is to be deleted by {moment(due)}: that time had not come when this was made"
            )

    # The end.

    def _trailer(self, checked: Checked) -> None:
        self._ended = True
        header, envelope = self.report.header, checked.data
        if envelope is None:
            return
        if envelope.type != TYPES["evidence"]:
            self._problem(checked, f"it is signed as {envelope.type!r}, not as the end of an evidence file")
            return
        exporter = header.get("exporter", "")
        by = signer(
            envelope, envelope.encoding, exporter, self.report.organizations.get(exporter), header.get("made_at", 0)
        )
        if by.state != GOOD:
            self._problem(
                checked, f"the file is not signed by {exporter or 'its exporter'} with a key of its record here"
            )
            return
        self.report.signed_with = by.key_id
        try:
            told = json.loads(envelope.payload)
            claims = told["exporter"], told["lines"], _hex(told["root"], 32)
        except (ValueError, KeyError, TypeError, Malformed):
            self._problem(checked, "what is signed at the end of the file does not parse")
            return
        if claims != (exporter, self._tree.size, self._tree.root()):
            self._problem(checked, f"the lines of this file are not those that {exporter} signed")

    def end(self) -> Report:
        """After the last line."""
        report = self.report
        if not self._ended:
            last = Checked(report.lines + 1, 0, "trailer", b"", "", None)
            self._problem(last, "the file has no end: its last lines are missing")
        checkpoint, leaves = report.checkpoint, (self._log.size, self._log.root())
        if report.header.get("everything") and checkpoint is not None and leaves != (checkpoint.size, checkpoint.root):
            self._whole("header", "the leaves of the log in this file are not those of the signed checkpoint")
        return report


def short(digest: bytes) -> str:
    """The first 16 hexadecimal digits, as commands show it."""
    return digest.hex()[:16]


def moment(seconds: int) -> str:
    """In UTC."""
    try:
        return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
    except (ValueError, OverflowError, OSError):
        return f"{seconds} s"


# The whole file, on all processors.


def verify(
    file: BinaryIO,
    told: dict[str, str],
    each: Callable[[Finding], None],
    jobs: int | None = None,
    witnesses: Iterable[Witness] = (),
) -> Report:
    """Reads a file once, from its beginning to its end; of each line no more than a few hashes stays in memory.

    ``told``: key ids that were confirmed on another channel, and so were ``witnesses``. ``each`` is given what is found
    of every receipt.
    """
    audit = Audit(told)
    audit.report.told_witnesses.update((str(each), each) for each in witnesses)
    numbered = enumerate(iter(lambda: file.readline(LINE_BYTES + 1), b""), 1)
    rest: Iterable[tuple[int, bytes]] = ()
    for number, raw in numbered:
        checked = check_line(number, raw, audit.world)
        if checked.kind in RANK and checked.kind not in HEAD:
            rest = itertools.chain([(number, raw)], numbered)
            break
        audit.take(checked)
    audit.settle()
    for checked in _checked(rest, audit.world, os.cpu_count() or 1 if jobs is None else jobs):
        finding = audit.take(checked)
        if finding is not None:
            each(finding)
    return audit.end()


def _checked(numbered: Iterable[tuple[int, bytes]], world: World, jobs: int) -> Iterator[Checked]:
    """In order. Small files and ``jobs`` below 2 are done here."""
    lines = iter(numbered)
    first = list(itertools.islice(lines, 2 * CHUNK_LINES))
    if jobs < 2 or len(first) < 2 * CHUNK_LINES:
        for number, raw in itertools.chain(first, lines):
            yield check_line(number, raw, world)
        return
    chunks = itertools.chain([first], iter(lambda: list(itertools.islice(lines, CHUNK_LINES)), []))
    # Processes, not threads: reading the papers takes as long as verifying their signatures. Spawned, not forked:
    # whoever calls this may have threads.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(jobs, context, _start, (world,)) as pool:
        pending: deque[concurrent.futures.Future[list[Checked]]] = deque()
        for chunk in chunks:
            pending.append(pool.submit(_check_chunk, chunk))
            if len(pending) > 3 * jobs:
                yield from pending.popleft().result()
        while pending:
            yield from pending.popleft().result()


_world = World({}, None, frozenset())


def _start(world: World) -> None:
    global _world
    _world = world


def _check_chunk(chunk: list[tuple[int, bytes]]) -> list[Checked]:
    return [check_line(number, raw, _world) for number, raw in chunk]


# What is said.

NOT_PROVED_BY_ANY = (
    "When it was: times are by the clocks of those who signed. Proved is only that both signed them.",
    "That nothing was left out: an exporter can leave out what it likes. Ask the other side for its export too.",
    "Whose keys they are, unless they were confirmed on another channel: --key PREFIX=KEYID.",
    "That duties were kept: a deletion receipt is the word of the consumer's node.",
    "What the bytes were: a receipt names the record, and the record is committed to them, but they are not in here.",
)


def safe(text: object) -> str:
    """What others wrote, unable to steer a terminal."""
    return "".join(c if c.isprintable() else "\ufffd" for c in str(text))


def describe(found: Finding) -> dict[str, Any]:
    """A receipt as a JSON document."""
    receipt = found.receipt
    return {
        "document": "receipt",
        "receipt": found.digest,
        "verdict": found.verdict,
        "line": found.line,
        "position": None if found.position < 0 else found.position,
        "owner": receipt.owner,
        "consumer": receipt.consumer,
        "object": receipt.id,
        "version": receipt.version,
        "unique_bytes": receipt.unique_bytes,
        "grant": receipt.grant.hex(),
        "purposes": list(receipt.purposes),
        "started_at": receipt.started_at,
        "ended_at": receipt.ended_at,
        "delivery": receipt.delivery.hex(),
        "signed_by": {each.prefix: each.key_id for each in found.signers if each.state == GOOD},
        "proved": found.proved,
        "not_proved": found.not_proved,
        "wrong": found.wrong,
        "assumed": found.assumed,
    }


def summary(report: Report) -> dict[str, Any]:
    """The file as a JSON document."""
    checkpoint = report.checkpoint
    return {
        "document": "file",
        "exit_code": report.exit_code,
        "exporter": report.header.get("exporter"),
        "made_at": report.header.get("made_at"),
        "selection": report.header.get("selection"),
        "everything": report.header.get("everything"),
        "lines": report.lines,
        "kinds": dict(report.kinds),
        "signed_with": report.signed_with or None,
        "log": checkpoint and {"size": checkpoint.size, "root": checkpoint.root.hex(), "key_id": checkpoint.key_id},
        "peers": {prefix: {"size": each.size, "root": each.root.hex()} for prefix, each in report.peers.items()},
        "league": report.league and {"root": report.league.root, "fingerprint": report.league.fingerprint},
        "registry": [{"line": line, "proved": proved, "what": what} for line, proved, what in report.registry],
        "two_faced": [
            {"line": line, "witness": str(each), "confirmed": str(each) in report.told_witnesses}
            for line, each in report.two_faced
        ],
        "organizations": [
            {
                "prefix": each.prefix,
                "key_id": each.keys[0].id,
                "previous_key_ids": [key.id for key in each.keys[1:]],
                "version": each.version,
                "whole_history": each.complete,
                "confirmed": each.prefix in report.confirmed,
            }
            for each in report.organizations.values()
        ],
        "receipts": {each: report.verdicts[each] for each in _VERDICTS},
        "erased": [{"position": position, "said_to_be": said} for position, said in report.erased],
        "missing": report.missing,
        "unconfirmed": report.unconfirmed,
        "notes": report.notes,
        "problems": report.problem_count,
        "not_proved_by_any_file": NOT_PROVED_BY_ANY,
    }


def _say(report: Report, doubtful: list[Finding], print_line: Callable[[str], None]) -> None:
    """For a person."""
    last = [""]

    def say(text: str) -> None:
        if text or last[0]:  # never two empty lines
            print_line(text)
        last[0] = text

    header = report.header
    chosen = ", ".join(f"{name} {value}" for name, value in header.get("selection", {}).items()) or "everything"
    say(f"Evidence of {header.get('exporter', '?')}, made {moment(header.get('made_at', 0))}: {chosen}")
    say(
        f"{report.lines:,} lines, signed with key {report.signed_with}"
        if report.signed_with
        else "Its end is not signed."
    )
    if report.checkpoint:
        say(f"Log of {report.checkpoint.size:,} entries, signed with key {report.checkpoint.key_id}")
    for prefix, held in report.peers.items():
        say(f"Of the log of {prefix} it has a checkpoint: {held.size:,} entries, signed with key {held.key_id}")
    say("")
    rows: list[tuple[str, ...]] = [("ORGANIZATION", "KEY ID", "KEYS", "HISTORY", "CONFIRMED")]
    rows += [
        (
            each.prefix,
            each.keys[0].id,
            str(len(each.keys)),
            "whole" if each.complete else f"from version {each.version} only",
            "with --key" if each.prefix in report.confirmed else "no: as this file gives it",
        )
        for each in report.organizations.values()
    ]
    _table(rows, say)
    rows = [("OWNER", "CONSUMER", "OBJECT", "PROVED", "PARTLY", "HALF", "WRONG", "BYTES")]
    for (owner, consumer, name), counts in sorted(report.tally.items()):
        told = (f"{counts[each]:,}" for each in ("proved", "partly", "half", "wrong", "bytes"))
        rows.append((owner, consumer, name, *told))
    _table(rows, say)
    if len(rows) == 1:
        say("No receipt.")
        say("")
    for found in doubtful:
        say(f"Receipt {found.digest[:16]} (line {found.line}): {_VERDICTS[found.verdict]}")
        for mark, texts in (("wrong", found.wrong), ("not proved", found.not_proved)):
            for text in texts:
                say(f"  {mark}: {text}")
        if found.half:
            say(f"  {', '.join(found.proved[:1])}")
    if doubtful:
        say("")
    others = report.verdicts["partly"] + report.verdicts["half"] + report.verdicts["wrong"] - len(doubtful)
    if others > 0:
        say(f"… and {others:,} others that are not wholly proved: --json lists all.")
    if report.verdicts["settled"]:
        say(f"Halves of deliveries that both signed for later: {report.verdicts['settled']:,}")
    for position, said in report.erased[:SHOWN]:
        say(f"Erased: position {position} of the log, said to have been a {said}. Only that it was there is proved.")
    for text in report.missing:
        say(f"Missing, says the exporter: {text}")
    if report.league and report.registry:
        say(f"Of the registry of the league {report.league.root}, if its fingerprint is {report.league.fingerprint}:")
    for line, proved, text in report.registry[:SHOWN]:
        say(f"  {'proved' if proved else 'not proved'} (line {line}): {text}")
    for text in (*report.unconfirmed, *report.notes):
        say(f"Note: {text}")
    for problem in report.problems[:SHOWN]:
        where = f"line {problem.line} ({problem.kind})" if problem.line else problem.kind
        say(f"WRONG: {where}: {problem.what}")
    if report.problem_count > SHOWN:
        say(f"… and {report.problem_count - SHOWN:,} others.")
    say("")
    say("No file of this kind proves:")
    for text in NOT_PROVED_BY_ANY:
        say(f"  {text}")
    say("")
    say(_ENDS[report.exit_code])


_VERDICTS = {
    "proved": "proved",
    "partly": "signed by both, and not all of it is proved",
    "half": "one side's word only",
    "settled": "one side's word; both signed for this delivery later",
    "wrong": "WRONG",
}
_ENDS = {
    ALL_PROVED: "All that is in this file is proved, but for what is said above.",
    OTHERWISE: "Nothing is wrong, and not everything is proved.",
    SOMETHING_WRONG: "Something is WRONG: do not rely on this file.",
}


def _table(rows: Sequence[Sequence[str]], print_line: Callable[[str], None]) -> None:
    if len(rows) < 2:
        return
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        print_line("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
    print_line("")


def _tell(found: Finding, print_line: Callable[[str], None]) -> None:
    """One receipt in detail."""
    told = describe(found)
    for name in ("receipt", "line", "position", "owner", "consumer", "object", "version", "unique_bytes", "grant"):
        print_line(f"{name:<13} {told[name]}")
    print_line(f"{'purposes':<13} {', '.join(told['purposes']) or 'none named'}")
    print_line(f"{'time':<13} {moment(told['started_at'])} to {moment(told['ended_at'])}, as signed")
    print_line(f"{'verdict':<13} {_VERDICTS[found.verdict]}")
    for mark, texts in (
        ("proved", found.proved), ("not proved", found.not_proved), ("wrong", found.wrong), ("on trust", found.assumed),
    ):  # fmt: skip
        for text in texts:
            print_line(f"  {mark + ':':<12} {text}")
    print_line("")


def _keys(values: list[str]) -> dict[str, str]:
    told = {}
    for value in values:
        prefix, _, keyid = value.partition("=")
        told[read_prefix(prefix)] = read_key_id(keyid)
    return told


def main(arguments: list[str] | None = None, prog: str | None = None) -> int:
    """The command. Returns its exit code."""
    parser = argparse.ArgumentParser(
        prog=prog or Path(sys.argv[0]).name,
        description="Verifies an evidence file. Exit codes: 0 all proved, 6 something is wrong, 1 otherwise, 2 usage.",
    )
    parser.add_argument("file", metavar="FILE")
    parser.add_argument(
        "--key", action="append", default=[], metavar="PREFIX=KEYID", help="a key that was confirmed on another channel"
    )
    parser.add_argument(
        "--witness", action="append", default=[], metavar="KEY", help="a witness's key, confirmed on another channel"
    )
    parser.add_argument("--receipt", metavar="HEX", help="one receipt in detail: the beginning of its digest")
    parser.add_argument("--json", action="store_true", help="one JSON document a line")
    parser.add_argument("--jobs", type=int, metavar="N", help="processes; as many as there are processors, if left out")
    chosen = parser.parse_args(arguments)
    try:
        told = _keys(chosen.key)
    except Malformed as error:
        parser.error(f"--key: {error}")
    try:
        witnesses = [read_witness(each.strip()) for each in chosen.witness]
    except Malformed as error:
        parser.error(f"--witness: {error}")
    wanted = (chosen.receipt or "").lower()
    doubtful: list[Finding] = []
    matches: list[Finding] = []

    def each(found: Finding) -> None:
        if wanted:
            if found.digest.startswith(wanted):
                matches.append(found)
        elif chosen.json:
            sys.stdout.write(json.dumps(describe(found)) + "\n")
        elif found.verdict not in ("proved", "settled") and len(doubtful) < SHOWN:
            doubtful.append(found)

    def print_line(text: str) -> None:
        sys.stdout.write(safe(text) + "\n")

    try:
        with open(chosen.file, "rb") as file:
            report = verify(file, told, each, chosen.jobs, witnesses)
    except OSError as error:
        sys.stderr.write(f"Error: {safe(chosen.file)}: {error.strerror}\n")
        return OTHERWISE
    if chosen.json:
        for found in matches:
            sys.stdout.write(json.dumps(describe(found)) + "\n")
        for problem in report.problems:
            sys.stdout.write(json.dumps({"document": "problem", **problem._asdict()}) + "\n")
        sys.stdout.write(json.dumps(summary(report)) + "\n")
    else:
        for found in matches:
            _tell(found, print_line)
        if wanted and not matches:
            print_line(f"No receipt in this file begins with {wanted}.")
        _say(report, doubtful, print_line)
    sys.stdout.flush()
    return report.exit_code if matches or not wanted else report.exit_code or OTHERWISE


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:  # whoever reads what is said has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(OTHERWISE)
