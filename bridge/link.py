# SPDX-License-Identifier: MIT
"""A network interface as netlink shows it: found in a namespace, set up, watched. Who made it is another matter."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

from pyroute2 import IPRoute, netns  # type: ignore[import-untyped]
from pyroute2.netlink.exceptions import NetlinkError  # type: ignore[import-untyped]

from usrdrv import errors
from usrdrv.closing import Closing

IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
RTMGRP_LINK: Final = 1
NAME_MAX: Final = 15


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
def inside(namespace: str | None) -> Iterator[None]:
    """Sockets and interfaces that are made here belong to the network namespace."""
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


class Link(Closing):
    """An interface of a network namespace, once find() has said which."""

    def __init__(self, namespace: str | None) -> None:
        self.namespace = namespace
        self.index = 0
        with inside(namespace):
            self._routes = IPRoute()
            self._watch = socket.socket(
                socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE
            )
        self._watch.bind((0, RTMGRP_LINK))

    def check_free(self, name: str) -> None:
        """Raise DeviceBusyError if there is an interface of that name."""
        if self._routes.link_lookup(ifname=name):
            raise errors.DeviceBusyError(f"there is an interface {name} already")

    def find(self, name: str) -> None:
        """It is the one of that name from now on, also when it gets another."""
        self.index = self._routes.link_lookup(ifname=name)[0]

    def set(self, **settings: Any) -> None:
        """Change what `ip link set` changes, in pyroute2's words."""
        try:
            self._routes.link("set", index=self.index, **settings)
        except NetlinkError as error:
            raise errors.DeviceError(f"interface: {os.strerror(error.code)}") from None

    def name(self) -> str:
        """As it is called now; NoSuchDeviceError once it is gone."""
        try:
            (link,) = self._routes.get_links(self.index)
        except (NetlinkError, ValueError):
            raise errors.NoSuchDeviceError("the interface is gone") from None
        return str(link.get_attr("IFLA_IFNAME"))

    @property
    def fd(self) -> int:
        """Readable when an interface of the namespace changed; then call state()."""
        return self._watch.fileno()

    def state(self) -> LinkState | None:
        """The settings as they are now; None: somebody deleted the interface."""
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
        """Watch no more. Idempotent."""
        self._watch.close()
        self._routes.close()
