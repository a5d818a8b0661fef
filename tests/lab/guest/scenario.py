# SPDX-License-Identifier: MIT
"""Runs in the guest: scenarios, each in a process of its own, that leave nothing, however they end.

A thread that waits for a disk whose server is in the same process keeps that process, and with it the disk, for
ever, also after SIGKILL. So disks and interfaces that a scenario has made are deleted first, then it is ended.

    python3 scenario.py clean SESSION...   # delete devices that nobody serves, or a process of these sessions
"""

from __future__ import annotations

import contextlib
import ctypes
import faulthandler
import os
import select
import signal
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn

SLOWER = 8 if Path("/sys/kernel/debug/kmemleak").exists() else 1
"""How much longer things may take: that is the debug kernel."""
PATIENCE = 50 * SLOWER
"""Seconds after which a scenario gives up what does not happen."""
LIMIT = 110 * SLOWER
"""Seconds after which it is ended. Whoever started it waits a little longer."""

at_end = contextlib.ExitStack()
"""What a scenario has to undo, however it ends by itself."""

IDS = 64
SUBREAPER = 36  # prctl(2)


raised: list[str] = []
"""What nobody caught in a thread: it fails the scenario."""


def wait(condition: Callable[[], Any], what: str, seconds: float = PATIENCE) -> None:
    """Wait until it is so; `what` is said if that never happens, or if a thread has failed meanwhile."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"does not happen: {what}"
        assert not raised, f"did not happen: {what}"
        time.sleep(0.01)  # and again


def locked() -> int:
    """Bytes that count against our RLIMIT_MEMLOCK."""
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmPin:")[2].split()[0]) << 10


def devices() -> dict[tuple[int, int], int]:
    """Kind and number of all devices of usrloop, and who serves each; 0: nobody."""
    if not Path("/sys/module/usrloop").exists():
        return {}
    from usrdrv.base import errors
    from usrdrv.loop import Control, lib

    found = {}
    with Control() as control:
        for kind in (lib.USRLOOP_BLOCK, lib.USRLOOP_NET):
            for number in range(IDS):
                with contextlib.suppress(errors.NoSuchDeviceError):
                    found[kind, number] = int(control.query(kind, number).server_pid)
    return found


def delete(kind: int, number: int) -> None:
    from usrdrv.base import errors
    from usrdrv.loop import Control

    with Control() as control, contextlib.suppress(errors.NoSuchDeviceError):
        control.delete(kind, number, force=True)


def _inside(function: Callable[[], object], before: set[tuple[int, int]], report: Any) -> NoReturn:
    faulthandler.register(signal.SIGUSR1, report, all_threads=True)
    threading.excepthook = lambda it: raised.append(
        "".join(traceback.format_exception(it.exc_type, it.exc_value, it.exc_traceback))
    )
    failures = []
    try:
        with at_end:
            function()
    except BaseException:
        failures.append(traceback.format_exc())
    failure = "\n".join([*raised, *failures])
    left = devices().keys() - before
    for device in left:
        delete(*device)
    if left and not failure:
        failure = f"usrloop: devices are left: {left}"
    sys.stdout.flush()
    os.write(report.fileno(), failure.encode()[-4000:])
    os._exit(1 if failure else 0)


def ended(pidfd: int, seconds: float) -> bool:
    return bool(select.select([pidfd], [], [], seconds)[0])


def children() -> list[int]:
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            if int(entry.read_text().rpartition(")")[2].split()[1]) == os.getpid():
                found.append(int(entry.parent.name))
    return found


def end_children() -> None:
    """Also those of processes that are no more, and what these have started."""
    while pids := children():
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def apart(function: Callable[[], object], limit: float = LIMIT) -> str:
    """Run it in a process of its own. Return what went wrong; "" if nothing did."""
    ctypes.CDLL(None).prctl(SUBREAPER, 1, 0, 0, 0)
    before = set(devices())
    sys.stdout.flush()
    with tempfile.TemporaryFile() as report:
        pid = os.fork()
        if not pid:
            _inside(function, before, report)
        pidfd = os.pidfd_open(pid)
        late = not ended(pidfd, limit)
        if late:
            os.kill(pid, signal.SIGUSR1)
            time.sleep(1)  # for what its threads are at, if they can say it
            for device in devices().keys() - before:
                delete(*device)
            os.kill(pid, signal.SIGKILL)
        if not ended(pidfd, PATIENCE):
            return f"process {pid} cannot be ended"
        os.close(pidfd)
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        end_children()
        report.seek(0)
        said = report.read().decode(errors="replace")
    if late:
        return f"not done within {limit} s:\n{said}"
    return said or (f"ended with status {status}" if status else "")


def main(scenarios: Mapping[str, Callable[..., object]]) -> NoReturn:
    """Run the one that is named on the command line, with the arguments there."""
    name, *arguments = sys.argv[1:]
    failure = apart(lambda: scenarios[name](*arguments))
    if failure:
        print(failure, file=sys.stderr)
    sys.exit(1 if failure else 0)


def clean(*sessions: str) -> None:
    for device, server in devices().items():
        with contextlib.suppress(ProcessLookupError):
            if server and os.getsid(server) not in map(int, sessions):
                continue
        delete(*device)


if __name__ == "__main__":
    clean(*sys.argv[2:])
