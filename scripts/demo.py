# SPDX-License-Identifier: MIT
"""The main job, from nothing: ext4 on a disk whose controller is driven by an ordinary process."""

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
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Final, NoReturn

from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TransferSpeedColumn

from usrdrv.bridge.process import PR_SET_PDEATHSIG

IMAGE_SIZE: Final = 256 << 20
FILL: Final = 128 << 20
LARGEST: Final = 8 << 20
START_TIMEOUT: Final = 90.0
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


def fill(folder: Path) -> dict[str, str]:
    """Write files of all sizes, to the medium. Return their checksums by name."""
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


def demo(stack: ExitStack) -> None:
    folder = Path(tempfile.mkdtemp(prefix="usrdrv-demo-"))
    stack.callback(shutil.rmtree, folder, ignore_errors=True)
    image, socket, point = folder / "disk.img", folder / "ide.sock", folder / "mnt"
    point.mkdir()
    with image.open("wb") as file:
        file.truncate(IMAGE_SIZE)

    command = ["model", "cmd680", "--socket", str(socket), "--image", str(image)]
    say(
        "1. An IDE controller with a disk, in software, in a process of its own",
        ["usrdrv", *command],
    )
    device = stack.enter_context(service(*command))

    say("2. What the disk says of itself", ["usrdrv", "identify", device])
    run(*USRDRV, "identify", device)

    with ExitStack() as attached:
        command = ["block", device, "--export", "auto", "--json"]
        say(
            "3. Its driver in a process, and the drive as a block device of the kernel",
            ["usrdrv", *command[:-1]],
        )
        block = json.loads(attached.enter_context(service(*command)))
        path = str(block["device"])
        console.print(f"{path}, {block['size'] >> 20} MiB; the driver is pid {block['driver_pid']}")

        say("4. A file system on it", ["mkfs.ext4", path])
        run("mkfs.ext4", "-q", path)

        say("5. Mounted and filled", ["mount", path, str(point)])
        with mounted(path, point):
            sums = fill(point)

        say("6. Mounted again, so that nothing comes from a cache, and compared")
        run("blockdev", "--flushbufs", path, quiet=True)
        with mounted(path, point):
            check(point, sums)

        say("7. Unmounted and checked", ["e2fsck", "-fn", path])
        run("e2fsck", "-fn", path)

        say("8. Detached: the driver quiesces the controller and ends", ["^C"])
    console.print("\n[bold green]Done.[/] Nothing is left behind.")


def interrupt(*_: object) -> NoReturn:
    raise KeyboardInterrupt


def main() -> int:
    if os.geteuid():
        print("demo: error: mounting and block devices need root: sudo make demo", file=sys.stderr)
        return 1
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


if __name__ == "__main__":
    sys.exit(main())
