# SPDX-License-Identifier: MIT
"""Where the time of one request goes, in microseconds, like figure 5 of the 2004 paper.

A guest's kernel traces itself while fio reads 4 KiB at a time from a disk: with pata_sil680, and with ours in each
of the ways of figure 4. A request is cut at events of scheduler, interrupts and block layer;
the medians of the parts are the line. Tracing costs time itself: the shares count, not the sums.
"""

from __future__ import annotations

import json
import re
import statistics
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from rich.console import Console

from bench.paper import arguments, command, lab, pyplot, save
from bench.report import Figures
from usrdrv.base import errors
from usrdrv.lab.guest import Guest

TRACING: Final = "/sys/kernel/tracing"
EVENTS: Final = (
    "block/block_rq_issue",
    "block/block_rq_complete",
    "irq/irq_handler_entry",
    "sched/sched_switch",
    "sched/sched_waking",
    "syscalls/sys_enter_sendto",
    "syscalls/sys_exit_ioctl",
)
REQUESTS: Final = 100
ROUNDS: Final = 5
"""All ways in turn, so that a busy moment of the machine is not all one way's."""
SERVER = "usrdrv-driver"
DRIVERS: Final = ("nbdkit", SERVER)
"""What our processes are called: with NBD, with usrloop."""
OURS: Final = ("vfio-intx", "usrdrv")
"""What /proc/interrupts calls our devices' interrupts: through VFIO, through our system calls."""

# In a request's order; what is not there (ours has more than the kernel's) is left out. Marks that end in a
# space are of another course: the kernel's driver, or ours if a thread did not sleep meanwhile.
PARTS: Final = (
    ("to the driver's process", "issued", "received"),
    ("queueing the command", "received", "waiting"),
    ("queueing the command, the drive, and its interrupt", "received", "early "),
    ("handler, and the answer to the kernel ", "early ", "answered"),
    ("the drive, and its interrupt", "waiting", "interrupt"),
    ("waking the handler", "interrupt", "handler"),
    ("handler, until it wakes the request's thread", "handler", "handled"),
    ("waking that thread", "handled", "thread"),
    ("plugin and nbdkit, until the reply", "thread", "reply"),
    ("handler, until the next interrupt may come", "handler", "unmasked "),
    ("request's thread, plugin and nbdkit, until the reply", "unmasked ", "reply "),
    ("the reply, to the kernel", "reply", "complete"),
    ("the reply, to the kernel ", "reply ", "complete"),
    ("handler, and the answer to the kernel", "handler", "answered"),
    ("the drive, and its interrupt ", "issued", "interrupt "),
    ("handler", "interrupt ", "complete"),
    ("handler, which ends the request", "interrupt", "ended"),
    ("waking the client", "complete", "client"),
)

_LINE: Final = re.compile(
    r"^\s*(?P<comm>.+)-(?P<pid>\d+)\s+\[\d+\]\s+\S+\s+(?P<time>[\d.]+): "
    r"(?P<name>\w+)(?:: |(?=\()| -> )(?P<rest>.*)$"  # an event's, a system call's, its return's
)


@dataclass(frozen=True)
class Event:
    """One line of the trace; time in microseconds."""

    time: float
    comm: str
    pid: int
    name: str
    rest: str


def parse(text: str) -> Iterator[Event]:
    for line in text.splitlines():
        if match := _LINE.match(line):
            yield Event(
                float(match["time"]) * 1e6,
                match["comm"].strip(),
                int(match["pid"]),
                match["name"],
                match["rest"],
            )


def _woken(event: Event) -> tuple[str, int]:
    found = re.search(r"comm=(.+) pid=(\d+) prio", event.rest)
    return (found[1], int(found[2])) if found else ("", 0)


def _switched_in(event: Event) -> tuple[str, int]:
    found = re.search(r"next_comm=(.+) next_pid=(\d+)", event.rest)
    return (found[1], int(found[2])) if found else ("", 0)


def cut(events: Sequence[Event], device: str) -> list[dict[str, float]]:
    """Return the marks of each complete request to `device` ("major,minor")."""
    requests = []
    marks: dict[str, float] = {}
    handler = worker = 0
    for event in events:
        about = event.rest.startswith(f"{device} ")
        if event.name == "block_rq_issue" and about:
            marks, handler, worker = {"issued": event.time}, 0, 0
        elif "issued" not in marks:
            continue
        elif event.name == "irq_handler_entry" and event.rest.partition("name=")[2].startswith(
            OURS
        ):
            marks.setdefault("interrupt", event.time)
            if "received" in marks and "waiting" not in marks:
                marks.setdefault("early ", event.time)
        elif event.name == "irq_handler_entry" and "name=pata_sil680" in event.rest:
            marks.setdefault("interrupt ", event.time)
        elif event.name == "sched_waking":
            comm, pid = _woken(event)
            if comm in DRIVERS and "interrupt" in marks and not handler:
                handler = pid
            elif comm == "nbdkit" and event.pid == handler and "handled" not in marks:
                marks["handled"], worker = event.time, pid
        elif event.name == "sched_switch":
            comm, pid = _switched_in(event)
            if comm in DRIVERS and "received" not in marks and "interrupt" not in marks:
                marks["received"] = event.time
            elif event.comm in DRIVERS and "received" in marks and "interrupt" not in marks:
                marks["waiting"] = event.time
            elif pid == handler and handler and "handler" not in marks:
                marks["handler"] = event.time
            elif pid == worker and worker and "thread" not in marks:
                marks["thread"] = event.time
            elif comm == "fio" and "complete" in marks:
                requests.append({**marks, "client": event.time})
                marks = {}
        elif event.name == "sys_ioctl" and event.pid == handler and "handled" not in marks:
            if event.comm != SERVER:
                marks.setdefault("unmasked ", event.time)
        elif event.name == "sys_sendto" and event.comm == "nbdkit" and "handler" in marks:
            if "thread" in marks:
                marks.setdefault("reply", event.time)
            elif "unmasked " in marks:
                marks.setdefault("reply ", event.time)
        elif event.name == "block_rq_complete" and about:
            marks["complete"] = event.time
            if event.comm == SERVER:
                marks["answered"] = event.time
            elif "waiting" in marks and not handler:
                marks["ended"] = event.time
    return requests


def medians(requests: Sequence[dict[str, float]]) -> list[tuple[str, float]]:
    """The line: its parts with their medians, those that most requests have."""
    line = []
    for name, begin, end in PARTS:
        found = [r[end] - r[begin] for r in requests if begin in r and end in r]
        if len(found) > len(requests) / 2:
            line.append((name.strip(), statistics.median(found)))
    total = statistics.median(r["client"] - r["issued"] for r in requests)
    rest = total - sum(length for _, length in line)
    if rest > 0.02 * total:
        line.append(("the rest", rest))
    return line


def trace(guest: Guest, path: str) -> list[dict[str, float]]:
    """Let fio read with tracing on; return the requests' marks."""
    events = "".join(f" {event.replace('/', ':')}" for event in EVENTS)
    number = guest.run(f"cat /sys/class/block/{Path(path).name}/dev", check=True).out.strip()
    fio = (
        f"fio --name=t --filename={path} --rw=randread --bs=4096 --direct=1 --ioengine=psync "
        f"--number_ios={REQUESTS} --size=64M"
    )
    guest.run(
        f"mountpoint -q {TRACING} || mount -t tracefs tracefs {TRACING}; cd {TRACING} && echo 0 >tracing_on && "
        f"echo 40000 >buffer_size_kb && echo mono >trace_clock && echo >trace && echo '{events}' >set_event && "
        f"{fio} >/dev/null && sleep 1 && echo 1 >tracing_on && {fio} >/share/fio && echo 0 >tracing_on && "
        f"cat trace >/share/trace && echo >set_event",
        240,
        check=True,
    )
    return cut(
        list(parse((guest.share / "trace").read_text(errors="replace"))), number.replace(":", ",")
    )


def plot(lines: dict[str, list[tuple[str, float]]], folder: Path) -> list[Path]:
    figure, axis = pyplot().subplots(figsize=(11, 4.5), layout="constrained")
    for row, (driver, line) in enumerate(lines.items()):
        at = 0.0
        for index, (name, length) in enumerate(line):
            label, color = f"{driver}: {name}", f"C{index % 10}"
            axis.barh(row, length, left=at, label=label, color=color, edgecolor="white")
            at += length
    axis.set_yticks(range(len(lines)), list(lines))
    axis.set_xlabel("microseconds from the request's issue")
    axis.legend(fontsize=7, ncols=2, loc="upper center", bbox_to_anchor=(0.5, -0.18))
    return save(figure, "timeline", folder)


def table(driver: str, line: Sequence[tuple[str, float]], count: int) -> Figures:
    total = sum(length for _, length in line)
    rows = [(name, f"{length:.0f}", f"{length / total * 100:.0f}") for name, length in line]
    rows.append(("together", f"{total:.0f}", "100"))
    title = f"One 4 KiB read with {driver}: medians of {count} requests"
    return Figures(title, ("", "us", "%"), tuple(rows))


def main() -> int:
    args = arguments("timeline", __doc__.splitlines()[0]).parse_args()

    def run() -> tuple[list[Figures], list[Path]]:
        with Console(stderr=True).status("tracing"), lab() as (guest, paths):
            found: dict[str, list[dict[str, float]]] = {driver: [] for driver in paths}
            for _ in range(ROUNDS):
                for driver, path in paths.items():
                    found[driver] += trace(guest, path)
        for driver, requests in found.items():
            if len(requests) < ROUNDS * REQUESTS / 4:
                raise errors.LabError(f"{driver}: only {len(requests)} requests traced")
        lines = {driver: medians(requests) for driver, requests in found.items()}
        (args.out / "timeline.json").write_text(json.dumps(lines, indent=1))
        shown = [table(driver, line, len(found[driver])) for driver, line in lines.items()]
        return shown, plot(lines, args.out)

    return command("timeline", args, run)


if __name__ == "__main__":
    sys.exit(main())
