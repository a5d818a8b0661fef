# SPDX-License-Identifier: MIT
"""What `usrdrv block` sleeps on."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from typing import Any

import pytest

from tests.waiting import PATIENCE
from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.base.signals import Received
from usrdrv.bridge.block import detach, supervisor
from usrdrv.bridge.block.watchdog import Watchdog

DEAF = "trap '' TERM; echo ready >&2; while :; do sleep 1000; done"


class Attachment:
    """A kernel that has something to say of the server."""

    def __init__(self) -> None:
        self.news, self._kernel = os.pipe()
        self.lost = False
        self.signals = -1
        self.asked = 0

    def tell(self, lost: bool) -> None:
        self.lost = lost
        os.write(self._kernel, b"!")

    def lost_server(self) -> bool:
        os.read(self.news, 4096)
        self.asked += 1
        if not self.lost:
            os.write(self.signals, b"!")  # or it would sleep for ever
        return self.lost


class Signals:
    def __init__(self) -> None:
        self.fd, self.wakeup = os.pipe()


@pytest.fixture
def driver() -> Iterator[Child]:
    child = Child("driver", ["/bin/sh", "-c", DEAF])
    yield child
    child.kill()
    assert child.wait(PATIENCE)


def wait(attachment: Attachment, *children: Child) -> list[Child]:
    signals: Any = Signals()
    attachment.signals = signals.wakeup
    kernel: Any = attachment
    return supervisor._wait(signals, children, kernel, Watchdog([], 0))


def test_a_driver_that_has_lost_its_disk_is_a_dead_one(
    driver: Child, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The kernel took it away, or saw it die before its process has ended."""
    monkeypatch.setattr(supervisor, "LEAVING", 0.1)
    attachment = Attachment()
    attachment.tell(lost=True)
    assert wait(attachment, driver) == [driver]
    assert driver.wait(PATIENCE) and driver.returncode == -signal.SIGKILL
    said = capsys.readouterr().err
    assert said.startswith("usrdrv: the kernel has taken the disk from the driver, which does not")


def test_one_that_ends_by_itself_is_not_killed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(supervisor, "LEAVING", PATIENCE)
    ended = Child("driver", ["/bin/true"])
    attachment = Attachment()
    attachment.tell(lost=True)
    assert wait(attachment, ended) == [ended]
    assert ended.returncode == 0
    assert not capsys.readouterr().err


def test_other_news_are_no_death(driver: Child) -> None:
    attachment = Attachment()
    attachment.tell(lost=False)
    assert wait(attachment, driver) == []
    assert attachment.asked == 1 and not driver.wait(0)


class Served:
    """A disk with a mounted file system, whose driver has died. A signal comes while the next one is started."""

    where, device, standby, children, news = "/dev/usrblk0", "0000:03:00.0", None, (), None
    disks = ()

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *told: signal.Signals) -> None:
        self.told = list(told)
        self.child = Child("driver", ["/bin/true"])
        self.did: list[str] = []
        self.deaths = [[self.child], []]
        self.starts = [False, True]
        monkeypatch.setattr(supervisor, "_wait", lambda *parts: self.deaths.pop(0))
        monkeypatch.setattr(supervisor, "_bring_back", lambda *parts: self.starts.pop(0))
        monkeypatch.setattr(detach, "claim", lambda attachment: "/mnt")
        monkeypatch.setattr(detach, "sync", lambda *parts: self.did.append("synced"))

    def prepare(self) -> None:
        """No process waits."""

    def take(self) -> list[Received]:
        return [Received(self.told.pop(0), 0.0)]

    def serve(self) -> None:
        parts: Any = self
        with pytest.raises(errors.DeviceBusyError, match="detached while in use"):
            supervisor.serve(parts, parts, parts, parts, parts)


def test_ctrl_c_during_a_restart_detaches_nothing_in_use(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    served = Served(monkeypatch, signal.SIGINT, signal.SIGTERM)
    served.serve()
    said = capsys.readouterr().err.splitlines()
    assert "still serving" in said[0] and "writing its cached data" in said[1]
    assert served.did == ["synced"] and not served.starts


def test_data_are_written_when_told_to_end_during_a_restart(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    served = Served(monkeypatch, signal.SIGTERM)
    served.serve()
    assert served.did == ["synced"] and not served.starts
