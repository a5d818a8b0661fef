# SPDX-License-Identifier: MIT
"""What a way from a drive to its user, an export, offers to those who supervise it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Final, Generic, Protocol, TypeVar

from usrdrv.base.process import Child
from usrdrv.bridge.block.chosen import Unit
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.nbd_server import Endpoint

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


@dataclass(frozen=True)
class Settings:
    """How drives are served, as `usrdrv block` is told; an export takes what means something to it.

    endpoint: where an NBD server listens. threads: its own. zero_copy: where usrloop and the device can do that.
    poll_us: how long usrloop and its driver look before they sleep. restart_time: seconds that requests wait for a
    driver. overdue: seconds after which a driver loses the disk for one request that is not done; 0: never.
    counters: descriptor of a memory file that the driver counts in (usrdrv.base.counters); -1: none.
    """

    endpoint: Endpoint
    read_only: bool = False
    threads: int = 16
    zero_copy: bool = True
    poll_us: int = 0
    restart_time: int = 0
    overdue: float = 0
    counters: int = -1


S = TypeVar("S", bound=Server)


class Export(ABC, Generic[S]):
    """A way from a drive to its user. Its module is export_NAME.py, with an object of it as EXPORT."""

    name: ClassVar[str]
    why: ClassVar[str] = ""
    """Why `--export auto` takes it, where it does."""
    options: ClassVar[tuple[str, ...]] = ()
    """The options of `usrdrv block` that others may not have, as argparse calls them."""

    def available(self) -> bool:
        """Whether `--export auto` can take it here."""
        return False

    def check(self) -> None:
        """Raise now, before the device is touched, if it cannot work here."""
        return

    @abstractmethod
    def start(
        self, device: str, drives: Sequence[int] | None, settings: Settings
    ) -> AbstractContextManager[S]:
        """Start the driver in the process that this export wants it in. drives: their numbers; None: all."""

    @abstractmethod
    def attach(self, server: S, drive: int, settings: Settings) -> Attachment:
        """Attach a drive of a running server."""
