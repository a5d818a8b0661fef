# SPDX-License-Identifier: MIT
"""A driver that died is started again under whoever uses its drive; when that is given up."""

from __future__ import annotations

import sys
import time
from collections import deque
from typing import Final

from usrdrv import errors, names
from usrdrv.bridge.exports import Attachment, Server
from usrdrv.bridge.process import Child
from usrdrv.bridge.signals import Signals
from usrdrv.bridge.supervisor import START_TIMEOUT

DEATHS: Final = 5
WINDOW: Final = 30.0
"""So many deaths within so many seconds are not chance."""

PAUSES: Final = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each try: a killed owner's hold on a device may take a moment to end."""


def outlived(device: str) -> bool:
    """Whether what the drive was told to keep is still there when the driver's process ends."""
    name = names.parse(device)
    return not (isinstance(name, names.ModelName) and "ram" in name.options)


class Restarter:
    """Brings the driver of one drive back.

    patience: seconds that requests wait for it in the kernel; 0: it is never brought back.
    """

    def __init__(
        self, server: Server, attachment: Attachment, signals: Signals, patience: int
    ) -> None:
        self._server = server
        self._attachment = attachment
        self._signals = signals
        self._patience = patience if attachment.restartable and outlived(server.device) else 0
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self._count = 0

    def prepare(self) -> None:
        """Have the next driver's process wait, if there may be a next one."""
        if self._patience:
            self._server.prepare()

    def _still_there(self, dead: Child) -> None:
        device = self._server.device
        if self._server.device_gone() or dead.unplugged(device):
            raise errors.NoSuchDeviceError(f"{device}: the driver ended, its device is gone")

    def bring_back(self) -> None:
        """Start the driver again and hand the kernel its new connection.

        DeviceError: it is not to be had, and why. InterruptedError: a signal came meanwhile.
        """
        server = self._server
        died, dead = time.monotonic(), server.child
        how = dead.status()
        self._still_there(dead)
        last = f"{server.device}: {dead.name} {how}"
        if not self._patience:
            raise errors.NoSuchDeviceError(last)
        self._deaths.append(died)
        if len(self._deaths) == DEATHS and died - self._deaths[0] < WINDOW:
            raise errors.DeviceError(f"{last}: {DEATHS} deaths within {WINDOW:.0f} s; given up")
        until, tried = died + self._patience, False
        for pause in PAUSES:
            time.sleep(pause)
            self._still_there(dead)
            left = until - time.monotonic()
            if left <= 0:
                break
            try:
                server.start(lambda: self._signals.waiting, min(left, START_TIMEOUT))
                self._attachment.reconnect()
            except errors.UsrdrvError as error:
                # A later try that only had no time left says less than the one before it.
                if not tried or time.monotonic() < until:
                    last = str(error)
                tried = True
                continue
            self._count += 1
            took = time.monotonic() - died
            print(
                f"usrdrv: the driver {how}; restarted in {took:.2f} s ({self._count})",
                file=sys.stderr,
                flush=True,
            )
            return
        raise errors.DeviceError(f"the driver {how} and does not come back: {last}")
