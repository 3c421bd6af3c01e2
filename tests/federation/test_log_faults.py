"""A fault at every system call that writes the log: nothing acknowledged is missing, nothing is there twice.

A small process opens evidence.db, makes it if need be, and appends to it, saying what was acknowledged. strace lets the
n-th call of one kind fail (EIO, ENOSPC), or kills the process there, for n = 1, 2, ... until there is no n-th any more
(while the home is made, which takes a hundred writes: every fourth). Then the home is opened again. What this does not
show: a power cut, in which the disk loses what was not synced.
"""

import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.breaking import missing
from tests.evidence import Member, append

pytestmark = [pytest.mark.federation, pytest.mark.xdist_group("log-faults"), pytest.mark.timeout(900)]

ROOT = Path(__file__).parents[2]

# Forks a process for each line, so that each begins at once: "FOLDER" in, its id and how it ended out. Each waits until
# it is traced. A change that failed is tried once more.
TRIES = 2
NURSERY = """
import ctypes, os, sys, time
from pathlib import Path
from hanse.errors import HanseError
from hanse.evidence.storage.log import Kind
from hanse.signing import SigningKey
from tests.evidence import Member, append

def fails(change):
    change.append(Kind.GRANT, b"never")
    raise ValueError

def work(folder):
    ctypes.CDLL(None).prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)  # PR_SET_PTRACER: others than root may trace it
    while "TracerPid:\\t0\\n" in Path("/proc/self/status").read_text():
        time.sleep(0.001)
    said = os.open(folder / "said", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    member = Member.of(folder)
    member.signing_key = SigningKey.from_pem((folder / "key").read_bytes())
    with member.evidence() as evidence:
        for number in range(int((folder / "changes").read_text())):
            payloads = [b"%d.%d%s" % (number, each, b"." * 700) for each in range(number % 3 + 1)]
            for attempt in range(%TRIES%):
                evidence.writer.submit(fails)  # in the same commit, or before it
                try:
                    append(evidence, *payloads)
                except HanseError as error:
                    os.write(said, b"failed %d %s\\n" % (number, type(error).__name__.encode()))
                else:
                    os.write(said, b"done %d\\n" % number)
                    break
    os.write(said, b"closed\\n")

for line in sys.stdin:
    process = os.fork()
    if process == 0:
        sys.stdin.close()
        try:
            work(Path(line.rstrip("\\n")))
        except Exception as error:
            os._exit(1)
        os._exit(0)
    print(process, flush=True)
    print(os.waitpid(process, 0)[1], flush=True)
"""


class Nursery:
    """Makes processes that append, and traces each with one fault in it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir()
        # A home whose log has entries and which was closed: what most starts find.
        self.member = Member.of(folder)
        with self.member.evidence() as evidence:
            append(evidence, b"before")
        self._process = subprocess.Popen(
            [sys.executable, "-c", NURSERY.replace("%TRIES%", str(TRIES))],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, changes: int, call: str, fault: str, when: str) -> tuple[Path, bool, str]:
        """The folder it worked in, whether the fault was hit, what strace complained of.

        Up to CHANGES are made in a home that is there; one in a home that is to be made.
        """
        folder = self._folder / "run"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        (folder / "key").write_bytes(self.member.signing_key.to_pem())
        (folder / "changes").write_text(str(changes))
        if changes > 1:
            shutil.copytree(self.member.home.folder, folder / self.member.home.folder.name)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(f"{folder}\n")
        self._process.stdin.flush()
        process = self._process.stdout.readline().strip()
        options = ("-e", f"trace={call}", "-e", f"inject={call}:{fault}:when={when}")
        traced = subprocess.run(
            ["strace", "-f", "-p", process, "-o", folder / "trace", *options],
            capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        if not (folder / "said").exists():  # it still waits to be traced
            subprocess.run(["kill", "-9", process], check=False)
        self._process.stdout.readline()
        trace = (folder / "trace").read_text()
        return folder, "INJECTED" in trace or "killed by SIGKILL" in trace, traced.stderr

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(90)


@pytest.fixture(scope="module")
def nurseries(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Nursery]]:
    if shutil.which("strace") is None:
        missing("strace is not installed: faults at system calls cannot be made (apt install strace)")
    folder = tmp_path_factory.mktemp("faults")
    made = [Nursery(folder / f"{number}") for number in range(2)]
    try:
        _, hit, complaint = made[0].run(CHANGES, "fdatasync", "error=EIO", "1")
        if not hit:
            missing(f"strace cannot trace here: {complaint.strip().splitlines()[-1:]}")
        yield made
    finally:
        for each in made:
            each.close()


def expect_whole(nursery: Nursery, folder: Path, changes: int) -> list[str]:
    """Opens the home again as the next start would. What was said before it ended."""
    told = (folder / "said").read_text().splitlines() if (folder / "said").exists() else []
    acknowledged = {int(line.split()[1]) for line in told if line.startswith("done ")}
    member = Member.of(folder)
    member.signing_key = nursery.member.signing_key
    with member.evidence() as evidence:
        assert evidence.verify(deep=True) is None
        counts = Counter((each.payload or b"").rstrip(b".").decode() for each in evidence.leaves())
        assert counts.pop("before", 0) == (changes > 1)
        for number in range(changes):
            found = [counts.pop(f"{number}.{each}", 0) for each in range(number % 3 + 1)]
            assert found in ([1] * len(found), [0] * len(found)), f"change {number} is there in part, or twice: {found}"
            assert number not in acknowledged or found[0], f"change {number} was acknowledged and is missing"
            failures = sum(line.startswith(f"failed {number} ") for line in told)
            assert failures < TRIES or not found[0], f"change {number} was said to have failed, and is there"
        assert not counts
        assert append(evidence, b"after") == [evidence.size() - 1]
        assert evidence.verify(deep=True) is None
    return told


CALLS = ["pwrite64", "write", "fdatasync", "fsync", "ftruncate"]
FAULTS = ["signal=KILL", "error=ENOSPC", "error=EIO"]
CHANGES = 6


def hits(nursery: Nursery, changes: int, call: str, fault: str) -> list[list[str]]:
    """For each n, what was said in spite of the fault."""
    step = 4 if changes == 1 and call == "pwrite64" else 1
    found: list[list[str]] = []
    while True:
        folder, hit, _ = nursery.run(changes, call, fault, str(step * len(found) + 1))
        told = expect_whole(nursery, folder, changes)
        if not hit:
            assert told == [*(f"done {each}" for each in range(changes)), "closed"], "without a fault all goes well"
            return found
        found.append(told)


def every_call(nurseries: list[Nursery], changes: int) -> dict[tuple[str, str], list[list[str]]]:
    todo = [(call, fault) for fault in FAULTS for call in CALLS[::-1]]
    found = {}

    def share(nursery: Nursery) -> None:
        while todo:
            call, fault = todo.pop()
            found[call, fault] = hits(nursery, changes, call, fault)

    with ThreadPoolExecutor(len(nurseries)) as pool:
        list(pool.map(share, nurseries))
    return found


def test_a_fault_at_any_call_of_an_append_loses_nothing_and_doubles_nothing(nurseries: list[Nursery]) -> None:
    found = every_call(nurseries, CHANGES)
    for fault in FAULTS:
        assert len(found["pwrite64", fault]) > 4 * CHANGES
        assert len(found["fdatasync", fault]) >= CHANGES
        assert len(found["write", fault]) == CHANGES + 1
    for call, fault, error in (  # a change that fails says why; once more, and it is there
        ("pwrite64", "error=ENOSPC", "NoSpace"),
        ("pwrite64", "error=EIO", "StorageFailed"),
        ("fdatasync", "error=EIO", "StorageFailed"),
    ):
        repeated = [n for n in range(CHANGES) for told in found[call, fault] if f"failed {n} {error}" in told]
        assert len(set(repeated)) >= CHANGES - 2
        assert all(
            f"done {n}" in told for n in repeated for told in found[call, fault] if f"failed {n} {error}" in told
        )
    killed = {len(told) for told in found["pwrite64", "signal=KILL"]}
    assert {*range(CHANGES)} <= killed, "it was killed during each of the changes"


def test_a_fault_at_any_call_of_making_the_home_loses_nothing_and_doubles_nothing(nurseries: list[Nursery]) -> None:
    found = every_call(nurseries, 1)
    for fault in FAULTS:
        assert len(found["pwrite64", fault]) > 10
        assert len(found["fdatasync", fault]) > 2


@pytest.mark.parametrize("call", ["pwrite64", "fdatasync"])
@pytest.mark.parametrize("fault", ["error=EIO", "error=ENOSPC"])
def test_a_disk_that_fails_from_some_moment_on_loses_nothing(nurseries: list[Nursery], call: str, fault: str) -> None:
    """A sample of moments: every third."""
    failed = 0
    for number in range(1, 60, 3):
        folder, hit, _ = nurseries[0].run(CHANGES, call, fault, f"{number}+")
        told = expect_whole(nurseries[0], folder, CHANGES)
        failed += any(line.startswith("failed") for line in told)
        if not hit:
            break
    assert failed
