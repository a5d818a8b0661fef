# SPDX-License-Identifier: MIT
"""What mapping memory for DMA costs through the usrdrv system calls, against size; with and without the slab cache.

The two kernels differ in nothing but bench/peers/without_cache.patch. Each has two guests without an IOMMU and two
with one that translates: one of them takes time, in the other a nanosecond is an instruction.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.paper import arguments, command, one_cpu
from bench.report import Figures
from bench.servers import machine
from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab import kernel
from usrdrv.lab.guest import Guest

SIZES: Final = (4096, 16384, 65536, 262144, 1048576)
LIVE: Final = (0, 4096)
"""Mappings that exist besides."""
COUNT: Final = 64
"""Mappings in a batch."""
BATCHES: Final = 25
CALLS: Final = ("map", "unmap", "remap")
DEVICE: Final = "0000:00:12.0"
WITH, WITHOUT = KERNELS = "slab cache", "kmalloc"

_TOP: Final = Path(__file__).resolve().parent.parent
_PATCH: Final = _TOP / "bench/peers/without_cache.patch"


@dataclass(frozen=True)
class Cost:
    """Of a call, the median of batches. amount: microseconds, or instructions if `counting`."""

    kernel: str
    iommu: bool
    counting: bool
    live: int
    size: int
    call: str
    amount: float
    segments: int


def medians(text: str, counting: bool) -> tuple[list[float], int]:
    """Read map_cost's lines. Return what each of CALLS took, and the segments of a mapping."""
    rows = [list(map(int, line.split())) for line in text.splitlines()]
    if not rows or any(len(row) != 2 * len(CALLS) + 1 for row in rows):
        raise errors.LabError(f"map_cost: {text.strip() or 'said nothing'}")
    scale = COUNT if counting else COUNT * 1e3
    found = [
        statistics.median(row[2 * number + counting] for row in rows) / scale
        for number in range(len(CALLS))
    ]
    return found, rows[0][-1]


def measure(name: str, folder: Path, iommu: bool, counting: bool) -> list[Cost]:
    """Start a guest; take all sizes in it."""
    with (
        one_cpu(),
        Guest(
            kernel=folder,
            iommu=iommu,
            counting=counting,
            append="iommu=nopt" if iommu else "",
            extra=("-device", "edu,dma_mask=0xffffffff,bus=pcie.0,addr=12.0"),
        ) as guest,
    ):
        program = str(guest.share / "map_cost")
        flags = ("-std=gnu11", "-O2", "-static", "-Wall", "-Wextra", "-Iusrdrv/backends")
        compiler = [find_tool("gcc", "gcc"), *flags, "-o", program, "bench/peers/map_cost.c"]
        subprocess.run(compiler, cwd=_TOP, check=True)
        guest.run("cp /share/map_cost /usr/local/bin", check=True)
        costs = []
        for live in LIVE:
            for size in SIZES:
                words = ("map_cost", DEVICE, size, live, COUNT, BATCHES)
                said = guest.run(" ".join(map(str, words)), 300, check=True).out
                found, segments = medians(said, counting)
                costs += [
                    Cost(name, iommu, counting, live, size, call, amount, segments)
                    for call, amount in zip(CALLS, found, strict=True)
                ]
        return costs


def table(costs: Sequence[Cost], iommu: bool, counting: bool) -> Figures:
    """Sizes and live mappings down; calls and kernels across."""
    chosen = [cost for cost in costs if (cost.iommu, cost.counting) == (iommu, counting)]
    amounts = {(c.kernel, c.live, c.size, c.call): c.amount for c in chosen}
    kernels = [name for name in KERNELS if any(cost.kernel == name for cost in chosen)]
    rows = []
    for live, size in dict.fromkeys((cost.live, cost.size) for cost in chosen):
        values = [amounts[name, live, size, call] for call in CALLS for name in kernels]
        text = f"{size >> 10} KiB" + (f", {live} others" if live else "")
        rows.append((text, *(f"{value:.{0 if counting else 1}f}" for value in values)))
    unit = "instructions" if counting else "microseconds"
    title = f"{unit[0].upper()}{unit[1:]}, {'an IOMMU that translates' if iommu else 'no IOMMU'}"
    columns = ("", *(f"{call}, {name}" for call in CALLS for name in kernels))
    return Figures(title, columns, tuple(rows))


def collect(kernels: Sequence[str], advance: Callable[[str], None]) -> list[Cost]:
    costs = []
    for name in kernels:
        advance(f"kernel, {name}")
        folder = kernel.build("base", more=[] if name == WITH else [_PATCH])
        for iommu in (False, True):
            for counting in (False, True):
                advance(
                    f"{name}, {'IOMMU' if iommu else 'no IOMMU'}{', counting' if counting else ''}"
                )
                costs += measure(name, folder, iommu, counting)
    return costs


def take(args: argparse.Namespace) -> tuple[list[Figures], list[Path]]:
    """Make all measurements. Return tables and files."""
    kernels = KERNELS[:1] if args.quick else KERNELS
    bar = (TextColumn("{task.description:48}"), BarColumn(), MofNCompleteColumn())
    with Progress(*bar, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("", total=5 * len(kernels))
        costs = collect(kernels, lambda what: progress.update(task, description=what, advance=1))
    path = args.out / "map.json"
    data = {"machine": machine(), "costs": [asdict(cost) for cost in costs]}
    path.write_text(json.dumps(data, indent=1) + "\n")
    tables = [
        table(costs, iommu, counting) for counting in (False, True) for iommu in (False, True)
    ]
    return tables, [path]


def main() -> int:
    parser = arguments("map_cost", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="not without the slab cache")
    args = parser.parse_args()
    return command("map_cost", args, lambda: take(args))


if __name__ == "__main__":
    sys.exit(main())
