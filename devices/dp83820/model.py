# SPDX-License-Identifier: MIT
"""The DP83820 model with its EEPROM, PHY and wire, made and broken from Python."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from usrdrv.base.errors import (
    DeviceBusyError,
    DeviceError,
    MissingToolError,
    PermissionDeniedError,
    UsageError,
    UsrdrvError,
)
from usrdrv.devices._models import ffi, lib
from usrdrv.devices.base.c_model import Model
from usrdrv.devices.base.options import flag, number
from usrdrv.devices.dp83820.faults import NicFault
from usrdrv.names import split_options

TUNSETIFF: Final = 0x400454CA
IFF_TAP: Final = 0x0002
IFF_NO_PI: Final = 0x1000
CABLE_NAME: Final = 80


@dataclass(frozen=True)
class NicSpec:
    """What is soldered and plugged in. At most one of cable, tap, loop, and replay with record."""

    mac: bytes | None = None
    cable: str | None = None
    """The other end is the model that names the same cable."""
    tap: str | None = None
    """The other end is this TAP interface of the host; made if it is not there."""
    replay: Path | None = None
    record: Path | None = None
    """The other end is a pcap file."""
    paced: bool = False
    """Replay with the file's own times."""
    loop: bool = False
    rate: int = 0
    """Mb/s; 0: as fast as the other end takes it."""
    fibre: bool = False
    phy: int = 1
    subsystem: tuple[int, int] = (0x1186, 0x4900)
    reset_all: bool = False
    """A soft reset clears the configuration too."""
    rev_a: bool = False
    pci64: bool = False

    def __post_init__(self) -> None:
        if self.mac is not None and (len(self.mac) != 6 or self.mac[0] & 1 or not any(self.mac)):
            raise UsageError(f"mac={self.mac.hex(':')}: not the address of a station")
        wires = [self.cable, self.tap, self.loop or None, self.replay or self.record]
        if sum(wire is not None for wire in wires) > 1:
            raise UsageError("a NIC has one wire: cable, tap, loop, or replay and record")
        if self.cable is not None and not 0 < len(os.fsencode(self.cable)) <= CABLE_NAME:
            raise UsageError(f"cable={self.cable}: 1 to {CABLE_NAME} bytes")
        if not 0 <= self.rate <= 100_000:
            raise UsageError(f"rate={self.rate}: 0 to 100000 Mb/s")
        if not 1 <= self.phy <= 31:
            raise UsageError(f"phy={self.phy}: 1 to 31")

    def address(self) -> bytes:
        """The MAC address; without one given, made of what else is, so that it is the same again."""
        if self.mac is not None:
            return self.mac
        name = f"{self.cable}{self.tap}{self.replay}{self.record}{os.getpid()}"
        return b"\x02\x00" + zlib.crc32(name.encode()).to_bytes(4, "big")


class Dp83820Model(Model):
    """A NIC."""

    kind = "dp83820"
    fault_type = NicFault

    def __init__(self, spec: NicSpec) -> None:
        self.spec = spec
        config = ffi.new("struct dp83820_config *")
        config.mac = spec.address()
        config.subvendor, config.subdevice = spec.subsystem
        config.fibre, config.phy = spec.fibre, spec.phy
        config.reset_all, config.rev_a, config.pci64 = spec.reset_all, spec.rev_a, spec.pci64
        config.rate = spec.rate
        with ExitStack() as stack:
            _plug_in(config, spec, stack)
            out = ffi.new("struct usrdrv_model **")
            err = lib.dp83820_create(config, out)
        if err == -errno.EBADMSG:
            raise UsageError(f"{spec.replay}: not a pcap file of Ethernet frames")
        if err:
            raise UsrdrvError(f"cannot make the DP83820 model: {os.strerror(-err)}")
        super().__init__(out[0])

    @property
    def link(self) -> int:
        """Speed of the link in Mb/s; 0: down."""
        return int(self._call("link"))

    def status(self) -> dict[str, Any]:
        """What the model is made of, and whether it has a link."""
        spec = self.spec
        return {
            "model": self.kind,
            "mac": spec.address().hex(":"),
            "cable": spec.cable,
            "tap": spec.tap,
            "rate": spec.rate,
            "link": self.link,
        }


MODEL = Dp83820Model


def _plug_in(config: Any, spec: NicSpec, stack: ExitStack) -> None:
    config.wire_fd = config.record_fd = -1
    if spec.cable is not None:
        config.wire, config.cable = lib.DP83820_WIRE_CABLE, os.fsencode(spec.cable)
    elif spec.tap is not None:
        config.wire, config.wire_fd = lib.DP83820_WIRE_TAP, _open_tap(spec.tap, stack)
    elif spec.loop:
        config.wire = lib.DP83820_WIRE_LOOP
    elif spec.replay or spec.record:
        config.wire = lib.DP83820_WIRE_PCAP
        config.replay_paced = spec.paced
        if spec.replay:
            config.wire_fd = _open(spec.replay, os.O_RDONLY, stack)
        if spec.record:
            config.record_fd = _open(spec.record, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, stack)


def _open(path: Path, flags: int, stack: ExitStack) -> int:
    try:
        fd = os.open(path, flags | os.O_CLOEXEC, 0o666)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    stack.callback(os.close, fd)
    return fd


def _open_tap(name: str, stack: ExitStack) -> int:
    if not 0 < len(os.fsencode(name)) < 16:
        raise UsageError(f"tap={name}: 1 to 15 bytes")
    try:
        fd = os.open("/dev/net/tun", os.O_RDWR | os.O_CLOEXEC | os.O_NONBLOCK)
    except OSError as error:
        raise MissingToolError(f"/dev/net/tun: {error.strerror}") from None
    stack.callback(os.close, fd)
    try:
        fcntl.ioctl(fd, TUNSETIFF, struct.pack("16sH22x", name.encode(), IFF_TAP | IFF_NO_PI))
    except PermissionError:
        raise PermissionDeniedError(f"tap={name}: needs CAP_NET_ADMIN") from None
    except OSError as error:
        if error.errno == errno.EBUSY:
            raise DeviceBusyError(f"tap={name}: another process has this interface") from None
        raise DeviceError(f"tap={name}: {error.strerror}") from None
    return fd


def _mac(text: str) -> bytes:
    try:
        return bytes.fromhex(text.replace(":", "").replace("-", ""))
    except ValueError:
        raise UsageError(f"mac={text}: expected six bytes like 02:00:5e:10:00:01") from None


def _subsystem(text: str) -> tuple[int, int]:
    vendor, colon, device = text.partition(":")
    if not colon:
        raise UsageError(f"subsystem={text}: expected VENDOR:DEVICE in hexadecimal")
    return number("subsystem", vendor, 16) & 0xFFFF, number("subsystem", device, 16) & 0xFFFF


def _choice(key: str, text: str, choices: Mapping[str, bool]) -> bool:
    if text not in choices:
        raise UsageError(f"{key}={text}: one of {', '.join(choices)}")
    return choices[text]


def _read(key: str, text: str) -> tuple[str, Any]:
    """One option as a field of NicSpec."""
    match key:
        case "mac":
            return key, _mac(text)
        case "cable" | "tap":
            return key, text
        case "replay" | "record":
            return key, Path(text)
        case "wire":
            return "loop", _choice(key, text, {"loop": True, "none": False})
        case "rate" | "phy":
            return key, number(key, text)
        case "fibre" | "paced" | "pci64":
            return key, flag(key, text)
        case "subsystem":
            return key, _subsystem(text)
        case "reset":
            return "reset_all", _choice(key, text, {"all": True, "some": False})
        case "rev":
            return "rev_a", _choice(key, text, {"a": True, "b": False})
    known = "mac, cable, tap, replay, record, paced, wire, rate, fibre, phy, subsystem, reset, rev"
    raise UsageError(f"unknown option {key!r} for dp83820: known are {known}, pci64")


def from_options(options: str | Mapping[str, Sequence[str]]) -> Dp83820Model:
    """Make a model from `mac=02:00:5e:10:00:01&cable=c1&rate=1000`."""
    return Dp83820Model(
        NicSpec(**dict(_read(key, text) for key, text in split_options(options).items()))
    )
