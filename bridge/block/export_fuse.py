# SPDX-License-Identifier: MIT
"""A block device without the kernel's NBD client.

nbdfuse shows the drive as a file, a loop device takes it. As root
nbdfuse mounts in a mount namespace of its own, which dies with it: however it ends, no mount is
left, and nobody else sees it. We reach into it through /proc/PID/root.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usrdrv import mounts
from usrdrv.base import errors
from usrdrv.base.process import Child, find_tool
from usrdrv.block.options import Options
from usrdrv.bridge.block import loop
from usrdrv.bridge.block.contract import ATTACH_TIME, Attachment
from usrdrv.bridge.block.export_socket import NbdExport
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.nbd_handshake import Export
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer
from usrdrv.claim import run_directory

FUSE: Final = "/dev/fuse"
FILE: Final = "disk"

CLONE_NEWNS: Final = 0x20000
MS_REC: Final = 0x4000
MS_PRIVATE: Final = 1 << 18
MNT_DETACH: Final = 2

_libc: Final = ctypes.CDLL(None, use_errno=True)


def check_access() -> None:
    """Raise if nbdfuse, FUSE or loop devices are missing or not for us."""
    find_tool("nbdfuse", "libnbd-bin")
    try:
        os.close(os.open(FUSE, os.O_RDWR | os.O_CLOEXEC))
    except PermissionError as error:
        raise errors.PermissionDeniedError(f"{FUSE}: permission denied") from error
    except OSError as error:
        raise errors.MissingToolError(
            f"{FUSE}: {error.strerror}; this kernel has no FUSE (module fuse)"
        ) from error
    loop.check_access()


def _needed(paths: Sequence[Path]) -> set[Path]:
    """Mount points that nbdfuse has a use for, if they are some."""
    keep = {Path(where) for where in ("/", "/usr", "/etc")}
    for path in paths:
        keep.update(path.resolve().parents)
    return keep


def _leave_namespace(keep: set[Path]) -> None:
    """In the child: a private copy of the mounts, without file systems on disks that it would pin for others."""
    if _libc.unshare(CLONE_NEWNS) or _libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
        os._exit(126)
    # Looked up in the copy: what somebody mounted a moment before is in it.
    try:
        table = mounts.table(Path("/proc/self"))
    except OSError:
        os._exit(126)
    for line in reversed(table):  # innermost first
        fields, _, rest = line.partition(" - ")
        where = mounts.unescape(fields.split()[4])
        if rest.split()[1].startswith("/dev/") and Path(where) not in keep:
            _libc.umount2(os.fsencode(where), MNT_DETACH)


class FuseAttachment:
    """nbdfuse and a loop device."""

    resumable = None  # nbdfuse ends with its server
    news: int | None = None

    def __init__(self, endpoint: Endpoint, name: str, export: Export, *, timeout: float) -> None:
        uri = endpoint.uri(name)
        self._private = os.geteuid() == 0
        if self._private:
            # In the child's namespace only: the folder itself stays empty and serves everybody.
            self._folder = run_directory() / "mnt"
            self._folder.mkdir(mode=0o700, exist_ok=True)
        else:
            self._folder = Path(tempfile.mkdtemp(prefix="mnt-", dir=run_directory()))
        nbdfuse = find_tool("nbdfuse", "libnbd-bin")
        keep = _needed((Path(nbdfuse), self._folder / FILE, endpoint.path or Path("/")))
        read_only = ["-r"] if export.read_only else []
        self._child = Child(
            "nbdfuse",
            [nbdfuse, *read_only, str(self._folder / FILE), uri],
            prepare=(lambda: _leave_namespace(keep)) if self._private else None,
            parent_death=signal.SIGKILL if self._private else signal.SIGTERM,
        )
        self.children = (self._child,)
        self.disks: Sequence[KernelDisk] = ()
        self._loop: loop.LoopDevice | None = None
        self._connection: int | None = None
        try:
            fd = self._open(os.O_RDONLY if export.read_only else os.O_RDWR, timeout)
            try:
                self._connection = os.fstat(fd).st_dev
                self._loop = loop.LoopDevice(fd, name=uri, read_only=export.read_only)
            finally:
                os.close(fd)
        except BaseException:
            self.close()
            raise
        self._child.talk()
        self.where = self._loop.path
        self.disks = [KernelDisk(self._loop.name)]

    def _open(self, flags: int, timeout: float) -> int:
        root = f"/proc/{self._child.pid}/root" if self._private else ""
        deadline = time.monotonic() + timeout
        while True:
            try:
                return os.open(f"{root}{self._folder}/{FILE}", flags | os.O_CLOEXEC)
            except FileNotFoundError:
                if self._child.wait(0.01):
                    said = self._child.lines[-1] if self._child.lines else self._child.status()
                    raise errors.DeviceError(f"nbdfuse: {said.removeprefix('nbdfuse: ')}") from None
                if time.monotonic() > deadline:
                    raise errors.DeviceError(
                        f"nbdfuse is not ready after {timeout:.0f} s"
                    ) from None
            except OSError as error:
                raise errors.DeviceError(f"nbdfuse: {error.strerror}") from error

    def lost_server(self) -> bool:
        return False

    def close(self) -> None:
        try:
            if self._loop:
                self._loop.close()
        finally:
            for disk in self.disks:
                disk.release()
            self._child.mute()  # it reports the signal as an error
            if not self._child.stop(grace=5):
                self._abort()
            if not self._private:
                fusermount = shutil.which("fusermount3")
                if fusermount:
                    subprocess.run(
                        [fusermount, "-q", "-u", "-z", str(self._folder)],
                        stderr=subprocess.DEVNULL,
                        check=False,
                    )
                with suppress(OSError):
                    self._folder.rmdir()

    def _abort(self) -> None:
        """End all requests of a FUSE server that does not even die, so that nobody waits for it."""
        if self._connection is not None:
            with suppress(OSError):
                number = os.minor(self._connection)
                Path(f"/sys/fs/fuse/connections/{number}/abort").write_text("1")


@dataclass(frozen=True)
class Fuse(NbdExport):
    """nbdfuse, and a loop device over its file."""

    name = "fuse"
    why = "the kernel has no NBD client (module nbd)"
    # A loop device turns "write zeroes" into "punch a hole", which nbdfuse makes a trim, after which
    # an ATA drive need not read as zeroes.
    trim = False

    def available(self) -> bool:
        return True

    def check(self) -> None:
        check_access()

    def attach(self, server: NbdServer, drive: int, options: Options) -> Attachment:
        return FuseAttachment(
            server.endpoint, server.name(drive), server.drives[drive], timeout=ATTACH_TIME
        )


EXPORT = Fuse
