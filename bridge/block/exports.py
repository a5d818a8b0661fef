# SPDX-License-Identifier: MIT
"""How a served drive gets to its user: the choice, and what all the ways have in common."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final, Protocol

from usrdrv import loop, modules
from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.bridge.block.chosen import Unit
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer

if TYPE_CHECKING:
    from usrdrv.bridge.block.export_usrloop import LoopServer

REPLAY_TIME: Final = 2.0
"""Seconds until a restarted driver has the requests that were under way at the latest."""


class Server(Protocol):
    """A driver's process, ready to serve drives."""

    @property
    def device(self) -> str: ...

    @property
    def child(self) -> Child: ...

    @property
    def drives(self) -> Mapping[int, Unit]:
        """By number, in the order in which they were asked for."""

    def uri(self, drive: int) -> str | None:
        """The address where other programs can have it, if there is one."""

    @property
    def standby(self) -> Child | None:
        """The process that takes over when `child` dies, if one is waiting."""

    def prepare(self) -> None:
        """See that one is waiting, if it can be."""

    def device_gone(self) -> bool:
        """Whether it has ended because it believes that there is no device any more."""

    def start(self, hurried: Callable[[], bool] = ..., timeout: float = ...) -> None:
        """Start it again; DeviceError if it has another drive than before, InterruptedError if hurried."""


class Resumable(Protocol):
    """What keeps requests while a server that ended is started again."""

    def hold(self) -> None:
        """The server has ended: have requests wait for the next one. Idempotent."""

    def reconnect(self) -> None:
        """Go on with the restarted server."""


class Attachment(Protocol):
    """A drive that is usable; `close` detaches it, also after everything behind it died."""

    where: str
    """A device path or an NBD address."""

    disks: Sequence[KernelDisk]
    """As the kernel has it; empty: the kernel has no part in it."""

    news: int | None
    """A descriptor that is readable when the kernel has something to say of its server; None: it never has."""

    def lost_server(self) -> bool:
        """Whether the kernel has no server any more, whatever its process does. `news` is quiet until the next."""

    @property
    def children(self) -> Sequence[Child]:
        """Processes without which it does not work."""

    @property
    def resumable(self) -> Resumable | None:
        """How it goes on with another server; None: it ends with this one."""

    def close(self) -> None:
        """Detach. Idempotent."""


class SocketAttachment:
    """The NBD server itself, for clients in user space."""

    children: Sequence[Child] = ()
    resumable = None
    disks: Sequence[KernelDisk] = ()
    news: int | None = None

    def __init__(self, uri: str) -> None:
        self.where = uri

    def lost_server(self) -> bool:
        return False

    def close(self) -> None:
        pass


def statistics(attachment: Attachment) -> list[Path]:
    """The kernel's account of its requests: a file for each disk; none if the kernel has no part in it."""
    return [disk.statistics for disk in attachment.disks]


def kernel_has_nbd(module: Path = Path("/sys/module/nbd")) -> bool:
    """Whether the kernel's NBD client is there; loads it if we may."""
    if not module.exists():
        modules.load("nbd")
    return module.exists()


def choose(wanted: str, *, socket: bool = False) -> tuple[str, str]:
    """Turn `auto` into the best export that this kernel has. Return it and the reason.

    socket: of those that have an NBD server, whose socket is wanted at a certain place.
    """
    if wanted != "auto":
        return wanted, "as asked"
    if not socket and loop.available():
        return "usrloop", "the kernel has module usrloop"
    if kernel_has_nbd():
        return "nbd", "the kernel has an NBD client"
    return "fuse", "the kernel has no NBD client (module nbd)"


def check(export: str) -> None:
    """Raise now, before the device is touched, if `export` cannot work here."""
    if export == "usrloop":
        loop.Control().close()
    elif export == "nbd":
        if not kernel_has_nbd():
            raise errors.MissingToolError(
                "this kernel has no NBD client: module nbd (CONFIG_BLK_DEV_NBD)"
            )
    elif export == "fuse":
        from usrdrv.bridge.block.export_fuse import check_access

        check_access()


def start(
    export: str,
    device: str,
    drives: Sequence[int] | None,
    endpoint: Endpoint,
    *,
    read_only: bool,
    threads: int,
    zero_copy: bool = True,
    poll_us: int = 0,
    overdue: float = 0,
    counters: int = -1,
) -> NbdServer | LoopServer:
    """Start the driver in the process that `export` wants it in; a context manager.

    drives: their numbers; None: all.
    threads: of an NBD server. overdue: seconds after which that ends for a request that is not done; 0: never.
    zero_copy: where usrloop and the device can do that. poll_us: how long usrloop and its driver look before they
    sleep. counters: descriptor of a memory file that the driver counts in (usrdrv.base.counters); -1: none.
    """
    if export == "usrloop":
        from usrdrv.bridge.block.export_usrloop import LoopServer

        return LoopServer(
            device,
            drives,
            read_only=read_only,
            zero_copy=zero_copy,
            poll_us=poll_us,
            counters=counters,
        )
    # A loop device turns "write zeroes" into "punch a hole", which nbdfuse makes a trim, after which
    # an ATA drive need not read as zeroes.
    trim = export != "fuse"
    return NbdServer(
        device,
        drives,
        endpoint,
        read_only=read_only,
        trim=trim,
        again=export == "nbd",
        overdue=overdue,
        threads=threads,
        counters=counters,
    )


def attach(
    export: str,
    server: NbdServer | LoopServer,
    drive: int,
    *,
    timeout: float = 30.0,
    patience: int = 0,
    overdue: float = 0,
) -> Attachment:
    """Attach a drive of a running server.

    patience: seconds that requests wait for it to be restarted. overdue: seconds after which usrloop takes the disk
    from a driver for a single request that is not done; 0: never.
    """
    if not isinstance(server, NbdServer):
        from usrdrv.bridge.block.export_usrloop import LoopAttachment

        return LoopAttachment(server, drive, patience=patience, overdue=overdue)
    name = server.name(drive)
    if export == "nbd":
        from usrdrv.bridge.block.export_nbd import NbdAttachment

        return NbdAttachment(server.endpoint.address, name, timeout=timeout, patience=patience)
    if export == "fuse":
        from usrdrv.bridge.block.export_fuse import FuseAttachment

        return FuseAttachment(server.endpoint, name, server.drives[drive], timeout=timeout)
    return SocketAttachment(server.endpoint.uri(name))
