# SPDX-License-Identifier: MIT
"""A port that is not usrloop's: Python. The null driver serves it, and knows no more of an export."""

from __future__ import annotations

import errno
import mmap
import os
import select
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any, Final

import pytest
from cffi import FFI

from tests.waiting import until
from usrdrv.base import errors
from usrdrv.base._cffi import INCLUDE, cdef
from usrdrv.drivers.null.driver import Controller, Memory

DEPTH, SLOT = 4, 65536
IRQ, KICK, _, WORK, END = (1 << bit for bit in range(5))
READ, WRITE, FLUSH, TRIM = range(4)

ffi = FFI()
for header in ("block.h", "block_port.h"):
    ffi.cdef(cdef(INCLUDE / "usrdrv" / header))


class Port:
    """Its client's side: submit() and result(); end() as when the kernel takes a disk away."""

    kept: Final[list[Port]] = []
    """All: a driver calls them until it is closed, which is after the test."""

    def __init__(self) -> None:
        self.kept.append(self)
        self.slots = mmap.mmap(-1, DEPTH * SLOT)
        self.told: dict[int, int] = {}
        self.closed = threading.Event()
        self._orders: deque[dict[str, int]] = deque()
        self._noted: dict[int, int] = {}
        self._woken = os.eventfd(0)
        self._fds: dict[int, int] = {}
        self._seq = 0
        self._ended = False
        names = ("join", "leave", "wait", "next", "complete", "close")
        kinds = dict(ffi.typeof("struct block_port_ops").fields)
        self._calls = {
            name: ffi.callback(kinds[name].type, getattr(self, f"_{name}")) for name in names
        }
        self._ops = ffi.new("struct block_port_ops *", self._calls)
        slots = ffi.from_buffer("uint8_t[]", self.slots)
        self._port = ffi.new(
            "struct block_port *",
            {"ops": self._ops, "depth": DEPTH, "slots": slots, "slot_size": SLOT},
        )

    @property
    def address(self) -> int:
        return int(ffi.cast("uintptr_t", self._port))

    # the driver's side, called by its dispatcher

    def _join(self, port: Any, wakers: Any) -> int:
        self._fds = {wakers.irq_fd: IRQ, wakers.kick_fd: KICK, self._woken: 0}
        self._fds.pop(-1, None)
        return 0

    def _leave(self, port: Any) -> None:
        self._fds = {}

    def _wait(self, port: Any, timeout: int, how: int) -> int:
        self.told |= self._noted
        self._noted = {}
        on = 0
        if not self._orders and not self._ended:
            limit = None if timeout < 0 else timeout / 1000
            for fd in select.select(list(self._fds), [], [], limit)[0]:
                os.eventfd_read(fd)
                on |= self._fds[fd]
        return on | (WORK if self._orders else 0) | (END if self._ended else 0)

    def _next(self, port: Any, order: Any) -> int:
        if not self._orders:
            return 0
        for name, value in self._orders.popleft().items():
            setattr(order, name, value)
        return 1

    def _complete(self, port: Any, tag: int, seq: int, status: int) -> None:
        assert seq not in self.told
        self._noted[seq] = status

    def _close(self, port: Any) -> None:
        self.closed.set()

    # the client's side

    def submit(self, op: int, offset: int, length: int, tag: int = 0) -> int:
        self._seq += 1
        self._orders.append(
            {"tag": tag, "seq": self._seq, "op": op, "flags": 0, "offset": offset, "len": length}
        )
        os.eventfd_write(self._woken, 1)
        return self._seq

    def result(self, op: int, offset: int, length: int, tag: int = 0) -> int:
        """Submit and wait."""
        seq = self.submit(op, offset, length, tag)
        until(lambda: seq in self.told, "the order is complete")
        return self.told[seq]

    def end(self) -> None:
        self._ended = True
        os.eventfd_write(self._woken, 1)


@pytest.fixture(params=[0, 200], ids=["at-once", "later"])
def disk(request: pytest.FixtureRequest) -> Iterator[Controller]:
    with Controller(Memory(size=1 << 20, queues=2, depth=2, delay_us=request.param)) as controller:
        yield controller


@pytest.mark.parametrize("ports", [1, 2])
def test_data_go_through_slots(disk: Controller, ports: int) -> None:
    """Of two ports the second has a thread of its own."""
    made = [Port() for _ in range(ports)]
    disk.serve(0, [port.address for port in made], zero_copy=False)
    for number, port in enumerate(made):
        data, at = os.urandom(8192), number * 65536
        port.slots[:8192] = data
        assert port.result(WRITE, at, 8192) == 0
        assert port.result(READ, at, 8192, tag=3) == 0
        assert port.slots[3 * SLOT : 3 * SLOT + 8192] == data
        assert port.result(TRIM, at, 4096) == port.result(FLUSH, 0, 0) == 0
        found = bytearray(8192)
        disk.drives[0].block.read_into(found, at)
        assert found == bytes(4096) + data[4096:]
    disk.close()
    assert all(port.closed.is_set() for port in made)


def test_orders_that_cannot_be(disk: Controller) -> None:
    port = Port()
    disk.serve(0, [port.address], zero_copy=False)
    for op, offset, length in (
        *((READ, 0, 0), (READ, 0, SLOT + 512), (WRITE, 100, 512), (READ, 1 << 20, 512)),
        *((FLUSH, 0, 512), (WRITE, (1 << 20) - 512, 1024)),
    ):
        assert port.result(op, offset, length) == -errno.EINVAL


def test_the_end_of_a_port_is_told(disk: Controller) -> None:
    port = Port()
    disk.serve(0, [port.address], zero_copy=False)
    assert port.result(READ, 0, 512) == 0
    port.end()
    assert disk.unserved.wait(60)
    assert not port.closed.is_set()
    disk.close()
    assert port.closed.is_set()


def test_a_disk_is_served_once(disk: Controller) -> None:
    first, second = Port(), Port()
    disk.serve(0, [first.address], zero_copy=False)
    with pytest.raises(errors.DeviceError) as failure:
        disk.serve(0, [second.address], zero_copy=False)
    assert failure.value.errno == errno.EBUSY
    assert second.closed.is_set() and not first.closed.is_set()
