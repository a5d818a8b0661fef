# SPDX-License-Identifier: MIT
"""The servers that are measured: each a context manager that yields where it is and who it is."""

from __future__ import annotations

import select
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from usrdrv.base import errors
from usrdrv.base.process import Child, find_tool
from usrdrv.bridge.block import nbd_handshake
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer

SIZE: Final = 256 << 20
THREADS: Final = 16
PEER: Final = "bytearray plugin"
IN_PROCESS: Final = "usrdrv, model in process"
VFIO_USER: Final = "usrdrv, model over vfio-user"
USRDRV: Final = (sys.executable, "-m", "usrdrv")


@dataclass(frozen=True)
class Server:
    """A running NBD server. `pid` is nbdkit's: of ours, the driver process."""

    name: str
    uri: str
    pid: int


@contextmanager
def bytearray_peer(folder: Path) -> Iterator[Server]:
    """nbdkit with the plainest Python plugin that serves memory."""
    endpoint = Endpoint(folder / "peer.sock")
    child = Child(
        "nbdkit",
        [
            *(find_tool("nbdkit", "nbdkit"), "-f", "--threads", str(THREADS)),
            *("-U", str(endpoint.path), "python"),
            *(str(Path(__file__).with_name("peers") / "bytearray_plugin.py"), f"size={SIZE}"),
        ],
    )
    try:
        deadline = time.monotonic() + 10
        while True:
            try:
                nbd_handshake.disconnect(nbd_handshake.connect(endpoint.address, 10)[0])
                break
            except OSError as error:
                if child.wait(0.02) or time.monotonic() > deadline:
                    raise errors.DeviceError(f"the peer did not start: {child.lines}") from error
        yield Server(PEER, endpoint.uri(), child.pid)
    finally:
        child.stop()
        # nbdkit leaves it, and a second measurement would find its address in use.
        (folder / "peer.sock").unlink(missing_ok=True)


@contextmanager
def driver(name: str, device: str, folder: Path) -> Iterator[Server]:
    """Serve a drive through our plugin."""
    endpoint = Endpoint(folder / f"{name.rsplit(maxsplit=1)[-1]}.sock")
    with NbdServer(device, [0], endpoint, threads=THREADS) as server:
        yield Server(name, endpoint.uri(), server.child.pid)


@contextmanager
def command(*arguments: str) -> Iterator[tuple[str, int]]:
    """Keep a usrdrv command running. Yields what it printed when it was ready, and its pid."""
    process = subprocess.Popen(
        [*USRDRV, *arguments], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    )
    assert process.stdout is not None
    try:
        select.select([process.stdout], [], [], 60)
        line = process.stdout.readline().strip()
        if not line:
            raise errors.DeviceError(f"usrdrv {' '.join(arguments)}: did not start")
        yield line, process.pid
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)
        process.stdout.close()


@contextmanager
def model(folder: Path) -> Iterator[tuple[str, int]]:
    """The model in a process of its own. Yields the device's name and the process."""
    with command(
        *("model", "cmd680", "--socket", str(folder / "model.sock"), "--ram", str(SIZE))
    ) as running:
        yield running


@contextmanager
def in_process(folder: Path) -> Iterator[Server]:
    with driver(IN_PROCESS, f"model:cmd680?ram={SIZE}", folder) as server:
        yield server


@contextmanager
def vfio_user(folder: Path) -> Iterator[Server]:
    with model(folder) as (device, _), driver(VFIO_USER, device, folder) as server:
        yield server


def machine() -> dict[str, str]:
    """What the figures were taken on; no names."""
    cpu = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return {
        "cpu": f"{len(cpu)} x {cpu[0]}" if cpu else "unknown",
        "kernel": Path("/proc/sys/kernel/osrelease").read_text().split("-")[0].strip(),
        "python": sys.version.split()[0],
        "nbdkit": _version(["nbdkit", "--version"]),
        "fio": _version(["fio", "--version"]),
    }


def _version(argv: Sequence[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=True)
    return done.stdout.split("\n")[0].removeprefix("nbdkit ").removeprefix("fio-").strip()
