"""The Python SDK: one home's view of the league. The same code as the commands use.

with Client() as league:
    print(league.resolve("86.north/trial-7").record.record.metadata.title)
    with league.open("86.north/trial-7", "visits.csv") as visits:
        table = pandas.read_csv(visits)
"""

import contextlib
import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self, TypeVar

from hanse.client import access, standing
from hanse.client import fetch as fetching
from hanse.client import verify as verifying
from hanse.client.access import Answer
from hanse.client.connections import Connections
from hanse.client.content import describe
from hanse.client.fetch import Fetched
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League
from hanse.client.progress import Report
from hanse.client.receipts import Receipts
from hanse.client.remote_file import open_element
from hanse.client.resolve import Resolved, Resolver, SearchPage
from hanse.client.storage.known import FILE, Known
from hanse.client.verify import Difference
from hanse.errors import GrantNeeded, InvalidInput, NotFound, Revoked, UsedUp
from hanse.evidence.evidence import Evidence
from hanse.evidence.storage import papers
from hanse.evidence.storage.papers import GrantRow
from hanse.home import Home, default_home
from hanse.model.identifier import Identifier, Prefix
from hanse.model.lease import Lease
from hanse.model.manifest import Element
from hanse.model.purposes import Purpose
from hanse.model.record import AccessMode
from hanse.model.search import Query
from hanse.turns import turn
from hanse.vault.leasing import Leasing, leasing_under
from hanse.vault.reading import Kept, open_kept
from hanse.vault.revocations import ask_briefly
from hanse.vault.vault import Vault, sweep_home

T = TypeVar("T")


class Client:
    """A member of the league that looks for data and fetches it. Safe to share between threads; to be closed.

    ``home`` is the folder that `hanse join` made; None is $HANSE_HOME, else the platform's data folder. All methods
    raise hanse.errors: NotFound, NotPermitted, Unreachable (worth trying again), VerificationFailed (do not trust it).
    Without ``receipts``, what it fetches is not signed for: owners may refuse to serve on.
    """

    def __init__(
        self, home: str | Path | None = None, *, receipts: bool = True, clock: Callable[[], float] = time.time
    ) -> None:
        folder = default_home() if home is None else Path(home)
        opened = Home.open(folder, MARKER, "`hanse join INVITATION` makes it a member")
        sweep_home(opened, clock)
        self.identity = Identity.load(opened)
        self._known = Known.open(self.identity.home / FILE)
        self._league = League(self.identity, clock)
        self._connections = Connections()
        self.resolver = Resolver(self.identity, self._known, self._league, clock, self._connections)
        self._clock = clock
        self._evidence: Evidence | None = None
        self._vault: Vault | None = None
        self._opening = threading.Lock()
        self._receipts = Receipts(self.resolver, lambda: self.evidence) if receipts else None

    @property
    def evidence(self) -> Evidence:
        """What this home can prove: opened when it is first needed, closed with the client."""
        with self._opening:
            if self._evidence is None:
                self._evidence = Evidence.open(self.identity, self._clock)
            return self._evidence

    @property
    def vault(self) -> Vault:
        """What this home keeps under a duty to delete."""
        if self._vault is None:
            self._vault = Vault(self.identity.home, self.evidence, self._clock)
        return self._vault

    def resolve(self, id: str | Identifier, *, max_age: int | None = None, prove: bool = False) -> Resolved:
        """The verified record of an object. ``max_age`` in seconds; 0 asks the registry in any case.

        ``prove``: only what the registry proves to be in its log, which is the same for everybody.
        """
        return self.resolver.record(_identifier(id), max_age=max_age, prove=prove)

    def search(
        self,
        text: str = "",
        *,
        owner: str | Prefix | None = None,
        type: str = "",
        subject: str = "",
        media_type: str = "",
        access: str | AccessMode | None = None,
        page_size: int = 20,
        page_token: str = "",
    ) -> SearchPage:
        """One page of verified records, best first. ``page_token`` is the ``next_page_token`` of the page before."""
        query = Query(
            text=text,
            owner=Prefix.parse(owner) if isinstance(owner, str) else owner,
            type=type,
            subject=subject,
            media_type=media_type,
            access=AccessMode(access) if access else None,
            page_size=page_size,
            page_token=page_token,
        )
        return self.resolver.search(query)

    def elements(self, id: str | Identifier, *, version: int = 0) -> Iterator[Element]:
        """What an object consists of; version 0 is the newest. The owner's node is asked at the first ``next``."""
        identifier = _identifier(id)
        with (
            self.resolver.peer(identifier.prefix) as peer,
            describe(self.resolver, peer, identifier, version, grant=self._grant(identifier)) as description,
        ):
            for _, element in description.elements():
                yield element

    def open(
        self,
        id: str | Identifier,
        element: str | None = None,
        *,
        version: int = 0,
        purpose: str | Sequence[str] = (),
        wait: bool = False,
    ) -> io.BufferedReader:
        """An element as a seekable, read-only file; None is the only one. Every byte is verified before it is given.

        What is leased is read from the vault, also while its owner is away, until the lease ends. ``purpose``,
        ``wait``: as in ``fetch``.
        """
        with turn():
            return self._open(_identifier(id), element, version, _purposes(purpose), wait=wait)

    def _open(
        self, identifier: Identifier, element: str | None, version: int, purposes: tuple[Purpose, ...], *, wait: bool
    ) -> io.BufferedReader:
        if any(lease.complete for lease in self.vault.leases(identifier)):
            # It may be revoked, or be another element than those that are kept.
            with (
                contextlib.suppress(NotFound, Revoked),
                self.kept(identifier, version=version, element=element) as kept,
            ):
                return kept.open(element)
        return self._under(
            identifier,
            purposes,
            lambda grant: open_element(
                self.resolver, identifier, element, version, grant=grant, receipts=self._receipts
            ),
            wait=wait,
        )

    def kept(self, id: str | Identifier, *, version: int = 0, element: str | None = None) -> Kept:
        """What is leased of an object, with that element if one is named. To be closed.

        Its owner is asked, for two seconds at most, whether it was revoked. Raises NotFound, Revoked.
        """
        identifier = _identifier(id)
        ask_briefly(self.resolver, self.vault, identifier)
        return open_kept(self.vault, self.resolver, identifier, version, element)

    def leases(self) -> list[Lease]:
        """What is kept under a duty to delete, and until when."""
        self.vault.sweep()
        return self.vault.leases()

    def fetch(
        self,
        id: str | Identifier,
        to: str | Path | None = None,
        *,
        elements: Sequence[str] = (),
        version: int = 0,
        streams: int = 1,
        progress: Report | None = None,
        patience: float = fetching.PATIENCE,
        purpose: str | Sequence[str] = (),
        wait: bool = False,
        waiting: Callable[[Answer], None] | None = None,
    ) -> Fetched:
        """Fetches an object, or some of its elements, verified, to a file or a folder; goes on from an earlier attempt.

        ``to``: None is the object's own name in the current folder. ``patience``: seconds without progress. With a
        ``purpose`` (or several), asks the owner for a grant if none is held for it; with ``wait``, until there is an
        answer: ``waiting`` is told so once. Under a duty to delete, it goes into the vault: then there is no ``to``,
        and what is given has a ``lease``. Raises GrantNeeded, Revoked, UsedUp.
        """
        identifier = _identifier(id)
        return self._under(
            identifier,
            _purposes(purpose),
            lambda grant: fetching.fetch(
                self.resolver,
                identifier,
                None if to is None else Path(to),
                elements=elements,
                version=version,
                streams=streams,
                report=progress,
                patience=patience,
                grant=grant,
                receipts=self._receipts,
                lease=self._lease(identifier, grant, to),
            ),
            wait=wait,
            waiting=waiting,
        )

    def _lease(self, identifier: Identifier, grant: bytes, to: str | Path | None) -> Leasing | None:
        """Where a fetch under that grant goes, if it is not to files."""
        lease = leasing_under(self.vault, grant)
        if lease is not None and to is not None:
            raise InvalidInput(
                f"{identifier} is for use under a duty to delete it: it is kept in the vault of this home, which does, "
                f"and not in files, which nobody would find again. Leave -o out; `hanse open {identifier}` reads it"
            )
        return lease

    def request(
        self,
        id: str | Identifier,
        purpose: str | Sequence[str],
        message: str = "",
        until: int | None = None,
    ) -> Answer:
        """Asks the owner of an object for a grant, or how the same request stands. ``until`` in Unix seconds."""
        return access.request(self.resolver, self.evidence, _identifier(id), _purposes(purpose), message, until)

    def grants(self) -> list[GrantRow]:
        """The grants that are held, newest first; what their owners say of them now, as far as they can be asked."""
        standing.refresh(self.resolver, self.evidence)
        with self.evidence.reading() as connection:
            return papers.grants(connection, holder=self.identity.prefix)

    def verify(
        self,
        path: str | Path,
        id: str | Identifier,
        *,
        version: int = 0,
        progress: Report | None = None,
    ) -> list[Difference]:
        """How local files differ from a published version: empty when they are the same."""
        identifier = _identifier(id)
        with (
            self.resolver.peer(identifier.prefix) as peer,
            describe(self.resolver, peer, identifier, version, grant=self._grant(identifier)) as description,
        ):
            return verifying.differences(Path(path), description, report=progress)

    def _grant(self, identifier: Identifier) -> bytes:
        """One that is held, if there is one."""
        return access.obtain(self.resolver, self.evidence, identifier)

    def _under(
        self,
        identifier: Identifier,
        purposes: tuple[Purpose, ...],
        use: Callable[[bytes], T],
        *,
        wait: bool = False,
        waiting: Callable[[Answer], None] | None = None,
    ) -> T:
        """What ``use`` does under a grant; when that turns out to be over, under the next that is held."""
        grant = access.obtain(self.resolver, self.evidence, identifier, purposes, wait=wait, waiting=waiting)
        while True:
            try:
                return use(grant)
            except GrantNeeded as error:
                raise access.needed(identifier, error) from None
            except (Revoked, UsedUp) as error:
                standing.ended(self.resolver, self.evidence, grant, error)
                another = access.best_grant(self.evidence, identifier, int(self._clock()), purposes)
                if another in (b"", grant):
                    raise
                grant = another
                access.show(self.resolver, self.evidence, grant)

    def close(self) -> None:
        if self._receipts is not None:
            self._receipts.close()
        if self._evidence is not None:
            self._evidence.close()
        self._connections.close()
        self._league.close()
        self._known.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _purposes(given: str | Sequence[str]) -> tuple[Purpose, ...]:
    return tuple(Purpose.parse(each) for each in ([given] if isinstance(given, str) else given))


def _identifier(text: str | Identifier) -> Identifier:
    return text if isinstance(text, Identifier) else Identifier.parse(text)
