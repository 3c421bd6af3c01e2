"""Statements: periods, what counts once, and what is proved apart from what is our word."""

from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from hanse import wire, wire_papers
from hanse.client.identity import Identity
from hanse.errors import InvalidInput
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import deliveries as table
from hanse.evidence.storage.deliveries import Row, State
from hanse.evidence.storage.migrations import MIGRATIONS
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import Delivered, Receipt
from hanse.model.purposes import Purpose
from hanse.signing import SigningKey, sign
from hanse.storage.database import Database
from node.statement import Line, parse_period, statement

KEY = SigningKey.generate()
NORTH, SOUTH = Prefix("86.north"), Prefix("86.south")
TRIAL = Identifier.parse("86.north/trial")


@pytest.fixture
def evidence(tmp_path: Path) -> Iterator[Evidence]:
    identity = cast("Identity", SimpleNamespace(prefix=NORTH, signing_key=KEY, acknowledged_key=KEY))
    with Evidence(Database.open(tmp_path / "evidence.db", MIGRATIONS), lambda: identity) as made:
        yield made


def put(
    evidence: Evidence,
    number: int,
    *parts: Delivered,
    state: State = State.SETTLED,
    served: tuple[Delivered, ...] = (),
    at: int = 1000,
    grant: bytes = b"",
    ours: bool = False,
) -> None:
    """One delivery of elements of 10 bytes each; ``parts`` is what its receipt says."""
    peer = NORTH if ours else SOUTH
    receipt = Receipt(
        bytes([number]) * 16, NORTH, SOUTH, TRIAL, 1, bytes(32), grant, (Purpose("care"),), parts, weigh(parts), at, at
    )
    envelope = sign(PayloadType.RECEIPT, wire_papers.encode_receipt(receipt), KEY)
    known = Receipt(
        receipt.delivery, NORTH, SOUTH, TRIAL, 1, bytes(32), grant, receipt.purposes, served or parts, 0, at, at
    )
    row = Row(
        receipt.delivery, ours, str(peer), TRIAL.key, 1, grant, wire_papers.encode_receipt(known), 0, 0, at, at, state,
        wire.encode_envelope(envelope) if state in (State.SETTLED, State.HALF) else None,
    )  # fmt: skip
    evidence.change(lambda change: table.put(change.connection, row))


def weigh(parts: tuple[Delivered, ...]) -> int:
    return sum(10 * each.elements for each in parts)


def lines(evidence: Evidence, *, known: bool = True) -> list[Line]:
    return statement(evidence, lambda id, version, parts: weigh(parts) if known else None, 0, 10_000)


def test_a_chunk_delivered_twice_under_one_grant_counts_once(evidence: Evidence) -> None:
    put(evidence, 1, Delivered(0, 4))
    put(evidence, 2, Delivered(2, 4))
    assert lines(evidence) == [Line(False, SOUTH, TRIAL, 2, 2, 60, 0, (Purpose("care"),))]


def test_under_two_grants_it_counts_twice(evidence: Evidence) -> None:
    put(evidence, 1, Delivered(0, 4))
    put(evidence, 2, Delivered(0, 4), grant=bytes(32))
    assert lines(evidence)[0].proved_bytes == 80


@pytest.mark.parametrize("state", [State.HALF, State.ENDED, State.RUNNING])
def test_what_only_we_say_stands_apart_and_once(evidence: Evidence, state: State) -> None:
    put(evidence, 1, Delivered(0, 4))
    put(evidence, 2, Delivered(2, 4), state=state)
    (line,) = lines(evidence)
    assert (line.deliveries, line.proved_deliveries, line.proved_bytes, line.our_word_bytes) == (2, 1, 40, 20)


def test_what_was_served_beyond_what_the_peer_signed_for_is_our_word(evidence: Evidence) -> None:
    put(evidence, 1, Delivered(0, 1), served=(Delivered(0, 5),))
    (line,) = lines(evidence)
    assert (line.proved_bytes, line.our_word_bytes) == (10, 40)


def test_a_delivery_belongs_to_the_period_in_which_it_began(evidence: Evidence) -> None:
    put(evidence, 1, Delivered(0, 1), at=1000)
    put(evidence, 2, Delivered(1, 1), at=2000)
    found = statement(evidence, lambda id, version, parts: weigh(parts), 1000, 2000)
    assert [(each.deliveries, each.proved_bytes) for each in found] == [(1, 10)]
    assert statement(evidence, lambda *_: 0, 1000, 2000, Prefix("86.west")) == []


def test_what_was_fetched_is_exact_unless_receipts_overlap_in_part(evidence: Evidence) -> None:
    put(evidence, 1, Delivered(0, 4), ours=True)
    put(evidence, 2, Delivered(1, 2), ours=True)
    put(evidence, 3, Delivered(6, 1), ours=True)
    (line,) = lines(evidence, known=False)
    assert (line.ours, line.peer, line.proved_bytes, line.exact) == (True, NORTH, 50, True)
    put(evidence, 4, Delivered(3, 2), ours=True)
    (line,) = lines(evidence, known=False)
    assert (line.proved_bytes, line.exact) == (70, False)


@pytest.mark.parametrize(
    ("text", "begin", "end"),
    [
        ("1970", 0, 365 * 86_400),
        ("1970-02", 31 * 86_400, 59 * 86_400),
        ("2026-11-23", 1_795_392_000, 1_795_478_400),
        ("2026-12", 1_796_083_200, 1_798_761_600),
    ],
)
def test_periods(text: str, begin: int, end: int) -> None:
    assert parse_period(text) == (begin, end)


@pytest.mark.parametrize(
    "text", ["", "26", "2026-13", "2026-00", "2026-02-30", "2026-1", "0000", "2026-11-", "9999-12-31"]
)
def test_what_is_no_period(text: str) -> None:
    with pytest.raises(InvalidInput, match="no period such as"):
        parse_period(text)
