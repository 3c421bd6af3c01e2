"""What an owner says of an object in a JSON file: DataCite 4.6 names, as in SPEC.md section 7.2.

{"title": "Trial 7", "creators": ["A. Author"], "dates": [{"type": "Collected", "value": "2026"}],
 "relations": [{"type": "IsDerivedFrom", "id": "86.acme/x1"}], "attributes": {"arm": "B"}}
"""

import dataclasses
import json
from pathlib import Path
from typing import Any, NoReturn

from hanse import limits
from hanse.errors import InvalidInput, LimitExceeded
from hanse.model.record import Date, Metadata, Relation

_TEXTS = ("title", "description", "publisher", "resource_type", "language", "license", "version_label")
_LISTS = ("creators", "subjects")
_NAMES = (*_TEXTS, *_LISTS, "publication_year", "dates", "relations", "attributes")


def read_metadata(path: Path | None, **said: Any) -> Metadata:
    """What the file says, and over it what is ``said`` by name and not empty; lists are joined.

    Raises InvalidInput.
    """
    metadata = Metadata()
    if path is not None:
        try:
            with path.open("rb") as file:
                text = file.read(limits.ENVELOPE_BYTES + 1)
        except OSError as error:
            raise InvalidInput(f"{path} cannot be read: {error.strerror}") from None
        if len(text) > limits.ENVELOPE_BYTES:
            raise LimitExceeded(f"{path} has more than {limits.ENVELOPE_BYTES // limits.KIB} KiB: it is not metadata")
        try:
            metadata = parse_metadata(text)
        except InvalidInput as error:
            raise InvalidInput(f"{path}: {error}") from None
    changes: dict[str, Any] = {}
    for name, value in said.items():
        if isinstance(value, tuple):
            changes[name] = tuple(dict.fromkeys((*getattr(metadata, name), *value)))
        elif value:
            changes[name] = value
    return dataclasses.replace(metadata, **changes)


def parse_metadata(text: str | bytes) -> Metadata:
    """Raises InvalidInput, naming what does not belong."""
    try:
        said = json.loads(text, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        where = f", line {error.lineno} column {error.colno}" if isinstance(error, json.JSONDecodeError) else ""
        raise InvalidInput(f"the metadata is not JSON{where}") from None
    if not isinstance(said, dict):
        raise InvalidInput('the metadata is not a JSON object, for example {"title": "Trial 7"}')
    if unknown := [name for name in said if name not in _NAMES]:
        raise InvalidInput(f"the metadata has unknown names: {', '.join(unknown)}. Known are {', '.join(_NAMES)}")
    values: dict[str, Any] = {}
    for name, value in said.items():
        if name in _TEXTS:
            values[name] = _text(value, name)
        elif name in _LISTS:
            values[name] = tuple(_text(each, name) for each in _list(value, name))
        elif name == "publication_year":
            if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= 9999:
                raise InvalidInput("publication_year is a year, for example 2026")
            values[name] = value
        elif name == "dates":
            values[name] = tuple(Date(*_pair(each, name, "type", "value")) for each in _list(value, name))
        elif name == "relations":
            values[name] = tuple(
                Relation.parse("{}={}".format(*_pair(each, name, "type", "id"))) for each in _list(value, name)
            )
        else:
            if not isinstance(value, dict):
                raise InvalidInput("attributes is a JSON object")
            if value:
                values["attributes_json"] = json.dumps(value, ensure_ascii=False)
    return Metadata(**values)


def format_metadata(metadata: Metadata) -> str:
    """The JSON that ``parse_metadata`` reads; what is empty is left out."""
    said = {name: value for name, value in dataclasses.asdict(metadata).items() if value}
    if attributes := said.pop("attributes_json", None):
        said["attributes"] = json.loads(attributes)
    return json.dumps(said, ensure_ascii=False)


def _no_constant(name: str) -> NoReturn:
    raise InvalidInput(f"the metadata has {name}, which is not JSON")


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name} is a text, in quotes")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise InvalidInput(f"{name} is not valid Unicode") from None
    return value


def _list(value: object, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise InvalidInput(f"{name} is a list, in square brackets")
    return value


def _pair(value: object, name: str, first: str, second: str) -> tuple[str, str]:
    if not isinstance(value, dict) or set(value) != {first, second}:
        raise InvalidInput(f'each of {name} has the form {{"{first}": "…", "{second}": "…"}}')
    return _text(value[first], name), _text(value[second], name)
