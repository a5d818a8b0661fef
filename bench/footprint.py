# SPDX-License-Identifier: MIT
"""What a driver process costs while nothing is asked of it, and how soon it is there."""

from __future__ import annotations

import os
import time
from pathlib import Path

from bench import fio
from bench.servers import Server, command, model
from bench.throughput import Spread
from usrdrv.base import errors
from usrdrv.bridge.block import export_fuse


def resident_kib(pid: int) -> int:
    """Resident memory of a process."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise errors.DeviceError(f"process {pid} ended")


def cpu_ticks(pid: int) -> int:
    """Time that a process ran, in clock ticks (10 ms), user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(fields[11]) + int(fields[12])


def memory(server: Server) -> tuple[int, int]:
    """Return resident memory in KiB after start and after load."""
    before = resident_kib(server.pid)
    for job in (fio.RANDREAD_32, fio.WRITE):
        fio.run(server.uri, job, seconds=1)
    return before, resident_kib(server.pid)


def idle_ticks(server: Server, seconds: float = 5.0) -> int:
    """Return the ticks that an idle process used."""
    time.sleep(0.2)  # what the last client left behind
    before = cpu_ticks(server.pid)
    time.sleep(seconds)
    return cpu_ticks(server.pid) - before


def can_attach() -> bool:
    """Whether `usrdrv block` can make block devices here."""
    try:
        export_fuse.check_access()
    except errors.UsrdrvError:
        return False
    return os.geteuid() == 0


def start_times(folder: Path, repeats: int) -> dict[str, Spread]:
    """Return milliseconds from starting `usrdrv block` to its saying that the device is usable."""
    found: dict[str, Spread] = {}
    with model(folder) as (device, _):
        for export in ("socket", "auto") if can_attach() else ("socket",):
            found[export] = Spread()
            for _turn in range(repeats):
                start = time.monotonic()
                with command("block", device, "--export", export):
                    found[export].samples.append((time.monotonic() - start) * 1000)
    return found
