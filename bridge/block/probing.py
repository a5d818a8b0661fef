# SPDX-License-Identifier: MIT
"""udev's look at a disk, which it begins when a program closes it, must not meet the disk's end.

Its reads would fail, and the kernel would log an I/O error of a disk that had none. udev holds a shared
flock on the disk meanwhile, and leaves one alone that has an exclusive lock (systemd, "Locking Block
Device Access").
"""

import fcntl
import time
from typing import Final

PATIENCE: Final = 5.0
"""Seconds. A look takes less than one; another program may hold a lock for as long as it likes."""
STEP: Final = 0.01


def keep_out(fd: int) -> bool:
    """Wait for the end of udev's look at the disk `fd`, and have no other begin while `fd` is open.

    Return False if somebody still holds a lock after PATIENCE.
    """
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > deadline:
                return False
            time.sleep(STEP)
        else:
            return True
