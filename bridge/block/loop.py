# SPDX-License-Identifier: MIT
"""Loop devices, set up in one step and gone with their last user (linux/loop.h)."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path
from typing import Final

from usrdrv.base import errors

CONTROL: Final = "/dev/loop-control"
DRIVERS: Final = Path("/proc/devices")
LOOP_CTL_GET_FREE: Final = 0x4C82
LOOP_CONFIGURE: Final = 0x4C0A
LOOP_CLR_FD: Final = 0x4C01

LO_FLAGS_READ_ONLY: Final = 1
LO_FLAGS_AUTOCLEAR: Final = 4
LO_FLAGS_PARTSCAN: Final = 8
LO_FLAGS_DIRECT_IO: Final = 16

# struct loop_config: fd, block_size, struct loop_info64, reserved[8]
# struct loop_info64: device, inode, rdevice, offset, sizelimit, number, encrypt_type,
#                     encrypt_key_size, flags, file_name, crypt_name, encrypt_key, init[2]
_CONFIG: Final = struct.Struct("=II QQQQQ IIII 64s64s32s QQ 64x")

TRIES: Final = 20


def pack_config(fd: int, flags: int, name: str) -> bytes:
    """Return struct loop_config for blocks of 512 bytes."""
    label = os.fsencode(name)[:63]
    return _CONFIG.pack(fd, 512, *(0,) * 5, 0, 0, 0, flags, label, b"", b"", 0, 0)


def _open(path: str, flags: int) -> int:
    try:
        return os.open(path, flags | os.O_CLOEXEC)
    except PermissionError as error:
        raise errors.PermissionDeniedError(
            f"{path}: permission denied; loop devices need root or the group disk"
        ) from error
    except OSError as error:
        if error.errno in (errno.ENOENT, errno.ENXIO, errno.ENODEV):
            raise errors.MissingToolError(f"{path}: {_why_missing(path)}") from error
        raise errors.DeviceError(f"{path}: {error.strerror}") from error


def _why_missing(path: str) -> str:
    """A container's /dev has none of the nodes that the kernel's devices have elsewhere."""
    registered = [line.split()[-1:] for line in DRIVERS.read_text().splitlines()]
    if ["loop"] in registered and not os.path.lexists(path):
        return "no such node; the kernel has loop devices, but this /dev (a container's?) does not show them"
    return "this kernel has no loop devices (CONFIG_BLK_DEV_LOOP)"


def check_access() -> None:
    """Raise what `LoopDevice` would raise for want of loop devices or rights to them."""
    os.close(_open(CONTROL, os.O_RDWR))


class LoopDevice:
    """A loop device over the open file `fd`.

    The kernel detaches it when nobody has it open any more (AUTOCLEAR); until `close` we are one of
    those who have, so that not even our death leaves it behind.
    """

    def __init__(self, fd: int, *, name: str, read_only: bool = False) -> None:
        flags = LO_FLAGS_AUTOCLEAR | LO_FLAGS_PARTSCAN | (LO_FLAGS_READ_ONLY if read_only else 0)
        control = _open(CONTROL, os.O_RDWR)
        try:
            for _ in range(TRIES):
                number = fcntl.ioctl(control, LOOP_CTL_GET_FREE)
                self.name = f"loop{number}"
                self.path = f"/dev/{self.name}"
                self._fd = _open(self.path, os.O_RDONLY if read_only else os.O_RDWR)
                try:
                    self._configure(fd, flags, name)
                    return
                except OSError as error:
                    os.close(self._fd)
                    if error.errno != errno.EBUSY:  # else: somebody was quicker, take the next
                        raise errors.DeviceError(f"{self.path}: {error.strerror}") from error
            raise errors.DeviceBusyError(f"no free loop device after {TRIES} tries")
        finally:
            os.close(control)

    def _configure(self, fd: int, flags: int, name: str) -> None:
        """Attach the file, without the page cache in between where the file system can do that."""
        try:
            fcntl.ioctl(self._fd, LOOP_CONFIGURE, pack_config(fd, flags | LO_FLAGS_DIRECT_IO, name))
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            fcntl.ioctl(self._fd, LOOP_CONFIGURE, pack_config(fd, flags, name))

    def close(self) -> None:
        """Detach now, or with the last close by whoever still uses it. Idempotent."""
        if self._fd < 0:
            return
        fd, self._fd = self._fd, -1
        try:
            fcntl.ioctl(fd, LOOP_CLR_FD)
        except OSError as error:
            if error.errno != errno.ENXIO:  # else: detached already
                raise errors.DeviceError(f"{self.path}: {error.strerror}") from error
        finally:
            os.close(fd)
