# SPDX-License-Identifier: MIT
"""The DP83820 model register by register: configuration space, reset values, side effects (sections 2 and 3)."""

from __future__ import annotations

import time

import pytest

from tests.unit.devices.dp83820.nic_host import LOW, MAC, Chip, frame, words
from tests.waiting import until
from usrdrv.devices._models import lib

RESET = {
    "CR": 0,
    "MEAR": 0x12,
    "PTSCR": 0,
    "IMR": 0,
    "IER": 0,
    "IHR": 0,
    "TXDP": 0,
    "TXDP_HI": 0,
    "TXCFG": 0x120,
    "GPIOR": 0,
    "RXDP": 0,
    "RXDP_HI": 0,
    "RXCFG": 4,
    "PQCR": 0,
    "WCSR": 0,
    "PCR": 0,
    "RFCR": 0,
    "BRAR": 0xFFFFFFFF,
    "SRR": 0x103,
    "MIBC": 2,
    "VRCR": 0,
    "VTCR": 0,
    "VDR": 0x81,
    "CCSR": 0,
    "TBICR": 0,
    "TBISR": 0,
    "TANAR": 0,
    "TANLPAR": 0,
    "TANER": 0,
    "TESR": 0,
}
STORED = {
    "IMR": 0x7FFFFFFF,
    "IER": 1,
    "IHR": 0x1FF,
    "TXDP": 0xFFFFFFFC,
    "TXDP1": 0xFFFFFFFC,
    "TXDP3": 0xFFFFFFFC,
    "TXDP_HI": 0xFFFFFFFF,
    "TXCFG": 0xF0F8FFFF,
    "RXDP": 0xFFFFFFFC,
    "RXDP2": 0xFFFFFFFC,
    "RXDP_HI": 0xFFFFFFFF,
    "RXCFG": 0xFC70003E,
    "PQCR": 15,
    "RFCR": 0xFFF803FF,
    "BRAR": 0x8001FFFF,
    "VRCR": 0xFF,
    "VTCR": 15,
    "VDR": 0xFFFFFFFF,
}
"""What is kept of all ones."""
PINS_DOWN = 0x70000000


def test_configuration_space() -> None:
    with Chip(enable=0) as chip:
        assert chip.config(0) == 0x0022_100B
        assert chip.config(4) == 0x0290_0000
        assert chip.config(8) == 0x0200_0000
        assert chip.config(0x2C) == 0x4900_1186
        assert chip.config(0x34, 1) == 0x40
        assert chip.config(0x3C) == 0x34B0_0100, "interrupt pin, Min_Gnt and Max_Lat of the EEPROM"
        assert chip.config(0x40, 2) == 1
        chip.config_w(0, 0xFFFFFFFF)
        assert chip.config(0) == 0x0022_100B
        chip.config_w(4, 0xFFFF, 2)
        assert chip.config(4, 2) == 0x157
        for offset, size in ((0x10, 0xFFFFFF01), (0x14, 0xFFFFF000), (0x18, 0), (0x30, 0)):
            chip.config_w(offset, 0xFFFFFFFF)
            assert chip.config(offset) == size, hex(offset)
        chip.config_w(0x0C, 0x6008, 2)
        assert chip.config(0x0C, 2) == 0x6008
        assert chip.config(0xFE, 4) == 0xFFFFFFFF, "does not fit"


def test_a_bar_answers_when_it_is_enabled() -> None:
    with Chip(enable=0) as chip:
        assert chip.r("SRR") == 0xFFFFFFFF and chip.r("SRR", bar=0) == 0xFFFFFFFF
        chip.config_w(4, 2, 2)
        assert chip.r("SRR") == 0x103 and chip.r("SRR", bar=0) == 0xFFFFFFFF
        chip.config_w(4, 1, 2)
        assert chip.r("SRR") == 0xFFFFFFFF and chip.r("SRR", bar=0) == 0x103
        assert chip.counter("unexpected") == 4
        chip.r(0x200, bar=0)
        assert chip.counter("unexpected") == 5, "BAR0 has 256 bytes"


def test_power_states() -> None:
    with Chip() as chip:
        chip.w("TXCFG", 0xD0703200)
        chip.config_w(0x44, 0x100, 2)
        chip.config_w(0x44, 0x103, 2)
        assert chip.r("SRR") == 0xFFFFFFFF, "D3hot: only configuration space"
        chip.config_w(0x44, 0x100, 2)
        assert chip.config(4, 2) == 0, "D3hot to D0 is a reset"
        assert chip.config(0x44, 2) == 0x100, "PME enable outlives it"
        chip.config_w(4, 6, 2)
        assert chip.r("TXCFG") == 0x120


def test_mirror_of_configuration_space() -> None:
    with Chip() as chip:
        assert chip.r(0x22C) == 0x49001186
        for offset in range(0, 0x100, 4):
            assert chip.r(0x200 + offset) == chip.config(offset)
        chip.w(0x20C, 0xFFFFFFFF)
        assert chip.config(0x0C) == 0


def test_reset_values() -> None:
    with Chip() as chip:
        assert chip.r("ISR") == 0x00608000
        for name, value in RESET.items():
            assert chip.r(name) == value, name
        assert chip.r("CFG") == PINS_DOWN
        for hole in (0x8C, 0x9C, 0xAC, 0xC8, 0xD0, 0xDC, 0xF8, 0x100, 0x1FC, 0x300, 0xFFC):
            chip.w(hole, 0xFFFFFFFF)
            assert chip.r(hole) == 0, hex(hole)
    with Chip(rev_a=True) as chip:
        assert chip.r("SRR") == 0x102


@pytest.mark.parametrize("name", STORED)
@pytest.mark.parametrize("bar", (0, 1))
def test_what_is_stored(name: str, bar: int) -> None:
    with Chip(enable=3) as chip:
        chip.w(name, 0xFFFFFFFF, bar=bar)
        assert chip.r(name, bar=bar) == STORED[name]
        chip.w(name, 0, bar=bar)
        assert chip.r(name, bar=bar) == 0


def test_read_only_registers() -> None:
    with Chip() as chip:
        for name in ("SRR", "TBISR", "TANLPAR", "TANER", "TESR"):
            before = chip.r(name)
            chip.w(name, 0xFFFFFFFF)
            assert chip.r(name) == before, name


def test_widths() -> None:
    with Chip() as chip:
        chip.w("TXCFG", 0x1234, 2)
        assert chip.r("TXCFG") == 0x120 and chip.counter("unexpected") == 1
        assert chip.r(lib.DP83820_SRR, 1) == 3 and chip.r(lib.DP83820_SRR + 1, 1) == 1
        chip.w("RFCR", 0)
        chip.w("RFDR", 0xBEEF, 2)
        assert chip.r("RFDR", 2) == 0xBEEF
        assert chip.r("BRDR", 1) == 0xFF


def test_cfg() -> None:
    with Chip() as chip:
        chip.w("CFG", 0xFFFFFFFF)
        assert chip.r("CFG") == PINS_DOWN | 0x017FDFFF, "link pins and PCI64_DET are not writable"
    with Chip(pci64=True) as chip:
        chip.w("CFG", 0)
        assert chip.r("CFG") == PINS_DOWN | lib.DP83820_CFG_PCI64_DET
    with Chip(loop=True) as chip:
        chip.linked()
        assert chip.r("CFG") >> 28 == 0b1010, "up, 1000, full"


def test_isr_is_cleared_by_reading_all_of_it() -> None:
    with Chip() as chip:
        chip.w("ISR", 0xFFFFFFFF)
        assert chip.r("ISR") == 0x00608000, "writes change nothing"
        assert chip.r("ISR") == 0
        chip.w("CR", lib.DP83820_CR_SWI)
        assert chip.r("ISR") == lib.DP83820_ISR_SWI, "masked bits are there, without HIBINT"
        assert chip.r("ISR") == 0


def test_interrupt_line() -> None:
    with Chip() as chip:
        chip.r("ISR")
        chip.w("CR", lib.DP83820_CR_SWI)
        assert not chip.level
        chip.w("IMR", lib.DP83820_ISR_SWI)
        assert not chip.level, "IER is 0"
        chip.w("IER", 1)
        assert chip.level, "an event from before counts"
        chip.w("IER", 0)
        assert not chip.level
        chip.w("IER", 1)
        chip.w("IMR", 0)
        assert not chip.level
        chip.w("IMR", lib.DP83820_ISR_SWI)
        assert chip.level
        assert chip.r("ISR") == lib.DP83820_ISR_SWI and not chip.level
        assert chip.counter("interrupts") == 3


def test_interrupt_hold_off() -> None:
    with Chip() as chip:
        chip.r("ISR")
        chip.w("IMR", lib.DP83820_ISR_SWI)
        chip.w("IER", 1)
        chip.w("IHR", 0xFF)
        began = time.monotonic()
        chip.w("CR", lib.DP83820_CR_SWI)
        assert chip.level, "the first one"
        assert chip.r("ISR") == lib.DP83820_ISR_SWI
        chip.w("CR", lib.DP83820_CR_SWI)
        until(lambda: chip.level)
        assert time.monotonic() - began >= 0.02

        def held_off() -> bool:
            """Unless its time was over before we looked."""
            chip.r("ISR")
            chip.w("CR", lib.DP83820_CR_SWI)
            return not chip.level

        until(held_off)
        chip.w("IHR", 0x1FF)
        assert chip.level, "IHCTL ends it"
        chip.r("ISR")


def test_cr_reads_what_the_machines_do() -> None:
    with Chip() as chip:
        chip.enable()
        chip.receive_into(2)
        assert chip.r("CR") == lib.DP83820_CR_RXE, "waits at a free descriptor"
        chip.w("CR", 0)
        assert chip.r("CR") == lib.DP83820_CR_RXE
        chip.w("CR", lib.DP83820_CR_RXD)
        assert chip.r("CR") == 0
        chip.w("CR", lib.DP83820_CR_RXE)
        chip.r("ISR")
        chip.w("CR", lib.DP83820_CR_RXR)
        assert chip.r("CR") == 0 and chip.r("RXDP") == 0
        assert chip.r("ISR") == lib.DP83820_ISR_RXRCMP | lib.DP83820_ISR_HIBINT
        chip.w("TXDP", LOW)
        chip.w("CR", lib.DP83820_CR_TXR)
        assert chip.r("TXDP") == 0
        assert chip.r("ISR") == lib.DP83820_ISR_TXRCMP | lib.DP83820_ISR_HIBINT


SETTINGS = {"TXCFG": 0xD0703200, "RXCFG": 0xF4700000, "VRCR": 0x13, "VTCR": 0x0A, "VDR": 0x810081}


@pytest.mark.parametrize("everything", (False, True))
def test_soft_reset(everything: bool) -> None:
    """What it leaves alone is what the kernel's driver depends on (section 12.1)."""
    with Chip(reset_all=everything) as chip:
        for name, value in SETTINGS.items():
            chip.w(name, value)
        chip.rf_w(0, 0x1234)
        for name in ("IMR", "IER", "IHR", "TXDP", "RXDP", "MIBC"):
            chip.w(name, 0)
            chip.w(name, 0x101)
        chip.r("ISR")
        chip.w("CR", lib.DP83820_CR_RST)
        assert chip.r("CR") == 0
        for name in ("IMR", "IER", "IHR", "TXDP", "RXDP", "PTSCR", "MIBC"):
            assert chip.r(name) == RESET[name], name
        assert chip.r("ISR") == 0x00608000
        for name, value in SETTINGS.items():
            assert chip.r(name) == (RESET[name] if everything else value), name
        assert chip.rf(0) == (0 if everything else 0x1234)


def test_ptscr() -> None:
    with Chip() as chip:
        chip.w("PTSCR", lib.DP83820_PTSCR_RBIST_RST)
        assert chip.r("PTSCR") == 0
        chip.w("PTSCR", lib.DP83820_PTSCR_RBIST_EN)
        assert chip.r("PTSCR") == lib.DP83820_PTSCR_RBIST_DONE
        chip.w("PTSCR", lib.DP83820_PTSCR_RBIST_RST)
        assert chip.r("PTSCR") == 0
        chip.w("PTSCR", lib.DP83820_PTSCR_EEBIST_EN)
        assert chip.r("PTSCR") == 0, "the checksum is good"


def test_eeload_gives_the_station_address_back() -> None:
    with Chip() as chip:
        for i in range(3):
            chip.rf_w(2 * i, 0)
        chip.w("PTSCR", lib.DP83820_PTSCR_EELOAD_EN)
        assert chip.r("PTSCR") == 0
        assert [chip.rf(2 * i) for i in range(3)] == list(words(MAC))


def test_gpio() -> None:
    with Chip() as chip:
        chip.w("GPIOR", 0x3E8)
        assert chip.r("GPIOR") == 0x3E8 | 0x08 << 10, "an input shows what its output drives"
        chip.w("GPIOR", 0x1F)
        assert chip.r("GPIOR") == 0x1F


def test_filter_window() -> None:
    with Chip() as chip:
        for at in range(0, 0x400, 2):
            chip.rf_w(at, at ^ 0xA5A5)
        assert all(chip.rf(at) == at ^ 0xA5A5 for at in range(0, 0x400, 2))
        chip.w("RFCR", 0xFFF80002)
        assert chip.r("RFCR") == 0xFFF80002 and chip.r("RFDR") == 2 ^ 0xA5A5
        assert chip.r("RFDR") == 2 ^ 0xA5A5, "stays where it is"


def test_boot_rom_window() -> None:
    with Chip() as chip:
        chip.w("BRAR", 0x80000000)
        assert chip.r("BRDR") == 0xFFFFFFFF, "no ROM"
        assert chip.r("BRAR") == 0x80000004
        chip.w("BRAR", 0x10)
        chip.r("BRDR")
        assert chip.r("BRAR") == 0x10


def test_mib_counters() -> None:
    with Chip() as chip:
        addresses = [lib.DP83820_MIB + 4 * i for i in range(lib.DP83820_MIBS)]
        chip.w("MIBC", lib.DP83820_MIBC_FRZ | lib.DP83820_MIBC_MIBS)
        assert not any(chip.r(at) for at in addresses), "frozen"
        chip.w("MIBC", lib.DP83820_MIBC_MIBS)
        assert [chip.r(at) for at in addresses] == [1] * len(addresses)
        assert [chip.r(at) for at in addresses] == [0] * len(addresses), "cleared by reading"
        chip.w("MIBC", lib.DP83820_MIBC_MIBS)
        chip.w("MIBC", lib.DP83820_MIBC_ACLR)
        assert not any(chip.r(at) for at in addresses)
        chip.r("ISR")
        for _ in range(0x80):
            chip.w("MIBC", lib.DP83820_MIBC_MIBS)
        assert chip.r("ISR") == lib.DP83820_ISR_MIB, "the 8-bit counter is half full"
        assert chip.r("MIBC") == lib.DP83820_MIBC_WRN
        for _ in range(0x100):
            chip.w("MIBC", lib.DP83820_MIBC_MIBS)
        assert chip.r(lib.DP83820_MIB + 4 * lib.DP83820_MIB_SQE) == 0xFF, "stays at its top"


def test_clkrun_and_pme() -> None:
    with Chip() as chip:
        chip.w("CCSR", 0xFFFF)
        assert chip.r("CCSR") == 0x101


def test_fibre() -> None:
    with Chip(fibre=True, loop=True) as chip:
        assert chip.r("CFG") & (lib.DP83820_CFG_TBI_EN | lib.DP83820_CFG_MODE_1000) == (
            lib.DP83820_CFG_TBI_EN | lib.DP83820_CFG_MODE_1000
        ), "loaded from the EEPROM"
        chip.linked()
        chip.set("CFG", lib.DP83820_CFG_PINT_LNK)
        chip.r("ISR")
        chip.w("TANAR", lib.DP83820_TANAR_FULL | lib.DP83820_TANAR_HALF)
        chip.w("TBICR", lib.DP83820_TBICR_AN_ENABLE | lib.DP83820_TBICR_AN_RESTART)
        assert chip.r("TBICR") == lib.DP83820_TBICR_AN_ENABLE, "restart clears itself"
        until(lambda: chip.r("TBISR"))
        assert chip.r("TBISR") == lib.DP83820_TBISR_LINK | lib.DP83820_TBISR_AN_DONE
        assert chip.r("TANLPAR") == lib.DP83820_TANAR_FULL | lib.DP83820_TANAR_HALF
        assert chip.r("TESR") == 0xC000
        assert chip.r("ISR") & lib.DP83820_ISR_PHY, "link went and came"
        chip.enable()
        chip.receive_into(2)
        chip.send(frame())
        until(chip.filled)


def test_link_change_interrupts_as_asked() -> None:
    pints = (lib.DP83820_CFG_PINT_LNK, lib.DP83820_CFG_PINT_SPD, lib.DP83820_CFG_PINT_DUP)
    for pint in (0, *pints):
        with Chip(loop=True) as chip:
            chip.linked()
            chip.w("CFG", pint)
            chip.r("ISR")
            fault = chip.fault("link-down")
            assert chip.r("CFG") >> 28 == 7, "down"
            assert chip.r("ISR") == (lib.DP83820_ISR_PHY if pint else 0)
            chip.model.clear_fault(fault)
            chip.linked()
            assert chip.r("ISR") == (lib.DP83820_ISR_PHY if pint else 0)
