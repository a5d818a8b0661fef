# SPDX-License-Identifier: MIT
"""User-mode drivers, found by PCI vendor and device id."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from usrdrv.drivers import supported

if TYPE_CHECKING:
    from usrdrv.device import Device


def preload() -> None:
    """Import all drivers, so that open_driver() does not have to: in a process that must be quick then."""
    for package in supported.PACKAGES:
        _module(package)


def _module(package: str) -> Any:
    return importlib.import_module(f"{package}.driver")


def open_driver(device: Device, kind: str | None = None, **options: Any) -> Any:
    """Start the driver for `device` and return its controller.

    options: fields of the driver's Options class. NoSuchDeviceError if no driver knows the chip,
    UsageError if it is not of the kind that is wanted (see usrdrv.drivers.supported).
    """
    ids = device.config_read(0, 2), device.config_read(2, 2)
    chip = supported.find(device.name, ids, kind)
    module = _module(chip.package)
    return getattr(module, chip.controller)(device, module.Options(**options))
