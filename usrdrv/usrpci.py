# SPDX-License-Identifier: MIT
"""From a PCI function to its struct usrdrv_dev, through the system calls of usrdrv-patch.

See docs/design/claims.md.
"""

from __future__ import annotations

import errno
import os
import re
from typing import Any, Final

from usrdrv.backends import _access
from usrdrv.base import errors
from usrdrv.pci import Function

ffi, lib = _access.ffi, _access.lib

UNSAFE_DMA: Final = "/sys/module/usrdrv/parameters/unsafe_dma"
"""Parameter of the kernel: functions that are not confined by an IOMMU can be claimed."""


def available() -> bool:
    """Whether this kernel has the calls."""
    return bool(lib.usrdrv_usr_available())


def open_function(function: Function) -> Any:
    """Claim a function that no driver has; return the struct usrdrv_dev."""
    domain, bus, slot, number = (int(part, 16) for part in re.split(r"[:.]", function.address))
    out = ffi.new("struct usrdrv_dev **")
    result = lib.usrdrv_usr_open(domain, bus, slot, number, out)
    if result == 0:
        return out[0]
    match -result:
        case errno.EBUSY:
            owner = function.driver or "another driver"
            raise errors.DeviceBusyError(f"{function.address}: {owner} has it")
        case errno.ENODEV:
            raise errors.NoSuchDeviceError(f"{function.address}: no such PCI device")
        case errno.EPERM:
            raise errors.PermissionDeniedError(
                f"{function.address}: no right to claim it (CAP_SYS_RAWIO, and no kernel lockdown)"
            )
        case errno.EACCES:
            raise errors.PermissionDeniedError(
                f"{function.address}: no IOMMU confines its DMA (the kernel's log says why); "
                f"to allow that all the same, write 1 to {UNSAFE_DMA} (or boot with usrdrv.unsafe_dma=1)"
            )
        case code:
            raise errors.DeviceError(f"{function.address}: {os.strerror(code)}")
