"""Where a registry is put together: its home, what the commands do, and the daemon. The only place that wires.

init(folder, "Data league", Prefix.parse("86"))
serve(folder, ready=print)
"""

import asyncio
import gc
import secrets
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import structlog

from hanse import limits, transparency, wire
from hanse.errors import Conflict, HanseError, HomeUnusable
from hanse.files import storage_errors, write_durably
from hanse.home import Home
from hanse.model.address import Address
from hanse.model.identifier import Prefix
from hanse.model.invitation import Invitation
from hanse.model.organization import Authority, Member
from hanse.rpc import server as rpc_server
from hanse.rpc import tls
from hanse.signing import SigningKey
from registry import config as settings
from registry.config import Config
from registry.joining import Issuer, Membership
from registry.log import Log
from registry.members import Statements
from registry.passes import Passes
from registry.storage.base import Figures, Storage
from registry.storage.sqlite import SqliteStorage

_log = structlog.get_logger()

REGISTRY_KEY = "keys/registry.pem"
CA_KEY = "keys/ca.pem"
TLS_KEY = "keys/tls.pem"
CA_CERTIFICATE = "ca.crt"
AUTHORITY = "authority.bin"
DATABASE = "registry.db"
_REMEDY = "`hanse-registry init --home {0}` makes a registry there"
_GRACE = 5.0  # seconds for calls that run when the daemon ends
_LOOK = 0.25  # seconds between looks at what other processes committed
_SYSTEM_PORTS = range(20_000, 32_000)  # below those that outgoing connections get

Clock = Callable[[], float]


@dataclass
class Registry:
    """An opened home. Closed by ``close``."""

    home: Home
    config: Config
    clock: Clock

    @cached_property
    def authority_bytes(self) -> bytes:
        path = self.home / AUTHORITY
        with storage_errors(str(path)):
            if not path.exists():
                raise HomeUnusable(f"{path} is missing: restore it from your backup")
            return path.read_bytes()

    @cached_property
    def authority(self) -> Authority:
        return wire.decode_authority(self.authority_bytes)

    @cached_property
    def storage(self) -> Storage:
        return SqliteStorage(self.home / DATABASE)

    @cached_property
    def registries(self) -> tuple[Address, ...]:
        """What members dial."""
        return self.config.advertised(self.port)

    @property
    def port(self) -> int:
        """The configured port, or the free one that was chosen instead of 0 and is kept from then on."""
        return self.config.listen.port or int(self.storage.recall("port") or 0)

    @cached_property
    def statements(self) -> Statements:
        key = SigningKey.from_pem(self.home.read_secret(REGISTRY_KEY))
        if key.public != self.authority.registry_key:
            raise HomeUnusable(f"{self.home / REGISTRY_KEY} is not the key of this league: restore it from your backup")
        return Statements(key, self.authority, self.registries, self.clock)

    @cached_property
    def issuer(self) -> Issuer:
        return Issuer(tls.TlsKey.from_pem(self.home.read_secret(CA_KEY)), self.authority)

    @cached_property
    def membership(self) -> Membership:
        return Membership(self.storage, self.issuer, self.statements, self.clock)

    def close(self) -> None:
        if "storage" in self.__dict__:
            self.storage.close()


@contextmanager
def opened(folder: Path, clock: Clock = time.time) -> Iterator[Registry]:
    """Raises HomeUnusable, with the way out."""
    home = Home.open(folder, settings.MARKER, _REMEDY.format(folder))
    registry = Registry(home, settings.load(home / settings.MARKER), clock)
    try:
        yield registry
    finally:
        registry.close()


def init(
    folder: Path,
    name: str,
    root: Prefix,
    listen: Address | None = None,
    advertise: tuple[Address, ...] = (),
    clock: Clock = time.time,
) -> Config:
    """A new registry: keys, certificate authority, database. Raises HomeInUse, HomeUnusable, NoSpace."""
    config = Config(name or f"Hanse {root}", root, listen or settings.DEFAULT_LISTEN, advertise)
    home = Home.create(folder, settings.MARKER)
    now = int(clock())
    ca_key, signing_key = tls.TlsKey.generate(), SigningKey.generate()
    certificate = tls.make_authority(ca_key, root, now)
    home.write_secret(REGISTRY_KEY, signing_key.to_pem())
    home.write_secret(CA_KEY, ca_key.to_pem())
    home.write_secret(TLS_KEY, tls.TlsKey.generate().to_pem())
    write_durably(home / CA_CERTIFICATE, tls.to_pem(certificate), 0o644)
    write_durably(home / AUTHORITY, wire.encode_authority(root, config.name, certificate, signing_key.public), 0o644)
    (home / DATABASE).unlink(missing_ok=True)  # of an init that was interrupted
    storage = SqliteStorage(home / DATABASE)
    try:
        with storage.writing() as writing:
            writing.remember("page_secret", secrets.token_hex(32))
            if not config.listen.port:
                writing.remember("port", str(_free_port(config.listen)))
    finally:
        storage.close()
    # Last: a home with this file is complete.
    write_durably(home / settings.MARKER, config.to_toml().encode())
    return config


def _free_port(listen: Address) -> int:
    """A port that nobody has now, kept for good: members find the registry there after a restart."""
    family = socket.AF_INET6 if ":" in listen.host else socket.AF_INET
    for _ in range(100):
        port = secrets.choice(_SYSTEM_PORTS)
        with socket.socket(family) as probe:
            try:
                probe.bind((listen.host, port))
            except OSError:
                continue
            return port
    raise Conflict(f"no free port was found at {listen.host}: give one with --listen")


def invite(
    folder: Path, prefix: Prefix, name: str = "", valid: int = limits.INVITATION_LIFE, clock: Clock = time.time
) -> str:
    """The text to paste. Raises InvalidInput, AlreadyExists."""
    with opened(folder, clock) as registry:
        invitation: Invitation = registry.membership.invite(
            prefix, name, valid, registry.registries, secrets.token_bytes(16)
        )
        return wire.invitation_to_text(invitation)


def orgs(folder: Path) -> list[Member]:
    """All members, in the order of their prefixes."""
    with opened(folder) as registry:
        return registry.storage.membership()[1]


def suspend(folder: Path, prefix: Prefix, reason: str = "", clock: Clock = time.time) -> bool:
    """Whether it was not suspended before. Raises NotFound."""
    with opened(folder, clock) as registry:
        return registry.membership.suspend(prefix, reason)


def restore(folder: Path, prefix: Prefix, clock: Clock = time.time) -> bool:
    """Whether it was suspended before. Raises NotFound."""
    with opened(folder, clock) as registry:
        return registry.membership.restore(prefix)


@dataclass(frozen=True)
class Status:
    """What `status` tells. ``fingerprint`` is the league's, 32 bytes; ``log_key`` is for verifiers of C2SP notes."""

    config: Config
    registries: tuple[Address, ...]
    fingerprint: bytes
    serving: bool
    members: int
    suspended: int
    figures: Figures
    log_key: str


def status(folder: Path) -> Status:
    """Of a registry that runs or not."""
    with opened(folder) as registry:
        _, listed = registry.storage.membership()
        return Status(
            registry.config,
            registry.registries,
            registry.authority.fingerprint,
            _answers(registry.config.listen, registry.port),
            len(listed),
            sum(member.suspended_at is not None for member in listed),
            registry.storage.figures(),
            transparency.verifier_key(registry.authority),
        )


def _answers(listen: Address, port: int) -> bool:
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def check(folder: Path) -> list[str]:
    """Every problem found: keys, authority, the database, the chain of every member."""
    from registry.checking import chain_problems

    with opened(folder) as registry:
        problems = []
        for name in (CA_KEY, REGISTRY_KEY, TLS_KEY):
            try:
                registry.home.read_secret(name)
            except HanseError as error:
                problems.append(str(error))
        try:
            registry.statements  # noqa: B018 — opened to see whether it opens
            tls.read_certificate(registry.authority.ca_certificate)
        except HanseError as error:
            problems.append(str(error))
        problems += registry.storage.problems()
        problems += chain_problems(registry.storage, int(registry.clock()))
        return list(dict.fromkeys(problems))


def serve(
    folder: Path,
    ready: Callable[[Address], None],
    clock: Clock = time.time,
    ended: threading.Event | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT, or until ``ended`` is set. ``ready`` is told the address.

    Raises HomeInUse, HomeUnusable, Conflict.
    """
    with opened(folder, clock) as registry, registry.home.lock("hanse-registry serve"):
        asyncio.run(_serve(registry, ready, ended or threading.Event()))


async def _serve(registry: Registry, ready: Callable[[Address], None], stop: threading.Event) -> None:
    import grpc
    from grpc_health.v1 import health, health_pb2, health_pb2_grpc

    from registry.calls import SERVICE, Calls
    from registry.service import Service
    from registry.tiles import Tiles

    config, home, storage = registry.config, registry.home, registry.storage
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for each in (signal.SIGTERM, signal.SIGINT):
        try:
            loop.add_signal_handler(each, ended.set)
        except (ValueError, RuntimeError):  # not in the main thread: whoever started it ends it
            break
    server = grpc.aio.server(
        options=(
            *rpc_server.OPTIONS,
            # Of strangers too: a message is received before the pass that came with it is looked at.
            ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
            ("grpc.max_send_message_length", limits.MEMBERSHIP_BYTES),
        )
    )
    address = _bind(server, registry)
    passes = Passes(registry.authority.fingerprint, registry.clock, config.calls_per_second, config.calls_burst)
    log = Log(storage, registry.statements.key, registry.authority, registry.clock)
    service = Service(
        config,
        registry.authority_bytes,
        storage,
        registry.membership,
        registry.statements,
        passes,
        registry.clock,
        bytes.fromhex(storage.recall("page_secret") or secrets.token_hex(32)),
        log,
        registry.registries,
    )
    calls = Calls(service, passes)
    server.add_generic_rpc_handlers((calls.handler(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for name in ("", SERVICE.full_name):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    with ExitStack() as stack:
        if config.reflection:
            _reflect(server, (SERVICE.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
        if config.metrics is not None:
            from registry.observe import start_metrics

            stack.callback(start_metrics(config.metrics, calls, storage))
        served = Tiles(log, public_entries=config.public_entries)
        if config.tiles is not None:
            await served.start(config.tiles)
        await server.start()
        # What lives now lives to the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        _log.info("serve.started", address=str(address), members=len(service.league.standings), home=str(home.folder))
        ready(address)
        while not (ended.is_set() or stop.is_set()):
            try:
                await asyncio.wait_for(ended.wait(), _LOOK)
            except TimeoutError:
                _look(service)
        _log.info("serve.ending")
        await healthy.enter_graceful_shutdown()
        await service.drain()
        await served.stop()
        await server.stop(_GRACE)
        await service.close()
    _log.info("serve.ended")


def _look(service: "object") -> None:
    try:
        service.look()  # type: ignore[attr-defined]
    except HanseError as error:
        _log.error("storage.failed", reason=error.reason, text=str(error))


def _bind(server: "object", registry: Registry) -> Address:
    import grpc

    config, authority = registry.config, registry.authority
    tls_key = tls.TlsKey.from_pem(registry.home.read_secret(TLS_KEY))
    certificate = tls.issue_registry(
        registry.issuer.key, authority.ca_certificate, tls_key, authority.root, int(registry.clock())
    )
    credentials = grpc.ssl_server_credentials([(tls_key.to_pem(), tls.to_pem(certificate, authority.ca_certificate))])

    def add_port(text: str) -> int:
        return int(server.add_secure_port(text, credentials))  # type: ignore[attr-defined]

    wanted = Address(config.listen.host, registry.port)
    try:
        address = rpc_server.bind(add_port, wanted)
    except Conflict:
        if config.listen.port:
            raise
        # The port that was kept is somebody else's now.
        address = rpc_server.bind(add_port, Address(config.listen.host, _free_port(config.listen)))
        _log.warning("serve.moved", before=str(wanted), now=str(address))
    if not config.listen.port and address.port != registry.port:
        with registry.storage.writing() as writing:
            writing.remember("port", str(address.port))
    return address


def _reflect(server: "object", names: tuple[str, ...]) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError:
        raise HomeUnusable(
            "reflection needs the extra: pip install 'hanse[reflection]', or remove `reflection`"
        ) from None
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
