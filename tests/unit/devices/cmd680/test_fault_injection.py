# SPDX-License-Identifier: MIT
"""Faults of the CMD680 model: what each looks like in the registers (hardware document, 14.4)."""

import time

import pytest

from tests.unit.devices.cmd680.model_host import CTL, DATA, Machine
from usrdrv.base.errors import NoSuchDeviceError, UsageError
from usrdrv.devices.base.faults import Kind, ModelFault
from usrdrv.devices.cmd680.faults import Fault
from usrdrv.devices.cmd680.model import DriveSpec

MIB = 1 << 20


def srst(m: Machine) -> None:
    m.w(CTL, 4)
    m.w(CTL, 0)


def test_bad_sector_on_read() -> None:
    with Machine() as m:
        m.put(DATA, b"d" * 8192)
        m.dma(0xCA, 100, 16, write=True)
        m.put(DATA, bytes(8192))
        fault = m.model.add_fault(Fault("bad-sector", lba=105, on="read"))
        bm, status, error = m.dma(0x25, 100, 16, ext=True)
        assert (bm, status, error) == (5, 0x51, 0x40)
        assert m.lba48() == 105
        assert m.get(DATA, 8192) == b"d" * 2560 + bytes(8192 - 2560)
        assert m.dma(0xC8, 106, 4)[1] == 0x50
        assert m.dma(0xC8, 101, 4)[1] == 0x50
        assert m.dma(0xCA, 105, 1, write=True)[1] == 0x50
        assert m.command(0x40, 100, 16) == 0x51 and m.r(0x83) == 105
        assert m.model.faults()[0].hits == 2
        m.model.clear_fault(fault)
        assert m.dma(0xC8, 100, 16)[1] == 0x50


def test_bad_sector_on_pio() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("bad-sector", lba=2, sectors=2, on="both"))
        m.taskfile(0x20, 0, 4)
        m.pio_in(1024)
        assert m.status() == 0x51 and m.error() == 0x40 and m.r(0x83) == 2
        m.taskfile(0xC4, 0, 4)
        assert m.status() == 0x51, "a block fails as a whole"
        m.taskfile(0x30, 1, 2)
        m.pio_out(b"w" * 1024)
        assert m.status() == 0x71 and m.r(0x83) == 2
        m.taskfile(0x20, 1, 1)
        assert m.pio_in(512) == b"w" * 512, "what came before the bad sector is written"


def test_lowest_bad_sector_counts() -> None:
    with Machine() as m:
        for lba in (9, 5, 7):
            m.model.add_fault(Fault("bad-sector", lba=lba))
        m.dma(0xC8, 0, 16)
        assert m.r(0x83) == 5


def test_count_runs_out() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("bad-sector", lba=1, count=2))
        assert [m.dma(0xC8, 0, 4)[1] for _ in range(3)] == [0x51, 0x51, 0x50]
        assert m.model.faults() == []


def test_crc_only_in_udma() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("crc"))
        assert m.dma(0xC8, 0, 1)[1:] == (0x50, 0)
        m.udma(4)
        bm, status, error = m.dma(0xC8, 0, 1)
        assert (bm, status, error) == (4, 0x51, 0x84)
        assert m.get(DATA, 512) != bytes(512), "the data is damaged"
        m.put(DATA, b"y" * 512)
        assert m.dma(0xCA, 0, 1, write=True)[1:] == (0x51, 0x84)
        m.model.clear_fault()
        m.dma(0xC8, 0, 1)
        assert m.get(DATA, 512) == bytes(512), "damaged data is not written"
        assert m.model.counters()["drives"][0]["crc_errors"] == 2


def test_crc_above_a_mode() -> None:
    with Machine() as m:
        m.model.add_fault(Fault.parse(["crc", "above=UDMA2"]))
        m.udma(3)
        assert m.dma(0xC8, 0, 1)[2] == 0x84
        m.udma(2)
        assert m.dma(0xC8, 0, 1)[2] == 0


def test_40_wires_carry_udma2() -> None:
    with Machine(cable80=(False, True)) as m:
        m.udma(2)
        assert m.dma(0xC8, 0, 1)[1] == 0x50
        assert m.model.counters()["drives"][0]["mode_mismatch"] == 0
        m.udma(3)
        assert m.dma(0xC8, 0, 1)[1:] == (0x51, 0x84)
        assert m.model.counters()["drives"][0]["mode_mismatch"] == 1


@pytest.mark.parametrize(("host", "drive", "mismatch"), [(6, 5, 1), (5, 5, 0), (4, 5, 0)])
def test_mode_mismatch(host: int, drive: int, mismatch: int) -> None:
    with Machine() as m:
        m.udma(host)
        m.command(0xEF, count=0x40 | drive, feature=3)
        m.dma(0xC8, 0, 1)
        assert m.model.counters()["drives"][0]["mode_mismatch"] == mismatch


def test_mwdma_mismatch() -> None:
    with Machine() as m:
        m.command(0xEF, count=0x21, feature=3)
        m.w(0xB4, 2)
        for word, mismatch in ((0x10C2, 0), (0x2208, 0), (0x10C1, 1)):
            before = m.model.counters()["drives"][0]["mode_mismatch"]
            m.w(0xA8, word, 2)
            m.dma(0xC8, 0, 1)
            assert m.model.counters()["drives"][0]["mode_mismatch"] - before == mismatch


def test_hang() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("hang", on="read", count=1))
        assert m.dma(0xCA, 0, 1, write=True)[1] == 0x50
        m.taskfile(0xC8, 0, 1)
        time.sleep(0.05)  # nothing is to happen
        assert m.alt() == 0x80 and m.level == 0
        srst(m)
        assert m.alt() == 0x50
        assert m.dma(0xC8, 0, 1)[1] == 0x50
        srst(m)
        drive = m.model.counters()["drives"][0]
        assert (drive["resets"], drive["timeouts"]) == (2, 1), "the second ended nothing"


def test_hang_of_one_opcode() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("hang", opcode=0xE7))
        assert m.command(0xE5) == 0x50
        m.taskfile(0xE7)
        assert m.alt() == 0x80


@pytest.mark.parametrize("by", ["reset bit", "clearing"])
def test_stuck_bsy(by: str) -> None:
    with Machine() as m:
        fault = m.model.add_fault(Fault("stuck-bsy", opcode=0xE7))
        m.taskfile(0xE7)
        srst(m)
        assert m.alt() == 0x80, "survives a soft reset"
        if by == "clearing":
            m.model.clear_fault(fault)
        else:
            m.w(0xA0, 4)
            m.w(0xA0, 0)
        assert m.alt() == 0x50 and m.command(0xE5) == 0x50


def test_lost_interrupt() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("lost-irq", count=1))
        bm, status, _ = m.dma(0xC8, 0, 1)
        assert (bm, status) == (0, 0x50) and m.level == 0
        assert m.dma(0xC8, 0, 1)[0] == 4


def test_spurious_interrupt() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("spurious-irq"))
        assert m.level == 1 and m.r(2) == 4 and m.alt() == 0x50
        assert m.r(0xA1) & 8, "the line itself is up, not only the latch"
        assert m.r(0x87) == 0x50 and not m.r(0xA1) & 8
        m.w(2, 4)
        assert m.level == 0 and m.model.faults() == []


def test_spurious_interrupt_during_a_command() -> None:
    with Machine() as m:
        m.model.add_fault(Fault("hang", count=1))
        m.taskfile(0xC8, 0, 1)
        m.model.add_fault(Fault("spurious-irq"))
        assert m.model.counters()["interrupts"] == 1
        assert m.level == 0 and m.r(2) & 4 and not m.r(0xA1) & 8, "a glitch: up and down again"
        m.w(2, 4)
        assert m.r(2) == 0


def test_spurious_interrupt_beside_a_true_one() -> None:
    """A drive that waits for its data to be taken has said so: that stays, until its status is read."""
    with Machine() as m:
        m.taskfile(0x20, 0, 1)
        assert m.alt() & 8 and m.level == 1 and m.r(2) & 4
        m.model.add_fault(Fault("spurious-irq"))
        assert m.level == 1 and m.r(2) & 4 and m.r(0xA1) & 8
        assert m.model.counters()["interrupts"] == 1, "the line was up already"
        assert m.r(0x87) & 8 and m.level == 0 and not m.r(0xA1) & 8


def test_unplug_and_back() -> None:
    with Machine(DriveSpec(ram=MIB), DriveSpec(ram=MIB)) as m:
        m.udma(5)
        m.put(DATA, b"k" * 512)
        m.dma(0xCA, 0, 1, write=True)
        m.taskfile(0xC8, 0, 1)
        fault = m.model.add_fault(Fault("unplug", drive=0))
        m.w(0, 9)
        assert m.alt() == 0x7F and m.level == 0 and m.r(2) == 1, "the command died with it"
        m.w(0, 0)
        srst(m)
        assert m.alt() == 0x7F
        m.w(0x86, 0xB0)
        assert m.alt() == 0x50, "the other drive is still there"
        m.model.clear_fault(fault)
        m.w(0x86, 0xA0)
        assert m.alt() == 0x7F, "nobody looks without a reset"
        srst(m)
        assert m.alt() == 0x50
        assert m.identify()[88] == 0x007F, "power-on state"
        assert m.dma(0xC8, 0, 1)[1] == 0x50 and m.get(DATA, 512) == b"k" * 512


def test_slow_media() -> None:
    with Machine() as m:
        fault = m.model.add_fault(Fault("slow", seek_ms=50, mbps=1.0))
        start = time.monotonic()
        assert m.dma(0xC8, 0, 128, [(DATA, 65536)])[1] == 0x50
        assert time.monotonic() - start > 0.1
        m.taskfile(0x20, 0, 1)
        m.wait()
        assert m.status() == 0x58
        m.w(2, 4)
        srst(m)
        m.taskfile(0x20, 0, 1)
        srst(m)
        time.sleep(0.1)  # nothing is to happen
        assert m.alt() == 0x50 and m.level == 0, "a reset forgets the command"
        m.model.clear_fault(fault)
        fault = m.model.add_fault(Fault("slow", seek_ms=60000))
        m.taskfile(0x20, 0, 1)
        assert m.alt() == 0x80, "busy meanwhile"
        srst(m)
        m.taskfile(0x20, 0, 1)
        assert m.alt() == 0x80
        m.model.clear_fault(fault)
        assert m.alt() == 0x58, "cleared, it lets the command go on"


def test_close_during_a_slow_command() -> None:
    m = Machine()
    m.model.add_fault(Fault("slow", seek_ms=600_000))
    m.taskfile(0x20, 0, 1)
    m.close()  # pytest has no patience with one that waits for the medium


def test_dma_abort() -> None:
    with Machine() as m:
        m.model.add_fault(Fault.parse(["dma-abort"]))
        bm, status, _ = m.dma(0xC8, 0, 1)
        assert (bm, status) == (2, 0x58) and m.level == 0
        srst(m)
        assert m.dma(0xC8, 0, 1)[:2] == (4, 0x50)


def test_write_fault() -> None:
    with Machine() as m:
        m.put(DATA, b"f" * 512)
        m.model.add_fault(Fault("write-fault", count=2))
        assert m.dma(0xCA, 3, 1, write=True)[1:] == (0x71, 4)
        m.taskfile(0x30, 3, 1)
        m.pio_out(b"f" * 512)
        assert m.status() == 0x71
        assert m.dma(0xC8, 3, 1)[1] == 0x50 and m.get(DATA, 512) == bytes(512)


def test_faults_of_one_drive() -> None:
    with Machine(DriveSpec(ram=MIB), DriveSpec(ram=MIB)) as m:
        m.model.add_fault(Fault("bad-sector", lba=0, drive=1))
        assert m.dma(0xC8, 0, 1)[1] == 0x50
        assert m.dma(0xC8, 0, 1, dev=1)[1] == 0x51
        with pytest.raises(NoSuchDeviceError):
            m.model.add_fault(Fault("unplug", drive=2))


def test_list_and_clear() -> None:
    with Machine() as m:
        a = m.model.add_fault(Fault("crc", above=2))
        b = m.model.add_fault(Fault("slow", mbps=5.5, seek_ms=1.5, drive=0))
        assert m.model.faults() == [
            Fault("crc", above=2, id=a),
            Fault("slow", mbps=5.5, seek_ms=1.5, drive=0, id=b),
        ]
        assert m.model.clear_fault(a) == 1
        with pytest.raises(UsageError, match=str(a)):
            m.model.clear_fault(a)
        assert m.model.clear_fault() == 1
        for _ in range(64):
            m.model.add_fault(Fault("crc"))
        with pytest.raises(UsageError, match="too many"):
            m.model.add_fault(Fault("crc"))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "no fault"),
        (["fire"], "fire"),
        (["bad-sector"], "lba"),
        (["bad-sector", "lba=x"], "lba=x"),
        (["bad-sector", "lba=-1"], "lba"),
        (["bad-sector", "lba=1", "mbps=3"], "mbps"),
        (["crc", "above=9"], "above"),
        (["hang", "drive=4"], "drive"),
        (["hang", "on=never"], "never"),
        (["slow"], "mbps"),
        (["slow", "mbps=nan"], "mbps"),
        (["hang", "opcode=256"], "opcode"),
        (["hang", "count"], "count"),
    ],
)
def test_bad_words(words: list[str], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        Fault.parse(words)


def test_words() -> None:
    fault = Fault.parse(["bad-sector", "lba=0x64", "sectors=8", "on=read", "drive=1", "count=2"])
    assert fault == Fault("bad-sector", lba=100, sectors=8, on="read", drive=1, count=2)
    assert Fault.from_json(fault.to_json()) == fault
    assert Fault.parse(["slow", "seek-ms=1.5"]) == Fault("slow", seek_ms=1.5)


def test_every_kind_of_the_enum_has_its_words() -> None:
    less = {name: kind for name, kind in Fault.KINDS.items() if name != "write-fault"}
    for table, odd in ((less, "write-fault"), ({**Fault.KINDS, "gremlin": Kind()}, "gremlin")):
        with pytest.raises(TypeError, match=odd):
            type("Other", (ModelFault,), {"KINDS": table}, chip="cmd680")
