"""The member's certificate, which it shows when it dials: renewed at two thirds of its life. SPEC.md section 5.5.

The identity key signs the request and the registry asks for no certificate, so that a home that was not used for
longer than the seven days renews it the same way. Commands do it for themselves: the daemon need not run.
"""

from dataclasses import replace

from hanse.client.identity import MEMBER_CERTIFICATE, Identity
from hanse.client.league import League
from hanse.errors import InvalidInput, Unreachable, VerificationFailed
from hanse.files import write_durably
from hanse.rpc import tls


def is_due(identity: Identity, now: int) -> bool:
    """``now`` in Unix seconds."""
    certificate = identity.certificate
    life = certificate.not_after - certificate.not_before
    return now >= certificate.not_before + 2 * life // 3


def renew(identity: Identity, league: League) -> Identity:
    """Asks for a certificate and keeps it. Raises Unreachable, NotPermitted, VerificationFailed, NoSpace."""
    key = tls.TlsKey.from_pem(identity.tls_key)
    issued = league.renew(tls.make_request(key, identity.prefix))
    try:
        certificate = tls.read_certificate(issued)
    except InvalidInput:
        raise VerificationFailed("the registry answered with something that is not a certificate") from None
    if certificate.organization != identity.prefix or certificate.key_digest != identity.certificate.key_digest:
        raise VerificationFailed(f"the registry issued a certificate that is not for {identity.prefix} and its key")
    pem = tls.to_pem(issued)
    write_durably(identity.home / MEMBER_CERTIFICATE, pem, 0o644)
    return replace(identity, member_certificate=pem)


def renewed_if_due(identity: Identity, league: League, now: int) -> Identity:
    """As ``renew``; while the old certificate holds, an unreachable registry is no reason to fail."""
    if not is_due(identity, now):
        return identity
    try:
        return renew(identity, league)
    except Unreachable as error:
        if now < identity.certificate.not_after:
            return identity
        raise Unreachable(f"this home's certificate ran out, and a new one cannot be had now: {error}") from None
