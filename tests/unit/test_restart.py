# SPDX-License-Identifier: MIT
"""When a driver that died is started again, and when that is given up."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest

from usrdrv import errors, pci
from usrdrv.bridge import process, restart
from usrdrv.bridge.restart import Restarter
from usrdrv.bridge.supervisor import START_TIMEOUT


class Child:
    how = "was killed by SIGKILL"
    name = "nbdkit"
    present = 0
    """How often the function is still there, for one that died of its registers; 0: another death."""

    def status(self) -> str:
        return self.how

    def unplugged(self, device: str) -> bool:
        self.present -= 1
        return self.present == 0


class Server:
    """An NbdServer whose starts end as the list says, from the last to the first."""

    def __init__(self, *outcomes: BaseException | None, device: str = "vfio-user:/s") -> None:
        self.device = device
        self.child = Child()
        self.outcomes = list(outcomes)
        self.starts = 0
        self.prepared = 0
        self.gone = False

    def prepare(self) -> None:
        self.prepared += 1

    def device_gone(self) -> bool:
        return self.gone

    def start(self, hurried: Any, timeout: float) -> None:
        self.starts += 1
        self.timeout = timeout
        if hurried():
            raise InterruptedError
        outcome = self.outcomes.pop() if self.outcomes else None
        if outcome is not None:
            raise outcome


class Attachment:
    restartable = True
    reconnected = 0

    def reconnect(self) -> None:
        self.reconnected += 1


class Signals:
    waiting = False


def restarter(server: Server, attachment: Attachment | None = None, patience: int = 60) -> Any:
    made: Any = (server, attachment or Attachment(), Signals())
    return Restarter(*made, patience)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "PAUSES", (0.0, 0.0, 0.0))


def test_back_and_reconnected(capsys: pytest.CaptureFixture[str]) -> None:
    server, attachment = Server(), Attachment()
    restarter(server, attachment).bring_back()
    assert (server.starts, attachment.reconnected) == (1, 1)
    assert "the driver was killed by SIGKILL; restarted in " in capsys.readouterr().err


def test_a_device_that_is_busy_for_a_moment_is_tried_again() -> None:
    server = Server(errors.DeviceBusyError("busy"))
    restarter(server).bring_back()
    assert server.starts == 2


def test_one_that_does_not_come_back_says_why() -> None:
    server = Server(*[errors.DeviceError("no such luck")] * 9)
    with pytest.raises(errors.DeviceError, match="SIGKILL and does not come back: no such luck"):
        restarter(server).bring_back()
    assert server.starts == 3


def test_a_try_that_had_no_time_left_is_not_why(monkeypatch: pytest.MonkeyPatch) -> None:
    server = Server()

    def start(hurried: Any, timeout: float) -> None:
        server.starts += 1
        if server.starts == 1:
            raise errors.DeviceError("no such luck")
        time.sleep(timeout)
        raise errors.DeviceError(f"does not answer within {timeout:.0f} s")

    monkeypatch.setattr(server, "start", start)
    with pytest.raises(errors.DeviceError, match="does not come back: no such luck"):
        restarter(server, patience=1).bring_back()
    assert server.starts == 2


def test_a_process_waits_only_where_it_may_be_wanted() -> None:
    for patience, device, prepared in (
        (60, "vfio-user:/s", 1),
        (0, "vfio-user:/s", 0),
        (60, "model:cmd680?ram=64M", 0),
    ):
        server = Server(device=device)
        restarter(server, patience=patience).prepare()
        assert server.prepared == prepared


def test_many_deaths_in_a_short_time_are_enough() -> None:
    server = Server()
    brought = restarter(server)
    for _ in range(restart.DEATHS - 1):
        brought.bring_back()
    with pytest.raises(errors.DeviceError, match="5 deaths within 30 s"):
        brought.bring_back()
    assert server.starts == restart.DEATHS - 1


def test_many_deaths_in_a_long_time_are_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(restart, "WINDOW", 0.0)
    server = Server()
    brought = restarter(server)
    for _ in range(3 * restart.DEATHS):
        brought.bring_back()


def test_a_device_that_is_gone_is_gone() -> None:
    server = Server()
    server.gone = True
    with pytest.raises(errors.NoSuchDeviceError, match="its device is gone"):
        restarter(server).bring_back()
    assert server.starts == 0


@pytest.mark.parametrize("looks", [1, 2, 3])
def test_one_that_was_unplugged_is_gone_as_soon_as_the_kernel_says_so(looks: int) -> None:
    """It dies of its registers before the function has left sysfs; the next one finds none, or is not started."""
    server = Server(*[errors.NoSuchDeviceError("no such PCI device")] * 9)
    server.child.present = looks
    with pytest.raises(errors.NoSuchDeviceError, match="/s: the driver ended, its device is gone"):
        restarter(server).bring_back()
    assert server.starts == max(looks - 2, 0)


def test_only_a_death_by_its_registers_is_taken_for_that(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pci, "BUS", tmp_path)
    there, gone = "0000:03:00.0", "0000:04:00.0"
    (tmp_path / "devices" / there).mkdir(parents=True)
    for number, device, unplugged in (
        ("BUS", gone, True),
        ("BUS", there, False),
        ("BUS", "04:00.0", True),
        ("BUS", "vfio-user:/s", False),
        ("KILL", gone, False),
    ):
        child = process.Child("sh", ["/bin/sh", "-c", f"kill -{number} $$"])
        assert child.wait(10)
        assert child.unplugged(device) == unplugged, (number, device)


def test_one_that_was_told_to_end_by_somebody_else_is_started_again(
    capsys: pytest.CaptureFixture[str],
) -> None:
    server = Server()
    server.child.how = "ended with status 0"
    restarter(server).bring_back()
    assert server.starts == 1
    assert "the driver ended with status 0; restarted in " in capsys.readouterr().err


def test_a_drive_in_the_drivers_own_memory_died_with_it() -> None:
    server = Server(device="model:cmd680?ram=64M")
    with pytest.raises(errors.NoSuchDeviceError, match="SIGKILL"):
        restarter(server).bring_back()
    assert server.starts == 0
    assert restart.outlived("model:cmd680?image=disk.img")


def test_not_for_an_export_that_ends_with_its_server_nor_if_declined() -> None:
    attachment = Attachment()
    attachment.restartable = False
    for made in (restarter(Server(), attachment), restarter(Server(), patience=0)):
        with pytest.raises(errors.NoSuchDeviceError, match="SIGKILL"):
            made.bring_back()


def test_it_has_as_long_as_requests_wait() -> None:
    server = Server()
    restarter(server, patience=5).bring_back()
    assert 4.5 < server.timeout <= 5
    restarter(server, patience=3600).bring_back()
    assert server.timeout == START_TIMEOUT


def test_a_signal_ends_the_trying() -> None:
    signals = Signals()
    signals.waiting = True
    made: Any = (Server(), Attachment(), signals)
    with pytest.raises(InterruptedError):
        Restarter(*made, 60).bring_back()
