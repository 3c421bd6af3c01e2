"""What a stranger's TLS library may agree on with the daemons."""

import socket
import ssl
from collections.abc import Iterator

import pytest

from hanse.model.address import Address
from tests.processes import League

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("transport")]


@pytest.fixture(scope="module")
def league(tmp_path_factory: pytest.TempPathFactory) -> Iterator[League]:
    with League(tmp_path_factory.mktemp("league")) as made:
        made.join("86.north")
        yield made


def agreed(address: Address, version: ssl.TLSVersion) -> str | None:
    """The version that a handshake with at most and at least this one ends in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.minimum_version = context.maximum_version = version
    context.set_alpn_protocols(["h2"])
    plain = socket.create_connection((address.host, address.port), timeout=60)
    with plain, context.wrap_socket(plain) as secure:
        return secure.version()


@pytest.mark.parametrize("daemon", ["registry", "node"])
def test_a_daemon_speaks_tls_1_3_and_refuses_1_2(league: League, daemon: str) -> None:
    process = league.registry.process if daemon == "registry" else league.nodes["86.north"].process
    address = Address.parse(process.address)
    assert agreed(address, ssl.TLSVersion.TLSv1_3) == "TLSv1.3"
    with pytest.raises(OSError, match=r"(?i)handshake|eof|reset|alert"):
        agreed(address, ssl.TLSVersion.TLSv1_2)
