"""Terms as an ODRL 2.2 policy in JSON-LD, and back. SPEC.md section 15.5.

Pure. What it is not: a JSON-LD processor. It writes one form, and reads that form, with names in full or short and
lists of one with or without brackets. The rule it keeps: nothing is left out in silence. What ODRL has no word for
stands in a profile; what cannot be written, or is not understood, is refused by its name.

    from_odrl(to_odrl(Terms.opened(), id), id) == Terms.opened()   # True
"""

import re
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from urllib.parse import quote, unquote

from hanse.errors import InvalidInput
from hanse.model.identifier import Identifier
from hanse.model.keys import KeyId
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party, Permission, Terms

CONTEXT: Final = "http://www.w3.org/ns/odrl.jsonld"
PROFILE: Final = "urn:hanse:odrl:1"
_NAMESPACES: Final = {"hanse": f"{PROFILE}#", "xsd": "http://www.w3.org/2001/XMLSchema#"}
_SHORTER: Final = (
    ("http://www.w3.org/ns/odrl/2/", ""),
    ("odrl:", ""),
    (_NAMESPACES["hanse"], "hanse:"),
    (_NAMESPACES["xsd"], "xsd:"),
)
_ACTIONS: Final = {Operation.DESCRIBE: "hanse:describe", Operation.FETCH: "hanse:fetch"}
_PASS_ON: Final = "grantUse"  # noqa: S105
_DUTIES: Final = {
    DutyKind.DELETE_AFTER: "delete",
    DutyKind.ATTRIBUTE: "attribute",
    DutyKind.DO_NOT_PASS_ON: "hanse:doNotPassOn",
    DutyKind.OTHER: "hanse:other",
}
_LAST: Final = 253_402_300_799  # 9999-12-31T23:59:59Z: a later one has more digits than all readers take
_DURATION: Final = re.compile(r"P(?:(\d{1,9})D)?(?:T(?=\d)(?:(\d{1,9})H)?(?:(\d{1,9})M)?(?:(\d{1,18})S)?)?")
_POLICY: Final = frozenset(
    {"@context", "@type", "uid", "profile", "assigner", "hanse:mode", "permission", "prohibition", "conflict"}
)


def to_odrl(terms: Terms, id: Identifier) -> dict[str, Any]:
    """An Offer. Raises InvalidInput, naming the part that ODRL cannot say."""
    policy: dict[str, Any] = {
        "@context": [CONTEXT, dict(_NAMESPACES)],
        "@type": "Offer",
        "uid": f"{_object(id)}#terms",
        "profile": PROFILE,
        "assigner": _organization(id.prefix.text),
        "hanse:mode": terms.mode.value,
    }
    if terms.permissions:
        policy["permission"] = [_permission(each, id) for each in terms.permissions]
    return policy | _prohibitions(terms, id)


def from_odrl(data: object, id: Identifier) -> Terms:
    """What ``to_odrl`` wrote of this object, or another policy within the same words. Raises InvalidInput."""
    policy = _known(data, _POLICY, "the policy")
    _check_context(policy.get("@context"))
    if _name(policy.get("@type")) not in ("Offer", "Set", "Policy"):
        raise _unknown("@type", policy.get("@type"))
    if policy.get("profile", PROFILE) != PROFILE:
        raise _unknown("profile", policy.get("profile"))
    if "assigner" in policy and _party(policy["assigner"]) != Party(id.prefix):
        raise InvalidInput(f"the policy's assigner is not {id.prefix}, whose object it is to be about")
    mode = policy.get("hanse:mode", AccessMode.ON_REQUEST.value)
    if mode not in list(AccessMode):
        raise _unknown("hanse:mode", mode)
    terms = Terms(AccessMode(mode), tuple(_read_permission(each, id) for each in _list(policy.get("permission"))))
    told = {name: policy[name] for name in ("prohibition", "conflict") if name in policy}
    if "prohibition" in told:
        told["prohibition"] = [_plain(each) for each in _list(told["prohibition"])]
    if told and told != _prohibitions(terms, id):
        raise InvalidInput(f"of prohibitions, ODRL here says no other than that of the mode {terms.mode}")
    return terms


def _prohibitions(terms: Terms, id: Identifier) -> dict[str, Any]:
    """What the mode forbids, so that a policy has a rule even where nothing is permitted (ODRL 2.2, section 2.1)."""
    if terms.mode is AccessMode.COMPUTE_ONLY:
        return {"prohibition": [{"target": _object(id), "action": [_ACTIONS[Operation.FETCH]]}], "conflict": "prohibit"}
    if not terms.permissions:
        rule = {"target": _object(id), "action": [_ACTIONS[each] for each in Operation]}
        return {"prohibition": [rule], "conflict": "perm"}
    return {}


# Writing.


def _permission(permission: Permission, id: Identifier) -> dict[str, Any]:
    conditions = permission.conditions
    rule: dict[str, Any] = {"target": _object(id)}
    if permission.parties:
        rule["assignee"] = [_assignee(each) for each in permission.parties]
    rule["action"] = [_ACTIONS[each] for each in conditions.operations] + [_PASS_ON] * conditions.pass_on
    if constraints := list(_constraints(conditions)):
        rule["constraint"] = constraints
    if conditions.duties:
        rule["duty"] = [_duty(each) for each in conditions.duties]
    if not permission.automatic:
        rule["hanse:automatic"] = False
    return rule


def _assignee(party: Party) -> object:
    name = _organization(party.prefix.text)
    return {"@type": "Party", "uid": name, "hanse:key": str(party.key_id)} if party.key_id else name


def _constraints(conditions: Conditions) -> Iterable[dict[str, Any]]:
    if conditions.purposes:
        yield _constraint("purpose", "isAnyOf", [_purpose(each) for each in conditions.purposes])
    if conditions.valid_from is not None:
        yield _constraint("dateTime", "gteq", _moment(conditions.valid_from, "from"))
    if conditions.valid_until is not None:
        yield _constraint("dateTime", "lt", _moment(conditions.valid_until, "until"))
    if conditions.max_fetches is not None:
        yield _constraint("count", "lteq", _typed("integer", str(conditions.max_fetches)))
    if conditions.max_bytes is not None:
        yield _constraint("hanse:bytes", "lteq", _typed("integer", str(conditions.max_bytes)))


def _constraint(left: str, operator: str, right: object) -> dict[str, Any]:
    return {"leftOperand": left, "operator": operator, "rightOperand": right}


def _purpose(purpose: Purpose) -> dict[str, str]:
    return {"@id": purpose.iri} if purpose.iri else {"@value": purpose.name}


def _moment(seconds: int, part: str) -> dict[str, str]:
    if seconds > _LAST:
        raise InvalidInput(f"ODRL cannot say the {part} of these terms: it is after the year 9999")
    return _typed("dateTime", datetime.fromtimestamp(seconds, UTC).strftime("%04Y-%m-%dT%H:%M:%SZ"))


def _typed(kind: str, value: str) -> dict[str, str]:
    return {"@value": value, "@type": f"xsd:{kind}"}


def _duty(duty: Duty) -> dict[str, Any]:
    said: dict[str, Any] = {"action": _DUTIES[duty.kind]}
    if duty.kind is DutyKind.DELETE_AFTER:
        days, rest = divmod(duty.seconds, 86_400)
        if days >= 10**9:
            raise InvalidInput("ODRL cannot say the duty delete-after of these terms: it is too long")
        span = f"P{days}D" if not rest else f"P{days}DT{rest}S" if days else f"PT{rest}S"
        said["constraint"] = [_constraint("delayPeriod", "lteq", _typed("duration", span))]
    if duty.text:
        said["hanse:text"] = duty.text
    return said


# Reading.


def _read_permission(data: object, id: Identifier) -> Permission:
    rule = _known(
        data,
        frozenset({"@type", "target", "assignee", "action", "constraint", "duty", "hanse:automatic"}),
        "a permission",
    )
    if "target" in rule and _identifier(rule["target"]) != id:
        raise InvalidInput(f"a permission's target is not {id}, which the policy is to be about")
    operations, pass_on = _read_actions(rule.get("action"))
    automatic = rule.get("hanse:automatic", True)
    if not isinstance(automatic, bool):
        raise _unknown("hanse:automatic", automatic)
    read: dict[str, Any] = {}
    for each in _list(rule.get("constraint")):
        name, value = _read_constraint(each)
        if name in read:
            raise InvalidInput(f"a permission has two constraints of the same kind, {name}: say them in one")
        read[name] = value
    duties = tuple(_read_duty(each) for each in _list(rule.get("duty")))
    parties = tuple(_party(each) for each in _list(rule.get("assignee")))
    return Permission(parties, Conditions(operations=operations, duties=duties, pass_on=pass_on, **read), automatic)


def _read_actions(data: object) -> tuple[tuple[Operation, ...], bool]:
    names, known = [_name(each) for each in _list(data)], {name: each for each, name in _ACTIONS.items()}
    for name in names:
        if name not in known and name != _PASS_ON:
            raise _unknown("action", name)
    return tuple(known[name] for name in names if name in known), _PASS_ON in names


_Reader = Callable[[object], object]


def _read_constraint(data: object) -> tuple[str, object]:
    said = _known(data, frozenset({"@type", "leftOperand", "operator", "rightOperand"}), "a constraint")
    left, operator = _name(said.get("leftOperand")), _name(said.get("operator"))
    readers: dict[str, dict[str, tuple[str, _Reader]]] = {
        "purpose": {"isAnyOf": ("purposes", _read_purposes), "eq": ("purposes", _read_purposes)},
        "dateTime": {"gteq": ("valid_from", _read_moment), "lt": ("valid_until", _read_moment)},
        "count": {"lteq": ("max_fetches", _read_number)},
        "hanse:bytes": {"lteq": ("max_bytes", _read_number)},
    }
    if left not in readers:
        raise _unknown("leftOperand", said.get("leftOperand"))
    if operator not in readers[left]:
        raise _unknown(f"operator of {left}", said.get("operator"))
    name, reader = readers[left][operator]
    return name, reader(said.get("rightOperand"))


def _read_purposes(data: object) -> tuple[Purpose, ...]:
    values = [each.get("@id", each.get("@value")) if isinstance(each, dict) else each for each in _list(data)]
    if not values or not all(isinstance(each, str) for each in values):
        raise _unknown("rightOperand of purpose", data)
    return tuple(Purpose.parse(str(each)) for each in values)


def _read_moment(data: object) -> int:
    text = _value(data, "xsd:dateTime", "dateTime")
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        raise _unknown("rightOperand of dateTime", text) from None
    if moment.tzinfo is None or moment.microsecond:
        raise InvalidInput(f"{text!r} is not a time in whole seconds with its zone, such as 2027-06-30T00:00:00Z")
    return int(moment.timestamp())


def _read_number(data: object) -> int:
    text = str(data) if isinstance(data, int) and not isinstance(data, bool) else _value(data, "xsd:integer", "integer")
    if not re.fullmatch(r"[0-9]{1,19}", text):
        raise _unknown("rightOperand", text)
    return int(text)


def _read_duty(data: object) -> Duty:
    said = _known(data, frozenset({"@type", "action", "constraint", "hanse:text"}), "a duty")
    actions, kinds = [_name(each) for each in _list(said.get("action"))], {name: kind for kind, name in _DUTIES.items()}
    if len(actions) != 1 or actions[0] not in kinds:
        raise _unknown("action of a duty", said.get("action"))
    kind, text = kinds[actions[0]], said.get("hanse:text", "")
    if not isinstance(text, str):
        raise _unknown("hanse:text", text)
    seconds = 0
    for each in _list(said.get("constraint")):
        limit = _known(each, frozenset({"@type", "leftOperand", "operator", "rightOperand"}), "a constraint")
        if kind is not DutyKind.DELETE_AFTER or _name(limit.get("leftOperand")) != "delayPeriod" or seconds:
            raise _unknown("constraint of a duty", limit.get("leftOperand"))
        if _name(limit.get("operator")) not in ("lteq", "eq"):
            raise _unknown("operator of delayPeriod", limit.get("operator"))
        seconds = _read_duration(limit.get("rightOperand"))
    return Duty(kind, seconds, text)


def _read_duration(data: object) -> int:
    text = _value(data, "xsd:duration", "duration")
    found = _DURATION.fullmatch(text)
    if not found or not any(found.groups()):
        raise InvalidInput(f"{text!r} is not a span in days, hours, minutes and seconds, such as P30D or PT12H")
    days, hours, minutes, seconds = (int(each or 0) for each in found.groups())
    return days * 86_400 + hours * 3600 + minutes * 60 + seconds


# Names and values.


def _organization(prefix: str) -> str:
    return f"hanse://{prefix}"


def _object(id: Identifier) -> str:
    return f"hanse://{quote(str(id), safe='/')}"


def _party(data: object) -> Party:
    key = None
    if isinstance(data, Mapping):
        said = _known(data, frozenset({"@type", "uid", "hanse:key"}), "a party")
        if _name(said.get("@type", "Party")) != "Party":
            raise _unknown("@type of a party", said.get("@type"))
        data, key = said.get("uid"), said.get("hanse:key")
    if not isinstance(data, str) or not data.startswith("hanse://") or not isinstance(key, str | None):
        raise _unknown("party", data)
    party = Party.parse(data.removeprefix("hanse://"))
    if party.key_id is not None:
        raise _unknown("party", data)
    return Party(party.prefix, KeyId.parse(key) if key is not None else None)


def _identifier(data: object) -> Identifier:
    if isinstance(data, Mapping):
        data = _known(data, frozenset({"@type", "uid"}), "a target").get("uid")
    if not isinstance(data, str) or not data.startswith("hanse://"):
        raise _unknown("target", data)
    try:
        return Identifier.parse(unquote(data.removeprefix("hanse://"), errors="strict"))
    except UnicodeDecodeError:
        raise _unknown("target", data) from None


def _check_context(data: object) -> None:
    for each in _list(data):
        if each == CONTEXT:
            continue
        if not isinstance(each, Mapping) or any(_NAMESPACES.get(name) != iri for name, iri in each.items()):
            raise _unknown("@context", each)
    if CONTEXT not in _list(data):
        raise InvalidInput(f"it is no ODRL: its @context is not {CONTEXT}")


def _known(data: object, names: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(data, Mapping):
        raise InvalidInput(f"{what} in ODRL is a JSON object")
    said = {_name(name): value for name, value in data.items()}
    if len(said) != len(data):
        raise InvalidInput(f"{what} in ODRL says the same twice")
    for name in said:
        if name not in names:
            raise InvalidInput(f"{what} has {name[:80]!r}, which is not understood, and so could not be kept")
    return said


def _name(data: object) -> str:
    """A term of ODRL or of the profile, in its short form; of what is no name, some text that is no term."""
    if isinstance(data, Mapping) and set(data) == {"@id"}:
        data = data["@id"]
    if isinstance(data, str):
        for long, short in _SHORTER:
            if data.startswith(long):
                return short + data.removeprefix(long)
    return str(data)


def _plain(data: object) -> object:
    """A prohibition as ``_prohibitions`` writes them."""
    said = _known(data, frozenset({"@type", "target", "action"}), "a prohibition")
    return {"target": said.get("target"), "action": [_name(each) for each in _list(said.get("action"))]}


def _list(data: object) -> list[object]:
    return list(data) if isinstance(data, list) else [] if data is None else [data]


def _value(data: object, kind: str, what: str) -> str:
    if isinstance(data, Mapping):
        said = _known(data, frozenset({"@value", "@type"}), "a value")
        if _name(said.get("@type", kind)) != kind:
            raise _unknown(f"type of {what}", said.get("@type"))
        data = said.get("@value")
    if not isinstance(data, str):
        raise _unknown(f"rightOperand of {what}", data)
    return data


def _unknown(part: str, data: object) -> InvalidInput:
    return InvalidInput(f"{part} {str(data)[:80]!r} in ODRL is not understood, and so could not be kept")
