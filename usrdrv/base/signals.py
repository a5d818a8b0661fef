# SPDX-License-Identifier: MIT
"""Requests to end, as something that can be polled together with everything else."""

from __future__ import annotations

import os
import signal
import time
from collections import deque
from types import FrameType
from typing import Any, Final, NamedTuple, Self

HANDLED: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(BaseException):
    """A request to end came while there was nothing to detach yet."""


class Received(NamedTuple):
    """A signal that came."""

    number: signal.Signals
    at: float
    """When it was handled: seconds of time.monotonic()."""


class Signals:
    """Within the context, signals to end raise `Interrupted`, after `poll_only` go to `fd`.

    SIGHUP and SIGTERM stay ignored if they were ignored at the start: nohup asks for that. SIGINT does not: shells
    have every background job of a script ignore it, and it is the way to end without taking a disk from a user.
    """

    def __init__(self) -> None:
        self._raising = True
        self._received: deque[Received] = deque()
        self._before: dict[signal.Signals, Any] = {}
        self.fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)

    def __enter__(self) -> Self:
        for number in HANDLED:
            if number == signal.SIGINT or signal.getsignal(number) is not signal.SIG_IGN:
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        os.close(self.fd)
        os.close(self._write_fd)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self._raising:
            self._raising = False  # once: the way out is not interrupted
            raise Interrupted
        self._received.append(Received(signal.Signals(number), time.monotonic()))
        os.write(self._write_fd, b"!")

    def poll_only(self) -> None:
        """Stop raising."""
        self._raising = False

    @property
    def waiting(self) -> bool:
        """Whether something came since the last take()."""
        return bool(self._received)

    def take(self) -> list[Received]:
        """What came since the last call."""
        os.read(self.fd, 4096)
        received = list(self._received)
        self._received.clear()
        return received
