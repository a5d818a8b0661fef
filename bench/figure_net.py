# SPDX-License-Identifier: MIT
"""Throughput and processor use against packet size: the kernel's ns83820 and our driver, in one guest.

What figure 4 of the 2004 paper is for the disk. Two NICs of one model are in the guest, ns83820 has the first and
ours the second, through VFIO; the other end of each is a TAP in a network namespace of the host. The guest sends
UDP as fast as it can, and receives TCP in segments that fill such packets: a flood of UDP to a guest would only
show how it drowns. A packet's size counts its FCS. ns83820 goes no further than an MTU of 1500.
"""

from __future__ import annotations

import itertools
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.paper import OURS, Estimate, arguments, busy, command, one_cpu, pyplot, save
from bench.report import Figures
from bench.servers import machine
from usrdrv import errors
from usrdrv.lab import qemu
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model

KERNEL: Final = "ns83820"
SEND, RECEIVE = "sent, UDP", "received, TCP"
SIZES: Final = {
    SEND: (64, 128, 256, 512, 1024, 1518, 4096, 9018),
    RECEIVE: (256, 512, 1024, 1518, 4096, 9018),
}
QUICK: Final = {SEND: (64, 1518, 9018), RECEIVE: (256, 1518, 9018)}
UDP_HEAD, TCP_HEAD = 14 + 20 + 8 + 4, 14 + 20 + 20 + 4
"""Bytes of a packet around the payload, and around the segment's options and payload."""
KERNEL_MOST: Final = 1518
SETTLE: Final = 1.5
"""Seconds until iperf3 runs, which in an emulated machine is work."""


@dataclass(frozen=True)
class Run:
    """One run of iperf3. mbps: a million bits of payload a second that arrived; busy: part of the guest's CPU."""

    driver: str
    direction: str
    size: int
    mbps: float
    busy: float


@dataclass(frozen=True)
class Network:
    """A driver's network: the guest's interface `ifname`, and the host's namespace at the other end."""

    driver: str
    index: int
    ifname: str

    @property
    def namespace(self) -> str:
        return f"usrdrv-figure-{os.getpid()}-{self.index}"

    @property
    def tap(self) -> str:
        return f"ufig{self.index}"

    @property
    def near(self) -> str:
        return f"10.97.{self.index}.1"

    @property
    def far(self) -> str:
        return f"10.97.{self.index}.2"


PATHS: Final = (Network(KERNEL, 0, "eth0"), Network(OURS, 1, "usr0"))


def sh(command_line: str) -> None:
    """Run a command on the host that must succeed."""
    done = subprocess.run(shlex.split(command_line), capture_output=True, text=True, check=False)
    if done.returncode:
        raise errors.LabError(f"{command_line}: {done.stderr.strip()}")


@contextmanager
def other_end(path: Network) -> Iterator[None]:
    """The host's side of a path, behind the TAP that the model made, with an iperf3 server."""
    inside = f"ip netns exec {path.namespace}"
    sh(f"ip netns add {path.namespace}")
    server = None
    try:
        sh(f"ip link set {path.tap} netns {path.namespace}")
        sh(f"{inside} sysctl -q net.ipv6.conf.all.disable_ipv6=1")
        sh(f"ip -n {path.namespace} addr add {path.far}/24 dev {path.tap}")
        sh(f"ip -n {path.namespace} link set {path.tap} mtu 9000 up")
        server = subprocess.Popen([*inside.split(), "iperf3", "-s"], stdout=subprocess.DEVNULL)
        yield
    finally:
        if server is not None:
            server.kill()
            server.wait()
        sh(f"ip netns del {path.namespace}")


@contextmanager
def lab() -> Iterator[Guest]:
    """A guest with both interfaces up, each with its other end on the host."""
    if os.geteuid():
        raise errors.PermissionDeniedError("figure-net needs root: TAPs and network namespaces")
    cpus = os.sched_getaffinity(0)
    with (
        one_cpu(),
        Model("dp83820", "--option", f"tap={PATHS[0].tap}") as first,
        Model("dp83820", "--option", f"tap={PATHS[1].tap}") as second,
        Guest([first.socket, second.socket], iommu=True, posted=False) as guest,
    ):
        # The other ends have the processor that is left.
        os.sched_setaffinity(0, cpus - os.sched_getaffinity(0) or cpus)
        guest.run("modprobe -a ns83820 tun", check=True)
        with other_end(PATHS[0]), other_end(PATHS[1]):
            job = guest.start(
                ["usrdrv", "net", qemu.address(1), "--mtu", "9000", "--ifname", PATHS[1].ifname]
            )
            _wait(guest, f"test -e /sys/class/net/{PATHS[1].ifname}", job)
            for path in PATHS:
                guest.run(
                    f"ip addr add {path.near}/24 dev {path.ifname}; ip link set {path.ifname} up",
                    check=True,
                )
                _wait(guest, f"ping -c 1 -W 1 {path.far}", job)
            yield guest


def _wait(guest: Guest, condition: str, job: Job) -> None:
    deadline = time.monotonic() + 60
    while guest.run(condition).code:
        if time.monotonic() > deadline or job.done.is_set():
            raise errors.LabError(f"{condition}: does not happen: {job.err}")
        time.sleep(0.2)


def measure(
    guest: Guest, path: Network, direction: str, size: int, seconds: float
) -> tuple[float, float]:
    """Return megabits a second, and the busy part of the processor while iperf3 was at work."""
    how = f"-u -b 0 -l {size - UDP_HEAD}" if direction == SEND else f"-R -M {size - TCP_HEAD}"
    iperf = f"iperf3 -c {path.far} {how} -t {round(seconds + SETTLE + 1)} -J"
    stat = "head -1 /proc/stat"
    around = f"sleep {SETTLE}; {stat}; sleep {seconds}; {stat}; wait $!"
    result = guest.run(
        f"{iperf} >/tmp/iperf & {around}; code=$?; cat /tmp/iperf; exit $code", 120
    ).check()
    before, after, text = result.out.split("\n", 2)
    total = json.loads(text[text.index("{") :])["end"]["sum_received"]
    if not total["bytes"]:
        raise errors.LabError(f"iperf3: {path.ifname}: nothing arrived")
    return total["bytes"] * 8 / total["seconds"] / 1e6, busy(before, after)


def collect(
    sizes: Mapping[str, Sequence[int]], repeats: int, seconds: float, console: Console
) -> list[Run]:
    """Take all measurements, interleaved."""
    plan = [
        (direction, size, path)
        for direction, list_ in sizes.items()
        for size in list_
        for path in PATHS
        if path.driver != KERNEL or size <= KERNEL_MOST
    ]
    runs = []
    columns = (TextColumn("{task.description:40}"), BarColumn(), MofNCompleteColumn())
    with Progress(*columns, TimeElapsedColumn(), console=console) as bar:
        task = bar.add_task("starting the guest", total=repeats * len(plan))
        with lab() as guest:
            for _ in range(repeats):
                for direction, size, path in plan:
                    bar.update(task, description=f"{path.driver}, {direction}, {size} bytes")
                    speed, part = measure(guest, path, direction, size, seconds)
                    runs.append(Run(path.driver, direction, size, speed, part))
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
    for kernel, ours in itertools.pairwise(runs):
        if kernel.driver == KERNEL:
            pairs.setdefault((kernel.direction, kernel.size), []).append(ours.mbps / kernel.mbps)
    return {key: Estimate.of(values) for key, values in pairs.items()}


def tables(runs: Sequence[Run]) -> list[Figures]:
    speed, part, ratio = estimates(runs, "mbps"), estimates(runs, "busy"), ratios(runs)
    columns = ("bytes", f"{KERNEL}, Mb/s", "busy, %", f"{OURS}, Mb/s", "busy, %", "ratio")
    found = []
    for direction in dict.fromkeys(run.direction for run in runs):
        rows = []
        for size in sorted({run.size for run in runs if run.direction == direction}):
            row = [str(size)]
            for driver in (KERNEL, OURS):
                key = (driver, direction, size)
                row += (
                    [speed[key].text(1), f"{part[key].mean * 100:.0f}"]
                    if key in speed
                    else ["-", "-"]
                )
            over = ratio.get((direction, size))
            rows.append((*row, over.text(2) if over else "-"))
        found.append(Figures(f"{direction}: mean and 95 % interval", columns, tuple(rows)))
    return found


def plot(runs: Sequence[Run], folder: Path) -> list[Path]:
    """Draw throughput and processor use, as PNG and SVG. Return the files."""
    figure, axes = pyplot().subplots(2, 2, figsize=(10, 7), sharex=True, layout="constrained")
    for row, (what, label, scale) in enumerate(
        (("mbps", "throughput, Mb/s", 1), ("busy", "guest processor busy, %", 100))
    ):
        found = estimates(runs, what)
        for column, direction in enumerate((SEND, RECEIVE)):
            panel = axes[row][column]
            for driver, style in ((KERNEL, "o-"), (OURS, "s--")):
                sizes = sorted(
                    size for name, way, size in found if (name, way) == (driver, direction)
                )
                line = [found[driver, direction, size] for size in sizes]
                panel.errorbar(
                    sizes,
                    [point.mean * scale for point in line],
                    [point.half * scale for point in line],
                    fmt=style,
                    capsize=3,
                    label=f"{driver}{' over VFIO and TAP' if driver == OURS else ''}",
                )
            panel.set_xscale("log", base=2)
            panel.set_ylabel(label)
            panel.grid(alpha=0.3)
            if row == 0:
                panel.set_yscale("log")
                panel.set_title(direction)
                panel.legend()
            else:
                panel.set_ylim(0, 105)
                panel.set_xlabel("packet size, bytes")
    return save(figure, "figure-net", folder)


def main() -> int:
    parser = arguments("figure_net", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three sizes, two repetitions")
    parser.add_argument("--repeats", type=int, choices=range(2, 31), metavar="2..30", default=3)
    args = parser.parse_args()
    sizes, repeats, seconds = (QUICK, 2, 1.0) if args.quick else (SIZES, args.repeats, 2.0)

    def run() -> tuple[list[Figures], list[Path]]:
        runs = collect(sizes, repeats, seconds, Console(stderr=True))
        data = {"machine": machine(), "runs": [asdict(run) for run in runs]}
        (args.out / "figure-net.json").write_text(json.dumps(data, indent=1))
        return tables(runs), plot(runs, args.out)

    return command("figure_net", args, run)


if __name__ == "__main__":
    sys.exit(main())
