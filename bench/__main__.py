# SPDX-License-Identifier: MIT
"""Take all measurements, show them, keep them."""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.status import Status

from bench import fio, footprint, syscalls, throughput
from bench.report import Figures
from bench.servers import (
    IN_PROCESS,
    PEER,
    SIZE,
    Server,
    bytearray_peer,
    in_process,
    machine,
    vfio_user,
)
from usrdrv.base import errors

DEPTHS = (fio.RANDREAD_1, fio.RANDREAD_32)
WIRE_SPEED = 133
Progress = Callable[[str], None]


def compare(
    servers: list[Server], args: argparse.Namespace, progress: Progress
) -> tuple[list[Figures], dict[str, Any]]:
    """Throughput of all servers; ratios of the in-process model to the peer."""
    found = throughput.interleaved(
        servers, fio.JOBS, repeats=args.repeats, seconds=args.seconds, progress=progress
    )
    rows = []
    ratios = {}
    for job in fio.JOBS:
        by_server = found[job.name]
        ratios[job.name] = throughput.ratio(by_server[IN_PROCESS], by_server[PEER])
        unit = "MB/s" if job.block >= 65536 else "IOPS"
        rows.append(
            (
                f"{job.name}, {unit}",
                *(by_server[server.name].text() for server in servers),
                ratios[job.name].text(2),
            )
        )
    names = tuple(server.name for server in servers)
    title = f"Throughput: median (lowest-highest) of {args.repeats} runs of {args.seconds:g} s"
    data = {
        job: {
            **{name: spread.json() for name, spread in by_server.items()},
            "in process / peer": ratios[job].json(),
        }
        for job, by_server in found.items()
    }
    return [Figures(title, ("", *names, "in process / peer"), tuple(rows))], data


def count_calls(
    servers: list[Server], _: argparse.Namespace, progress: Progress
) -> tuple[list[Figures], dict[str, Any]]:
    """System calls of each server process per request."""
    figures = []
    data: dict[str, Any] = {}
    for job in DEPTHS:
        counts: dict[str, dict[str, float]] = {}
        for server in servers:
            progress(f"system calls, {job.name}, {server.name}")
            counts[server.name] = syscalls.per_request(server, job)
        names = sorted({name for calls in counts.values() for name in calls})
        rows = [
            (name, *(f"{counts[server.name].get(name, 0):.2f}" for server in servers))
            for name in names
        ]
        totals = {server.name: sum(counts[server.name].values()) for server in servers}
        rows.append(("all", *(f"{totals[server.name]:.2f}" for server in servers)))
        rows.append(
            (
                "more than the peer",
                *(f"{totals[server.name] - totals[PEER]:.2f}" for server in servers),
            )
        )
        columns = (job.name, *(server.name for server in servers))
        figures.append(Figures("System calls of the process per request", columns, tuple(rows)))
        data[job.name] = counts
    return figures, data


def measure_footprint(
    servers: list[Server], args: argparse.Namespace, progress: Progress
) -> tuple[list[Figures], dict[str, Any]]:
    """Memory, idle time and start-up."""
    rows: list[tuple[str, ...]] = []
    data: dict[str, Any] = {}
    for server in servers:
        progress(f"footprint, {server.name}")
        ticks = footprint.idle_ticks(server)
        kib = footprint.resident_kib(server.pid)
        data[server.name] = {"idle_ticks_in_5_s": ticks, "resident_kib": kib}
        rows.append((server.name, f"{kib / 1024:.1f}", f"{ticks * 10}"))
    columns = ("", "resident, MiB", "CPU time in 5 idle s, ms")
    return [Figures("Processes after the runs above", columns, tuple(rows))], data


def measure_start(folder: Path, args: argparse.Namespace) -> tuple[list[Figures], dict[str, Any]]:
    spreads = footprint.start_times(folder, args.repeats)
    rows = tuple((f"--export {name}", spread.text()) for name, spread in spreads.items())
    title = "From `usrdrv block` to a usable device, model over vfio-user"
    return (
        [Figures(title, ("", "ms"), rows)],
        {name: spread.json() for name, spread in spreads.items()},
    )


def measure(args: argparse.Namespace, progress: Progress) -> tuple[list[Figures], dict[str, Any]]:
    """Everything, on servers that all run at the same time."""
    figures: list[Figures] = []
    data: dict[str, Any] = {"machine": machine(), "disk_bytes": SIZE}
    parts = (
        ("throughput", compare),
        ("system_calls", count_calls),
        ("footprint", measure_footprint),
    )
    with tempfile.TemporaryDirectory(prefix="usrdrv-bench-") as name:
        folder = Path(name)
        with ExitStack() as stack:
            servers = [
                stack.enter_context(start(folder))
                for start in (bytearray_peer, in_process, vfio_user)
            ]
            before = {server.name: footprint.resident_kib(server.pid) for server in servers}
            data["resident_kib_at_start"] = before
            for part, function in parts:
                tables, data[part] = function(servers, args, progress)
                figures += tables
        progress("start-up")
        tables, data["start_ms"] = measure_start(folder, args)
        figures += tables
    rows = tuple((name, f"{kib / 1024:.1f}") for name, kib in before.items())
    figures.append(Figures("Processes before the first request", ("", "resident, MiB"), rows))
    return figures, data


def main() -> int:
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write all samples to FILE")
    parser.add_argument("--markdown", action="store_true", help="print tables in Markdown")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=1.0, help="length of one fio run")
    parser.add_argument("--quick", action="store_true", help="2 repeats: to see that it works")
    args = parser.parse_args()
    if args.quick:
        args.repeats = 2
    console = Console(stderr=args.markdown)
    try:
        with Status("starting", console=console) as status:
            figures, data = measure(args, status.update)
    except errors.UsrdrvError as error:
        print(f"bench: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("bench: interrupted", file=sys.stderr)
        return 130
    for table in figures:
        if args.markdown:
            print(table.markdown())
        else:
            table.show(console)
    if args.json:
        args.json.parent.mkdir(parents=True, exist_ok=True)
        args.json.write_text(json.dumps(data, indent=1) + "\n")
        console.print(f"written: {args.json}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
