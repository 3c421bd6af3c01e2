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
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import structlog

from hanse import limits, transparency, wire
from hanse.errors import AlreadyExists, Conflict, HanseError, HomeUnusable, NotFound
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
from registry import mirroring
from registry.config import Config
from registry.joining import Issuer, Membership
from registry.log import Log
from registry.members import Statements
from registry.passes import Passes
from registry.ports import free_port
from registry.progress import beat
from registry.storage.base import Figures, Storage, Writing, transact
from registry.storage.sqlite import SqliteStorage
from registry.store import DATABASE, Store, open_storage
from registry.usage import Limits, Usage
from registry.witnesses import State, Witnesses, look
from registry.workers import SILENCE, Place, Plan, held, supervise

_log = structlog.get_logger()

REGISTRY_KEY = "keys/registry.pem"
CA_KEY = "keys/ca.pem"
TLS_KEY = "keys/tls.pem"
CA_CERTIFICATE = "ca.crt"
AUTHORITY = "authority.bin"
_REMEDY = "`hanse-registry init --home {0}` makes a registry there"
LEAGUE = "league"  # under which a store remembers whose it is
_ANNOUNCED = "registries"  # names in the store
_CERTIFICATE = "server_certificate"
_YEAR = 365 * 24 * limits.HOUR
_GRACE = 5.0  # seconds for calls that run when the daemon ends
_LOOK = 0.25  # seconds between looks at what other processes committed
_NEARLY = 0.9  # of a limit: time to talk to the member

Clock = Callable[[], float]


@dataclass
class Registry:
    """An opened home. Closed by ``close``."""

    home: Home
    config: Config
    clock: Clock
    is_mirror: bool = False
    in_file: bool = False  # whatever the settings say: a copy that is tried out

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
        path = self.home / DATABASE
        storage = SqliteStorage(path) if self.in_file else open_storage(self.home.folder, self.config.store)
        league = storage.recall(LEAGUE)
        if league is not None and league != self.authority.fingerprint.hex():
            storage.close()
            raise HomeUnusable(f"{self.home.folder} and its database are of two leagues: check `store`")
        return storage

    @cached_property
    def registries(self) -> tuple[Address, ...]:
        """What members dial, by the settings of this home."""
        return self.config.advertised(self.port)

    def announced(self) -> tuple[Address, ...]:
        """What members are told to dial: by whichever process that serves from this store was started last.

        Processes with different settings would otherwise sign different lists, in turns.
        """
        told = self.storage.recall(_ANNOUNCED)
        return tuple(Address.parse(each) for each in told.split()) if told else self.registries

    def announce(self) -> None:
        """Has members told of the addresses in this home's settings."""
        now = " ".join(map(str, self.registries))
        before = self.storage.recall(_ANNOUNCED)
        if now == before:
            return
        if before:
            _log.warning("serve.addresses", before=before, now=now)
        transact(self.storage, lambda writing: writing.remember(_ANNOUNCED, now))

    @property
    def port(self) -> int:
        """The configured port, or the free one that was chosen instead of 0 and is kept from then on."""
        return self.config.listen.port or int(self.storage.recall("port") or 0)

    @cached_property
    def statements(self) -> Statements:
        if self.is_mirror:
            raise HomeUnusable(f"{self.home.folder} is a mirror's home: do this where the registry is")
        key = SigningKey.from_pem(self.home.read_secret(REGISTRY_KEY))
        if key.public != self.authority.registry_key:
            raise HomeUnusable(f"{self.home / REGISTRY_KEY} is not the key of this league: restore it from your backup")
        return Statements(key, self.authority, self.announced, self.clock)

    @cached_property
    def issuer(self) -> Issuer:
        return Issuer(tls.TlsKey.from_pem(self.home.read_secret(CA_KEY)), self.authority)

    @cached_property
    def membership(self) -> Membership:
        return Membership(self.storage, self.issuer, self.statements, self.clock)

    def close(self) -> None:
        opened: Storage | None = self.__dict__.pop("storage", None)
        if opened is not None:
            opened.close()


@contextmanager
def opened(folder: Path, clock: Clock = time.time, *, in_file: bool = False) -> Iterator[Registry]:
    """Raises HomeUnusable, with the way out."""
    marker = mirroring.MARKER if mirroring.is_mirror(folder) else settings.MARKER
    home = Home.open(folder, marker, _REMEDY.format(folder))
    registry = Registry(
        home, settings.load(home / marker), clock, is_mirror=marker == mirroring.MARKER, in_file=in_file
    )
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
    store: Store | None = None,
) -> Config:
    """A new registry: keys, certificate authority, database.

    Raises HomeInUse, HomeUnusable, NoSpace; AlreadyExists when the store has a registry.
    """
    config = Config(name or f"Hanse {root}", root, listen or settings.DEFAULT_LISTEN, advertise, store)
    if Store.chosen(store) is not None:
        refuse_used(folder, store)  # before anything is made
    home = Home.create(folder, settings.MARKER)
    now = int(clock())
    ca_key, signing_key = tls.TlsKey.generate(), SigningKey.generate()
    certificate = tls.make_authority(ca_key, root, now)
    home.write_secret(REGISTRY_KEY, signing_key.to_pem())
    home.write_secret(CA_KEY, ca_key.to_pem())
    home.write_secret(TLS_KEY, tls.TlsKey.generate().to_pem())
    furnish(home, config, wire.encode_authority(root, config.name, certificate, signing_key.public)).close()
    # Last: a home with this file is complete.
    write_durably(home / settings.MARKER, config.to_toml().encode())
    return config


def furnish(home: Home, config: Config, authority: bytes) -> Storage:
    """What a home has beside keys and settings; its store, which is empty, is opened."""
    certificate = wire.decode_authority(authority).ca_certificate
    write_durably(home / CA_CERTIFICATE, tls.to_pem(certificate), 0o644)
    write_durably(home / AUTHORITY, authority, 0o644)
    (home / DATABASE).unlink(missing_ok=True)  # of an init that was interrupted
    port = config.listen.port or free_port(config.listen)

    def begin(writing: Writing) -> None:
        writing.remember(LEAGUE, wire.decode_authority(authority).fingerprint.hex())
        writing.remember("page_secret", secrets.token_hex(32))
        if not config.listen.port:
            writing.remember("port", str(port))

    storage = open_storage(home.folder, config.store)
    try:
        transact(storage, begin)
    except BaseException:
        storage.close()
        raise
    return storage


def reach(storage: Storage, config: Config, told: tuple[Address, ...]) -> None:
    """A registry that comes back is told of, and found, where its members were told that it is."""

    def remember(writing: Writing) -> None:
        writing.remember(_ANNOUNCED, " ".join(map(str, told)))
        if not config.listen.port:
            writing.remember("port", str(told[0].port))

    transact(storage, remember)


def refuse_used(folder: Path, store: Store | None) -> None:
    """That of an init that was interrupted is taken over: nothing is in it."""
    storage = open_storage(folder, store)
    try:
        if storage.last_position():
            raise AlreadyExists("a registry is in this database already: a new one needs an empty one")
    finally:
        storage.close()


def invite(
    folder: Path,
    prefix: Prefix,
    name: str = "",
    valid: int = limits.INVITATION_LIFE,
    clock: Clock = time.time,
    *,
    mirror: bool = False,
) -> str:
    """The text to paste. Raises InvalidInput, AlreadyExists."""
    with opened(folder, clock) as registry:
        invitation: Invitation = registry.membership.invite(
            prefix, name, valid, registry.registries, secrets.token_bytes(16), mirror=mirror
        )
        return wire.invitation_to_text(invitation)


def orgs(folder: Path) -> list[Member]:
    """All members, in the order of their prefixes."""
    with opened(folder) as registry:
        return registry.storage.membership()[1]


@dataclass(frozen=True)
class Space:
    """What an organization has, and what it may: every limit has a value."""

    used: Usage
    allowed: Limits

    @property
    def full(self) -> float:
        """How much of its space it has, of whichever limit is nearer: 1.0 is all."""
        parts = ((self.used.objects, self.allowed.records or 0), (self.used.bytes, self.allowed.bytes or 0))
        return max((1.0 if not most else used / most) for used, most in parts)


def spaces(folder: Path) -> dict[Prefix, Space]:
    """Of every member."""
    with opened(folder) as registry:
        return _spaces(registry, registry.storage.membership()[1])


def _spaces(registry: Registry, members: list[Member]) -> dict[Prefix, Space]:
    found = registry.storage.usages()
    return {each.prefix: _space(registry, found.get(each.prefix, Usage()), each.prefix) for each in members}


def _space(registry: Registry, used: Usage, prefix: Prefix) -> Space:
    return Space(used, registry.config.allowed(prefix, used.limits))


def limit(folder: Path, prefix: Prefix, told: Limits, *, forget: bool = False) -> Space:
    """Sets what ``told`` says, at once and for every process; ``forget`` drops what was set before. Raises NotFound."""
    with opened(folder) as registry:
        if prefix not in {each.prefix for each in registry.storage.membership()[1]}:
            raise NotFound(f"{prefix} is not a member: `hanse-registry orgs` lists all")

        def change(writing: Writing) -> Usage:
            used = writing.usage(prefix)
            wanted = told.over(Limits() if forget else used.limits)
            if wanted != used.limits:
                writing.put_limits(prefix, wanted)
            return replace(used, limits=wanted)

        return _space(registry, transact(registry.storage, change), prefix)


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
    """What `status` tells. ``fingerprint`` is the league's, 32 bytes; ``log_key`` is for verifiers of C2SP notes.

    ``nearly_full``: members that have used nine tenths of a limit of space, or more. ``witnesses`` were asked just now.
    """

    config: Config
    registries: tuple[Address, ...]
    fingerprint: bytes
    serving: bool
    members: int
    suspended: int
    figures: Figures
    log_key: str
    record_bytes: int
    nearly_full: tuple[Prefix, ...]
    witnesses: tuple[State, ...]


def status(folder: Path) -> Status:
    """Of a registry that runs or not."""
    with opened(folder) as registry:
        _, listed = registry.storage.membership()
        spaces = _spaces(registry, listed)
        return Status(
            registry.config,
            registry.registries,
            registry.authority.fingerprint,
            answers(registry.config.listen, registry.port),
            len(listed),
            sum(member.suspended_at is not None for member in listed),
            registry.storage.figures(),
            transparency.verifier_key(registry.authority),
            sum(each.used.bytes for each in spaces.values()),
            tuple(prefix for prefix, space in spaces.items() if space.full >= _NEARLY),
            _witnesses(registry),
        )


def probe(folder: Path) -> None:
    """Raises Unreachable unless the registry of this home serves on this machine."""
    from registry import probing

    with opened(folder) as registry:
        root = registry.authority.root
        roots = tls.to_pem(registry.authority.ca_certificate)
        address = Address(registry.config.listen.host, registry.port)
    probing.probe(address, roots=roots, server_name=tls.registry_name(root))


def _witnesses(registry: Registry) -> tuple[State, ...]:
    if not registry.config.witnesses:
        return ()
    log = Log(registry.storage, registry.statements.key, registry.authority, registry.clock)
    return look(registry.config.witnesses, log)


def answers(listen: Address, port: int) -> bool:
    """Whether anybody listens there."""
    host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(listen.host, listen.host)  # noqa: S104
    try:
        socket.create_connection((host, port), timeout=1).close()
    except OSError:
        return False
    return True


def check(folder: Path, *, deep: bool = False, repair: bool = False, in_file: bool = False) -> list[str]:
    """Every problem found: keys, authority, the database, the log and all that is stored beside it.

    ``deep`` verifies every signature; ``repair`` makes the search index anew before it looks; ``in_file`` looks into
    the home's file, whatever store its settings name.
    """
    from registry import checking

    with opened(folder, in_file=in_file) as registry:
        if repair:
            checking.reindex(registry.storage)
        problems = []
        for name in (TLS_KEY,) if registry.is_mirror else (CA_KEY, REGISTRY_KEY, TLS_KEY):
            try:
                registry.home.read_secret(name)
            except HanseError as error:
                problems.append(str(error))
        named = registry.registries if registry.is_mirror else registry.announced()
        try:
            if registry.is_mirror:
                from registry.mirroring.home import named as told_registries

                named = told_registries(registry.home)
            else:
                registry.statements  # noqa: B018 — opened to see whether it opens
            tls.read_certificate(registry.authority.ca_certificate)
        except HanseError as error:
            problems.append(str(error))
        problems += checking.problems(registry.storage, registry.authority, named, int(registry.clock()), deep=deep)
        return list(dict.fromkeys(problems))


def serve(
    folder: Path,
    ready: Callable[[Address], None],
    clock: Clock = time.time,
    ended: threading.Event | None = None,
    workers: int = 1,
    *,
    debug: bool = False,
    silence: int = SILENCE,
) -> None:
    """Runs until SIGTERM or SIGINT, or until ``ended`` is set. ``ready`` is told the address.

    With several ``workers`` this process serves nobody itself, and ends one that hangs for ``silence`` seconds: see
    registry.workers.
    Raises HomeInUse, HomeUnusable, Conflict.
    """
    stop = ended or threading.Event()
    with ExitStack() as stack:
        registry = stack.enter_context(opened(folder, clock))
        stack.enter_context(registry.home.lock("hanse-registry serve"))
        _renew_index(registry.storage)
        if workers == 1:
            asyncio.run(_serve(registry, ready, stop))
            return
        if Store.chosen(registry.config.store) is None:
            raise HomeUnusable(
                "several workers need a store in PostgreSQL: `hanse-registry migrate-store postgresql://…` moves this "
                "registry there. For a file one process is enough"
            )
        plan = replace(_plan(registry, workers, stack, debug=debug), silence=silence)
        _server_certificate(registry, tls.TlsKey.from_pem(registry.home.read_secret(TLS_KEY)))
        registry.announce()
        registry.statements.catch_up(registry.storage)
        registry.close()  # the workers have their own
        asyncio.run(supervise(plan, lambda: ready(plan.address), stop))


def serve_place(folder: Path, place: Place, ready: Callable[[], None], alive: Callable[[], None]) -> None:
    """One of several workers, which says so while it is ``alive``. The lock of the home is its supervisor's."""
    with opened(folder) as registry:
        asyncio.run(_serve(registry, lambda _: ready(), threading.Event(), place, alive))


def _plan(registry: Registry, workers: int, stack: ExitStack, *, debug: bool) -> Plan:
    """Takes the ports, until the stack ends. Raises Conflict, HomeUnusable."""
    tiles = registry.config.tiles

    def hold(address: Address) -> Address:
        stack.enter_context(held(address))
        return address

    address = _settle(registry, hold)
    if tiles is not None:
        tiles = hold(tiles if tiles.port else Address(tiles.host, free_port(tiles)))
    return Plan(registry.home.folder, workers, address, tiles, debug)


def _renew_index(storage: Storage) -> None:
    from registry import checking

    if checking.is_outdated(storage):
        _log.info("index.renewing")
        _log.info("index.renewed", objects=checking.reindex(storage))


async def _serve(
    registry: Registry,
    ready: Callable[[Address], None],
    stop: threading.Event,
    place: Place | None = None,
    alive: Callable[[], None] = lambda: None,
) -> None:
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
            *(rpc_server.SHARING if place else rpc_server.OPTIONS),
            # Of strangers too: a message is received before the pass that came with it is looked at.
            ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
            ("grpc.max_send_message_length", limits.MEMBERSHIP_BYTES),
        )
    )
    address = _bind(server, registry, place)
    if place is None:
        registry.announce()
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
    )
    calls = Calls(service, passes)
    server.add_generic_rpc_handlers((calls.handler(),))
    healthy = health.aio.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(healthy, server)
    for name in ("", SERVICE.full_name):
        await healthy.set(name, health_pb2.HealthCheckResponse.SERVING)
    witnesses = Witnesses(config.witnesses, log)
    with ExitStack() as stack:
        if config.reflection:
            _reflect(server, (SERVICE.full_name, health_pb2.DESCRIPTOR.services_by_name["Health"].full_name))
        if config.metrics is not None:
            from registry.observe import start_metrics

            # Each tells of itself alone, on a port of its own: those that follow the one in the settings.
            own = Address(
                config.metrics.host, config.metrics.port and config.metrics.port + (place.number if place else 0)
            )
            stack.callback(start_metrics(own, calls, storage, witnesses.states))
        gathering = asyncio.create_task(witnesses.run())
        served = Tiles(log, public_entries=config.public_entries)
        tiles = place.tiles if place else config.tiles
        if tiles is not None:
            await served.start(tiles, shared=place is not None)
        await server.start()
        # What lives now lives to the end: the collector need not look at it again.
        gc.collect()
        gc.freeze()
        gc.set_threshold(20_000, 50, 50)
        _log.info("serve.started", address=str(address), members=len(service.league.standings), home=str(home.folder))
        ready(address)
        beating = asyncio.create_task(beat(alive, (service.writer.steps, log.steps)))
        while not (ended.is_set() or stop.is_set()):
            try:
                await asyncio.wait_for(ended.wait(), _LOOK)
            except TimeoutError:
                try:
                    await service.look()
                except HanseError as error:
                    _log.error("storage.failed", reason=error.reason, text=str(error))
        _log.info("serve.ending")
        await healthy.enter_graceful_shutdown()
        await service.drain()
        gathering.cancel()
        await served.stop()
        await server.stop(_GRACE)
        await service.close()
        beating.cancel()
    _log.info("serve.ended")


def _bind(server: "object", registry: Registry, place: Place | None) -> Address:
    import grpc

    authority = registry.authority
    tls_key = tls.TlsKey.from_pem(registry.home.read_secret(TLS_KEY))
    certificate = _server_certificate(registry, tls_key)
    credentials = grpc.ssl_server_credentials([(tls_key.to_pem(), tls.to_pem(certificate, authority.ca_certificate))])

    def add_port(text: str) -> int:
        return int(server.add_secure_port(text, credentials))  # type: ignore[attr-defined]

    if place is not None:
        return rpc_server.bind(add_port, place.address)
    return _settle(registry, lambda wanted: rpc_server.bind(add_port, wanted))


def _server_certificate(registry: Registry, key: tls.TlsKey) -> bytes:
    """One for all processes of this store: who joins asks twice, and trusts what was shown first."""
    authority, now = registry.authority, int(registry.clock())

    def kept() -> bytes | None:
        told = registry.storage.recall(_CERTIFICATE)
        if told is None:
            return None
        der = bytes.fromhex(told)
        found = tls.read_certificate(der)
        holds = found.not_before <= now < found.not_after - _YEAR
        return der if holds and tls.is_key_of(key, der) and tls.is_issued_by(authority.ca_certificate, der) else None

    def make(writing: Writing) -> bytes:
        writing.head()  # from here on nobody else writes
        found = kept()  # by now: several processes start together
        if found is not None:
            return found
        made = tls.issue_registry(registry.issuer.key, authority.ca_certificate, key, authority.root, now)
        writing.remember(_CERTIFICATE, made.hex())
        return made

    return kept() or transact(registry.storage, make)


def _settle(registry: Registry, take: Callable[[Address], Address]) -> Address:
    """The address that was taken. A port that was chosen once is kept, and is in the store then."""
    config = registry.config
    wanted = Address(config.listen.host, registry.port)
    try:
        address = take(wanted)
    except Conflict:
        if config.listen.port:
            raise
        # The port that was kept is somebody else's now.
        address = take(Address(config.listen.host, free_port(config.listen)))
        _log.warning("serve.moved", before=str(wanted), now=str(address))
    if not config.listen.port and address.port != registry.port:
        transact(registry.storage, lambda writing: writing.remember("port", str(address.port)))
    return address


def _reflect(server: "object", names: tuple[str, ...]) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError:
        raise HomeUnusable(
            "reflection needs the extra: pip install 'hanse[reflection]', or remove `reflection`"
        ) from None
    reflection.enable_server_reflection((*names, reflection.SERVICE_NAME), server)
