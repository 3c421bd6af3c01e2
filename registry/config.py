"""What an operator may set: ``registry.toml``. Written once by init, read at each start, changed by hand.

name = "Data league"
root = "86"
listen = "0.0.0.0:7400"
advertise = ["registry.example.org:7400"]    # what members dial; default: listen
reflection = false                           # needs the extra `reflection`
metrics = "127.0.0.1:9400"                   # needs the extra `metrics`; default: none
tiles = "127.0.0.1:7480"                     # the log over HTTP, for everybody; default: not
public_entries = false                       # with tiles: also of what kind each entry is, and its digest
calls_per_second = 200                       # of one member, sustained
calls_burst = 2000

[referrals]                                  # who resolves other roots
"10" = ["registry.example.com:7400"]
"""

import json
import socket
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse import limits
from hanse.errors import HomeUnusable, InvalidInput
from hanse.files import storage_errors
from hanse.model.address import Address
from hanse.model.identifier import Prefix

MARKER = "registry.toml"
# A registry is there to be reached.
DEFAULT_LISTEN = Address("0.0.0.0", 7400)  # noqa: S104
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104


@dataclass(frozen=True)
class Config:
    """Addresses as the operator wrote them: port 0 is not yet a port."""

    name: str
    root: Prefix
    listen: Address = DEFAULT_LISTEN
    advertise: tuple[Address, ...] = ()
    reflection: bool = False
    metrics: Address | None = None
    tiles: Address | None = None
    public_entries: bool = False
    calls_per_second: float = limits.CALLS_PER_PEER
    calls_burst: int = limits.CALLS_PER_PEER_BURST
    referrals: dict[Prefix, tuple[Address, ...]] = field(default_factory=dict)

    def advertised(self, port: int) -> tuple[Address, ...]:
        """What members dial, when ``port`` is the one that is listened on."""
        if self.advertise:
            return tuple(Address(each.host, each.port or port) for each in self.advertise)
        host = socket.gethostname() if self.listen.host in _WILDCARDS else self.listen.host
        return (Address(host, port),)

    def to_toml(self) -> str:
        """The file that init writes."""
        lines = [
            "# This registry's settings; see `hanse-registry --help`. Restart it after a change.",
            f"name = {_quoted(self.name)}",
            f"root = {_quoted(str(self.root))}  # never change it: it is part of every identifier",
            f"listen = {_quoted(str(self.listen))}",
        ]
        if self.advertise:
            lines.append(f"advertise = [{', '.join(_quoted(str(each)) for each in self.advertise)}]")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string with its escapes is a TOML basic string.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def load(path: Path) -> Config:
    """Raises HomeUnusable, naming the setting that is wrong."""
    with storage_errors(str(path)):
        content = path.read_bytes()
    try:
        return _parse(tomllib.loads(content.decode()))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, InvalidInput, TypeError, ValueError, KeyError) as error:
        raise HomeUnusable(f"{path} does not make sense: {error}") from None


def _parse(settings: dict[str, Any]) -> Config:
    known = {
        "name", "root", "listen", "advertise", "reflection", "metrics", "tiles", "public_entries", "calls_per_second",
        "calls_burst",
    }  # fmt: skip
    if unknown := settings.keys() - known - {"referrals"}:
        raise InvalidInput(f"unknown setting {min(unknown)!r}; known are {', '.join(sorted(known))}, [referrals]")
    if "root" not in settings:
        raise InvalidInput("the setting 'root' is missing")
    rate, burst = (
        _number(settings, "calls_per_second", limits.CALLS_PER_PEER),
        _number(settings, "calls_burst", limits.CALLS_PER_PEER_BURST),
    )
    metrics, tiles = settings.get("metrics", ""), settings.get("tiles", "")
    referrals = settings.get("referrals", {})
    if not isinstance(referrals, dict):
        raise InvalidInput("'referrals' is a table of roots and addresses")
    return Config(
        name=_text(settings.get("name", ""), "name"),
        root=Prefix.parse(_text(settings["root"], "root")),
        listen=Address.parse(_text(settings.get("listen", str(DEFAULT_LISTEN)), "listen")),
        advertise=_addresses(settings.get("advertise", []), "advertise"),
        reflection=_truth(settings, "reflection"),
        metrics=Address.parse(_text(metrics, "metrics")) if metrics else None,
        tiles=Address.parse(_text(tiles, "tiles")) if tiles else None,
        public_entries=_truth(settings, "public_entries"),
        calls_per_second=rate,
        calls_burst=int(burst),
        referrals={Prefix.parse(root): _addresses(each, "referrals") for root, each in referrals.items()},
    )


def _text(value: object, name: str) -> str:
    if not isinstance(value, str):
        raise InvalidInput(f"{name!r} is a text in quotes")
    return value


def _truth(settings: dict[str, Any], name: str) -> bool:
    value = settings.get(name, False)
    if not isinstance(value, bool):
        raise InvalidInput(f"{name!r} is true or false")
    return value


def _number(settings: dict[str, Any], name: str, default: float) -> float:
    value = settings.get(name, default)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < 1e12:
        raise InvalidInput(f"{name!r} is a number above 0")
    return float(value)


def _addresses(value: object, name: str) -> tuple[Address, ...]:
    listed = [value] if isinstance(value, str) else value
    if not isinstance(listed, list):
        raise InvalidInput(f"{name!r} is a list of addresses")
    return tuple(Address.parse(_text(each, name)) for each in listed)
