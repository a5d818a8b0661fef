# SPDX-License-Identifier: MIT
"""Which drives of a controller are served, and whether they still are the same ones."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from usrdrv.base import errors

if TYPE_CHECKING:
    from usrdrv.drivers.disks import Disk, DiskController


def chosen(controller: DiskController, name: str, wanted: Sequence[int] | None) -> list[Disk]:
    """Return the drives that are wanted, in that order; None: all that there are.

    NoSuchDeviceError names the first that is not there. name: of the device.
    """
    there = {drive.index: drive for drive in controller.drives if drive is not None}
    if wanted is None and not there:
        raise errors.NoSuchDeviceError(f"{name}: no drives")
    for index in wanted or ():
        if index not in there:
            found = ", ".join(map(str, there)) or "none"
            raise errors.NoSuchDeviceError(f"{name}: no drive {index} (there is: {found})")
    return [there[index] for index in (there if wanted is None else wanted)]


class Unit(Protocol):
    """A drive, as its driver tells of it. Drives are the same if all that is told of them is."""

    @property
    def identity(self) -> str: ...

    @property
    def size(self) -> int: ...

    @property
    def read_only(self) -> bool: ...


def identity(drive: Disk) -> str:
    """Return what tells a drive from others."""
    return f"{drive.identity.model}, serial {drive.identity.serial}"


def check_same(device: str, before: Mapping[int, Unit], now: Mapping[int, Unit]) -> None:
    """DeviceError if a driver that was started again does not have the drives of the one before it."""
    for index, drive in before.items():
        which = "this" if len(before) == 1 else f"drive {index}"
        if index not in now:
            raise errors.DeviceError(f"{device}: {which} is not there any more: {drive.identity}")
        if now[index] != drive:
            raise errors.DeviceError(
                f"{device}: {which} is another drive than before: {now[index].identity}"
            )
