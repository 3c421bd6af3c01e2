"""A node's settings, ``node.toml``: what is in it, what it may say, and what holds when it is silent.

The rule it keeps: a file with a key that is not known, or a value that makes no sense, is refused with the key's name.

    listen = "0.0.0.0:7100"
    advertise = "data.north.example:7100"
    metrics = "127.0.0.1:9100"
"""

import json
import tomllib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from hanse import limits
from hanse.client import witnesses
from hanse.cosigning import Policy
from hanse.errors import HomeUnusable, InvalidInput
from hanse.files import storage_errors, write_durably
from hanse.model.address import Address

FILE = "node.toml"
_LEVELS = ("debug", "info", "warning", "error")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104 - refused as an address to dial
_LOOPBACK = ("127.0.0.1", "localhost", "::1")


@dataclass(frozen=True, slots=True)
class Config:
    """``drain_seconds``: what running streams get when the daemon stops; streams and calls: see hanse.limits.

    ``receipts`` false: what is served is signed by nobody. ``owed_bytes_per_peer``: who was served more than that
    without signing for it is refused; None is without a limit. ``monitor`` false: the registry's log is not followed
    by the daemon; `hanse monitor` does it. ``witness``: where the daemon cosigns the registry's log for whoever asks;
    ``witnesses``: who must have cosigned it, see hanse.client.witnesses.
    """

    listen: Address = Address("127.0.0.1", 0)
    advertise: Address | None = None
    metrics: Address | None = None
    reflection: bool = False
    log_level: str = "info"
    streams: int = limits.STREAMS
    streams_per_peer: int = limits.STREAMS_PER_PEER
    calls_per_peer: int = limits.CALLS_PER_PEER
    drain_seconds: int = 10
    receipts: bool = True
    owed_bytes_per_peer: int | None = None
    sign_alone_after_seconds: int = limits.HALF_AFTER
    monitor: bool = True
    witness: Address | None = None
    witnesses: Policy = Policy()

    @classmethod
    def load(cls, path: Path) -> "Config":
        """Raises HomeUnusable, which names the file and the key."""
        with storage_errors(str(path)):
            try:
                text = path.read_text()
            except FileNotFoundError:
                return cls()
            except UnicodeDecodeError:
                raise HomeUnusable(f"{path} is not UTF-8 text") from None
        try:
            return cls.parse(text)
        except InvalidInput as error:
            raise HomeUnusable(f"{path}: {error}") from None

    @classmethod
    def parse(cls, text: str) -> "Config":
        """Raises InvalidInput."""
        try:
            table = tomllib.loads(text)
        except tomllib.TOMLDecodeError as error:
            raise InvalidInput(f"this is not TOML: {error}") from None
        unknown = sorted(set(table) - set(_PARSERS))
        if unknown:
            raise InvalidInput(f"{unknown[0]!r} is not a setting; there are: {', '.join(_PARSERS)}")
        config = replace(cls(), **{key: _PARSERS[key](key, value) for key, value in table.items()})
        return config.check()

    def check(self) -> "Config":
        """That the settings fit each other. Raises InvalidInput."""
        if self.streams_per_peer > self.streams:
            raise InvalidInput("streams_per_peer is more than streams")
        if self.listen.host in _WILDCARDS and self.advertise is None:
            raise InvalidInput(
                f"listening on {self.listen} needs advertise: the address at which others reach this node"
            )
        if self.advertise is not None and self.advertise.host in _WILDCARDS:
            raise InvalidInput(f"advertise: others cannot dial {self.advertise.host}")
        return self

    @property
    def fixed_address(self) -> Address | None:
        """Where others dial, when that is known before the port is bound."""
        return self.advertise or (self.listen if self.listen.port else None)

    def save(self, path: Path) -> None:
        """Writes what differs from the defaults, but for the witnesses. Raises NoSpace, HomeUnusable, StorageFailed."""
        write_durably(path, self.to_text().encode(), 0o600)

    def to_text(self) -> str:
        lines = [
            f"{field.name} = {_toml(value)}\n"
            for field in fields(self)
            if (value := getattr(self, field.name)) != getattr(Config(), field.name) and field.name != "witnesses"
        ]
        return "".join(lines)


def _toml(value: Any) -> str:
    # JSON's strings, numbers and booleans are TOML's.
    return json.dumps(str(value) if isinstance(value, Address) else value)


def _address(key: str, value: Any) -> Address:
    if not isinstance(value, str):
        raise InvalidInput(f'{key} is a text, "HOST:PORT"')
    try:
        return Address.parse(value)
    except InvalidInput as error:
        raise InvalidInput(f"{key}: {error}") from None


def _fixed_address(key: str, value: Any) -> Address:
    address = _address(key, value)
    if address.port == 0:
        raise InvalidInput(f"{key}: others cannot dial port 0, give the real one")
    return address


def _local_address(key: str, value: Any) -> Address:
    address = _address(key, value)
    if address.host not in _LOOPBACK:
        raise InvalidInput(f"{key}: metrics are not protected, so only addresses of this machine: 127.0.0.1 or [::1]")
    return address


def _boolean(key: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise InvalidInput(f"{key} is true or false")
    return value


def _level(key: str, value: Any) -> str:
    if value not in _LEVELS:
        raise InvalidInput(f"{key} is one of {', '.join(_LEVELS)}")
    return str(value)


def _number(least: int, most: int) -> Callable[[str, Any], int]:
    def parse(key: str, value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
            raise InvalidInput(f"{key} is a whole number from {least} to {most}")
        return value

    return parse


_PARSERS: dict[str, Callable[[str, Any], Any]] = {
    "listen": _address,
    "advertise": _fixed_address,
    "metrics": _local_address,
    "reflection": _boolean,
    "log_level": _level,
    "streams": _number(1, 4096),
    "streams_per_peer": _number(1, 4096),
    "calls_per_peer": _number(1, 1_000_000),
    "drain_seconds": _number(0, 3600),
    "receipts": _boolean,
    "owed_bytes_per_peer": _number(0, 1 << 62),
    "sign_alone_after_seconds": _number(0, 86_400),
    "monitor": _boolean,
    "witness": _address,
    "witnesses": witnesses.parse,
}
