"""Statements: what passed between this home and each peer in a period, from deliveries and their receipts.

A chunk that several receipts under one grant speak of counts once for a peer, object and version. What both signed and
what is this side's word only are never added up. What it is not: a proof; `hanse evidence export` makes one.

    statement(evidence, catalog, begin, end, peer=None)
"""

import calendar
import datetime
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from hanse import wire, wire_papers
from hanse.errors import InvalidInput
from hanse.evidence.evidence import Evidence
from hanse.evidence.parts import within
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import Delivered, Receipt, joined
from hanse.model.purposes import Purpose

Weigh = Callable[[Identifier, int, tuple[Delivered, ...]], int | None]
"""Bytes of parts of one of our own versions; None for those of others, and for parts that there are not."""


@dataclass(frozen=True, slots=True)
class Line:
    """One peer and object. ``ours``: we fetched it, else we served it. Bytes count each chunk once.

    ``exact`` false: receipts overlap in part, and how much they have in common is not known here: the bytes are an
    upper bound.
    """

    ours: bool
    peer: Prefix
    object: Identifier
    deliveries: int
    proved_deliveries: int
    proved_bytes: int
    our_word_bytes: int
    purposes: tuple[Purpose, ...]
    exact: bool = True


def parse_period(text: str) -> tuple[int, int]:
    """``2026``, ``2026-11`` or ``2026-11-23`` (UTC): its beginning and its end in Unix seconds. Raises InvalidInput."""
    told = re.fullmatch(r"(\d{4})(?:-(\d{2})(?:-(\d{2}))?)?", text)
    try:
        if told is None:
            raise ValueError
        year, month, day = (int(each) if each is not None else None for each in told.groups())
        assert year is not None  # noqa: S101 - it matched
        first = datetime.date(year, 1 if month is None else month, 1 if day is None else day)
        final = 12 if month is None else month
        last = datetime.date(year, final, calendar.monthrange(year, final)[1] if day is None else day)
        following = last + datetime.timedelta(1)
    except (ValueError, OverflowError):
        raise InvalidInput(f"{text!r} is no period such as 2026, 2026-11 or 2026-11-23") from None
    return tuple(calendar.timegm(each.timetuple()) for each in (first, following))  # type: ignore[return-value]


@dataclass(slots=True)
class _Found:
    deliveries: int = 0
    proved_deliveries: int = 0
    purposes: dict[Purpose, None] = field(default_factory=dict)
    id: Identifier | None = None
    proved: dict[tuple[int, bytes], list[Receipt]] = field(default_factory=lambda: defaultdict(list))
    all: dict[tuple[int, bytes], list[Receipt]] = field(default_factory=lambda: defaultdict(list))


def statement(evidence: Evidence, weigh: Weigh, begin: int, end: int, peer: Prefix | None = None) -> list[Line]:
    """By direction, peer and object. A delivery belongs to the period in which it began."""
    found: dict[tuple[bool, str, str], _Found] = defaultdict(_Found)
    with evidence.reading() as connection:
        for row in table.query(connection, peer=str(peer) if peer is not None else None, since=begin, until=end):
            _add(found[row.ours, row.peer, row.object], row)
    lines = []
    for (ours, whom, _), each in sorted(found.items(), key=lambda item: item[0]):
        assert each.id is not None  # noqa: S101 - a row was added
        proved, exact_proved = _total(each.id, each.proved, weigh)
        total, exact_total = _total(each.id, each.all, weigh)
        lines.append(
            Line(
                ours,
                Prefix(whom),
                each.id,
                each.deliveries,
                each.proved_deliveries,
                proved,
                max(0, total - proved),
                tuple(each.purposes),
                exact_proved and exact_total,
            )
        )
    return lines


def _add(found: _Found, row: Row) -> None:
    known = wire_papers.decode_receipt(row.delivered)
    found.id = known.id
    found.deliveries += 1
    found.purposes.update(dict.fromkeys(known.purposes))
    key = (row.version, row.grant)
    signed = wire_papers.decode_receipt(wire.decode_envelope(row.receipt).payload) if row.receipt else known
    if row.state is State.SETTLED:
        found.proved_deliveries += 1
        found.proved[key].append(signed)
        found.all[key].append(signed)
    # What was served beyond what the peer signed for is our word.
    if not row.ours:
        found.all[key].append(known)
    elif row.state is not State.SETTLED:
        found.all[key].append(signed)


def _total(id: Identifier, receipts: dict[tuple[int, bytes], list[Receipt]], weigh: Weigh) -> tuple[int, bool]:
    total, exact = 0, True
    for (version, _), each in receipts.items():
        weight = weigh(id, version, joined([part for receipt in each for part in receipt.delivered]))
        if weight is None:
            weight, precise = _bound(each)
            exact = exact and precise
        total += weight
    return total, exact


def _bound(receipts: Iterable[Receipt]) -> tuple[int, bool]:
    """Bytes by what the receipts say of themselves: exact where one lies within another, or apart from all."""
    total, exact = 0, True
    seen: tuple[Delivered, ...] = ()
    for receipt in sorted(receipts, key=lambda each: each.unique_bytes, reverse=True):
        if all(within(part, seen, lambda _: 0) for part in receipt.delivered):
            continue
        exact = exact and not any(_touch(part, other) for part in receipt.delivered for other in seen)
        total += receipt.unique_bytes
        seen = joined([*seen, *receipt.delivered])
    return total, exact


def _touch(one: Delivered, other: Delivered) -> bool:
    """Whether they have something in common, or may have."""
    low, high = (
        max(one.element, other.element),
        min(one.element + (one.elements or 1), other.element + (other.elements or 1)),
    )
    if low >= high:
        return False
    if one.elements or other.elements:
        return True
    return one.first_chunk < other.first_chunk + other.chunks and other.first_chunk < one.first_chunk + one.chunks
