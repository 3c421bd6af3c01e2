"""papers.json: requests, grants and their chains, denials, revocations, receipts, deletions. SPEC.md sections 16 to 19.

The hospital has changed its key (organization.json, versions 2 and 3), so that papers by the previous one can be
judged too; Acme holds its grant; a laboratory is given a narrower one.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from hashlib import sha256
from typing import Any

from hanse import papers as verify
from hanse import wire
from hanse import wire_papers as encode
from hanse.errors import HanseError
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.organization import IdentityKey, OrganizationRecord
from hanse.model.papers import AccessRequest, Deletion, Delivered, Denial, Grant, Receipt, Revocation
from hanse.model.purposes import Purpose
from hanse.model.terms import Conditions, Duty, DutyKind
from hanse.signing import SigningKey, sign
from tests.vectors.fixed import ACME, ACME_KEY, LAB, LAB_KEY, NEW, NORTH, OLD, T0, envelope_parts

DAY = 86_400
NOW = T0 + 100_000
TRIAL, OTHER_TRIAL = Identifier.of(NORTH, "trial-7"), Identifier.of(NORTH, "trial-8")
ORGANIZATIONS = {
    NORTH: OrganizationRecord(
        NORTH, 3, sha256(b"hanse test version 2").digest(), "North Hospital", "data@north.example",
        (IdentityKey(NEW.public, T0 + 1000), IdentityKey(OLD.public, T0, T0 + 1000)), (), T0 + 2000,
    ),
    ACME: OrganizationRecord(ACME, 1, b"", "Acme", "", (IdentityKey(ACME_KEY.public, T0),), (), T0),
    LAB: OrganizationRecord(LAB, 1, b"", "Laboratory", "", (IdentityKey(LAB_KEY.public, T0),), (), T0),
}  # fmt: skip
KEYS = {NORTH: NEW, ACME: ACME_KEY, LAB: LAB_KEY}

RESEARCH = Purpose.parse("health-research")
CONDITIONS = Conditions(
    purposes=(RESEARCH,),
    valid_until=T0 + 365 * DAY,
    max_fetches=20,
    max_bytes=1 << 30,
    duties=(Duty(DutyKind.DELETE_AFTER, 30 * DAY), Duty(DutyKind.ATTRIBUTE, text="North Hospital")),
    pass_on=True,
)


def nonce(what: str) -> bytes:
    return sha256(f"hanse test nonce {what}".encode()).digest()[:16]


def signed(paper: Any, *signers: SigningKey) -> Envelope:
    """By its issuer, if nobody else is said."""
    kind, write = KINDS[type(paper)]
    return sign(kind, write(paper), *signers)


KINDS: dict[type, tuple[PayloadType, Callable[[Any], bytes]]] = {
    AccessRequest: (PayloadType.REQUEST, encode.encode_request),
    Grant: (PayloadType.GRANT, encode.encode_grant),
    Denial: (PayloadType.DENIAL, encode.encode_denial),
    Revocation: (PayloadType.REVOCATION, encode.encode_revocation),
    Receipt: (PayloadType.RECEIPT, encode.encode_receipt),
    Deletion: (PayloadType.DELETION, encode.encode_deletion),
}

REQUEST = AccessRequest(
    nonce("request"), ACME, TRIAL, CONDITIONS.operations, (RESEARCH,), "For the study that we spoke of. 研究",
    T0 + 365 * DAY, T0 + 3000,
)  # fmt: skip
ASKED = signed(REQUEST, ACME_KEY)
GRANT = Grant(
    nonce("grant"), NORTH, ACME, ACME_KEY.public.key_id, (TRIAL, OTHER_TRIAL), CONDITIONS, ASKED.digest, b"", T0 + 3100
)
GIVEN = signed(GRANT, NEW)
NARROWED = Grant(
    nonce("narrowed"), ACME, LAB, None, (TRIAL,), replace(CONDITIONS, valid_until=T0 + 60 * DAY, max_fetches=3),
    b"", GIVEN.digest, T0 + 3200,
)  # fmt: skip
HANDED = signed(NARROWED, ACME_KEY)
TWICE = Grant(
    nonce("twice"), LAB, NORTH, None, (TRIAL,),
    replace(
        CONDITIONS, purposes=(Purpose.parse("disease-specific-research"),), valid_until=T0 + 30 * DAY, max_fetches=1,
        max_bytes=1 << 20, pass_on=False,
    ),
    b"", HANDED.digest, T0 + 3300,
)  # fmt: skip
LAST = signed(TWICE, LAB_KEY)
DENIAL = Denial(ASKED.digest, NORTH, "the study has no ethics vote yet", T0 + 3100)
REVOCATION = Revocation(GIVEN.digest, NORTH, "consent ended", T0 + 5000)
RECEIPT = Receipt(
    nonce("delivery"), NORTH, ACME, TRIAL, 1, sha256(b"hanse test record").digest(), GIVEN.digest, (RESEARCH,),
    (Delivered(0, 2), Delivered(2, 0, 0, 1), Delivered(2, 0, 2, 1)), 23_623, T0 + 4000, T0 + 4010,
)  # fmt: skip
DELETION = Deletion(NORTH, ACME, TRIAL, 1, GIVEN.digest, "expired", T0 + 4010 + 30 * DAY)


def papers() -> dict[str, Any]:
    return {
        "now": NOW,
        "organizations": [envelope_parts(organization_record(prefix)) for prefix in ORGANIZATIONS],
        "request": envelope_parts(ASKED),
        "chain": [envelope_parts(each) for each in (GIVEN, HANDED, LAST)],
        "denial": envelope_parts(signed(DENIAL, NEW)),
        "revocation": envelope_parts(signed(REVOCATION, NEW)),
        "half_receipt": envelope_parts(signed(RECEIPT, ACME_KEY)),
        "receipt": envelope_parts(signed(RECEIPT, ACME_KEY, NEW)),
        "deletion": envelope_parts(signed(DELETION, ACME_KEY)),
        "accepted": [_accepted(*each) for each in _good()],
        "rejected": [_rejected(*each) for each in _bad()],
        "ends": [_ends(*each) for each in _endings()],
    }


def organization_record(prefix: Prefix) -> Envelope:
    return sign(PayloadType.ORGANIZATION, wire.encode_organization(ORGANIZATIONS[prefix]), KEYS[prefix])


Case = tuple[str, str, Prefix, list[Envelope]]


def _good() -> list[Case]:
    """(what it is, kind, offered as a paper of, envelopes)"""
    early = replace(RECEIPT, started_at=T0 + 10, ended_at=T0 + 20)
    return [
        ("a request", "request", ACME, [ASKED]),
        ("a grant of the owner's", "chain", NORTH, [GIVEN]),
        ("a grant that was narrowed", "chain", LAB, [GIVEN, HANDED]),
        ("a grant that was narrowed twice", "chain", NORTH, [GIVEN, HANDED, LAST]),
        ("a grant signed by a previous key while it was current", "chain", NORTH, [
            signed(replace(GRANT, issued_at=T0 + 1000), OLD)
        ]),
        ("a denial", "denial", NORTH, [signed(DENIAL, NEW)]),
        ("a revocation", "revocation", NORTH, [signed(REVOCATION, NEW)]),
        ("a receipt signed by both", "receipt", NORTH, [signed(RECEIPT, ACME_KEY, NEW)]),
        ("the signatures in the other order", "receipt", NORTH, [signed(RECEIPT, NEW, ACME_KEY)]),
        ("a receipt signed by the consumer only", "receipt", NORTH, [signed(RECEIPT, ACME_KEY)]),
        ("a receipt signed by the owner only", "receipt", NORTH, [signed(RECEIPT, NEW)]),
        ("a receipt countersigned with a previous key", "receipt", NORTH, [signed(early, ACME_KEY, OLD)]),
        ("a receipt without a grant", "receipt", NORTH, [signed(replace(RECEIPT, grant=b""), ACME_KEY, NEW)]),
        ("a deletion", "deletion", ACME, [signed(DELETION, ACME_KEY)]),
    ]  # fmt: skip


def _bad() -> list[Case]:
    def narrowed(signer: SigningKey = ACME_KEY, **changes: Any) -> list[Envelope]:
        return [GIVEN, signed(replace(NARROWED, **changes), signer)]

    def within(**changes: Any) -> list[Envelope]:
        return narrowed(conditions=replace(NARROWED.conditions, **changes))

    shut = signed(replace(GRANT, conditions=replace(CONDITIONS, pass_on=False)), NEW)
    retyped = replace(signed(DENIAL, NEW), payload_type=PayloadType.REVOCATION)  # which has the same fields
    return [
        ("a request in another's name", "request", ACME, [signed(REQUEST, LAB_KEY)]),
        ("a request offered as one of another", "request", LAB, [ASKED]),
        ("a request that was re-dated", "request", ACME, [_forged(REQUEST, ASKED, issued_at=T0 + 3001)]),
        ("a request for another object", "request", ACME, [_forged(REQUEST, ASKED, id=OTHER_TRIAL)]),
        ("a request dated in the future", "request", ACME, [signed(replace(REQUEST, issued_at=NOW + 121), ACME_KEY)]),
        ("a denial that is called a revocation", "revocation", NORTH, [retyped]),
        ("a grant offered as a request", "request", ACME, [GIVEN]),
        ("bytes that are no message", "request", ACME, [sign(PayloadType.REQUEST, b"\xff", ACME_KEY)]),
        ("a nonce that is too short", "request", ACME, [signed(replace(REQUEST, nonce=b"1"), ACME_KEY)]),
        ("no signature", "chain", NORTH, [signed(GRANT)]),
        ("a grant with another's signature", "chain", NORTH, [replace(GIVEN, signatures=HANDED.signatures)]),
        ("a grant without its limits", "chain", NORTH, [_forged(GRANT, GIVEN, conditions=Conditions())]),
        ("a grant to somebody else", "chain", NORTH, [_forged(GRANT, GIVEN, to=LAB)]),
        ("a grant by a previous key after its time", "chain", NORTH, [signed(GRANT, OLD)]),
        ("a grant of what another owns", "chain", ACME, [signed(replace(GRANT, issuer=ACME), ACME_KEY)]),
        ("no grant", "chain", NORTH, []),
        ("a chain without its beginning", "chain", LAB, [HANDED]),
        ("a chain without a link", "chain", NORTH, [GIVEN, LAST]),
        ("a chain in the wrong order", "chain", NORTH, [HANDED, GIVEN]),
        ("a link of another grant", "chain", LAB, [signed(replace(GRANT, nonce=nonce("x")), NEW), HANDED]),
        ("a chain that is too long", "chain", NORTH, [GIVEN] * 9),
        ("narrowed by one who does not hold it", "chain", LAB, narrowed(LAB_KEY, issuer=LAB)),
        ("narrowed what may not be passed on", "chain", LAB, [
            shut, signed(replace(NARROWED, parent=shut.digest, conditions=replace(CONDITIONS, pass_on=False)), ACME_KEY)
        ]),
        ("one object more", "chain", LAB, narrowed(ids=(TRIAL, Identifier.of(NORTH, "trial-9")))),
        ("a second longer", "chain", LAB, within(valid_until=T0 + 365 * DAY + 1)),
        ("without end", "chain", LAB, within(valid_until=None)),
        ("a fetch more", "chain", LAB, within(max_fetches=21)),
        ("bytes without limit", "chain", LAB, within(max_bytes=None)),
        ("a broader purpose", "chain", LAB, within(purposes=(Purpose.parse("general-research-use"),))),
        ("no purpose", "chain", LAB, within(purposes=())),
        ("a duty less", "chain", LAB, within(duties=CONDITIONS.duties[:1])),
        ("deleted a second later", "chain", LAB, within(
            duties=(Duty(DutyKind.DELETE_AFTER, 30 * DAY + 1), *CONDITIONS.duties[1:])
        )),
        ("dated before its parent", "chain", LAB, narrowed(issued_at=GRANT.issued_at - 121)),
        ("a denial by another", "denial", NORTH, [signed(DENIAL, ACME_KEY)]),
        ("a denial with another reason", "denial", NORTH, [_forged(DENIAL, signed(DENIAL, NEW), reason="")]),
        ("a revocation in another's name", "revocation", NORTH, [signed(REVOCATION, ACME_KEY)]),
        ("a receipt signed by neither", "receipt", NORTH, [signed(RECEIPT, LAB_KEY)]),
        ("a receipt that a third one signed too", "receipt", NORTH, [signed(RECEIPT, ACME_KEY, NEW, LAB_KEY)]),
        ("a receipt of more bytes", "receipt", NORTH, [
            _forged(RECEIPT, signed(RECEIPT, ACME_KEY, NEW), unique_bytes=23_624)
        ]),
        ("the owner's signature under another delivery", "receipt", NORTH, [_spliced()]),
        ("what was delivered out of order", "receipt", NORTH, [
            signed(replace(RECEIPT, delivered=RECEIPT.delivered[::-1]), ACME_KEY, NEW)
        ]),
        ("a chunk twice", "receipt", NORTH, [
            signed(replace(RECEIPT, delivered=(Delivered(0, 0, 0, 2), Delivered(0, 0, 1, 1))), ACME_KEY, NEW)
        ]),
        ("neighbours that are not joined", "receipt", NORTH, [
            signed(replace(RECEIPT, delivered=(Delivered(0, 1), Delivered(1, 1))), ACME_KEY, NEW)
        ]),
        ("a receipt that ends before it begins", "receipt", NORTH, [
            signed(replace(RECEIPT, ended_at=T0 + 3999), ACME_KEY, NEW)
        ]),
        ("a receipt dated in the future", "receipt", NORTH, [
            signed(replace(RECEIPT, ended_at=NOW + 121), ACME_KEY, NEW)
        ]),
        ("a deletion signed by the owner", "deletion", ACME, [signed(DELETION, NEW)]),
    ]  # fmt: skip


def _endings() -> list[tuple[str, Revocation, Grant]]:
    by_acme = replace(REVOCATION, issuer=ACME)
    return [
        ("the owner ends its own grant", REVOCATION, GRANT),
        ("the owner ends one that was narrowed from it", replace(REVOCATION, grant=HANDED.digest), NARROWED),
        ("who narrowed a grant ends that", replace(by_acme, grant=HANDED.digest), NARROWED),
        ("the holder ends its own grant", by_acme, GRANT),
        ("a holder in the middle ends one that another narrowed", replace(by_acme, grant=LAST.digest), TWICE),
    ]


def _forged(paper: Any, true: Envelope, **changes: Any) -> Envelope:
    """The true signatures under a paper that says something else."""
    return replace(true, payload=KINDS[type(paper)][1](replace(paper, **changes)))


def _spliced() -> Envelope:
    other = signed(replace(RECEIPT, delivery=nonce("another delivery")), ACME_KEY)
    return replace(other, signatures=signed(RECEIPT, NEW).signatures)


def judge(kind: str, of: Prefix, envelopes: Sequence[Envelope]) -> tuple[object, list[str]]:
    """The paper, and who signed it. Raises what is to be raised."""
    who = ORGANIZATIONS[of]
    envelopes = [wire.decode_envelope(wire.encode_envelope(each)) for each in envelopes]
    if kind == "chain":
        chain = verify.verify_chain(envelopes, ORGANIZATIONS, now=NOW)
        return chain[-1], [str(each.issuer) for each in chain]
    if kind == "receipt":
        receipt, signers = verify.verify_receipt(envelopes[0], who, ORGANIZATIONS[ACME], now=NOW)
        return receipt, sorted(map(str, signers))
    if kind == "request":
        return verify.verify_request(envelopes[0], who, NOW), [str(of)]
    if kind == "denial":
        return verify.verify_denial(envelopes[0], who, now=NOW), [str(of)]
    if kind == "revocation":
        return verify.verify_revocation(envelopes[0], who, now=NOW), [str(of)]
    # Of the consumer, some day: its date is not held against NOW.
    return verify.verify_deletion(envelopes[0], who), [str(of)]


def _case(case: str, kind: str, of: Prefix, envelopes: list[Envelope]) -> dict[str, Any]:
    return {
        "case": case,
        "kind": kind,
        "of": str(of),
        "envelopes": [wire.encode_envelope(each).hex() for each in envelopes],
    }


def _accepted(case: str, kind: str, of: Prefix, envelopes: list[Envelope]) -> dict[str, Any]:
    return _case(case, kind, of, envelopes) | {"signed_by": judge(kind, of, envelopes)[1]}


def _rejected(case: str, kind: str, of: Prefix, envelopes: list[Envelope]) -> dict[str, Any]:
    try:
        judge(kind, of, envelopes)
    except HanseError as error:
        return _case(case, kind, of, envelopes) | {"error": type(error).__name__, "message": str(error)}
    raise AssertionError(f"{case}: was accepted")


def _ends(case: str, revocation: Revocation, grant: Grant) -> dict[str, Any]:
    return {
        "case": case,
        "revocation": wire.encode_envelope(signed(revocation, KEYS[revocation.issuer])).hex(),
        "grant": wire.encode_envelope(signed(grant, KEYS[grant.issuer])).hex(),
        "ends_it": verify.may_revoke(revocation, grant),
    }
