"""The owner's own policies: ``policies/*.cedar`` in the home. They forbid what terms or a grant permit.

What it is not: a judge (node.policy). The rules it keeps: the files are taken all together or not at all; each policy
is parsed and checked against the schema before any is; what could have no effect is refused. While a file is wrong,
those taken before stay in force, and every error names file and line. SPEC.md section 15.4.

    own = OwnPolicies(home / FOLDER)
    policies = Policies(own.start())
    own.look(policies.take)     # once a second
"""

import json
import time
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import structlog

from hanse import limits
from hanse.errors import HanseError, HomeUnusable, InvalidInput, LimitExceeded
from hanse.files import storage_errors
from hanse.model.identifier import Identifier, Prefix
from node.cedar import SCHEMA, CedarPolicy

if TYPE_CHECKING:
    import cedarpy

FOLDER = "policies"
_SETTLED_SECONDS = 2.0  # a file that was written this lately may be written again without its times telling it
_ALIKE = {"==": "==", "in": "=="}  # no entity of ours has members: a scope "in X" admits X alone
_State = tuple[tuple[str, int, int, int, int], ...]
log = structlog.get_logger("hanse.node.policies")


class OwnPolicies:
    """Those of one home. ``problem`` is in words while the files are not what is in force, else empty."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self._folder, self._clock = folder, clock
        self._state: _State | None = None
        self._settled = False
        self.problem = ""

    def start(self) -> tuple[CedarPolicy, ...]:
        """What is there now. Raises HomeUnusable: without them, what they forbid would be allowed."""
        try:
            return self._load(self._look())
        except InvalidInput as error:
            raise HomeUnusable(str(error)) from None

    def look(self, take: Callable[[Sequence[CedarPolicy]], None]) -> None:
        """Takes what changed. Raises nothing: what is wrong is logged, and stands in ``problem``."""
        try:
            state, before = self._look(), self._state
            if state == before and self._settled:
                return
            own = self._load(state)
        except HanseError as error:
            if str(error) != self.problem:
                self.problem = str(error)
                log.error("policies.kept", problem=self.problem)
            return
        self.problem = ""
        take(own)
        if state != before:
            log.info("policies.taken", count=len(own))

    def _look(self) -> _State:
        before, self._state = self._state, None  # so that what could not be looked at is read again
        with storage_errors(str(self._folder)):
            state = tuple(
                (path.name, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
                for path, found in ((path, path.stat()) for path in files(self._folder))
            )
        self._state = before
        return state

    def _load(self, state: _State) -> tuple[CedarPolicy, ...]:
        # First what it is, then what is in it: a change in between is seen at the next look.
        self._state = state
        newest = max((each[-1] for each in state), default=0) / 1e9
        self._settled = self._clock() - newest > _SETTLED_SECONDS
        return read(self._folder)


def files(folder: Path) -> list[Path]:
    """By name; none where there is no such folder."""
    with storage_errors(str(folder)):
        # Not by glob() or exists(), to which a folder that cannot be read is an empty one.
        try:
            return sorted(each for each in folder.iterdir() if each.suffix == ".cedar")
        except FileNotFoundError:
            return []


def read(folder: Path) -> tuple[CedarPolicy, ...]:
    """All policies of a folder. Raises InvalidInput, naming file and line; LimitExceeded, HomeUnusable."""
    found: list[CedarPolicy] = []
    size = 0
    for path in files(folder):
        with storage_errors(str(path)), path.open("rb") as file:
            data = file.read(limits.OWN_POLICIES_BYTES + 1)
        size += len(data)
        if size > limits.OWN_POLICIES_BYTES:
            raise LimitExceeded(f"{folder}: own policies have at most {limits.OWN_POLICIES_BYTES} bytes together")
        try:
            found += parse(data.decode(), f"{FOLDER}/{path.name}")
        except UnicodeDecodeError:
            raise InvalidInput(f"{FOLDER}/{path.name} is not UTF-8 text") from None
    return tuple(found)


def parse(text: str, name: str) -> list[CedarPolicy]:
    """The policies of one file, which errors call ``name``. Raises InvalidInput, LimitExceeded."""
    try:
        pieces = list(split(text))
    except LimitExceeded as error:
        raise LimitExceeded(f"{name}, {error}") from None
    return [_checked(piece, f"{name}:{line}") for line, piece in pieces]


def split(text: str) -> Iterator[tuple[int, str]]:
    """Each policy, with the line where it begins; what stands before it, comments as well, goes with it.

    A semicolon ends a policy, wherever it stands outside strings and comments (grammar of Cedar, 4.x).
    Raises LimitExceeded, where brackets go too deep for what parses them.
    """
    begun, line, starts_at, place, seen, depth = 0, 1, 0, 0, False, 0
    while place < len(text):
        char = text[place]
        if char == "\n":
            line += 1
        elif text.startswith("//", place):
            end = text.find("\n", place)
            place = len(text) if end < 0 else end
            continue
        elif not char.isspace() and not seen:
            seen, starts_at = True, line
        if char == '"':
            place += 1
            while place < len(text) and text[place] != '"':
                line += text[place] == "\n"
                place += 2 if text[place] == "\\" else 1
        elif char in "([{":
            depth += 1
            if depth > limits.OWN_POLICY_DEPTH:
                raise LimitExceeded(f"line {line}: at most {limits.OWN_POLICY_DEPTH} brackets are one in the other")
        elif char in ")]}":
            depth -= 1
        elif char == ";":
            yield starts_at, text[begun : place + 1] + "\n"
            begun, seen, depth = place + 1, False, 0
        place += 1
    if seen:
        yield starts_at, text[begun:] + "\n"


def _checked(text: str, place: str) -> CedarPolicy:
    import cedarpy

    if len(text.encode()) > limits.OWN_POLICY_BYTES:
        raise LimitExceeded(f"{place}: a policy has at most {limits.OWN_POLICY_BYTES} bytes: make several of it")
    try:
        parsed = json.loads(cedarpy.policies_to_json_str(text))
        named = list(_entities(parsed))
    except RecursionError:
        raise LimitExceeded(f"{place}: the policy that begins here has too many parts: make several of it") from None
    except ValueError as error:
        raise InvalidInput(f"{place}: the policy that begins here cannot be read: {error}") from None
    if parsed["templates"] or len(parsed["staticPolicies"]) != 1:
        raise InvalidInput(f"{place}: a policy names whom it is about: slots such as ?principal are for templates")
    (policy,) = parsed["staticPolicies"].values()
    if policy["effect"] != "forbid":
        raise InvalidInput(
            f"{place}: own policies forbid. Who may do what is said by `hanse terms` and by grants, "
            "which others can see and keep"
        )
    for kind, name in named:
        _check_entity(kind, name, place)
    checked = cedarpy.validate_policies(text, _schema())
    if not checked:
        said = "; ".join(dict.fromkeys(each.error.partition(", ")[2] or each.error for each in checked.errors))
        raise InvalidInput(f"{place}: the policy that begins here is not as the schema is: {said}")
    return CedarPolicy(place, text, _only(policy["principal"]), _only(policy["resource"]))


@cache
def _schema() -> "cedarpy.Schema":
    import cedarpy

    return cedarpy.Schema.from_str(SCHEMA)


def _only(scope: dict[str, Any]) -> str | None:
    """The one entity that a part of the scope admits; None if there may be others."""
    return str(scope["entity"]["id"]) if _ALIKE.get(scope["op"]) == "==" and "entity" in scope else None


def _entities(part: object) -> Iterator[tuple[str, str]]:
    """Every entity that a policy names: (type, id)."""
    if isinstance(part, dict):
        if isinstance(part.get("type"), str) and isinstance(part.get("id"), str):
            yield part["type"], part["id"]
        for each in part.values():
            yield from _entities(each)
    elif isinstance(part, list):
        for each in part:
            yield from _entities(each)


def _check_entity(kind: str, name: str, place: str) -> None:
    """One that is spelled so that it never comes would make a policy that looks right and forbids nothing."""
    try:
        if kind == "Hanse::Organization":
            canonical = Prefix.parse(name).text
        elif kind == "Hanse::Object":
            canonical = Identifier.parse(name).key
        else:
            return
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error}") from None
    if canonical != name:
        raise InvalidInput(f"{place}: write {kind}::{canonical!r} instead of {name!r}")
