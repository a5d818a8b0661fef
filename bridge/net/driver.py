# SPDX-License-Identifier: MIT
"""The process of a network driver: opens the device, moves frames, and does what its supervisor says.

`open` has a device's name, `options` (usrdrv.net.options) and a memory file to count in; `ready` tells the MAC
address, the names of the counters in order, what the driver can (`abilities`), and what the kernel has to know if
it is not to copy packets. Then comes `start` (with a TAP's descriptor, or as `loop` the number of an interface of
usrloop), at which we say `started`; then `filter`, `stats` and `mtu`. That is answered with the `mtu` in force and,
if it is not the one that was `asked` for, with `why`. We tell of `link` changes, and of a `failure`: after that we
are of no use.
"""

from __future__ import annotations

import socket
import sys
from contextlib import ExitStack
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from usrdrv import loop
from usrdrv.base import errors
from usrdrv.bridge.worker.worker import Worker, run
from usrdrv.chips import NETWORK
from usrdrv.device import open_device
from usrdrv.drivers import open_driver
from usrdrv.net.options import Options

if TYPE_CHECKING:
    from usrdrv.net import NetDriver


class NetWorker(Worker):
    """A NIC."""

    def __init__(self, sock: socket.socket) -> None:
        super().__init__(sock)
        self._nic: NetDriver
        self._held: ExitStack

    def open(self, stack: ExitStack, request: dict[str, Any], fds: list[int]) -> None:
        """Claim the device and start its driver."""
        device = stack.enter_context(open_device(request["device"]))
        options = replace(Options(**request["options"]), counters=fds[0])
        self._held = stack.enter_context(ExitStack())  # what the driver uses until it is closed
        nic = stack.enter_context(open_driver(device, NETWORK, **asdict(options)))
        self._nic = nic
        self._claim = device.claim_fd
        self.say(
            event="ready",
            mac=nic.mac.hex(),
            counters=list(nic.statistics()),
            abilities=asdict(nic.abilities()),
            zero_copy=self._zero_copy() if options.zero_copy else None,
        )

    def _zero_copy(self) -> dict[str, int] | None:
        """How the kernel has to make an interface whose packets are not copied; None: it cannot."""
        wanted = self._nic.zero_copy()
        if wanted is None:
            return None
        with loop.Control() as control:
            return asdict(wanted) if control.can_zero_copy(loop.lib.USRLOOP_NET) else None

    def changed(self) -> None:
        """The driver has news; called from a thread of its own."""
        failure = self._nic.failure
        if failure is not None:
            self.say(event="failure", type=type(failure).__name__, why=str(failure))
        else:
            self.say(event="link", speed=self._nic.speed, full=self._nic.full_duplex)

    def _serve(self, number: int) -> None:
        """Move frames between the chip and an interface of usrloop."""
        control = self._held.enter_context(loop.Control())
        attach = control.attach(loop.lib.USRLOOP_NET, number, self._claim)
        self._nic.start(control.fd, self.changed, attach)

    def _set_mtu(self, mtu: int) -> str | None:
        """Return why it is not changed."""
        try:
            self._nic.set_mtu(mtu)
        except errors.UsrdrvError as error:
            return str(error)
        return None

    def obey(self, request: dict[str, Any], fds: list[int]) -> None:
        """Do one thing."""
        nic = self._nic
        match request["op"]:
            case "start":
                if "loop" in request:
                    self._serve(request["loop"])
                else:
                    nic.start(fds[0], self.changed)
                self.say(event="started")
                self.say(event="link", speed=nic.speed, full=nic.full_duplex)
            case "mtu":
                asked = request["mtu"]
                why = self._set_mtu(asked)
                self.say(event="mtu", asked=asked, mtu=nic.mtu, why=why)
            case "filter":
                nic.set_filter(
                    mac=bytes.fromhex(request["mac"]),
                    promiscuous=request["promiscuous"],
                    all_multicast=request["all_multicast"],
                    groups=[bytes.fromhex(group) for group in request["groups"]],
                )
            case "stats":
                nic.statistics()  # what the chip counted is in memory now, too
                self.say(event="stats")


if __name__ == "__main__":
    sys.exit(run(NetWorker))
