# SPDX-License-Identifier: MIT
"""What a way from a NIC to its users, an export, offers to those who supervise it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from contextlib import ExitStack
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from usrdrv.base.closing import Closing
from usrdrv.bridge import exports
from usrdrv.bridge.net.link import Link, check_name

if TYPE_CHECKING:
    from usrdrv.bridge.worker.process import DriverProcess
    from usrdrv.net import Abilities


@dataclass(frozen=True)
class Plan:
    """An interface to be. name: as the kernel takes it, %d is a number; namespace: where, by name; None: ours.

    device: that it stands for. abilities: of its driver; the kernel does the rest. zero_copy: what the driver wants
    for that; None: the kernel copies.
    """

    name: str
    device: str
    mac: bytes
    mtu: int
    abilities: Abilities
    namespace: str | None = None
    zero_copy: dict[str, int] | None = None


class KernelEnd(Closing, ABC):
    """An interface that is ours, whoever drives it. Made without a driver and a carrier; close() takes it away."""

    def __init__(self, plan: Plan) -> None:
        check_name(plan.name)
        self.name = plan.name
        """As the kernel called it at first."""
        self._alias = f"usrdrv {plan.device}"
        self._held = ExitStack()
        """What keeps it, the last first."""
        self.link = self._held.enter_context(Link(plan.namespace, self._locate))
        try:
            # Looked at first: to attach to another's persistent TAP is not what anybody wants here.
            self.link.check_free(plan.name)
            self._make(plan)
        except BaseException:
            self.close()
            raise

    @abstractmethod
    def _make(self, plan: Plan) -> None:
        """Make it; what is in `_held` is closed also when that fails."""

    @abstractmethod
    def _locate(self) -> tuple[int, int | str]:
        """Where it is now: a descriptor of its namespace, its number or name there (see Link)."""

    @abstractmethod
    def hand_to(self, driver: DriverProcess) -> None:
        """Tell a driver to serve it; its answer is the event `started`, at which call started()."""

    def started(self) -> None:
        """The driver does."""

    @abstractmethod
    def set_link(self, speed: int, full: bool = True) -> None:
        """Plug the cable in, or pull it: Mb/s, 0 for none. Of no effect once the interface is gone."""

    def close(self) -> None:
        """Take it away. Idempotent."""
        self._held.close()


class Export(exports.Export):
    """A way from a NIC to its users."""

    zero_copy: ClassVar[bool] = False
    """Whether packets may be where the device reaches them, if driver and kernel can do that."""

    @abstractmethod
    def make(self, plan: Plan) -> KernelEnd:
        """Make the interface."""
