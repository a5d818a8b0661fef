# SPDX-License-Identifier: MIT
"""A driver that lives but completes nothing: seen in the kernel's account of its block devices.

See docs/design/hangs.md.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.bridge.block import account
from usrdrv.bridge.say import say

HANGS: Final = 5
"""So many drivers in a row that complete nothing are given up. It takes usrloop four to end a request that each of
them hangs with: the first may have done something before."""

SHORTEST_LOOK: Final = 0.5
LONGEST_LOOK: Final = 5.0
KILL_TIMEOUT: Final = 10.0


def period(patience: float) -> float:
    """Seconds between two looks, one small file each."""
    return min(max(patience / 8, SHORTEST_LOOK), LONGEST_LOOK)


def overdue(patience: int) -> float:
    """Seconds after which a driver is killed for one request that it forgot, while it completes others; 0: never.

    Later than for a driver that completes nothing, so that this is seen as what it is.
    """
    return patience + 2 * period(patience) if patience else 0.0


class Watchdog:
    """Kills a driver that has requests and does not complete any of them for `patience` seconds.

    statistics: the `stat` files in sysfs of its block devices. None of them, or patience 0: nothing is watched. The
    kernel's own time-outs will not do: they would send a write again while the first copy may still be done.
    """

    def __init__(self, statistics: Sequence[Path], patience: int) -> None:
        self._statistics = statistics
        self._patience = patience
        self._since: float | None = None
        self._completed = -1
        self._hangs = 0
        self._completed_at_kill = -1
        self.period: float | None = None
        """Seconds between two looks."""
        if statistics and patience:
            self.period = period(patience)

    def look(self, now: float, child: Child) -> None:
        """Kill the driver if it is time. DeviceError: it is of no use, or impossible."""
        if not self._expired(now):
            return
        self._hangs = self._hangs + 1 if self._completed == self._completed_at_kill else 1
        self._completed_at_kill = self._completed
        hangs = f"the driver completed no request for {self._patience} s"
        if self._hangs == HANGS:
            raise errors.DeviceError(f"{hangs}, like the {HANGS - 1} before it; giving up")
        say(f"{hangs}: killing it")
        child.kill()
        if not child.wait(KILL_TIMEOUT):
            raise errors.DeviceError(f"{hangs}, and the driver cannot be killed")

    def _expired(self, now: float) -> bool:
        is_at = account.read(self._statistics)
        if is_at is None:  # it goes away under us: its driver's death is told elsewhere
            self._since = None
            return False
        if not is_at.in_flight:
            self._since = None
        elif self._since is None or is_at.completed != self._completed:
            self._since = now
        self._completed = is_at.completed
        return self._since is not None and now - self._since >= self._patience

    def start_again(self, at: float) -> None:
        """There is another driver, which has the waiting requests at the latest at that time."""
        self._since = at
