# SPDX-License-Identifier: MIT
"""The register traces of single commands: the worked examples of docs/hardware/cmd680.md section 14."""

import errno
import struct
import threading
from collections.abc import Iterator
from typing import Any

import pytest

from tests.unit.drivers.ide_cmd680.scripted_device import ScriptedDevice, ffi, lib, limits
from tests.waiting import PATIENCE

SECTORS = 1 << 40
BM_CMD, BM_STATUS, BM_PRD = 0x00, 0x02, 0x04
FEATURES, NSECT, LBAL, LBAM, LBAH, DEVICE, COMMAND, ALT = (
    0x81,
    0x82,
    0x83,
    0x84,
    0x85,
    0x86,
    0x87,
    0x8A,
)


class Rig:
    """A data path over a scripted device whose channel 0 completes a command when it is started."""

    def __init__(self) -> None:
        self.device = ScriptedDevice()
        self.device.script[ALT] = [0x50]
        self.device.script[COMMAND] = [0x50]
        self.device.on_write = self.react
        out = ffi.new("struct ide **")
        assert lib.ide_create(self.device.dev, 1, out) == 0
        self.ide = out[0]
        self.configure()
        self.front = lib.ide_front(self.ide)
        lib.block_set_limits(self.front, limits())
        assert lib.block_start(self.front) == 0
        self.device.trace.clear()

    def configure(self, **changes: Any) -> None:
        conf = {
            "sectors": SECTORS, "physical_block": 512, "lba48": 1, "fua": 1, "trim": 1, "flush": 1,
            "dma": 1,
        }  # fmt: skip
        assert (
            lib.ide_configure(self.ide, 0, ffi.new("struct ide_drive_conf *", conf | changes)) == 0
        )

    def react(self, offset: int, value: int) -> None:
        started = offset == BM_CMD and value & 1
        flushed = offset == COMMAND and value in (lib.ATA_FLUSH_CACHE, lib.ATA_FLUSH_CACHE_EXT)
        if started or flushed:
            self.device.script[BM_STATUS] = [0x04]
            self.device.interrupt()
        if offset == BM_STATUS and value & 4:
            self.device.script[BM_STATUS] = [0x00]

    def submit(self, op: int, sector: int, sectors: int, flags: int = 0, buf: Any = None) -> int:
        self.device.unmasked.clear()
        data = buf if buf is not None else ffi.new("char[]", max(sectors * 512, 1))
        size = 0 if op == lib.USRDRV_BLOCK_FLUSH else sectors * 512
        result = lib.usrdrv_block_submit(
            lib.block_top_end(self.front, 0), op, sector * 512, size, data, flags
        )
        assert self.device.unmasked.wait(PATIENCE)
        return int(result)

    def prds(self) -> list[tuple[int, int]]:
        table = next(memory for memory in self.device.memory.values() if len(memory) == 4096)
        entries = list(struct.iter_unpack("<II", bytes(ffi.buffer(table))))
        last = next(i for i, (_, count) in enumerate(entries) if count & 0x80000000)
        return entries[: last + 1]

    def close(self) -> None:
        lib.block_stop(self.front)
        lib.ide_destroy(self.ide)


@pytest.fixture
def rig() -> Iterator[Rig]:
    rig = Rig()
    yield rig
    rig.close()


def test_read_dma_lba28(rig: Rig) -> None:
    """Section 14.2, less what needs no repetition: 2 register reads after the drive is selected."""
    rig.submit(lib.USRDRV_BLOCK_READ, 0, 8)
    rig.device.trace.clear()
    assert rig.submit(lib.USRDRV_BLOCK_READ, 0x0123456, 8) == 0
    prd_at = next(bus for bus, memory in rig.device.memory.items() if len(memory) == 4096)
    assert rig.device.trace == [
        (NSECT, 1, 0x08), (LBAL, 1, 0x56), (LBAM, 1, 0x34), (LBAH, 1, 0x12),
        (BM_PRD, 4, prd_at), (COMMAND, 1, 0xC8), (BM_CMD, 1, 0x09),
        (BM_STATUS,), (BM_CMD, 1, 0x08), (COMMAND,), (BM_STATUS, 1, 0x04),
    ]  # fmt: skip
    assert [count for _, count in rig.prds()] == [0x80001000]


def test_the_first_command_selects_the_drive(rig: Rig) -> None:
    assert rig.submit(lib.USRDRV_BLOCK_READ, 0x0ABCDEF0, 1) == 0
    assert rig.device.trace[:2] == [(DEVICE, 1, 0xE0 | 0x0A), (ALT,)]


def test_write_dma_ext_one_mebibyte(rig: Rig) -> None:
    """Section 14.3: HOB bytes first, 16 pieces of 64 KiB, of which only the last has EOT."""
    rig.submit(lib.USRDRV_BLOCK_READ, 0, 1)
    rig.device.trace.clear()
    assert rig.submit(lib.USRDRV_BLOCK_WRITE, 0x0001_2345_6789, 2048) == 0
    writes = [w for w in rig.device.writes() if w[0] in range(FEATURES, COMMAND + 1)]
    assert writes == [
        (FEATURES, 1, 0x00),
        (NSECT, 1, 0x08), (LBAL, 1, 0x23), (LBAM, 1, 0x01), (LBAH, 1, 0x00),
        (NSECT, 1, 0x00), (LBAL, 1, 0x89), (LBAM, 1, 0x67), (LBAH, 1, 0x45),
        (COMMAND, 1, 0x35),
    ]  # fmt: skip
    assert [count for _, count in rig.prds()] == [0] * 15 + [0x80000000]
    assert all(bus % 65536 == 0 for bus, _ in rig.prds())


def test_an_interrupt_of_no_command_ends_with_the_status_read(rig: Rig) -> None:
    """Section 5: INTA# follows INTRQ. The latch alone does not say whose it was."""
    rig.device.unmasked.clear()
    rig.device.interrupt()
    assert rig.device.unmasked.wait(20)
    assert rig.device.trace == [(BM_STATUS,), (COMMAND,), (BM_STATUS + 8,), (COMMAND + 0x40,)]


@pytest.mark.parametrize(
    ("sector", "sectors", "opcode"),
    [
        (0, 256, 0xC8),
        (0x0FFFFFFF - 8, 8, 0xC8),
        (0x0FFFFFFF - 7, 8, 0x25),
        (0, 257, 0x25),
        (1 << 28, 1, 0x25),
    ],
)
def test_lba28_or_lba48(rig: Rig, sector: int, sectors: int, opcode: int) -> None:
    assert rig.submit(lib.USRDRV_BLOCK_READ, sector, sectors) == 0
    assert (COMMAND, 1, opcode) in rig.device.writes()


def test_256_sectors_are_count_0_in_lba28(rig: Rig) -> None:
    assert rig.submit(lib.USRDRV_BLOCK_READ, 0, 256) == 0
    assert (NSECT, 1, 0) in rig.device.writes()


def test_fua_is_a_command_where_the_drive_has_it(rig: Rig) -> None:
    assert rig.submit(lib.USRDRV_BLOCK_WRITE, 0, 8, lib.USRDRV_BLOCK_FUA) == 0
    assert (COMMAND, 1, lib.ATA_WRITE_DMA_FUA_EXT) in rig.device.writes()


def test_fua_is_write_and_flush_else() -> None:
    rig = Rig()
    rig.configure(fua=0)
    assert rig.submit(lib.USRDRV_BLOCK_WRITE, 0, 8, lib.USRDRV_BLOCK_FUA) == 0
    commands = [w[2] for w in rig.device.writes() if w[0] == COMMAND]
    rig.close()
    assert commands == [lib.ATA_WRITE_DMA, lib.ATA_FLUSH_CACHE_EXT]


def test_flush_is_28_bit_on_a_small_drive() -> None:
    rig = Rig()
    rig.configure(lba48=0, fua=0, trim=0)
    assert rig.submit(lib.USRDRV_BLOCK_FLUSH, 0, 0) == 0
    assert (COMMAND, 1, lib.ATA_FLUSH_CACHE) in rig.device.writes()
    rig.close()


def test_trim_sends_ranges(rig: Rig) -> None:
    assert rig.submit(lib.USRDRV_BLOCK_TRIM, 0x12345, 70000) == 0
    assert (COMMAND, 1, lib.ATA_DATA_SET_MANAGEMENT) in rig.device.writes()
    [(bus, count)] = rig.prds()
    assert count == 0x80000200
    base, memory = next((b, m) for b, m in rig.device.memory.items() if b <= bus < b + len(m))
    ranges = struct.unpack_from("<3Q", bytes(ffi.buffer(memory)), bus - base)
    assert ranges == (0x12345 | 65535 << 48, 0x12345 + 65535 | 4465 << 48, 0)


def test_adjacent_requests_become_one_command() -> None:
    """While one command runs, neighbours gather; then they go together, in the order of their sectors."""
    rig = Rig()
    release = threading.Event()
    plain = rig.react
    rig.device.on_write = lambda offset, value: plain(offset, value) if release.is_set() else None
    block = lib.block_top_end(rig.front, 0)
    buffers = [ffi.new("char[]", 4096) for _ in range(5)]
    results: list[int] = []
    waiting = threading.Semaphore(0)
    leave = ffi.callback("void(struct usrdrv_gate *)", lambda gate: waiting.release())

    def submit(index: int, sector: int) -> None:
        gate = ffi.new("struct usrdrv_gate *", {"leave": leave})
        write = lib.USRDRV_BLOCK_WRITE
        results.append(
            block.ops.submit_wait(block, write, sector * 512, 4096, buffers[index], 0, gate)
        )

    threads = []
    for index, sector in enumerate((100000, 1016, 1008, 1000, 1024)):
        threads.append(threading.Thread(target=submit, args=(index, sector)))
        threads[-1].start()
        assert waiting.acquire(timeout=PATIENCE), "it is at the chip, or in the queue"
    release.set()
    rig.react(BM_CMD, 1)
    for thread in threads:
        thread.join(PATIENCE)
    assert results == [0] * 5
    commands = [w[2] for w in rig.device.writes() if w[0] == COMMAND]
    counters = ffi.new("struct block_counters *")
    lib.block_get_counters(rig.front, 0, counters)
    assert commands == [lib.ATA_WRITE_DMA] * counters.commands
    assert (counters.commands, counters.writes, counters.merged) == (2, 5, 3)
    assert len(rig.prds()) == 4
    rig.close()


@pytest.mark.parametrize(
    ("op", "offset", "size", "error"),
    [
        (lib.USRDRV_BLOCK_READ, 100, 512, "EINVAL"),
        (lib.USRDRV_BLOCK_READ, 0, 100, "EINVAL"),
        (lib.USRDRV_BLOCK_READ, SECTORS * 512 - 512, 1024, "EINVAL"),
        (lib.USRDRV_BLOCK_WRITE, SECTORS * 512, 512, "EINVAL"),
        (lib.USRDRV_BLOCK_READ, 2**64 - 512, 1024, "EINVAL"),
    ],
)
def test_bad_ranges_never_reach_the_drive(
    rig: Rig, op: int, offset: int, size: int, error: str
) -> None:
    buf = ffi.new("char[]", 2048)
    assert lib.usrdrv_block_submit(
        lib.block_top_end(rig.front, 0), op, offset, size, buf, 0
    ) == -getattr(errno, error)
    assert rig.device.trace == []


def test_read_only_refuses_writes() -> None:
    rig = Rig()
    rig.configure(read_only=1)
    block = lib.block_top_end(rig.front, 0)
    buf = ffi.new("char[]", 512)
    assert lib.usrdrv_block_submit(block, lib.USRDRV_BLOCK_WRITE, 0, 512, buf, 0) == -errno.EROFS
    assert (
        lib.usrdrv_block_submit(block, lib.USRDRV_BLOCK_TRIM, 0, 512, ffi.NULL, 0) == -errno.EROFS
    )
    assert rig.device.trace == []
    rig.close()


@pytest.mark.parametrize("error", [errno.ENODEV, errno.EINVAL])
def test_an_access_that_fails_says_whether_the_device_is_gone(rig: Rig, error: int) -> None:
    """One that was refused is our own fault, and says nothing about the device."""
    rig.device.error, rig.device.on_write = error, lambda offset, value: None
    buf = ffi.new("char[]", 512)
    block = lib.block_top_end(rig.front, 0)
    read = lib.usrdrv_block_submit(block, lib.USRDRV_BLOCK_READ, 0, 512, buf, 0)
    assert read == -errno.ENODEV, "there is no way on in either case"
    event = ffi.new("struct block_event *")
    assert lib.block_wait_event(rig.front, ffi.new("unsigned int *"), event) == 0
    assert (event.kind, event.error) == (lib.BLOCK_EVENT_GONE, error)
