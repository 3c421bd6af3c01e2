"""What an operator sees of a running registry: a log, and figures for Prometheus.

On a terminal the log is text, else one JSON object a line. It tells methods, prefixes and counts; never what a
record says, and of identifiers only where something is wrong with the registry itself.
"""

import logging
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

import structlog

from hanse.errors import Conflict, HomeUnusable
from hanse.model.address import Address

if TYPE_CHECKING:
    from registry.calls import Calls
    from registry.storage.base import Storage


class _Stderr:
    """What stderr is when something is written, not what it was when the log was started."""

    def write(self, text: str) -> None:
        sys.stderr.write(text)

    def flush(self) -> None:
        sys.stderr.flush()


def start_log(*, debug: bool) -> None:
    """To stderr: stdout belongs to the commands' results."""
    terminal = sys.stderr.isatty()
    processors: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.processors.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
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


def start_metrics(address: Address, calls: "Calls", storage: "Storage") -> Callable[[], None]:
    """Serves ``/metrics``; what is returned ends it. Raises HomeUnusable, Conflict."""
    try:
        from prometheus_client import CollectorRegistry, start_http_server
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
    except ImportError:
        raise HomeUnusable("metrics need the extra: pip install 'hanse[metrics]', or remove `metrics`") from None

    class Collector:
        def collect(self) -> Iterator[Metric]:
            counter = CounterMetricFamily("hanse_registry_calls", "Calls ended.", labels=("method", "status"))
            for labels, count in calls.counts.copy().items():
                counter.add_metric(labels, count)
            yield counter
            position = GaugeMetricFamily("hanse_registry_position", "Position of the newest change.")
            position.add_metric((), storage.last_position())
            yield position

    collectors = CollectorRegistry()
    collectors.register(Collector())
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
