# SPDX-License-Identifier: MIT
"""How often and for how long a driver that died is started again."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

FIRST: Final = 0.2
LONGEST: Final = 4.0


class Backoff:
    """When to try again after a driver's death, and when to give up. Times are time.monotonic() seconds.

    patience: seconds. They begin with the first death since a driver worked: deaths of drivers that did their
    work count for nothing, however many there are, and a crash loop ends. Not thread-safe.
    """

    def __init__(self, patience: float) -> None:
        self._patience = patience
        self._pause: float | None = None
        self.until = 0.0
        """When it is given up; of the last pauses()."""

    def pauses(self, died: float, worked: bool) -> Iterator[float]:
        """Yield seconds to wait before each try; the end of them is the end of the patience.

        The first is 0 if the driver that died at `died` had worked. If not, the pauses go on growing from those of
        the deaths before.
        """
        if worked or self._pause is None:
            self._pause = 0.0
            self.until = died + self._patience
        while (left := self.until - time.monotonic()) > 0:
            pause = self._pause
            self._pause = min(max(2 * pause, FIRST), LONGEST)
            yield min(pause, left)
