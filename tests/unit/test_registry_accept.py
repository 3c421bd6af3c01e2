"""May this envelope be stored? A table of what is refused, and why."""

from dataclasses import replace

import pytest

from hanse import wire
from hanse.model.envelope import Envelope, PayloadType, Signature
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import IdentityKey, NodeEndpoint, OrganizationRecord
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.signing import SigningKey, sign
from hanse.trust import VerifiedOrganization
from registry.accept import (
    Candidate,
    Code,
    OrganizationCandidate,
    Outcome,
    Stored,
    decide,
    decide_organization,
    examine,
)

NORTH, NOW = Prefix("86.north"), 1_700_000_000
OLD, KEY = SigningKey.generate(), SigningKey.generate()
ORGANIZATION = OrganizationRecord(
    NORTH, 2, bytes(32), "North", "", (IdentityKey(KEY.public, NOW), IdentityKey(OLD.public, NOW - 9, NOW)),
    (NodeEndpoint(None, b""),), NOW,
)  # fmt: skip
RECORD = ObjectRecord(
    Identifier.parse("86.north/x1"), 1, b"", "Dataset", Status.ACTIVE, Metadata(title="Trial"), Summary(1, 2),
    Access(AccessMode.OPEN), ("fetch",), bytes(32), NOW, 300,
)  # fmt: skip


RETIRED = IdentityKey(KEY.public, 1, 2)


def organization(record=ORGANIZATION, *keys):
    envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), *(keys or (KEY,)))
    return VerifiedOrganization(record, envelope, envelope.digest)


OWNER = organization()


def signed(record=RECORD, key=KEY, kind=PayloadType.RECORD):
    return sign(kind, wire.encode_record(record), key)


def test_given_a_good_record_then_it_is_a_candidate():
    found = examine(signed(), NORTH, OWNER, NOW)
    assert isinstance(found, Candidate)
    assert found.document is not None
    assert found.document.title == "trial"


def test_given_a_tombstone_then_nothing_of_it_is_indexed():
    found = examine(signed(replace(RECORD, status=Status.WITHDRAWN)), NORTH, OWNER, NOW)
    assert isinstance(found, Candidate)
    assert found.document is None


@pytest.mark.parametrize(
    ("envelope", "said"),
    [
        (signed(key=SigningKey.generate()), "not signed by 86.north"),
        (signed(key=OLD), "signed with a previous key"),
        (signed(replace(RECORD, id=Identifier.parse("86.south/x1"))), "86.north cannot sign for 86.south/x1"),
        (signed(replace(RECORD, id=Identifier.parse("86.north.sub/x1"))), "cannot sign for"),
        (signed(kind=PayloadType.MANIFEST), "only object records"),
        (signed(kind=PayloadType.PASS), "only object records"),
        (Envelope(PayloadType.RECORD, b"\xff", ()), "does not parse"),
        (Envelope(PayloadType.RECORD, signed().payload, ()), "not signed"),
        (Envelope(PayloadType.RECORD, signed().payload, (Signature(str(KEY.public.key_id), bytes(64)),)), "not signed"),
        (Envelope(PayloadType.ORGANIZATION, b"\xff", ()), "does not parse"),
        (
            organization(replace(ORGANIZATION, prefix=Prefix("86.south"))).envelope,
            "cannot publish the record of 86.south",
        ),
        (Envelope("", b"", ()), "only object records"),
    ],
)
def test_refused(envelope, said):
    found = examine(envelope, NORTH, OWNER, NOW)
    assert isinstance(found, Outcome)
    assert found.code is Code.REFUSED
    assert said in found.message
    assert found.digest == envelope.digest


def test_what_is_dated_in_the_future_is_worth_trying_again():
    found = examine(signed(replace(RECORD, issued_at=NOW + 500)), NORTH, OWNER, NOW)
    assert isinstance(found, Outcome)
    assert found.code is Code.TRY_AGAIN
    assert "dated in the future" in found.message


def candidate(version=1, previous=b""):
    found = examine(signed(replace(RECORD, version=version, previous=previous)), NORTH, OWNER, NOW)
    assert isinstance(found, Candidate)
    return found


FIRST = candidate()


@pytest.mark.parametrize(
    ("new", "stored", "known", "code", "said"),
    [
        (FIRST, None, None, Code.ACCEPTED, ""),
        (FIRST, Stored(1, FIRST.digest, False), FIRST.digest, Code.ACCEPTED, ""),
        (FIRST, Stored(5, b"5", False), FIRST.digest, Code.ACCEPTED, ""),
        (FIRST, Stored(5, b"5", True), FIRST.digest, Code.ACCEPTED, ""),
        (FIRST, Stored(1, b"other", False), b"other", Code.CONFLICT, "another version 1"),
        (candidate(2, FIRST.digest), Stored(1, FIRST.digest, False), None, Code.ACCEPTED, ""),
        (candidate(2, bytes(32)), Stored(1, FIRST.digest, False), None, Code.CONFLICT, "does not continue"),
        (candidate(2, FIRST.digest), None, None, Code.CONFLICT, "does not follow version 0"),
        (candidate(3, FIRST.digest), Stored(1, FIRST.digest, False), None, Code.CONFLICT, "does not follow version 1"),
        (candidate(2, FIRST.digest), Stored(1, FIRST.digest, True), None, Code.REFUSED, "was withdrawn"),
        (candidate(3, FIRST.digest), Stored(1, FIRST.digest, True), None, Code.REFUSED, "was withdrawn"),
    ],
    ids=["first", "again", "old-again", "old-of-withdrawn", "another", "next", "unconnected", "nothing-before", "gap",
         "withdrawn", "gap-after-withdrawn"],
)  # fmt: skip
def test_decide(new, stored, known, code, said):
    outcome = decide(new, stored, known)
    assert outcome.code is code
    assert said in outcome.message
    assert outcome.digest == new.digest


NEXT = replace(ORGANIZATION, version=3, previous=OWNER.digest)


@pytest.mark.parametrize(
    ("envelope", "known", "code", "said"),
    [
        (OWNER.envelope, OWNER.digest, Code.ACCEPTED, ""),
        (organization(replace(ORGANIZATION, display_name="X")).envelope, OWNER.digest, Code.CONFLICT, "another"),
        (organization(replace(NEXT, version=4)).envelope, None, Code.CONFLICT, "does not follow 2"),
        (organization(replace(NEXT, previous=bytes(32))).envelope, None, Code.REFUSED, "does not continue"),
        (organization(NEXT, SigningKey.generate()).envelope, None, Code.REFUSED, "not signed by the key"),
        (
            organization(replace(NEXT, keys=(IdentityKey(OLD.public, 2), RETIRED)), OLD).envelope,
            None, Code.REFUSED, "did not sign",
        ),
    ],
    ids=["same", "another", "gap", "unconnected", "signed-by-another", "rotated-by-itself"],
)  # fmt: skip
def test_organization_records_that_are_not_stored(envelope, known, code, said):
    found = examine(envelope, NORTH, OWNER, NOW)
    assert isinstance(found, OrganizationCandidate)
    outcome = decide_organization(found, NORTH, OWNER, known, NOW)
    assert isinstance(outcome, Outcome)
    assert outcome.code is code
    assert said in outcome.message


def test_given_the_next_organization_record_then_it_is_verified():
    found = examine(organization(NEXT).envelope, NORTH, OWNER, NOW)
    assert isinstance(found, OrganizationCandidate)
    decided = decide_organization(found, NORTH, OWNER, None, NOW)
    assert isinstance(decided, VerifiedOrganization)
    assert decided.record.version == 3
