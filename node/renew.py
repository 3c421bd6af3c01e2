"""The member's certificate: renewed at two thirds of its life, by a request that the identity key signs.

It holds for seven days; a node that was off for longer renews it the same way, because the registry asks for no
certificate. Renewal touches no open stream: what a node serves with is another certificate. SPEC.md section 5.5.
"""

from dataclasses import replace

from hanse.client.identity import MEMBER_CERTIFICATE, Identity
from hanse.client.league import League
from hanse.errors import InvalidInput, VerificationFailed
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
