"""The log over HTTP, behind a cache as an operator would put one before it: tiles and the checkpoint.

nginx with its proxy cache, which keeps each answer for as long as the registry says.
"""

import contextlib
import random
import subprocess
from collections.abc import Iterator
from pathlib import Path

from bench import ours, peers, processor
from bench.processor import Measured, Meter
from bench.scale import Scale
from bench.table import Row, Target, in_turns, say
from hanse import tiles
from hanse.model.identifier import Prefix

PREFIX = Prefix.parse("86.north")
_CHECKPOINTS = 0.1  # of all requests


def measure(scale: Scale, folder: Path) -> Iterator[Row]:
    what, target = "tiles and checkpoints over HTTP behind nginx's cache", Target(10)
    size = min(100_000, scale.records[-1])
    how = (
        f"a log of {size:,} entries; random tiles of it and one request in ten for the checkpoint, by h2load, "
        "HTTP/1.1, 16 connections that are kept"
    )
    try:
        peers.need("h2load")
        with _listener(folder, size) as (registry, port), _nginx(folder, port) as (nginx, cached):
            calls = {"cached": scale.unary_calls * 4, "direct": scale.unary_calls}
            for ahead in (1, 16):
                meters = {
                    "cached": Meter({"nginx": nginx, "registry": registry}, calls["cached"]),
                    "direct": Meter({"registry": registry}, calls["direct"]),
                }
                ports = {"cached": cached, "direct": port}
                runs = in_turns(
                    scale.runs,
                    {
                        name: meter.around(_load(folder, ports[name], size, calls[name], ahead))
                        for name, meter in meters.items()
                    },
                )
                costs = "; ".join(f"{name} {meter}" for name, meter in meters.items())
                yield Row(
                    what if ahead == 1 else f"the same, {ahead} requests ahead on each connection",
                    "the same server without it",
                    target,
                    tuple(runs["cached"]),
                    tuple(runs["direct"]),
                    unit="requests/s",
                    how=f"{how}. Processor ms a request: {costs}",
                )
    except peers.Missing as missing:
        yield Row(what, "the same server without it", target, unit="/s", missing=str(missing))


@contextlib.contextmanager
def _listener(folder: Path, size: int) -> Iterator[tuple[int, int]]:
    """A registry that serves its log over HTTP: its process, and that port."""
    port = peers.free_port()
    with ours.league(folder / "league") as league:
        node, home = league.join(str(PREFIX), serve=False), league.registry.home
        say(f"    putting {size:,} records into a registry")
        ours.fill(home / "registry.db", ours.identifiers(PREFIX, 1, size), ours.identity(node).signing_key)
        settings = home / "registry.toml"
        settings.write_text(f'tiles = "127.0.0.1:{port}"\n{settings.read_text()}')
        league.registry.restart()
        yield league.registry.process.pid, port


@contextlib.contextmanager
def _nginx(folder: Path, port: int) -> Iterator[tuple[int, int]]:
    """With a cache before that port: its process, and its own port."""
    program, own = peers.need("nginx"), peers.free_port()
    home = folder / "nginx"
    home.mkdir()
    temporary = "".join(
        f"{each}_temp_path {home}/{each};" for each in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    configuration = home / "nginx.conf"
    configuration.write_text(f"""
{peers.nginx_user()}
worker_processes auto;
pid {home}/nginx.pid;
error_log stderr;
events {{ worker_connections 256; }}
http {{
  {temporary}
  access_log off;
  keepalive_requests 1000000;
  sendfile on;
  open_file_cache max=10000 inactive=60s;
  proxy_cache_path {home}/cache keys_zone=log:10m;
  server {{
    listen 127.0.0.1:{own};
    location / {{ proxy_pass http://127.0.0.1:{port}; proxy_cache log; proxy_cache_lock on; }}
  }}
}}
""")
    argv = [program, "-p", home, "-c", configuration, "-e", "stderr", "-g", "daemon off;"]
    with peers.daemon(argv, own, home / "nginx.log") as process:
        yield process, own


def _load(folder: Path, port: int, entries: int, requests: int, ahead: int) -> Measured:
    """Requests a second. ``ahead``: so many are sent on a connection before the first is answered."""
    chance = random.Random(entries)
    level_0 = entries // tiles.WIDTH
    paths = [
        "checkpoint" if chance.random() < _CHECKPOINTS else tiles.path(0, chance.randrange(level_0)) for _ in range(500)
    ]
    listed = folder / f"paths-{port}"
    listed.write_text("".join(f"http://127.0.0.1:{port}/{path}\n" for path in paths))
    argv = [
        peers.need("h2load"), "--h1", "--requests", str(requests), "--clients", "16",
        "--max-concurrent-streams", str(ahead), "--input-file", str(listed),
    ]  # fmt: skip

    def run() -> tuple[float, float]:
        before = processor.of_children()
        rate = peers.h2load_rate(subprocess.run(argv, capture_output=True, text=True, check=True).stdout, requests)
        return rate, processor.of_children() - before

    return run
