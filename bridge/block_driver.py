# SPDX-License-Identifier: MIT
"""The process of a block driver that usrloop gets its requests served by.

`open` claims the device and says what drive it is; `serve` attaches to a device of usrloop and gives its
rings to the driver's C part, which is on its own from then on.
"""

from __future__ import annotations

import sys
import threading
from contextlib import ExitStack
from dataclasses import asdict
from typing import Any

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.bridge.driver_worker import FAILED, GONE, Worker, run
from usrdrv.bridge.memory import no_core, stay_in_memory, unlimited
from usrdrv.device import open_device
from usrdrv.drivers import open_driver, supported


class BlockWorker(Worker):
    """One drive."""

    def settle(self) -> None:
        """Be ready for a disk that waits for us: not swapped out to it, no core dump that goes there.

        Here also because there are no threads yet.
        """
        no_core()
        if unlimited():
            stay_in_memory()

    def open(self, stack: ExitStack, request: dict[str, Any], fds: list[int]) -> None:
        name, index = request["device"], request["drive"]
        device = stack.enter_context(open_device(name))
        self._control = loop.Control()
        stack.callback(self._control.close)
        options = {key: request[key] for key in ("read_only", "poll_us")}
        controller = stack.enter_context(open_driver(device, supported.DISKS, **options))
        self._controller = controller
        drive = controller.drives[index] if 0 <= index < len(controller.drives) else None
        if drive is None:
            there = ", ".join(str(d.index) for d in controller.drives if d) or "none"
            raise errors.NoSuchDeviceError(f"{name}: no drive {index} (there is: {there})")
        self._index = index
        self._device = device
        block = drive.block
        zero_copy = request["zero_copy"] and self._control.can_zero_copy(loop.lib.USRLOOP_BLOCK)
        segments = controller.zero_copy(index) if zero_copy else None
        for event in (controller.gone, controller.unserved):
            threading.Thread(target=self._watch, args=(event,), daemon=True).start()
        self.say(
            event="ready",
            identity=f"{drive.identity.model}, serial {drive.identity.serial}",
            size=block.size,
            physical_block=block.physical_block,
            zero_copy=segments and asdict(segments),
            **{
                name: getattr(block, name)
                for name in ("read_only", "can_flush", "can_fua", "can_trim", "rotational")
            },
        )

    def _watch(self, event: threading.Event) -> None:
        """End when there is nothing left to do: no way on with the device, or the disk is not ours any more."""
        event.wait()
        # Who takes the disk away ends the device, too, if that was at it.
        if not self._controller.unserved.is_set():
            self.status = GONE if self._controller.vanished else FAILED
        self.end()

    def obey(self, request: dict[str, Any], fds: list[int]) -> None:
        match request["op"]:
            case "serve":
                claim = self._device.claim_fd
                attach = self._control.attach(loop.lib.USRLOOP_BLOCK, request["id"], claim)
                self._controller.serve(self._index, self._control.fd, attach)
                stay_in_memory()
                self.say(event="serving")


if __name__ == "__main__":
    sys.exit(run(BlockWorker))
