# SPDX-License-Identifier: MIT
"""Throughput and processor use against request size: the kernel's driver and ours, in one guest.

Figure 4 of the 2004 paper. Controllers of one model are in the guest, each with a process and an image of its own,
so that no time goes into handing one from driver to driver: pata_sil680 has the first, ours the others, through
VFIO and usrloop, through VFIO and the kernel's NBD client, and through the usrdrv calls and usrloop in zero copy. A
repetition measures all sizes with all, in turn.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

from bench.curves import SETTLE, Chart, Measure, loaded
from bench.paper import DISK, DRIVERS, lab
from usrdrv.base import errors
from usrdrv.lab.guest import Guest

SIZES: Final = (512, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20)
QUICK: Final = (512, 4096, 65536, 1 << 20)
CHART: Final = Chart(
    name="figure4",
    drivers=DRIVERS,
    unit="MB/s",
    digits=2,
    sizes="request",
    titles={"read": "Direct reads, one at a time", "write": "Direct writes, one at a time"},
)


def measure(
    guest: Guest, path: str, direction: str, size: int, seconds: float
) -> tuple[float, float]:
    """Return megabytes a second, and the busy part of the processor while fio was at work."""
    result, part = loaded(
        guest,
        f"fio --name=f --filename={path} --rw={direction} --bs={size} --size={DISK} --direct=1 "
        f"--ioengine=psync --time_based --runtime={seconds + SETTLE + 1} --output-format=json",
        seconds,
    )
    entry = result["jobs"][0]
    side = entry[direction]
    if entry["error"] or not side["total_ios"]:
        raise errors.LabError(f"fio: {path}: error {entry['error']} or nothing done")
    return side["total_ios"] * size / (side["runtime"] * 1e3), part


@contextmanager
def measuring(seconds: float) -> Iterator[Measure]:
    with lab() as (guest, paths):
        yield lambda driver, direction, size: measure(
            guest, paths[driver], direction, size, seconds
        )


def plan(quick: bool) -> list[tuple[str, str, int]]:
    return [
        (driver, direction, size)
        for size in (QUICK if quick else SIZES)
        for direction in CHART.titles
        for driver in DRIVERS
    ]


if __name__ == "__main__":
    sys.exit(CHART.main(__doc__.splitlines()[0], plan, measuring, repeats=5))
