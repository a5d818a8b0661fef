# SPDX-License-Identifier: MIT
"""When a driver that died is started again, and when that is given up."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from usrdrv.base import errors
from usrdrv.bridge.block import restart
from usrdrv.bridge.block.restart import Restarter
from usrdrv.bridge.worker import backoff, presence
from usrdrv.bridge.worker.process import START_TIMEOUT


class Clock:
    """Time that goes on only while somebody waits."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def passes(self, seconds: float) -> None:
        self.now += seconds

    sleep = passes


class Child:
    how = "was killed by SIGKILL"
    name = "nbdkit"
    returncode = -signal.SIGKILL

    def status(self) -> str:
        return self.how


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
    held = 0
    reconnected = 0
    disks: Sequence[Any] = ()

    def __init__(self) -> None:
        self.resumable: Any = self

    def hold(self) -> None:
        self.held += 1

    def reconnect(self) -> None:
        self.reconnected += 1


class Signals:
    waiting = False
    fd = 0


def restarter(server: Server, attachment: Attachment | None = None, patience: int = 60) -> Any:
    made: tuple[Any, Any, Any] = (server, attachment or Attachment(), Signals())
    return Restarter(*made, patience)


@pytest.fixture(autouse=True)
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    for module in (restart, backoff, presence):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(backoff, "_sleep", lambda signals, seconds: clock.passes(seconds))
    return clock


@pytest.fixture(autouse=True)
def there(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[bool]]:
    """What the bus says, from the last to the first; at last that the device is there."""
    said: list[bool] = []
    monkeypatch.setattr(presence, "there", lambda device: said.pop() if said else True)
    yield said


def test_back_and_reconnected(capsys: pytest.CaptureFixture[str]) -> None:
    server, attachment = Server(), Attachment()
    restarter(server, attachment).bring_back()
    assert (attachment.held, server.starts, attachment.reconnected) == (1, 1, 1)
    assert "the driver was killed by SIGKILL; restarted in " in capsys.readouterr().err


def test_a_device_that_is_busy_for_a_moment_is_tried_again() -> None:
    server = Server(errors.DeviceBusyError("busy"))
    restarter(server).bring_back()
    assert server.starts == 2


def test_one_that_does_not_come_back_says_why(clock: Clock) -> None:
    """It is tried for as long as requests wait, and no longer."""
    server = Server(*[errors.DeviceError("no such luck")] * 99)
    begun = clock.now
    with pytest.raises(
        errors.DeviceError, match="SIGKILL and does not come back within 60 s: no such luck"
    ):
        restarter(server).bring_back()
    assert clock.now - begun == 60
    assert server.starts > 15


def test_a_try_that_had_no_time_left_is_not_why(
    monkeypatch: pytest.MonkeyPatch, clock: Clock
) -> None:
    server = Server()

    def start(hurried: Any, timeout: float) -> None:
        server.starts += 1
        if server.starts == 1:
            raise errors.DeviceError("no such luck")
        clock.passes(timeout)
        raise errors.DeviceError(f"does not answer within {timeout:.0f} s")

    monkeypatch.setattr(server, "start", start)
    with pytest.raises(errors.DeviceError, match="does not come back within 1 s: no such luck"):
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


class Account:
    """A device's `stat` in sysfs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.completed = 0
        self.complete(0)

    def complete(self, requests: int) -> None:
        self.completed += requests
        self.path.write_text(f"{self.completed} 0 0 0 0 0 0 0 1 0 0\n")


@pytest.fixture
def account(tmp_path: Path) -> Account:
    return Account(tmp_path / "stat")


def on(account: Account) -> Attachment:
    attachment = Attachment()
    attachment.disks = [SimpleNamespace(statistics=account.path)]
    return attachment


def test_deaths_after_work_are_never_too_many(account: Account, clock: Clock) -> None:
    server = Server()
    brought = restarter(server, on(account))
    for _ in range(99):
        account.complete(1)
        begun = clock.now
        brought.bring_back()
        assert clock.now == begun, "at once"
        clock.passes(0.1)
    assert server.starts == 99


def test_deaths_without_work_end_when_requests_have_waited_long_enough(
    account: Account, clock: Clock
) -> None:
    server = Server()
    brought = restarter(server, on(account))
    account.complete(1)
    clock.passes(30)
    begun = clock.now
    with pytest.raises(
        errors.DeviceError, match="; no driver has done anything for 60 s; given up$"
    ):
        while True:
            brought.bring_back()
            clock.passes(1)
    assert 60 <= clock.now - begun <= 61
    assert server.starts > 10


def test_work_in_between_begins_anew(account: Account, clock: Clock) -> None:
    brought = restarter(Server(), on(account))
    for _ in range(9):
        begun = clock.now
        while clock.now < begun + 50:
            brought.bring_back()
            clock.passes(1)
        account.complete(1)


def test_one_that_nobody_asks_for_anything_may_die_now_and_then(
    account: Account, clock: Clock
) -> None:
    brought = restarter(Server(), on(account))
    for _ in range(9):
        clock.passes(60)
        brought.bring_back()


def test_an_idle_disk_is_not_given_up(account: Account, clock: Clock) -> None:
    """Nobody waits for its drivers, which live for a while each."""
    account.path.write_text("0 0 0 0 0 0 0 0 0 0 0\n")
    brought = restarter(Server(), on(account))
    for _ in range(40):
        clock.passes(5)
        brought.bring_back()


def test_a_device_that_is_gone_is_gone(there: list[bool]) -> None:
    there.append(False)
    server = Server()
    server.gone = True
    with pytest.raises(errors.NoSuchDeviceError, match="its device is gone"):
        restarter(server).bring_back()
    assert server.starts == 0


def test_a_driver_that_is_wrong_about_that_died_like_any_other() -> None:
    server = Server()
    server.gone = True
    restarter(server).bring_back()
    assert server.starts == 1


def test_one_that_does_not_come_back_to_a_device_that_goes_meanwhile(there: list[bool]) -> None:
    server = Server(*[errors.DeviceError("no such luck")] * 9)
    server.gone = True
    there += [False, *[True] * 105]
    with pytest.raises(errors.NoSuchDeviceError, match="its device is gone"):
        restarter(server).bring_back()
    assert 0 < server.starts < 9


def test_one_that_died_of_its_registers_may_have_lost_its_device(there: list[bool]) -> None:
    """It dies before the function has left sysfs."""
    there += [False, True, True]
    server = Server()
    server.child.returncode = -signal.SIGBUS
    with pytest.raises(errors.NoSuchDeviceError, match="/s: the driver ended, its device is gone"):
        restarter(server).bring_back()
    assert server.starts == 0


def test_another_death_is_no_reason_to_ask(there: list[bool]) -> None:
    there.append(False)
    restarter(Server()).bring_back()
    assert there == [False]


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
    attachment.resumable = None
    for made in (restarter(Server(), attachment), restarter(Server(), patience=0)):
        with pytest.raises(errors.NoSuchDeviceError, match="SIGKILL"):
            made.bring_back()


def test_it_has_as_long_as_requests_wait() -> None:
    server = Server()
    restarter(server, patience=5).bring_back()
    assert server.timeout == 5
    restarter(server, patience=3600).bring_back()
    assert server.timeout == START_TIMEOUT


def test_a_signal_ends_the_trying() -> None:
    signals = Signals()
    signals.waiting = True
    made: tuple[Any, Any, Any] = (Server(), Attachment(), signals)
    with pytest.raises(InterruptedError):
        Restarter(*made, 60).bring_back()


def test_a_signal_ends_the_wait_for_the_next_try(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    signals: Any = Signals()
    signals.fd, wakeup = os.pipe()
    try:
        os.write(wakeup, b"!")
        signals.waiting = True
        with pytest.raises(InterruptedError):
            backoff._sleep(signals, 3600)
    finally:
        os.close(signals.fd)
        os.close(wakeup)
