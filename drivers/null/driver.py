# SPDX-License-Identifier: MIT
"""The null driver's control plane: the smallest there can be. A disk of zeroes, in memory, with several queues."""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.block import Block, raise_errno
from usrdrv.block.front import Event, FrontEnd
from usrdrv.block.options import DEFAULTS, Options
from usrdrv.drivers.null import _null

ffi, lib = _null.ffi, _null.lib
log: Final = logging.getLogger("usrdrv.null")


@dataclass(frozen=True)
class Memory:
    """What stands for a device, as its name says.

    size: bytes, a multiple of 512. delay_us: a command takes from so long to twice that.
    """

    name: str = "null"
    size: int = 1 << 30
    queues: int = 1
    depth: int = 32
    delay_us: int = 0


SUFFIXES: Final = {"K": 10, "M": 20, "G": 30, "T": 40}


def _number(key: str, text: str) -> int:
    shift = SUFFIXES.get(text[-1:].upper(), 0)
    digits = text[:-1] if shift else text
    if not (digits.isascii() and digits.isdigit()):
        raise errors.UsageError(f"null: {key}={text}: not a number")
    return int(digits) << shift


def open_memory(name: str) -> Memory:
    """Return what a name such as `null:size=1G&queues=2` says. UsageError: which option of it is wrong."""
    known = ("size", "queues", "depth", "delay_us")
    found: dict[str, int] = {}
    for word in filter(None, name.removeprefix("null:").split("&")):
        key, _, value = word.partition("=")
        if key not in known:
            raise errors.UsageError(f"null: no option {key}: there are {', '.join(known)}")
        found[key] = _number(key, value)
    return Memory(name, **found)


@dataclass(frozen=True)
class Identity:
    """What a disk says it is."""

    model: str
    serial: str


class Drive:
    """The disk."""

    def __init__(self, identity: Identity, block: Block) -> None:
        self.index = 0
        self.identity = identity
        self.block = block

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, as JSON has it."""
        return {"drive": 0, "model": self.identity.model, "size": self.block.size}

    def rows(self) -> dict[str, str]:
        """Return the same for people."""
        return {"model": self.identity.model, "size": f"{self.block.size} bytes"}


class Controller(Closing):
    """A chip with one disk, ready for requests. A context manager."""

    def __init__(self, device: Memory, options: Options = DEFAULTS) -> None:
        name = device.name
        if device.size % 512:
            raise errors.UsageError(f"{name}: size {device.size} is no multiple of 512")
        out = ffi.new("struct null **")
        conf = ffi.new(
            "struct null_conf *",
            {
                "sectors": device.size // 512,
                "queues": device.queues,
                "depth": device.depth,
                "delay_us": device.delay_us,
                "read_only": options.read_only,
            },
        )
        raise_errno(lib.null_create(conf, out), f"{name}: size, queues or depth out of range")
        self._null = out[0]
        self._front = FrontEnd(_null, lib.null_front(self._null), name, options)
        self._front.set_limits(timeout=10, flush=30, lost=0.5)
        self.queues = device.queues
        """How many requests may be brought in at once: each queue has a channel of the chip."""
        self.gone = threading.Event()
        """Never set: memory stays."""
        self.vanished = False
        self.unserved = threading.Event()
        """Set when a port has ended, after serve()."""
        self.drives = (Drive(Identity("null", name), self._front.block(0)),)
        try:
            self._front.start()
        except errors.UsrdrvError:
            lib.null_destroy(self._null)
            raise
        self._thread: threading.Thread | None = threading.Thread(
            target=self._recover_loop, name="null-recovery", daemon=True
        )
        self._thread.start()

    def _recover_loop(self) -> None:
        while (found := self._front.wait_event()) is not None:
            channel, event = found
            if event.kind == lib.BLOCK_EVENT_UNSERVED:
                self.unserved.set()
            elif event.kind != lib.BLOCK_EVENT_GONE:
                self._front.resume(channel, self._decide(event))

    def _decide(self, event: Event) -> int:
        """What was joined is tried alone; what fails alone fails."""
        if event.segments > 1:
            return int(lib.BLOCK_SPLIT)
        log.error("null: I/O error, sector %d", event.sector)
        return int(lib.BLOCK_FAIL)

    def fail(self, sector: int | None) -> None:
        """Have reads and writes of a sector fail; None: no more."""
        lib.null_fail(self._null, (1 << 64) - 1 if sector is None else sector)

    @property
    def claim_fd(self) -> int:
        """There is no claim."""
        return -1

    def ask_health(self) -> None:
        """Do nothing: memory has no health to tell of."""

    def zero_copy(self, index: int) -> None:
        """Say that the kernel has to copy: there is no device that could reach its pages."""

    def serve(self, index: int, ports: Sequence[int], zero_copy: bool) -> None:
        """Take requests from ports, until close() or until one ends."""
        self._front.serve(index, ports)

    def stats(self) -> dict[str, object]:
        """Return the counters of all queues."""
        channels = [self._front.counters(number) for number in range(self.queues)]
        return {"channels": channels, "usrloop_calls": self._front.calls()}

    def close(self) -> None:
        """End all requests. Idempotent."""
        if self._thread is None:
            return
        self._front.stop()
        self._thread.join()
        self._thread = None
        lib.null_destroy(self._null)
