# SPDX-License-Identifier: MIT
"""From a PCI function to a VFIO device's file (Linux, Documentation/driver-api/vfio.rst)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import time
from typing import Any, Final

from usrdrv import claim
from usrdrv.backends import _access
from usrdrv.base import errors
from usrdrv.pci import PATIENCE, VFIO, Function

ffi, lib = _access.ffi, _access.lib

CONTAINER: Final = "/dev/vfio/vfio"

# linux/vfio.h: _IO(';', 100 + n)
GET_API_VERSION: Final = 0x3B64
CHECK_EXTENSION: Final = 0x3B65
SET_IOMMU: Final = 0x3B66
GROUP_GET_STATUS: Final = 0x3B67
GROUP_SET_CONTAINER: Final = 0x3B68
GROUP_GET_DEVICE_FD: Final = 0x3B6A

API_VERSION: Final = 0
TYPE1V2: Final = 3
GROUP_VIABLE: Final = 1

# Drivers that leave a group viable: they touch no memory.
HARMLESS: Final = frozenset((None, VFIO, "pci-stub", "pcieport"))


def open_function(function: Function) -> Any:
    """Return the struct usrdrv_dev of a function that vfio-pci has."""
    if function.group is None:
        raise errors.MissingToolError(
            f"{function.address}: there is no IOMMU in front of it: switch it on in the firmware "
            "(VT-d, AMD-Vi) and boot with intel_iommu=on"
        )
    files: list[int] = []
    try:
        files.append(_open(CONTAINER))
        files.append(_open_group(function))
        files.append(_device(function, *files))
        out = ffi.new("struct usrdrv_dev **")
        (container, group, device), files = files, []  # they are its own from here
        result = lib.usrdrv_vfio_open(container, group, device, out)
    finally:
        for fd in files:
            os.close(fd)
    if result:
        raise errors.DeviceError(f"{function.address}: {os.strerror(-result)}")
    return out[0]


def _open(path: str) -> int:
    try:
        return os.open(path, os.O_RDWR | os.O_CLOEXEC)
    except PermissionError as error:
        raise errors.PermissionDeniedError(f"{path}: permission denied") from error
    except FileNotFoundError as error:
        raise errors.MissingToolError(f"{path}: not there: is the module {VFIO} loaded?") from error
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise errors.DeviceBusyError(f"{path}: another process has it open") from error
        raise errors.DeviceError(f"{path}: {error.strerror}") from error


def _open_group(function: Function) -> int:
    """The node comes a moment after the binding; so does the end of a killed owner's hold on it."""
    path = f"/dev/vfio/{function.group}"
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return _open(path)
        except (errors.MissingToolError, errors.DeviceBusyError) as error:
            if isinstance(error, errors.DeviceBusyError):
                _check_neighbours(function)
            if time.monotonic() > deadline:
                raise
            time.sleep(0.02)


def _check_neighbours(function: Function) -> None:
    """DeviceBusyError if a process of ours has another function of the group."""
    owners = claim.held()
    for neighbour in function.neighbours:
        if owner := owners.get(neighbour.address):
            raise errors.DeviceBusyError(
                f"{function.address}: {neighbour.address} of the same IOMMU group "
                f"({function.group}) is taken by process {owner}, and VFIO gives a group to one user"
            )


def _device(function: Function, container: int, group: int) -> int:
    if fcntl.ioctl(container, GET_API_VERSION) != API_VERSION:
        raise errors.MissingToolError("unsupported VFIO version: this kernel's is not 0")
    if not fcntl.ioctl(container, CHECK_EXTENSION, TYPE1V2):
        raise errors.MissingToolError("this kernel's VFIO has no type 1 v2 IOMMU")
    status = bytearray(struct.pack("=II", 8, 0))
    fcntl.ioctl(group, GROUP_GET_STATUS, status)
    if not struct.unpack("=II", status)[1] & GROUP_VIABLE:
        others = [
            f"{f.address} ({f.driver})" for f in function.neighbours if f.driver not in HARMLESS
        ]
        raise errors.DeviceBusyError(
            f"{function.address}: IOMMU group {function.group} has other functions in use: "
            f"{', '.join(others)}: unbind them from their drivers"
        )
    try:
        fcntl.ioctl(group, GROUP_SET_CONTAINER, bytearray(struct.pack("=i", container)))
        fcntl.ioctl(container, SET_IOMMU, TYPE1V2)
    except PermissionError as error:
        raise errors.PermissionDeniedError(
            f"{function.address}: the IOMMU does not remap interrupts; "
            "allow_unsafe_interrupts=1 of the module vfio_iommu_type1 overrides"
        ) from error
    except OSError as error:
        raise errors.DeviceError(f"{function.address}: IOMMU: {error.strerror}") from error
    address = bytearray(function.address.encode() + b"\0")
    try:
        return int(fcntl.ioctl(group, GROUP_GET_DEVICE_FD, address))
    except OSError as error:
        raise errors.DeviceError(f"{function.address}: VFIO: {error.strerror}") from error
