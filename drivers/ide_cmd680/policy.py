# SPDX-License-Identifier: MIT
"""What to do about an error: decisions only, no registers (docs/hardware/cmd680.md section 9.4).

A request climbs down a ladder: the same again after a soft reset, a slower mode, the speed of a
40-wire cable, PIO; what is left then fails alone. Errors spread over many requests slow the drive
down by the counting rules that libata uses; but for a drive's own faults (DF), which libata counts as well, though
no slower mode can mend them: a drive that cannot write for a while would stay in PIO for good.

See docs/design/errors.md.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any

from usrdrv.block import front
from usrdrv.drivers.ide_cmd680 import _cmd680

R = _cmd680.lib

MAX_TRIES = R.BLOCK_MAX_TRIES
"""Attempts of a command that hangs or fails for no good reason, the first one included."""

PATIENCE = 30.0
"""Seconds. A command whose first attempt failed so long ago gets no further one: also with long resets its silence
ends before the supervisor takes the driver for hung (90 s)."""


class Kind(Enum):
    """What went wrong, as the rules count it."""

    MEDIA = auto()
    """The drive cannot read or write these sectors."""
    REFUSED = auto()
    """The drive does not do this command, or not there."""
    CRC = auto()
    """Data was damaged on the cable."""
    TIMEOUT = auto()
    """A command hangs, or the protocol went astray."""
    HOST = auto()
    """The bus master met a PCI abort."""
    FAULT = auto()
    """The drive reports a fault of its own (DF): the data arrived, so it says nothing of cable and speed."""


class Slower(Enum):
    """How far to slow the drive down."""

    NO = auto()
    STEP = auto()
    CABLE40 = auto()
    """To the highest mode of a 40-wire cable."""
    PIO = auto()


class Verdict(Enum):
    """How the command ends."""

    RETRY = R.BLOCK_RETRY
    SPLIT = R.BLOCK_SPLIT
    FAIL = R.BLOCK_FAIL


@dataclass(frozen=True)
class Event:
    """Why a command failed: struct block_event and struct ide_error of the data path. Sectors of 512 bytes."""

    kind: int
    drive: int
    tries: int
    segments: int
    sector: int
    sectors: int
    bad_sector: int
    command: int
    status: int
    error: int
    bm_status: int

    @classmethod
    def of(cls, event: front.Event, registers: Any) -> Event:
        """Put both together. registers: struct ide_error."""
        said = ("bad_sector", "command", "status", "error", "bm_status")
        return cls(
            event.kind,
            event.unit,
            event.tries,
            event.segments,
            event.sector,
            event.sectors,
            *(getattr(registers, name) for name in said),
        )

    def classify(self) -> Kind:
        """Tell what kind of error this is."""
        if self.kind == R.BLOCK_EVENT_BUS:
            return Kind.HOST
        if self.kind != R.BLOCK_EVENT_ERROR:
            return Kind.TIMEOUT
        if self.error & R.ATA_ICRC:
            return Kind.CRC
        if self.error & R.ATA_UNC:
            return Kind.MEDIA
        if self.status & R.ATA_DF:
            return Kind.FAULT
        return Kind.REFUSED


@dataclass(frozen=True)
class Decision:
    """What to do, in this order: reset the channel, slow down, end the command."""

    reset: bool
    slower: Slower
    verdict: Verdict


_SPEED_KINDS = (Kind.CRC, Kind.TIMEOUT)


@dataclass
class History:
    """The errors of one drive that count against its speed, and the steps taken so far."""

    errors: deque[tuple[float, Kind]] = field(default_factory=lambda: deque(maxlen=64))
    steps: int = 0
    begun: float = 0.0
    """When the first attempt of the command failed that is tried now."""

    def _recent(self, now: float, seconds: float, kinds: tuple[Kind, ...]) -> int:
        return sum(1 for when, kind in self.errors if now - when <= seconds and kind in kinds)

    def decide(self, event: Event, now: float, *, dma: bool) -> Decision:
        """Note the error and decide. now: seconds, monotonic; dma: the drive is not in PIO yet."""
        kind = event.classify()
        if event.tries == 0:
            self.begun = now
        if kind is Kind.MEDIA or kind is Kind.REFUSED:
            return self._not_its_speed(event, kind)
        slower = Slower.NO
        if kind is not Kind.FAULT:
            self.errors.append((now, kind))
            slower = self._slower(event, kind, now) if dma else Slower.NO
        if slower is not Slower.NO:
            self.steps += 1
            self.errors.clear()
        enough = event.tries + 1 >= MAX_TRIES or now - self.begun > PATIENCE
        exhausted = enough and (kind is not Kind.CRC or not dma)
        last = Verdict.SPLIT if event.segments > 1 else Verdict.FAIL
        verdict = last if exhausted else Verdict.RETRY
        return Decision(reset=True, slower=slower, verdict=verdict)

    def _not_its_speed(self, event: Event, kind: Kind) -> Decision:
        """Single the bad sectors out; try them once more; then they fail."""
        if event.segments > 1:
            return Decision(reset=False, slower=Slower.NO, verdict=Verdict.SPLIT)
        if event.tries == 0:
            # a drive that lost its settings (power) refuses; after a reset they are set again
            return Decision(
                reset=kind is Kind.REFUSED and not event.error & R.ATA_IDNF,
                slower=Slower.NO,
                verdict=Verdict.RETRY,
            )
        return Decision(reset=False, slower=Slower.NO, verdict=Verdict.FAIL)

    def _slower(self, event: Event, kind: Kind, now: float) -> Slower:
        step = (Slower.STEP, Slower.CABLE40, Slower.PIO)[min(self.steps, 2)]
        if kind is Kind.CRC and event.tries >= 1:
            return step  # this request will not get through at this speed
        if self._recent(now, 300, tuple(Kind)) > 6:
            return Slower.PIO
        if self._recent(now, 600, _SPEED_KINDS) > 3:
            return step
        if self._recent(now, 600, (Kind.HOST,)) > 6:
            return step
        return Slower.NO
