# SPDX-License-Identifier: MIT
"""The three ways from a process into the kernel as a disk, side by side in a guest, each without a back end.

usrloop and ublk are served by programs of bench/peers, NBD by nbdkit's null plugin. A request is done as soon as it
is seen and nothing is stored: what is left is what the way itself costs.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import find_tool
from usrdrv.lab.guest import Guest

USRLOOP, UBLK, NBD = WAYS = "usrloop", "ublk", "NBD"
KERNEL: Final = "base"
SIZE: Final = 1 << 30
DEPTH: Final = 64
"""Requests of a queue; NBD's client has 128."""

_TOP: Final = Path(__file__).resolve().parent.parent
_PEERS: Final = _TOP / "bench/peers"
_PROGRAMS: Final = {
    "usrloop_null": ("bench/peers/usrloop_null.c", "usrdrv/loop/loop.c"),
    "ublk_null": ("bench/peers/ublk_null.c",),
    "requests": ("bench/peers/requests.c",),
}
_CFLAGS: Final = (
    *("-std=gnu11", "-O2", "-static", "-pthread", "-Wall", "-Wextra"),
    *("-Iusrdrv/include", "-Iloopback-kmod/include/uapi"),
)
_SOCKET: Final = "/run/null.sock"


def serve(guest: Guest, ways: Sequence[str] = WAYS) -> dict[str, str]:
    """Start all of them with a queue for each processor of the guest, which has kmod. Return their disks."""
    for program, sources in _PROGRAMS.items():
        output = str(guest.share / program)
        _run([find_tool("gcc", "gcc"), *_CFLAGS, "-o", output, *sources], _TOP)
    # Off the share: its server is another process.
    guest.run(f"cd /share && cp {' '.join(_PROGRAMS)} /usr/local/bin", check=True)
    cpus = int(guest.run("nproc", check=True).out)
    start = {USRLOOP: _usrloop, UBLK: _ublk, NBD: _nbd}
    disks = {way: start[way](guest, cpus) for way in ways}
    for disk in disks.values():
        _check(guest, disk)
    return disks


def _usrloop(guest: Guest, cpus: int) -> str:
    guest.run("modprobe usrloop", check=True)
    return _start(guest, "usrloop_null", cpus)


def _ublk(guest: Guest, cpus: int) -> str:
    guest.run("modprobe ublk_drv", check=True)
    return _start(guest, "ublk_null", cpus)


def _nbd(guest: Guest, cpus: int) -> str:
    guest.run("modprobe nbd", check=True)
    nbdkit = guest.start(["nbdkit", "-f", "-U", _SOCKET, "null", f"size={SIZE}"])
    deadline = time.monotonic() + 30
    while guest.run(["test", "-S", _SOCKET]).code:
        if nbdkit.done.is_set() or time.monotonic() > deadline:
            raise errors.LabError(f"nbdkit: {nbdkit.err.strip() or 'not ready'}")
    options = ["-block-size", "512", "-connections", str(cpus)]
    guest.run(["nbd-client", "-unix", _SOCKET, "/dev/nbd0", *options], check=True)
    return "/dev/nbd0"


def _start(guest: Guest, program: str, cpus: int) -> str:
    job = guest.start([program, str(SIZE), str(cpus), str(DEPTH)])
    deadline = time.monotonic() + 30
    while not job.out.endswith("\n"):
        if job.done.is_set() or time.monotonic() > deadline:
            raise errors.LabError(f"{program}: {job.err.strip() or 'not ready'}")
        time.sleep(0.05)
    return job.out.strip()


def _check(guest: Guest, disk: str) -> None:
    """Take the scheduler away; what makes disks comparable must be the same for all."""
    folder = f"/sys/block/{Path(disk).name}"
    files = ("size", "queue/scheduler", "queue/logical_block_size")
    found = guest.run(
        f"cd {folder} && echo none >queue/scheduler && cat {' '.join(files)}", check=True
    ).out.split("\n")
    if found[0] != str(SIZE // 512) or "[none]" not in found[1] or found[2] != "512":
        raise errors.LabError(f"{disk} is not as the others: {', '.join(found)}")


def _run(command: Sequence[str], folder: Path) -> None:
    done = subprocess.run(
        command,
        cwd=folder,
        env={**os.environ, "LC_ALL": "C"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        check=False,
    )
    if done.returncode:
        raise errors.LabError(f"{Path(command[0]).name}:\n{done.stdout[-2000:].strip()}")
