# SPDX-License-Identifier: MIT
"""A driver's start that is given up: its process ends at once, and is not asked to."""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.bridge.block import export_usrloop
from usrdrv.bridge.block.export_usrloop import LoopServer
from usrdrv.bridge.block.nbd_server import Endpoint, NbdServer
from usrdrv.bridge.worker.process import DriverProcess
from usrdrv.bridge.worker.standby import Standby

DRIVER = """
import pathlib, signal, socket, sys, time
signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
sock = socket.socket(fileno=int(sys.argv[1]))
sock.recv(1 << 16)
sock.sendall(pathlib.Path(__file__).with_name("says").read_bytes())
while True:
    time.sleep(1000)
"""
"""It hangs once it has said what it says: to be asked does not end it, but SIGTERM does."""


class Recorded(Standby):
    """Knows the processes that were taken."""

    def __init__(self, module: str = "") -> None:
        super().__init__("slow_driver")
        self.taken: list[Child] = []

    def take(self) -> tuple[Child, socket.socket]:
        child, sock = super().take()
        self.taken.append(child)
        return child, sock


@pytest.fixture
def says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Sets what the drivers say from now on."""
    (tmp_path / "slow_driver.py").write_text(DRIVER)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path))

    def say(**event: Any) -> None:
        (tmp_path / "says").write_text(json.dumps(event) + "\n" if event else "")

    say()
    return say


@pytest.fixture
def standby(says: Any) -> Iterator[Recorded]:
    with Recorded() as standby:
        yield standby


def was_killed(child: Child) -> bool:
    return child.returncode == -signal.SIGKILL


def test_by_a_signal(standby: Recorded) -> None:
    with pytest.raises(InterruptedError):
        DriverProcess(standby, lambda: True)
    assert was_killed(standby.taken[0])


def test_when_its_time_is_over(standby: Recorded) -> None:
    with pytest.raises(errors.DeviceError, match="does not answer within 0 s"):
        DriverProcess(standby, timeout=0)
    assert was_killed(standby.taken[0])


def test_by_what_it_says_itself(standby: Recorded, says: Callable[..., None]) -> None:
    says(event="error", type="DeviceBusyError", why="busy")
    with pytest.raises(errors.DeviceBusyError, match="^busy$"):
        DriverProcess(standby)
    assert was_killed(standby.taken[0])


def drive(serial: str) -> dict[str, Any]:
    flags = ("read_only", "can_flush", "can_fua", "can_trim", "rotational")
    numbers = ("size", "physical_block", "max_trim", "queues")
    known: dict[str, Any] = {**dict.fromkeys(flags, False), **dict.fromkeys(numbers, 512)}
    return {"0": {**known, "identity": serial, "zero_copy": None}}


def test_with_another_drive_than_before(
    says: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before it, which lives still, ends at once as well: it is of no use any more."""
    monkeypatch.setattr(export_usrloop, "Standby", Recorded)
    says(event="ready", drives=drive("A"))
    server: Any = LoopServer("0000:03:00.0", [0])
    says(event="ready", drives=drive("B"))
    with pytest.raises(errors.DeviceError, match="this is another drive than before: B"):
        server.start()
    first, second = server._standby.taken
    assert was_killed(first) and was_killed(second)
    server.close()


@pytest.fixture
def nbdkit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> NbdServer:
    """One that never listens."""
    monkeypatch.setenv("USRDRV_RUN_DIR", str(tmp_path))
    hangs = ["/bin/sh", "-c", "trap 'exit 0' TERM; while :; do sleep 1; done"]
    monkeypatch.setattr(NbdServer, "_command", lambda self: hangs)
    return NbdServer("0000:03:00.0", [0], Endpoint(path=tmp_path / "nbd.sock"))


def test_of_nbdkit_by_a_signal(nbdkit: NbdServer) -> None:
    with pytest.raises(InterruptedError):
        nbdkit.start(lambda: True)
    assert was_killed(nbdkit.child)


def test_of_nbdkit_when_its_time_is_over(nbdkit: NbdServer) -> None:
    with pytest.raises(errors.DeviceError, match="not ready after 0 s"):
        nbdkit.start(timeout=0)
    assert was_killed(nbdkit.child)


def test_another_servers_socket_is_left_alone(nbdkit: NbdServer) -> None:
    """It took the path when ours had died: one of another container, with the same pid."""
    path = nbdkit.endpoint.path
    assert path is not None
    with socket.socket(socket.AF_UNIX) as other:

        def listen() -> bool:
            other.bind(str(path))
            other.listen()
            return True

        with pytest.raises(InterruptedError):
            nbdkit.start(listen)
        assert path.is_socket()
    nbdkit.stop()
    assert not path.exists()
