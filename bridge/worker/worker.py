# SPDX-License-Identifier: MIT
"""A driver's process from inside: it does what its supervisor says (usrdrv.bridge.worker.process)."""

from __future__ import annotations

import ctypes
import json
import logging
import os
import select
import signal
import socket
import sys
import threading
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import ExitStack
from typing import Any, Final

from usrdrv import drivers
from usrdrv.base import errors
from usrdrv.bridge.worker.loaded import Loaded
from usrdrv.claim import name_owner

PR_SET_NAME: Final = 15
NAME: Final = b"usrdrv-driver"
STANDBY: Final = b"usrdrv-standby"
"""What ps and pkill call it, with a device and before, as soon as it has nothing left to do."""
FAILED: Final = 1
GONE: Final = 3
"""Exit status of a driver that cannot go on; that believes that its device vanished."""
STALE: Final = "stale"
"""Event of a standby whose code is not that of its files any more, in answer to `open`: it ends."""


class Worker(ABC):
    """One device on its way between chip and supervisor."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()
        self.status = 0
        """Exit status of an orderly end."""

    def say(self, **message: Any) -> None:
        """Tell the supervisor; if it is gone, so are we soon. From any thread."""
        with self._lock:
            try:
                self._sock.sendall(json.dumps(message).encode() + b"\n")
            except OSError:
                return

    def end(self) -> None:
        """Have the process end as if the supervisor had asked for it. From any thread."""
        self._sock.shutdown(socket.SHUT_RD)

    def settle(self) -> None:  # noqa: B027 (nothing, as a rule)
        """Do what can be done before there is a device. A standby waits when this returns."""

    @abstractmethod
    def open(self, stack: ExitStack, request: dict[str, Any], fds: list[int]) -> None:
        """Claim the device, start its driver and say `ready`; `stack` ends them."""

    @abstractmethod
    def obey(self, request: dict[str, Any], fds: list[int]) -> None:
        """Do one thing."""


def _requests(sock: socket.socket) -> Iterator[tuple[dict[str, Any], list[int]]]:
    """Yield each request with the descriptors that came with it, until the other end closes."""
    pending = b""
    fds: list[int] = []
    while True:
        while b"\n" in pending:
            line, _, pending = pending.partition(b"\n")
            yield json.loads(line), fds
            fds = []
        data, received, _, _ = socket.recv_fds(sock, 1 << 16, 4)
        if not data:
            return
        pending += data
        fds += received


def _call_it(name: bytes) -> None:
    ctypes.CDLL(None).prctl(PR_SET_NAME, name)


def run(kind: type[Worker]) -> int:
    """Serve the supervisor at the socket that is descriptor argv[1]. Return the exit code."""
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the supervisor decides
    sock = socket.socket(fileno=int(sys.argv[1]))
    name_owner(os.getppid())
    worker = kind(sock)
    early = not select.select([sock], [], [], 0)[0]  # nobody waits for us
    loaded: Loaded | None = None
    if early:
        drivers.preload()
        loaded = Loaded(int(sys.argv[2]))
    worker.settle()
    if early:
        _call_it(STANDBY)
    try:
        with ExitStack() as stack:
            for request, fds in _requests(sock):
                if request["op"] == "stop":
                    break
                if request["op"] == "open":
                    if loaded is not None and loaded.changed():
                        worker.say(event=STALE)
                        break
                    _call_it(NAME)  # before there are threads, which inherit it
                    worker.open(stack, request, fds)
                else:
                    worker.obey(request, fds)
    except errors.UsrdrvError as error:
        worker.say(event="error", type=type(error).__name__, why=str(error))
        return FAILED
    return worker.status
