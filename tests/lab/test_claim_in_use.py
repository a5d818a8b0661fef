# SPDX-License-Identifier: MIT
"""What somebody uses, or what we have no driver for, is not taken from the kernel's driver: a guest with an IOMMU.

00:10.0, 00:11.0   disk controllers, pata_sil680
00:12.0            a NIC, ns83820
00:13.0            a NIC that we have no driver for, e1000e
01:01.0, 01:02.0   disk controllers behind one bridge: one IOMMU group
"""

from __future__ import annotations

import json
import signal
from collections.abc import Callable, Iterator

import pytest

from tests.lab.helpers.functions import disk, driver, refused
from tests.lab.helpers.kmod import wait
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model

Boot = Callable[..., Guest]

FIRST, SECOND, NIC, STRANGER = (f"0000:00:1{slot}.0" for slot in range(4))
TWINS = "0000:01:01.0", "0000:01:02.0"
UNSEEN = "a file system or program that is not visible from here"
DISK = "160M"


@pytest.fixture(scope="module")
def guest(guest_factory: Boot) -> Iterator[Guest]:
    with (
        Model("cmd680", "--ram", DISK) as first,
        Model("cmd680", "--ram", DISK) as second,
        Model("dp83820", "--option", "wire=loop") as nic,
        Model("cmd680", "--ram", "1M") as third,
        Model("cmd680", "--ram", "1M") as fourth,
    ):
        extra = ["-device", f"e1000e,addr={STRANGER[5:]}".replace("00:13.0", "13.0")]
        extra += ["-device", "pcie-pci-bridge,id=old,bus=pcie.0,addr=1c.0"]
        for slot, model in enumerate((third, fourth), 1):
            device = {"driver": "vfio-user-pci", "bus": "old", "addr": f"{slot}.0"}
            socket = {"type": "unix", "path": str(model.socket)}
            extra += ["-device", json.dumps({**device, "socket": socket})]
        with guest_factory([m.socket for m in (first, second, nic)], iommu=True, extra=extra) as g:
            g.run("modprobe -a btrfs loop raid1", check=True)
            yield g


USES = {
    "a file system": ("mkfs.ext4 -qF $D && mount $D /mnt", "umount /mnt", "(/mnt)"),
    "btrfs": ("mkfs.btrfs -qf $D && mount $D /mnt", "umount /mnt", "(/mnt)"),
    "a second disk of btrfs": (
        "mkfs.btrfs -qf -draid1 -mraid1 $OTHER $D && mount $OTHER /mnt",
        "umount /mnt",
        UNSEEN,
    ),
    "a partition": (
        "echo ,40M | sfdisk -q $D && mkfs.ext4 -qF ${D}1 && mount ${D}1 /mnt",
        "umount /mnt && wipefs -qa $D",
        "(/mnt)",
    ),
    "a file system that was unmounted lazily": (
        # tail keeps a file open.
        "mkfs.ext4 -qF $D && mount $D /mnt && echo x >/mnt/x && { tail -f /mnt/x & } && "
        "while ! [ /proc/$!/fd/3 -ef /mnt/x ]; do sleep 0.1; done && umount -l /mnt",
        "pkill -x tail",
        UNSEEN,
    ),
    "a loop device": (
        "mkfs.ext4 -qF $D && mount $(losetup -f --show $D) /mnt",
        "umount /mnt && losetup -D",
        "(/dev/loop0)",
    ),
    "a member of an array": (
        "mdadm -q --create /dev/md0 -R -e 1.2 -l 1 -n 2 $D missing",
        "mdadm -q --stop /dev/md0 && wipefs -qa $D",
        "(/dev/md0)",
    ),
    "swap": ("mkswap -q $D && swapon $D", "swapoff $D", "(swap)"),
    "an exclusive opener": (
        "mkfifo /tmp/end && { python3 -c \"import os; os.open('$D', os.O_RDWR | os.O_EXCL); "
        "open('/tmp/held', 'w'); open('/tmp/end').read()\" & } && "
        "while ! [ -e /tmp/held ]; do sleep 0.1; done",
        "echo >/tmp/end; rm /tmp/end /tmp/held",
        UNSEEN,
    ),
}


@pytest.mark.parametrize(
    "use",
    [
        pytest.param(use, marks=pytest.mark.rare if use in ("a file system", "btrfs") else ())
        for use in USES
    ],
)
def test_a_disk_in_use_is_not_taken(guest: Guest, use: str) -> None:
    begin, end, who = USES[use]
    path = disk(guest, FIRST)
    names = f"D={path} OTHER={disk(guest, SECOND)};"
    job = guest.start(f"{names} {{ {begin}; }} && echo begun && exec sleep infinity")
    try:
        wait(lambda: "begun" in job.out or job.done.is_set(), 120, use)
        assert "begun" in job.out, job.err
        line = refused(guest, f"usrdrv identify {FIRST}")
        assert f"{FIRST}: pata_sil680 has it: {path} is in use" in line and who in line
        assert driver(guest, FIRST) == "pata_sil680" and disk(guest, FIRST) == path
    finally:
        done = guest.run(f"{names} {end}", 60)
        job.signal(signal.SIGKILL)
        job.wait(60)
    assert done.code == 0, done


def test_a_disk_that_nobody_uses_is_taken_and_given_back(guest: Guest) -> None:
    """After all those uses have ended."""
    disk(guest, FIRST)
    result = guest.run(f"usrdrv identify {FIRST}", 120)
    assert result.code == 0, result
    disk(guest, FIRST)


@pytest.mark.parametrize(
    "command",
    [
        "identify",
        pytest.param("block --export nbd", marks=pytest.mark.rare),
        pytest.param("net --export tap", marks=pytest.mark.rare),
    ],
)
def test_what_we_have_no_driver_for_is_not_touched(guest: Guest, command: str) -> None:
    """An interface that is made again has another number."""
    numbers = f"cat /sys/bus/pci/devices/{STRANGER}/net/*/ifindex"
    before = guest.run(numbers, check=True).out
    assert before
    line = refused(guest, f"usrdrv {command} {STRANGER}")
    assert f"{STRANGER}: no driver for PCI 8086:10d3" in line
    assert driver(guest, STRANGER) == "e1000e"
    assert guest.run(numbers, check=True).out == before


def test_what_is_of_another_kind_is_not_touched(guest: Guest) -> None:
    numbers = f"cat /sys/bus/pci/devices/{NIC}/net/*/ifindex"
    before = guest.run(numbers, check=True).out
    for command in ("identify", "block --export nbd"):
        line = refused(guest, f"usrdrv {command} {NIC}", 2)
        assert f"{NIC} is not a disk controller" in line
    path = disk(guest, FIRST)
    line = refused(guest, f"usrdrv net --export tap {FIRST}", 2)
    assert f"{FIRST} is not a network interface" in line
    assert guest.run(numbers, check=True).out == before and disk(guest, FIRST) == path


def interface(guest: Guest) -> str:
    """What the kernel's driver calls the NIC's; "" if there is none."""
    return guest.run(f"ls /sys/bus/pci/devices/{NIC}/net").out.strip()


def test_a_nic_of_a_container_is_not_taken(guest: Guest) -> None:
    name = interface(guest)
    assert name
    guest.run(f"ip netns add c && ip link set {name} netns c", check=True)
    try:
        guest.run(f"ip -n c link set {name} up && ip -n c addr add 10.1.1.1/24 dev {name}")
        line = refused(guest, f"usrdrv net {NIC} --export tap")
        assert "ns83820 has it: an interface of it is in another network namespace" in line
        assert "10.1.1.1/24" in guest.run(f"ip -n c addr show {name}", check=True).out
    finally:
        guest.run("ip netns del c")
    wait(lambda: interface(guest), 60, "the interface is back")


def serve(guest: Guest, command: str) -> Job:
    job = guest.start(["usrdrv", *command.split()])
    wait(lambda: "\n" in job.out or job.done.is_set(), 120, command)
    assert job.out, job.err
    return job


def test_a_nic_with_the_default_route_is_taken_only_by_force(guest: Guest) -> None:
    """And what a TAP needs is looked at, and loaded, before."""
    name = interface(guest)
    guest.run(
        f"ip link set {name} up && ip addr add 10.1.1.1/24 dev {name} && "
        f"ip route add default via 10.1.1.2 dev {name}",
        check=True,
    )
    line = refused(guest, f"usrdrv net {NIC} --export tap")
    assert f"ns83820 has it: interface {name} is up, with the default route; --force" in line
    assert f"dev {name}" in guest.run("ip route show default", check=True).out
    job = serve(guest, f"net {NIC} --export tap --force")
    assert job.out == "usr0\n"
    job.signal(signal.SIGTERM)
    assert job.wait(60).code == 0, job.err
    wait(lambda: interface(guest), 60, "the interface is back")


def test_of_two_in_one_group_the_second_is_told_of_the_first(guest: Guest) -> None:
    """Both are with vfio-pci already, as after a reboot with driver_override."""
    guest.run("modprobe vfio-pci", check=True)
    for address in TWINS:
        disk(guest, address)
        sysfs = f"/sys/bus/pci/devices/{address}"
        guest.run(
            f"echo vfio-pci >{sysfs}/driver_override; echo {address} >{sysfs}/driver/unbind; "
            f"echo {address} >/sys/bus/pci/drivers_probe",
            check=True,
        )
    job = serve(guest, f"block {TWINS[0]} --export socket")
    line = refused(guest, f"usrdrv identify {TWINS[1]}")
    assert f"{TWINS[1]}: {TWINS[0]} of the same IOMMU group" in line
    assert "is taken by process" in line
    job.signal(signal.SIGTERM)
    assert job.wait(60).code == 0, job.err
    result = guest.run(f"usrdrv identify {TWINS[1]}", 60)
    assert result.code == 0, result


def test_ctrl_c_leaves_the_second_disk_of_a_btrfs_alone(guest: Guest) -> None:
    """Detaching it would leave the file system with half of what it wrote."""
    other = disk(guest, SECOND)
    job = serve(guest, f"block {FIRST} --export nbd")
    device = job.out.strip()
    begin = f"mkfs.btrfs -qf -draid1 -mraid1 {other} {device} && mount {other} /mnt"
    guest.run(begin, 120, check=True)
    job.signal(signal.SIGINT)
    wait(lambda: "still serving" in job.err or job.done.is_set(), 60, "an answer")
    assert f"{device} is in use ({UNSEEN}): still serving" in job.err
    guest.run("head -c 8M /dev/urandom >/mnt/file && sync -f /mnt && umount /mnt", 120, check=True)
    check = guest.run(f"btrfs check {other}", 120)  # reads both
    assert check.code == 0, check
    job.signal(signal.SIGINT)
    assert job.wait(60).code == 0, job.err
