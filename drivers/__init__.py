# SPDX-License-Identifier: MIT
"""User-mode drivers, found by PCI vendor and device id."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from usrdrv import errors

if TYPE_CHECKING:
    from usrdrv.device import Device


def preload() -> None:
    """Import all drivers, so that open_driver() does not have to: in a process that must be quick then."""
    for driver in ("ide_cmd680", "dp83820"):
        importlib.import_module(f"usrdrv.drivers.{driver}.driver")


def open_driver(device: Device, **options: Any) -> Any:
    """Start the driver for `device` and return its controller.

    options: fields of the driver's Options class. NoSuchDeviceError if no driver knows the chip.
    """
    identity = device.config_read(0, 4)
    if identity == 0x0680_1095:
        from usrdrv.drivers.ide_cmd680.driver import Controller, Options

        return Controller(device, Options(**options))
    if identity == 0x0022_100B:
        from usrdrv.drivers.dp83820 import driver as dp83820

        return dp83820.Nic(device, dp83820.Options(**options))
    raise errors.NoSuchDeviceError(
        f"{device.name}: no driver for PCI {identity & 0xFFFF:04x}:{identity >> 16:04x}"
    )
