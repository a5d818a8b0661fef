# SPDX-License-Identifier: MIT
"""The main job, from nothing: ext4 on a disk whose controller is driven by an ordinary process.

    demo.py [DEVICE]

Without DEVICE a model is started. A host that cannot do it (no root, neither usrloop nor nbd in its kernel) lets a
guest of the lab do it, where the model is a PCI device and its driver runs through VFIO.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from usrdrv.base.process import PR_SET_PDEATHSIG
from usrdrv.bridge.block.exports import EXPORTS

IMAGE_SIZE: Final = 128 << 20
FILL: Final = 48 << 20
LARGEST: Final = 4 << 20
START_TIMEOUT: Final = 90.0
RESTARTABLE: Final = ("usrloop", "nbd")
"""Exports under which a driver may die."""
LIBC: Final = ctypes.CDLL(None)
USRDRV: Final = (sys.executable, "-m", "usrdrv")
SBIN: Final = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"}

console = Console(highlight=False)


class DemoError(Exception):
    """A step that failed; the message is for the user."""


def say(step: str, command: Sequence[str] = ()) -> None:
    """Announce a step, and the command that does it as one would type it."""
    console.print(f"\n[bold cyan]{step}[/]")
    if command:
        console.print(f"[dim]$ {' '.join(command)}[/]", soft_wrap=True)


def run(*command: str, quiet: bool = False) -> str:
    """Run a command to its end. Return what it printed."""
    done = subprocess.run(command, env=SBIN, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DemoError(f"{command[0]}: {(done.stderr or done.stdout).strip()}")
    if not quiet and done.stdout.strip():
        console.print(done.stdout.rstrip(), markup=False, soft_wrap=True)
    return done.stdout


def die_with_us() -> None:
    """Ask the kernel to end this child when its parent is gone, however that happens."""
    LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


@contextmanager
def service(*arguments: str) -> Iterator[str]:
    """Keep a usrdrv command running. Yields the line that says it is ready."""
    process = subprocess.Popen(
        [*USRDRV, *arguments],
        env=SBIN,
        stdout=subprocess.PIPE,
        text=True,
        process_group=0,  # Ctrl-C is ours to act upon, in the right order
        preexec_fn=die_with_us,
    )
    assert process.stdout is not None
    try:
        select.select([process.stdout], [], [], START_TIMEOUT)
        line = process.stdout.readline().strip() if process.poll() is None else ""
        if not line:
            raise DemoError(f"usrdrv {arguments[0]} did not start")
        yield line
    finally:
        process.send_signal(signal.SIGINT)
        try:
            status = process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            status = process.wait()
        process.stdout.close()
    if status:
        raise DemoError(f"usrdrv {arguments[0]} ended with status {status}")


@contextmanager
def mounted(device: str, folder: Path) -> Iterator[None]:
    """Mount a file system for a while."""
    run("mount", device, str(folder))
    try:
        yield
    finally:
        run("umount", str(folder))


def progress() -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), DownloadColumn())
    return Progress(*columns, TransferSpeedColumn(), console=console)


def fill(folder: Path, half_way: Callable[[], None]) -> dict[str, str]:
    """Write files of all sizes, to the medium, and call `half_way` there. Return their checksums by name."""
    sums: dict[str, str] = {}
    rng = random.Random(680)
    left = FILL
    with progress() as bar:
        task = bar.add_task("writing", total=FILL)
        while left:
            size = min(left, rng.choice((1, 4096, 65_537, 1 << 20, LARGEST)))
            data = rng.randbytes(size)
            name = f"{len(sums):04}"
            with (folder / name).open("wb") as file:
                file.write(data)
                if size == LARGEST:
                    os.fsync(file.fileno())
            sums[name] = hashlib.sha256(data).hexdigest()
            if left > FILL // 2 >= left - size:
                half_way()
            left -= size
            bar.advance(task, size)
        os.sync()
    return sums


def check(folder: Path, sums: dict[str, str]) -> None:
    """Read all files and compare."""
    with progress() as bar:
        task = bar.add_task("reading", total=FILL)
        for name, expected in sums.items():
            data = (folder / name).read_bytes()
            if hashlib.sha256(data).hexdigest() != expected:
                raise DemoError(f"{name}: what was read is not what was written")
            bar.advance(task, len(data))
    console.print(f"{len(sums)} files, all as written")


def demo(stack: ExitStack, device: str | None) -> None:
    folder = Path(tempfile.mkdtemp(prefix="usrdrv-demo-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    point = folder / "mnt"
    point.mkdir()
    if device is None:
        device = model(stack, folder)
    else:
        say("1. An IDE controller, and the kernel driver that has it now", ["lspci", "-ks", device])
        run("lspci", "-ks", device)

    say("2. What the disk says of itself", ["usrdrv", "identify", device])
    run(*USRDRV, "identify", device)

    with ExitStack() as attached:
        command = ["block", device, "--json"]
        say(
            "3. Its driver in a process, and the drive as a block device of the kernel",
            ["usrdrv", *command[:-1]],
        )
        block = json.loads(attached.enter_context(service(*command)))
        path = str(block["device"])
        console.print(f"{path}, {block['size'] >> 20} MiB; the driver is pid {block['driver_pid']}")

        say("4. A file system on it", ["mkfs.ext4", path])
        run("mkfs.ext4", "-q", path)

        pid = int(block["driver_pid"])
        say(
            "5. Mounted and filled; half way its driver is killed, and the file system just waits",
            ["mount", path, str(point), "&&", "kill", "-9", str(pid)],
        )
        with mounted(path, point):
            sums = fill(point, lambda: os.kill(pid, signal.SIGKILL))

        say("6. Mounted again, so that nothing comes from a cache, and compared")
        run("blockdev", "--flushbufs", path, quiet=True)
        with mounted(path, point):
            check(point, sums)

        say("7. Unmounted and checked", ["e2fsck", "-fn", path])
        run("e2fsck", "-fn", path)

        say("8. Detached: the driver quiesces the controller and ends", ["^C"])
    console.print("\n[bold green]Done.[/] Nothing is left behind.")


def model(stack: ExitStack, folder: Path) -> str:
    """Start one. Return its device's name."""
    image, socket = folder / "disk.img", folder / "ide.sock"
    with image.open("wb") as file:
        file.truncate(IMAGE_SIZE)
    command = ["model", "cmd680", "--socket", str(socket), "--image", str(image)]
    say(
        "1. An IDE controller with a disk, in software, in a process of its own",
        ["usrdrv", *command],
    )
    return stack.enter_context(service(*command))


def in_the_lab(reason: str, script: str, *arguments: str, machine: Sequence[str] = ()) -> int:
    """Have a guest do it. Return the exit code."""
    command = ("lab", "run", *machine, "--", "python3", f"/src/scripts/{script}", *arguments)
    say(
        f"In a guest of the lab, because {reason}",
        ["usrdrv", *(repr(w) if " " in w else w for w in command)],
    )
    return subprocess.run([*USRDRV, *command], check=False).returncode


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def carry_out(demo: Callable[[ExitStack], None]) -> int:
    """Run a demo, and take down what it made. Return the exit code."""
    signal.signal(signal.SIGTERM, interrupt)
    signal.signal(signal.SIGHUP, interrupt)
    try:
        with ExitStack() as stack:
            demo(stack)
    except DemoError as error:
        print(f"demo: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("demo: interrupted; all of it was taken down", file=sys.stderr)
        return 130
    return 0


def main() -> int:
    if len(sys.argv) == 1 and (os.geteuid() or EXPORTS.choose("auto", {}).name not in RESTARTABLE):
        root = "mounting and block devices need root"
        module = "this kernel has neither module usrloop nor nbd"
        return in_the_lab(
            root if os.geteuid() else module,
            Path(__file__).name,
            "0000:00:10.0",
            machine=("--kmod", "--iommu", "--model", f"cmd680 --ram {IMAGE_SIZE >> 20}M"),
        )
    return carry_out(lambda stack: demo(stack, sys.argv[1] if len(sys.argv) > 1 else None))


if __name__ == "__main__":
    sys.exit(main())
