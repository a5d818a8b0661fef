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
import select
import struct
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from scenario import PATIENCE, wait

from usrdrv.base import errors
from usrdrv.device import KINDS, Device, Interrupt, open_device

COMMAND, MEMORY_AND_MASTER = 4, 6
EXTENDED = 0x100
"""The first capability of PCI Express's part of configuration space."""
ROUNDS = 3


class Chip(Protocol):
    """What makes a device interrupt, and ends the interrupt."""

    def begin(self, vector: int) -> None: ...
    def end(self, vector: int) -> None: ...


class Edu:
    """QEMU, docs/specs/edu.rst."""

    RAISE, ACKNOWLEDGE = 0x60, 0x64

    def __init__(self, device: Device) -> None:
        self._device = device

    def begin(self, vector: int) -> None:
        self._device.write32(0, self.RAISE, 1)

    def end(self, vector: int) -> None:
        self._device.write32(0, self.ACKNOWLEDGE, 1)


class E1000e:
    """Intel 82574L, datasheet 10.2.4. One cause, the first receive queue's, which IVAR leads to a vector.

    The others stay off: among them is the link, which changes by itself.
    """

    ICR, ICS, IMS, IMC, IVAR, BUFFER = 0xC0, 0xC8, 0xD0, 0xD8, 0xE4, 0x10000
    VALID, CAUSE = 8, 1 << 20

    def __init__(self, device: Device) -> None:
        self._device = device
        device.write32(0, self.IMC, 0xFFFFFFFF)
        device.write32(0, self.ICR, 0xFFFFFFFF)
        device.write32(0, self.IMS, self.CAUSE)

    def begin(self, vector: int) -> None:
        self._device.write32(0, self.IVAR, self.VALID | vector)
        self._device.write32(0, self.ICS, self.CAUSE)

    def end(self, vector: int) -> None:
        self._device.write32(0, self.ICR, self.CAUSE)


class Igb:
    """Intel 82576, datasheet 8.8, or its virtual function, 8.26: a cause for each vector, which clears itself."""

    GPIE, EICS, EIMS, EIAC, MULTIPLE = 0x1514, 0x1520, 0x1524, 0x152C, 1 << 4

    def __init__(self, device: Device, virtual: bool = False) -> None:
        self._device = device
        if not virtual:
            device.write32(0, self.GPIE, self.MULTIPLE)
        for register in (self.EIAC, self.EIMS):
            device.write32(0, register, (1 << device.vectors["msix"]) - 1)

    def begin(self, vector: int) -> None:
        self._device.write32(0, self.EICS, 1 << vector)

    def end(self, vector: int) -> None:
        pass


class Nvme:
    """NVM Express 1.4, 3.1 and 5: the admin queues, and as many I/O queues as there are vectors beside the first.

    It interrupts when a command is done: of an admin queue to tell of itself, of an I/O queue to read a block.
    """

    CAP, CC, CSTS, AQA, ASQ, ACQ, DOORBELLS = 0, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
    ENABLE: Final = 4 << 20 | 6 << 16 | 1
    """Completions of 16 bytes, commands of 64."""
    CREATE_SQ, CREATE_CQ, IDENTIFY, READ = 1, 5, 6, 2
    DEPTH = 8

    def __init__(self, device: Device, irqs: Sequence[Interrupt]) -> None:
        self._device = device
        self._places = [0] * len(irqs)
        self._queues = [(device.dma_alloc(4096), device.dma_alloc(4096)) for _ in irqs]
        self.data = device.dma_alloc(4096)
        device.write32(0, self.CC, 0)
        self._wait_ready(0)
        device.write32(0, self.AQA, (self.DEPTH - 1) << 16 | self.DEPTH - 1)
        for register, memory in zip((self.ASQ, self.ACQ), self._queues[0], strict=True):
            device.write64(0, register, memory.bus)
        device.write32(0, self.CC, self.ENABLE)
        self._wait_ready(1)
        self.rows: list[list[int]] = []
        """Of the commands that made the queues."""
        for queue in range(1, len(irqs)):
            number = (self.DEPTH - 1) << 16 | queue
            commands, completions = (memory.bus for memory in self._queues[queue])
            for opcode, bus, flags in (
                (self.CREATE_CQ, completions, queue << 16 | 3),
                (self.CREATE_SQ, commands, queue << 16 | 1),
            ):
                self._submit(0, opcode, 0, bus, number, flags)
                self.rows.append(finish(device, self, irqs, 0))

    def _wait_ready(self, ready: int) -> None:
        wait(lambda: self._device.read32(0, self.CSTS) & 1 == ready, f"ready {ready}")

    def _submit(self, queue: int, opcode: int, space: int, bus: int, *words: int) -> None:
        place = self._places[queue] % self.DEPTH
        commands, _ = self._queues[queue]
        layout = struct.Struct("=IIQQQQ6I")
        words += (0,) * (6 - len(words))
        layout.pack_into(commands.buffer, 64 * place, opcode, space, 0, 0, bus, 0, *words)
        self._device.write32(0, self.DOORBELLS + 8 * queue, (place + 1) % self.DEPTH)

    def begin(self, vector: int) -> None:
        opcode, space, what = (self.READ, 1, 0) if vector else (self.IDENTIFY, 0, 1)
        self._submit(vector, opcode, space, self.data.bus, what)

    def end(self, vector: int) -> None:
        turn, place = divmod(self._places[vector], self.DEPTH)
        _, completions = self._queues[vector]
        (status,) = struct.unpack_from("=H", completions.buffer, 16 * place + 14)
        assert status == 1 - turn % 2, f"queue {vector}: status {status:#x}"  # success; the phase
        self._places[vector] += 1
        self._device.write32(0, self.DOORBELLS + 8 * vector + 4, (place + 1) % self.DEPTH)


def signalled(interrupt: Interrupt) -> int:
    try:
        return os.eventfd_read(interrupt.fileno())
    except BlockingIOError:
        return 0


def finish(device: Device, chip: Chip, irqs: Sequence[Interrupt], vector: int) -> list[int]:
    """Wait for the interrupt of that vector, end it; return the row."""
    assert select.select([irqs[vector]], [], [], PATIENCE)[0], f"vector {vector} does not come"
    chip.end(vector)
    found = [signalled(each) for each in irqs]
    device.irq_unmask()
    return found


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
        device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_MASTER)
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
