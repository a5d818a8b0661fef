# SPDX-License-Identifier: MIT
"""Checks of usrloop: eventfds that ENTER waits for and signals, and FINISH. Run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import errno
import fcntl
import os
import select
import threading

from scenario import PATIENCE
from usrloop_rig import (
    SMALL,
    check,
    polled,
    raw,
    refused,
)

from usrdrv.loop import Control, Server, lib, new


def register(control: Control, fd: int, index: int = 0, ack: int = -1, queue: int = 0) -> None:
    e = new("eventfd", queue=queue, index=index, fd=fd, ack_fd=ack)
    raw(control, lib.USRLOOP_IOC_EVENTFD, e)


@check
def eventfds_end_the_wait() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        one, two, ack = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        register(control, one, 0)
        register(control, two, 3, ack)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == 0
        threading.Timer(0.2, os.eventfd_write, (two, 5)).start()
        assert server.enter(timeout_ms=PATIENCE * 1000) == lib.USRLOOP_READY_EVENT << 3
        refused(errno.EAGAIN, os.eventfd_read, two)  # its count was taken
        refused(errno.EAGAIN, os.eventfd_read, ack)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT | lib.USRLOOP_ENTER_ACK) == 0
        assert os.eventfd_read(ack) == 1
        os.eventfd_write(one, 1)
        os.eventfd_write(two, 1)
        assert polled(control) == select.POLLIN
        assert server.enter() == lib.USRLOOP_READY_EVENT * 9
        server.enter(flags=lib.USRLOOP_ENTER_NOWAIT)  # without an acknowledgement
        refused(errno.EAGAIN, os.eventfd_read, ack)
        register(control, -1, 3)
        os.eventfd_write(two, 1)
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == 0
        assert os.eventfd_read(two) == 1
        server.close()
        for fd in (one, two, ack):
            os.close(fd)


@check
def only_a_claimed_function_ends_requests_by_itself() -> None:
    """With one: zero_copy.py, finish()."""
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        steps = new("finish", steps=1)
        refused(errno.EOPNOTSUPP, raw, control, lib.USRLOOP_IOC_FINISH, steps)
        refused(errno.EFAULT, fcntl.ioctl, control.fd, lib.USRLOOP_IOC_FINISH, 8)
        server.close()


@check
def an_event_is_acknowledged_however_late() -> None:
    """ENTER without ACK, and with other events, in between; not one that was registered anew meanwhile."""
    acknowledge = lib.USRLOOP_ENTER_NOWAIT | lib.USRLOOP_ENTER_ACK
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        one, two, ack = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(3))
        register(control, one, 0, ack)
        register(control, two, 1)
        os.eventfd_write(one, 1)
        assert server.enter() == lib.USRLOOP_READY_EVENT
        os.eventfd_write(two, 1)
        assert server.enter() == lib.USRLOOP_READY_EVENT << 1
        assert server.enter(flags=lib.USRLOOP_ENTER_NOWAIT) == 0
        refused(errno.EAGAIN, os.eventfd_read, ack)
        assert server.enter(flags=acknowledge) == 0
        assert os.eventfd_read(ack) == 1
        assert server.enter(flags=acknowledge) == 0
        refused(errno.EAGAIN, os.eventfd_read, ack)
        os.eventfd_write(one, 1)
        assert server.enter() == lib.USRLOOP_READY_EVENT
        register(control, one, 0, ack)
        assert server.enter(flags=acknowledge) == 0
        refused(errno.EAGAIN, os.eventfd_read, ack)
        server.close()
        for fd in (one, two, ack):
            os.close(fd)


@check
def eventfds_wake_poll() -> None:
    with Control() as control:
        control.create(SMALL)
        control.query()
        control.attach()
        control.query()
        fd = os.eventfd(0)
        register(control, fd)
        threading.Timer(0.2, os.eventfd_write, (fd, 1)).start()
        assert polled(control, PATIENCE * 1000) == select.POLLIN
        os.close(fd)


@check
def an_eventfd_that_is_signalled_already_or_closed() -> None:
    with Control() as control:
        control.create(SMALL)
        server = Server(control, control.attach())
        fd = os.eventfd(1)
        register(control, fd, 1)
        os.close(fd)
        assert server.enter() == lib.USRLOOP_READY_EVENT << 1
        register(control, -1, 1)
        server.close()


@check
def what_is_no_eventfd() -> None:
    with Control() as control:
        control.create(SMALL)
        control.attach()
        fd = os.eventfd(0)
        refused(errno.EINVAL, register, control, 0)
        refused(errno.EBADF, register, control, 999)
        refused(errno.EBADF, register, control, fd, 0, 999)
        refused(errno.EINVAL, register, control, fd, 0, control.fd)
        refused(errno.EINVAL, register, control, fd, lib.USRLOOP_EVENTFDS)
        refused(errno.EINVAL, register, control, fd, 0, -1, 64)
        os.close(fd)
