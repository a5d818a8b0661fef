# SPDX-License-Identifier: MIT
"""Transfer modes and the controller's timing words (docs/hardware/cmd680.md sections 4.5 and 8)."""

from dataclasses import dataclass
from enum import Enum
from typing import Final

from usrdrv.drivers.ide_cmd680 import _cmd680

R = _cmd680.lib


class Protocol(Enum):
    """How data crosses the cable."""

    PIO = R.ATA_XFER_PIO
    MWDMA = R.ATA_XFER_MWDMA
    UDMA = R.ATA_XFER_UDMA


@dataclass(frozen=True)
class Mode:
    """A transfer mode, such as UDMA 6."""

    protocol: Protocol
    number: int

    def __str__(self) -> str:
        return f"{self.protocol.name}{self.number}"

    @property
    def code(self) -> int:
        """The argument of SET FEATURES 03h (section 7.4)."""
        return int(self.protocol.value) | self.number

    @property
    def dma(self) -> bool:
        return self.protocol is not Protocol.PIO


def parse(text: str) -> Mode:
    """Return the mode written as `UDMA6`, `MWDMA2` or `PIO4`; ValueError for any other text."""
    for protocol, highest in ((Protocol.UDMA, 6), (Protocol.MWDMA, 2), (Protocol.PIO, 4)):
        number = text.upper().removeprefix(protocol.name)
        if text.upper().startswith(protocol.name) and number.isdecimal() and int(number) <= highest:
            return Mode(protocol, int(number))
    raise ValueError(f"no such transfer mode: {text}")


# Timing words, section 4.5. Index: mode number.
PIO_DATA: Final = (0x328A, 0x2283, 0x1104, 0x10C3, 0x10C1)
PIO_TASKFILE: Final = (0x328A, 0x2283, 0x1281, 0x10C3, 0x10C1)
MWDMA: Final = (0x2208, 0x10C2, 0x10C1)
UDMA_133MHZ: Final = (0x0F, 0x0B, 0x07, 0x05, 0x03, 0x02, 0x01)
UDMA_100MHZ: Final = (0x0C, 0x07, 0x05, 0x04, 0x02, 0x01)

# What is loaded before any drive is known, section 9.1 step 5.
SAFE_PIO: Final = 0x62DD62DD
SAFE_TASKFILE: Final = 0x328A
SAFE_MWDMA: Final = 0x43924392
SAFE_UDMA: Final = 0x40094009

HIGHEST_PIO_DEFAULT: Final = 2
"""Without being told, and without IORDY."""
HIGHEST_UDMA_40_WIRE: Final = 2
HIGHEST_UDMA_100MHZ: Final = 5


def best_dma(udma_mask: int, mwdma_mask: int, *, cable80: bool, fast_clock: bool) -> Mode | None:
    """Return the fastest DMA mode that drive, cable and controller share; None: only PIO.

    udma_mask, mwdma_mask: what the drive supports, bit n for mode n (IDENTIFY words 88 and 63).
    """
    highest = 6 if fast_clock else HIGHEST_UDMA_100MHZ
    if not cable80:
        highest = HIGHEST_UDMA_40_WIRE
    for number in range(highest, -1, -1):
        if udma_mask >> number & 1:
            return Mode(Protocol.UDMA, number)
    for number in range(2, -1, -1):
        if mwdma_mask >> number & 1:
            return Mode(Protocol.MWDMA, number)
    return None


def slowest_dma(udma_mask: int, mwdma_mask: int) -> Mode | None:
    """Return the slowest DMA mode that the drive has."""
    for protocol, mask in ((Protocol.MWDMA, mwdma_mask & 7), (Protocol.UDMA, udma_mask)):
        if mask:
            return Mode(protocol, (mask & -mask).bit_length() - 1)
    return None


def slower(mode: Mode, udma_mask: int, mwdma_mask: int) -> Mode | None:
    """Return the next slower DMA mode the drive has; None: only PIO is left."""
    masks = [(Protocol.UDMA, udma_mask), (Protocol.MWDMA, mwdma_mask)]
    if mode.protocol is Protocol.MWDMA:
        masks = masks[1:]
    for protocol, mask in masks:
        start = mode.number - 1 if protocol is mode.protocol else 2
        for number in range(start, -1, -1):
            if mask >> number & 1:
                return Mode(protocol, number)
    return None
