# SPDX-License-Identifier: MIT
"""How a NIC gets to its users: the choice, and what both ways have in common."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Protocol

from usrdrv import loop
from usrdrv.bridge.net.link import Link

if TYPE_CHECKING:
    from usrdrv.bridge.worker.process import DriverProcess
    from usrdrv.net import Abilities


class KernelEnd(Protocol):
    """An interface that is ours, whoever drives it; `close` takes it away."""

    name: str
    link: Link

    def hand_to(self, driver: DriverProcess) -> None:
        """Tell a driver to serve it; its answer is the event `started`, at which call started()."""

    def started(self) -> None: ...

    def set_link(self, speed: int, full: bool = True) -> None:
        """Plug the cable in, or pull it: Mb/s, 0 for none."""

    def close(self) -> None:
        """Take it away. Idempotent."""


def choose(wanted: str) -> tuple[str, str]:
    """Turn `auto` into the best export that this kernel has. Return it and the reason."""
    if wanted != "auto":
        return wanted, "as asked"
    if not loop.available():
        return "tap", "the kernel has no module usrloop"
    if not os.access(loop.NODE, os.R_OK | os.W_OK):
        return "tap", f"{loop.NODE}: permission denied"
    return "usrloop", "the kernel has module usrloop"


def check(export: str) -> None:
    """Raise now, before the device is touched, if `export` cannot work here."""
    if export == "usrloop":
        loop.Control().close()
    else:
        from usrdrv.bridge.net.tap import open_control

        os.close(open_control())


def make(
    export: str,
    name: str,
    *,
    device: str,
    mac: bytes,
    mtu: int,
    namespace: str | None,
    abilities: Abilities,
    zero_copy: dict[str, int] | None,
) -> KernelEnd:
    """Make the interface, which has no driver and no carrier yet.

    abilities: of the driver. zero_copy: of usrloop, what the driver wants.
    """
    if export == "usrloop":
        from usrdrv.bridge.net.usrloop import UsrloopInterface

        return UsrloopInterface(
            name,
            mac=mac,
            mtu=mtu,
            namespace=namespace,
            abilities=abilities,
            zero_copy=zero_copy,
            label=device,
        )
    from usrdrv.bridge.net.tap import Tap

    return Tap(
        name,
        mac=mac,
        mtu=mtu,
        namespace=namespace,
        abilities=abilities,
        alias=f"usrdrv {device}",
    )
