"""Where a mirror is put together: joining, following, serving. For mirrors what registry.app is for registries.

run("hanse-invite:1:…", Path("mirror"), ready=print)       # the first time; later without an invitation
"""

import asyncio
import contextlib
import gc
import secrets
import signal
import threading
import time
from collections.abc import Callable, Collection
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import structlog

from hanse import limits
from hanse.client import renewal
from hanse.client.identity import MARKER, Identity
from hanse.client.league import League
from hanse.client.storage.known import FILE, Known
from hanse.errors import Conflict, HanseError, InvalidInput
from hanse.model.address import Address
from hanse.rpc import server as rpc_server
from hanse.rpc import tls
from registry.config import Config
from registry.mirroring import home as homes
from registry.mirroring.following import Follower, State
from registry.mirroring.serving import MirroredLog, MirrorPasses, MirrorService
from registry.mirroring.status import keep_state
from registry.ports import free_port
from registry.storage.sqlite import SqliteStorage

_log = structlog.get_logger()

_GRACE = 5.0  # seconds for calls that run when the daemon ends
_LOOK = 0.25  # seconds between looks at the clock
_UPKEEP = 2.0  # seconds between looks at certificates, addresses, and what is kept for `status`
_RETRY = 60.0  # seconds until a certificate that could not be renewed is asked for again

Clock = Callable[[], float]


def run(
    source: str | None,
    folder: Path,
    ready: Callable[[Address], None],
    listen: Address | None = None,
    advertise: Address | None = None,
    clock: Clock = time.time,
    ended: threading.Event | None = None,
) -> None:
    """Runs until SIGTERM or SIGINT, or until ``ended`` is set. ``ready`` is told the address once it serves.

    ``source``: an invitation, needed the first time; or an address of the registry to try first.
    Raises HomeInUse, HomeUnusable, Conflict, InvalidInput, Unreachable, NotPermitted, VerificationFailed.
    """
    invitation = source is not None and homes.is_invitation(source)
    first = None if source is None or invitation else _address(source)
    if source is not None and invitation and not (folder / MARKER).exists():
        homes.join(source, folder, listen, advertise, clock)
    elif listen or advertise:
        homes.configure(folder, listen, advertise)
    home, config, identity = homes.open_home(folder)
    if first is not None:
        identity = replace(identity, registries=tuple(dict.fromkeys((first, *identity.registries))))
    stop = ended or threading.Event()
    with home.lock("hanse-registry mirror"), ExitStack() as stack:
        storage = stack.enter_context(closing(SqliteStorage(home / homes.DATABASE)))
        known = stack.enter_context(closing(Known.open(home / FILE)))
        _Mirror(config, identity, storage, known, clock, stop).run(ready)


def _address(text: str) -> Address:
    try:
        return Address.parse(text)
    except InvalidInput:
        raise InvalidInput("FROM is an invitation made with --mirror, or HOST:PORT of the registry") from None


class _Mirror:
    """One run of the daemon."""

    def __init__(
        self, config: Config, identity: Identity, storage: SqliteStorage, known: Known, clock: Clock,
        stop: threading.Event,
    ) -> None:  # fmt: skip
        self._config, self._identity, self._clock, self._stop = config, identity, clock, stop
        self._storage, self._known = storage, known
        self._home = identity.home
        self._authority = (self._home / homes.AUTHORITY).read_bytes()
        kept = known.membership()
        self._state = State(asked_at=kept.checked_at if kept is not None else clock())
        self._service: MirrorService | None = None
        self._certificate = homes.server_certificate(self._home)
        self._certificate_at = self._addressed_at = 0.0
        self._port = config.listen.port or int(storage.recall("port") or 0)
        self._own = config.advertised(self._port)
        self._follower = Follower(identity, self._authority, storage, known, self._state, clock, self._took, self._own)

    def run(self, ready: Callable[[Address], None]) -> None:
        for each in (signal.SIGTERM, signal.SIGINT):
            try:
                # A thread, as this one may be inside of the very lock that ``set`` takes.
                signal.signal(each, lambda *_: threading.Thread(target=self._stop.set).start())
            except ValueError:  # not in the main thread: whoever started it ends it
                break
        self._notice_loss()
        if self._storage.recall("whole") is None:
            # What is not there would be told to be unknown: nothing is served before all has been there once.
            _log.info("mirror.catching_up", position=self._storage.last_position())
            self._follower.follow(self._stop, once=True)
            if self._stop.is_set():
                return
            with self._storage.writing() as writing:
                writing.remember("whole", "yes")
        self._certify()
        following = threading.Thread(target=self._follower.run, args=(self._stop,), name="following", daemon=True)
        upkeep = threading.Thread(target=self._keep_up, name="upkeep", daemon=True)
        try:
            asyncio.run(self._serve(ready, (following, upkeep)))
        finally:
            self._stop.set()
            for thread in (following, upkeep):
                if thread.ident is not None:
                    thread.join(30)

    def _notice_loss(self) -> None:
        if self._storage.recall("page_secret") is not None:
            return
        # Joining made one: this is another database than then.
        _log.error(
            "mirror.database_lost",
            text=f"{homes.DATABASE} is new: everything is fetched from the registry again, and nothing served before",
        )
        with self._storage.writing() as writing:
            writing.remember("page_secret", secrets.token_hex(32))

    def _took(self, keys: Collection[str], members: bool) -> None:
        if self._service is not None:
            self._service.changed(keys, members=members)

    def _where(self) -> tuple[Address, ...]:
        """Where the registry is, as far as is known."""
        told = self._state.told
        if told is None:
            return homes.registries(self._identity, self._known, self._own)
        named = tuple(each for each in told.membership.registries if each not in self._own)
        return named or self._identity.registries

    # Upkeep.

    def _keep_up(self) -> None:
        while not self._stop.wait(_UPKEEP):
            try:
                self._renew_if_due()
                self._readdress()
            except HanseError as error:
                _log.warning("mirror.upkeep_failed", reason=error.reason, text=str(error))
            except Exception:  # noqa: BLE001 - what stops silently is worse than what fails loudly
                _log.exception("mirror.broken")
            with contextlib.suppress(HanseError):  # a full disk is told elsewhere
                keep_state(self._home, self._state, self._clock())

    def _certify(self) -> None:
        """Before it serves. While the old certificate holds, a registry that is away is no reason not to."""
        try:
            self._renew_if_due()
        except HanseError as error:
            if not _holds(self._certificate, int(self._clock())):
                raise
            _log.warning("mirror.upkeep_failed", reason=error.reason, text=str(error))

    def _renew_if_due(self) -> None:
        """Both certificates: the one to serve with, and the member's own."""
        now = int(self._clock())
        if time.monotonic() < self._certificate_at:
            return
        serving, own = homes.is_due(self._certificate, now), renewal.is_due(self._identity, now)
        if not serving and not own:
            return
        self._certificate_at = time.monotonic() + _RETRY
        with League(self._identity, self._clock) as league:
            league.learn(self._where())
            if serving:
                self._certificate = homes.renew_server_certificate(self._home, self._identity, league)
                _log.info("mirror.certified", until=tls.read_pem_certificate(self._certificate).not_after)
            if own:
                self._identity = renewal.renew(self._identity, league)
        self._certificate_at = 0.0

    def _readdress(self) -> None:
        if time.monotonic() < self._addressed_at or self._state.told is None:
            return
        self._addressed_at = time.monotonic() + _RETRY
        with League(self._identity, self._clock) as league:
            league.learn(self._where())
            if homes.readdress(self._identity, self._storage, league, self._own[0], int(self._clock())):
                _log.info("mirror.readdressed", address=str(self._own[0]))

    # Serving.

    async def _serve(self, ready: Callable[[Address], None], threads: tuple[threading.Thread, ...]) -> None:
        import grpc
        from grpc_health.v1 import health, health_pb2, health_pb2_grpc

        from registry.calls import SERVICE, Calls
        from registry.tiles import Tiles

        config, authority = self._config, self._identity.authority
        server = grpc.aio.server(
            options=(
                *rpc_server.OPTIONS,
                ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
                ("grpc.max_send_message_length", limits.MEMBERSHIP_BYTES),
            )
        )
        passes = MirrorPasses(config, authority.fingerprint, self._clock, self._state)
        log = MirroredLog(self._storage, authority, self._clock, self._state)
        service = MirrorService(
            config,
            self._authority,
            self._storage,
            passes,
            self._clock,
            bytes.fromhex(self._storage.recall("page_secret") or ""),
            log,
            self._state,
            self._where,
        )
        calls = Calls(service, passes)
        address = self._bind(server)
        server.add_generic_rpc_handlers((calls.handler(),))
        healthy = health.aio.HealthServicer()
        health_pb2_grpc.add_HealthServicer_to_server(healthy, server)

        async def told(serving: bool) -> None:
            of = health_pb2.HealthCheckResponse
            for name in ("", SERVICE.full_name):
                await healthy.set(name, of.SERVING if serving else of.NOT_SERVING)

        admitting = True
        await told(admitting)
        with ExitStack() as stack:
            if config.metrics is not None:
                from registry.observe import start_metrics

                stack.callback(start_metrics(config.metrics, calls, self._storage, replication=self._replication))
            served = Tiles(log, public_entries=config.public_entries)
            if config.tiles is not None:
                await served.start(config.tiles)
            await server.start()
            self._service = service
            for thread in threads:
                thread.start()
            gc.collect()
            gc.freeze()
            gc.set_threshold(20_000, 50, 50)
            _log.info("mirror.started", address=str(address), of=str(authority.root), home=str(self._home.folder))
            ready(address)
            while not self._stop.is_set():
                await asyncio.sleep(_LOOK)
                serving = self._clock() - self._state.asked_at <= limits.MEMBERSHIP_LIFE
                if serving is not admitting:
                    admitting = serving
                    await told(serving)
            _log.info("mirror.ending")
            self._service = None
            await healthy.enter_graceful_shutdown()
            await service.drain()
            await served.stop()
            await server.stop(_GRACE)
            await service.close()
        _log.info("mirror.ended")

    def _replication(self) -> dict[str, float]:
        """For the metrics, see registry.exposing.Replication."""
        state, certificate = self._state, self._certificate
        until = tls.read_pem_certificate(certificate).not_after if certificate is not None else 0
        return {
            "lag_entries": max(0, state.seen_size - self._storage.last_position()),
            "lag_seconds": max(0.0, self._clock() - state.asked_at),
            "heard_timestamp_seconds": state.heard_at,
            "verified_entries": state.verified,
            "refused": state.refused,
            "contradictions": len(self._known.registry_lies()),
            "certificate_expiry_timestamp_seconds": until,
        }

    def _bind(self, server: object) -> Address:
        import grpc

        shown: list[bytes | None] = [None]

        def configured() -> Any:
            shown[0] = self._certificate
            authority = tls.to_pem(self._identity.authority.ca_certificate)
            pair = (self._identity.tls_key, (self._certificate or b"") + authority)
            return grpc.ssl_server_certificate_configuration([pair])

        # Asked for at each handshake: a renewed certificate is shown from then on.
        credentials = grpc.dynamic_ssl_server_credentials(
            configured(),
            lambda: None if shown[0] is self._certificate else configured(),  # type: ignore[arg-type,return-value]
        )

        def add_port(text: str) -> int:
            return int(server.add_secure_port(text, credentials))  # type: ignore[attr-defined]

        listen = self._config.listen
        try:
            return rpc_server.bind(add_port, Address(listen.host, self._port))
        except Conflict:
            if listen.port:
                raise
        # The port that was kept is somebody else's now: the record follows.
        address = rpc_server.bind(add_port, Address(listen.host, free_port(listen)))
        with self._storage.writing() as writing:
            writing.remember("port", str(address.port))
        self._own = self._config.advertised(address.port)
        return address


def _holds(pem: bytes | None, now: int) -> bool:
    return pem is not None and now < tls.read_pem_certificate(pem).not_after
