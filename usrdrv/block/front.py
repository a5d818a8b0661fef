# SPDX-License-Identifier: MIT
"""The front end of a block driver (block_chip.h) for its control plane in Python."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from usrdrv.block import Block, BlockLib, raise_errno
from usrdrv.block.options import Options

COUNTERS: Final = (
    *("commands", "reads", "writes", "flushes", "trims", "merged"),
    *("sectors_read", "sectors_written", "interrupts", "spurious", "lost_interrupts"),
    *("timeouts", "errors", "retries", "failed", "register_reads", "register_writes"),
)
"""struct block_counters, of which a memory file to count in has one for each channel."""


@dataclass(frozen=True)
class Event:
    """struct block_event: why a channel is frozen, or what happened to the device. Sectors of 512 bytes."""

    kind: int
    unit: int
    tries: int
    segments: int
    sector: int
    sectors: int
    error: int


@dataclass(frozen=True)
class ZeroCopy:
    """How the kernel has to name a request's pages for the chip. Bytes."""

    max_io: int
    max_segments: int
    segment_mask: int


class FrontEnd:
    """Requests, queues and threads of one device. stop(), then what made `pointer` frees it.

    module: the driver's extension module; pointer: its struct block_front; name: of the device, for messages.
    options: those that struct block_limits has, by the same names, go there in set_limits().
    Thread-safe, but wait_event() and resume() are for one thread.
    """

    def __init__(self, module: BlockLib, pointer: Any, name: str, options: Options) -> None:
        self._module, self._ffi, self._lib = module, module.ffi, module.lib
        self._front, self._name, self._options = pointer, name, options

    def set_limits(self, timeout: float, flush: float, lost: float) -> None:
        """Set when a command hangs, when a flush or trim does, and when a lost interrupt is looked for; seconds."""
        seconds = {"rw_ms": timeout, "flush_ms": flush, "lost_ms": lost}
        limits = {name: int(value * 1000) for name, value in seconds.items()}
        for name, _ in self._ffi.typeof("struct block_limits").fields:
            if name not in limits:
                limits[name] = getattr(self._options, name)
        self._lib.block_set_limits(self._front, self._ffi.new("struct block_limits *", limits))

    def block(self, unit: int) -> Block:
        """Return the top end of a unit."""
        pointer = self._lib.block_top_end(self._front, unit)
        return Block(self._module, int(self._ffi.cast("uintptr_t", pointer)))

    def start(self) -> None:
        """Open the channels for requests. UsrdrvError: it is stopped again."""
        counters = self._options.counters
        result = self._lib.block_count_in(self._front, counters) if counters >= 0 else 0
        result = result or self._lib.block_start(self._front)
        if result:
            self.stop()
            raise_errno(result, f"{self._name}: dispatcher")

    def serve(self, unit: int, ports: Sequence[int]) -> None:
        """Take requests for a unit from ports, until stop() or until its event says that one has ended.

        ports: addresses of struct block_port (block_port.h), made by whoever exports the unit. They are ours from
        now on, also after an error.
        """
        pointers = [self._ffi.cast("struct block_port *", address) for address in ports]
        array = self._ffi.new("struct block_port *[]", pointers)
        result = self._lib.block_serve(self._front, unit, array, len(pointers))
        raise_errno(result, f"{self._name}: drive {unit}: ports")

    def wait_event(self) -> tuple[int, Event] | None:
        """Sleep until a channel needs a decision; return its number and why. None: after stop()."""
        channel, raw = self._ffi.new("unsigned int *"), self._ffi.new("struct block_event *")
        if self._lib.block_wait_event(self._front, channel, raw):
            return None
        return channel[0], Event(*(getattr(raw, name) for name in Event.__dataclass_fields__))

    def resume(self, channel: int, verdict: int) -> None:
        """Let a frozen channel go on. verdict: BLOCK_*, for the command that failed."""
        self._lib.block_resume(self._front, channel, verdict, -errno.EIO)

    def pause(self, channel: int) -> bool:
        """Freeze a channel when no command is at it; its event is BLOCK_EVENT_PAUSED. False: the device is gone."""
        return not self._lib.block_pause(self._front, channel)

    def lose(self) -> None:
        """There is no way on with the device: end all requests with ENODEV. Its event is BLOCK_EVENT_GONE."""
        self._lib.block_lost(self._front, -errno.ENODEV)

    def offline(self, unit: int) -> None:
        """Fail every request of a unit from now on; its channels are frozen."""
        self._lib.block_offline(self._front, unit, -errno.EIO)

    def counters(self, channel: int) -> dict[str, int]:
        """Return a channel's counters."""
        raw = self._ffi.new("struct block_counters *")
        self._lib.block_get_counters(self._front, channel, raw)
        return {name: int(getattr(raw, name)) for name in COUNTERS}

    def calls(self) -> int:
        """Return how often ports were called."""
        return int(self._lib.block_served_calls(self._front))

    def stop(self) -> None:
        """End all requests and threads; wait_event() returns None. Idempotent."""
        self._lib.block_stop(self._front)
