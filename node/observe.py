"""What the daemon says of itself: structured logs on stderr, and metrics on a local port if asked for.

The rule it keeps: nothing private. Identifiers of objects and prefixes may stand in a log; names of elements, paths
inside a folder, digests and contents may not.
"""

import logging
import sys
import threading
from collections import Counter
from collections.abc import Callable
from typing import Any, TextIO

import structlog

from hanse.errors import Conflict, HanseError, HomeUnusable
from hanse.model.address import Address


def configure_logs(level: str = "info", stream: TextIO = sys.stderr) -> None:
    """Text on a terminal, JSON otherwise. Libraries' logs go the same way, from warnings on."""
    shared: list[Any] = [
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: Any = (
        structlog.dev.ConsoleRenderer() if stream.isatty() else structlog.processors.JSONRenderer(ensure_ascii=False)
    )
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, _without_traceback, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    logging.getLogger("hanse").setLevel(level.upper())


def _without_traceback(_logger: Any, _name: str, event: Any) -> Any:
    # gRPC logs exceptions whole; an exception's text may hold what a peer or a file said.
    kind = event.pop("exc_info", None)
    if isinstance(kind, tuple) and kind[0] is not None:
        event["kind"] = kind[0].__name__
    event.pop("exception", None)
    return event


class Metrics:
    """Counters of the service, and gauges that are read when somebody looks."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.calls: Counter[tuple[str, str]] = Counter()
        self.bytes_served = 0
        self.gauges: dict[str, tuple[str, Callable[[], float | None]]] = {}

    def call(self, operation: str, status: str) -> None:
        with self._lock:
            self.calls[operation, status] += 1

    def served(self, length: int) -> None:
        with self._lock:
            self.bytes_served += length

    def gauge(self, name: str, text: str, read: Callable[[], float | None]) -> None:
        """``name`` in Prometheus' style, with its unit."""
        self.gauges[name] = (text, read)

    def collect(self) -> Any:
        """For prometheus_client, which calls it at every scrape."""
        from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

        with self._lock:
            calls, served = dict(self.calls), self.bytes_served
        family = CounterMetricFamily("hanse_requests", "Calls answered.", labels=["operation", "status"])
        for labels, count in sorted(calls.items()):
            family.add_metric(list(labels), count)
        yield family
        yield CounterMetricFamily("hanse_served_bytes", "Bytes of objects sent to peers.", value=served)
        for name, (text, read) in self.gauges.items():
            try:
                value = read()
            except HanseError:
                continue  # a disk that fails: the others are worth knowing all the more
            if value is not None:
                yield GaugeMetricFamily(name, text, value=value)


def serve_metrics(metrics: Metrics, address: Address) -> Callable[[], None]:
    """Serves them over HTTP until the returned function is called. Raises HomeUnusable, Conflict."""
    try:
        from prometheus_client import CollectorRegistry, start_http_server
    except ImportError:
        raise HomeUnusable(
            "node.toml asks for metrics, but prometheus-client is not installed: pip install 'hanse[metrics]'"
        ) from None
    registry = CollectorRegistry()
    registry.register(metrics)
    try:
        server, thread = start_http_server(address.port, address.host, registry)
    except OSError as error:
        raise Conflict(f"metrics: {address} cannot be listened on: {error.strerror}") from None

    def stop() -> None:
        server.shutdown()
        server.server_close()
        thread.join()

    return stop
