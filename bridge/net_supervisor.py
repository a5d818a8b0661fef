# SPDX-License-Identifier: MIT
"""Keeps a network interface: it is held here, its driver is a process that may die and come again."""

from __future__ import annotations

import select
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final

from usrdrv import errors
from usrdrv.bridge import net_exports
from usrdrv.bridge.driver_process import DriverProcess
from usrdrv.bridge.link import LinkState
from usrdrv.bridge.net_exports import KernelEnd
from usrdrv.bridge.signals import Signals
from usrdrv.bridge.standby import Standby
from usrdrv.closing import Closing
from usrdrv.net.counters import Counters

STATS_TIMEOUT: Final = 5.0

DEATHS: Final = 5
WINDOW: Final = 30.0
"""So many deaths within so many seconds are not chance."""

PAUSES: Final = (0.0, 0.2, 0.5, 1.0, 2.0)
"""Seconds before each try: a killed owner's hold on a device may take a moment to end."""


@dataclass(frozen=True)
class Settings:
    """What the user asked for. groups: multicast addresses, of which only these are received; None: all.

    export: `usrloop` or `tap`. zero_copy: with usrloop, if it and the device can do that.
    """

    device: str
    export: str
    mtu: int = 1500
    offloads: bool = True
    groups: tuple[bytes, ...] | None = None
    zero_copy: bool = True


class Interface(Closing):
    """A network interface until close(). stats() may be called from any thread."""

    def __init__(self, settings: Settings, ifname: str, namespace: str | None) -> None:
        self._settings = settings
        self._mtu = settings.mtu
        self._state: LinkState | None = None
        self._deaths: deque[float] = deque(maxlen=DEATHS)
        self.restarts = 0
        self.speed = 0
        self._counters = Counters()
        self._standby = Standby("usrdrv.bridge.net_driver")
        self._stats_wanted = threading.Lock()
        self._stats_came = threading.Event()
        self.end: KernelEnd | None = None
        try:
            self.driver = self._start()
        except BaseException:
            self._counters.close()
            raise
        try:
            self.end = net_exports.make(
                settings.export,
                ifname,
                device=settings.device,
                mac=self.mac,
                mtu=settings.mtu,
                namespace=namespace,
                offloads=settings.offloads,
                zero_copy=self.driver.ready["zero_copy"],
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

    def _start(self, hurried: Callable[[], bool] = lambda: False) -> DriverProcess:
        return DriverProcess(
            self._standby,
            hurried,
            fds=(self._counters.fd,),
            device=self._settings.device,
            mtu=self._mtu,
            offloads=self._settings.offloads,
            zero_copy=self._settings.zero_copy and self._settings.export == "usrloop",
        )

    def _begin(self, end: KernelEnd) -> None:
        """Hand the interface to a driver that is ready."""
        end.hand_to(self.driver)
        self.driver.expect("started")
        end.started()
        self._state = None
        self._follow(end)
        self._stats_came.set()  # who asked the one before gets what it counted
        for event in self.driver.events():
            self._take(end, event)

    def _follow(self, end: KernelEnd) -> None:
        """Tell the driver what has changed of the interface."""
        state = end.link.state()
        if state is None:
            raise errors.NoSuchDeviceError(f"{end.name}: somebody deleted the interface")
        before, self._state = self._state, state
        if state == before:
            return
        if state.mtu != self._mtu:
            self._mtu = state.mtu
            self.driver.send(op="mtu", mtu=state.mtu)
        groups = self._settings.groups
        self.driver.send(
            op="filter",
            mac=state.mac.hex(),
            promiscuous=state.promiscuous,
            all_multicast=state.all_multicast or groups is None,
            groups=[group.hex() for group in groups or ()],
        )

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
            ready = {fd for fd, _ in poll.poll()}
            if self.end.link.fd in ready:
                self._follow(self.end)
            if self.driver.fd in ready and not self._listen(self.end):
                self._bring_back(self.end, signals)

    def _listen(self, end: KernelEnd) -> bool:
        """Take the driver's news. False: it has none, because it is dead."""
        events = self.driver.events()
        for event in events:
            self._take(end, event)
        return bool(events) or not self.driver.child.wait(0.1)

    def _take(self, end: KernelEnd, event: dict[str, Any]) -> None:
        match event["event"]:
            case "link":
                self.speed = event["speed"]
                end.set_link(self.speed, event["full"])
            case "stats":
                self._stats_came.set()
            case "failure" | "error":
                raise errors.DeviceError(event["why"])

    def _bring_back(self, end: KernelEnd, signals: Signals) -> None:
        """The driver died: the interface loses its carrier, nothing else, until there is another one."""
        died, how = time.monotonic(), self.driver.child.status()
        end.set_link(0)
        self.speed = 0
        self.driver.close()
        child, device = self.driver.child, self._settings.device
        self._deaths.append(died)
        if len(self._deaths) == DEATHS and died - self._deaths[0] < WINDOW:
            raise errors.DeviceError(
                f"the driver {how}: {DEATHS} deaths within {WINDOW:.0f} s; given up"
            )
        last = ""
        for pause in PAUSES:
            time.sleep(pause)
            if signals.waiting:
                return
            if child.unplugged(device):
                raise errors.NoSuchDeviceError(f"{device}: the driver ended, its device is gone")
            try:
                self.driver = self._start(lambda: signals.waiting)
                self._begin(end)
            except InterruptedError:
                return
            except errors.UsrdrvError as error:
                last = str(error)
                self.driver.close()
                continue
            self.restarts += 1
            took = time.monotonic() - died
            print(
                f"usrdrv: the driver {how}; restarted in {took:.2f} s ({self.restarts})",
                file=sys.stderr,
                flush=True,
            )
            return
        raise errors.DeviceError(f"the driver {how} and does not come back: {last}")

    def stats(self) -> dict[str, Any]:
        """Counters over all drivers that this interface has had, and its state."""
        with self._stats_wanted:
            self._stats_came.clear()
            self.driver.send(op="stats")
            if not self._stats_came.wait(STATS_TIMEOUT):
                raise errors.DeviceError("the driver does not answer")
        return {
            "ifname": self.name,
            "device": self._settings.device,
            "export": self._settings.export,
            "speed": self.speed,
            "mtu": self._mtu,
            "driver_pid": self.driver.child.pid,
            "restarts": self.restarts,
            **self._counters.read(self.driver.ready["counters"]),
        }

    def close(self) -> None:
        """Quiesce the device; the interface is gone. Idempotent."""
        self._standby.close()
        self.driver.close()
        if self.end is not None:
            self.end.close()
        self._counters.close()
