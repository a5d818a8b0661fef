# SPDX-License-Identifier: MIT
"""The PCI devices that there is a driver for, and what each of them is.

Whether a command fits a device is asked here, before the device is taken from its present driver.
"""

from __future__ import annotations

import importlib
from functools import cache
from typing import Final

from usrdrv import drivers, names
from usrdrv.base import errors
from usrdrv.base.parts import parts
from usrdrv.chips import DISKS, Chip
from usrdrv.pci import Function

PACKAGES: Final = [f"{drivers.__name__}.{name}" for name in parts(drivers, "driver")]
"""The drivers: each folder here that has a `driver.py`."""


@cache
def chips() -> dict[tuple[int, int], Chip]:
    """Return what they drive, by PCI vendor and device id. UsrdrvError names a folder that does not say."""
    found: dict[tuple[int, int], Chip] = {}
    for package in map(importlib.import_module, PACKAGES):
        if not hasattr(package, "CHIPS"):
            raise errors.UsrdrvError(
                f"{package.__path__[0]}: a driver without CHIPS in __init__.py"
            )
        for chip in package.CHIPS:
            if found.setdefault(chip.ids, chip) is not chip:
                raise errors.UsrdrvError(
                    f"{package.__path__[0]}: {found[chip.ids].package} has PCI "
                    f"{chip.ids[0]:04x}:{chip.ids[1]:04x} too"
                )
    return found


def find(name: str, ids: tuple[int, int], kind: str | None = None) -> Chip:
    """Return what the device called `name` is.

    NoSuchDeviceError: there is no driver for these ids; UsageError: it is not of the kind that is wanted.
    """
    chip = chips().get(ids)
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
            for chip in chips().values():
                if chip.model == model:
                    _check_kind(text, chip.kind, kind)
        case names.NullName():
            _check_kind(text, DISKS, kind)


def _check_kind(name: str, has: str, kind: str | None) -> None:
    if kind not in (None, has):
        raise errors.UsageError(f"{name} is not {kind}")
