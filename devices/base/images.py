# SPDX-License-Identifier: MIT
"""Disk images: opened, checked and locked, so that no two models write one file."""

import fcntl
import os
import re
import stat
from pathlib import Path

from usrdrv.base.errors import (
    DeviceBusyError,
    NoSuchDeviceError,
    PermissionDeniedError,
    UsageError,
    UsrdrvError,
)

SECTOR = 512
MAX_SECTORS = 1 << 48
_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30, "T": 1 << 40}


def parse_size(text: str) -> int:
    """Bytes from words like `4096`, `64M` or `2T` (powers of two)."""
    match = re.fullmatch(r"(\d+)([KMGT]?)(?:i?B)?", text.strip(), re.IGNORECASE)
    if not match:
        raise UsageError(f"{text!r} is not a size: expected a number with K, M, G or T")
    return int(match[1]) * _UNITS[match[2].upper()]


def check_size(size: int, what: str) -> int:
    """Return `size` in bytes if a drive can have it."""
    if size <= 0 or size % SECTOR:
        raise UsageError(f"{what}: size {size} is not a positive multiple of {SECTOR} bytes")
    if size // SECTOR > MAX_SECTORS:
        raise UsageError(f"{what}: size {size} is beyond 48-bit addressing")
    return size


def open_image(path: Path, *, read_only: bool) -> tuple[int, int]:
    """Open and lock an image. Returns (descriptor, size in bytes); the lock goes with the descriptor."""
    try:
        fd = os.open(path, (os.O_RDONLY if read_only else os.O_RDWR) | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NoSuchDeviceError(f"image {path} does not exist") from None
    except PermissionError:
        hint = "" if read_only else " for writing"
        raise PermissionDeniedError(f"no permission to open image {path}{hint}") from None
    except OSError as error:
        raise UsageError(f"image {path}: {error.strerror}") from None
    try:
        info = os.fstat(fd)
        if not stat.S_ISREG(info.st_mode):
            raise UsageError(f"image {path} is not a regular file")
        size = check_size(info.st_size, f"image {path}")
        try:
            fcntl.flock(fd, (fcntl.LOCK_SH if read_only else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = _lock_owner(info)
            who = f" by process {owner}" if owner else ""
            raise DeviceBusyError(f"image {path} is in use{who}") from None
        except OSError as error:
            raise UsrdrvError(f"image {path} cannot be locked: {error.strerror}") from None
    except BaseException:
        os.close(fd)
        raise
    return fd, size


def _lock_owner(info: os.stat_result) -> int | None:
    """The process that holds the flock, as the kernel lists it."""
    device = f"{os.major(info.st_dev):02x}:{os.minor(info.st_dev):02x}:{info.st_ino}"
    try:
        lines = Path("/proc/locks").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        words = line.split()
        if len(words) >= 6 and words[1] == "FLOCK" and words[5] == device:
            return int(words[4]) if int(words[4]) > 0 else None
    return None
