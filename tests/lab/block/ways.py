# SPDX-License-Identifier: MIT
"""The ways into the kernel: a drive as /dev/nbd0, and as /dev/usrblk0."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from tests.lab.helpers import disks
from usrdrv.lab.guest import Guest


@dataclass(frozen=True)
class Way:
    """One of the ways into the kernel. process: the driver's name; program: what is run to start one."""

    export: str
    process: str
    program: str
    left: str
    """Prints nothing when nothing is left of it."""


NBD = Way(
    "nbd",
    "nbdkit",
    "$(command -v nbdkit)",
    "pgrep -xl nbdkit; ls /run/usrdrv/*.sock; grep -v '^0$' /sys/block/nbd0/size",
)
USRLOOP = Way(
    "usrloop",
    "usrdrv-driver",
    "/src/bridge/block/driver_usrloop.py",
    "pgrep -xl 'usrdrv-driver|usrdrv-standby'; ls -d /dev/usrblk* /sys/block/usrblk* /run/usrdrv/*.sock",
)

EACH_WAY = pytest.mark.parametrize("way", [NBD, USRLOOP], ids=lambda way: way.export, indirect=True)
"""For tests of what each way does by itself. Of others nbd's are rare."""


class Served(disks.Served):
    """By one of the ways, with a line of JSON when it is usable."""

    def __init__(self, guest: Guest, way: Way, *arguments: str) -> None:
        super().__init__(guest, *arguments, "--export", way.export, process=way.process)
        self.way = way

    @property
    def child(self) -> str:
        """What `usrdrv block` calls the driver's process."""
        return {"nbd": "nbdkit", "usrloop": "driver"}[self.way.export]


def nothing_is_left(guest: Guest, way: Way) -> None:
    assert guest.run(way.left).out == ""
    assert disks.driver(guest) == "pata_sil680"
