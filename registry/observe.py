"""What an operator sees of a running registry: a log, and figures for Prometheus.

On a terminal the log is text, else one JSON object a line. It tells methods, prefixes and counts; never what a
record says, and of identifiers only where something is wrong with the registry itself.
"""

import logging
import sys
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import structlog

from hanse.errors import Conflict, HomeUnusable
from hanse.model.address import Address

if TYPE_CHECKING:
    from registry.calls import Calls
    from registry.storage.base import Storage
    from registry.witnesses import State


class _Stderr:
    """What stderr is when something is written, not what it was when the log was started."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def start_log(*, debug: bool, worker: int | None = None) -> None:
    """To stderr: stdout belongs to the commands' results. ``worker``: which of several processes this is."""
    terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    if worker is not None:
        processors.append(lambda _, __, event: event | {"worker": worker})
    if terminal:
        processors.append(structlog.dev.ConsoleRenderer())
    else:
        processors += [structlog.processors.format_exc_info, structlog.processors.JSONRenderer(ensure_ascii=False)]
    structlog.configure(
        processors=processors,
        wrapper_class=structlog.make_filtering_bound_logger(logging.DEBUG if debug else logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(_Stderr()),  # type: ignore[arg-type]
        cache_logger_on_first_use=True,
    )
    # gRPC and asyncio tell of broken connections here; that somebody sent garbage is worth a line, no traceback.
    logging.basicConfig(
        level=logging.INFO if debug else logging.ERROR, stream=sys.stderr, format="%(name)s %(message)s"
    )


def start_metrics(
    address: Address,
    calls: "Calls",
    storage: "Storage",
    witnesses: "tuple[State, ...]" = (),
    replication: Callable[[], dict[str, float]] | None = None,
) -> Callable[[], None]:
    """Serves ``/metrics``; what is returned ends it. ``replication``: of a mirror. Raises HomeUnusable, Conflict."""
    try:
        from prometheus_client import CollectorRegistry, ProcessCollector, start_http_server

        from registry.exposing import Collector, Replication
    except ImportError:
        raise HomeUnusable("metrics need the extra: pip install 'hanse[metrics]', or remove `metrics`") from None
    collectors = CollectorRegistry()
    collectors.register(Collector(calls, storage, witnesses))
    if replication is not None:
        collectors.register(Replication(replication))
    ProcessCollector(registry=collectors)
    try:
        server, thread = start_http_server(address.port, address.host, collectors)
    except OSError as error:
        raise Conflict(f"metrics cannot be served at {address}: {error.strerror}") from None
    structlog.get_logger().info("metrics.listening", address=f"{address.host}:{server.server_port}")

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    return stop
