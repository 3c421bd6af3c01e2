"""What was signed while this machine's clock was ahead: signed anew with the right time, once the clock is right.

Nobody accepts a statement from a time to come, so nobody has those: they wait here, or are unlisted. Left as they are,
they would wait until that time, and the organization's own record among them would hold up all others.
The caller knows that the clock is right, because the registry agrees with it: a clock that was set back by mistake must
not alter what others have accepted.

    redate(storage, identity, now)
"""

from dataclasses import replace

from hanse import limits, wire
from hanse.client.identity import Identity
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.organization import IdentityKey
from hanse.signing import sign
from node.storage.catalog import CatalogStorage

_AHEAD = 3 * limits.CLOCK_SKEW  # ours, the registry's and a peer's clock may differ, each as much as is allowed


def is_ahead(made_at: int, now: int) -> bool:
    """Whether nobody can have accepted it yet. Unix seconds."""
    return made_at > now + _AHEAD


def redate(storage: CatalogStorage, identity: Identity, now: int) -> int:
    """How many were signed anew. One transaction; where nothing is ahead of ``now``, nothing is written."""
    return storage.outbox.remake(
        now + 3 * limits.CLOCK_SKEW, now, lambda envelope, replaced: _remade(envelope, replaced, identity, now)
    )


def _remade(envelope: Envelope, replaced: dict[bytes, bytes], identity: Identity, now: int) -> Envelope | None:
    """With the right time, after what was remade before it; None if it can stay. ``replaced``: digests, old to new."""
    if envelope.payload_type == PayloadType.ORGANIZATION:
        organization = wire.decode_organization(envelope.payload)
        previous = replaced.get(organization.previous, organization.previous)
        if previous == organization.previous and not is_ahead(organization.issued_at, now):
            return None
        known = {str(key.public.key_id): key for key in identity.registry_keys}
        signers = [known[each.keyid] for each in envelope.signatures if each.keyid in known]
        if len(signers) < len(envelope.signatures):
            return None  # a change of keys is not settled in this home yet
        remade = replace(
            organization,
            previous=previous,
            issued_at=min(organization.issued_at, now),
            keys=tuple(_key(each, now) for each in organization.keys),
        )
        return sign(PayloadType.ORGANIZATION, wire.encode_organization(remade), *signers)
    record = wire.decode_record(envelope.payload)
    previous = replaced.get(record.previous, record.previous)
    if previous == record.previous and not is_ahead(record.issued_at, now):
        return None
    again = replace(record, previous=previous, issued_at=min(record.issued_at, now))
    return sign(PayloadType.RECORD, wire.encode_record(again), identity.signing_key)


def _key(key: IdentityKey, now: int) -> IdentityKey:
    latest = now + limits.KEY_OVERLAP
    until = key.valid_until
    return replace(
        key,
        valid_from=now if is_ahead(key.valid_from, now) else key.valid_from,
        valid_until=latest if until is not None and is_ahead(until, latest) else until,
    )
