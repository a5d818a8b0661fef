# SPDX-License-Identifier: MIT
"""Whether a device is still there: its bus is asked, not its driver, which may be wrong about it."""

from __future__ import annotations

import signal
import time
from pathlib import Path
from typing import Final

from usrdrv import names, pci
from usrdrv.base import errors, sockets

NO_VENDOR: Final = b"\xff\xff"
"""What a read of configuration space gives that nobody answers (PCI 3.0, section 6.1)."""
BUS_LAGS: Final = 1.0
"""Seconds by which a driver may see sooner than its bus that the device goes."""


def check(device: str, told: bool, returncode: int | None, died: float) -> None:
    """Raise NoSuchDeviceError if a driver ended because its device is gone.

    told: it said so. That, or a death of its registers, is a reason to ask the bus, whose word counts.
    """
    if not told and returncode != -signal.SIGBUS:
        return
    while there(device):
        if time.monotonic() > died + BUS_LAGS:
            return
        time.sleep(0.01)
    raise errors.NoSuchDeviceError(f"{device}: the driver ended, its device is gone")


def there(device: str) -> bool:
    """Whether the device that is named answers. One in its driver's own process always does."""
    match names.parse(device):
        case names.PciName(address):
            return _answers(pci.Function(address, pci.BUS))
        case names.VfioUserName(path):
            return _listens(path)
        case _:
            return True


def _answers(function: pci.Function) -> bool:
    """Registers are not enough: they are also dead while the kernel resets the function."""
    try:
        with (function.path / "config").open("rb") as config:
            return config.read(2) != NO_VENDOR
    except OSError:
        return False


def _listens(path: Path) -> bool:
    try:
        return sockets.answers(path)
    except OSError:
        return False
