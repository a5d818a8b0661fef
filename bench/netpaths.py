# SPDX-License-Identifier: MIT
"""Paths between two network namespaces of our own: ours, and what it is compared with."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pyroute2 import netns  # type: ignore[import-untyped]

from usrdrv.bridge.net.export_tap import IFF_NO_PI, IFF_TAP, TUNSETIFF

HERE = Path(__file__).parent
NEAR, FAR = f"usrdrv-bench-{os.getpid()}-a", f"usrdrv-bench-{os.getpid()}-b"
ADDRESS = {NEAR: "10.95.0.1", FAR: "10.95.0.2"}
USRDRV = [sys.executable, "-P", "-m", "usrdrv"]


def sh(*words: str) -> str:
    """Run a command that must succeed."""
    return subprocess.run(words, check=True, capture_output=True, text=True).stdout


@dataclass
class Path2:
    """A path that is up. processes: those that move its frames; stats: counters of ours at the near end."""

    name: str
    processes: list[int]
    stats: Callable[[], dict[str, Any]] | None = None

    def cpu(self) -> float:
        """Seconds that its processes have used."""
        ticks = 0
        for pid in self.processes:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            ticks += int(fields[11]) + int(fields[12])
        return ticks / os.sysconf("SC_CLK_TCK")


@contextmanager
def namespaces() -> Iterator[None]:
    for name in (NEAR, FAR):
        sh("ip", "netns", "add", name)
    try:
        yield
    finally:
        for name in (NEAR, FAR):
            sh("ip", "netns", "del", name)


def _up(interface: str, mtu: int) -> None:
    for name in (NEAR, FAR):
        sh("ip", "-n", name, "addr", "add", f"{ADDRESS[name]}/24", "dev", interface)
        sh("ip", "-n", name, "link", "set", interface, "mtu", str(mtu), "up")
    end = time.monotonic() + 15
    for name in (NEAR, FAR):
        while "LOWER_UP" not in sh("ip", "-n", name, "link", "show", interface):
            if time.monotonic() > end:
                raise RuntimeError(f"{interface} in {name} gets no carrier")
            time.sleep(0.05)


@contextmanager
def veth(mtu: int) -> Iterator[Path2]:
    """The kernel's own pair."""
    sh("ip", "-n", NEAR, "link", "add", "v0", "type", "veth", "peer", "name", "v0", "netns", FAR)
    try:
        _up("v0", mtu)
        yield Path2("veth", [])
    finally:
        sh("ip", "-n", NEAR, "link", "del", "v0")


@contextmanager
def relay(mtu: int) -> Iterator[Path2]:
    """Two plain TAPs and bench/peers/tap_relay.c."""
    program = HERE / "results" / "tap_relay"
    program.parent.mkdir(exist_ok=True)
    sh("cc", "-O2", "-o", str(program), str(HERE / "peers/tap_relay.c"))
    fds = []
    for name in (NEAR, FAR):
        netns.pushns(name)
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
        netns.popns()
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", b"tap0", IFF_TAP | IFF_NO_PI))
        fds.append(fd)
    process = subprocess.Popen([program, *map(str, fds)], pass_fds=fds)
    for fd in fds:
        os.close(fd)
    try:
        _up("tap0", mtu)
        yield Path2("relay", [process.pid])
    finally:
        process.kill()
        process.wait()


@contextmanager
def ours(mtu: int, *options: str) -> Iterator[Path2]:
    """`usrdrv net` at both ends of a cable."""
    processes, drivers = [], []
    try:
        for number, name in enumerate((NEAR, FAR)):
            device = f"model:dp83820?cable={NEAR}&mac=02:00:00:95:00:0{number + 1}"
            process = subprocess.Popen(
                [*USRDRV, "net", device, "--netns", name, "--mtu", str(mtu), "--json", *options],
                stdout=subprocess.PIPE,
                text=True,
            )
            processes.append(process)
            assert process.stdout is not None
            drivers.append(int(json.loads(process.stdout.readline())["driver_pid"]))
        _up("usr0", mtu)
        yield Path2("usrdrv" + "".join(f" {o}" for o in options), drivers, _stats)
    finally:
        for process in processes:
            process.send_signal(signal.SIGINT)
        for process in processes:
            if process.wait(20):
                raise RuntimeError(f"usrdrv net ended with status {process.returncode}")


def _stats() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(
        sh(*USRDRV, "net", "stats", "usr0", "--netns", NEAR, "--json")
    )
    return found


PATHS: dict[str, Callable[[int], Any]] = {
    "veth": veth,
    "relay": relay,
    "usrdrv": ours,
    "usrdrv --no-offload": lambda mtu: ours(mtu, "--no-offload"),
}
