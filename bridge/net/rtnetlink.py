# SPDX-License-Identifier: MIT
"""Messages about interfaces: asked for, sent, listened to (rtnetlink(7), linux/rtnetlink.h, linux/if_link.h).

Small enough to have here: what a message says is read from the message itself, and nothing is kept.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing

NLMSG_ERROR: Final = 2
RTM_NEWLINK: Final = 16
RTM_DELLINK: Final = 17
RTM_GETLINK: Final = 18
RTM_SETLINK: Final = 19
RTM_NEWNSID: Final = 88
NLM_F_REQUEST: Final = 1
NLM_F_ACK: Final = 4
RTMGRP_LINK: Final = 1
SOL_NETLINK: Final = 270
NETLINK_LISTEN_ALL_NSID: Final = 8

IFLA_ADDRESS: Final = 1
IFLA_IFNAME: Final = 3
IFLA_MTU: Final = 4
IFLA_TXQLEN: Final = 13
IFLA_IFALIAS: Final = 20
IFLA_PROMISCUITY: Final = 30
IFLA_ALLMULTI: Final = 61
NETNSA_NSID: Final = 1
NETNSA_FD: Final = 3
ATTRIBUTE_TYPE: Final = 0x3FFF
"""Without the bits for nesting and byte order."""

_HEADER: Final = struct.Struct("=IHHII")
_LINK: Final = struct.Struct("=BxHiII")
_ATTRIBUTE: Final = struct.Struct("=HH")
SIZE: Final = 1 << 16


@dataclass(frozen=True)
class Link:
    """An RTM_NEWLINK or, `gone`, an RTM_DELLINK. Attributes by number, as bytes."""

    index: int
    flags: int
    gone: bool = False
    attributes: dict[int, bytes] = field(default_factory=dict)

    def number(self, attribute: int) -> int:
        """Return an attribute of 32 bits; 0: the kernel does not tell it."""
        return int.from_bytes(self.attributes.get(attribute, b"")[:4], sys.byteorder)

    def text(self, attribute: int) -> str:
        """Return an attribute that is a string."""
        return os.fsdecode(self.attributes.get(attribute, b"").rstrip(b"\0"))


def _pad(length: int) -> int:
    return (length + 3) & ~3


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    at = 0
    while at + _ATTRIBUTE.size <= len(data):
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < _ATTRIBUTE.size:
            return
        yield kind & ATTRIBUTE_TYPE, data[at + _ATTRIBUTE.size : at + length]
        at += _pad(length)


def _messages(data: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Yield type, sequence number and content of each message in a datagram."""
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, _, sequence, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            return
        yield kind, sequence, data[at + _HEADER.size : at + length]
        at += _pad(length)


def _link(kind: int, content: bytes) -> Link | None:
    """Decode it. None: it is about something else, as of a bridge that tells of its ports."""
    if kind not in (RTM_NEWLINK, RTM_DELLINK) or len(content) < _LINK.size:
        return None
    family, _, index, flags, _ = _LINK.unpack_from(content)
    if family != socket.AF_UNSPEC:
        return None
    return Link(index, flags, kind == RTM_DELLINK, dict(_attributes(content[_LINK.size :])))


def _encode(attributes: dict[int, bytes]) -> bytes:
    return b"".join(
        _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)
        for kind, value in attributes.items()
    )


class Routes(Closing):
    """Questions and orders, in the namespace where this is made. Not thread-safe."""

    def __init__(self) -> None:
        self._sock = _socket()
        self._sequence = 0

    def _call(self, kind: int, content: bytes) -> tuple[int, bytes]:
        """Send one request; return type and content of its answer. OSError: the kernel's."""
        self._sequence += 1
        flags = NLM_F_REQUEST if kind == RTM_GETLINK else NLM_F_REQUEST | NLM_F_ACK
        header = _HEADER.pack(_HEADER.size + len(content), kind, flags, self._sequence, 0)
        self._sock.send(header + content)
        while True:
            for answer, sequence, data in _messages(self._sock.recv(SIZE)):
                if sequence != self._sequence:
                    continue
                code = -struct.unpack_from("=i", data)[0] if answer == NLMSG_ERROR else 0
                if code:
                    raise OSError(code, os.strerror(code))
                return answer, data

    def get(self, which: int | str) -> Link:
        """Return an interface by number or name; NoSuchDeviceError."""
        index = which if isinstance(which, int) else 0
        name = {} if isinstance(which, int) else {IFLA_IFNAME: os.fsencode(which) + b"\0"}
        try:
            found = _link(*self._call(RTM_GETLINK, _LINK.pack(0, 0, index, 0, 0) + _encode(name)))
        except OSError as error:
            if error.errno == errno.ENODEV:
                raise errors.NoSuchDeviceError(f"no interface {which}") from None
            raise errors.DeviceError(f"interface {which}: {error.strerror}") from None
        if found is None:
            raise errors.DeviceError(f"interface {which}: the kernel does not tell")
        return found

    def set(self, index: int, attributes: dict[int, bytes]) -> None:
        """Change attributes of an interface, as `ip link set` does. OSError: the kernel's."""
        self._call(RTM_SETLINK, _LINK.pack(0, 0, index, 0, 0) + _encode(attributes))

    @property
    def fd(self) -> int:
        """A socket of that namespace, for ioctl(); netdevice(7) has what any socket takes."""
        return self._sock.fileno()

    def know(self, namespace: int) -> None:
        """Give a namespace (its descriptor) a number here, without which nothing of it is heard. OSError."""
        wanted = {NETNSA_NSID: struct.pack("=i", -1), NETNSA_FD: struct.pack("=i", namespace)}
        try:
            self._call(RTM_NEWNSID, bytes(4) + _encode(wanted))
        except FileExistsError:
            return

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()


class Watch(Closing):
    """News of interfaces of the namespace where this is made, and if wanted of those that it knows."""

    def __init__(self) -> None:
        self._sock = _socket(socket.SOCK_NONBLOCK)
        self._sock.bind((0, RTMGRP_LINK))

    def everywhere(self, wanted: bool) -> None:
        """Hear of other namespaces, too. OSError: the kernel's."""
        self._sock.setsockopt(SOL_NETLINK, NETLINK_LISTEN_ALL_NSID, int(wanted))

    @property
    def fd(self) -> int:
        """Readable when there is news."""
        return self._sock.fileno()

    def news(self) -> Iterator[Link | None]:
        """Yield what came since the last call; None where some was lost."""
        while True:
            try:
                data = self._sock.recv(SIZE)
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno != errno.ENOBUFS:
                    raise
                yield None
                continue
            for kind, _, content in _messages(data):
                link = _link(kind, content)
                if link is not None:
                    yield link

    def close(self) -> None:
        """Idempotent."""
        self._sock.close()


def _socket(flags: int = 0) -> socket.socket:
    return socket.socket(
        socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC | flags, socket.NETLINK_ROUTE
    )
