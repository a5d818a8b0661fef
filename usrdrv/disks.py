# SPDX-License-Identifier: MIT
"""Whether a disk is in use: the kernel is asked, by claiming the disk (Linux, block/bdev.c, bd_prepare_to_claim).

An exclusive open of a disk succeeds only if no file system, swap space, array or other exclusive opener has the
disk or a partition of it, in whatever namespace; and as long as it lasts none of them can begin to. A loop device
does not claim what is below it, so loop devices are looked at as well. A program that opened a disk without O_EXCL
is not seen: whoever just looks (blkid, udev) does that, too.

A disk is named by its folder in sysfs, such as /sys/block/sda.

See docs/design/in-use.md.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import secrets
import stat
import struct
import time
from pathlib import Path
from typing import Final

from usrdrv import mounts
from usrdrv.base import errors

BLOCK: Final = Path("/sys/block")
MOMENT: Final = 0.1
"""Seconds."""
TRIES: Final = 10
"""Who makes a mount namespace (a container that starts) has all mounts in it for a moment: no user."""
UNSEEN: Final = "a file system or program that is not visible from here"
ABSENT: Final = frozenset((errno.ENXIO, errno.ENODEV, errno.ENOMEDIUM))
"""What opening a drive without a medium says, or one that was just unplugged."""

# linux/loop.h, linux/fs.h
LOOP_GET_STATUS64: Final = 0x4C05
LOOP_INFO_SIZE: Final = 232
RDEVICE_OFFSET: Final = 16
BLKFLSBUF: Final = 0x1261

_libc: Final = ctypes.CDLL(None)


class InUseError(errors.DeviceBusyError):
    """Somebody uses a disk; `who` says who, in words."""

    def __init__(self, what: str | Path, who: list[str]) -> None:
        self.who = ", ".join(who)
        super().__init__(f"{what} is in use ({self.who})")


def _open(disk: Path, flags: int) -> int:
    """Open a disk by its device number: with its node or, where /dev has none, one that is there for a moment."""
    major, _, minor = mounts.number(disk).partition(":")
    if not minor:
        raise OSError(errno.ENODEV, os.strerror(errno.ENODEV))
    wanted = os.makedev(int(major), int(minor))
    flags |= os.O_CLOEXEC | os.O_NONBLOCK  # a drive without a medium is not waited for
    node = mounts.node(disk)
    try:
        if node.stat().st_rdev == wanted:
            return os.open(node, flags)
    except FileNotFoundError:
        pass
    node = Path(f"/dev/.usrdrv-{secrets.token_hex(8)}")
    try:
        os.mknod(node, stat.S_IFBLK | 0o600, wanted)
    except OSError as error:
        raise errors.PermissionDeniedError(
            f"/dev has no node of {disk.name}, and none can be made ({error.strerror}): "
            "cannot tell whether it is in use"
        ) from None
    try:
        return os.open(node, flags)
    finally:
        node.unlink()


def loops_over(disk: Path) -> list[str]:
    """Names of the loop devices over a disk or a partition of it."""
    parts = [disk, *mounts.partitions(disk)]
    return [
        file.parts[-3]
        for file in sorted(BLOCK.glob("loop*/loop/backing_file"))
        if file.parts[-3] != disk.name and _is_over(file, parts)
    ]


def _is_over(backing_file: Path, parts: list[Path]) -> bool:
    """Whether a loop device is over one of those devices."""
    try:
        path = os.fsdecode(backing_file.read_bytes()).rstrip("\n")
    except OSError:  # it is gone
        return False
    # A node in another namespace's /dev has no folders in front, one in that of a chroot has some. Files elsewhere
    # may be on servers that do not answer, and are no devices.
    if "/dev/" not in path and path.count("/") > 1:
        return False
    try:
        number = _below(backing_file.parents[1])
    except (OSError, errors.UsrdrvError):
        return path in {str(mounts.node(part)) for part in parts}
    return number in {mounts.number(part) for part in parts}


def _below(loop: Path) -> str:
    """The number of the block device that a loop device is over; 0:0: it is over a file."""
    fd = _open(loop, os.O_RDONLY)
    try:
        info = fcntl.ioctl(fd, LOOP_GET_STATUS64, bytes(LOOP_INFO_SIZE))
    finally:
        os.close(fd)
    (device,) = struct.unpack_from("=Q", info, RDEVICE_OFFSET)
    return f"{os.major(device)}:{os.minor(device)}"


def claim(disk: Path) -> int:
    """Have a disk and all its partitions for ourselves until the returned descriptor is closed.

    InUseError names who uses it; PermissionDeniedError; OSError ENXIO, ENODEV, ENOMEDIUM: nothing there to use.
    """
    for _ in range(TRIES):
        fd = _try_to_claim(disk)
        if fd is not None:
            return fd
        time.sleep(MOMENT)
    who = [f"/dev/{name}" for name in loops_over(disk)] + mounts.users(disk)
    raise InUseError(mounts.node(disk), who or [UNSEEN])


def _try_to_claim(disk: Path) -> int | None:
    try:
        fd = _open(disk, os.O_RDONLY | os.O_EXCL)
    except PermissionError:
        raise errors.PermissionDeniedError(f"{mounts.node(disk)}: permission denied") from None
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        return None
    if loops_over(disk):
        os.close(fd)
        return None
    return fd


def sync(disk: Path) -> None:
    """Write out what the kernel caches of a disk; OSError if that fails, or did and nobody was told so far.

    A descriptor of long ago would tell again what a writer was told (Linux, Documentation/core-api/errseq).
    """
    fd = _open(disk, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def write_out(disk: Path) -> None:
    """Have what is on a disk, and on what is stacked on it, written to it: file systems first, in any namespace.

    Errors are left to who syncs the disk itself.
    """
    for name in (*loops_over(disk), *mounts.holders(disk)):
        write_out(BLOCK / name)
    for mount in mounts.mounts(disk):
        _sync_mount(mount.path)
    # Reaches a file system that no process has a path to. btrfs is not found that way.
    for part in (*mounts.partitions(disk), disk):
        _ioctl(part, BLKFLSBUF)


def _sync_mount(path: Path) -> None:
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return
    try:
        _libc.syncfs(fd)
    finally:
        os.close(fd)


def _ioctl(disk: Path, request: int) -> None:
    try:
        fd = _open(disk, os.O_RDONLY)
    except (OSError, errors.UsrdrvError):
        return
    try:
        fcntl.ioctl(fd, request)
    except OSError:
        return
    finally:
        os.close(fd)
