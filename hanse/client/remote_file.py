"""An element as a file: seekable, read-only, every byte verified before it is given. For pandas, zipfile, pyarrow.

Chunks that were read are kept for a while; who reads on gets more at once: 1, 2, 4, ... chunks with one request.

    with open_element(resolver, identifier, "visits.csv") as visits:
        visits.seek(-100, io.SEEK_END)
"""

import io
import secrets

from hanse import limits
from hanse.client.content import Description, describe
from hanse.client.element_file import BUFFER_BYTES, ElementFile
from hanse.client.journal import Begun
from hanse.client.peer import Peer, Span
from hanse.client.progress import Patience
from hanse.client.receipts import Receipts, Session
from hanse.client.resolve import Resolver
from hanse.client.transfer import Incoming, leaf_of
from hanse.errors import DeliveryClosed, InvalidInput, ReceiptsOwed, Unreachable, WrongContent
from hanse.merkle import EMPTY_ROOT, HASH_BYTES, root
from hanse.model.identifier import Identifier
from hanse.model.manifest import Element
from hanse.model.papers import NONCE_BYTES, Delivered
from hanse.rpc.allocation import keep_large_buffers

PATIENCE = 30.0  # seconds of attempts when the owner's node does not answer
_AHEAD_BYTES = 64 * limits.MIB  # of one request, at most


class RemoteElement(ElementFile):
    """Raw: ``open_element`` buffers it. Owns its peer."""

    def __init__(
        self, peer: Peer, description: Description, index: int, element: Element, grant: bytes, session: Session
    ) -> None:
        super().__init__(element)
        self._peer = peer
        self._id, self._version = description.manifest.id, description.manifest.version
        self._index, self._grant, self._session = index, grant, session
        self._noted: set[int] = set()  # chunks
        self._leaves = self._load_leaves()
        self._incoming: Incoming | None = None
        self._next_chunk = self._end_chunk = 0  # of the stream
        self._ahead = 1
        if description.content:
            self._came_along(description.content)

    def readall(self) -> bytes:
        """To the end, with one request for all of it."""
        self._open()
        size, begin, end = self._element.chunk_size, self._position, self._element.length
        # Filled in place and given out as bytes: the zeros are nobody else's, so neither copies. Not on huge pages:
        # a virtual machine that gives free ones back to its host gets them ten times slower than it fills small ones.
        whole = io.BytesIO(bytes(max(0, end - begin)))
        with whole.getbuffer() as view:
            at = 0
            while self._position < end:
                index, start = divmod(self._position, size)
                kept = self._cache.get(index)
                for piece in [memoryview(kept)] if kept is not None else self._verified(index, to_end=True):
                    wanted = piece[start:]
                    start = max(0, start - len(piece))
                    view[at : at + len(wanted)] = wanted
                    at += len(wanted)
                self._position = begin + at
        return whole.getvalue()

    def close(self) -> None:
        if not self.closed:
            self._cancel()
            self._peer.close()
        closed = self.closed
        super().close()
        if not closed:
            self._session.end()

    def _load_leaves(self) -> bytes:
        element = self._element
        if element.length <= element.chunk_size:
            if not element.length and element.merkle_root != EMPTY_ROOT:
                raise WrongContent(f"an empty element of {self._id} has a root that is not that of nothing")
            return element.merkle_root
        patience = Patience(PATIENCE)
        while True:
            try:
                found = self._peer.hashes(self._id, self._version, self._index, element.chunk_count, grant=self._grant)
                break
            except Unreachable as error:
                patience.wait(error)
        if root(found[at : at + HASH_BYTES] for at in range(0, len(found), HASH_BYTES)) != element.merkle_root:
            raise WrongContent(f"the chunk hashes that the node of {self._id.prefix} sent are not those it signed")
        return found

    def _load(self, index: int) -> bytes:
        return b"".join(self._verified(index))

    def _verified(self, index: int, *, to_end: bool = False) -> list[memoryview]:
        """A chunk, as it lies in the messages. ``to_end``: all that follow it will be wanted."""
        patience, renewed, paid = Patience(PATIENCE), False, False
        while True:
            try:
                pieces = self._receive(index, to_end)
                break
            except Unreachable as error:
                self._cancel()
                patience.wait(error)
            except DeliveryClosed:
                self._cancel()
                if renewed:
                    raise
                self._renew()
                renewed = True
            except ReceiptsOwed:
                self._cancel()
                if paid:
                    raise
                self._session.pay()
                paid = True
        self._check(index, pieces)
        if index not in self._noted:
            self._noted.add(index)
            part, length = Delivered(self._index, 0, index, 1), self._element.chunk_length(index)
            self._session.verified(part, length, self._element.chunk_count)
        return pieces

    def _came_along(self, content: bytes) -> None:
        """With the description: the only chunk. It is signed for, read or not."""
        self._check(0, [memoryview(content)])
        self._cache[0] = content
        self._noted.add(0)
        self._session.verified(Delivered(self._index, 1), len(content))

    def _check(self, index: int, pieces: list[memoryview]) -> None:
        if leaf_of(pieces) != self._leaves[index * HASH_BYTES : (index + 1) * HASH_BYTES]:
            self._cancel()
            raise WrongContent(f"a chunk of {self._id} is not what its owner signed: it has another hash")

    def _receive(self, index: int, to_end: bool) -> list[memoryview]:
        """The next chunk of the stream, if it is the one that is wanted; else of a new stream."""
        if self._incoming is None or index != self._next_chunk or index == self._end_chunk:
            left = self._element.chunk_count - index
            went_on = index == self._next_chunk and index > 0
            self._cancel()
            self._ahead = min(2 * self._ahead, max(1, _AHEAD_BYTES // self._element.chunk_size)) if went_on else 1
            count = left if to_end else min(self._ahead, left)
            if self._session.separate > limits.DELIVERY_PARTS // 2:
                self._renew()
            spans = [Span(self._index, 0, index, count)]
            stream = self._peer.fetch(
                self._id, self._version, spans, grant=self._grant, delivery=self._session.delivery
            )
            end = min((index + count) * self._element.chunk_size, self._element.length)
            self._incoming = Incoming(stream, end - index * self._element.chunk_size)
            self._next_chunk, self._end_chunk = index, index + count
        pieces = self._incoming.take(self._element.chunk_length(index))
        self._next_chunk += 1
        return pieces

    def _renew(self) -> None:
        """What is read from now on is another delivery."""
        self._session = self._session.another()
        self._noted.clear()

    def _cancel(self) -> None:
        if self._incoming is not None:
            self._incoming.close()
            self._incoming = None


def open_element(
    resolver: Resolver,
    identifier: Identifier,
    name: str | None = None,
    version: int = 0,
    *,
    grant: bytes = b"",
    receipts: Receipts | None = None,
) -> io.BufferedReader:
    """The named element, or the only one: one delivery, settled when it is closed.

    Raises InvalidInput when there are several, and what Client raises.
    """
    keep_large_buffers()
    peer = resolver.peer(identifier.prefix)
    try:
        begun = Begun(secrets.token_bytes(NONCE_BYTES), 0) if receipts is None else receipts.begin()
        with _described(resolver, peer, identifier, version, grant, begun.id) as description:
            if name is None:
                if description.manifest.element_count != 1:
                    raise InvalidInput(
                        f"{identifier} has {description.manifest.element_count} elements: say which, "
                        "Client.elements() lists them"
                    )
                index, element = next(iter(description.elements()))
            else:
                index, element = next(iter(description.select([name]).items()))
            record = description.record
            session = Session(None, record, grant, begun) if receipts is None else receipts.first(record, grant, begun)
            return io.BufferedReader(RemoteElement(peer, description, index, element, grant, session), BUFFER_BYTES)
    except BaseException:
        peer.close()
        raise


def _described(
    resolver: Resolver, peer: Peer, identifier: Identifier, version: int, grant: bytes, delivery: bytes
) -> Description:
    """With the content, if that is small: a call less."""
    try:
        return describe(resolver, peer, identifier, version, grant=grant, delivery=delivery)
    except ReceiptsOwed:
        return describe(resolver, peer, identifier, version, grant=grant)  # they are settled before it is fetched
