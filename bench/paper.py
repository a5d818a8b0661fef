# SPDX-License-Identifier: MIT
"""What the figures of the 2004 paper share here: the guest with all drivers, the files, the command."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Final

from rich.console import Console

from bench.report import Figures
from usrdrv.base import errors
from usrdrv.lab import accelerator, qemu
from usrdrv.lab.guest import Guest
from usrdrv.lab.models import Model

KERNEL, LOOP, NBD, ZERO_COPY = "pata_sil680", "usrloop", "nbd", "zero copy"
DRIVERS: Final = {
    KERNEL: KERNEL,
    LOOP: "usrdrv over VFIO and usrloop",
    NBD: "usrdrv over VFIO and NBD",
    ZERO_COPY: "usrdrv over its system calls and usrloop, zero copy",
}
DISK: Final = 128 << 20


@contextmanager
def one_cpu() -> Iterator[None]:
    """Without KVM keep what we start on one processor: between two, each hand-over takes 1 or 5 times as long."""
    before = os.sched_getaffinity(0)
    if accelerator.best() == "tcg":
        os.sched_setaffinity(0, {max(before)})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def served(guest: Guest, slot: int, driver: str) -> str:
    """Serve controller `slot` with `usrdrv block`; return the block device's path."""
    export, way = (LOOP, "usrdrv") if driver == ZERO_COPY else (driver, "vfio")
    command = ["usrdrv", "block", qemu.address(slot), "--export", export]
    job = guest.start(["env", f"USRDRV_PCI={way}", *command])
    deadline = time.monotonic() + 90
    while not job.out.strip():
        if job.done.is_set() or time.monotonic() > deadline:
            raise errors.LabError(f"usrdrv block: {job.err.strip() or 'not ready'}")
        time.sleep(0.2)
    return job.out.strip()


@contextmanager
def lab(drivers: Sequence[str] = tuple(DRIVERS)) -> Iterator[tuple[Guest, dict[str, str]]]:
    """A guest with a controller for each driver. Yields it with their block devices' paths."""
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="usrdrv-figure4-")))
        stack.enter_context(one_cpu())
        sockets = []
        for name in drivers:
            image = folder / f"{name}.img"
            image.write_bytes(bytes(DISK))
            sockets.append(stack.enter_context(Model("cmd680", "--image", str(image))).socket)
        # Ours has the system calls, and all drivers are to have the same kernel below them.
        kernel = "base" if ZERO_COPY in drivers else "stock"
        kmod = LOOP in drivers or ZERO_COPY in drivers
        guest = stack.enter_context(Guest(sockets, kernel=kernel, iommu=True, kmod=kmod))
        paths = {}
        for slot, name in enumerate(drivers):
            if name == KERNEL:
                pattern = f"/sys/bus/pci/devices/{qemu.address(slot)}/ata*/host*/target*/*/block/*"
                found = guest.run(f"ls -d {pattern}", check=True).out.split()[0]
                paths[name] = f"/dev/{Path(found).name}"
            else:
                paths[name] = served(guest, slot, name)
        yield guest, paths


def pyplot() -> Any:
    """Return matplotlib's pyplot, for files alone."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def save(figure: Any, name: str, folder: Path) -> list[Path]:
    """Write a figure as PNG and SVG. Return the files."""
    files = [folder / f"{name}.{kind}" for kind in ("png", "svg")]
    for file in files:
        figure.savefig(file, dpi=150)
    return files


def arguments(prog: str, description: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=f"bench.{prog}", description=description)
    parser.add_argument(
        "--out", type=Path, default=Path("bench/results"), help="folder for results"
    )
    parser.add_argument("--markdown", action="store_true", help="print tables for a document")
    return parser


def command(
    prog: str,
    args: argparse.Namespace,
    run: Callable[[], tuple[Sequence[Figures], Sequence[Path]]],
) -> int:
    """Measure, and show tables and files; an error is one line. Return the exit code."""
    try:
        args.out.mkdir(parents=True, exist_ok=True)
        tables, files = run()
    except (errors.UsrdrvError, OSError) as error:
        print(f"{prog}: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print(f"{prog}: interrupted", file=sys.stderr)
        return 130
    for table in tables:
        if args.markdown:
            print(table.markdown())
        else:
            table.show(Console())
    print("\n".join(str(file) for file in files))
    return 0
