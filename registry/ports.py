"""A port that nobody has, for who asked for port 0 and must be found there again."""

import secrets
import socket

from hanse.errors import Conflict
from hanse.model.address import Address

SYSTEM_PORTS = range(20_000, 32_000)  # below those that outgoing connections get


def free_port(listen: Address) -> int:
    """A port that nobody has now, kept for good: members find the registry there after a restart."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    for _ in range(100):
        port = secrets.choice(SYSTEM_PORTS)
        with socket.socket(family) as probe:
            try:
                probe.bind((listen.host, port))
            except OSError:
                continue
            return port
    raise Conflict(f"no free port was found at {listen.host}: give one with --listen")
