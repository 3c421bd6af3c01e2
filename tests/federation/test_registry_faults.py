"""A fault at every system call of an append to a registry's log: nothing acknowledged is missing, nothing there twice.

A small process opens registry.db, stores two groups of records and closes it, saying what was acknowledged. strace lets
one of its calls fail (EIO: each that touches the store; ENOSPC: each that may need room) or kills the process there
(each that changes something: a kill at one that only looks leaves what the kill at the next change leaves). Which calls
there are tells a first run without a fault. Then what is there is looked at, the rest is stored, and all of it checked,
signatures too.

What this does not show: a power cut, in which the disk loses what was not synced; a checkpoint of SQLite's in the
middle of an append, which comes when its log has a thousand pages (here when the store is closed). Giving a lock back
never fails here: no disk is asked, and SQLite would wait ten seconds for its own lock each time, and store nothing.
"""

import pickle
import re
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from hanse import wire
from registry import app
from registry.index import document
from registry.storage.base import NewRecord
from registry.storage.sqlite import SqliteStorage
from tests.breaking import missing
from tests.league import Registry

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("registry-faults"), pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
GROUPS = 2  # transactions, of 1, 2, … records: the first begins SQLite's log, the second goes on with it
CHANGING = ("pwrite64", "fdatasync", "fsync", "ftruncate", "openat", "unlink", "fchown", "chmod")
FAULTS = {
    "signal=KILL": CHANGING,
    "error=ENOSPC": ("pwrite64", "fdatasync", "fsync", "ftruncate", "openat"),
    "error=EIO": None,  # all
}
# Forks a process for each folder. It says its number when its own opening is over, and waits until its calls are in the
# trace: so each is counted, and none before, however late strace comes. A group that failed is tried once more.
NURSERY = """
import ctypes, os, pickle, sys, time
from pathlib import Path
from hanse.errors import HanseError
from registry.storage.sqlite import SqliteStorage

def work(folder):
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: others than root may trace it
    trace = os.open(folder / "trace", os.O_RDONLY)
    print("process", os.getpid(), flush=True)
    while not os.lseek(trace, 0, os.SEEK_END):
        os.getpgid(0)
        time.sleep(0.0005)
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    groups = pickle.loads((folder / "groups").read_bytes())
    try:
        storage = SqliteStorage(folder / "registry" / "registry.db")
    except HanseError as error:
        os.write(said, b"refused %s\\n" % type(error).__name__.encode())
        return
    for number, records in enumerate(groups):
        for attempt in range(2):
            try:
                with storage.writing() as writing:
                    new = [each for each in records if each.key not in writing.stored([each.key])]
                    writing.put_records(new)
            except HanseError as error:
                os.write(said, b"failed %d %s\\n" % (number, type(error).__name__.encode()))
            else:
                os.write(said, b"done %d\\n" % number)
                break
    storage.close()
    os.write(said, b"closed\\n")

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        sys.stdin.close()
        try:
            work(Path(line.rstrip("\\n")))
        except Exception:
            os._exit(1)
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(process, 0)[1]), flush=True)
"""


@dataclass
class Nursery:
    """Stores the groups in a copy of a home, once a run."""

    folder: Path
    home: Path
    groups: list[list[NewRecord]]
    process: "subprocess.Popen[str]"

    def run(self, calls: str = "all", *options: str) -> tuple[list[str], str]:
        """What was said, and the trace of some calls. No error but ours ended it."""
        folder = self.folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(self.home, folder / "registry")
        (folder / "groups").write_bytes(pickle.dumps(self.groups))
        (folder / "trace").touch()
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(folder, file=self.process.stdin, flush=True)
        _, traced = self.process.stdout.readline().split()
        subprocess.run(
            ["strace", "-y", "-p", traced, "-o", folder / "trace", "-e", f"trace={calls},getpgid", *options],
            capture_output=True, timeout=60, check=False,
        )  # fmt: skip
        if not (folder / "said").exists():  # it still waits to be traced
            subprocess.run(["kill", "-9", traced], check=False)
        code = int(self.process.stdout.readline())
        assert code in (0, -9), f"it ended with {code}"
        told = (folder / "said").read_text().splitlines() if (folder / "said").exists() else []
        return told, (folder / "trace").read_text()

    def places(self, trace: str) -> Iterator[tuple[str, int]]:
        """Each call that touches the store: its name, and which of that name it is."""
        counts: Counter[str] = Counter()
        for line in trace.splitlines():
            found = re.match(r"(\w+)\(", line)
            if found is not None:
                counts[found[1]] += 1
                if str(self.folder / "run" / "registry") in line and "F_UNLCK" not in line:
                    yield found[1], counts[found[1]]

    def expect_whole(self, told: list[str]) -> None:
        home = self.folder / "run" / "registry"
        storage = SqliteStorage(home / "registry.db")
        contents = [each.content for each in storage.changes(0, 1000, 1 << 30)]
        for number, records in enumerate(self.groups):
            there = [contents.count(each.envelope) for each in records]
            assert there in ([1] * len(records), [0] * len(records)), (
                f"group {number} is there in part, or twice: {there}"
            )
            assert f"done {number}" not in told or there[0], f"group {number} was acknowledged and is missing"
            failures = sum(line.startswith(f"failed {number} ") for line in told)
            assert failures < 2 or not there[0], f"group {number} was said to have failed, and is there"
        with storage.writing() as writing:  # and it goes on
            keys = writing.stored([each.key for records in self.groups for each in records])
            writing.put_records([each for records in self.groups for each in records if each.key not in keys])
        storage.close()
        assert app.check(home, deep=True) == []


@pytest.fixture(scope="module")
def nursery(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nursery]:
    if shutil.which("strace") is None:
        missing("strace is not installed: faults at system calls cannot be made (apt install strace)")
    folder = tmp_path_factory.mktemp("faults")
    with Registry.start(folder / "registry") as registry:
        member = registry.join("86.north")
        member.publish(member.record("before"))
        groups = []
        for number in range(GROUPS):
            envelopes = [member.record(f"{number}-{each}", title="trial " * 40) for each in range(number + 1)]
            records = [(each, wire.decode_record(each.payload)) for each in envelopes]
            groups.append(
                [
                    NewRecord(of.id.key, 1, each.digest, of.issued_at, wire.encode_envelope(each), document(of))
                    for each, of in records
                ]
            )
    process = subprocess.Popen(
        [sys.executable, "-c", NURSERY], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    made = Nursery(folder, folder / "registry", groups, process)
    try:
        _, trace = made.run("fdatasync")
        if "fdatasync" not in trace:
            missing("strace cannot trace here")
        yield made
    finally:
        assert process.stdin is not None
        process.stdin.close()
        process.wait(90)


def test_a_fault_at_any_call_of_an_append_loses_nothing_and_doubles_nothing(nursery: Nursery) -> None:
    told, trace = nursery.run()
    assert told == [*(f"done {each}" for each in range(GROUPS)), "closed"], "without a fault all goes well"
    nursery.expect_whole(told)
    places = list(nursery.places(trace))
    counts = Counter(call for call, _ in places)
    assert counts["pwrite64"] > 20 * GROUPS
    assert counts["fdatasync"] > GROUPS
    assert {"openat", "ftruncate", "unlink", "pread64", "fcntl"} <= counts.keys()
    failed: set[str] = set()
    cut: set[int] = set()
    for call, number in places:
        for fault, calls in FAULTS.items():
            if calls is not None and call not in calls:
                continue
            told, trace = nursery.run(call, "-e", f"inject={call}:{fault}:when={number}")
            hit = next((each for each in trace.splitlines() if "INJECTED" in each or "killed by" in each), "")
            assert hit, f"no {fault} at {call} {number}"
            nursery.expect_whole(told)
            failed |= {line.split()[-1] for line in told if line.startswith("failed")}
            if fault == "signal=KILL" and "closed" not in told:
                cut.add(len(told))
    assert failed == {"NoSpace", "StorageFailed"}, "what went wrong was said"
    assert len(cut) == GROUPS + 1, "it was killed during each of the transactions, and while it closed"
