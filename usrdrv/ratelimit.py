# SPDX-License-Identifier: MIT
"""Messages of a driver that may come with every request: some are enough."""

from __future__ import annotations

import logging
import time
from typing import Final

BURST: Final = 20
PERIOD: Final = 5.0
"""So many messages within so many seconds; it is what Linux allows, twice (lib/ratelimit.c)."""


class RateLimit(logging.Filter):
    """Lets a burst of messages through, then none until its time is over; the next one tells how many are missing.

    For a logger or a handler. Thread-safe.
    """

    def __init__(self, burst: int = BURST, period: float = PERIOD) -> None:
        super().__init__()
        self._burst = burst
        self._period = period
        self._begun = -period
        self._count = 0

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether to pass `record` on."""
        now = time.monotonic()
        if now - self._begun >= self._period:
            left_out = self._count - self._burst
            self._begun, self._count = now, 0
            if left_out > 0:
                record.msg = f"{record.getMessage()} ({left_out} messages before it were left out)"
                record.args = None
        self._count += 1
        return self._count <= self._burst
