# SPDX-License-Identifier: MIT
"""The registers of the chip as the control plane uses them. Sections: docs/hardware/dp83820.md."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from usrdrv.base import errors
from usrdrv.device import Device
from usrdrv.drivers.dp83820 import eeprom, phy
from usrdrv.drivers.dp83820._dp83820 import lib

log: Final = logging.getLogger("usrdrv.dp83820")

BAR: Final = 1
RESET_TIMEOUT: Final = 0.1
LOAD_TIMEOUT: Final = 1.0
MEMORY: Final = 2
MASTER: Final = 4

CFG_KEPT: Final = (
    lib.DP83820_CFG_TBI_EN
    | lib.DP83820_CFG_MRM_DIS
    | lib.DP83820_CFG_MWI_DIS
    | lib.DP83820_CFG_EXT_125
    | lib.DP83820_CFG_T64ADDR
)
CFG_SET: Final = (
    lib.DP83820_CFG_EXTSTS_EN
    | lib.DP83820_CFG_PINT_DUP
    | lib.DP83820_CFG_PINT_LNK
    | lib.DP83820_CFG_PINT_SPD
    | lib.DP83820_CFG_EXD
    | lib.DP83820_CFG_PESEL
    | lib.DP83820_CFG_REQALG
)
# Sent from 2 KiB in the FIFO on: a longer frame than the FIFO has room for is sent while it is
# fetched (section 11). Fetched whenever 64 bytes are free.
TXCFG: Final = lib.DP83820_TXCFG_ATP | lib.DP83820_MXDMA_512 | 2 << 8 | 2048 // 32
# Long frames always: 1518 bytes is the chip's limit, with 4 more for a tag of the TPID in VDR alone (section 3.12).
# The data path knows what is too long.
RXCFG: Final = (
    lib.DP83820_RXCFG_STRIPCRC
    | lib.DP83820_RXCFG_ALP
    | lib.DP83820_RXCFG_ARP
    | lib.DP83820_RXCFG_AIRL
    | lib.DP83820_MXDMA_512
)
PAUSE: Final = (
    lib.DP83820_PCR_PSEN
    | lib.DP83820_PCR_PS_MCAST
    | lib.DP83820_PCR_PS_DA
    | 3 << 20  # ask for a pause from 8 KiB in the receive FIFO
    | 1 << 18  # until 2 KiB
    | 0xFFFF
)


@dataclass(frozen=True)
class Link:
    """What the PHY agreed upon. `speed` in Mb/s; 0: no link."""

    speed: int = 0
    full: bool = False

    def __str__(self) -> str:
        if not self.speed:
            return "down"
        return f"{self.speed} Mb/s, {'full' if self.full else 'half'} duplex"


class Chip:
    """One DP83820. Not thread-safe."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self.phy: phy.Phy | None = None
        self.fibre = False

    def read(self, register: int) -> int:
        return self._device.read32(BAR, register)

    def write(self, register: int, value: int) -> None:
        self._device.write32(BAR, register, value)

    def bring_up(self) -> bytes:
        """Power, reset, EEPROM, PHY (section 14.1). Return the station address."""
        device = self._device
        command = device.config_read(0x04, 2)
        device.config_write(0x04, 2, command | MEMORY)
        power = device.config_read(lib.DP83820_CFG_PMCSR, 2)
        device.config_write(
            lib.DP83820_CFG_PMCSR, 2, power & ~(lib.DP83820_PM_STATE | lib.DP83820_PM_PME_EN)
        )
        self.reset()
        # Not before: it may be receiving into what was the last driver's memory.
        self._let_master(True)
        self.write(lib.DP83820_CCSR, lib.DP83820_CCSR_PMESTS)
        self.write(lib.DP83820_CCSR, 0)
        self.write(lib.DP83820_WCSR, 0)
        self.write(lib.DP83820_PTSCR, lib.DP83820_PTSCR_EELOAD_EN)
        self._until_clear(lib.DP83820_PTSCR, lib.DP83820_PTSCR_EELOAD_EN, LOAD_TIMEOUT)
        self._check_eeprom()
        mac = self._read_mac()
        self.fibre = bool(self.read(lib.DP83820_CFG) & lib.DP83820_CFG_TBI_EN)
        self.phy = None if self.fibre else phy.find(device)
        if self.phy is not None:
            self.phy.negotiate()
        return mac

    def _until_clear(self, register: int, bit: int, timeout: float) -> None:
        deadline = time.monotonic() + timeout
        while self.read(register) & bit:
            if time.monotonic() > deadline:
                raise errors.DeviceError(
                    f"{self._device.name}: register {register:#04x} is stuck at {bit:#x}"
                )
            time.sleep(0.0005)

    def reset(self) -> None:
        """Silence interrupts and reset everything that a soft reset reaches."""
        self.write(lib.DP83820_IMR, 0)
        self.write(lib.DP83820_IER, 0)
        self.write(lib.DP83820_CR, lib.DP83820_CR_RST)
        self._until_clear(lib.DP83820_CR, 0xFFFFFFFF, RESET_TIMEOUT)

    def _check_eeprom(self) -> None:
        """Let the chip add it up (section 3.4). A wrong sum is no reason not to try: Linux only logs it, too."""
        self.write(lib.DP83820_PTSCR, lib.DP83820_PTSCR_EEBIST_EN)
        self._until_clear(lib.DP83820_PTSCR, lib.DP83820_PTSCR_EEBIST_EN, LOAD_TIMEOUT)
        if self.read(lib.DP83820_PTSCR) & lib.DP83820_PTSCR_EEBIST_FAIL:
            log.warning("%s: the checksum of the EEPROM is wrong", self._device.name)

    def _read_mac(self) -> bytes:
        """Return what the chip loaded; where that makes no sense, an EEPROM whose checksum is right."""
        words = []
        for address in (0, 2, 4):
            self.write(lib.DP83820_RFCR, lib.DP83820_RF_PMATCH + address)
            words.append(self.read(lib.DP83820_RFDR) & 0xFFFF)
        mac = b"".join(word.to_bytes(2, "little") for word in words)
        if _is_station(mac):
            return mac
        content = eeprom.read(self._device)
        mac = eeprom.mac(content)
        if not eeprom.checksum_ok(content) or not _is_station(mac):
            raise errors.DeviceError(f"{self._device.name}: no MAC address in the EEPROM")
        return mac

    def configure(self, *, offloads: bool, keep_tags: bool = False) -> None:
        """Program modes (section 14.1, steps 6 to 8). keep_tags: received frames keep their VLAN tags."""
        cfg = self.read(lib.DP83820_CFG)
        self.write(lib.DP83820_CFG, cfg & CFG_KEPT | CFG_SET)
        self.write(lib.DP83820_TXCFG, TXCFG)
        self.write(lib.DP83820_RXCFG, RXCFG)
        self.write(lib.DP83820_PQCR, 0)
        tags = 0 if keep_tags else lib.DP83820_VRCR_VTDEN | lib.DP83820_VRCR_VTREN
        receive = tags | lib.DP83820_VRCR_IPEN
        self.write(lib.DP83820_VRCR, receive if offloads else 0)
        send = lib.DP83820_VTCR_VPPTI | lib.DP83820_VTCR_PPCHK
        self.write(lib.DP83820_VTCR, send if offloads else 0)
        self.write(lib.DP83820_VDR, lib.DP83820_VDR_8021Q)
        self.write(lib.DP83820_PCR, 0)
        self.write(lib.DP83820_MIBC, lib.DP83820_MIBC_ACLR)
        self.write(lib.DP83820_MIBC, 0)
        if self.fibre:
            self.write(lib.DP83820_TANAR, lib.DP83820_TANAR_FULL | lib.DP83820_TANAR_HALF)
            self.write(
                lib.DP83820_TBICR, lib.DP83820_TBICR_AN_ENABLE | lib.DP83820_TBICR_AN_RESTART
            )

    def set_filter(
        self,
        mac: bytes,
        *,
        promiscuous: bool = False,
        all_multicast: bool = True,
        groups: Iterable[bytes] = (),
    ) -> None:
        """Program which frames are received (section 3.12); groups: multicast addresses."""
        for i in range(3):
            self._filter_word(
                lib.DP83820_RF_PMATCH + 2 * i, int.from_bytes(mac[2 * i : 2 * i + 2], "little")
            )
        table = [0] * 128
        for group in groups:
            h = multicast_hash(group)
            table[h >> 4] |= 1 << (h & 15)
        for i, word in enumerate(table):
            self._filter_word(lib.DP83820_RF_HASH + 2 * i, word)
        flags = lib.DP83820_RFCR_AAB | lib.DP83820_RFCR_APM
        if promiscuous:
            flags |= lib.DP83820_RFCR_AAU | lib.DP83820_RFCR_AAM
        elif all_multicast:
            flags |= lib.DP83820_RFCR_AAM
        else:
            flags |= lib.DP83820_RFCR_MHEN
        self.write(lib.DP83820_RFCR, flags)
        self.write(lib.DP83820_RFCR, flags | lib.DP83820_RFCR_RFEN)

    def _filter_word(self, address: int, value: int) -> None:
        self.write(lib.DP83820_RFCR, address)
        self.write(lib.DP83820_RFDR, value)

    def link(self) -> Link:
        """Read the PHY's pins, of which speed and duplex are active low (section 3.2)."""
        cfg = self.read(lib.DP83820_CFG)
        if not cfg & lib.DP83820_CFG_LNKSTS:
            return Link()
        if self.fibre or not cfg & lib.DP83820_CFG_SPDSTS1:
            speed = 1000
        else:
            speed = 10 if cfg & lib.DP83820_CFG_SPDSTS0 else 100
        return Link(speed, self.fibre or not cfg & lib.DP83820_CFG_DUPSTS)

    def follow(self, link: Link) -> None:
        """Put the MAC into the PHY's mode (section 14.4): in another one it loses every frame."""
        cfg = self.read(lib.DP83820_CFG) & ~(lib.DP83820_CFG_MODE_1000 | lib.DP83820_CFG_SB)
        tx, rx = TXCFG, self.read(lib.DP83820_RXCFG) & ~lib.DP83820_RXCFG_RX_FD
        if link.speed == 1000:
            cfg |= lib.DP83820_CFG_MODE_1000
        if link.full:
            cfg |= lib.DP83820_CFG_SB
            tx |= lib.DP83820_TXCFG_CSI | lib.DP83820_TXCFG_HBI
            rx |= lib.DP83820_RXCFG_RX_FD
        self.write(lib.DP83820_CFG, cfg)
        self.write(lib.DP83820_TXCFG, tx)
        self.write(lib.DP83820_RXCFG, rx)
        self.write(lib.DP83820_PCR, PAUSE if link.full and self._pause() else 0)

    def _pause(self) -> bool:
        """Whether both ends do flow control."""
        if self.phy is None:
            return False
        both = self.phy.read(lib.MII_REG_ANAR) & self.phy.read(lib.MII_REG_LPAR)
        return bool(both & lib.MII_AN_PAUSE)

    def missed(self) -> int:
        """Frames that the chip had no room for since the last call."""
        return self.read(lib.DP83820_MIB + 4 * lib.DP83820_MIB_MISSED) & 0xFFFF

    def _let_master(self, wanted: bool) -> None:
        """Let the chip reach memory, or no more."""
        command = self._device.config_read(0x04, 2)
        self._device.config_write(0x04, 2, command | MASTER if wanted else command & ~MASTER)

    def silence(self) -> errors.UsrdrvError | None:
        """See that the chip reaches no memory any more, so that it can be given back.

        Return None; or why there was no other way than to take it from the bus: it is of no use any more. Raise if
        not even that helped: its memory has to stay until the device is closed.
        """
        try:
            self.reset()
        except errors.NoSuchDeviceError as error:  # moves nothing either
            return error
        except errors.UsrdrvError as error:
            self._let_master(False)
            return error
        return None

    def quiesce(self) -> None:
        """No interrupt, no frame, no DMA any more (section 14.6)."""
        try:
            self.reset()
            self.write(lib.DP83820_RFCR, 0)
        finally:
            self._let_master(False)


def _is_station(mac: bytes) -> bool:
    return not mac[0] & 1 and any(mac)


def multicast_hash(address: bytes) -> int:
    """Return the upper 11 bits of the big-endian Ethernet CRC: the bit of the hash memory."""
    crc = 0xFFFFFFFF
    for byte in address:
        for bit in range(8):
            carry = (crc >> 31) ^ (byte >> bit & 1)
            crc = crc << 1 & 0xFFFFFFFF
            if carry:
                crc ^= 0x04C11DB7
    return crc >> 21
