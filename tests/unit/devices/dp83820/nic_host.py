# SPDX-License-Identifier: MIT
"""A tiny driver over the DP83820 model, so that tests read like the hardware document.

With IMR 0 the model does its work inside the register access; looped frames are received in the
same write of CR that sends them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

from tests.waiting import until
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.dp83820.model import Dp83820Model, NicSpec

CONFIG = 7
MAC = bytes.fromhex("02005e100001")
OTHER = bytes.fromhex("02005e100002")
LOW = 0x1F000000
HIGH = 0x5_1F000000
MEM_SIZE = 1 << 20
TX, RX = 0x1000, 0x8000
"""Offsets of the descriptor lists; STRIDE apart."""
STRIDE = 32
TX_DATA, RX_DATA = 0x20000, 0x80000
ROOM = 0x4000
"""Bytes between one buffer and the next one."""
ACCEPT_ALL = lib.DP83820_RFCR_AAB | lib.DP83820_RFCR_AAM | lib.DP83820_RFCR_AAU
RXCFG = lib.DP83820_RXCFG_RX_FD | lib.DP83820_RXCFG_STRIPCRC


@dataclass(frozen=True)
class Received:
    """A completed receive descriptor, and what is in its buffer."""

    cmdsts: int
    extsts: int
    data: bytes

    @property
    def dest(self) -> int:
        return self.cmdsts >> 23 & 3


class Chip:
    """A model with memory. Registers by name or offset; `wide`: 64-bit descriptors, above 4 GiB."""

    def __init__(self, *, wide: bool = False, enable: int = 7, **spec: Any) -> None:
        self.model = Dp83820Model(NicSpec(**{"mac": MAC, **spec}))
        self.wide = wide
        self.base = HIGH if wide else LOW
        self.mem = bytearray(MEM_SIZE)
        self._buf = ffi.from_buffer(self.mem)
        self.host = ffi.new("struct usrdrv_testhost *")
        self.host.mem = ffi.cast("uint8_t *", self._buf)
        self.host.base, self.host.len, self.host.split = self.base, MEM_SIZE, 0
        self.c = ffi.cast("struct usrdrv_model *", self.model.pointer)
        lib.usrdrv_testhost_attach(self.host, self.c)
        if enable:
            self.config_w(4, enable, 2)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.model.close()

    # raw access
    def config(self, offset: int, width: int = 4) -> int:
        return int(self.c.ops.read(self.c, CONFIG, offset, width))

    def config_w(self, offset: int, value: int, width: int = 4) -> None:
        self.c.ops.write(self.c, CONFIG, offset, width, value)

    def r(self, reg: str | int, width: int = 4, bar: int = 1) -> int:
        return int(self.c.ops.read(self.c, bar, offset_of(reg), width))

    def w(self, reg: str | int, value: int, width: int = 4, bar: int = 1) -> None:
        self.c.ops.write(self.c, bar, offset_of(reg), width, value & 0xFFFFFFFF)

    def set(self, reg: str, bits: int) -> None:
        self.w(reg, self.r(reg) | bits)

    @property
    def level(self) -> int:
        return int(self.host.level)

    def counter(self, name: str) -> int:
        return int(self.model.counters()[name])

    def fault(self, *words: str) -> int:
        return int(self.model.add_fault(self.model.fault_type.parse(words)))

    # memory
    def put(self, at: int, data: bytes) -> None:
        self.mem[at : at + len(data)] = data

    def get(self, at: int, n: int) -> bytes:
        return bytes(self.mem[at : at + n])

    def descriptor(self, at: int, buf: int, cmdsts: int, link: int | None, extsts: int = 0) -> None:
        """Write one; buf and link are offsets, link None ends the list."""
        to = 0 if link is None else self.base + link
        if self.wide:
            self.put(at, struct.pack("<QQII", to, self.base + buf, cmdsts, extsts))
        else:
            self.put(at, struct.pack("<IIII", to, self.base + buf, cmdsts, extsts))

    def status(self, at: int) -> tuple[int, int]:
        """Its cmdsts and extsts."""
        cmdsts, extsts = struct.unpack_from("<II", self.mem, at + (16 if self.wide else 8))
        return cmdsts, extsts

    # rings
    def enable(self, *, rfcr: int = ACCEPT_ALL, rxcfg: int = RXCFG, txcfg: int = 0) -> None:
        """Gigabit, extended status, descriptors as wide as asked for, filter open. No loopback unless in txcfg."""
        self.set(
            "CFG",
            lib.DP83820_CFG_MODE_1000
            | lib.DP83820_CFG_EXTSTS_EN
            | (lib.DP83820_CFG_M64ADDR if self.wide else 0),
        )
        self.w("TXCFG", txcfg)
        self.w("RXCFG", rxcfg)
        self.w("RFCR", rfcr)
        self.w("RFCR", rfcr | lib.DP83820_RFCR_RFEN)
        self.w("TXDP_HI", self.base >> 32)
        self.w("RXDP_HI", self.base >> 32)

    def loop(self, **kw: Any) -> None:
        """MAC loopback, and descriptors to receive with."""
        self.enable(txcfg=lib.DP83820_TXCFG_MLB, **kw)
        self.receive_into(16)

    def linked(self) -> None:
        """Wait until the PHY has negotiated."""
        until(lambda: self.model.link)

    def receive_into(
        self, count: int, *, size: int = 0x3FF8, ring: bool = True, queue: int = 0
    ) -> None:
        """Give the receiver free descriptors from the first on, and start it."""
        lists = RX + queue * 0x1000
        for i in range(count):
            last = i == count - 1
            link = lists if last else lists + (i + 1) * STRIDE
            self.descriptor(
                lists + i * STRIDE, RX_DATA + i * ROOM, size, None if last and not ring else link
            )
        self.w("RXDP" if not queue else f"RXDP{queue}", self.base + lists)
        self.w("CR", lib.DP83820_CR_RXE | (lib.DP83820_CR_RXPRI0 << queue if queue else 0))

    def received(self, index: int = 0, *, queue: int = 0) -> Received:
        """What is in a descriptor."""
        cmdsts, extsts = self.status(RX + queue * 0x1000 + index * STRIDE)
        data = self.get(RX_DATA + index * ROOM, cmdsts & lib.DP83820_SIZE)
        return Received(cmdsts, extsts, data)

    def filled(self, index: int = 0, *, queue: int = 0) -> bool:
        return bool(self.received(index, queue=queue).cmdsts & lib.DP83820_OWN)

    def write_packet(
        self, at: int, *parts: bytes, flags: int = 0, extsts: int = 0, link: int | None = None
    ) -> int:
        """Descriptors for a packet of such fragments from offset `at` on; returns where the next one belongs."""
        data = TX_DATA + (at - TX) * 64
        for i, part in enumerate(parts):
            last = i == len(parts) - 1
            more = 0 if last else lib.DP83820_MORE
            self.put(data, part)
            self.descriptor(
                at,
                data,
                lib.DP83820_OWN | more | flags | len(part),
                link if last else at + STRIDE,
                extsts,
            )
            data += len(part)
            at += STRIDE
        return at

    def send(self, *parts: bytes, flags: int = 0, extsts: int = 0) -> tuple[int, int]:
        """One packet in a list of its own; returns the last descriptor's cmdsts and extsts."""
        end = self.write_packet(TX, *parts, flags=flags, extsts=extsts)
        self.w("TXDP", self.base + TX)
        self.w("CR", lib.DP83820_CR_TXE)
        return self.status(end - STRIDE)

    def through(self, frame: bytes, **kw: Any) -> Received | None:
        """Send a frame to ourselves; None: it was not received. Uses receive descriptor 0 each time."""
        self.w("CR", lib.DP83820_CR_RXR)
        self.w("RXDP_HI", self.base >> 32)
        self.receive_into(16)
        self.send(frame, **kw)
        return self.received() if self.filled() else None

    # the filter's memory
    def rf(self, at: int) -> int:
        self.w("RFCR", at)
        return self.r("RFDR")

    def rf_w(self, at: int, value: int) -> None:
        self.w("RFCR", at)
        self.w("RFDR", value)

    def filter(self, flags: int) -> None:
        """As drivers do it: flags first, then on."""
        self.w("RFCR", flags)
        self.w("RFCR", flags | lib.DP83820_RFCR_RFEN)


def offset_of(reg: str | int) -> int:
    """Offset of a register; TXDP2 and the like are not in the header."""
    if isinstance(reg, int):
        return reg
    if reg[:-1] in ("TXDP", "RXDP"):
        return int(getattr(lib, f"DP83820_{reg[:-1]}1")) + 4 * (int(reg[-1]) - 1)
    return int(getattr(lib, f"DP83820_{reg}"))


def frame(
    dst: bytes = MAC, src: bytes = OTHER, *, kind: int = 0x88B5, length: int = 60, fill: int = 0
) -> bytes:
    """An Ethernet frame without FCS."""
    head = dst + src + kind.to_bytes(2, "big")
    return head + bytes((i + fill) & 0xFF for i in range(length - len(head)))


def words(mac: bytes) -> Sequence[int]:
    """A station address as the filter holds it."""
    return struct.unpack("<3H", mac)
