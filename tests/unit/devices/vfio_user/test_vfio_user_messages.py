# SPDX-License-Identifier: MIT
"""The vfio-user server, message by message: what is right, and what a hostile peer may try."""

import errno
import mmap
import os
import select
import struct
import sys
from pathlib import Path

import pytest

from tests.unit.devices.vfio_user.vfio_user_peer import (
    ARENA,
    CONFIG,
    DMA_MAP,
    DMA_READ,
    DMA_UNMAP,
    GET_INFO,
    IO_FDS,
    IRQ_INFO,
    NO_REPLY,
    READ,
    REGION_INFO,
    RESET,
    SET_IRQS,
    VERSION,
    WRITE,
    WRITE_MULTI,
    Peer,
    memory,
    receive_exactly,
    serving,
)
from tests.waiting import PATIENCE


def test_information(peer: Peer) -> None:
    code, payload = peer.ask(GET_INFO, struct.pack("<IIII", 16, 0, 0, 0))
    assert (code, struct.unpack("<IIII", payload)) == (0, (16, 3, 9, 5))
    sizes = []
    for index in range(9):
        code, payload = peer.ask(REGION_INFO, struct.pack("<IIIIQQ", 32, 0, index, 0, 0, 0))
        _, flags, number, _, size, _ = struct.unpack("<IIIIQQ", payload)
        assert (code, number, flags) == (0, index, 3 if size else 0)
        sizes.append(size)
    assert sizes == [8, 4, 8, 4, 16, 256, 0, 256, 0]
    for index in range(5):
        code, payload = peer.ask(IRQ_INFO, struct.pack("<IIII", 16, 0, index, 0))
        assert struct.unpack("<IIII", payload)[1:] == (0 if index else 7, index, 0 if index else 1)


def test_accesses_of_every_width_and_posted_writes(peer: Peer) -> None:
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    peer.write(5, 0x4C, b"\x11\x22\x33\x44", NO_REPLY)
    peer.write(5, 0x4D, b"\x99", NO_REPLY)
    assert peer.read(5, 0x4C, 4) == (0, b"\x11\x99\x33\x44")
    assert peer.read(5, 0x4D, 3) == (0, b"\x99\x33\x44")
    code, whole = peer.read(CONFIG, 0, 256)
    assert (code, len(whole), whole[:4]) == (0, 256, b"\x95\x10\x80\x06")


def test_several_writes_in_one_message(peer: Peer) -> None:
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    one = struct.pack("<QII8s", 0x4C, 5, 2, b"\x01\x02")
    two = struct.pack("<QII8s", 0x4E, 5, 2, b"\x03\x04")
    assert peer.ask(WRITE_MULTI, struct.pack("<Q", 2) + one + two)[0] == 0
    assert peer.read(5, 0x4C, 4) == (0, b"\x01\x02\x03\x04")


BAD = [
    ("no such command", 99, b"", errno.EOPNOTSUPP),
    ("region file descriptors", IO_FDS, bytes(32), errno.EOPNOTSUPP),
    ("asks the server to ask", DMA_READ, bytes(16), errno.EOPNOTSUPP),
    ("second greeting", VERSION, struct.pack("<HH", 0, 0), errno.EINVAL),
    ("read beyond the end", READ, struct.pack("<QII", 254, 7, 4), errno.EINVAL),
    ("read far beyond the end", READ, struct.pack("<QII", 2**64 - 2, 7, 4), errno.EINVAL),
    ("read of nothing", READ, struct.pack("<QII", 0, 7, 0), errno.EINVAL),
    ("read of too much", READ, struct.pack("<QII", 0, 7, 2**32 - 1), errno.EINVAL),
    ("read of no region", READ, struct.pack("<QII", 0, 6, 4), errno.EINVAL),
    ("read of region -1", READ, struct.pack("<QII", 0, 2**32 - 1, 4), errno.EINVAL),
    ("short read", READ, b"\0" * 8, errno.EINVAL),
    ("write with too little data", WRITE, struct.pack("<QII", 0, 7, 4) + b"\0", errno.EINVAL),
    ("write with too much data", WRITE, struct.pack("<QII", 0, 7, 1) + bytes(8), errno.EINVAL),
    ("multi with a huge count", WRITE_MULTI, struct.pack("<Q", 2**61) + bytes(24), errno.EINVAL),
    ("multi cut short", WRITE_MULTI, struct.pack("<Q", 2) + bytes(24), errno.EINVAL),
    ("multi of 9 bytes", WRITE_MULTI, struct.pack("<QQII8s", 1, 0, 7, 9, b""), errno.EINVAL),
    ("information without room", GET_INFO, struct.pack("<I", 4), errno.EINVAL),
    ("region 9", REGION_INFO, struct.pack("<IIIIQQ", 32, 0, 9, 0, 0, 0), errno.EINVAL),
    ("interrupt 5", IRQ_INFO, struct.pack("<IIII", 16, 0, 5, 0), errno.EINVAL),
    ("set MSI", SET_IRQS, struct.pack("<IIIII", 20, 0x21, 1, 0, 1), errno.EINVAL),
    ("set two", SET_IRQS, struct.pack("<IIIII", 20, 0x21, 0, 0, 2), errno.EINVAL),
    ("set wraps", SET_IRQS, struct.pack("<IIIII", 20, 0x21, 0, 2**32 - 1, 2), errno.EINVAL),
    ("set everything", SET_IRQS, struct.pack("<IIIII", 20, 0x3F, 0, 0, 1), errno.EINVAL),
    ("bool without data", SET_IRQS, struct.pack("<IIIII", 20, 0x22, 0, 0, 1), errno.EINVAL),
    ("map of nothing", DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0, 0), errno.EINVAL),
    ("map that wraps", DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 2**64 - 4096, 8192), errno.EINVAL),
    ("map with odd flags", DMA_MAP, struct.pack("<IIQQQ", 32, 255, 0, 0, 4096), errno.EINVAL),
    ("map cut short", DMA_MAP, bytes(31), errno.EINVAL),
    ("unmap that wraps", DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 2**64 - 1, 2), errno.EINVAL),
    ("unmap cut short", DMA_UNMAP, bytes(20), errno.EINVAL),
]


@pytest.mark.parametrize(
    ("command", "payload", "code"), [case[1:] for case in BAD], ids=[c[0] for c in BAD]
)
def test_a_bad_message_gets_an_error_and_no_more(
    peer: Peer, command: int, payload: bytes, code: int
) -> None:
    assert peer.ask(command, payload)[0] == code
    assert peer.alive()


def test_messages_in_pieces_and_many_in_one_piece(peer: Peer) -> None:
    one = struct.pack("<HHIIIQII", 7, READ, 32, 0, 0, 0, 7, 4)
    for byte in one:
        peer.sock.sendall(bytes([byte]))
    answer = receive_exactly(peer.sock, 36)
    assert answer[-4:] == b"\x95\x10\x80\x06"
    peer.sock.sendall(one * 50)
    assert receive_exactly(peer.sock, 36 * 50) == answer * 50


class Disk:
    """Just enough of a driver to read one sector by DMA into `address`."""

    def __init__(self, peer: Peer, table: int, arena: mmap.mmap) -> None:
        self.peer = peer
        self.table = table
        self.arena = arena
        assert peer.write(CONFIG, 4, b"\x07\x00") == 0

    def dma_in(self, address: int, size: int = 512) -> tuple[int, int]:
        """Return bus-master status and ATA status after READ DMA of `size` bytes from sector 0."""
        at = self.table - ARENA
        self.arena[at : at + 8] = struct.pack("<II", address, 0x80000000 | size)
        for offset, value in ((0x86, 0xE0), (0x82, size // 512), (0x83, 0), (0x84, 0), (0x85, 0)):
            self.peer.write(5, offset, bytes([value]), NO_REPLY)
        self.peer.write(5, 4, struct.pack("<I", self.table), NO_REPLY)
        for offset, value in ((0, 8), (0x87, 0xC8), (0, 9)):
            self.peer.write(5, offset, bytes([value]), NO_REPLY)
        status = self.peer.read(5, 2, 1)[1][0]
        self.peer.write(5, 0, b"\x08", NO_REPLY)
        result = status, self.peer.read(5, 0x87, 1)[1][0]
        self.peer.write(5, 2, b"\x06", NO_REPLY)
        return result


def test_dma_spans_mappings_and_nothing_else(peer: Peer) -> None:
    fd = memory(4 * 4096)
    arena = mmap.mmap(fd, 4 * 4096)
    # two neighbours on the bus that lie the other way round in the file
    assert peer.map(ARENA, 4096, fd) == 0
    assert peer.map(ARENA + 4096, 4096, fd, offset=3 * 4096) == 0
    assert peer.map(ARENA + 8192, 4096, fd, offset=4096) == 0
    disk = Disk(peer, ARENA, arena)
    arena[4096:] = b"\xff" * (3 * 4096)
    assert disk.dma_in(ARENA + 8192 - 256) == (4, 0x50)
    assert arena[4 * 4096 - 256 :] == bytes(256)
    assert arena[4096 : 4096 + 256] == bytes(256)
    assert arena[3 * 4096 : 4 * 4096 - 256] == b"\xff" * (4096 - 256)
    # the last bytes are beyond the last mapping: a master abort
    status, _ = disk.dma_in(ARENA + 3 * 4096 - 256)
    assert status & 2
    assert peer.ask(RESET)[0] == 0
    assert peer.alive()
    os.close(fd)


def test_unmapped_means_unreachable(peer: Peer) -> None:
    fd = memory(8192)
    arena = mmap.mmap(fd, 8192)
    assert peer.map(ARENA, 4096, fd) == 0
    assert peer.map(ARENA + 4096, 4096, fd, offset=4096) == 0
    assert peer.map(ARENA + 4096, 512, fd) == errno.EEXIST
    assert peer.map(ARENA - 4096, 8192, fd) == errno.EEXIST
    disk = Disk(peer, ARENA, arena)
    assert disk.dma_in(ARENA + 4096) == (4, 0x50)
    unmap = struct.pack("<IIQQ", 24, 0, ARENA + 4096, 4096)
    assert peer.ask(DMA_UNMAP, unmap)[0] == 0
    assert disk.dma_in(ARENA + 4096)[0] & 2
    assert peer.strays == [(ARENA + 4096, 4)], "the client's IOMMU was not asked"
    assert peer.ask(RESET)[0] == 0
    assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))[0] == 0
    assert peer.map(ARENA, 4096, fd) == 0
    os.close(fd)


def test_an_unmap_does_not_cut_a_mapping(peer: Peer) -> None:
    """Saying yes would leave memory in the device's reach that the client has given up."""
    fd = memory(3 * 4096)
    arena = mmap.mmap(fd, 3 * 4096)
    for page in range(3):
        assert peer.map(ARENA + page * 4096, 4096, fd, offset=page * 4096) == 0
    for at, size in ((ARENA, 4095), (ARENA + 1, 4095), (ARENA + 2048, 4096), (ARENA + 1, 2)):
        assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, at, size))[0] == errno.EINVAL
    disk = Disk(peer, ARENA, arena)
    assert disk.dma_in(ARENA + 4096, 8192) == (4, 0x50)
    for at, size in ((0, ARENA), (ARENA + 4096, 4096), (ARENA + 3 * 4096, 2**40)):
        assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, at, size))[0] == 0
    assert disk.dma_in(ARENA + 8192) == (4, 0x50)
    assert disk.dma_in(ARENA + 4096)[0] & 2
    assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0, 2**63))[0] == 0
    assert peer.map(ARENA, 3 * 4096, fd) == 0
    os.close(fd)


def test_the_table_of_mappings_is_bounded(peer: Peer) -> None:
    for first in range(0, 65536, 1024):
        peer.sock.sendall(
            b"".join(
                struct.pack("<HHIIIIIQQQ", 0, DMA_MAP, 48, NO_REPLY, 0, 32, 3, 0, n << 12, 4096)
                for n in range(first, first + 1024)
            )
        )
    assert peer.map(0, 4096, None) == errno.EEXIST
    assert peer.map(65535 << 12, 4096, None) == errno.EEXIST
    assert peer.map(65536 << 12, 4096, None) == errno.ENOSPC
    assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 0, 0, 2**64 - 1))[0] == 0
    assert peer.map(65536 << 12, 4096, None) == 0


def test_a_mapping_without_a_file_is_accepted_but_not_reachable(peer: Peer) -> None:
    fd = memory(4096)
    arena = mmap.mmap(fd, 4096)
    assert peer.map(ARENA, 4096, fd) == 0
    assert peer.map(0xC0000, 0x20000, None) == 0
    disk = Disk(peer, ARENA, arena)
    assert disk.dma_in(0xC0000)[0] & 2
    os.close(fd)


def test_read_only_memory_is_not_written(peer: Peer) -> None:
    fd = memory(8192)
    arena = mmap.mmap(fd, 8192)
    assert peer.map(ARENA, 4096, fd) == 0
    assert peer.map(ARENA + 4096, 4096, fd, offset=4096, flags=1) == 0
    arena[4096:] = b"\xff" * 4096
    assert Disk(peer, ARENA, arena).dma_in(ARENA + 4096)[0] & 2
    assert arena[4096:] == b"\xff" * 4096
    os.close(fd)


def test_memory_that_is_truncated_away_is_a_master_abort(peer: Peer) -> None:
    fd = memory(8192)
    arena = mmap.mmap(fd, 4096)
    assert peer.map(ARENA, 4096, fd) == 0
    other = memory(65536)
    assert peer.map(ARENA + 65536, 65536, other) == 0
    disk = Disk(peer, ARENA, arena)
    os.ftruncate(other, 0)
    assert disk.dma_in(ARENA + 65536)[0] & 2
    assert peer.ask(RESET)[0] == 0
    assert peer.alive()
    # the PRD table itself
    third = memory(4096)
    assert peer.map(ARENA + 2 * 65536, 4096, third) == 0
    os.ftruncate(third, 0)
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    peer.write(5, 4, struct.pack("<I", ARENA + 2 * 65536), NO_REPLY)
    for offset, value in ((0x86, 0xE0), (0x82, 1), (0, 8), (0x87, 0xC8), (0, 9)):
        peer.write(5, offset, bytes([value]), NO_REPLY)
    assert peer.read(5, 2, 1)[1][0] & 2
    assert peer.alive()


@pytest.mark.parametrize("size", [4096, 2**40])
def test_a_mapping_beyond_its_file_is_refused(peer: Peer, size: int) -> None:
    fd = memory(4096)
    assert peer.map(ARENA, size, fd, offset=4096) == errno.EINVAL
    assert peer.map(ARENA, 4096, fd, offset=2**63 - 1) == errno.EINVAL
    pipe = os.pipe()
    assert peer.map(ARENA, 4096, pipe[0]) == errno.EINVAL
    assert peer.alive()


def test_memory_whose_pages_somebody_may_hold_back_is_refused(peer: Peer) -> None:
    """A file of any file system but those in memory: FUSE and networks answer when they like."""
    with open(sys.executable, "rb") as program:
        assert peer.map(ARENA, 4096, program.fileno(), flags=1) == errno.EINVAL
    fd = memory(4096)
    assert peer.map(ARENA, 4096, fd) == 0
    os.close(fd)


def test_a_descriptor_belongs_to_the_message_it_came_with(tmp_path: Path) -> None:
    """A range without a file and one with, both waiting when the server reads: one read has both."""
    with serving(tmp_path / "s") as thread:
        peer = Peer(tmp_path / "s", greet=False)
        fd = memory(4096)
        arena = mmap.mmap(fd, 4096)
        peer.send(VERSION, struct.pack("<HH", 0, 0))
        peer.send(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, 0xC0000, 4096))
        peer.send(DMA_MAP, struct.pack("<IIQQQ", 32, 3, 0, ARENA, 4096), fds=(fd,))
        thread.start()
        for number in (1, 2, 3):
            peer.id = number
            assert peer.receive()[0] == 0
        disk = Disk(peer, ARENA, arena)
        arena[2048:] = b"\xff" * 2048
        assert disk.dma_in(ARENA + 2048) == (4, 0x50)
        assert arena[2048:2560] == bytes(512)
        assert disk.dma_in(0xC0000)[0] & 2
        peer.close()
        os.close(fd)


def test_an_interrupt_goes_to_an_eventfd_only(peer: Peer) -> None:
    """A write to anything else could wait for ever, like one to an eventfd that is full."""
    trigger = struct.pack("<IIIII", 20, 0x24, 0, 0, 1)
    ends = os.pipe()
    assert peer.ask(SET_IRQS, trigger, fds=(ends[1],))[0] == errno.EINVAL
    full = os.eventfd(0)
    os.eventfd_write(full, 2**64 - 2)
    assert peer.ask(SET_IRQS, trigger, fds=(full,))[0] == 0
    assert peer.ask(SET_IRQS, struct.pack("<IIIII", 20, 0x21, 0, 0, 1))[0] == 0
    assert peer.alive()
    for fd in (*ends, full):
        os.close(fd)


def test_surplus_descriptors_are_closed(peer: Peer) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    ends = os.pipe()
    for _ in range(20):
        code, _ = peer.ask(READ, struct.pack("<QII", 0, 7, 4), fds=tuple([ends[1]] * 8))
        assert code == 0
    os.close(ends[1])
    # were a copy left in the server (this process), the pipe would not be at its end
    assert select.select([ends[0]], [], [], PATIENCE)[0]
    assert os.read(ends[0], 1) == b""
    os.close(ends[0])
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def interrupt(peer: Peer) -> int:
    """Connect an eventfd and make the drive interrupt: NOP ends in an error."""
    fd = os.eventfd(0, os.EFD_NONBLOCK)
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    assert peer.ask(SET_IRQS, struct.pack("<IIIII", 20, 0x24, 0, 0, 1), fds=(fd,))[0] == 0
    peer.write(5, 0x86, b"\xe0", NO_REPLY)
    peer.write(5, 0x87, b"\x00", NO_REPLY)
    assert peer.alive()
    return fd


def count(fd: int) -> int:
    """How many signals there are, once there is one."""
    assert select.select([fd], [], [], PATIENCE)[0], "a signal"
    return os.eventfd_read(fd)


def silent(fd: int) -> bool:
    """Whether none comes for a while."""
    return not select.select([fd], [], [], 0.05)[0]


UNMASK, MASK, DISABLE = (
    struct.pack("<IIIII", 20, f, 0, 0, n) for f, n in ((0x11, 1), (0x09, 1), (0x21, 0))
)


def test_an_interrupt_masks_itself_and_comes_again_while_the_level_is_up(peer: Peer) -> None:
    fd = interrupt(peer)
    assert count(fd) == 1
    assert silent(fd)
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 1
    peer.read(5, 0x87, 1)
    peer.write(5, 2, b"\x04", NO_REPLY)
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert silent(fd)
    peer.write(5, 0x87, b"\x00", NO_REPLY)
    assert count(fd) == 1
    os.close(fd)


def test_masked_and_disabled_interrupts_wait(peer: Peer) -> None:
    fd = interrupt(peer)
    assert count(fd) == 1
    peer.read(5, 0x87, 1)
    peer.write(5, 2, b"\x04", NO_REPLY)
    assert peer.ask(SET_IRQS, MASK)[0] == 0
    peer.write(5, 0x87, b"\x00", NO_REPLY)
    assert silent(fd)
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 1
    assert peer.ask(SET_IRQS, DISABLE)[0] == 0
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert silent(fd)
    os.close(fd)


def serviced(peer: Peer) -> None:
    """The client's driver does its work: the level drops."""
    peer.read(5, 0x87, 1)
    assert peer.write(5, 2, b"\x04") == 0


def again(peer: Peer) -> None:
    """Another interrupt."""
    assert peer.write(5, 0x87, b"\x00") == 0


def test_a_signal_without_a_reason_any_more_is_taken_back(peer: Peer) -> None:
    """QEMU would keep its guest's line up for it until the guest happens to touch the device."""
    fd = interrupt(peer)
    assert count(fd) == 1
    serviced(peer)
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    again(peer)
    serviced(peer)  # before it has read the second one
    assert silent(fd)
    again(peer)
    assert count(fd) == 1, "taken back means: not masked by it"
    serviced(peer)
    again(peer)
    assert silent(fd), "masked: the third one was read"
    os.close(fd)


def test_a_client_that_never_reads_its_eventfd_keeps_its_signals(peer: Peer) -> None:
    fd = interrupt(peer)
    for _ in range(3):
        serviced(peer)
        assert peer.ask(SET_IRQS, UNMASK)[0] == 0
        again(peer)
    serviced(peer)
    assert count(fd) == 4
    os.close(fd)
