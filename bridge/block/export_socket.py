# SPDX-License-Identifier: MIT
"""Export socket: an NBD server alone, for clients in user space."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from usrdrv.base.process import Child
from usrdrv.bridge.block.contract import Attachment, Export, Settings
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.nbd_server import NbdServer


class SocketAttachment:
    """The NBD server itself."""

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


class Socket(Export[NbdServer]):
    """An NBD server; those with a client of the kernel behind it are made from this."""

    name = "socket"
    options = ("socket",)
    trim: ClassVar[bool] = True
    """Whether its clients may trim."""
    again: ClassVar[bool] = False
    """Whether they send requests again to the next server."""

    def start(self, device: str, drives: Sequence[int] | None, settings: Settings) -> NbdServer:
        return NbdServer(
            device,
            drives,
            settings.endpoint,
            read_only=settings.read_only,
            trim=self.trim,
            again=self.again,
            overdue=settings.overdue,
            threads=settings.threads,
            counters=settings.counters,
        )

    def attach(self, server: NbdServer, drive: int, settings: Settings) -> Attachment:
        return SocketAttachment(server.endpoint.uri(server.name(drive)))


EXPORT = Socket()
