# SPDX-License-Identifier: MIT
"""Suspend, up to its freezer, while a request of a disk of usrloop waits. Runs in a guest."""

from __future__ import annotations

import dataclasses
import os
import sys
import threading
from pathlib import Path
from typing import Any

from scenario import PATIENCE, apart
from usrloop_power import HELD, reader
from usrloop_rig import served, wait

from usrdrv.loop import STATES

POWER = Path("/sys/power")


def suspend() -> OSError | None:
    """Suspend, but no further than to the frozen processes, and come back at once."""
    try:
        (POWER / "state").write_text("mem")
    except OSError as error:
        return error
    return None


def suspend_is_refused_while_a_request_waits_and_harms_nothing() -> None:
    """Whoever waits for a disk cannot be frozen: docs/man/usrdrv-block.1.md. The next try may go through."""
    Path("/sys/module/suspend/parameters/pm_test_delay").write_text("0")
    (POWER / "pm_test").write_text("freezer")
    (POWER / "pm_freeze_timeout").write_text("2000")
    hold, answer = threading.Event(), threading.Event()

    def late(sqe: Any) -> int:
        if hold.is_set():
            answer.wait()
        return 0

    with served(dataclasses.replace(HELD, queues=1), result=late) as (control, ram, device):
        data = os.urandom(4096)
        ram.data[:4096] = data
        # The first open looks for partitions, and suspend begins with a sync, which waits for that.
        assert reader(device).wait() == 0
        hold.set()
        before = len(ram.ops)
        waits = reader(device)
        wait(lambda: len(ram.ops) > before, "it is asked")
        refused = suspend()
        assert refused is not None and waits.poll() is None
        assert STATES[control.query().state] == "live"
        answer.set()
        assert waits.wait(PATIENCE) == 0
        assert suspend() is None
        fd = os.open(device, os.O_RDONLY)
        assert os.read(fd, 4096) == data
        os.close(fd)
    (POWER / "pm_test").write_text("none")


if __name__ == "__main__":
    sys.exit(apart(suspend_is_refused_while_a_request_waits_and_harms_nothing) or None)
