# SPDX-License-Identifier: MIT
"""A driver that died is started again under whoever uses its drive; when that is given up.

See docs/design/restart.md.
"""

from __future__ import annotations

import select
import time
from contextlib import suppress

from usrdrv import names
from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.base.signals import Signals
from usrdrv.bridge import account, exports, presence
from usrdrv.bridge.backoff import LONGEST, Backoff
from usrdrv.bridge.exports import Attachment, Resumable, Server
from usrdrv.bridge.say import say
from usrdrv.bridge.supervisor import START_TIMEOUT


def outlived(device: str) -> bool:
    """Whether what the drive was told to keep is still there when the driver's process ends."""
    name = names.parse(device)
    if isinstance(name, names.NullName):
        return False
    return not (isinstance(name, names.ModelName) and "ram" in name.options)


class Restarter:
    """Brings a driver back.

    patience: seconds that requests wait for it in the kernel; 0: it is never brought back.
    """

    def __init__(
        self, server: Server, attachment: Attachment, signals: Signals, patience: int
    ) -> None:
        self._server = server
        self._attachment = attachment
        self._signals = signals
        self._resumable = attachment.resumable if outlived(server.device) else None
        self._patience = patience if self._resumable is not None else 0
        self._backoff = Backoff(self._patience)
        self._count = 0
        self._begin()

    def prepare(self) -> None:
        """Have the next driver's process wait, if there may be a next one."""
        if self._patience:
            self._server.prepare()

    def _begin(self) -> None:
        """Another driver has the drive from now on."""
        self._since = time.monotonic()
        self._before = account.read(exports.statistics(self._attachment))

    def _worked(self, died: float) -> bool:
        """Whether the driver that died did any work, or lived for a while with nothing to do."""
        now, before = account.read(exports.statistics(self._attachment)), self._before
        if now is not None and before is not None and now.completed > before.completed:
            return True
        return died - self._since >= LONGEST and not (now is not None and now.in_flight)

    def still_there(self, dead: Child, died: float) -> None:
        """Raise if the device is gone: the driver said so or died of its registers, and the bus agrees."""
        told = self._server.device_gone()
        presence.check(self._server.device, told, dead.returncode, died)

    def _sleep(self, seconds: float) -> None:
        """InterruptedError when a signal comes meanwhile."""
        select.select([self._signals.fd], [], [], seconds)
        if self._signals.waiting:
            raise InterruptedError

    def bring_back(self) -> None:
        """Start the driver again and hand the kernel its new connection.

        DeviceError: it is not to be had, and why. InterruptedError: a signal came meanwhile.
        """
        server = self._server
        died, dead = time.monotonic(), server.child
        how = dead.status() if dead.returncode is not None else "does not end"
        last = f"{server.device}: {dead.name} {how}"
        if self._resumable is None or not self._patience:
            self.still_there(dead, died)
            raise errors.NoSuchDeviceError(last)
        worked, tried = self._worked(died), False
        for pause in self._backoff.pauses(died, worked):
            with suppress(errors.DeviceError):  # then they wait a little all the same
                self._resumable.hold()
            self._sleep(pause)
            self.still_there(dead, died)
            try:
                self._try(self._resumable)
            except errors.UsrdrvError as error:
                # A later try that only had no time left says less than the one before it.
                if not tried or time.monotonic() < self._backoff.until:
                    last = str(error)
                tried = True
                continue
            self._count += 1
            took = time.monotonic() - died
            say(f"the driver {how}; restarted in {took:.2f} s ({self._count})")
            return
        if tried:
            raise errors.DeviceError(f"the driver {how} and does not come back: {last}")
        raise errors.DeviceError(
            f"{last}: no driver has completed a request for {self._patience} s; given up"
        )

    def _try(self, resumable: Resumable) -> None:
        left = max(self._backoff.until - time.monotonic(), 0.0)
        self._server.start(lambda: self._signals.waiting, min(left, START_TIMEOUT))
        self._begin()
        resumable.reconnect()
