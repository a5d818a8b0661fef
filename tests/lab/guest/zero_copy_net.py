# SPDX-License-Identifier: MIT
"""Runs in a guest: a server of an interface with zero copy that says what no driver would.

It has claimed a NIC and tells it nothing, so what is in the pages is what the kernel put there: zeroes.
"""

from __future__ import annotations

import ctypes
import os
import resource
import socket
import struct
import subprocess
import sys
from typing import Any

from scenario import locked, wait

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.device import open_device

lib, ffi = loop.lib, loop.ffi
HEADER, PAGE, DEPTH = 12, 4096, 64
NAME = "usrbad"
FEATURES = lib.USRLOOP_NET_ZERO_COPY | lib.USRLOOP_NET_CSUM | lib.USRLOOP_NET_TSO
WORK, REFUSED = lib.USRLOOP_READY_WORK, lib.USRLOOP_READY_REFUSED


def counters() -> dict[str, int]:
    text = subprocess.run(
        ["ethtool", "-S", NAME], check=True, capture_output=True, text=True
    ).stdout
    pairs = (line.split(":") for line in text.splitlines() if "queue0_" in line)
    return {name.strip().removeprefix("queue0_"): int(value) for name, value in pairs}


def refused_to_attach(wanted: str, id: int, claim: int) -> None:
    """Nobody becomes a server without a claim, and who fails keeps his."""
    with loop.Control() as other:
        try:
            other.attach(lib.USRLOOP_NET, id, claim)
        except errors.UsrdrvError as error:
            assert wanted in str(error), error
        else:
            raise AssertionError(f"attached with {claim}")


def ipc_lock(on: bool) -> None:
    """Have CAP_IPC_LOCK in force, or not (capset(2))."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("=Ii", 0x20080522, 0)
    words = ctypes.create_string_buffer(24)
    assert libc.capget(header, words) == 0
    caps = list(struct.unpack("=6I", words.raw))
    caps[0] = caps[0] | 1 << 14 if on else caps[0] & ~(1 << 14)
    assert libc.capset(header, struct.pack("=6I", *caps)) == 0


def attach_with_a_limit(control: loop.Control, id: int, claim: int) -> Any:
    """Without CAP_IPC_LOCK what the kernel keeps for us counts: the session, pages for frames, tables."""
    before, limits = locked(), resource.getrlimit(resource.RLIMIT_MEMLOCK)
    ipc_lock(False)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (before + DEPTH * PAGE, limits[1]))
    refused_to_attach("RLIMIT_MEMLOCK", id, claim)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, limits)
    attach = control.attach(lib.USRLOOP_NET, id, claim)
    ipc_lock(True)
    # Of each packet to the wire the kernel notes where its pieces are: an address and a length.
    pieces = 16 * lib.USRLOOP_NET_SEGMENTS
    assert locked() - before > attach.size + DEPTH * (PAGE + pieces)
    return attach


class Bad:
    """The server."""

    def __init__(self, control: loop.Control, attach: Any) -> None:
        self.server = loop.Server(control, attach)
        self.q = self.server.queue[0]

    def enter(self) -> int:
        return self.server.enter(0, lib.USRLOOP_ENTER_NOWAIT)

    def received(self, *lengths: int, buffers: int | None = None, gso: int = 0) -> None:
        """Say that a frame is there, in entries of these lengths."""
        slot = self.q.mask + 1 + (self.q.rx_tail & self.q.mask)
        number = len(lengths) if buffers is None else buffers
        header = bytes((0, gso)) + bytes(8) + number.to_bytes(2, "little")
        self.server.data(slot, HEADER)[:] = header
        for length in lengths:
            self.q.rx[self.q.rx_tail & self.q.mask].len = length
            self.q.rx_tail += 1
        assert self.enter() >= 0
        assert self.q.ring.rx_head == self.q.rx_tail, "the slots are free again"

    def complete(self, tag: int, seq: int) -> int:
        entry = self.q.cq[self.q.cq_tail & self.q.mask]
        entry.tag, entry.seq, entry.result, entry.reserved = tag, seq, 0, 0
        self.q.cq_tail += 1
        return self.enter()

    def next(self) -> Any:
        """The next packet of ours, if there is one: others send, too."""
        while self.q.sq_head != self.q.ring.sq_tail:
            sqe = self.q.sq[self.q.sq_head & self.q.mask]
            self.q.sq_head += 1
            if sqe.segments:
                return sqe
            assert self.complete(sqe.tag, sqe.seq) & REFUSED == 0
        return None

    def wait_next(self) -> Any:
        """The next packet of ours: what another processor has begun to send goes before it."""
        sqe = None

        def came() -> bool:
            nonlocal sqe
            sqe = self.next()
            return sqe is not None

        wait(came, "a packet of ours")
        return sqe


def bad_frames(bad: Bad) -> None:
    before = counters()
    wrong: list[tuple[tuple[int, ...], dict[str, int]]] = [
        *(((length,), {}) for length in (0, 1, HEADER, HEADER + 13, HEADER + PAGE + 1, 0xFFFFFFFF)),
        *(((HEADER + 60,), {"buffers": n}) for n in (0, 2, 18, 0xFFFF)),
        ((HEADER + 60, 60), {}),  # a second page, and the first one nearly empty
        ((HEADER + PAGE, 0), {}),
        ((HEADER + PAGE, PAGE + 1), {}),
        ((HEADER + 60,), {"gso": 1}),  # a segment size of 0
        ((HEADER + 60,), {"gso": 99}),
    ]
    for lengths, more in wrong:
        bad.received(*lengths, **more)
    errors_of = counters()["rx_errors"] - before["rx_errors"]
    assert errors_of == len(wrong), f"{errors_of} of {len(wrong)}"
    good = [(14,), (60,), (256,), (257,), (PAGE,), (PAGE, 1), (300, PAGE, PAGE)]
    for sizes in good * DEPTH:  # around the ring: every page was exchanged
        bad.received(HEADER + sizes[0], *sizes[1:])
    after = counters()
    assert after["rx_packets"] - before["rx_packets"] >= len(good) * DEPTH, after
    assert after["rx_errors"] - before["rx_errors"] == len(wrong)
    bad.q.ring.rx_tail = bad.q.rx_tail = (bad.q.rx_tail + 5 * DEPTH) & 0xFFFFFFFF
    assert bad.enter() >= 0


def bad_completions(bad: Bad) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as s:
        s.sendto(b"\x5a" * 1400, ("10.99.0.2", 9))
        sqe = bad.wait_next()
        assert sqe.len == HEADER + 42 + 1400
        table = ffi.cast(
            "struct usrloop_segment *", lib.loop_slot(bad.q, sqe.tag) + lib.USRLOOP_NET_TABLE
        )
        rest = sum(table[i].len for i in range(sqe.segments))
        head = sqe.len - HEADER - rest
        assert 42 <= head <= lib.USRLOOP_NET_HEAD and table[0].addr, (head, sqe.segments)
        # The table is only told: what is in it afterwards is not believed.
        table[0].addr, table[0].len = 0xDEAD0000, 1 << 30
        for tag, seq in ((sqe.tag, sqe.seq + 1), (DEPTH, sqe.seq), (0xFFFFFFFF, 0)):
            assert bad.complete(tag, seq) & REFUSED
        assert bad.complete(sqe.tag, sqe.seq) & REFUSED == 0
        assert bad.complete(sqe.tag, sqe.seq) & REFUSED, "twice"
        for _ in range(4):  # these stay on their way until we are gone
            s.sendto(b"\xa5" * 1400, ("10.99.0.2", 9))
        bad.wait_next()


def main(address: str, how: str) -> None:
    before = locked()
    with open_device(address) as device, loop.Control() as control:
        wanted = loop.Interface(name=NAME, features=FEATURES, depth=DEPTH)
        id = int(control.create(wanted).id)
        refused_to_attach("Bad file descriptor", id, -1)
        with open("/dev/null", "rb") as null:
            refused_to_attach("Invalid argument", id, null.fileno())
        attach = attach_with_a_limit(control, id, device.claim_fd)
        assert attach.claim_fd == device.claim_fd
        refused_to_attach("in use", id, device.claim_fd)
        device.config_read(0, 4)  # the claim is there
        control.start()
        control.carrier(1000)
        subprocess.run(["ip", "addr", "add", "10.99.0.1/24", "dev", NAME], check=True)
        subprocess.run(["ip", "link", "set", NAME, "up"], check=True)
        neighbour = ["ip", "neigh", "add", "10.99.0.2", "lladdr", "02:00:00:00:00:99", "dev", NAME]
        subprocess.run(neighbour, check=True)
        bad = Bad(control, attach)
        bad_frames(bad)
        bad_completions(bad)
        if how == "claim":
            device.close()  # under the interface, with packets on their way
            sqe = bad.next()  # if there is another one yet: byte queue limits
            assert sqe is None or bad.complete(sqe.tag, sqe.seq) >= 0, "too late"
            bad.q.rx_tail += 1
            assert bad.enter() >= 0
        elif how == "stop":
            control.stop(force=True)  # and the device stays ours to serve
        elif how == "die":
            print("ok", flush=True)
            os.kill(os.getpid(), 9)
        bad.server.close()
    assert locked() == before
    print("ok", flush=True)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
