"""Who may have an object: the owner's rule. Pure.

    Rule(allowed=(Allowed.parse("86.acme"),))
"""

from dataclasses import dataclass

from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId


@dataclass(frozen=True, slots=True)
class Allowed:
    """An organization that is let in; with a ``key_id``, only while that is its current key."""

    prefix: Prefix
    key_id: KeyId | None = None

    @classmethod
    def parse(cls, text: str) -> "Allowed":
        """``PREFIX`` or ``PREFIX#KEYID``. Raises InvalidInput."""
        prefix, hash_sign, key_id = text.partition("#")
        return cls(Prefix.parse(prefix), KeyId.parse(key_id) if hash_sign else None)

    def __str__(self) -> str:
        return f"{self.prefix}#{self.key_id}" if self.key_id else str(self.prefix)


@dataclass(frozen=True, slots=True)
class Rule:
    """``open``: every member in good standing. Otherwise those who are allowed, and nobody else."""

    open: bool = False
    allowed: tuple[Allowed, ...] = ()
