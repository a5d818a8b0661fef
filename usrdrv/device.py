# SPDX-License-Identifier: MIT
"""A claimed PCI function, for the Python part of a driver. The C part has struct usrdrv_dev (dev.h).

See docs/design/quiescing.md.
"""

from __future__ import annotations

import errno
import os
import resource
import select
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usrdrv import claim, functions, modelled, names, pci, qemu
from usrdrv.backends import _access
from usrdrv.base import errors
from usrdrv.base.closing import Closing

ffi, lib = _access.ffi, _access.lib

CONFIG: Final = lib.USRDRV_REGION_CONFIG
KINDS: Final = {
    "msix": lib.USRDRV_IRQ_MSIX,
    "msi": lib.USRDRV_IRQ_MSI,
    "intx": lib.USRDRV_IRQ_INTX,
}
"""Kinds of interrupts, best first."""
REPLY_TIMEOUT_MS: Final = 5000


@dataclass(frozen=True)
class Bar:
    """A base address register: `size` in bytes (0: there is none), I/O ports or memory."""

    size: int
    io: bool
    wide: bool = False
    """64 bits."""
    prefetchable: bool = False


class Interrupt:
    """One interrupt of a device; fileno() is its eventfd. It ends with its device, or when others are asked for."""

    def __init__(self, device: Device, number: int, fd: int) -> None:
        self._device = device
        self._fd = fd
        self.number = number
        """The vector's."""

    def fileno(self) -> int:
        return self._fd

    def wait(self, timeout: float | None) -> bool:
        """Wait for it (seconds; None: for ever). False: time is up, or the device has taken it back."""
        return self._device.wait(self._fd, timeout)


class DmaMemory:
    """Memory that the device reaches at `bus`; `buffer` is the CPU's view. Freed by free() or with its device."""

    def __init__(self, device: Device, size: int, align: int, limit: int) -> None:
        self._device = device
        self._dma = ffi.new("struct usrdrv_dma *")
        dev = device.c
        device.check(dev.ops.dma_alloc(dev, size, align, limit, self._dma), f"{size} bytes for DMA")
        self.bus = int(self._dma.bus)
        self.size = size
        self.buffer: Any = ffi.buffer(self._dma.cpu, size)

    def free(self) -> None:
        """Take it away from the device and give it back. Idempotent."""
        if self._dma.cpu != ffi.NULL:
            self.buffer = None
            self._device.c.ops.dma_free(self._device.c, self._dma)
            self._dma.cpu = ffi.NULL

    def forget(self) -> None:
        """The device gives it back together with everything else."""
        self.buffer = None
        self._dma.cpu = ffi.NULL


def _memory_limit(result: int) -> str:
    """Say that pinned memory is limited, if that may be why there was none."""
    limit, _ = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    if result != -errno.ENOMEM or limit == resource.RLIM_INFINITY or os.geteuid() == 0:
        return ""
    return f" (RLIMIT_MEMLOCK, ulimit -l, is {limit >> 10} KiB)"


class Device(Closing):
    """One PCI function, exclusively ours until close(). A context manager.

    Accesses are 8, 16, 32 or 64 bits wide; region is a BAR number. NoSuchDeviceError once the device is gone.
    Thread-safe between open and close. close() takes bus mastering away before any memory is released; in a
    forked child it does nothing, as the device is its parent's.
    """

    def __init__(self, name: str, c: Any, held: ExitStack | None = None, model: Any = None) -> None:
        self.name = name
        self._c = c
        self.model = model
        """The model object behind a `model:` name, for faults and counters; else None."""
        self._held = held or ExitStack()
        self._memory: list[DmaMemory] = []
        self._process = os.getpid()
        self._eventfds: list[int] = []
        """Of vectors other than the first; a vector keeps its own."""

    @property
    def c(self) -> Any:
        """The struct usrdrv_dev; UsageError once the device is closed."""
        if self._c is None:
            raise errors.UsageError(f"{self.name}: device is closed")
        return self._c

    @property
    def pointer(self) -> int:
        """Address of struct usrdrv_dev, for a driver's C part."""
        return int(ffi.cast("uintptr_t", self.c))

    @property
    def claim_fd(self) -> int:
        """The claim's file, for those in the kernel who map memory for the device; -1: there is none."""
        return int(self.c.claim_fd)

    @property
    def bars(self) -> list[Bar]:
        flags = (lib.USRDRV_BAR_IO, lib.USRDRV_BAR_64, lib.USRDRV_BAR_PREFETCH)
        return [Bar(int(b.size), *(bool(b.flags & flag) for flag in flags)) for b in self.c.bar]

    @property
    def vectors(self) -> dict[str, int]:
        """How many interrupts the function has of each kind: `msix`, `msi`, `intx`."""
        return {name: int(self.c.vectors[kind]) for name, kind in KINDS.items()}

    @property
    def irq_kind(self) -> str | None:
        """The kind of interrupts that are in use; None: none are."""
        return next((name for name, kind in KINDS.items() if kind == self.c.irq_kind), None)

    def check(self, result: int, what: str) -> None:
        """Raise for -errno."""
        if result == 0:
            return
        if result in (-errno.ENODEV, -errno.ECONNRESET):
            raise errors.NoSuchDeviceError(f"{self.name}: device is gone")
        why = f"{os.strerror(-result)}{_memory_limit(result)}"
        error = errors.DeviceError(f"{self.name}: {what}: {why}")
        error.errno = -result
        raise error

    def _read(self, region: int, offset: int, width: int) -> int:
        value = ffi.new("uint64_t *")
        result = self.c.ops.read(self.c, ffi.NULL, 0, region, offset, width, value)
        self.check(result, f"read of region {region} at {offset:#x}")
        return int(value[0])

    def _write(self, region: int, offset: int, width: int, value: int) -> None:
        if not 0 <= value < 1 << 8 * width:
            raise errors.UsageError(f"{self.name}: {value:#x} does not fit {8 * width} bits")
        write = ffi.new(
            "struct usrdrv_write *",
            {"region": region, "width": width, "offset": offset, "value": value},
        )
        result = self.c.ops.write_list(self.c, write, 1)
        self.check(result, f"write of region {region} at {offset:#x}")

    def read8(self, region: int, offset: int) -> int:
        return self._read(region, offset, 1)

    def read16(self, region: int, offset: int) -> int:
        return self._read(region, offset, 2)

    def read32(self, region: int, offset: int) -> int:
        return self._read(region, offset, 4)

    def read64(self, region: int, offset: int) -> int:
        return self._read(region, offset, 8)

    def write8(self, region: int, offset: int, value: int) -> None:
        self._write(region, offset, 1, value)

    def write16(self, region: int, offset: int, value: int) -> None:
        self._write(region, offset, 2, value)

    def write32(self, region: int, offset: int, value: int) -> None:
        self._write(region, offset, 4, value)

    def write64(self, region: int, offset: int, value: int) -> None:
        self._write(region, offset, 8, value)

    def config_read(self, offset: int, width: int) -> int:
        """Read 1, 2 or 4 bytes of configuration space."""
        return self._read(CONFIG, offset, width)

    def config_write(self, offset: int, width: int, value: int) -> None:
        self._write(CONFIG, offset, width, value)

    def dma_alloc(self, size: int, align: int = 4096, limit: int = 0xFFFFFFFF) -> DmaMemory:
        """Return zeroed memory whose bus addresses end at or below `limit`."""
        memory = DmaMemory(self, size, align, limit)
        self._memory.append(memory)
        return memory

    def irqs(self, count: int = 1, kind: str | None = None) -> list[Interrupt]:
        """Have `count` interrupts, in place of all before.

        kind: `msix`, `msi` or `intx`; None: the first of them that the function has so many of. MSI and MSI-X
        are not masked by an interrupt, and need no irq_unmask(). One that has come before stays until it is waited
        for. UsageError names what there is.
        """
        found = self.vectors
        fitting = [name for name in KINDS if found[name] >= count > 0 and kind in (None, name)]
        if not fitting:
            there = ", ".join(f"{name} {n}" for name, n in found.items() if n) or "none"
            what = kind or "interrupts"
            raise errors.UsageError(f"{self.name}: {count} {what} asked for; there are: {there}")
        try:
            while len(self._eventfds) < count - 1:
                self._eventfds.append(os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK))
        except OSError as error:
            raise errors.DeviceError(
                f"{self.name}: {count} {fitting[0]}: {error.strerror}"
            ) from error
        fds = [int(self.c.irq_fd), *self._eventfds][:count]
        result = self.c.ops.irq_connect(self.c, KINDS[fitting[0]], fds, count)
        self.check(result, f"{count} {fitting[0]}")
        return [Interrupt(self, number, fd) for number, fd in enumerate(fds)]

    def irq_wait(self, timeout: float | None) -> bool:
        """Wait for the first interrupt (seconds; None: for ever). INTx stays masked until irq_unmask().

        Return False if there is none: time is up, or the device has taken it back.
        """
        return self.wait(self.c.irq_fd, timeout)

    def wait(self, fd: int, timeout: float | None) -> bool:
        """Wait for the eventfd of an interrupt; NoSuchDeviceError once the device is gone."""
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        if self.c.hangup_fd >= 0:
            poll.register(self.c.hangup_fd, self.c.hangup_events)
        ready = poll.poll(None if timeout is None else timeout * 1000)
        if self.c.gone or any(fd == self.c.hangup_fd for fd, _ in ready):
            self.check(-errno.ENODEV, "interrupt")
        return bool(ready) and _take_count(fd)

    def irq_unmask(self) -> None:
        """Let the next INTx through; one still raised comes again."""
        self.check(self.c.ops.irq_unmask(self.c, ffi.NULL, 0), "interrupt")

    def reset(self) -> None:
        """Reset the function."""
        self.check(self.c.ops.reset(self.c), "reset")

    def close(self) -> None:
        """Quiesce the function and give everything back. Idempotent."""
        if self._c is None or self._process != os.getpid():
            return
        for memory in self._memory:
            memory.forget()
        self._c.ops.close(self._c)  # bus mastering off before memory goes, whatever the device says
        self._c = None
        for fd in self._eventfds:
            os.close(fd)
        self._held.close()


def _take_count(eventfd: int) -> bool:
    """Empty an eventfd, which a server shares and may have emptied and made one whose readers wait."""
    try:
        return os.preadv(eventfd, [bytearray(8)], -1, os.RWF_NOWAIT) > 0
    except BlockingIOError:
        return False


def open_device(text: str) -> Device:
    """Claim and open the device named `text` (see usrdrv.names).

    UsageError: no name; NoSuchDeviceError: nothing there; DeviceBusyError: names the owner's pid.
    """
    name = names.parse(text)
    match name:
        case names.ModelName():
            return _open_model(text, name)
        case names.VfioUserName():
            return _open_vfio_user(text, name.path)
        case names.QemuName():
            with ExitStack() as held:
                c = qemu.open_device(text, name, held)
                return Device(text, c, held.pop_all())
        case names.PciName():
            return _open_function(pci.Function(name.address))
        case names.NullName():
            raise errors.UsageError(f"{text}: a disk in memory is no PCI function")


def _open_model(text: str, name: names.ModelName) -> Device:
    model = modelled.create(name)
    out = ffi.new("struct usrdrv_dev **")
    result = lib.usrdrv_inproc_open(ffi.cast("struct usrdrv_model *", model.pointer), out)
    if result:
        model.close()
        raise errors.DeviceError(f"{text}: {os.strerror(-result)}")
    held = ExitStack()
    held.callback(model.close)
    return Device(text, out[0], held, model)


def _open_function(function: pci.Function) -> Device:
    if not function.exists:
        raise errors.NoSuchDeviceError(f"{function.address}: no such PCI device")
    with ExitStack() as stack:
        stack.enter_context(claim.Claim(function.address))
        c = functions.open_function(function, stack)
        return Device(function.address, c, stack.pop_all())


def _open_vfio_user(text: str, path: Path) -> Device:
    held = ExitStack()
    held.enter_context(claim.Claim(f"vfio-user:{path.resolve()}"))
    out = ffi.new("struct usrdrv_dev **")
    result = lib.usrdrv_vfio_user_open(os.fsencode(path), REPLY_TIMEOUT_MS, out)
    if result == 0:
        return Device(text, out[0], held)
    held.close()
    match -result:
        case errno.ENOENT | errno.ENOTDIR:
            raise errors.NoSuchDeviceError(f"{text}: no such socket")
        case errno.ECONNREFUSED:
            raise errors.NoSuchDeviceError(f"{text}: nobody serves this socket")
        case errno.ENODEV | errno.EPROTO:
            raise errors.NoSuchDeviceError(f"{text}: no PCI device answers there")
        case errno.EBUSY:
            raise errors.DeviceBusyError(f"{text}: the server has another client")
        case errno.EAGAIN:
            raise errors.DeviceBusyError(f"{text}: the server does not accept clients")
        case errno.EACCES | errno.EPERM:
            raise errors.PermissionDeniedError(f"{text}: no right to connect")
        case code:
            raise errors.DeviceError(f"{text}: {os.strerror(code)}")
