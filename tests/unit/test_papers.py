"""Which papers are believed, and which are refused: replayed, re-dated, re-addressed, cut down, spliced, widened."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from hanse import limits, papers, wire_papers
from hanse.errors import BadSignature, HanseError, WrongContent
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.model.papers import (
    AccessRequest,
    Deletion,
    Delivered,
    Denial,
    Grant,
    Receipt,
    Revocation,
)
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Duty, DutyKind, Operation
from hanse.signing import SigningKey, sign

NOW = 1_800_000_000
TRIAL, OTHER = Identifier.parse("86.north/trial"), Identifier.parse("86.north/other")
HEALTH, DISEASE = Purpose("health-research"), Purpose("disease-specific-research")
WIDE = Conditions(purposes=(HEALTH,), valid_until=NOW + 1000, max_fetches=10, max_bytes=1000, pass_on=True)


class Org:
    """An organization: its record, its key."""

    def __init__(self, name: str) -> None:
        self.prefix, self.key = Prefix.parse(name), SigningKey.generate()
        keys = (IdentityKey(self.key.public, NOW - 10_000),)
        self.record = OrganizationRecord(self.prefix, 1, b"", "", "", keys, (), NOW - 10_000)

    def rotate(self, at: int) -> None:
        """A new current key; the previous one counts for what was dated until ``at``."""
        self.key = SigningKey.generate()
        before = replace(self.record.keys[0], valid_until=at)
        self.record = replace(
            self.record, version=2, keys=(IdentityKey(self.key.public, at), before, *self.record.keys[1:])
        )


NORTH, ACME, THIRD, FOURTH = Org("86.north"), Org("86.acme"), Org("86.third"), Org("86.fourth")
RECORDS = {each.prefix: each.record for each in (NORTH, ACME, THIRD, FOURTH)}


def signed_grant(
    issuer: Org, to: Org, parent: Envelope | None = None, conditions: Conditions = WIDE, **changes: Any
) -> Envelope:
    key = changes.pop("key", issuer.key)
    grant = Grant(
        nonce=bytes(16),
        issuer=issuer.prefix,
        to=to.prefix,
        to_key=None,
        ids=(TRIAL,),
        conditions=conditions,
        request=b"",
        parent=parent.digest if parent else b"",
        issued_at=NOW,
    )
    return sign(PayloadType.GRANT, wire_papers.encode_grant(replace(grant, **changes)), key)


ROOT = signed_grant(NORTH, ACME, ids=(TRIAL, OTHER))
LINK = signed_grant(ACME, THIRD, ROOT)


def chain(*envelopes: Envelope) -> tuple[Grant, ...]:
    return papers.verify_chain(envelopes, RECORDS, now=NOW)


def test_a_chain_is_believed_from_the_owners_grant_to_the_last() -> None:
    last = signed_grant(THIRD, FOURTH, LINK, replace(WIDE, purposes=(DISEASE,), max_fetches=1, pass_on=False))
    found = chain(ROOT, LINK, last)
    assert [each.to for each in found] == [ACME.prefix, THIRD.prefix, FOURTH.prefix]
    assert found[-1].conditions.max_fetches == 1


def narrowed(**changes: Any) -> Callable[[], tuple[Envelope, ...]]:
    """A chain of two whose second link has something that it may not have."""
    return lambda: (ROOT, signed_grant(ACME, THIRD, ROOT, **changes))


def conditioned(**changes: Any) -> Callable[[], tuple[Envelope, ...]]:
    return narrowed(conditions=replace(WIDE, **changes))


SEALED = signed_grant(NORTH, ACME, conditions=replace(WIDE, pass_on=False))
OWED = signed_grant(NORTH, ACME, conditions=replace(WIDE, duties=(Duty(DutyKind.DELETE_AFTER, 100),)))
BOUND = signed_grant(NORTH, ACME, to_key=SigningKey.generate().public.key_id)
FOREIGN = Identifier.parse("86.third/x")


@pytest.mark.parametrize(
    ("make", "error", "why"),
    [
        (lambda: (), WrongContent, "a chain has 1 to"),
        (lambda: (LINK,), WrongContent, "a link is missing"),  # cut down
        (lambda: (ROOT, signed_grant(THIRD, FOURTH, LINK)), WrongContent, "a link is missing"),
        (lambda: (ROOT, signed_grant(ACME, THIRD, SEALED)), WrongContent, "a link is missing or another's"),  # spliced
        (lambda: (ROOT, ROOT), WrongContent, "does not narrow the one before it"),  # replayed
        (lambda: (LINK, ROOT), WrongContent, "a link is missing"),
        (lambda: (signed_grant(ACME, THIRD),), WrongContent, "cannot give what 86.north owns"),
        (lambda: (signed_grant(NORTH, ACME, ids=(FOREIGN,)),), WrongContent, "cannot give what 86.third owns"),
        (lambda: (signed_grant(NORTH, ACME, key=ACME.key),), BadSignature, "not signed by 86.north"),
        (narrowed(key=THIRD.key), BadSignature, "not signed by 86.acme"),
        (lambda: (ROOT, signed_grant(THIRD, FOURTH, ROOT)), WrongContent, "narrowed a grant that 86.acme holds"),
        (lambda: (ROOT, signed_grant(NORTH, THIRD, ROOT)), WrongContent, "narrowed a grant that 86.acme holds"),
        (lambda: (SEALED, signed_grant(ACME, THIRD, SEALED)), WrongContent, "may not pass on"),
        (lambda: (OWED, signed_grant(ACME, THIRD, OWED)), WrongContent, "owes less"),
        (lambda: (BOUND, signed_grant(ACME, THIRD, BOUND)), BadSignature, "another key than the one"),
        (narrowed(ids=(TRIAL, Identifier.parse("86.north/more"))), WrongContent, "allows more"),
        (conditioned(valid_until=NOW + 1001), WrongContent, "allows more"),
        (conditioned(valid_until=None), WrongContent, "allows more"),
        (conditioned(max_fetches=11), WrongContent, "allows more"),
        (conditioned(max_bytes=None), WrongContent, "allows more"),
        (conditioned(purposes=()), WrongContent, "allows more"),
        (conditioned(purposes=(Purpose("general-research-use"),)), WrongContent, "allows more"),
        (narrowed(issued_at=NOW - limits.CLOCK_SKEW - 1), WrongContent, "dated before the one"),
        (narrowed(issued_at=NOW + limits.CLOCK_SKEW + 1), WrongContent, "dated in the future"),
        (lambda: (replace(ROOT, payload_type=PayloadType.REQUEST.value),), BadSignature, "was offered as one for"),
        (lambda: (replace(ROOT, payload=LINK.payload),), BadSignature, "not signed by 86.acme"),
        (lambda: (replace(ROOT, payload=b"\xff"),), WrongContent, "does not parse"),
        (lambda: (replace(ROOT, signatures=()),), BadSignature, "not signed by"),
    ],
)
def test_a_chain_that_does_not_hold_is_refused(
    make: Callable[[], tuple[Envelope, ...]], error: type[HanseError], why: str
) -> None:
    with pytest.raises(error, match=why):
        chain(*make())


def test_a_chain_has_eight_links_and_no_more() -> None:
    envelopes, holders = [signed_grant(NORTH, ACME)], [ACME, THIRD]
    while len(envelopes) < limits.GRANT_CHAIN:
        issuer, to = holders[(len(envelopes) - 1) % 2], holders[len(envelopes) % 2]
        envelopes.append(signed_grant(issuer, to, envelopes[-1]))
    assert len(chain(*envelopes)) == limits.GRANT_CHAIN == 8
    with pytest.raises(WrongContent, match="1 to 8"):
        chain(*envelopes, signed_grant(THIRD, ACME, envelopes[-1]))


@pytest.mark.parametrize(
    "changes", [{"to": THIRD.prefix}, {"issued_at": NOW - 1}, {"ids": (OTHER,)}, {"nonce": b"x" * 16}]
)
def test_a_grant_that_was_altered_after_it_was_signed_is_refused(changes: dict[str, Any]) -> None:
    altered = wire_papers.encode_grant(replace(papers.verify_grant(ROOT, NORTH.record), **changes))
    with pytest.raises(BadSignature):
        papers.verify_grant(replace(ROOT, payload=altered), NORTH.record, now=NOW)


def test_an_unknown_issuer_is_not_believed() -> None:
    with pytest.raises(WrongContent, match="not at hand"):
        papers.verify_chain((ROOT, LINK), {NORTH.prefix: NORTH.record}, now=NOW)


def test_a_previous_key_counts_for_what_it_signed_while_it_was_current() -> None:
    west = Org("86.west")
    old, before = west.key, signed_grant(west, ACME, ids=(Identifier.parse("86.west/a"),), issued_at=NOW - 100)
    west.rotate(NOW - 50)
    assert papers.verify_grant(before, west.record, now=NOW)
    late = signed_grant(west, ACME, ids=(Identifier.parse("86.west/a"),), issued_at=NOW - 49, key=old)
    with pytest.raises(BadSignature):
        papers.verify_grant(late, west.record, now=NOW)


# Requests, denials, revocations, deletions.

REQUEST = AccessRequest(bytes(16), ACME.prefix, TRIAL, (Operation.FETCH,), (HEALTH,), "please", None, NOW)
DENIAL = Denial(bytes(32), NORTH.prefix, "no", NOW)
REVOCATION = Revocation(bytes(32), NORTH.prefix, "over", NOW)
DELETION = Deletion(NORTH.prefix, ACME.prefix, TRIAL, 1, bytes(32), "expired", NOW)

SINGLE: dict[str, tuple[Any, PayloadType, Callable[[Any], bytes], Callable[..., Any], Org, str]] = {
    "request": (
        REQUEST, PayloadType.REQUEST, wire_papers.encode_request,
        lambda envelope, record, now=None: papers.verify_request(envelope, record, now or NOW), ACME, "issued_at",
    ),
    "denial": (DENIAL, PayloadType.DENIAL, wire_papers.encode_denial, papers.verify_denial, NORTH, "issued_at"),
    "revocation": (
        REVOCATION, PayloadType.REVOCATION, wire_papers.encode_revocation, papers.verify_revocation, NORTH, "issued_at",
    ),
    "deletion": (
        DELETION, PayloadType.DELETION, wire_papers.encode_deletion, papers.verify_deletion, ACME, "deleted_at",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", SINGLE)
def test_a_paper_of_one_side_is_believed_with_its_signers_key_alone(name: str) -> None:
    paper, kind, encode, verify, signer, _ = SINGLE[name]
    assert verify(sign(kind, encode(paper), signer.key), signer.record, now=NOW) == paper
    other = next(each for each in (NORTH, ACME) if each is not signer)
    with pytest.raises(BadSignature):
        verify(sign(kind, encode(paper), other.key), signer.record, now=NOW)
    with pytest.raises(WrongContent, match="was offered as one of"):
        verify(sign(kind, encode(paper), other.key), other.record, now=NOW)
    wrong = PayloadType.RECEIPT
    with pytest.raises(BadSignature, match="was offered as one for"):
        verify(sign(wrong, encode(paper), signer.key), signer.record, now=NOW)


@pytest.mark.parametrize("name", SINGLE)
def test_a_paper_that_is_dated_in_the_future_is_refused(name: str) -> None:
    paper, kind, encode, verify, signer, date = SINGLE[name]
    for ahead, believed in ((limits.CLOCK_SKEW, True), (limits.CLOCK_SKEW + 1, False)):
        envelope = sign(kind, encode(replace(paper, **{date: NOW + ahead})), signer.key)
        if believed:
            verify(envelope, signer.record, now=NOW)
        else:
            with pytest.raises(WrongContent, match="in the future"):
                verify(envelope, signer.record, now=NOW)


def test_who_made_a_grant_may_end_it_and_so_may_the_owner() -> None:
    link = papers.verify_grant(LINK, ACME.record)
    assert papers.may_revoke(replace(REVOCATION, issuer=ACME.prefix), link)
    assert papers.may_revoke(replace(REVOCATION, issuer=NORTH.prefix), link)
    assert not papers.may_revoke(replace(REVOCATION, issuer=THIRD.prefix), link)


# Receipts.

RECEIPT = Receipt(
    bytes(16), NORTH.prefix, ACME.prefix, TRIAL, 1, bytes(32), ROOT.digest, (HEALTH,), (Delivered(0, 1),), 100,
    NOW - 10, NOW,
)  # fmt: skip


def receipt(*signers: Org, **changes: Any) -> Envelope:
    return sign(
        PayloadType.RECEIPT, wire_papers.encode_receipt(replace(RECEIPT, **changes)), *(each.key for each in signers)
    )


def test_a_receipt_says_who_of_the_two_signed_it() -> None:
    both = frozenset({NORTH.prefix, ACME.prefix})
    assert papers.verify_receipt(receipt(ACME, NORTH), NORTH.record, ACME.record, now=NOW) == (RECEIPT, both)
    assert papers.verify_receipt(receipt(ACME), NORTH.record, ACME.record)[1] == {ACME.prefix}
    assert papers.verify_receipt(receipt(NORTH), NORTH.record, ACME.record)[1] == {NORTH.prefix}
    assert papers.verify_receipt(receipt(ACME, NORTH), None, ACME.record)[1] == {ACME.prefix}
    assert papers.verify_receipt(receipt(ACME, NORTH), NORTH.record, None)[1] == {NORTH.prefix}


def forged() -> Envelope:
    """The owner's signature of another receipt under the consumer's of this one."""
    mine, other = receipt(ACME), receipt(NORTH, unique_bytes=1)
    return replace(mine, signatures=(*mine.signatures, *other.signatures))


@pytest.mark.parametrize(
    ("envelope", "owner", "consumer", "error", "why"),
    [
        (receipt(THIRD), NORTH, ACME, BadSignature, "neither of the two"),
        (receipt(), NORTH, ACME, BadSignature, "neither of the two"),
        (receipt(ACME, THIRD), NORTH, ACME, BadSignature, "of neither of the two"),
        (forged(), NORTH, ACME, BadSignature, "of neither of the two"),
        (receipt(ACME, ACME), NORTH, ACME, BadSignature, "of neither of the two"),
        (receipt(ACME), NORTH, None, BadSignature, "neither of the two"),
        (receipt(ACME, NORTH), THIRD, ACME, WrongContent, "was offered as one of 86.third"),
        (receipt(ACME, NORTH), ACME, NORTH, WrongContent, "was offered as one of"),
        (receipt(ACME, NORTH, ended_at=NOW + limits.CLOCK_SKEW + 1), NORTH, ACME, WrongContent, "in the future"),
        (replace(receipt(ACME, NORTH), payload_type=PayloadType.GRANT.value), NORTH, ACME, BadSignature, "offered as"),
        (replace(receipt(ACME, NORTH), payload=b"\x0a"), NORTH, ACME, WrongContent, "does not parse"),
    ],
)
def test_a_receipt_that_cannot_be_believed_is_refused(
    envelope: Envelope, owner: Org | None, consumer: Org | None, error: type[HanseError], why: str
) -> None:
    with pytest.raises(error, match=why):
        papers.verify_receipt(envelope, owner.record if owner else None, consumer.record if consumer else None, now=NOW)


@pytest.mark.parametrize(
    "changes", [{"unique_bytes": 99}, {"ended_at": NOW - 1}, {"consumer": THIRD.prefix}, {"grant": b""}]
)
def test_a_receipt_that_was_altered_after_it_was_signed_is_refused(changes: dict[str, Any]) -> None:
    altered = wire_papers.encode_receipt(replace(RECEIPT, **changes))
    with pytest.raises((BadSignature, WrongContent)):
        papers.verify_receipt(replace(receipt(ACME, NORTH), payload=altered), NORTH.record, ACME.record)


def test_a_keyid_that_lies_is_no_signature() -> None:
    genuine = receipt(ACME)
    named = (Signature(str(NORTH.key.public.key_id), genuine.signatures[0].sig),)
    with pytest.raises(BadSignature):
        papers.verify_receipt(replace(genuine, signatures=named), NORTH.record, ACME.record)
