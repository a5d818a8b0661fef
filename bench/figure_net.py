# SPDX-License-Identifier: MIT
"""Throughput and processor use against packet size: the kernel's ns83820 and our driver, in one guest.

What figure 4 of the 2004 paper is for the disk. NICs of one model are in the guest: ns83820 has the first, ours
the others, through VFIO and usrloop, and through VFIO and a TAP. The other end of each is a TAP in a network
namespace of the host. The guest sends UDP as fast as it can, and receives TCP in segments that fill such packets: a
flood of UDP to a guest would only show how it drowns. A packet's size counts its FCS. ns83820 goes no further than
an MTU of 1500.
"""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Final

from bench.curves import SETTLE, Chart, Measure, loaded
from bench.paper import one_cpu
from usrdrv.base import errors
from usrdrv.lab import qemu
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model

KERNEL, LOOP, TAP = "ns83820", "usrloop", "TAP"
DRIVERS: Final = {
    KERNEL: KERNEL,
    LOOP: "usrdrv over VFIO and usrloop",
    TAP: "usrdrv over VFIO and TAP",
}
"""In the order of their runs, with their legends; ours by what they are exported through."""
SEND, RECEIVE = "sent", "received"
SIZES: Final = {
    SEND: (64, 128, 256, 512, 1024, 1518, 4096, 9018),
    RECEIVE: (256, 512, 1024, 1518, 4096, 9018),
}
QUICK: Final = {SEND: (64, 1518, 9018), RECEIVE: (256, 1518, 9018)}
UDP_HEAD, TCP_HEAD = 14 + 20 + 8 + 4, 14 + 20 + 20 + 4
"""Bytes of a packet around the payload, and around the segment's options and payload."""
KERNEL_MOST: Final = 1518
CHART: Final = Chart(
    name="figure-net",
    drivers=DRIVERS,
    unit="Mb/s",
    digits=1,
    sizes="packet",
    titles={SEND: "UDP that the guest sends", RECEIVE: "TCP that the guest receives"},
)


@dataclass(frozen=True)
class Network:
    """A driver's network: the guest's interface `ifname`, and the host's namespace at the other end."""

    driver: str
    index: int
    ifname: str
    export: str = ""
    """Of usrdrv net; empty: the kernel has it."""

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


PATHS: Final = (
    Network(KERNEL, 0, "eth0"),
    Network(LOOP, 1, "usr0", "usrloop"),
    Network(TAP, 2, "usr1", "tap"),
)


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
    with ExitStack() as stack:
        stack.enter_context(one_cpu())
        models = [
            stack.enter_context(Model("dp83820", "--option", f"tap={path.tap}")) for path in PATHS
        ]
        sockets = [model.socket for model in models]
        guest = stack.enter_context(Guest(sockets, kmod=True, iommu=True, posted=False))
        # The other ends have the processor that is left.
        os.sched_setaffinity(0, cpus - os.sched_getaffinity(0) or cpus)
        guest.run("modprobe -a ns83820 tun usrloop", check=True)
        for path in PATHS:
            stack.enter_context(other_end(path))
            _connect(guest, path)
        yield guest


def _connect(guest: Guest, path: Network) -> None:
    """Bring the guest's interface up, with our driver if it is ours."""
    job = None
    if path.export:
        options = f"--export {path.export} --mtu 9000 --ifname {path.ifname}"
        job = guest.start(f"exec usrdrv net {qemu.address(path.index)} {options}")
    _wait(guest, f"test -e /sys/class/net/{path.ifname}", job)
    up = f"ip addr add {path.near}/24 dev {path.ifname}; ip link set {path.ifname} up"
    guest.run(up, check=True)
    _wait(guest, f"ping -c 1 -W 1 {path.far}", job)


def _wait(guest: Guest, condition: str, job: Job | None) -> None:
    deadline = time.monotonic() + 60
    while guest.run(condition).code:
        if time.monotonic() > deadline or (job is not None and job.done.is_set()):
            raise errors.LabError(f"{condition}: does not happen: {job.err if job else ''}")
        time.sleep(0.2)


def measure(
    guest: Guest, path: Network, direction: str, size: int, seconds: float
) -> tuple[float, float]:
    """Return megabits of payload a second that arrived, and the busy part of the processor meanwhile."""
    how = f"-u -b 0 -l {size - UDP_HEAD}" if direction == SEND else f"-R -M {size - TCP_HEAD}"
    duration = round(seconds + SETTLE + 1)
    result, part = loaded(guest, f"iperf3 -c {path.far} {how} -t {duration} -J", seconds)
    total = result["end"]["sum_received"]
    if not total["bytes"]:
        raise errors.LabError(f"iperf3: {path.ifname}: nothing arrived")
    return total["bytes"] * 8 / total["seconds"] / 1e6, part


@contextmanager
def measuring(seconds: float) -> Iterator[Measure]:
    paths = {path.driver: path for path in PATHS}
    with lab() as guest:
        yield lambda driver, direction, size: measure(
            guest, paths[driver], direction, size, seconds
        )


def plan(quick: bool) -> list[tuple[str, str, int]]:
    return [
        (path.driver, direction, size)
        for direction, sizes in (QUICK if quick else SIZES).items()
        for size in sizes
        for path in PATHS
        if path.driver != KERNEL or size <= KERNEL_MOST
    ]


if __name__ == "__main__":
    sys.exit(CHART.main(__doc__.splitlines()[0], plan, measuring, repeats=3))
