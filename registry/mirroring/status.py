"""How a mirror is, for `status`: what the daemon leaves in its home, and what the home shows by itself."""

import json
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hanse import transparency
from hanse.client.storage.known import FILE, Known, RegistryLie
from hanse.errors import HanseError, InvalidInput
from hanse.files import write_durably
from hanse.home import Home
from hanse.model.address import Address
from hanse.rpc import tls
from registry.config import Config
from registry.mirroring import home as homes
from registry.mirroring.following import State
from registry.storage.base import Figures
from registry.storage.sqlite import SqliteStorage


@dataclass(frozen=True)
class MirrorStatus:
    """``of``: where the registry is. ``lag_seconds``: since all was here that the registry showed; None if never.

    ``refused``: ``error`` is not that the registry is away. ``certificate_until``: nobody reaches it after that.
    ``contradictions``: pairs of checkpoints, signed by the registry, of which both are kept.
    """

    config: Config
    prefix: str
    of: tuple[Address, ...]
    advertised: tuple[Address, ...]
    port: int
    fingerprint: bytes
    whole: bool
    members: int
    suspended: int
    figures: Figures
    seen_size: int
    lag_entries: int
    lag_seconds: int | None
    error: str
    refused: bool
    certificate_until: int | None
    contradictions: tuple[RegistryLie, ...]
    log_key: str


def keep_state(home: Home, state: State, now: float) -> None:
    """For ``status``, which is another process. Raises NoSpace, StorageFailed."""
    kept = {
        "whole_at": state.asked_at if state.told is not None else None,
        "error": state.error,
        "refused": state.refused,
        "at": now,
    }
    write_durably(home / homes.STATE, json.dumps(kept, ensure_ascii=False).encode() + b"\n")


def _kept(home: Home) -> dict[str, Any]:
    try:
        found = json.loads((home / homes.STATE).read_bytes())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def _serves_until(home: Home) -> int | None:
    pem = homes.server_certificate(home)
    try:
        return None if pem is None else tls.read_pem_certificate(pem).not_after
    except InvalidInput:
        return None


def problem(folder: Path) -> str:
    """Why a mirror takes nothing of its registry, if it is not merely that this is away."""
    home, _, _ = homes.open_home(folder)
    kept = _kept(home)
    return f"this mirror takes nothing of its registry: {kept.get('error')}" if kept.get("refused") else ""


def status(folder: Path, now: float) -> MirrorStatus:
    """Of a mirror that runs or not. Raises HomeUnusable, StorageFailed."""
    home, config, identity = homes.open_home(folder)
    authority = identity.authority
    with closing(SqliteStorage(home / homes.DATABASE)) as storage, closing(Known.open(home / FILE)) as known:
        note = known.registry_log()
        try:
            seen = transparency.verify(note, authority).checkpoint.size if note else 0
        except HanseError:
            seen = 0
        port = config.listen.port or int(storage.recall("port") or 0)
        own = config.advertised(port)
        _, members = storage.membership()
        position, kept = storage.last_position(), _kept(home)
        asked = known.membership()
        whole_at = kept.get("whole_at") or (asked.checked_at if asked is not None else None)
        return MirrorStatus(
            config,
            str(identity.prefix),
            homes.registries(identity, known, own),
            own,
            port,
            authority.fingerprint,
            storage.recall("whole") is not None,
            len(members),
            sum(each.suspended_at is not None for each in members),
            storage.figures(),
            seen,
            max(0, seen - position),
            None if whole_at is None else max(0, int(now - whole_at)),
            str(kept.get("error", "")),
            bool(kept.get("refused")),
            _serves_until(home),
            tuple(known.registry_lies()),
            transparency.verifier_key(authority),
        )
