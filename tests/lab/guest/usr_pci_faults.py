# SPDX-License-Identifier: MIT
"""Runs in the guest: a scenario of what goes wrong, named on the command line. Silent if all is well."""

from __future__ import annotations

import ctypes
import json
import mmap
import os
import select
import struct
import threading
import time
from collections.abc import Callable
from pathlib import Path

from scenario import PATIENCE, at_end, locked, main, wait
from usr_pci import FROM_DEVICE, INFO, INTX, Claim, Edu, error_of

PCI = Path("/sys/bus/pci")


def go(how: str, address: str) -> None:
    """Take the function away."""
    if how == "unplug":
        at_end.callback(come, how)  # for the next test, whatever becomes of this one
        (PCI / "devices" / address / "remove").write_text("1")
    else:
        (PCI / "drivers/usrdrv/unbind").write_text(address)


def come(how: str) -> None:
    if how == "unplug":
        (PCI / "rescan").write_text("1")


def anonymous(size: int) -> tuple[mmap.mmap, int]:
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


def check_gone(claim: Claim) -> None:
    """All that can be done with it is to close it."""
    poll = select.poll()
    poll.register(claim.fd, select.POLLIN)
    assert poll.poll(PATIENCE * 1000)[0][1] & select.POLLHUP
    _, address = anonymous(4096)
    for call in (
        lambda: claim.config(0, 4),
        lambda: os.pread(claim.fd, 4, 0),
        lambda: os.pwrite(claim.fd, b"1234", 0),
        lambda: claim.control(INFO, b"", 8),
        lambda: claim.alloc(4096),
        lambda: claim.stream(address, 4096, FROM_DEVICE),
        lambda: claim.unmap(1),
        lambda: claim.irq_set(INTX),
        claim.unmask,
        claim.reset,
        lambda: mmap.mmap(claim.fd, 4096, offset=0),
    ):
        assert error_of(call) == "ENODEV"


def readers(how: str, address: str) -> None:
    """Everybody who waits is told."""
    edu = Edu(address)
    irq = os.open(f"/proc/irq/{edu.irq}/irq", os.O_RDWR)
    found: list[str] = []
    threads = [
        threading.Thread(target=lambda: found.append(error_of(os.read, irq, 4))) for _ in range(3)
    ]
    for thread in threads:
        thread.start()
    poll = select.poll()
    poll.register(edu.fd, select.POLLIN)
    poller = threading.Thread(target=lambda: found.append(str(poll.poll(PATIENCE * 1000)[0][1])))
    poller.start()
    time.sleep(0.5)  # they wait by then; who comes later is told at once
    go(how, address)
    for thread in (*threads, poller):
        thread.join(PATIENCE)
        assert not thread.is_alive()
    assert sorted(found) == [str(select.POLLHUP | select.POLLERR)] + ["ENODEV"] * 3, found
    assert error_of(os.read, irq, 4) == "ENODEV"
    check_gone(edu)
    come(how)
    os.close(irq)
    edu.close()


def lost(memory: mmap.mmap) -> bool:
    """Whether a mapping has lost its pages; the kernel looks, which gets no signal."""
    view = memoryview(memory)
    file = os.memfd_create("word")
    error = error_of(os.write, file, view[:4])
    os.close(file)
    view.release()
    assert error in ("", "EFAULT"), error
    return error == "EFAULT"


def mappings(how: str, address: str) -> None:
    """Pages are taken away; what is left can be unmapped and closed in any order."""
    edu = Edu(address)
    _, _, buffer = edu.alloc(65536)
    buffer[0] = 1
    memory, place = anonymous(1 << 20)
    edu.stream(place, 1 << 20, FROM_DEVICE)
    edu.read(Edu.ID)
    assert not lost(edu.bar) and not lost(buffer)
    go(how, address)
    assert lost(edu.bar) and lost(buffer)
    check_gone(edu)
    memory[0] = 1  # ours, as ever
    assert locked() == 0
    come(how)
    again = Edu(address)  # while the old one's mappings are still there
    assert again.read(Edu.ID) & 0xFF == 0xED
    assert lost(edu.bar)
    again.close()
    buffer.close()
    edu.close()


def ended(edu: Edu, buffer: mmap.mmap, address: str) -> None:
    """The claim has ended under its process, and the function can be had again."""
    check_gone(edu)
    assert lost(edu.bar) and lost(buffer)
    driver = PCI / "devices" / address / "driver"
    wait(lambda: not driver.exists(), "the kernel gives it back by itself")
    again = Edu(address)
    assert again.read(Edu.ID) & 0xFF == 0xED
    again.close()
    buffer.close()
    edu.close()


def sleep(sleepless: str, address: str) -> None:
    """The system is about to sleep, and then does not: another function, which is asked after ours, refuses."""
    other = PCI / "devices" / sleepless
    (other / "driver_override").write_text("sleepless")  # claim_user.c
    (PCI / "drivers/sleepless/bind").write_text(sleepless)
    edu = Edu(address)
    _, _, buffer = edu.alloc(65536)
    buffer[0] = 1
    Path("/sys/power/pm_async").write_text("0")
    state = os.open("/sys/power/state", os.O_WRONLY)
    assert error_of(os.write, state, b"freeze") == "EBUSY"
    os.close(state)
    ended(edu, buffer, address)
    (PCI / "drivers/sleepless/unbind").write_text(sleepless)
    (other / "driver_override").write_text("\n")


USER = Path("/proc/claim_user")
"""tests/lab/guest/claim_user.c"""

DETECTED, LOST, SLOT_RESET, RESUME = "-3", "-4", "-5", "-6"
"""Steps of an error on the bus, told as the kernel's AER code tells them (claim_user.c)."""
FLUSH = "-7"
"""Wait for the worker that ends claims."""


def bus(how: str, address: str) -> None:
    """A claim that met an error on the bus has ended when that is over."""
    edu = Edu(address)
    _, _, buffer = edu.alloc(65536)
    buffer[0] = 1
    USER.write_text(str(edu.fd))
    for step in {"recovered": (DETECTED, SLOT_RESET, RESUME), "lost": (LOST,)}[how]:
        USER.write_text(step)
    ended(edu, buffer, address)
    assert USER.read_text().split()[4] == "1", "the user in the kernel was not told"
    USER.write_text("-1")


def next_claim(how: str, address: str) -> None:
    """The claim that follows, made before the recovery is over: it ends if the function is reset after that."""
    edu = Edu(address)
    USER.write_text(str(edu.fd))
    USER.write_text(DETECTED)
    edu.close()
    after = Edu(address)
    _, _, buffer = after.alloc(65536)
    buffer[0] = 1
    if how == "reset":
        USER.write_text(SLOT_RESET)
    USER.write_text(RESUME)
    if how == "reset":
        ended(after, buffer, address)
    else:
        poll = select.poll()
        poll.register(after.fd, select.POLLIN)
        USER.write_text(FLUSH)  # a claim's end would be a worker's
        assert not poll.poll(0) and after.read(Edu.ID) & 0xFF == 0xED
        assert not lost(after.bar) and not lost(buffer)
        buffer.close()
        after.close()
    USER.write_text("-1")


def load(how: str, address: str) -> None:
    """Threads in all calls at the same time."""
    for _ in range(5):
        claim = Claim(address)
        ends: list[str] = []
        started = threading.Barrier(5)
        _, place = anonymous(1 << 20)

        def repeat(call: Callable[[], object]) -> None:
            call()
            started.wait(PATIENCE)  # noqa: B023
            while not (end := error_of(call)):
                pass
            ends.append(end)  # noqa: B023

        def stream() -> None:
            claim.unmap(claim.stream(place, 300000, FROM_DEVICE)[0])  # noqa: B023

        def alloc() -> None:
            claim.alloc(100000)[2].close()  # noqa: B023

        event = os.eventfd(0)
        calls: list[Callable[[], object]] = [
            stream,
            alloc,
            lambda: claim.config(0, 4),  # noqa: B023
            lambda: claim.irq_set(INTX, event),  # noqa: B023
        ]
        threads = [threading.Thread(target=repeat, args=(call,)) for call in calls]
        for thread in threads:
            thread.start()
        started.wait(PATIENCE)
        time.sleep(0.2)  # each is in some call then
        go(how, address)
        for thread in threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()
        assert set(ends) == {"ENODEV"} and len(ends) == 4, ends
        come(how)
        claim.close()
        os.close(event)


DEBUG = Path("/sys/kernel/debug")


def failing(count: int, call: Callable[[], object]) -> str:
    """The error of a call whose allocation number `count` fails; "" if it does well."""
    nth = os.open(f"/proc/self/task/{threading.get_native_id()}/fail-nth", os.O_RDWR)
    number = str(count).encode()
    try:
        os.write(nth, number)
        error = error_of(call)
    finally:
        os.pwrite(nth, b"0", 0)
        os.close(nth)
    return error


def failslab(_: str, address: str) -> None:
    """Slab objects and pages."""
    for name in ("failslab", "fail_page_alloc"):
        (DEBUG / name / "ignore-gfp-wait").write_text("N")
    (DEBUG / "fail_page_alloc/min-order").write_text("0")
    for verbose in DEBUG.glob("fail*/verbose"):
        verbose.write_text("0")
    memory, place = anonymous(1 << 20)
    memory[:] = b"x" * len(memory)
    claim = Claim(address)
    event = os.eventfd(0)
    outcomes = {"open": 0, "alloc": 0, "stream": 0, "irq": 0}

    def alloc() -> None:
        claim.alloc(100000)[2].close()

    def stream() -> None:
        claim.unmap(claim.stream(place, 1 << 20, FROM_DEVICE)[0])

    opened: list[Claim] = []

    def open_() -> None:
        opened.append(Claim(address))

    def irq() -> None:
        claim.irq_set(0)
        claim.irq_set(INTX, event)

    for name, call in (("alloc", alloc), ("stream", stream), ("irq", irq), ("open", open_)):
        if name == "open":
            claim.close()
        # Of an open only its beginning: then PCI has ACPI enable the device, which does not bear it.
        for count in range(1, 8 if name == "open" else 200):
            error = failing(count, call)
            for each in opened:
                each.close()
            opened.clear()
            # For want of memory resources, too, count as taken.
            allowed = ["", "ENOMEM", *(["EBUSY"] if name == "open" else [])]
            # Or a page was to come for what the call tells.
            allowed += ["EFAULT"] if name == "stream" else []
            assert error in allowed, f"{name}, allocation {count}: {error}"
            outcomes[name] += error == "ENOMEM"
            if name == "irq" and error:
                claim.irq_set(INTX)
        assert error_of(call) == "", name
    opened[0].close()
    assert min(outcomes.values()) >= 2, outcomes


def poison(told: str) -> None:
    """Take all free memory, and look whether somebody else has written there when there is the file `told`."""
    free = {
        line.split()[0]: int(line.split()[1]) << 10
        for line in Path("/proc/meminfo").read_text().splitlines()
    }
    size = (free["MemFree:"] - (48 << 20)) & ~0xFFFFF
    memory = anonymous(size)[0]
    # Entries of a PRD table, as which the drive may take them: 4 KiB somewhere in there, and the last one.
    block = struct.pack("=IHH", 512 << 20, 4096, 0x8000) * (1 << 17)
    for at in range(0, size, len(block)):
        memory[at : at + len(block)] = block
    print("filled", flush=True)
    wait(Path(told).exists, "the word to look")
    changed = sum(memory[at : at + len(block)] != block for at in range(0, size, len(block)))
    print(json.dumps({"bytes": size, "changed": changed}))


if __name__ == "__main__":
    main(globals())
