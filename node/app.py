"""The daemon: wires what the other files are, starts it, stops it. ``hanse serve`` is this.

What stands here and nowhere else: which part gets which. Threads: gRPC's (one a stream), and of our own: the
publisher, the watchdog over streams, the upkeep (membership, certificate, keys that a command changed), the writer
of the audit, and who ends leases.

    serve(Path("north"))        # until SIGTERM or SIGINT
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import FrameType

import grpc
import structlog

from hanse import limits, wire
from hanse.client import renewal
from hanse.client.identity import IDENTITY_KEY, MARKER, MEMBER_CERTIFICATE, PREVIOUS_KEY, REMEDY, Identity
from hanse.client.league import League
from hanse.client.resolve import Resolver
from hanse.client.settling import Retrying
from hanse.client.storage import known
from hanse.client.storage.known import Known
from hanse.errors import HanseError, HomeUnusable, Unreachable
from hanse.evidence.evidence import Evidence
from hanse.home import Home
from hanse.model.address import Address
from hanse.rpc import server as rpc_server
from hanse.rpc import tls
from hanse.rpc.allocation import keep_large_buffers
from hanse.vault.vault import Vault
from node import config, observe, own_policies, rotate, witness
from node.audit import Audit
from node.catalog import CATALOG
from node.config import Config
from node.deliveries import Deliveries
from node.grants import Grants
from node.leases import Leases
from node.members import Members
from node.monitor import Monitor
from node.monitoring import Monitoring
from node.observe import Metrics
from node.own_policies import OwnPolicies
from node.policy import Policies
from node.publish import Publisher
from node.rates import Rates
from node.redate import redate
from node.service import NodeService
from node.settling import Settling
from node.storage.audit import move
from node.storage.catalog import CatalogStorage
from node.storage.monitor import FILE as MONITOR
from node.storage.monitor import MonitorStorage
from node.streams import Streams, Watchdog

HOLDER = "hanse serve"
_SPARE_THREADS = 64  # for refusals and health checks while all streams are taken
_RENEWAL_RETRY_SECONDS = 60.0
_FIRST_MEMBERSHIP_SECONDS = 3.0
_ENDING_SECONDS = 2.0
_SIGNING_SECONDS = 2.0
_STOPPING = "this node is being stopped: try again in a moment"
log = structlog.get_logger("hanse.node")


class Daemon:
    """One node's daemon. ``start`` once, ``stop`` once; the home is locked in between."""

    def __init__(self, folder: Path, clock: Callable[[], float] = time.time, witness: Address | None = None) -> None:
        """``witness``: where to cosign the registry's log, instead of what node.toml says."""
        self._folder = folder
        self._witness = witness
        self.witnessing: Address | None = None
        self._clock = clock
        self._opened = contextlib.ExitStack()
        self._stop = threading.Event()
        self._threads: list[threading.Thread] = []
        self.metrics = Metrics()

    def start(self) -> Address:
        """Opens everything, binds and serves. Returns the address that was taken.

        Raises HomeUnusable, HomeInUse, Conflict (the port), NoSpace, StorageFailed.
        """
        try:
            return self._start()
        except BaseException:
            self._end_threads()
            self._opened.close()
            raise

    def _start(self) -> Address:
        keep_large_buffers()
        home = Home.open(self._folder, MARKER, REMEDY)
        self._opened.enter_context(home.lock(HOLDER))
        self.config = Config.load(home / config.FILE)
        self.storage = CatalogStorage.open(home / CATALOG)
        self._opened.callback(self.storage.close)
        rotate.settle(home, self.storage)
        self.identity = Identity.load(home)
        self._key_files = _key_files(home)
        self.evidence = self._opened.enter_context(Evidence.open(lambda: self.identity, self._clock))
        self.known = Known.open(home / known.FILE)
        self._opened.callback(self.known.close)
        self._connect()
        self.members = Members(lambda: self.resolver, self.known, self._clock)
        self.streams = Streams(self.config.streams, self.config.streams_per_peer)
        move(self.storage.database, self.evidence)
        self.audit = Audit(self.evidence)
        self._opened.callback(self.audit.close)
        self.own_policies = OwnPolicies(home / own_policies.FOLDER)
        self.policies = Policies(self.own_policies.start(), lambda error: log.error("policy.failed", error=error))
        self.grants = Grants(self.evidence, lambda: self.resolver, self.storage, self.policies, self._clock, self.audit)
        self.deliveries = Deliveries(
            self.evidence, self.identity.prefix, self.config.owed_bytes_per_peer, receipts=self.config.receipts
        )
        self.settling = Settling(
            self.evidence,
            lambda: self.resolver,
            self.storage,
            self.deliveries,
            self.config.sign_alone_after_seconds,
            self._clock,
        )
        self.leases = Leases(Vault(home, self.evidence, self._clock), lambda: self.resolver)
        self.publisher = Publisher(
            self.storage,
            lambda: self.league,
            lambda: self.identity,
            organization_acknowledged=self._organization_acknowledged,
            clock=self._clock,
        )
        self.service = NodeService(
            self.identity.prefix,
            self.storage,
            self.members,
            self.audit,
            self.streams,
            rates=Rates(self.config.calls_per_peer, 10 * self.config.calls_per_peer),
            metrics=self.metrics,
            contact=self._contact,
            clock=self._clock,
            policies=self.policies,
            grants=self.grants,
            deliveries=self.deliveries,
            small={
                "Ask": self.grants.ask,
                "Present": self.grants.present,
                "Standing": self.grants.standing,
                **({"Settle": self.settling.settle} if self.config.receipts else {}),
            },
        )
        upkeep = _Upkeep(self)
        self._run("upkeep", lambda: self._every(1.0, upkeep.look, at_once=True))
        # Who is suspended is asked before anybody is served; what was last known serves if the registry is slow.
        upkeep.first.wait(_FIRST_MEMBERSHIP_SECONDS)
        address = self._listen()
        self._observe()
        self._cosign()
        self._readdress(address)
        self._run("publisher", lambda: self.publisher.run(self._stop))
        self._run("policies", lambda: self._every(1.0, lambda: self.own_policies.look(self.policies.take)))
        if self.config.receipts:
            self._run("signing", lambda: self._every(_SIGNING_SECONDS, self.settling.look))
        self._run("leases", lambda: self._every(1.0, self.leases.look, at_once=True))
        retrying = Retrying(lambda: self.resolver, self.evidence)
        self._run("settling", lambda: self._every(_SIGNING_SECONDS, retrying.look))
        if self.config.monitor:
            self._run("monitor", self._monitor())
        self._run("watchdog", lambda: self._every(Watchdog.LOOK_SECONDS, Watchdog(self.streams).look))
        log.info("node.listening", address=str(address), prefix=str(self.identity.prefix))
        return address

    def stop(self) -> None:
        """Takes nothing new, gives running streams a bounded time, makes durable what is known."""
        grace = float(self.config.drain_seconds)
        self.service.serving = False
        self.streams.refuse(Unreachable(_STOPPING))
        stopped = self._server.stop(grace + Watchdog.GRACE_SECONDS)
        if not stopped.wait(grace):
            self.streams.end_all(Unreachable(_STOPPING))
            stopped.wait(2 * Watchdog.GRACE_SECONDS)
        self._end_threads()
        self._opened.close()
        log.info("node.stopped")

    def _end_threads(self) -> None:
        self._stop.set()
        for patience in (_ENDING_SECONDS, limits.CALL_TIMEOUT):
            until = time.monotonic() + patience
            for thread in self._threads:
                thread.join(max(0.0, until - time.monotonic()))
            if self._threads:  # whoever still waits for the registry is let go
                self.league.close()

    def _listen(self) -> Address:
        pool = ThreadPoolExecutor(self.config.streams + _SPARE_THREADS, thread_name_prefix="call")
        self._server = grpc.server(
            pool,
            handlers=[self.service],
            options=(
                *rpc_server.OPTIONS,
                ("grpc.max_receive_message_length", limits.MESSAGE_BYTES),
                ("grpc.max_metadata_size", 16 * limits.KIB),
            ),
            maximum_concurrent_rpcs=self.config.streams + _SPARE_THREADS,
        )
        if self.config.reflection:
            _reflect(self._server)
        credentials = grpc.ssl_server_credentials(
            [(self.identity.tls_key, self.identity.node_certificate)],
            tls.to_pem(self.identity.authority.ca_certificate),
            require_client_auth=True,
        )
        address = rpc_server.bind(lambda text: self._server.add_secure_port(text, credentials), self.config.listen)
        self._server.start()
        # Whatever fails from here on, the port is given back.
        self._opened.callback(lambda: self._server.stop(None).wait(limits.CALL_TIMEOUT))
        return address

    def _connect(self) -> None:
        # Not closed before the daemon stops: another thread may be using the one before.
        self.league = self._opened.enter_context(League(self.identity, self._clock))
        self.resolver = Resolver(self.identity, self.known, self.league, self._clock)

    def _readdress(self, listening: Address) -> None:
        """When others would look for the node elsewhere, the organization's record says so anew."""
        record = wire.decode_organization(rotate.current_organization(self.storage).payload)
        certificate = tls.from_pem(self.identity.node_certificate)
        address = self.config.advertise or listening
        nodes = tuple(
            replace(node, address=address) if node.tls_certificate == certificate else node for node in record.nodes
        )
        if nodes != record.nodes:
            rotate.readdress(self.identity, self.storage, replace(record, nodes=nodes), int(self._clock()))
            log.info("node.readdressed", address=str(address))

    def _cosign(self) -> None:
        address = self._witness or self.config.witness
        if address is not None:
            found = witness.Witness.open(self.identity.home, self.identity, self._clock)
            self.witnessing, end = witness.serve(found, address)
            self._opened.callback(end)

    def _monitor(self) -> Callable[[], None]:
        storage = MonitorStorage.open(self.identity.home / MONITOR)
        self._opened.callback(storage.close)
        monitor = Monitor(lambda: self.identity, lambda: self.league, self.known, self.storage, storage, self._clock)
        look = Monitoring(monitor, self._stop).look
        return lambda: self._every(float(limits.MEMBERSHIP_REFRESH), look, at_once=True)

    def _contact(self) -> str:
        envelope = self.storage.organization()
        return wire.decode_organization(envelope.payload).contact if envelope else ""

    def _organization_acknowledged(self) -> None:
        if rotate.settle(self.identity.home, self.storage):
            self.reload()

    def reload(self) -> None:
        """Takes keys and certificates that changed on the disk."""
        files = _key_files(self.identity.home)
        if files == self._key_files:
            return
        self._key_files = files
        before, self.identity = self.identity, Identity.load(self.identity.home)
        if before.registry_keys[0].public != self.identity.registry_keys[0].public or (
            len(before.registry_keys) != len(self.identity.registry_keys)
        ):
            self._connect()
        log.info("identity.reloaded", key_id=str(self.identity.signing_key.public.key_id))

    def _observe(self) -> None:
        gauge = self.metrics.gauge
        gauge("hanse_open_streams", "Streams open now.", lambda: float(len(self.streams)))
        gauge("hanse_outbox_length", "Changes that wait to be published.", lambda: len(self.storage.outbox.all()))
        gauge(
            "hanse_certificate_expiry_timestamp_seconds",
            "When the member's certificate ends, Unix seconds.",
            lambda: self.identity.certificate.not_after,
        )
        gauge("hanse_membership_age_seconds", "Since the registry last confirmed the members.", self.members.age)
        if self.config.metrics is not None:
            self._opened.callback(observe.serve_metrics(self.metrics, self.config.metrics))

    def _run(self, name: str, work: Callable[[], None]) -> None:
        """In a thread that goes on whatever happens: what stops silently is worse than what fails loudly."""

        def forever() -> None:
            while not self._stop.is_set():
                try:
                    work()
                except Exception as error:  # noqa: BLE001 - see above
                    if not self._stop.is_set():
                        log.error("thread.failed", thread=name, kind=type(error).__name__)
                    self._stop.wait(1.0)

        thread = threading.Thread(target=forever, name=name, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _every(self, seconds: float, look: Callable[[], None], *, at_once: bool = False) -> None:
        while not self._stop.wait(0 if at_once else seconds):
            at_once = False
            look()


class _Upkeep:
    """Once a second: what is due of membership, certificate and keys."""

    def __init__(self, daemon: Daemon) -> None:
        self._daemon = daemon
        self._membership_at = self._renewal_at = 0.0
        self._was_reachable = True
        self._clock_was: float | None = None  # ahead of the monotonic one when the registry last agreed with it
        self.first = threading.Event()

    def look(self) -> None:
        daemon, now = self._daemon, time.monotonic()
        with self._reported("identity.reload_failed"):
            daemon.reload()
        if now >= self._membership_at:
            self._membership_at = now + limits.MEMBERSHIP_REFRESH
            with self._reported("membership.refresh_failed"):
                daemon.members.refresh()
                self._correct_dates()
                age = daemon.members.age()
                reachable = age is not None and age <= 3 * limits.MEMBERSHIP_REFRESH
                if reachable != self._was_reachable:
                    log.warning("registry.back" if reachable else "registry.away", membership_age=age)
                    if reachable:
                        daemon.publisher.hurry()
                self._was_reachable = reachable
            self.first.set()
        if now >= self._renewal_at and renewal.is_due(daemon.identity, int(daemon._clock())):
            self._renewal_at = now + _RENEWAL_RETRY_SECONDS
            with self._reported("certificate.renewal_failed"):
                renewed = renewal.renew(daemon.identity, daemon.league)
                daemon.reload()
                log.info("certificate.renewed", until=renewed.certificate.not_after)

    def _correct_dates(self) -> None:
        """What was signed by a clock that was ahead is signed anew, once the registry agrees with the clock."""
        daemon, now = self._daemon, int(self._daemon._clock())
        kept = daemon.known.membership()
        offset = daemon._clock() - time.monotonic()
        changed = self._clock_was is None or abs(offset - self._clock_was) > limits.CLOCK_SKEW
        if changed and kept is not None and 0 <= now - kept.checked_at <= limits.MEMBERSHIP_REFRESH:
            count = redate(daemon.storage, daemon.identity, now)
            self._clock_was = offset
            if count:
                log.warning("publish.redated", count=count)

    @contextlib.contextmanager
    def _reported(self, event: str) -> Iterator[None]:
        try:
            yield
        except HanseError as error:
            log.warning(event, error=str(error))


def _key_files(home: Home) -> tuple[tuple[int, int] | None, ...]:
    """What tells that a command changed the keys."""

    def state(path: Path) -> tuple[int, int] | None:
        try:
            found = path.stat()
        except OSError:
            return None
        return found.st_ino, found.st_ctime_ns

    return tuple(state(home / name) for name in (IDENTITY_KEY, PREVIOUS_KEY, MEMBER_CERTIFICATE))


def _reflect(server: grpc.Server) -> None:
    try:
        from grpc_reflection.v1alpha import reflection
    except ImportError:
        raise HomeUnusable(
            "node.toml asks for reflection, but grpcio-reflection is not installed: pip install 'hanse[reflection]'"
        ) from None
    reflection.enable_server_reflection(("hanse.v1.Node", "grpc.health.v1.Health", reflection.SERVICE_NAME), server)


def _announce(address: Address) -> None:
    sys.stdout.write(f"listening on {address}\n")
    sys.stdout.flush()


def serve(
    folder: Path,
    *,
    announce: Callable[[Address], None] = _announce,
    clock: Callable[[], float] = time.time,
    witness: Address | None = None,
) -> int:
    """Runs the daemon in the main thread until SIGTERM or SIGINT; a second one ends it at once. Returns 0."""
    observe.configure_logs(Config.load(folder / config.FILE).log_level)
    with _asked_to_end() as wait:
        daemon = Daemon(folder, clock, witness)
        address = daemon.start()
        try:
            if daemon.witnessing is not None:
                sys.stdout.write(f"witness at http://{daemon.witnessing}\n")
            announce(address)
            wait()
        finally:
            daemon.stop()
    return 0


@contextlib.contextmanager
def _asked_to_end() -> Iterator[Callable[[], None]]:
    """Yields what returns once a signal has come that asks to end; the second ends the process at once.

    The system may hand a signal to any thread. Python's handlers wait for the main thread, and a signal that another
    took does not wake it from a lock; but whichever took it writes to the wakeup descriptor.
    """
    asked = False

    def on_signal(_number: int, _frame: FrameType | None) -> None:
        nonlocal asked
        if asked:
            os._exit(1)  # what was acknowledged is durable already
        asked = True

    def wait() -> None:
        while not asked:
            select.select((woken,), (), ())

    woken, wake = socket.socketpair()
    with woken, wake:
        wake.setblocking(False)
        wakeup = signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        handlers = {number: signal.signal(number, on_signal) for number in (signal.SIGTERM, signal.SIGINT)}
        try:
            yield wait
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
            signal.set_wakeup_fd(wakeup)
