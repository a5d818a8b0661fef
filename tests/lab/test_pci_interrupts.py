# SPDX-License-Identifier: MIT
"""Interrupts of each kind, and registers of each width, of QEMU's own devices; what system calls they take.

Through VFIO, behind the guest's IOMMU, and through the usrdrv calls without one, which know INTx and a single MSI.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest

from tests.lab.helpers.functions import driver
from tests.waiting import until
from usrdrv.lab.guest import Guest

Boot = Callable[..., Guest]

SCRIPT = "/src/tests/lab/guest/pci_interrupts.py"
ROUNDS = 3
"""Of the script."""
INTERRUPTS = 100

IGB, VIRTUAL = "0000:00:0c.0", "0000:00:1c.0"
"""Its first virtual function is 80h functions later, and has to be on the same bus."""
NVME, E1000E, EDU, SILENT, XHCI = (f"0000:00:{slot}.0" for slot in range(12, 17))

ON_VFIO = pytest.mark.parametrize("guest", ["vfio"], indirect=True)
ON_BOTH = pytest.mark.parametrize("guest", ["vfio", "usrdrv"], indirect=True)


@pytest.fixture(scope="module")
def guest(
    request: pytest.FixtureRequest, guest_factory: Boot, tmp_path_factory: pytest.TempPathFactory
) -> Guest:
    image = tmp_path_factory.mktemp("interrupts") / "disk.img"
    image.write_bytes(b"ourbytes" * 512 * 1024)
    extra = [
        *("-drive", f"file={image},if=none,id=disk,format=raw"),
        *("-device", "nvme,drive=disk,serial=1,bus=pcie.0,addr=12.0"),
        *("-netdev", "user,id=net,restrict=on"),
        *("-device", "e1000e,netdev=net,bus=pcie.0,addr=13.0"),
        *("-device", "edu,bus=pcie.0,addr=14.0"),
        *("-device", "pci-testdev,bus=pcie.0,addr=15.0"),
        *("-device", "nec-usb-xhci,msi=on,msix=on,bus=pcie.0,addr=16.0"),
        *("-device", "igb,bus=pcie.0,addr=0c.0"),
    ]
    if request.param == "vfio":
        return guest_factory(iommu=True, extra=extra)
    return guest_factory(kernel="base", extra=extra)


def report(guest: Guest, what: str, address: str) -> dict[str, Any]:
    said = guest.run(f"python3 {SCRIPT} {what} {address}", 180, check=True).out
    return dict(json.loads(said))


def each_alone(vectors: int) -> list[list[int]]:
    """A round in which each vector is signalled once, and no other with it."""
    return [[int(vector == at) for at in range(vectors)] for vector in range(vectors)]


def interface(guest: Guest, address: str) -> str:
    """Wait for the kernel's interface of a NIC."""
    names = f"ls /sys/bus/pci/devices/{address}/net 2>&-"
    return until(lambda: guest.run(names).out.split(), f"an interface on {address}")[0]


@ON_VFIO
def test_nvme(guest: Guest) -> None:
    """Two queues with a vector each, and kinds that follow each other. A reset takes no interrupt away."""
    found = report(guest, "nvme", NVME)
    assert found["vectors"] == {"msix": 65, "msi": 0, "intx": 1}
    assert found["at first"] == "intx"
    assert found["too many"].endswith("66 interrupts asked for; there are: msix 65, intx 1")
    low, high = found["32 bits"]
    assert found["64 bits"] == high << 32 | low and high
    made = [[1, 0]] * 2  # the queue, by commands of the first one
    assert found["msix"] == found["after reset"] == made + each_alone(2) * ROUNDS
    assert found["data"] == "ourbytes"
    assert found["then intx"] == found["then msix"] == each_alone(1) * ROUNDS
    assert driver(guest, NVME) == "nvme"
    until(lambda: guest.run("head -c 8 /dev/nvme0n1").out == "ourbytes", "the kernel's disk")


@ON_VFIO
def test_e1000e(guest: Guest) -> None:
    found = report(guest, "e1000e", E1000E)
    assert found["vectors"] == {"msix": 5, "msi": 1, "intx": 1}
    assert found["too many"].endswith("6 interrupts asked for; there are: msix 5, msi 1, intx 1")
    assert found["first"] == [[1, *[0] * later] for later in (4, 3, 2, 1, 0)]
    assert found["beyond 64 KiB"] == 0x12345678
    assert found["extended"] == 1, "advanced error reporting"
    assert driver(guest, E1000E) == "e1000e"
    name = interface(guest, E1000E)
    guest.run(f"ip addr add 10.0.2.15/24 dev {name} && ip link set {name} up", check=True)
    guest.run("ping -c 1 -w 60 10.0.2.2", 90, check=True)


@ON_VFIO
def test_igb(guest: Guest) -> None:
    """As many vectors as there are, each alone; nothing is left of a connection that fails at the last one."""
    found = report(guest, "igb", IGB)
    assert found["vectors"] == {"msix": 10, "msi": 1, "intx": 1}
    assert found["rows"] == found["after reset"] == each_alone(10) * ROUNDS
    assert found["failed"] == ["EINVAL", None]
    assert driver(guest, IGB) == "igb"


@ON_VFIO
def test_a_virtual_function_has_no_intx(guest: Guest) -> None:
    name = interface(guest, IGB)
    count = f"/sys/bus/pci/devices/{IGB}/sriov_numvfs"
    guest.run(f"ip link set {name} up && echo 1 >{count}", 60, check=True)
    try:
        found = report(guest, "igbvf", VIRTUAL)
    finally:
        guest.run(f"echo 0 >{count} && ip link set {name} down", 60, check=True)
    assert found["vectors"] == {"msix": 3, "msi": 0, "intx": 0}
    assert found["at first"] is None
    assert found["too many"].endswith("4 interrupts asked for; there are: msix 3")
    assert found["rows"] == found["after reset"] == each_alone(3) * ROUNDS


@ON_VFIO
def test_several_msi(guest: Guest) -> None:
    found = report(guest, "xhci", XHCI)
    assert found["vectors"] == {"msix": 16, "msi": 16, "intx": 1}
    assert found["had"] == [[16, 0], [0, 5], [3, 0]]


@ON_BOTH
def test_edu(guest: Guest) -> None:
    """INTx and MSI in turns."""
    found = report(guest, "edu", EDU)
    assert found["vectors"] == {"msix": 0, "msi": 1, "intx": 1}
    assert found["at first"] == "intx"
    assert found["too many"].endswith("2 interrupts asked for; there are: msi 1, intx 1")
    once = each_alone(1) * ROUNDS
    assert found["rows"] == [[kind, once] for kind in ("intx", "msi", "intx")]
    assert found["failed"] == ["EINVAL", None]
    assert found["again"] == once


@ON_BOTH
def test_a_function_without_interrupts(guest: Guest) -> None:
    found = report(guest, "silent", SILENT)
    assert found["vectors"] == {"msix": 0, "msi": 0, "intx": 0}
    assert found["at first"] is None
    assert found["too many"].endswith("1 interrupts asked for; there are: none")


def system_calls(guest: Guest, address: str, chip: str, kind: str) -> Counter[str]:
    """Those of a number of interrupts; not those for memory of the interpreter's."""
    script = f"python3 {SCRIPT} calls {address} {chip} {kind} {INTERRUPTS}"
    guest.run(f"strace -qq -o /tmp/calls {script}", 180, check=True)
    log = guest.run("cat /tmp/calls", check=True).out
    loop = log.partition('write(1, "begin"')[2].partition("\n")[2].partition('write(1, "end"')[0]
    return Counter(re.findall(r"^(?!brk|mmap|munmap)(\w+)\(", loop, re.MULTILINE))


@ON_VFIO
def test_msix_takes_no_call_to_be_unmasked(guest: Guest) -> None:
    """There is the wait for the eventfd, and the read of it."""
    found = system_calls(guest, IGB, "igb", "msix")
    assert found == {"poll": INTERRUPTS, "preadv2": INTERRUPTS}


@ON_BOTH
def test_intx_takes_one_that_msi_does_not(guest: Guest, request: pytest.FixtureRequest) -> None:
    msi, intx = (system_calls(guest, EDU, "edu", kind) for kind in ("msi", "intx"))
    assert msi == {"poll": INTERRUPTS, "preadv2": INTERRUPTS}
    # usr_pci_map() is not known to strace by name.
    name = {"vfio": "ioctl", "usrdrv": "syscall_0x225"}[request.node.callspec.params["guest"]]
    assert intx == {**msi, name: INTERRUPTS}
