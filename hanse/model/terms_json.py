"""Terms as JSON, for storage and for their digest: the same terms give the same text, byte for byte. SPEC.md 15.

What it is not: the exchange format, which is ODRL (node.odrl). The rule it keeps: a part that is left out restricts
nothing, and a part that is not known is refused, because whatever it restricted would be lost.

    parse_terms(format_terms(Terms.opened())) == Terms.opened()   # True
"""

import hashlib
import json
from enum import StrEnum
from typing import Any, TypeVar

from hanse.errors import InvalidInput
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Operation, Party, Permission, Terms

E = TypeVar("E", bound=StrEnum)
_NUMBERS = ("valid_from", "valid_until", "max_fetches", "max_bytes")
_TERMS = frozenset({"mode", "permissions"})
_PERMISSION = frozenset({"parties", "automatic", "operations", "purposes", "duties", "pass_on", *_NUMBERS})
_DUTY = frozenset({"kind", "seconds", "text"})


def format_terms(terms: Terms) -> str:
    """Canonical: keys in order, no spaces, nothing that says nothing."""
    return json.dumps(terms_to_json(terms), ensure_ascii=False, sort_keys=True, separators=(",", ":"))


def parse_terms(text: str) -> Terms:
    """What ``format_terms`` wrote. Raises InvalidInput."""
    try:
        data = json.loads(text)
    except (ValueError, RecursionError):
        raise InvalidInput("the terms are not JSON") from None
    return terms_from_json(data)


def terms_digest(terms: Terms) -> bytes:
    """SHA-256 of the canonical JSON."""
    return hashlib.sha256(format_terms(terms).encode()).digest()


def terms_to_json(terms: Terms) -> dict[str, object]:
    """As ``format_terms``, before it is text."""
    return {"mode": terms.mode.value, "permissions": [_permission_to_json(each) for each in terms.permissions]}


def terms_from_json(data: object) -> Terms:
    """Raises InvalidInput."""
    said = _known(data, _TERMS, "the terms")
    return Terms(
        _one_of(AccessMode, said.get("mode"), "a mode"),
        tuple(_permission_from_json(each) for each in _list(said.get("permissions", []), "permissions")),
    )


def conditions_to_json(conditions: Conditions) -> dict[str, object]:
    """For documents of the commands, too."""
    found: dict[str, object] = {"operations": [each.value for each in conditions.operations]}
    if conditions.purposes:
        found["purposes"] = [each.name for each in conditions.purposes]
    for name in _NUMBERS:
        if (number := getattr(conditions, name)) is not None:
            found[name] = number
    if conditions.duties:
        found["duties"] = [_duty_to_json(each) for each in conditions.duties]
    if conditions.pass_on:
        found["pass_on"] = True
    return found


def _permission_to_json(permission: Permission) -> dict[str, object]:
    found = conditions_to_json(permission.conditions)
    if permission.parties:
        found["parties"] = [str(each) for each in permission.parties]
    if not permission.automatic:
        found["automatic"] = False
    return found


def _duty_to_json(duty: Duty) -> dict[str, object]:
    found: dict[str, object] = {"kind": duty.kind.value}
    if duty.seconds:
        found["seconds"] = duty.seconds
    if duty.text:
        found["text"] = duty.text
    return found


def _permission_from_json(data: object) -> Permission:
    said = _known(data, _PERMISSION, "a permission")
    operations = _texts(said["operations"], "operations") if "operations" in said else None
    numbers = {name: _number(said[name], name) for name in _NUMBERS if name in said}
    conditions = Conditions(
        operations=Conditions().operations
        if operations is None
        else tuple(_one_of(Operation, each, "an operation") for each in operations),
        purposes=tuple(Purpose.parse(each) for each in _texts(said.get("purposes", []), "purposes")),
        duties=tuple(_duty_from_json(each) for each in _list(said.get("duties", []), "duties")),
        pass_on=_flag(said.get("pass_on", False), "pass_on"),
        **numbers,
    )
    parties = tuple(Party.parse(each) for each in _texts(said.get("parties", []), "parties"))
    return Permission(parties, conditions, _flag(said.get("automatic", True), "automatic"))


def _duty_from_json(data: object) -> Duty:
    said = _known(data, _DUTY, "a duty")
    text = said.get("text", "")
    if not isinstance(text, str):
        raise InvalidInput("the text of a duty is a text")
    return Duty(
        _one_of(DutyKind, said.get("kind"), "a duty"),
        _number(said["seconds"], "seconds") if "seconds" in said else 0,
        text,
    )


def _known(data: object, names: frozenset[str], what: str) -> dict[str, Any]:
    if not isinstance(data, dict):
        raise InvalidInput(f"{what} are not a JSON object" if what.endswith("s") else f"{what} is not a JSON object")
    if unknown := sorted(set(data) - names):
        raise InvalidInput(f"{what} in JSON has a part that is not known: {unknown[0][:80]!r}")
    return data


def _list(data: object, what: str) -> list[object]:
    if not isinstance(data, list):
        raise InvalidInput(f"{what} of terms in JSON are a list")
    return data


def _texts(data: object, what: str) -> list[str]:
    listed = _list(data, what)
    if not all(isinstance(each, str) for each in listed):
        raise InvalidInput(f"{what} of terms in JSON are texts")
    return [str(each) for each in listed]


def _number(data: object, what: str) -> int:
    if not isinstance(data, int) or isinstance(data, bool):
        raise InvalidInput(f"{what} of terms in JSON is a whole number")
    return data


def _flag(data: object, what: str) -> bool:
    if not isinstance(data, bool):
        raise InvalidInput(f"{what} of terms in JSON is true or false")
    return data


def _one_of(kind: type[E], data: object, what: str) -> E:
    try:
        return kind(str(data))
    except ValueError:
        raise InvalidInput(f"{what} is one of {', '.join(kind)}") from None
