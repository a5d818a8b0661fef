# SPDX-License-Identifier: MIT
"""Before a disk is detached: whether somebody uses it, and writing out what the kernel caches.

Both may have to wait for a driver that hangs, so both are given up after some time.
"""

from __future__ import annotations

import os
import select
import signal
import threading
import time
from collections.abc import Sequence
from typing import Final

from usrdrv import disks
from usrdrv.base import errors
from usrdrv.base.signals import Signals
from usrdrv.bridge.exports import Attachment
from usrdrv.bridge.kernel_disk import KernelDisk

SYNC_TIMEOUT: Final = 60.0
"""Seconds; more than the driver's own recovery from a drive that does not answer."""

REPEATED: Final = 1.0
"""Seconds after which a signal that comes again is meant: timeout(1) sends it to the process and to its group."""

CLAIM_TIMEOUT: Final = 10.0
"""Seconds; many times what the kernel takes to open a device."""


class _Claiming:
    """One try to claim a disk, in a thread of its own."""

    def __init__(self, disk: KernelDisk) -> None:
        self._disk = disk
        self._lock = threading.Lock()
        self._users = "unknown: the device does not answer"
        self._given_up = False

    def run(self) -> None:
        try:
            claim = self._disk.claim()
        except disks.InUseError as error:
            self._users = error.who
        except Exception as error:  # whatever it is, it is no leave to detach
            self._users = f"unknown: {error}"
        else:
            self._take(claim)

    def _take(self, claim: int) -> None:
        with self._lock:
            if self._given_up:  # the disk is served on: others may use it
                os.close(claim)
            else:
                self._disk.keep(claim)
                self._users = ""

    def give_up(self) -> str:
        """Claim it no more, if it is not claimed yet. Return who uses it."""
        with self._lock:
            self._given_up = True
            return self._users


def claim(attachment: Attachment) -> str:
    """Keep others from using it until it is detached; who uses it already, in words."""
    if attachment.disk is None:
        return ""
    # An open waits for a partition scan that is under way, and that waits for the driver, which may hang.
    claiming = _Claiming(attachment.disk)
    thread = threading.Thread(target=claiming.run, daemon=True)
    thread.start()
    thread.join(CLAIM_TIMEOUT)
    return claiming.give_up()


def sync(
    attachment: Attachment, signals: Signals, told: Sequence[signal.Signals], users: str
) -> None:
    """Push out what the kernel caches, of file systems as well where somebody uses it.

    A driver that does not answer is given up after SYNC_TIMEOUT, or when a signal of `told` comes again: a session
    that ends sends SIGHUP right after SIGTERM.
    """
    disk = attachment.disk
    if disk is None:
        return
    failure: list[str] = []

    def write() -> None:
        try:
            if users:
                disk.write_out()
            disk.sync()
        except Exception as error:  # whatever it is, not all was written
            failure.append(str(getattr(error, "strerror", error)))
        finally:
            os.close(done)

    waiting, done = os.pipe2(os.O_CLOEXEC)
    threading.Thread(target=write, daemon=True).start()
    if why := _await(waiting, signals, told):
        failure = [why]
    if failure:
        still = f"; it is still in use ({users}): unmount it" if users else ""
        raise errors.DeviceError(f"{attachment.where}: {failure[0]}: data lost{still}")


def _await(waiting: int, signals: Signals, came: Sequence[signal.Signals]) -> str:
    """Wait for the end of the pipe `waiting`; return why that is given up, if it is."""
    now = time.monotonic()
    deadline, first = now + SYNC_TIMEOUT, dict.fromkeys(came, now)
    while True:
        left = max(0, deadline - time.monotonic())
        ended, _, _ = select.select([waiting, signals.fd], [], [], left)
        if waiting in ended:
            os.close(waiting)
            return ""
        if not ended:
            return "the driver does not answer"
        now = time.monotonic()
        if any(now - first.setdefault(number, now) >= REPEATED for number in signals.take()):
            return "a signal ended the writing"
