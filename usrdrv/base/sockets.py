# SPDX-License-Identifier: MIT
"""Unix sockets that servers listen on: whose path it is, and what killed ones leave behind."""

import contextlib
import os
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Final

from usrdrv.base.errors import DeviceBusyError, PermissionDeniedError, UsageError, UsrdrvError

ACCEPTS: Final = 1 << 16
"""__SO_ACCEPTCON of include/linux/net.h, in the flags of /proc/net/unix."""
CONNECTED: Final = 3
"""SS_CONNECTED of linux/net.h, in its states."""
LONGEST_PATH: Final = 107
"""Bytes; sun_path of a Unix socket less its NUL."""


def check_socket_path(path: Path) -> None:
    """UsageError if `path` cannot be a Unix socket's address."""
    if len(os.fsencode(path)) > LONGEST_PATH:
        raise UsageError(f"{path}: socket path longer than {LONGEST_PATH} bytes")


def claim_path(path: Path) -> None:
    """See that a server can listen at `path`; removes what a killed one left behind.

    UsageError: too long, no such folder, no socket; PermissionDeniedError; DeviceBusyError: a server
    listens there.
    """
    check_socket_path(path)
    if not path.parent.is_dir():
        raise UsageError(f"{path}: no such folder {path.parent}")
    if not os.access(path.parent, os.W_OK):
        raise PermissionDeniedError(f"{path}: no right to write in {path.parent}")
    if not path.is_socket():
        if path.exists() or path.is_symlink():
            raise UsageError(f"{path}: exists and is not a socket")
        return
    try:
        there = answers(path)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from error
    if there:
        raise DeviceBusyError(f"{path}: another server listens on this socket")
    path.unlink(missing_ok=True)


def answers(path: Path) -> bool:
    """Whether a server listens at the socket `path`. OSError: it cannot be told."""
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # one that takes nobody in is one all the same
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return False
        except BlockingIOError:
            return True
    return True


def remover(path: Path) -> Callable[[], None]:
    """Return what removes the socket that is at `path` now, and none that another server has put there since."""

    def made() -> tuple[int, int, int] | None:
        try:
            found = path.lstat()
        except OSError:
            return None
        # The number may be given to the next one, the time is not.
        return found.st_dev, found.st_ino, found.st_mtime_ns

    ours = made()

    def remove() -> None:
        if made() == ours:
            with contextlib.suppress(OSError):
                path.unlink()

    return remove


def sweep(folder: Path) -> None:
    """Remove what processes that were killed left in our own folder: sockets WHAT-PID.sock that nobody answers."""
    for path in folder.glob("*-*.sock"):
        pid = path.stem.rpartition("-")[2]
        # Its process may be one of another container: that one answers.
        if not pid.isdecimal() or Path(f"/proc/{pid}").exists():
            continue
        remove_dead(path)


def remove_dead(path: Path) -> None:
    """Remove the socket at `path` if nobody answers there: by name alone it may be one of another container's."""
    with contextlib.suppress(OSError, UsrdrvError):
        claim_path(path)


def listen(path: Path) -> socket.socket:
    """Return a listening socket at `path`, for this user only; errors as claim_path()."""
    claim_path(path)
    sock = socket.socket(socket.AF_UNIX)
    try:
        # Before the path is there: chmod() of that would follow a link that somebody put in its place.
        os.fchmod(sock.fileno(), 0o600)
        sock.bind(str(path))
        sock.listen(8)
    except OSError as error:
        sock.close()
        raise UsageError(f"{path}: {error.strerror}") from error
    return sock


def has_client(path: Path) -> bool | None:
    """Whether somebody is connected to the server at `path`.

    None: it cannot be seen from here, for its network namespace is another. Linux lists the server's
    ends of connections under the path that it listens at (/proc/net/unix, proc(5)).
    """
    found = False
    listens = False
    for line in Path("/proc/net/unix").read_bytes().splitlines()[1:]:
        fields = line.split(maxsplit=7)
        if len(fields) == 8 and fields[7] == os.fsencode(path):
            listens |= bool(int(fields[3], 16) & ACCEPTS)
            found |= int(fields[5], 16) == CONNECTED
    return found if listens else None


def exists(inode: int) -> bool:
    """Whether the Unix socket of that inode number is still there, in whosever hands (/proc/net/unix, proc(5))."""
    lines = Path("/proc/net/unix").read_bytes().splitlines()[1:]
    return any(int(line.split(maxsplit=7)[6]) == inode for line in lines)
