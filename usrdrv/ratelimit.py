# SPDX-License-Identifier: MIT
"""Messages of a driver that may come with every request: some of each cause are told, the rest is counted."""

import logging
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

BURST: Final = 5
SECONDS: Final = 60.0


@dataclass
class _Cause:
    since: float
    told: int = 0
    left_out: int = 0


class Limited:
    """A log that takes BURST messages of each cause in SECONDS, and then says how many it left out.

    Thread-safe. `prefix` goes before each message; `clock`: seconds, monotonic.
    """

    def __init__(
        self, log: logging.Logger, prefix: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._log = log
        self._prefix = prefix
        self._clock = clock
        self._causes: dict[str, _Cause] = {}
        self._lock = threading.Lock()

    def tell(self, level: int, cause: str, message: str, *arguments: Any) -> None:
        """Log the message, unless its cause has had its share."""
        now = self._clock()
        with self._lock:
            if cause not in self._causes or now - self._causes[cause].since > SECONDS:
                self._sum_up(cause)
                self._causes[cause] = _Cause(now)
            known = self._causes[cause]
            if known.told == BURST:
                known.left_out += 1
                return
            known.told += 1
            self._log.log(level, f"%s: {message}", self._prefix, *arguments)

    def close(self) -> None:
        """Say what was left out since."""
        with self._lock:
            for cause in self._causes:
                self._sum_up(cause)
            self._causes.clear()

    def _sum_up(self, cause: str) -> None:
        if cause in self._causes and self._causes[cause].left_out:
            left_out = self._causes[cause].left_out
            self._log.warning("%s: %s: %d more like it", self._prefix, cause, left_out)
