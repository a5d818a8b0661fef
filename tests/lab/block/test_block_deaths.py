# SPDX-License-Identifier: MIT
"""A drive's driver dies: killed, ended in order, again and again. Whoever loads the disk only sees a pause."""

from __future__ import annotations

import re
import signal

import pytest

from tests.lab.block.ways import EACH_WAY, USRLOOP, Served, Way, nothing_is_left
from tests.lab.helpers.disks import LOAD, SIZE, driver, lives_through_deaths
from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import again_and_again, finish, gets_on, sectors_written, writing
from usrdrv.lab.guest import Guest


@EACH_WAY
def test_a_file_system_lives_through_deaths_of_its_driver(
    guest: Guest, way: Way, through: str
) -> None:
    served = Served(guest, way)
    device = served.device
    assert driver(guest) == through
    assert served.info["size"] == SIZE
    guest.run(f"echo ',,L' | sfdisk -q {device} && mkfs.ext4 -q {device}p1", 120, check=True)
    guest.run(f"mount {device}p1 /mnt", check=True)
    log = guest.console.position()
    lives_through_deaths(served, "/mnt")
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O", guest.kernel_log(log))
    guest.run("umount /mnt", check=True)
    guest.run(f"e2fsck -fn {device}p1", 120, check=True)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)

    # and there for the kernel's own driver, to which the controller went back
    wait(lambda: guest.run("test -b /dev/sda1").code == 0, 30, "/dev/sda1")
    guest.run("e2fsck -fn /dev/sda1 && mount -o ro /dev/sda1 /mnt", 120, check=True)
    assert int(guest.run("stat -c %s /mnt/v.0.0").out) == LOAD
    guest.run("umount /mnt", check=True)


PF_MEMALLOC_NOIO = 1 << 19
"""Of PR_SET_IO_FLUSHER (linux/sched.h)."""


def waits_for_no_disk(guest: Guest, pid: str, thread: str = "") -> bool:
    """Whether its memory is locked, and to get more it does no I/O."""
    status = f"grep -v ' 0 kB' /proc/{pid}/status | grep -q VmLck"
    flags = guest.run(
        f"{status} && cat /proc/{pid}/task/{thread or pid}/stat | sed 's/.*)//' | cut -d' ' -f8"
    ).out.split()
    return bool(flags) and all(int(word) & PF_MEMALLOC_NOIO for word in flags)


def test_the_process_that_waited_takes_over(guest: Guest) -> None:
    """1. both are killed  2. the driver is: its successor is the process that waited  3. another one waits.

    None of them waits for the disk, as for a page of its own that was swapped out there.
    """

    def pids(name: str) -> list[str]:
        return guest.run(["pgrep", "-x", name]).out.split()

    way = USRLOOP
    served = Served(guest, way)
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    guest.run("pkill -9 -x usrdrv-standby", check=True)
    served.says("the driver's standby was killed by SIGKILL")
    served.kill_driver()
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    before = pids("usrdrv-standby")
    served.kill_driver()
    assert pids("usrdrv-driver") == before
    wait(lambda: pids("usrdrv-standby"), 60, "standby")
    guest.run(f"dd if={served.device} of=/dev/null bs=64k count=16 iflag=direct", check=True)
    supervisor = guest.run("ps -o ppid= -C usrdrv-driver", check=True).out
    for who in (*pids("usrdrv-driver"), *pids("usrdrv-standby"), supervisor.strip()):
        assert waits_for_no_disk(guest, who), who
    assert waits_for_no_disk(guest, pids("usrdrv-driver")[0], "*"), "a thread from before"
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_somebody_ends_in_order_is_started_again(guest: Guest, way: Way) -> None:
    """Its exit status 0 does not say that the device is gone."""
    served = Served(guest, way)
    guest.run("head -c 16M /dev/urandom >/tmp/data", check=True)
    before = sectors_written(guest, served.device)
    load = again_and_again(
        guest,
        f"dd if=/tmp/data of={served.device} bs=64k oflag=direct status=none && "
        f"cmp -n 16M /tmp/data {served.device}",
    )
    gets_on(guest, served.device, load)
    served.signal_driver("TERM")
    served.restarted(1)
    how = {"nbd": "ended with status 0", "usrloop": "was killed by SIGTERM"}[way.export]
    assert f"the driver {how}; restarted in" in served.job.err
    finish(guest, load)
    written = sectors_written(guest, served.device) - before
    assert written and written % ((16 << 20) // 512) == 0, "each request counts once"
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


def test_a_driver_that_dies_again_and_again_is_given_up(guest: Guest, way: Way) -> None:
    """Nobody asks it for anything: it does no work between its deaths."""
    served = Served(guest, way, "--restart-time", "10")
    killer = guest.start(f"while :; do pkill -9 -x {way.process}; sleep 0.3; done")
    try:
        result = served.job.wait(300)
    finally:
        killer.signal(signal.SIGKILL)
    assert result.code == 1
    last = result.err.splitlines()[-1]
    # The last of them was there, or was still being started.
    assert "SIGKILL" in last and ("given up" in last or "does not come back" in last)
    nothing_is_left(guest, way)


@pytest.mark.rare
def test_one_that_worked_may_die_as_often_as_it_likes(guest: Guest, way: Way) -> None:
    """Seven deaths, faster than the restart time: after each the client gets on."""
    served = Served(guest, way, "--restart-time", "30")
    device = served.device
    load = writing(guest, device)
    for _ in range(7):
        gets_on(guest, device, load, sectors=128)
        served.kill_driver()
    gets_on(guest, device, load)
    finish(guest, load)
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)
