"""Opening what a command needs of the home, and closing it whatever happens."""

import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.cli.frame import Session

if TYPE_CHECKING:
    from hanse.client.client import Client
    from hanse.client.identity import Identity
    from hanse.client.league import League
    from hanse.client.storage.known import Known
    from hanse.evidence.evidence import Evidence
    from hanse.home import Home
    from hanse.model.identifier import Prefix
    from node.catalog import Catalog
    from node.grants import Grants
    from node.storage.audit import AuditStorage
    from node.storage.catalog import CatalogStorage


def home_of(session: Session) -> "Home":
    """Raises HomeUnusable when nobody joined with it."""
    from hanse.client.identity import MARKER, REMEDY
    from hanse.home import Home

    return Home.open(session.folder, MARKER, REMEDY)


def identity_of(session: Session) -> "Identity":
    """Raises HomeUnusable."""
    from hanse.client.identity import Identity

    return Identity.load(home_of(session))


@contextlib.contextmanager
def known_of(session: Session) -> Iterator["Known"]:
    """What this home has seen of others."""
    from hanse.client.storage.known import FILE, Known

    with contextlib.closing(Known.open(home_of(session) / FILE)) as known:
        yield known


@contextlib.contextmanager
def storage_of(session: Session) -> Iterator[tuple["Identity", "CatalogStorage"]]:
    """This home's own database, after a change of keys that was interrupted has been finished."""
    from hanse.client.identity import Identity
    from node.catalog import CATALOG
    from node.rotate import settle
    from node.storage.catalog import CatalogStorage

    home = home_of(session)
    with contextlib.closing(CatalogStorage.open(home / CATALOG)) as storage:
        settle(home, storage)
        yield Identity.load(home), storage


@contextlib.contextmanager
def catalog_of(session: Session) -> Iterator["Catalog"]:
    """What this home wraps."""
    from node.catalog import Catalog

    with storage_of(session) as (identity, storage):
        yield Catalog(storage, identity)


@contextlib.contextmanager
def client_of(session: Session) -> Iterator["Client"]:
    """The league, as this home's organization sees it."""
    from hanse.client.client import Client

    with Client(session.folder) as client:
        yield client


@contextlib.contextmanager
def evidence_of(session: Session) -> Iterator["Evidence"]:
    """What this home can prove: papers, deliveries, the log."""
    from hanse.evidence.evidence import Evidence

    with Evidence.open(identity_of(session)) as evidence:
        yield evidence


@contextlib.contextmanager
def grants_of(session: Session) -> Iterator["Grants"]:
    """What this home was asked for, and gave."""
    from node.grants import Grants
    from node.policy import Policies

    with client_of(session) as client, storage_of(session) as (_, storage):
        yield Grants(client.evidence, lambda: client.resolver, storage, Policies())


def own_suffix(prefix: "Prefix", text: str) -> str:
    """A suffix, given as such or as a whole identifier of our own. Raises InvalidInput."""
    from hanse.errors import InvalidInput
    from hanse.model.identifier import Identifier

    try:
        whole = Identifier.parse(text)
    except InvalidInput:
        whole = None
    if whole is not None and whole.prefix == prefix:
        return whole.suffix
    return Identifier.of(prefix, text).suffix


def daemon_runs(session: Session) -> bool:
    """Whether `hanse serve` seems to work in this home: for what is said, not for what is done."""
    return home_of(session).holder() is not None


@contextlib.contextmanager
def league_of(session: Session) -> Iterator["League"]:
    """The registry, as a member sees it."""
    from hanse.client.reaching import reach

    with reach(identity_of(session)) as league:
        yield league


@contextlib.contextmanager
def audit_of(session: Session) -> Iterator["AuditStorage"]:
    """The decisions of this node."""
    from node.storage.audit import AuditStorage, move

    with storage_of(session) as (_, storage), evidence_of(session) as evidence:
        move(storage.database, evidence)
        yield AuditStorage(evidence.database)
