"""The Python SDK: one home's view of the league. The same code as the commands use.

with Client() as league:
    print(league.resolve("86.north/trial-7").record.record.metadata.title)
    with league.open("86.north/trial-7", "visits.csv") as visits:
        table = pandas.read_csv(visits)
"""

import io
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

from hanse.client import fetch as fetching
from hanse.client import verify as verifying
from hanse.client.content import describe
from hanse.client.fetch import Fetched
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League
from hanse.client.progress import Report
from hanse.client.remote_file import open_element
from hanse.client.resolve import Resolved, Resolver, SearchPage
from hanse.client.storage.known import FILE, Known
from hanse.client.verify import Difference
from hanse.evidence.evidence import Evidence
from hanse.home import Home, default_home
from hanse.model.identifier import Identifier, Prefix
from hanse.model.manifest import Element
from hanse.model.record import AccessMode
from hanse.model.search import Query


class Client:
    """A member of the league that looks for data and fetches it. Safe to share between threads; to be closed.

    ``home`` is the folder that `hanse join` made; None is $HANSE_HOME, else the platform's data folder. All methods
    raise hanse.errors: NotFound, NotPermitted, Unreachable (worth trying again), VerificationFailed (do not trust it).
    """

    def __init__(self, home: str | Path | None = None, *, clock: Callable[[], float] = time.time) -> None:
        folder = default_home() if home is None else Path(home)
        self.identity = Identity.load(Home.open(folder, MARKER, "`hanse join INVITATION` makes it a member"))
        self._known = Known.open(self.identity.home / FILE)
        self._league = League(self.identity, clock)
        self.resolver = Resolver(self.identity, self._known, self._league, clock)
        self._clock = clock
        self._evidence: Evidence | None = None
        self._opening = threading.Lock()

    @property
    def evidence(self) -> Evidence:
        """What this home can prove: opened when it is first needed, closed with the client."""
        with self._opening:
            if self._evidence is None:
                self._evidence = Evidence.open(self.identity, self._clock)
            return self._evidence

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
            describe(self.resolver, peer, identifier, version) as description,
        ):
            for _, element in description.elements():
                yield element

    def open(self, id: str | Identifier, element: str | None = None, *, version: int = 0) -> io.BufferedReader:
        """An element as a seekable, read-only file; None is the only one. Every byte is verified before it is given."""
        return open_element(self.resolver, _identifier(id), element, version)

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
    ) -> Fetched:
        """Fetches an object, or some of its elements, verified, to a file or a folder; goes on from an earlier attempt.

        ``to``: None is the object's own name in the current folder. ``patience``: seconds without progress.
        """
        return fetching.fetch(
            self.resolver,
            _identifier(id),
            None if to is None else Path(to),
            elements=elements,
            version=version,
            streams=streams,
            report=progress,
            patience=patience,
        )

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
            describe(self.resolver, peer, identifier, version) as description,
        ):
            return verifying.differences(Path(path), description, report=progress)

    def close(self) -> None:
        if self._evidence is not None:
            self._evidence.close()
        self._league.close()
        self._known.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: Any) -> None:
        self.close()


def _identifier(text: str | Identifier) -> Identifier:
    return text if isinstance(text, Identifier) else Identifier.parse(text)
