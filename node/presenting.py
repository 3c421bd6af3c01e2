"""What others did with grants of ours: chains that were narrowed from them, and who ended what it had narrowed.

What it is not: use of a grant (node.grants). The rule it keeps: a chain is taken whole, when all of it was verified
and begins with a grant that is kept here, or nothing of it is. SPEC.md sections 16.4 and 16.5.

    take_chain(evidence, believing, envelopes, caller, now)
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol, TypeVar

from hanse import limits, papers, wire, wire_papers
from hanse.errors import LimitExceeded, NotPermitted, Revoked
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers as storage
from hanse.evidence.storage.log import Kind
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope
from hanse.model.identifier import Prefix
from hanse.model.organization import OrganizationRecord
from hanse.model.papers import Grant
from node.policy import Caller

T_co = TypeVar("T_co", covariant=True)
T = TypeVar("T")


class Check(Protocol[T_co]):
    """What is verified with the organizations' records."""

    def __call__(self, records: Mapping[Prefix, OrganizationRecord], /) -> T_co: ...


class Believing(Protocol):
    """hanse.client.keys.believed, with a peer's faults as NotPermitted."""

    def __call__(self, prefixes: Iterable[Prefix], check: Check[T], /) -> T: ...


def take_chain(
    evidence: Evidence, believing: Believing, envelopes: Sequence[Envelope], caller: Caller, now: int
) -> None:
    """Known from now on, if the caller holds its last grant, or made it. Raises NotPermitted, Revoked, LimitExceeded.

    Who made it shows it in order to end it, also when its holder has not yet.
    """
    claimed, own = [wire_papers.decode_grant(each.payload) for each in envelopes], evidence.identity().prefix
    last = claimed[-1]
    is_maker = last.issuer == caller.prefix
    if not is_maker and (last.to != caller.prefix or last.to_key not in (None, caller.key_id)):
        raise NotPermitted(f"the last grant of the chain is not for {caller.prefix} and its current key")
    root = envelopes[0].digest
    with evidence.reading() as connection:
        known = storage.grant(connection, root)
    if known is None or known.maker != own or known.owner != own:
        raise NotPermitted(f"the chain does not begin with a grant that {own} made")
    chain = believing(
        {each.issuer for each in claimed}, lambda records: papers.verify_chain(envelopes, records, now=now)
    )

    def work(change: Change) -> None:
        for grant, envelope in zip(chain[1:], envelopes[1:], strict=True):
            _put(change, root, grant, envelope)
        ended = any(row.revoked_at is not None for row in storage.chain(change.connection, envelopes[-1].digest))
        if ended and not is_maker:
            raise Revoked("a grant of the chain was revoked: ask whoever narrowed it for you")

    evidence.change(work)


def _put(change: Change, root: bytes, grant: Grant, envelope: Envelope) -> None:
    if storage.grant(change.connection, envelope.digest) is not None:
        return
    if storage.below(change.connection, root) >= limits.GRANTS_NARROWED:
        raise LimitExceeded(f"at most {limits.GRANTS_NARROWED} grants are narrowed from one of an owner")
    storage.put_grant(change.connection, grant, envelope, change.now)
    change.append(Kind.GRANT, wire.encode_envelope(envelope))


def take_revocation(evidence: Evidence, believing: Believing, envelope: Envelope, caller: Caller, now: int) -> None:
    """Of a grant that the caller made, and that is known here. Raises NotPermitted."""
    own = evidence.identity().prefix
    revocation = believing(
        [caller.prefix], lambda records: papers.verify_revocation(envelope, records[caller.prefix], now=now)
    )

    def work(change: Change) -> None:
        row = storage.grant(change.connection, revocation.grant)
        if row is None or row.owner != own or row.maker != caller.prefix:
            raise NotPermitted(f"a grant is revoked by who made it, or by {own}, and is known here: show it first")
        if storage.revoke(change.connection, revocation.grant, envelope, change.now):
            change.append(Kind.REVOCATION, wire.encode_envelope(envelope))

    evidence.change(work)
