# SPDX-License-Identifier: MIT
"""The DP83820 driver with zero copy over the model: packets that lie in pages of a kernel that is us."""

from __future__ import annotations

import os
import select
from collections.abc import Iterator
from typing import Any

import pytest

from tests.names import own
from tests.unit.drivers.dp83820.nic_pair import End
from tests.waiting import until
from usrdrv import loop
from usrdrv.device import open_device
from usrdrv.drivers.dp83820 import driver
from usrdrv.drivers.dp83820._dp83820 import ffi, lib
from usrdrv.drivers.dp83820.driver import Nic, Options

HEAD = 54
SIZE = 1000
SOURCE = bytes.fromhex("020000000001")
FAR = bytes.fromhex("020000000002")


class Kernel:
    """A port with zero copy. `sent`: packets that the driver is done with. Frames from the wire have no place."""

    def __init__(self) -> None:
        self.sent: list[int] = []
        self.frames: list[bytes] = []
        self.told = 0
        self._epoll = select.epoll()
        self._wake = os.eventfd(0, os.EFD_NONBLOCK)
        self._epoll.register(self._wake, select.EPOLLIN | select.EPOLLET)
        self._watched: dict[int, int] = {}
        self._head = ffi.new("uint8_t[]", HEAD)
        self._piece = loop.ffi.new("struct usrloop_segment *")
        self._kept = {
            name: ffi.callback(f"{result} (*)({arguments})", getattr(self, f"_{name}"))
            for name, result, arguments in (
                ("take", "int", "struct usrdrv_net_port *, struct usrdrv_net_packet *"),
                ("sent", "void", "struct usrdrv_net_port *, uint32_t"),
                ("buffers", "uint32_t", "struct usrdrv_net_port *, uint32_t *"),
                ("watch", "int", "struct usrdrv_net_port *, unsigned int, int, uint32_t"),
                ("wait", "int", "struct usrdrv_net_port *, uint32_t, int"),
                ("close", "void", "struct usrdrv_net_port *"),
            )
        }
        self._ops = ffi.new("struct usrdrv_net_port_ops *", self._kept)
        self.port = ffi.new("struct usrdrv_net_port *", {"ops": self._ops, "buffers": 16})

    def give(self, device: Any, number: int) -> bytes:
        """A packet whose first bytes are copied, and the rest is in a page that the chip reaches."""
        frame = FAR + SOURCE + b"\x88\xb5" + bytes((number + i) & 0xFF for i in range(SIZE - 14))
        page = device.dma_alloc(4096)
        page.buffer[: SIZE - HEAD] = frame[HEAD:]
        self._piece.addr, self._piece.len = page.bus, SIZE - HEAD
        self.frames.append(frame)
        os.eventfd_write(self._wake, 1)
        return frame

    def _take(self, port: Any, p: Any) -> int:
        if self.told == len(self.frames):
            return 0
        ffi.memmove(self._head, self.frames[self.told], HEAD)
        p.header.flags = p.header.gso_type = 0
        p.head, p.head_len, p.at, p.len = self._head, HEAD, HEAD, SIZE
        p.piece = ffi.cast("void *", int(loop.ffi.cast("uintptr_t", self._piece)))
        p.pieces, p.token = 1, self.told
        self.told += 1
        return 1

    def _sent(self, port: Any, token: int) -> None:
        self.sent.append(token)

    def _buffers(self, port: Any, first: Any) -> int:
        first[0] = 0
        return 0

    def _watch(self, port: Any, index: int, fd: int, events: int) -> int:
        if fd >= 0:
            self._epoll.register(fd, events | select.EPOLLET)
            self._watched[fd] = 1 << index
        return 0

    def _wait(self, port: Any, us: int, more: int) -> int:
        ready = self._epoll.poll(us / 1e6)
        return sum(self._watched.get(fd, lib.USRDRV_NET_PACKETS) for fd, _ in ready)

    def _close(self, port: Any) -> None:
        self._epoll.close()
        os.close(self._wake)


class Near:
    """The NIC that is driven, beside one that takes what comes."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        cable = own()
        self.kernel = Kernel()
        self.far = End(cable, FAR, "", Options(), lambda device: None)
        self.device = open_device(f"model:dp83820?cable={cable}&mac={SOURCE.hex(':')}")
        self.nic = Nic(self.device, Options())
        monkeypatch.setattr(driver, "lib", self)
        attach = loop.ffi.new("struct usrloop_attach *", {"claim_fd": 0})
        self.nic.start(-1, lambda: None, attach)
        until(lambda: self.nic.speed and self.far.nic.speed)

    def __getattr__(self, name: str) -> Any:
        return getattr(lib, name)

    def usrdrv_loop_port(self, fd: int, attach: Any, out: Any) -> int:
        """The kernel's part, which is ours."""
        out[0] = self.kernel.port
        return 0

    def fault(self, *words: str) -> None:
        model = self.device.model
        model.add_fault(model.fault_type.parse(words))

    def stats(self, name: str) -> int:
        return self.nic.statistics()[name]

    def close(self) -> None:
        self.nic.close()
        self.device.close()
        self.far.close()


@pytest.fixture
def near(monkeypatch: pytest.MonkeyPatch) -> Iterator[Near]:
    near = Near(monkeypatch)
    yield near
    near.close()


def test_a_packet_is_fetched_from_its_page_and_given_back(near: Near) -> None:
    for number in range(3):
        frame = near.kernel.give(near.device, number)
        assert near.far.receive().frame == frame
        until(lambda number=number: near.kernel.sent == list(range(number + 1)))  # type: ignore[misc]
    assert near.stats("copied") == 3 * HEAD


def test_without_a_link_no_packet_is_kept(near: Near) -> None:
    """The chip stands still with one in its hands, the link goes: whoever waits for the packet gets it back."""
    near.fault("stuck-tx")
    near.kernel.give(near.device, 0)
    until(lambda: near.kernel.told == 1)
    near.fault("link-down")
    until(lambda: not near.nic.speed)
    assert near.kernel.sent == [] or near.stats("resets"), "not before the watchdog looks"
    until(lambda: near.kernel.sent == [0])
    assert not near.nic.speed and near.stats("resets") == 1
    near.kernel.give(near.device, 1)
    until(lambda: near.kernel.sent == [0, 1])
    assert near.stats("tx_dropped") == 2
    near.device.model.clear_fault()
    until(lambda: near.nic.speed and near.far.nic.speed)
    frame = near.kernel.give(near.device, 2)
    assert near.far.receive().frame == frame
    assert near.stats("resets") == 1
