# SPDX-License-Identifier: MIT
"""The PCI devices that there is a driver for, and what each of them is.

Whether a command fits a device is asked here, before the device is taken from its present driver.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usrdrv import names
from usrdrv.base import errors
from usrdrv.pci import Function

DISKS: Final = "a disk controller"
NETWORK: Final = "a network interface"


@dataclass(frozen=True)
class Chip:
    """A device: its model's name, the package of its driver, the class in there that drives it, and its kind."""

    model: str
    driver: str
    controller: str
    kind: str


CHIPS: Final = {
    (0x1095, 0x0680): Chip("cmd680", "ide_cmd680", "Controller", DISKS),
    (0x100B, 0x0022): Chip("dp83820", "dp83820", "Nic", NETWORK),
}
"""By PCI vendor and device id."""
NULL: Final = Chip("null", "null", "Controller", DISKS)
"""A disk in its driver's memory: no PCI device."""
DRIVERS: Final = (*CHIPS.values(), NULL)


def find(name: str, ids: tuple[int, int], kind: str | None = None) -> Chip:
    """Return what the device called `name` is.

    NoSuchDeviceError: there is no driver for these ids; UsageError: it is not of the kind that is wanted.
    """
    chip = CHIPS.get(ids)
    if chip is None:
        raise errors.NoSuchDeviceError(f"{name}: no driver for PCI {ids[0]:04x}:{ids[1]:04x}")
    _check_kind(name, chip.kind, kind)
    return chip


def check(text: str, kind: str) -> None:
    """Raise what find() raises as far as it can be told without touching the device named `text`.

    Of a device on a socket nothing can.
    """
    match names.parse(text):
        case names.PciName(address):
            function = Function(address)
            if not function.exists:
                raise errors.NoSuchDeviceError(f"{address}: no such PCI device")
            find(address, function.ids, kind)
        case names.ModelName(model):
            for chip in CHIPS.values():
                if chip.model == model:
                    _check_kind(text, chip.kind, kind)
        case names.NullName():
            _check_kind(text, NULL.kind, kind)


def _check_kind(name: str, has: str, kind: str | None) -> None:
    if kind not in (None, has):
        raise errors.UsageError(f"{name} is not {kind}")
