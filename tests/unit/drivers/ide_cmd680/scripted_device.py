# SPDX-License-Identifier: MIT
"""A device whose register reads are scripted and whose writes are recorded: for tests of register traces."""

import os
import threading
from collections import defaultdict
from collections.abc import Callable
from typing import Any

from usrdrv.drivers.ide_cmd680 import _cmd680

ffi, lib = _cmd680.ffi, _cmd680.lib


def limits(lost_ms: int = 3_600_000) -> Any:
    """Times of a front end that no busy machine reaches. lost_ms: when a lost interrupt is looked for."""
    hour = 3_600_000
    return ffi.new("struct block_limits *", {"rw_ms": hour, "flush_ms": hour, "lost_ms": lost_ms})


class ScriptedDevice:
    """struct usrdrv_dev with Python operations. `trace` lists writes as (offset, width, value), reads as (offset,).

    Reads give the next value of `script[offset]`, the last one for ever; 0 without a script. `on_write` may react.
    `error`, if not 0, is what lists of writes end with.
    """

    def __init__(self) -> None:
        self.trace: list[tuple[int, ...]] = []
        self.script: dict[int, list[int]] = defaultdict(lambda: [0])
        self.on_write: Callable[[int, int], None] = lambda offset, value: None
        self.memory: dict[int, Any] = {}
        self.next_bus = 0x1F000000
        self.error = 0
        self.unmasked = threading.Event()
        self._keep: list[Any] = []
        self.ops = ffi.new("struct usrdrv_dev_ops *")
        for name, signature in (
            (
                "read",
                "int(struct usrdrv_dev *, const struct usrdrv_write *, unsigned int,"
                " unsigned int, uint64_t, unsigned int, uint64_t *)",
            ),
            ("write_list", "int(struct usrdrv_dev *, const struct usrdrv_write *, unsigned int)"),
            (
                "dma_alloc",
                "int(struct usrdrv_dev *, size_t, size_t, uint64_t, struct usrdrv_dma *)",
            ),
            ("dma_free", "void(struct usrdrv_dev *, struct usrdrv_dma *)"),
            ("irq_unmask", "int(struct usrdrv_dev *, const struct usrdrv_write *, unsigned int)"),
        ):
            callback = ffi.callback(signature, getattr(self, f"_{name}"))
            self._keep.append(callback)
            setattr(self.ops, name, callback)
        self.dev = ffi.new("struct usrdrv_dev *")
        self.dev.ops = self.ops
        self.dev.irq_fd = os.eventfd(0)
        self.dev.unmask_fd = self.dev.claim_fd = -1
        self.dev.hangup_fd = -1

    def interrupt(self) -> None:
        os.eventfd_write(self.dev.irq_fd, 1)

    def writes(self) -> list[tuple[int, ...]]:
        return [entry for entry in self.trace if len(entry) == 3]

    def reads(self) -> list[int]:
        return [entry[0] for entry in self.trace if len(entry) == 1]

    def _read(
        self, dev: Any, writes: Any, n: int, region: int, offset: int, width: int, value: Any
    ) -> int:
        self._write_list(dev, writes, n)
        self.trace.append((offset,))
        values = self.script[offset]
        value[0] = values.pop(0) if len(values) > 1 else values[0]
        return 0

    def _write_list(self, dev: Any, writes: Any, n: int) -> int:
        for i in range(n):
            self.trace.append((writes[i].offset, writes[i].width, writes[i].value))
            self.on_write(writes[i].offset, writes[i].value)
        return -self.error if n else 0

    def _irq_unmask(self, dev: Any, writes: Any, n: int) -> int:
        self._write_list(dev, writes, n)
        self.unmasked.set()
        return 0

    def _dma_alloc(self, dev: Any, size: int, align: int, limit: int, dma: Any) -> int:
        memory = ffi.new("char[]", size)
        bus = (self.next_bus + align - 1) & ~(align - 1)
        self.next_bus = bus + size
        self.memory[bus] = memory
        dma.cpu, dma.bus, dma.len = memory, bus, size
        return 0

    def _dma_free(self, dev: Any, dma: Any) -> None:
        del self.memory[dma.bus]
