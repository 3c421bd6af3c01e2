"""Network addresses, ``host:port``."""

from dataclasses import dataclass

from hanse.errors import InvalidInput


@dataclass(frozen=True, slots=True, order=True)
class Address:
    """A host name or an IP address (IPv6 in brackets), and a port. Port 0 asks for a free one."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> "Address":
        """Raises InvalidInput."""
        host, colon, port = text.strip().rpartition(":")
        bare = host[1:-1] if host.startswith("[") and host.endswith("]") else host
        printable = bare.isascii() and bare.isprintable() and not set(bare) & set(" /\\@,%'\"")
        if not colon or not bare or not printable or len(bare) > 253 or (":" in bare) != (bare != host):
            raise InvalidInput(f"{text!r} is not an address: it has the form HOST:PORT, or [IPV6]:PORT")
        if not (port.isascii() and port.isdigit() and len(port) <= 5 and int(port) <= 65_535):
            raise InvalidInput(f"{text!r} is not an address: the port is a number from 0 to 65535")
        return cls(bare, int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
