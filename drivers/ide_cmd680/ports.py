# SPDX-License-Identifier: MIT
"""The registers of one channel for the control plane: polled commands, resets, detection.

Used only while the data path leaves the channel alone (before it starts, or while it is frozen).
Sections refer to docs/hardware/cmd680.md.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Protocol

from usrdrv.base import errors
from usrdrv.drivers.ide_cmd680 import _cmd680

R = _cmd680.lib

PACKET_SIGNATURE: Final = (0x14, 0xEB)
TELL_AFTER: Final = 3.0
TELL_EVERY: Final = 10.0
"""Seconds of waiting for a drive until that is told, and told again."""


class Registers(Protocol):
    """What is needed of usrdrv.device.Device."""

    def read8(self, region: int, offset: int) -> int: ...
    def read32(self, region: int, offset: int) -> int: ...
    def write8(self, region: int, offset: int, value: int) -> None: ...
    def write16(self, region: int, offset: int, value: int) -> None: ...
    def write32(self, region: int, offset: int, value: int) -> None: ...
    def config_read(self, offset: int, width: int) -> int: ...
    def config_write(self, offset: int, width: int, value: int) -> None: ...


class CommandError(errors.DeviceError):
    """The drive ended a command with ERR or DF."""

    def __init__(self, what: str, status: int, error: int) -> None:
        super().__init__(f"{what}: status {status:#04x}, error {error:#04x}")
        self.status = status
        self.error = error


class CommandTimeoutError(errors.DeviceError):
    """The drive did not get ready in time."""


@dataclass(frozen=True)
class TaskFile:
    """The registers of one command; 28-bit or smaller."""

    command: int
    features: int = 0
    count: int = 0
    lba: int = 0


class Channel:
    """One ATA channel. `number` is 0 or 1; `device` arguments are 0 (master) or 1.

    `tell` hears of waits that take long.
    """

    def __init__(
        self,
        registers: Registers,
        number: int,
        *,
        mmio: bool,
        tell: Callable[[str], None] = lambda text: None,
    ) -> None:
        self.number = number
        self._tell = tell
        self._r = registers
        if mmio:
            self._tf = (5, R.CMD680_TF_DATA + number * R.CMD680_CH_STRIDE)
            self._ctl = (5, R.CMD680_TF_CONTROL + number * R.CMD680_CH_STRIDE)
            self._bm = (5, number * R.CMD680_BM_STRIDE)
        else:
            self._tf = (number * 2, 0)
            self._ctl = (number * 2 + 1, 2)
            self._bm = (4, number * R.CMD680_BM_STRIDE)

    # registers

    def read(self, register: int) -> int:
        """Read a task-file register, named by its BAR5 offset of channel 0."""
        return self._r.read8(self._tf[0], self._tf[1] + register - R.CMD680_TF_DATA)

    def write(self, register: int, value: int) -> None:
        self._r.write8(self._tf[0], self._tf[1] + register - R.CMD680_TF_DATA, value)

    def alt_status(self) -> int:
        """Read the status without its side effect on the interrupt (section 7.1)."""
        return self._r.read8(*self._ctl)

    def control(self, value: int) -> None:
        self._r.write8(*self._ctl, value)

    def stop_engine(self) -> None:
        """Stop the bus master and clear its interrupt and error, keeping the drive bits (section 4.2)."""
        self._r.write8(self._bm[0], self._bm[1] + R.CMD680_BM_CMD, 0)
        status = self._r.read8(self._bm[0], self._bm[1] + R.CMD680_BM_STATUS)
        keep = status & (R.CMD680_BM_DEV0_DMA | R.CMD680_BM_DEV1_DMA)
        self._r.write8(
            self._bm[0],
            self._bm[1] + R.CMD680_BM_STATUS,
            keep | R.CMD680_BM_INT | R.CMD680_BM_ERROR,
        )

    def cable80(self) -> bool:
        """Tell whether an 80-wire cable is on (section 4.1.3)."""
        base = R.CMD680_CFG_CH1 if self.number else R.CMD680_CFG_CH0
        return bool(self._r.config_read(base, 1) & R.CMD680_CHCFG_CABLE80)

    # waiting

    def wait_ready(self, seconds: float, *, want: int = 0) -> int:
        """Wait for BSY to clear and the bits of `want` to be set; return the alternate status.

        CommandTimeoutError names the last status. An end with ERR or DF ends the wait too.
        """
        start = time.monotonic()
        told = TELL_AFTER
        pause = 0.0
        while True:
            status = self.alt_status()
            if not status & R.ATA_BSY and (
                status & want == want or status & (R.ATA_ERR | R.ATA_DF)
            ):
                return status
            waited = time.monotonic() - start
            if waited > seconds:
                raise CommandTimeoutError(
                    f"channel {self.number}: not ready after {round(seconds, 1):g} s, status {status:#04x}"
                )
            if waited >= told:
                told = waited + TELL_EVERY
                self._tell(
                    f"channel {self.number}: a drive is busy for {waited:.0f} s, "
                    f"waiting up to {seconds:.0f} s"
                )
            time.sleep(pause)
            pause = min(pause + 0.0005, 0.01)

    # detection and reset, section 9.2

    def select(self, device: int) -> None:
        self.write(R.CMD680_TF_DEVICE, R.ATA_DEV_OBS | (R.ATA_DEV_DEV1 if device else 0))
        self.alt_status()  # the 400 ns

    def _answers(self, device: int) -> bool:
        self.select(device)
        for count, low in ((0x55, 0xAA), (0xAA, 0x55), (0x55, 0xAA)):
            self.write(R.CMD680_TF_NSECT, count)
            self.write(R.CMD680_TF_LBAL, low)
        return (self.read(R.CMD680_TF_NSECT), self.read(R.CMD680_TF_LBAL)) == (0x55, 0xAA)

    def start_reset(self) -> None:
        """Reset both drives; interrupts stay off (nIEN). end_reset() waits for them."""
        quiet = R.ATA_CTL_OBS | R.ATA_CTL_NIEN
        self.stop_engine()
        self.control(quiet)
        time.sleep(20e-6)
        self.control(quiet | R.ATA_CTL_SRST)
        time.sleep(20e-6)
        self.control(quiet)
        time.sleep(0.002)  # section 7.3: at least 2 ms before the status is read

    def end_reset(self, seconds: float) -> list[bool]:
        """Wait for the drives after start_reset(); return which of them are ATA disks.

        CommandTimeoutError if a drive stays busy for `seconds`.
        """
        if self.alt_status() == 0xFF:
            return [False, False]
        self.wait_ready(seconds)
        # Presence is tried after the reset, not before: a hung drive ignores what is written.
        found = [self._is_disk(device, seconds) and self._answers(device) for device in (0, 1)]
        self.select(0)
        self.stop_engine()
        return found

    def soft_reset(self, seconds: float) -> list[bool]:
        """Both."""
        self.start_reset()
        return self.end_reset(seconds)

    def _is_disk(self, device: int, seconds: float) -> bool:
        """Classify by signature (section 7.3). A missing drive 1 shows drive 0's registers, but status 0."""
        self.select(device)
        status = self.alt_status()
        if status in (0x00, 0x7F, 0xFF):
            return False
        self.wait_ready(seconds)
        middle, high = self.read(R.CMD680_TF_LBAM), self.read(R.CMD680_TF_LBAH)
        error = self.read(R.CMD680_TF_ERROR)
        if (middle, high) == PACKET_SIGNATURE:
            self._tell(
                f"drive {self.number * 2 + device} is a packet device, such as a CD-ROM, not a disk"
            )
        return (middle, high) == (0, 0) and error in (0x00, 0x01, 0x81)

    def hard_reset(self) -> None:
        """Pulse ATA RESET- (section 4.1.3 bit 2)."""
        base = R.CMD680_CFG_CH1 if self.number else R.CMD680_CFG_CH0
        value = self._r.config_read(base, 1)
        self._r.config_write(base, 1, value | R.CMD680_CHCFG_RESET)
        time.sleep(50e-6)  # ATA: at least 25 us
        self._r.config_write(base, 1, value & ~R.CMD680_CHCFG_RESET)
        time.sleep(0.002)

    # polled commands, section 9.3 (PIO)

    def _start(self, device: int, tf: TaskFile) -> None:
        self.control(R.ATA_CTL_OBS | R.ATA_CTL_NIEN)
        self.select(device)
        self.wait_ready(5.0)
        self.write(R.CMD680_TF_FEATURES, tf.features)
        self.write(R.CMD680_TF_NSECT, tf.count)
        self.write(R.CMD680_TF_LBAL, tf.lba & 0xFF)
        self.write(R.CMD680_TF_LBAM, tf.lba >> 8 & 0xFF)
        self.write(R.CMD680_TF_LBAH, tf.lba >> 16 & 0xFF)
        self.write(R.CMD680_TF_COMMAND, tf.command)
        self.alt_status()

    def _check(self, tf: TaskFile, device: int) -> None:
        status = self.read(R.CMD680_TF_STATUS)
        if status & (R.ATA_ERR | R.ATA_DF):
            raise CommandError(
                f"drive {self.number * 2 + device}: command {tf.command:02x}h",
                status,
                self.read(R.CMD680_TF_ERROR),
            )

    def command(self, device: int, tf: TaskFile, seconds: float = 15.0) -> tuple[int, int, int]:
        """Run a non-data command; return sector count, LBA mid and LBA high as the drive left them."""
        self._start(device, tf)
        self.wait_ready(seconds, want=R.ATA_DRDY)
        self._check(tf, device)
        return (
            self.read(R.CMD680_TF_NSECT),
            self.read(R.CMD680_TF_LBAM),
            self.read(R.CMD680_TF_LBAH),
        )

    def command_in(self, device: int, tf: TaskFile, seconds: float = 10.0) -> bytes:
        """Run a PIO command that returns one sector of 512 bytes."""
        self._start(device, tf)
        self.wait_ready(seconds, want=R.ATA_DRQ)
        self._check(tf, device)
        words = [self._r.read32(*self._tf) for _ in range(128)]
        return b"".join(word.to_bytes(4, "little") for word in words)
