"""Which papers may be believed: an envelope, the organizations' records and the time come in; a paper or an error.

Pure: no clock, file or socket. A paper counts when it was signed, as that kind of paper, by a key that was its
signer's at its date. The rule of chains: every grant after the owner's own is signed by the holder of the one before,
who was allowed to pass it on, and is within it. Errors are VerificationFailed. SPEC.md sections 16 and 17.

    grants = verify_chain(envelopes, {north.prefix: north, acme.prefix: acme})
    grants[-1].to               # who may use the last one
"""

from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from hanse import limits
from hanse import wire_papers as wire
from hanse.errors import BadSignature, InvalidInput, WrongContent
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Prefix
from hanse.model.keys import KeyId
from hanse.model.organization import OrganizationRecord
from hanse.model.papers import AccessRequest, Deletion, Denial, Grant, Receipt, Revocation
from hanse.signing import is_signed_by
from hanse.trust import signing_key

T = TypeVar("T")


def verify_request(envelope: Envelope, organization: OrganizationRecord, now: int) -> AccessRequest:
    """A request of that organization. Raises BadSignature, WrongContent."""
    request = _decoded(envelope, PayloadType.REQUEST, wire.decode_request, "request")
    _signed(envelope, organization, request.consumer, request.issued_at, now, "request")
    return request


def verify_grant(envelope: Envelope, issuer: OrganizationRecord, *, now: int | None = None) -> Grant:
    """A grant that ``issuer`` made; whether it could is for ``verify_chain``. Raises BadSignature, WrongContent.

    ``now`` None: the date was judged before, when the grant came.
    """
    grant = _decoded(envelope, PayloadType.GRANT, wire.decode_grant, "grant")
    _signed(envelope, issuer, grant.issuer, grant.issued_at, now, "grant")
    return grant


def verify_chain(
    envelopes: Sequence[Envelope], organizations: Mapping[Prefix, OrganizationRecord], *, now: int | None = None
) -> tuple[Grant, ...]:
    """From the owner's grant to the last one that was narrowed from it. Raises BadSignature, WrongContent."""
    if not 1 <= len(envelopes) <= limits.GRANT_CHAIN:
        raise WrongContent(f"a chain has 1 to {limits.GRANT_CHAIN} grants")
    chain: list[Grant] = []
    for position, envelope in enumerate(envelopes):
        claimed = _decoded(envelope, PayloadType.GRANT, wire.decode_grant, "grant").issuer
        issuer = organizations.get(claimed)
        if issuer is None:
            raise WrongContent(f"a grant is of {claimed}, whose record is not at hand")
        grant = verify_grant(envelope, issuer, now=now)
        if position == 0:
            if grant.parent:
                raise WrongContent("the chain does not begin with a grant of the owner: a link is missing")
            if grant.issuer != grant.owner:
                raise WrongContent(f"{grant.issuer} cannot give what {grant.owner} owns")
        else:
            _check_link(envelope, grant, issuer, envelopes[position - 1], chain[-1])
        chain.append(grant)
    return tuple(chain)


def _check_link(envelope: Envelope, grant: Grant, issuer: OrganizationRecord, above: Envelope, parent: Grant) -> None:
    """That ``grant`` may stand after ``parent``."""
    if grant.parent != above.digest:
        raise WrongContent("a grant does not narrow the one before it in the chain: a link is missing or another's")
    if grant.issuer != parent.to:
        raise WrongContent(f"{grant.issuer} narrowed a grant that {parent.to} holds")
    if parent.to_key is not None and signing_key(envelope, issuer, grant.issued_at) != parent.to_key:
        raise BadSignature(f"{grant.issuer} narrowed a grant with another key than the one that it is bound to")
    if not parent.conditions.pass_on:
        raise WrongContent(f"{parent.to} narrowed a grant that it may not pass on")
    if not grant.is_within(parent):
        raise WrongContent(f"{grant.issuer} narrowed a grant to one that allows more than it, or owes less")
    if grant.issued_at < parent.issued_at - limits.CLOCK_SKEW:
        raise WrongContent("a grant is dated before the one that it narrows")


def verify_denial(envelope: Envelope, owner: OrganizationRecord, *, now: int | None = None) -> Denial:
    """Raises BadSignature, WrongContent."""
    denial = _decoded(envelope, PayloadType.DENIAL, wire.decode_denial, "denial")
    _signed(envelope, owner, denial.issuer, denial.issued_at, now, "denial")
    return denial


def verify_revocation(envelope: Envelope, issuer: OrganizationRecord, *, now: int | None = None) -> Revocation:
    """Of that issuer; whether it may end the grant is for ``may_revoke``. Raises BadSignature, WrongContent."""
    revocation = _decoded(envelope, PayloadType.REVOCATION, wire.decode_revocation, "revocation")
    _signed(envelope, issuer, revocation.issuer, revocation.issued_at, now, "revocation")
    return revocation


def may_revoke(revocation: Revocation, grant: Grant) -> bool:
    """Whoever made it, and the owner of its objects."""
    return revocation.issuer in (grant.issuer, grant.owner)


def verify_receipt(
    envelope: Envelope,
    owner: OrganizationRecord | None,
    consumer: OrganizationRecord | None,
    *,
    now: int | None = None,
) -> tuple[Receipt, frozenset[Prefix]]:
    """A receipt, and who of the two signed it: at least one of those whose records are at hand.

    With both records, every signature must be of one of them. Raises BadSignature, WrongContent.
    """
    receipt = _decoded(envelope, PayloadType.RECEIPT, wire.decode_receipt, "receipt")
    signed = set()
    for organization, expected in ((owner, receipt.owner), (consumer, receipt.consumer)):
        if organization is None:
            continue
        if organization.prefix != expected:
            raise WrongContent(f"a receipt of {expected} was offered as one of {organization.prefix}")
        if signing_key(envelope, organization, receipt.ended_at) is not None:
            signed.add(expected)
    if not signed:
        raise BadSignature("a receipt is signed by neither of the two that it names")
    if (
        owner is not None
        and consumer is not None
        and len(_keys_of(envelope, owner, consumer)) != len(envelope.signatures)
    ):
        raise BadSignature("a receipt has a signature that is of neither of the two that it names")
    _dated(receipt.ended_at, now, "receipt")
    return receipt, frozenset(signed)


def _keys_of(envelope: Envelope, *organizations: OrganizationRecord) -> set[KeyId]:
    return {
        key.public_key.key_id
        for organization in organizations
        for key in organization.keys
        if is_signed_by(envelope, key.public_key)
    }


def verify_deletion(envelope: Envelope, consumer: OrganizationRecord, *, now: int | None = None) -> Deletion:
    """Raises BadSignature, WrongContent."""
    deletion = _decoded(envelope, PayloadType.DELETION, wire.decode_deletion, "deletion")
    _signed(envelope, consumer, deletion.consumer, deletion.deleted_at, now, "deletion")
    return deletion


def _decoded(envelope: Envelope, kind: PayloadType, decode: Callable[[bytes], T], what: str) -> T:
    if envelope.payload_type != kind:
        raise BadSignature(f"a signature for {envelope.payload_type!r} was offered as one for {kind.value!r}")
    if len(envelope.payload) > limits.ENVELOPE_BYTES:
        raise WrongContent(f"a {what} has at most {limits.ENVELOPE_BYTES} bytes")
    try:
        return decode(envelope.payload)
    except InvalidInput as error:
        raise WrongContent(f"a {what} does not parse: {error}") from None


def _signed(
    envelope: Envelope, organization: OrganizationRecord, named: Prefix, dated: int, now: int | None, what: str
) -> None:
    if organization.prefix != named:
        raise WrongContent(f"a {what} of {named} was offered as one of {organization.prefix}")
    if signing_key(envelope, organization, dated) is None:
        raise BadSignature(f"a {what} is not signed by {named}: no valid signature by a key of its own")
    _dated(dated, now, what)


def _dated(dated: int, now: int | None, what: str) -> None:
    if now is not None and dated > now + limits.CLOCK_SKEW:
        raise WrongContent(f"a {what} is dated in the future: is this machine's clock right?")
