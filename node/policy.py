"""Who may do what with an object: terms, a grant, a caller come in; a decision comes out. SPEC.md section 15.

Pure: no clock, file or socket. Whether the caller is who it says, and in good standing, was settled before; so was
whether a grant is genuine and not revoked. The rules it keeps: denied unless allowed; and who may not know that an
object exists is not told.

    policies = Policies()
    policies.decide(Asked(caller, Operation.FETCH, id, now), Terms.opened(), owner=north, unlisted=False).allowed
"""

from dataclasses import dataclass

from hanse.errors import GrantNeeded, NotPermitted, UsedUp
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import AccessRequest, Grant
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Operation, Terms


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, proven: the organization and its current identity key."""

    prefix: Prefix
    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of a grant before this call; a fetch that goes on is not counted again."""

    fetches: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. ``chain``: from the owner's grant to the one used, which is ``grant``; ``usage`` of each of it.

    ``usage`` empty: limits are not looked at. ``digests``: the names of the grants of the chain.
    """

    caller: Caller
    operation: Operation
    id: Identifier
    now: int
    grant: Grant | None = None
    chain: tuple[Grant, ...] = ()
    usage: tuple[Usage, ...] = ()
    digests: tuple[bytes, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """``visible``: whether the caller may know that the object exists. ``why`` is for the owner's own audit.

    ``policy``: which one decided. ``error``: as what a caller that may know of the object is refused.
    """

    allowed: bool
    visible: bool
    why: str
    policy: str = ""
    error: type[NotPermitted] = NotPermitted


class Policies:
    """Decides. Any thread may ask."""

    def decide(self, asked: Asked, terms: Terms | None, *, owner: Prefix, unlisted: bool) -> Decision:
        """``terms`` None: there is no such object."""
        if terms is None:
            return Decision(False, False, "no such object")
        caller = asked.caller
        if caller.prefix == owner:
            return Decision(True, True, "the owner itself")
        concerned = [each for each in terms.permissions if each.concerns(caller.prefix, caller.key_id)]
        visible = not unlisted or asked.grant is not None or any(p.conditions.holds_at(asked.now) for p in concerned)
        if terms.mode is AccessMode.COMPUTE_ONLY and asked.operation is Operation.FETCH:
            return Decision(False, visible, "compute only")
        for each in concerned:
            conditions = each.conditions
            if conditions.unconditional and asked.operation in conditions.operations and conditions.holds_at(asked.now):
                named = next((str(party) for party in each.parties if party.means(caller.prefix, caller.key_id)), "")
                return Decision(True, True, f"allowed: {named}" if named else "open to members")
        for grant, usage in zip(asked.chain, asked.usage or [Usage()] * len(asked.chain), strict=True):
            conditions = grant.conditions
            if asked.id not in grant.ids or asked.operation not in conditions.operations:
                return Decision(False, visible, "the grant is for something else")
            if not conditions.holds_at(asked.now):
                return Decision(False, visible, "the grant is over, or has not begun")
            if _is_used_up(conditions, usage):
                return Decision(False, visible, "the grant is used up", error=UsedUp)
        if asked.grant is not None and asked.grant.to == caller.prefix:
            if asked.grant.to_key in (None, caller.key_id):
                return Decision(True, True, "granted")
            return Decision(False, visible, "granted to another key")
        named_otherwise = any(party.prefix == caller.prefix for each in terms.permissions for party in each.parties)
        why = "allowed with another key only" if named_otherwise and not concerned else "not allowed"
        return Decision(False, visible, "not without a grant" if concerned else why, error=GrantNeeded)


def grantable(terms: Terms, asker: Caller, request: AccessRequest) -> Conditions | None:
    """What an automatic permission gives for this request; None: a person decides."""
    raise NotImplementedError


def _is_used_up(conditions: Conditions, usage: Usage) -> bool:
    fetches, size = conditions.max_fetches, conditions.max_bytes
    return (fetches is not None and usage.fetches >= fetches) or (size is not None and usage.bytes >= size)
