# SPDX-License-Identifier: MIT
"""fio as an NBD client."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool


@dataclass(frozen=True)
class Job:
    """What to do: for `seconds`, or `total` bytes of it."""

    name: str
    rw: str
    block: int
    depth: int


RANDREAD_1: Final = Job("4 KiB random read, depth 1", "randread", 4096, 1)
RANDREAD_32: Final = Job("4 KiB random read, depth 32", "randread", 4096, 32)
READ: Final = Job("64 KiB sequential read", "read", 65536, 8)
WRITE: Final = Job("64 KiB sequential write", "write", 65536, 8)
JOBS: Final = (RANDREAD_1, RANDREAD_32, READ, WRITE)
FILL: Final = Job("fill", "write", 1 << 20, 4)


@dataclass(frozen=True)
class Result:
    """What was done, by fio's account."""

    requests: int
    seconds: float
    block: int

    @property
    def iops(self) -> float:
        return self.requests / self.seconds

    @property
    def mbps(self) -> float:
        """Megabytes, of a million bytes each, per second."""
        return self.iops * self.block / 1e6


def run(uri: str, job: Job, *, seconds: float = 0, total: int = 0) -> Result:
    """Run a job for some time, or for some bytes. DeviceError if fio or a request failed."""
    length = ["--time_based", f"--runtime={seconds}"] if seconds else [f"--io_size={total}"]
    done = subprocess.run(
        [
            find_tool("fio", "fio"),
            *("--name=bench", "--ioengine=nbd", f"--uri={uri}", "--output-format=json"),
            *(f"--rw={job.rw}", f"--bs={job.block}", f"--iodepth={job.depth}", *length),
            *("--randrepeat=0", "--norandommap", "--refill_buffers=0"),
        ],
        capture_output=True,
        text=True,
        timeout=seconds + 120,
        check=False,
    )
    if done.returncode:
        raise errors.DeviceError(f"fio: {done.stderr.strip() or done.stdout.strip()}")
    entry: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])["jobs"][0]
    side = entry["write" if job.rw.endswith("write") else "read"]
    result = Result(side["total_ios"], side["runtime"] / 1000, job.block)
    if entry["error"] or not result.requests or not result.seconds:
        raise errors.DeviceError(f"fio: {job.name}: error {entry['error']} or nothing done")
    return result
