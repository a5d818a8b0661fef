# SPDX-License-Identifier: MIT
"""Runs in the guest: one scenario with QEMU's edu devices, named on the command line. Silent if all is well."""

from __future__ import annotations

import ctypes
import mmap
import os
import sys
import threading
import time
from pathlib import Path

from scenario import PATIENCE, main, wait
from usr_pci import (
    CAN_RESET,
    FROM_DEVICE,
    HAS_MSI,
    INTX,
    INTX_SHARED,
    MSI,
    TO_DEVICE,
    TRANSLATED,
    Edu,
    error_of,
    readable,
)

FIRST, SECOND = sys.argv[2:4]


def interrupts(number: int) -> int:
    """How often an interrupt has come, on all CPUs."""
    for line in Path("/proc/interrupts").read_text().splitlines():
        name, _, rest = line.partition(":")
        if name.strip() == str(number):
            counts = []
            for word in rest.split():
                if not word.isdigit():
                    break
                counts.append(int(word))
            return sum(counts)
    return 0


def interrupt(irq: int) -> bool:
    """Let it through and wait for it; it may come at once."""
    return error_of(os.read, irq, 4) == "" or (
        readable(irq, PATIENCE) and len(os.read(irq, 4)) == 4
    )


def registers() -> None:
    """The device answers, through the mapping and through the file."""
    edu = Edu(FIRST)
    assert edu.read(Edu.ID) & 0xFF == 0xED
    edu.write(Edu.LIVENESS, 0x12345678)
    assert edu.read(Edu.LIVENESS) == 0xFFFFFFFF & ~0x12345678
    file = os.pread(edu.fd, 4, edu.regions[0].offset + Edu.LIVENESS)
    assert int.from_bytes(file, "little") == edu.read(Edu.LIVENESS)
    os.pwrite(edu.fd, b"\x05\0\0\0", edu.regions[0].offset + Edu.FACTORIAL)
    while edu.read(Edu.STATUS) & 1:
        pass
    assert edu.read(Edu.FACTORIAL) == 120
    edu.close()


def file_intx() -> None:
    """/proc/irq/N/irq: the paper's loop."""
    edu = Edu(FIRST)
    assert edu.flags & INTX_SHARED and edu.flags & HAS_MSI
    irq = os.open(f"/proc/irq/{edu.irq}/irq", os.O_RDWR | os.O_NONBLOCK)
    assert error_of(os.read, irq, 4) == "EAGAIN"
    before = interrupts(edu.irq)
    for round_ in range(1, 21):
        edu.write(Edu.RAISE, round_)
        assert readable(irq, PATIENCE)
        # Raised still, and masked: it does not come again.
        assert interrupts(edu.irq) == before + round_
        assert int.from_bytes(os.read(irq, 4), "little") == 1
        assert edu.config(4, 2) & 0x400, "interrupt disable is not set"
        assert edu.read(Edu.RAISED) == round_
        edu.write(Edu.ACK, round_)
        assert error_of(os.read, irq, 4) == "EAGAIN"
        assert not readable(irq, 0)
    # Not acknowledged: it comes again as soon as it is let through.
    edu.write(Edu.RAISE, 1)
    for _ in range(5):
        assert interrupt(irq)
    edu.write(Edu.ACK, 1)
    os.close(irq)
    edu.close()


def file_blocks() -> None:
    """read() waits, also when the interrupt is late."""
    edu = Edu(FIRST)
    irq = os.open(f"/proc/irq/{edu.irq}/irq", os.O_RDWR)
    start = time.monotonic()
    threading.Timer(0.5, edu.write, (Edu.RAISE, 1)).start()
    assert int.from_bytes(os.read(irq, 4), "little") == 1
    assert time.monotonic() - start >= 0.5
    edu.write(Edu.ACK, 1)
    os.close(irq)
    edu.close()


def eventfds() -> None:
    """One is signalled, the other lets the interrupt through."""
    edu = Edu(FIRST)
    event, unmask = (os.eventfd(0, os.EFD_NONBLOCK) for _ in range(2))
    assert edu.irq_set(INTX, event, unmask) == edu.irq
    for round_ in range(20):
        edu.write(Edu.RAISE, 1)
        assert readable(event, PATIENCE) and os.eventfd_read(event) == 1
        edu.write(Edu.ACK, 1)
        if round_ & 1:
            edu.unmask()
        else:
            os.eventfd_write(unmask, 1)
    edu.write(Edu.RAISE, 1)
    assert readable(event, PATIENCE)
    for _ in range(5):  # it is still raised
        os.eventfd_read(event)
        os.eventfd_write(unmask, 1)
        assert readable(event, PATIENCE)
    edu.close()


def msi() -> None:
    """Has a number of its own, is not masked, and goes back to INTx."""
    edu = Edu(FIRST)
    event = os.eventfd(0, os.EFD_NONBLOCK)
    number = edu.irq_set(MSI, event)
    assert number not in (0, edu.irq)
    for _ in range(20):
        edu.write(Edu.RAISE, 1)
        assert readable(event, PATIENCE)
        os.eventfd_read(event)
        edu.write(Edu.ACK, 1)
    assert interrupts(number) == 20
    assert edu.irq_set(MSI) == number
    irq = os.open(f"/proc/irq/{number}/irq", os.O_RDWR)
    before = interrupts(number)
    for count in range(1, 4):
        edu.write(Edu.RAISE, 1)
        wait(lambda n=before + count: interrupts(number) == n, f"interrupt {count} of 3")  # type: ignore[misc]
        edu.write(Edu.ACK, 1)
    assert int.from_bytes(os.read(irq, 4), "little") == 3
    os.close(irq)
    assert edu.irq_set(INTX, event) == edu.irq
    edu.write(Edu.RAISE, 1)
    assert readable(event, PATIENCE)
    edu.write(Edu.ACK, 1)
    edu.close()


def shared_line() -> None:
    """Two functions on one line, each told of its own only."""
    one, other = Edu(FIRST), Edu(SECOND)
    assert one.irq == other.irq, "the test's devices do not share a line"
    files = [os.open(f"/proc/irq/{one.irq}/irq", os.O_RDWR | os.O_NONBLOCK) for _ in range(2)]
    assert error_of(os.open, f"/proc/irq/{one.irq}/irq", os.O_RDWR) == "EBUSY"
    for irq in files:
        assert error_of(os.read, irq, 4) == "EAGAIN"
    for edu, mine, others in ((one, files[0], files[1]), (other, files[1], files[0])):
        edu.write(Edu.RAISE, 1)
        assert readable(mine, PATIENCE) and not readable(others, 0.1)
        edu.write(Edu.ACK, 1)
        os.read(mine, 4)
    one.close()
    assert error_of(os.read, files[0], 4) == "ENODEV"
    other.write(Edu.RAISE, 1)
    assert interrupt(files[1])
    other.close()
    assert not Path(f"/proc/irq/{other.irq}/irq").exists()


def consistent() -> None:
    """What the CPU writes the device reads, and the other way round."""
    edu = Edu(FIRST)
    number, bus, memory = edu.alloc(8192)
    memory[:4096] = os.urandom(4096)
    edu.fetch(bus, 4096)
    edu.store(bus + 4096, 4096)
    assert memory[4096:] == memory[:4096]
    memory.close()
    assert number and error_of(edu.unmap, number) == "ENOENT"
    edu.close()


def streaming() -> None:
    """Segment by segment, at odd places; both directions; several mappings one after the other."""
    edu = Edu(FIRST)
    memory = mmap.mmap(-1, 1 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    old = None
    for at, size in ((0, 4096), (123, 1000), (4000, 3000), (65536 - 8, 16), (999, 20000)):
        data = os.urandom(size)
        memory[at : at + size] = data
        target = 512 * 1024 + at
        out, source = edu.stream(address + at, size, TO_DEVICE, old)
        old, sink = edu.stream(address + target, size, FROM_DEVICE)
        assert sum(length for _, length in source) == size
        copy(edu, source, sink)
        edu.unmap(old)
        old = out
        assert memory[target : target + size] == data
    edu.close()


def copy(edu: Edu, source: list[tuple[int, int]], sink: list[tuple[int, int]]) -> None:
    """By the device, in pieces that fit into its memory and its segments."""
    source, sink = list(source), list(sink)
    while source:
        (a, n), (b, m) = source.pop(0), sink.pop(0)
        size = min(n, m, 4096)
        edu.fetch(a, size)
        edu.store(b, size)
        if n > size:
            source.insert(0, (a + size, n - size))
        if m > size:
            sink.insert(0, (b + size, m - size))


def direction() -> None:
    """Behind an IOMMU the device cannot write what it was given to read. The IOMMU reports that."""
    edu = Edu(FIRST)
    assert edu.flags & TRANSLATED
    memory = mmap.mmap(-1, 8192, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    memory[:4096] = b"a" * 4096
    memory[4096:] = b"b" * 4096
    address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
    number, ((bus, _),) = edu.stream(address, 4096, TO_DEVICE)
    edu.fetch(bus, 4096)
    other, ((target, _),) = edu.stream(address + 4096, 4096, TO_DEVICE)
    edu.store(target, 4096)
    assert memory[4096:] == b"b" * 4096, "it was written"
    edu.unmap(other)
    edu.unmap(number)
    edu.store(bus, 4096)  # not mapped any more
    assert memory[:4096] == b"a" * 4096
    edu.close()


def reset() -> None:
    """Configuration survives a reset of those that can be reset."""
    edu = Edu(FIRST)
    assert bool(edu.flags & CAN_RESET) == (error_of(edu.reset) == "")
    assert edu.config(4, 2) & 4
    edu.close()


USER = Path("/proc/claim_user")
"""tests/lab/guest/claim_user.c"""


def user_says(place: int, value: str) -> None:
    """Wait for it."""
    wait(lambda: USER.read_text().split()[place] == value, f"{value} at {place}")


def user_in_the_kernel() -> None:
    """A module maps memory for the function and has its interrupt; it is told in time when that goes."""
    edu = Edu(FIRST)
    assert error_of(USER.write_text, "0") == "EINVAL"
    assert error_of(USER.write_text, "999") == "EBADF"
    USER.write_text(str(edu.fd))
    name, bus, signals, *_ = USER.read_text().split()
    assert name == FIRST and int(bus) and signals == "0"
    assert error_of(edu.irq_set, INTX, os.eventfd(0)) == "EBUSY"
    edu.fetch(int(bus), 4096)
    for number in (1, 2):  # seen to at once, so neither masked nor told of
        edu.write(Edu.RAISE, 0x100)
        user_says(6, str(number))
        assert not edu.read(Edu.RAISED)
    assert USER.read_text().split()[2] == "0"
    edu.write(Edu.RAISE, 0x200)  # taken back, and told of all the same
    user_says(2, "1")
    assert not edu.read(Edu.RAISED)
    edu.write(Edu.RAISE, 0x500)  # likewise: it was about nothing that the filter knows
    user_says(2, "2")
    user_says(6, "3")
    assert not edu.read(Edu.RAISED)
    edu.write(Edu.RAISE, 1)
    user_says(2, "4")  # let through, and raised still
    edu.write(Edu.ACK, 1)
    edu.close()
    assert USER.read_text().split() == [FIRST, "0", "4", "1", "1", "0", "3"]
    again = Edu(FIRST)  # a reference keeps nothing from being claimed
    USER.write_text(str(again.fd))
    USER.write_text("-1")
    assert USER.read_text().split()[0] == "-"
    again.irq_set(INTX, os.eventfd(0))
    again.close()


def user_of_msi() -> None:
    """Its filter is asked there, too; nothing is masked, so each interrupt that it leaves is told of."""
    edu = Edu(FIRST)
    number = edu.irq_set(MSI)
    USER.write_text(str(edu.fd))
    before = interrupts(number)
    for round_ in range(1, 4):
        edu.write(Edu.RAISE, 0x100)
        user_says(6, str(round_))
        assert not edu.read(Edu.RAISED)
    assert USER.read_text().split()[2] == "0"
    for round_, value in enumerate((0x200, 1, 0x500), 1):
        edu.write(Edu.RAISE, value)
        user_says(2, str(round_))
    assert USER.read_text().split()[6] == "4" and interrupts(number) == before + 6
    edu.write(Edu.ACK, 1)
    USER.write_text("-1")
    edu.close()


def ended_by_the_kernel() -> None:
    """The module ends the claim of a process that lives: to that one it is as if it had been unplugged."""
    edu = Edu(FIRST)
    other = os.dup(edu.fd)
    USER.write_text(str(edu.fd))
    assert int(USER.read_text().split()[1]), "a page is mapped"
    for _ in range(2):
        USER.write_text("-2")
        _, bus, _, gone, quiesced, master, _ = USER.read_text().split()
        assert (bus, gone, quiesced, master) == ("0", "1", "1", "0")
    assert error_of(os.pread, other, 4, edu.regions[0].offset) == "ENODEV"
    assert error_of(edu.irq_set, INTX) == "ENODEV"
    again = Edu(FIRST)
    edu.close()
    os.close(other)
    assert again.read(Edu.ID) & 0xFF == 0xED, "that was another's claim"
    again.irq_set(INTX, os.eventfd(0))
    again.close()
    USER.write_text("-1")


if __name__ == "__main__":
    main({sys.argv[1]: lambda *_: globals()[sys.argv[1]]()})
