"""Who may read what: the table of decisions, and what must hold of all."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.record import AccessMode
from hanse.model.terms import Operation, Party, Terms
from node.policy import Asked, Caller, Decision, Policies

NORTH, ACME, EAST = Prefix("86.north"), Prefix("86.acme"), Prefix("86.east")
KEY, OTHER = KeyId("0" * 32), KeyId("1" * 32)

prefixes = st.sampled_from([NORTH, ACME, EAST, Prefix("86.acme.lab")])
keys = st.sampled_from([KEY, OTHER])
entries = st.builds(Party, prefixes, st.none() | keys)
parties = st.lists(entries, max_size=5).map(tuple)


def of(everyone: bool, named: tuple[Party, ...]) -> Terms:
    return Terms.opened() if everyone else Terms.allowing(map(str, named))


def decide(terms: Terms | None, caller: Caller, *, owner: Prefix, unlisted: bool) -> Decision:
    asked = Asked(caller, Operation.FETCH, Identifier.of(owner, "trial"), 1_800_000_000)
    return Policies().decide(asked, terms, owner=owner, unlisted=unlisted)


callers = st.builds(Caller, prefixes, keys)


@pytest.mark.parametrize(
    ("terms", "caller", "unlisted", "allowed", "visible"),
    [
        (Terms(), Caller(NORTH, KEY), False, True, True),
        (Terms(), Caller(NORTH, KEY), True, True, True),
        (Terms(), Caller(ACME, KEY), False, False, True),
        (Terms(), Caller(ACME, KEY), True, False, False),
        (Terms.opened(), Caller(ACME, KEY), False, True, True),
        (Terms.opened(), Caller(ACME, KEY), True, True, True),
        (Terms.allowing(["86.acme"]), Caller(ACME, KEY), True, True, True),
        (Terms.allowing(["86.acme"]), Caller(EAST, KEY), False, False, True),
        (Terms.allowing(["86.acme"]), Caller(EAST, KEY), True, False, False),
        (Terms.allowing(["86.acme"]), Caller(Prefix("86.acme.lab"), KEY), False, False, True),
        (Terms.allowing([f"86.acme#{KEY}"]), Caller(ACME, KEY), False, True, True),
        (Terms.allowing([f"86.acme#{KEY}"]), Caller(ACME, OTHER), False, False, True),
        (Terms.allowing([f"86.acme#{KEY}"]), Caller(ACME, OTHER), True, False, False),
        (Terms.allowing([f"86.acme#{KEY}", f"86.acme#{OTHER}"]), Caller(ACME, OTHER), False, True, True),
        (None, Caller(ACME, KEY), False, False, False),
        (None, Caller(NORTH, KEY), False, False, False),
    ],
)
def test_the_table_of_decisions(
    terms: Terms | None, caller: Caller, unlisted: bool, allowed: bool, visible: bool
) -> None:
    decision = decide(terms, caller, owner=NORTH, unlisted=unlisted)
    assert (decision.allowed, decision.visible) == (allowed, visible)
    assert decision.why


@given(parties, callers, st.booleans(), st.data())
def test_removing_an_entry_never_allows_more(
    named: tuple[Party, ...], caller: Caller, unlisted: bool, data: st.DataObject
) -> None:
    before = decide(of(False, named), caller, owner=NORTH, unlisted=unlisted)
    kept = tuple(entry for entry in named if data.draw(st.booleans()))
    after = decide(of(False, kept), caller, owner=NORTH, unlisted=unlisted)
    assert before.allowed >= after.allowed
    assert before.visible >= after.visible


@given(st.booleans(), parties, callers, st.booleans())
def test_whoever_is_allowed_is_named_or_the_owner_or_the_object_is_open(
    everyone: bool, entries: tuple[Party, ...], caller: Caller, unlisted: bool
) -> None:
    decision = decide(of(everyone, entries), caller, owner=NORTH, unlisted=unlisted)
    named = any(e.prefix == caller.prefix and e.key_id in (None, caller.key_id) for e in entries)
    assert decision.allowed == (caller.prefix == NORTH or everyone or named)


@given(callers)
def test_to_a_stranger_an_unlisted_object_and_no_object_look_alike(caller: Caller) -> None:
    absent = decide(None, caller, owner=Prefix("86.south"), unlisted=False)
    hidden = decide(Terms(), caller, owner=Prefix("86.south"), unlisted=True)
    assert (absent.allowed, absent.visible) == (hidden.allowed, hidden.visible) == (False, False)


@given(entries)
def test_an_entry_survives_its_text(entry: Party) -> None:
    assert Party.parse(str(entry)) == entry


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is not a prefix"),
        ("#" + "0" * 32, "is not a prefix"),
        ("86.acme#", "no key id after the #"),
        ("86.acme#12", "is not a key id"),
        ("86.acme#" + "g" * 32, "is not a key id"),
        ("86.acme/x", "is not a prefix"),
        ("*", "is not a prefix"),
        ("86.acme ", "is not a prefix"),
    ],
)
def test_what_is_no_entry_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        Party.parse(text)


def test_open_and_allowed_contradict_each_other() -> None:
    with pytest.raises(InvalidInput, match="not both"):
        Terms.chosen(AccessMode.OPEN, ["86.acme"])


def test_an_entry_given_twice_counts_once() -> None:
    assert Terms.allowing(["86.acme", "86.ACME"]).parties == (Party(ACME),)
