# SPDX-License-Identifier: MIT
"""Before a disk is detached: whether somebody uses it, and writing out what the kernel caches.

Both may have to wait for a driver that hangs, so both are given up after some time.

See docs/design/write-errors.md.
"""

from __future__ import annotations

import os
import select
import threading
import time
from collections.abc import Sequence
from typing import Final

from usrdrv import disks
from usrdrv.base import errors
from usrdrv.base.signals import Received, Signals
from usrdrv.bridge.block.contract import Attachment
from usrdrv.bridge.block.kernel_disk import KernelDisk

SYNC_TIMEOUT: Final = 60.0
"""Seconds; more than the driver's own recovery from a drive that does not answer."""

REPEATED: Final = 1.0
"""Seconds from a signal to the same one that is meant: timeout(1) sends it to the process and to its group."""

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


def _each(attachment: Attachment, texts: Sequence[str]) -> str:
    """Put together what there is to say of each of its disks, which are named if there are several."""
    if len(texts) <= 1:
        return "".join(texts)
    said = zip(attachment.disks, texts, strict=True)
    return "; ".join(f"{disk.where}: {text}" for disk, text in said if text)


def users(attachment: Attachment) -> str:
    """Return who uses its disks, as far as that can be seen from here, in words."""
    return _each(attachment, [", ".join(disk.users()) for disk in attachment.disks])


def claim(attachment: Attachment) -> str:
    """Keep others from using its disks until they are detached; who uses them already, in words."""
    # An open waits for a partition scan that is under way, and that waits for the driver, which may hang.
    claiming = [_Claiming(disk) for disk in attachment.disks]
    threads = [threading.Thread(target=one.run, daemon=True) for one in claiming]
    deadline = time.monotonic() + CLAIM_TIMEOUT
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(deadline - time.monotonic(), 0))
    return _each(attachment, [one.give_up() for one in claiming])


def release(attachment: Attachment) -> None:
    """Let others use its disks again: they are not detached after all."""
    for disk in attachment.disks:
        disk.release()


class _Writing:
    """One disk's cached data, pushed out in a thread of its own: a drive that hangs keeps no other waiting."""

    def __init__(self, disk: KernelDisk, *, used: bool) -> None:
        self._disk, self._used = disk, used
        self.failure = ""
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            if self._used:
                self._disk.write_out()
            self._disk.sync()
        except Exception as error:  # whatever it is, not all was written
            self.failure = str(getattr(error, "strerror", error))

    @property
    def done(self) -> bool:
        return not self._thread.is_alive()

    def wait(self) -> None:
        self._thread.join()


def sync(attachment: Attachment, signals: Signals, told: Sequence[Received], users: str) -> None:
    """Push out what the kernel caches, of file systems as well where somebody uses it.

    A driver that does not answer is given up after SYNC_TIMEOUT, or when a signal of `told` comes again: a session
    that ends sends SIGHUP right after SIGTERM.
    """
    waiting, done = os.pipe2(os.O_CLOEXEC)
    writing = [_Writing(disk, used=bool(users)) for disk in attachment.disks]

    def wait() -> None:
        for one in writing:
            one.wait()
        os.close(done)

    threading.Thread(target=wait, daemon=True).start()
    given_up = _await(waiting, signals, told)
    failure = _each(attachment, [one.failure if one.done else given_up for one in writing])
    if failure:
        still = f"; it is still in use ({users}): unmount it" if users else ""
        raise errors.DeviceError(f"{attachment.where}: {failure}: data lost{still}")


def _await(waiting: int, signals: Signals, told: Sequence[Received]) -> str:
    """Wait for the end of the pipe `waiting`; return why that is given up, if it is."""
    deadline = time.monotonic() + SYNC_TIMEOUT
    first = dict(reversed(told))  # of each signal, when it came first
    while True:
        left = max(0, deadline - time.monotonic())
        ended, _, _ = select.select([waiting, signals.fd], [], [], left)
        if waiting in ended:
            os.close(waiting)
            return ""
        if not ended:
            return "the driver does not answer"
        if any(at - first.setdefault(number, at) >= REPEATED for number, at in signals.take()):
            return "a signal ended the writing"
