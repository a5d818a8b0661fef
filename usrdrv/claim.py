# SPDX-License-Identifier: MIT
"""Exclusive claims: one process at a time has a device.

A claim is an flock on a file named after the device, so it ends with its process, however that ends.
The file holds the owner's pid, for the message to the next one, and the name in full. Of a driver's process the
owner is its supervisor, which a user can end: a driver that is killed is started again.
"""

import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Final, Self
from urllib.parse import quote

from usrdrv.base.errors import DeviceBusyError, PermissionDeniedError

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
NO_LINKS: Final = os.O_NOFOLLOW | os.O_CLOEXEC

SERVED: Final = "served as "
"""What `usrdrv model` puts before its kind and device name when it claims that."""

_owner: int | None = None


def name_owner(pid: int) -> None:
    """Have claims of this process, from now on, name `pid` as who has the device."""
    global _owner
    _owner = pid


def owner() -> int:
    """Return who claims of this process name as the owner."""
    return _owner or os.getpid()


def run_directory() -> Path:
    """Return the folder for sockets and claims of this user, made if need be; nobody else may write there.

    USRDRV_RUN_DIR overrides; else /run/usrdrv for root, $XDG_RUNTIME_DIR/usrdrv, /tmp/usrdrv-UID.
    PermissionDeniedError if it cannot be made, or is open to others: they could put files in our way.
    """
    if given := os.environ.get("USRDRV_RUN_DIR"):
        path = Path(given)
    elif os.geteuid() == 0:
        path = Path("/run/usrdrv")
    elif runtime := os.environ.get("XDG_RUNTIME_DIR"):
        path = Path(runtime) / "usrdrv"
    else:
        path = Path(f"/tmp/usrdrv-{os.geteuid()}")
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        owners, mode = {path.lstat().st_uid, path.stat().st_uid}, path.stat().st_mode
    except OSError as error:
        raise PermissionDeniedError(f"{path}: {error.strerror}") from error
    if owners != {os.geteuid()}:
        raise PermissionDeniedError(f"{path}: belongs to another user")
    if mode & OTHERS_WRITE:
        raise PermissionDeniedError(
            f"{path}: other users may write there (mode {mode & 0o7777:04o}); "
            "choose a folder of your own for USRDRV_RUN_DIR, or chmod go-w it"
        )
    return path


def _claim_file(name: str) -> Path:
    """Return a path that is readable and not too long for a file's name (255 bytes)."""
    readable = quote(os.fsencode(name), safe=":")
    if len(readable) > 200:
        readable = f"{readable[:160]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:32]}"
    return run_directory() / f"{readable}.claim"


class Claim:
    """The claim of one device, held from construction until release().

    DeviceBusyError names the owner's pid; that may be this very process.
    """

    def __init__(self, name: str) -> None:
        self._path = _claim_file(name)
        self._fd = -1
        while self._fd < 0:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | NO_LINKS, 0o600)
            except OSError as error:
                raise PermissionDeniedError(f"{self._path}: {error.strerror}") from error
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                pid = os.pread(fd, 20, 0).decode("ascii", "replace").partition(" ")[0]
                os.close(fd)
                busy = DeviceBusyError(f"{name}: taken by process {pid or 'unknown'}")
                busy.owner = int(pid) if pid.isdecimal() else None
                raise busy from None
            if self._is_current(fd):
                self._fd = fd
            else:  # its last owner removed the file between our open and our lock
                os.close(fd)
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, os.fsencode(f"{owner()} {name}\n"), 0)

    def fileno(self) -> int:
        """Return the file. Who inherits it has the claim too, until its end."""
        return self._fd

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _is_current(self, fd: int) -> bool:
        try:
            return os.path.samestat(os.fstat(fd), os.lstat(self._path))
        except FileNotFoundError:
            return False

    def release(self) -> None:
        """Give the device back. Idempotent."""
        if self._fd >= 0:
            self._path.unlink(missing_ok=True)
            os.close(self._fd)
            self._fd = -1


def held() -> dict[str, int]:
    """Return the names that live processes of this user's have claimed, each with the owner's pid."""
    found = {}
    for path in run_directory().glob("*.claim"):
        try:
            pid, _, name = os.fsdecode(path.read_bytes()).partition(" ")
            os.stat(f"/proc/{int(pid)}")
        except (OSError, ValueError):
            continue  # its owner was killed, or it is just being made or released
        found[name.removesuffix("\n")] = int(pid)
    return found
