# SPDX-License-Identifier: MIT
"""When a driver that lives is killed: it has requests and completes none."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from usrdrv.base import errors
from usrdrv.block.options import REQUEST_TIME
from usrdrv.bridge.block import watchdog
from usrdrv.bridge.block.watchdog import Watchdog


class Driver:
    """A process, and the account that the kernel keeps of its requests."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.kills = 0
        self.mortal = True
        self.is_at(done=0, waiting=0)

    def is_at(self, done: int, waiting: int) -> None:
        columns = [0] * 17
        columns[4], columns[8], columns[15] = done // 2, waiting, done - done // 2
        self.path.write_text(" ".join(map(str, columns)) + "\n")

    def kill(self) -> None:
        self.kills += 1

    def wait(self, timeout: float) -> bool:
        return self.mortal


@pytest.fixture
def driver(tmp_path: Path) -> Any:
    return Driver(tmp_path / "stat")


@pytest.fixture
def watched(driver: Any) -> Watchdog:
    return Watchdog([driver.path], 10)


def test_idle_is_no_hang(watched: Watchdog, driver: Any) -> None:
    for now in range(0, 1000, 5):
        watched.look(now, driver)
    driver.is_at(done=0, waiting=1)
    watched.look(1000, driver)
    watched.look(1009, driver)
    assert driver.kills == 0, "the time before the request does not count"


def test_slow_is_no_hang(watched: Watchdog, driver: Any) -> None:
    for now in range(0, 1000, 9):
        driver.is_at(done=now // 9, waiting=64)
        watched.look(now, driver)
    assert driver.kills == 0


def test_a_hang_is_killed_in_time_and_said(
    watched: Watchdog, driver: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    driver.is_at(done=7, waiting=1)
    for now in range(11):
        assert driver.kills == 0
        watched.look(now, driver)
    assert driver.kills == 1
    said = capsys.readouterr().err
    assert said == "usrdrv: the driver completed no request for 10 s: killing it\n"


def test_the_next_driver_has_its_time_from_when_it_has_the_requests(
    watched: Watchdog, driver: Any
) -> None:
    driver.is_at(done=7, waiting=1)
    watched.look(0, driver)
    watched.look(10, driver)
    watched.start_again(at=22)
    watched.look(21, driver)
    watched.look(31, driver)
    assert driver.kills == 1
    watched.look(32, driver)
    assert driver.kills == 2


def hang(watched: Watchdog, driver: Any, begin: float) -> None:
    watched.start_again(begin)
    watched.look(begin + 10, driver)


def test_drivers_that_all_hang_are_given_up(watched: Watchdog, driver: Any) -> None:
    driver.is_at(done=7, waiting=1)
    watched.look(0, driver)
    for number in range(watchdog.HANGS - 1):
        hang(watched, driver, 20 * number)
    with pytest.raises(errors.DeviceError, match="like the 4 before it; giving up"):
        hang(watched, driver, 1000)
    assert driver.kills == watchdog.HANGS - 1


def test_those_that_did_something_are_not(watched: Watchdog, driver: Any) -> None:
    for number in range(9):
        driver.is_at(done=number, waiting=1)
        watched.look(20 * number, driver)
        hang(watched, driver, 20 * number)
    assert driver.kills == 9


def test_one_that_cannot_be_killed(watched: Watchdog, driver: Any) -> None:
    driver.is_at(done=7, waiting=1)
    driver.mortal = False
    watched.look(0, driver)
    with pytest.raises(errors.DeviceError, match="cannot be killed"):
        watched.look(10, driver)


def test_a_device_that_goes_is_not_ours_to_judge(watched: Watchdog, driver: Any) -> None:
    driver.is_at(done=7, waiting=1)
    watched.look(0, driver)
    driver.path.unlink()
    watched.look(100, driver)
    assert driver.kills == 0


def test_looks_are_rare_and_none_if_nothing_is_watched(tmp_path: Path) -> None:
    path = tmp_path / "stat"
    assert Watchdog([path], 0).period is None
    assert Watchdog([], 180).period is None
    assert Watchdog([path], 180).period == 5
    assert Watchdog([path], 1).period == 0.5


def test_one_request_alone_is_overdue_later_than_all() -> None:
    """So a driver that completes nothing is seen as that."""
    assert watchdog.overdue(0) == 0
    for patience in (1, 3, 90, 3600):
        latest = patience + watchdog.period(patience)
        assert latest < watchdog.overdue(patience) <= patience + 10


def test_the_kernel_warns_of_no_hung_task_before_a_driver_is_killed() -> None:
    """It does so after 120 s without a switch (kernel.hung_task_timeout_secs)."""
    assert watchdog.overdue(REQUEST_TIME) + 10 < 120
