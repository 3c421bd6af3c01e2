"""The C library's allocator, told to keep large buffers."""

import resource
import subprocess
import sys

import pytest

PROGRAM = """
import resource
from hanse.rpc.allocation import keep_large_buffers
keep_large_buffers()
keep_large_buffers()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for number in range(400):
    bytearray(3 << 20), bytearray(5 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="glibc's malloc")
def test_the_pages_of_large_buffers_are_touched_first_only_once() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 1.5 * (8 << 20) / resource.getpagesize()
