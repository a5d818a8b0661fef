# SPDX-License-Identifier: MIT
"""Whether a device is still there: its bus is asked, not its driver, which may be wrong about it."""

from __future__ import annotations

import socket
from typing import Final

from usrdrv import names, pci

NO_VENDOR: Final = b"\xff\xff"
"""What a read of configuration space gives that nobody answers (PCI 3.0, section 6.1)."""


def there(device: str) -> bool:
    """Whether the device that is named answers. One in its driver's own process always does."""
    match names.parse(device):
        case names.PciName(address):
            return _answers(pci.Function(address, pci.BUS))
        case names.VfioUserName(path):
            return _listens(str(path))
        case _:
            return True


def _answers(function: pci.Function) -> bool:
    """Registers are not enough: they are also dead while the kernel resets the function."""
    try:
        with (function.path / "config").open("rb") as config:
            return config.read(2) != NO_VENDOR
    except OSError:
        return False


def _listens(path: str) -> bool:
    """Whether somebody accepts connections; a queue that is full has somebody behind it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as probe:
        try:
            probe.connect(path)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return True
