# SPDX-License-Identifier: MIT
"""CMD680 model: drives that spin up, at power-on or when they are told; cards that are older than much of ATA."""

import struct

import pytest

from tests.unit.devices.cmd680.model_host import DATA, Machine
from usrdrv.base.errors import UsageError
from usrdrv.devices.cmd680.faults import Fault
from usrdrv.devices.cmd680.model import DriveSpec, from_options

MIB = 1 << 20
LONG = 3600.0


def words(m: Machine) -> list[int]:
    m.taskfile(0xEC)
    assert m.wait() == 0x58
    m.status()
    return list(struct.unpack("<256H", m.pio_in(512)))


def test_busy_from_power_on_whatever_the_host_does() -> None:
    with Machine(DriveSpec(ram=MIB, spin_up=LONG), DriveSpec(ram=MIB)) as m:
        assert m.alt() == m.status() == 0x80
        m.taskfile(0xE5)
        for bit in (4, 0):
            m.w(0x8A, bit)
        assert m.alt() == 0x80 and m.level == 0, "a soft reset does not hurry it"
        m.w(0x86, 0xB0)
        assert m.alt() == 0x50, "the other one is there"


def test_ready_when_it_has_spun_up() -> None:
    with Machine(DriveSpec(ram=MIB, spin_up=0.05)) as m:
        assert m.wait() == 0x50
        assert m.command(0xE5) == 0x50


def test_plugged_in_again_it_spins_up_again() -> None:
    with Machine(DriveSpec(ram=MIB, spin_up=0.05)) as m:
        m.wait()
        m.model.clear_fault(m.model.add_fault(Fault("unplug", drive=0)))
        for bit in (4, 0):
            m.w(0x8A, bit)
        assert m.wait() == 0x50 and words(m)[0] == 0x0040


@pytest.mark.parametrize("word", [0x37C8, 0x738C, 0x8C73, 0xC837])
def test_power_up_in_standby(word: int) -> None:
    """Word 2: whether it has to be told, and whether IDENTIFY is complete before."""
    told, short = word in (0x37C8, 0x738C), word in (0x37C8, 0x8C73)
    with Machine(DriveSpec(ram=MIB, puis=word, spin_up=0.05)) as m:
        assert m.alt() == 0x50
        before = words(m)
        assert before[2] == word and before[0] == (0x0044 if short else 0x0040)
        assert bool(before[49]) != short
        m.command(0xE5)
        assert m.r(0x82) == 0, "standby"
        if told:
            assert m.dma(0xC8, 0, 1)[1:] == (0x51, 4)
            assert m.command(0xE1) == 0x51
            assert m.command(0x40, 0, 1) == 0x51
            assert m.command(0xEF, feature=7) == 0x50
        assert m.dma(0xC8, 0, 1)[:2] == (4, 0x50)
        after = words(m)
        assert after[2] == (0x738C if told else 0xC837) and after[0] == 0x0040
        assert after[83] & 0x60 == (0x60 if told else 0x20) and after[86] & 0x20
        m.command(0xE5)
        assert m.r(0x82) == 0xFF
        assert m.command(0xEF, feature=7) == 0x50, "once more does no harm"
        for bit in (4, 0):
            m.w(0xA0, bit)
        assert words(m)[2] == after[2], "a hard reset is no power-off"


def test_told_to_spin_up_it_takes_its_time() -> None:
    with Machine(DriveSpec(ram=MIB, puis=0x37C8, spin_up=LONG)) as m:
        m.taskfile(0xEF, feature=7)
        assert m.alt() == 0x80


def test_power_up_in_standby_can_be_turned_off() -> None:
    with Machine(DriveSpec(ram=MIB, puis=0x37C8)) as m:
        assert m.command(0xEF, feature=7) == 0x50
        assert m.command(0xEF, feature=0x86) == 0x50
        assert not words(m)[86] & 0x20
        m.model.clear_fault(m.model.add_fault(Fault("unplug", drive=0)))
        for bit in (4, 0):
            m.w(0x8A, bit)
        assert words(m)[0] == 0x0040
        assert m.command(0xEF, feature=0x06) == 0x50
        m.model.clear_fault(m.model.add_fault(Fault("unplug", drive=0)))
        for bit in (4, 0):
            m.w(0x8A, bit)
        assert words(m)[0] == 0x0044


def test_others_have_no_such_features() -> None:
    with Machine() as m:
        for feature in (0x06, 0x07, 0x86):
            assert m.command(0xEF, feature=feature) == 0x51
        identity = words(m)
        assert identity[2] == 0 and not identity[83] & 0x60


@pytest.mark.parametrize("word", [0x848A, 0x844A, 0x044A, 0x0040])
def test_a_card_says_so(word: int) -> None:
    with Machine(DriveSpec(ram=MIB, cfa=word)) as m:
        assert words(m)[0] == word


def test_a_card_without_flush_has_no_cache_either() -> None:
    with Machine(DriveSpec(ram=MIB, cfa=0x848A, flush=False, lba48=False)) as m:
        identity = words(m)
        assert not identity[83] & 0x3000 and not identity[86] & 0x3000
        assert not identity[82] & 0x20 and not identity[85] & 0x20
        assert m.command(0xE7) == m.command(0xEF, feature=2) == 0x51
        m.put(DATA, b"c" * 512)
        assert m.dma(0xCA, 1, 1, write=True)[1] == 0x50


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("ram=1M&cfa=8580", "cfa=8580: one of 848a, 844a, 044a, 0040"),
        ("ram=1M&puis=x", "puis=x: not a number"),
        ("ram=1M&puis=1234", "puis=1234: one of 37c8, 738c, 8c73, c837"),
        ("ram=1M&spinup=soon", "spinup=soon: not a number of seconds"),
        ("ram=1M&spinup=nan", "spinup=nan: 0 to 3600 seconds"),
    ],
)
def test_bad_options(options: str, message: str) -> None:
    with pytest.raises(UsageError, match=message):
        from_options(options)


def test_short_options() -> None:
    with from_options("ram=1M&cfa=1&ram3=1M&puis3=1&spinup3=0.5&cfa3=044A&flush3=0") as model:
        first, last = model.drives[0], model.drives[3]
        assert first is not None and last is not None
        assert (first.cfa, first.puis, first.flush) == (0x848A, 0, True)
        assert (last.cfa, last.puis, last.spin_up, last.flush) == (0x044A, 0x37C8, 0.5, False)
