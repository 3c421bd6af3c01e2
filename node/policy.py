"""Who may do what with an object: terms, a grant, a caller come in; a decision comes out. SPEC.md section 15.

Pure: no clock, file or socket. Whether the caller is who it says, and in good standing, was settled before; so was
whether a grant is genuine and not revoked. Cedar decides, over the policies that concern this object and this caller:
those of the terms, of the grant, and the owner's own. The rules it keeps: denied unless allowed, and denied where a
policy cannot be evaluated; who may not know that an object exists is not told.

    policies = Policies()
    policies.decide(Asked(caller, Operation.FETCH, id, now), Terms.opened(), owner=north, unlisted=False).allowed
"""

import itertools
import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from hanse.errors import GrantNeeded, InvalidInput, NotPermitted, UsedUp
from hanse.model.identifier import Identifier, Prefix
from hanse.model.keys import KeyId
from hanse.model.papers import AccessRequest, Grant
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Operation, Permission, Terms, covers
from node.cedar import LINKS, CedarPolicy, compile_grants, compile_terms

if TYPE_CHECKING:
    import cedarpy

PREPARED = 4096
"""Sets of policies that are kept parsed: one an object and a caller, a few kilobytes each."""
_DAY = 86_400
_SHOWN = 16  # hex digits of a grant's name


@dataclass(frozen=True, slots=True)
class Caller:
    """Who asks, proven: the organization and its current identity key."""

    prefix: Prefix
    key_id: KeyId


@dataclass(frozen=True, slots=True)
class Usage:
    """What was used of a grant."""

    fetches: int = 0
    bytes: int = 0


@dataclass(frozen=True, slots=True)
class Asked:
    """One question. ``chain``: from the owner's grant to the one used, which is ``grant``; ``usage`` of each of it.

    ``usage`` empty: nothing was used yet. ``begun``: the limits of grants are kept where it is counted: whoever asks
    sees to that. ``digests``: the names of the grants of the chain.
    """

    caller: Caller
    operation: Operation
    id: Identifier
    now: int
    grant: Grant | None = None
    chain: tuple[Grant, ...] = ()
    usage: tuple[Usage, ...] = ()
    digests: tuple[bytes, ...] = ()
    begun: bool = False


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


@dataclass(frozen=True, slots=True)
class _Prepared:
    """What Cedar is asked with, parsed once. ``names`` of the policies, in the order of their text."""

    policies: "cedarpy.PolicySet"
    entities: "cedarpy.Entities"
    names: tuple[str, ...]
    terms: Terms
    chain: tuple[Grant, ...]
    owner: Prefix

    def is_of(self, terms: Terms, chain: tuple[Grant, ...], owner: Prefix) -> bool:
        """Whether it was made of these: mostly the same objects, which is sooner seen than that they are equal."""
        return (
            (self.terms is terms or self.terms == terms)
            and (self.chain is chain or self.chain == chain)
            and self.owner == owner
        )


class _Own:
    """The owner's own policies by whom and what they concern: of a thousand, mostly a few concern one question."""

    def __init__(self, policies: Sequence[CedarPolicy]) -> None:
        self.policies = tuple(policies)
        self._numbers: dict[tuple[str | None, str | None], list[int]] = {}
        for number, each in enumerate(self.policies):
            self._numbers.setdefault((each.principal, each.resource), []).append(number)

    def concerning(self, principal: str, resource: str) -> list[CedarPolicy]:
        """In their order."""
        scopes = itertools.product((None, principal), (None, resource))
        return [self.policies[number] for number in sorted(n for scope in scopes for n in self._numbers.get(scope, ()))]


class Policies:
    """Decides. Any thread may ask; ``take`` puts the owner's own policies in force from the next question on."""

    def __init__(self, own: Sequence[CedarPolicy] = (), report: Callable[[str], None] = lambda _: None) -> None:
        """``report`` is told, in words for the owner's log, of policies that could not be evaluated."""
        self._own = _Own(own)
        self._report = report
        self._lock = threading.Lock()
        self._prepared: OrderedDict[object, _Prepared] = OrderedDict()

    def take(self, own: Sequence[CedarPolicy]) -> None:
        """The owner's own policies, all of them; they were checked (node.own_policies)."""
        with self._lock:
            self._own = _Own(own)
            self._prepared.clear()

    @property
    def own(self) -> tuple[CedarPolicy, ...]:
        return self._own.policies

    def decide(self, asked: Asked, terms: Terms | None, *, owner: Prefix, unlisted: bool) -> Decision:
        """``terms`` None: there is no such object. The owner itself is not bound by its own policies."""
        if terms is None:
            return Decision(False, False, "no such object")
        caller = asked.caller
        if caller.prefix == owner:
            return Decision(True, True, "the owner itself", "owner")
        chain = asked.chain or ((asked.grant,) if asked.grant else ())
        objection = _objection(chain, asked, owner)
        if objection:
            chain = ()
        visible = not unlisted or bool(chain) or any(_shows(each, asked) for each in terms.permissions)
        try:
            allowed, policy = self._ask(asked, terms, chain, owner, unlisted)
        except Exception as error:  # noqa: BLE001 - whatever it is: nobody gets in by it
            self._report(f"{asked.id}: {type(error).__name__}: {error}")
            return Decision(False, visible, "the policies could not be evaluated")
        if allowed:
            return Decision(True, True, _allowed(policy, asked, terms), policy)
        if policy == "compute-only":
            return Decision(False, visible, "compute only", policy)
        if policy:
            return Decision(False, visible and not unlisted, f"forbidden by {policy}", policy)
        return _refused(asked, terms, chain, objection, visible)

    def _ask(
        self, asked: Asked, terms: Terms, chain: tuple[Grant, ...], owner: Prefix, unlisted: bool
    ) -> tuple[bool, str]:
        """Whether Cedar allows it, and which policy decided; "" when none did. Raises what Cedar could not evaluate."""
        import cedarpy

        prepared = self._prepare(asked, terms, chain, owner, unlisted)
        result = cedarpy.is_authorized(
            {
                "principal": {"type": "Hanse::Organization", "id": asked.caller.prefix.text},
                "action": {"type": "Hanse::Action", "id": asked.operation.value},
                "resource": {"type": "Hanse::Object", "id": asked.id.key},
                "context": json.dumps(context_of(asked, chain)),
            },
            prepared.policies,
            prepared.entities,
        )
        if result.diagnostics.errors:
            # Cedar leaves out what it cannot evaluate: a forbid that fails would forbid nothing.
            raise ValueError("; ".join(result.diagnostics.errors))
        # Without an id of their own, Cedar numbers policies by their place in the text.
        decisive = sorted(int(reason.removeprefix("policy")) for reason in result.diagnostics.reasons)
        return result.allowed, prepared.names[decisive[0]] if decisive else ""

    def _prepare(
        self, asked: Asked, terms: Terms, chain: tuple[Grant, ...], owner: Prefix, unlisted: bool
    ) -> _Prepared:
        import cedarpy

        names = tuple(digest.hex()[:_SHOWN] for digest in asked.digests) or tuple(
            each.nonce.hex()[:_SHOWN] for each in chain
        )
        principal, resource = asked.caller.prefix.text, asked.id.key
        key = (principal, resource, names, unlisted)
        with self._lock:
            own, found = self._own, self._prepared.get(key)
            if found is not None:
                self._prepared.move_to_end(key)
        if found is not None and found.is_of(terms, chain, owner):
            return found
        chosen = [
            each
            for each in (*compile_terms(terms, asked.id), *compile_grants(chain, names, asked.id))
            if each.concerns(principal, resource)
        ]
        # The owner's own first: where several forbid, hers is the one that is named.
        chosen = [*own.concerning(principal, resource), *chosen]
        made = _Prepared(
            cedarpy.PolicySet.from_str("".join(each.text for each in chosen)),
            cedarpy.Entities.from_json_str(json.dumps([_entity(resource, terms, owner, unlisted)])),
            tuple(each.name for each in chosen),
            terms,
            chain,
            owner,
        )
        with self._lock:
            if own is self._own:  # else it is of policies that are no longer in force
                self._prepared[key] = made
                while len(self._prepared) > PREPARED:
                    self._prepared.popitem(last=False)
        return made


def grantable(terms: Terms, asker: Caller, request: AccessRequest) -> Conditions | None:
    """What an automatic permission gives for this request; None: a person decides.

    The first permission that covers it: its conditions, for the operations and purposes that were asked for, and no
    longer than that.
    """
    for permission in terms.permissions:
        if not permission.automatic or not permission.concerns(asker.prefix, asker.key_id):
            continue
        given, now = permission.conditions, request.issued_at
        if given.valid_until is not None and now >= given.valid_until:
            continue
        if not request.operations or not set(request.operations) <= set(given.operations):
            continue
        if given.purposes and not (
            request.purposes and all(covers(given.purposes, purpose) for purpose in request.purposes)
        ):
            continue
        ends = [each for each in (given.valid_until, request.valid_until) if each is not None]
        try:
            return replace(
                given,
                operations=request.operations,
                purposes=request.purposes,
                valid_until=min(ends) if ends else None,
            )
        except InvalidInput:  # it would end before it begins
            continue
    return None


def context_of(asked: Asked, chain: Sequence[Grant]) -> dict[str, Any]:
    """What policies may look at besides who, what and which object (node.cedar.SCHEMA)."""
    purposes = chain[-1].conditions.purposes if chain else ()
    context: dict[str, Any] = {
        "now": asked.now,
        "second": asked.now % _DAY,
        "weekday": (asked.now // _DAY + 3) % 7 + 1,  # Unix time began on a Thursday
        "key": str(asked.caller.key_id),
        "begun": asked.begun,
        "purposes": sorted({broader.name for each in purposes for broader in each.with_broader}),
    }
    usage = asked.usage or (Usage(),) * len(chain)
    for link, grant, used, number in zip(
        LINKS, reversed(chain), reversed(usage), range(len(chain) - 1, -1, -1), strict=False
    ):
        name = asked.digests[number] if asked.digests else grant.nonce
        context[link] = {"name": name.hex()[:_SHOWN], "fetches": used.fetches, "bytes": used.bytes}
    return context


def _entity(resource: str, terms: Terms, owner: Prefix, unlisted: bool) -> dict[str, Any]:
    return {
        "uid": {"type": "Hanse::Object", "id": resource},
        "attrs": {
            "owner": {"__entity": {"type": "Hanse::Organization", "id": owner.text}},
            "unlisted": unlisted,
            "mode": terms.mode.value,
        },
        "parents": [],
    }


def _objection(chain: Sequence[Grant], asked: Asked, owner: Prefix) -> str:
    """Why these grants are none for this caller and object, whatever they allow; "" if they are."""
    if not chain:
        return ""
    if len(chain) > len(LINKS):
        return "narrowed too often"
    if chain[0].issuer != owner or (asked.grant is not None and asked.grant != chain[-1]):
        return "not a grant of the owner"
    if any(asked.id not in each.ids for each in chain):
        return "the grant is for other objects"
    if chain[-1].to != asked.caller.prefix:
        return "the grant is somebody else's"
    if chain[-1].to_key not in (None, asked.caller.key_id):
        return "granted to another key"
    for above, below in itertools.pairwise(chain):
        if below.issuer != above.to or not above.conditions.pass_on or not below.is_within(above):
            return "the grant is not within the one that it was narrowed from"
    if (asked.usage and len(asked.usage) != len(chain)) or (asked.digests and len(asked.digests) != len(chain)):
        return "what was used of the grants is not known"
    return ""


def _shows(permission: Permission, asked: Asked) -> bool:
    return permission.concerns(asked.caller.prefix, asked.caller.key_id) and permission.conditions.holds_at(asked.now)


def _allowed(policy: str, asked: Asked, terms: Terms) -> str:
    if policy.startswith("grant-"):
        return f"granted: {policy.removeprefix('grant-')}"
    permission = terms.permissions[int(policy.removeprefix("terms-")) - 1]
    caller = asked.caller
    named = next((str(each) for each in permission.parties if each.means(caller.prefix, caller.key_id)), "")
    return f"allowed: {named}" if named else "open to members"


def _refused(asked: Asked, terms: Terms, chain: Sequence[Grant], objection: str, visible: bool) -> Decision:
    """Why nothing permits it: for people; it was decided already."""
    if objection:
        return Decision(False, visible, objection)
    if chain:
        if any(asked.operation not in each.conditions.operations for each in chain):
            return Decision(False, visible, f"the grant does not allow to {asked.operation}")
        if any(each.conditions.valid_from is not None and asked.now < each.conditions.valid_from for each in chain):
            return Decision(False, visible, "the grant has not begun")
        if any(each.conditions.valid_until is not None and asked.now >= each.conditions.valid_until for each in chain):
            return Decision(False, visible, "the grant is over")
        return Decision(False, visible, "the grant is used up", error=UsedUp)
    caller = asked.caller
    concerned = [each for each in terms.permissions if each.concerns(caller.prefix, caller.key_id)]
    if terms.mode is AccessMode.COMPUTE_ONLY and asked.operation is Operation.FETCH:
        return Decision(False, visible, "compute only")
    if any(asked.operation in each.conditions.operations for each in concerned):
        if all(each.unasked for each in concerned):
            return Decision(False, visible, "not at this time", error=GrantNeeded)
        return Decision(False, visible, "not without a grant", error=GrantNeeded)
    if any(party.prefix == caller.prefix for party in terms.parties) and not concerned:
        return Decision(False, visible, "allowed with another key only", error=GrantNeeded)
    return Decision(False, visible, "not allowed", error=GrantNeeded)
