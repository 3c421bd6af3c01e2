"""What an owner gives in answer to a request: terms, an asker and a request come in; conditions come out.

Pure: no clock, file or socket. What it is not: the automatic answer (node.policy.grantable); this is what a person's
yes means. It never gives more than was asked, and what the terms say to the asker is kept: a yes cannot waive a duty.
"""

from dataclasses import replace

from hanse.errors import InvalidInput, NotPermitted
from hanse.model.keys import KeyId
from hanse.model.papers import AccessRequest, Grant
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Operation, Terms
from node.policy import Caller, grantable


def approved(
    terms: Terms,
    asker: Caller,
    request: AccessRequest,
    now: int,
    *,
    until: int | None = None,
    max_fetches: int | None = None,
    max_bytes: int | None = None,
) -> Conditions:
    """The conditions of a grant that a person gives, shortened as said. Raises InvalidInput."""
    as_if = replace(terms, permissions=tuple(replace(each, automatic=True) for each in terms.permissions))
    found = grantable(as_if, asker, request) or Conditions(
        operations=request.operations, purposes=request.purposes, duties=terms.duties
    )
    ends = least(found.valid_until, request.valid_until, until)
    if ends is not None and ends <= now:
        raise InvalidInput("the grant would be over already: the time asked for, or --until, is in the past")
    return replace(
        found,
        valid_until=ends,
        max_fetches=least(found.max_fetches, max_fetches),
        max_bytes=least(found.max_bytes, max_bytes),
    )


def check_askable(terms: Terms, request: AccessRequest) -> None:
    """That the owner could say yes at all. Raises NotPermitted."""
    if terms.mode is AccessMode.COMPUTE_ONLY and Operation.FETCH in request.operations:
        raise NotPermitted(f"{request.id} is compute only: its data does not leave its owner, with or without a grant")


def bound_key(terms: Terms, asker: Caller) -> KeyId | None:
    """The key that a grant is bound to: the asker's, where the terms name the asker with a key only."""
    named = [party for each in terms.permissions for party in each.parties if party.prefix == asker.prefix]
    return asker.key_id if named and all(party.key_id for party in named) else None


def answers(grant: Grant, request: AccessRequest, asker: Caller, now: int) -> bool:
    """Whether a grant that was made for an earlier request gives what this one asks for."""
    given = grant.conditions
    return (
        grant.to == request.consumer
        and grant.to_key in (None, asker.key_id)
        and request.id in grant.ids
        and given.holds_at(now)
        and set(request.operations) <= set(given.operations)
        and set(request.purposes) == set(given.purposes)
    )


def least(*values: int | None) -> int | None:
    """The smallest of those that there are."""
    given = [each for each in values if each is not None]
    return min(given) if given else None
