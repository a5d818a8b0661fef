# SPDX-License-Identifier: MIT
"""The control plane of the DP83820 driver: bring-up, link, filters, MTU, recovery.

The data path is C (dp.h). It freezes when the chip fails, and the thread that runs `_watch` here
sets the chip up again.
"""

from __future__ import annotations

import contextlib
import logging
import mmap
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.device import Device
from usrdrv.drivers.dp83820._dp83820 import ffi, lib
from usrdrv.drivers.dp83820.chip import Chip, Link
from usrdrv.net import Abilities
from usrdrv.net import options as shared
from usrdrv.ratelimit import Limited

log: Final = logging.getLogger("usrdrv.dp83820")

MTU_MIN: Final = 68
MTU_MAX: Final = 9000
COUNTERS: Final = [name for name, _ in ffi.typeof("struct usrdrv_net_stats").fields]


@dataclass(frozen=True)
class Options(shared.Options):
    """How to drive the chip."""

    watchdog: float = 2.0
    """Seconds without progress after which the transmitter is reset."""

    def __post_init__(self) -> None:
        check_mtu(self.mtu)


@dataclass(frozen=True)
class ZeroCopy:
    """What the kernel has to know of the chip if packets are not copied. Bytes."""

    max_csum: int


@dataclass(frozen=True)
class Filter:
    """Which frames are received."""

    mac: bytes
    promiscuous: bool = False
    all_multicast: bool = True
    groups: tuple[bytes, ...] = ()


def check_mtu(mtu: int) -> None:
    """Raise UsageError for what the chip cannot do."""
    if not MTU_MIN <= mtu <= MTU_MAX:
        raise errors.UsageError(f"MTU {mtu} is not between {MTU_MIN} and {MTU_MAX}")


def _map(fd: int) -> Any:
    """A `struct usrdrv_net_stats *`: in the memory file, or of our own."""
    if fd < 0:
        return ffi.new("struct usrdrv_net_stats *")
    memory = mmap.mmap(fd, ffi.sizeof("struct usrdrv_net_stats"))
    return ffi.from_buffer("struct usrdrv_net_stats *", memory, require_writable=True)


class Nic(Closing):
    """A DP83820. A context manager; close() quiesces the chip. Methods are thread-safe."""

    def __init__(self, device: Device, options: Options | None = None) -> None:
        self._device = device
        self._repeated = Limited(log, device.name)
        self._options = options or Options()
        self._chip = Chip(device)
        self._lock = threading.RLock()
        self._dp: Any = None
        self._port: Any = None
        self._thread: threading.Thread | None = None
        self._on_change: Callable[[], None] = lambda: None
        self._counters = _map(self._options.counters)
        self._closed = False
        self._zero_copy = False
        self.link = Link()
        self.failure: errors.UsrdrvError | None = None
        self.mtu = self._options.mtu
        self.offloads = self._options.offload
        self.mac = self._chip.bring_up()
        self._filter = Filter(self.mac)
        try:
            self._set_up()
        except BaseException:
            self._chip.quiesce()
            raise

    @property
    def speed(self) -> int:
        """Of the link, in Mb/s; 0: down."""
        return self.link.speed

    @property
    def full_duplex(self) -> bool:
        """Whether the link is."""
        return self.link.full

    def _set_up(self) -> None:
        self._chip.configure(offloads=self.offloads, keep_tags=self._zero_copy)
        self._program_filter()

    def _program_filter(self) -> None:
        f = self._filter
        self._chip.set_filter(
            f.mac, promiscuous=f.promiscuous, all_multicast=f.all_multicast, groups=f.groups
        )

    # moving frames

    def abilities(self) -> Abilities:
        """Return what the kernel may leave to chip and driver: what the one does not do, the other does."""
        return Abilities(MTU_MAX, self.offloads, self.offloads, self.offloads)

    def zero_copy(self) -> ZeroCopy | None:
        """Return what start() takes if the kernel is not to copy packets; None: it has to."""
        return ZeroCopy(lib.DP83820_TX_CSUM_MAX) if self._device.claim_fd >= 0 else None

    def start(self, fd: int, on_change: Callable[[], None], attach: Any = None) -> None:
        """Move frames between the chip and the TAP at `fd`, which stays the caller's.

        attach: `fd` is a file of /dev/usrloop, and this its struct usrloop_attach of usrdrv.loop. With the claim's
        file in it packets are not copied.
        on_change is called from a thread of ours when the link changed, or when `failure` is set.
        """
        with self._lock:
            self._on_change = on_change
            if attach is not None and attach.claim_fd >= 0:
                self._zero_copy = True
                self._set_up()
            out = ffi.new("struct usrdrv_net_port **")
            if attach is None:
                result = lib.usrdrv_tap_port(fd, out)
            else:
                address = int(loop.ffi.cast("uintptr_t", attach))
                result = lib.usrdrv_loop_port(fd, ffi.cast("struct usrloop_attach *", address), out)
            self._device.check(result, "interface")
            self._port = out[0]
            self._start_data_path()

    def _start_data_path(self) -> None:
        out = ffi.new("struct dp **")
        config = ffi.new(
            "struct dp_config *",
            {
                "mtu": self.mtu,
                "watchdog_ms": int(self._options.watchdog * 1000),
                "offloads": self.offloads,
                "zero_copy": self._zero_copy,
                "stats": self._counters,
            },
        )
        pointer = ffi.cast("struct usrdrv_dev *", self._device.pointer)
        self._device.check(lib.dp_create(pointer, config, out), "DMA memory")
        self._dp = out[0]
        result = lib.dp_start(self._dp, self._port)
        if result:
            lib.dp_destroy(self._dp)
            self._dp = None
            self._device.check(result, "dispatcher")
        self._thread = threading.Thread(
            target=self._watch, args=(self._dp,), name="nic-control", daemon=True
        )
        self._thread.start()
        self._service_link()

    def _stop_data_path(self) -> None:
        """End the threads, silence the chip, then give the memory back. Called without the lock.

        UsrdrvError: the chip is of no use any more.
        """
        with self._lock:
            dp, self._dp = self._dp, None
            thread, self._thread = self._thread, None
        if dp is None:
            return
        lib.dp_stop(dp)
        if thread is not None and thread is not threading.current_thread():
            thread.join()
        why = self._chip.silence()
        lib.dp_destroy(dp)
        if why is not None:
            raise why

    # control

    def _watch(self, dp: Any) -> None:
        while (events := lib.dp_wait_event(dp)) >= 0:
            try:
                with self._lock:
                    if self._dp == dp:
                        self._handle(dp, events)
            except errors.UsrdrvError as error:
                self._fail(error)
            except Exception as error:
                log.exception("%s: control", self._device.name)
                self._fail(errors.DeviceError(f"{self._device.name}: {error}"))

    def _handle(self, dp: Any, events: int) -> None:
        if events & lib.DP_EVENT_GONE:
            self._fail(errors.NoSuchDeviceError(f"{self._device.name}: device is gone"))
            return
        if events & lib.DP_EVENT_PORT:
            self._fail(errors.DeviceError(f"{self._device.name}: the interface is gone"))
            return
        if events & (lib.DP_EVENT_STUCK | lib.DP_EVENT_BUS):
            why = "PCI bus error" if events & lib.DP_EVENT_BUS else "transmitter is stuck"
            self._repeated.tell(logging.WARNING, why, "%s: reset", why)
            self._chip.reset()
            self._set_up()
            lib.dp_restart(dp)
        self._service_link()

    def _fail(self, why: errors.UsrdrvError) -> None:
        if self.failure is None:
            self.failure = why
            self._on_change()

    def _service_link(self) -> None:
        link = self._chip.link()
        if link.speed:
            self._chip.follow(link)
        lib.dp_set_link(self._dp, link.speed != 0)
        if link != self.link:
            self.link = link
            log.info("%s: link %s", self._device.name, link)
            self._on_change()

    def set_mtu(self, mtu: int) -> None:
        """Change the longest packet; frames on their way are lost.

        UsrdrvError: it is what it was, or `failure` is set.
        """
        check_mtu(mtu)
        if mtu == self.mtu:
            return
        running, before = self._dp is not None, self.mtu
        try:
            self._stop_data_path()
        except errors.UsrdrvError as error:
            self._fail(error)
            raise
        self.mtu = mtu
        try:
            self._resume(running)
        except errors.UsrdrvError:
            self.mtu = before
            try:
                self._resume(running)
            except errors.UsrdrvError as error:
                self._fail(error)
            raise

    def _resume(self, running: bool) -> None:
        """Set the chip up, after _stop_data_path(); move frames if we did before."""
        with self._lock:
            self._set_up()
            if running:
                self._start_data_path()

    def set_filter(
        self,
        *,
        mac: bytes,
        promiscuous: bool = False,
        all_multicast: bool = True,
        groups: Iterable[bytes] = (),
    ) -> None:
        """Change which frames are received."""
        wanted = Filter(mac, promiscuous, all_multicast, tuple(groups))
        with self._lock:
            if wanted != self._filter:
                self._filter = wanted
                self._program_filter()

    def statistics(self) -> dict[str, int]:
        """The counters (struct usrdrv_net_stats), in the order in which they lie in memory."""
        with self._lock:
            if self._dp is not None:
                with contextlib.suppress(errors.UsrdrvError):
                    self._counters.rx_missed += self._chip.missed()
            return {name: int(getattr(self._counters, name)) for name in COUNTERS}

    def close(self) -> None:
        """Quiesce the chip and give everything back but the device. Idempotent."""
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(errors.UsrdrvError):
            self._stop_data_path()
        self._repeated.close()
        if self._port is not None:
            self._port.ops.close(self._port)
            self._port = None
        with contextlib.suppress(errors.UsrdrvError):
            self._chip.quiesce()
