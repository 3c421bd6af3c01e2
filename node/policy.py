"""Who may read what: a rule, a caller and an owner come in; a decision comes out.

Pure: no clock, file or socket. Whether the caller is who it says, and in good standing, was settled before.
The rule it keeps: denied unless allowed; and who may not know that an object exists is not told.

    decide(Rule(allowed=(Allowed.parse("86.acme"),)), caller, owner=north, unlisted=False).allowed
"""

from collections.abc import Iterable
from dataclasses import dataclass

from hanse.errors import InvalidInput
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId


@dataclass(frozen=True, slots=True, order=True)
class Allowed:
    """One organization that may read; with ``key_id`` only while that is its current identity key."""

    prefix: Prefix
    key_id: KeyId | None = None

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """``PREFIX`` or ``PREFIX#KEYID``. Raises InvalidInput."""
        prefix, hash_sign, key_id = text.partition("#")
        if hash_sign and not key_id:
            raise InvalidInput(f"{text!r} has no key id after the #: leave the # out, or give the 32 digits")
        return cls(Prefix.parse(prefix), KeyId.parse(key_id) if hash_sign else None)

    def __str__(self) -> str:
        return f"{self.prefix}#{self.key_id}" if self.key_id else str(self.prefix)


@dataclass(frozen=True, slots=True)
class Rule:
    """``open``: any member in good standing. Otherwise those in ``allowed``, and nobody else."""

    open: bool = False
    allowed: tuple[Allowed, ...] = ()

    @classmethod
    def parse(cls, allowed: Iterable[str], *, open: bool = False) -> "Rule":  # noqa: A002 - the word users type
        """From the command line. Raises InvalidInput."""
        listed = tuple(dict.fromkeys(Allowed.parse(text) for text in allowed))
        if open and listed:
            raise InvalidInput("an object is open to every member, or allowed to some: not both")
        return cls(open, listed)


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, proven: the organization and its current identity key."""

    prefix: Prefix
    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Decision:
    """``visible``: whether the caller may know that the object exists. ``why`` is for the owner's own audit."""

    allowed: bool
    visible: bool
    why: str


def decide(rule: Rule | None, caller: Caller, *, owner: Prefix, unlisted: bool) -> Decision:
    """Whether the caller may describe and fetch. ``rule`` None: there is no such object."""
    if rule is None:
        return Decision(False, False, "no such object")
    if caller.prefix == owner:
        return Decision(True, True, "the owner itself")
    if rule.open:
        return Decision(True, True, "open to members")
    visible = not unlisted
    named = False
    for entry in rule.allowed:
        if entry.prefix == caller.prefix:
            if entry.key_id is None or entry.key_id == caller.key_id:
                return Decision(True, True, f"allowed: {entry}")
            named = True
    return Decision(False, visible, "allowed with another key only" if named else "not allowed")
