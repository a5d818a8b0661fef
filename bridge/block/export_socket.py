# SPDX-License-Identifier: MIT
"""Export socket: an NBD server alone, for clients in user space."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final

from usrdrv.base import errors
from usrdrv.base.options import option
from usrdrv.base.process import Child
from usrdrv.block.options import Options
from usrdrv.bridge.block.contract import Attachment, Export
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer
from usrdrv.bridge.say import say
from usrdrv.claim import run_directory

NO_SECRET: Final = (
    "warning: {} has no authentication and no encryption: whoever can connect to it, "
    "every local user included, can use the drive"
)


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


@dataclass(frozen=True)
class NbdExport(Export[NbdServer]):
    """An NBD server, and whatever its client is."""

    socket: Path | None = option(None, "path of the NBD server's Unix socket", kind=Path)
    threads: int = option(
        16, "requests served at once (default %(default)s)", bounds=(1, 1024), hint=True
    )
    trim: ClassVar[bool] = True
    """Whether its clients may trim."""
    again: ClassVar[bool] = False
    """Whether they send requests again to the next server."""

    @property
    def endpoint(self) -> Endpoint:
        """Where the server listens."""
        path = self.socket or run_directory() / f"block-{os.getpid()}.sock"
        return Endpoint(path=path.absolute())

    def start(
        self, device: str, drives: Sequence[int] | None, options: Options
    ) -> AbstractContextManager[NbdServer]:
        return NbdServer(
            device,
            drives,
            self.endpoint,
            options,
            threads=self.threads,
            trim=self.trim,
            again=self.again,
        )


@dataclass(frozen=True)
class Socket(NbdExport):
    """Nothing else, for clients that come by themselves."""

    name = "socket"
    port: int | None = option(None, "serve NBD on this TCP port (export socket)", bounds=(1, 65535))
    bind: str = option(
        "127.0.0.1",
        "IPv4 or IPv6 address or host name to listen on with --port (default %(default)s)",
        unit="address",
        hint=True,
    )

    @property
    def endpoint(self) -> Endpoint:
        if self.port is None:
            return super().endpoint
        return Endpoint(host=self.bind.removeprefix("[").removesuffix("]"), port=self.port)

    def check(self) -> None:
        if self.port is not None and self.socket is not None:
            raise errors.UsageError("--socket and --port exclude each other")

    @contextmanager
    def start(
        self, device: str, drives: Sequence[int] | None, options: Options
    ) -> Iterator[NbdServer]:
        with super().start(device, drives, options) as server:
            if self.port is not None:
                say(NO_SECRET.format(server.endpoint.uri()))
            yield server

    def attach(self, server: NbdServer, drive: int, options: Options) -> Attachment:
        return SocketAttachment(server.endpoint.uri(server.name(drive)))


EXPORT = Socket
