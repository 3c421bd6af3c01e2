"""What a person's yes means: never more than was asked, and no duty of the terms is waived."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput, NotPermitted
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import AccessRequest, Grant
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party, Permission, Terms
from node.granting import answers, approved, bound_key, check_askable
from node.policy import Caller

NOW = 1_800_000_000
ACME = Caller(Prefix("86.acme"), KeyId("a" * 32))
HEALTH, DISEASE, OTHER = Purpose("health-research"), Purpose("disease-specific-research"), Purpose("marketing")
BOTH = (Operation.DESCRIBE, Operation.FETCH)
REQUEST = AccessRequest(bytes(16), ACME.prefix, Identifier.parse("86.north/t"), BOTH, (HEALTH,), "", None, NOW)
DELETE = Duty(DutyKind.DELETE_AFTER, 60)
MANUAL = Permission((), Conditions(purposes=(HEALTH,), max_fetches=7, duties=(DELETE,)), automatic=False)
numbers = st.none() | st.integers(1, 100)
moments = st.none() | st.integers(NOW + 1, NOW + 100)


@given(numbers, numbers, moments, moments, numbers, numbers, moments, st.sampled_from([HEALTH, DISEASE, OTHER]))
def test_a_yes_is_within_what_was_asked_what_was_said_and_what_the_terms_permit(
    fetches: int | None,
    size: int | None,
    ends: int | None,
    until: int | None,
    max_fetches: int | None,
    max_bytes: int | None,
    wanted: int | None,
    purpose: Purpose,
) -> None:
    permitted = Conditions(
        purposes=(HEALTH,), valid_until=ends, max_fetches=fetches, max_bytes=size, duties=(DELETE,), pass_on=True
    )
    terms = Terms(permissions=(Permission((), permitted, automatic=False),))
    request = replace(REQUEST, purposes=(purpose,), valid_until=wanted)
    found = approved(terms, ACME, request, NOW, until=until, max_fetches=max_fetches, max_bytes=max_bytes)
    said = Conditions(valid_until=until, max_fetches=max_fetches, max_bytes=max_bytes, pass_on=True)
    asked = Conditions(purposes=(purpose,), valid_until=wanted, pass_on=True)
    assert found.is_within(said)
    assert found.is_within(asked)
    if purpose != OTHER:
        assert found.is_within(permitted)
    assert DELETE in found.duties


def test_a_yes_that_the_terms_know_nothing_of_gives_what_was_asked_with_all_their_duties() -> None:
    found = approved(Terms(permissions=(MANUAL,)), ACME, replace(REQUEST, purposes=(OTHER,)), NOW)
    assert found == Conditions(purposes=(OTHER,), duties=(DELETE,))
    assert not found.pass_on


@pytest.mark.parametrize(("wanted", "until"), [(NOW, None), (None, NOW), (NOW + 1, NOW - 1)])
def test_a_yes_for_a_time_that_is_over_is_none(wanted: int | None, until: int | None) -> None:
    with pytest.raises(InvalidInput, match="over already"):
        approved(Terms(), ACME, replace(REQUEST, valid_until=wanted), NOW, until=until)


def test_compute_only_cannot_be_asked_to_be_fetched() -> None:
    terms = Terms(AccessMode.COMPUTE_ONLY)
    check_askable(terms, replace(REQUEST, operations=(Operation.DESCRIBE,)))
    check_askable(Terms(), REQUEST)
    with pytest.raises(NotPermitted, match="compute only"):
        check_askable(terms, REQUEST)


@pytest.mark.parametrize(
    ("parties", "bound"),
    [
        ((), False),
        ((Party(ACME.prefix),), False),
        ((Party(ACME.prefix, ACME.key_id),), True),
        ((Party(ACME.prefix, ACME.key_id), Party(ACME.prefix)), False),
        ((Party(Prefix("86.third"), KeyId("b" * 32)),), False),
    ],
)
def test_a_grant_is_bound_to_a_key_where_the_terms_name_one_only(parties: tuple[Party, ...], bound: bool) -> None:
    assert bound_key(Terms(permissions=(Permission(parties),)), ACME) == (ACME.key_id if bound else None)


def test_an_earlier_grant_answers_the_same_question_only() -> None:
    given = Conditions(BOTH, (HEALTH,), valid_until=NOW + 10)
    grant = Grant(
        bytes(16), Prefix("86.north"), ACME.prefix, None, (REQUEST.id,), given, bytes(32), b"", NOW
    )  # fmt: skip
    assert answers(grant, REQUEST, ACME, NOW)
    assert answers(grant, replace(REQUEST, operations=(Operation.FETCH,)), ACME, NOW)
    assert not answers(grant, REQUEST, ACME, NOW + 10)
    assert not answers(grant, replace(REQUEST, purposes=(DISEASE,)), ACME, NOW)
    assert not answers(grant, replace(REQUEST, id=Identifier.parse("86.north/u")), ACME, NOW)
    assert not answers(replace(grant, to=Prefix("86.third")), REQUEST, ACME, NOW)
    assert not answers(replace(grant, to_key=KeyId("b" * 32)), REQUEST, ACME, NOW)
    narrow = replace(grant, conditions=replace(given, operations=(Operation.DESCRIBE,)))
    assert not answers(narrow, REQUEST, ACME, NOW)
