# SPDX-License-Identifier: MIT
"""A read that the drive holds while its driver is killed, and delivers when the memory is somebody else's."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.lab.helpers.kmod import wait
from tests.lab.helpers.loads import TOLD, finish
from tests.model_faults import broken, hits
from usrdrv.lab.guest import Guest

HOUR = 3_600_000


def delivered_to_nobody(
    guest: Guest, socket: Path, kill: Callable[[Callable[[], None]], None]
) -> None:
    """1. kill() starts a read, waits with its argument until the drive has it, and kills the driver
    2. a process takes all free memory  3. the drive delivers  4. the process's memory is as it was.
    """

    def asked() -> None:
        wait(lambda: hits(socket), 60, "the drive has the command")

    guest.run(f"rm -f {TOLD}", check=True)
    with broken(socket, {"kind": "slow", "seek_ms": HOUR, "on": "read"}):
        kill(asked)
        job = guest.start(f"python3 /src/tests/lab/guest/usr_pci_faults.py poison {TOLD}")
        wait(lambda: "filled" in job.out or job.done.is_set(), 60, "memory that is filled")
    finish(guest, job)
    found = json.loads(job.out.splitlines()[-1])
    assert found["bytes"] > 400 << 20 and found["changed"] == 0, found
