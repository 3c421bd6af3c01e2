"""What both daemons' gRPC servers share: options, binding a port, who the peer is."""

from collections.abc import Callable, Mapping
from typing import Any

from hanse import limits
from hanse.errors import Conflict, HomeUnusable, InvalidInput, NotAuthenticated
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.rpc.tls import read_pem_certificate

_REUSEPORT = "grpc.so_reuseport"
OPTIONS: tuple[tuple[str, int], ...] = (
    (_REUSEPORT, 0),
    ("grpc.http2.max_frame_size", 16_777_215),  # as in hanse.rpc.channel
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_permit_without_calls", 1),
    ("grpc.keepalive_time_ms", 30_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    ("grpc.max_connection_age_ms", limits.CONNECTION_AGE * 1000),
    ("grpc.max_connection_age_grace_ms", limits.STREAM_TIMEOUT * 1000),
)
# For several processes that listen on one port; whoever starts them has seen to it that it is theirs.
SHARING = ((_REUSEPORT, 1), *(each for each in OPTIONS if each[0] != _REUSEPORT))


def bind(add_port: Callable[[str], int], address: Address) -> Address:
    """Binds and returns the address with the port that was taken. Raises Conflict, HomeUnusable."""
    try:
        port = add_port(str(address))
    except RuntimeError as error:
        if "permission" in str(error).lower():
            raise HomeUnusable(f"{address} may not be listened on by this user: choose a port above 1023") from None
        raise Conflict(
            f"{address} cannot be listened on: the port is taken, or the address is not this machine's"
        ) from None
    return Address(address.host, port)


def peer(auth_context: Mapping[str, Any]) -> tuple[Prefix, bytes]:
    """The organization that the peer's certificate names, and SHA-256 of its TLS key.

    That is the CA's word only: hanse.trust.key_holder holds it against the organization's own record.
    Raises NotAuthenticated.
    """
    pem = next(iter(auth_context.get("x509_pem_cert", ())), None)
    if pem is None:
        raise NotAuthenticated("the call came without a certificate: a member's node shows its own")
    try:
        certificate = read_pem_certificate(pem)
    except InvalidInput:
        raise NotAuthenticated("the caller's certificate does not parse") from None
    organization = certificate.organization
    if organization is None:
        raise NotAuthenticated("the caller's certificate does not name a member of the league")
    return organization, certificate.key_digest
