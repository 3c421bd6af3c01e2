"""Everything that can go wrong, each with who is to blame, what a peer is told and how a command ends.

What it is not: a place for messages. The one who raises knows what happened and what to do, and says so.
The rule it keeps: nothing private stands in a message, because messages cross the network.

Source: SPEC.md section 12 (the table of errors); a test holds the two against each other.

    raise NotFound("no object 86.acme/x1; `hanse search` finds what is published")
"""

from typing import ClassVar


class HanseError(Exception):
    """The root. One that escapes as it is, and any other exception that escapes, is a bug of ours.

    ``status`` is the name of the gRPC status code it travels as, ``exit_code`` how a command ends.
    """

    status: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1

    @property
    def reason(self) -> str:
        """The name by which the other side knows it again."""
        return type(self).__name__


class NoSpace(HanseError):
    """This machine's disk is full, or a quota is used up."""

    status = "RESOURCE_EXHAUSTED"


class StorageFailed(HanseError):
    """This machine's disk or database failed."""


class HomeUnusable(HanseError):
    """The home folder cannot be used as it is: not writable, wrong modes, missing, or newer than the program."""

    status = "FAILED_PRECONDITION"


class InvalidInput(HanseError):
    """The caller's input does not parse or makes no sense."""

    status = "INVALID_ARGUMENT"
    exit_code = 2


class LimitExceeded(InvalidInput):
    """The caller passed a named limit (hanse.limits)."""


class NotFound(HanseError):
    """There is no such thing, as far as the caller may know."""

    status = "NOT_FOUND"
    exit_code = 3


class Withdrawn(NotFound):
    """The owner ended the object; a signed tombstone says so."""


class NotPermitted(HanseError):
    """The caller may know that it exists, but may not have it."""

    status = "PERMISSION_DENIED"
    exit_code = 4


class GrantNeeded(NotPermitted):
    """The caller may ask the owner for a grant: `hanse request`."""


class Revoked(NotPermitted):
    """The grant, or one that it was narrowed from, was revoked by who made it."""


class UsedUp(NotPermitted):
    """The grant allows no more fetches, or bytes."""


class ReceiptsOwed(NotPermitted):
    """The caller was served more than it has signed for, and must sign first."""


class DeliveryClosed(NotPermitted):
    """The delivery that the call goes on with is settled or too old: a new one can be begun."""


class Suspended(NotPermitted):
    """The caller's organization is suspended."""


class NotAuthenticated(NotPermitted):
    """The caller did not prove who it is."""

    status = "UNAUTHENTICATED"


class Unreachable(HanseError):
    """The other side does not answer, or is not ready. Worth trying again."""

    status = "UNAVAILABLE"
    exit_code = 5


class NotWitnessed(Unreachable):
    """Too few of the witnesses that this home requires have cosigned what the registry shows. Worth trying again."""


class TimedOut(Unreachable):
    """The other side did not answer in time. Worth trying again."""

    status = "DEADLINE_EXCEEDED"


class Overloaded(Unreachable):
    """The other side has as much to do as it allows. Worth trying again later."""

    status = "RESOURCE_EXHAUSTED"


class VerificationFailed(HanseError):
    """What arrived is not what its owner signed. The sender, or somebody between, is at fault: do not use it."""

    status = "DATA_LOSS"
    exit_code = 6


class BadSignature(VerificationFailed):
    """A signature is missing, does not verify, or is of a key that does not count."""


class BrokenChain(VerificationFailed):
    """An organization's or object's history does not continue what was seen before."""


class RolledBack(VerificationFailed):
    """An older version was offered than one that was seen before."""


class WrongContent(VerificationFailed):
    """Bytes, a manifest or a path are not what the owner's signature promises."""


class Conflict(HanseError):
    """What is asked for contradicts what is there."""

    status = "ABORTED"
    exit_code = 7


class AlreadyExists(Conflict):
    """An identifier is never used twice."""

    status = "ALREADY_EXISTS"


class SourceChanged(Conflict):
    """The data under a published version is not what it was: `hanse refresh` makes a new version."""

    status = "FAILED_PRECONDITION"


class HomeInUse(Conflict):
    """Another process is working in this home."""


def _subclasses(of: type[HanseError]) -> list[type[HanseError]]:
    return [of, *(deeper for sub in of.__subclasses__() for deeper in _subclasses(sub))]


BY_REASON: dict[str, type[HanseError]] = {each.__name__: each for each in _subclasses(HanseError)}
