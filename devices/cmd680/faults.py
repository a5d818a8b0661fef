# SPDX-License-Identifier: MIT
"""What can break in a drive or on its way to the host, in words and as the C model takes it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from usrdrv.base.errors import UsageError
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.base.faults import FaultJson, check_range, check_words, split_words

KINDS = {
    "bad-sector": lib.CMD680_FAULT_BAD_SECTOR,
    "crc": lib.CMD680_FAULT_CRC,
    "hang": lib.CMD680_FAULT_HANG,
    "stuck-bsy": lib.CMD680_FAULT_STUCK_BSY,
    "lost-irq": lib.CMD680_FAULT_LOST_IRQ,
    "spurious-irq": lib.CMD680_FAULT_SPURIOUS_IRQ,
    "unplug": lib.CMD680_FAULT_UNPLUG,
    "slow": lib.CMD680_FAULT_SLOW,
    "dma-abort": lib.CMD680_FAULT_DMA_ABORT,
    "write-fault": lib.CMD680_FAULT_WRITE_FAULT,
}
NAMES = {number: name for name, number in KINDS.items()}
ON = {
    "any": 0,
    "read": lib.CMD680_ON_READ,
    "write": lib.CMD680_ON_WRITE,
    "both": lib.CMD680_ON_READ | lib.CMD680_ON_WRITE,
}
ON_NAMES = {number: name for name, number in ON.items()}
_MAX64 = (1 << 64) - 1
_ONE_DRIVE = ("unplug", "spurious-irq")
_EXTRA = {
    "bad-sector": {"lba", "sectors", "on"},
    "crc": {"above", "on", "opcode"},
    "hang": {"opcode", "on"},
    "stuck-bsy": {"opcode", "on"},
    "lost-irq": {"opcode", "on"},
    "spurious-irq": set(),
    "unplug": set(),
    "slow": {"mbps", "seek_ms", "on"},
    "dma-abort": {"on", "opcode"},
    "write-fault": {"opcode"},
}


@dataclass(frozen=True)
class Fault(FaultJson):
    """One fault. `count` hits and it is gone (0: it stays until it is cleared)."""

    TEXT: ClassVar = ("kind", "on")
    FLOAT: ClassVar = ("mbps", "seek_ms")

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
        check_words(self.kind, KINDS, self.on, ON)
        check_range(self.kind, "drive", self.drive, 0, 3)
        check_range(self.kind, "opcode", self.opcode, 0, 255)
        check_range(self.kind, "above", self.above, 0, 6)
        check_range(self.kind, "count", self.count, 0, _MAX64)
        check_range(self.kind, "lba", self.lba, 0, (1 << 48) - 1)
        check_range(self.kind, "sectors", self.sectors, 1, 1 << 48)
        check_range(self.kind, "mbps", self.mbps, 0, 1e9)
        check_range(self.kind, "seek_ms", self.seek_ms, 0, 1e9)
        if self.kind in _ONE_DRIVE and self.drive is None:
            object.__setattr__(self, "drive", 0)

    def to_c(self) -> Any:
        """A `struct cmd680_fault *`."""
        return ffi.new(
            "struct cmd680_fault *",
            {
                "kind": KINDS[self.kind],
                "drive": -1 if self.drive is None else self.drive,
                "on": ON[self.on],
                "opcode": -1 if self.opcode is None else self.opcode,
                "above": -1 if self.above is None else self.above,
                "count": self.count,
                "lba": self.lba,
                "sectors": self.sectors,
                "mbps": self.mbps,
                "seek_ms": self.seek_ms,
            },
        )

    @classmethod
    def from_c(cls, c: Any) -> "Fault":
        """The reverse of `to_c`, with id and hits."""
        return cls(
            kind=NAMES[c.kind],
            drive=None if c.drive < 0 else c.drive,
            count=c.count,
            lba=c.lba,
            sectors=max(c.sectors, 1),
            on=ON_NAMES[c.on],
            opcode=None if c.opcode < 0 else c.opcode,
            above=None if c.above < 0 else c.above,
            mbps=c.mbps,
            seek_ms=c.seek_ms,
            id=c.id,
            hits=c.hits,
        )


def _number(kind: str, key: str, text: str) -> int | float:
    try:
        if key in ("mbps", "seek_ms"):
            return float(text)
        if key == "above":
            return int(text.lower().removeprefix("udma"))
        return int(text, 0)
    except ValueError:
        raise UsageError(f"{kind}: {key}={text}: not a number") from None


def parse_fault(words: Sequence[str]) -> Fault:
    """Parse words like `bad-sector lba=100 sectors=8 on=read drive=1 count=2`.

    A DMA abort hits the next command only, unless a count is given.
    """
    kind, pairs = split_words(words, KINDS, lambda kind: {"drive", "count"} | _EXTRA[kind])
    values: dict[str, Any] = {"count": 1} if kind == "dma-abort" else {}
    for key, text in pairs.items():
        values[key] = text if key == "on" else _number(kind, key, text)
    if kind == "bad-sector" and "lba" not in values:
        raise UsageError("bad-sector: lba= is missing")
    if kind == "slow" and not {"mbps", "seek_ms"} & set(values):
        raise UsageError("slow: give mbps=, seek_ms= or both")
    return Fault(kind, **values)
