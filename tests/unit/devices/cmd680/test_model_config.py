# SPDX-License-Identifier: MIT
"""CMD680 model: configuration space and register windows (hardware document, sections 2 to 4, 14)."""

import pytest

from tests.unit.devices.cmd680.model_host import Machine
from usrdrv.devices.cmd680.model import DriveSpec


def test_header_after_reset() -> None:
    with Machine(enable=0) as m:
        assert m.cfg(0, 4) == 0x06801095
        assert m.cfg(4, 4) == 0x02B00000
        assert m.cfg(8, 4) == 0x01800002
        assert m.cfg(0x0C, 4) == 0
        assert m.cfg(0x2C, 4) == 0x06801095
        assert m.cfg(0x30, 4) == 0
        assert m.cfg(0x34) == 0x60
        assert m.cfg(0x3C, 4) == 0x00000100
        assert m.cfg(0x60, 4) == 0x06220001
        assert m.cfg(0x64, 4) == 0x64004000


@pytest.mark.parametrize(("code", "expected"), [(0x0101, 0x010185), (0x0104, 0x010400)])
def test_class_option(code: int, expected: int) -> None:
    with Machine(pci_class=code) as m:
        assert m.cfg(8, 4) >> 8 == expected


def test_bar_sizing() -> None:
    with Machine(enable=0) as m:
        sizes = []
        for bar in range(6):
            m.cfg_w(0x10 + 4 * bar, 0xFFFFFFFF, 4)
            sizes.append(m.cfg(0x10 + 4 * bar, 4))
        assert sizes == [
            0xFFFFFFF9, 0xFFFFFFFD, 0xFFFFFFF9, 0xFFFFFFFD, 0xFFFFFFF1, 0xFFFFFF00,
        ]  # fmt: skip


def test_bar5_can_be_strapped_off() -> None:
    """Sections 2.2 and 4.1.2: it reads 0, and BA5_EN too."""
    with Machine(enable=0, bar5=False) as m:
        m.cfg_w(0x24, 0xFFFFFFFF, 4)
        assert m.cfg(0x24, 4) == 0
        assert m.cfg(0x8A) == 0


def test_command_bits_and_latches() -> None:
    with Machine(enable=0) as m:
        m.cfg_w(4, 0xFFFF, 2)
        assert m.cfg(4, 2) == 0x0157
        for value in (1, 255):
            m.cfg_w(0x0C, value)
            assert m.cfg(0x0C) == value
        m.cfg_w(0x3C, 11)
        assert m.cfg(0x3C) == 11
        m.cfg_w(0x44, 0x12345678, 4)
        assert m.cfg(0x44, 4) == 0x12345678


def test_read_only_until_unlocked() -> None:
    with Machine() as m:
        m.cfg_w(2, 0x3112, 2)
        m.cfg_w(0x2C, 0x36801095, 4)
        assert m.cfg(0, 4) == 0x06801095 and m.cfg(0x2C, 4) == 0x06801095
        m.cfg_w(0x40, 1)
        m.cfg_w(0x2C, 0x36801095, 4)
        m.cfg_w(0x09, 0x85)
        m.cfg_w(0x08, 0x77)
        assert m.cfg(0x2C, 4) == 0x36801095 and m.cfg(8, 2) == 0x8502


def test_bars_answer_only_when_enabled() -> None:
    with Machine(enable=0) as m:
        assert m.r(0x48, 4) == 0xFFFFFFFF
        assert m.r(0, 1, 4) == 0xFF
        m.w(0x4C, 0x55, 4)
        m.cfg_w(4, 2, 2)
        assert m.r(0x4C, 4) == 0
        assert m.r(0x48, 4) == 0x00010000
        assert m.r(0, 1, 4) == 0xFF
        m.cfg_w(4, 1, 2)
        assert m.r(0, 1, 4) == 0
        assert m.r(0x48, 4) == 0xFFFFFFFF


def test_outside_a_bar() -> None:
    with Machine() as m:
        assert m.r(16, 1, 4) == 0xFF
        assert m.r(2, 4, 1) == 0xFFFFFFFF
        assert m.r(0x100, 2) == 0xFFFF
        assert m.r(0, 4, 6) == 0xFFFFFFFF
        assert m.r(0x100, 4, 7) == 0xFFFFFFFF
        assert m.r(0, 3) == 0xFFFFFFFF
        m.w(0xFFFFFFFF, 1, 4)


def test_reset_values() -> None:
    with Machine() as m:
        for c in (0, 0x40):
            assert m.r(0xA0 + c, 4) == 0x65150001
            assert m.r(0xA4 + c, 4) == 0x62DD62DD
            assert m.r(0xA8 + c, 4) == 0x43924392
            assert m.r(0xAC + c, 4) == 0x40094009
            assert m.r(0xB4 + c, 4) == 0
        assert m.r(0x48, 4) == 0x00010000
        assert m.r(0, 4) == 0 and m.r(8, 4) == 0 and m.r(0x40, 4) == 0


def test_config_aliases() -> None:
    """Section 3: channel 1 is +0x10 in configuration space but +0x40 in BAR5."""
    with Machine() as m:
        pairs = [
            (0x74, 0x04), (0x7C, 0x0C), (0x8C, 0x4C), (0xA4, 0xA4), (0xA8, 0xA8), (0xAC, 0xAC),
            (0xB4, 0xE4), (0xB8, 0xE8), (0xBC, 0xEC),
        ]  # fmt: skip
        for i, (config, bar5) in enumerate(pairs):
            m.cfg_w(config, 0x11223344 + (i << 8), 4)
            assert m.r(bar5, 4) == 0x11223344 + (i << 8), hex(config)
        for config, bar5 in ((0x80, 0xB4), (0x84, 0xF4)):
            m.cfg_w(config, 0xFF)
            assert m.r(bar5) == 0x33
        m.cfg_w(0x8A, 0x10)
        assert m.r(0x4A) == 0x11 and m.cfg(0x8A) == 0x11
        m.w(0xE2, 0x328A, 2)
        assert m.cfg(0xB2, 2) == 0x328A
        assert m.cfg(0xC0, 4) == 0


def test_io_windows() -> None:
    with Machine() as m:
        m.w(2, 0x5A, 1, 0)
        assert m.r(0x82) == 0x5A
        m.w(4, PRD := 0x1F002004, 4, 4)
        assert m.r(4, 4) == PRD
        assert m.r(2, 1, 1) == m.r(0x8A) == 0x50
        m.w(8 + 4, 0x100, 4, 4)
        assert m.r(0x0C, 4) == 0x100


def test_init_of_linux_and_readback() -> None:
    """Section 14.1, and items 1 to 5 of section 12."""
    with Machine(DriveSpec(ram=1 << 20)) as m:
        m.cfg_w(0x0C, 1)
        m.cfg_w(0x8A, m.cfg(0x8A) | 0x10)
        assert m.cfg(0x8A) == 0x11
        for base in (0xA0, 0xB0):
            m.cfg_w(base + 1, 0x72)
            m.cfg_w(base + 2, 0x328A, 2)
            m.cfg_w(base + 4, 0x62DD62DD, 4)
            m.cfg_w(base + 8, 0x43924392, 4)
            m.cfg_w(base + 12, 0x40094009, 4)
        m.cfg_w(0xA4, 0x10C1, 2)
        m.cfg_w(0xA2, 0x10C1, 2)
        m.cfg_w(0xA0, m.cfg(0xA0, 2) | 0x200, 2)
        m.cfg_w(0xA8, 0x10C1, 2)
        m.cfg_w(0xAC, m.cfg(0xAC, 2) & ~0x3F | 1, 2)
        m.cfg_w(0x80, 3)
        assert m.cfg(0xA0, 4) == 0x10C16201
        assert m.cfg(0xA4, 4) == 0x62DD10C1
        assert m.cfg(0xA8, 4) == 0x439210C1
        assert m.cfg(0xAC, 4) == 0x40094001
        assert m.cfg(0xB0, 4) == 0x328A6201
        assert m.cfg(0x80) == 3 and m.cfg(0x84) == 0


def test_live_intrq_in_a1() -> None:
    with Machine() as m:
        m.cfg_w(0xA1, 0xFF)
        assert m.cfg(0xA1) == 0x62
        m.taskfile(0xE7)
        m.wait()
        assert m.cfg(0xA1) == 0x6A
        m.alt()
        assert m.cfg(0xA1) == 0x6A
        m.status()
        assert m.cfg(0xA1) == 0x62


def test_cable_bit_is_read_only() -> None:
    with Machine(cable80=(False, True)) as m:
        m.w(0xA0, 1)
        m.w(0xE0, 0)
        assert m.r(0xA0) & 1 == 0 and m.r(0xE0) & 1 == 1


def test_eeprom_and_flash_are_absent() -> None:
    with Machine() as m:
        m.w(0x58, 0x03000010, 4)
        assert m.r(0x58, 4) & 0x12000000 == 0x10000000
        assert m.r(0x5C) == 0xFF
        m.w(0x50, 0x03000010, 4)
        assert m.r(0x50, 4) == 0x01000010 and m.r(0x54) == 0xFF


def test_power_state() -> None:
    with Machine() as m:
        m.w(0x4C, 0x77, 4)
        m.cfg_w(0x64, 3)
        assert m.r(0x4C, 4) == 0xFFFFFFFF
        assert m.cfg(0, 4) == 0x06801095
        m.cfg_w(0x64, 0)
        assert m.cfg(4, 2) == 0, "D3 to D0 is a reset"
        m.cfg_w(4, 7, 2)
        assert m.r(0x4C, 4) == 0


def test_reset_restores_everything() -> None:
    with Machine() as m:
        m.taskfile(0xE7)
        m.wait()
        assert m.level == 1
        m.w(0x4A, 0x11)
        m.c.ops.reset(m.c)
        assert m.level == 0
        assert m.cfg(4, 2) == 0
        m.cfg_w(4, 7, 2)
        assert m.r(0x4A) == 1 and m.r(2) == 0
        assert [m.r(0x80 + i) for i in range(1, 7)] == [1, 1, 1, 0, 0, 0]
