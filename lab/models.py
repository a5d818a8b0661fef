# SPDX-License-Identifier: MIT
"""Device models in processes of their own, for guests to plug in."""

from __future__ import annotations

import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.process import Child

START_TIMEOUT: Final = 60.0


def _error(code: int | None) -> type[errors.UsrdrvError]:
    """What a `usrdrv model` that could not start says by its exit status."""
    return errors.UsageError if code == 2 else errors.LabError


class Model(Closing):
    """`usrdrv model KIND ARGUMENTS` until close(). A context manager.

    `socket`: where its device is; `name`: the device's name here; `control`: for faults and counters.
    """

    def __init__(self, kind: str, *arguments: str) -> None:
        self._folder = Path(tempfile.mkdtemp(prefix="usrdrv-model-"))
        self.socket = self._folder / "socket"
        self.control = self._folder / "socket.ctl"
        self.name = f"vfio-user:{self.socket}"
        self.child = Child(
            "model",
            [
                *(sys.executable, "-m", "usrdrv", "model", kind),
                *("--socket", str(self.socket), *arguments),
            ],
        )
        deadline = time.monotonic() + START_TIMEOUT
        while not self.control.exists():
            ended = self.child.wait(0.01)
            if ended or time.monotonic() > deadline:
                said = "; ".join(self.child.lines) or self.child.status()
                self.close()
                raise _error(self.child.returncode)(
                    f"--model {kind}: {said.removeprefix('usrdrv: error: ')}"
                )

    def close(self) -> None:
        """End it. Idempotent."""
        self.child.stop()
        shutil.rmtree(self._folder, ignore_errors=True)
