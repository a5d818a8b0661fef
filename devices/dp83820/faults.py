# SPDX-License-Identifier: MIT
"""What can break in a NIC or on its wire, in words and as the C model takes it."""

from dataclasses import dataclass
from typing import ClassVar

from usrdrv.base.errors import UsageError
from usrdrv.devices._models import lib
from usrdrv.devices.base.faults import Kind, ModelFault


@dataclass(frozen=True)
class NicFault(ModelFault, chip="dp83820"):
    """One fault. It hits every `every`-th time; `count` hits and it is gone (0: until cleared)."""

    KINDS: ClassVar = {
        "lose": Kind("every count on"),
        "corrupt": Kind("every count on"),
        "damage": Kind("every count on"),
        "duplicate": Kind("every count on"),
        "delay": Kind("every count ms"),
        "fetch": Kind("every count", count=1),
        "overrun": Kind("every count", count=1),
        "lost-irq": Kind("every count", count=1),
        "link-down": Kind("ms"),
        "stuck-tx": Kind("every count", count=1),
        "stuck-reset": Kind("every count"),
    }
    ON: ClassVar = {"both": 0, "tx": lib.DP83820_ON_TX, "rx": lib.DP83820_ON_RX}
    RANGES: ClassVar = {
        "every": (1, (1 << 32) - 1),
        "count": (0, (1 << 64) - 1),
        "ms": (0, 3.6e6),
    }

    kind: str
    on: str = "both"
    every: int = 1
    count: int = 0
    ms: float = 0.0
    id: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.kind == "delay" and not self.ms:
            raise UsageError("delay: ms= is missing")
