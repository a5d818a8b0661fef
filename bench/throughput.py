# SPDX-License-Identifier: MIT
"""How fast: jobs on several servers in turn, so that what the machine does meanwhile hits all."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bench import fio
from bench.servers import SIZE, Server


@dataclass
class Spread:
    """A median with its smallest and largest sample."""

    samples: list[float] = field(default_factory=list)

    @property
    def median(self) -> float:
        return statistics.median(self.samples)

    def text(self, digits: int = 0) -> str:
        low, high = min(self.samples), max(self.samples)
        return f"{self.median:.{digits}f} ({low:.{digits}f}-{high:.{digits}f})"

    def json(self) -> dict[str, Any]:
        return {"median": self.median, "samples": self.samples}


def fill(server: Server) -> None:
    """Write the whole disk once: the first touch of memory is not what is measured."""
    fio.run(server.uri, fio.FILL, total=SIZE)


def interleaved(
    servers: Sequence[Server],
    jobs: Sequence[fio.Job],
    *,
    repeats: int,
    seconds: float,
    progress: Callable[[str], None],
) -> dict[str, dict[str, Spread]]:
    """Return the samples by job and server: requests per second, or MB/s from 64 KiB on."""
    for server in servers:
        fill(server)
    found = {job.name: {server.name: Spread() for server in servers} for job in jobs}
    for job in jobs:
        for turn in range(repeats):
            progress(f"{job.name}, {turn + 1} of {repeats}")
            for server in servers:
                result = fio.run(server.uri, job, seconds=seconds)
                value = result.mbps if job.block >= 65536 else result.iops
                found[job.name][server.name].samples.append(value)
    return found


def ratio(ours: Spread, peers: Spread) -> Spread:
    """Ratio of each pair of neighbouring runs."""
    return Spread([a / b for a, b in zip(ours.samples, peers.samples, strict=True)])
