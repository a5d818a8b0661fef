# SPDX-License-Identifier: MIT
"""usrloop, ublk and NBD with null back ends, side by side in guests: IOPS, latency, instructions per request.

A guest with one processor for one job, another with two for two jobs; a third one counts instructions. What is
compared is in bench/loopback.py. For each case one process of fio loads the three in turn, again and again.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
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
from usrdrv.base import errors
from usrdrv.lab.guest import Guest

ORDER: Final = (UBLK, USRLOOP, NBD)
"""Of the runs, so that each of the others is ours' neighbour."""
JOBS: Final = (1, 2)
MILLISECONDS: Final = 300
"""Of a run."""
BATCH: Final = 16
"""Requests that a program with many under way makes at once; fio by itself makes each alone."""
QUICK: Final = (Case(1, 4096, "read"), Case(32, 4096, "read"))
Advance = Callable[[str], None]


@dataclass(frozen=True)
class Run:
    """One run of fio. Latencies, from submission to completion, in microseconds; jobs is also the processors.

    switches: fio's threads' context switches for each request.
    """

    way: str
    case: Case
    jobs: int
    requests: int
    iops: float
    latency: float
    p99: float
    switches: float


def loads(cases: Sequence[Case]) -> list[Case]:
    """Cases, those with many requests under way also with a batch of them made at once."""
    return [
        replace(case, batch=batch)
        for case in cases
        for batch in ((1, BATCH) if case.depth > 1 else (1,))
    ]


def result(text: str, case: Case, jobs: int) -> list[Run]:
    """Read fio's report of one section for each of ORDER, again and again. LabError if a request failed."""
    entries: list[dict[str, Any]] = json.loads(text[text.index("{") :])["jobs"]
    runs = []
    for entry, way in zip(entries, itertools.cycle(ORDER), strict=False):
        side = entry[case.direction]
        if entry["jobname"] != way or entry["error"] or not side["total_ios"]:
            raise errors.LabError(f"fio: {way}, {case.text}: an error, or nothing done")
        if side["io_bytes"] != side["total_ios"] * case.size or side["short_ios"]:
            raise errors.LabError(f"fio: {way}, {case.text}: short requests")
        runs.append(
            Run(
                way,
                case,
                jobs,
                side["total_ios"],
                side["iops"],
                latency=side["lat_ns"]["mean"] / 1e3,
                p99=side["clat_ns"]["percentile"]["99.000000"] / 1e3,
                switches=entry["ctx"] / side["total_ios"],
            )
        )
    return runs


def measure(guest: Guest, disks: dict[str, str], case: Case, jobs: int, repeats: int) -> list[Run]:
    """Load the disks in turn, in one process of fio. The kernel's counts of requests must be at least fio's."""
    options = [
        *(
            f"rw=rand{case.direction}",
            f"bs={case.size}",
            f"iodepth={case.depth}",
            f"numjobs={jobs}",
        ),
        *("direct=1", "ioengine=libaio", "thread", "group_reporting", "norandommap"),
        *("time_based", f"runtime={MILLISECONDS}ms", "stonewall", "new_group"),
    ]
    if case.batch > 1:
        options += [
            f"iodepth_batch_submit={case.batch}",
            f"iodepth_batch_complete_max={case.depth}",
        ]
    sections = [f"[{way}]\nfilename={disks[way]}" for way in ORDER] * repeats
    (guest.share / "fio.job").write_text("\n".join(["[global]", *options, *sections, ""]))
    seconds = MILLISECONDS / 1e3 * len(sections)
    before = {way: requests(guest, disks[way], case) for way in ORDER}
    done = guest.run("fio --output-format=json /share/fio.job", 120 + 5 * seconds, check=True)
    runs = result(done.out, case, jobs)
    if len(runs) != len(sections):
        raise errors.LabError(f"fio: {len(runs)} results instead of {len(sections)}")
    for way in ORDER:
        seen = requests(guest, disks[way], case) - before[way]
        if seen < sum(run.requests for run in runs if run.way == way):
            raise errors.LabError(f"fio: {way}, {case.text}: only {seen} requests came to the disk")
    return runs


def requests(guest: Guest, disk: str, case: Case) -> int:
    """Requests of a disk so far, merged ones too, by the kernel's account (Documentation/block/stat.rst)."""
    fields = guest.run(f"cat /sys/block/{Path(disk).name}/stat", check=True).out.split()
    first = 0 if case.direction == "read" else 4
    return int(fields[first]) + int(fields[first + 1])


@contextmanager
def lab(jobs: int) -> Iterator[tuple[Guest, dict[str, str]]]:
    """A guest with as many processors as jobs; one is kept on one of ours, as for all figures."""
    with one_cpu() if jobs == 1 else nullcontext():
        with Guest(kernel=loopback.KERNEL, kmod=True, cpus=jobs) as guest:
            yield guest, loopback.serve(guest)


def collect(cases: Sequence[Case], repeats: int, advance: Advance) -> list[Run]:
    runs = []
    for jobs in JOBS:
        with lab(jobs) as (guest, disks):
            for case in loads(cases):
                advance(f"{case.text}, jobs {jobs}")
                runs += measure(guest, disks, case, jobs, repeats)
    return runs


def count(cases: Sequence[Case], advance: Advance) -> dict[tuple[str, Case], int]:
    """Instructions, by way and case."""
    found = {}
    with one_cpu(), Guest(kernel=loopback.KERNEL, kmod=True, counting=True) as guest:
        disks = loopback.serve(guest)
        for case in cases:
            advance(f"instructions, {case.text}")
            for way in WAYS:
                found[way, case] = instructions.count(guest, disks[way], case)
    return found


def ratios(runs: Sequence[Run], other: str) -> dict[tuple[int, Case], tuple[float, float, float]]:
    """IOPS of ours over those of another way, of runs that followed each other.

    Geometric mean, and its 95 % interval: a host that was busy for a moment makes a few ratios huge or tiny.
    """
    pairs: dict[tuple[int, Case], list[float]] = {}
    for begin in range(0, len(runs), len(ORDER)):
        three = {run.way: run for run in runs[begin : begin + len(ORDER)]}
        ours = three[USRLOOP]
        ratio = ours.iops / three[other].iops
        pairs.setdefault((ours.jobs, ours.case), []).append(math.log(ratio))
    found = {}
    for key, logs in pairs.items():
        over = Estimate.of(logs)
        at = over.mean, over.mean - over.half, over.mean + over.half
        found[key] = (math.exp(at[0]), math.exp(at[1]), math.exp(at[2]))
    return found


def tables(runs: Sequence[Run]) -> list[Figures]:
    """One for each number of jobs."""
    found = []
    over = {way: ratios(runs, way) for way in (UBLK, NBD)}
    columns = (
        "",
        *(f"{way}, IOPS" for way in WAYS),
        *(f"{way}, us (99 %)" for way in WAYS),
        "switches",
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
            switches = " / ".join(
                f"{Estimate.of([run.switches for run in those[way]]).mean:.2f}" for way in WAYS
            )
            ratio = ("{:.2f} ({:.2f}-{:.2f})".format(*over[way][jobs, case]) for way in over)
            rows.append((case.text, *iops, *latency, switches, *ratio))
        title = (
            f"{jobs} job{'s' * (jobs > 1)} and as many processors: mean and 95 % interval; latency: mean "
            "(99th percentile); fio's context switches for each request; ratio: geometric mean (95 % interval)"
        )
        found.append(Figures(title, columns, tuple(rows)))
    return found


def main() -> int:
    parser = arguments("loop", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="4 KiB reads, five repetitions")
    parser.add_argument("--repeats", type=int, choices=range(2, 61), metavar="2..60", default=25)
    args = parser.parse_args()
    return command("loop", args, lambda: take(args))


def take(args: argparse.Namespace) -> tuple[list[Figures], list[Path]]:
    """Make all measurements. Return tables and files."""
    cases = QUICK if args.quick else instructions.CASES
    repeats = 5 if args.quick else args.repeats
    bar = (TextColumn("{task.description:48}"), BarColumn(), MofNCompleteColumn())
    with Progress(*bar, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        total = len(cases) + len(loads(cases)) * len(JOBS)
        task = progress.add_task("starting a guest", total=total)

        def advance(what: str) -> None:
            progress.update(task, description=what, advance=1)

        counts = count(cases, advance)
        runs = collect(cases, repeats, advance)
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
