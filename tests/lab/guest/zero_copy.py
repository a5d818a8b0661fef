# SPDX-License-Identifier: MIT
"""Runs in the guest: a scenario with a disk in zero copy, named on the command line. Prints JSON, or nothing."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import hashlib
import itertools
import json
import mmap
import os
import random
import re
import signal
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from scenario import PATIENCE, locked, main
from usr_pci import INTX, Claim, error_of
from usrloop_rig import attach, create_refused, in_flight, raw, refused, wait

from usrdrv.loop import Control, Disk, Server, lib, new

PAGE = 4096
SIZE = 1 << 20
ZERO_COPY = Disk(
    SIZE,
    features=lib.USRLOOP_BLK_ZERO_COPY,
    max_io=256 << 10,
    max_segments=64,
    segment_mask=0xFFFF,
    policy="fail-new",
    depth=8,
)


def frames(memory: mmap.mmap) -> list[int]:
    """Physical addresses of the pages of `memory` (Documentation/admin-guide/mm/pagemap.rst)."""
    start = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    with open("/proc/self/pagemap", "rb", buffering=0) as file:
        file.seek(start // PAGE * 8)
        entries = struct.unpack(f"={len(memory) // PAGE}Q", file.read(len(memory) // PAGE * 8))
    return [(entry & ((1 << 55) - 1)) * PAGE for entry in entries]


def shared_with(pid: int) -> bytes:
    """All memory of a process that it has from somebody: of usrloop, of its device as far as that can be read."""
    found = b""
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            place = re.match(r"([0-9a-f]+)-([0-9a-f]+) r\S+s ", line)
            if place:
                start, end = (int(place[number], 16) for number in (1, 2))
                memory.seek(start)
                with contextlib.suppress(OSError):
                    found += memory.read(end - start)
    return found


def pages(device: str, pid: str, translated: str) -> None:
    """The driver is stopped with a write in its hands: it has the addresses of our pages, and no byte of them."""
    size = 16 * PAGE
    memory = mmap.mmap(-1, size)
    memory[:] = os.urandom(16) * (size // 16)
    places = frames(memory)
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    os.kill(int(pid), signal.SIGSTOP)
    try:
        writer = threading.Thread(target=os.pwrite, args=(fd, memory, 4 << 20))
        writer.start()
        wait(lambda: in_flight(device) == 1, "the write is under way")
        shared = shared_with(int(pid))
        assert writer.is_alive(), "who wrote that?"
    finally:
        os.kill(int(pid), signal.SIGCONT)
    writer.join(PATIENCE)
    assert not writer.is_alive()
    assert len(shared) > size
    assert memory[:64] not in shared, "data were copied"
    named = [place for place in places if struct.pack("=Q", place) in shared]
    again = mmap.mmap(-1, size)
    assert os.preadv(fd, [again], 4 << 20) == size and again[:] == memory[:]
    # Neighbours are one segment. An IOMMU gives them addresses of its own.
    assert (not named) if translated == "iommu" else places[0] in named, (places, named)
    print(json.dumps({"shared": len(shared), "named": len(named)}))


def pieces(device: str) -> None:
    """Requests of many small pieces, and the largest; read back, and from the page cache."""
    chance = random.Random(1)
    memory = mmap.mmap(-1, 4 << 20)
    memory[:] = chance.randbytes(len(memory))
    view = memoryview(memory)
    fd = os.open(device, os.O_RDWR | os.O_DIRECT)
    want, at = hashlib.sha256(), 0
    for total in (4096, 64 << 10, 256 << 10, 1 << 20):
        cuts = sorted(chance.sample(range(512, total, 512), min(200, total // 1024)))
        parts, source = [], 4
        for begin, end in zip([0, *cuts], [*cuts, total], strict=True):
            parts.append(view[source : source + end - begin])
            source += end - begin + 4 * chance.randrange(1, 64)
        assert os.pwritev(fd, parts, at) == total
        back = mmap.mmap(-1, total + PAGE)
        # An address that no page begins at, either.
        assert os.preadv(fd, [memoryview(back)[4 : 4 + total]], at) == total
        assert back[4 : 4 + total] == b"".join(parts)
        want.update(back[4 : 4 + total])
        at += total
    os.fsync(fd)
    print(json.dumps({"bytes": at, "sha256": want.hexdigest()}))


def held(device: str) -> None:
    """A read that takes its time; what becomes of it."""
    memory = mmap.mmap(-1, 256 << 10)
    fd = os.open(device, os.O_RDONLY | os.O_DIRECT)
    print("reading", flush=True)
    begun = time.monotonic()
    failed = error_of(os.preadv, fd, [memory], 8 << 20)
    print(json.dumps({"errno": failed, "seconds": time.monotonic() - begun, "first": memory[0]}))


def keep_claim(pid: str) -> None:
    """Have the driver's claim open, too: its death does not end it."""
    name = next(
        int(fd.name)
        for fd in Path(f"/proc/{pid}/fd").iterdir()
        if str(fd.readlink()) == "anon_inode:[usrdrv]"
    )
    libc = ctypes.CDLL(None)
    pidfd = os.pidfd_open(int(pid))
    mine = libc.syscall(438, pidfd, name, 0)  # pidfd_getfd
    assert mine >= 0
    print("kept", flush=True)
    wait(lambda: error_of(os.pread, mine, 4, 7 << 40) == "ENODEV", "the claim ends")
    print("ended", flush=True)


class Silent(threading.Thread):
    """Answers until it is told not to, and never asks the device; keeps what it was asked for then."""

    def __init__(self, control: Control, claim: Claim) -> None:
        super().__init__(daemon=True)
        self.server = Server(control, control.attach(claim_fd=claim.fd))
        # Whatever is taken from it is, with a handler that may end it, too.
        steps = {"steps": len(STEPS), "step": STEPS}
        raw(control, lib.USRLOOP_IOC_FINISH, new("finish", **steps))
        self.server.queue[0].ring.finish = lib.USRLOOP_FINISH_ARMED
        self.silent = False
        self.kept: list[tuple[int, list[tuple[int, int]]]] = []
        self.start()

    def run(self) -> None:
        q = self.server.queue[0]
        while True:
            got = self.server.enter()
            if (got < 0 and got != -errno.EINTR) or (got > 0 and got & lib.USRLOOP_READY_STOP):
                return
            while got > 0 and (sqe := lib.loop_next(q)):
                if self.silent:
                    table = self.server.data(sqe.tag, 16 * sqe.segments)[:]
                    fields = struct.iter_unpack("=QIxxxx", table)
                    self.kept.append((sqe.len, [(addr, size) for addr, size in fields]))
                else:
                    lib.loop_complete(q, sqe.tag, sqe.seq, 0)


class Asked:
    """A disk whose server has gone silent over a read of 64 KiB."""

    def __init__(self, address: str, **changes: Any) -> None:
        self.claim = Claim(address)
        self.control = Control()
        info = self.control.create(Disk(**{**vars_of(ZERO_COPY), **changes}))
        self.server = Silent(self.control, self.claim)
        self.control.start()
        self.fd = os.open(f"/dev/usrblk{info.id}", os.O_RDWR | os.O_DIRECT)
        self.server.silent = True
        self.failed = ""
        self.claim_then = ""
        self.client = threading.Thread(target=self._read, daemon=True)
        self.client.start()
        wait(lambda: self.server.kept or not self.server.is_alive(), "it is asked")

    def _read(self) -> None:
        memory = mmap.mmap(-1, 64 << 10)
        self.failed = error_of(os.preadv, self.fd, [memory], 0)
        self.claim_then = error_of(os.pread, self.claim.fd, 4, self.claim.regions[7].offset)

    def failed_after_the_claim(self) -> None:
        """The read ended with an error, and by then the device could not reach its pages."""
        self.client.join(PATIENCE)
        assert (self.failed, self.claim_then) == ("EIO", "ENODEV"), vars(self)

    def close(self) -> None:
        os.close(self.fd)
        self.control.close()
        self.server.join(PATIENCE)
        assert not self.server.is_alive()
        self.server.server.close()
        self.claim.close()


def vars_of(disk: Disk) -> dict[str, Any]:
    names = (name for name in Disk.__dataclass_fields__ if name != "kind")
    return {name: getattr(disk, name) for name in names}


def table(address: str) -> None:
    """What the slot says: all of the data, in pieces that cross no 64 KiB."""
    asked = Asked(address)
    (length, segments), *_ = asked.server.kept
    assert length == 64 << 10 == sum(size for _, size in segments)
    assert all(addr // 65536 == (addr + size - 1) // 65536 for addr, size in segments), segments
    assert all(addr + size <= 1 << 32 for addr, size in segments), segments
    asked.control.detach()
    asked.failed_after_the_claim()
    asked.close()


def taken(address: str, how: str) -> None:
    """A request is taken from a server that has not answered: the device is stopped first."""
    timeout = 500 if how == "timeout" else 0
    asked = Asked(address, timeout_ms=timeout)
    while not asked.server.kept:  # on a busy machine it may be late with its answers before
        assert timeout
        asked.close()
        timeout *= 2
        asked = Asked(address, timeout_ms=timeout)
    if how == "detach":
        asked.control.detach()
    elif how == "stop":
        asked.control.stop(force=True)
    elif how == "delete":
        asked.control.delete(force=True)
    elif how == "claim":
        # The device is gone, its server is not: who asks waits, as for any that does not answer.
        asked.claim.close()
        asked.client.join(1)
        assert asked.client.is_alive()
        again = Claim(address)
        asked.claim = again
        asked.control.detach()
        asked.client.join(PATIENCE)
        assert (asked.failed, asked.claim_then) == ("EIO", ""), "not the claim of another"
        asked.close()
        return
    asked.failed_after_the_claim()
    asked.close()


def idle(address: str) -> None:
    """Nothing is in flight: a claim outlives its session, and serves another one."""
    claim = Claim(address)
    with Control() as control:
        number = control.create(ZERO_COPY).id
        before = locked()
        server = Silent(control, claim)
        # Of each request the kernel notes where its pieces are: a page, an offset, a length and an address.
        pieces = 24 * ZERO_COPY.depth * ZERO_COPY.max_segments
        assert locked() - before > server.server.attach.size + pieces
        control.start()
        fd = os.open(f"/dev/usrblk{number}", os.O_RDWR | os.O_DIRECT)
        control.detach()
        server.join(PATIENCE)
        assert not server.is_alive()
        assert error_of(os.pread, claim.fd, 4, claim.regions[7].offset) == ""
        with Control() as second:
            refused(errno.EBADF, attach, second, number)
            refused(errno.EBADF, attach, second, number, claim_fd=999)
            refused(errno.EINVAL, attach, second, number, claim_fd=fd)
            assert second.attach(lib.USRLOOP_BLOCK, number, claim.fd).claim_fd == claim.fd
            control.resize(SIZE // 2)
            assert os.lseek(fd, 0, os.SEEK_END) == SIZE // 2
            assert error_of(Path("/sys/module/usrloop/refcnt").read_text) == ""
            assert int(Path("/sys/module/usrloop/refcnt").read_text()) > 0
        other = os.dup(claim.fd)
        claim.close()
        assert error_of(os.pread, other, 4, claim.regions[7].offset) == "", "open still"
        os.close(other)
        os.close(fd)
    with Control() as control:
        control.create(ZERO_COPY)
        dead = Claim(address)
        Path("/sys/bus/pci/drivers/usrdrv/unbind").write_text(address)
        refused(errno.ENODEV, attach, control, claim_fd=dead.fd)
        dead.close()
    for changes in (
        {"blk_max_segments": 0},
        {"blk_max_segments": 4097},
        {"blk_segment_mask": 0x7FF},
        {"blk_segment_mask": 0x12345},
    ):
        create_refused(errno.EINVAL, ZERO_COPY, **changes)


BUS_MASTER, SCRATCH, LATCH, SOFTWARE, DRIVE, STATUS = 0x00, 0x01, 0x02, 0x4C, 0x86, 0x87
"""Registers of BAR 5 (docs/hardware/cmd680.md, sections 3 and 4). SCRATCH and SOFTWARE do nothing."""
FLUSH_CACHE = 0xE7
WANTED = 0x005A0000
STEPS: list[dict[str, int]] = [
    {"op": lib.USRLOOP_STEP_EXPECT, "width": 4, "offset": BUS_MASTER}
    | {"mask": 0x00070000, "value": 0x00040000},
    {"op": lib.USRLOOP_STEP_EXPECT, "width": 4, "offset": SOFTWARE}
    | {"mask": 0x00FF0000, "value": WANTED},
    {"op": lib.USRLOOP_STEP_WRITE, "width": 1, "offset": SCRATCH}
    | {"shift": 18, "mask": 0x01, "value": 0x2A},
    {"op": lib.USRLOOP_STEP_EXPECT, "width": 1, "offset": STATUS, "mask": 0xC9, "value": 0x40},
    {"op": lib.USRLOOP_STEP_WRITE, "width": 1, "offset": LATCH, "value": 0x04},
]
"""A drive's interrupt, and the register that tells it; what is found is echoed; the interrupt is taken back."""
for _step in STEPS:
    _step["bar"] = 5
BELL = 2
"""Place of the interrupt's eventfd."""


class Finishing:
    """A disk, its server, the controller that it has claimed, and a client that reads."""

    def __init__(self, address: str) -> None:
        self.claim = Claim(address)
        self.control = Control()
        self.device = f"/dev/usrblk{self.control.create(ZERO_COPY).id}"
        self.server = Server(self.control, self.control.attach(claim_fd=self.claim.fd))
        self.ring = self.server.queue[0].ring
        bell, unmask = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
        self.irq = self.claim.irq_set(INTX, bell, unmask)
        self.told = 0
        self.before = self.interrupts()
        self.claim.unmask()
        event = {"index": BELL, "fd": bell, "ack_fd": unmask}
        raw(self.control, lib.USRLOOP_IOC_EVENTFD, new("eventfd", **event))
        self.control.start()
        self.answers: list[str] = []
        self._opened, self._go = threading.Event(), threading.Event()
        self.client = threading.Thread(target=self._read, daemon=True)
        self.client.start()
        while not self._opened.is_set():  # who opens it first looks for partitions
            assert self.client.is_alive()
            self.server.enter(timeout_ms=100)
            while sqe := lib.loop_next(self.server.queue[0]):
                lib.loop_complete(self.server.queue[0], sqe.tag, sqe.seq, 0)
        self._go.set()
        self.comes()

    def _read(self) -> None:
        memory = mmap.mmap(-1, PAGE)
        fd = os.open(self.device, os.O_RDWR | os.O_DIRECT)
        self._opened.set()
        self._go.wait()
        for number in range(4):
            self.answers.append(error_of(os.preadv, fd, [memory], number * PAGE))
        os.close(fd)

    def wait_for_ready(self, wanted: int) -> None:
        """Sleep in ENTER until that is ready.

        The server is told of interrupts that were about nothing, too: a model whose client is silent for 2 ms
        raises its line anew, also when the handler is about to take the interrupt back.
        """
        allowed = (lib.USRLOOP_READY_WORK, lib.USRLOOP_READY_EVENT << BELL, -errno.EBUSY)
        got = 0
        while got < 0 or not got & wanted:
            got = self.server.enter(flags=lib.USRLOOP_ENTER_ACK, timeout_ms=PATIENCE * 1000)
            assert got in (*allowed, allowed[0] | allowed[1]), got
            self.told += got > 0 and bool(got & lib.USRLOOP_READY_EVENT << BELL)

    def comes(self) -> None:
        """Wait for a request, and name it."""
        self.wait_for_ready(lib.USRLOOP_READY_WORK)
        self.sqe = lib.loop_next(self.server.queue[0])
        self.ring.finish_tag, self.ring.finish_seq = self.sqe.tag, self.sqe.seq

    def complete(self) -> None:
        """As ever."""
        lib.loop_complete(self.server.queue[0], self.sqe.tag, self.sqe.seq, 0)

    def register(self, at: int) -> int:
        return os.pread(self.claim.fd, 1, self.claim.regions[5].offset + at)[0]

    def put(self, at: int, value: int, width: int = 1) -> None:
        os.pwrite(self.claim.fd, value.to_bytes(width, "little"), self.claim.regions[5].offset + at)

    def want(self, value: int) -> None:
        self.put(SOFTWARE, value, 4)

    def interrupt(self) -> None:
        """Have the drive do something that ends with one."""
        self.put(DRIVE, 0xE0)
        self.put(STATUS, FLUSH_CACHE)

    def interrupt_when_asleep(self) -> None:
        """Once the server is in ENTER, where it has its steps."""
        while error_of(self.steps, *STEPS) != "EBUSY":
            time.sleep(0.01)  # and again
        self.interrupt()

    def is_told(self, condition: Callable[[], object]) -> None:
        """The interrupt comes to the server; by then that is so."""
        self.interrupt()
        self.wait_for_ready(lib.USRLOOP_READY_EVENT << BELL)
        while not condition():
            self.wait_for_ready(lib.USRLOOP_READY_EVENT << BELL)

    def is_left(self) -> None:
        """The interrupt is the server's to look at, and to take back."""
        self.is_told(lambda: self.register(LATCH) & 0x04)
        assert self.register(STATUS) & 0xC9 == 0x40
        self.put(LATCH, 0x04)

    def interrupts(self) -> int:
        """How many there were on the line, of ours or of others (/proc/interrupts)."""
        for line in Path("/proc/interrupts").read_text().splitlines():
            name, _, rest = line.partition(":")
            if name.strip() == str(self.irq):
                counts = itertools.takewhile(str.isdigit, rest.split())
                return sum(map(int, counts))
        raise AssertionError(f"no interrupt {self.irq}")

    def steps(self, *steps: dict[str, int], **changes: Any) -> None:
        wanted = {"steps": len(steps), "step": list(steps), **changes}
        raw(self.control, lib.USRLOOP_IOC_FINISH, new("finish", **wanted))


def finish(address: str) -> None:
    """Requests that are ended in the interrupt's handler, and when they are not."""
    f = Finishing(address)
    off, armed, done = (getattr(lib, f"USRLOOP_FINISH_{x}") for x in ("OFF", "ARMED", "DONE"))
    bad: list[dict[str, int]] = [
        *({"op": op} for op in (0, 3, 255)),
        *({"bar": bar} for bar in (6, 255)),
        *({"width": width} for width in (0, 3, 8)),
        *({"offset": offset} for offset in (2, 253, 256, 0xFFFFFFFC)),
        {"shift": 1},
        {"mask": 0},
        {"op": lib.USRLOOP_STEP_WRITE},
    ]
    for change in bad:
        refused(errno.EINVAL, f.steps, {**STEPS[0], **change})
    refused(errno.EINVAL, f.steps, {**STEPS[1], "bar": 4})  # it has no such offset
    refused(errno.EINVAL, f.steps, {**STEPS[2], "shift": 32})
    for wrong in ({"queue": 1}, {"steps": 9}, {"flags": 1}, {"steps": len(STEPS) - 1}):
        refused(errno.EINVAL, f.steps, *STEPS, **wrong)
    f.steps(*STEPS)

    # Done, while the server sleeps: it wakes up with the next request.
    f.want(WANTED)
    f.ring.finish = armed
    threading.Thread(target=f.interrupt_when_asleep, daemon=True).start()
    f.comes()
    assert f.answers == [""]
    wait(lambda: f.ring.finish == done, "the handler says so after the request's end")
    assert f.register(SCRATCH) == 0x2B and not f.register(LATCH) & 0x04

    # Done before it sleeps.
    f.ring.finish = armed
    f.interrupt()
    wait(lambda: f.ring.finish == done, "the handler ends the request")
    wait(lambda: len(f.answers) == 2, "the client has its answer")
    f.comes()

    # Not done; not to be looked at; nobody said how.
    f.want(WANTED ^ 0x00010000)
    f.ring.finish = armed
    f.is_left()
    wait(lambda: f.ring.finish == armed, "the handler gives the word back")
    f.want(WANTED)
    f.ring.finish = off
    f.is_left()
    f.steps()
    f.ring.finish = armed
    f.is_left()
    assert f.ring.finish == armed and len(f.answers) == 2
    # The first steps find what they expect, the last one does not.
    f.steps(*STEPS[:3], {**STEPS[3], "value": 0x41})
    f.put(SCRATCH, 0)
    f.is_left()
    assert f.register(SCRATCH) == 0x2B and len(f.answers) == 2
    f.complete()
    f.comes()

    # Another use of the slot, and no slot: the device has been told, and nobody's request ends. The server hears.
    f.steps(*STEPS)
    for number, (tag, seq) in enumerate(((f.sqe.tag, f.sqe.seq + 1), (0xFFFFFFFF, f.sqe.seq)), 1):
        f.ring.finish_tag, f.ring.finish_seq, f.ring.finish = tag, seq, armed
        f.is_told(lambda: f.ring.finish == done)
        assert f.control.query().refused == number
    assert len(f.answers) == 3
    f.complete()
    f.server.enter(flags=lib.USRLOOP_ENTER_NOWAIT)
    f.client.join(PATIENCE)
    assert f.answers == [""] * 4 and f.control.query().refused == 2
    # Nobody is told of the interrupts that ended a request.
    assert 6 <= f.told <= f.interrupts() - f.before - 2, (f.told, f.interrupts() - f.before)
    f.control.delete(force=True)
    f.ring.finish = armed
    f.claim.close()
    refused(errno.ENODEV, f.steps, *STEPS)
    f.server.close()
    f.control.close()


SCENARIOS: dict[str, Callable[..., None]] = {
    function.__name__: function
    for function in (pages, pieces, held, keep_claim, table, taken, idle, finish)
}
if __name__ == "__main__":
    main(SCENARIOS)
