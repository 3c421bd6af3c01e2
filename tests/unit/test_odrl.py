"""Terms as ODRL and back: nothing is lost, and what is not understood is refused by its name."""

import contextlib
import copy
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, Party, Permission, Terms
from hanse.model.terms_json import format_terms, parse_terms, terms_digest
from node.odrl import from_odrl, to_odrl
from tests.conditions import IDS, some_terms
from tests.garbage import TEXTS

TRIAL = Identifier.parse("86.north/Trial 7")
STUDY = Terms(
    AccessMode.ON_REQUEST,
    (
        Permission(
            (Party.parse("86.acme"), Party.parse("86.east#" + "a1" * 16)),
            Conditions(
                purposes=(Purpose.parse("academic-research"), Purpose.parse("clinical-research")),
                valid_from=1_798_761_600,
                valid_until=1_814_313_600,
                max_fetches=20,
                max_bytes=10_000_000_000,
                duties=(Duty.parse("delete-after=30d"), Duty.parse("attribute=North Hospital")),
                pass_on=True,
            ),
            automatic=False,
        ),
    ),
)


@given(some_terms())
def test_terms_survive_odrl(terms: Terms) -> None:
    for id in IDS:
        assert from_odrl(json.loads(json.dumps(to_odrl(terms, id))), id) == terms


@given(some_terms())
def test_terms_survive_their_json_and_equal_terms_have_an_equal_digest(terms: Terms) -> None:
    again = parse_terms(format_terms(terms))
    assert again == terms
    assert format_terms(again) == format_terms(terms)
    assert terms_digest(again) == terms_digest(terms)


def test_what_is_written_are_words_of_odrl_where_it_has_them() -> None:
    policy = to_odrl(STUDY, TRIAL)
    (rule,) = policy["permission"]
    assert policy["@type"] == "Offer"
    assert (policy["uid"], policy["assigner"]) == ("hanse://86.north/Trial%207#terms", "hanse://86.north")
    assert rule["target"] == "hanse://86.north/Trial%207"
    assert rule["assignee"] == [
        "hanse://86.acme",
        {"@type": "Party", "uid": "hanse://86.east", "hanse:key": "a1" * 16},
    ]
    assert rule["action"] == ["hanse:describe", "hanse:fetch", "grantUse"]
    assert rule["constraint"] == [
        {
            "leftOperand": "purpose",
            "operator": "isAnyOf",
            "rightOperand": [{"@id": "https://w3id.org/dpv#AcademicResearch"}, {"@value": "clinical-research"}],
        },
        {
            "leftOperand": "dateTime",
            "operator": "gteq",
            "rightOperand": {"@value": "2027-01-01T00:00:00Z", "@type": "xsd:dateTime"},
        },
        {
            "leftOperand": "dateTime",
            "operator": "lt",
            "rightOperand": {"@value": "2027-06-30T00:00:00Z", "@type": "xsd:dateTime"},
        },
        {"leftOperand": "count", "operator": "lteq", "rightOperand": {"@value": "20", "@type": "xsd:integer"}},
        {
            "leftOperand": "hanse:bytes",
            "operator": "lteq",
            "rightOperand": {"@value": "10000000000", "@type": "xsd:integer"},
        },
    ]
    assert rule["duty"] == [
        {
            "action": "delete",
            "constraint": [
                {
                    "leftOperand": "delayPeriod",
                    "operator": "lteq",
                    "rightOperand": {"@value": "P30D", "@type": "xsd:duration"},
                }
            ],
        },
        {"action": "attribute", "hanse:text": "North Hospital"},
    ]
    assert rule["hanse:automatic"] is False


def test_every_policy_has_a_rule() -> None:
    assert to_odrl(Terms(), TRIAL)["prohibition"][0]["action"] == ["hanse:describe", "hanse:fetch"]
    compute_only = to_odrl(Terms(AccessMode.COMPUTE_ONLY), TRIAL)
    assert compute_only["prohibition"][0]["action"] == ["hanse:fetch"]


def test_names_in_full_and_lists_of_one_without_brackets_are_understood() -> None:
    odrl = "http://www.w3.org/ns/odrl/2/"
    policy = {
        "@context": "http://www.w3.org/ns/odrl.jsonld",
        "@type": "Set",
        "uid": "urn:uuid:1",
        "odrl:permission": {
            "target": {"@type": "Asset", "uid": "hanse://86.north/trial%207"},
            "assignee": "hanse://86.acme",
            f"{odrl}action": {"@id": "urn:hanse:odrl:1#fetch"},
            "constraint": {"leftOperand": f"{odrl}purpose", "operator": "odrl:eq", "rightOperand": "audit of 2026"},
            "duty": {
                "action": "odrl:delete",
                "constraint": {"leftOperand": "delayPeriod", "operator": "eq", "rightOperand": "P1DT2H3M4S"},
            },
        },
    }
    (permission,) = from_odrl(policy, TRIAL).permissions
    assert permission.parties == (Party.parse("86.acme"),)
    assert permission.conditions.operations == ("fetch",)
    assert permission.conditions.purposes == (Purpose("audit of 2026"),)
    assert permission.conditions.delete_after == 86_400 + 2 * 3600 + 3 * 60 + 4


def change(path: str, value: object) -> Callable[[dict[str, Any]], None]:
    def at(policy: dict[str, Any]) -> None:
        *way, last = path.split("/")
        part: Any = policy
        for step in way:
            part = part[int(step)] if step.isdigit() else part[step]
        part[int(last) if last.isdigit() else last] = value

    return at


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("obligation", [], "the policy has 'obligation', which is not understood"),
        ("inheritFrom", "urn:x", "the policy has 'inheritFrom'"),
        ("@type", "Agreement", "@type 'Agreement'"),
        ("profile", "urn:other", "profile 'urn:other'"),
        ("@context", "https://example.org/context", "@context 'https://example.org/context'"),
        ("@context", ["http://www.w3.org/ns/odrl.jsonld", {"purpose": "urn:x"}], "@context"),
        ("@context", [], "its @context is not"),
        ("assigner", "hanse://86.acme", "the policy's assigner is not 86.north"),
        ("assigner", "https://north.example", "party 'https://north.example'"),
        ("hanse:mode", "secret", "hanse:mode 'secret'"),
        ("prohibition", [{"target": "hanse://86.north/Trial%207", "action": "distribute"}], "of prohibitions"),
        ("conflict", "invalid", "of prohibitions"),
        ("permission/0/target", "hanse://86.north/other", "a permission's target is not 86.north/Trial 7"),
        ("permission/0/target", "https://example.org/x", "target 'https://example.org/x'"),
        ("permission/0/action", "use", "action 'use'"),
        ("permission/0/action", [], "at least one operation"),
        ("permission/0/action", [{"value": "print", "refinement": []}], "action"),
        ("permission/0/remedy", {}, "a permission has 'remedy'"),
        ("permission/0/assignee/0", "https://acme.example", "party 'https://acme.example'"),
        ("permission/0/assignee/0", {"@type": "PartyCollection", "uid": "hanse://86.acme"}, "PartyCollection"),
        ("permission/0/assignee/0", {"uid": "hanse://86.acme", "refinement": []}, "a party has 'refinement'"),
        ("permission/0/constraint/0/leftOperand", "spatial", "leftOperand 'spatial'"),
        ("permission/0/constraint/0/operator", "isNoneOf", "operator of purpose 'isNoneOf'"),
        ("permission/0/constraint/0/rightOperand", [], "rightOperand of purpose"),
        ("permission/0/constraint/0", {"or": []}, "a constraint has 'or'"),
        ("permission/0/constraint/1/operator", "eq", "operator of dateTime 'eq'"),
        ("permission/0/constraint/1/operator", "lt", "two constraints of the same kind, valid_until"),
        ("permission/0/constraint/1/rightOperand", "2027-01-01", "in whole seconds with its zone"),
        ("permission/0/constraint/1/rightOperand", "soon", "rightOperand of dateTime 'soon'"),
        ("permission/0/constraint/1/rightOperand", {"@value": "x", "@type": "xsd:date"}, "type of dateTime"),
        ("permission/0/constraint/3/operator", "gt", "operator of count 'gt'"),
        ("permission/0/constraint/3/rightOperand", "-3", "rightOperand '-3'"),
        ("permission/0/constraint/3/rightOperand", True, "rightOperand of integer 'True'"),
        ("permission/0/constraint/3/unit", "urn:x", "a constraint has 'unit'"),
        ("permission/0/duty/0/action", "compensate", "action of a duty 'compensate'"),
        ("permission/0/duty/0/consequence", {}, "a duty has 'consequence'"),
        ("permission/0/duty/0/constraint/0/rightOperand", "P1M", "not a span in days"),
        ("permission/0/duty/0/constraint/0/rightOperand", "P", "not a span in days"),
        ("permission/0/duty/0/constraint/0/leftOperand", "event", "constraint of a duty 'event'"),
        ("permission/0/duty/0/constraint", [], "has a time after which"),
        ("permission/0/duty/1/hanse:text", "", "has a text"),
        ("permission/0/hanse:automatic", "no", "hanse:automatic 'no'"),
    ],
)
def test_what_is_not_understood_is_refused_by_its_name(path: str, value: object, message: str) -> None:
    policy = copy.deepcopy(to_odrl(STUDY, TRIAL))
    change(path, value)(policy)
    with pytest.raises(InvalidInput) as refused:
        from_odrl(policy, TRIAL)
    assert message in str(refused.value)


def places(part: object, way: str = "") -> list[str]:
    """Every path into a document."""
    items = part.items() if isinstance(part, dict) else enumerate(part) if isinstance(part, list) else ()
    found = []
    for name, value in items:
        path = f"{way}/{name}" if way else str(name)
        found += [path, *places(value, path)]
    return found


PLACES = places(to_odrl(STUDY, TRIAL))
garbage = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.sampled_from(TEXTS),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["@id", "@value", "uid", "x"]), inner),
    max_leaves=4,
)


@settings(max_examples=300)
@given(st.sampled_from(PLACES), garbage)
def test_whatever_stands_in_any_place_is_read_or_refused(path: str, value: object) -> None:
    policy = copy.deepcopy(to_odrl(STUDY, TRIAL))
    change(path, value)(policy)
    with contextlib.suppress(InvalidInput):
        terms = from_odrl(policy, TRIAL)
        assert from_odrl(to_odrl(terms, TRIAL), TRIAL) == terms


@pytest.mark.parametrize("data", [None, [], "x", 3, {}])
def test_what_is_no_policy_is_refused(data: object) -> None:
    with pytest.raises(InvalidInput):
        from_odrl(data, TRIAL)


def test_a_time_that_odrl_cannot_say_is_refused_when_it_is_written() -> None:
    terms = Terms(permissions=(Permission(conditions=Conditions(valid_until=1 << 40)),))
    with pytest.raises(InvalidInput, match="the until of these terms"):
        to_odrl(terms, TRIAL)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "not JSON"),
        ("[]", "not a JSON object"),
        ('{"mode": "secret", "permissions": []}', "a mode is one of"),
        ('{"mode": "open", "permissions": [], "price": 3}', "not known: 'price'"),
        ('{"mode": "on-request", "permissions": [{"max_fetches": true}]}', "is a whole number"),
        ('{"mode": "on-request", "permissions": [{"max_fetches": 0}]}', "a number above 0"),
        ('{"mode": "on-request", "permissions": [{"operations": ["print"]}]}', "an operation is one of"),
        ('{"mode": "on-request", "permissions": [{"purposes": "x"}]}', "are a list"),
        ('{"mode": "on-request", "permissions": [{"purposes": [3]}]}', "are texts"),
        ('{"mode": "on-request", "permissions": [{"parties": ["86.acme#"]}]}', "no key id after the #"),
        ('{"mode": "on-request", "permissions": [{"automatic": 1}]}', "true or false"),
        ('{"mode": "on-request", "permissions": [{"duties": [{"kind": "sing"}]}]}', "a duty is one of"),
        ('{"mode": "on-request", "permissions": [{"duties": [{"kind": "attribute", "text": 3}]}]}', "is a text"),
    ],
)
def test_json_that_is_no_terms_is_refused(text: str, message: str) -> None:
    with pytest.raises(InvalidInput, match=message):
        parse_terms(text)
