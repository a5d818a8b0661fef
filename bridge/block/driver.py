# SPDX-License-Identifier: MIT
"""The process of a block driver that usrloop gets its requests served by.

`open` claims the device and says what the wanted drives are; `serve` attaches to a device of usrloop, one for each
drive, and gives its rings to the driver's C part, which is on its own from then on.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from usrdrv import loop
from usrdrv.block.options import Options
from usrdrv.bridge.block import inquiry
from usrdrv.bridge.block.chosen import chosen, identity
from usrdrv.bridge.worker.memory import no_core, stay_in_memory, unlimited
from usrdrv.bridge.worker.worker import FAILED, GONE, Worker, run
from usrdrv.drivers.disks import open_disks

if TYPE_CHECKING:
    from usrdrv.block.front import ZeroCopy
    from usrdrv.drivers.disks import Disk


class BlockWorker(Worker):
    """The drives of a controller that are served."""

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
        self._controls = stack.enter_context(ExitStack())
        options = replace(Options(**request["options"]), counters=fds[0] if fds else -1)
        controller = stack.enter_context(open_disks(name, options))
        self._controller = controller
        drives = chosen(controller, name, request["drives"])
        zero_copy = options.zero_copy and _can_zero_copy()
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
                control = loop.Control()
                self._controls.callback(control.close)
                claim = self._controller.claim_fd
                attach = control.attach(loop.lib.USRLOOP_BLOCK, request["id"], claim)
                self._controller.serve(request["drive"], control.fd, attach)
                stay_in_memory()
                self.say(event="serving")


def _can_zero_copy() -> bool:
    with loop.Control() as control:
        return control.can_zero_copy(loop.lib.USRLOOP_BLOCK)


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


if __name__ == "__main__":
    sys.exit(run(BlockWorker))
