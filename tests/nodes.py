"""Nodes to test against: real daemons in this process, and raw calls to them in a member's name.

with Registry.start(tmp_path / "registry") as registry, Node.start(registry, "86.north", tmp_path / "north") as north:
    north.add(path, "trial", terms=Terms.opened())
    with Caller(acme.identity, north) as caller:
        caller.fetch("86.north/trial", 1, [Span(0, 1)])
"""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import grpc

from hanse.client.identity import MARKER, Identity
from hanse.client.peer import Span
from hanse.evidence.evidence import Evidence
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.terms import Terms
from hanse.rpc import status
from hanse.rpc.channel import dial
from hanse.v1 import node_pb2
from node.app import Daemon
from node.audit import Row
from node.catalog import CATALOG, Added, Catalog
from node.join import join
from node.storage.audit import AuditStorage
from node.storage.catalog import CatalogStorage
from tests.league import Registry, eventually

LOCAL = Address("127.0.0.1", 0)


@dataclass
class Node:
    """A member's home and, between ``serve`` and ``stop``, its daemon."""

    registry: Registry
    folder: Path
    clock: Callable[[], float] = time.time
    daemon: Daemon | None = None
    address: Address = LOCAL

    @classmethod
    def join(
        cls, registry: Registry, prefix: str, folder: Path, clock: Callable[[], float] = time.time, contact: str = ""
    ) -> "Node":
        join(registry.invite(prefix), folder, listen=LOCAL, contact=contact, clock=clock)
        return cls(registry, folder, clock)

    @classmethod
    @contextlib.contextmanager
    def start(cls, registry: Registry, prefix: str, folder: Path, **more: Any) -> Iterator["Node"]:
        node = cls.join(registry, prefix, folder, **more)
        node.serve()
        try:
            yield node
        finally:
            node.stop()

    @property
    def identity(self) -> Identity:
        return Identity.load(Home.open(self.folder, MARKER, ""))

    def serve(self) -> None:
        daemon = Daemon(self.folder, self.clock)
        self.address = daemon.start()
        self.daemon = daemon

    def stop(self) -> None:
        if self.daemon is not None:
            daemon, self.daemon = self.daemon, None
            daemon.stop()

    def settings(self, text: str) -> None:
        """Appended to node.toml; counts from the next ``serve`` on."""
        with (self.folder / "node.toml").open("a") as file:
            file.write(text)

    @contextlib.contextmanager
    def storage(self) -> Iterator[CatalogStorage]:
        with contextlib.closing(CatalogStorage.open(self.folder / CATALOG)) as storage:
            yield storage

    @contextlib.contextmanager
    def catalog(self) -> Iterator[Catalog]:
        with self.storage() as storage:
            yield Catalog(storage, self.identity, self.clock)

    def add(self, path: Path, suffix: str, terms: Terms = Terms(), **more: Any) -> Added:  # noqa: B008
        with self.catalog() as catalog:
            return catalog.add(path, suffix=suffix, terms=terms, **more)

    def waiting(self) -> int:
        with self.storage() as storage:
            return len(storage.outbox.all())

    def published(self) -> None:
        """Waits until the registry has everything."""
        eventually(lambda: self.waiting() == 0)

    def audit(self) -> list[Row]:
        """Oldest first."""
        with Evidence.open(self.identity) as evidence:
            return list(AuditStorage(evidence.database).query(None, None, None, 10_000))[::-1]


class Caller:
    """Raw calls to a node: nothing is verified, and errors come as the node's own classes."""

    def __init__(
        self,
        identity: Identity,
        node: Node,
        *,
        key: bytes | None = None,
        chain: bytes | None = None,
        bare: bool = False,
    ) -> None:
        owner = node.identity
        self.channel = dial(
            node.address,
            roots=owner.node_certificate,
            server_name=owner.prefix.server_name,
            key=None if bare else key or identity.tls_key,
            chain=None if bare else chain or identity.member_certificate,
        )

    def call(self, method: str, request: bytes, timeout: float = 20) -> Any:
        """The raw stream."""
        return self.channel.unary_stream(f"/hanse.v1.Node/{method}")(request, timeout=timeout)

    def messages(self, method: str, request: bytes) -> list[bytes]:
        with raised():
            return list(self.call(method, request))

    def describe(self, id: str, version: int = 0, **more: Any) -> list[node_pb2.DescribeResponse]:
        request = node_pb2.DescribeRequest(id=id, version=version, **more).SerializeToString()
        return [node_pb2.DescribeResponse.FromString(each) for each in self.messages("Describe", request)]

    def hashes(self, id: str, version: int, element: int) -> bytes:
        request = node_pb2.HashesRequest(id=id, version=version, element=element).SerializeToString()
        return b"".join(node_pb2.HashesResponse.FromString(each).hashes for each in self.messages("Hashes", request))

    def fetch(self, id: str, version: int, spans: Sequence[Span]) -> bytes:
        return b"".join(
            node_pb2.FetchResponse.FromString(each).data
            for each in self.messages("Fetch", fetch_request(id, version, spans))
        )

    def close(self) -> None:
        self.channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def fetch_request(id: str, version: int, spans: Sequence[Span], **more: bytes) -> bytes:
    """``more``: grant, delivery."""
    return node_pb2.FetchRequest(
        id=id,
        version=version,
        grant=more.get("grant", b""),
        delivery=more.get("delivery", b""),
        spans=[
            node_pb2.Span(element=s.element, elements=s.elements, first_chunk=s.first_chunk, chunks=s.chunks)
            for s in spans
        ],
    ).SerializeToString()


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """The node's error as one of ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise status.from_rpc(error, "the node") from None
