# SPDX-License-Identifier: MIT
"""Checks of usrloop: disks that change their size. Run in a guest (usrloop_calls.py)."""

from __future__ import annotations

import contextlib
import errno
import itertools
import os
import socket
import threading
from collections.abc import Callable, Iterator

from scenario import PATIENCE
from usrloop_rig import SIZE, SMALL, Ram, check, refused, run, served, target, wait

from usrdrv.loop import Control, Interface, lib

NETLINK_KOBJECT_UEVENT = 15
"""include/uapi/linux/netlink.h"""


def resizes(events: socket.socket) -> list[str]:
    """The disks of which udev was told a new size, since it was asked last."""
    found = []
    with contextlib.suppress(BlockingIOError):
        while True:
            words = events.recv(8192, socket.MSG_DONTWAIT).split(b"\0")
            if b"RESIZE=1" in words:
                found += [word[8:].decode() for word in words if word.startswith(b"DEVNAME=")]
    return found


@contextlib.contextmanager
def log() -> Iterator[Callable[[], str]]:
    """What the kernel logs from now on."""
    fd = os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)
    os.lseek(fd, 0, os.SEEK_END)

    def read() -> str:
        found = ""
        with contextlib.suppress(BlockingIOError):
            while True:
                found += os.read(fd, 8192).decode()
        return found

    yield read
    os.close(fd)


@check
def a_disk_is_resized_live() -> None:
    events = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, NETLINK_KOBJECT_UEVENT)
    events.bind((0, 1))
    with events, log() as logged, served() as (control, ram, device):
        assert run("blockdev", "--getsize64", device) == str(SIZE)
        assert "capacity change" not in logged(), "it has had that size from its beginning"
        for size in (2 * SIZE, SIZE // 2, 512):
            control.resize(size)
            assert resizes(events) == [device.removeprefix("/dev/")], "before RESIZE returns"
            assert run("blockdev", "--getsize64", device) == str(size)
            assert control.query().blk.size == size
        logged()  # the kernel tells of changes as of any disk's, but of no more than ten in five seconds
        control.resize(512)
        assert not resizes(events), "it has that size"
        assert "capacity change" not in logged()
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=0)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=1000)
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=1 << 63)
        control.resize(4 * SIZE)
        control.stop()
        ram.join(PATIENCE)
        control.start()
        Ram(ram.server, bytearray(4 * SIZE))
        assert run("blockdev", "--getsize64", device) == str(4 * SIZE)
    with Control() as control:
        control.create(Interface())
        refused(errno.EINVAL, target, lib.USRLOOP_IOC_RESIZE, control, arg=4096)


@check
def a_disk_is_resized_while_it_goes_and_comes() -> None:
    """What is told of is there, and STOP waits for that."""
    with Control() as control:
        control.create(SMALL)
        control.attach()
        done = threading.Event()
        resized = [0, 0]

        def resize(number: int) -> None:
            for sectors in itertools.cycle((1, 2)):
                control.resize(sectors * 512)
                resized[number] += 1
                if done.is_set():
                    return

        threads = [threading.Thread(target=resize, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        for turn in range(30):
            control.start()
            wait(lambda turn=turn: min(resized) > turn, "both resize it")  # type: ignore[misc]
            control.stop(force=True)
        done.set()
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
