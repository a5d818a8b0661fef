# SPDX-License-Identifier: MIT
"""The process of a block driver whose requests come through ports: rings that it shares with the kernel.

`open` claims the device and says what the wanted drives are; `serve` has the export make a drive's ports and gives
them to the driver's C part, which is on its own from then on.
"""

from __future__ import annotations

import threading
from abc import abstractmethod
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from usrdrv.block.options import Options
from usrdrv.bridge.block import inquiry
from usrdrv.bridge.block.chosen import chosen, identity
from usrdrv.bridge.worker.memory import no_core, stay_in_memory, unlimited
from usrdrv.bridge.worker.worker import FAILED, GONE, Worker
from usrdrv.drivers.disks import open_disks

if TYPE_CHECKING:
    from usrdrv.block.front import ZeroCopy
    from usrdrv.drivers.disks import Disk


class BlockWorker(Worker):
    """The drives of a controller that are served. An export with rings of its own says what is missing here."""

    @abstractmethod
    def can_zero_copy(self) -> bool:
        """Whether the export could name pages to a device."""

    @abstractmethod
    def ports(
        self, request: dict[str, Any], claim_fd: int, kept: ExitStack
    ) -> tuple[list[int], bool]:
        """Make the ports of a drive (DiskController.serve), and say whether they name pages.

        request: what the supervisor said. claim_fd: the device's. kept: ends when nobody uses the ports any more.
        """

    def settle(self) -> None:
        """Be ready for a disk that waits for us: not swapped out to it, no core dump that goes there.

        Here also because there are no threads yet.
        """
        no_core()
        if unlimited():
            stay_in_memory()

    def open(self, stack: ExitStack, request: dict[str, Any], fds: list[int]) -> None:
        name = request["device"]
        # Opened first, closed last: the driver has no requests of theirs any more.
        self._kept = stack.enter_context(ExitStack())
        options = replace(Options(**request["options"]), counters=fds[0] if fds else -1)
        controller = stack.enter_context(open_disks(name, options))
        self._controller = controller
        drives = chosen(controller, name, request["drives"])
        zero_copy = options.zero_copy and self.can_zero_copy()
        stack.enter_context(inquiry.answer(controller))
        for event in (controller.gone, controller.unserved):
            threading.Thread(target=self._watch, args=(event,), daemon=True).start()
        self.say(
            event="ready",
            drives={
                drive.index: _describe(
                    drive,
                    controller.queues,
                    controller.zero_copy(drive.index) if zero_copy else None,
                )
                for drive in drives
            },
        )

    def _watch(self, event: threading.Event) -> None:
        """End when there is nothing left to do: no way on with the device, or a disk is not ours any more.

        Of several, the others get the next driver as well: with zero copy this one may have lost the device.
        """
        event.wait()
        # Who takes the disk away ends the device, too, if that was at it.
        if not self._controller.unserved.is_set():
            self.status = GONE if self._controller.vanished else FAILED
        self.end()

    def obey(self, request: dict[str, Any], fds: list[int]) -> None:
        match request["op"]:
            case "serve":
                ports, zero_copy = self.ports(request, self._controller.claim_fd, self._kept)
                self._controller.serve(request["drive"], ports, zero_copy)
                stay_in_memory()
                self.say(event="serving")


def _describe(drive: Disk, queues: int, zero_copy: ZeroCopy | None) -> dict[str, Any]:
    """What the supervisor has to know of a drive (export_usrloop.Drive)."""
    block = drive.block
    flags = ("read_only", "can_flush", "can_fua", "can_trim", "rotational")
    return {
        "identity": identity(drive),
        "size": block.size,
        "physical_block": block.physical_block,
        "max_trim": block.max_trim,
        "queues": queues,
        "zero_copy": zero_copy and asdict(zero_copy),
        **{name: getattr(block, name) for name in flags},
    }
