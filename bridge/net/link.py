# SPDX-License-Identifier: MIT
"""A network interface as netlink shows it: set up, and watched wherever it is moved; whoever made it."""

from __future__ import annotations

import contextlib
import os
import struct
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.bridge.net import netns, rtnetlink
from usrdrv.bridge.net.rtnetlink import Routes, Watch

IFF_UP: Final = 1
IFF_PROMISC: Final = 0x100
IFF_ALLMULTI: Final = 0x200
NAME_MAX: Final = 15
LOOK_PERIOD: Final = 1.0
"""Seconds. An interface that is up is looked at so often: for a macvlan on it the kernel makes it promiscuous and
sends no message (Linux, net/core/dev.c, __dev_set_rx_mode)."""
TRIES: Final = 5
"""It may be moved or renamed between finding and asking; not so often in a row."""


class LinkGoneError(errors.NoSuchDeviceError):
    """The interface does not exist any more."""


@dataclass(frozen=True)
class LinkState:
    """What somebody may have changed with `ip link`, or by what was put on the interface. netns: inode."""

    name: str
    mtu: int
    mac: bytes
    promiscuous: bool
    all_multicast: bool
    netns: int


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


class Link(Closing):
    """One interface. Not thread-safe.

    home: name of the network namespace where it is made; None: ours.
    locate: returns a descriptor of the namespace where it is now, ours to close, and its number or name there.
    LinkGoneError: it is gone; PermissionDeniedError: it is where we have no rights.

    No socket of ours stays in a namespace that it was moved to: that would keep the one of a container that ended.
    """

    def __init__(self, home: str | None, locate: Callable[[], tuple[int, int | str]]) -> None:
        self.home = home
        self._locate = locate
        self._index = 0
        self._state: LinkState | None = None
        self._look_at = 0.0
        self._up = False
        with netns.inside(home):
            self._home = self._place = netns.number(None)
            self._routes = Routes()
            try:
                self._watch = Watch()
            except BaseException:
                self._routes.close()
                raise

    def check_free(self, name: str) -> None:
        """Raise DeviceBusyError if there is an interface of that name at its home."""
        with contextlib.suppress(errors.NoSuchDeviceError):
            self._routes.get(name)
            raise errors.DeviceBusyError(f"there is an interface {name} already")

    @contextmanager
    def there(self) -> Iterator[tuple[Routes, int | str]]:
        """Yield a socket in the namespace where the interface is now, and what it is called there."""
        fd, which = self._locate()
        try:
            place = os.fstat(fd).st_ino
            if place != self._place:
                self._listen_to(place, fd)
            if place == self._home:
                yield self._routes, which
            else:
                with netns.entered(fd):
                    routes = Routes()
                with routes:
                    yield routes, which
        finally:
            os.close(fd)

    def _listen_to(self, place: int, fd: int) -> None:
        """It is in this namespace now. What cannot be heard there is seen when it is looked at."""
        self._place = place
        with contextlib.suppress(OSError):
            self._watch.everywhere(place != self._home)
            if place != self._home:
                self._routes.know(fd)

    def change(
        self,
        *,
        mtu: int | None = None,
        address: bytes | None = None,
        queue_length: int | None = None,
        alias: str | None = None,
    ) -> None:
        """Do what `ip link set` does. mtu: bytes; queue_length: packets. UsrdrvError: the kernel refuses."""
        wanted: dict[int, bytes] = {}
        if mtu is not None:
            wanted[rtnetlink.IFLA_MTU] = struct.pack("=I", mtu)
        if address is not None:
            wanted[rtnetlink.IFLA_ADDRESS] = address
        if queue_length is not None:
            wanted[rtnetlink.IFLA_TXQLEN] = struct.pack("=I", queue_length)
        if alias is not None:
            wanted[rtnetlink.IFLA_IFALIAS] = os.fsencode(alias)[:255] + b"\0"
        with self.there() as (routes, which):
            link = routes.get(which)
            try:
                routes.set(link.index, wanted)
            except OSError as error:
                name = link.text(rtnetlink.IFLA_IFNAME)
                raise errors.DeviceError(f"interface {name}: {error.strerror}") from None

    @property
    def fd(self) -> int:
        """Readable when an interface changed; then call state()."""
        return self._watch.fd

    def wait(self) -> float | None:
        """Seconds until state() is to be called, though fd is silent; None: for ever."""
        if not self._up and self._place == self._home:
            return None
        return max(0.0, self._look_at - time.monotonic())

    def state(self) -> LinkState:
        """The settings as they are now; LinkGoneError once the interface is gone."""
        ask = self._state is None or self.wait() == 0
        last = None
        for link in self._watch.news():
            if link is None:
                ask = True
            elif link.index == self._index:
                last = link
                # By its number it may be another one of another namespace.
                ask = ask or link.gone or self._place != self._home
        if ask:
            self.look()
        elif last is not None:
            self._take(last)
        assert self._state is not None
        return self._state

    def look(self) -> None:
        """Ask the kernel, for state(). LinkGoneError: the interface is gone."""
        for _ in range(TRIES):
            try:
                with self.there() as (routes, which):
                    self._take(routes.get(which))
            except LinkGoneError:
                raise
            except errors.NoSuchDeviceError:
                continue
            except (
                errors.UsrdrvError,
                OSError,
            ):  # no right to go there, no memory: it is as it was, perhaps
                if self._state is None:
                    raise
                self._state = replace(self._state, netns=self._place)
            self._look_at = time.monotonic() + LOOK_PERIOD
            return
        raise LinkGoneError("the interface is gone")

    def _take(self, link: rtnetlink.Link) -> None:
        self._index = link.index
        self._up = bool(link.flags & IFF_UP)
        self._state = LinkState(
            name=link.text(rtnetlink.IFLA_IFNAME),
            mtu=link.number(rtnetlink.IFLA_MTU),
            mac=link.attributes.get(rtnetlink.IFLA_ADDRESS, b""),
            promiscuous=bool(link.flags & IFF_PROMISC or link.number(rtnetlink.IFLA_PROMISCUITY)),
            all_multicast=bool(link.flags & IFF_ALLMULTI or link.number(rtnetlink.IFLA_ALLMULTI)),
            netns=self._place,
        )

    def close(self) -> None:
        """Watch no more. Idempotent."""
        self._watch.close()
        self._routes.close()
