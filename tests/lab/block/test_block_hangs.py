# SPDX-License-Identifier: MIT
"""A driver that lives and serves no more: it is stopped, hangs, or has lost the disk."""

from __future__ import annotations

import re
import signal
import time

from tests.lab.block.ways import USRLOOP, Served, Way, nothing_is_left
from tests.lab.helpers.disks import LOAD
from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import again_and_again, all_was_verified, finish, fio, gets_on
from usrdrv.lab.guest import Guest

REQUEST_TIME = 10
"""Seconds. Longer than a busy host leaves a driver that works without a processor."""


def test_a_driver_that_hangs_is_killed_and_the_file_system_lives(guest: Guest, way: Way) -> None:
    served = Served(guest, way, "--request-time", str(REQUEST_TIME))
    device = served.device
    guest.run(f"mkfs.ext4 -q -F {device} && mount {device} /mnt", 120, check=True)
    log = guest.console.position()
    load = again_and_again(guest, fio("--directory=/mnt", size=LOAD))
    gets_on(guest, device, load, sectors=2048)
    begun = time.monotonic()
    gets_on(guest, device, load)  # so the last request that it completed is none from before
    served.signal_driver("STOP")
    served.restarted(1)
    assert time.monotonic() - begun > REQUEST_TIME, "it had its time"
    assert f"the driver completed no request for {REQUEST_TIME} s: killing it" in served.job.err
    gets_on(guest, device, load)
    finish(guest, load)
    all_was_verified(load, LOAD)
    assert served.restarts == 1, "one that works is left alone"
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}", 120, check=True)
    # also a flush without any data, which the kernel counts apart
    served.signal_driver("STOP")
    flush = f"import os; os.fsync(os.open('{device}', os.O_RDWR))"
    guest.run(["python3", "-c", flush], 120, check=True)
    served.restarted(2)  # it says so when requests go on already
    # and one that is stopped while nobody asks it for anything
    served.signal_driver("STOP")
    time.sleep(REQUEST_TIME + 2)  # nothing is to happen
    served.signal_driver("CONT")
    assert served.end() == 0, served.job.err
    assert served.restarts == 2
    nothing_is_left(guest, way)


def test_the_kernel_has_taken_the_disk_from_a_driver_that_does_not_end(guest: Guest) -> None:
    """It was stopped, as one that hangs, and has no request: nobody but the kernel says that it serves no more."""
    way = USRLOOP
    served = Served(guest, way)
    device = served.device
    wait(lambda: not guest.run("pgrep -x usrdrv-standby").code, 60, "standby")
    number = int(device.removeprefix("/dev/usrblk"))
    served.signal_driver("STOP")
    detach = f"from usrdrv import loop; loop.Control().detach(loop.lib.USRLOOP_BLOCK, {number})"
    guest.run(["python3", "-c", detach], 60, check=True)
    guest.run(f"dd if=/dev/zero of={device} bs=64k count=16 oflag=direct", 120, check=True)
    served.restarted(1)  # it says so when requests go on already
    assert "the kernel has taken the disk from the driver, which does not end" in served.job.err
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_is_stopped_is_left_in_bounded_time(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    guest.run(f"dd if=/dev/zero of={served.device} bs=64k count=16", check=True)
    served.signal_driver("STOP")
    served.job.signal(signal.SIGTERM)
    time.sleep(2)  # nothing is to happen
    assert not served.job.done.is_set()

    def told_again() -> bool:
        """One that comes right after the first is not meant, and one after the driver's end may come too late."""
        if guest.run(f"pgrep -x {way.process}").code == 0:
            served.job.signal(signal.SIGTERM)
        return served.job.done.wait(15)

    wait(told_again, 50, lambda: f"its end; there was said:\n{served.job.err}")
    assert served.job.wait().code == 1
    assert "a signal ended the writing: data lost" in served.job.err
    nothing_is_left(guest, way)
