# SPDX-License-Identifier: MIT
"""The network top end for Python: what exporters use of a network driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

from usrdrv.base import errors


@dataclass(frozen=True)
class Abilities:
    """What a driver does with packets; the kernel does the rest. max_mtu: bytes.

    checksums: puts them into packets that have none. tcp_segmentation, udp_segmentation: cuts packets of up to
    64 KiB into frames; needs checksums.
    """

    max_mtu: int
    checksums: bool = False
    tcp_segmentation: bool = False
    udp_segmentation: bool = False


class NetDriver(Protocol):
    """A NIC with its driver, as exporters see it. Closing it quiesces the chip."""

    mac: bytes
    mtu: int
    offloads: bool

    def abilities(self) -> Abilities:
        """Return what the kernel may leave to it; by this its interface is made."""

    def zero_copy(self) -> Any:
        """Return a dataclass: what the kernel has to know if it is not to copy packets; None: it has to."""

    def start(self, fd: int, on_change: Callable[[], None], attach: Any = None) -> None:
        """Move frames between the chip and the TAP at `fd`. on_change: the link changed, or `failure` is set.

        attach: `fd` is a file of /dev/usrloop, and this its struct usrloop_attach.
        """

    @property
    def speed(self) -> int:
        """Mb/s; 0: no link."""

    @property
    def full_duplex(self) -> bool:
        """Whether the link is."""

    @property
    def failure(self) -> errors.UsrdrvError | None:
        """Why there is no way on; NoSuchDeviceError: the device is gone."""

    def set_mtu(self, mtu: int) -> None:
        """Change the longest packet, in bytes. UsrdrvError: it is what it was, or `failure` is set."""

    def set_filter(
        self, *, mac: bytes, promiscuous: bool, all_multicast: bool, groups: Iterable[bytes]
    ) -> None: ...

    def statistics(self) -> dict[str, Any]: ...

    def close(self) -> None: ...
