# SPDX-License-Identifier: MIT
"""When a driver that died is started again, and when that is given up."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

FIRST: Final = 0.2
LONGEST: Final = 4.0
"""Seconds between two tries: doubled from the first to the longest."""


class Backoff:
    """When to try again after a driver's death, and when to give up. Times are time.monotonic() seconds.

    patience: seconds without a driver that serves; 0: there is no try. A death counts only if the driver had not
    worked (it did nothing, nor lived for LONGEST with nothing to do), nor lived for as long as the patience: then
    the tries, and the time, go on from before.
    Not thread-safe.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._tries = 0
        self._last_try = 0.0
        self.until = 0.0
        """When it is given up; of the last pauses()."""

    def pauses(self, died: float, worked: bool) -> Iterator[float]:
        """Yield seconds to wait before each try.

        died: when; worked: whether the driver moved or completed anything since its start.
        """
        if worked or not self._tries or died - self._last_try >= self._patience:
            self.until, self._tries = died + self._patience, 0
        while (left := self.until - time.monotonic()) > 0:
            pause = min(FIRST * 2 ** (self._tries - 1), LONGEST) if self._tries else 0.0
            self._tries += 1
            self._last_try = time.monotonic()
            yield min(pause, left)
