"""Weaker grants for somebody else: narrowing one's own, handing it over as a file, taking one. SPEC.md section 16.4.

The rule it keeps: a narrowed grant is within its parent, or it is not made; and one that is taken was verified up to
the owner's own.

    text = narrow(evidence, digest, Party.parse("86.third"), until=1814400000)
    take(resolver, evidence, text)          # at the third organization
"""

import base64
import binascii
import json
import secrets
from collections.abc import Sequence
from dataclasses import replace

from hanse import limits, papers, wire, wire_papers
from hanse.client.keys import believed
from hanse.client.resolve import Resolver
from hanse.errors import HanseError, InvalidInput, LimitExceeded, NotFound, NotPermitted, Revoked, WrongContent
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers as storage
from hanse.evidence.storage.log import Kind
from hanse.evidence.storage.papers import GrantRow
from hanse.evidence.writer import Change
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier
from hanse.model.papers import NONCE_BYTES, Grant
from hanse.model.purposes import Purpose
from hanse.model.terms import Party
from hanse.signing import sign

_KIND = "hanse grant 1"


def narrow(
    evidence: Evidence,
    digest: bytes,
    to: Party,
    *,
    ids: Sequence[Identifier] = (),
    purposes: Sequence[Purpose] = (),
    until: int | None = None,
    max_fetches: int | None = None,
    max_bytes: int | None = None,
    pass_on: bool = False,
) -> tuple[GrantRow, str]:
    """A weaker grant for ``to``, signed and kept; and the file for it. What is left out is as in one's own.

    Raises NotFound, NotPermitted (it may not be passed on), Revoked, InvalidInput (it would be wider).
    """

    def work(change: Change) -> tuple[GrantRow, str]:
        chain = storage.chain(change.connection, digest)
        parent = _narrowable(evidence, chain, change.now)
        given = parent.conditions
        grant = Grant(
            nonce=secrets.token_bytes(NONCE_BYTES),
            issuer=parent.to,
            to=to.prefix,
            to_key=to.key_id,
            ids=tuple(dict.fromkeys(ids)) or parent.ids,
            conditions=replace(
                given,
                purposes=tuple(dict.fromkeys(purposes)) or given.purposes,
                valid_until=given.valid_until if until is None else until,
                max_fetches=given.max_fetches if max_fetches is None else max_fetches,
                max_bytes=given.max_bytes if max_bytes is None else max_bytes,
                pass_on=pass_on,
            ),
            request=b"",
            parent=digest,
            issued_at=change.now,
        )
        _expect_within(grant, parent)
        envelope = sign(PayloadType.GRANT, wire_papers.encode_grant(grant), evidence.identity().signing_key)
        storage.put_grant(change.connection, grant, envelope, change.now)
        change.append(Kind.GRANT, wire.encode_envelope(envelope))
        made = storage.grant(change.connection, envelope.digest)
        assert made is not None  # noqa: S101 - it was put there just now
        return made, to_text([*(row.envelope for row in chain), envelope])

    return evidence.change(work)


def _narrowable(evidence: Evidence, chain: Sequence[GrantRow], now: int) -> Grant:
    who = evidence.identity()
    if not chain or chain[-1].holder != who.prefix:
        raise NotFound("you hold no such grant: `hanse grants --held` shows those that you hold")
    parent = chain[-1].grant
    if parent.to_key not in (None, who.signing_key.public.key_id):
        raise NotPermitted("the grant is bound to another key than your current one")
    if any(row.revoked_at is not None for row in chain):
        raise Revoked("the grant was revoked: nothing can be made of it")
    if not parent.conditions.pass_on:
        raise NotPermitted(f"{parent.issuer} did not allow you to pass this grant on")
    if parent.conditions.valid_until is not None and parent.conditions.valid_until <= now:
        raise NotPermitted("the grant is over")
    if len(chain) >= limits.GRANT_CHAIN:
        raise LimitExceeded(f"at most {limits.GRANT_CHAIN} grants are narrowed one from the other")
    return parent


def _expect_within(grant: Grant, parent: Grant) -> None:
    """Raises InvalidInput, with the part that is wider."""
    if not set(grant.ids) <= set(parent.ids):
        raise InvalidInput("a narrowed grant is for objects of your own one: `hanse grants` says for which")
    if grant.conditions.is_within(parent.conditions):
        return
    asked, given = grant.conditions, parent.conditions
    parts = {
        "--until": replace(given, pass_on=False, valid_until=asked.valid_until),
        "--max-fetches": replace(given, pass_on=False, max_fetches=asked.max_fetches),
        "--max-bytes": replace(given, pass_on=False, max_bytes=asked.max_bytes),
        "--purpose": replace(given, pass_on=False, purposes=asked.purposes),
    }
    wider = [name for name, part in parts.items() if not part.is_within(given)]
    raise InvalidInput(
        f"a narrowed grant never allows more than its parent: see {', '.join(wider) or 'its conditions'}"
    )


def to_text(chain: Sequence[Envelope]) -> str:
    """A chain of grants as it is handed over."""
    told = {"kind": _KIND, "grants": [base64.b64encode(wire.encode_envelope(each)).decode() for each in chain]}
    return json.dumps(told, indent=1) + "\n"


def from_text(text: str) -> list[Envelope]:
    """The chain, not verified. Raises InvalidInput, LimitExceeded."""
    if len(text) > limits.GRANT_FILE_BYTES:
        raise LimitExceeded(f"a grant to take has at most {limits.GRANT_FILE_BYTES} bytes")
    try:
        told = json.loads(text)
        if told["kind"] != _KIND or not isinstance(told["grants"], list):
            raise ValueError
        return [wire.decode_envelope(base64.b64decode(each, validate=True)) for each in told["grants"]]
    except (ValueError, KeyError, TypeError, RecursionError, binascii.Error, HanseError):
        raise InvalidInput("this is no grant to take: ask for the file that `hanse narrow -o` wrote") from None


def take(resolver: Resolver, evidence: Evidence, text: str) -> GrantRow:
    """Verifies and keeps a grant that somebody narrowed for us. Twice does no harm.

    Raises InvalidInput, NotPermitted when it is for somebody else, VerificationFailed, Unreachable.
    """
    envelopes, now, who = from_text(text), int(evidence.clock()), evidence.identity()
    try:
        issuers = {wire_papers.decode_grant(each.payload).issuer for each in envelopes}
    except InvalidInput as error:
        raise WrongContent(f"a grant of the chain does not parse: {error}") from None
    chain = believed(resolver, issuers, lambda records: papers.verify_chain(envelopes, records, now=now))
    last = chain[-1]
    if last.to != who.prefix or last.to_key not in (None, who.signing_key.public.key_id):
        raise NotPermitted(f"this grant is for {last.to}{f'#{last.to_key}' if last.to_key else ''}, not for you")

    def work(change: Change) -> GrantRow:
        for grant, envelope in zip(chain, envelopes, strict=True):
            if storage.put_grant(change.connection, grant, envelope, change.now):
                change.append(Kind.GRANT, wire.encode_envelope(envelope))
        row = storage.grant(change.connection, envelopes[-1].digest)
        assert row is not None  # noqa: S101 - it is there now
        return row

    return evidence.change(work)
