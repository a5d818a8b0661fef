# SPDX-License-Identifier: MIT
"""A tiny driver over the CMD680 model, so that tests read like the hardware document."""

import struct
from collections.abc import Sequence
from typing import Any, Self

from tests.waiting import until
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.cmd680.model import Cmd680Model, DriveSpec

MEM_BASE = 0x1F000000
MEM_SIZE = 4 << 20
PRD = MEM_BASE + 0x2000
DATA = MEM_BASE + 0x100000
CONFIG = 7
CTL = 0x8A


class Machine:
    """A model with memory at MEM_BASE. Registers are BAR5 offsets of channel 0 plus `ch`."""

    def __init__(
        self, *drives: DriveSpec | None, enable: int = 7, split: int = 0, **kw: Any
    ) -> None:
        self.model = Cmd680Model(drives or [DriveSpec(ram=1 << 20)], **kw)
        self.strict = bool(kw.get("strict"))
        self.mem = bytearray(MEM_SIZE)
        self._buf = ffi.from_buffer(self.mem)
        self.host = ffi.new("struct usrdrv_testhost *")
        self.host.mem = ffi.cast("uint8_t *", self._buf)
        self.host.base, self.host.len, self.host.split = MEM_BASE, MEM_SIZE, split
        self.c = ffi.cast("struct usrdrv_model *", self.model.pointer)
        lib.usrdrv_testhost_attach(self.host, self.c)
        if enable:
            self.cfg_w(4, enable, 2)

    def close(self) -> None:
        self.model.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    # raw access
    def r(self, offset: int, width: int = 1, region: int = 5) -> int:
        return int(self.c.ops.read(self.c, region, offset, width))

    def w(self, offset: int, value: int, width: int = 1, region: int = 5) -> None:
        self.c.ops.write(self.c, region, offset, width, value)

    def cfg(self, offset: int, width: int = 1) -> int:
        return self.r(offset, width, CONFIG)

    def cfg_w(self, offset: int, value: int, width: int = 1) -> None:
        self.w(offset, value, width, CONFIG)

    @property
    def level(self) -> int:
        return int(self.host.level)

    # memory
    def put(self, addr: int, data: bytes) -> None:
        self.mem[addr - MEM_BASE : addr - MEM_BASE + len(data)] = data

    def get(self, addr: int, n: int) -> bytes:
        return bytes(self.mem[addr - MEM_BASE : addr - MEM_BASE + n])

    def prd(self, *entries: tuple[int, int]) -> None:
        """Write a PRD table; counts are bytes, the last entry gets EOT."""
        table = b""
        for i, (addr, count) in enumerate(entries):
            eot = 0x80000000 if i == len(entries) - 1 else 0
            table += struct.pack("<II", addr, count & 0xFFFF | eot)
        self.put(PRD, table)

    # task file; tf = 0x80 or 0xc0
    def taskfile(
        self,
        op: int,
        lba: int = 0,
        count: int = 0,
        *,
        feature: int = 0,
        ext: bool = False,
        dev: int = 0,
        ch: int = 0,
    ) -> None:
        t = 0x80 + 0x40 * ch
        self.w(t + 6, 0xA0 | dev << 4)
        if ext:
            for i, v in enumerate((feature >> 8, count >> 8, lba >> 24, lba >> 32, lba >> 40)):
                self.w(t + 1 + i, v & 0xFF)
        for i, v in enumerate((feature, count, lba, lba >> 8, lba >> 16)):
            self.w(t + 1 + i, v & 0xFF)
        self.w(t + 6, 0xE0 | dev << 4 | (0 if ext else lba >> 24 & 15))
        self.w(t + 7, op)

    def status(self, ch: int = 0) -> int:
        return self.r(0x87 + 0x40 * ch)

    def alt(self, ch: int = 0) -> int:
        return self.r(0x8A + 0x40 * ch)

    def error(self, ch: int = 0) -> int:
        return self.r(0x81 + 0x40 * ch)

    def wait(self, ch: int = 0) -> int:
        """Until BSY is 0."""
        until(lambda: not self.alt(ch) & 0x80, "BSY goes away")
        return self.alt(ch)

    def command(self, op: int, lba: int = 0, count: int = 0, **kw: Any) -> int:
        """A non-data command; returns the status."""
        self.taskfile(op, lba, count, **kw)
        ch = kw.get("ch", 0)
        self.wait(ch)
        status = self.status(ch)
        self.w(0x02 + 8 * ch, 0x06)
        return status

    def lba48(self, ch: int = 0) -> int:
        t = 0x80 + 0x40 * ch
        low = sum(self.r(t + 3 + i) << (8 * i) for i in range(3))
        self.w(t + 0x0A, 0x80)
        high = sum(self.r(t + 3 + i) << (8 * i) for i in range(3))
        self.w(t + 0x0A, 0)
        return low | high << 24

    def pio_in(self, n: int, ch: int = 0, width: int = 2) -> bytes:
        return b"".join(
            self.r(0x80 + 0x40 * ch, width).to_bytes(width, "little") for _ in range(n // width)
        )

    def pio_out(self, data: bytes, ch: int = 0) -> None:
        for i in range(0, len(data), 2):
            self.w(0x80 + 0x40 * ch, int.from_bytes(data[i : i + 2], "little"), 2)

    def identify(self, dev: int = 0, ch: int = 0) -> list[int]:
        self.taskfile(0xEC, dev=dev, ch=ch)
        assert self.status(ch) == 0x58
        self.w(0x02 + 8 * ch, 0x06)
        return list(struct.unpack("<256H", self.pio_in(512, ch)))

    def dma(
        self,
        op: int,
        lba: int,
        count: int,
        entries: Sequence[tuple[int, int]] | None = None,
        *,
        write: bool = False,
        **kw: Any,
    ) -> tuple[int, int, int]:
        """A DMA command to its end: (bus-master status, ATA status, ATA error)."""
        ch = kw.get("ch", 0)
        b = 8 * ch
        self.prd(*(entries or [(DATA, count * 512)]))
        self.w(b + 4, PRD, 4)
        self.w(b, 0 if write else 8)
        self.taskfile(op, lba, count, **kw)
        self.w(b, 1 if write else 9)
        until(lambda: not self._moving(ch), "the engine stops")
        bm = self.r(b + 2)
        self.w(b, 0 if write else 8)
        status, error = self.status(ch), self.error(ch)
        self.w(b + 2, 0x06)
        return bm, status, error

    def _moving(self, ch: int) -> bool:
        """Strict: as the engine has it, or the task file would be accessed."""
        return not self.r(8 * ch + 2) & 6 if self.strict else bool(self.alt(ch) & 0x80)

    def udma(self, mode: int, dev: int = 0, ch: int = 0) -> None:
        """Put drive and host into a UDMA mode, as section 8 says (133 MHz clock)."""
        field = (0x0F, 0x0B, 0x07, 0x05, 0x03, 0x02, 0x01)[mode]
        c = 0x40 * ch
        self.w(0x4A, 0x11)
        self.w(0xAC + c + 2 * dev, field, 2)
        old = self.r(0xB4 + c)
        self.w(0xB4 + c, old & ~(3 << 4 * dev) | 3 << 4 * dev)
        assert self.command(0xEF, count=0x40 | mode, feature=3, dev=dev, ch=ch) == 0x50
