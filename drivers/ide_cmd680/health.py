# SPDX-License-Identifier: MIT
"""SMART: a drive's health, as it judges that itself (docs/hardware/cmd680.md, section 7.5)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from usrdrv.drivers.ide_cmd680 import identify
from usrdrv.drivers.ide_cmd680._cmd680 import lib
from usrdrv.drivers.ide_cmd680.identify import SmartAttribute
from usrdrv.drivers.ide_cmd680.ports import Channel, TaskFile

KEY: Final = lib.ATA_SMART_LBAH << 16 | lib.ATA_SMART_LBAM << 8


@dataclass(frozen=True)
class Smart:
    """Health as the drive itself judges it, and its attributes."""

    healthy: bool
    attributes: list[SmartAttribute]


def read(channel: Channel, device: int) -> Smart:
    """Ask a drive that has SMART. CommandError, CommandTimeoutError, ValueError: it does not say."""

    def smart(feature: int) -> TaskFile:
        return TaskFile(lib.ATA_SMART, features=feature, lba=KEY)

    channel.command(device, smart(lib.ATA_SMART_ENABLE))
    _, mid, high = channel.command(device, smart(lib.ATA_SMART_STATUS))
    data = channel.command_in(device, smart(lib.ATA_SMART_READ_DATA))
    thresholds = channel.command_in(device, smart(lib.ATA_SMART_READ_THRESHOLDS))
    attributes = identify.parse_smart(data, thresholds)
    return Smart((mid, high) == (lib.ATA_SMART_LBAM, lib.ATA_SMART_LBAH), attributes)
