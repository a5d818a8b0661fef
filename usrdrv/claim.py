# SPDX-License-Identifier: MIT
"""Exclusive claims: one process at a time has a device.

A claim is an flock on a file named after the device, so it ends with its process, however that ends.
The file holds who the owner is, for the message to the next one, and the name in full. Of a driver's process the
owner is its supervisor, which a user can end: a driver that is killed is started again.
"""

import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import Final, NamedTuple, Self
from urllib.parse import quote

from usrdrv.base.errors import DeviceBusyError, PermissionDeniedError

OTHERS_WRITE: Final = stat.S_IWGRP | stat.S_IWOTH
NO_LINKS: Final = os.O_NOFOLLOW | os.O_CLOEXEC

SERVED: Final = "served as "
"""What `usrdrv model` puts before its kind and device name when it claims that."""


def _namespace() -> int:
    """Return the inode of the pid namespace that our pids are of; 0 if the kernel has none."""
    try:
        return os.stat("/proc/self/ns/pid").st_ino
    except OSError:
        return 0


class Owner(NamedTuple):
    """A process that has a claim. Its pid is also that of others: later ones, and those of other containers."""

    pid: int
    started: int
    """Clock ticks after the machine's start; 0: the process had ended."""
    namespace: int
    """The inode of the pid namespace that the pid is of."""

    @classmethod
    def of(cls, pid: int) -> Self:
        """Return the process that is `pid` here."""
        try:
            # The name, in parentheses, may hold anything: field 22 (proc_pid_stat(5)) is counted from its end.
            stat = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2]
            started = int(stat.split()[22 - 3])
        except OSError:
            started = 0
        return cls(pid, started, _namespace())

    @property
    def here(self) -> bool:
        """Whether it is of our pid namespace: of any other process nothing more can be told."""
        return self.namespace == _namespace()

    @property
    def lives(self) -> bool:
        """Whether it is seen to run."""
        return self.started > 0 and self == self.of(self.pid)

    def __str__(self) -> str:
        return f"process {self.pid}{'' if self.here else ' of another pid namespace'}"


class TakenError(DeviceBusyError):
    """Somebody has the claim. `by`: who, None if nobody is named, as when heirs of it are left."""

    def __init__(self, name: str, by: Owner | None) -> None:
        super().__init__(f"{name}: taken by {by or 'an unknown process'}")
        self.by = by
        self.owner = by.pid if by and by.here else None


_owner: Owner | None = None


def name_owner(pid: int) -> None:
    """Have claims of this process, from now on, name `pid` as who has the device."""
    global _owner
    _owner = Owner.of(pid)


def owner() -> Owner:
    """Return who claims of this process name as the owner."""
    return _owner or Owner.of(os.getpid())


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


def _parse(text: bytes) -> tuple[Owner | None, str]:
    """Return what a claim's file says: the owner, and the name that is claimed. None: it says nothing."""
    try:
        pid, started, namespace, name = os.fsdecode(text).split(" ", 3)
        return Owner(int(pid), int(started), int(namespace)), name.removesuffix("\n")
    except ValueError:
        return None, ""


class Claim:
    """The claim of one device, held from construction until release().

    TakenError names the owner; that may be this very process.
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
                by, _ = _parse(os.pread(fd, 4096, 0))
                os.close(fd)
                raise TakenError(name, by) from None
            if self._is_current(fd):
                self._fd = fd
            else:  # its last owner removed the file between our open and our lock
                os.close(fd)
        os.ftruncate(self._fd, 0)
        pid, started, namespace = owner()
        os.pwrite(self._fd, os.fsencode(f"{pid} {started} {namespace} {name}\n"), 0)

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

    def bequeath(self) -> None:
        """Leave the device to who has inherited fileno(), and name nobody as its owner. Idempotent.

        The file stays: without its name it would keep nobody from a claim.
        """
        if self._fd >= 0:
            os.ftruncate(self._fd, 0)
            os.close(self._fd)
            self._fd = -1


def held() -> dict[str, int]:
    """Return the names that live processes of this user's have claimed, each with the owner's pid."""
    found = {}
    for path in run_directory().glob("*.claim"):
        try:
            by, name = _parse(path.read_bytes())
        except OSError:
            continue  # just released
        if by and by.lives:  # else killed, or it is just being made
            found[name] = by.pid
    return found
