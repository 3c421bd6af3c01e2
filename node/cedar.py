"""Terms and grants as Cedar policies, and the schema that every policy keeps. Text only: node.policy evaluates it.

Pure. The rules it keeps: the same terms give the same text, byte for byte; a policy is written for one object; what
needs a grant is permitted by a grant alone. SPEC.md section 15.4.

    compile_terms(Terms.opened(), id)[0].text      # '@id("terms-1")\\npermit (...'
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from hanse import limits
from hanse.model.identifier import Identifier
from hanse.model.papers import Grant
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Operation, Terms

_COMPUTE_ONLY: Final = AccessMode.COMPUTE_ONLY.value
LINKS: Final = ("grant", *(f"above{number}" for number in range(1, limits.GRANT_CHAIN)))
"""Attributes of the context: the grant that is used, the one it was narrowed from, and so on."""

SCHEMA: Final = """\
namespace Hanse {
  // An organization of the league, by its prefix.
  entity Organization;
  // A digital object, by its identifier with A to Z as a to z.
  entity Object = {
    owner: Organization,
    unlisted: Bool,
    // "open", "on-request" or "compute-only".
    mode: String,
  };
  // A grant: the first 16 hex digits of its name, and what was used of it so far: with this fetch, once it is counted.
  type Grant = { name: String, fetches: Long, bytes: Long };
  action describe, fetch appliesTo {
    principal: Organization,
    resource: Object,
    context: {
      // Unix seconds; second of the day from 0 and day of the week from 1, Monday, both in UTC.
      now: Long,
      second: Long,
      weekday: Long,
      // Key id of the caller's current identity key.
      key: String,
      // Whether limits of grants are kept elsewhere: where a fetch is counted. True wherever a peer asks.
      begun: Bool,
      // Of the grant that is used, with the broader ones of the vocabulary.
      purposes: Set<String>,
      // The grant that is used, if one is; then the one it was narrowed from, and so on.
LINKS
    },
  };
}
""".replace("LINKS", "\n".join(f"      {name}?: Grant," for name in LINKS))


@dataclass(frozen=True, slots=True)
class CedarPolicy:
    """``principal``, ``resource``: the only one that its scope admits, by name; None: any. ``name`` is for people."""

    name: str
    text: str
    principal: str | None = None
    resource: str | None = None

    def concerns(self, principal: str, resource: str) -> bool:
        return self.principal in (None, principal) and self.resource in (None, resource)


def compile_terms(terms: Terms, id: Identifier) -> tuple[CedarPolicy, ...]:
    """What nobody has to ask for, a policy for each party of each unasked permission; what the mode forbids."""
    found = []
    for number, permission in enumerate(terms.permissions, 1):
        conditions = permission.conditions
        if not permission.unasked:
            continue
        times = _times(conditions)
        operations = _ordered(conditions.operations)
        if not permission.parties:
            found.append(_permit(f"terms-{number}", None, operations, id, times))
        for party in permission.parties:
            bound = [f"context.key == {quoted(str(party.key_id))}"] if party.key_id else []
            found.append(_permit(f"terms-{number}", str(party.prefix), operations, id, bound + times))
    if terms.mode is AccessMode.COMPUTE_ONLY:
        fetch = _action(Operation.FETCH)
        text = f"@id({quoted(_COMPUTE_ONLY)})\nforbid (principal, action == {fetch}, resource == {object_(id)});\n"
        found.append(CedarPolicy(_COMPUTE_ONLY, text, None, id.key))
    return tuple(found)


def compile_grants(chain: Sequence[Grant], names: Sequence[str], id: Identifier) -> tuple[CedarPolicy, ...]:
    """A chain of grants, the owner's first, that was verified: a policy for each operation that every link allows.

    Whether the links belong to each other is for whoever asks (node.policy).
    """
    if not chain or len(chain) > len(LINKS):
        return ()
    used = chain[-1]
    bound = [f"context.key == {quoted(str(used.to_key))}"] if used.to_key else []
    found = []
    for operation in Operation:
        if any(operation not in each.conditions.operations for each in chain):
            continue
        clauses = [*bound]
        for link, grant in zip(LINKS, reversed(chain), strict=False):
            clauses += _times(grant.conditions)
            if operation is Operation.FETCH:
                clauses += _limits(grant.conditions, link)
        found.append(_permit(f"grant-{names[-1]}", str(used.to), (operation,), id, clauses))
    return tuple(found)


def quoted(text: str) -> str:
    """A string of Cedar. Ours are printable: only two characters need an escape."""
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"') + '"'


def organization(prefix: str) -> str:
    """The entity, as policies write it."""
    return f"Hanse::Organization::{quoted(prefix)}"


def object_(id: Identifier) -> str:
    """The entity, as policies write it."""
    return f"Hanse::Object::{quoted(id.key)}"


def _action(operation: Operation) -> str:
    return f"Hanse::Action::{quoted(operation.value)}"


def _permit(
    name: str, principal: str | None, operations: Iterable[Operation], id: Identifier, clauses: Iterable[str]
) -> CedarPolicy:
    who = "principal" if principal is None else f"principal == {organization(principal)}"
    what = ", ".join(_action(each) for each in operations)
    when = "".join(f"\nwhen {{ {clause} }}" for clause in clauses)
    text = f"@id({quoted(name)})\npermit ({who}, action in [{what}], resource == {object_(id)}){when};\n"
    return CedarPolicy(name, text, principal, id.key)


def _ordered(operations: Iterable[Operation]) -> list[Operation]:
    given = set(operations)
    return [each for each in Operation if each in given]


def _times(conditions: Conditions) -> list[str]:
    clauses = []
    if conditions.valid_from is not None:
        clauses.append(f"context.now >= {conditions.valid_from}")
    if conditions.valid_until is not None:
        clauses.append(f"context.now < {conditions.valid_until}")
    return clauses


def _limits(conditions: Conditions, link: str) -> list[str]:
    clauses = []
    for name, most in (("fetches", conditions.max_fetches), ("bytes", conditions.max_bytes)):
        if most is not None:
            clauses.append(f"context.begun || (context has {link} && context.{link}.{name} < {most})")
    return clauses
