# SPDX-License-Identifier: MIT
"""usrloop, ublk and NBD with null back ends, side by side in guests: IOPS, latency, instructions per request.

A guest with one processor for one job, another with two for two jobs; a third one counts instructions. What is
compared is in bench/loopback.py. Every repetition makes all measurements once, a case's three after one another.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench import instructions, loopback
from bench.curves import Estimate
from bench.instructions import Case
from bench.loopback import NBD, UBLK, USRLOOP, WAYS
from bench.paper import arguments, command, one_cpu
from bench.report import Figures
from bench.servers import machine
from usrdrv import errors
from usrdrv.lab.guest import Guest

ORDER: Final = (UBLK, USRLOOP, NBD)
"""Of the runs, so that each of the others is ours' neighbour."""
JOBS: Final = (1, 2)
QUICK: Final = (Case(1, 4096, "read"), Case(32, 4096, "read"))
Advance = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run of fio. Latencies, from submission to completion, in microseconds; jobs is also the processors."""

    way: str
    case: Case
    jobs: int
    iops: float
    latency: float
    p99: float


def result(text: str, way: str, case: Case, jobs: int) -> Run:
    """Read fio's report. LabError if a request failed, or nothing was done."""
    entries: list[dict[str, Any]] = json.loads(text[text.index("{") :])["jobs"]
    side = entries[0][case.direction]
    if len(entries) != 1 or entries[0]["error"] or not side["total_ios"] or not side["runtime"]:
        raise errors.LabError(f"fio: {way}, {case.text}: an error, or nothing done")
    if side["io_bytes"] != side["total_ios"] * case.size or side["short_ios"]:
        raise errors.LabError(f"fio: {way}, {case.text}: short requests")
    return Run(
        way,
        case,
        jobs,
        side["iops"],
        side["lat_ns"]["mean"] / 1e3,
        side["clat_ns"]["percentile"]["99.000000"] / 1e3,
    )


def measure(guest: Guest, disk: str, way: str, case: Case, jobs: int, seconds: float) -> Run:
    """Load a disk. The kernel's own count of its requests must be at least fio's."""
    stat = f"cat /sys/block/{Path(disk).name}/stat"
    fio = [
        *("fio", "--name=f", f"--filename={disk}", f"--rw=rand{case.direction}"),
        *(f"--bs={case.size}", f"--iodepth={case.depth}", f"--numjobs={jobs}"),
        *("--direct=1", "--ioengine=libaio", "--thread", "--group_reporting", "--norandommap"),
        *("--time_based", f"--runtime={seconds}", "--ramp_time=0.5", "--output-format=json"),
    ]
    line = f"{stat}; {' '.join(fio)}; code=$?; {stat}; exit $code"
    before, *report, after = guest.run(line, seconds + 120, check=True).out.splitlines()
    run = result("\n".join(report), way, case, jobs)
    field = 0 if case.direction == "read" else 4
    done = int(after.split()[field]) - int(before.split()[field])
    if done < run.iops * seconds * 0.8:
        raise errors.LabError(f"fio: {way}, {case.text}: {done} requests came to the disk")
    return run


@contextmanager
def lab(jobs: int) -> Iterator[tuple[Guest, dict[str, str]]]:
    """A guest with as many processors as jobs; one is kept on one of ours, as for all figures."""
    with one_cpu() if jobs == 1 else nullcontext():
        with Guest(kernel=loopback.KERNEL, cpus=jobs) as guest:
            yield guest, loopback.serve(guest)


def collect(cases: Sequence[Case], repeats: int, seconds: float, advance: Advance) -> list[Run]:
    runs = []
    for jobs in JOBS:
        with lab(jobs) as (guest, disks):
            for case in list(cases) * repeats:
                for way in ORDER:
                    advance(f"{way}, {case.text}, jobs {jobs}")
                    runs.append(measure(guest, disks[way], way, case, jobs, seconds))
    return runs


def count(cases: Sequence[Case], advance: Advance) -> dict[tuple[str, Case], int]:
    """Instructions, by way and case."""
    found = {}
    with one_cpu(), instructions.guest() as guest:
        disks = loopback.serve(guest)
        for case in cases:
            for way in WAYS:
                advance(f"instructions of {way}, {case.text}")
                found[way, case] = instructions.count(guest, disks[way], case)
    return found


def ratios(runs: Sequence[Run], other: str) -> dict[tuple[int, Case], Estimate]:
    """IOPS of ours over those of another way, of runs that followed each other."""
    pairs: dict[tuple[int, Case], list[float]] = {}
    for run in range(0, len(runs), len(ORDER)):
        three = {run.way: run for run in runs[run : run + len(ORDER)]}
        ours = three[USRLOOP]
        pairs.setdefault((ours.jobs, ours.case), []).append(ours.iops / three[other].iops)
    return {key: Estimate.of(values) for key, values in pairs.items()}


def tables(runs: Sequence[Run]) -> list[Figures]:
    """One for each number of jobs."""
    found = []
    over = {way: ratios(runs, way) for way in (UBLK, NBD)}
    columns = (
        "",
        *(f"{way}, IOPS" for way in WAYS),
        *(f"{way}, us (99 %)" for way in WAYS),
        *(f"{USRLOOP} / {way}" for way in over),
    )
    for jobs in JOBS:
        rows = []
        for case in dict.fromkeys(run.case for run in runs):
            those = {
                way: [run for run in runs if (run.way, run.case, run.jobs) == (way, case, jobs)]
                for way in WAYS
            }
            iops = (Estimate.of([run.iops for run in those[way]]).text(0) for way in WAYS)
            latency = (
                f"{Estimate.of([run.latency for run in those[way]]).mean:.0f} "
                f"({Estimate.of([run.p99 for run in those[way]]).mean:.0f})"
                for way in WAYS
            )
            ratio = (over[way][jobs, case].text(2) for way in over)
            rows.append((case.text, *iops, *latency, *ratio))
        title = (
            f"{jobs} job{'s' * (jobs > 1)} and as many processors: mean and 95 % interval; "
            "latency: mean (99th percentile)"
        )
        found.append(Figures(title, columns, tuple(rows)))
    return found


def main() -> int:
    parser = arguments("loop", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 KiB reads, two repetitions")
    parser.add_argument("--repeats", type=int, choices=range(2, 31), metavar="2..30", default=5)
    args = parser.parse_args()
    return command("loop", args, lambda: take(args))


def take(args: argparse.Namespace) -> tuple[list[Figures], list[Path]]:
    """Make all measurements. Return tables and files."""
    cases = QUICK if args.quick else instructions.CASES
    repeats, seconds = (2, 1.0) if args.quick else (args.repeats, 1.0)
    bar = (TextColumn("{task.description:48}"), BarColumn(), MofNCompleteColumn())
    with Progress(*bar, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        total = len(cases) * len(WAYS) * (len(JOBS) * repeats + 1)
        task = progress.add_task("starting a guest", total=total)

        def advance(what: str) -> None:
            progress.update(task, description=what, advance=1)

        counts = count(cases, advance)
        runs = collect(cases, repeats, seconds, advance)
    data = {
        "machine": machine(),
        "instructions": [
            {"way": way, **asdict(case), "count": found} for (way, case), found in counts.items()
        ],
        "runs": [asdict(run) for run in runs],
    }
    path = args.out / "loop.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    return [instructions.table(counts, WAYS, USRLOOP), *tables(runs)], [path]


if __name__ == "__main__":
    sys.exit(main())
