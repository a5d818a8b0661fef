# SPDX-License-Identifier: MIT
"""What can break in a NIC or on its wire, in words and as the C model takes it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Final

from usrdrv.base.errors import UsageError
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.base.faults import FaultJson, check_range, check_words, split_words

KINDS: Final = {
    "lose": lib.DP83820_FAULT_LOSE,
    "corrupt": lib.DP83820_FAULT_CORRUPT,
    "damage": lib.DP83820_FAULT_DAMAGE,
    "duplicate": lib.DP83820_FAULT_DUPLICATE,
    "delay": lib.DP83820_FAULT_DELAY,
    "fetch": lib.DP83820_FAULT_FETCH,
    "overrun": lib.DP83820_FAULT_OVERRUN,
    "lost-irq": lib.DP83820_FAULT_LOST_IRQ,
    "link-down": lib.DP83820_FAULT_LINK_DOWN,
    "stuck-tx": lib.DP83820_FAULT_STUCK_TX,
    "stuck-reset": lib.DP83820_FAULT_STUCK_RESET,
}
ON: Final = {"both": 0, "tx": lib.DP83820_ON_TX, "rx": lib.DP83820_ON_RX}
_ON_WIRE: Final = ("lose", "corrupt", "damage", "duplicate")
_ONCE: Final = ("fetch", "lost-irq", "stuck-tx", "overrun")
_NAMES: Final = {number: name for name, number in KINDS.items()}
_ON_NAMES: Final = {number: name for name, number in ON.items()}


@dataclass(frozen=True)
class NicFault(FaultJson):
    """One fault. It hits every `every`-th time; `count` hits and it is gone (0: until cleared)."""

    TEXT: ClassVar = ("kind", "on")
    FLOAT: ClassVar = ("ms",)

    kind: str
    on: str = "both"
    every: int = 1
    count: int = 0
    ms: float = 0.0
    id: int = 0
    hits: int = 0

    def __post_init__(self) -> None:
        check_words(self.kind, KINDS, self.on, ON)
        check_range(self.kind, "every", self.every, 1, (1 << 32) - 1)
        check_range(self.kind, "count", self.count, 0, (1 << 64) - 1)
        check_range(self.kind, "ms", self.ms, 0, 3.6e6)
        if self.kind == "delay" and not self.ms:
            raise UsageError("delay: ms= is missing")

    @classmethod
    def parse(cls, words: Sequence[str]) -> NicFault:
        """Parse words like `lose every=100 on=tx`.

        Faults inside the chip hit once, unless a count is given.
        """
        kind, pairs = split_words(words, KINDS, _allowed)
        values: dict[str, Any] = {"count": 1} if kind in _ONCE else {}
        for key, text in pairs.items():
            try:
                values[key] = text if key == "on" else float(text) if key == "ms" else int(text, 0)
            except ValueError:
                raise UsageError(f"{kind}: {key}={text}: not a number") from None
        return cls(kind, **values)

    def to_c(self) -> Any:
        """A `struct dp83820_fault *`."""
        return ffi.new(
            "struct dp83820_fault *",
            {
                "kind": KINDS[self.kind],
                "on": ON[self.on],
                "every": self.every,
                "count": self.count,
                "ms": self.ms,
            },
        )

    @classmethod
    def from_c(cls, c: Any) -> NicFault:
        """The reverse of `to_c`, with id and hits."""
        return cls(_NAMES[c.kind], _ON_NAMES[c.on], max(c.every, 1), c.count, c.ms, c.id, c.hits)


def _allowed(kind: str) -> set[str]:
    if kind == "link-down":
        return {"ms"}
    keys = {"every", "count"}
    if kind in _ON_WIRE:
        keys.add("on")
    if kind == "delay":
        keys.add("ms")
    return keys
