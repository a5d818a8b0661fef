# SPDX-License-Identifier: MIT
"""The supervisor of disks: sleeps until a signal or the death of a part, and goes on or detaches."""

from __future__ import annotations

import select
import signal
import time
from collections.abc import Sequence
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.base.signals import Signals
from usrdrv.bridge.block import detach
from usrdrv.bridge.block.contract import REPLAY_TIME, Attachment, Server
from usrdrv.bridge.block.restart import Restarter
from usrdrv.bridge.block.watchdog import Watchdog
from usrdrv.bridge.say import say

LEAVING: Final = 5.0
"""Seconds that a driver has to end when the kernel has taken its disk away."""


def serve(
    server: Server,
    attachment: Attachment,
    signals: Signals,
    restarter: Restarter,
    hangs: Watchdog,
) -> int:
    """Serve until told to end. Return the exit code; DeviceError, NoSuchDeviceError: it cannot go on."""
    warned = False
    while True:
        restarter.prepare()
        children = [server.child, *attachment.children]
        if server.standby is not None:
            children.append(server.standby)
        try:
            dead = _wait(signals, children, attachment, hangs)
        except errors.DeviceError as error:
            raise errors.DeviceError(
                f"{server.device}: {error}{_still_used(attachment)}"
            ) from error
        if server.child in dead:
            server_lost = not _bring_back(restarter, attachment, hangs)
            if not server_lost:
                continue
        elif server.standby in dead:
            continue
        elif dead:
            raise errors.NoSuchDeviceError(_death(server, attachment, dead[0], restarter))
        else:
            server_lost = False
        told = signals.take()
        users = detach.claim(attachment)
        if server_lost and users:
            # A driver is needed either way: to go on, or to write what the kernel caches.
            server.child.kill()
            server.child.wait(LEAVING)
            server_lost = not _bring_back(restarter, attachment, hangs)
        insisted = any(came.number != signal.SIGINT for came in told)
        if users and not (insisted or warned or server_lost):
            say(
                f"{attachment.where} is in use ({users}): still serving; "
                "unmount it first, or press Ctrl-C again to detach all the same"
            )
            detach.release(attachment)
            warned = True
            continue
        if users and not server_lost:
            say(
                f"{attachment.where} is in use ({users}): writing its cached data, then detaching it; "
                "send the same signal again to skip the writing"
            )
        if not server_lost:
            detach.sync(attachment, signals, told, users)
        if users:
            raise errors.DeviceBusyError(
                f"{attachment.where}: detached while in use ({users}); unmount it now"
            )
        if server_lost:
            raise errors.DeviceError(f"{attachment.where}: detached while its driver was down")
        return 0


def _wait(
    signals: Signals, children: Sequence[Child], attachment: Attachment, hangs: Watchdog
) -> list[Child]:
    """Sleep until a signal or a death. Return who died. The first child is the driver, the one to watch."""
    poll = select.poll()
    for fd in (signals.fd, *(child.pidfd for child in children)):
        poll.register(fd, select.POLLIN)
    if attachment.news is not None:
        poll.register(attachment.news, select.POLLIN)
    timeout = None if hangs.period is None else hangs.period * 1000
    while True:
        ready = {fd for fd, _ in poll.poll(timeout)}
        if not ready:
            hangs.look(time.monotonic(), children[0])
            continue
        dead = [child for child in children if child.pidfd in ready and child.wait(1)]
        if attachment.news in ready and attachment.lost_server() and children[0] not in dead:
            _see_end(children[0])
            dead.insert(0, children[0])
        if dead or signals.fd in ready:
            return dead


def _see_end(driver: Child) -> None:
    """The kernel has taken the disk from a driver, or seen it die before we do.

    One that does not even die, as it may wait for the disk itself, is none all the same: it can serve no more.
    """
    if driver.wait(LEAVING):
        return
    say(
        f"the kernel has taken the disk from the driver, which does not end: {driver.name} is killed"
    )
    driver.kill()
    driver.wait(LEAVING)


def _bring_back(restarter: Restarter, attachment: Attachment, hangs: Watchdog) -> bool:
    """Have another driver serve. False: a signal came before there was one."""
    try:
        restarter.bring_back()
    except InterruptedError:
        return False
    except errors.UsrdrvError as error:
        raise errors.NoSuchDeviceError(f"{error}{_still_used(attachment)}") from error
    hangs.start_again(time.monotonic() + REPLAY_TIME)
    return True


def _death(server: Server, attachment: Attachment, child: Child, restarter: Restarter) -> str:
    if server.child.wait(0.5):
        child = server.child  # nbdfuse ends with its server
    said = f"{server.device}: {child.name} {child.status()}"
    try:
        restarter.still_there(server.child, time.monotonic())
    except errors.NoSuchDeviceError as error:
        said = str(error)
    return said + _still_used(attachment)


def _still_used(attachment: Attachment) -> str:
    users = detach.users(attachment)
    return f"; {attachment.where} is still in use ({users}): unmount it" if users else ""
