# SPDX-License-Identifier: MIT
"""Network namespaces: by the name that `ip netns` gives, by descriptor, by number (namespaces(7))."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from usrdrv.base import errors

NAMED: Final = Path("/run/netns")
OURS: Final = Path("/proc/thread-self/ns/net")
CLONE_NEWNET: Final = 0x40000000
_libc: Final = ctypes.CDLL(None, use_errno=True)


def check_namespace(name: str) -> None:
    """Raise NoSuchDeviceError unless `ip netns` has it."""
    if "/" in name or not name.strip(".") or not (NAMED / name).exists():
        raise errors.NoSuchDeviceError(f"no network namespace {name} (ip netns add {name})")


def number(name: str | None) -> int:
    """Return the inode of a named namespace, of ours for None; 0: there is none of that name."""
    try:
        return (OURS if name is None else NAMED / name).stat().st_ino
    except OSError:
        return 0


def describe(wanted: int) -> str:
    """Name the namespace with this inode as `ip netns` does, or as /proc/PID/ns/net does."""
    if NAMED.is_dir():
        for path in NAMED.iterdir():
            if number(path.name) == wanted:
                return path.name
    return f"net:[{wanted}]"


def _enter(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Have this thread's sockets and interfaces belong to the namespace of `fd`, then to its own again."""
    back = os.open(OURS, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            _enter(fd)
        except OSError as error:
            raise errors.PermissionDeniedError(f"network namespace: {error.strerror}") from None
        try:
            yield
        finally:
            _enter(back)
    finally:
        os.close(back)


@contextmanager
def inside(name: str | None) -> Iterator[None]:
    """Enter the namespace of that name; None: stay in ours."""
    if name is None:
        yield
        return
    check_namespace(name)
    fd = os.open(NAMED / name, os.O_RDONLY | os.O_CLOEXEC)
    try:
        with entered(fd):
            yield
    finally:
        os.close(fd)
