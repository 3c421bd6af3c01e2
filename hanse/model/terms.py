"""Terms: what an owner lets whom do with an object, for what, until when, how often, and for what in return.

Pure. What it is not: a decision (node.policy). The rule it keeps: a part that is left out restricts nothing, and
``Conditions.is_within`` is what "never widens" means, in one place for terms, grants and narrowed grants.
SPEC.md section 15.

    Conditions(purposes=("clinical-research",), valid_until=1814400000).is_within(Conditions())   # True
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

from hanse.errors import InvalidInput
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode, check_text

_MOST = (1 << 63) - 1
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
DUTY_TEXT_BYTES = 1024  # a sentence; the contract says the rest
MOST_PURPOSES = 64
MOST_DUTIES = 64
MOST_PERMISSIONS = 64
MOST_PARTIES = 1000


class Operation(StrEnum):
    """What may be done."""

    DESCRIBE = "describe"
    FETCH = "fetch"


class DutyKind(StrEnum):
    """What is owed in return."""

    DELETE_AFTER = "delete-after"
    ATTRIBUTE = "attribute"
    DO_NOT_PASS_ON = "do-not-pass-on"  # noqa: S105
    OTHER = "other"


class Enforcement(StrEnum):
    """How a duty comes to be kept. Said honestly wherever a duty is shown."""

    CONTRACT = "by contract"
    CONSUMERS_NODE = "by the consumer's node"


@dataclass(frozen=True, slots=True, order=True)
class Duty:
    """``seconds`` for DELETE_AFTER, counted from the end of the fetch; ``text`` for ATTRIBUTE and OTHER."""

    kind: DutyKind
    seconds: int = 0
    text: str = ""

    def __post_init__(self) -> None:
        check_text(self.text)
        timed, worded = self.kind is DutyKind.DELETE_AFTER, self.kind in (DutyKind.ATTRIBUTE, DutyKind.OTHER)
        if timed != (self.seconds > 0) or self.seconds > _MOST:
            raise InvalidInput("a duty to delete, and no other, has a time after which: delete-after=30d")
        if worded != bool(self.text):
            raise InvalidInput("a duty to attribute, or another one in words, and no other, has a text")
        if len(self.text.encode(errors="replace")) > DUTY_TEXT_BYTES:
            raise InvalidInput(f"the text of a duty has at most {DUTY_TEXT_BYTES} bytes")

    @classmethod
    def parse(cls, text: str) -> "Duty":
        """``delete-after=30d`` (s, m, h, d, w), ``attribute=TEXT``, ``do-not-pass-on``, ``other=TEXT``.

        Raises InvalidInput.
        """
        name, _, value = text.partition("=")
        if name not in list(DutyKind):
            raise InvalidInput(
                f"{text!r} is not a duty: delete-after=30d, attribute=TEXT, do-not-pass-on, or in words: other=TEXT"
            )
        kind = DutyKind(name)
        return cls(kind, parse_span(value)) if kind is DutyKind.DELETE_AFTER else cls(kind, 0, value)

    @property
    def enforcement(self) -> Enforcement:
        return Enforcement.CONSUMERS_NODE if self.kind is DutyKind.DELETE_AFTER else Enforcement.CONTRACT

    @property
    def in_words(self) -> str:
        """For people who have not seen the terms, with how it is enforced."""
        if self.kind is DutyKind.DELETE_AFTER:
            said = f"delete within {_span_in_words(self.seconds)} of fetching"
        elif self.kind is DutyKind.ATTRIBUTE:
            said = f"attribute: {self.text}"
        else:
            said = self.text or "do not pass on"
        return f"{said} (enforced {self.enforcement})"

    def __str__(self) -> str:
        """As users type it."""
        if self.kind is DutyKind.DELETE_AFTER:
            return f"{self.kind}={_span(self.seconds)}"
        return f"{self.kind}={self.text}" if self.text else self.kind.value


@dataclass(frozen=True, slots=True)
class Conditions:
    """``purposes`` and ``duties`` empty, or None elsewhere: nothing is restricted, nothing owed.

    Times are Unix seconds; ``valid_from`` inclusive, ``valid_until`` exclusive. ``pass_on``: whether the holder of a
    grant may make a weaker one of it for somebody else.
    """

    operations: tuple[Operation, ...] = (Operation.DESCRIBE, Operation.FETCH)
    purposes: tuple[Purpose, ...] = ()
    valid_from: int | None = None
    valid_until: int | None = None
    max_fetches: int | None = None
    max_bytes: int | None = None
    duties: tuple[Duty, ...] = ()
    pass_on: bool = False

    def __post_init__(self) -> None:
        if not self.operations:
            raise InvalidInput("a permission allows at least one operation")
        if len(self.purposes) > MOST_PURPOSES or len(self.duties) > MOST_DUTIES:
            raise InvalidInput(f"terms have at most {MOST_PURPOSES} purposes and {MOST_DUTIES} duties")
        for number in (self.valid_from, self.valid_until, self.max_fetches, self.max_bytes):
            if number is not None and not 0 < number <= _MOST:
                raise InvalidInput("a limit or a time is a number above 0")
        if self.valid_from is not None and self.valid_until is not None and self.valid_from >= self.valid_until:
            raise InvalidInput("the time ends before it begins")
        if self.pass_on and any(duty.kind is DutyKind.DO_NOT_PASS_ON for duty in self.duties):
            raise InvalidInput("do-not-pass-on and leave to pass on contradict each other")

    @property
    def unconditional(self) -> bool:
        """Whether nothing is counted, promised or owed, so that nobody has to ask first. Times may still bound it."""
        return not (self.purposes or self.duties) and self.max_fetches is None and self.max_bytes is None

    def is_within(self, wider: "Conditions") -> bool:
        """Whether this allows nothing that ``wider`` does not, and owes all that ``wider`` owes."""
        return (
            set(self.operations) <= set(wider.operations)
            and (not wider.purposes or (bool(self.purposes) and all(covers(wider.purposes, p) for p in self.purposes)))
            and (wider.valid_from is None or (self.valid_from is not None and self.valid_from >= wider.valid_from))
            and _at_most(self.valid_until, wider.valid_until)
            and _at_most(self.max_fetches, wider.max_fetches)
            and _at_most(self.max_bytes, wider.max_bytes)
            and all(_owed(duty, self.duties) for duty in wider.duties)
            and (wider.pass_on or not self.pass_on)
        )

    def holds_at(self, now: int) -> bool:
        return (self.valid_from is None or now >= self.valid_from) and (
            self.valid_until is None or now < self.valid_until
        )

    @property
    def delete_after(self) -> int | None:
        """Seconds from the end of a fetch; the shortest, if several are owed."""
        found = [duty.seconds for duty in self.duties if duty.kind is DutyKind.DELETE_AFTER]
        return min(found) if found else None


@dataclass(frozen=True, slots=True, order=True)
class Party:
    """One organization; with ``key_id`` only while that is its current identity key."""

    prefix: Prefix
    key_id: KeyId | None = None

    @classmethod
    def parse(cls, text: str) -> "Party":
        """``PREFIX`` or ``PREFIX#KEYID``. Raises InvalidInput."""
        prefix, hash_sign, key_id = text.partition("#")
        if hash_sign and not key_id:
            raise InvalidInput(f"{text!r} has no key id after the #: leave the # out, or give the 32 digits")
        return cls(Prefix.parse(prefix), KeyId.parse(key_id) if hash_sign else None)

    def means(self, prefix: Prefix, key_id: KeyId) -> bool:
        return self.prefix == prefix and self.key_id in (None, key_id)

    def __str__(self) -> str:
        return f"{self.prefix}#{self.key_id}" if self.key_id else str(self.prefix)


@dataclass(frozen=True, slots=True)
class Permission:
    """``parties`` empty: any member in good standing. ``automatic``: what is within it is granted without a person."""

    parties: tuple[Party, ...] = ()
    conditions: Conditions = Conditions()
    automatic: bool = True

    def __post_init__(self) -> None:
        if len(self.parties) > MOST_PARTIES:
            raise InvalidInput(f"a permission names at most {MOST_PARTIES} organizations")

    @property
    def unasked(self) -> bool:
        """Whether its parties need no grant."""
        return self.automatic and self.conditions.unconditional

    def concerns(self, prefix: Prefix, key_id: KeyId) -> bool:
        return not self.parties or any(each.means(prefix, key_id) for each in self.parties)


@dataclass(frozen=True, slots=True)
class Terms:
    """ON_REQUEST: what ``permissions`` do not settle, a person does. COMPUTE_ONLY refuses every fetch."""

    mode: AccessMode = AccessMode.ON_REQUEST
    permissions: tuple[Permission, ...] = ()

    def __post_init__(self) -> None:
        if len(self.permissions) > MOST_PERMISSIONS:
            raise InvalidInput(f"terms have at most {MOST_PERMISSIONS} permissions")
        allowed = {operation for each in self.permissions for operation in each.conditions.operations}
        if self.mode is AccessMode.COMPUTE_ONLY and Operation.FETCH in allowed:
            raise InvalidInput("compute-only terms permit no fetch: permit describe alone, or choose another mode")
        if self.mode is AccessMode.OPEN and not any(
            each.automatic and not each.parties and Operation.FETCH in each.conditions.operations
            for each in self.permissions
        ):
            raise InvalidInput("open terms let every member fetch without a person's leave: choose on-request")

    @classmethod
    def opened(cls) -> "Terms":
        """``--open``: any member, without conditions."""
        return cls(AccessMode.OPEN, (Permission(),))

    @classmethod
    def allowing(cls, parties: Iterable[str]) -> "Terms":
        """``--allow``: these, without conditions. Raises InvalidInput."""
        listed = tuple(dict.fromkeys(Party.parse(text) for text in parties))
        return cls(AccessMode.ON_REQUEST, (Permission(listed),) if listed else ())

    @classmethod
    def chosen(cls, mode: AccessMode | None, parties: Iterable[str]) -> "Terms":
        """A ready-made mode (None: on request), and who needs not ask. Raises InvalidInput."""
        terms = cls.allowing(parties)
        if mode is AccessMode.OPEN:
            if terms.permissions:
                raise InvalidInput("an object is open to every member, or allowed to some: not both")
            return cls.opened()
        if mode is AccessMode.COMPUTE_ONLY:
            described = Conditions(operations=(Operation.DESCRIBE,))
            return cls(mode, tuple(Permission(each.parties, described) for each in terms.permissions))
        return terms

    def changed(self, mode: AccessMode | None, permission: Permission | None, *, beside: bool = False) -> "Terms":
        """Others in place of these, or with ``beside`` these and one permission more. Raises InvalidInput.

        ``mode`` None: on request; with ``beside``, as it is. OPEN without a permission is without conditions.
        """
        if beside:
            added = (permission,) if permission else ()
            return Terms(mode or self.mode, self.permissions + added)
        if mode is AccessMode.OPEN:
            if permission and permission.parties:
                raise InvalidInput("an object is open to every member, or allowed to some: not both")
            return Terms(mode, (permission or Permission(),))
        return Terms(mode or AccessMode.ON_REQUEST, (permission,) if permission else ())

    @property
    def parties(self) -> tuple[Party, ...]:
        """All that are named."""
        return tuple(dict.fromkeys(party for each in self.permissions for party in each.parties))

    @property
    def purposes(self) -> tuple[Purpose, ...]:
        """All that are named, for the public record."""
        return tuple(dict.fromkeys(p for each in self.permissions for p in each.conditions.purposes))

    @property
    def duties(self) -> tuple[Duty, ...]:
        """All that are named, for the public record."""
        return tuple(dict.fromkeys(d for each in self.permissions for d in each.conditions.duties))


def covers(purposes: Iterable[Purpose], purpose: Purpose) -> bool:
    """Whether a purpose is one of these, or a narrower one in its vocabulary."""
    return any(each in purposes for each in purpose.with_broader)


def _at_most(narrow: int | None, wide: int | None) -> bool:
    return wide is None or (narrow is not None and narrow <= wide)


def _owed(duty: Duty, duties: Iterable[Duty]) -> bool:
    if duty.kind is DutyKind.DELETE_AFTER:
        return any(each.kind is DutyKind.DELETE_AFTER and each.seconds <= duty.seconds for each in duties)
    return duty in duties


def parse_span(text: str) -> int:
    """``90s``, ``15m``, ``2h``, ``30d``, ``4w``, in seconds. Raises InvalidInput."""
    found = re.fullmatch(r"([1-9][0-9]{0,8})([smhdw])", text)
    if not found:
        raise InvalidInput(f"{text!r} is not a span of time, such as 12h, 30d or 4w")
    return int(found[1]) * _UNITS[found[2]]


def _span_in_words(seconds: int) -> str:
    number, unit = int(_span(seconds)[:-1]), {"d": "day", "h": "hour", "m": "minute", "s": "second"}[_span(seconds)[-1]]
    return f"{number} {unit}" if number == 1 else f"{number} {unit}s"


def _span(seconds: int) -> str:
    unit = next(unit for unit in "dhms" if seconds % _UNITS[unit] == 0)
    return f"{seconds // _UNITS[unit]}{unit}"
