# SPDX-License-Identifier: MIT
"""An interface of usrloop: made in a network namespace, and gone with the file that made it."""

from __future__ import annotations

import contextlib
import errno
import os
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.bridge.net.contract import Export, KernelEnd, Plan
from usrdrv.bridge.net.link import LinkGoneError
from usrdrv.bridge.net.netns import inside

if TYPE_CHECKING:
    from usrdrv.bridge.worker.process import DriverProcess
    from usrdrv.net import Abilities

DEPTH: Final = 256
PAGES: Final = 512
"""Depth with zero copy: a large frame takes several, and all that the chip has in hand are of them."""


class UsrloopInterface(KernelEnd):
    """We are its controller, the driver its server. The kernel has it from the first started() on."""

    def _make(self, plan: Plan) -> None:
        self._started = False
        self._control = self._held.enter_context(loop.Control())
        wanted = loop.Interface(
            mac=plan.mac,
            mtu=plan.mtu,
            max_mtu=plan.abilities.max_mtu,
            name=plan.name,
            features=self._features(plan.abilities, plan.zero_copy is not None),
            depth=DEPTH if plan.zero_copy is None else PAGES,
            **(plan.zero_copy or {}),
            label=os.fsdecode(os.fsencode(plan.device)[: loop.lib.USRLOOP_LABEL_LEN - 1]),
        )
        with inside(plan.namespace):  # the right to make interfaces there is asked for
            self.id = int(self._control.create(wanted).id)

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
        try:
            return self._control.namespace()
        except errors.UsrdrvError as error:
            if error.errno in (errno.ENODEV, errno.ENOTCONN):
                raise LinkGoneError("the interface is gone") from None
            raise

    def hand_to(self, driver: DriverProcess) -> None:
        driver.send(op="start", loop=self.id)

    def started(self) -> None:
        """A kernel that does not have the interface yet gets it."""
        if self._started:
            return
        with inside(self.link.home):
            self._control.start()
        self._started = True
        self.name = self.link.state().name
        self.link.change(alias=self._alias)

    def set_link(self, speed: int, full: bool = True) -> None:
        """Of a server that is dead the kernel knows itself."""
        with contextlib.suppress(errors.UsrdrvError):
            self._control.carrier(speed)


@dataclass(frozen=True)
class Usrloop(Export):
    """The kernel module usrloop: a driver takes packets from rings."""

    name = "usrloop"
    why = "the kernel has module usrloop"
    zero_copy = True

    def available(self) -> bool:
        return loop.available() and os.access(loop.NODE, os.R_OK | os.W_OK)

    def check(self) -> None:
        loop.Control().close()

    def make(self, plan: Plan) -> UsrloopInterface:
        return UsrloopInterface(plan)


EXPORT = Usrloop
