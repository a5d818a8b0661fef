# SPDX-License-Identifier: MIT
"""The usrdrv system calls for scripts that run in the guest, and QEMU's `edu` device through them.

edu (QEMU, docs/specs/edu.rst): a factorial unit, an interrupt that can be raised by a register, INTx or MSI,
and a DMA engine between memory and 4 KiB of its own.
"""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import select
import struct
import time
from dataclasses import dataclass

from scenario import PATIENCE

OPEN, MAP = 548, 549
INFO, RESET, ALLOC, FREE, STREAM, UNMAP, REMAP, IRQ_SET, IRQ_UNMASK = range(9)
NO_IRQ, INTX, MSI = range(3)
TO_DEVICE, FROM_DEVICE = 1, 2
CAN_RESET, TRANSLATED, HAS_INTX, INTX_SHARED, HAS_MSI = (1 << bit for bit in range(5))
CONFIG = 7
MASTER = 4
"""Of the command register."""

libc = ctypes.CDLL(None, use_errno=True)


def call(number: int, *arguments: object) -> int:
    """A system call; OSError if it fails."""
    result = libc.syscall(number, *arguments)
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return int(result)


@dataclass(frozen=True)
class Region:
    offset: int
    size: int
    flags: int


class Claim:
    """A claimed function."""

    def __init__(self, address: str, name: bytes = b"", mask: int = 0) -> None:
        domain, bus, rest = address.split(":")
        slot, function = rest.split(".")
        text = ctypes.create_string_buffer(name)
        place = (int(domain, 16), int(bus, 16), int(slot, 16), int(function))
        pointer = ctypes.addressof(text) if name else 0
        how = struct.pack("=IBBBBQQQ", *place, 0, mask, pointer, 1)
        self.fd = call(OPEN, how, ctypes.c_size_t(len(how)))
        data = self.control(INFO, b"", 208)
        self.mask, self.flags, self.irq = struct.unpack_from("=QII", data)
        self.regions = [
            Region(*struct.unpack_from("=QQI", data, 16 + 24 * number)) for number in range(8)
        ]

    def control(self, op: int, data: bytes = b"", size: int | None = None) -> bytes:
        size = len(data) if size is None else size
        buffer = ctypes.create_string_buffer(data, size) if size else None
        call(MAP, self.fd, op, buffer, ctypes.c_size_t(size))
        return buffer.raw if buffer is not None else b""

    def reset(self) -> None:
        self.control(RESET)

    def config(self, at: int, width: int) -> int:
        return int.from_bytes(os.pread(self.fd, width, self.regions[CONFIG].offset + at), "little")

    def set_command(self, value: int) -> None:
        os.pwrite(self.fd, value.to_bytes(2, "little"), self.regions[CONFIG].offset + 4)

    def alloc(self, size: int) -> tuple[int, int, mmap.mmap]:
        """Return id, bus address and the memory."""
        data = self.control(ALLOC, struct.pack("=QQQQII", size, 0, 0, 0, 0, 0))
        length, _, bus, offset, number, _ = struct.unpack("=QQQQII", data)
        return number, bus, mmap.mmap(self.fd, length, offset=offset)

    def stream(
        self, address: int, size: int, flags: int, old: int | None = None
    ) -> tuple[int, list[tuple[int, int]]]:
        """Return id and segments."""
        room = (ctypes.c_uint64 * 2048)()
        values = (address, size, ctypes.addressof(room), 1024, flags, old or 0, 0)
        op = STREAM if old is None else REMAP
        data = self.control(op, struct.pack("=QQQIIII", *values))
        count, _, number, _ = struct.unpack_from("=IIII", data, 24)
        return number, [(room[2 * i], room[2 * i + 1]) for i in range(count)]

    def unmap(self, number: int) -> None:
        self.control(UNMAP, struct.pack("=II", number, 0))

    def irq_set(self, kind: int, event: int = -1, unmask: int = -1) -> int:
        """Return the number of the interrupt."""
        data = self.control(IRQ_SET, struct.pack("=IiiI", kind, event, unmask, 0))
        return int(struct.unpack("=IiiI", data)[3])

    def unmask(self) -> None:
        self.control(IRQ_UNMASK)

    def close(self) -> None:
        os.close(self.fd)


class Edu(Claim):
    """QEMU's edu, registers through a mapping."""

    ID, LIVENESS, FACTORIAL, STATUS, RAISED, RAISE, ACK = 0, 4, 8, 0x20, 0x24, 0x60, 0x64
    SOURCE, TARGET, COUNT, COMMAND = 0x80, 0x88, 0x90, 0x98
    OWN = 0x40000
    """Bus address, to the DMA engine, of its own memory."""

    def __init__(self, address: str, **options: object) -> None:
        super().__init__(address, **options)  # type: ignore[arg-type]
        bar = self.regions[0]
        self.bar = mmap.mmap(self.fd, bar.size, offset=bar.offset)
        self.words = memoryview(self.bar).cast("I")
        # It knows no reset: what the last one left, and no bus until that is over.
        assert not self.config(4, 2) & MASTER
        self.write(self.ACK, 0xFFFFFFFF)
        self.wait_idle()
        self.set_command(self.config(4, 2) | MASTER)

    def read(self, at: int) -> int:
        return self.words[at // 4]

    def write(self, at: int, value: int) -> None:
        self.words[at // 4] = value

    def dma(self, source: int, target: int, size: int, command: int) -> None:
        for at, value in ((self.SOURCE, source), (self.TARGET, target), (self.COUNT, size)):
            self.write(at, value & 0xFFFFFFFF)
            self.write(at + 4, value >> 32)
        self.write(self.COMMAND, command | 1)
        self.wait_idle()

    def wait_idle(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while self.read(self.COMMAND) & 1:
            assert time.monotonic() < deadline, "the transfer does not end"

    def fetch(self, bus: int, size: int) -> None:
        """From memory into its own."""
        self.dma(bus, self.OWN, size, 0)

    def store(self, bus: int, size: int) -> None:
        self.dma(self.OWN, bus, size, 2)

    def close(self) -> None:
        self.words.release()
        self.bar.close()
        super().close()


def readable(fd: int, seconds: float) -> bool:
    return bool(select.select([fd], [], [], seconds)[0])


def error_of(function: object, *arguments: object) -> str:
    """Return the name of the error that a call ends with; "" for none."""
    try:
        function(*arguments)  # type: ignore[operator]
    except OSError as error:
        return errno.errorcode[error.errno or 0]
    return ""
