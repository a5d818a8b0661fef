# SPDX-License-Identifier: MIT
"""The vfio-user server, message by message: what is right, and what a hostile peer may try."""

import errno
import mmap
import os
import select
import socket
import struct
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from usrdrv import errors
from usrdrv.devices import models
from usrdrv.devices.server import Server
from usrdrv.sockets import listen

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
READ, WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
WRITE_MULTI = 15
NO_REPLY, ERROR = 0x10, 0x20
CONFIG = 7
ARENA = 0x10000000


def receive_exactly(sock: socket.socket, size: int) -> bytes:
    """MSG_WAITALL is not enough on a socket with a time-out."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        if not more:
            raise EOFError
        data += more
    return data


class Peer:
    """A client that sends what it likes."""

    def __init__(self, path: Path, *, greet: bool = True) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(5)
        self.sock.connect(str(path))
        self.id = 0
        if greet:
            code, payload = self.ask(VERSION, struct.pack("<HH", 0, 0) + b'{"capabilities":{}}\0')
            assert code == 0
            assert struct.unpack_from("<HH", payload) == (0, 0)
            assert payload.endswith(b"}\0")

    def send(
        self, command: int, payload: bytes = b"", flags: int = 0, fds: tuple[int, ...] = ()
    ) -> None:
        self.id = (self.id + 1) & 0xFFFF
        message = struct.pack("<HHIII", self.id, command, 16 + len(payload), flags, 0) + payload
        socket.send_fds(self.sock, [message], list(fds))

    def receive(self) -> tuple[int, bytes]:
        header = receive_exactly(self.sock, 16)
        number, _, size, flags, code = struct.unpack("<HHIII", header)
        assert number == self.id
        assert flags & 0xF == 1
        assert bool(flags & ERROR) == (code != 0)
        payload = receive_exactly(self.sock, size - 16)
        return code, payload

    def ask(
        self, command: int, payload: bytes = b"", flags: int = 0, fds: tuple[int, ...] = ()
    ) -> tuple[int, bytes]:
        self.send(command, payload, flags, fds)
        return self.receive()

    def read(self, region: int, offset: int, count: int) -> tuple[int, bytes]:
        code, payload = self.ask(READ, struct.pack("<QII", offset, region, count))
        return code, payload[16:]

    def write(self, region: int, offset: int, data: bytes, flags: int = 0) -> int:
        payload = struct.pack("<QII", offset, region, len(data)) + data
        if flags & NO_REPLY:
            self.send(WRITE, payload, flags)
            return 0
        return self.ask(WRITE, payload)[0]

    def map(self, address: int, size: int, fd: int | None, offset: int = 0, flags: int = 3) -> int:
        payload = struct.pack("<IIQQQ", 32, flags, offset, address, size)
        return self.ask(DMA_MAP, payload, fds=() if fd is None else (fd,))[0]

    def alive(self) -> bool:
        return self.read(CONFIG, 0, 4) == (0, b"\x95\x10\x80\x06")

    def close(self) -> None:
        self.sock.close()


@contextmanager
def serving(path: Path, *, once: bool = False) -> Iterator[threading.Thread]:
    """A server that does not run yet: start() the thread."""
    with (
        models.create("cmd680", "ram=1M") as model,
        Server(model.pointer, path, once=once) as server,
    ):
        thread = threading.Thread(target=server.run)
        yield thread
        server.stop()
        thread.join(5)
        assert not thread.is_alive()


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Path]:
    path = tmp_path / "s"
    with serving(path) as thread:
        thread.start()
        yield path
    assert not path.exists()


@pytest.fixture
def peer(served: Path) -> Iterator[Peer]:
    peer = Peer(served)
    yield peer
    peer.close()


def memory(size: int) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd


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


def test_nothing_works_before_the_greeting(served: Path) -> None:
    peer = Peer(served, greet=False)
    assert peer.ask(READ, struct.pack("<QII", 0, 7, 4))[0] == errno.EINVAL
    assert peer.ask(VERSION, struct.pack("<HH", 1, 0))[0] == errno.EINVAL
    assert peer.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}")[0] == errno.EINVAL  # no NUL
    assert peer.ask(VERSION, struct.pack("<HH", 0, 0))[0] == 0
    assert peer.alive()
    peer.close()


@pytest.mark.parametrize("size", [0, 15, 2**32 - 1, 2**24])
def test_broken_framing_ends_the_connection_only(served: Path, size: int) -> None:
    peer = Peer(served)
    peer.sock.sendall(struct.pack("<HHIII", 1, READ, size, 0, 0))
    assert peer.sock.recv(1) == b""
    peer.close()
    again = Peer(served)
    assert again.alive()
    again.close()


def test_messages_in_pieces_and_many_in_one_piece(peer: Peer) -> None:
    one = struct.pack("<HHIIIQII", 7, READ, 32, 0, 0, 0, 7, 4)
    for byte in one:
        peer.sock.sendall(bytes([byte]))
    answer = receive_exactly(peer.sock, 36)
    assert answer[-4:] == b"\x95\x10\x80\x06"
    peer.sock.sendall(one * 50)
    assert receive_exactly(peer.sock, 36 * 50) == answer * 50


def test_a_second_client_is_told_that_the_first_is_there(served: Path) -> None:
    first = Peer(served)
    second = Peer(served, greet=False)
    assert second.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}\0")[0] == errno.EBUSY
    assert first.alive()
    first.close()
    second.close()
    for _ in range(50):
        third = Peer(served, greet=False)
        if third.ask(VERSION, struct.pack("<HH", 0, 0) + b"{}\0")[0] == 0:
            break
        time.sleep(0.02)
    assert third.alive()
    third.close()


def test_a_client_that_leaves_resets_the_device(served: Path) -> None:
    peer = Peer(served)
    assert peer.write(CONFIG, 4, b"\x07\x00") == 0
    peer.close()
    time.sleep(0.1)
    peer = Peer(served)
    assert peer.read(CONFIG, 4, 2) == (0, b"\0\0")
    peer.close()


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
    assert peer.ask(RESET)[0] == 0
    assert peer.ask(DMA_UNMAP, struct.pack("<IIQQ", 24, 2, 0, 0))[0] == 0
    assert peer.map(ARENA, 4096, fd) == 0
    os.close(fd)


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


def test_only_a_client_ends_a_server_for_one(tmp_path: Path) -> None:
    """Somebody who only tries whether the socket is taken is none."""
    with serving(tmp_path / "s", once=True) as thread:
        thread.start()
        with pytest.raises(errors.DeviceBusyError):
            listen(tmp_path / "s")
        time.sleep(0.1)
        assert thread.is_alive()
        Peer(tmp_path / "s").close()
        thread.join(5)
        assert not thread.is_alive()


def test_a_silent_second_client_holds_nobody_up(served: Path) -> None:
    first = Peer(served)
    silent = [Peer(served, greet=False) for _ in range(3)]
    started = time.monotonic()
    assert first.alive()
    assert time.monotonic() - started < 0.5
    for peer in [first, *silent]:
        peer.close()


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
    assert select.select([ends[0]], [], [], 2)[0]
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


def count(fd: int, patience: float = 0.05) -> int:
    if not select.select([fd], [], [], patience)[0]:
        return 0
    return os.eventfd_read(fd)


UNMASK, MASK, DISABLE = (
    struct.pack("<IIIII", 20, f, 0, 0, n) for f, n in ((0x11, 1), (0x09, 1), (0x21, 0))
)


def test_an_interrupt_masks_itself_and_comes_again_while_the_level_is_up(peer: Peer) -> None:
    fd = interrupt(peer)
    assert count(fd) == 1
    assert count(fd) == 0
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 1
    peer.read(5, 0x87, 1)
    peer.write(5, 2, b"\x04", NO_REPLY)
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 0
    peer.write(5, 0x87, b"\x00", NO_REPLY)
    assert count(fd, 1) == 1
    os.close(fd)


def test_masked_and_disabled_interrupts_wait(peer: Peer) -> None:
    fd = interrupt(peer)
    assert count(fd) == 1
    peer.read(5, 0x87, 1)
    peer.write(5, 2, b"\x04", NO_REPLY)
    assert peer.ask(SET_IRQS, MASK)[0] == 0
    peer.write(5, 0x87, b"\x00", NO_REPLY)
    assert count(fd) == 0
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 1
    assert peer.ask(SET_IRQS, DISABLE)[0] == 0
    assert peer.ask(SET_IRQS, UNMASK)[0] == 0
    assert count(fd) == 0
    os.close(fd)


def test_a_client_that_does_not_read_is_dropped(served: Path) -> None:
    """Its replies fill the socket; the server waits a few seconds and then serves the next one."""
    peer = Peer(served)
    peer.sock.setblocking(False)
    message = struct.pack("<HHIIIQII", 7, READ, 32, 0, 0, 0, 7, 256)
    started = time.monotonic()
    try:
        while time.monotonic() - started < 15:
            try:
                peer.sock.send(message * 100)
            except BlockingIOError:
                time.sleep(0.05)
    except OSError:
        pass
    assert time.monotonic() - started < 12
    peer.close()
    again = Peer(served)
    assert again.alive()
    again.close()


@pytest.mark.parametrize("make", ["long", "folder", "file", "taken"])
def test_a_bad_socket_path_is_named(tmp_path: Path, make: str, served: Path) -> None:
    path = {
        "long": tmp_path / ("x" * 120),
        "folder": tmp_path / "none" / "s",
        "file": tmp_path / "f",
        "taken": served,
    }[make]
    (tmp_path / "f").write_text("")
    with models.create("cmd680", "ram=1M") as model:
        with pytest.raises(errors.UsrdrvError, match=str(path)):
            Server(model.pointer, path)
    assert served.exists()


def test_what_a_killed_server_left_is_replaced(tmp_path: Path) -> None:
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(tmp_path / "s"))
    stale.close()
    with models.create("cmd680", "ram=1M") as model, Server(model.pointer, tmp_path / "s"):
        assert (tmp_path / "s").is_socket()
    assert not (tmp_path / "s").exists()
