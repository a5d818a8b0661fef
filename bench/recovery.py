# SPDX-License-Identifier: MIT
"""From SIGKILL of a driver to the next I/O that is done: disks over usrloop and NBD, an interface over usrloop.

In one guest, all through VFIO: bench/peers/kill_driver.py kills and reads the clock there. A read is asked for when
the driver is dead; datagrams come to the interface all the time. `cold`: no process waits to take over.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from bench.paper import DISK, arguments, command, one_cpu
from bench.report import Figures
from bench.servers import machine
from usrdrv.base import errors
from usrdrv.lab import qemu
from usrdrv.lab.guest import Guest, Job
from usrdrv.lab.models import Model

PROGRAM: Final = Path(__file__).with_name("peers") / "kill_driver.py"
PORT: Final = 9
MAC: Final = "02:00:00:00:00:0c"
NEAR, FAR = "10.98.0.1", "10.98.0.2"
# A datagram every 2 ms, from the other end of the wire. Its neighbour entry must not wait for an answer.
SENDER: Final = f"""
import contextlib, socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
while True:
    with contextlib.suppress(OSError):
        sock.sendto(bytes(64), ("{NEAR}", {PORT}))
    time.sleep(0.002)
"""


@dataclass(frozen=True)
class Kill:
    """One death. Seconds from the signal: until the process was gone, until an I/O was done."""

    name: str
    how: str
    dead: float
    done: float


Advance = Callable[[Kill], None]


def served(guest: Guest, words: Sequence[str]) -> tuple[Job, int, str]:
    """Run a `usrdrv` command in the guest. Return the job, its pid, and the line that says that it is ready."""
    job = guest.start(["sh", "-c", 'echo $$; exec "$@"', "sh", "usrdrv", *words])
    deadline = time.monotonic() + 90
    while job.out.count("\n") < 2:
        if job.done.is_set() or time.monotonic() > deadline:
            raise errors.LabError(f"usrdrv {words[0]}: {job.err.strip() or 'not ready'}")
        time.sleep(0.1)
    pid, line = job.out.splitlines()[:2]
    return job, int(pid), line


@contextmanager
def wire(tap: str) -> Iterator[None]:
    """The host's end of the NIC, which the model made, in a namespace; it sends all the time."""
    namespace = f"usrdrv-recovery-{os.getpid()}"
    inside = ["ip", "netns", "exec", namespace]
    at = ["ip", "-n", namespace]

    def run(*words: str) -> None:
        done = subprocess.run(words, capture_output=True, text=True, check=False)
        if done.returncode:
            raise errors.LabError(f"{' '.join(words)}: {done.stderr.strip()}")

    run("ip", "netns", "add", namespace)
    sender = None
    try:
        run("ip", "link", "set", tap, "netns", namespace)
        run(*at, "addr", "add", f"{FAR}/24", "dev", tap)
        run(*at, "link", "set", tap, "up")
        run(*at, "neigh", "replace", NEAR, "lladdr", MAC, "dev", tap, "nud", "permanent")
        sender = subprocess.Popen([*inside, sys.executable, "-c", SENDER])
        yield
    finally:
        if sender is not None:
            sender.kill()
            sender.wait()
        run("ip", "netns", "del", namespace)


@contextmanager
def lab(tap: str | None) -> Iterator[tuple[Guest, list[str]]]:
    """A guest with both disks served. Yields it and the targets, as kill_driver.py has them.

    tap: there is a NIC too, and this is the other end of its wire.
    """
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="usrdrv-recovery-")))
        stack.enter_context(one_cpu())
        models = []
        for name in ("usrloop", "nbd"):
            image = folder / f"{name}.img"
            image.write_bytes(bytes(DISK))
            models.append(stack.enter_context(Model("cmd680", "--image", str(image))))
        if tap is not None:
            options = ("--option", f"tap={tap}", "--option", f"mac={MAC}")
            models.append(stack.enter_context(Model("dp83820", *options)))
        sockets = [model.socket for model in models]
        guest = stack.enter_context(Guest(sockets, kmod=True, iommu=True))
        (guest.share / PROGRAM.name).write_text(PROGRAM.read_text())
        targets = []
        for slot, (export, comm) in enumerate((("usrloop", "usrdrv-driver"), ("nbd", "nbdkit"))):
            _, pid, path = served(guest, ["block", qemu.address(slot), "--export", export])
            hows = ("warm", "cold") if export == "usrloop" else ("plain",)
            targets += [f"block over {export},{pid},{comm},{how},{path}" for how in hows]
        yield guest, targets


@contextmanager
def interface(guest: Guest, tap: str) -> Iterator[list[str]]:
    """The NIC of lab() as an interface to which datagrams come. Yields its targets."""
    with wire(tap):
        _, pid, ifname = served(guest, ["net", qemu.address(2), "--export", "usrloop"])
        guest.run(f"ip addr add {NEAR}/24 dev {ifname} && ip link set {ifname} up", check=True)
        yield [f"net over usrloop,{pid},usrdrv-driver,{how},{PORT}" for how in ("warm", "cold")]


def parse(text: str) -> list[Kill]:
    """Read what kill_driver.py printed, whole lines of it."""
    lines = text[: text.rfind("\n") + 1].splitlines()
    return [Kill(**json.loads(line)) for line in lines]


def kill(guest: Guest, count: int, targets: Sequence[str], advance: Advance) -> list[Kill]:
    """Kill the driver of each target `count` times, in turn."""
    total = count * len(targets)
    job = guest.start(["python3", f"/share/{PROGRAM.name}", str(count), *targets])
    deadline = time.monotonic() + 60 + 60 * total
    told = 0
    while not job.done.is_set() and time.monotonic() < deadline:
        for each in parse(job.out)[told:]:
            advance(each)
            told += 1
        time.sleep(0.2)
    kills = parse(job.out)
    if len(kills) != total:
        raise errors.LabError(f"{PROGRAM.name}: {job.err.strip() or 'it hangs'}")
    for each in kills[told:]:
        advance(each)
    return kills


def collect(count: int, net: bool) -> list[Kill]:
    """Kill each driver `count` times; the disks' before frames take their part of the processor."""
    tap = f"urec{os.getpid() % 10**6}" if net else None
    bar = (TextColumn("{task.description:48}"), BarColumn(), MofNCompleteColumn())
    with Progress(*bar, TimeElapsedColumn(), console=Console(stderr=True)) as progress:
        task = progress.add_task("starting a guest", total=count * (5 if net else 3))

        def advance(each: Kill) -> None:
            progress.update(task, description=f"{each.name}, {each.how}", advance=1)

        cpus = os.sched_getaffinity(0)
        with lab(tap) as (guest, disks):
            kills = kill(guest, count, disks, advance)
            if tap is not None:
                # The other end has the processor that is left.
                os.sched_setaffinity(0, cpus - os.sched_getaffinity(0) or cpus)
                with interface(guest, tap) as interfaces:
                    kills += kill(guest, count, interfaces, advance)
    return kills


def table(kills: Sequence[Kill]) -> Figures:
    """Milliseconds: median and extremes."""
    rows = []
    for key in dict.fromkeys((kill.name, kill.how) for kill in kills):
        those = [kill for kill in kills if (kill.name, kill.how) == key]
        done = [kill.done * 1e3 for kill in those]
        dead = statistics.median(kill.dead * 1e3 for kill in those)
        name = key[0] + {"cold": ", no standby"}.get(key[1], "")
        numbers = (statistics.median(done), min(done), max(done), dead)
        rows.append((name, str(len(those)), *(f"{n:.0f}" for n in numbers)))
    columns = ("", "kills", "median, ms", "lowest", "highest", "until it was dead, median")
    return Figures("From SIGKILL of the driver to the next I/O done", columns, tuple(rows))


def main() -> int:
    parser = arguments("recovery", __doc__.splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="three kills of each")
    parser.add_argument("--kills", type=int, choices=range(1, 101), metavar="1..100", default=10)
    args = parser.parse_args()
    return command("recovery", args, lambda: take(args))


def take(args: argparse.Namespace) -> tuple[list[Figures], list[Path]]:
    """Make all measurements. Return table and file."""
    net = os.geteuid() == 0 and Path("/dev/net/tun").exists()
    if not net:
        print("recovery: no interface: TAPs and network namespaces need root", file=sys.stderr)
    kills = collect(3 if args.quick else args.kills, net)
    data = {"machine": machine(), "kills": [asdict(kill) for kill in kills]}
    path = args.out / "recovery.json"
    path.write_text(json.dumps(data, indent=1) + "\n")
    return [table(kills)], [path]


if __name__ == "__main__":
    sys.exit(main())
