# SPDX-License-Identifier: MIT
"""What a driver of disks offers to those who export them, and how one is opened."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any, Protocol

from usrdrv import names
from usrdrv.block import Block
from usrdrv.block.front import ZeroCopy
from usrdrv.block.options import DEFAULTS, Options
from usrdrv.chips import DISKS
from usrdrv.device import open_device
from usrdrv.drivers import open_driver


class Identity(Protocol):
    """What tells a disk from others."""

    @property
    def model(self) -> str: ...

    @property
    def serial(self) -> str: ...


class Disk(Protocol):
    """A disk of a controller."""

    index: int
    """Its number."""
    block: Block

    @property
    def identity(self) -> Identity: ...

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, as JSON has it; `drive` is its number."""

    def rows(self) -> dict[str, str]:
        """Return the same for people: what, and its value."""


class DiskController(Protocol):
    """A controller with its disks, ready for requests. Closing it quiesces the chip."""

    gone: threading.Event
    """Set when there is no way on with the device."""
    vanished: bool
    """Once `gone` is set: whether that is because nothing answers."""
    unserved: threading.Event
    """Set when a port of a disk has ended, after serve()."""
    queues: int
    """How many ports its disks can make use of."""

    @property
    def drives(self) -> Sequence[Disk | None]:
        """By number; None where nothing is attached."""

    @property
    def claim_fd(self) -> int:
        """The claim's file, for those in the kernel who map memory for the device; -1: there is none."""

    def zero_copy(self, index: int) -> ZeroCopy | None:
        """Return how the kernel has to name a disk's pages if it is not to copy its data; None: it has to copy."""

    def serve(self, index: int, ports: Sequence[int], zero_copy: bool) -> None:
        """Take requests for a disk from ports, until close() or until one ends.

        ports: as for FrontEnd.serve(). zero_copy: their requests name pages, in the way of zero_copy().
        """

    def ask_health(self) -> None:
        """Have describe() tell what the disks say now."""

    def stats(self) -> dict[str, object]: ...


@contextmanager
def open_disks(text: str, options: Options = DEFAULTS) -> Iterator[DiskController]:
    """Claim the device named `text` and start its driver. Errors are those of open_device() and open_driver()."""
    if isinstance(names.parse(text), names.NullName):
        from usrdrv.drivers.null import driver as null

        with null.Controller(null.open_memory(text), options) as controller:
            yield controller
        return
    with open_device(text) as device, open_driver(device, DISKS, **asdict(options)) as controller:
        yield controller
