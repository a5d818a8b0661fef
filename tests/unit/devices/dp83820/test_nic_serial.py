# SPDX-License-Identifier: MIT
"""The DP83820 model's EEPROM and MII lines, bit by bit (sections 10 and 12)."""

from __future__ import annotations

import struct

import pytest

from tests.names import own
from tests.unit.devices.dp83820.nic_host import MAC, Chip, words
from tests.waiting import until
from usrdrv.devices._models import lib

EEDI, EEDO, EECLK, EESEL = (getattr(lib, f"DP83820_MEAR_EE{n}") for n in ("DI", "DO", "CLK", "SEL"))
MDIO, MDDIR, MDC = lib.DP83820_MEAR_MDIO, lib.DP83820_MEAR_MDDIR, lib.DP83820_MEAR_MDC
EXAMPLE = (0x4900, 0x1186, 0x34B0, 0, 0, 0, 0, 0, 0, 0, 0x0100, 0x105E, 0x0002, 0x7655)
"""Of section 12."""


class Eeprom:
    """A 93C46 on MEAR."""

    def __init__(self, chip: Chip) -> None:
        self.chip = chip

    def shift(self, value: int, bits: int) -> int:
        """Clock bits in, most significant first; returns what comes out after each edge."""
        out = 0
        for i in reversed(range(bits)):
            line = EESEL | (EEDI if value >> i & 1 else 0)
            self.chip.w("MEAR", line)
            self.chip.w("MEAR", line | EECLK)
            out = out << 1 | bool(self.chip.r("MEAR") & EEDO)
        return out

    def command(self, opcode: int, address: int, data: int | None = None) -> None:
        self.shift(opcode << 6 | address, 9)
        if data is not None:
            self.shift(data, 16)
        self.chip.w("MEAR", 0)

    def read(self, address: int, count: int = 1) -> list[int]:
        self.chip.w("MEAR", EESEL)
        last = self.shift(lib.DP83820_EE_READ << 6 | address, 9)
        assert not last & 1, "a zero comes with the last address bit"
        data = [self.shift(0, 16) for _ in range(count)]
        self.chip.w("MEAR", 0)
        return data


def test_eeprom_reads() -> None:
    with Chip() as chip:
        eeprom = Eeprom(chip)
        assert [eeprom.read(i)[0] for i in range(14)] == list(EXAMPLE)
        assert eeprom.read(0, 14) == list(EXAMPLE), "words follow each other while it is selected"
        assert eeprom.read(63, 2) == [0, EXAMPLE[0]], "and start again at the end"


def test_the_eeprom_s_sum_is_right_for_each_driver() -> None:
    """Section 12: Plan 9 adds all 28 bytes, NetBSD 26 of them, 0x55 and the checksum."""
    with Chip() as chip:
        octets = b"".join(word.to_bytes(2, "little") for word in Eeprom(chip).read(0, 14))
        assert sum(octets) & 0xFF == 0
        assert (sum(octets[:26]) + 0x55 + octets[27]) & 0xFF == 0


def test_eeprom_wants_a_start_bit() -> None:
    with Chip() as chip:
        eeprom = Eeprom(chip)
        eeprom.shift(0, 7)
        assert eeprom.read(0)[0] == EXAMPLE[0]
        eeprom.shift(0b110, 3)
        chip.w("MEAR", 0)
        assert eeprom.read(1)[0] == EXAMPLE[1], "deselecting ends a command in the middle"


def test_eeprom_writes_when_they_are_enabled() -> None:
    with Chip() as chip:
        eeprom = Eeprom(chip)
        eeprom.command(lib.DP83820_EE_WRITE, 10, 0xBEEF)
        assert eeprom.read(10) == [0x0100]
        eeprom.command(lib.DP83820_EE_EXTRA, 0b110000)
        eeprom.command(lib.DP83820_EE_WRITE, 10, 0xBEEF)
        assert eeprom.read(10) == [0xBEEF]
        chip.w("PTSCR", lib.DP83820_PTSCR_EEBIST_EN)
        assert chip.r("PTSCR") == lib.DP83820_PTSCR_EEBIST_FAIL, "the checksum is wrong now"
        chip.w("PTSCR", lib.DP83820_PTSCR_EELOAD_EN)
        assert chip.rf(4) == 0xBEEF
        eeprom.command(lib.DP83820_EE_ERASE, 10)
        assert eeprom.read(10) == [0xFFFF]
        eeprom.command(lib.DP83820_EE_EXTRA, 0b000000)
        eeprom.command(lib.DP83820_EE_WRITE, 10, 0)
        assert eeprom.read(10) == [0xFFFF]
        eeprom.command(lib.DP83820_EE_EXTRA, 0b110000)
        eeprom.command(lib.DP83820_EE_EXTRA, 0b100000)
        assert eeprom.read(0, 64) == [0xFFFF] * 64


def test_eeprom_has_the_station_address() -> None:
    with Chip() as chip:
        stored = Eeprom(chip).read(10, 3)
        assert stored[::-1] == list(words(MAC))


@pytest.mark.parametrize(
    ("bit", "cfg"),
    (
        (0, lib.DP83820_CFG_EXT_125),
        (1, lib.DP83820_CFG_M64ADDR),
        (2, lib.DP83820_CFG_DATA64_EN),
        (4, lib.DP83820_CFG_MWI_DIS),
        (5, lib.DP83820_CFG_MRM_DIS),
        (7, lib.DP83820_CFG_MODE_1000),
        (9, lib.DP83820_CFG_TBI_EN),
    ),
)
def test_configuration_from_the_eeprom(bit: int, cfg: int) -> None:
    with Chip() as chip:
        eeprom = Eeprom(chip)
        eeprom.command(lib.DP83820_EE_EXTRA, 0b110000)
        eeprom.command(lib.DP83820_EE_WRITE, lib.DP83820_EE_CONFIG2, 1 << bit)
        chip.w("CFG", 0)
        chip.w("PTSCR", lib.DP83820_PTSCR_EELOAD_EN)
        assert chip.r("CFG") & 0x0FFFFFFF == cfg


def test_64_bit_bar_from_the_eeprom() -> None:
    with Chip() as chip:
        eeprom = Eeprom(chip)
        eeprom.command(lib.DP83820_EE_EXTRA, 0b110000)
        eeprom.command(lib.DP83820_EE_WRITE, lib.DP83820_EE_CONFIG2, 8)
        chip.w("PTSCR", lib.DP83820_PTSCR_EELOAD_EN)
        chip.config_w(0x14, 0xFFFFFFFF)
        chip.config_w(0x18, 0xFFFFFFFF)
        assert chip.config(0x14) == 0xFFFFF004 and chip.config(0x18) == 0xFFFFFFFF


class Mii:
    """Clause 22 frames on MEAR."""

    def __init__(self, chip: Chip, phy: int = 1) -> None:
        self.chip, self.phy = chip, phy

    def out(self, value: int, bits: int) -> None:
        for i in reversed(range(bits)):
            line = MDDIR | (MDIO if value >> i & 1 else 0)
            self.chip.w("MEAR", line)
            self.chip.w("MEAR", line | MDC)

    def sample(self, bits: int) -> int:
        value = 0
        for _ in range(bits):
            self.chip.w("MEAR", 0)
            value = value << 1 | bool(self.chip.r("MEAR") & MDIO)
            self.chip.w("MEAR", MDC)
        return value

    def samples(self, reg: int) -> int:
        self.out(0xFFFFFFFF, 32)
        self.out(0b01_10 << 10 | self.phy << 5 | reg, 14)
        return self.sample(19)

    def read(self, reg: int) -> int:
        """As section 10 has it: 19 samples, of which two are turnaround and the last is idle."""
        samples = self.samples(reg)
        assert samples & 1, "idle"
        assert self.phy != 1 or not samples >> 17 & 1, "the second of them is zero"
        return samples >> 1 & 0xFFFF

    def write(self, reg: int, value: int) -> None:
        self.out(0xFFFFFFFF, 32)
        self.out(0b01_01 << 28 | self.phy << 23 | reg << 18 | 0b10 << 16 | value, 32)


def test_phy_is_found_where_it_is() -> None:
    with Chip(phy=1) as chip:
        found = [phy for phy in range(1, 32) if Mii(chip, phy).read(2) == 0x2000]
        assert found == [1] and Mii(chip).read(3) == 0x5C60
        chip.w("CFG", lib.DP83820_CFG_PHY_DIS)
        assert Mii(chip).samples(2) == (1 << 19) - 1, "nobody answers"
    with Chip(phy=31) as chip:
        assert Mii(chip, 31).read(2) == 0x2000 and Mii(chip, 2).read(2) == 0xFFFF


def test_phy_registers() -> None:
    with Chip(loop=True) as chip:
        chip.linked()
        mii = Mii(chip)
        assert mii.read(0) == 0x1140
        assert mii.read(1) == 0x796D, "link, negotiated"
        assert mii.read(4) == 0x0DE1 and mii.read(9) == 0x0300 and mii.read(15) == 0x3000
        assert mii.read(5) & 0x4000 and mii.read(10) & 0x3C00 == 0x3C00
        mii.write(4, 0x01E1)
        assert mii.read(4) == 0x01E1
        mii.write(2, 0)
        assert mii.read(2) == 0x2000, "read only"


@pytest.mark.parametrize(
    ("bmcr", "support"),
    ((0x1140, 0x16), (0x0140, 0x16), (0x0040, 0x14), (0x2100, 0x0E), (0x2000, 0x0C), (0x0100, 0x07), (0, 0x05)),
)  # fmt: skip
def test_a_national_phy_tells_what_is_in_force(bmcr: int, support: int) -> None:
    """Section 10: gphyter and nsgphy of the BSDs take speed, duplex and link from register 0x11 alone."""
    with Chip(loop=True, phy=5) as chip:
        chip.linked()
        mii = Mii(chip, 5)
        assert (mii.read(0x10), mii.read(0x11)) == (5 << 11 | 0x11C, 0x16)
        mii.write(0, bmcr)
        until(lambda: mii.read(0x11) == support)
        mii.write(0x11, 0xFFFF)
        until(lambda: mii.read(0x11) == support)  # read only; 0 while the link comes up again
        chip.fault("link-down")
        until(lambda: mii.read(0x11) == 0)


def test_link_loss_stays_visible_once() -> None:
    with Chip(loop=True) as chip:
        chip.linked()
        mii = Mii(chip)
        chip.fault("link-down", "ms=5")
        chip.linked()
        assert not mii.read(1) & lib.MII_BMSR_LINK, "latched low"
        assert mii.read(1) & lib.MII_BMSR_LINK


@pytest.mark.parametrize(
    ("bmcr", "speed", "duplex"),
    ((0x0100, 0b11, 0), (0x2000, 0b10, 1), (0x2100, 0b10, 0), (0x0040, 0b01, 1), (0x0140, 0b01, 0)),
)
def test_forced_modes(bmcr: int, speed: int, duplex: int) -> None:
    """What CFG shows: speed 10 for 100 Mb/s, 01 for 1000, 11 for 10; duplex 0 for full."""
    with Chip(loop=True) as chip:
        chip.linked()
        Mii(chip).write(0, bmcr)
        until(lambda: chip.r("CFG") >> 28 == 8 | speed << 1 | duplex)
        assert not Mii(chip).read(1) & lib.MII_BMSR_AUTO_DONE


def test_negotiation_takes_the_best_that_both_can() -> None:
    cable = own()
    with Chip(cable=cable) as a, Chip(cable=cable, mac=bytes(5) + b"\2") as b:
        a.linked()
        Mii(a).write(9, 0)
        Mii(a).write(4, lib.MII_AN_100_FULL | lib.MII_AN_10)
        Mii(a).write(0, lib.MII_BMCR_AUTO | lib.MII_BMCR_RESTART)
        until(lambda: a.model.link == 100 and b.model.link == 100)
        assert Mii(b).read(5) & 0x1E0 == lib.MII_AN_100_FULL | lib.MII_AN_10
        Mii(b).write(0, lib.MII_BMCR_POWER_DOWN)
        until(lambda: not a.model.link)
        Mii(b).write(0, lib.MII_BMCR_RESET)
        until(lambda: a.model.link == 100)


def test_words_of_an_address() -> None:
    assert words(MAC) == struct.unpack("<3H", MAC)
