# SPDX-License-Identifier: MIT
"""What a process that serves a disk has in memory stays there, also what it gets later."""

from __future__ import annotations

import subprocess
import sys

from tests.needs import NEEDS_ROOT

LATER = """
import mmap, os, resource, sys
from usrdrv.bridge.worker.memory import stay_in_memory
if sys.argv[1] == "limited":
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (1 << 20, 1 << 20))
    if os.geteuid() == 0:
        os.setresuid(65534, 65534, 65534)
stay_in_memory()
memory = mmap.mmap(-1, 512 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
memory[5 << 20] = 1
for area in open("/proc/self/smaps").read().split("VmFlags:")[:-1]:
    if "Size:             524288 kB" in area:
        print(*[line for line in area.splitlines() if line.startswith(("Rss:", "Locked:"))])
"""


def later(kind: str) -> list[str]:
    """Return Rss and Locked, in KiB, of memory that is mapped afterwards and of which a page is used."""
    command = [sys.executable, "-c", LATER, kind]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    _, rss, _, _, locked, _ = done.stdout.split()
    return [rss, locked]


@NEEDS_ROOT  # others may not lock memory without a limit
def test_what_comes_later_is_locked_as_it_is_used() -> None:
    rss, locked = later("unlimited")
    assert rss == locked and 0 < int(rss) <= 2048


def test_a_limit_of_locked_memory_is_none_of_memory() -> None:
    """More than may be locked can still be had, as before."""
    assert later("limited")[1] == "0"
