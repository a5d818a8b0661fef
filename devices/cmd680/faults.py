# SPDX-License-Identifier: MIT
"""What can break in a drive or on its way to the host, in words and as the C model takes it."""

from dataclasses import dataclass
from typing import ClassVar

from usrdrv.devices._models import lib
from usrdrv.devices.base.faults import Kind, ModelFault

_MAX64 = (1 << 64) - 1


@dataclass(frozen=True)
class Fault(ModelFault, chip="cmd680"):
    """One fault. `count` hits and it is gone (0: it stays until it is cleared)."""

    KINDS: ClassVar = {
        "bad-sector": Kind("drive count lba sectors on", needs="lba"),
        "crc": Kind("drive count above on opcode"),
        "hang": Kind("drive count opcode on"),
        "stuck-bsy": Kind("drive count opcode on"),
        "lost-irq": Kind("drive count opcode on"),
        "spurious-irq": Kind("drive count"),
        "unplug": Kind("drive count"),
        "slow": Kind("drive count mbps seek_ms on", needs="mbps seek_ms"),
        "dma-abort": Kind("drive count on opcode", count=1),
        "write-fault": Kind("drive count opcode"),
    }
    ON: ClassVar = {
        "any": 0,
        "read": lib.CMD680_ON_READ,
        "write": lib.CMD680_ON_WRITE,
        "both": lib.CMD680_ON_READ | lib.CMD680_ON_WRITE,
    }
    RANGES: ClassVar = {
        "drive": (0, lib.CMD680_DRIVES - 1),
        "opcode": (0, 255),
        "above": (0, 6),
        "count": (0, _MAX64),
        "lba": (0, (1 << 48) - 1),
        "sectors": (1, 1 << 48),
        "mbps": (0, 1e9),
        "seek_ms": (0, 1e9),
    }

    kind: str
    drive: int | None = None
    count: int = 0
    lba: int = 0
    sectors: int = 1
    on: str = "any"
    opcode: int | None = None
    above: int | None = None
    mbps: float = 0.0
    seek_ms: float = 0.0
    id: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind in ("unplug", "spurious-irq") and self.drive is None:
            object.__setattr__(self, "drive", 0)

    @classmethod
    def read(cls, key: str, text: str) -> str | float:
        if key == "above":
            return int(text.lower().removeprefix("udma"))
        return super().read(key, text)
