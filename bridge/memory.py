# SPDX-License-Identifier: MIT
"""Processes that a disk needs to go on do not wait for that disk."""

from __future__ import annotations

import ctypes
import os
import resource
from typing import Final

PR_SET_IO_FLUSHER: Final = 57
MCL_CURRENT: Final = 1


def unlimited() -> bool:
    """Whether what is locked is not taken from what the process's device may have (RLIMIT_MEMLOCK)."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    return limit == resource.RLIM_INFINITY or os.geteuid() == 0


def stay_in_memory() -> None:
    """Never wait for the disk that we serve: not to allocate memory, not for a page of our own.

    prctl(2), which is for this thread and those that it starts; mlockall(2), for what there is now. Without the
    right to it, it works as long as nobody swaps to that disk.
    """
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_IO_FLUSHER, 1, 0, 0, 0)
    libc.mlockall(MCL_CURRENT)
