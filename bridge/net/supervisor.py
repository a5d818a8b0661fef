# SPDX-License-Identifier: MIT
"""Keeps a network interface: it is held here, its driver is a process that may die and come again.

See docs/design/interface.md.
"""

from __future__ import annotations

import select
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.base.counters import Counters
from usrdrv.base.signals import Signals
from usrdrv.bridge.net import netns
from usrdrv.bridge.net.contract import Export, KernelEnd, Plan
from usrdrv.bridge.net.link import LinkGoneError, LinkState
from usrdrv.bridge.say import say
from usrdrv.bridge.worker.backoff import LONGEST, Death, Restarts
from usrdrv.bridge.worker.process import START_TIMEOUT, DriverProcess, failure
from usrdrv.bridge.worker.standby import Standby
from usrdrv.net import Abilities
from usrdrv.net.options import DEFAULTS, Options

STATS_TIMEOUT: Final = 5.0


@dataclass(frozen=True)
class Settings:
    """What the user asked for. groups: multicast addresses, of which only these are received; None: all."""

    device: str
    export: Export
    options: Options = DEFAULTS
    groups: tuple[bytes, ...] | None = None


class Interface(Closing):
    """A network interface until close(). stats() and who() may be called from any thread."""

    def __init__(self, settings: Settings, ifname: str, namespace: str | None) -> None:
        self._settings = settings
        self._namespace = namespace
        self._mtu = self._asked_mtu = settings.options.mtu
        self._state: LinkState | None = None
        self._restarts = Restarts(settings.device, settings.options.restart_time)
        self._moved = 0
        self._since = 0.0
        self.speed = 0
        self._counters = Counters()
        self._standby = Standby("usrdrv.bridge.net.driver")
        self._stats_wanted = threading.Lock()
        self._stats_came = threading.Event()
        self.end: KernelEnd | None = None
        try:
            self.driver = self._start()
        except BaseException:
            self._counters.close()
            raise
        try:
            self.end = settings.export.make(
                Plan(
                    ifname,
                    settings.device,
                    mac=self.mac,
                    mtu=settings.options.mtu,
                    abilities=Abilities(**self.driver.ready["abilities"]),
                    namespace=namespace,
                    zero_copy=self.driver.ready["zero_copy"],
                )
            )
            self._begin(self.end)
        except BaseException:
            self.close()
            raise

    @property
    def name(self) -> str:
        """As the kernel called it at first."""
        assert self.end is not None
        return self.end.name

    @property
    def mac(self) -> bytes:
        """The chip's address."""
        return bytes.fromhex(self.driver.ready["mac"])

    def _start(
        self, hurried: Callable[[], bool] = lambda: False, timeout: float = START_TIMEOUT
    ) -> DriverProcess:
        asked, can = self._settings.options, self._settings.export.zero_copy
        options = replace(asked, mtu=self._mtu, zero_copy=asked.zero_copy and can)
        return DriverProcess(
            self._standby,
            hurried,
            timeout,
            fds=(self._counters.fd,),
            device=self._settings.device,
            options=asdict(options),
        )

    def _begin(self, end: KernelEnd) -> None:
        """Hand the interface to a driver that is ready."""
        end.hand_to(self.driver)
        self.driver.expect("started")
        end.started()
        self._moved, self._since = self._frames(), time.monotonic()
        self._follow(end, anew=True)
        self._stats_came.set()  # who asked the one before gets what it counted
        for event in self.driver.events():
            self._take(end, event)

    def _frames(self) -> int:
        """How many went either way, over all drivers."""
        counted = self._counters.read(self.driver.ready["counters"])
        return sum(value for name, value in counted.items() if name.endswith("_frames"))

    def _follow(self, end: KernelEnd, anew: bool = False) -> None:
        """Tell the driver what has changed of the interface; anew: all of it."""
        try:
            state = end.link.state()
        except LinkGoneError:
            raise self._deleted(end) from None
        before, self._state = self._state, state
        if state == before and not anew:
            return
        if before is not None and state.netns != before.netns:
            say(f"{state.name} was moved to network namespace {netns.describe(state.netns)}")
        if state.mtu != self._asked_mtu:
            self._change_mtu(end, state.mtu)
        groups = self._settings.groups
        self.driver.send(
            op="filter",
            mac=state.mac.hex(),
            promiscuous=state.promiscuous,
            all_multicast=state.all_multicast or groups is None,
            groups=[group.hex() for group in groups or ()],
        )

    def _deleted(self, end: KernelEnd) -> LinkGoneError:
        return LinkGoneError(
            f"{self._name_now(end)}: somebody deleted the interface or its namespace"
        )

    def _name_now(self, end: KernelEnd) -> str:
        return self._state.name if self._state is not None else end.name

    def _change_mtu(self, end: KernelEnd, mtu: int) -> None:
        """Have the driver do what the kernel accepted; it answers."""
        most = int(self.driver.ready["abilities"]["max_mtu"])
        if mtu > most:  # a TAP takes any
            self._undo_mtu(end, mtu, f"the device does at most {most}")
            return
        self._asked_mtu = mtu
        self.driver.send(op="mtu", mtu=mtu)

    def _undo_mtu(self, end: KernelEnd, mtu: int, why: str) -> None:
        """Have the kernel think again."""
        self._asked_mtu = self._mtu
        say(f"{self._name_now(end)}: MTU {mtu} is not possible ({why}); it stays {self._mtu}")
        try:
            end.link.change(mtu=self._mtu)
        except LinkGoneError:
            return  # that is seen when it is looked at
        except errors.UsrdrvError as error:
            say(str(error))

    def serve(self, signals: Signals) -> None:
        """Keep it until a signal; UsrdrvError when there is no way on."""
        assert self.end is not None
        while not signals.waiting:
            self._standby.prepare()
            standby = self._standby.child
            poll = select.poll()
            for fd in (
                *(signals.fd, self.driver.fd, self.end.link.fd),
                *([standby.pidfd] if standby else []),
            ):
                poll.register(fd, select.POLLIN)
            wait = self.end.link.wait()
            ready = {fd for fd, _ in poll.poll(None if wait is None else wait * 1000 + 1)}
            if self.end.link.fd in ready or self.end.link.wait() == 0:
                self._follow(self.end)
            if self.driver.fd in ready:
                how = self._listen(self.end)
                if how is not None:
                    self._bring_back(self.end, signals, how)

    def _listen(self, end: KernelEnd) -> errors.UsrdrvError | None:
        """Take the driver's news. Return how it ended, if it did."""
        events = self.driver.events()
        try:
            for event in events:
                self._take(end, event)
        except errors.UsrdrvError as why:
            self.driver.kill()
            return type(why)(f"failed: {why}")
        if events or not self.driver.child.wait(0.1):
            return None
        return errors.DeviceError(self.driver.child.status())

    def _take(self, end: KernelEnd, event: dict[str, Any]) -> None:
        """Take one event. UsrdrvError: the driver cannot go on, and why; the interface goes on all the same."""
        try:
            match event["event"]:
                case "link":
                    self.speed = int(event["speed"])
                    end.set_link(self.speed, bool(event["full"]))
                case "stats":
                    self._stats_came.set()
                case "mtu":
                    self._mtu = int(event["mtu"])
                    if event["why"] is not None and event["asked"] == self._asked_mtu:
                        self._undo_mtu(end, self._asked_mtu, str(event["why"]))
                case "failure" | "error":
                    raise failure(event)
        except (KeyError, TypeError, ValueError):
            raise errors.DeviceError(f"invalid message {event}") from None

    def _bring_back(self, end: KernelEnd, signals: Signals, how: errors.UsrdrvError) -> None:
        """The driver ended: the interface loses its carrier, nothing else, until there is another one."""
        died = time.monotonic()
        worked = self._frames() > self._moved or died - self._since >= LONGEST
        end.set_link(0)
        self.speed = 0
        self.driver.close()
        self._check_link(end)
        if self._asked_mtu != self._mtu:
            self._undo_mtu(end, self._asked_mtu, f"the driver {how}")
        told = isinstance(how, errors.NoSuchDeviceError)
        death = Death(str(how), died, self.driver.child.returncode, lambda: told, worked)

        def start(hurried: Callable[[], bool], timeout: float) -> None:
            self.driver = self._start(hurried, timeout)
            try:
                self._begin(end)
            except errors.UsrdrvError:
                self.driver.kill()
                raise

        with suppress(InterruptedError):
            self._restarts.bring_back(death, signals, start, final=(LinkGoneError,))

    def _check_link(self, end: KernelEnd) -> None:
        try:
            end.link.look()
        except LinkGoneError:
            raise self._deleted(end) from None

    def stats(self) -> dict[str, Any]:
        """Counters over all drivers that this interface has had, and its state."""
        with self._stats_wanted:
            self._stats_came.clear()
            self.driver.send(op="stats")
            if not self._stats_came.wait(STATS_TIMEOUT):
                raise errors.DeviceError("the driver does not answer")
        return {
            "ifname": self._state.name if self._state is not None else self.name,
            "device": self._settings.device,
            "export": self._settings.export.name,
            "speed": self.speed,
            "mtu": self._mtu,
            "driver_pid": self.driver.child.pid,
            "restarts": self._restarts.count,
            **self._counters.read(self.driver.ready["counters"]),
        }

    def who(self) -> dict[str, Any]:
        """What it is called where it is (`netns`: inode), and was where it was made (`home`: name)."""
        assert self._state is not None
        return {
            "ifname": self._state.name,
            "netns": self._state.netns,
            "first": self.name,
            "home": self._namespace,
        }

    def close(self) -> None:
        """Quiesce the device; the interface is gone. Idempotent."""
        self._standby.close()
        self.driver.close()
        if self.end is not None:
            self.end.close()
        self._counters.close()
