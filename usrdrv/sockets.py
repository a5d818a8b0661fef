# SPDX-License-Identifier: MIT
"""Unix sockets that servers listen on: whose path it is, and what killed ones leave behind."""

import os
import socket
from pathlib import Path

from usrdrv.errors import DeviceBusyError, PermissionDeniedError, UsageError
from usrdrv.names import check_socket_path


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
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a server that takes nobody in is one all the same
        try:
            probe.connect(str(path))
        except ConnectionRefusedError:
            path.unlink(missing_ok=True)
        except BlockingIOError:
            raise DeviceBusyError(f"{path}: another server listens on this socket") from None
        except OSError as error:
            raise UsageError(f"{path}: {error.strerror}") from error
        else:
            raise DeviceBusyError(f"{path}: another server listens on this socket")


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
