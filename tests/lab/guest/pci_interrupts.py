# SPDX-License-Identifier: MIT
"""Runs in the guest: interrupts of one of QEMU's own devices, kind by kind, and its registers. Prints JSON.

pci_interrupts.py nvme | e1000e | igb | igbvf | xhci | edu | silent ADDRESS
pci_interrupts.py calls ADDRESS igb | edu KIND ROUNDS    # only interrupts between the words begin and end

A row is what comes of one interrupt: how often each vector's eventfd was signalled.
"""

from __future__ import annotations

import errno
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from chips import Chip, E1000e, Edu, Igb, Nvme, enable, finish
from scenario import PATIENCE

from usrdrv.base import errors
from usrdrv.device import KINDS, Device, Interrupt, open_device

EXTENDED = 0x100
"""The first capability of PCI Express's part of configuration space."""
ROUNDS = 3


def each_vector(device: Device, chip: Chip, irqs: Sequence[Interrupt]) -> list[list[int]]:
    """Some rounds of them, one after the other."""
    rows = []
    for vector in [*range(len(irqs))] * ROUNDS:
        chip.begin(vector)
        rows.append(finish(device, chip, irqs, vector))
    return rows


def too_many(device: Device, kind: str | None = None) -> str:
    try:
        device.irqs(max(device.vectors.values()) + 1, kind)
    except errors.UsageError as error:
        return str(error)
    return ""


def failed_connection(device: Device, kind: str) -> list[Any]:
    """The last vector's file is no eventfd. Then there are no interrupts."""
    fds = [int(device.c.irq_fd)] * device.vectors[kind]
    with open("/dev/null") as file:
        fds[-1] = file.fileno()
        result = device.c.ops.irq_connect(device.c, KINDS[kind], fds, len(fds))
    device.irq_unmask()
    return [errno.errorcode[-result], device.irq_kind]


def nvme(device: Device) -> dict[str, Any]:
    found: dict[str, Any] = {
        "64 bits": device.read64(0, Nvme.CAP),
        "32 bits": [device.read32(0, Nvme.CAP + at) for at in (0, 4)],
    }
    irqs = device.irqs(2)
    chip = Nvme(device, irqs)
    found["msix"] = [*chip.rows, *each_vector(device, chip, irqs)]
    found["data"] = bytes(chip.data.buffer[:8]).decode()
    device.reset()
    chip = Nvme(device, irqs)
    found["after reset"] = [*chip.rows, *each_vector(device, chip, irqs)]
    for kind in ("intx", "msix"):
        device.write32(0, Nvme.CC, 0)  # it forgets the queues, which know vectors
        irqs = device.irqs(1, kind)
        found[f"then {kind}"] = each_vector(device, Nvme(device, irqs), irqs)
    return found


def e1000e(device: Device) -> dict[str, Any]:
    """QEMU's throttling tells of each interrupt again. So a vector's first counts, and the vectors behind it."""
    irqs = device.irqs(5)
    chip = E1000e(device)
    first = []
    for vector in range(5):
        chip.begin(vector)
        first.append([min(count, 1) for count in finish(device, chip, irqs, vector)[vector:]])
    device.write32(0, chip.BUFFER, 0x12345678)
    return {
        "first": first,
        "beyond 64 KiB": device.read32(0, chip.BUFFER),
        "extended": device.config_read(EXTENDED, 4) & 0xFFFF,
    }


def igb(device: Device, virtual: bool = False) -> dict[str, Any]:
    irqs = device.irqs(device.vectors["msix"])
    rows = each_vector(device, Igb(device, virtual), irqs)
    device.reset()
    return {
        "rows": rows,
        "after reset": each_vector(device, Igb(device, virtual), irqs),
        "failed": failed_connection(device, "msix"),
    }


def igbvf(device: Device) -> dict[str, Any]:
    return igb(device, virtual=True)


def xhci(device: Device) -> dict[str, Any]:
    """How many the kernel has of each kind after some changes."""
    found = []
    for count, kind in ((16, "msi"), (5, "msix"), (3, "msi")):
        device.irqs(count, kind)
        lines = Path("/proc/interrupts").read_text()
        found.append([lines.count(f"vfio-{name}[") for name in ("msi", "msix")])
    return {"had": found}


def edu(device: Device) -> dict[str, Any]:
    chip = Edu(device)
    rows = []
    for kind in ("intx", "msi", "intx"):
        irqs = device.irqs(1, kind)
        rows.append([device.irq_kind, each_vector(device, chip, irqs)])
    failed = failed_connection(device, "msi")
    return {"rows": rows, "failed": failed, "again": each_vector(device, chip, device.irqs())}


def silent(device: Device) -> dict[str, Any]:
    """It has no interrupts."""
    device.irq_unmask()
    return {}


def calls(device: Device, chip: Chip, kind: str, rounds: int) -> None:
    """As a driver that does not know which kind it has."""
    (irq,) = device.irqs(1, kind)
    os.write(1, b"begin")
    for _ in range(rounds):
        chip.begin(0)
        assert irq.wait(PATIENCE)
        chip.end(0)
        device.irq_unmask()
    os.write(1, b"end")


def main(what: str, address: str, *arguments: str) -> None:
    with open_device(address) as device:
        enable(device)
        if what == "calls":
            name, kind, rounds = arguments
            calls(device, {"igb": Igb, "edu": Edu}[name](device), kind, int(rounds))
            return
        found: dict[str, Any] = {
            "vectors": device.vectors,
            "at first": device.irq_kind,
            "too many": too_many(device),
        }
        report = {each.__name__: each for each in (nvme, e1000e, igb, igbvf, xhci, edu, silent)}[
            what
        ]
        print(json.dumps({**found, **report(device)}))


if __name__ == "__main__":
    main(*sys.argv[1:])
