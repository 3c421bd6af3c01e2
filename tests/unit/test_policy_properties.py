"""What must hold of every decision: a plain reading agrees with Cedar; less terms, less grants, never allow more."""

import itertools
import os
import subprocess
import sys
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import cedarpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.errors import GrantNeeded, InvalidInput, NotPermitted, UsedUp
from hanse.model.identifier import Identifier, Prefix
from hanse.model.papers import AccessRequest, Grant
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, Operation, Party, Permission, Terms
from node.cedar import SCHEMA, compile_grants, compile_terms
from node.own_policies import parse
from node.policy import PREPARED, Asked, Caller, Decision, Policies, Usage, context_of, grantable
from tests.conditions import IDS, KEYS, NORTH, NOW, PEERS, PURPOSES, conditions, permissions, several, some_terms, times
from tests.deciding import decided
from tests.deciding import questions as random_questions

ROOT = Path(__file__).resolve().parent.parent.parent
ACME, EAST = PEERS[0], PEERS[1]
TRIAL = IDS[0]
POLICIES = Policies()

callers = st.builds(Caller, st.sampled_from(PEERS), st.sampled_from(KEYS))
usages = st.builds(Usage, st.integers(0, 4), st.integers(0, 4))


def grant(issuer: Prefix, to: Prefix, given: Conditions, ids: tuple[Identifier, ...] = IDS, **more: object) -> Grant:
    made = Grant(os.urandom(16), issuer, to, None, ids, given, b"", b"", NOW)
    return replace(made, **more)  # type: ignore[arg-type]


@st.composite
def chains(draw: st.DrawFn, caller: Caller) -> tuple[Grant, ...]:
    """Mostly good ones, of one or two links."""
    first = draw(conditions())
    ids = draw(st.sampled_from([IDS, IDS, IDS[:1]]))
    key = draw(st.sampled_from([None, None, caller.key_id, *KEYS]))
    if draw(st.booleans()):
        return (grant(NORTH, caller.prefix, first, ids, to_key=key),)
    broker = draw(st.sampled_from(PEERS))
    narrower = draw(st.sampled_from([replace(first, max_fetches=1), first]) | conditions())
    return (
        grant(NORTH, broker, first, ids),
        grant(broker, draw(st.sampled_from([caller.prefix, caller.prefix, *PEERS])), narrower, IDS, to_key=key),
    )


@st.composite
def questions(draw: st.DrawFn) -> Asked:
    caller = draw(callers)
    chain = draw(st.just(()) | chains(caller))
    return Asked(
        caller,
        draw(st.sampled_from(list(Operation))),
        draw(st.sampled_from(IDS)),
        draw(times),
        chain[-1] if chain else None,
        chain,
        draw(st.just(()) | st.tuples(*[usages] * len(chain))) if chain else (),
        begun=draw(st.booleans()),
    )


def decide(asked: Asked, terms: Terms, unlisted: bool = False, policies: Policies = POLICIES) -> Decision:
    return policies.decide(asked, terms, owner=NORTH, unlisted=unlisted)


# A plain reading.


def holds(chain: tuple[Grant, ...], caller: Caller, id: Identifier) -> bool:
    used = chain[-1]
    return (
        chain[0].issuer == NORTH
        and all(id in each.ids for each in chain)
        and used.to == caller.prefix
        and used.to_key in (None, caller.key_id)
        and all(
            below.issuer == above.to and above.conditions.pass_on and below.is_within(above)
            for above, below in pairwise(chain)
        )
    )


def granted(asked: Asked) -> bool:
    if not asked.chain or not holds(asked.chain, asked.caller, asked.id):
        return False
    for link, used in zip(asked.chain, asked.usage or [Usage()] * len(asked.chain), strict=True):
        given = link.conditions
        left = (given.max_fetches is None or used.fetches < given.max_fetches) and (
            given.max_bytes is None or used.bytes < given.max_bytes
        )
        if asked.operation not in given.operations or not given.holds_at(asked.now):
            return False
        if asked.operation is Operation.FETCH and not asked.begun and not left:
            return False
    return True


def read_plainly(asked: Asked, terms: Terms) -> bool:
    if terms.mode is AccessMode.COMPUTE_ONLY and asked.operation is Operation.FETCH:
        return False
    unasked = any(
        each.automatic
        and each.conditions.unconditional
        and each.concerns(asked.caller.prefix, asked.caller.key_id)
        and asked.operation in each.conditions.operations
        and each.conditions.holds_at(asked.now)
        for each in terms.permissions
    )
    return unasked or granted(asked)


@settings(max_examples=400, deadline=None)
@given(some_terms(), questions(), st.booleans())
def test_cedar_decides_as_the_terms_read(terms: Terms, asked: Asked, unlisted: bool) -> None:
    decision = decide(asked, terms, unlisted)
    assert decision.allowed == read_plainly(asked, terms)
    assert decision.why
    assert decision.visible or (unlisted and not decision.allowed)
    assert bool(decision.policy) >= decision.allowed


def test_cedar_decides_thousands_of_questions_as_they_read() -> None:
    by_chain = [0, 0, 0, 0]
    for asked, terms, unlisted in random_questions(11, 4000):
        decision = decide(asked, terms, unlisted)
        if asked.caller.prefix != NORTH:
            assert decision.allowed == read_plainly(asked, terms), (asked, terms, decision)
            by_chain[len(asked.chain)] += decision.policy.startswith("grant-")
    assert min(by_chain[1:]) > 10  # chains of every length were decisive


def test_every_link_of_a_chain_is_counted_by_itself() -> None:
    above = grant(NORTH, EAST, Conditions(pass_on=True, max_fetches=3))
    below = grant(EAST, ACME, Conditions(max_fetches=2))
    asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW, below, (above, below))
    assert decide(replace(asked, usage=(Usage(2), Usage(1))), Terms()).allowed
    assert not decide(replace(asked, usage=(Usage(3), Usage(1))), Terms()).allowed
    assert not decide(replace(asked, usage=(Usage(1), Usage(2))), Terms()).allowed


@settings(max_examples=200, deadline=None)
@given(some_terms(), questions())
def test_what_is_compiled_and_asked_keeps_to_the_schema(terms: Terms, asked: Asked) -> None:
    policies = [*compile_terms(terms, asked.id), *compile_grants(asked.chain, ["ab" * 8] * 9, asked.id)]
    text = "".join(each.text for each in policies)
    checked = cedarpy.validate_policies(text, SCHEMA)
    assert checked.validation_passed, checked.errors
    result = cedarpy.is_authorized(
        {
            "principal": {"type": "Hanse::Organization", "id": asked.caller.prefix.text},
            "action": {"type": "Hanse::Action", "id": asked.operation.value},
            "resource": {"type": "Hanse::Object", "id": asked.id.key},
            "context": context_of(asked, asked.chain),
        },
        text,
        [],
        SCHEMA,
    )
    assert result.diagnostics.errors == []


# Less never allows more.


def less(draw: st.DrawFn, given: Conditions) -> Conditions:
    """A part of the conditions made stricter, or one more."""

    def earlier(time: int | None) -> int:
        return NOW + 3 if time is None else time - 1

    ways = {
        "valid_until": earlier(given.valid_until),
        "valid_from": NOW - 3 if given.valid_from is None else given.valid_from + 1,
        "max_fetches": 4 if given.max_fetches is None else max(1, given.max_fetches - 1),
        "max_bytes": 4 if given.max_bytes is None else max(1, given.max_bytes - 1),
        "duties": (*given.duties, Duty.parse("delete-after=1h")),
        "operations": given.operations[:1],
        "pass_on": False,
        "purposes": given.purposes[:1] if given.purposes else (draw(st.sampled_from(PURPOSES)),),
    }
    name = draw(st.sampled_from(sorted(ways)))
    try:
        return replace(given, **{name: ways[name]})  # type: ignore[arg-type]
    except InvalidInput:  # it would end before it begins: nothing is left of it
        return replace(given, operations=given.operations[:1])


@st.composite
def weakened_terms(draw: st.DrawFn) -> tuple[Terms, Terms]:
    before = draw(some_terms())
    permissions = list(before.permissions)
    if permissions:
        place = draw(st.integers(0, len(permissions) - 1))
        chosen = permissions[place]
        way = draw(st.sampled_from(["remove", "condition", "party", "key", "manual"]))
        if way == "remove":
            del permissions[place]
        elif way == "condition":
            permissions[place] = replace(chosen, conditions=less(draw, chosen.conditions))
        elif way == "party":
            named = (
                chosen.parties[:-1]
                if len(chosen.parties) > 1
                else (
                    Party(
                        draw(st.sampled_from(PEERS)),
                    ),
                )
            )
            if len(chosen.parties) != 1:
                permissions[place] = replace(chosen, parties=named)
        elif way == "key" and chosen.parties:
            bound = replace(chosen.parties[0], key_id=chosen.parties[0].key_id or KEYS[0])
            permissions[place] = replace(chosen, parties=(bound, *chosen.parties[1:]))
        else:
            permissions[place] = replace(chosen, automatic=False)
    mode = before.mode
    if mode is AccessMode.OPEN:
        mode = AccessMode.ON_REQUEST  # which allows no more, and says no more than it is
    return before, Terms(mode, tuple(permissions))


@settings(max_examples=400, deadline=None)
@given(weakened_terms(), questions(), st.booleans())
def test_less_terms_never_allow_or_show_more(pair: tuple[Terms, Terms], asked: Asked, unlisted: bool) -> None:
    before, after = (decide(asked, each, unlisted) for each in pair)
    assert before.allowed >= after.allowed
    assert before.visible >= after.visible


@settings(max_examples=200, deadline=None)
@given(some_terms(), questions(), st.booleans())
def test_without_its_grant_nobody_may_more(terms: Terms, asked: Asked, unlisted: bool) -> None:
    without = replace(asked, grant=None, chain=(), usage=())
    assert decide(asked, terms, unlisted).allowed >= decide(without, terms, unlisted).allowed
    assert decide(asked, terms, unlisted).visible >= decide(without, terms, unlisted).visible


@settings(max_examples=400, deadline=None)
@given(some_terms(), questions().filter(lambda asked: asked.chain), st.data())
def test_a_grant_that_is_less_never_allows_more(terms: Terms, asked: Asked, data: st.DataObject) -> None:
    place = data.draw(st.integers(0, len(asked.chain) - 1))
    before = asked.chain[place]
    way = data.draw(st.sampled_from(["condition", "ids", "key"]))
    if way == "condition":
        after = replace(before, conditions=less(data.draw, before.conditions))
    elif way == "ids":
        after = replace(before, ids=before.ids[:1])
    else:
        after = replace(before, to_key=before.to_key or KEYS[0])
    chain = (*asked.chain[:place], after, *asked.chain[place + 1 :])
    # Unless the link below was outside of the one above, and now is not: then it is another chain.
    if holds(asked.chain, asked.caller, asked.id) or not holds(chain, asked.caller, asked.id):
        weaker = replace(asked, chain=chain, grant=chain[-1])
        assert decide(asked, terms).allowed >= decide(weaker, terms).allowed


@settings(max_examples=200, deadline=None)
@given(some_terms(), questions(), usages)
def test_more_used_never_allows_more(terms: Terms, asked: Asked, more: Usage) -> None:
    now = asked.usage or tuple(Usage() for _ in asked.chain)
    later = tuple(Usage(each.fetches + more.fetches, each.bytes + more.bytes) for each in now)
    assert decide(replace(asked, usage=now), terms).allowed >= decide(replace(asked, usage=later), terms).allowed


FORBIDDING = [
    "forbid (principal, action, resource);",
    'forbid (principal == Hanse::Organization::"86.acme", action, resource);',
    'forbid (principal, action == Hanse::Action::"fetch", resource) when { context.second < 40000 };',
    'forbid (principal, action, resource == Hanse::Object::"86.north/trial");',
    'forbid (principal, action, resource) when { context.purposes.contains("research-and-development") };',
    "forbid (principal, action, resource) unless { context has grant && context.grant.fetches < 2 };",
    "forbid (principal, action, resource) when { context.now * 9223372036854775807 > 3 };",
    "forbid (principal, action, resource) when { resource.unlisted };",
]


@settings(max_examples=200, deadline=None)
@given(some_terms(), questions(), st.booleans(), st.lists(st.sampled_from(FORBIDDING), min_size=1, unique=True))
def test_a_policy_of_the_owner_never_allows_or_shows_more(
    terms: Terms, asked: Asked, unlisted: bool, own: list[str]
) -> None:
    before, after = decide(asked, terms, unlisted), decide(asked, terms, unlisted, Policies(parse("\n".join(own), "f")))
    assert before.allowed >= after.allowed
    assert before.visible >= after.visible


# Within.


@settings(max_examples=600, deadline=None)
@given(conditions(), conditions(), st.data())
def test_what_is_within_never_allows_more(first: Conditions, wide: Conditions, data: st.DataObject) -> None:
    way = data.draw(st.sampled_from(["any two", "less", "more"]))
    narrow = first if way == "any two" else less(data.draw, wide)
    if way == "more":
        narrow, wide = wide, narrow
    if not narrow.is_within(wide):
        return
    caller = data.draw(callers)
    usage = (data.draw(usages),)
    asked = Asked(caller, data.draw(st.sampled_from(list(Operation))), TRIAL, data.draw(times), usage=usage)

    def under(given: Conditions) -> bool:
        one = grant(NORTH, caller.prefix, given)
        return decide(replace(asked, grant=one, chain=(one,)), Terms()).allowed

    assert under(wide) >= under(narrow)
    owed = [duty for duty in wide.duties if duty not in narrow.duties]
    assert all(duty.seconds and (narrow.delete_after or 0) <= duty.seconds for duty in owed)
    assert not narrow.pass_on or wide.pass_on


@pytest.mark.parametrize(
    ("part", "values"),
    [
        ("operations", [(Operation.DESCRIBE, Operation.FETCH), (Operation.DESCRIBE,), (Operation.FETCH,)]),
        ("valid_from", [None, NOW, NOW + 1]),
        ("valid_until", [None, NOW, NOW + 1]),
        ("max_fetches", [None, 1, 2]),
        ("max_bytes", [None, 1, 2]),
    ],
)
def test_of_two_that_differ_in_one_part_what_is_within_never_allows_more(part: str, values: list[object]) -> None:
    asked = [
        Asked(Caller(ACME, KEYS[0]), operation, TRIAL, now, usage=(Usage(used, used),))
        for operation in Operation
        for now in (NOW - 1, NOW, NOW + 1)
        for used in (0, 1, 2)
    ]

    def answers(value: object) -> list[bool]:
        one = grant(NORTH, ACME, Conditions(**{part: value}))  # type: ignore[arg-type]
        return [decide(replace(each, grant=one, chain=(one,)), Terms()).allowed for each in asked]

    for narrow, wide in itertools.product(values, values):
        less_or_equal = all(a <= b for a, b in zip(answers(narrow), answers(wide), strict=True))
        within = Conditions(**{part: narrow}).is_within(Conditions(**{part: wide}))  # type: ignore[arg-type]
        assert within == less_or_equal


@given(conditions(), st.data())
def test_within_holds_of_itself_and_goes_on_from_one_to_the_next(widest: Conditions, data: st.DataObject) -> None:
    middle = less(data.draw, widest)
    narrow = less(data.draw, middle)
    assert widest.is_within(widest)
    assert middle.is_within(widest)
    assert narrow.is_within(middle)
    assert narrow.is_within(widest)
    assert not widest.is_within(middle) or not middle.is_within(widest) or widest.holds_at(NOW) == middle.holds_at(NOW)


# What the terms grant by themselves.

requests = st.builds(
    AccessRequest,
    st.just(bytes(16)),
    st.sampled_from(PEERS),
    st.just(TRIAL),
    st.sampled_from([(Operation.DESCRIBE, Operation.FETCH), (Operation.FETCH,), (Operation.DESCRIBE,)]),
    st.lists(st.sampled_from(PURPOSES), max_size=2, unique=True).map(tuple),
    st.just(""),
    st.none() | times,
    times,
)


@settings(max_examples=400, deadline=None)
@given(some_terms(), requests, st.sampled_from(KEYS))
def test_what_is_granted_by_itself_is_within_an_automatic_permission_and_what_was_asked(
    terms: Terms, request: AccessRequest, key: object
) -> None:
    asker = Caller(request.consumer, KEYS[0] if key == KEYS[0] else KEYS[1])
    given = grantable(terms, asker, request)
    if given is None:
        return
    assert any(
        each.automatic and each.concerns(asker.prefix, asker.key_id) and given.is_within(each.conditions)
        for each in terms.permissions
    )
    assert given.operations == request.operations
    assert given.purposes == request.purposes
    assert request.valid_until is None or (given.valid_until or 0) <= request.valid_until


@pytest.mark.parametrize(
    ("purposes", "asked", "granted"),
    [
        (("research-and-development",), ("academic-research",), True),
        (("academic-research",), ("research-and-development",), False),
        (("academic-research",), ("academic-research", "commercial-research"), False),
        (("academic-research",), (), False),
        ((), ("academic-research",), True),
        (("audit of 2026",), ("audit of 2026",), True),
        (("audit of 2026",), ("Audit of 2026",), False),
    ],
)
def test_purposes_are_covered_by_themselves_and_by_broader_ones(
    purposes: tuple[str, ...], asked: tuple[str, ...], granted: bool
) -> None:
    terms = Terms(permissions=(Permission((), Conditions(purposes=tuple(map(Purpose.parse, purposes)))),))
    both = (Operation.DESCRIBE, Operation.FETCH)
    request = AccessRequest(bytes(16), ACME, TRIAL, both, tuple(map(Purpose.parse, asked)), "", None, NOW)
    assert (grantable(terms, Caller(ACME, KEYS[0]), request) is not None) == granted


# Errors, and what the caller is told.


@pytest.mark.parametrize(
    ("terms", "changes", "why", "error"),
    [
        (Terms(), {}, "not allowed", GrantNeeded),
        (Terms.allowing(["86.acme#" + "1" * 32]), {}, "allowed with another key only", GrantNeeded),
        (Terms(permissions=(Permission((), Conditions(max_fetches=3)),)), {}, "not without a grant", GrantNeeded),
        (Terms(permissions=(Permission(automatic=False),)), {}, "not without a grant", GrantNeeded),
        (Terms(permissions=(Permission((), Conditions(valid_until=NOW)),)), {}, "not at this time", GrantNeeded),
        (Terms(AccessMode.COMPUTE_ONLY), {}, "compute only", NotPermitted),
        (Terms(), {"max_fetches": 2}, "the grant is used up", UsedUp),
        (Terms(), {"max_bytes": 5}, "the grant is used up", UsedUp),
        (Terms(), {"valid_until": NOW}, "the grant is over", NotPermitted),
        (Terms(), {"valid_from": NOW + 1}, "the grant has not begun", NotPermitted),
        (Terms(), {"operations": (Operation.DESCRIBE,)}, "the grant does not allow to fetch", NotPermitted),
    ],
)
def test_a_refusal_says_why(terms: Terms, changes: dict[str, object], why: str, error: type[NotPermitted]) -> None:
    asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW)
    if changes:
        one = grant(NORTH, ACME, Conditions(**changes))  # type: ignore[arg-type]
        asked = replace(asked, grant=one, chain=(one,), usage=(Usage(2, 5),))
    decision = decide(asked, terms)
    assert (decision.allowed, decision.why, decision.error) == (False, why, error)


@pytest.mark.parametrize(
    ("chain", "why"),
    [
        ((grant(EAST, ACME, Conditions()),), "not a grant of the owner"),
        ((grant(NORTH, EAST, Conditions()),), "the grant is somebody else's"),
        ((grant(NORTH, ACME, Conditions(), to_key=KEYS[1]),), "granted to another key"),
        ((grant(NORTH, ACME, Conditions(), IDS[1:]),), "the grant is for other objects"),
        (
            (grant(NORTH, EAST, Conditions()), grant(EAST, ACME, Conditions())),
            "the grant is not within the one that it was narrowed from",
        ),
        (
            (grant(NORTH, EAST, Conditions(pass_on=True, max_fetches=2)), grant(EAST, ACME, Conditions(max_fetches=3))),
            "the grant is not within the one that it was narrowed from",
        ),
        (
            (grant(NORTH, EAST, Conditions(pass_on=True)), grant(PEERS[2], ACME, Conditions())),
            "the grant is not within the one that it was narrowed from",
        ),
        (
            (*[grant(NORTH, NORTH, Conditions(pass_on=True))] * 8, grant(NORTH, ACME, Conditions())),
            "narrowed too often",
        ),
    ],
)
def test_a_chain_that_is_none_gives_nothing_and_shows_nothing(chain: tuple[Grant, ...], why: str) -> None:
    asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW, chain[-1], chain)
    decision = decide(asked, Terms(), unlisted=True)
    assert (decision.allowed, decision.visible, decision.why) == (False, False, why)


def test_a_grant_opens_neither_what_is_compute_only_nor_more_than_its_description() -> None:
    one = grant(NORTH, ACME, Conditions())
    asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW, one, (one,))
    assert decide(asked, Terms()).allowed
    assert not decide(asked, Terms(AccessMode.COMPUTE_ONLY)).allowed
    assert decide(replace(asked, operation=Operation.DESCRIBE), Terms(AccessMode.COMPUTE_ONLY)).allowed


def test_the_decision_names_the_grant_by_which_it_was_made() -> None:
    one = grant(NORTH, ACME, Conditions())
    asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW, one, (one,), digests=(b"\xab" * 32,))
    decision = decide(asked, Terms())
    assert (decision.policy, decision.why) == ("grant-" + "ab" * 8, "granted: " + "ab" * 8)


def test_when_cedar_fails_nobody_gets_in(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    told: list[str] = []
    monkeypatch.setattr(cedarpy, "is_authorized", fail)
    decision = decide(
        Asked(Caller(ACME, KEYS[0]), Operation.FETCH, TRIAL, NOW), Terms.opened(), policies=Policies((), told.append)
    )
    assert not decision.allowed
    assert told == ["86.north/trial: RuntimeError: broken"]


# Text.


def test_the_same_terms_compile_to_the_same_text() -> None:
    terms = Terms(
        AccessMode.ON_REQUEST,
        (
            Permission((Party(ACME), Party(EAST, KEYS[1])), Conditions(valid_until=NOW)),
            Permission((), Conditions(max_fetches=3)),
        ),
    )
    assert [each.text for each in compile_terms(terms, IDS[1])] == [
        '@id("terms-1")\n'
        'permit (principal == Hanse::Organization::"86.acme", '
        'action in [Hanse::Action::"describe", Hanse::Action::"fetch"], '
        'resource == Hanse::Object::"86.north/sc\\"an\\\\ 7")\n'
        "when { context.now < 1800000000 };\n",
        '@id("terms-1")\n'
        'permit (principal == Hanse::Organization::"86.east", '
        'action in [Hanse::Action::"describe", Hanse::Action::"fetch"], '
        'resource == Hanse::Object::"86.north/sc\\"an\\\\ 7")\n'
        'when { context.key == "11111111111111111111111111111111" }\n'
        "when { context.now < 1800000000 };\n",
    ]


@given(permissions, st.permutations(list(Operation)))
def test_the_order_of_operations_makes_no_other_text(permission: Permission, order: list[Operation]) -> None:
    given = set(permission.conditions.operations)
    shuffled = tuple(each for each in order if each in given)
    other = replace(permission, conditions=replace(permission.conditions, operations=shuffled))
    assert compile_terms(Terms(permissions=(permission,)), TRIAL) == compile_terms(Terms(permissions=(other,)), TRIAL)


@given(several)
def test_parties_are_found_whatever_they_are_called(named: tuple[Party, ...]) -> None:
    for policy in compile_terms(Terms(permissions=(Permission(named),)), IDS[1]):
        assert policy.resource == IDS[1].key
        assert policy.principal in [None, *(str(each.prefix) for each in named)]


# Two nodes, and many questions.


@pytest.mark.timeout(1200)  # they keep two processors busy, of a machine that may have much else to do
def test_two_nodes_decide_10_000_questions_alike() -> None:
    def other(seed: str) -> "subprocess.Popen[str]":
        return subprocess.Popen(
            [sys.executable, "-m", "tests.deciding", "7", "10000"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            stdout=subprocess.PIPE, text=True, cwd=ROOT,
        )  # fmt: skip

    nodes = [other("1"), other("2")]
    said = [node.communicate(timeout=1000)[0].split() for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0]
    assert said[0] == said[1]
    assert 2000 < int(said[0][1]) < 8000  # neither all alike nor none
    assert decided(8, 200)[0] != decided(9, 200)[0]


def test_what_is_kept_parsed_is_bounded() -> None:
    policies = Policies()
    for number in range(PREPARED + 50):
        id = Identifier.of(NORTH, f"o{number}")
        asked = Asked(Caller(ACME, KEYS[0]), Operation.FETCH, id, NOW)
        assert decide(asked, Terms.opened(), policies=policies).allowed
    assert len(policies._prepared) == PREPARED
