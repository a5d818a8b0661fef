# SPDX-License-Identifier: MIT
"""The PHY behind MEAR: clause 22 frames, bit by bit (section 10 of docs/hardware/dp83820.md)."""

from __future__ import annotations

from typing import Final

from usrdrv.device import Device
from usrdrv.drivers.dp83820._dp83820 import lib

BAR: Final = 1
START_READ: Final = 0b0110
START_WRITE: Final = 0b0101
TURNAROUND: Final = 0b10
NOBODY: Final = 0xFFFF
CSMA: Final = 0x0001
"""Selector of IEEE 802.3 in ANAR."""
ABILITIES: Final = 11
"""BMSR has 10 and 100, half and full, from this bit on; ANAR from 5 on."""
OFF: Final = lib.MII_BMCR_RESET | lib.MII_BMCR_LOOP | lib.MII_BMCR_POWER_DOWN | lib.MII_BMCR_ISOLATE


class Phy:
    """One transceiver on the management interface."""

    def __init__(self, device: Device, address: int) -> None:
        self._device = device
        self.address = address

    def _lines(self, value: int) -> None:
        self._device.write32(BAR, lib.DP83820_MEAR, value)

    def _send(self, bits: int, count: int) -> None:
        for shift in reversed(range(count)):
            lines = lib.DP83820_MEAR_MDDIR | (lib.DP83820_MEAR_MDIO if bits >> shift & 1 else 0)
            self._lines(lines)
            self._lines(lines | lib.DP83820_MEAR_MDC)

    def _frame(self, start: int, register: int) -> None:
        self._send((1 << 32) - 1, 32)
        self._send(start << 10 | self.address << 5 | register, 14)

    def read(self, register: int) -> int:
        """Read a register; all ones if nobody is at this address."""
        self._frame(START_READ, register)
        value = 0
        for _ in range(19):  # two bits of turnaround, the data, one idle
            self._lines(0)
            bit = self._device.read32(BAR, lib.DP83820_MEAR) & lib.DP83820_MEAR_MDIO
            value = value << 1 | int(bit != 0)
            self._lines(lib.DP83820_MEAR_MDC)
        self._lines(0)
        return value >> 1 & 0xFFFF

    def write(self, register: int, value: int) -> None:
        """Write a register."""
        self._frame(START_WRITE, register)
        self._send(TURNAROUND << 16 | value, 18)
        self._lines(0)

    def negotiate(self) -> None:
        """Let it find the best mode, whatever state it was left in: powered down, isolated, forced.

        One that does so already is left alone: negotiating again costs the link for seconds.
        """
        able = self.read(lib.MII_REG_BMSR) >> ABILITIES & 0xF
        wanted = {
            lib.MII_REG_ANAR: able << 5 | lib.MII_AN_PAUSE | CSMA,
            lib.MII_REG_GBCR: lib.MII_GB_FULL | lib.MII_GB_HALF,
        }
        control = self.read(lib.MII_REG_BMCR)
        if control & (lib.MII_BMCR_AUTO | OFF) == lib.MII_BMCR_AUTO and all(
            self.read(register) == value for register, value in wanted.items()
        ):
            return
        for register, value in wanted.items():
            self.write(register, value)
        self.write(lib.MII_REG_BMCR, lib.MII_BMCR_AUTO | lib.MII_BMCR_RESTART)


def find(device: Device) -> Phy | None:
    """Return the PHY with the lowest address, usually 1; None: fibre, or none that answers."""
    for address in range(1, 32):
        phy = Phy(device, address)
        if phy.read(lib.MII_REG_ID1) not in (0, NOBODY):
            return phy
    return None
