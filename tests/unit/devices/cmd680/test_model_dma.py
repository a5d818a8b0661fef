# SPDX-License-Identifier: MIT
"""CMD680 model: bus master and interrupts (hardware document, sections 5, 6, 12 and 14)."""

import os
from pathlib import Path

import pytest

from tests.unit.devices.cmd680.model_host import DATA, MEM_BASE, MEM_SIZE, PRD, Machine
from usrdrv.devices.cmd680.model import DriveSpec

RAM = DriveSpec(ram=1 << 30)


@pytest.fixture(params=["ram", "file"])
def spec(request: pytest.FixtureRequest, tmp_path: Path) -> DriveSpec:
    if request.param == "ram":
        return RAM
    image = tmp_path / "disk.img"
    with image.open("wb") as f:
        f.truncate(1 << 30)
    return DriveSpec(image=image)


def test_worked_example_read(spec: DriveSpec) -> None:
    """Section 14.2, through the I/O windows."""
    data = os.urandom(4096)
    with Machine(spec) as m:
        lba = 0x123456
        m.put(DATA, data)
        assert m.dma(0xCA, lba, 8, write=True)[:2] == (4, 0x50)
        m.put(0x1F002000, bytes.fromhex("00 30 00 1f 00 10 00 80"))
        m.w(6, 0xA0, 1, 0)
        assert m.r(2, 1, 1) == 0x50
        for reg, value in ((1, 0), (2, 8), (3, 0x56), (4, 0x34), (5, 0x12), (6, 0xE0)):
            m.w(reg, value, 1, 0)
        m.w(4, 0x1F002000, 4, 4)
        m.w(0, 0x08, 1, 4)
        m.w(7, 0xC8, 1, 0)
        assert m.r(0, 1, 4) == 0x08
        assert m.level == 0 and m.get(0x1F003000, 4096) == bytes(4096), "data waits for start"
        m.w(0, 0x09, 1, 4)
        assert m.level == 1
        assert m.r(2, 1, 4) == 0x04
        m.w(0, 0x08, 1, 4)
        assert m.r(2, 1, 1) == 0x50 and m.cfg(0xA1) & 8
        assert m.r(7, 1, 0) == 0x50 and not m.cfg(0xA1) & 8
        assert m.level == 0 and m.r(2, 1, 4) == 0x04, "the line is down, the latch remembers"
        m.w(2, 0x04, 1, 4)
        assert m.level == 0 and m.r(2, 1, 4) == 0
        assert m.get(0x1F003000, 4096) == data


def test_worked_example_write_ext(tmp_path: Path) -> None:
    """Section 14.3: LBA 0x000123456789, 1 MiB in 16 pieces whose count is 0."""
    image = tmp_path / "big.img"
    with image.open("wb") as f:
        f.truncate(0x123456789 * 512 + (2 << 20))
    data = os.urandom(1 << 20)
    with Machine(DriveSpec(image=image)) as m:
        m.put(DATA, data)
        entries = [(DATA + i * 65536, 65536) for i in range(16)]
        m.prd(*entries)
        assert m.get(PRD, 8)[4:] == bytes(4) and m.get(PRD + 120, 8)[4:] == b"\0\0\0\x80"
        bm, status, _ = m.dma(0x35, 0x123456789, 2048, entries, write=True, ext=True)
        assert (bm, status) == (4, 0x50)
    with image.open("rb") as f:
        f.seek(0x123456789 * 512)
        assert f.read(1 << 20) == data


def test_pieces_of_all_shapes(spec: DriveSpec) -> None:
    data = os.urandom(64 * 512)
    with Machine(spec, split=4096) as m:
        m.put(DATA, data)
        sizes = [2, 510, 4094, 3, 16384]  # 3: bit 0 is ignored, it moves 2
        entries, at = [], DATA
        for size in sizes:
            entries.append((at | 1, size))
            at += size & ~1
        entries.append((at, DATA + len(data) - at))
        assert m.dma(0x35, 77, 64, entries, write=True, ext=True)[:2] == (4, 0x50)
        m.put(DATA, bytes(len(data)))
        assert m.dma(0x25, 77, 64, ext=True)[:2] == (4, 0x50)
        assert m.get(DATA, len(data)) == data


def test_many_pieces(spec: DriveSpec) -> None:
    data = os.urandom(128 * 512)
    with Machine(spec, split=4096) as m:
        m.put(DATA, data)
        order = [(i * 37) % 256 for i in range(256)]
        entries = [(DATA + k * 256, 256) for k in order]
        assert m.dma(0xCA, 0, 128, entries, write=True)[:2] == (4, 0x50)
        assert m.model.counters()["prds"] == 256
        m.put(DATA, bytes(len(data)))
        m.dma(0xC8, 0, 128)
        assert m.get(DATA, len(data)) == b"".join(data[k * 256 : k * 256 + 256] for k in order)


def test_list_longer_than_transfer() -> None:
    with Machine(RAM) as m:
        bm, status, _ = m.dma(0xC8, 0, 1, [(DATA, 1024)])
        assert (bm, status) == (5, 0x50)


def test_list_too_short_keeps_drq(spec: DriveSpec) -> None:
    with Machine(spec) as m:
        bm, status, _ = m.dma(0xC8, 0, 2, [(DATA, 512)])
        assert (bm, status) == (0, 0x58)
        m.w(0x8A, 4)
        assert m.alt() == 0x80
        m.w(0x8A, 0)
        assert m.alt() == 0x50


def test_a_second_list_goes_on(spec: DriveSpec) -> None:
    with Machine(spec) as m:
        data = os.urandom(1024)
        m.put(DATA, data)
        m.dma(0xCA, 9, 2, write=True)
        m.put(DATA, bytes(1024))
        m.dma(0xC8, 9, 2, [(DATA, 700)])
        m.prd((DATA + 700, 324))
        m.w(0, 9)
        assert m.r(2) == 4 and m.get(DATA, 1024) == data


def test_no_eot_is_bounded() -> None:
    with Machine(RAM) as m:
        m.put(PRD, bytes.fromhex("00 00 10 1f 02 00 00 00") * 8192)
        m.w(4, PRD, 4)
        m.taskfile(0x25, 0, 0, ext=True)
        m.w(0, 9)
        assert m.r(2) & 5 == 0 and m.alt() == 0x58
        assert m.model.counters()["prds"] == 8192


@pytest.mark.parametrize("where", ["table", "data", "half"])
def test_master_abort(spec: DriveSpec, where: str) -> None:
    end = MEM_BASE + MEM_SIZE
    with Machine(spec) as m:
        m.prd((end - 512 if where == "half" else 0x100000, 1024))
        m.w(4, 0x80000000 if where == "table" else PRD, 4)
        m.taskfile(0xC8, 0, 2)
        m.w(0, 9)
        assert m.r(2) == 2, "error, not active, no interrupt"
        assert m.level == 0 and m.alt() == 0x58
        assert m.cfg(6, 2) & 0x2000
        m.cfg_w(6, 0x2000, 2)
        assert not m.cfg(6, 2) & 0x2000
        m.w(2, 2)
        assert m.r(2) == 0


def test_no_bus_mastering_no_dma() -> None:
    with Machine(RAM, enable=3) as m:
        assert m.dma(0xC8, 0, 1)[0] == 2
        assert m.model.counters()["prds"] == 0


def test_wrong_direction_moves_nothing() -> None:
    with Machine(RAM) as m:
        m.put(DATA, b"x" * 512)
        bm, status, _ = m.dma(0xC8, 0, 1, write=True)
        assert (bm, status) == (1, 0x58) and m.get(DATA, 512) == b"x" * 512


def test_start_is_an_edge() -> None:
    with Machine(RAM) as m:
        m.prd((DATA, 512))
        m.w(4, PRD, 4)
        m.w(0, 9)
        assert m.r(2) == 1 and m.r(0) == 9, "start waits for a command"
        m.w(0, 9)
        m.taskfile(0xC8, 0, 1)
        assert m.r(2) == 4
        m.w(2, 4)
        m.w(0, 9)
        assert m.r(2) == 0, "no second start"
        m.w(0, 8)
        m.w(0, 9)
        assert m.r(2) == 1, "a new start reads the address again"
        assert m.r(0x20, 4) == PRD
        m.w(0, 0)
        assert m.r(2) == 0, "clearing start clears active"


def test_status_byte() -> None:
    with Machine(RAM) as m:
        m.w(2, 0xFF)
        assert m.r(2) == 0x60
        m.command(0xE7)
        m.taskfile(0xE5)
        assert m.r(2) == 4, "writing 06 has cleared bits 5 and 6"
        m.w(2, 0x60)
        assert m.r(2) == 0x64
        m.w(2, 0x64)
        assert m.r(2) == 0x60
        m.w(0, 0xFF)
        assert m.r(0) == 9
        m.w(1, 0xFF)
        assert m.r(1) == 0x3F and m.r(3) == 0
        m.w(4, 0xFFFFFFFF, 4)
        assert m.r(4, 4) == 0xFFFFFFFC


def test_second_door() -> None:
    """Section 4.3: BM2 shows the other channel too."""
    with Machine(RAM, None, RAM) as m:
        m.taskfile(0xE5, ch=1)
        assert m.r(0x10, 4) == 0x04000000
        assert m.r(0x18, 4) == 0x00040000
        m.w(0x14, PRD, 4)
        assert m.r(4, 4) == PRD


def test_nien_and_no_late_interrupt() -> None:
    with Machine(RAM) as m:
        m.w(0x8A, 2)
        m.taskfile(0xB1)
        assert m.alt() == 0x51 and m.level == 0 and m.r(2) == 0
        m.status()
        m.w(0x8A, 0)
        assert m.level == 0, "the status read has cleared it"
        m.w(0x8A, 2)
        m.taskfile(0xE5)
        m.w(0x8A, 0)
        assert m.level == 1


@pytest.mark.parametrize("op", [0xE1, 0xC6, 0xE7], ids=["idle", "set-multiple", "flush"])
def test_inta_follows_the_live_line(op: int) -> None:
    """Section 5. siimage (Linux 2.4 to 5.13) and FreeBSD write bus-master status after DMA only: it has no part."""
    with Machine(RAM) as m:
        m.taskfile(op, count=8)
        m.wait()
        assert (m.level, m.cfg(0xA1) & 8, m.r(2)) == (1, 8, 4)
        m.w(2, 4)
        assert (m.level, m.cfg(0xA1) & 8, m.r(2)) == (1, 8, 0), "the latch does not take it back"
        assert m.status() & 0x40
        assert (m.level, m.cfg(0xA1) & 8) == (0, 0)
        m.taskfile(op, count=8)
        m.wait()
        m.status()
        assert (m.level, m.r(2)) == (0, 4), "nor does a set latch hold it"
        m.taskfile(op, count=8)
        m.wait()
        assert m.level == 1


def test_interrupt_block() -> None:
    with Machine(RAM, None, RAM) as m:
        m.w(0x4A, 0x40)
        m.taskfile(0xE5)
        assert m.level == 0 and m.r(2) == 4
        m.taskfile(0xE5, ch=1)
        assert m.level == 1
        m.w(0x4A, 0x80)
        assert m.level == 1
        m.w(0x4A, 0xC0)
        assert m.level == 0
        m.w(0x4A, 0)
        assert m.level == 1


def test_both_channels_and_devices_are_apart() -> None:
    drives = [DriveSpec(ram=1 << 20, serial=f"S{i}") for i in range(4)]
    with Machine(*drives) as m:
        for i in range(4):
            m.put(DATA, bytes([i + 1]) * 512)
            m.dma(0xCA, 3, 1, write=True, ch=i // 2, dev=i % 2)
        for i in range(4):
            assert m.dma(0xC8, 3, 1, ch=i // 2, dev=i % 2)[:2] == (4, 0x50)
            assert m.get(DATA, 512) == bytes([i + 1]) * 512
            assert m.identify(i % 2, i // 2)[10] == ord("S") << 8 | ord(str(i))


def test_fifo_and_pbm_reset_hold_the_engine() -> None:
    with Machine(RAM) as m:
        m.w(0x48, 0x20)
        m.w(0, 9)
        assert m.r(0) == 0 and m.r(2) == 0
        m.w(0x48, 0)
        m.w(0, 9)
        assert m.r(2) == 1
