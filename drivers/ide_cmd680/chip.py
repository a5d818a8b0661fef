# SPDX-License-Identifier: MIT
"""The controller itself: bring-up and timing registers (docs/hardware/cmd680.md sections 8 and 9.1).

Config space is used throughout: it is there whether BAR5 is or not.
"""

from usrdrv.base import errors
from usrdrv.drivers.ide_cmd680 import _cmd680, modes
from usrdrv.drivers.ide_cmd680.modes import Mode, Protocol
from usrdrv.drivers.ide_cmd680.ports import Registers

R = _cmd680.lib

PCI_COMMAND = 0x04
PCI_REVISION = 0x08
PCI_CACHE_LINE = 0x0C
COMMAND_IO, COMMAND_MEMORY, COMMAND_MASTER = 1, 2, 4


class Chip:
    """Bring-up of the function, and the transfer mode of each drive."""

    def __init__(self, registers: Registers) -> None:
        self._r = registers
        self.fast_clock = False
        """133 MHz or twice the PCI clock: UDMA 6 is possible."""
        self._pio: dict[int, int] = {}

    def bring_up(self) -> None:
        """Steps 1 to 5 of section 9.1."""
        r = self._r
        if r.config_read(0, 4) != R.CMD680_VENDOR | R.CMD680_DEVICE << 16:
            raise errors.NoSuchDeviceError("not a CMD PCI-0680 controller")
        command = r.config_read(PCI_COMMAND, 2)
        r.config_write(PCI_COMMAND, 2, command | COMMAND_IO | COMMAND_MEMORY)
        r.config_write(PCI_CACHE_LINE, 1, 1 if r.config_read(PCI_REVISION, 1) else 255)
        r.config_write(R.CMD680_CFG_MODE0, 1, 0)
        r.config_write(R.CMD680_CFG_MODE1, 1, 0)

        at = R.CMD680_CFG_SYSCFG + 2
        value = r.config_read(at, 1) & 0x3F  # bits 7:6 block the interrupts
        if value & 0x30 == 0x00:
            value |= 0x10
        elif value & 0x30 == 0x30:
            value &= ~0x20
        r.config_write(at, 1, value)
        clock = r.config_read(at, 1) & 0x30
        if clock == 0x30:
            raise errors.DeviceError("the controller's ATA clock cannot be switched on")
        self.fast_clock = clock != 0x00

        for base in (R.CMD680_CFG_CH0, R.CMD680_CFG_CH1):
            r.config_write(base + 1, 1, 0x72)
            r.config_write(base + 2, 2, modes.SAFE_TASKFILE)
            r.config_write(base + 4, 4, modes.SAFE_PIO)
            r.config_write(base + 8, 4, modes.SAFE_MWDMA)
            r.config_write(base + 0xC, 4, modes.SAFE_UDMA)
        self._pio.clear()

    def grant_bus(self) -> None:
        """Let it reach memory; not before both engines are stopped, which may be at the last driver's transfers."""
        command = self._r.config_read(PCI_COMMAND, 2)
        self._r.config_write(PCI_COMMAND, 2, command | COMMAND_MASTER)

    def quiesce(self) -> None:
        """Take bus mastering away: nothing of this function reaches memory any more."""
        command = self._r.config_read(PCI_COMMAND, 2)
        self._r.config_write(PCI_COMMAND, 2, command & ~COMMAND_MASTER)

    def has_mmio(self) -> bool:
        """Tell whether BAR5 is strapped on (section 4.1.2)."""
        return bool(self._r.config_read(R.CMD680_CFG_SYSCFG + 2, 1) & 0x01)

    def set_mode(self, drive: int, mode: Mode, pio_highest: int, *, iordy: bool) -> None:
        """Program the timing of one drive (0 to 3) for `mode`, by the rules of section 8.

        PIO timing is set in any case: commands and IDENTIFY go that way.
        """
        self._set_pio(drive, mode.number if mode.protocol is Protocol.PIO else pio_highest, iordy)
        if mode.protocol is Protocol.PIO:
            return
        r, channel, device = self._r, drive // 2, drive % 2
        base = R.CMD680_CFG_CH0 + 0x10 * channel
        udma = mode.protocol is Protocol.UDMA
        r.config_write(base + 8 + 2 * device, 2, modes.MWDMA[2 if udma else mode.number])
        if udma:
            cycles = modes.UDMA_133MHZ if self.fast_clock else modes.UDMA_100MHZ
            old = r.config_read(base + 0xC + 2 * device, 2)
            new = (old & ~R.CMD680_UDMA_CYCLE_MASK) | cycles[mode.number]
            r.config_write(base + 0xC + 2 * device, 2, new)
        self._set_protocol(drive, R.CMD680_MODE_UDMA if udma else R.CMD680_MODE_MWDMA)

    def set_default_mode(self, drive: int) -> None:
        """Program the slowest timing: a drive that was reset may have forgotten its mode (section 9.4)."""
        self._set_pio(drive, 0, iordy=False)

    def _set_pio(self, drive: int, number: int, iordy: bool) -> None:
        r, channel, device = self._r, drive // 2, drive % 2
        base = R.CMD680_CFG_CH0 + 0x10 * channel
        self._pio[drive] = number
        slower = min(number, self._pio.get(drive ^ 1, number))
        r.config_write(base + 4 + 2 * device, 2, modes.PIO_DATA[number])
        r.config_write(base + 2, 2, modes.PIO_TASKFILE[slower])
        monitor = r.config_read(base, 2)
        # writing the W1C bits 10 and 12 back as read would clear what was not looked at
        monitor &= ~(R.CMD680_CHCFG_VDMA_INT | R.CMD680_CHCFG_WD_TIMEOUT | R.CMD680_CHCFG_IORDY)
        r.config_write(base, 2, monitor | (R.CMD680_CHCFG_IORDY if iordy else 0))
        self._set_protocol(drive, R.CMD680_MODE_PIO_IORDY if iordy else R.CMD680_MODE_PIO)

    def _set_protocol(self, drive: int, value: int) -> None:
        at = R.CMD680_CFG_MODE1 if drive // 2 else R.CMD680_CFG_MODE0
        shift = 4 * (drive % 2)
        old = self._r.config_read(at, 1)
        self._r.config_write(at, 1, (old & ~(0x3 << shift)) | value << shift)
