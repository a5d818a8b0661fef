# SPDX-License-Identifier: MIT
"""The export nbd when those die who would bring its driver back: its supervisor, or the container that all are in.

While the supervisor lives, the kernel waits for the next driver as long as it is told to; without one, not
for long. The disk is a model in the driver's own process, over an image.
"""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Callable, Iterator

import pytest

from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import TOLD, finish, gets_on
from usrdrv.bridge.block.nbd_client import ORPHANED
from usrdrv.lab.guest import Guest, Job

Boot = Callable[..., Guest]

DISK = "model:cmd680?image=/tmp/disk.img"
FOR_EVER = "--restart-time 3600"
"""Longer than any test waits."""

CONTAINER = f"""
usrdrv block --export nbd {FOR_EVER} '{DISK}' >/tmp/out &
while [ ! -s /tmp/out ]; do sleep 0.2; done
# Nothing is written when all die: the kernel's NBD client keeps for ever what the driver had already.
# So no table is filled in the background, and the journal is not committed every five seconds.
mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 $(cat /tmp/out)
mount -o commit=3600 $(cat /tmp/out) /mnt
cp /tmp/data /mnt/kept
sync /mnt/kept
cp /tmp/data /mnt/cached
touch /tmp/ready
exec sleep infinity
"""
"""Runs as process 1 of a pid namespace and a mount namespace."""


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    guest = guest_factory()
    # What is written is written back only when somebody asks for it.
    guest.run("modprobe -a nbd loop && echo 0 >/proc/sys/vm/dirty_writeback_centisecs", check=True)
    guest.run("head -c 8M /dev/urandom >/tmp/data", check=True)
    yield guest


@pytest.fixture(autouse=True)
def image(guest: Guest) -> None:
    guest.run(
        f"rm -f /tmp/disk.img /tmp/out /tmp/ready {TOLD}; truncate -s 96M /tmp/disk.img",
        check=True,
    )


def gone(guest: Guest) -> bool:
    """Whether nothing is left: no process, no device."""
    left = guest.run("pgrep -fl '[u]srdrv block|[n]bdkit'; cat /sys/block/nbd0/pid 2>/dev/null")
    return left.out == ""


def stuck(guest: Guest) -> str:
    """Tasks that nothing ends."""
    return guest.run("ps -eo stat,wchan:30,args | grep '^D'").out


def serve(guest: Guest, *arguments: str) -> tuple[Job, str]:
    job = guest.start(["usrdrv", "block", "--export", "nbd", *arguments, DISK, "--json"])
    wait(lambda: "\n" in job.out or job.done.is_set(), 90, "usrdrv block")
    assert job.out, job.err
    return job, json.loads(job.out)["device"]


def test_a_container_that_is_killed_ends_with_all_that_it_has(guest: Guest) -> None:
    """1. driver, supervisor and mount are in one  2. its process 1 is killed, and so are they all  3. it is gone.

    The last one to die writes what the mount caches, and waits for that.
    """
    (guest.share / "container").write_text(CONTAINER)
    box = guest.start(["unshare", "-m", "-p", "-f", "--mount-proc", "sh", "-e", "/share/container"])
    wait(lambda: guest.run("test -e /tmp/ready").code == 0 or box.done.is_set(), 120, "container")
    assert not box.done.is_set(), box.err
    assert guest.run("pkill -KILL -P $(pgrep -x unshare)").code == 0
    wait(lambda: box.done.is_set() and gone(guest), 60, lambda: f"the end; in D: {stuck(guest)}")
    guest.run("e2fsck -fp /tmp/disk.img; [ $? -le 1 ] && e2fsck -fn /tmp/disk.img", 120, check=True)
    guest.run("mount -o loop /tmp/disk.img /mnt", check=True)
    same = guest.run("cmp /tmp/data /mnt/kept")
    guest.run("umount /mnt", check=True)
    assert same.code == 0, same


def without_drivers(guest: Guest) -> None:
    """None starts any more, for want of its image; kill the one that runs."""
    guest.run("mv /tmp/disk.img /tmp/away && pkill -KILL -x nbdkit", check=True)


def test_while_its_supervisor_lives_the_kernel_is_patient(guest: Guest) -> None:
    """Requests from before, and from after, the driver's death wait longer than those of orphans."""
    job, device = serve(guest, *FOR_EVER.split())
    log = guest.console.position()
    writer = guest.start(
        f"for i in 1 2 3 4; do (while [ ! -e {TOLD} ]; do "
        f"dd if=/tmp/data of={device} bs=64k oflag=direct conv=notrunc status=none || exit 9; done) & "
        "p=$p\\ $!; done; for i in $p; do wait $i || exit; done"
    )
    gets_on(guest, device, writer, sectors=8192)
    without_drivers(guest)
    time.sleep(ORPHANED + 3)  # nothing is to happen
    assert not writer.done.is_set(), (writer.err, job.err)
    guest.run("mv /tmp/away /tmp/disk.img", check=True)
    wait(
        lambda: "; restarted in " in job.err or job.done.is_set(),
        60,
        lambda: f"restart; there was said:\n{job.err}",
    )
    finish(guest, writer)
    assert "I/O error" not in guest.kernel_log(log)
    guest.run(f"cmp -n 8M /tmp/data {device}", check=True)
    job.signal(signal.SIGINT)
    assert job.wait(60).code == 0, job.err
    wait(lambda: gone(guest), 60, "the end of all processes and of the device")


def test_a_supervisor_that_is_killed_while_its_driver_is_down_takes_the_disk_along(
    guest: Guest,
) -> None:
    """There is data to write in the cache of the device, which is written with the last close."""
    job, device = serve(guest, *FOR_EVER.split())
    writer = guest.start(
        f"exec 3<>{device}; dd if=/tmp/data bs=64k >&3; touch /tmp/ready; sleep infinity"
    )
    wait(lambda: guest.run("test -e /tmp/ready").code == 0, 60, "data in the cache")
    without_drivers(guest)
    flush = guest.start(["sync", device])
    wait(lambda: "sync" in stuck(guest), 60, "sync waits for the disk")
    job.signal(signal.SIGKILL)
    writer.signal(signal.SIGKILL)
    wait(
        lambda: flush.done.is_set() and writer.done.is_set(),
        60,
        lambda: f"its end; in D: {stuck(guest)}",
    )
    wait(lambda: gone(guest) and not stuck(guest), 60, "the end of all processes and of the device")
