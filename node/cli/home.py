"""Opening what a command needs of the home, and closing it whatever happens."""

import contextlib
import os
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING

from node.cli.frame import Session

if TYPE_CHECKING:
    from hanse.client import Client
    from hanse.client.identity import Identity
    from hanse.client.storage.known import Known
    from hanse.home import Home
    from hanse.model.identifier import Prefix
    from node.catalog import Catalog

REMEDY = "`hanse join INVITATION` sets it up; --home or HANSE_HOME names another folder"


def home_of(session: Session) -> "Home":
    """Raises HomeUnusable when nobody joined with it."""
    from hanse.client.identity import MARKER
    from hanse.home import Home

    return Home.open(session.folder, MARKER, REMEDY)


def identity_of(session: Session) -> "Identity":
    """Raises HomeUnusable."""
    from hanse.client.identity import Identity

    return Identity.load(home_of(session))


@contextlib.contextmanager
def known_of(session: Session) -> Iterator["Known"]:
    """What this home has seen of others."""
    from hanse.client.storage.known import Known

    with contextlib.closing(Known.open(home_of(session) / "known.db")) as known:
        yield known


@contextlib.contextmanager
def catalog_of(session: Session) -> Iterator["Catalog"]:
    """What this home wraps."""
    import time

    from node.catalog import Catalog
    from node.storage.catalog import CatalogStorage

    identity = identity_of(session)
    with contextlib.closing(CatalogStorage.open(identity.home / "catalog.db")) as storage:
        yield Catalog(storage, identity, time.time)


@contextlib.contextmanager
def client_of(session: Session) -> Iterator["Client"]:
    """The league, as this home's organization sees it."""
    from hanse.client import Client

    with Client(session.folder) as client:
        yield client


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
    try:
        told = (session.folder / "lock").read_text(errors="replace")
        process = re.fullmatch(r"hanse serve \(process (\d+)\)\n?", told)
        if process is None:
            return False
        os.kill(int(process[1]), 0)
    except (OSError, OverflowError):
        return False
    return True
