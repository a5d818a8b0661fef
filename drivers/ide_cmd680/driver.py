# SPDX-License-Identifier: MIT
"""The control plane of the CMD680 driver: find drives, set modes, recover, report.

Sections refer to docs/hardware/cmd680.md. The data path is C: the front end of usrdrv.block, and what the chip
adds to it (ide.h). It freezes a channel that met an error, and the thread that runs `_recover_loop` here decides
how that goes on.
"""

import errno
import logging
import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Any, Final

from usrdrv.base import errors
from usrdrv.base.closing import Closing
from usrdrv.block import Block, front
from usrdrv.block import options as shared
from usrdrv.block.front import FrontEnd, ZeroCopy
from usrdrv.device import Device
from usrdrv.drivers.ide_cmd680 import _cmd680, describe, health, identify, modes, policy
from usrdrv.drivers.ide_cmd680.chip import Chip
from usrdrv.drivers.ide_cmd680.health import Smart
from usrdrv.drivers.ide_cmd680.identify import Identity
from usrdrv.drivers.ide_cmd680.modes import Mode, Protocol
from usrdrv.drivers.ide_cmd680.policy import Event, Slower
from usrdrv.drivers.ide_cmd680.ports import Channel, CommandError, CommandTimeoutError, TaskFile
from usrdrv.ratelimit import Limited

ffi, lib = _cmd680.ffi, _cmd680.lib
log: Final = logging.getLogger("usrdrv.ide_cmd680")

HEALTH_TIMEOUT: Final = 8.0
"""Seconds; less than who asks waits for an answer (usrdrv.lines)."""


@dataclass(frozen=True)
class Options(shared.Options):
    """How to drive the controller. Times in seconds."""

    highest_mode: Mode | None = None
    """Never faster than this; a PIO mode turns DMA off."""
    mmio: bool = True
    """Registers through BAR5 if it is there, else through the I/O BARs."""
    timeout: float = 10.0
    """A read or write that takes longer is treated as hung."""
    flush_timeout: float = 30.0
    lost_timeout: float = 0.5
    """After this a command without an interrupt is looked at."""
    reset_timeout: float = 10.0
    """How long a drive may stay busy after a soft reset."""
    spin_up_timeout: float = 31.0
    """How long it may take from power-on, or from being told to spin up, to its first answer (section 7.3)."""


@dataclass
class Recovery:
    """Counts of what the error policy did on one drive."""

    media_errors: int = 0
    refused: int = 0
    crc_errors: int = 0
    timeouts: int = 0
    host_bus_errors: int = 0
    faults: int = 0
    resets: int = 0
    hard_resets: int = 0
    speed_downs: int = 0
    pio_fallbacks: int = 0
    failed_commands: int = 0


_COUNTER: Final = {
    policy.Kind.MEDIA: "media_errors",
    policy.Kind.REFUSED: "refused",
    policy.Kind.CRC: "crc_errors",
    policy.Kind.TIMEOUT: "timeouts",
    policy.Kind.HOST: "host_bus_errors",
    policy.Kind.FAULT: "faults",
}


class Drive:
    """One disk. `index` is channel * 2 + device."""

    def __init__(self, index: int, identity: Identity, mode: Mode, smart: Smart | None) -> None:
        self.index = index
        self.identity = identity
        self.transfer_mode = mode
        self.smart = smart
        self.history = policy.History()
        self.recovery = Recovery()
        self.offline = False
        self.block: Block

    @property
    def mode(self) -> str:
        """The transfer mode, such as `UDMA6`."""
        return str(self.transfer_mode)

    def describe(self) -> dict[str, Any]:
        """Return what is known of it, as JSON has it."""
        return describe.known(self)

    def rows(self) -> dict[str, str]:
        """Return the same for people."""
        return describe.rows(self.describe())


class Controller(Closing):
    """A CMD680 with its drives, ready for requests. A context manager; close() quiesces the chip."""

    def __init__(self, device: Device, options: Options | None = None) -> None:
        self._device = device
        self._options = options or Options()
        self._repeated = Limited(log, device.name)
        self._chip = Chip(device)
        self._chip.bring_up()
        mmio = self._options.mmio and self._chip.has_mmio()
        self._channels = [Channel(device, n, mmio=mmio, tell=self._tell) for n in (0, 1)]
        for channel in self._channels:
            channel.stop_engine()
        self._chip.grant_bus()
        self._thread: threading.Thread | None = None
        self._closed = False
        self.gone = threading.Event()
        """Set when there is no way on with the device."""
        self.vanished = False
        """Once `gone` is set: whether that is because nothing answers; else we did what cannot be done."""
        self.queues = 1
        self.unserved = threading.Event()
        """Set when a port of a disk has ended, after serve()."""
        self._drives: list[Drive | None] = [None] * 4
        self._zero_copied: set[int] = set()
        self._asking = threading.Lock()
        self._asked = [threading.Event() for _ in self._channels]
        try:
            self._probe_all()
            self._ide, self._front = self._create_data_path(mmio)
        except BaseException:
            self._chip.quiesce()
            raise
        self._thread = threading.Thread(target=self._recover_loop, name="ide-recovery", daemon=True)
        self._thread.start()

    @property
    def drives(self) -> tuple[Drive | None, ...]:
        """Four entries; None where nothing is attached."""
        return tuple(self._drives)

    @property
    def claim_fd(self) -> int:
        """The claim's file, for those in the kernel who map memory for the device; -1: there is none."""
        return self._device.claim_fd

    # bring-up

    def _tell(self, text: str) -> None:
        """Hear of a channel that keeps us waiting."""
        self._repeated.tell(logging.WARNING, "waiting", "%s", text)

    def _probe_all(self) -> None:
        """Reset both channels, so that all drives spin up at once, then see what there is."""
        deadline = time.monotonic() + self._options.spin_up_timeout
        for channel in self._channels:
            channel.start_reset()
        for channel in self._channels:
            try:
                found = channel.end_reset(max(deadline - time.monotonic(), 0.1))
            except CommandTimeoutError as error:
                log.warning("%s: %s", self._device.name, error)
                continue
            self._probe(channel, [device for device in (0, 1) if found[device]])

    def _probe(self, channel: Channel, devices: list[int]) -> None:
        """Identify both before either is sped up: the task file's timing is the channel's (section 8)."""
        identities: dict[int, Identity] = {}
        for device in devices:
            with self._usable(channel, device):
                identities[device] = self._identify(channel, device, self._options.spin_up_timeout)
                self._chip.set_default_mode(channel.number * 2 + device)
        for device, identity in identities.items():
            with self._usable(channel, device):
                drive = self._set_up(channel, device, identity)
                self._drives[drive.index] = drive

    @contextmanager
    def _usable(self, channel: Channel, device: int) -> Iterator[None]:
        """Go on without a drive that turns out not to be one that we can use, and say why."""
        try:
            yield
        except (CommandError, CommandTimeoutError, ValueError) as error:
            index = channel.number * 2 + device
            log.warning("%s: drive %d is not usable: %s", self._device.name, index, error)

    def _identify(self, channel: Channel, device: int, seconds: float) -> Identity:
        """Ask a drive what it is; one that powered up in standby is told to spin up first (section 7.5, word 2)."""
        data = channel.command_in(device, TaskFile(lib.ATA_IDENTIFY), seconds)
        wants = identify.spin_up(data)
        if wants is identify.SpinUp.NOTHING:
            return identify.parse(data)
        log.info("%s: drive %d spins up", self._device.name, channel.number * 2 + device)
        how = TaskFile(lib.ATA_IDLE_IMMEDIATE)
        if wants is identify.SpinUp.SET_FEATURES:
            how = TaskFile(lib.ATA_SET_FEATURES, features=lib.ATA_SF_SPIN_UP)
        try:
            channel.command(device, how, self._options.spin_up_timeout)
        except CommandError as error:  # it may have spun up before; what it says next tells
            log.info("%s: %s", self._device.name, error)
        return identify.parse(channel.command_in(device, TaskFile(lib.ATA_IDENTIFY), seconds))

    def _set_up(self, channel: Channel, device: int, identity: Identity) -> Drive:
        index = channel.number * 2 + device
        mode = self._choose_mode(channel, identity)
        identity, mode = self._program(channel, index, identity, mode)
        log.info("%s: drive %d: %s, %s", self._device.name, index, identity.model, mode)
        return Drive(index, identity, mode, self._read_smart(channel, device, identity))

    def _choose_mode(self, channel: Channel, identity: Identity) -> Mode:
        highest = self._options.highest_mode
        pio = Mode(Protocol.PIO, identity.pio_highest)
        udma, mwdma = identity.udma_mask, identity.mwdma_mask
        if highest is not None:
            if highest.protocol is Protocol.PIO:
                return Mode(Protocol.PIO, min(highest.number, pio.number))
            upto = (2 << highest.number) - 1
            udma &= upto if highest.protocol is Protocol.UDMA else 0
            mwdma &= upto if highest.protocol is Protocol.MWDMA else 7
        best = modes.best_dma(
            udma, mwdma, cable80=channel.cable80(), fast_clock=self._chip.fast_clock
        )
        return best if identity.dma and best is not None else pio

    def _program(
        self, channel: Channel, index: int, identity: Identity, mode: Mode
    ) -> tuple[Identity, Mode]:
        """Set host, then drive, then see whether the drive agrees (section 8).

        Return its new identity, and the mode: a drive that has PIO alone may refuse to be told, as old
        CompactFlash cards do, and is in its default one then (section 7.4).
        """
        device = index % 2
        self._chip.set_mode(index, mode, identity.pio_highest, iordy=identity.iordy)
        tf = TaskFile(lib.ATA_SET_FEATURES, features=lib.ATA_SF_XFER_MODE, count=mode.code)
        try:
            channel.command(device, tf)
        except CommandError:
            if mode.dma:
                raise
            mode = Mode(Protocol.PIO, min(mode.number, modes.HIGHEST_PIO_DEFAULT))
            self._chip.set_mode(index, mode, mode.number, iordy=False)
        after = identify.parse(channel.command_in(device, TaskFile(lib.ATA_IDENTIFY)))
        if mode.dma and after.selected != str(mode):
            raise errors.DeviceError(f"drive {index} selected {after.selected} instead of {mode}")
        return after, mode

    def _read_smart(self, channel: Channel, device: int, identity: Identity) -> Smart | None:
        if not identity.smart:
            return None
        try:
            return health.read(channel, device)
        except (CommandError, ValueError) as error:
            log.warning("%s: no SMART: %s", self._device.name, error)
            return None

    def _create_data_path(self, mmio: bool) -> tuple[Any, FrontEnd]:
        out = ffi.new("struct ide **")
        pointer = ffi.cast("struct usrdrv_dev *", self._device.pointer)
        self._device.check(lib.ide_create(pointer, mmio, out), "DMA memory")
        ide, options = out[0], self._options
        end = FrontEnd(_cmd680, lib.ide_front(ide), self._device.name, options)
        end.set_limits(options.timeout, options.flush_timeout, options.lost_timeout)
        for drive in self._drives:
            if drive is not None:
                lib.ide_configure(ide, drive.index, self._conf(drive))
                drive.block = end.block(drive.index)
        self._enable_interrupts()
        try:
            end.start()
        except errors.UsrdrvError:
            lib.ide_destroy(ide)
            raise
        return ide, end

    def _conf(self, drive: Drive) -> Any:
        identity = drive.identity
        return ffi.new(
            "struct ide_drive_conf *",
            {
                "sectors": identity.sectors,
                "physical_block": identity.physical_block,
                "read_only": self._options.read_only,
                "rotational": identity.rpm != 1,
                "lba48": identity.lba48,
                "fua": identity.fua,
                "trim": identity.trim,
                "flush": identity.flush,
                "dma": drive.transfer_mode.dma,
            },
        )

    def _enable_interrupts(self) -> None:
        for channel in self._channels:
            channel.stop_engine()
            channel.control(lib.ATA_CTL_OBS)

    def zero_copy(self, index: int) -> ZeroCopy | None:
        """Return what serve() takes if the kernel is not to copy a drive's data; None: it has to."""
        drive = self._drives[index]
        if self._device.claim_fd < 0 or drive is None or not drive.transfer_mode.dma:
            return None
        sectors = lib.IDE_MAX_SECTORS if drive.identity.lba48 else lib.IDE_MAX_SECTORS_28
        # a PRD entry must not cross 64 KiB, section 6.1
        return ZeroCopy(sectors * 512, lib.IDE_PRDS, lib.BLOCK_SEGMENT_BYTES - 1)

    # recovery

    def _recover_loop(self) -> None:
        while (found := self._front.wait_event()) is not None:
            number, event = found
            if event.kind == lib.BLOCK_EVENT_GONE:
                self._give_up(event.error)
            elif event.kind == lib.BLOCK_EVENT_UNSERVED:
                self.unserved.set()
            elif (verdict := self._decide(self._channels[number], event)) is not None:
                self._front.resume(number, verdict)

    def _decide(self, channel: Channel, event: front.Event) -> int | None:
        """Do what a channel is frozen for; return BLOCK_RETRY or another verdict. None: the device is gone."""
        try:
            if event.kind == lib.BLOCK_EVENT_PAUSED:
                self._renew_health(channel)
                return int(lib.BLOCK_DONE)
            raw = ffi.new("struct ide_error *")
            lib.ide_get_error(self._ide, channel.number, raw)
            return self._handle(channel, Event.of(event, raw))
        except errors.NoSuchDeviceError:
            self._front.lose()
            return None
        except errors.UsrdrvError as error:
            log.error("%s: recovery failed: %s", self._device.name, error)
        except Exception:
            log.exception("%s: recovery failed", self._device.name)
        self._take_offline(channel.number)
        return int(lib.BLOCK_FAIL)

    def _give_up(self, error: int) -> None:
        self.vanished = error == errno.ENODEV
        why = "device is gone" if self.vanished else f"register access: {os.strerror(error)}"
        log.error("%s: %s", self._device.name, why)
        self.gone.set()

    def _handle(self, channel: Channel, event: Event) -> int:
        """Carry the policy's decision out; return the verdict."""
        drive = self._drives[event.drive]
        assert drive is not None
        kind = event.classify()
        decision = drive.history.decide(event, time.monotonic(), dma=self._can_slow_down(drive))
        counter = _COUNTER[kind]
        setattr(drive.recovery, counter, getattr(drive.recovery, counter) + 1)
        what = kind.name.lower()
        self._repeated.tell(
            logging.WARNING,
            f"drive {drive.index}: {what}",
            "drive %d: %s at sector %d of command %02xh, sectors %d+%d, try %d: "
            "status %02x error %02x bus master %02x; %s%s%s",
            drive.index,
            what,
            event.bad_sector if kind is policy.Kind.MEDIA else event.sector,
            event.command,
            event.sector,
            event.sectors,
            event.tries + 1,
            event.status,
            event.error,
            event.bm_status,
            "reset, " if decision.reset else "",
            f"slower ({decision.slower.name.lower()}), " if decision.slower != Slower.NO else "",
            decision.verdict.name.lower(),
        )
        if decision.slower is not Slower.NO:
            self._slow_down(drive, decision.slower)
        if decision.reset:
            drive.recovery.resets += 1
            self._reset(channel)
        self._resume_interrupts(channel)
        if decision.verdict is policy.Verdict.FAIL or drive.offline:
            drive.recovery.failed_commands += 1
            self._repeated.tell(
                logging.ERROR,
                f"drive {drive.index}: I/O error",
                "drive %d: I/O error, sector %d",
                drive.index,
                event.bad_sector if kind is policy.Kind.MEDIA else event.sector,
            )
            return int(lib.BLOCK_FAIL)
        return int(decision.verdict.value)

    def _resume_interrupts(self, channel: Channel) -> None:
        channel.stop_engine()
        channel.control(lib.ATA_CTL_OBS)

    def _can_slow_down(self, drive: Drive) -> bool:
        """Whether there is a slower mode: not in PIO, nor in the slowest DMA mode if we never see the data."""
        mode, identity = drive.transfer_mode, drive.identity
        if not mode.dma or drive.index not in self._zero_copied:
            return mode.dma
        return modes.slower(mode, identity.udma_mask, identity.mwdma_mask) is not None

    def _slow_down(self, drive: Drive, slower: Slower) -> None:
        """Choose the next mode of the ladder; the reset that follows programs it."""
        identity, mode = drive.identity, drive.transfer_mode
        new: Mode | None = None
        if slower is Slower.STEP:
            new = modes.slower(mode, identity.udma_mask, identity.mwdma_mask)
        elif slower is Slower.CABLE40:
            limit = (2 << modes.HIGHEST_UDMA_40_WIRE) - 1
            if mode.protocol is Protocol.UDMA and mode.number <= modes.HIGHEST_UDMA_40_WIRE:
                new = modes.slower(mode, identity.udma_mask, identity.mwdma_mask)
            else:
                new = modes.best_dma(
                    identity.udma_mask & limit, identity.mwdma_mask, cable80=False, fast_clock=True
                )
        if new is None and drive.index in self._zero_copied:
            new = modes.slowest_dma(identity.udma_mask, identity.mwdma_mask)
        if new is None:
            new = Mode(Protocol.PIO, identity.pio_highest)
            drive.recovery.pio_fallbacks += 1
        drive.recovery.speed_downs += 1
        drive.transfer_mode = new
        lib.ide_set_protocol(self._ide, drive.index, new.dma)
        log.warning(
            "%s: drive %d: speed limited from %s to %s", self._device.name, drive.index, mode, new
        )

    def _reset(self, channel: Channel) -> None:
        """Reset a channel, soft first and hard at last, and set its drives up again (section 9.4)."""
        mine = [d for d in self._drives if d is not None and d.index // 2 == channel.number]
        for attempt in range(3):
            seconds = self._options.reset_timeout
            if attempt == 2:
                seconds = self._options.spin_up_timeout  # its power may have failed
                channel.hard_reset()
                for drive in mine:
                    drive.recovery.hard_resets += 1
            try:
                found = channel.soft_reset(seconds)
            except CommandTimeoutError as error:
                what = f"channel {channel.number}: reset"
                self._repeated.tell(logging.WARNING, what, "%s: %s", what, error)
                continue
            for drive in mine:
                self._chip.set_default_mode(drive.index)
            for drive in mine:
                self._revive(channel, drive, found[drive.index % 2])
            return
        self._take_offline(channel.number)

    def _revive(self, channel: Channel, drive: Drive, present: bool) -> None:
        """See that a drive is the one it was, and set its mode; else take it out of service."""
        if drive.offline:
            return
        try:
            if not present:
                raise errors.NoSuchDeviceError("it does not answer any more")
            identity = self._identify(channel, drive.index % 2, self._options.reset_timeout)
            if (identity.model, identity.serial) != (drive.identity.model, drive.identity.serial):
                raise errors.NoSuchDeviceError("another drive is in its place")
            _, drive.transfer_mode = self._program(
                channel, drive.index, identity, drive.transfer_mode
            )
        except (errors.UsrdrvError, ValueError) as error:
            if isinstance(error, errors.NoSuchDeviceError) and self.gone.is_set():
                raise
            log.error("%s: drive %d is out of service: %s", self._device.name, drive.index, error)
            drive.offline = True
            self._front.offline(drive.index)

    def _take_offline(self, channel: int) -> None:
        for drive in self._drives:
            if drive is not None and drive.index // 2 == channel and not drive.offline:
                log.error("%s: drive %d is out of service", self._device.name, drive.index)
                drive.offline = True
                self._front.offline(drive.index)

    def serve(self, index: int, ports: Sequence[int], zero_copy: bool) -> None:
        """Take requests for a drive from ports, until close() or until one ends.

        zero_copy: the drive is never slowed down to PIO, which needs an address of ours.
        """
        if zero_copy:
            self._zero_copied.add(index)
        self._front.serve(index, ports)

    # reporting and end

    def ask_health(self) -> None:
        """Have each drive's `smart` be what it says now, asked between two of its commands. From any thread.

        Of a drive that keeps us waiting it stays what it said last.
        """
        until = time.monotonic() + HEALTH_TIMEOUT
        used = {drive.index // 2 for drive in self._drives if drive is not None}
        if not self._asking.acquire(timeout=HEALTH_TIMEOUT):
            return
        try:
            for number in used:
                self._asked[number].clear()
                if self._front.pause(number):
                    self._asked[number].wait(max(until - time.monotonic(), 0) / 2)
        finally:
            self._asking.release()

    def _renew_health(self, channel: Channel) -> None:
        try:
            self._ask_drives(channel)
        finally:
            self._asked[channel.number].set()

    def _ask_drives(self, channel: Channel) -> None:
        try:
            for drive in self._drives:
                if drive is not None and drive.index // 2 == channel.number and not drive.offline:
                    now = self._read_smart(channel, drive.index % 2, drive.identity)
                    drive.smart = now or drive.smart
        except CommandTimeoutError as error:
            log.warning("%s: %s", self._device.name, error)
            self._reset(channel)
        self._resume_interrupts(channel)

    def stats(self) -> dict[str, object]:
        """Return the counters of both channels and what recovery did on each drive."""
        channels = [self._front.counters(number) for number in range(lib.IDE_CHANNELS)]
        drives = {
            str(drive.index): {
                "mode": drive.mode,
                "offline": drive.offline,
                **asdict(drive.recovery),
            }
            for drive in self._drives
            if drive is not None
        }
        return {"channels": channels, "drives": drives, "usrloop_calls": self._front.calls()}

    def close(self) -> None:
        """End all requests with ENODEV, flush the drives' caches and quiesce the chip. Idempotent."""
        if self._closed:
            return
        self._closed = True
        self._front.stop()
        if self._thread is not None:
            self._thread.join()
        self._repeated.close()
        try:
            for channel in self._channels:
                channel.stop_engine()
            self._flush_caches()
            self._chip.quiesce()
        except errors.NoSuchDeviceError:
            log.debug("%s: closed after the device vanished", self._device.name)
        lib.ide_destroy(self._ide)

    def _flush_caches(self) -> None:
        for drive in self._drives:
            if (
                drive is None
                or drive.offline
                or not drive.identity.flush
                or self._options.read_only
            ):
                continue
            flush = lib.ATA_FLUSH_CACHE_EXT if drive.identity.lba48 else lib.ATA_FLUSH_CACHE
            channel = self._channels[drive.index // 2]
            try:
                channel.command(drive.index % 2, TaskFile(flush), self._options.flush_timeout)
            except (CommandError, CommandTimeoutError) as error:
                log.error(
                    "%s: drive %d: cache flush at close: %s", self._device.name, drive.index, error
                )
