# SPDX-License-Identifier: MIT
"""A driver's process, seen from its supervisor: one socket, a JSON object a line.

The supervisor begins with `open`; the driver answers with the event `ready`, or `error` with a type of
usrdrv.base.errors. The end of the socket is the driver's end.
"""

from __future__ import annotations

import array
import json
import select
import socket
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.process import DYING
from usrdrv.bridge.worker.standby import Standby
from usrdrv.bridge.worker.worker import STALE

START_TIMEOUT: Final = 90.0
"""Longer than a drive may take to come out of its reset (31 s) and identify itself, twice."""
ANSWER_TIMEOUT: Final = 30.0
QUIESCING: Final = 10.0
"""Seconds that a driver has to quiesce its device, before a signal ends it. Its disk's cache was flushed before."""


def _event(line: bytes) -> dict[str, Any]:
    """Decode what a driver said; what makes no sense is a failure of it."""
    try:
        event = json.loads(line)
        if isinstance(event, dict) and "event" in event:
            return event
    except ValueError:
        pass
    return {"event": "failure", "why": f"invalid message {line[:80]!r}"}


def failure(event: dict[str, Any]) -> errors.UsrdrvError:
    """Return what the driver tells of in `error` or `failure`."""
    kind = getattr(errors, str(event.get("type")), None)
    if not isinstance(kind, type) or not issubclass(kind, errors.UsrdrvError):
        kind = errors.DeviceError
    return kind(str(event.get("why")))


class DriverProcess(Closing):
    """A process from `standby` that has a device, and our end of its socket. `ready` is what it said of the device.

    fds: descriptors that go with `open`.
    hurried: looked at while waiting; InterruptedError once it is true. timeout: seconds that it has to get ready.
    One that does not get ready is killed.
    """

    def __init__(
        self,
        standby: Standby,
        hurried: Callable[[], bool] = lambda: False,
        timeout: float = START_TIMEOUT,
        fds: Sequence[int] = (),
        **request: Any,
    ) -> None:
        self._pending = b""
        self._kept: list[dict[str, Any]] = []
        self._hurried = hurried
        self.child, self._sock = standby.take()
        try:
            self.send(*fds, op="open", **request)
            event = self.expect("ready", STALE, timeout=timeout)
            if event["event"] == STALE:
                self.kill()
                self.child, self._sock = standby.start()
                self.send(*fds, op="open", **request)
                event = self.expect("ready", timeout=timeout)
            self.ready = event
        except BaseException:
            self.kill()
            raise
        self.child.talk()

    def send(self, *fds: int, **request: Any) -> None:
        """Ask for something; a driver that is dead does not answer. One that does not read is killed."""
        line = json.dumps(request).encode() + b"\n"
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        try:  # socket.send_fds() takes flags and, before Python 3.12, leaves them out
            sent = self._sock.sendmsg([line], rights, socket.MSG_DONTWAIT)
        except BlockingIOError:
            sent = 0
        except OSError:
            return
        if sent < len(line):
            self.child.kill()

    def expect(self, *wanted: str, timeout: float = ANSWER_TIMEOUT) -> dict[str, Any]:
        """Wait for one of these events; the exception that the driver tells of when it cannot.

        Others that came with it are in events().
        """
        deadline = time.monotonic() + timeout
        others: list[dict[str, Any]] = []
        while time.monotonic() < deadline:
            select.select([self._sock], [], [], 0.1)
            others += self.events()
            for event in others:
                if event["event"] in wanted:
                    others.remove(event)
                    self._kept = others
                    return event
                if event["event"] in ("error", "failure"):
                    raise failure(event)
            if self._hurried():
                raise InterruptedError
            if self.child.wait(0):
                last = self.child.lines[-1] if self.child.lines else self.child.status()
                raise errors.DeviceError(f"the driver did not start: {last}")
        raise errors.DeviceError(f"the driver does not answer within {timeout:.0f} s")

    @property
    def fd(self) -> int:
        """Readable when there are events, or when the driver is dead."""
        return self._sock.fileno()

    def events(self) -> list[dict[str, Any]]:
        """What the driver has said since the last call."""
        kept, self._kept = self._kept, []
        try:
            self._pending += self._sock.recv(1 << 20, socket.MSG_DONTWAIT)
        except OSError:
            return kept
        *lines, self._pending = self._pending.split(b"\n")
        return kept + [_event(line) for line in lines]

    def kill(self) -> None:
        """End a driver that is of no use, at once: the device is reset when its process is gone. Idempotent."""
        self.child.kill()
        self.child.wait(DYING)
        self._sock.close()

    def close(self) -> None:
        """Let the driver quiesce the device and end. Idempotent."""
        if self._sock.fileno() >= 0:
            self.send(op="stop")
            self._sock.close()
            if not self.child.wait(QUIESCING):
                self.child.stop()
