# SPDX-License-Identifier: MIT
"""Throughput and processor use against request size: the kernel's driver and ours, in one guest.

The first form of figure 4 of the 2004 paper. Two controllers of one model are in the guest, each with a process
and an image of its own, so that no time goes into handing one from driver to driver: pata_sil680 has the first,
ours the second, through VFIO and the kernel's NBD client. Every repetition measures all sizes with both, in turn.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.paper import DISK, KERNEL, OURS, Estimate, arguments, busy, command, lab, pyplot, save
from bench.report import Figures
from bench.servers import machine
from usrdrv import errors
from usrdrv.lab.guest import Guest

SIZES: Final = (512, 1024, 4096, 16384, 65536, 1 << 18, 1 << 20)
QUICK: Final = (512, 4096, 65536, 1 << 20)
DIRECTIONS: Final = ("read", "write")
SETTLE: Final = 1.5
"""Seconds until fio has started, which in an emulated machine is work."""


@dataclass(frozen=True)
class Run:
    """One run of fio. mbps: a million bytes a second; busy: part of the guest's processor time."""

    driver: str
    direction: str
    size: int
    mbps: float
    busy: float


def measure(
    guest: Guest, path: str, direction: str, size: int, seconds: float
) -> tuple[float, float]:
    """Return megabytes a second, and the busy part of the processor while fio was at work."""
    fio = (
        f"fio --name=f --filename={path} --rw={direction} --bs={size} --size={DISK} --direct=1 "
        f"--ioengine=psync --time_based --runtime={seconds + SETTLE + 1} --output-format=json"
    )
    stat = "head -1 /proc/stat"
    around = f"sleep {SETTLE}; {stat}; sleep {seconds}; {stat}; wait $!"
    result = guest.run(
        f"{fio} >/tmp/fio & {around}; code=$?; cat /tmp/fio; exit $code", 120
    ).check()
    before, after, text = result.out.split("\n", 2)
    entry: dict[str, Any] = json.loads(text[text.index("{") :])["jobs"][0]
    side = entry[direction]
    if entry["error"] or not side["total_ios"]:
        raise errors.LabError(f"fio: {path}: error {entry['error']} or nothing done")
    return side["total_ios"] * size / (side["runtime"] * 1e3), busy(before, after)


def collect(sizes: Sequence[int], repeats: int, seconds: float, console: Console) -> list[Run]:
    """Take all measurements, interleaved."""
    runs = []
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("starting the guest", total=repeats * len(sizes) * 4)
        with lab() as (guest, paths):
            for _ in range(repeats):
                for size in sizes:
                    for direction in DIRECTIONS:
                        for driver, path in paths.items():
                            bar.update(task, description=f"{driver}, {direction}, {size} bytes")
                            speed, part = measure(guest, path, direction, size, seconds)
                            runs.append(Run(driver, direction, size, speed, part))
                            bar.advance(task)
    return runs


def estimates(runs: Sequence[Run], what: str) -> dict[tuple[str, str, int], Estimate]:
    """Means and intervals of a field of Run, by driver, direction and size."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run.driver, run.direction, run.size), []).append(getattr(run, what))
    return {key: Estimate.of(values) for key, values in groups.items()}


def ratios(runs: Sequence[Run]) -> dict[tuple[str, int], Estimate]:
    """Ours over the kernel's, of runs that followed each other."""
    pairs: dict[tuple[str, int], list[float]] = {}
    for kernel, ours in zip(runs[::2], runs[1::2], strict=True):
        pairs.setdefault((kernel.direction, kernel.size), []).append(ours.mbps / kernel.mbps)
    return {key: Estimate.of(values) for key, values in pairs.items()}


def tables(runs: Sequence[Run]) -> list[Figures]:
    speed, part, ratio = estimates(runs, "mbps"), estimates(runs, "busy"), ratios(runs)
    sizes = sorted({run.size for run in runs})
    columns = ("bytes", f"{KERNEL}, MB/s", "busy, %", f"{OURS}, MB/s", "busy, %", "ratio")
    return [
        Figures(
            f"Direct {direction}s, one at a time: mean and 95 % interval",
            columns,
            tuple(
                (
                    str(size),
                    *(
                        text
                        for driver in (KERNEL, OURS)
                        for text in (
                            speed[driver, direction, size].text(2),
                            f"{part[driver, direction, size].mean * 100:.0f}",
                        )
                    ),
                    ratio[direction, size].text(2),
                )
                for size in sizes
            ),
        )
        for direction in DIRECTIONS
    ]


def plot(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw throughput and processor use, as PNG and SVG. Return the files."""
    figure, axes = pyplot().subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    sizes = sorted({run.size for run in runs})
    for row, (what, label, scale) in enumerate(
        (("mbps", "throughput, MB/s", 1), ("busy", "guest processor busy, %", 100))
    ):
        found = estimates(runs, what)
        for column, direction in enumerate(DIRECTIONS):
            panel = axes[row][column]
            for driver, style in ((KERNEL, "o-"), (OURS, "s--")):
                line = [found[driver, direction, size] for size in sizes]
                panel.errorbar(
                    sizes,
                    [point.mean * scale for point in line],
                    [point.half * scale for point in line],
                    fmt=style,
                    capsize=3,
                    label=f"{driver}{' over VFIO and NBD' if driver == OURS else ''}",
                )
            panel.set_xscale("log", base=2)
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            if row == 0:
                panel.set_yscale("log")
                panel.set_title(f"direct {direction}s")
                panel.legend()
            else:
                panel.set_ylim(0, 105)
                panel.set_xlabel("request size, bytes")
    return save(figure, "figure4", folder)


def main() -> int:
    parser = arguments("figure4", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="four sizes, two repetitions")
    parser.add_argument("--repeats", type=int, choices=range(2, 31), metavar="2..30", default=5)
    args = parser.parse_args()
    sizes, repeats, seconds = (QUICK, 2, 1.0) if args.quick else (SIZES, args.repeats, 2.0)

    def run() -> tuple[list[Figures], list[Path]]:
        runs = collect(sizes, repeats, seconds, Console(stderr=True))
        data = {"machine": machine(), "runs": [asdict(run) for run in runs]}
        (args.out / "figure4.json").write_text(json.dumps(data, indent=1))
        return tables(runs), plot(runs, args.out)

    return command("figure4", args, run)


if __name__ == "__main__":
    sys.exit(main())
