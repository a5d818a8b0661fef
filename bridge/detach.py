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

SYNC_TIMEOUT: Final = 60.0
"""Seconds; more than the driver's own recovery from a drive that does not answer."""

REPEATED: Final = 1.0
"""Seconds after which a signal that comes again is meant: timeout(1) sends it to the process and to its group."""

CLAIM_TIMEOUT: Final = 10.0
"""Seconds; many times what the kernel takes to open a device."""


def claim(attachment: Attachment) -> str:
    """Keep others from using it until it is detached; who uses it already, in words."""
    users = ["unknown: the device does not answer"]

    def ask() -> None:
        try:
            attachment.claim()
            users.append("")
        except disks.InUseError as error:
            users.append(error.who)
        except Exception as error:  # whatever it is, it is no leave to detach
            users.append(f"unknown: {error}")

    # An open waits for a partition scan that is under way, and that waits for the driver, which may hang.
    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CLAIM_TIMEOUT)
    return users[-1]


def sync(
    attachment: Attachment, signals: Signals, told: Sequence[signal.Signals], users: str
) -> None:
    """Push out what the kernel caches, of file systems as well where somebody uses it.

    A driver that does not answer is given up after SYNC_TIMEOUT, or when a signal of `told` comes again: a session
    that ends sends SIGHUP right after SIGTERM.
    """
    failure: list[str] = []

    def write() -> None:
        try:
            if users:
                attachment.write_out()
            attachment.sync()
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
