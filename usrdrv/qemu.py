# SPDX-License-Identifier: MIT
"""A PCI device of QEMU's as a function: QEMU runs a machine that has the device and a processor that sleeps.

See docs/design/qemu.md.
"""

from __future__ import annotations

import errno
import os
import re
import resource
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final

from usrdrv.backends import _access
from usrdrv.base import errors
from usrdrv.base.process import Child
from usrdrv.names import QemuName, split_options

ffi, lib = _access.ffi, _access.lib

VARIABLE: Final = "USRDRV_QEMU"
PROGRAM: Final = "qemu-system-x86_64"
OLDEST: Final = (7, 0)
"""Version of QEMU that can do without a timer chip."""

MEMORY: Final = 256
"""MiB for DMA, if the name does not say."""
MOST_MEMORY: Final = 2047
"""MiB: this and what is below is what a q35 has below its PCI hole."""

# Addresses in the machine.
CONFIG: Final = 0xB000_0000
DEVICE: Final = CONFIG + (1 << 20)
"""Bus 1, slot 0."""
DOORBELL: Final = CONFIG + (2 << 15)
PORT: Final = CONFIG + (3 << 15)
DOORBELL_BAR: Final = 0xF800_0000
DOORBELL_REGISTER: Final = DOORBELL_BAR + 12
WINDOWS: Final = {
    "io": (0xC000, 0xD000),
    "low": (0xC000_0000, 0xF800_0000),
    "high": (1 << 36, 1 << 39),
}
"""Where the root port passes accesses on: ports, memory below 4 GiB, and prefetchable memory above it."""

OURS: Final = ("addr", "bus", "driver", "id")
"""Properties of the device that are not the user's to give."""
LOCKED: Final = 5.0
"""Seconds in which the kernel has ended a QEMU that was killed and holds an image."""
PATIENCE: Final = 30
"""Seconds; a QEMU that says nothing for so long is treated as gone."""
GRACE: Final = 2.0
"""Seconds that a QEMU has to end."""
WORD: Final = re.compile(r"[\w.-]+", re.ASCII)
"""Names of devices and options."""
LONGEST_INTERFACE: Final = 15
"""Characters; IFNAMSIZ less its NUL."""

_finders: list[Callable[[], tuple[list[str], dict[str, str]]]] = []


def register(find: Callable[[], tuple[list[str], dict[str, str]]]) -> None:
    """Have `find()` name a QEMU where this machine has none: the command's beginning, and its environment."""
    _finders[:] = [find]


def program() -> tuple[list[str], dict[str, str]]:
    """Return how QEMU is started here, and its environment. USRDRV_QEMU names a program; MissingToolError."""
    given = os.environ.get(VARIABLE)
    found = shutil.which(given or PROGRAM)
    if given and found is None:
        raise errors.MissingToolError(f"{VARIABLE}={given}: no such program")
    if found and (given or _version(found) >= OLDEST):
        return [found], dict(os.environ)
    if not _finders:
        raise errors.MissingToolError(
            f"{PROGRAM} {'.'.join(map(str, OLDEST))} or later is not installed "
            "(Debian package qemu-system-x86)"
        )
    return _finders[0]()


def _version(path: str) -> tuple[int, ...]:
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=False).stdout
    match = re.search(r"version (\d+)\.(\d+)", said)
    return tuple(map(int, match.groups())) if match else ()


def open_device(text: str, name: QemuName, stack: ExitStack) -> Any:
    """Return the struct usrdrv_dev of the device that `text` names; `stack` ends its QEMU.

    UsageError: QEMU refuses the device or its options, in QEMU's words.
    """
    options = _Options.of(text, name)
    deadline = time.monotonic() + LOCKED
    while True:
        try:
            return _Machine(text, options).hand_over(stack)
        except OSError as error:
            raise errors.DeviceError(f"{text}: {error.strerror}") from None
        except _LockedError as error:
            if time.monotonic() > deadline:
                raise errors.DeviceBusyError(str(error)) from None
            time.sleep(0.05)


class _LockedError(errors.UsageError):
    """Another QEMU has the image, perhaps one that is ending."""


@dataclass(frozen=True)
class _Options:
    """What a name asks for.

    properties: the device's own. drive: a raw image, of the device or of another `behind` it, such as ide-hd.
    tap, record: of a NIC, the interface that it is connected to, and a pcap file of what passes.
    """

    device: str
    properties: dict[str, str]
    memory: int = MEMORY
    drive: str | None = None
    behind: str | None = None
    tap: str | None = None
    record: str | None = None

    @classmethod
    def of(cls, text: str, name: QemuName) -> _Options:
        options = split_options(name.options)
        for word in (name.device, *options, options.get("behind", "x")):
            if not WORD.fullmatch(word):
                raise errors.UsageError(f"{text!r}: {word!r} is no name of a device or an option")
        for key, value in options.items():
            if key in OURS:
                raise errors.UsageError(f"{text}: {key} is not to be chosen")
            if not value.isprintable():
                raise errors.UsageError(f"{text}: {key} has characters that cannot be printed")
        memory = options.pop("memory", str(MEMORY))
        if not re.fullmatch("[0-9]{1,4}", memory) or not 1 <= int(memory) <= MOST_MEMORY:
            raise errors.UsageError(f"{text}: memory={memory} is not 1 to {MOST_MEMORY} (MiB)")
        if not 1 <= len(options.get("tap", "x")) <= LONGEST_INTERFACE:
            raise errors.UsageError(f"{text}: tap: a name has 1 to {LONGEST_INTERFACE} characters")
        own = {
            key: options.pop(key) for key in ("drive", "behind", "tap", "record") if key in options
        }
        return cls(name.device, options, int(memory), **own)

    def arguments(self) -> Iterator[tuple[str, str]]:
        """QEMU's, for the device and what is behind it: options with their values."""
        properties = dict(self.properties)
        if self.drive is not None:
            # Absolute: QEMU takes what is before a colon for a protocol.
            path = str(Path(self.drive).absolute())
            yield "-drive", _join("if=none,id=drive,format=raw", file=path)
        if self.drive is not None and self.behind is None:
            properties["drive"] = "drive"
        if self.tap is not None:
            yield "-netdev", _join("tap,script=no,downscript=no,id=net", ifname=self.tap)
        elif self.record is not None:
            yield "-netdev", "hubport,hubid=0,id=net"
        if self.tap is not None or self.record is not None:
            properties["netdev"] = "net"
        if self.record is not None:
            yield "-object", _join("filter-dump,id=record,netdev=net", file=self.record)
        yield "-device", _join(self.device, id="device", bus="root", addr="0", **properties)
        if self.behind is not None:
            drive = {"drive": "drive"} if self.drive is not None else {}
            yield "-device", _join(self.behind, bus="device.0", **drive)


def _join(first: str, **values: str) -> str:
    """An argument of QEMU's, where a comma ends a value."""
    return ",".join(
        [first, *(f"{key}={value.replace(',', ',,')}" for key, value in values.items())]
    )


def _most_files() -> None:
    """Let QEMU have a descriptor for each vector of a device, up to what this user may have."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def _rom() -> int:
    """Return a file with what the processor does: from its first instruction on it sleeps."""
    fd = os.memfd_create("usrdrv-rom", os.MFD_CLOEXEC)
    first = 0xFFF0
    cli, hlt, jump_back = b"\xfa", b"\xf4", b"\xeb\xfd"
    os.write(fd, (b"\0" * first + cli + hlt + jump_back).ljust(1 << 16, b"\0"))
    return fd


class _Machine:
    """A QEMU from its start until the access layer's C part has it."""

    def __init__(self, text: str, options: _Options) -> None:
        self._text = text
        self._memory = lib.USRDRV_QEMU_LOW + (options.memory << 20)
        command, environment = program()
        with ExitStack() as running, ExitStack() as ours, ExitStack() as theirs:
            self._ram = os.memfd_create("usrdrv-qemu", os.MFD_CLOEXEC)
            ours.callback(os.close, self._ram)
            os.ftruncate(self._ram, self._memory)
            rom = _rom()
            theirs.callback(os.close, rom)
            self._qtest, qtest = self._pair(ours, theirs)
            self._peers, peers = self._pair(ours, theirs)
            fds = (self._ram, rom, qtest.fileno(), peers.fileno())
            self._arguments = list(options.arguments())
            command = [*command, *_machine(self._memory, *fds), *chain(*self._arguments)]
            # What it was told to write is in the host's page cache: it may be killed.
            self._child = Child(
                PROGRAM,
                command,
                env=environment,
                pass_fds=fds,
                prepare=_most_files,
                parent_death=signal.SIGKILL,
            )
            running.callback(self._child.stop, GRACE)
            theirs.close()
            self._lines = ours.enter_context(self._qtest.makefile("rb"))
            try:
                self._introduce()
                self._bars = self._set_up()
            except OSError:
                raise self._refusal() from None
            self._files = ours.pop_all()
            self._running = running.pop_all()

    @staticmethod
    def _pair(ours: ExitStack, theirs: ExitStack) -> tuple[socket.socket, socket.socket]:
        one, other = socket.socketpair()
        for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
            one.setsockopt(socket.SOL_SOCKET, option, struct.pack("@ll", PATIENCE, 0))
        return ours.enter_context(one), theirs.enter_context(other)

    def _refusal(self) -> errors.UsrdrvError:
        """What QEMU says of the device, without its own name and the argument that is meant."""
        if not self._child.wait(PATIENCE):
            return errors.DeviceError(f"{self._text}: {PROGRAM} does not answer")
        said = [
            said for line in self._child.lines if (said := re.sub(r"^[^\s:]+: ", "", line)) != line
        ]
        if not said or (self._child.returncode or 0) <= 0:
            return errors.DeviceError(f"{self._text}: {PROGRAM} {self._child.status()}")
        why = said[-1]
        for option, value in self._arguments:
            why = why.removeprefix(f"{option} {value}: ")
        if 'Failed to get "' in why:
            return _LockedError(f"{self._text}: {why}")
        refused = why.endswith((os.strerror(errno.EACCES), os.strerror(errno.EPERM)))
        kind = errors.PermissionDeniedError if refused else errors.UsageError
        return kind(f"{self._text}: {why}")

    def _introduce(self) -> None:
        """Be the server of the doorbell's ivshmem: its version, its number, and memory that nobody uses."""
        with open(os.memfd_create("usrdrv-unused", os.MFD_CLOEXEC), "rb+") as unused:
            unused.truncate(4096)
            for number in (0, lib.USRDRV_QEMU_ITSELF):
                self._peers.sendall(struct.pack("<q", number))
            socket.send_fds(self._peers, [struct.pack("<q", -1)], [unused.fileno()])

    def ask(self, line: str) -> int:
        """Say a line of qtest's protocol, return the value of the answer. OSError: QEMU has ended."""
        self._qtest.sendall(f"{line}\n".encode())
        while answer := self._lines.readline().split():
            if answer[0] == b"OK":
                return int(answer[1], 16) if len(answer) > 1 else 0
        raise ConnectionResetError

    def read(self, address: int, width: str = "l") -> int:
        return self.ask(f"read{width} {address:#x}")

    def write(self, address: int, value: int, width: str = "l") -> None:
        self.ask(f"write{width} {address:#x} {value:#x}")

    def _set_up(self) -> list[_Bar]:
        """What a PC's firmware does: configuration space in memory, numbers of buses, addresses."""
        for register, value in ((0x64, 0), (0x60, CONFIG | 1)):  # PCIEXBAR of the host bridge
            self.ask(f"outl 0xcf8 {1 << 31 | register:#x}")
            self.ask(f"outl 0xcfc {value:#x}")
        self.write(DOORBELL + 0x10, DOORBELL_BAR)
        self.write(DOORBELL + 4, 2, "w")
        self._open_port()
        bars = self._assign()
        self.write(DEVICE + 4, 3, "w")
        self.ask("irq_intercept_in ioapic")
        return bars

    def _open_port(self) -> None:
        """Windows of the root port: PCI-to-PCI bridge architecture 1.2, 3.2.5."""
        (io, io_end), (low, low_end), (high, high_end) = WINDOWS.values()
        self.write(PORT + 0x18, 0x010100)
        self.write(PORT + 0x1C, io >> 8 | (io_end - 1) >> 8 << 8 & 0xF000, "w")
        self.write(PORT + 0x20, low >> 16 | (low_end - 1) & 0xFFF0_0000)
        self.write(PORT + 0x24, high >> 16 & 0xFFF0 | (high_end - 1) & 0xFFF0_0000)
        self.write(PORT + 0x28, high >> 32)
        self.write(PORT + 0x2C, high_end - 1 >> 32)
        self.write(PORT + 4, 7, "w")

    def _assign(self) -> list[_Bar]:
        """Find the BARs and give them addresses, the largest first."""
        bars = list(self._find_bars())
        free = {window: start for window, (start, _) in WINDOWS.items()}
        for bar in sorted(bars, key=lambda bar: -bar.size):
            bar.base = (free[bar.window] + bar.size - 1) & -bar.size
            free[bar.window] = bar.base + bar.size
            if free[bar.window] > WINDOWS[bar.window][1]:
                raise errors.DeviceError(
                    f"{self._text}: no room for BAR {bar.index} of {bar.size} bytes"
                )
            self.write(bar.register, bar.base & 0xFFFF_FFFF)
            if bar.flags & lib.USRDRV_BAR_64:
                self.write(bar.register + 4, bar.base >> 32)
        return bars

    def _find_bars(self) -> Iterator[_Bar]:
        """PCI 3.0, 6.2.5.1."""
        if self.read(DEVICE + 0x0E, "b") & 0x7F:
            raise errors.UsageError(f"{self._text}: it is a bridge")
        index = 0
        while index < lib.USRDRV_NUM_BARS:
            register = DEVICE + 0x10 + 4 * index
            kind = self.read(register)
            io, wide, prefetch = kind & 1, kind & 7 == 4, kind & 9 == 8
            mask = self._size_mask(register) & (~3 if io else ~15)
            if wide:
                mask |= self._size_mask(register + 4) << 32
            bits = 64 if wide else 16 if io else 32
            size = -mask & ((1 << bits) - 1)
            flags = io * lib.USRDRV_BAR_IO | wide * lib.USRDRV_BAR_64
            if size:
                yield _Bar(index, register, size, flags | prefetch * lib.USRDRV_BAR_PREFETCH)
            index += 2 if wide else 1

    def _size_mask(self, register: int) -> int:
        self.write(register, 0xFFFF_FFFF)
        return self.read(register)

    def hand_over(self, stack: ExitStack) -> Any:
        """Return the struct usrdrv_dev, to which descriptors of its own are given."""
        with self._running as running, self._files:
            machine = ffi.new(
                "struct usrdrv_qemu *",
                {
                    "qtest_fd": os.dup(self._qtest.fileno()),
                    "memory_fd": os.dup(self._ram),
                    "peers_fd": os.dup(self._peers.fileno()),
                    "memory": self._memory,
                    "doorbell": DOORBELL_REGISTER,
                    "config": DEVICE,
                    "bridge": PORT,
                },
            )
            for bar in self._bars:
                to = machine.bar[bar.index]
                to.base, to.size, to.flags = bar.base, bar.size, bar.flags
            out = ffi.new("struct usrdrv_dev **")
            result = lib.usrdrv_qemu_open(machine, out)
            if result == -errno.ENODEV:
                raise self._refusal()
            if result:
                raise errors.DeviceError(f"{self._text}: {os.strerror(-result)}")
            stack.push(running.pop_all())
        return out[0]


@dataclass
class _Bar:
    """A BAR: its register in the machine, bytes, USRDRV_BAR_*, and the address that it gets."""

    index: int
    register: int
    size: int
    flags: int
    base: int = 0

    @property
    def window(self) -> str:
        if self.flags & lib.USRDRV_BAR_IO:
            return "io"
        above = lib.USRDRV_BAR_64 | lib.USRDRV_BAR_PREFETCH
        return "high" if self.flags & above == above else "low"


def _machine(memory: int, ram: int, rom: int, qtest: int, peers: int) -> Sequence[str]:
    """QEMU's arguments for all but the device."""
    ram_file = f"memory-backend-file,id=ram,share=on,size={memory},mem-path=/proc/self/fd/{ram}"
    return [
        *("-machine", "q35,memory-backend=ram,hpet=off,pit=off,sata=off,smbus=off"),
        *("-accel", "tcg,tb-size=1", "-bios", f"/proc/self/fd/{rom}"),
        *("-nodefaults", "-no-user-config", "-display", "none"),
        *("-m", f"{memory >> 20}M", "-object", ram_file),
        *("-chardev", f"socket,id=peers,fd={peers}"),
        # As many vectors as a doorbell can name of each peer.
        *("-device", "ivshmem-doorbell,chardev=peers,vectors=256,addr=2"),
        *("-device", "pcie-root-port,id=root,chassis=1,addr=3"),
        *("-chardev", f"socket,id=qtest,fd={qtest}"),
        *("-qtest", "chardev:qtest", "-qtest-log", "none"),
    ]
