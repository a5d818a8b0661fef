# SPDX-License-Identifier: MIT
"""Just enough of QEMU's chips for tests of the access layer: how each raises an interrupt, and moves data."""

from __future__ import annotations

import contextlib
import os
import struct
from pathlib import Path
from typing import Final

from tests.waiting import until
from usrdrv.device import Device, DmaMemory

COMMAND: Final = 4
MEMORY_AND_MASTER: Final = 6


def children() -> set[int]:
    """Processes that this one has started and that run, whichever thread did so."""
    found: set[int] = set()
    for status in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):  # it has ended
            # The name, in parentheses, may hold anything: field 4 (proc_pid_stat(5)) is counted from its end.
            state, parent = status.read_text().rpartition(")")[2].split()[:2]
            if int(parent) == os.getpid() and state != "Z":
                found.add(int(status.parent.name))
    return found


def enable(device: Device) -> None:
    """Let a function decode memory and be a bus master."""
    device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_MASTER)


class Edu:
    """QEMU, docs/specs/edu.rst."""

    IDENTIFICATION, LIVENESS = 0, 4
    RAISE, ACKNOWLEDGE = 0x60, 0x64
    SOURCE, DESTINATION, COUNT, DMA = 0x80, 0x88, 0x90, 0x98
    BUFFER: Final = 0x40000
    START, TO_MEMORY, TELL = 1, 2, 4
    REACH: Final = (1 << 28) - 1
    """Of its DMA."""

    def __init__(self, device: Device) -> None:
        self.device = device
        enable(device)

    def raise_irq(self, bits: int = 1) -> None:
        self.device.write32(0, self.RAISE, bits)

    def acknowledge(self, bits: int = 1) -> None:
        self.device.write32(0, self.ACKNOWLEDGE, bits)

    def move(self, source: int, destination: int, count: int, command: int) -> None:
        """Start a transfer."""
        for register, value in (
            (self.SOURCE, source),
            (self.DESTINATION, destination),
            (self.COUNT, count),
            (self.DMA, command | self.START),
        ):
            self.device.write64(0, register, value)


class E1000e:
    """Intel 82574: causes of interrupts and the vector of each (10.2.4), and a send queue (7.2.10)."""

    CONTROL, SEND_CONTROL = 0, 0x400
    RING, RING_SIZE, HEAD, TAIL = 0x3800, 0x3808, 0x3810, 0x3818
    LINK_UP, ENABLE = 1 << 6, 2
    LAST, CHECKSUM, REPORT = 1, 2, 8
    """Commands of a descriptor: end of the frame, add its checksum, report."""
    ICS, IMS, EIAC, IVAR = 0xC8, 0xD0, 0xDC, 0xE4
    CAUSES: Final = (1 << 20, 1 << 22, 1 << 21, 1 << 23, 1 << 24)
    """Of receive and send queue 0, of both queues 1, and of all else."""
    PLACES: Final = (0, 8, 4, 12, 16)
    """Of their vectors in IVAR, in bits."""
    VALID: Final = 8

    def __init__(self, device: Device) -> None:
        self.device = device
        enable(device)

    def route(self) -> None:
        """Cause n to vector n, which clears it."""
        ivar = sum((self.VALID | n) << place for n, place in enumerate(self.PLACES))
        self.device.write32(0, self.IVAR, ivar)
        self.device.write32(0, self.EIAC, sum(self.CAUSES))
        self.device.write32(0, self.IMS, sum(self.CAUSES))

    def raise_vector(self, number: int) -> None:
        self.device.write32(0, self.ICS, self.CAUSES[number])

    def send(self, frame: bytes) -> None:
        """Send a first frame."""
        device = self.device
        memory = device.dma_alloc(8192)
        memory.buffer[4096 : 4096 + len(frame)] = frame
        command = self.LAST | self.CHECKSUM | self.REPORT
        descriptor = struct.pack("<QHBBI", memory.bus + 4096, len(frame), 0, command, 0)
        memory.buffer[0:16] = descriptor
        device.write32(0, self.CONTROL, self.LINK_UP)
        device.write64(0, self.RING, memory.bus)
        device.write32(0, self.RING_SIZE, 4096)
        device.write32(0, self.SEND_CONTROL, self.ENABLE)
        device.write32(0, self.TAIL, 1)
        until(lambda: memory.buffer[12] != b"\0", "the frame is sent")


class Nvme:
    """NVM Express 1.4: an admin queue on vector 0, and one I/O queue pair on a vector of choice."""

    CAP, CC, CSTS, AQA, ASQ, ACQ, DOORBELLS = 0, 0x14, 0x1C, 0x24, 0x28, 0x30, 0x1000
    DEPTH: Final = 16

    def __init__(self, device: Device) -> None:
        self.device = device
        enable(device)
        self.queues = [self._queue(0), self._queue(1)]
        admin = self.queues[0]
        device.write32(0, self.CC, 0)
        self._await_ready(0)
        device.write32(0, self.AQA, (self.DEPTH - 1) << 16 | (self.DEPTH - 1))
        device.write64(0, self.ASQ, admin.submission.bus)
        device.write64(0, self.ACQ, admin.completion.bus)
        device.write32(0, self.CC, 4 << 20 | 6 << 16 | 1)
        self._await_ready(1)

    def _queue(self, number: int) -> _Queue:
        memory = [self.device.dma_alloc(4096) for _ in range(2)]
        return _Queue(number, *memory)

    def _await_ready(self, wanted: int) -> None:
        until(lambda: self.device.read32(0, self.CSTS) & 1 == wanted, "the controller is ready")

    def submit(self, queue: int, opcode: int, nsid: int, address: int, *words: int) -> None:
        q = self.queues[queue]
        q.commands += 1
        head = struct.pack("<IIQQQQ", opcode | q.commands << 16, nsid, 0, 0, address, 0)
        entry = head + struct.pack("<6I", *words, *(0,) * (6 - len(words)))
        at = (q.commands - 1) % self.DEPTH * 64
        q.submission.buffer[at : at + 64] = entry
        self.device.write32(0, self.DOORBELLS + 8 * queue, q.commands % self.DEPTH)

    def status(self, queue: int) -> int:
        """Take the next completion, whose interrupt has come. Return its status."""
        q = self.queues[queue]
        at = q.taken % self.DEPTH * 16
        dword = struct.unpack_from("<I", bytes(q.completion.buffer[at : at + 16]), 12)[0]
        assert dword >> 16 & 1 == 1 - q.taken // self.DEPTH % 2, "it is a new one"
        q.taken += 1
        self.device.write32(0, self.DOORBELLS + 8 * queue + 4, q.taken % self.DEPTH)
        return int(dword >> 17)

    def make_io_queue(self, vector: int) -> None:
        """Submit both commands; each is an interrupt of the admin queue."""
        q = self.queues[1]
        size = (self.DEPTH - 1) << 16 | 1
        self.submit(0, 5, 0, q.completion.bus, size, vector << 16 | 3)
        self.submit(0, 1, 0, q.submission.bus, size, 1 << 16 | 1)

    def io(self, opcode: int, address: int, block: int, blocks: int) -> None:
        self.submit(1, opcode, 1, address, block, 0, blocks - 1)


class _Queue:
    def __init__(self, number: int, submission: DmaMemory, completion: DmaMemory) -> None:
        self.number = number
        self.submission, self.completion = submission, completion
        self.commands = self.taken = 0
