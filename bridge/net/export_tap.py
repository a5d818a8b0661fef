# SPDX-License-Identifier: MIT
"""A TAP interface: made in a network namespace, and gone with its last descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from usrdrv import loop, modules
from usrdrv.base import errors
from usrdrv.bridge.net.contract import Export, KernelEnd, Plan
from usrdrv.bridge.net.link import LinkGoneError
from usrdrv.bridge.net.netns import inside

if TYPE_CHECKING:
    from usrdrv.bridge.worker.process import DriverProcess
    from usrdrv.net import Abilities

CONTROL: Final = Path("/dev/net/tun")

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNGETIFF: Final = 0x800454D2
TUNGETDEVNETNS: Final = 0x54E3
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETCARRIER: Final = 0x400454E2
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
CHECKSUMS: Final = 1
TCP_OFFLOADS: Final = 2 | 4 | 8
"""Segmentation over IPv4, IPv6, with ECN."""
UDP_OFFLOADS: Final = 0x20 | 0x40
"""Segmentation over IPv4 and IPv6, since Linux 6.2."""

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL: Final = 0x8946
ETHTOOL_SSET: Final = 2
ETHTOOL_CMD: Final = struct.Struct("=3IH6B2IH2BI2I")
UNKNOWN: Final = 0xFFFF

HEADER_SIZE: Final = 12
QUEUE_LENGTH: Final = 4000
"""Packets that the kernel keeps while the driver is busy: 50 ms of full ones at 1 Gb/s."""


def open_control() -> int:
    """Open what TAPs are made with; loads the module if need be. MissingToolError, PermissionDeniedError."""
    if not CONTROL.exists():
        modules.load("tun")
    try:
        return os.open(CONTROL, os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except PermissionError:
        raise errors.PermissionDeniedError(f"{CONTROL}: permission denied") from None
    except OSError as error:
        raise errors.MissingToolError(
            f"{CONTROL}: {error.strerror} (kernel option CONFIG_TUN, module tun)"
        ) from None


class Tap(KernelEnd):
    """A TAP interface; `fd` carries packets behind struct usrdrv_net_header (net.h).

    The kernel calls its driver `tun` (ethtool -i), whatever is behind it; `usrdrv net stats` has
    the driver's own counters. It is gone when the last process that has `fd` is.
    """

    def _make(self, plan: Plan) -> None:
        with inside(plan.namespace):  # where it is opened decides where the interface is
            self._open(plan.name)
        self._set_offloads(plan.abilities)
        self._set_carrier(False)
        self.link.change(
            address=plan.mac, mtu=plan.mtu, queue_length=QUEUE_LENGTH, alias=self._alias
        )

    def _open(self, name: str) -> None:
        self.fd = open_control()
        self._held.callback(os.close, self.fd)
        request = struct.pack("16sH22x", os.fsencode(name), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        try:
            answer = fcntl.ioctl(self.fd, TUNSETIFF, request)
        except OSError as error:
            if error.errno == errno.EPERM:
                raise errors.PermissionDeniedError(
                    f"interface {name}: needs CAP_NET_ADMIN"
                ) from None
            raise errors.DeviceError(f"interface {name}: {error.strerror}") from None
        self.name = os.fsdecode(answer[:16].rstrip(b"\0"))

    def _locate(self) -> tuple[int, str]:
        try:
            request = fcntl.ioctl(self.fd, TUNGETIFF, bytes(40))
            return fcntl.ioctl(self.fd, TUNGETDEVNETNS), os.fsdecode(request[:16].rstrip(b"\0"))
        except PermissionError:
            raise errors.PermissionDeniedError(
                f"{self.name}: permission denied in its network namespace"
            ) from None
        except OSError as error:
            if error.errno != errno.EBADFD:
                raise errors.DeviceError(f"{self.name}: {error.strerror}") from None
            raise LinkGoneError("the interface is gone") from None

    def _set_offloads(self, can: Abilities) -> None:
        fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
        tcp = CHECKSUMS * can.checksums | TCP_OFFLOADS * can.tcp_segmentation
        choices = (tcp | UDP_OFFLOADS * can.udp_segmentation, tcp)  # a kernel may lack those of UDP
        for offloads in choices:
            try:
                fcntl.ioctl(self.fd, TUNSETOFFLOAD, offloads)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise errors.DeviceError(f"{self.name}: {error.strerror}") from None

    def hand_to(self, driver: DriverProcess) -> None:
        driver.send(self.fd, op="start")

    def set_link(self, speed: int, full: bool = True) -> None:
        with contextlib.suppress(errors.UsrdrvError):
            self._set_speed(speed, full)
        with contextlib.suppress(OSError):
            self._set_carrier(speed > 0)

    def _set_carrier(self, up: bool) -> None:
        fcntl.ioctl(self.fd, TUNSETCARRIER, struct.pack("i", up))

    def _set_speed(self, speed: int, full: bool) -> None:
        """Let ethtool and sysfs say what the chip's link is; `speed` in Mb/s, 0: no link.

        A kernel whose TAPs have a speed of their own keeps it.
        """
        low, high = (speed & 0xFFFF, speed >> 16) if speed else (UNKNOWN, UNKNOWN)
        duplex = int(full) if speed else UNKNOWN & 0xFF
        command = ctypes.create_string_buffer(
            ETHTOOL_CMD.pack(
                *(ETHTOOL_SSET, 0, 0, low, duplex, 0, 0, 0, 0, 0),
                *(0, 0, high, 0, 0, 0, 0, 0),
            )
        )
        with self.link.there() as (routes, name), contextlib.suppress(OSError):
            request = struct.pack("16sP16x", os.fsencode(str(name)), ctypes.addressof(command))
            fcntl.ioctl(routes.fd, SIOCETHTOOL, request)


@dataclass(frozen=True)
class TapExport(Export):
    """A TAP, which every kernel has."""

    name = "tap"

    @property
    def why(self) -> str:
        if not loop.available():
            return "the kernel has no module usrloop"
        return f"{loop.NODE}: permission denied"

    def available(self) -> bool:
        return True

    def check(self) -> None:
        os.close(open_control())

    def make(self, plan: Plan) -> Tap:
        return Tap(plan)


EXPORT = TapExport
