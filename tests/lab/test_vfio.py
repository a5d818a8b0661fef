# SPDX-License-Identifier: MIT
"""A PCI function taken from the kernel's driver and given back, in a guest with an IOMMU; and why not.

Drivers use VFIO on Debian's kernel, and the usrdrv calls, which they prefer, on ours. `make test` runs what depends
on that with both, the other tests with VFIO.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from tests.files import GUEST, ROOT
from tests.lab.helpers.functions import disk, driver, refused
from tests.lab.helpers.kernel_logs import says
from tests.waiting import at_best, until
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model
from usrdrv.pci import USRDRV, VFIO

Boot = Callable[..., Guest]

SIZE = 64 << 20
FIRST, SECOND = "0000:00:10.0", "0000:00:11.0"

# The last two sit behind one bridge from PCI Express to PCI: the IOMMU cannot tell them apart.
TWINS = "0000:01:01.0", "0000:01:02.0"

INCLUDE = ROOT / "usrdrv/include"

READ = """
import hashlib, sys
from usrdrv.device import open_device
from usrdrv.drivers import open_driver
with open_device(sys.argv[1]) as device, open_driver(device) as controller:
    block = controller.drives[0].block
    total, buffer = hashlib.sha256(), bytearray(1 << 20)
    for at in range(0, block.size, len(buffer)):
        block.read_into(buffer, at)
        total.update(buffer)
    if len(sys.argv) > 2:
        block.write_from(b"ours" * 1024, 8192, False)
        block.flush()
print(total.hexdigest())
"""

SEVERAL_MSI = """
from usrdrv.base import errors
from usrdrv.device import open_device
with open_device("0000:00:12.0") as device:
    assert device.vectors["msi"] > 1
    try:
        device.irqs(2, "msi")
    except errors.DeviceError as error:
        print(error.errno, device.irq_kind)
    device.irqs(1, "msi")
    print(device.irq_kind)
"""


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Model]]:
    image = tmp_path_factory.mktemp("vfio") / "disk.img"
    image.write_bytes(os.urandom(SIZE))
    with (
        Model("cmd680", "--option", "strict=1", "--image", str(image)) as first,
        Model("cmd680", "--option", "strict=1", "--ram", "32M") as second,
        Model("cmd680", "--option", "strict=1", "--ram", "1M") as third,
        Model("cmd680", "--option", "strict=1", "--ram", "1M") as fourth,
    ):
        yield [first, second, third, fourth]


BOTH = pytest.mark.parametrize("through", [VFIO, USRDRV], indirect=True)


@pytest.fixture(scope="module", params=[VFIO, pytest.param(USRDRV, marks=pytest.mark.rare)])
def through(request: pytest.FixtureRequest) -> str:
    """The kernel driver that has a function of ours."""
    return str(request.param)


@pytest.fixture(scope="module")
def guest(  # in this order: models outlive it
    models: list[Model], guest_factory: Boot, through: str
) -> Iterator[Guest]:
    extra = ["-device", "pcie-pci-bridge,id=old,bus=pcie.0,addr=1c.0"]
    for slot, model in enumerate(models[2:], 1):
        device = {"driver": "vfio-user-pci", "bus": "old", "addr": f"{slot}.0"}
        socket = {"type": "unix", "path": str(model.socket)}
        extra += ["-device", json.dumps({**device, "socket": socket})]
    # VFIO has an address space of its own; without it, the kernel's must not be that of the memory.
    ours = {"kernel": "base", "append": "iommu=nopt"} if through == USRDRV else {}
    guest = guest_factory([m.socket for m in models[:2]], iommu=True, extra=extra, **ours)
    (guest.share / "read.py").write_text(READ)
    guest.run("chown -R 1000 /share && cp /share/read.py /tmp", check=True)
    yield guest
    guest.close()  # the next one wants the models


def test_our_driver_and_the_kernels_see_the_same_bytes(guest: Guest) -> None:
    path = disk(guest, FIRST)
    theirs = guest.run(f"sha256sum {path}", 120, check=True).out.split()[0]
    ours = guest.run(f"python3 /tmp/read.py {FIRST} write", 120, check=True).out.split()[0]
    assert ours == theirs
    assert driver(guest, FIRST) == "pata_sil680"
    path = disk(guest, FIRST)
    written = guest.run(f"dd if={path} bs=4k skip=2 count=1 status=none | sha256sum").out.split()[0]
    assert written == hashlib.sha256(b"ours" * 1024).hexdigest()


@BOTH
def test_registers_memory_reset_and_interrupts(guest: Guest, through: str) -> None:
    """As vfio_parts.py reports them. What it reads is compared with what the kernel's driver reads."""
    shutil.copy(GUEST / "vfio_parts.py", guest.share)
    path = disk(guest, FIRST)
    data = guest.run(f"head -c 1M {path} | sha256sum", check=True).out.split()[0]
    window = guest.run(f"cat /sys/bus/pci/devices/{FIRST}/iommu_group/reserved_regions").out
    assert "0x00000000fee00000 0x00000000feefffff msi" in window
    placed = "placed" if through == VFIO else ""

    def report() -> dict[str, Any]:
        said = guest.run(f"python3 /share/vfio_parts.py {FIRST} {placed}", 120, check=True).out
        return dict(json.loads(said))

    # On a busy host an interrupt may be so late that its command is found before it.
    found = at_best(
        report, lambda found: not found["stats"]["lost_interrupts"], "interrupts in time", 200
    )
    assert found["mapped"], "each access to BAR 5 would be a system call"
    memory = found["memory"]
    assert memory.pop("none below") == errno.ENOSPC and memory.pop("zeroed")
    if placed:
        assert memory == {"reused": True, "low": True}
        full = {"full": errno.ENOSPC, "around the window": errno.ENOSPC}
        assert found["window"] == {"top": 0xF8000000, **full}
    initial, written, after_reset = found["timing"]
    assert written == 0x12345678 and initial == after_reset != written
    assert found["sha256"] == data, "DMA after the reset"
    stats = found["stats"]
    assert stats["timeouts"] == stats["errors"] == 0
    assert stats["interrupts"] >= stats["commands"] >= 16
    disk(guest, FIRST)


@BOTH
def test_killed_it_gives_the_function_back(guest: Guest, through: str) -> None:
    opened = "from usrdrv.device import open_device as o; d = o('{}'); print('open', flush=True);"
    job = guest.start(["python3", "-c", f"{opened.format(FIRST)} input()"])
    keep = guest.start(
        f'mkfifo /tmp/fifo; python3 -c "from usrdrv.device import open_device as o; '
        f"d = o('{SECOND}'); print('open', flush=True); open('/tmp/fifo').read()\""
    )
    assert job.wait(60).code == 1  # its input has ended: closed in order or not, it is given back
    until(lambda: "open" in keep.out, lambda: f"an open function; {keep.err}")
    assert driver(guest, SECOND) == through
    assert "taken by process" in refused(guest, f"usrdrv identify {SECOND}")
    keep.signal(signal.SIGKILL)
    keep.wait(30)
    for address in (FIRST, SECOND):
        disk(guest, address)
        assert driver(guest, address) == "pata_sil680"
        override = f"cat /sys/bus/pci/devices/{address}/driver_override"
        assert guest.run(override).out.strip() in ("", "(null)")
    until(lambda: guest.run("pgrep -f usrdrv-guard").code == 1, "the guards' ends")
    guest.run(f"usrdrv identify {SECOND}", 60, check=True)


def test_a_mounted_disk_is_not_taken_away(guest: Guest) -> None:
    path = disk(guest, SECOND)
    guest.run(f"mkfs.ext4 -q {path} && mount {path} /mnt", 60, check=True)
    line = refused(guest, f"usrdrv identify {SECOND}")
    assert f"pata_sil680 has it: {path} is in use (/mnt)" in line
    guest.run("echo x >/mnt/x && sync && umount /mnt", check=True)


def test_a_user_who_owns_the_group(guest: Guest) -> None:
    """He lacks the capability that the usrdrv calls want, so this is VFIO on both kernels."""
    guest.run("modprobe vfio-pci", check=True)
    user = "setpriv --reuid 1000 --regid 1000 --clear-groups env USRDRV_RUN_DIR=/tmp/of-user"
    group = guest.run(f"readlink /sys/bus/pci/devices/{SECOND}/iommu_group").out.strip()
    node = f"/dev/vfio/{group.rpartition('/')[2]}"
    line = refused(guest, f"{user} usrdrv identify {SECOND}")
    assert "no right to take it from pata_sil680" in line and node in line
    disk(guest, SECOND)
    sysfs = f"/sys/bus/pci/devices/{SECOND}"
    guest.run(
        f"echo vfio-pci >{sysfs}/driver_override; echo {SECOND} >{sysfs}/driver/unbind; "
        f"echo {SECOND} >/sys/bus/pci/drivers_probe",
        check=True,
    )
    try:
        assert f"{node}: permission denied" in refused(guest, f"{user} usrdrv identify {SECOND}")
        guest.run(f"chown 1000 {node}", check=True)
        line = refused(guest, f"prlimit --memlock=65536 {user} usrdrv identify {SECOND}")
        assert "RLIMIT_MEMLOCK" in line and "64 KiB" in line
        result = guest.run(f"prlimit --memlock=268435456 {user} usrdrv identify {SECOND}", 60)
        assert result.code == 0 and "UDMA6" in result.out, result
        assert driver(guest, SECOND) == "vfio-pci", "it was bound by root, not by us"
    finally:
        guest.run(
            f"echo >{sysfs}/driver_override; echo {SECOND} >{sysfs}/driver/unbind; "
            f"echo {SECOND} >/sys/bus/pci/drivers_probe",
            check=True,
        )
    disk(guest, SECOND)


@BOTH
def test_a_group_with_a_neighbour_that_is_in_use(guest: Guest, through: str) -> None:
    disk(guest, TWINS[1])
    if through == USRDRV:  # which does not go by groups
        guest.run(f"usrdrv identify {TWINS[0]}", 60, check=True)
        disk(guest, TWINS[0])
        return
    line = refused(guest, f"usrdrv identify {TWINS[0]}")
    assert "has other functions in use" in line
    assert f"{TWINS[1]} (pata_sil680)" in line
    assert driver(guest, TWINS[0]) == "pata_sil680"


# The kernel logs what the IOMMU has stopped, as it should.
@BOTH
@pytest.mark.kernel_log(allow=[r"DMAR: "])
def test_a_stray_dma_is_stopped_reported_and_survived(guest: Guest) -> None:
    for name in ("stray_dma.py", "stray_dma.c"):
        shutil.copy(GUEST / name, guest.share)
    compiler = ["gcc", "-shared", "-fPIC", "-O", "-Wall", "-Werror", f"-I{INCLUDE}"]
    subprocess.run(
        [*compiler, "-o", guest.share / "stray.so", guest.share / "stray_dma.c"], check=True
    )
    place = guest.console.position()
    result = guest.run(f"python3 /share/stray_dma.py {FIRST} /share/stray.so", 180)
    assert result.code == 0, result.err
    found = json.loads(result.out)
    assert found["diverted"] > 0, "the driver was not led astray"
    assert found["errno"] == errno.EIO
    assert found["same"] and not found["empty"]
    reported = rf"DMAR: \[DMA Read.*\] Request device \[{FIRST[5:]}\] fault addr 0x66660000"
    says(guest, reported, place)
    disk(guest, FIRST)


def test_where_there_is_no_iommu(guest_factory: Boot) -> None:
    with (
        Model("cmd680", "--option", "strict=1", "--ram", "1M") as model,
        guest_factory([model.socket]) as bare,
    ):
        line = refused(bare, f"usrdrv identify {FIRST}")
        assert "there is no IOMMU in front of it" in line
        assert driver(bare, FIRST) == "pata_sil680"
        assert "no such PCI device" in refused(bare, "usrdrv identify 0000:00:1e.7")


def test_where_interrupts_are_not_remapped(guest_factory: Boot) -> None:
    extra = ["-device", "intel-iommu,caching-mode=on,intremap=off"]
    extra += ["-device", "nec-usb-xhci,msi=on,bus=pcie.0,addr=12.0"]
    with (
        Model("cmd680", "--option", "strict=1", "--ram", "1M") as model,
        guest_factory([model.socket], extra=extra, append="intel_iommu=on iommu=pt") as bare,
    ):
        assert "does not remap interrupts" in refused(bare, f"usrdrv identify {FIRST}")
        assert driver(bare, FIRST) == "pata_sil680"
        unsafe = "/sys/module/vfio_iommu_type1/parameters/allow_unsafe_interrupts"
        bare.run(f"echo 1 >{unsafe}", check=True)
        said = bare.run(["python3", "-c", SEVERAL_MSI], 60, check=True).out.split()
        assert said == [str(errno.ENOSPC), "None", "msi"], "such a machine gives a function one"
