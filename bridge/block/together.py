# SPDX-License-Identifier: MIT
"""Several disks of one driver as one: it is started again for all of them, and all are detached."""

from __future__ import annotations

import select
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from typing import Self

from usrdrv.base.process import Child
from usrdrv.bridge.block.contract import Attachment
from usrdrv.bridge.block.kernel_disk import KernelDisk


class Together:
    """An Attachment of several disks of `device`."""

    def __init__(self, device: str, attached: Sequence[Attachment]) -> None:
        self._attached = attached
        self.where = device
        resumable = [each.resumable for each in attached]
        self._resumable = [each for each in resumable if each is not None]
        self.disks: Sequence[KernelDisk] = [disk for each in attached for disk in each.disks]
        self._news = select.epoll()  # readable when one of them is
        for each in attached:
            if each.news is not None:
                self._news.register(each.news, select.EPOLLIN)
        self.news: int | None = self._news.fileno()

    @property
    def children(self) -> Sequence[Child]:
        return [child for each in self._attached for child in each.children]

    @property
    def resumable(self) -> Self | None:
        return self if len(self._resumable) == len(self._attached) else None

    def lost_server(self) -> bool:
        lost = [each.lost_server() for each in self._attached]  # ask all: they are quiet then
        return any(lost)

    def hold(self) -> None:
        self._all([each.hold for each in self._resumable])

    def reconnect(self) -> None:
        self._all([each.reconnect for each in self._resumable])

    def close(self) -> None:
        self._all([*(each.close for each in self._attached), self._news.close])

    def _all(self, actions: Sequence[Callable[[], None]]) -> None:
        """Do each, also if another one fails; then the first failure is told."""
        with ExitStack() as stack:
            for action in actions:
                stack.callback(action)
