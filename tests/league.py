"""A league to test against: a registry in this process, and members that talk to it with hanse.signing and raw stubs.

    with Registry.start(tmp_path / "registry") as registry:
        north = registry.join("86.north")
        north.publish(north.record("x1", title="Trial"))
        north.resolve("86.north/x1")

What it is not: the client under test (hanse.client). Members here verify nothing; they only speak the protocol.
"""

import contextlib
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import grpc

from hanse import wire
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.envelope import Envelope, PayloadType
from hanse.model.identifier import Identifier, Prefix
from hanse.model.invitation import Invitation
from hanse.model.organization import IdentityKey, NodeEndpoint, OrganizationRecord, Pass
from hanse.model.record import Access, AccessMode, Metadata, ObjectRecord, Status, Summary
from hanse.rpc import status, tls
from hanse.rpc.channel import dial
from hanse.signing import SigningKey, sign
from hanse.v1 import registry_pb2, registry_pb2_grpc
from registry import app

LOCAL = Address("127.0.0.1", 0)


@dataclass
class Registry:
    """A running registry. ``stop`` and ``serve`` again keep home and port."""

    folder: Path
    address: Address = LOCAL
    clock: Callable[[], float] = time.time
    _ended: "threading.Event" = field(default_factory=threading.Event)
    _thread: threading.Thread | None = None
    _failed: list[BaseException] = field(default_factory=list)

    @classmethod
    @contextlib.contextmanager
    def start(
        cls, folder: Path, *, root: str = "86", settings: str = "", clock: Callable[[], float] = time.time
    ) -> Iterator["Registry"]:
        """A new registry with ``settings`` appended to its registry.toml; stopped at the end of the block."""
        app.init(folder, "Test league", Prefix.parse(root), LOCAL, clock=clock)
        with (folder / "registry.toml").open("a") as file:
            file.write(settings)
        registry = cls(folder, clock=clock)
        registry.serve()
        try:
            yield registry
        finally:
            registry.stop()

    def serve(self) -> None:
        """Returns when it is ready. Raises what serve raised."""
        ready = threading.Event()
        self._ended = threading.Event()
        self._failed.clear()

        def told(address: Address) -> None:
            self.address = address
            ready.set()

        def run() -> None:
            try:
                app.serve(self.folder, told, clock=self.clock, ended=self._ended)
            except BaseException as error:  # noqa: BLE001
                self._failed.append(error)
                ready.set()

        self._thread = threading.Thread(target=run, name="registry", daemon=True)
        self._thread.start()
        assert ready.wait(90), "the registry did not start"
        if self._failed:
            raise self._failed[0]

    def stop(self) -> None:
        """Gracefully, as SIGTERM does."""
        self._ended.set()
        if self._thread is not None:
            self._thread.join(60)
            assert not self._thread.is_alive(), "the registry did not stop"
            self._thread = None

    def invite(self, prefix: str, valid: int = 3600) -> str:
        """The text to paste."""
        return app.invite(self.folder, Prefix.parse(prefix), "", valid, self.clock)

    def dial(self) -> grpc.Channel:
        """A channel that trusts the league's authority."""
        with app.opened(self.folder) as opened:
            roots = tls.to_pem(opened.authority.ca_certificate)
            name = tls.registry_name(opened.authority.root)
        return dial(self.address, roots=roots, server_name=name, max_message=16 << 20)

    def join(self, prefix: str, *, node: str = "127.0.0.1:1") -> "Member":
        """A new member with keys of its own."""
        member = Member.make(self, prefix, node=node)
        member.join(self.invite(prefix))
        return member


@dataclass
class Member:
    """One organization: keys, record, and a stub with its pass."""

    registry: Registry
    prefix: Prefix
    key: SigningKey
    tls_key: tls.TlsKey
    node_certificate: bytes
    organization: OrganizationRecord
    organization_envelope: Envelope
    channel: grpc.Channel
    league: bytes = b""
    certificate: bytes = b""

    @classmethod
    def make(cls, registry: Registry, prefix: str, *, node: str = "127.0.0.1:1") -> "Member":
        """Not yet joined."""
        parsed, now = Prefix.parse(prefix), int(registry.clock())
        key, tls_key = SigningKey.generate(), tls.TlsKey.generate()
        certificate = tls.make_node_certificate(tls_key, Prefix(parsed.text.split(".")[0]), parsed, now)
        organization = OrganizationRecord(
            parsed,
            1,
            b"",
            f"Organization {prefix}",
            "",
            (IdentityKey(key.public, now),),
            (NodeEndpoint(Address.parse(node) if node else None, certificate),),
            now,
        )
        envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(organization), key)
        return cls(registry, parsed, key, tls_key, certificate, organization, envelope, registry.dial())

    @property
    def stub(self) -> registry_pb2_grpc.RegistryStub:
        return registry_pb2_grpc.RegistryStub(self.channel)

    def join(self, invitation: str | Invitation) -> bytes:
        """The certificate, DER. Raises the registry's error."""
        told = wire.invitation_from_text(invitation) if isinstance(invitation, str) else invitation
        self.league = told.league
        request = registry_pb2.JoinRequest(
            secret=told.secret,
            organization=wire.envelope_to_message(self.organization_envelope),
            csr=tls.make_request(self.tls_key, self.prefix),
        )
        with raised():
            self.certificate = self.stub.Join(request, timeout=60).certificate
        return self.certificate

    def sign_pass(self, *, now: int | None = None, life: int = 600, key: SigningKey | None = None) -> Envelope:
        """A pass of this member, or one that is wrong in some way."""
        issued = int(self.registry.clock()) if now is None else now
        statement = Pass(self.prefix, self.league, issued, issued + life)
        return sign(PayloadType.PASS, wire.encode_pass(statement), key or self.key)

    @property
    def metadata(self) -> tuple[tuple[str, bytes], ...]:
        """What every call carries."""
        return (("hanse-pass-bin", wire.encode_envelope(self.sign_pass())),)

    def record(
        self,
        suffix: str,
        version: int = 1,
        previous: Envelope | None = None,
        *,
        withdrawn: bool = False,
        title: str = "",
        description: str = "",
        subjects: Sequence[str] = (),
        creators: Sequence[str] = (),
        media_types: Sequence[str] = (),
        type: str = "Dataset",
        access: AccessMode = AccessMode.OPEN,
        prefix: str = "",
        issued_at: int | None = None,
        key: SigningKey | None = None,
    ) -> Envelope:
        """A signed version of an object."""
        found = ObjectRecord(
            id=Identifier.parse(f"{prefix or self.prefix}/{suffix}"),
            version=version,
            previous=previous.digest if previous else b"",
            type=type,
            status=Status.WITHDRAWN if withdrawn else Status.ACTIVE,
            metadata=Metadata(title=title, description=description, subjects=tuple(subjects), creators=tuple(creators)),
            summary=Summary(1, 100, tuple(media_types)),
            access=Access(access),
            operations=("describe", "fetch"),
            commitment=bytes(32),
            issued_at=int(self.registry.clock()) if issued_at is None else issued_at,
            time_to_live=300,
        )
        return sign(PayloadType.RECORD, wire.encode_record(found), key or self.key)

    def next_organization(self, *, key: SigningKey | None = None, name: str = "") -> Envelope:
        """The next version of the own record; with a ``key``, a rotation to it. Not yet published."""
        before, now = self.organization, int(self.registry.clock())
        keys = before.keys
        if key is not None:
            current = keys[0]
            retired = IdentityKey(current.public_key, current.valid_from, now)
            keys = (IdentityKey(key.public, now), retired, *keys[1:])
        record = OrganizationRecord(
            self.prefix,
            before.version + 1,
            self.organization_envelope.digest,
            name or before.display_name,
            before.contact,
            keys,
            before.nodes,
            now,
        )
        signers = (key, self.key) if key is not None else (self.key,)
        envelope = sign(PayloadType.ORGANIZATION, wire.encode_organization(record), *signers)
        self.organization, self.organization_envelope = record, envelope
        return envelope

    def publish(self, *envelopes: Envelope) -> list[registry_pb2.PublishOutcome]:
        """One message; the outcomes."""
        return self.publish_messages([envelopes])

    def publish_messages(self, messages: Iterable[Sequence[Envelope]]) -> list[registry_pb2.PublishOutcome]:
        """A stream of messages; all outcomes in order."""
        requests = (
            registry_pb2.PublishRequest(envelopes=[wire.envelope_to_message(each) for each in message])
            for message in messages
        )
        with raised():
            answers = self.stub.Publish(requests, metadata=self.metadata, timeout=60)
            return [outcome for answer in answers for outcome in answer.outcomes]

    def resolve(self, *ids: str, with_organization: bool = False) -> registry_pb2.ResolveResponse:
        request = registry_pb2.ResolveRequest(ids=ids, with_organization=with_organization)
        with raised():
            return self.stub.Resolve(request, metadata=self.metadata, timeout=60)

    def search(self, text: str = "", **filters: object) -> registry_pb2.SearchResponse:
        request = registry_pb2.SearchRequest(text=text, **filters)  # type: ignore[arg-type]
        with raised():
            return self.stub.Search(request, metadata=self.metadata, timeout=60)

    def membership(self, known: bytes = b"") -> registry_pb2.GetMembershipResponse:
        request = registry_pb2.GetMembershipRequest(known_members_sha256=known)
        with raised():
            return self.stub.GetMembership(request, metadata=self.metadata, timeout=60)

    def home(self, folder: Path, invitation: str) -> Home:
        """Writes what `hanse join` would have: a home that hanse.client.identity loads."""
        from hanse.client import identity

        home = Home.create(folder, identity.MARKER)
        home.write_secret(identity.IDENTITY_KEY, self.key.to_pem())
        home.write_secret(identity.TLS_KEY, self.tls_key.to_pem())
        (home / identity.NODE_CERTIFICATE).write_bytes(tls.to_pem(self.node_certificate))
        (home / identity.MEMBER_CERTIFICATE).write_bytes(tls.to_pem(self.certificate))
        with app.opened(self.registry.folder) as opened:
            authority = opened.authority_bytes
        told = wire.invitation_from_text(invitation)
        identity.write_league(home, self.prefix, authority, told.registries)
        return home


@contextlib.contextmanager
def raised() -> Iterator[None]:
    """The registry's error as one of ours."""
    try:
        yield
    except grpc.RpcError as error:
        raise status.from_rpc(error, "the registry") from None


def eventually(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Waits until the condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it did not come true in time"
        time.sleep(0.02)
