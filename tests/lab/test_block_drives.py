# SPDX-License-Identifier: MIT
"""Three drives of a controller as block devices at once: loaded at the same time, their one driver killed.

channel 0   drives 0 and 1: a RAID-1 over both, with ext4 on it
channel 1   drive 2: ext4
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

from tests.lab.helpers.disks import ADDRESS, LOAD, Served, driver, end_all
from tests.lab.helpers.kmod import SLOWER
from tests.lab.helpers.loads import again_and_again, all_was_verified, finish, fio, gets_on
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model
from usrdrv.pci import USRDRV, VFIO

Boot = Callable[..., Guest]

SIZE = 48 << 20
FOLDERS = ("/mnt/mirror", "/mnt/single")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    images = []
    for number in range(3):
        path = tmp_path_factory.mktemp("drives") / f"disk{number}.img"
        with path.open("wb") as file:
            file.truncate(SIZE)
        images += ["--image", str(path)]
    with Model("cmd680", "--option", "strict=1", *images) as model:
        yield model


@pytest.fixture(scope="module", params=[pytest.param(VFIO, marks=pytest.mark.rare), USRDRV])
def guest(  # in this order: the model outlives it
    model: Model, guest_factory: Boot, request: pytest.FixtureRequest
) -> Iterator[Guest]:
    kernel = "base" if request.param == USRDRV else "stock"
    guest = guest_factory([model.socket], kernel=kernel, iommu=request.param == VFIO, kmod=True)
    guest.run("modprobe raid1", check=True)
    yield guest
    guest.close()  # the next one wants the model


@pytest.fixture(autouse=True)
def alone(guest: Guest) -> Iterator[None]:
    yield
    guest.run(f"pkill -9 -x fio; umount {' '.join(FOLDERS)}; mdadm --stop --scan")
    end_all(guest)


def each_gets_on(guest: Guest, served: Served, load: Job) -> None:
    """Every disk is written to from now on."""
    for device in served.devices:
        gets_on(guest, device, load, sectors=256)


@pytest.mark.parametrize(
    ("export", "process"),
    [
        pytest.param("usrloop", "usrdrv-driver", id="usrloop"),
        pytest.param("nbd", "nbdkit", id="nbd", marks=pytest.mark.rare),
    ],
)
def test_all_disks_live_through_deaths_of_their_driver(
    guest: Guest, export: str, process: str
) -> None:
    words = ("--drive", "all", "--export", export)
    served = Served(guest, *words, process=process, drives=3)
    first, second, third = served.devices
    guest.run(
        "mdadm --create /dev/md0 --run --level=1 --raid-devices=2 --assume-clean --metadata=1.2 "
        f"{first} {second} && mkfs.ext4 -q /dev/md0 && mkfs.ext4 -q {third} && "
        f"mkdir -p {' '.join(FOLDERS)} && "
        f"mount /dev/md0 {FOLDERS[0]} && mount {third} {FOLDERS[1]}",
        120 * SLOWER,
        check=True,
    )
    log = guest.console.position()
    places = (f"--directory={folder}" for folder in FOLDERS)
    load = again_and_again(guest, fio(*places, size=LOAD))
    for _ in range(2):
        each_gets_on(guest, served, load)
        served.kill_driver()
    each_gets_on(guest, served, load)
    finish(guest, load)
    all_was_verified(load, LOAD)
    assert served.restarts == 2
    assert not re.search(r"I/O error|EXT4-fs error|Buffer I/O|md/raid1", guest.kernel_log(log))
    assert "[UU]" in guest.run("cat /proc/mdstat").out

    # Ctrl-C names each that is in use, and detaches none.
    served.job.signal(2)
    served.says("still serving")
    assert f"{first}: /dev/md0; {second}: /dev/md0; {third}: {FOLDERS[1]}" in served.job.err
    guest.run(
        f"umount {' '.join(FOLDERS)} && e2fsck -fn /dev/md0 && e2fsck -fn {third} && mdadm --stop /dev/md0",
        120 * SLOWER,
        check=True,
    )
    assert guest.run(f"cmp -n {SIZE // 2} {first} {second} 4M 4M").code == 0, "the mirror differs"
    assert served.end() == 0, served.job.err
    assert driver(guest) == "pata_sil680"
    assert guest.run(f"pgrep -xl '{process}|usrdrv-standby'; ls /dev/usrblk*").out == ""


def test_each_has_a_name_of_its_own_and_all_are_identified(guest: Guest) -> None:
    served = Served(guest, "--drive", "2", "--drive", "0", "--export", "usrloop", drives=2)
    labels = [
        guest.run(f"cat /sys/block/{device.removeprefix('/dev/')}/usrloop/label").out.strip()
        for device in served.devices
    ]
    # Its driver tells of all drives, also of the one that is not served.
    found = json.loads(guest.run(f"usrdrv identify {ADDRESS} --json", 60 * SLOWER, check=True).out)
    assert [drive["drive"] for drive in found["drives"]] == [0, 1, 2]
    assert all(drive["smart"]["healthy"] for drive in found["drives"])
    name = ADDRESS.replace(":", "_")
    assert labels == [f"{name}-drive2", f"{name}-drive0"]
    assert served.end() == 0, served.job.err


def test_a_disk_that_is_taken_from_the_driver_is_given_to_the_next_one(guest: Guest) -> None:
    """And the other one with it: they have one driver."""
    served = Served(guest, "--drive", "0", "--drive", "1", "--export", "usrloop", drives=2)
    number = served.devices[1].removeprefix("/dev/usrblk")
    guest.run(
        [
            *("python3", "-c"),
            f"from usrdrv import loop; loop.Control().detach(loop.lib.USRLOOP_BLOCK, {number})",
        ],
        check=True,
    )
    served.restarted(1)
    for device in served.devices:
        guest.run(f"dd if={device} of=/dev/null bs=64k count=16 iflag=direct", check=True)
    assert served.end() == 0, served.job.err
