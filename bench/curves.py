# SPDX-License-Identifier: MIT
"""Drivers in one guest, measured in turn at several sizes: runs, intervals, tables and plots."""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.paper import arguments, command, pyplot, save
from bench.report import Figures
from bench.servers import machine
from usrdrv.lab.guest import Guest

Measure = Callable[[str, str, int], tuple[float, float]]
"""Speed and busy part of a driver in a direction with a size."""
SETTLE: Final = 1.5
"""Seconds until a benchmark has started, which in an emulated machine is work."""

STYLES: Final = ("o-", "s--", "^:", "d-.")

# Student's t, two-sided, 95 %, for 1 to 10 degrees of freedom; beyond, the normal distribution is near.
T95: Final = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True, order=True)
class Estimate:
    """A mean, and half of its 95 % interval."""

    mean: float
    half: float

    @classmethod
    def of(cls, values: Sequence[float]) -> Estimate:
        mean = statistics.fmean(values)
        if len(values) < 2:
            return cls(mean, math.nan)
        t = T95[len(values) - 2] if len(values) - 2 < len(T95) else 1.96
        return cls(mean, t * statistics.stdev(values) / math.sqrt(len(values)))

    def times(self, factor: float) -> Estimate:
        return Estimate(self.mean * factor, self.half * factor)

    def text(self, digits: int) -> str:
        return f"{self.mean:.{digits}f} ±{self.half:.{digits}f}"


@dataclass(frozen=True)
class Run:
    """One run. speed: in the chart's unit; busy: part of the guest's processor time."""

    driver: str
    direction: str
    size: int
    speed: float
    busy: float

    @property
    def cost(self) -> float:
        """Processor time for the same work, in seconds a unit."""
        return self.busy / self.speed


def busy(before: str, after: str) -> float:
    """The part of the time between two lines of /proc/stat that was not idle (proc_stat(5))."""
    ticks = [
        b - a
        for a, b in zip(*(map(int, line.split()[1:9]) for line in (before, after)), strict=True)
    ]
    total = sum(ticks)
    return 1 - (ticks[3] + ticks[4]) / total if total else 0.0


def loaded(guest: Guest, load: str, seconds: float) -> tuple[dict[str, Any], float]:
    """Run what puts load on the guest for SETTLE + 1 + seconds. Return its JSON and the busy part meanwhile."""
    stat = "head -1 /proc/stat"
    around = f"sleep {SETTLE}; {stat}; sleep {seconds}; {stat}; wait $!"
    result = guest.run(
        f"{load} >/tmp/load & {around}; code=$?; cat /tmp/load; exit $code", 120
    ).check()
    before, after, text = result.out.split("\n", 2)
    found: dict[str, Any] = json.loads(text[text.index("{") :])
    return found, busy(before, after)


def estimates(runs: Sequence[Run], what: str) -> dict[tuple[str, str, int], Estimate]:
    """Means and intervals of a field of Run, by driver, direction and size."""
    groups: dict[tuple[str, str, int], list[float]] = {}
    for run in runs:
        groups.setdefault((run.driver, run.direction, run.size), []).append(getattr(run, what))
    return {key: Estimate.of(values) for key, values in groups.items()}


@dataclass(frozen=True)
class Chart:
    """What is compared. drivers: in the order of their runs, with their legends, the kernel's first.

    unit: of speed; digits: its decimals; sizes: what they are sizes of; titles: by direction.
    """

    name: str
    drivers: Mapping[str, str]
    unit: str
    digits: int
    sizes: str
    titles: Mapping[str, str]

    def collect(
        self,
        plan: Sequence[tuple[str, str, int]],
        repeats: int,
        lab: AbstractContextManager[Measure],
    ) -> list[Run]:
        """Take all measurements, interleaved. plan: driver, direction and size of each."""
        runs = []
        columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn())
        with Progress(*columns, TimeElapsedColumn(), console=Console(stderr=True)) as bar:
            task = bar.add_task("starting the guest", total=repeats * len(plan))
            with lab as measure:
                for driver, direction, size in list(plan) * repeats:
                    bar.update(task, description=f"{driver}, {direction}, {size} bytes")
                    runs.append(Run(driver, direction, size, *measure(driver, direction, size)))
                    bar.advance(task)
        return runs

    def ratios(self, runs: Sequence[Run], what: str) -> dict[tuple[str, str, int], Estimate]:
        """A field of Run, each of ours over the kernel's of the same round; by driver, direction and size."""
        kernel, *_ = self.drivers
        latest: dict[tuple[str, int], float] = {}
        pairs: dict[tuple[str, str, int], list[float]] = {}
        for run in runs:
            case, value = (run.direction, run.size), getattr(run, what)
            if run.driver == kernel:
                latest[case] = value
            elif case in latest:
                pairs.setdefault((run.driver, *case), []).append(value / latest[case])
        return {key: Estimate.of(values) for key, values in pairs.items()}

    def tables(self, runs: Sequence[Run]) -> list[Figures]:
        """Two for each direction: what was measured, and ratios. A driver that cannot do a size has dashes."""
        kernel, *ours = self.drivers
        speed, part = estimates(runs, "speed"), estimates(runs, "busy")
        faster, dearer = self.ratios(runs, "speed"), self.ratios(runs, "cost")
        measured = ["bytes"]
        for driver in self.drivers:
            measured += [f"{driver}, {self.unit}", "busy, %"]
        compared = ["bytes", *(f"{driver}: {what}" for driver in ours for what in ("speed", "CPU"))]
        found = []
        for direction, title in self.titles.items():
            sizes = sorted({run.size for run in runs if run.direction == direction})
            values, ratios = [], []
            for size in sizes:
                keys = {driver: (driver, direction, size) for driver in self.drivers}
                row, over = [str(size)], [str(size)]
                for key in keys.values():
                    known = key in speed
                    row.append(speed[key].text(self.digits) if known else "-")
                    row.append(part[key].times(100).text(0) if known else "-")
                for key in (keys[driver] for driver in ours):
                    over += [r[key].text(2) if key in r else "-" for r in (faster, dearer)]
                values.append(tuple(row))
                ratios.append(tuple(over))
            found.append(
                Figures(f"{title}: mean and 95 % interval", tuple(measured), tuple(values))
            )
            name = f"{title}: throughput, and CPU time for the same work, over {kernel}'s"
            found.append(Figures(name, tuple(compared), tuple(ratios)))
        return found

    def plot(self, runs: Sequence[Run], folder: Path) -> list[Path]:
        """Draw throughput and processor use, as PNG and SVG. Return the files."""
        figure, axes = pyplot().subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
        for row, (what, label, scale) in enumerate(
            (("speed", f"throughput, {self.unit}", 1), ("busy", "guest processor busy, %", 100))
        ):
            found = estimates(runs, what)
            for column, (direction, title) in enumerate(self.titles.items()):
                panel = axes[row][column]
                for (driver, legend), style in zip(self.drivers.items(), STYLES, strict=False):
                    line = sorted(
                        (size, point)
                        for (name, way, size), point in found.items()
                        if (name, way) == (driver, direction)
                    )
                    panel.errorbar(
                        [size for size, _ in line],
                        [point.mean * scale for _, point in line],
                        [point.half * scale for _, point in line],
                        fmt=style,
                        capsize=3,
                        label=legend,
                    )
                panel.set_xscale("log", base=2)
                panel.set_ylabel(label)
                panel.grid(alpha=0.3)
                if row == 0:
                    panel.set_yscale("log")
                    panel.set_title(title)
                    panel.legend()
                else:
                    panel.set_ylim(0, 105)
                    panel.set_xlabel(f"{self.sizes} size, bytes")
        return save(figure, self.name, folder)

    def main(
        self,
        description: str,
        plan: Callable[[bool], Sequence[tuple[str, str, int]]],
        lab: Callable[[float], AbstractContextManager[Measure]],
        repeats: int,
    ) -> int:
        """The command of this chart. plan: of a quick look or of all; lab: for that many seconds a run."""
        parser = arguments(self.name, description)
        parser.add_argument("--quick", action="store_true", help="few sizes, two repetitions")
        parser.add_argument(
            "--repeats", type=int, choices=range(2, 31), metavar="2..30", default=repeats
        )
        args = parser.parse_args()

        def run() -> tuple[list[Figures], list[Path]]:
            runs = self.collect(
                plan(args.quick), 2 if args.quick else args.repeats, lab(1.0 if args.quick else 2.0)
            )
            data = {"machine": machine(), "runs": [asdict(run) for run in runs]}
            (args.out / f"{self.name}.json").write_text(json.dumps(data, indent=1))
            return self.tables(runs), self.plot(runs, args.out)

        return command(self.name, args, run)
