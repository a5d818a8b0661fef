# SPDX-License-Identifier: MIT
"""The process of a block driver that serves usrloop: it attaches to a block device for each drive."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from typing import Any

from usrdrv import loop
from usrdrv.bridge.block.driver import BlockWorker
from usrdrv.bridge.worker.worker import run


class UsrloopWorker(BlockWorker):
    """Its ports are the queues of block devices of usrloop."""

    def can_zero_copy(self) -> bool:
        with loop.Control() as control:
            return control.can_zero_copy(loop.lib.USRLOOP_BLOCK)

    def ports(
        self, request: dict[str, Any], claim_fd: int, kept: ExitStack
    ) -> tuple[list[int], bool]:
        control = kept.enter_context(loop.Control())
        attach = control.attach(loop.lib.USRLOOP_BLOCK, request["id"], claim_fd)
        return loop.block_ports(control, attach), attach.claim_fd >= 0


if __name__ == "__main__":
    sys.exit(run(UsrloopWorker))
