"""A simulated league that can lie: a registry and an owner's node, on real ports with real TLS.

Built from hanse.signing, tls and wire only. Everything is public state that a test changes, and hooks through which
an answer goes before it is sent. What it is not: a registry (tests/league.py has the real one).

    with SimulatedLeague() as league:
        north, acme = league.join("86.north"), league.join("86.acme")
        north.wrap("trial-7", {"visits.csv": b"..."})
        client = Client(acme.home(tmp_path))
        league.lies["resolve"] = lambda response: ...
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import grpc

from hanse import limits, merkle, transparency, wire
from hanse.client import identity
from hanse.errors import HanseError, NotFound
from hanse.evidence.checkpoint import Checkpoint
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.manifest import Element, ElementName, Manifest, ManifestPage
from hanse.model.organization import IdentityKey, Member, NodeEndpoint, OrganizationRecord
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.model.resolution import Change
from hanse.rpc import status, tls
from hanse.signing import SigningKey, sign
from hanse.v1 import manifest_pb2, node_pb2, node_pb2_grpc, registry_pb2, registry_pb2_grpc

ROOT = Prefix("86")
Lie = Callable[[Any], Any]


def element(name: str, content: bytes, chunk_size: int = limits.MIN_CHUNK_BYTES, **more: Any) -> Element:
    """The true description of some bytes."""
    leaves = chunk_hashes(content, chunk_size)
    return Element(
        ElementName(name),
        "application/octet-stream",
        len(content),
        chunk_size,
        merkle.root(leaves),
        sha256(content).digest(),
        more.get("modified_ns", 1_700_000_000_123_456_789),
        more.get("executable", False),
    )


def chunk_hashes(content: bytes, chunk_size: int) -> list[bytes]:
    return [merkle.leaf_hash(content[at : at + chunk_size]) for at in range(0, len(content), chunk_size)]


@dataclass
class Version:
    """One version of an object, as its owner's node holds it."""

    record: ObjectRecord
    record_envelope: Envelope
    manifest: Manifest
    manifest_envelope: Envelope
    salt: bytes
    pages: list[bytes]
    elements: list[Element]
    contents: list[bytes]


@dataclass
class Organization:
    """A member with its keys, its history and, if it wraps anything, its node."""

    league: "SimulatedLeague"
    prefix: Prefix
    key: SigningKey
    tls_key: tls.TlsKey
    node_certificate: bytes
    history: list[Envelope] = field(default_factory=list)
    record: OrganizationRecord | None = None
    objects: dict[str, list[Version]] = field(default_factory=dict)
    node: "SimulatedNode | None" = None

    def publish_organization(self, *keys: SigningKey, **changes: Any) -> Envelope:
        """The next version of its own record, signed by its current key and any others."""
        now = self.league.now
        if self.record is None:
            first = (IdentityKey(self.key.public, now - 3600),)
            nodes = (NodeEndpoint(None, self.node_certificate),)
            record = OrganizationRecord(self.prefix, 1, b"", f"The {self.prefix}", "", first, nodes, now)
        else:
            previous = self.history[-1].digest
            record = replace(self.record, version=self.record.version + 1, previous=previous, issued_at=now)
        self.record = replace(record, **changes)
        envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(self.record), *(keys or (self.key,)))
        self.history.append(envelope)
        self.league.log_entry(envelope)
        return envelope

    def rotate(self) -> SigningKey:
        """A new identity key, signed by the old and the new one."""
        assert self.record is not None
        old, self.key = self.key, SigningKey.generate()
        now = self.league.now
        before = tuple(replace(key, valid_until=key.valid_until or now) for key in self.record.keys)
        self.publish_organization(self.key, old, keys=(IdentityKey(self.key.public, now), *before))
        return old

    def serve(self) -> "SimulatedNode":
        """Starts its node and publishes the address."""
        if self.node is None:
            self.node = SimulatedNode(self)
            self.node.start()
            self.publish_organization(nodes=(NodeEndpoint(self.node.address, self.node_certificate),))
        return self.node

    def wrap(
        self,
        suffix: str,
        contents: dict[str, bytes] | bytes,
        *,
        listed: bool = True,
        chunk_size: int = limits.MIN_CHUNK_BYTES,
        page_elements: int = 100,
        elements: list[Element] | None = None,
        key: SigningKey | None = None,
        **changes: Any,
    ) -> Version:
        """The next version of an object: bytes for a file named like the suffix, a dict for a folder."""
        single = isinstance(contents, bytes)
        files = {suffix: contents} if isinstance(contents, bytes) else contents
        true = [element(name, content, chunk_size) for name, content in files.items()]
        version = self.make(suffix, elements or true, list(files.values()), single, page_elements, key, **changes)
        self.serve()
        self.objects.setdefault(version.record.id.key, []).append(version)
        if listed:
            self.league.records[version.record.id.key] = version.record_envelope
            self.league.log_entry(version.record_envelope)
        return version

    def make(
        self,
        suffix: str,
        elements: list[Element],
        contents: list[bytes],
        single: bool,
        page_elements: int = 100,
        key: SigningKey | None = None,
        **changes: Any,
    ) -> Version:
        """Signs a version without publishing it."""
        identifier, now = Identifier.of(self.prefix, suffix), self.league.now
        before = self.objects.get(identifier.key, [])
        number = len(before) + 1
        pages = [
            wire.encode_page(ManifestPage(at, tuple(elements[at : at + page_elements])))
            for at in range(0, len(elements), page_elements)
        ]
        manifest = Manifest(
            identifier,
            number,
            len(elements),
            sum(each.length for each in elements),
            len(pages),
            merkle.root(merkle.leaf_hash(page) for page in pages),
            now,
            single,
        )
        manifest_envelope = sign(PayloadType.MANIFEST, wire.encode_manifest(manifest), key or self.key)
        salt = sha256(str(identifier).encode()).digest()[:16]
        record = ObjectRecord(
            id=identifier,
            version=number,
            previous=before[-1].record_envelope.digest if before else b"",
            type="Dataset",
            status=Status.ACTIVE,
            metadata=Metadata(title=f"Title of {suffix}"),
            summary=Summary(),
            access=Access(AccessMode.OPEN),
            operations=("describe", "fetch"),
            commitment=sha256(salt + manifest_envelope.digest).digest(),
            issued_at=now,
            time_to_live=300,
        )
        record = replace(record, **changes)
        envelope = sign(PayloadType.RECORD, wire.encode_record(record), key or self.key)
        return Version(record, envelope, manifest, manifest_envelope, salt, pages, elements, contents)

    def withdraw(self, suffix: str, reason: str) -> Version:
        last = self.objects[Identifier.of(self.prefix, suffix).key][-1]
        return self.wrap(suffix, last.contents[0], status=Status.WITHDRAWN, reason=reason)

    def home(self, folder: Path) -> Path:
        """A home on disk, as `hanse join` makes it."""
        home = Home.create(folder, identity.MARKER)
        home.write_secret(identity.IDENTITY_KEY, self.key.to_pem())
        home.write_secret(identity.TLS_KEY, self.tls_key.to_pem())
        request = tls.make_request(self.tls_key, self.prefix)
        league = self.league
        member = tls.issue_member(league.ca_key, league.ca_certificate, request, ROOT, self.prefix, league.now)
        home.write_secret(identity.NODE_CERTIFICATE, tls.to_pem(self.node_certificate))
        home.write_secret(identity.MEMBER_CERTIFICATE, tls.to_pem(member))
        identity.write_league(home, self.prefix, league.authority, (league.address,))
        return folder


class SimulatedLeague(registry_pb2_grpc.RegistryServicer):
    """The registry. ``lies`` by method name ("resolve", "organization", "membership", "search") alter its answers.

    ``leaves`` is its log: what it shows of it is true of this list, whatever a test makes of it. ``changes`` is what
    Watch shows of it to those who ask for certificates, by way of ``lies["watch"]`` (a list). ``shown_size`` is how
    much of it it shows, None for all, ``shown_at`` the date it gives it, and without ``log`` it has none. What it gives
    out of the membership becomes a leaf then, unless ``leaves_membership`` is off.
    """

    def __init__(self) -> None:
        self.now = int(time.time())
        self.ca_key, self.tls_key, self.key = tls.TlsKey.generate(), tls.TlsKey.generate(), SigningKey.generate()
        self.ca_certificate = tls.make_authority(self.ca_key, ROOT, self.now)
        self.authority = wire.encode_authority(ROOT, "Test league", self.ca_certificate, self.key.public)
        self.organizations: dict[Prefix, Organization] = {}
        self.records: dict[str, Envelope] = {}
        self.suspended: dict[Prefix, int] = {}
        self.membership_version = 1
        self.lies: dict[str, Lie] = {}
        self.calls: list[str] = []
        self.leaves: list[bytes] = []
        self.changes: list[Change] = []
        self.shown_size: int | None = None
        self.shown_at: int | None = None
        self.log = True
        self.leaves_membership = True
        self.address = Address("127.0.0.1", 0)
        self._server: grpc.Server | None = None

    def __enter__(self) -> "SimulatedLeague":
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        for each in self.organizations.values():
            if each.node is not None:
                each.node.stop()
        self.stop()

    def start(self) -> None:
        certificate = tls.issue_registry(self.ca_key, self.ca_certificate, self.tls_key, ROOT, self.now)
        credentials = grpc.ssl_server_credentials([(self.tls_key.to_pem(), tls.to_pem(certificate))])
        self._server = grpc.server(ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        registry_pb2_grpc.add_RegistryServicer_to_server(self, self._server)
        self.address = Address("127.0.0.1", self._server.add_secure_port(str(self.address), credentials))
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def join(self, prefix: str) -> Organization:
        parsed = Prefix.parse(prefix)
        tls_key = tls.TlsKey.generate()
        certificate = tls.make_node_certificate(tls_key, ROOT, parsed, self.now)
        organization = Organization(self, parsed, SigningKey.generate(), tls_key, certificate)
        organization.publish_organization()
        self.organizations[parsed] = organization
        return organization

    def membership(self, key: SigningKey | None = None) -> tuple[Envelope, bytes]:
        members = [
            Member(each.prefix, str(each.prefix), len(each.history), self.suspended.get(each.prefix))
            for each in self.organizations.values()
        ]
        listed = wire.encode_members(members, [self.address])
        league = sha256(self.authority).digest()
        head = wire.encode_membership_head(self.membership_version, self.now, sha256(listed).digest(), league)
        return sign(PayloadType.MEMBERSHIP, head, key or self.key), listed

    def GetMembership(self, request: Any, context: Any) -> Any:  # noqa: N802
        head, members = self.membership()
        known = sha256(members).digest() == request.known_members_sha256
        response = registry_pb2.GetMembershipResponse(
            head=wire.envelope_to_message(head), members=b"" if known else members
        )
        if request.with_checkpoint and self.log:
            leaf = transparency.leaf_of(head)
            if self.leaves_membership and leaf not in self.leaves:
                self.log_entry(head)
            response.log.CopyFrom(self.show(request.seen_size))
            if (proved := self.include(head)) is not None:
                response.inclusion.CopyFrom(proved)
        return self._answer("membership", response)

    def show(self, seen: int, until: int = 0) -> registry_pb2.Log:
        """What it shows of its log to one who has seen so many entries, and of the first ``until`` of it."""
        leaves = [merkle.leaf_hash(leaf) for leaf in self.leaves[: self.shown_size]]
        authority = wire.decode_authority(self.authority)
        checkpoint = Checkpoint(transparency.origin(authority), len(leaves), merkle.root(leaves))
        shown = registry_pb2.Log(
            checkpoint=transparency.sign(checkpoint, self.key, self.shown_at or int(time.time())),
        )
        if 0 < seen <= (until or len(leaves)) <= len(leaves):
            shown.since, shown.until = seen, until
            shown.consistency.extend(merkle.consistency_proof(merkle.nodes(leaves), seen, until or len(leaves)))
        return shown

    def include(self, envelope: Envelope) -> registry_pb2.Inclusion | None:
        """None for what is not in the log."""
        leaves, leaf = self.leaves[: self.shown_size], transparency.leaf_of(envelope)
        if leaf not in leaves:
            return None
        index = leaves.index(leaf)
        node = merkle.nodes([merkle.leaf_hash(each) for each in leaves])
        return registry_pb2.Inclusion(index=index, path=merkle.inclusion_proof(node, index, len(leaves)))

    def GetCheckpoint(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self._answer(
            "checkpoint", registry_pb2.GetCheckpointResponse(log=self.show(request.seen_size, request.until_size))
        )

    def GetOrganization(self, request: Any, context: Any) -> Any:  # noqa: N802
        found = self.organizations.get(Prefix(request.prefix))
        history = found.history[request.after_version :] if found else []
        response = registry_pb2.GetOrganizationResponse(organizations=map(wire.envelope_to_message, history))
        return self._answer("organization", response)

    def Resolve(self, request: Any, context: Any) -> Any:  # noqa: N802
        response = registry_pb2.ResolveResponse()
        for text in request.ids:
            identifier = Identifier.parse(text)
            envelope = self.records.get(identifier.key)
            resolution = response.resolutions.add()
            if envelope is None:
                resolution.state = registry_pb2.Resolution.STATE_UNKNOWN
                continue
            resolution.state = registry_pb2.Resolution.STATE_ACTIVE
            resolution.record.CopyFrom(wire.envelope_to_message(envelope))
            owner = self.organizations.get(identifier.prefix)
            if request.with_organization and owner is not None:
                response.organizations.append(wire.envelope_to_message(owner.history[-1]))
                if request.prove and (proved := self.include(owner.history[-1])) is not None:
                    response.organization_inclusions.append(proved)
            if request.prove and (proved := self.include(envelope)) is not None:
                resolution.inclusion.CopyFrom(proved)
        if request.prove and self.log:
            response.log.CopyFrom(self.show(request.seen_size))
        return self._answer("resolve", response)

    def Search(self, request: Any, context: Any) -> Any:  # noqa: N802
        records = [wire.envelope_to_message(each) for each in self.records.values()]
        return self._answer("search", registry_pb2.SearchResponse(records=records, total=len(records)))

    def Publish(self, request_iterator: Any, context: Any) -> Any:  # noqa: N802
        for request in request_iterator:
            digests = [wire.envelope_from_message(each).digest for each in request.envelopes]
            accepted = registry_pb2.PublishOutcome.CODE_ACCEPTED
            yield registry_pb2.PublishResponse(
                outcomes=[registry_pb2.PublishOutcome(digest=each, code=accepted) for each in digests]
            )

    def log_entry(self, entry: Envelope | bytes) -> None:
        """An envelope or a certificate (DER), in the log and to be watched."""
        certificate = entry if isinstance(entry, bytes) else b""
        change = Change(len(self.changes) + 1, None if isinstance(entry, bytes) else entry, certificate)
        self.leaves.append(transparency.leaf_of_change(change))
        self.changes.append(change)

    def Watch(self, request: Any, context: Any) -> Any:  # noqa: N802
        if request.with_certificates:
            for each in self._answer("watch", [each for each in self.changes if each.position > request.after]):
                change = registry_pb2.Change(position=each.position, certificate=each.certificate)
                if each.envelope is not None:
                    change.envelope.CopyFrom(wire.envelope_to_message(each.envelope))
                yield registry_pb2.WatchResponse(changes=[change])
            return
        for position, envelope in enumerate(self.records.values(), 1):
            if position > request.after:
                change = registry_pb2.Change(position=position, envelope=wire.envelope_to_message(envelope))
                yield registry_pb2.WatchResponse(changes=[change])

    def Renew(self, request: Any, context: Any) -> Any:  # noqa: N802
        renewal = wire.decode_renewal(request.renewal.payload)
        issued = tls.issue_member(self.ca_key, self.ca_certificate, renewal.csr, ROOT, renewal.prefix, int(time.time()))
        return registry_pb2.RenewResponse(certificate=issued)

    def _answer(self, method: str, response: Any) -> Any:
        self.calls.append(method)
        return self.lies[method](response) if method in self.lies else response


class SimulatedNode(node_pb2_grpc.NodeServicer):
    """An owner's node. ``lies``: "describe" and "hashes" get and give lists of messages, "fetch" iterators of bytes.

    ``refuse`` is raised instead of an answer; ``cut_after`` ends streams of bytes after so many, as a kill does.
    """

    def __init__(self, owner: Organization) -> None:
        self.owner = owner
        self.lies: dict[str, Lie] = {}
        self.refuse: HanseError | None = None
        self.cut_after: int | None = None
        self.message_bytes = 100_000
        self.calls: list[str] = []
        self.sent_bytes = 0
        self.address = Address("127.0.0.1", 0)
        self.tls_key, self.certificate = owner.tls_key, owner.node_certificate
        self._lock = threading.Lock()
        self._server: grpc.Server | None = None

    def start(self) -> None:
        credentials = grpc.ssl_server_credentials(
            [(self.tls_key.to_pem(), tls.to_pem(self.certificate))],
            tls.to_pem(self.owner.league.ca_certificate),
            require_client_auth=True,
        )
        self._server = grpc.server(
            ThreadPoolExecutor(16),
            options=[("grpc.so_reuseport", 0), ("grpc.max_send_message_length", -1)],
        )
        node_pb2_grpc.add_NodeServicer_to_server(self, self._server)
        self.address = Address("127.0.0.1", self._server.add_secure_port(str(self.address), credentials))
        self._server.start()

    def stop(self) -> None:
        if self._server is not None:
            self._server.stop(0).wait()
            self._server = None

    def find(self, request: Any) -> Version:
        versions = self.owner.objects.get(Identifier.parse(request.id).key, [])
        if self.refuse is not None:
            raise self.refuse
        if len(versions) < max(1, request.version):
            raise NotFound("no such object")
        return versions[request.version - 1]

    def Describe(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        with self._answering("describe", context):
            version = self.find(request)
            messages = [
                node_pb2.DescribeResponse(
                    record=wire.envelope_to_message(version.record_envelope),
                    manifest=wire.envelope_to_message(version.manifest_envelope),
                    salt=version.salt,
                )
            ]
            if not request.no_pages:
                messages += [node_pb2.DescribeResponse(page=page) for page in version.pages[request.first_page :]]
            yield from self.lies.get("describe", iter)(messages)

    def Hashes(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        with self._answering("hashes", context):
            version = self.find(request)
            size = version.elements[request.element].chunk_size
            leaves = b"".join(chunk_hashes(version.contents[request.element], size))
            parts = [leaves[at : at + 3200] for at in range(0, len(leaves), 3200)]
            yield from self.lies.get("hashes", iter)([node_pb2.HashesResponse(hashes=part) for part in parts])

    def Fetch(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        with self._answering("fetch", context):
            version = self.find(request)
            for part in self.lies.get("fetch", iter)(self._parts(version, request.spans)):
                with self._lock:
                    self.sent_bytes += len(part)
                    if self.cut_after is not None:
                        self.cut_after -= len(part)
                        if self.cut_after < 0:
                            context.abort(grpc.StatusCode.UNAVAILABLE, "killed")
                yield node_pb2.FetchResponse(data=part)

    def _parts(self, version: Version, spans: Any) -> Iterator[bytes]:
        waiting = bytearray()
        for span in spans:
            size = version.elements[span.element].chunk_size
            if span.elements:
                pieces = version.contents[span.element : span.element + span.elements]
            else:
                pieces = [version.contents[span.element][span.first_chunk * size :][: span.chunks * size]]
            for piece in pieces:
                waiting += piece
                while len(waiting) >= self.message_bytes:
                    yield bytes(waiting[: self.message_bytes])
                    del waiting[: self.message_bytes]
        if waiting:
            yield bytes(waiting)

    @contextlib.contextmanager
    def _answering(self, method: str, context: Any) -> Iterator[None]:
        self.calls.append(method)
        try:
            yield
        except HanseError as error:
            status.abort(context, error)


def raw_page(first: int, *elements: dict[str, Any]) -> bytes:
    """A page with any content, also such as no model can hold."""
    page = manifest_pb2.ManifestPage(first_element=first)
    for each in elements:
        page.elements.add(**each)
    return page.SerializeToString()
