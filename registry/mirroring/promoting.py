"""A mirror becomes the registry, with the registry's keys, when the registry is lost. SPEC.md section 23.5.

The rule it keeps: it may be run again after any interruption; and the keys are those of the league, or nothing is done.
What the registry had acknowledged and the mirror had not taken is lost, and is told as far as it is known.
"""

import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from hanse import limits, transparency
from hanse.client.identity import TLS_KEY, Identity
from hanse.client.league import League
from hanse.client.storage.known import FILE, Known
from hanse.errors import Conflict, HanseError, HomeUnusable, InvalidInput, Unreachable
from hanse.files import storage_errors, write_durably
from hanse.model.address import Address
from hanse.rpc import tls
from hanse.signing import SigningKey
from registry import config as settings
from registry.members import Statements
from registry.mirroring import MARKER
from registry.mirroring import home as homes
from registry.storage.sqlite import SqliteStorage

REGISTRY_KEY = "keys/registry.pem"
CA_KEY = "keys/ca.pem"


@dataclass(frozen=True)
class Promoted:
    """``entries`` of that ``root`` are there; ``missing``: how many more a checkpoint had that the mirror saw.

    ``seen_at``: Unix seconds of the registry's last statement; what it acknowledged since is not known.
    """

    addresses: tuple[Address, ...]
    entries: int
    root: bytes
    missing: int
    seen_at: int | None


def promote(folder: Path, keys: Path, clock: Callable[[], float], *, force: bool = False) -> Promoted:
    """Makes a mirror's home a registry's. The mirror does not run, and the registry does not answer, unless ``force``.

    Raises HomeUnusable, HomeInUse, Conflict, NoSpace.
    """
    home, config, identity = homes.open_home(folder)
    signing_key, ca_key = _keys(keys, identity)
    with (
        home.lock("hanse-registry promote"),
        closing(SqliteStorage(home / homes.DATABASE)) as storage,
        closing(Known.open(home / FILE)) as known,
    ):
        if storage.recall("whole") is None:
            raise Conflict("this mirror has never had all of the registry's entries: promote another one, or restore a "
                           "backup of the registry")  # fmt: skip
        port = config.listen.port or int(storage.recall("port") or 0)
        own = config.advertised(port)
        if not force:
            _refuse_while_it_answers(identity, homes.registries(identity, known, own), own, storage)
        home.write_secret(REGISTRY_KEY, signing_key.to_pem())
        home.write_secret(CA_KEY, ca_key.to_pem())
        home.read_secret(TLS_KEY)
        # From here on it is a registry: a run that is cut off now is completed by `serve`.
        write_durably(home / settings.MARKER, (home / MARKER).read_bytes())
        head = storage.head()
        with storage.writing() as writing:
            member = writing.member(identity.prefix)
            if member is not None:
                writing.put_member(replace(member, mirror=False), int(clock()))
            Statements(signing_key, identity.authority, lambda: own, clock).record_change(writing)
        note, kept = known.registry_log(), known.membership()
        seen = transparency.verify(note, identity.authority).checkpoint.size if note else 0
        missing = max(0, seen - head.size)
        return Promoted(own, head.size, head.root, missing, kept.checked_at if kept is not None else None)


def _keys(folder: Path, identity: Identity) -> tuple[SigningKey, tls.TlsKey]:
    """Those of the league. Raises HomeUnusable."""
    found = []
    for name in ("registry.pem", "ca.pem"):
        path = folder / name
        with storage_errors(str(path)):
            if not path.exists():
                raise HomeUnusable(f"{path} is missing: --keys is the folder keys/ of the registry, from its backup")
            found.append(path.read_bytes())
    signing_key, ca_key = SigningKey.from_pem(found[0]), tls.TlsKey.from_pem(found[1])
    authority = identity.authority
    try:
        of_the_league = signing_key.public == authority.registry_key and tls.is_key_of(ca_key, authority.ca_certificate)
    except InvalidInput:
        of_the_league = False
    if not of_the_league:
        raise HomeUnusable(f"the keys in {folder} are not those of the league of {authority.root}: take its backup")
    return signing_key, ca_key


def _refuse_while_it_answers(
    identity: Identity, registries: tuple[Address, ...], own: tuple[Address, ...], storage: SqliteStorage
) -> None:
    """Other mirrors may; and they say that it does not."""
    mirrors = set(homes.mirrors(storage))
    wanted = tuple(each for each in registries if each not in mirrors and each not in own)
    answered: list[Address] = []

    def ask(address: Address) -> None:
        with League(replace(identity, registries=(address,))) as league:
            try:
                league.get_membership()
            except Unreachable:
                return
            except HanseError:
                pass  # it refuses: so it is there
            answered.append(address)

    threads = [threading.Thread(target=ask, args=(each,), daemon=True) for each in wanted]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(limits.CALL_TIMEOUT + 5)
    if answered:
        raise Conflict(
            f"the registry at {answered[0]} answers: two registries of one league would contradict each other. Stop it "
            "for good first; --force does it all the same"
        )
