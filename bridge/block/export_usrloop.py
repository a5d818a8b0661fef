# SPDX-License-Identifier: MIT
"""/dev/usrblkN: our own kernel module, whose rings the driver's process serves.

The supervisor's file controls the device: when it is closed, however that happens, the device goes.
The driver's process has a file of its own; when that is closed, requests wait for the next process.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, ClassVar, Final, Self

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.process import Child
from usrdrv.block.options import DEFAULTS, Options
from usrdrv.bridge.block import inquiry
from usrdrv.bridge.block.chosen import check_same
from usrdrv.bridge.block.contract import Attachment, Export
from usrdrv.bridge.block.kernel_disk import KernelDisk
from usrdrv.bridge.block.watchdog import overdue
from usrdrv.bridge.worker.memory import stay_in_memory
from usrdrv.bridge.worker.process import START_TIMEOUT, DriverProcess
from usrdrv.bridge.worker.standby import Standby
from usrdrv.bridge.worker.worker import GONE

NODE_TIMEOUT: Final = 5.0
DEPTH: Final = 32
MAX_IO: Final = 256 << 10
"""Bytes of a request. The driver joins neighbours; the product with DEPTH is mapped for the device at once."""
WITHOUT_SERVER: Final = (
    loop.lib.USRLOOP_QUIESCED,
    loop.lib.USRLOOP_FAILED,
    loop.lib.USRLOOP_DEAD,
)


@dataclass(frozen=True)
class Drive:
    """What the driver says of the drive."""

    identity: str
    size: int
    physical_block: int
    max_trim: int
    """Bytes of one trim."""
    queues: int
    """That it can make use of."""
    read_only: bool
    can_flush: bool
    can_fua: bool
    can_trim: bool
    rotational: bool
    zero_copy: dict[str, int] | None
    """How its controller wants to be told of pages; None: the kernel copies."""

    @property
    def features(self) -> int:
        """USRLOOP_BLK_* flags."""
        lib = loop.lib
        chosen = {
            lib.USRLOOP_BLK_READ_ONLY: self.read_only,
            lib.USRLOOP_BLK_CACHE: self.can_flush,
            lib.USRLOOP_BLK_FUA: self.can_flush and self.can_fua,
            lib.USRLOOP_BLK_DISCARD: self.can_trim and not self.read_only,
            lib.USRLOOP_BLK_ROTATIONAL: self.rotational,
            lib.USRLOOP_BLK_ZERO_COPY: self.zero_copy is not None,
        }
        return sum(flag for flag, on in chosen.items() if on)


class LoopServer(Closing):
    """The driver's process. A context manager: inside, it is ready to serve."""

    worker: ClassVar[str] = "usrdrv.bridge.block.driver_usrloop"
    """The module that it runs, with a BlockWorker."""

    def __init__(
        self, device: str, drives: Sequence[int] | None, options: Options = DEFAULTS
    ) -> None:
        self.device = device
        self._fds = (options.counters,) if options.counters >= 0 else ()
        self._request: dict[str, Any] = {
            "device": device,
            "drives": drives,
            "options": asdict(options),
        }
        self._standby = Standby(self.worker)
        self._process: DriverProcess
        self.drives: dict[int, Drive] = {}
        """By number."""
        self.start()

    @property
    def child(self) -> Child:
        return self._process.child

    @property
    def standby(self) -> Child | None:
        return self._standby.child

    def prepare(self) -> None:
        self._standby.prepare()

    def uri(self, drive: int) -> str | None:
        return None

    def start(
        self, hurried: Callable[[], bool] = lambda: False, timeout: float = START_TIMEOUT
    ) -> None:
        """Start the driver, again if it has ended; it is ready when this returns, after `timeout` s at most.

        InterruptedError when `hurried` says so; DeviceError also if it is not the drive that it was.
        """
        if self.drives:  # it may live still, if the kernel has taken the disk from it
            self._process.kill()
        self._process = DriverProcess(
            self._standby, hurried, timeout, fds=self._fds, **self._request
        )
        found = {
            int(number): Drive(**said) for number, said in self._process.ready["drives"].items()
        }
        if not self.drives:
            self.drives = found
            self._request["drives"] = list(found)  # those and no others, also if all were asked for
            return
        try:
            check_same(self.device, self.drives, found)
        except errors.DeviceError:
            self._process.kill()
            raise

    def serve(self, drive: int, number: int) -> None:
        """Have it serve block device `number` of usrloop."""
        self._process.send(op="serve", drive=drive, id=number)
        self._process.expect("serving")

    def device_gone(self) -> bool:
        """Whether it has ended because it believes that there is no device any more."""
        return self.child.returncode == GONE

    def close(self) -> None:
        """End the driver: it quiesces the device. Idempotent."""
        self._standby.close()
        self._process.close()
        inquiry.forget()


class LoopAttachment:
    """A drive as /dev/usrblkN."""

    children: Sequence[Child] = ()

    def __init__(self, server: LoopServer, number: int, options: Options) -> None:
        self._server = server
        self._number = number
        self._fd = -1
        self.disks: Sequence[KernelDisk] = ()
        drive = server.drives[number]
        called = server.device if len(server.drives) == 1 else f"{server.device}-drive{number}"
        self._control = loop.Control()
        self.news: int | None = self._control.fd
        try:
            info = self._control.create(
                loop.Disk(
                    size=drive.size,
                    physical_block=drive.physical_block,
                    features=drive.features,
                    **(drive.zero_copy or {"max_io": MAX_IO}),
                    max_discard=drive.max_trim,
                    queues=drive.queues,
                    depth=DEPTH,
                    poll_us=options.poll_us,
                    policy="reissue" if options.restart_time else "fail",
                    recovery_ms=options.restart_time * 1000,
                    timeout_ms=int(overdue(options.request_time) * 1000),
                    label=_label(called),
                )
            )
            self._id = int(info.id)
            self.disks = [KernelDisk(f"usrblk{self._id}")]
            self.where = self.disks[0].where
            server.serve(number, self._id)
            self._control.start()
            self._open(os.O_RDONLY if drive.read_only else os.O_RDWR)
            stay_in_memory()  # or nobody would start the next driver while a disk for swap has none
        except BaseException:
            self.close()
            raise

    def _open(self, flags: int) -> None:
        """Open it, which also has the kernel look for partitions."""
        deadline = time.monotonic() + NODE_TIMEOUT
        while self._fd < 0:
            try:
                self._fd = os.open(self.where, flags | os.O_CLOEXEC)
            except FileNotFoundError:
                if time.monotonic() > deadline:
                    raise errors.DeviceError(f"{self.where} did not appear") from None
                time.sleep(0.01)
            except OSError as error:
                raise errors.DeviceError(f"{self.where}: {error.strerror}") from None

    @property
    def resumable(self) -> Self:
        return self

    def lost_server(self) -> bool:
        return self._control.query().state in WITHOUT_SERVER

    def hold(self) -> None:
        """There is nothing to do: the module does that until our file of it is closed."""

    def reconnect(self) -> None:
        """Have the restarted driver serve it: what was under way is sent again."""
        self._server.serve(self._number, self._id)
        stay_in_memory()

    def close(self) -> None:
        """Take the device away, also while in use: whoever uses it gets I/O errors."""
        if self._control.fd >= 0:
            with suppress(errors.UsrdrvError):  # it was not made
                self._control.delete(force=True)
            self._control.close()
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        for disk in self.disks:  # after that: while we have it claimed, nobody mounts it
            disk.release()


def _label(name: str) -> str:
    """What /dev/usrdrv/ calls it: its name, as far as a file's name can have it."""
    safe = "".join(c if (c.isascii() and c.isalnum()) or c in "-.=" else "_" for c in name)
    return safe[-loop.lib.USRLOOP_LABEL_LEN + 1 :].lstrip("-.")


@dataclass(frozen=True)
class Usrloop(Export[LoopServer]):
    """The kernel module usrloop: a driver takes requests from rings."""

    name = "usrloop"
    why = "the kernel has module usrloop"

    def available(self) -> bool:
        return loop.available()

    def check(self) -> None:
        loop.Control().close()

    def start(self, device: str, drives: Sequence[int] | None, options: Options) -> LoopServer:
        return LoopServer(device, drives, options)

    def attach(self, server: LoopServer, drive: int, options: Options) -> Attachment:
        return LoopAttachment(server, drive, options)


EXPORT = Usrloop
