# SPDX-License-Identifier: MIT
"""The network top end for Python: what exporters use of a network driver."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, Protocol


class NetDriver(Protocol):
    """A NIC with its driver, as exporters see it. Closing it quiesces the chip."""

    mac: bytes
    mtu: int
    offloads: bool

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
    def failure(self) -> str | None:
        """Why there is no way on, in words."""

    def set_mtu(self, mtu: int) -> None: ...

    def set_filter(
        self, *, mac: bytes, promiscuous: bool, all_multicast: bool, groups: Iterable[bytes]
    ) -> None: ...

    def statistics(self) -> dict[str, Any]: ...

    def close(self) -> None: ...
