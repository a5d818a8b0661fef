# SPDX-License-Identifier: MIT
"""The client's half of NBD's fixed newstyle handshake, up to the transmission phase.

The kernel's NBD client does not negotiate: user space does and hands the socket over.
"""

from __future__ import annotations

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Final

from usrdrv.base import errors

INIT_MAGIC: Final = 0x4E42444D41474943
OPTION_MAGIC: Final = 0x49484156454F5054
REPLY_MAGIC: Final = 0x3E889045565A9
REQUEST_MAGIC: Final = 0x25609513
CMD_DISC: Final = 2

FIXED_NEWSTYLE: Final = 1
NO_ZEROES: Final = 2

OPT_LIST: Final = 3
OPT_GO: Final = 7
REP_ACK: Final = 1
REP_SERVER: Final = 2
REP_INFO: Final = 3
REP_ERROR: Final = 1 << 31
INFO_EXPORT: Final = 0
INFO_DESCRIPTION: Final = 2
INFO_BLOCK_SIZE: Final = 3

FLAG_READ_ONLY: Final = 1 << 1

LONGEST_REPLY: Final = 1 << 16
LOOK: Final = 0.1
"""Seconds between looks whether there is no time to wait."""


@dataclass(frozen=True)
class Export:
    """What the server said of the export. Sizes in bytes."""

    size: int
    flags: int
    minimum_block: int = 512
    description: str = ""

    @property
    def read_only(self) -> bool:
        return bool(self.flags & FLAG_READ_ONLY)

    @property
    def identity(self) -> str:
        return self.description


def _receive(sock: socket.socket, length: int) -> bytes:
    data = bytearray()
    while len(data) < length:
        part = sock.recv(length - len(data))
        if not part:
            raise errors.DeviceError("NBD server closed the connection in the handshake")
        data += part
    return bytes(data)


def _greet(sock: socket.socket) -> None:
    magic, option_magic, flags = struct.unpack(">QQH", _receive(sock, 18))
    if (magic, option_magic) != (INIT_MAGIC, OPTION_MAGIC) or not flags & FIXED_NEWSTYLE:
        raise errors.DeviceError("this is no NBD server of the fixed newstyle kind")
    sock.sendall(struct.pack(">I", flags & (FIXED_NEWSTYLE | NO_ZEROES)))


def _ask(sock: socket.socket, option: int, request: bytes = b"") -> Iterator[tuple[int, bytes]]:
    """Send an option; yield what kind of replies come, and what they say, until the server has acknowledged it."""
    sock.sendall(struct.pack(">QII", OPTION_MAGIC, option, len(request)) + request)
    while True:
        magic, answered, kind, length = struct.unpack(">QIII", _receive(sock, 20))
        if magic != REPLY_MAGIC or answered != option or length > LONGEST_REPLY:
            raise errors.DeviceError("bad NBD option reply")
        data = _receive(sock, length)
        if kind & REP_ERROR:
            text = data.decode(errors="replace") or f"error {kind & ~REP_ERROR}"
            raise errors.DeviceError(f"NBD server refuses the export: {text}")
        if kind == REP_ACK:
            return
        yield kind, data


def negotiate(sock: socket.socket, name: str = "") -> Export:
    """Enter the transmission phase of export `name` on a connected socket.

    DeviceError if the server refuses or talks nonsense; OSError from the socket, TimeoutError too.
    """
    _greet(sock)
    encoded = name.encode()
    wanted = (INFO_DESCRIPTION, INFO_BLOCK_SIZE)
    request = struct.pack(f">I{len(encoded)}sHHH", len(encoded), encoded, len(wanted), *wanted)
    size: int | None = None
    export_flags, minimum, description = 0, 512, ""
    for kind, data in _ask(sock, OPT_GO, request):
        if kind != REP_INFO or len(data) < 2:
            raise errors.DeviceError("bad NBD option reply")
        info = int.from_bytes(data[:2], "big")
        if info == INFO_EXPORT and len(data) == 12:
            size, export_flags = struct.unpack(">QH", data[2:])
        elif info == INFO_DESCRIPTION:
            description = data[2:].decode(errors="replace")
        elif info == INFO_BLOCK_SIZE and len(data) == 14:
            minimum = int.from_bytes(data[2:6], "big")
    if size is None:
        raise errors.DeviceError("NBD server did not say the size of the export")
    return Export(size, export_flags, minimum, description)


def list_names(sock: socket.socket) -> list[str]:
    """Return the names of a server's exports; the socket is good for nothing else. Errors as of negotiate()."""
    _greet(sock)
    found = []
    for kind, data in _ask(sock, OPT_LIST):
        length = int.from_bytes(data[:4], "big")
        if kind != REP_SERVER or len(data) < 4 + length:
            raise errors.DeviceError("bad NBD option reply")
        found.append(data[4 : 4 + length].decode(errors="replace"))
    return found


def _connect(address: str | tuple[str, int], timeout: float) -> socket.socket:
    if not isinstance(address, str):
        return socket.create_connection(address, timeout)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout)
        sock.connect(address)
    except BaseException:
        sock.close()
        raise
    return sock


def _await_greeting(sock: socket.socket, timeout: float, hurried: Callable[[], bool]) -> None:
    """Wait for the server's first word: nbdkit is silent until its plugin is ready."""
    poll = select.poll()
    poll.register(sock, select.POLLIN)
    deadline = time.monotonic() + timeout
    while not poll.poll(LOOK * 1000):
        if hurried():
            raise InterruptedError
        if time.monotonic() > deadline:
            raise TimeoutError(errno.ETIMEDOUT, os.strerror(errno.ETIMEDOUT))


def dial(
    address: str | tuple[str, int], timeout: float, hurried: Callable[[], bool] = lambda: False
) -> socket.socket:
    """Connect to a Unix socket path or (host, port), which has greeted; InterruptedError when `hurried`."""
    sock = _connect(address, timeout)
    try:
        _await_greeting(sock, timeout, hurried)
    except BaseException:
        sock.close()
        raise
    return sock


def connect(
    address: str | tuple[str, int],
    timeout: float,
    hurried: Callable[[], bool] = lambda: False,
    *,
    name: str = "",
) -> tuple[socket.socket, Export]:
    """Dial and negotiate. name: of the export; empty: the default one."""
    sock = dial(address, timeout, hurried)
    try:
        export = negotiate(sock, name)
        sock.settimeout(None)
    except BaseException:
        sock.close()
        raise
    return sock, export


def look(
    address: str | tuple[str, int], timeout: float, hurried: Callable[[], bool], name: str = ""
) -> Export:
    """Return what the server says of an export."""
    sock, export = connect(address, timeout, hurried, name=name)
    disconnect(sock)
    return export


def disconnect(sock: socket.socket) -> None:
    """Send NBD_CMD_DISC and close, so that the server does not log an aborted connection."""
    with sock, suppress(OSError):  # OSError: the server is gone, nothing to take leave of
        sock.sendall(struct.pack(">IHHQQI", REQUEST_MAGIC, 0, CMD_DISC, 0, 0, 0))
