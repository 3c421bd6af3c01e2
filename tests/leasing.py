"""What tests of leases share: a grant with a duty to delete, and looking for what must not be there.

grant = grant_to(client, north, "trial", delete_after=3)
assert not found(home, CANARY)
"""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from hanse import wire, wire_papers
from hanse.client import fetch as fetching
from hanse.client.client import Client
from hanse.client.fetch import Fetched
from hanse.client.identity import MARKER, Identity
from hanse.evidence.storage import papers
from hanse.home import Home
from hanse.model.envelope import PayloadType
from hanse.model.identifier import Identifier
from hanse.model.papers import Deletion, Grant
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.terms import Conditions, Duty, DutyKind, Party, Permission, Terms
from hanse.signing import sign
from hanse.vault.leasing import leasing_under
from node.catalog import CATALOG, Catalog
from node.storage.catalog import CatalogStorage
from tests.processes import Node
from tests.simulator import Organization


@dataclass
class Clock:
    """Unix seconds that a test moves; it goes on by itself too."""

    start: Callable[[], float]
    ahead: float = 0.0

    def __call__(self) -> float:
        return self.start() + self.ahead


def grant_to(
    client: Client, owner: Organization, *suffixes: str, delete_after: int = 3600, until: int | None = None
) -> bytes:
    """Digest of a grant of these objects that the client holds, as if it had asked for it."""
    duties = (Duty(DutyKind.DELETE_AFTER, delete_after),)
    grant = Grant(
        os.urandom(16), owner.prefix, client.identity.prefix, None,
        tuple(Identifier.of(owner.prefix, suffix) for suffix in suffixes),
        Conditions(valid_until=until, duties=duties), b"", b"", int(client._clock()),
    )  # fmt: skip
    envelope = sign(PayloadType.GRANT, wire_papers.encode_grant(grant), owner.key)
    client.evidence.change(lambda change: papers.put_grant(change.connection, grant, envelope, change.now))
    return envelope.digest


def leased(client: Client, id: str, grant: bytes, *elements: str, streams: int = 1) -> Fetched:
    """A fetch into the vault under that grant."""
    lease = leasing_under(client.vault, grant)
    assert lease is not None
    return fetching.fetch(client.resolver, Identifier.parse(id), elements=elements, lease=lease, streams=streams)


def found(folder: Path, *canaries: bytes) -> list[tuple[Path, bytes]]:
    """In which files, or names of files, they are."""
    seen = []
    for path in everything(folder):
        data = b""
        with contextlib.suppress(FileNotFoundError):
            data = path.read_bytes() if path.is_file() and not path.is_symlink() else b""
        seen += [(path, each) for each in canaries if each in data or each in os.fsencode(path.name)]
    return seen


def everything(folder: Path) -> Iterable[Path]:
    """Files that go away meanwhile are left out."""
    for at, folders, files in os.walk(folder):
        for name in folders + files:
            path = Path(at) / name
            if path.exists():
                yield path


# Between real processes.

PURPOSE = "health-research"


def wrap_leased(owner: Node, path: Path, suffix: str, seconds: int, to: str = "86.acme") -> str:
    """An object that is given, for PURPOSE and under the duty to delete it after so many seconds, to who asks."""
    conditions = Conditions(
        purposes=(Purpose.parse(PURPOSE),), duties=(Duty(DutyKind.DELETE_AFTER, seconds),)
    )  # fmt: skip
    terms = Terms(AccessMode.ON_REQUEST, (Permission((Party.parse(to),), conditions),))
    identity = Identity.load(Home.open(owner.home, MARKER, ""))
    with contextlib.closing(CatalogStorage.open(owner.home / CATALOG)) as storage:
        Catalog(storage, identity).add(path, suffix=suffix, terms=terms)
    owner.published()
    return f"{owner.prefix}/{suffix}"


def keys_of(home: Path) -> list[bytes]:
    """The vault's, as they lie on the disk; a daemon may be removing them."""
    keys = []
    with contextlib.suppress(FileNotFoundError):
        for path in (home / "vault/keys").iterdir():
            with contextlib.suppress(FileNotFoundError):
                keys.append(path.read_bytes())
    return keys


def deletions_at(owner: Node) -> list[Deletion]:
    """Signed by whoever deleted, as the owner keeps them in its log."""
    with contextlib.closing(sqlite3.connect(f"file:{owner.home / 'evidence.db'}?mode=ro", uri=True)) as connection:
        rows = connection.execute("SELECT payload FROM leaf WHERE kind = 'deletion' ORDER BY position").fetchall()
    return [wire_papers.decode_deletion(wire.decode_envelope(row[0]).payload) for row in rows]
