# SPDX-License-Identifier: MIT
"""The end of `usrdrv block`: told to, while its disk is in use, or killed itself."""

from __future__ import annotations

import signal

from tests.lab.block.ways import EACH_WAY, Served, Way, nothing_is_left
from tests.lab.helpers.disks import driver
from tests.lab.helpers.kmod import wait
from usrdrv.lab.guest import Guest


@EACH_WAY
def test_what_is_in_use_is_detached_only_when_told_twice_and_synced_then(
    guest: Guest, way: Way
) -> None:
    """A file system with an open file, in no mount table any more."""
    served = Served(guest, way)
    guest.run(f"mkfs.ext4 -q {served.device} && mount {served.device} /mnt", 60, check=True)
    holder = guest.start(
        "exec 9>/mnt/file; head -c 1M /dev/urandom >&9; echo yes; exec sleep infinity"
    )
    wait(lambda: "yes" in holder.out or holder.done.is_set(), 60, "a file is open")
    written = guest.run("sha256sum </mnt/file && umount -l /mnt", check=True).out
    served.job.signal(signal.SIGINT)
    served.says("still serving")
    assert f"{served.device} is in use (a file system or program that" in served.job.err
    assert served.end(signal.SIGTERM) == 1
    assert "detached while in use" in served.job.err
    holder.signal(signal.SIGKILL)
    holder.wait(60)
    served = Served(guest, way)
    guest.run(f"mount {served.device} /mnt", 60, check=True)
    assert guest.run("sha256sum </mnt/file && umount /mnt", 60, check=True).out == written
    assert served.end() == 0, served.job.err
    nothing_is_left(guest, way)


@EACH_WAY
def test_killed_itself_it_leaves_nothing(guest: Guest, way: Way) -> None:
    served = Served(guest, way)
    served.job.signal(signal.SIGKILL)
    served.job.wait(60)
    # Its own socket is the next command's to remove; all else goes by itself.
    assert "served here" in guest.run("usrdrv block stats /dev/null", 60).err
    wait(lambda: not guest.run(way.left).out, 60, "the block device and the driver are gone")
    wait(
        lambda: driver(guest) == "pata_sil680",
        30,
        "the kernel's driver has it again",
    )
