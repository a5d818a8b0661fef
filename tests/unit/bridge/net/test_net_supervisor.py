# SPDX-License-Identifier: MIT
"""What a driver says and does, and what becomes of its interface: driver and kernel are played."""

from __future__ import annotations

import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field, replace
from typing import Any, ClassVar

import pytest

from usrdrv.base import errors
from usrdrv.bridge.net import supervisor
from usrdrv.bridge.net.contract import Plan
from usrdrv.bridge.net.link import LinkState
from usrdrv.bridge.net.supervisor import Interface, Settings
from usrdrv.bridge.worker import backoff, presence
from usrdrv.bridge.worker.backoff import Restarts
from usrdrv.bridge.worker.process import START_TIMEOUT
from usrdrv.net import Abilities

STATE = LinkState("usr0", 1500, bytes(6), False, False, 1)
GONE = {"event": "failure", "type": "NoSuchDeviceError", "why": "device is gone"}


class Child:
    pid = 1
    returncode: int | None = None
    killed = False
    dead = False

    def kill(self) -> None:
        self.killed = self.dead = True

    def wait(self, timeout: float) -> bool:
        return self.dead

    def status(self) -> str:
        return "was killed by SIGKILL"


@dataclass
class Driver:
    """A DriverProcess. next: what it says when it is asked."""

    next: deque[list[dict[str, Any]]] = field(default_factory=deque)
    sent: list[dict[str, Any]] = field(default_factory=list)
    child: Child = field(default_factory=Child)
    fd: int = -1

    ready: ClassVar = {
        "mac": "020000000001",
        "counters": ["tx_frames", "rx_frames", "link_changes"],
        "abilities": asdict(Abilities(9000)),
        "zero_copy": None,
    }

    def send(self, *fds: int, **request: Any) -> None:
        self.sent.append(request)

    def expect(self, wanted: str) -> None:
        return None

    def events(self) -> list[dict[str, Any]]:
        return self.next.popleft() if self.next else []

    def kill(self) -> None:
        self.child.kill()

    def close(self) -> None:
        return None


@dataclass
class End:
    """The kernel's side, its own link."""

    name: str = "usr0"
    now: LinkState = STATE
    speed: int = -1
    closed: bool = False

    @property
    def link(self) -> End:
        return self

    def state(self) -> LinkState:
        return self.now

    def look(self) -> None:
        return None

    def change(self, mtu: int) -> None:
        self.now = replace(self.now, mtu=mtu)

    def hand_to(self, driver: Driver) -> None:
        return None

    def started(self) -> None:
        return None

    def set_link(self, speed: int, full: bool = True) -> None:
        self.speed = speed

    def close(self) -> None:
        self.closed = True


@dataclass
class Exported:
    """How the interface gets to the kernel."""

    end: End
    name: str = "tap"
    zero_copy: bool = False

    def make(self, plan: Plan) -> End:
        return self.end


class Signals:
    waiting = False

    def __init__(self) -> None:
        self.fd, self._write = os.pipe()


class Stage:
    """An interface whose drivers come from `starts`: a driver, or why there is none; then new ones."""

    there = True

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.starts: deque[Driver | Exception] = deque()
        self.started = 0
        self.end = End()
        monkeypatch.setattr(supervisor, "DriverProcess", self._start)
        monkeypatch.setattr(backoff, "_sleep", lambda signals, seconds: None)
        monkeypatch.setattr(presence, "there", lambda device: self.there)
        export: Any = Exported(self.end)
        self.interface = Interface(Settings("vfio-user:/s", export), "usr0", None)
        self.signals: Any = Signals()

    @property
    def driver(self) -> Any:
        return self.interface.driver

    def _start(self, *args: Any, **words: Any) -> Driver:
        self.started += 1
        self.timeout: float = args[2]
        self.mtu = words["options"]["mtu"]
        start = self.starts.popleft() if self.starts else Driver()
        if isinstance(start, Exception):
            raise start
        return start

    def says(self, *events: dict[str, Any]) -> None:
        """Let the driver say that; replace it if it must be."""
        self.driver.next.append(list(events))
        how = self.interface._listen(self.end)  # type: ignore[arg-type]
        if how is not None:
            self.interface._bring_back(self.end, self.signals, how)  # type: ignore[arg-type]

    def dies(self) -> None:
        self.driver.child.dead = True
        self.says()

    def changes(self, **settings: Any) -> None:
        self.end.now = replace(self.end.now, **settings)
        self.interface._follow(self.end)  # type: ignore[arg-type]


@pytest.fixture
def stage(monkeypatch: pytest.MonkeyPatch) -> Iterator[Stage]:
    stage = Stage(monkeypatch)
    yield stage
    stage.interface.close()


@pytest.mark.parametrize(
    "event",
    [
        GONE,
        {"event": "error", "type": "UsageError", "why": "MTU 9216 is not between 68 and 9000"},
        {"event": "failure", "why": "no type"},
        {"event": "error", "type": "annotations", "why": "of errors.py, and no error"},
        {"event": "link"},
        {"event": "link", "speed": "fast", "full": True},
        {"event": "mtu", "mtu": None},
    ],
)
def test_nothing_that_it_says_ends_the_interface(
    stage: Stage, event: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    first = stage.driver
    stage.says({"event": "link", "speed": 1000, "full": True})
    stage.says(event)
    assert first.child.killed and stage.driver is not first and stage.started == 2
    assert not stage.end.closed and stage.end.speed == 0
    said = capsys.readouterr().err
    assert said.startswith("usrdrv: the driver failed: ") and said.count("\n") == 1


def test_one_that_only_died_may_find_its_device_later(stage: Stage) -> None:
    """A server of vfio-user that is started again, perhaps."""
    stage.starts.extend([errors.NoSuchDeviceError("nobody serves this socket")] * 3)
    stage.dies()
    assert stage.started == 5 and stage.interface._restarts.count == 1


@pytest.mark.parametrize("events", [[GONE], []], ids=["said", "died of its registers"])
def test_a_device_that_its_bus_does_not_know_is_gone(
    stage: Stage, events: list[dict[str, Any]]
) -> None:
    stage.there = False
    stage.driver.child.dead = not events
    stage.driver.child.returncode = None if events else -signal.SIGBUS
    with pytest.raises(errors.NoSuchDeviceError, match="the driver ended, its device is gone"):
        stage.says(*events)
    assert stage.started == 1


def test_another_death_is_no_reason_to_ask_the_bus(stage: Stage) -> None:
    """As for a disk."""
    stage.there = False
    stage.dies()
    assert stage.interface._restarts.count == 1


def test_the_next_driver_has_what_is_left_of_the_time(stage: Stage) -> None:
    stage.dies()
    assert 0 < stage.timeout <= 60
    stage.interface._restarts = Restarts("vfio-user:/s", 3600)
    stage.dies()
    assert stage.timeout == START_TIMEOUT


def test_an_mtu_is_in_force_when_the_driver_says_so(stage: Stage) -> None:
    stage.changes(mtu=4000)
    assert stage.driver.sent[-2] == {"op": "mtu", "mtu": 4000}
    assert stage.interface._mtu == 1500
    stage.says({"event": "mtu", "asked": 4000, "mtu": 4000, "why": None})
    assert stage.interface._mtu == 4000


def refuse(stage: Stage) -> None:
    stage.says({"event": "mtu", "asked": 9000, "mtu": 1500, "why": "no memory"})


@pytest.mark.parametrize(
    ("mtu", "after", "why"),
    [
        (9216, lambda stage: None, "the device does at most 9000"),
        (9000, refuse, "no memory"),
        (9000, Stage.dies, "the driver was killed by SIGKILL"),
    ],
)
def test_an_mtu_that_is_not_possible_is_undone(
    stage: Stage,
    mtu: int,
    after: Callable[[Stage], None],
    why: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Also one that kills its driver: the next one would die of it again."""
    stage.changes(mtu=mtu)
    after(stage)
    assert stage.end.now.mtu == stage.interface._mtu == stage.mtu == 1500
    line = f"usrdrv: usr0: MTU {mtu} is not possible ({why}); it stays 1500\n"
    assert line in capsys.readouterr().err


def test_a_refusal_of_what_is_not_wanted_any_more_undoes_nothing(stage: Stage) -> None:
    stage.changes(mtu=9000)
    stage.changes(mtu=2000)
    refuse(stage)
    stage.says({"event": "mtu", "asked": 2000, "mtu": 2000, "why": None})
    assert stage.end.now.mtu == stage.interface._mtu == 2000
