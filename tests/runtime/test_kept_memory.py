"""What a training process asks of the C library and of Linux."""

import re
import subprocess
import sys

import pytest

PROGRAM = """
import re, resource, sys
limit = int(sys.argv[1])
if limit:
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
from lmjax.runtime import memory
def resident():
    return int(re.search(r"VmRSS:\\s+(\\d+)", open("/proc/self/status").read())[1]) << 10
before = resident()
memory.keep()
print("reserving took", resident() - before)
import numpy as np
array = np.ones(64 << 20, np.uint8)
where = array.ctypes.data
for entry in re.split(r"(?m)^(?=[0-9a-f]+-[0-9a-f]+ )", open("/proc/self/smaps").read()):
    bounds = re.match(r"([0-9a-f]+)-([0-9a-f]+) ", entry)
    if bounds and int(bounds[1], 16) <= where < int(bounds[2], 16):
        print("flags", re.search(r"VmFlags: (.*)", entry)[1])
del array
again = np.ones(64 << 20, np.uint8)
print("kept" if again.ctypes.data == where else "given back")
"""


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it knows of a process")
def test_memory_is_kept_and_may_come_in_large_pages():
    found = run(0)
    assert int(re.search(r"reserving took (-?\d+)", found)[1]) < 1 << 20
    assert "hg" in re.search(r"flags (.*)", found)[1].split()
    assert "kept" in found


@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux what it knows of a process")
def test_nothing_is_reserved_where_addresses_are_limited():
    found = run(2 << 30)
    assert "hg" not in re.search(r"flags (.*)", found)[1].split()
    assert "kept" in found


def run(limit: int) -> str:
    command = [sys.executable, "-c", PROGRAM, str(limit)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return done.stdout
