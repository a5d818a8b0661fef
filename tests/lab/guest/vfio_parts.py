# SPDX-License-Identifier: MIT
"""Runs in the guest: what the access layer promises, of a PCI function. Prints one line of JSON.

vfio_parts.py ADDRESS placed: the backend chooses bus addresses; without that, the kernel does.
"""

import hashlib
import json
import sys
from collections.abc import Callable
from typing import Any

from usrdrv.backends._access import ffi
from usrdrv.base import errors
from usrdrv.device import Device, open_device
from usrdrv.drivers import open_driver

BAR5, TIMING = 5, 0xA4  # PIO timing of the first channel (hardware document, 4.1.4)
COMMAND, MEMORY_AND_MASTER = 4, 6
SCRATCH = 0x12345678
WINDOW = 0xFEE00000, 0xFEEFFFFF  # messages to the CPU, not memory
LOW, HUGE = 0x10000000, 0x08000000
PLACED = sys.argv[2:] == ["placed"]


def refused(allocate: Callable[[], object]) -> int:
    """Return the errno of an allocation that must fail, 0 if it does not."""
    try:
        allocate()
    except errors.UsrdrvError as error:
        return error.errno
    return 0


def memory(device: Device) -> dict[str, Any]:
    first = device.dma_alloc(1 << 16, align=1 << 16)
    second = device.dma_alloc(1 << 12, align=1 << 20)
    assert first.bus % (1 << 16) == 0 and second.bus % (1 << 20) == 0
    assert first.bus + first.size <= second.bus or second.bus + second.size <= first.bus
    first.buffer[:4] = b"dirt"
    place = first.bus
    first.free()
    again = device.dma_alloc(1 << 16, align=1 << 16)
    found = {
        "zeroed": not any(bytes(again.buffer)),
        "none below": refused(lambda: device.dma_alloc(1 << 12, limit=0xFFFF)),
    }
    if PLACED:
        low = device.dma_alloc(1 << 12, limit=0x1FFFFFFF)
        found["low"] = low.bus + low.size - 1 <= 0x1FFFFFFF
        low.free()
        found["reused"] = again.bus == place
    for each in (again, second):
        each.free()
    return found


def window(device: Device) -> dict[str, Any]:
    """A page at every multiple of 128 MiB leaves one place for more than that less a page: around the window."""
    taken = [device.dma_alloc(4096, align=HUGE) for _ in range(LOW, 1 << 32, HUGE)]
    top = max(taken, key=lambda each: each.bus)
    found = {"top": top.bus, "full": refused(lambda: device.dma_alloc(4096, align=HUGE))}
    top.free()
    length = WINDOW[1] + 1 - found["top"]
    found["around the window"] = refused(lambda: device.dma_alloc(length, align=HUGE))
    for each in taken[:-1]:
        each.free()
    return found


with open_device(sys.argv[1]) as device:
    report: dict[str, Any] = {"mapped": device.c.bar[BAR5].map != ffi.NULL}
    report["memory"] = memory(device)
    if PLACED:
        report["window"] = window(device)
    device.config_write(COMMAND, 2, device.config_read(COMMAND, 2) | MEMORY_AND_MASTER)
    timing = [device.read32(BAR5, TIMING)]
    device.write32(BAR5, TIMING, SCRATCH)
    timing.append(device.read32(BAR5, TIMING))
    device.reset()
    timing.append(device.read32(BAR5, TIMING))
    report["timing"] = timing
    with open_driver(device) as controller:
        block = controller.drives[0].block
        data = bytearray(1 << 20)
        for at in range(0, len(data), 1 << 16):
            block.read_into(memoryview(data)[at : at + (1 << 16)], at)
        report["sha256"] = hashlib.sha256(data).hexdigest()
        report["stats"] = controller.stats()["channels"][0]
print(json.dumps(report))
