# SPDX-License-Identifier: MIT
"""A vfio-user client that sends what it likes, and a server to send it to."""

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.waiting import PATIENCE
from usrdrv.devices import models
from usrdrv.devices.vfio_user.server import Server

VERSION, DMA_MAP, DMA_UNMAP, GET_INFO, REGION_INFO, IO_FDS, IRQ_INFO, SET_IRQS = range(1, 9)
READ, WRITE, DMA_READ, DMA_WRITE, RESET = range(9, 14)
DMA_READ = 11
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
        self.sock.settimeout(PATIENCE)
        self.sock.connect(str(path))
        self.id = 0
        self.strays: list[tuple[int, int]] = []
        """What the server asked us to read: address and count, where the device found no memory."""
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
        number, command, size, flags, code = struct.unpack("<HHIII", header)
        if command == DMA_READ and flags == 0:
            self.strays.append(struct.unpack("<QQ", receive_exactly(self.sock, size - 16)))
            return self.receive()
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
        thread.join(PATIENCE)
        assert not thread.is_alive()


def memory(size: int) -> int:
    fd = os.memfd_create("test")
    os.ftruncate(fd, size)
    return fd
