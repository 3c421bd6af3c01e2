"""What a running registry tells Prometheus, and that the alerts in deploy/ ask for nothing else."""

import contextlib
import re
import socket
import threading
import urllib.request
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from hanse.model.address import Address
from hanse.model.identifier import Prefix
from registry import app, exposing, ports
from registry.exposing import Replication
from registry.figures import BOUNDS, Durations
from registry.storage.sqlite import SqliteStorage
from registry.store import Store
from tests.league import LOCAL, Registry
from tests.postgres import Postgres
from tests.processes import Process, free_port

FIGURES = ("lag_entries", "lag_seconds", "heard_timestamp_seconds", "verified_entries", "refused", "contradictions",
           "certificate_expiry_timestamp_seconds")  # fmt: skip
OF_A_MIRROR = {f"hanse_registry_replication_{each}" for each in FIGURES}
ALERTS = Path(__file__).resolve().parents[2] / "deploy" / "prometheus" / "alerts.yml"


def body(url: str) -> str:
    with urllib.request.urlopen(url, timeout=60) as answer:
        return answer.read().decode()


def scrape(port: int) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    text = body(f"http://127.0.0.1:{port}/metrics")
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        assert family.documentation
        for sample in family.samples:
            found.setdefault(sample.name, {})[tuple(sorted(sample.labels.items()))] = sample.value
    return found


@pytest.fixture(scope="module")
def metrics(tmp_path_factory):
    port = free_port()
    settings = f'metrics = "127.0.0.1:{port}"\n[limits]\nrecords = 4\n'
    with Registry.start(tmp_path_factory.mktemp("metrics") / "registry", settings=settings) as registry:
        north, south = registry.join("86.north"), registry.join("86.south")
        north.publish(*(north.record(str(number)) for number in range(5)))
        app.suspend(registry.folder, south.prefix, "test")
        for _ in range(20):
            north.resolve("86.north/1")
        north.membership()
        north.stub.GetCheckpoint(_checkpoint(), metadata=north.metadata)
        yield scrape(port)


def _checkpoint():
    from hanse.v1 import registry_pb2

    return registry_pb2.GetCheckpointRequest()


def test_rates_and_durations_are_told_by_method(metrics):
    resolve = (("method", "Resolve"),)
    assert metrics["hanse_registry_calls_total"][(*resolve, ("status", "OK"))] == 20
    assert metrics["hanse_registry_call_duration_seconds_count"][resolve] == 20
    assert 0 < metrics["hanse_registry_call_duration_seconds_sum"][resolve] < 20
    buckets = metrics["hanse_registry_call_duration_seconds_bucket"]
    counts = [buckets[(("le", str(bound)), *resolve)] for bound in (*BOUNDS, "+Inf")]
    assert counts == sorted(counts)
    assert counts[-1] == 20
    assert (("method", "Publish"),) not in metrics["hanse_registry_call_duration_seconds_count"]


def test_what_was_published_stored_and_shown_is_told(metrics):
    outcomes = {dict(labels)["outcome"]: value for labels, value in metrics["hanse_registry_publishes_total"].items()}
    assert outcomes == {"accepted": 4, "refused": 0, "conflict": 0, "try_again": 1}
    assert metrics["hanse_registry_commit_duration_seconds_count"][()] == 1
    assert metrics["hanse_registry_publish_waiting_messages"][()] == 0
    assert metrics["hanse_registry_objects"][()] == 4
    assert metrics["hanse_registry_limit_used_ratio"] == {
        (("limit", "records"), ("prefix", "86.north")): 1.0,
        (("limit", "records"), ("prefix", "86.south")): 0.0,
    }
    assert metrics["hanse_registry_log_entries"][()] == metrics["hanse_registry_position"][()]
    assert 0 < metrics["hanse_registry_checkpoint_entries"][()] <= metrics["hanse_registry_log_entries"][()]
    assert metrics["hanse_registry_members"][(("standing", "good"),)] >= 1
    assert metrics["hanse_registry_database_bytes"][()] > 0
    assert metrics["hanse_registry_store_up"][()] == 1
    assert "process_resident_memory_bytes" in metrics


def test_names_are_those_that_prometheus_asks_for(metrics):
    own = [name for name in metrics if name.startswith("hanse_")]
    assert all(re.fullmatch(r"hanse_registry_[a-z_]+", name) for name in own)
    assert [name for name in own if "second" in name and not re.search(r"_seconds(_bucket|_count|_sum)?$", name)] == []


def test_every_alert_asks_for_what_is_told_and_says_what_it_means(metrics):
    groups = yaml.safe_load(ALERTS.read_text())["groups"]
    rules = [rule for group in groups for rule in group["rules"]]
    assert len({rule["alert"] for rule in rules}) == len(rules) >= 10
    for rule in rules:
        assert rule["labels"]["severity"] in {"page", "ticket"}
        assert rule["annotations"]["summary"]
        for name in re.findall(r"\bhanse_registry_\w+", rule["expr"]):
            assert name in metrics or name in OF_A_MIRROR, rule["alert"]
        for label in re.findall(r"\$labels\.(\w+)", rule["annotations"]["summary"]):
            assert label in {"instance", "method", "prefix", "limit"}


def test_while_a_scrape_waits_for_the_store_others_answer_and_ask_nothing(tmp_path, monkeypatch):
    entered, let, asked = threading.Event(), threading.Event(), []
    usages = SqliteStorage.usages

    def stalled(storage):
        asked.append(threading.get_ident())
        if len(asked) == 2:
            entered.set()
            let.wait(90)
        return usages(storage)

    monkeypatch.setattr(SqliteStorage, "usages", stalled)
    port = free_port()
    with Registry.start(tmp_path / "registry", settings=f'metrics = "127.0.0.1:{port}"\n') as registry:
        north = registry.join("86.north")
        before = scrape(port)["hanse_registry_log_entries"]
        waiting = threading.Thread(target=scrape, args=(port,))
        waiting.start()
        try:
            assert entered.wait(90)
            north.publish(north.record("new"))
            meanwhile = scrape(port)
            assert meanwhile["hanse_registry_log_entries"] == before  # what the store said before
            assert meanwhile["hanse_registry_store_up"][()] == 1
            assert meanwhile["hanse_registry_publishes_total"][(("outcome", "accepted"),)] == 1
            monkeypatch.setattr(exposing, "_WAITED", 0)
            long_after = scrape(port)
            assert long_after["hanse_registry_store_up"][()] == 0
            assert "hanse_registry_log_entries" not in long_after
            assert len(asked) == 2
        finally:
            let.set()
            waiting.join(60)
        healed = scrape(port)
        assert healed["hanse_registry_log_entries"][()] == before[()] + 1
        assert healed["hanse_registry_store_up"][()] == 1


def test_durations_fall_into_their_buckets():
    durations = Durations()
    for seconds in (0.00005, 0.00006, 3.0, 11.0):
        durations.add(seconds)
    told = dict(durations.cumulative())
    assert (told["5e-05"], told["0.0001"], told["2.5"], told["5.0"], told["10.0"], told["+Inf"]) == (1, 2, 2, 3, 3, 4)
    assert durations.total == pytest.approx(14.00011)


def test_a_mirror_tells_how_far_it_is_behind():
    families = Replication(lambda: dict.fromkeys(FIGURES, 3.0)).collect()
    told = {sample.name.removesuffix("_total"): sample.value for family in families for sample in family.samples}
    assert told == dict.fromkeys(OF_A_MIRROR, 3.0)


def two_ports() -> int:
    """The first of two that follow each other and were free a moment ago: no outgoing connection gets them."""
    while True:
        port = ports.free_port(LOCAL)
        with socket.socket() as following, contextlib.suppress(OSError, OverflowError):
            following.bind(("127.0.0.1", port + 1))
            return port


def test_given_two_processes_then_each_tells_of_itself_on_a_port_of_its_own_and_both_serve_the_log(tmp_path):
    first, tiles, address = two_ports(), free_port(), Address("127.0.0.1", free_port())
    with Postgres() as server:
        home = tmp_path / "registry"
        app.init(home, "Test league", Prefix("86"), address, store=Store.parse(server.database()))
        with (home / "registry.toml").open("a") as file:
            file.write(f'metrics = "127.0.0.1:{first}"\ntiles = "127.0.0.1:{tiles}"\n')
        process = Process("registry", tmp_path / "logs", "registry.cli", "serve", "--home", home, "--workers", 2)
        process.start()
        try:
            registry = Registry(home, address)
            north = registry.join("86.north")
            for number in range(20):  # on a connection of its own each, which one of the two gets
                north.channel.close()
                north.channel = registry.dial()
                north.publish(north.record(str(number)))
            told = [scrape(first + number) for number in range(2)]
            own = [each["hanse_registry_publishes_total"][(("outcome", "accepted"),)] for each in told]
            assert sum(own) == 20
            assert min(own) > 0  # else all twenty met the same one: once in 500,000 runs
            sizes = {body(f"http://127.0.0.1:{tiles}/checkpoint").splitlines()[1] for _ in range(20)}
            assert {int(each["hanse_registry_log_entries"][()]) for each in told} == {int(size) for size in sizes}
        finally:
            process.kill()
