# SPDX-License-Identifier: MIT
"""When a driver that died is started again, and when that is given up.

See docs/design/restart.md.
"""

from __future__ import annotations

import select
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Final

from usrdrv.base import errors
from usrdrv.base.signals import Signals
from usrdrv.bridge.say import say
from usrdrv.bridge.worker import presence
from usrdrv.bridge.worker.process import START_TIMEOUT

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

    @property
    def tried(self) -> bool:
        """Whether a driver was started since one last worked."""
        return self._tries > 0

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


@dataclass(frozen=True)
class Death:
    """A driver's end.

    how: in words. at: time.monotonic(). told: whether the last driver said that its device is gone; asked before
    each try.
    """

    how: str
    at: float
    returncode: int | None
    told: Callable[[], bool]
    worked: bool
    """See Backoff."""


def _sleep(signals: Signals, seconds: float) -> None:
    """InterruptedError when a signal comes meanwhile."""
    select.select([signals.fd], [], [], seconds)
    if signals.waiting:
        raise InterruptedError


class Restarts:
    """Starts drivers of `device` again, for as long as `patience` says (seconds; see Backoff)."""

    def __init__(self, device: str, patience: float) -> None:
        self._device = device
        self._patience = patience
        self._backoff = Backoff(patience)
        self.count = 0

    def bring_back(
        self,
        death: Death,
        signals: Signals,
        start: Callable[[Callable[[], bool], float], None],
        *,
        hold: Callable[[], None] = lambda: None,
        final: tuple[type[errors.UsrdrvError], ...] = (),
    ) -> None:
        """Have another driver serve.

        start: starts one; it gets `hurried` and `timeout`, as DriverProcess does. final: its errors that end the
        tries. hold: is called before each pause.
        DeviceError: no driver is to be had, and why; NoSuchDeviceError: the device is gone; InterruptedError: a
        signal came meanwhile.
        """
        last: errors.UsrdrvError | None = None
        for pause in self._backoff.pauses(death.at, death.worked):
            hold()
            _sleep(signals, pause)
            presence.check(self._device, death.told(), death.returncode, death.at)
            left = max(self._backoff.until - time.monotonic(), 0.0)
            try:
                start(lambda: signals.waiting, min(left, START_TIMEOUT))
            except final:
                raise
            except errors.UsrdrvError as error:
                # A later try that only had no time left says less than the one before it.
                if last is None or time.monotonic() < self._backoff.until:
                    last = error
                continue
            self.count += 1
            took = time.monotonic() - death.at
            say(f"the driver {death.how}; restarted in {took:.2f} s ({self.count})")
            return
        if last is None and self._backoff.tried:
            raise errors.DeviceError(
                f"the driver {death.how}; no driver has done anything for {self._patience:g} s; given up"
            )
        why = f": {last}" if last is not None else ""
        raise errors.DeviceError(
            f"the driver {death.how} and does not come back within {self._patience:g} s{why}"
        )
