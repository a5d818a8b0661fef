# SPDX-License-Identifier: MIT
"""A TAP interface: made in a network namespace, watched, and gone with its last descriptor."""

from __future__ import annotations

import contextlib
import ctypes
import errno
import fcntl
import os
import socket
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyroute2 import IPRoute, netns  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from usrdrv import errors
from usrdrv.closing import Closing

# linux/if_tun.h
TUNSETIFF: Final = 0x400454CA
TUNSETOFFLOAD: Final = 0x400454D0
TUNSETVNETHDRSZ: Final = 0x400454D8
TUNSETCARRIER: Final = 0x400454E2
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
IFF_VNET_HDR: Final = 0x4000
TCP_OFFLOADS: Final = 1 | 2 | 4 | 8
"""Checksums; segmentation over IPv4, IPv6, with ECN."""
UDP_OFFLOADS: Final = 0x20 | 0x40
"""Segmentation over IPv4 and IPv6, since Linux 6.2."""

# linux/sockios.h, linux/ethtool.h
SIOCETHTOOL: Final = 0x8946
ETHTOOL_SSET: Final = 2
ETHTOOL_CMD: Final = struct.Struct("=3IH6B2IH2BI2I")
UNKNOWN: Final = 0xFFFF

HEADER_SIZE: Final = 12
IFF_UP: Final = 1
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
RTMGRP_LINK: Final = 1
NAME_MAX: Final = 15
QUEUE_LENGTH: Final = 4000
"""Packets that the kernel keeps while the driver is busy: 50 ms of full ones at 1 Gb/s."""


@dataclass(frozen=True)
class LinkState:
    """What somebody may have changed with `ip link` or by opening a packet socket."""

    name: str
    mtu: int
    mac: bytes
    promiscuous: bool
    all_multicast: bool


def check_name(name: str) -> None:
    """Raise UsageError for what the kernel does not take as an interface's name; %d is a number."""
    plain = name.replace("%d", "0")
    if (
        not 0 < len(os.fsencode(plain)) <= NAME_MAX
        or plain in (".", "..")
        or any(c.isspace() or c in "/:%" for c in plain)
    ):
        raise errors.UsageError(
            f"{name!r} is no name for an interface (1 to {NAME_MAX} characters)"
        )


def check_namespace(name: str) -> None:
    """Raise NoSuchDeviceError unless `ip netns` has it."""
    if name not in netns.listnetns():
        raise errors.NoSuchDeviceError(f"no network namespace {name} (ip netns add {name})")


@contextmanager
def _inside(namespace: str | None) -> Iterator[None]:
    """Sockets that are made here belong to the network namespace."""
    if namespace is None:
        yield
        return
    check_namespace(namespace)
    try:
        netns.pushns(namespace)
    except OSError as error:
        raise errors.PermissionDeniedError(
            f"network namespace {namespace}: {error.strerror}"
        ) from None
    try:
        yield
    finally:
        netns.popns()


class Tap(Closing):
    """A TAP interface that is ours; `fd` carries packets behind struct usrdrv_net_header (net.h).

    The kernel calls its driver `tun` (ethtool -i), whatever is behind it; `usrdrv net stats` has
    the driver's own counters. It is gone when the last process that has `fd` is.
    """

    def __init__(
        self,
        name: str,
        *,
        mac: bytes,
        mtu: int,
        namespace: str | None = None,
        offloads: bool = True,
        alias: str = "",
    ) -> None:
        check_name(name)
        self.namespace = namespace
        self._watch: socket.socket | None = None
        self._routes: Any = None
        self._control: socket.socket | None = None
        with _inside(namespace):  # where it is opened decides where the interface is
            self._routes = IPRoute()
            self.fd = self._open(name)
            self._control = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            self._watch = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        try:
            self._watch.bind((0, RTMGRP_LINK))
            self._set_offloads(offloads)
            self.set_carrier(False)
            self.index = self._routes.link_lookup(ifname=self.name)[0]
            self._set(mac, mtu, alias)
        except BaseException:
            self.close()
            raise

    def _open(self, name: str) -> int:
        try:
            fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
        except PermissionError:
            raise errors.PermissionDeniedError("/dev/net/tun: no right to open it") from None
        except OSError as error:
            raise errors.MissingToolError(
                f"/dev/net/tun: {error.strerror} (kernel option CONFIG_TUN, module tun)"
            ) from None
        request = struct.pack("16sH22x", os.fsencode(name), IFF_TAP | IFF_NO_PI | IFF_VNET_HDR)
        # Looked at first: to attach to another's persistent TAP is not what anybody wants here.
        if self._routes.link_lookup(ifname=name):
            os.close(fd)
            raise errors.DeviceBusyError(f"there is an interface {name} already")
        try:
            answer = fcntl.ioctl(fd, TUNSETIFF, request)
        except OSError as error:
            os.close(fd)
            if error.errno == errno.EPERM:
                raise errors.PermissionDeniedError(
                    f"interface {name}: needs CAP_NET_ADMIN"
                ) from None
            raise errors.DeviceError(f"interface {name}: {error.strerror}") from None
        self.name = os.fsdecode(answer[:16].rstrip(b"\0"))
        return fd

    def _set_offloads(self, wanted: bool) -> None:
        fcntl.ioctl(self.fd, TUNSETVNETHDRSZ, struct.pack("i", HEADER_SIZE))
        choices = (TCP_OFFLOADS | UDP_OFFLOADS, TCP_OFFLOADS, 0) if wanted else (0,)
        for offloads in choices:
            try:
                fcntl.ioctl(self.fd, TUNSETOFFLOAD, offloads)
                return
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise errors.DeviceError(f"{self.name}: {error.strerror}") from None

    def _set(self, mac: bytes, mtu: int, alias: str) -> None:
        settings: dict[str, Any] = {
            "address": mac.hex(":"),
            "mtu": mtu,
            "txqlen": QUEUE_LENGTH,
        }
        if alias:
            settings["ifalias"] = alias[:255]
        try:
            self._routes.link("set", index=self.index, **settings)
        except NetlinkError as error:
            raise errors.DeviceError(f"{self.name}: {os.strerror(error.code)}") from None

    def set_carrier(self, up: bool) -> None:
        """Plug the cable in, or pull it; addresses and routes stay."""
        fcntl.ioctl(self.fd, TUNSETCARRIER, struct.pack("i", up))

    def set_speed(self, speed: int, full: bool) -> None:
        """Let ethtool and sysfs say what the chip's link is; `speed` in Mb/s, 0: no link.

        A kernel whose TAPs have a speed of their own keeps it.
        """
        assert self._control is not None
        low, high = (speed & 0xFFFF, speed >> 16) if speed else (UNKNOWN, UNKNOWN)
        duplex = int(full) if speed else UNKNOWN & 0xFF
        command = ctypes.create_string_buffer(
            ETHTOOL_CMD.pack(
                *(ETHTOOL_SSET, 0, 0, low, duplex, 0, 0, 0, 0, 0),
                *(0, 0, high, 0, 0, 0, 0, 0),
            )
        )
        with contextlib.suppress(OSError):
            (link,) = self._routes.get_links(self.index)
            name = os.fsencode(link.get_attr("IFLA_IFNAME"))
            request = struct.pack("16sP16x", name, ctypes.addressof(command))
            fcntl.ioctl(self._control, SIOCETHTOOL, request)

    @property
    def watch_fd(self) -> int:
        """Readable when an interface of the namespace changed; then call state()."""
        assert self._watch is not None
        return self._watch.fileno()

    def state(self) -> LinkState | None:
        """The settings as they are now; None: somebody deleted the interface."""
        assert self._watch is not None
        try:
            while self._watch.recv(1 << 16):
                pass
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:  # else: more news than there was room for
                raise
        try:
            (link,) = self._routes.get_links(self.index)
        except (NetlinkError, ValueError):
            return None
        flags = link["flags"]
        return LinkState(
            name=link.get_attr("IFLA_IFNAME"),
            mtu=link.get_attr("IFLA_MTU"),
            mac=bytes.fromhex(link.get_attr("IFLA_ADDRESS").replace(":", "")),
            promiscuous=bool(flags & IFF_PROMISC or link.get_attr("IFLA_PROMISCUITY")),
            all_multicast=bool(flags & IFF_ALLMULTI or link.get_attr("IFLA_ALLMULTI")),
        )

    def close(self) -> None:
        """Give it back: with the last descriptor the interface is gone. Idempotent."""
        if self._watch is not None:
            self._watch.close()
            self._watch = None
        if self._control is not None:
            self._control.close()
            self._control = None
        if self._routes is not None:
            self._routes.close()
            self._routes = None
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1
