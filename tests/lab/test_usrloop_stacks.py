# SPDX-License-Identifier: MIT
"""What people put on disks, on a disk of usrloop: partitions, file systems, RAID, encryption, swap.

And what the kernel does under it meanwhile: CPUs go and come, I/O schedulers change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.lab.helpers.kmod import SLOWER, Server, boot, call, unload
from tests.lab.helpers.loads import (
    again_and_again,
    all_was_verified,
    finish,
    fio,
    gets_on,
    sectors_written,
)
from usrdrv.lab.guest import Guest, Job

Boot = Callable[..., Guest]

FAIL, QUEUE, REISSUE, FAIL_NEW = range(4)
LOAD = 2 << 20

pytestmark = pytest.mark.timeout(900)


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    guest = boot(guest_factory, "usrloop_server", memory=1536)
    guest.run("modprobe -a xfs btrfs raid1 dm_crypt bfq kyber_iosched xts", check=True)
    yield guest
    unload(guest)


@pytest.fixture(autouse=True)
def tidy(guest: Guest) -> Iterator[None]:
    yield
    guest.run(
        "umount -q /mnt; pkill -9 -x fio; pkill -9 -x usrloop_server; rm -f /dev/shm/*; sleep 0.1"
    )
    for number in (0, 1):
        call(guest, "delete", number, force=True)
    assert guest.run("ls /dev/usrblk* 2>/dev/null").out == ""


def verified(guest: Guest, place: str) -> None:
    """Somebody writes there, and has what he wrote."""
    all_was_verified(guest.start(fio(place, size=LOAD)), LOAD)


def ends_well(guest: Guest, load: Job, disk: str = "usrblk0") -> None:
    """It gets on, and has what it wrote each time."""
    gets_on(guest, disk, load)
    finish(guest, load)
    all_was_verified(load, LOAD)


def test_partitions(guest: Guest) -> None:
    server = Server(guest, size=32 << 20)
    guest.run(f"printf ',16M,L\\n,,L\\n' | sfdisk -q {server.device}", 60 * SLOWER, check=True)
    rows = guest.run(f"lsblk -nro NAME,TYPE {server.device}", check=True).out.splitlines()
    assert rows == ["usrblk0 disk", "usrblk0p1 part", "usrblk0p2 part"]
    guest.run("mkfs.ext4 -q /dev/usrblk0p2 && mount /dev/usrblk0p2 /mnt", 60 * SLOWER, check=True)
    assert call(guest, "delete") == 1, "a partition of it is mounted"
    guest.run("umount /mnt", check=True)
    assert call(guest, "stop") == 0
    assert server.end() == 0
    assert guest.run("ls /dev/usrblk*").code != 0


@pytest.mark.parametrize(
    "make, check, size, block",
    (
        pytest.param("mkfs.ext4 -q", "e2fsck -fn", 32, 512, id="ext4"),
        pytest.param(
            *("mkfs.xfs -q -f", "xfs_repair -n", 320, 4096), id="xfs", marks=pytest.mark.rare
        ),
        pytest.param("mkfs.btrfs -q -f", "btrfs check", 128, 4096, id="btrfs"),
    ),
)
def test_file_systems(guest: Guest, make: str, check: str, size: int, block: int) -> None:
    """1. made, mounted, written to  2. the server is killed meanwhile, another one comes  3. verified, checked."""
    log = guest.console.position()
    options: dict[str, Any] = {
        "size": size << 20,
        "block": block,
        "queues": 2,
        "file": "/dev/shm/disk",
    }
    server = Server(guest, policy=REISSUE, persist=1, **options)
    guest.run(
        f"{make} /dev/usrblk0 && mount -o discard /dev/usrblk0 /mnt", 120 * SLOWER, check=True
    )
    load = again_and_again(guest, fio("--directory=/mnt", size=LOAD, more="--fsync=16"))
    gets_on(guest, "usrblk0", load, sectors=160)
    server.kill()
    Server(guest, attach=0, **options)
    ends_well(guest, load)
    guest.run("rm /mnt/v.0.0 && sync && fstrim /mnt && umount /mnt", 60 * SLOWER, check=True)
    guest.run(f"{check} /dev/usrblk0", 120 * SLOWER, check=True)
    said = guest.kernel_log(log)
    assert "I/O error" not in said and "corrupt" not in said.lower()


def test_raid(guest: Guest) -> None:
    """1. a mirror over two disks  2. one's server dies: it waits for another  3. it is deleted: it degrades."""
    options: dict[str, Any] = {"size": 16 << 20, "persist": 1}
    good = Server(guest, policy=REISSUE, id=0, **options)
    bad = Server(guest, policy=REISSUE, id=1, file="/dev/shm/two", **options)
    guest.run(
        "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean --metadata=1.2 "
        "/dev/usrblk0 /dev/usrblk1",
        60 * SLOWER,
        check=True,
    )
    load = again_and_again(guest, fio("--filename=/dev/md0", size=LOAD))
    gets_on(guest, "usrblk1", load, sectors=160)
    bad.kill()
    bad = Server(guest, attach=1, file="/dev/shm/two", **options)
    ends_well(guest, load, "usrblk1")
    assert "[UU]" in guest.run("cat /proc/mdstat").out
    assert call(guest, "delete", 1, force=True) == 0
    verified(guest, "--filename=/dev/md0")
    assert "[U_]" in guest.run("cat /proc/mdstat").out
    assert not good.job.done.is_set()
    guest.run("mdadm --stop /dev/md0", 60 * SLOWER, check=True)


def test_encryption(guest: Guest) -> None:
    """dm-crypt over it; the server dies under it."""
    server = Server(guest, size=16 << 20, persist=1, file="/dev/shm/disk")
    guest.run(
        "head -c 32 /dev/urandom >/tmp/key && cryptsetup open --type plain -c aes-xts-plain64 -s 256 -d /tmp/key "
        "/dev/usrblk0 secret",
        60 * SLOWER,
        check=True,
    )
    load = again_and_again(guest, fio("--filename=/dev/mapper/secret", size=LOAD))
    gets_on(guest, "usrblk0", load, sectors=160)
    server.kill()
    Server(guest, attach=0, file="/dev/shm/disk")
    ends_well(guest, load)
    guest.run("cryptsetup close secret", 60 * SLOWER, check=True)


def test_swap(guest: Guest) -> None:
    """Memory goes to a disk whose server says that it is needed for that (PR_SET_IO_FLUSHER), and comes back."""
    Server(guest, size=256 << 20, io_flusher=1, max_io=65536)
    guest.run("mkswap -q /dev/usrblk0 && swapon /dev/usrblk0", 60 * SLOWER, check=True)
    (guest.share / "swap.py").write_text(
        "import mmap\n"
        "size = 48 << 20\n"
        "m = mmap.mmap(-1, size)\n"
        "for i in range(0, size, 4096): m[i:i + 8] = i.to_bytes(8, 'little')\n"
        "assert all(m[i:i + 8] == i.to_bytes(8, 'little') for i in range(0, size, 4096))\n"
    )
    group = "/sys/fs/cgroup/small"
    guest.run(
        "mountpoint -q /sys/fs/cgroup || mount -t cgroup2 cgroup2 /sys/fs/cgroup; "
        f"echo +memory >/sys/fs/cgroup/cgroup.subtree_control; mkdir {group} && echo 32M >{group}/memory.max",
        check=True,
    )
    guest.run(
        f"echo $$ >{group}/cgroup.procs; exec python3 /share/swap.py", 120 * SLOWER, check=True
    )
    assert sectors_written(guest, "usrblk0") > 10 * 8, "nothing was swapped out"
    guest.run(f"swapoff /dev/usrblk0 && rmdir {group}", 120 * SLOWER, check=True)


def test_cpus_and_schedulers_change_under_load(guest: Guest) -> None:
    log = guest.console.position()
    Server(guest, size=16 << 20, queues=2, policy=REISSUE)
    load = again_and_again(guest, fio("--filename=/dev/usrblk0", size=LOAD))
    gets_on(guest, "usrblk0", load)
    churn = (
        "for i in 1 2 3; do "
        "for s in mq-deadline kyber bfq none; do echo $s >/sys/block/usrblk0/queue/scheduler; done;"
        "cd /sys/devices/system/cpu/cpu1; echo 0 >online; sleep 0.1; echo 1 >online;"
        "cd /sys/block/usrblk0/queue; echo $((16 + i)) >nr_requests; echo $((i % 2)) >rq_affinity; done"
    )
    done = guest.run(churn, 120 * SLOWER)
    ends_well(guest, load)
    assert "I/O error" not in guest.kernel_log(log), done.err
    assert guest.run("cat /sys/devices/system/cpu/online").out == "0-1\n"


def test_a_mounted_disk_is_pulled_out(guest: Guest) -> None:
    """Deleted with force under a file system that is being written to: errors, and no more."""
    Server(guest, size=32 << 20)
    guest.run("mkfs.ext4 -q /dev/usrblk0 && mount /dev/usrblk0 /mnt", 60 * SLOWER, check=True)
    job = guest.start(
        "while dd if=/dev/zero of=/mnt/x bs=64k count=32 conv=fsync status=none; do :; done"
    )
    gets_on(guest, "usrblk0", job)
    assert call(guest, "delete", force=True) == 0
    job.wait(60 * SLOWER)
    guest.run("umount /mnt", 60 * SLOWER, check=True)
