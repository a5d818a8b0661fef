# SPDX-License-Identifier: MIT
"""Instructions per request: of the client, the kernel and the server, in a guest whose time counts them."""

from __future__ import annotations

import statistics
from dataclasses import dataclass
from typing import Final

from bench.report import Figures
from usrdrv.lab.guest import Guest

BATCHES: Final = 40
REQUESTS: Final = 100


@dataclass(frozen=True, order=True)
class Case:
    """What is asked for. `direction`: read or write; `batch`: requests that are made at once."""

    depth: int
    size: int
    direction: str
    batch: int = 1

    @property
    def text(self) -> str:
        together = f", {self.batch} at once" if self.batch > 1 else ""
        return f"{self.size >> 10} KiB {self.direction}, depth {self.depth}{together}"


CASES: Final = tuple(
    Case(depth, size, direction)
    for depth in (1, 32)
    for size in (4096, 65536)
    for direction in ("read", "write")
)


def count(guest: Guest, disk: str, case: Case) -> int:
    """Instructions per request: the median of batches, so that clock interrupts are left out, mostly."""
    words = ["requests", disk, case.direction, case.size, case.depth, REQUESTS, BATCHES]
    out = guest.run(" ".join(map(str, words)), 300, check=True).out
    batches = [tuple(map(int, line.split())) for line in out.splitlines()]
    assert len(batches) == BATCHES and all(done >= REQUESTS for _, done in batches), out
    return round(statistics.median(ticks / done for ticks, done in batches))


def table(counts: dict[tuple[str, Case], int], ways: tuple[str, ...], ours: str) -> Figures:
    """Counts, and by how much the others need more than ours."""
    others = [way for way in ways if way != ours]
    rows = []
    for case in dict.fromkeys(case for _, case in counts):
        mine = counts[ours, case]
        rows.append(
            (
                case.text,
                *(str(counts[way, case]) for way in ways),
                *(f"{counts[way, case] / mine:.2f}" for way in others),
            )
        )
    columns = ("", *ways, *(f"{way} / {ours}" for way in others))
    return Figures("Instructions per request", columns, tuple(rows))
