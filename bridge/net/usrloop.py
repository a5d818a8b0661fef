# SPDX-License-Identifier: MIT
"""An interface of usrloop: made in a network namespace, and gone with the file that made it."""

from __future__ import annotations

import contextlib
import errno
import os
from typing import TYPE_CHECKING, Final

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.bridge.net.link import Link, LinkGoneError, check_name
from usrdrv.bridge.net.netns import inside

if TYPE_CHECKING:
    from usrdrv.bridge.worker.process import DriverProcess
    from usrdrv.net import Abilities

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
        abilities: Abilities,
        zero_copy: dict[str, int] | None = None,
        label: str = "",
    ) -> None:
        """abilities: of the driver; the kernel does the rest. zero_copy: what the driver wants for that."""
        check_name(name)
        self.name = name
        self._started = False
        self._alias = f"usrdrv {label}"[:255]
        self.link = Link(namespace, self._locate)
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
                max_mtu=abilities.max_mtu,
                name=name,
                features=self._features(abilities, zero_copy is not None),
                depth=DEPTH if zero_copy is None else PAGES,
                **(zero_copy or {}),
                label=os.fsdecode(os.fsencode(label)[: loop.lib.USRLOOP_LABEL_LEN - 1]),
            )
            with inside(namespace):  # the right to make interfaces there is asked for
                self.id = int(self._control.create(wanted).id)
        except BaseException:
            self.close()
            raise

    def _features(self, can: Abilities, zero_copy: bool) -> int:
        lib = loop.lib
        features = (
            lib.USRLOOP_NET_CSUM * can.checksums
            | lib.USRLOOP_NET_TSO * can.tcp_segmentation
            | lib.USRLOOP_NET_USO * can.udp_segmentation
        )
        features &= self._control.version().net_features
        if zero_copy:
            features = features & ~lib.USRLOOP_NET_USO | lib.USRLOOP_NET_ZERO_COPY
        return int(features)

    def _locate(self) -> tuple[int, int]:
        """Where it is now: a descriptor of its namespace, its number there (see Link)."""
        try:
            return self._control.namespace()
        except errors.UsrdrvError as error:
            if error.errno in (errno.ENODEV, errno.ENOTCONN):
                raise LinkGoneError("the interface is gone") from None
            raise

    def hand_to(self, driver: DriverProcess) -> None:
        """Have a driver serve it."""
        driver.send(op="start", loop=self.id)

    def started(self) -> None:
        """The driver does: a kernel that does not have the interface yet gets it."""
        if self._started:
            return
        with inside(self.link.home):
            self._control.start()
        self._started = True
        self.name = self.link.state().name
        self.link.change(alias=self._alias)

    def set_link(self, speed: int, full: bool = True) -> None:
        """Say how fast the wire is, Mb/s; 0: there is none. Of a server that is dead the kernel knows itself."""
        with contextlib.suppress(errors.UsrdrvError):
            self._control.carrier(speed)

    def close(self) -> None:
        """The interface is gone. Idempotent."""
        self.link.close()
        self._control.close()
