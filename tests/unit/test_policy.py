"""Who may read what: the rule's table, and what must hold of every rule."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from node.policy import Allowed, Caller, Rule, decide

NORTH, ACME, EAST = Prefix("86.north"), Prefix("86.acme"), Prefix("86.east")
KEY, OTHER = KeyId("0" * 32), KeyId("1" * 32)

prefixes = st.sampled_from([NORTH, ACME, EAST, Prefix("86.acme.lab")])
keys = st.sampled_from([KEY, OTHER])
entries = st.builds(Allowed, prefixes, st.none() | keys)
rules = st.builds(Rule, st.booleans(), st.lists(entries, max_size=5).map(tuple))
callers = st.builds(Caller, prefixes, keys)


@pytest.mark.parametrize(
    ("rule", "caller", "unlisted", "allowed", "visible"),
    [
        (Rule(), Caller(NORTH, KEY), False, True, True),
        (Rule(), Caller(NORTH, KEY), True, True, True),
        (Rule(), Caller(ACME, KEY), False, False, True),
        (Rule(), Caller(ACME, KEY), True, False, False),
        (Rule(open=True), Caller(ACME, KEY), False, True, True),
        (Rule(open=True), Caller(ACME, KEY), True, True, True),
        (Rule.parse(["86.acme"]), Caller(ACME, KEY), True, True, True),
        (Rule.parse(["86.acme"]), Caller(EAST, KEY), False, False, True),
        (Rule.parse(["86.acme"]), Caller(EAST, KEY), True, False, False),
        (Rule.parse(["86.acme"]), Caller(Prefix("86.acme.lab"), KEY), False, False, True),
        (Rule.parse([f"86.acme#{KEY}"]), Caller(ACME, KEY), False, True, True),
        (Rule.parse([f"86.acme#{KEY}"]), Caller(ACME, OTHER), False, False, True),
        (Rule.parse([f"86.acme#{KEY}"]), Caller(ACME, OTHER), True, False, False),
        (Rule.parse([f"86.acme#{KEY}", f"86.acme#{OTHER}"]), Caller(ACME, OTHER), False, True, True),
        (None, Caller(ACME, KEY), False, False, False),
        (None, Caller(NORTH, KEY), False, False, False),
    ],
)
def test_the_table_of_decisions(
    rule: Rule | None, caller: Caller, unlisted: bool, allowed: bool, visible: bool
) -> None:
    decision = decide(rule, caller, owner=NORTH, unlisted=unlisted)
    assert (decision.allowed, decision.visible) == (allowed, visible)
    assert decision.why


@given(rules, callers, st.booleans(), st.data())
def test_removing_an_entry_never_allows_more(rule: Rule, caller: Caller, unlisted: bool, data: st.DataObject) -> None:
    before = decide(rule, caller, owner=NORTH, unlisted=unlisted)
    kept = tuple(entry for entry in rule.allowed if data.draw(st.booleans()))
    after = decide(Rule(rule.open, kept), caller, owner=NORTH, unlisted=unlisted)
    assert before.allowed >= after.allowed
    assert before.visible >= after.visible


@given(rules, callers, st.booleans())
def test_whoever_is_allowed_is_named_or_the_owner_or_the_rule_is_open(
    rule: Rule, caller: Caller, unlisted: bool
) -> None:
    decision = decide(rule, caller, owner=NORTH, unlisted=unlisted)
    named = any(e.prefix == caller.prefix and e.key_id in (None, caller.key_id) for e in rule.allowed)
    assert decision.allowed == (caller.prefix == NORTH or rule.open or named)


@given(callers)
def test_to_a_stranger_an_unlisted_object_and_no_object_look_alike(caller: Caller) -> None:
    absent = decide(None, caller, owner=Prefix("86.south"), unlisted=False)
    hidden = decide(Rule(), caller, owner=Prefix("86.south"), unlisted=True)
    assert (absent.allowed, absent.visible) == (hidden.allowed, hidden.visible) == (False, False)


@given(entries)
def test_an_entry_survives_its_text(entry: Allowed) -> None:
    assert Allowed.parse(str(entry)) == entry


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
        Allowed.parse(text)


def test_open_and_allowed_contradict_each_other() -> None:
    with pytest.raises(InvalidInput, match="not both"):
        Rule.parse(["86.acme"], open=True)


def test_an_entry_given_twice_counts_once() -> None:
    assert Rule.parse(["86.acme", "86.ACME"]).allowed == (Allowed(ACME),)
