# SPDX-License-Identifier: MIT
"""The port to usrloop, with a few lines of Python as the module: what is told when; no wake-up is lost."""

from __future__ import annotations

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cffi import FFI

from tests.files import ROOT
from usrdrv import loop
from usrdrv.base._cffi import INCLUDE, KERNEL_TYPES, UAPI, cdef

DEPTH, SLOT, RING, DATA = 8, 4096, 4096, 8192
SQ, CQ, RX = 256, 1024, 2048
POLLIN = 1
PACKETS, GONE, WATCHED = 0x100, 0x200, 7
IRQ, HANGUP = 0, 2

ffi = FFI()
ffi.cdef(KERNEL_TYPES)
ffi.cdef("struct iovec { void *iov_base; size_t iov_len; };")
ffi.cdef(cdef(UAPI / "usrloop.h").replace("...", "0"))
ffi.cdef(cdef(INCLUDE / "usrdrv/net.h"))
ffi.cdef("extern int (*fake_module)(unsigned long request, void *arg);")
ffi.cdef(cdef(ROOT / "usrdrv/net/ports.h"))


@pytest.fixture(scope="module")
def lib(tmp_path_factory: pytest.TempPathFactory) -> Any:
    path = tmp_path_factory.mktemp("loop-port") / "port.so"
    sources = ("tests/unit/net/fake_usrloop.c", "usrdrv/net/loop_port.c", "usrdrv/loop/loop.c")
    includes = (INCLUDE, UAPI, ROOT / "usrdrv/net")
    subprocess.run(
        [
            *("gcc", "-shared", "-fPIC", "-g", "-O1", "-std=gnu11", "-Dioctl=fake_ioctl"),
            *(f"-I{folder}" for folder in includes),
            *("-o", str(path), *(str(ROOT / source) for source in sources)),
        ],
        check=True,
    )
    return ffi.dlopen(str(path))


class Module:
    """An interface of usrloop with its port. `asleep`: what ENTER does when there is nothing to return."""

    def __init__(self, lib: Any, claim_fd: int = -1) -> None:
        self.fd = os.memfd_create("ring")
        os.ftruncate(self.fd, DATA + 2 * DEPTH * SLOT)
        self.enters: list[int] = []
        self.events = 0
        self.answer = 0
        self.takes = True
        self.received: list[bytes] = []
        self.seen = self.done = 0
        self.asleep = 0
        attach: Any = ffi.new("struct usrloop_attach *")
        attach.queues, attach.depth, attach.ring_stride, attach.slot_size = 1, DEPTH, RING, SLOT
        attach.sq, attach.cq, attach.rx, attach.data = SQ, CQ, RX, DATA
        attach.data_stride = 2 * DEPTH * SLOT
        attach.size = DATA + attach.data_stride
        attach.claim_fd = claim_fd
        self._call = ffi.callback("int(unsigned long, void *)", self._ioctl)
        lib.fake_module = self._call
        out = ffi.new("struct usrdrv_net_port **")
        assert lib.usrdrv_loop_port(self.fd, attach, out) == 0
        self.port = out[0]
        self.stats: Any = ffi.new("struct usrdrv_net_stats *")
        self.port.stats = self.stats

    # the module's side

    def read(self, where: int, size: int) -> bytes:
        return os.pread(self.fd, size, where)

    def word(self, where: int) -> int:
        return int.from_bytes(self.read(where, 4), "little")

    def write(self, where: int, *words: int) -> None:
        data = b"".join(word.to_bytes(4, "little") for word in words)
        os.pwrite(self.fd, data, where)

    def transmit(self, packet: bytes, length: int | None = None) -> None:
        """As ndo_start_xmit."""
        tail = self.word(0)
        tag = tail % DEPTH
        os.pwrite(self.fd, packet, DATA + tag * SLOT)
        self.write(SQ + tag * 32, tag, tail, loop.lib.USRLOOP_OP_TX, length or len(packet))
        self.write(0, tail + 1)

    def _ready(self) -> int:
        if self.answer:
            return self.answer
        work = loop.lib.USRLOOP_READY_WORK if self.seen != self.word(0) else 0
        events, self.events = self.events, 0
        return work | events * loop.lib.USRLOOP_READY_EVENT

    def _ioctl(self, request: int, arg: Any) -> int:
        if request == loop.lib.USRLOOP_IOC_EVENTFD:
            eventfd: Any = ffi.cast("struct usrloop_eventfd *", arg)
            fd = eventfd.fd
            is_one = fd < 0 or "eventfd" in str(Path(f"/proc/self/fd/{fd}").readlink())
            return 0 if is_one else -errno.EINVAL
        assert request == loop.lib.USRLOOP_IOC_ENTER
        flags = int(ffi.cast("uintptr_t", arg))
        self.enters.append(flags)
        self.seen, self.done, tail = (self.word(64 + 4 * i) for i in range(3))
        while self.takes and len(self.received) != tail:
            place = len(self.received) % DEPTH
            length = self.word(RX + place * 8)
            self.received.append(self.read(DATA + (DEPTH + place) * SLOT, length))
            self.write(4, len(self.received))
        ready = self._ready()
        if not ready and not flags & loop.lib.USRLOOP_ENTER_NOWAIT:
            self.asleep += 1
        return ready

    # the driver's

    def pull(self, room: int = SLOT) -> bytes | None:
        first, rest = ffi.new("char[12]"), ffi.new("char[]", room)
        iov = ffi.new("struct iovec[2]", [(first, 12), (rest, room)])
        length = self.port.ops.pull(self.port, iov, 2)
        return (ffi.buffer(first)[:] + ffi.buffer(rest)[:])[:length] if length else None

    def push(self, *pieces: bytes) -> int:
        kept = [ffi.from_buffer(piece) for piece in pieces]
        iov = ffi.new("struct iovec[]", [(piece, len(piece)) for piece in kept])
        return int(self.port.ops.push(self.port, iov, len(kept)))

    def flush(self) -> int:
        return int(self.port.ops.flush(self.port))

    def wait(self, us: int = 250_000, more: bool = False) -> int:
        return int(self.port.ops.wait(self.port, us, more))

    def watch(self, index: int, fd: int) -> int:
        return int(self.port.ops.watch(self.port, index, fd, POLLIN))


@pytest.fixture
def module(lib: Any) -> Iterator[Module]:
    module = Module(lib)
    yield module
    module.port.ops.close(module.port)
    os.close(module.fd)


def packet(seed: int, length: int = 100) -> bytes:
    return bytes((seed * 31 + i) & 0xFF for i in range(length))


def test_packets_to_the_wire_in_order_and_completed(module: Module) -> None:
    for number in range(3 * DEPTH):
        module.transmit(packet(number, 12 + number))
        assert module.pull() == packet(number, 12 + number)
    assert module.pull() is None and not module.enters
    assert module.wait() == 0 and module.asleep == 1
    assert module.seen == module.done == 3 * DEPTH
    tag, seq, result = (module.word(CQ + 7 * 16 + 4 * i) for i in range(3))
    assert (tag, seq, result) == (7, 23, 0)
    assert module.stats.copied == sum(12 + n for n in range(3 * DEPTH))


def test_a_packet_that_does_not_fit_is_passed_over(module: Module) -> None:
    module.transmit(packet(1), length=SLOT)
    module.transmit(packet(2))
    assert module.pull(room=200) == packet(2)
    assert module.pull() is None


def test_packets_of_a_round_are_told_of_in_one_call(module: Module) -> None:
    for number in range(5):
        assert module.push(packet(number, 12), packet(number, 50)) == 0
    assert module.received == [] and module.enters == []
    assert module.flush() == 0
    assert module.received == [packet(n, 12) + packet(n, 50) for n in range(5)]
    assert module.enters == [loop.lib.USRLOOP_ENTER_NOWAIT] and module.asleep == 0
    module.flush()
    assert len(module.enters) == 1 == module.stats.system_calls


def test_full_ring(module: Module) -> None:
    for number in range(2 * DEPTH + 3):
        assert module.push(packet(number)) == 0
    module.flush()
    assert module.received == [packet(n) for n in range(2 * DEPTH + 3)]
    module.takes = False
    assert [module.push(b"x" * 14) for _ in range(DEPTH)] == [0] * DEPTH
    assert module.push(b"x" * 14) == -errno.ENOBUFS
    assert module.push(b"x" * (SLOT + 1)) == -errno.EMSGSIZE


def test_flush_says_that_the_kernel_answered(module: Module) -> None:
    module.push(packet(1))
    module.transmit(packet(2))
    assert module.flush() == PACKETS
    assert module.pull() == packet(2)
    assert module.flush() == 0


def test_a_packet_after_the_last_pull_ends_the_wait(module: Module) -> None:
    module.transmit(packet(1))
    assert module.pull() and module.pull() is None
    module.transmit(packet(2))
    assert module.wait() == PACKETS and not module.asleep
    assert module.wait(50) == PACKETS, "also out of a short sleep"


def test_packets_that_were_left_do_not_end_the_wait_but_later_ones_do(module: Module) -> None:
    module.transmit(packet(1))
    module.transmit(packet(2))
    assert module.pull() == packet(1)
    assert module.wait(more=True) == 0 and module.asleep == 1
    module.transmit(packet(3))
    module.seen = 2
    assert module.word(64) == 2, "what is there was seen"
    assert module.wait(more=False) == PACKETS
    assert module.word(64) == 1, "and now it counts"
    assert module.pull() == packet(2) and module.pull() == packet(3)


def test_an_event_that_a_flush_met_is_the_next_waits(module: Module) -> None:
    module.events = 1 << IRQ
    module.push(packet(1))
    assert module.flush() == 0
    assert (module.wait(), module.asleep) == (1 << IRQ, 0)
    assert (module.wait(), module.asleep) == (0, 1)


@pytest.mark.parametrize("answer", [-errno.ESTALE, loop.lib.USRLOOP_READY_STOP])
def test_the_end_of_the_interface(module: Module, answer: int) -> None:
    module.answer = answer
    assert module.wait() & GONE
    module.push(packet(1))
    module.flush()
    assert module.wait() & GONE


def test_a_signal_is_nothing(module: Module) -> None:
    module.answer = -errno.EINTR
    assert module.wait() == 0


def test_a_socket_is_looked_at_when_nothing_happens(module: Module) -> None:
    ours, theirs = socket.socketpair()
    event = os.eventfd(0)
    with ours, theirs:
        assert module.watch(IRQ, event) == module.watch(HANGUP, ours.fileno()) == 0
        assert module.wait() == 0 and not module.wait(50) & WATCHED
        theirs.send(b"x")
        assert module.wait() == 1 << HANGUP
        assert module.wait(50) & 1 << HANGUP
        assert module.watch(IRQ, ours.fileno()) == -errno.EINVAL, "there is room for one"
        assert module.watch(HANGUP, -1) == 0
        assert module.wait() == 0
    os.close(event)


@pytest.fixture
def mapped(lib: Any) -> Iterator[Module]:
    """With zero copy."""
    module = Module(lib, claim_fd=3)
    yield module
    module.port.ops.close(module.port)
    os.close(module.fd)


TABLE = loop.lib.USRLOOP_NET_TABLE


def segments(*pieces: tuple[int, int]) -> bytes:
    return b"".join(struct.pack("<QII", bus, length, 0) for bus, length in pieces)


def transmit_mapped(module: Module, head: bytes, *pieces: tuple[int, int]) -> None:
    tail = module.word(0)
    os.pwrite(module.fd, segments(*pieces), DATA + tail % DEPTH * SLOT + TABLE)
    length = len(head) + sum(size for _, size in pieces)
    module.transmit(head, length)
    module.write(SQ + tail % DEPTH * 32 + 8, loop.lib.USRLOOP_OP_TX | len(pieces) << 16)


def test_zero_copy_packets_stay_until_they_are_sent(mapped: Module) -> None:
    ops = mapped.port.ops
    p: Any = ffi.new("struct usrdrv_net_packet *")
    assert mapped.port.buffers == DEPTH and not ops.pull and not ops.push
    for number in range(3):
        transmit_mapped(mapped, packet(number, 12 + 54), (0x1000 + number, 1000), (0x9000, 448))
    tokens = []
    for number in range(3):
        assert ops.take(mapped.port, p) == 1
        assert (p.len, p.head_len, p.at, p.pieces) == (54 + 1448, 54, 54, 2)
        assert ffi.buffer(p.head, 54)[:] == packet(number, 66)[12:]
        assert (p.piece[0].addr, p.piece[0].len) == (0x1000 + number, 1000)
        tokens.append(p.token)
    assert ops.take(mapped.port, p) == 0
    assert mapped.wait() == 0 and mapped.done == 0, "none was sent yet"
    for number in (1, 0, 2):
        ops.sent(mapped.port, tokens[number])
    assert mapped.wait() == 0 and mapped.done == 3
    assert [mapped.word(CQ + i * 16) for i in range(3)] == [1, 0, 2]
    assert mapped.stats.copied == 0


def test_zero_copy_frames_are_told_of_where_they_lie(mapped: Module) -> None:
    mapped.takes = False
    ops, size = mapped.port.ops, ffi.new("uint32_t *")
    for slot in range(DEPTH):
        os.pwrite(mapped.fd, segments((slot << 12, 4096)), DATA + (DEPTH + slot) * SLOT + TABLE)
    assert (ops.buffers(mapped.port, size), size[0]) == (DEPTH, 0)
    assert (ops.buffer(mapped.port, DEPTH + 3, size), size[0]) == (3 << 12, 4096)
    ops.received(mapped.port, ffi.new("struct usrdrv_net_header *", {"flags": 2}), [4096, 96], 2)
    ops.received(mapped.port, ffi.NULL, [60], 1)
    assert [mapped.word(RX + 8 * i) for i in range(3)] == [12 + 4096, 96, 0]
    first, third = (mapped.read(DATA + (DEPTH + i) * SLOT, 12) for i in (0, 2))
    assert first[0] == 2 and first[10:] == b"\2\0" and third == bytes(10) + b"\1\0"
    mapped.write(4, 2)
    assert (ops.buffers(mapped.port, size), size[0]) == (DEPTH + 2, 3)
