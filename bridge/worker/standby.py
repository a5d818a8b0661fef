# SPDX-License-Identifier: MIT
"""The next process of a driver, started before it is wanted: a death does not cost the start of an interpreter.

It has imported what a driver needs, waits for `open`, and holds nothing: no device, no memory for DMA.

See docs/design/standby.md.
"""

from __future__ import annotations

import socket
import sys
import time
from typing import Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.process import Child
from usrdrv.bridge.say import say

SHORT_LIFE: Final = 30.0
"""Seconds. One that ended by itself within that would again: there is none until the next restart."""


def _spawn(module: str) -> tuple[Child, socket.socket]:
    """Start the process that runs `module`; our end of its socket."""
    ours, theirs = socket.socketpair()
    with theirs:
        argv = [sys.executable, "-P", "-m", module, str(theirs.fileno()), str(time.time_ns())]
        try:
            return Child("driver", argv, pass_fds=(theirs.fileno(),)), ours
        except BaseException:
            ours.close()
            raise


class Standby(Closing):
    """Where the processes that run `module` come from. Without prepare(), each is started when it is taken.

    The one that waits ends with us, however that happens: by its parent's death, and by its socket's end.
    """

    def __init__(self, module: str) -> None:
        self._module = module
        self._next: tuple[Child, socket.socket] | None = None
        self._since = 0.0
        self._useless = False

    @property
    def child(self) -> Child | None:
        """To be watched: prepare() starts another one when it ends."""
        return self._next[0] if self._next is not None else None

    def prepare(self) -> None:
        """See that one is waiting. That there is none is no reason to fail."""
        if self.child is not None and self.child.wait(0):
            self._useless = time.monotonic() - self._since < SHORT_LIFE
            how = f"the driver's standby {self.child.status()}"
            rest = "; not starting another one" if self._useless else ""
            say(f"{how}{rest}")
            self.close()
        if self._next is None and not self._useless:
            try:
                self._next = _spawn(self._module)
            except (errors.UsrdrvError, OSError):
                self._useless = True
            self._since = time.monotonic()

    def take(self) -> tuple[Child, socket.socket]:
        """Hand over the one that waits, or a new one."""
        waiting, self._next, self._useless = self._next, None, False
        if waiting is not None and not waiting[0].wait(0):
            return waiting
        if waiting is not None:
            waiting[1].close()
        return self.start()

    def start(self) -> tuple[Child, socket.socket]:
        """Start one that takes over at once: none has waited."""
        return _spawn(self._module)

    def close(self) -> None:
        """End the one that waits. Idempotent."""
        if self._next is not None:
            child, sock = self._next
            self._next = None
            sock.close()
            child.stop()
