# SPDX-License-Identifier: MIT
"""A driver that died is started again under whoever uses its drives.

See docs/design/restart.md.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import suppress

from usrdrv import names
from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.base.signals import Signals
from usrdrv.bridge.block import account
from usrdrv.bridge.block.contract import Attachment, Server, statistics
from usrdrv.bridge.worker import presence
from usrdrv.bridge.worker.backoff import LONGEST, Death, Restarts


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
        self._restarts = Restarts(server.device, self._patience)
        self._begin()

    @property
    def count(self) -> int:
        """How often it was."""
        return self._restarts.count

    def prepare(self) -> None:
        """Have the next driver's process wait, if there may be a next one."""
        if self._patience:
            self._server.prepare()

    def _begin(self) -> None:
        """Another driver has the drive from now on."""
        self._since = time.monotonic()
        self._before = account.read(statistics(self._attachment))

    def _worked(self, died: float) -> bool:
        """Whether the driver that died did any work, or lived for a while with nothing to do."""
        now, before = account.read(statistics(self._attachment)), self._before
        if now is not None and before is not None and now.completed > before.completed:
            return True
        return died - self._since >= LONGEST and not (now is not None and now.in_flight)

    def still_there(self, dead: Child, died: float) -> None:
        """Raise if the device is gone: the driver said so or died of its registers, and the bus agrees."""
        told = self._server.device_gone()
        presence.check(self._server.device, told, dead.returncode, died)

    def bring_back(self) -> None:
        """Start the driver again and hand the kernel its new connection.

        DeviceError: it is not to be had, and why. InterruptedError: a signal came meanwhile.
        """
        server, resumable = self._server, self._resumable
        died, dead = time.monotonic(), server.child
        how = dead.status() if dead.returncode is not None else "does not end"
        if resumable is None or not self._patience:
            self.still_there(dead, died)
            raise errors.NoSuchDeviceError(f"{server.device}: {dead.name} {how}")

        def hold() -> None:
            with suppress(errors.DeviceError):  # then they wait a little all the same
                resumable.hold()

        def start(hurried: Callable[[], bool], timeout: float) -> None:
            server.start(hurried, timeout)
            self._begin()
            resumable.reconnect()

        death = Death(how, died, dead.returncode, server.device_gone, self._worked(died))
        self._restarts.bring_back(death, self._signals, start, hold=hold)
