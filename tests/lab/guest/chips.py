# SPDX-License-Identifier: MIT
"""As much of QEMU's chips as tests of the access layer need, in a guest and without one: interrupts, some DMA."""

from __future__ import annotations

import os
import select
import struct
from collections.abc import Sequence
from typing import Final, Protocol

from scenario import PATIENCE, wait

from usrdrv.device import Device, Interrupt

COMMAND, MEMORY_AND_MASTER = 4, 6


def enable(device: Device) -> None:
    """Let a function decode memory and be a bus master."""
    device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_MASTER)


class Chip(Protocol):
    """What makes a device interrupt, and ends the interrupt."""

    def begin(self, vector: int) -> None: ...
    def end(self, vector: int) -> None: ...


class Edu:
    """QEMU, docs/specs/edu.rst."""

    IDENTIFICATION, LIVENESS, RAISE, ACKNOWLEDGE = 0, 4, 0x60, 0x64
    SOURCE, DESTINATION, COUNT, DMA = 0x80, 0x88, 0x90, 0x98
    START, TO_MEMORY, TELL, DONE = 1, 2, 4, 0x100
    BUFFER = 0x40000
    REACH = (1 << 28) - 1
    """Of its DMA."""

    def __init__(self, device: Device) -> None:
        self._device = device

    def begin(self, vector: int) -> None:
        self._device.write32(0, self.RAISE, 1)

    def end(self, vector: int) -> None:
        self._device.write32(0, self.ACKNOWLEDGE, 1 | self.DONE)

    def move(self, source: int, destination: int, count: int, command: int = 0) -> None:
        """Start a transfer, which interrupts when it is done."""
        for register, value in (
            (self.SOURCE, source),
            (self.DESTINATION, destination),
            (self.COUNT, count),
            (self.DMA, command | self.START | self.TELL),
        ):
            self._device.write64(0, register, value)


class E1000e:
    """Intel 82574L, datasheet 10.2.4. One cause, the first receive queue's, which IVAR leads to a vector.

    The others stay off: among them is the link, which changes by itself. And a send queue, 7.2.10.
    """

    ICR, ICS, IMS, IMC, IVAR, BUFFER = 0xC0, 0xC8, 0xD0, 0xD8, 0xE4, 0x10000
    VALID, CAUSE = 8, 1 << 20
    CONTROL, LINK_UP, SEND_CONTROL, ENABLE = 0, 1 << 6, 0x400, 2
    RING, RING_SIZE, TAIL = 0x3800, 0x3808, 0x3818
    LAST, CHECKSUM, REPORT = 1, 2, 8
    """Commands of a descriptor: end of the frame, add its checksum, report."""

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

    def send(self, frame: bytes) -> None:
        """Send a first frame."""
        device = self._device
        memory = device.dma_alloc(8192)
        memory.buffer[4096 : 4096 + len(frame)] = frame
        command = self.LAST | self.CHECKSUM | self.REPORT
        memory.buffer[0:16] = struct.pack("=QHBBI", memory.bus + 4096, len(frame), 0, command, 0)
        device.write32(0, self.CONTROL, self.LINK_UP)
        device.write64(0, self.RING, memory.bus)
        device.write32(0, self.RING_SIZE, 4096)
        device.write32(0, self.SEND_CONTROL, self.ENABLE)
        device.write32(0, self.TAIL, 1)
        wait(lambda: memory.buffer[12] != b"\0", "the frame is sent")


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
    CREATE_SQ, CREATE_CQ, IDENTIFY = 1, 5, 6
    WRITE, READ = 1, 2
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
        if vector:
            self.move(vector, self.READ, 0)
        else:
            self._submit(0, self.IDENTIFY, 0, self.data.bus, 1)

    def move(self, queue: int, opcode: int, block: int) -> None:
        """Start to read or write a block from or to `data`."""
        self._submit(queue, opcode, 1, self.data.bus, block)

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
