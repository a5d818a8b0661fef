# SPDX-License-Identifier: MIT
"""What a driver says of the devices that it drives: CHIPS, in the __init__.py of its folder."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

DISKS: Final = "a disk controller"
NETWORK: Final = "a network interface"


@dataclass(frozen=True)
class Chip:
    """A PCI device that a driver drives.

    package: __name__ of the driver's package. ids: PCI vendor and device id. kind: DISKS or NETWORK.
    controller: the class in the package's driver.py that drives it, made with the device and that module's
    Options. model: the name of its model, "" if there is none.
    """

    package: str
    ids: tuple[int, int]
    kind: str
    controller: str
    model: str = ""

    @property
    def driver(self) -> str:
        """The driver's name, which is its folder's."""
        return self.package.rpartition(".")[2]
