# SPDX-License-Identifier: MIT
"""What a way from a drive to its user, an export, offers to those who supervise it."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Final, Generic, Protocol, TypeVar

from usrdrv.base.process import Child
from usrdrv.block.options import Options
from usrdrv.bridge import exports
from usrdrv.bridge.block.chosen import Unit
from usrdrv.bridge.block.kernel_disk import KernelDisk

ATTACH_TIME: Final = 30.0
"""Seconds that attaching a drive takes at most."""

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


def statistics(attachment: Attachment) -> list[Path]:
    """The kernel's account of its requests: a file for each disk; none if the kernel has no part in it."""
    return [disk.statistics for disk in attachment.disks]


S = TypeVar("S", bound=Server)


class Export(exports.Export, Generic[S]):
    """A way from a drive to its user."""

    @abstractmethod
    def start(
        self, device: str, drives: Sequence[int] | None, options: Options
    ) -> AbstractContextManager[S]:
        """Start the driver in the process that this export wants it in. drives: their numbers; None: all."""

    @abstractmethod
    def attach(self, server: S, drive: int, options: Options) -> Attachment:
        """Attach a drive of a running server."""
