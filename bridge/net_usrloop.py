# SPDX-License-Identifier: MIT
"""An interface of usrloop: made in a network namespace, and gone with the file that made it."""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final

from usrdrv import errors, loop
from usrdrv.bridge.link import Link, check_name, inside
from usrdrv.closing import Closing

if TYPE_CHECKING:
    from usrdrv.bridge.driver_process import DriverProcess

OFFLOADS: Final = loop.lib.USRLOOP_NET_CSUM | loop.lib.USRLOOP_NET_TSO | loop.lib.USRLOOP_NET_USO
MAX_MTU: Final = 9000
DEPTH: Final = 256
PAGES: Final = 512
"""Depth with zero copy: a large frame takes several, and all that the chip has in hand are of them."""


class UsrloopInterface(Closing):
    """We are its controller, the driver its server. The kernel has it from the first started() on."""

    def __init__(
        self,
        name: str,
        *,
        mac: bytes,
        mtu: int,
        namespace: str | None = None,
        offloads: bool = True,
        zero_copy: dict[str, int] | None = None,
        label: str = "",
    ) -> None:
        """zero_copy: what the driver wants for that."""
        check_name(name)
        self.name = name
        self._started = False
        self._alias = f"usrdrv {label}"[:255]
        self.link = Link(namespace)
        try:
            self.link.check_free(name)
            self._control = loop.Control()
        except BaseException:
            self.link.close()
            raise
        try:
            wanted = loop.Interface(
                mac=mac,
                mtu=mtu,
                max_mtu=MAX_MTU,
                name=name,
                features=self._features(offloads, zero_copy is not None),
                depth=DEPTH if zero_copy is None else PAGES,
                **(zero_copy or {}),
                label=os.fsdecode(os.fsencode(label)[: loop.lib.USRLOOP_LABEL_LEN - 1]),
            )
            with inside(namespace):  # the right to make interfaces there is asked for
                self.id = int(self._control.create(wanted).id)
        except BaseException:
            self.close()
            raise

    def _features(self, offloads: bool, zero_copy: bool) -> int:
        lib = loop.lib
        features = OFFLOADS & self._control.version().net_features if offloads else 0
        if zero_copy:
            features = features & ~lib.USRLOOP_NET_USO | lib.USRLOOP_NET_ZERO_COPY
        return int(features)

    def hand_to(self, driver: DriverProcess) -> None:
        """Have a driver serve it."""
        driver.send(op="start", loop=self.id)

    def started(self) -> None:
        """The driver does: a kernel that does not have the interface yet gets it."""
        if self._started:
            return
        with inside(self.link.namespace):
            self._control.start()
        self._started = True
        self.link.index = int(self._control.query().ifindex)
        state = self.link.state()
        if state is not None:
            self.name = state.name
            self.link.set(ifalias=self._alias)

    def set_link(self, speed: int, full: bool = True) -> None:
        """Say how fast the wire is, Mb/s; 0: there is none. Of a server that is dead the kernel knows itself."""
        try:
            self._control.carrier(speed)
        except errors.DeviceError as error:
            if error.errno != errno.ENOTCONN:
                raise

    def close(self) -> None:
        """The interface is gone. Idempotent."""
        self.link.close()
        self._control.close()
