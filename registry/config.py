"""What an operator may set: ``registry.toml``. Written once by init, read at each start, changed by hand.

name = "Data league"
root = "86"
listen = "0.0.0.0:7400"
advertise = ["registry.example.org:7400"]    # what members dial; default: listen
store = "postgresql://registry@db/registry"    # needs the extra `postgres`; default: registry.db in the home
reflection = false                           # needs the extra `reflection`
metrics = "127.0.0.1:9400"                   # needs the extra `metrics`; default: none
tiles = "127.0.0.1:7480"                     # the log over HTTP, for everybody; default: not
public_entries = false                       # with tiles: also of what kind each entry is, and its digest
witnesses = ["<key> http://w.example:7490"]  # who cosigns the log; the key is in `hanse status` of each
calls_per_second = 200                       # of one member, sustained
calls_burst = 2000

[limits]                                     # of each organization; default: none
records = 100_000                            # identifiers that it ever used
publishes_per_minute = 600
bytes = "1 GB"                               # of what it signed

[limits."86.acme"]                           # of this one, where it differs; `hanse-registry limit` goes before both
records = "none"

[referrals]                                  # who resolves other roots
"10" = ["registry.example.com:7400"]
"""

import json
import re
import socket
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hanse import limits
from hanse.cosigning import Policy
from hanse.errors import Conflict, HomeUnusable, InvalidInput
from hanse.files import storage_errors
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from registry import usage
from registry.store import Store
from registry.usage import NO_LIMITS, Limits
from registry.witnesses import Witness

MARKER = "registry.toml"
# A registry is there to be reached.
DEFAULT_LISTEN = Address("0.0.0.0", 7400)  # noqa: S104
_STORE = re.compile(r"\s*store\s*=")
_WILDCARDS = ("0.0.0.0", "::")  # noqa: S104


@dataclass(frozen=True)
class Config:
    """Addresses as the operator wrote them: port 0 is not yet a port."""

    name: str
    root: Prefix
    listen: Address = DEFAULT_LISTEN
    advertise: tuple[Address, ...] = ()
    store: Store | None = None
    reflection: bool = False
    metrics: Address | None = None
    tiles: Address | None = None
    public_entries: bool = False
    witnesses: tuple[Witness, ...] = ()
    calls_per_second: float = limits.CALLS_PER_PEER
    calls_burst: int = limits.CALLS_PER_PEER_BURST
    referrals: dict[Prefix, tuple[Address, ...]] = field(default_factory=dict)
    limits: Limits = NO_LIMITS
    limits_of: dict[Prefix, Limits] = field(default_factory=dict)

    def allowed(self, prefix: Prefix, told: Limits) -> Limits:
        """To an organization; ``told`` is what the operator's command said of it."""
        return told.over(self.limits_of.get(prefix, Limits())).over(self.limits)

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
        if self.store is not None:
            lines.append(f"store = {_quoted(self.store.address)}")
        return "\n".join(lines) + "\n"


def _quoted(text: str) -> str:
    # A JSON string with its escapes is a TOML basic string.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def with_store(text: str, address: str | None) -> str:
    """The file with this setting ``store``, or none; all else in it stays as it is. Raises Conflict."""
    lines = text.splitlines()
    at = next((at for at, each in enumerate(lines) if each.lstrip().startswith("[")), len(lines))
    lines[:at] = [each for each in lines[:at] if not _STORE.match(each)]
    at -= len(text.splitlines()) - len(lines)
    added = [] if address is None else [f"store = {_quoted(address)}"]
    new = "\n".join((*lines[:at], *added, *lines[at:])) + "\n"
    try:
        wanted = {name: value for name, value in tomllib.loads(text).items() if name != "store"}
        if tomllib.loads(new) == wanted | ({} if address is None else {"store": address}):
            return new
    except tomllib.TOMLDecodeError:
        pass
    todo = "take `store` out of it" if address is None else f"put `store = {_quoted(address)}` into it"
    raise Conflict(f"{MARKER} has a form that is not altered by programs: {todo} yourself")


def load(path: Path) -> Config:
    """Raises HomeUnusable, naming the setting that is wrong."""
    with storage_errors(str(path)):
        content = path.read_bytes()
    try:
        text = content.decode()
    except UnicodeDecodeError as error:
        raise HomeUnusable(f"{path} does not make sense: {error}") from None
    return parse(text, str(path))


def parse(text: str, name: str) -> Config:
    """The settings in the text of a file of that name. Raises HomeUnusable."""
    try:
        return _parse(tomllib.loads(text))
    except (tomllib.TOMLDecodeError, InvalidInput, TypeError, ValueError, KeyError) as error:
        raise HomeUnusable(f"{name} does not make sense: {error}") from None


def _parse(settings: dict[str, Any]) -> Config:
    known = {
        "name", "root", "listen", "advertise", "store", "reflection", "metrics", "tiles", "public_entries",
        "calls_per_second", "calls_burst", "witnesses",
    }  # fmt: skip
    if unknown := settings.keys() - known - {"referrals", "limits"}:
        raise InvalidInput(
            f"unknown setting {min(unknown)!r}; known are {', '.join(sorted(known))}, [limits], [referrals]"
        )
    if "root" not in settings:
        raise InvalidInput("the setting 'root' is missing")
    rate, burst = (
        _number(settings, "calls_per_second", limits.CALLS_PER_PEER),
        _number(settings, "calls_burst", limits.CALLS_PER_PEER_BURST),
    )
    store = settings.get("store", "")
    metrics, tiles = settings.get("metrics", ""), settings.get("tiles", "")
    referrals = settings.get("referrals", {})
    if not isinstance(referrals, dict):
        raise InvalidInput("'referrals' is a table of roots and addresses")
    everybody, limits_of = _limits(settings.get("limits", {}))
    return Config(
        name=_text(settings.get("name", ""), "name"),
        root=Prefix.parse(_text(settings["root"], "root")),
        listen=Address.parse(_text(settings.get("listen", str(DEFAULT_LISTEN)), "listen")),
        advertise=_addresses(settings.get("advertise", []), "advertise"),
        store=Store.parse(_text(store, "store")) if store else None,
        reflection=_truth(settings, "reflection"),
        metrics=Address.parse(_text(metrics, "metrics")) if metrics else None,
        tiles=Address.parse(_text(tiles, "tiles")) if tiles else None,
        public_entries=_truth(settings, "public_entries"),
        witnesses=_witnesses(settings.get("witnesses", [])),
        calls_per_second=rate,
        calls_burst=int(burst),
        referrals={Prefix.parse(root): _addresses(each, "referrals") for root, each in referrals.items()},
        limits=everybody,
        limits_of=limits_of,
    )


def _witnesses(value: object) -> tuple[Witness, ...]:
    if not isinstance(value, list):
        raise InvalidInput("'witnesses' is a list of \"KEY URL\"")
    found = tuple(Witness.parse(_text(each, "witnesses")) for each in value)
    Policy(0, tuple(each.key for each in found)).check()
    return found


def _limits(table: object) -> tuple[Limits, dict[Prefix, Limits]]:
    if not isinstance(table, dict):
        raise InvalidInput("'limits' is a table")
    own = {Prefix.parse(name): _limited(each) for name, each in table.items() if isinstance(each, dict)}
    return _limited({name: each for name, each in table.items() if not isinstance(each, dict)}).over(NO_LIMITS), own


def _limited(table: dict[str, object]) -> Limits:
    if unknown := table.keys() - set(usage.NAMES):
        raise InvalidInput(f"unknown limit {min(unknown)!r}; known are {', '.join(usage.NAMES)}")
    found = {}
    for name, value in table.items():
        if isinstance(value, bool) or not isinstance(value, int | str):
            raise InvalidInput(f'the limit {name!r} is a number, or "none"')
        found[name] = (usage.size if name == "bytes" else usage.count)(str(value))
    return Limits(**found)


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
