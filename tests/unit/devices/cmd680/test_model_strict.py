# SPDX-License-Identifier: MIT
"""CMD680 model, strict: what a card would not do is refused, counted, and told once for each rule."""

from collections.abc import Iterator

import pytest

from tests.unit.devices.cmd680.model_host import DATA, Machine
from usrdrv.devices.cmd680.model import DriveSpec

UDMA5_HOST, UDMA6_HOST, PIO_HOST = (0x02, 3), (0x01, 3), (0x02, 1)
ACROSS = [(DATA + 0xFE00, 1024)]


@pytest.fixture
def m() -> Iterator[Machine]:
    with Machine(DriveSpec(ram=1 << 20), strict=True) as machine:
        machine.udma(5)
        yield machine


def refused(m: Machine) -> tuple[int, int, int]:
    """Timings, accesses, PRD entries."""
    counters = m.model.counters()
    return (counters["refused_timings"], counters["refused_accesses"], counters["refused_prds"])


def host(m: Machine, field: int, protocol: int) -> None:
    m.w(0xAC, field, 2)
    m.w(0xB4, protocol)


def test_a_driver_that_keeps_the_rules_notices_nothing(m: Machine) -> None:
    m.put(DATA, b"s" * 8192)
    assert m.dma(0xCA, 5, 16, write=True)[:2] == (4, 0x50)
    m.put(DATA, bytes(8192))
    assert m.dma(0xC8, 5, 16)[:2] == (4, 0x50)
    assert m.get(DATA, 8192) == b"s" * 8192
    assert m.identify()[88] == 0x207F
    assert refused(m) == (0, 0, 0)


@pytest.mark.parametrize(("field", "protocol"), [UDMA6_HOST, PIO_HOST], ids=["faster", "pio"])
def test_dma_in_another_mode_than_the_drive_s(m: Machine, field: int, protocol: int) -> None:
    """Section 4.5."""
    m.put(DATA, b"s" * 512)
    host(m, field, protocol)
    assert m.dma(0xCA, 5, 1, write=True)[1:] == (0x51, 4)
    m.put(DATA, (5 | 1 << 48).to_bytes(8, "little") + bytes(504))
    assert m.dma(0x06, 0, 1, write=True, ext=True, feature=1)[1:] == (0x51, 4), "TRIM, too"
    assert refused(m) == (2, 0, 0)
    host(m, *UDMA5_HOST)
    assert m.dma(0xC8, 5, 1)[:2] == (4, 0x50)
    assert m.get(DATA, 512) == bytes(512), "nothing was written"


def test_pio_faster_than_the_drive(m: Machine) -> None:
    """Section 4.5: 240 ns until SET FEATURES says else; then what it says."""
    m.w(0xA4, 0x10C1, 2)
    m.command(0xEF, count=0x0B, feature=3)
    m.taskfile(0xEC)
    m.pio_in(512)
    assert m.status() == 0x51 and m.error() == 4 and refused(m) == (1, 0, 0)
    m.w(0xA4, 0x10C3, 2)
    assert m.identify()[0] == 0x0040
    m.command(0xEF, count=0x0C, feature=3)
    m.w(0xA4, 0x10C1, 2)
    assert m.identify()[0] == 0x0040
    m.w(0xA0, 4)
    m.w(0xA0, 0)
    m.taskfile(0x30, 0, 1)
    m.pio_out(b"w" * 512)
    assert m.status() == 0x51, "a hard reset takes its mode away"
    m.w(0xA4, 0x1104, 2)
    m.taskfile(0x20, 0, 1)
    assert m.pio_in(512) == bytes(512)


def test_the_task_file_while_the_engine_runs(m: Machine) -> None:
    """Section 4.2."""
    m.taskfile(0xE5)
    m.w(0x82, 0x33)
    m.w(0, 9)
    assert m.status() == m.alt() == m.r(0x82) == 0x7F
    assert m.r(0x80, 2) == 0xFFFF
    m.w(0x82, 0x55)
    m.w(0x8A, 4)
    m.w(0x80, 0, 2)
    assert refused(m) == (0, 7, 0)
    assert m.level == 1, "nobody has read the status"
    m.w(0, 8)
    assert (m.alt(), m.r(0x82), m.status()) == (0x50, 0x33, 0x50)


def test_a_prd_entry_across_64_kib(m: Machine) -> None:
    """Section 6.1."""
    m.put(ACROSS[0][0], b"s" * 1024)
    bm, status, _ = m.dma(0xCA, 0, 2, ACROSS, write=True)
    assert (bm, status) == (2, 0x58), "as a master abort: the drive waits"
    assert refused(m) == (0, 0, 1) and m.model.counters()["master_aborts"] == 1
    m.w(0x8A, 4)
    m.w(0x8A, 0)
    assert m.dma(0xC8, 0, 2, [(DATA + 0xFE00, 512), (DATA + 0x10000, 512)])[:2] == (4, 0x50)


def test_without_it_everything_goes() -> None:
    """The leniency that EDK2 needs; what it does is counted."""
    with Machine(DriveSpec(ram=1 << 20)) as m:
        m.udma(5)
        host(m, *PIO_HOST)
        assert m.dma(0xC8, 0, 2, ACROSS)[:2] == (4, 0x50)
        m.w(0, 9)
        assert m.status() == 0x50
        counters = m.model.counters()
        assert refused(m) == (0, 0, 0)
        assert counters["drives"][0]["mode_mismatch"] == 1 and counters["tf_while_dma"] > 0
        assert counters["unexpected"] == 1


def test_each_rule_is_told_once(m: Machine, capfd: pytest.CaptureFixture[str]) -> None:
    for _ in range(3):
        m.dma(0xC8, 0, 2, ACROSS)
        m.w(0x8A, 4)
        m.w(0x8A, 0)
    m.w(0, 9)
    m.status()
    m.w(0, 0)
    told = capfd.readouterr().err.splitlines()
    assert told == [
        "cmd680 model: strict: channel 0: PRD entry crosses 64 KiB (section 6.1): master abort",
        "cmd680 model: strict: channel 0: task file accessed while the engine runs (section 4.2): "
        "access ignored",
    ]
    m.close()
    assert capfd.readouterr().err.splitlines() == [
        "cmd680 model: strict: 3 times in all: PRD entry crosses 64 KiB (section 6.1)"
    ]
