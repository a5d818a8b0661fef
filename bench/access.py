# SPDX-License-Identifier: MIT
"""What the access layer costs by kind of name: opening, a register read and write, an interrupt.

Rounds take the names in turn; a figure is the median of the rounds, with their quartiles.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from typing import Final

from rich.console import Console
from rich.progress import track

import usrdrv.devices
import usrdrv.lab  # noqa: F401
from bench.report import Figures
from usrdrv.base import errors
from usrdrv.device import Device, Interrupt, open_device
from usrdrv.lab.models import Model

COMMAND: Final = 4
ALL: Final = 7
"""Ports, memory, bus mastering."""
COUNT: Final = 1000
"""Accesses in a round."""
EDU: Final = "qemu:edu"
RAISE, ACKNOWLEDGE = 0x60, 0x64
REGISTERS: Final = {"model:cmd680?ram=1M": (5, 0xA4), "vfio-user:cmd680": (5, 0xA4), EDU: (0, 4)}
"""By name: a BAR and the offset of a register without side effects."""


@dataclass(frozen=True)
class Cost:
    """median, low, high: milliseconds for opening, else microseconds for each."""

    name: str
    what: str
    median: float
    low: float
    high: float


@contextmanager
def opened(name: str) -> Iterator[tuple[Device, float]]:
    """Open a device; yield it and how long that took, in seconds. A model on a socket runs already."""
    with ExitStack() as stack:
        if name.startswith("vfio-user:"):
            model = stack.enter_context(Model(name.partition(":")[2], "--ram", "1M"))
            name = model.name
        start = time.perf_counter()
        device = stack.enter_context(open_device(name))
        took = time.perf_counter() - start
        device.config_write(COMMAND, 2, ALL)
        yield device, took


def each(count: int, act: Callable[[], object]) -> float:
    """Return the seconds that one of `count` takes."""
    start = time.perf_counter()
    for _ in range(count):
        act()
    return (time.perf_counter() - start) / count


def interrupt(device: Device, vector: Interrupt, unmask: bool) -> None:
    """Have edu raise one, wait for it, acknowledge it."""
    device.write32(0, RAISE, 1)
    if not vector.wait(60):
        raise errors.DeviceError("edu: no interrupt within a minute")
    device.write32(0, ACKNOWLEDGE, 1)
    if unmask:
        device.irq_unmask()


def measure(name: str) -> Iterator[tuple[str, float]]:
    """One round of a name."""
    with opened(name) as (device, took):
        register = REGISTERS[name]
        value = device.read32(*register)

        def write() -> None:
            device.write32(*register, value)

        def writes() -> None:
            for _ in range(COUNT):
                write()
            device.read32(*register)

        yield "open, ms", took * 1e3
        yield "read, us", each(COUNT, lambda: device.read32(*register)) * 1e6
        yield "write, us", each(1, writes) / COUNT * 1e6
        if name == EDU:
            for kind in ("intx", "msi"):
                (vector,) = device.irqs(1, kind)
                once = lambda v=vector, k=kind: interrupt(device, v, k == "intx")  # noqa: E731
                yield f"interrupt ({kind}), us", each(COUNT // 10, once) * 1e6


def costs(rounds: int) -> list[Cost]:
    found: dict[tuple[str, str], list[float]] = {}
    for _ in track(range(rounds), "Rounds", console=Console(stderr=True)):
        for name in REGISTERS:
            for what, amount in measure(name):
                found.setdefault((name, what), []).append(amount)
    return [
        Cost(*key, statistics.median(of), *statistics.quantiles(of, n=4, method="inclusive")[::2])
        for key, of in found.items()
    ]


def show(found: Sequence[Cost]) -> None:
    rows = tuple(
        (cost.name, cost.what, f"{cost.median:.1f}", f"{cost.low:.1f} to {cost.high:.1f}")
        for cost in found
    )
    columns = ("name", "what", "median", "quartiles")
    Figures("The access layer, by kind of name", columns, rows).show(Console())


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m bench.access", description=__doc__)
    parser.add_argument("--rounds", type=int, default=15, help="at least 2")
    parser.add_argument("--json", action="store_true", help="print JSON")
    args = parser.parse_args(argv)
    if args.rounds < 2:
        parser.error(f"--rounds {args.rounds}: at least 2")
    try:
        found = costs(args.rounds)
    except errors.UsrdrvError as error:
        print(f"bench.access: error: {error}", file=sys.stderr)
        return 1
    if args.json:
        print(json.dumps([asdict(cost) for cost in found]))
    else:
        show(found)
    return 0


if __name__ == "__main__":
    sys.exit(main())
