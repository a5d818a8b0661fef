# SPDX-License-Identifier: MIT
"""Two driven NICs with a cable between them; sockets that keep packets apart stand in for the kernel."""

from __future__ import annotations

import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Self

from tests.names import own
from tests.waiting import PATIENCE, until
from usrdrv.device import Device, open_device
from usrdrv.drivers.dp83820.driver import Nic, Options

HEADER = struct.Struct("<BBHHHHH")
PLAIN = HEADER.pack(0, 0, 0, 0, 0, 0, 0)
NEEDS_CSUM, DATA_VALID = 1, 2
TCPV4, TCPV6, UDP_L4 = 1, 4, 5
FRAMES = 20
"""How many frames of any length a port holds until we take them, whatever net.core.wmem_max is."""


@dataclass(frozen=True)
class Packet:
    """What the kernel would get: the header's fields, and the frame."""

    flags: int
    gso_type: int
    hdr_len: int
    gso_size: int
    csum_start: int
    csum_offset: int
    frame: bytes


class End:
    """One NIC: model, driver, and our side of its port."""

    def __init__(
        self, name: str, mac: bytes, model: str, options: Options, left: Callable[[Device], None]
    ) -> None:
        self.mac = mac
        self.device = open_device(f"model:dp83820?cable={name}&mac={mac.hex(':')}{model}")
        self.device.config_write(0x04, 2, 2)
        left(self.device)
        self.nic = Nic(self.device, options)
        self.kernel, self._port = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        for sock in (self.kernel, self._port):  # a machine may allow less, but room for FRAMES
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 22)
        self._port.setblocking(False)
        self.kernel.settimeout(PATIENCE)
        self.changes = 0
        self.nic.start(self._port.fileno(), self._changed)

    def _changed(self) -> None:
        self.changes += 1

    def send(self, frame: bytes, header: bytes = PLAIN) -> None:
        """As the kernel's transmit."""
        self.kernel.send(header + frame)

    def receive(self) -> Packet:
        """The next packet; TimeoutError if none comes."""
        data = self.kernel.recv(1 << 17)
        fields: list[Any] = [*HEADER.unpack_from(data)[:6], data[HEADER.size :]]
        return Packet(*fields)

    def nothing(self, seconds: float = 0.1) -> bool:
        """Whether no packet comes for a while."""
        self.kernel.settimeout(seconds)
        try:
            self.kernel.recv(1 << 17)
        except TimeoutError:
            return True
        finally:
            self.kernel.settimeout(PATIENCE)
        return False

    def stats(self, name: str) -> int:
        return self.nic.statistics()[name]

    def counter(self, name: str) -> int:
        return int(self.device.model.counters()[name])

    def fault(self, *words: str) -> int:
        model = self.device.model
        return int(model.add_fault(model.fault_type.parse(words)))

    def close(self) -> None:
        self.nic.close()
        self.device.close()
        self.kernel.close()
        self._port.close()


class Pair:
    """Ends a and b with a link between them.

    far: the options of b, if they differ. left: does to a's chip what another driver left behind.
    """

    def __init__(
        self,
        *,
        model: str = "",
        options: Options | None = None,
        far: Options | None = None,
        left: Callable[[Device], None] = lambda device: None,
    ) -> None:
        cable = own()
        options = options or Options()
        self.a = End(cable, bytes.fromhex("020000000001"), model, options, left)
        self.b = End(cable, bytes.fromhex("020000000002"), model, far or options, lambda _: None)
        until(lambda: self.a.nic.speed and self.b.nic.speed)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.a.close()
        self.b.close()

    def frame(self, length: int, seed: int = 0) -> bytes:
        """A frame from a to b of a type that nobody looks into, whose bytes tell frames apart."""
        head = self.b.mac + self.a.mac + b"\x88\xb5"
        body = bytes((i * 7 + length + seed) & 0xFF for i in range(max(length - 14, 0)))
        return (head + body)[:length]
