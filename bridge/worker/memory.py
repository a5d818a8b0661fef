# SPDX-License-Identifier: MIT
"""Processes that a disk needs to go on do not wait for that disk."""

from __future__ import annotations

import ctypes
import re
import resource
from contextlib import suppress
from pathlib import Path
from typing import Final

PR_SET_IO_FLUSHER: Final = 57
MCL_CURRENT: Final = 1
MCL_FUTURE: Final = 2
MCL_ONFAULT: Final = 4
CAP_IPC_LOCK: Final = 14

NEVER: Final = -1000
"""Badness (oom_score_adj) of a process that the kernel does not kill to get memory."""


def unlimited() -> bool:
    """Whether what is locked is not taken from what the process's device may have (RLIMIT_MEMLOCK)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return limit == resource.RLIM_INFINITY or _may_lock()


def _may_lock() -> bool:
    """Whether the limit does not hold for us: CAP_IPC_LOCK, in the first user namespace. Root may lack it."""
    try:
        status = Path("/proc/self/status").read_text()
        mapped = Path("/proc/self/uid_map").read_text().split()
    except OSError:
        return False
    effective = re.search(r"^CapEff:\s*([0-9a-f]+)", status, re.MULTILINE)
    may = effective is not None and bool(int(effective[1], 16) >> CAP_IPC_LOCK & 1)
    return may and mapped == ["0", "0", str(2**32 - 1)]


def stay_in_memory() -> None:
    """Never wait for the disk that we serve: not to allocate memory, not for a page of our own.

    prctl(2), which is for this thread and those that it starts; mlockall(2), for what there is now and, page by
    page as it is used, for what comes. The latter only where it is not limited: else what comes would fail.
    Without the right to either, it works as long as nobody swaps to that disk.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    libc.mlockall(MCL_CURRENT)
    if unlimited():
        libc.mlockall(MCL_FUTURE | MCL_ONFAULT)


def spare() -> None:
    """Have the kernel kill others when memory is short: this process, and those that it starts.

    With the driver of a disk go all who use that, and what is swapped out to it never comes back; and its death
    frees little. Without the right to it (CAP_SYS_RESOURCE) it is a process like any other.
    """
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text(f"{NEVER}\n")


def no_core() -> None:
    """Leave no core dump, also of what this process executes.

    It could go to the disk that the dying process serves, and the process does not end before it is written. 1 byte
    is too short for a dump in a file, and the one with which the kernel does not pipe it to a program
    either, as it does with 0 (Linux, fs/coredump.c). It may be raised again from outside: prlimit(1).
    """
    _, hard = resource.getrlimit(resource.RLIMIT_CORE)
    with suppress(OSError, ValueError):  # a limit of 0 that we may not raise
        resource.setrlimit(resource.RLIMIT_CORE, (1, hard if hard else 1))
