# SPDX-License-Identifier: MIT
"""Child processes that cannot outlive us, and whose death is seen at once."""

from __future__ import annotations

import ctypes
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import weakref
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from functools import cache, partial
from typing import TYPE_CHECKING, Final

from usrdrv.base import errors

if TYPE_CHECKING:
    from concurrent.futures import ThreadPoolExecutor

PR_SET_PDEATHSIG: Final = 1
DYING: Final = 5.0
"""Seconds; many times what a process takes that is killed."""
_libc: Final = ctypes.CDLL(None, use_errno=True)


def find_tool(name: str, package: str) -> str:
    """Return the path of a program; MissingToolError names the Debian package."""
    path = shutil.which(name)
    if path is None:
        raise errors.MissingToolError(f"{name} is not installed (Debian package {package})")
    return path


def _in_lasting_thread(start: Callable[[], subprocess.Popen[str]]) -> subprocess.Popen[str]:
    """Start a child. It is the end of the thread that did so which PR_SET_PDEATHSIG tells of (prctl(2))."""
    if threading.current_thread() is threading.main_thread():
        return start()
    return _starter(os.getpid()).submit(start).result()


@cache
def _starter(_process: int) -> ThreadPoolExecutor:
    """The thread of a process that starts children for its other threads."""
    from concurrent.futures import ThreadPoolExecutor

    return ThreadPoolExecutor(1, "starter")


class Child:
    """A running program. Once `talk` was called, its standard error comes out of ours.

    prepare: runs in the child before exec.
    parent_death: signal that the kernel sends the child when we are gone, however that happens.
    """

    def __init__(
        self,
        name: str,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        prepare: Callable[[], None] | None = None,
        parent_death: signal.Signals = signal.SIGTERM,
        pass_fds: Sequence[int] = (),
    ) -> None:
        self.name = name
        parent = os.getpid()

        def set_up() -> None:
            _libc.prctl(PR_SET_PDEATHSIG, parent_death)
            if os.getppid() != parent:
                os._exit(1)  # we died before the request was in force
            if prepare is not None:
                prepare()

        # Its own process group: Ctrl-C is for us to act upon, in the right order.
        start = partial(
            subprocess.Popen[str],
            argv,
            env=env,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            process_group=0,
            pass_fds=pass_fds,
            preexec_fn=set_up,
        )
        try:
            self._popen = _in_lasting_thread(start)
        except OSError as error:
            raise errors.MissingToolError(f"{argv[0]}: {error.strerror}") from error
        self.pid = self._popen.pid
        self.pidfd = os.pidfd_open(self.pid)
        # Closed with us, not at the child's end: who polls for it may learn of that later than another.
        weakref.finalize(self, os.close, self.pidfd).atexit = False
        self.lines: deque[str] = deque(maxlen=50)
        """What it said until `talk`, then the latest of it."""
        self._talking = False
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    def _read(self) -> None:
        assert self._popen.stderr is not None
        for line in self._popen.stderr:
            with self._lock:
                self.lines.append(line.rstrip())
                if self._talking:
                    self._say(line.rstrip())

    def _say(self, line: str) -> None:
        prefix = "" if line.startswith(f"{self.name}:") else f"{self.name}: "
        print(f"{prefix}{line}", file=sys.stderr, flush=True)

    def talk(self) -> None:
        """Pass standard error on from now, what was said so far first."""
        with self._lock:
            for line in self.lines:
                self._say(line)
            self._talking = True

    def mute(self) -> None:
        """Pass nothing on any more."""
        with self._lock:
            self._talking = False

    def wait(self, timeout: float) -> bool:
        """Wait for the end; False if it still runs after `timeout` seconds."""
        poll = select.poll()
        poll.register(self.pidfd, select.POLLIN)
        if not poll.poll(timeout * 1000):
            return False
        self._popen.wait()
        self._reader.join(1)
        return True

    @property
    def returncode(self) -> int | None:
        """Exit status, or the negative number of the signal that killed it; None while it runs."""
        return self._popen.poll()

    def status(self) -> str:
        """How it ended, in words."""
        code = self._popen.poll()
        if code is None:
            return "is running"
        return (
            f"was killed by {signal.Signals(-code).name}"
            if code < 0
            else f"ended with status {code}"
        )

    def kill(self) -> None:
        """SIGKILL, unless it has ended."""
        if self._popen.poll() is None:
            signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    def stop(self, grace: float = 10.0) -> bool:
        """Terminate, after `grace` seconds kill. False if even that did not end it."""
        for number, patience in ((signal.SIGTERM, grace), (signal.SIGKILL, 2.0)):
            if self._popen.poll() is None:
                signal.pidfd_send_signal(self.pidfd, number)
            if self.wait(patience):
                return True
        return False
