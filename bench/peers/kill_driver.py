# SPDX-License-Identifier: MIT
"""Runs in a guest: kill drivers again and again, and take the time until the next I/O through each is done.

usage: kill_driver.py COUNT TARGET...; a target is NAME,SUPERVISOR,COMM,HOW,WHERE with HOW

    warm    a process of the driver waits that takes over
    cold    none does: it is killed first
    plain   there never is one

and WHERE a disk, or a port that datagrams come to all the time. A line of JSON for each kill: name, how, and the
seconds from the signal until the process was dead and until the I/O was done.
"""

from __future__ import annotations

import contextlib
import functools
import json
import mmap
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar, Final

STANDBY: Final = "usrdrv-standby"
BEFORE: Final = 20
"""I/Os between two kills: the driver works."""
APART: Final = 8.0
"""Seconds between two deaths of one driver: more than four within 30 are given up."""
PATIENCE: Final = 60.0


def children(parent: int) -> dict[int, str]:
    """The names of a process's children."""
    found = {}
    for pid in Path(f"/proc/{parent}/task/{parent}/children").read_text().split():
        with contextlib.suppress(OSError):
            found[int(pid)] = Path(f"/proc/{pid}/comm").read_text().strip()
    return found


def child(parent: int, comm: str) -> int:
    """Return the child of that name, once there is one."""
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        for pid, name in children(parent).items():
            if name == comm:
                return pid
        time.sleep(0.05)
    sys.exit(f"{parent} has no child {comm}")


def kill(pid: int) -> float:
    """Return the seconds that it took to die."""
    fd = os.pidfd_open(pid)
    begun = time.monotonic()
    signal.pidfd_send_signal(fd, signal.SIGKILL)
    select.select([fd], [], [], PATIENCE)
    os.close(fd)
    return time.monotonic() - begun


def disk(path: str) -> Callable[[], None]:
    """Reads, none of which was under way before it is asked for."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECT)
    block = mmap.mmap(-1, 4096)

    def read() -> None:
        if os.preadv(fd, [block], 0) != len(block):
            sys.exit(f"{path}: a short read")

    return read


@functools.cache
def frames(port: int) -> Callable[[], None]:
    """Frames, none of which had come before it is asked for."""
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.bind(("", port))
    sock.setblocking(False)

    def receive() -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                sock.recv(2048)
        if not select.select([sock], [], [], PATIENCE)[0]:
            sys.exit("no frame comes")

    return receive


class Target:
    """One driver and what is done through it."""

    killed: ClassVar[dict[int, float]] = {}

    def __init__(self, text: str) -> None:
        self.name, supervisor, self._comm, self.how, where = text.split(",")
        self._supervisor = int(supervisor)
        self._work = disk(where) if where.startswith("/") else frames(int(where))

    def _standbys(self) -> list[int]:
        found = children(self._supervisor).items()
        return [pid for pid, name in found if name == STANDBY or name.startswith("python")]

    def measure(self) -> dict[str, object]:
        again = self.killed.get(self._supervisor, 0.0) + APART
        time.sleep(max(0.0, again - time.monotonic()))
        for _ in range(BEFORE):
            self._work()
        pid = child(self._supervisor, self._comm)
        if self.how != "plain":
            child(self._supervisor, STANDBY)
        if self.how == "cold":
            # One that lived long is replaced; its successor, which still starts, is not.
            while others := self._standbys():
                for other in others:
                    kill(other)
                time.sleep(0.5)
        begun = self.killed[self._supervisor] = time.monotonic()
        dead = kill(pid)
        self._work()
        done = time.monotonic() - begun
        return {"name": self.name, "how": self.how, "dead": dead, "done": done}


def main() -> None:
    targets = [Target(text) for text in sys.argv[2:]]
    for _ in range(int(sys.argv[1])):
        for target in targets:
            print(json.dumps(target.measure()), flush=True)


main()
