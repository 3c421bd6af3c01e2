"""A registry's figures in Prometheus's words. Needs the extra `metrics`; only registry.observe imports it.

Every process tells of itself: calls, publishing, its newest checkpoint. What the store says (entries, members) is
the same at each. Nothing here names an object; of members only those that have limits, by their prefixes.
"""

import threading
import time
from collections.abc import Callable, Iterator

import structlog
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric

from hanse.errors import HanseError
from registry.accept import Code
from registry.calls import Calls
from registry.figures import Durations
from registry.service import Service
from registry.storage.base import Storage
from registry.usage import UNLIMITED, Limits, Usage
from registry.witnesses import State

_WAITED = 30.0  # seconds that a scrape waits for the store, until others do not repeat what it said before
_SIZE_LIFE = 60.0  # seconds: counting all that is stored takes a while with a million records
_NAME = "hanse_registry_"


class Collector:
    """``collect`` is called for each scrape, in a thread of its own.

    Of those at the same time one asks the store: when its network swallows what is sent, the connections are not all
    taken by scrapes. The others repeat what the store said before.
    """

    def __init__(self, calls: Calls, storage: Storage, witnesses: tuple[State, ...] = ()) -> None:
        self._calls = calls
        self._storage = storage
        self._witnesses = witnesses
        self._size: tuple[float, int] | None = None
        self._asking = threading.Lock()
        self._asked_at = 0.0
        self._said: list[Metric] | None = None  # by the store; nothing if it failed, None before the first time

    def collect(self) -> Iterator[Metric]:
        service = self._calls.service
        yield from self._called()
        yield from self._published(service)
        yield from self._shown(service)
        yield from self._cosigned()
        # The store last, and all of it or nothing: when it fails, the rest still tells.
        stored = self._asked(service)
        if stored is not None:
            yield _gauge("store_up", "Whether the store answered.", int(bool(stored)))
            yield from stored

    def _asked(self, service: Service) -> list[Metric] | None:
        if not self._asking.acquire(blocking=False):
            return self._said if time.monotonic() - self._asked_at < _WAITED else []
        try:
            self._asked_at = time.monotonic()
            self._said = list(self._stored(service))
        except HanseError as error:
            structlog.get_logger().error("metrics.failed", reason=error.reason, text=str(error))
            self._said = []
        finally:
            self._asking.release()
        return self._said

    def _called(self) -> Iterator[Metric]:
        counter = CounterMetricFamily(f"{_NAME}calls", "Calls ended.", labels=("method", "status"))
        for labels, count in self._calls.counts.copy().items():
            counter.add_metric(labels, count)
        yield counter
        durations = _histogram("call_duration", "Time in a call with one answer, without gRPC's own.", ("method",))
        for name, each in self._calls.durations.items():
            _add(durations, (name,), each)
        yield durations
        streams = GaugeMetricFamily(f"{_NAME}open_streams", "Streams open now.", labels=("method",))
        for name, count in self._calls.open.copy().items():
            streams.add_metric((name,), count)
        yield streams

    @staticmethod
    def _published(service: Service) -> Iterator[Metric]:
        outcomes = CounterMetricFamily(
            f"{_NAME}publishes", "Envelopes answered; accepted are also those that were there.", labels=("outcome",)
        )
        for code in Code:
            outcomes.add_metric((code.name.lower(),), service.outcomes[code])
        yield outcomes
        messages = _histogram("publish_duration", "From when a message of envelopes was read to its outcomes.", ())
        _add(messages, (), service.publishes)
        yield messages
        waiting, size = service.waiting
        yield _gauge("publish_waiting_messages", "Messages read and not answered yet.", waiting)
        yield _gauge("publish_waiting_bytes", "Their bytes.", size)
        commits = _histogram("commit_duration", "A transaction that stored something, its sync to the disk too.", ())
        _add(commits, (), service.writer.commits)
        yield commits
        if service.writer.committed_at:
            at = service.writer.committed_at
            yield _gauge("last_commit_timestamp_seconds", "When something published was last stored here.", at)

    @staticmethod
    def _shown(service: Service) -> Iterator[Metric]:
        newest = service.log.newest
        if newest is not None:
            yield _gauge("checkpoint_entries", "Of the newest checkpoint shown here.", newest[0])
            yield _gauge("checkpoint_timestamp_seconds", "When it was signed.", newest[1])

    def _cosigned(self) -> Iterator[Metric]:
        size = GaugeMetricFamily(f"{_NAME}witnessed_entries", "That a witness cosigned.", labels=("witness",))
        date = GaugeMetricFamily(f"{_NAME}witnessed_timestamp_seconds", "When it last did.", labels=("witness",))
        for each in self._witnesses:
            size.add_metric((each.name,), each.size)
            date.add_metric((each.name,), each.at or 0)
        yield from (size, date)

    def _stored(self, service: Service) -> Iterator[Metric]:
        entries = self._storage.last_position()
        yield _gauge("position", "Position of the newest change.", entries)
        yield _gauge("log_entries", "Entries of the log: the size of the tree.", entries)
        yield _gauge("database_bytes", "What the store takes on disk, as of a minute ago.", self._database_bytes())
        members = GaugeMetricFamily(f"{_NAME}members", "Organizations.", labels=("standing",))
        listed = [each.member for each in service.league.standings.values()]
        suspended = sum(each.suspended_at is not None for each in listed)
        members.add_metric(("good",), len(listed) - suspended)
        members.add_metric(("suspended",), suspended)
        yield members
        usages = self._storage.usages()
        yield _gauge("objects", "Identifiers ever used.", sum(each.objects for each in usages.values()))
        yield _gauge("record_bytes", "Of all envelopes of members.", sum(each.bytes for each in usages.values()))
        ratio = GaugeMetricFamily(
            f"{_NAME}limit_used_ratio", "Of a limit of space, by those that have one.", labels=("prefix", "limit")
        )
        for prefix in service.league.standings:
            used = usages.get(prefix, Usage())
            for name, part in _parts(used, service.config.allowed(prefix, used.limits)):
                ratio.add_metric((str(prefix), name), part)
        yield ratio

    def _database_bytes(self) -> int:
        now = time.monotonic()
        if self._size is None or now - self._size[0] > _SIZE_LIFE:
            self._size = (now, self._storage.figures().bytes_on_disk)
        return self._size[1]


_REPLICATION = {
    "lag_entries": "Entries that the registry showed and this mirror has not.",
    "lag_seconds": "Since this mirror last had all that the registry showed.",
    "heard_timestamp_seconds": "When the registry last said something that holds; 0: not since the start.",
    "verified_entries": "Entries verified and stored since the start.",
    "refused": "Whether this mirror takes nothing, because the registry lies, is another, or does not admit it.",
    "contradictions": "Pairs of checkpoints kept that the registry signed and that contradict each other.",
    "certificate_expiry_timestamp_seconds": "When nobody reaches this mirror any more, if it is not renewed.",
}


class Replication:
    """Of a mirror. ``figures`` tells each of the above."""

    def __init__(self, figures: Callable[[], dict[str, float]]) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        try:
            told = self._figures()
        except HanseError as error:
            structlog.get_logger().error("metrics.failed", reason=error.reason, text=str(error))
            return
        for name, text in _REPLICATION.items():
            if name == "verified_entries":
                yield CounterMetricFamily(f"{_NAME}replication_{name}", text, value=told[name])
            else:
                yield _gauge(f"replication_{name}", text, told[name])


def _parts(used: Usage, allowed: Limits) -> Iterator[tuple[str, float]]:
    for name, count, most in (("records", used.objects, allowed.records), ("bytes", used.bytes, allowed.bytes)):
        if most is not None and most < UNLIMITED:
            yield name, count / most if most else 1.0


def _gauge(name: str, text: str, value: float) -> Metric:
    return GaugeMetricFamily(f"{_NAME}{name}", text, value=value)


def _histogram(name: str, text: str, labels: tuple[str, ...]) -> HistogramMetricFamily:
    return HistogramMetricFamily(f"{_NAME}{name}_seconds", text, labels=labels)


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], durations: Durations) -> None:
    family.add_metric(labels, durations.cumulative(), durations.total)
