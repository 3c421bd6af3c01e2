"""The fetching process is killed at random instants: the next run goes on, and the end is byte-equal."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hanse import limits
from hanse.client.client import Client
from hanse.client.partial import partial_path
from tests.breaking import journaled
from tests.simulator import SimulatedLeague

ROOT = Path(__file__).resolve().parents[2]
CHILD = """
import sys
from hanse import Client
with Client(sys.argv[1]) as client:
    fetched = client.fetch(sys.argv[2], sys.argv[3], streams=int(sys.argv[4]))
print(fetched.resumed_bytes, fetched.transferred_bytes)
"""
FILE = os.urandom(30_000_000)
FOLDER = {f"d{n % 5}/f{n}": os.urandom(20_000) for n in range(400)} | {"big": os.urandom(12_000_000)}
AHEAD = 500_000  # bytes that are sent while whoever kills has not noticed yet that it is time
IN_FLIGHT = 24 * limits.MIB  # what may have been on its way at the instant of a kill


@pytest.mark.parametrize(("name", "streams"), [("x", 1), ("trial", 1), ("trial", 3)])
def test_killed_again_and_again_it_ends_byte_equal(tmp_path: Path, name: str, streams: int) -> None:
    chance = random.Random(streams)
    with SimulatedLeague() as league:
        north, acme = league.join("86.north"), league.join("86.acme")
        north.wrap("x", FILE)
        north.wrap("trial", FOLDER)
        node = north.serve()
        most = 0.0

        def slowly(parts):  # type: ignore[no-untyped-def]
            for part in parts:
                time.sleep(0.004)
                while node.sent_bytes > most:  # however late the kill is, it comes before the end
                    time.sleep(0.004)
                yield part

        node.lies["fetch"] = slowly
        home, target = acme.home(tmp_path / "home"), tmp_path / "out"
        arguments = [sys.executable, "-c", CHILD, str(home), f"86.north/{name}", str(target), str(streams)]
        kills = 0
        for number in range(4):
            sent = node.sent_bytes + chance.randrange(500_000, 6_000_000)
            most = sent + AHEAD
            child = subprocess.Popen(arguments, cwd=ROOT, stdout=subprocess.PIPE)
            deadline = time.monotonic() + 90
            while child.poll() is None and time.monotonic() < deadline:
                # By the second time enough was sent that some of it is written down, when the child gets to it.
                if node.sent_bytes >= sent and (number != 1 or any(journaled(target))):
                    break
                time.sleep(0.005)
            if child.poll() is None:
                os.kill(child.pid, signal.SIGKILL)
                kills += 1
                assert child.wait(90) == -signal.SIGKILL
                assert not target.exists()
            child.communicate()
        assert kills == 4
        node.lies.clear()
        most = float("inf")  # what the killed ones asked for comes to its end, too
        finished = subprocess.run(arguments, cwd=ROOT, stdout=subprocess.PIPE, check=True, timeout=200)
        resumed = int(finished.stdout.split()[0])
        assert resumed > 0
        total = len(FILE) if name == "x" else sum(map(len, FOLDER.values()))
        assert node.sent_bytes <= total + kills * IN_FLIGHT
        assert not partial_path(target).exists()
        with Client(home) as client:
            assert client.verify(target, f"86.north/{name}") == []
        if name == "x":
            assert target.read_bytes() == FILE
